"""What is learned in trainings as long as a user's."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import purejaxppo as pjp
from purejaxppo.examples import self_play
from purejaxppo.population.statistics import iqm

KEY = jax.random.key(0)


@pytest.mark.slow
def test_cartpole_is_solved_at_the_defaults():
    population = pjp.train_population(pjp.make_env("CartPole-v1"), pjp.PPOConfig(), num_seeds=8)
    play = functools.partial(pjp.evaluate, population.agent, num_episodes=100)
    returns, _ = jax.jit(jax.vmap(play))(population.train_state, pjp.seed_keys(99, 8))
    assert iqm(returns.mean(axis=1)) >= 475
    training = np.asarray(population.metrics.episode_return_mean)[:, -50:]
    assert iqm(np.nanmean(training, axis=1)) >= 475


@pytest.mark.slow
def test_pendulum_is_learned():
    """With squashed actions; test_gymnasium.py learns it with clipped ones."""
    config = pjp.PPOConfig(
        num_envs=32,
        num_steps=64,
        total_timesteps=32 * 64 * 150,
        num_minibatches=8,
        update_epochs=10,
        learning_rate=1e-3,
        gamma=0.95,
        ent_coef=0.0,
        normalize_obs=True,
        normalize_reward=True,
        box_policy="squashed",
    )
    agent = pjp.make_ppo(pjp.make_env("Pendulum-v1"), config)
    runner, _ = jax.jit(lambda key: pjp.update_many(agent, agent.init(key), config.num_updates))(KEY)
    returns, _ = jax.jit(functools.partial(pjp.evaluate, agent))(runner.train_state, KEY)
    assert float(jnp.mean(returns)) > -250.0  # at random about -1200


LINES = ((0, 1, 2), (3, 4, 5), (6, 7, 8), (0, 3, 6), (1, 4, 7), (2, 5, 8), (0, 4, 8), (2, 4, 6))


def has_line(board, player):
    return any(all(board[i] == player for i in line) for line in LINES)


def games_lost(choose, opens):
    """Boards on which player 2 has won at tic-tac-toe, in all its lines of play against player 1.

    choose: player 1's moves, boards [n, 9] -> cells [n]
    """
    boards, turn, lost = {(0,) * 9}, 1 if opens else 2, 0
    while boards:
        if turn == 1:
            known = sorted(boards)
            moves = zip(known, choose(np.array(known)), strict=True)
        else:
            moves = ((board, i) for board in boards for i in range(9) if board[i] == 0)
        after = {(*board[:i], turn, *board[i + 1 :]) for board, i in moves}
        lost += sum(has_line(board, 2) for board in after)
        boards = {board for board in after if 0 in board and not has_line(board, turn)}
        turn = 3 - turn
    return lost


@pytest.mark.slow
def test_tic_tac_toe_by_self_play_is_never_lost():
    """Neither in 1,000 games against random moves nor in any line of play, which draws against perfect play."""
    pytest.importorskip("pgx", reason='pgx is not installed; pip install "purejaxppo[pgx]"')
    env, game = pjp.make_env("pgx/tic_tac_toe/self_play"), pjp.make_env("pgx/tic_tac_toe")
    agent, player = self_play.make_agent(env, self_play.CONFIG), pjp.make_ppo(game, self_play.CONFIG)
    updates = self_play.CONFIG.num_updates
    runner, _ = jax.jit(lambda key: pjp.update_many(agent, agent.init(key), updates))(KEY)
    returns, _ = jax.jit(functools.partial(pjp.evaluate, player, num_episodes=1_000))(runner.train_state, KEY)
    assert float(returns.min()) == 0.0
    assert float(returns.mean()) > 0.8
    act = jax.jit(agent.act)

    def choose(boards):
        padded = np.zeros((1_000, 9), int)  # one shape, and one program, for any number of boards
        padded[: len(boards)] = boards
        seen = jnp.asarray(np.stack([padded == 1, padded == 2], axis=-1).reshape(-1, 3, 3, 2), jnp.float32)
        moves = act(runner.train_state, pjp.MaskedObs(seen, jnp.asarray(padded == 0)))
        return np.asarray(moves)[: len(boards)].tolist()

    assert games_lost(choose, opens=True) == games_lost(choose, opens=False) == 0
    assert games_lost(lambda boards: [int(np.argmin(board)) for board in boards], opens=True) > 0  # a weak player
