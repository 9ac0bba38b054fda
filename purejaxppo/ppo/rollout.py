"""T steps of B environments under one policy, and the statistics of the episodes that end in them."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from purejaxppo.envs.base import Environment
from purejaxppo.envs.vector import Starts, make_starts, step_batch
from purejaxppo.ppo.types import EpisodeState, EpisodeStats, RunnerState, Transition
from purejaxppo.utils.devices import traces_for_cpu
from purejaxppo.utils.packed import SMALL, Packed, pack, unpack
from purejaxppo.utils.sums import add, precise_sum
from purejaxppo.utils.tree import PyTree, Terms

# (obs [B, ...], noise [B, ...]) -> (action for env.step [B, ...], any pytree to keep of each step [B, ...])
Policy = Callable[[PyTree, PyTree], tuple[PyTree, PyTree]]


class RolloutNoise(NamedTuple):
    """All that is random in a rollout, [T, B, ...], drawn before it starts."""

    action: PyTree
    step_key: jax.Array
    start: Starts


def rollout(
    env: Environment, policy: Policy, runner: RunnerState, noise: RolloutNoise
) -> tuple[RunnerState, Transition, PyTree, EpisodeStats]:
    """Steps the environments of `runner` once for each entry of `noise`.

    -> (runner, transitions [T, B, ...], the policy's second output [T, B, ...], episode statistics)
    """

    # Counted for an H100, not timed: with packs a step has 11 kernels, in place of 8 for CartPole and 14 for Pendulum.
    max_size = SMALL if traces_for_cpu() else 0

    def act_and_step(carry: tuple[PyTree, Packed, Packed], noise: RolloutNoise) -> tuple[tuple, Packed]:
        obs, env_state, episode = carry[0], unpack(carry[1]), unpack(carry[2])
        action, distribution_params = policy(obs, noise.action)
        next_obs, env_state, step = step_batch(env, noise.step_key, env_state, action, noise.start)
        transition = Transition(
            obs=obs,
            action=action,
            reward=step.reward,
            terminated=step.terminated,
            truncated=step.truncated,
            next_obs=step.obs,
            info=step.info,
        )
        counted = count_step(episode, step.reward)
        episode = end_episodes(counted, step.terminated | step.truncated)
        carry = next_obs, pack(env_state, max_size), pack(episode, max_size)
        return carry, pack((transition, distribution_params, counted))

    carry = runner.obs, pack(runner.env_state, max_size), pack(runner.episode, max_size)
    (obs, env_state, episode), kept = jax.lax.scan(act_and_step, carry, noise)
    transitions, distribution_params, counted = unpack(kept)
    episode, episodes = finish_rollout(unpack(episode), counted, transitions)
    runner = runner.replace(obs=obs, env_state=unpack(env_state), episode=episode)
    return runner, transitions, distribution_params, episodes


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
        return_low=jnp.zeros(num_envs),
        last_return=jnp.zeros(num_envs),
        has_finished=jnp.zeros(num_envs, bool),
    )


def count_step(episode: EpisodeState, reward: jax.Array) -> EpisodeState:
    """The running episodes with one more step; `scale_reward` keeps `discounted_return`. reward: [B]"""
    episode_return, low = add(episode.episode_return, episode.return_low, reward)
    return episode.replace(episode_return=episode_return, return_low=low, episode_length=episode.episode_length + 1)


def end_episodes(episode: EpisodeState, done: jax.Array) -> EpisodeState:
    """The episodes that run on after a step: those that are done begin anew. done: [B]"""
    return episode.replace(
        episode_return=jnp.where(done, 0.0, episode.episode_return),
        return_low=jnp.where(done, 0.0, episode.return_low),
        episode_length=jnp.where(done, 0, episode.episode_length),
    )


def finish_rollout(
    episode: EpisodeState, counted: EpisodeState, transitions: Transition
) -> tuple[EpisodeState, EpisodeStats]:
    """The episodes that run on after a rollout, with the last finished one of each environment; and its statistics.

    counted: every step's episode with that step, [T, B]
    """
    done = transitions.terminated | transitions.truncated
    step = jnp.arange(len(done))[:, None]
    last = jnp.max(jnp.where(done, step, -1), axis=0)
    last_return = jnp.sum(counted.episode_return, axis=0, where=step == last)  # of one step, or of none
    episode = episode.replace(
        last_return=jnp.where(last >= 0, last_return, episode.last_return),
        has_finished=(last >= 0) | episode.has_finished,
    )
    return episode, episode_stats(episode, counted, done, transitions.info)


def episode_stats(episode: EpisodeState, counted: EpisodeState, done: jax.Array, info: Terms) -> EpisodeStats:
    """Statistics of the episodes that are done, and of the last ones of the environments.

    episode: after the rollout; counted: every step's episode with that step; done, info: [T, B]
    """
    # In two parts, since the lengths of long episodes may add up to more than an int32 holds.
    parts = jnp.divmod(counted.episode_length, 2**15)
    high, low = (jnp.sum(part, where=done).astype(jnp.float32) for part in parts)
    return EpisodeStats(
        count=jnp.sum(done),
        return_sum=precise_sum(jnp.where(done, counted.episode_return, 0.0)),
        return_min=jnp.min(counted.episode_return, where=done, initial=jnp.inf),
        return_max=jnp.max(counted.episode_return, where=done, initial=-jnp.inf),
        length_sum=2.0**15 * high + low,
        last_return_sum=precise_sum(jnp.where(episode.has_finished, episode.last_return, 0.0)),
        num_finished=jnp.sum(episode.has_finished),
        info_sum={name: jnp.sum(x, where=done) for name, x in info.items()},
    )
