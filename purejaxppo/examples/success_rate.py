"""An environment that reports its success rate to the metrics, the data frame and the report.

`step` may return a sixth value, a dict of numbers. `metrics.extra["episode/NAME"]` is the mean of each over the last
steps of the episodes that ended in an update. Values of other steps do not count.

To run it: python -m purejaxppo.examples.success_rate
"""

import jax
import jax.numpy as jnp

import purejaxppo as pjp


class Walk:
    """A walker on a line that has 12 steps to reach a goal up to 8 steps away."""

    observation_space = pjp.Box((2,), -20.0, 20.0)
    action_space = pjp.Discrete(3)
    default_params = ()

    def reset(self, key: jax.Array, params: tuple) -> tuple:
        """The walker stands at 0. -> obs, (place, goal, time)"""
        goal = jax.random.uniform(key, minval=-8.0, maxval=8.0)
        return jnp.array([0.0, goal]), (jnp.float32(0.0), goal, 0)

    def step(self, key: jax.Array, state: tuple, action: jax.Array, params: tuple) -> tuple:
        """One step to the left, to the right, or none. -> obs, state, reward, terminated, truncated, info"""
        place, goal, time = state
        place, time = place + action - 1.0, time + 1
        distance = jnp.abs(place - goal)
        success = distance < 0.6
        reward = jnp.where(success, 10.0, -1.0)
        info = {"success": success, "distance": distance}
        return jnp.array([place, goal]), (place, goal, time), reward, success, time >= 12, info


def main() -> None:
    """Trains four seeds, and prints the share of episodes that reach the goal, and the last distance from it."""
    config = pjp.PPOConfig(num_envs=32, num_steps=32, total_timesteps=81_920, learning_rate=3e-3, normalize_obs=True)
    population = pjp.train_population(pjp.make_env(Walk()), config, num_seeds=4)
    for name in ("episode/success", "episode/distance"):  # also columns of population.to_dataframe()
        print(name, jnp.nanmean(population.column(name), axis=0)[::8].round(2))


if __name__ == "__main__":
    main()
