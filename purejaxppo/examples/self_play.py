"""Self-play: one policy plays both sides of a game of two, by moves, and the advantage flips the value's sign.

In `pgx/NAME/self_play` a step is one move, seen by the player who makes it. The value of the next observation is the
other player's, and counts with a minus (negamax), as does all that follows.

To run it: python -m purejaxppo.examples.self_play
"""

from typing import Any

import jax
import jax.numpy as jnp

import purejaxppo as pjp

CONFIG = pjp.PPOConfig(
    num_envs=128,
    num_steps=16,
    total_timesteps=600_000,
    learning_rate=2e-3,
    gamma=1.0,
    gae_lambda=0.8,
    ent_coef=0.1,
    clip_value=False,
    hidden_sizes=(128, 128),
)


def negamax_advantage(steps: pjp.Steps, context: pjp.LossContext) -> jax.Array:
    """`gae` with the value of the player who moves next, whose gain is the mover's loss. -> [T, B]

        delta_t = r_t + gamma s_t V(o_{t+1}) [not terminated_t] - V(o_t),  s_t = -1 where the other player moves next
        A_t     = delta_t + gamma lambda s_t A_{t+1} [neither terminated_t nor truncated_t]

    It is `gae` in the view of one player, who makes the first move, with the signs turned back at the other's moves.
    """
    sign = steps.info["next_value_sign"]
    side = jnp.cumprod(jnp.concatenate([jnp.ones_like(sign[:1]), sign[:-1]]), axis=0)
    seen = (side * steps.reward, side * steps.value, side * sign * steps.next_value)
    numbers = {"gamma": context.config.gamma, "gae_lambda": context.config.gae_lambda}
    return side * pjp.gae(*seen, steps.terminated, steps.truncated, **numbers)


def with_random_openings(env: pjp.Environment, most: int = 4) -> pjp.Environment:
    """The game, begun with up to `most` random moves: the policy sees positions that it would not choose itself."""

    def reset(key: jax.Array, params: Any) -> tuple[Any, Any]:
        key, start_key, count_key = jax.random.split(key, 3)
        count = jax.random.randint(count_key, (), 0, most + 1)

        def move(at: tuple[Any, Any], i: jax.Array) -> tuple[tuple[Any, Any], None]:
            obs, state = at
            action_key, step_key = jax.random.split(jax.random.fold_in(key, i))
            action = jax.random.categorical(action_key, jnp.log(obs.action_mask))
            after = env.step(step_key, state, action, params)
            is_played = (i < count) & ~(after.terminated | after.truncated)
            return jax.tree.map(lambda x, y: jnp.where(is_played, x, y), (after.obs, after.state), at), None

        return jax.lax.scan(move, env.reset(start_key, params), jnp.arange(most))[0]

    return env.replace(reset=reset)


def make_agent(env: pjp.Environment, config: pjp.PPOConfig) -> pjp.PPO:
    """PPO that learns both sides of a game with action masks."""
    return pjp.make_ppo(with_random_openings(env), config, advantage=negamax_advantage)


def main() -> None:
    """Trains four seeds of tic-tac-toe, and prints how 1,000 games against a random player end."""
    env, game = pjp.make_env("pgx/tic_tac_toe/self_play"), pjp.make_env("pgx/tic_tac_toe")
    population = pjp.train_population(env, CONFIG, num_seeds=4, make_agent=make_agent)
    agent = pjp.make_ppo(game, CONFIG)
    play = jax.jit(jax.vmap(lambda state: pjp.evaluate(agent, state, jax.random.key(0), 1_000)[0]))
    for result in play(population.train_state):
        won, drawn, lost = (int(jnp.sum(jnp.sign(result) == sign)) for sign in (1, 0, -1))
        print(f"won {won}, drawn {drawn}, lost {lost}")


if __name__ == "__main__":
    main()
