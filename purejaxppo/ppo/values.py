"""The critic along a rollout."""

import functools

import jax
import jax.numpy as jnp

from purejaxppo.policies.networks import Network
from purejaxppo.policies.recurrent_networks import RecurrentNetwork
from purejaxppo.ppo.memory import ObsAndMemory
from purejaxppo.ppo.normalize import normalize_obs
from purejaxppo.ppo.types import TrainState, Transition

AnyNetwork = Network | RecurrentNetwork

CACHED_ROWS = 512  # observations that the critic looks at together, for a CPU
LAUNCHED_ROWS = 2**16  # for a GPU, where each turn costs the launch of every layer


def critic(network: AnyNetwork, state: TrainState, at: ObsAndMemory) -> jax.Array:
    """The value of raw observations. at: [..., *obs_shape]. -> [...]"""
    return network.step(state.params, at.memory, normalize_obs(state.obs_moments, at.obs))[2]


def values(network: AnyNetwork, state: TrainState, obs: ObsAndMemory) -> jax.Array:
    """The critic at the steps of a rollout. obs: [T, B, ...]. -> [T, B]"""
    return jax.lax.platform_dependent(
        state,
        obs,
        cpu=functools.partial(values_in_turns, network, CACHED_ROWS),
        default=functools.partial(values_in_turns, network, LAUNCHED_ROWS),
    )


def values_in_turns(network: AnyNetwork, rows: int, state: TrainState, obs: ObsAndMemory) -> jax.Array:
    """The critic at so many observations at a time: what lies between its layers stays in a CPU's cache."""
    num_envs = jax.tree.leaves(obs)[0].shape[1]
    return jax.lax.map(functools.partial(critic, network, state), obs, batch_size=max(1, rows // num_envs))


def next_values(network: AnyNetwork, state: TrainState, transitions: Transition, value: jax.Array) -> jax.Array:
    """The critic at the observation after each step, before any auto-reset.

    It is `value` of the step after, since that step starts from this observation, but for the last step and for those
    that end an episode. A CPU computes only these, and what their derivative needs if one is taken; a GPU computes all
    of them, in fewer kernels than it would take to pick some.

    transitions: [T, B, ...]; value: [T, B], of the critic at their `obs`. -> [T, B]
    """
    done = transitions.terminated | transitions.truncated
    return jax.lax.platform_dependent(
        state,
        transitions.next_obs,
        value,
        done,
        cpu=functools.partial(_next_values, network),
        default=lambda state, next_obs, *_: values(network, state, next_obs),
    )


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def _next_values(
    network: AnyNetwork, state: TrainState, next_obs: ObsAndMemory, value: jax.Array, done: jax.Array
) -> jax.Array:
    last = jax.tree.map(lambda x: x[-1], next_obs)
    following = jnp.concatenate([value[1:], critic(network, state, last)[None]])
    num_samples = done.size
    at_once = min(max(16, num_samples // 16), CACHED_ROWS, num_samples)
    rows = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), next_obs)

    def evaluate(carry: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        following, waiting = carry
        index = jnp.nonzero(waiting, size=at_once, fill_value=num_samples)[0]  # num_samples: none, and dropped
        at = jax.tree.map(lambda x: x.at[index].get(mode="clip"), rows)
        following = following.at[index].set(critic(network, state, at), mode="drop")
        return following, waiting.at[index].set(False, mode="drop")

    waiting = done.at[-1].set(False)
    carry = (following.reshape(-1), waiting.reshape(-1))
    return jax.lax.while_loop(lambda carry: jnp.any(carry[1]), evaluate, carry)[0].reshape(done.shape)


@_next_values.defjvp
def _next_values_jvp(network: AnyNetwork, primals: tuple, tangents: tuple) -> tuple[jax.Array, jax.Array]:
    # A loop whose length depends on data has no reverse derivative; the critic at all steps has one.
    at_all = jax.jvp(functools.partial(values, network), primals[:2], tangents[:2])
    return _next_values(network, *primals), at_all[1]
