"""PPO on a simulator that is not JAX: vectorised Gymnasium environments on the host, with NumPy in and out.

The host steps the environments and asks the policy for actions; `agent.learn_from` is the learning of an update. It
needs Gymnasium: pip install "purejaxppo[gymnasium]".

To run it: python -m purejaxppo.examples.gymnasium_host
"""

import functools
from collections.abc import Callable
from typing import Any

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv

import purejaxppo as pjp


class Spaces:
    """Stands in for the simulator where the agent is made. Only the spaces count: it never moves."""

    default_params = ()

    def __init__(self, envs: VectorEnv):
        self.observation_space = make_space(envs.single_observation_space)
        self.action_space = make_space(envs.single_action_space)

    def reset(self, key: jax.Array, params: tuple) -> tuple:
        """-> obs, state"""
        return jnp.zeros(self.observation_space.shape), ()

    def step(self, key: jax.Array, state: tuple, action: jax.Array, params: tuple) -> tuple:
        """-> obs, state, reward, terminated, truncated"""
        return jnp.zeros(self.observation_space.shape), (), 0.0, False, False


def make_space(space: Any) -> Any:
    """The space of Gymnasium as one of ours: Discrete, from 0, or Box. Raises PPOError for another."""
    if isinstance(space, gymnasium.spaces.Discrete) and space.start == 0:
        return pjp.Discrete(int(space.n))
    if isinstance(space, gymnasium.spaces.Box):
        return pjp.Box(space.shape, space.low, space.high)
    raise pjp.PPOError(f"{space} has no counterpart here; wrap the environment in one with a Box or a Discrete(n)")


def act(agent: pjp.PPO, state: pjp.TrainState, obs: jax.Array, key: jax.Array, step: int) -> tuple:
    """-> the policy's actions at obs [B, ...], and the same within the environment's bounds"""
    noise = agent.actions.noise(jax.random.fold_in(key, step), obs.shape[:1])
    action = agent.distribution(state, obs).sample(noise)
    return action, agent.actions.to_env(action)


def collect(
    envs: VectorEnv, act: Callable[..., tuple], state: pjp.TrainState, obs: np.ndarray, key: jax.Array, num_steps: int
) -> tuple[np.ndarray, pjp.Transition]:
    """Steps the environments on the host. -> obs [B, ...], transitions [T, B, ...]"""
    rows = []
    for step in range(num_steps):
        action, bounded = act(state, obs, key, step)
        after, reward, terminated, truncated, info = envs.step(np.asarray(bounded))
        next_obs = after.copy()
        for i in np.flatnonzero(terminated | truncated):
            next_obs[i] = info["final_obs"][i]  # before the reset
        rows.append(pjp.Transition(obs, np.asarray(action), reward, terminated, truncated, next_obs))
        obs = after
    return obs, jax.tree.map(lambda *steps: np.stack(steps), *rows)


def train(name: str, config: pjp.PPOConfig, seed: int = 0) -> tuple[pjp.RunnerState, pjp.Metrics]:
    """Trains one seed. -> runner, metrics [num_updates]"""
    modes = {"autoreset_mode": AutoresetMode.SAME_STEP}
    envs = gymnasium.make_vec(name, config.num_envs, vectorization_mode="sync", vector_kwargs=modes)
    agent = pjp.make_ppo(pjp.make_env(Spaces(envs)), config)
    jitted_act, learn_from = jax.jit(functools.partial(act, agent)), jax.jit(agent.learn_from)
    key, act_key = jax.random.split(jax.random.key(seed))
    runner, rows = agent.init(key), []
    obs, _ = envs.reset(seed=seed)
    for k in range(config.num_updates):
        update_key = jax.random.fold_in(act_key, k)
        obs, transitions = collect(envs, jitted_act, runner.train_state, obs, update_key, config.num_steps)
        runner, metrics = learn_from(runner, transitions)
        rows.append(metrics)
    envs.close()
    return runner, jax.tree.map(lambda *updates: np.stack(updates), *rows)


def main() -> None:
    """Trains CartPole, and prints the return as it grows."""
    config = pjp.PPOConfig(num_envs=8, total_timesteps=102_400, learning_rate=1e-3)
    _, metrics = train("CartPole-v1", config)
    for timesteps, returned in zip(metrics.timesteps[9::10], metrics.episode_return_mean[9::10], strict=True):
        print(f"{timesteps:7,} steps: mean return {returned:5.1f}")


if __name__ == "__main__":
    main()
