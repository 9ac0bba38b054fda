"""The critic along a rollout."""

import functools
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp

from purejaxppo.ppo.memory import ObsAndMemory
from purejaxppo.ppo.types import TrainState, Transition

if TYPE_CHECKING:
    from purejaxppo.ppo.agent import PPO

CACHED_ROWS = 512  # observations that the critic looks at together


def values(agent: "PPO", state: TrainState, obs: ObsAndMemory) -> jax.Array:
    """The critic at the steps of a rollout, some at a time: what lies between its layers stays in the cache.

    obs: [T, B, ...]. -> [T, B]
    """
    steps = max(1, CACHED_ROWS // agent.config.num_envs)
    return jax.lax.map(lambda at: agent.value(state, at.obs, at.memory), obs, batch_size=steps)


def next_values(agent: "PPO", state: TrainState, transitions: Transition, value: jax.Array) -> jax.Array:
    """The critic at the observation after each step, before any auto-reset.

    It is `value` of the step after, since that step starts from this observation, but for the last step and for those
    that end an episode. Only these are computed, and what their derivative needs if one is taken.

    transitions: [T, B, ...]; value: [T, B], of the critic at their `obs`. -> [T, B]
    """
    done = transitions.terminated | transitions.truncated
    return _next_values(agent, state, transitions.next_obs, value, done)


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def _next_values(
    agent: "PPO", state: TrainState, next_obs: ObsAndMemory, value: jax.Array, done: jax.Array
) -> jax.Array:
    last = jax.tree.map(lambda x: x[-1], next_obs)
    following = jnp.concatenate([value[1:], agent.value(state, last.obs, last.memory)[None]])
    num_samples = done.size
    at_once = min(max(16, num_samples // 16), CACHED_ROWS, num_samples)
    rows = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), next_obs)

    def evaluate(carry: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        following, waiting = carry
        index = jnp.nonzero(waiting, size=at_once, fill_value=num_samples)[0]  # num_samples: none, and dropped
        at = jax.tree.map(lambda x: x.at[index].get(mode="clip"), rows)
        following = following.at[index].set(agent.value(state, at.obs, at.memory), mode="drop")
        return following, waiting.at[index].set(False, mode="drop")

    waiting = done.at[-1].set(False)
    carry = (following.reshape(-1), waiting.reshape(-1))
    return jax.lax.while_loop(lambda carry: jnp.any(carry[1]), evaluate, carry)[0].reshape(done.shape)


@_next_values.defjvp
def _next_values_jvp(agent: "PPO", primals: tuple, tangents: tuple) -> tuple[jax.Array, jax.Array]:
    # A loop whose length depends on data has no reverse derivative; the critic at all steps has one.
    at_all = jax.jvp(functools.partial(values, agent), primals[:2], tangents[:2])
    return _next_values(agent, *primals), at_all[1]
