"""B environments at once, with an auto-reset to a fresh start."""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

from purejaxppo.envs.base import Environment, Step
from purejaxppo.utils.tree import PyTree

# Starts of one rollout up to this size are drawn before its scan, larger ones step by step.
AHEAD_BYTES = 2**24


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
    if isinstance(starts, StartKeys):
        starts = DrawnStarts(*jax.vmap(env.reset, in_axes=(0, None))(starts.key, env.params))
    done = step.terminated | step.truncated
    obs, state = jax.tree.map(lambda new, old: where_env(done, new, old), tuple(starts), (step.obs, step.state))
    return obs, state, step


def where_env(condition: jax.Array, x: jax.Array, y: jax.Array) -> jax.Array:
    """x in the environments where condition [B] holds, y in the others; x, y: [B, ...]"""
    return jnp.where(condition.reshape(condition.shape + (1,) * (x.ndim - 1)), x, y)
