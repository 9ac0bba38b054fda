"""One run on several devices: each steps its environments and differentiates its part of every minibatch.

It runs under `jax.shard_map` over one axis: each device holds its part of the environments of a RunnerState, and a copy
of the rest. The update is that of `ppo.agent`, with the `Collective` below; its numbers are those of one device, up to
the order of sums. On small networks a collective takes as long as the work between two of them, so there are few: for
`ppo_loss` one for each dtype after the rollout, and one for each gradient.
"""

import dataclasses
import functools
import sys

import jax
import jax.numpy as jnp
import optax
from jax.flatten_util import ravel_pytree

from purejaxppo.ppo.agent import PPO
from purejaxppo.ppo.collective import Collected, Collective
from purejaxppo.ppo.config import PPOConfig
from purejaxppo.ppo.losses import advantage_over
from purejaxppo.ppo.normalize import scale_reward
from purejaxppo.ppo.types import Batch, EpisodeStats, RunnerState, Steps
from purejaxppo.ppo.update import Learned, LossFunction, apply_gradient, take_samples
from purejaxppo.utils.errors import PPOError
from purejaxppo.utils.packed import pack, unpack
from purejaxppo.utils.sums import precise_sum
from purejaxppo.utils.tree import PyTree, Terms

DATA = "data"  # the axis of the devices
BESIDE = ("next_obs", "reward", "terminated", "truncated", "info")  # of a batch: fields that `ppo_loss` leaves alone


def share(agent: PPO, num_devices: int) -> PPO:
    """The agent for devices that share its environments."""
    config = agent.config
    collective = Collective(
        num_devices=num_devices,
        own_envs=functools.partial(own_part, axis=1),
        scale_reward=scale_reward_together,
        gather=functools.partial(gather, config.num_samples // config.num_envs),
        take=functools.partial(take_part, config),
        descend=update_part,
        own_key=own_key,
        # A part cannot normalise over the whole: its loss takes the advantages as they are.
        seen_config=lambda config: config.replace(normalize_advantage=False, normalize_advantage_over="minibatch"),
    )
    return dataclasses.replace(agent, collective=collective)


def scale_reward_together(runner: RunnerState, steps: Steps, gamma: float) -> tuple[RunnerState, jax.Array]:
    """`scale_reward` by the discounted returns of all environments. -> (runner, reward [T, B / D])"""
    if runner.train_state.reward_moments is None:
        return runner, steps.reward
    names = ("reward", "terminated", "truncated")
    episode, ends = from_all((runner.episode, {name: getattr(steps, name) for name in names}))
    whole = runner.replace(episode=whole_envs(episode, axis=0))
    scaled, reward = scale_reward(whole, steps.replace(**whole_envs(ends, axis=1)), gamma)
    return scaled.replace(episode=own_part(scaled.episode, axis=0)), own_part(reward, axis=1)


def gather(rows: int, part: Collected) -> Collected:
    """The rollout of all devices, on each of them.

    rows: samples, or sequences, of one environment
    """
    numbers = mean_of_all(part.numbers) if part.numbers else part.numbers
    # By one collective for each leaf: the compiler drops those of leaves that nobody reads.
    gather_leaf = lambda leaf: jax.lax.all_gather(leaf, DATA)  # noqa: E731
    beside = {name: jax.tree.map(gather_leaf, getattr(part.batch, name)) for name in BESIDE}
    batches, episodes, obs = from_all((part.batch.replace(**dict.fromkeys(BESIDE)), part.episodes, part.obs))
    return Collected(whole_batch(batches.replace(**beside), rows), numbers, sum_episodes(episodes), obs)


def take_part(config: PPOConfig, batch: Batch, indices: jax.Array) -> Batch:
    """This device's part of a minibatch. The advantages are scaled as a whole."""
    advantage = advantage_over("minibatch", config, batch.advantage[indices])
    part = take_samples(batch.replace(advantage=None), own_part(indices, axis=0))
    return part.replace(advantage=own_part(advantage, axis=0))


def update_part(
    loss: LossFunction,
    optimizer: optax.GradientTransformationExtraArgs,
    rate: jax.Array,
    learned: Learned,
    part: Batch,
    key: jax.Array,
) -> tuple[Learned, Terms]:
    """`update_minibatch` by the mean of the gradients of all parts, each with a key of its own."""
    (_, terms), gradient = jax.value_and_grad(loss, has_aux=True)(unpack(learned[0]), part, own_key(key))
    gradient, terms = mean_of_all((gradient, terms))
    return apply_gradient(optimizer, rate, learned, gradient), terms


def own_key(key: jax.Array) -> jax.Array:
    """A key of this device alone."""
    return jax.random.fold_in(key, jax.lax.axis_index(DATA))


def own_part(x: PyTree, axis: int) -> PyTree:
    """This device's share of what every device has: n / D along the axis."""

    def cut(leaf: jax.Array) -> jax.Array:
        num_devices = jax.lax.axis_size(DATA)
        if leaf.shape[axis] % num_devices:  # only minibatches=... can give such; the others have been checked
            raise PPOError(f"minibatches of {leaf.shape[axis]} samples do not divide over {num_devices} devices")
        size = leaf.shape[axis] // num_devices
        return jax.lax.dynamic_slice_in_dim(leaf, jax.lax.axis_index(DATA) * size, size, axis)

    return jax.tree.map(cut, x)


def from_all(x: PyTree) -> PyTree:
    """Gathers every device's arrays on all of them, with one collective for each dtype. [...] -> [D, ...]"""
    return unpack(jax.tree.map(lambda vector: jax.lax.all_gather(vector, DATA), pack(x, max_size=sys.maxsize)))


def whole_envs(parts: PyTree, axis: int) -> PyTree:
    """The environments of all devices in their order along the axis. [D, ..., b, ...] -> [..., D b, ...]"""

    def join(x: jax.Array) -> jax.Array:
        x = jnp.moveaxis(x, 0, axis)
        return x.reshape(*x.shape[:axis], -1, *x.shape[axis + 2 :])

    return jax.tree.map(join, parts)


def whole_batch(parts: Batch, rows: int) -> Batch:
    """The samples of all devices in the order that one device would have. [D, rows b, ...] -> [rows D b, ...]"""
    by_row = jax.tree.map(lambda x: x.reshape(len(x), rows, -1, *x.shape[2:]), parts)
    return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), whole_envs(by_row, axis=1))


def sum_episodes(parts: EpisodeStats) -> EpisodeStats:
    """The episodes of all devices. [D] -> []"""
    return EpisodeStats(
        count=jnp.sum(parts.count),
        return_sum=precise_sum(parts.return_sum),
        return_min=jnp.min(parts.return_min),
        return_max=jnp.max(parts.return_max),
        length_sum=precise_sum(parts.length_sum),
        last_return_sum=precise_sum(parts.last_return_sum),
        num_finished=jnp.sum(parts.num_finished),
        info_sum=jax.tree.map(jnp.sum, parts.info_sum),
    )


def mean_of_all(x: PyTree) -> PyTree:
    """The mean over the devices, in one collective."""
    row, unravel = ravel_pytree(x)
    return unravel(jax.lax.pmean(row, DATA))
