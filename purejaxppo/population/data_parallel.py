"""One run on several devices: each steps its environments and differentiates its part of every minibatch.

For `jax.shard_map` over one axis: of a RunnerState each device has its part of the environments, and all of the rest.
The numbers are those of `ppo.update` on one device, up to the order of sums. On small networks a collective takes as
long as the work between two of them, so there are few: one for each dtype after the rollout, and one for each gradient.
"""

import dataclasses
import functools
import itertools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax
from jax.flatten_util import ravel_pytree

from purejaxppo.envs.base import through
from purejaxppo.ppo.agent import (
    PPO,
    advantage_scale,
    assess,
    flattened,
    learn,
    learned_state,
    make_metrics,
    sample_action,
)
from purejaxppo.ppo.checks import merged
from purejaxppo.ppo.normalize import scale_reward
from purejaxppo.ppo.rollout import make_noise, rollout
from purejaxppo.ppo.types import Batch, EpisodeStats, Metrics, RunnerState, Steps
from purejaxppo.ppo.update import Learned, LossFunction, apply_gradient, keep_finite
from purejaxppo.utils.errors import PPOError
from purejaxppo.utils.sums import precise_sum
from purejaxppo.utils.tree import PyTree, Terms

DATA = "data"  # the axis of the devices
BESIDE = ("next_obs", "reward", "terminated", "truncated", "info")  # of a batch: fields that `ppo_loss` leaves alone


@dataclasses.dataclass(frozen=True)
class SharedPPO(PPO):
    """The agent where each device has a part of its environments."""

    def update(self, runner: RunnerState) -> tuple[RunnerState, Metrics]:
        """One rollout and the learning from it, on all devices."""
        return update_together(self, runner)


def share(agent: PPO) -> SharedPPO:
    """The same agent, for devices that share its environments."""
    return SharedPPO(**{field.name: getattr(agent, field.name) for field in dataclasses.fields(agent)})


def update_together(agent: PPO, runner: RunnerState) -> tuple[RunnerState, Metrics]:
    """`ppo.update` of a run whose environments [B / D, ...] are on D devices. The metrics are those of them all."""
    config, state = agent.config, runner.train_state
    update_key = jax.random.fold_in(runner.key, state.update)
    noise_key, shuffle_key = jax.random.split(update_key)

    noise = make_noise(agent.env, agent.actions.noise, noise_key, (config.num_steps, config.num_envs))
    policy = functools.partial(sample_action, agent, state)
    env = through(agent.actions.to_env, agent.env)
    acted, transitions, parameters, episodes = rollout(env, policy, runner, own_part(noise, axis=1))

    plain = normalizing_nothing(agent)
    acted, steps, told = assess(plain, acted, transitions, parameters, update_key, scale_reward_together)
    batch, told = flattened(steps), mean_of_all(told) if told else told
    seen = None if state.obs_moments is None else transitions.obs
    beside = {name: each_from_all(getattr(batch, name)) for name in BESIDE}
    batches, episodes, seen = from_all((batch.replace(**dict.fromkeys(BESIDE)), episodes, seen))
    batches = batches.replace(**beside)
    batch, episodes = whole_batch(batches, config.num_steps), sum_episodes(episodes)
    batch = batch.replace(advantage=advantage_scale(config, "batch")(batch.advantage))
    rate = agent.rate_rule.rate(state)
    descend = functools.partial(update_part, advantage_scale(config, "minibatch"))
    learned, terms = learn(plain, rate, state, batch, shuffle_key, descend)

    state = learned_state(agent, acted.train_state, learned, terms, seen)
    runner = keep_finite(runner, acted.replace(train_state=state))
    return runner, make_metrics(agent, runner.train_state, episodes, merged(terms, told), batch, rate)


def scale_reward_together(runner: RunnerState, steps: Steps, gamma: float) -> tuple[RunnerState, jax.Array]:
    """`scale_reward` by the discounted returns of all environments. -> (runner, reward [T, B / D])"""
    if runner.train_state.reward_moments is None:
        return runner, steps.reward
    parts = from_all((runner.episode, steps.reward, steps.terminated, steps.truncated))
    episode, reward, terminated, truncated = (whole_envs(x, axis) for x, axis in zip(parts, (0, 1, 1, 1), strict=True))
    whole = steps.replace(reward=reward, terminated=terminated, truncated=truncated)
    scaled, reward = scale_reward(runner.replace(episode=episode), whole, gamma)
    return scaled.replace(episode=own_part(scaled.episode, axis=0)), own_part(reward, axis=1)


def update_part(
    scale: Callable[[jax.Array], jax.Array],
    loss: LossFunction,
    optimizer: optax.GradientTransformationExtraArgs,
    rate: jax.Array,
    learned: Learned,
    minibatch: Batch,
    key: jax.Array,
) -> tuple[Learned, Terms]:
    """`update_minibatch` by the mean of the gradients of all parts, each with a key of its own.

    The advantages are scaled as a whole.
    """
    minibatch = minibatch.replace(advantage=scale(minibatch.advantage))
    own_key = jax.random.fold_in(key, jax.lax.axis_index(DATA))
    (_, terms), gradient = jax.value_and_grad(loss, has_aux=True)(learned[0], own_part(minibatch, axis=0), own_key)
    gradient, terms = mean_of_all((gradient, terms))
    return apply_gradient(optimizer, rate, learned, gradient), terms


def normalizing_nothing(agent: PPO) -> PPO:
    """The agent whose loss takes the advantages as they are, as its config says."""
    config = agent.config.replace(normalize_advantage=False, normalize_advantage_over="minibatch")
    return dataclasses.replace(agent, config=config)


def own_part(x: PyTree, axis: int) -> PyTree:
    """This device's share of what every device has: n / D along the axis."""

    def cut(leaf: jax.Array) -> jax.Array:
        num_devices = jax.lax.axis_size(DATA)
        if leaf.shape[axis] % num_devices:  # of minibatches of the caller's own: the others have been checked
            raise PPOError(f"minibatches of {leaf.shape[axis]} samples do not divide over {num_devices} devices")
        size = leaf.shape[axis] // num_devices
        return jax.lax.dynamic_slice_in_dim(leaf, jax.lax.axis_index(DATA) * size, size, axis)

    return jax.tree.map(cut, x)


def from_all(x: PyTree) -> PyTree:
    """What each device has, on all of them: one collective for each dtype. [...] -> [D, ...]"""
    leaves, structure = jax.tree.flatten(x)
    gathered = list(leaves)
    for dtype in sorted({str(leaf.dtype) for leaf in leaves}):
        chosen = [i for i, leaf in enumerate(leaves) if str(leaf.dtype) == dtype]
        rows = jax.lax.all_gather(jnp.concatenate([leaves[i].reshape(-1) for i in chosen]), DATA)  # [D, n]
        ends = list(itertools.accumulate(leaves[i].size for i in chosen))
        for i, part in zip(chosen, jnp.split(rows, ends[:-1], axis=1), strict=True):
            gathered[i] = part.reshape(-1, *leaves[i].shape)
    return structure.unflatten(gathered)


def each_from_all(x: PyTree) -> PyTree:
    """As `from_all`, by one collective for each leaf: the compiler drops those of leaves that nobody reads."""
    return jax.tree.map(lambda leaf: jax.lax.all_gather(leaf, DATA), x)


def whole_envs(parts: PyTree, axis: int) -> PyTree:
    """The environments of all devices in their order along the axis. [D, ..., b, ...] -> [..., D b, ...]"""

    def join(x: jax.Array) -> jax.Array:
        x = jnp.moveaxis(x, 0, axis)
        return x.reshape(*x.shape[:axis], -1, *x.shape[axis + 2 :])

    return jax.tree.map(join, parts)


def whole_batch(parts: Batch, num_steps: int) -> Batch:
    """The samples of all devices in the order in which one would have them. [D, T b, ...] -> [T D b, ...]"""
    by_step = jax.tree.map(lambda x: x.reshape(len(x), num_steps, -1, *x.shape[2:]), parts)
    return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), whole_envs(by_step, axis=1))


def sum_episodes(parts: EpisodeStats) -> EpisodeStats:
    """The episodes of all devices. [D] -> []"""
    return EpisodeStats(
        count=jnp.sum(parts.count),
        return_sum=precise_sum(parts.return_sum),
        return_min=jnp.min(parts.return_min),
        return_max=jnp.max(parts.return_max),
        length_sum=precise_sum(parts.length_sum),
        info_sum=jax.tree.map(jnp.sum, parts.info_sum),
    )


def mean_of_all(x: PyTree) -> PyTree:
    """The mean over the devices, in one collective."""
    row, unravel = ravel_pytree(x)
    return unravel(jax.lax.pmean(row, DATA))
