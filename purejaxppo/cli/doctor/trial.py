"""Random steps in an environment, which `check_env` looks at, as one compiled program."""

import functools
import re
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from purejaxppo.envs.base import Environment, Step
from purejaxppo.envs.spaces import Box, Space, parts_of, structure_of
from purejaxppo.envs.vector import make_starts, reset_batch, step_batch
from purejaxppo.policies.actions import actions_in, bounds
from purejaxppo.policies.distributions import masked_logits
from purejaxppo.population.store import key_data
from purejaxppo.utils.tree import PyTree, key_shape

NUM_STARTS = 256
TRIAL_BYTES = 2**28  # of a trial, at most: fewer environments where one observes and remembers much


class Taken(NamedTuple):
    """Random steps, [T, B, ...] each."""

    key: jax.Array
    obs: PyTree  # before the step
    state: PyTree  # before the step
    action: PyTree
    step: Step
    matters: jax.Array  # bool: another action would have made another step


class Trial(NamedTuple):
    """T random steps of B environments, which begin anew where an episode ends; and N starts."""

    env: Environment
    taken: Taken
    start_key: jax.Array  # [N]
    start: tuple[PyTree, PyTree]  # [N, ...], obs and state

    @property
    def done(self) -> np.ndarray:
        """[T, B] bool, where an episode ends."""
        return np.asarray(self.taken.step.terminated | self.taken.step.truncated)


def play(env: Environment, key: jax.Array, num_steps: int, num_envs: int) -> Trial:
    """A trial from a key."""
    reset_key, start_key, play_key, action_key, other_key = jax.random.split(key, 5)
    shape = (num_steps, num_envs)
    step_key, begin_key = jax.random.split(play_key)
    keys = [jax.random.split(key, shape) for key in (step_key, action_key, other_key)]
    vmapped_step = jax.vmap(env.step, in_axes=(0, 0, 0, None))
    draw = jax.vmap(functools.partial(random_action, env))

    def step(carry: tuple[PyTree, PyTree], given: tuple) -> tuple[tuple[PyTree, PyTree], Taken]:
        obs, state = carry
        keys, action_keys, other_keys, starts = given
        action, other = draw(action_keys, obs), draw(other_keys, obs)
        obs_after, state_after, after = step_batch(env, keys, state, action, starts)
        instead = vmapped_step(keys, state, other, env.params)
        return (obs_after, state_after), Taken(keys, obs, state, action, after, differ(after, instead))

    carry = reset_batch(env, reset_key, num_envs)
    _, taken = jax.lax.scan(step, carry, (*keys, make_starts(env, begin_key, shape)))
    start_keys = jax.random.split(start_key, NUM_STARTS)
    return Trial(env, taken, start_keys, jax.vmap(env.reset, in_axes=(0, None))(start_keys, env.params))


def random_action(env: Environment, key: jax.Array, obs: PyTree) -> PyTree:
    """A random legal action."""
    structure, parts = structure_of(env.action_space), list(parts_of(env.action_space).values())
    masks = [None] * len(parts) if env.action_mask is None else structure.flatten_up_to(obs.action_mask)
    keys = jax.random.split(key, len(parts))
    return structure.unflatten([random_in(*part) for part in zip(parts, keys, masks, strict=True)])


def random_in(space: Space, key: jax.Array, mask: jax.Array | None) -> jax.Array:
    """A random legal element of a space. Each bound of a Box has a tenth of the probability."""
    if isinstance(space, Box):
        low, high = bounds(space)
        is_finite = np.isfinite(high - low)
        share = jnp.clip(jax.random.uniform(key, space.shape, minval=-0.125, maxval=1.125), 0.0, 1.0)
        within = np.where(is_finite, low, 0.0) + np.where(is_finite, high - low, 0.0) * share
        return jnp.clip(jnp.where(is_finite, within, jax.random.normal(key, space.shape)), low, high)
    actions = actions_in(space)
    logits = jnp.zeros(actions.num_outputs)
    logits = logits if mask is None else masked_logits(logits, mask)
    return actions.distribution(logits).sample(actions.noise(key, ()))


def differ(x: PyTree, y: PyTree) -> jax.Array:
    """True where any leaf differs. [B, ...] -> [B] bool"""
    leaves = zip(jax.tree.leaves(key_data(x)), jax.tree.leaves(key_data(y)), strict=True)
    each = [jnp.any((a != b).reshape(len(a), -1), axis=1) for a, b in leaves]
    return jnp.any(jnp.stack(each), axis=0)


def envs_that_fit(env: Environment, num_steps: int, num_envs: int) -> int:
    """`num_envs`, or fewer if a trial with so many would not fit into TRIAL_BYTES."""
    start = jax.eval_shape(env.reset, key_shape(), env.params)
    size = 2 * num_steps * sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(start))
    return max(1, min(num_envs, TRIAL_BYTES // size))


def steps_to_first_end(env: Environment, key: jax.Array, num_envs: int, max_steps: int) -> jax.Array:
    """Random steps of B environments until an episode ends in one of them; `max_steps` where none does. -> []"""
    reset_key, play_key = jax.random.split(key)
    obs, state = reset_batch(env, reset_key, num_envs)

    def step(carry: tuple) -> tuple:
        obs, state, count, _ = carry
        action_key, step_key = jax.random.split(jax.random.fold_in(play_key, count))
        action = jax.vmap(functools.partial(random_action, env))(jax.random.split(action_key, num_envs), obs)
        keys = jax.random.split(step_key, num_envs)
        after = jax.vmap(env.step, in_axes=(0, 0, 0, None))(keys, state, action, env.params)
        return after.obs, after.state, count + 1, jnp.any(after.terminated | after.truncated)

    begin = (obs, state, jnp.int32(0), jnp.bool_(False))
    return jax.lax.while_loop(lambda carry: ~carry[3] & (carry[2] < max_steps), step, begin)[2]


def traces_alike(function: Callable[..., Any], *args: Any) -> bool:
    """True if tracing a function twice gives the same program, constants included.

    Numbers that Python draws, counts or reads from a clock become constants of the program. `disable_jit` keeps JAX
    from reusing the trace of an inner `jit`, which would hide them.
    """
    with jax.disable_jit():
        first, second = (jax.make_jaxpr(lambda *args: function(*args))(*args) for _ in range(2))
    texts = [re.sub(r"0x[0-9a-f]+", "", str(program)) for program in (first, second)]  # without addresses
    return texts[0] == texts[1] and same_bits(first.consts, second.consts)


def same_bits(x: PyTree, y: PyTree) -> bool:
    """True if two trees of the same types have the same bits, NaN included."""
    pairs = zip(jax.tree.leaves(key_data(x)), jax.tree.leaves(key_data(y)), strict=True)
    return all(np.asarray(a).tobytes() == np.asarray(b).tobytes() for a, b in pairs)


def first_difference(expected: PyTree, found: PyTree) -> str | None:
    """Describes the first number that differs by more than rounding, or returns None if they all agree."""
    before = jax.tree_util.tree_leaves_with_path(key_data(expected))
    for (path, x), y in zip(before, jax.tree.leaves(key_data(found)), strict=True):
        x, y = np.asarray(x), np.asarray(y)
        is_close = np.isclose(x, y, rtol=1e-3, atol=1e-5, equal_nan=True) if x.dtype.kind == "f" else x == y
        if not np.all(is_close):
            at = tuple(int(i) for i in np.argwhere(~is_close)[0])
            return f"{jax.tree_util.keystr(path)}{list(at) if at else ''} is {y[at]} and not {x[at]}"
    return None


def numbers(tree: PyTree, lead: int) -> np.ndarray:
    """All numbers of a tree but its keys, side by side. [*lead, ...] -> [N, F] float64"""
    leaves = [x for x in jax.tree.leaves(tree) if not jnp.issubdtype(x.dtype, jax.dtypes.extended)]
    return np.concatenate(
        [np.asarray(x, np.float64).reshape(np.prod(x.shape[:lead], dtype=int), -1) for x in leaves], axis=1
    )
