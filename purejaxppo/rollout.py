"""T steps of B environments under one policy, and the statistics of the episodes that end in them."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import struct

from purejaxppo.envs.base import Environment
from purejaxppo.envs.vector import Starts, make_starts, step_batch
from purejaxppo.types import EpisodeState, EpisodeStats, PyTree, RunnerState, Transition

# (obs [B, ...], noise [B, ...]) -> (action [B, ...], the distribution's parameters [B, ...])
Policy = Callable[[PyTree, PyTree], tuple[PyTree, PyTree]]


class RolloutNoise(NamedTuple):
    """All that is random in a rollout, [T, B, ...], drawn before it starts."""

    action: PyTree
    step_key: jax.Array
    start: Starts


class EpisodeTally(struct.PyTreeNode):
    """EpisodeStats of each environment apart, so that a step reduces over nothing. [B] each."""

    count: jax.Array
    return_sum: jax.Array
    return_min: jax.Array
    return_max: jax.Array
    length_sum: jax.Array


def rollout(
    env: Environment, policy: Policy, runner: RunnerState, noise: RolloutNoise
) -> tuple[RunnerState, Transition, PyTree, EpisodeStats]:
    """Steps the environments of `runner` once for each entry of `noise`.

    -> (runner, transitions [T, B, ...], the policy's distribution parameters [T, B, ...], episode statistics)
    """

    def act_and_step(carry: tuple, noise: RolloutNoise) -> tuple[tuple, tuple[Transition, PyTree]]:
        obs, env_state, episode, tally = carry
        action, distribution_params = policy(obs, noise.action)
        next_obs, env_state, step = step_batch(env, noise.step_key, env_state, action, noise.start)
        transition = Transition(
            obs=obs,
            action=action,
            reward=step.reward,
            terminated=step.terminated,
            truncated=step.truncated,
            next_obs=step.obs,
        )
        episode, tally = count_episodes(episode, tally, step.reward, step.terminated | step.truncated)
        return (next_obs, env_state, episode, tally), (transition, distribution_params)

    carry = (runner.obs, runner.env_state, runner.episode, empty_tally(runner.episode))
    carry, (transitions, distribution_params) = jax.lax.scan(act_and_step, carry, noise)
    obs, env_state, episode, tally = carry
    runner = runner.replace(obs=obs, env_state=env_state, episode=episode)
    return runner, transitions, distribution_params, episode_stats(tally)


def make_noise(
    env: Environment,
    action_noise: Callable[[jax.Array, tuple[int, int]], PyTree],
    key: jax.Array,
    shape: tuple[int, int],
) -> RolloutNoise:
    """The noise of a rollout of shape (T, B)."""
    action_key, step_key, start_key = jax.random.split(key, 3)
    return RolloutNoise(
        action=action_noise(action_key, shape),
        step_key=jax.random.split(step_key, shape),
        start=make_starts(env, start_key, shape),
    )


def empty_episodes(num_envs: int) -> EpisodeState:
    """B episodes that have just begun."""
    return EpisodeState(
        episode_return=jnp.zeros(num_envs),
        episode_length=jnp.zeros(num_envs, jnp.int32),
        discounted_return=jnp.zeros(num_envs),
    )


def empty_tally(episode: EpisodeState) -> EpisodeTally:
    """No episode finished yet."""
    zero, none = jnp.zeros_like(episode.episode_return), jnp.zeros_like(episode.episode_length)
    return EpisodeTally(
        count=none, return_sum=zero, return_min=zero + jnp.inf, return_max=zero - jnp.inf, length_sum=none
    )


def count_episodes(
    episode: EpisodeState, tally: EpisodeTally, reward: jax.Array, done: jax.Array
) -> tuple[EpisodeState, EpisodeTally]:
    """Adds one step to the running episodes, and those that are done to the tally. reward, done: [B]"""
    episode_return = episode.episode_return + reward
    episode_length = episode.episode_length + 1
    tally = tally.replace(
        count=tally.count + done,
        return_sum=tally.return_sum + jnp.where(done, episode_return, 0.0),
        return_min=jnp.where(done, jnp.minimum(tally.return_min, episode_return), tally.return_min),
        return_max=jnp.where(done, jnp.maximum(tally.return_max, episode_return), tally.return_max),
        length_sum=tally.length_sum + jnp.where(done, episode_length, 0),
    )
    return episode.replace(
        episode_return=jnp.where(done, 0.0, episode_return),
        episode_length=jnp.where(done, 0, episode_length),
    ), tally


def episode_stats(tally: EpisodeTally) -> EpisodeStats:
    """The tally of all environments together."""
    return EpisodeStats(
        count=jnp.sum(tally.count),
        return_sum=jnp.sum(tally.return_sum),
        return_min=jnp.min(tally.return_min),
        return_max=jnp.max(tally.return_max),
        length_sum=jnp.sum(tally.length_sum),
    )
