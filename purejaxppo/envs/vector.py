"""B environments at once, with an auto-reset to a fresh start."""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

from purejaxppo.envs.base import Environment, Step
from purejaxppo.utils.tree import PyTree

# Starts of one rollout up to this size are drawn before its scan, larger ones step by step.
AHEAD_BYTES = 2**24
DRAWN_AT_ONCE = 4  # of those that are drawn step by step, at least


class DrawnStarts(NamedTuple):
    """The starts of new episodes."""

    obs: PyTree  # [T, B, ...]
    state: PyTree  # [T, B, ...]


class StartKeys(NamedTuple):
    """The keys that the starts of new episodes are drawn from when they are needed."""

    key: jax.Array  # [T, B]


Starts = DrawnStarts | StartKeys


def reset_batch(env: Environment, key: jax.Array, num_envs: int) -> tuple[PyTree, PyTree]:
    """B independent starts. -> (obs [B, ...], state [B, ...])"""
    return jax.vmap(env.reset, in_axes=(0, None))(jax.random.split(key, num_envs), env.params)


def make_starts(env: Environment, key: jax.Array, shape: tuple[int, int]) -> Starts:
    """An independent start for each step and environment: no two episodes share one. shape: (T, B)

    Both forms give the same starts; drawing them in bulk keeps small random kernels out of the scan.
    """
    keys = jax.random.split(key, shape)
    start = jax.eval_shape(env.reset, key, env.params)
    size = math.prod(shape) * sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(start))
    return draw_ahead(env, keys) if size <= AHEAD_BYTES else StartKeys(keys)


def draw_ahead(env: Environment, keys: jax.Array) -> DrawnStarts:
    """The starts of keys [T, B], drawn now."""
    draw = jax.vmap(jax.vmap(env.reset, in_axes=(0, None)), in_axes=(0, None))
    return DrawnStarts(*draw(keys, env.params))


def step_batch(
    env: Environment, keys: jax.Array, state: PyTree, action: PyTree, starts: Starts
) -> tuple[PyTree, PyTree, Step]:
    """Steps B environments; one that ends begins a new episode from its start.

    keys: [B]; state, action, starts: [B, ...]. -> (obs and state to go on from, the Step before the reset)
    """
    step = jax.vmap(env.step, in_axes=(0, 0, 0, None))(keys, state, action, env.params)
    done, running = step.terminated | step.truncated, (step.obs, step.state)
    begun = tuple(starts) if isinstance(starts, DrawnStarts) else draw_needed(env, starts.key, done, running)
    obs, state = jax.tree.map(lambda new, old: where_env(done, new, old), begun, running)
    return obs, state, step


def draw_needed(env: Environment, keys: jax.Array, done: jax.Array, running: PyTree) -> PyTree:
    """The starts of the environments that are done, a few at a time, in place of their part of `running` (obs, state).

    A large start takes longer to draw than a step, and few steps end an episode. A loop whose length depends on data
    has no reverse derivative: none flows through these starts.
    """
    params, running = jax.lax.stop_gradient((env.params, running))
    num_envs = len(done)
    at_once = min(max(DRAWN_AT_ONCE, num_envs // 16), num_envs)  # 16 rounds at most

    def draw(carry: tuple[PyTree, jax.Array]) -> tuple[PyTree, jax.Array]:
        starts, waiting = carry
        index = jnp.nonzero(waiting, size=at_once, fill_value=num_envs)[0]  # num_envs: none, and dropped
        own_keys = jax.random.clone(keys[index])  # each is drawn from once: it does not wait any more
        drawn = jax.vmap(env.reset, in_axes=(0, None))(own_keys, params)
        starts = jax.tree.map(lambda x, new: x.at[index].set(new, mode="drop"), starts, drawn)
        return starts, waiting.at[index].set(False, mode="drop")

    return jax.lax.while_loop(lambda carry: jnp.any(carry[1]), draw, (running, done))[0]


def where_env(condition: jax.Array, x: jax.Array, y: jax.Array) -> jax.Array:
    """x in the environments where condition [B] holds, y in the others; x, y: [B, ...]"""
    return jnp.where(condition.reshape(condition.shape + (1,) * (x.ndim - 1)), x, y)
