"""Generalised advantage estimation."""

from typing import Any

import jax
import jax.numpy as jnp

from purejaxppo.ppo.config import check_number
from purejaxppo.ppo.losses import LossContext
from purejaxppo.ppo.types import Steps
from purejaxppo.utils.errors import PPOError


def gae_advantage(steps: Steps, context: LossContext) -> jax.Array:
    """`gae` of a rollout, with gamma and gae_lambda of the config. -> [T, B]"""
    names = ("reward", "value", "next_value", "terminated", "truncated")
    arrays = {name: getattr(steps, name) for name in names}
    return gae(**arrays, gamma=context.config.gamma, gae_lambda=context.config.gae_lambda)


def gae(
    reward: jax.Array,
    value: jax.Array,
    next_value: jax.Array,
    terminated: jax.Array,
    truncated: jax.Array,
    *,
    gamma: float | jax.Array,
    gae_lambda: float | jax.Array,
) -> jax.Array:
    """Advantages of a batch of trajectories (Schulman et al. 2016, equations 11, 12 and 16).

        delta_t = r_t + gamma V(s_{t+1}) [not terminated_t] - V(s_t)
        A_t     = delta_t + gamma lambda A_{t+1} [neither terminated_t nor truncated_t]

    A time limit cuts the trace and keeps the bootstrap: `next_value` is V of the observation before
    the auto-reset. A step with both flags is terminated. After the last step A is 0.

    reward, value, next_value, terminated, truncated: [T, B], or any one shape with time first. gamma, gae_lambda: one
    number, or an array that broadcasts to that shape, such as a discount for each step. -> [T, B]
    """
    check_steps(reward=reward, value=value, next_value=next_value, terminated=terminated, truncated=truncated)
    check_number("gamma", gamma)
    check_number("gae_lambda", gae_lambda)
    delta = reward + gamma * jnp.where(terminated, 0.0, next_value) - value
    trace = jnp.where(terminated | truncated, 0.0, gamma * gae_lambda)
    return jax.lax.platform_dependent(delta, trace, cpu=backward_sums, default=backward_sums_in_parallel)


def backward_sums(delta: jax.Array, trace: jax.Array) -> jax.Array:
    """A_t = delta_t + trace_t A_{t+1}, which is 0 after the last step. [T, ...] each -> [T, ...]"""

    def accumulate(advantage: jax.Array, step: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        delta, trace = step
        advantage = delta + trace * advantage
        return advantage, advantage

    return jax.lax.scan(accumulate, jnp.zeros_like(delta[0]), (delta, trace), reverse=True, unroll=8)[1]


def backward_sums_in_parallel(delta: jax.Array, trace: jax.Array) -> jax.Array:
    """`backward_sums` in log T steps, up to rounding: fewer kernels for a GPU to launch, more work for a CPU."""

    def join(later: tuple[jax.Array, jax.Array], earlier: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        return earlier[0] + earlier[1] * later[0], earlier[1] * later[1]

    return jax.lax.associative_scan(join, (delta, trace), reverse=True)[0]


def reward_to_go(
    reward: jax.Array,
    next_value: jax.Array,
    terminated: jax.Array,
    truncated: jax.Array,
    *,
    gamma: float | jax.Array,
) -> jax.Array:
    """Discounted returns until the end of each trajectory, closed by the critic where it was cut.

        R_t = r_t + gamma R_{t+1}       within a trajectory
        R_t = r_t                       where terminated_t
        R_t = r_t + gamma V(s_{t+1})    where truncated_t, and at the last step

    It is advantage + value of `gae` at lambda = 1, with the same shapes. -> [T, B]
    """
    check_steps(reward=reward, next_value=next_value, terminated=terminated, truncated=truncated)
    check_number("gamma", gamma)

    def accumulate(following: jax.Array, step: tuple[jax.Array, ...]) -> tuple[jax.Array, jax.Array]:
        reward, next_value, terminated, truncated, gamma = step
        following = jnp.where(terminated, 0.0, jnp.where(truncated, next_value, following))
        current = reward + gamma * following
        return current, current

    steps = (reward, next_value, terminated, truncated, jnp.broadcast_to(gamma, reward.shape))
    return jax.lax.scan(accumulate, next_value[-1], steps, reverse=True, unroll=8)[1]


def check_steps(**arrays: Any) -> None:
    """Raises PPOError unless all have one shape with at least one step: flags of bools, and numbers of floats."""
    shapes = {name: getattr(x, "shape", type(x).__name__) for name, x in arrays.items()}
    shape = shapes["reward"]
    for name, x in arrays.items():
        if shapes[name] != shape or isinstance(shape, str) or not all(shape[:1]) or shape == ():
            told = ", ".join(f"{name} {shape}" for name, shape in shapes.items())
            raise PPOError(f"{told}: give arrays of one shape, time first, with at least one step")
        kind = jnp.bool_ if name in ("terminated", "truncated") else jnp.floating
        if not jnp.issubdtype(x.dtype, kind):
            raise PPOError(f"{name} is {x.dtype}{list(x.shape)}; give {'bools' if kind is jnp.bool_ else 'floats'}")
