"""Policies with a memory. A feed-forward policy is the case where the memory is `()`.

A memory is what the policy itself writes into its next observation. So the rollout is that of an environment that
shows the memory beside the observation: a new episode starts with an empty one, and the observation before an
auto-reset keeps the one that the episode has left, from where the critic bootstraps.
"""

import functools

import jax
import jax.numpy as jnp
from flax import struct

from purejaxppo.envs.base import Environment, Step
from purejaxppo.envs.vector import where_env
from purejaxppo.policies.networks import Network
from purejaxppo.policies.recurrent_networks import RecurrentNetwork
from purejaxppo.ppo.types import Batch, RunnerState, Transition
from purejaxppo.utils.errors import PPOError
from purejaxppo.utils.tree import PyTree


class ObsAndMemory(struct.PyTreeNode):
    """The input of a policy."""

    obs: PyTree  # [...], raw
    memory: PyTree  # [...], before the observation


class ActionAndMemory(struct.PyTreeNode):
    """The output of a policy."""

    action: PyTree  # [...]
    memory: PyTree  # [...], after the observation


class Sequences(struct.PyTreeNode):
    """The observations of N sequences of L steps, with the memory that their replay starts from."""

    obs: PyTree  # [N, L, ...], as the network sees it
    reset: jax.Array  # [N, L] bool, True where an episode ended in the step before; False in a rollout's first step
    memory: PyTree  # [N, ...], of the rollout, before the first step


def start_memories(start: PyTree, shape: tuple[int, ...]) -> PyTree:
    """The memory at the start of episodes, [*shape, ...]. start: of one of them"""
    return jax.tree.map(lambda x: jnp.broadcast_to(x, (*shape, *jnp.shape(x))), start)


def with_memory(env: Environment, network: Network | RecurrentNetwork) -> Environment:
    """The environment that shows the memory, and takes it with the action: `ObsAndMemory`, `ActionAndMemory`."""

    def reset(key: jax.Array, params: PyTree) -> tuple[ObsAndMemory, PyTree]:
        obs, state = env.reset(key, params)
        return ObsAndMemory(obs, network.start()), state

    def step(key: jax.Array, state: PyTree, action: ActionAndMemory, params: PyTree) -> Step:
        after = env.step(key, state, action.action, params)
        return after._replace(obs=ObsAndMemory(after.obs, action.memory))

    return env.replace(reset=reset, step=step)


def showing_memory(runner: RunnerState) -> RunnerState:
    """The runner in the environment `with_memory`."""
    return runner.replace(obs=ObsAndMemory(runner.obs, runner.memory), memory=())


def hiding_memory(runner: RunnerState) -> RunnerState:
    """The inverse of `showing_memory`."""
    return runner.replace(obs=runner.obs.obs, memory=runner.obs.memory)


def to_samples(steps: Batch) -> Batch:
    """The steps of a rollout as N = T B samples. [T, B, ...] -> [N, ...]"""
    return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), steps)


def to_sequences(steps: Batch, transitions: Transition, length: int) -> Batch:
    """The steps of a rollout, cut into sequences; each has the memory that the rollout had before it.

    [T, B, ...] -> [N, L, ...], with `Sequences` for obs
    """
    done = transitions.terminated | transitions.truncated
    reset = jnp.concatenate([jnp.zeros_like(done[:1]), done[:-1]])  # the first memory is that of its episode already
    cut = functools.partial(cut_in_sequences, length)
    first_memory = jax.tree.map(lambda x: cut(x)[:, 0], transitions.obs.memory)
    batch = jax.tree.map(cut, steps)
    return batch.replace(obs=Sequences(obs=batch.obs, reset=cut(reset), memory=first_memory))


def cut_in_sequences(length: int, x: jax.Array) -> jax.Array:
    """Pieces of L consecutive steps of one environment each. [T, B, ...] -> [T / L * B, L, ...]"""
    pieces = x.reshape(-1, length, *x.shape[1:])  # [T / L, L, B, ...]
    return jnp.moveaxis(pieces, 2, 1).reshape(-1, length, *x.shape[2:])


def replay(
    network: RecurrentNetwork, params: PyTree, memory: PyTree, obs: PyTree, reset: jax.Array
) -> tuple[PyTree, ...]:
    """A network's `apply` along T steps, from its `start` where an episode begins.

    memory: [B, ...], obs: [T, B, ...], reset: [T, B] -> distribution parameters [T, B, ...], value [T, B]
    """

    def remember(memory: PyTree, step: tuple[PyTree, jax.Array]) -> tuple[PyTree, tuple[PyTree, ...]]:
        obs, reset = step
        memory = jax.tree.map(functools.partial(where_env, reset), start_memories(network.start(), reset.shape), memory)
        memory, *outputs = network.apply(params, memory, obs)
        return memory, tuple(outputs)

    return jax.lax.scan(remember, memory, (obs, reset))[1]


def along_sequences(network: RecurrentNetwork, params: PyTree, sequences: Sequences) -> tuple[PyTree, ...]:
    """The network along M sequences. -> distribution parameters [M, L, ...], value [M, L], auxiliary outputs

    Raises PPOError for observations that are no sequences.
    """
    if not isinstance(sequences, Sequences):
        raise PPOError(
            "context.apply of a recurrent policy takes the minibatch.obs of a loss; in a reward or an advantage use "
            "steps.value, steps.parameters and steps.log_prob"
        )
    assert network.replay is not None  # the factory sets it
    by_time = jax.tree.map(lambda x: jnp.swapaxes(x, 0, 1), (sequences.obs, sequences.reset))
    outputs = network.replay(params, sequences.memory, *by_time)
    return jax.tree.map(lambda x: jnp.swapaxes(x, 0, 1), outputs)
