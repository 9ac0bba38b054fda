"""Pgx through the small protocol: it steps as its own code does, opponents answer, and self-play flips the sign."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import purejaxppo as pjp

pgx = pytest.importorskip("pgx", reason='pgx is not installed; pip install "purejaxppo[pgx]"')

from purejaxppo.envs.adapters.pgx import adapt, random_opponent, self_play  # noqa: E402

KEY = jax.random.key(0)
STEPS = 1_000


def first_legal(key, state):
    return jnp.argmax(state.legal_action_mask)


def play_their_own(game, key):
    """The states of Pgx's own loop, with random legal actions, and who moved before each."""

    def step(state, key):
        action_key, step_key, start_key = jax.random.split(key, 3)
        action = random_opponent(action_key, state)
        after = game.step(state, action, step_key)
        ended = after.terminated | after.truncated
        state_after = jax.tree.map(lambda x, y: jnp.where(ended, x, y), game.init(start_key), after)
        return state_after, (after, state.current_player, action)

    return jax.lax.scan(step, game.init(key), jax.random.split(jax.random.fold_in(key, 1), STEPS))[1]


def play_ours(env, key, actions):
    """Our steps, for the actions and the randomness of `play_their_own`."""

    def step(state, given):
        key, action = given
        _, step_key, start_key = jax.random.split(key, 3)
        after = env.step(step_key, state, action, env.params)
        ended = after.terminated | after.truncated
        start = env.reset(start_key, env.params)[1]
        return jax.tree.map(lambda x, y: jnp.where(ended, x, y), start, after.state), after._replace(state=())

    start = env.reset(key, env.params)[1]
    return jax.lax.scan(step, start, (jax.random.split(jax.random.fold_in(key, 1), STEPS), actions))[1]


@pytest.mark.parametrize("name", ["2048", "minatar-breakout", "tic_tac_toe/self_play", "leduc_holdem/self_play"])
def test_a_thousand_random_moves_are_those_of_pgx(name):
    game, env = pgx.make(name.partition("/")[0]), pjp.make_env(f"pgx/{name}")
    after, mover, action = jax.jit(lambda key: play_their_own(game, key))(KEY)
    ours = jax.jit(lambda key, action: play_ours(env, key, action))(KEY, action)
    np.testing.assert_array_equal(ours.obs.obs, np.asarray(after.observation, np.float32))
    np.testing.assert_array_equal(ours.obs.action_mask, after.legal_action_mask)
    np.testing.assert_array_equal(ours.reward, np.asarray(after.rewards)[np.arange(STEPS), mover])
    np.testing.assert_array_equal(ours.terminated, after.terminated)
    np.testing.assert_array_equal(ours.truncated, after.truncated)
    assert 3 < after.terminated.sum() < STEPS
    assert np.any(ours.reward != 0)
    if name.endswith("self_play"):
        stays = np.asarray(after.current_player == mover)
        np.testing.assert_array_equal(ours.info["next_value_sign"], np.where(stays, 1.0, -1.0))
        in_game = ~np.asarray(after.terminated)
        assert stays[in_game].any() == (name == "leduc_holdem/self_play")  # who opens both of its rounds


def test_the_opponent_answers_and_may_open_the_game():
    """The steps of a game against the first legal move are those of Pgx's own loop, player 1's moves included."""
    game, env = pgx.make("tic_tac_toe"), pjp.make_env(adapt(pgx.make("tic_tac_toe"), first_legal))
    their_step, reset, step = jax.jit(game.step), jax.jit(env.reset), jax.jit(env.step)

    def reply(state, reward):
        while state.current_player == 1 and not state.terminated:
            state = their_step(state, first_legal(None, state))
            reward += float(state.rewards[0])
        return state, reward

    draw, openers, results = np.random.default_rng(0), set(), set()
    for key in jax.random.split(KEY, 30):
        state = game.init(key)
        openers.add(int(state.current_player))
        state, _ = reply(state, 0.0)
        obs, ours = reset(key, env.params)
        np.testing.assert_array_equal(obs.obs, state.observation)
        while not state.terminated:
            action = draw.choice(np.flatnonzero(state.legal_action_mask))
            state = their_step(state, action)
            state, reward = reply(state, float(state.rewards[0]))
            after = step(key, ours, action, env.params)
            np.testing.assert_array_equal(after.obs.action_mask, state.legal_action_mask)
            np.testing.assert_array_equal(after.obs.obs, state.observation)
            assert (float(after.reward), bool(after.terminated)) == (reward, bool(state.terminated))
            ours = after.state
        results.add(reward)
    assert openers == {0, 1}
    assert results >= {-1.0, 1.0}


class Move(NamedTuple):
    current_player: jax.Array
    observation: jax.Array
    rewards: jax.Array
    terminated: jax.Array
    truncated: jax.Array
    legal_action_mask: jax.Array


class FirstMoverWins:
    """Player 1 moves first, and wins by that."""

    id, num_players = "first_mover_wins", 2

    def init(self, key):
        return Move(jnp.int32(1), jnp.zeros(1), jnp.zeros(2), jnp.bool_(False), jnp.bool_(False), jnp.ones(2, bool))

    def step(self, state, action, key):
        rewards = jnp.where(state.terminated, jnp.zeros(2), jnp.array([-1.0, 1.0]))
        return state._replace(rewards=rewards, terminated=jnp.bool_(True))


def test_a_game_that_the_opponents_opening_ends_pays_in_the_first_step():
    env = pjp.make_env(adapt(FirstMoverWins()))
    _, state = env.reset(KEY, env.params)
    after = env.step(KEY, state, 0, env.params)
    assert (float(after.reward), bool(after.terminated)) == (-1.0, True)


def test_an_illegal_move_loses():
    env = pjp.make_env("pgx/tic_tac_toe/self_play")
    _, state = env.reset(KEY, env.params)
    after = env.step(KEY, state, 4, env.params)
    after = env.step(KEY, after.state, 4, env.params)
    assert (float(after.reward), bool(after.terminated)) == (-1.0, True)


@pytest.mark.parametrize("name", ["pgx/tic_tac_toe", "pgx/tic_tac_toe/self_play"])
def test_the_doctor_finds_nothing(name):
    assert all(finding.is_well for finding in pjp.check_env(pjp.make_env(name)))


def test_names_of_pgx_are_its_games_and_those_of_two_in_self_play():
    names = pjp.env_names("pgx")
    games = {name for name in names if not name.endswith("/self_play")}
    assert games == {f"pgx/{name}" for name in pgx.available_envs()}
    assert {"pgx/go_9x9/self_play", "pgx/kuhn_poker/self_play"} <= set(names)
    assert not {"pgx/2048/self_play", "pgx/minatar-freeway/self_play", "pgx/sparrow_mahjong/self_play"} & set(names)
    with pytest.raises(pjp.PPOError, match=r"'tic_tac_to'.*tic_tac_toe"):
        pjp.make_env("pgx/tic_tac_to")
    with pytest.raises(pjp.PPOError, match="2048"):
        self_play(pgx.make("2048"))


def test_plain_ppo_refuses_a_game_of_turns():
    env = pjp.make_env("pgx/tic_tac_toe/self_play")
    with pytest.raises(pjp.PPOError, match=r"tic_tac_toe/self_play.*advantage"):
        pjp.make_ppo(env, pjp.PPOConfig())
