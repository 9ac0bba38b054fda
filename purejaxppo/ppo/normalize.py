"""Running means and variances, and normalisation by them."""

from typing import Any

import jax
import jax.numpy as jnp

from purejaxppo.ppo.types import Moments, RunnerState, Steps
from purejaxppo.utils.sums import add
from purejaxppo.utils.tree import PyTree


def init_moments(shape: tuple[int, ...]) -> Moments:
    """Moments of no sample yet: mean 0, and a standard deviation that counts as 1."""
    mean, square_deviation, mean_low = (jnp.zeros(shape) for _ in range(3))
    return Moments(jnp.zeros(()), mean, square_deviation, mean_low)


def init_obs_moments(obs: PyTree) -> PyTree:
    """Moments of no sample yet for each number that is observed, around the first observation. obs: [B, ...]

    So a number that never changes is seen as 0 from the first update on. None for a mask, which stays as it is.
    """

    def init(x: jax.Array) -> Moments | None:
        return None if x.dtype == jnp.bool_ else init_moments(x.shape[1:]).replace(mean=x[0].astype(jnp.float32))

    return jax.tree.map(init, obs)


def update_moments(moments: Moments, samples: jax.Array) -> Moments:
    """Adds samples [..., *shape] to moments of shape `shape`: the pairwise update of Chan, Golub and LeVeque (1979).

    It averages the differences of the samples from the old mean, or from the very first sample: the mean of large
    numbers is rounded by more than close ones differ, and the mean of equal numbers has to be that number.
    """
    samples = samples.reshape(-1, *moments.mean.shape).astype(jnp.float32)
    count = jnp.float32(samples.shape[0])
    mean = jnp.where(moments.count > 0, moments.mean, samples[0])
    low = jnp.where(moments.count > 0, moments.mean_low, 0.0)
    difference = (samples - mean) - low
    delta = jnp.mean(difference, axis=0)
    square_deviation = jnp.sum(jnp.square(difference - delta), axis=0)
    total = moments.count + count
    mean, low = add(mean, low, delta * (count / total))
    return Moments(
        count=total,
        mean=mean,
        square_deviation=moments.square_deviation
        + square_deviation
        + jnp.square(delta) * (moments.count * (count / total)),
        mean_low=low,
    )


def standard_deviation(moments: Moments) -> jax.Array:
    """sqrt(square_deviation / count), and 1 before the first sample. -> shape of the moments"""
    variance = moments.square_deviation / jnp.maximum(moments.count, 1.0)
    return jnp.where(moments.count > 0, jnp.sqrt(variance + 1e-8), 1.0)


def normalize_obs(moments: PyTree, obs: PyTree) -> PyTree:
    """(obs - mean) / std, clipped to +-10, leaf by leaf; obs itself where there are no moments."""

    def normalize(m: Moments | None, x: PyTree) -> PyTree:
        return x if m is None else jnp.clip((x - m.mean - m.mean_low) / standard_deviation(m), -10.0, 10.0)

    return jax.tree.map(normalize, moments, obs, is_leaf=_is_moments)


def discounted_returns(
    reward: jax.Array, done: jax.Array, start: jax.Array, gamma: float | jax.Array
) -> tuple[jax.Array, jax.Array]:
    """g_t = gamma g_{t-1} + r_t, from 0 in each episode: the reward of an episode's last step is added, then g resets.

    reward, done: [T, B]; start: [B], the g that the rollout begins with. -> (next start [B], g [T, B])
    """

    def accumulate(previous: jax.Array, step: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        reward, done = step
        current = gamma * previous + reward
        return jnp.where(done, 0.0, current), current

    return jax.lax.scan(accumulate, start, (reward, done))


def scale_reward(runner: RunnerState, steps: Steps, gamma: float | jax.Array) -> tuple[RunnerState, jax.Array]:
    """The reward over the running standard deviation of the discounted return; the reward itself without moments.

    -> (runner with the moments and discounted returns after this rollout, reward to learn from [T, B])
    """
    state = runner.train_state
    if state.reward_moments is None:
        return runner, steps.reward
    done = steps.terminated | steps.truncated
    last, returns = discounted_returns(steps.reward, done, runner.episode.discounted_return, gamma)
    moments = update_moments(state.reward_moments, returns)
    runner = runner.replace(
        train_state=state.replace(reward_moments=moments),
        episode=runner.episode.replace(discounted_return=last),
    )
    return runner, steps.reward / standard_deviation(moments)


def update_obs_moments(moments: PyTree, obs: PyTree) -> PyTree:
    """The moments after these observations; None stays None.

    To be applied after an update: acting and learning see one normalisation, so the first ratio is 1.
    """

    def update(m: Moments | None, x: PyTree) -> Moments | None:
        return None if m is None else update_moments(m, x)

    return jax.tree.map(update, moments, obs, is_leaf=_is_moments)


def _is_moments(x: Any) -> bool:
    return x is None or isinstance(x, Moments)
