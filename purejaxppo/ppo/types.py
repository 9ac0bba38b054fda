"""The state pytrees. Axes: S seeds, T steps, B environments, M samples of a minibatch; time-major."""

import dataclasses
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jax.core import Tracer

from purejaxppo.utils.tree import PyTree, Terms


class Moments(struct.PyTreeNode):
    """Running count, mean and sum of squared deviations, in the shape of the measured numbers."""

    count: jax.Array  # []
    mean: jax.Array  # [...], rounded
    square_deviation: jax.Array  # [...]
    mean_low: jax.Array | float = 0.0  # [...], what `mean` lacks by rounding; it is 0 for numbers that do not vary


class TrainState(struct.PyTreeNode):
    """Everything that learning changes. It is a plain pytree: equal states have equal tree structures."""

    params: PyTree  # of the network
    opt_state: PyTree  # of the optimizer
    obs_moments: PyTree  # Moments for each leaf of the observation, None for a mask; None without normalize_obs
    reward_moments: Moments | None  # of the discounted return; None without normalize_reward
    update: jax.Array  # [] int32, the number of updates applied so far
    diverged_at: jax.Array  # [] int32, the index of the update that was not finite; -1 if there was none
    learning_rate: PyTree = None  # [], of the next update; None if it is a function of `update`


class EpisodeState(struct.PyTreeNode):
    """Running sums of the unfinished episodes, and the return of the last finished one of each environment."""

    episode_return: jax.Array  # [B]
    episode_length: jax.Array  # [B] int32
    discounted_return: jax.Array  # [B], of the reward to learn from, unscaled; updated only with normalize_reward
    return_low: jax.Array  # [B], the rounding error of `episode_return`: add it to get the sum
    last_return: jax.Array  # [B], of the last episode that the environment finished; 0 before the first
    has_finished: jax.Array  # [B] bool, True once the environment has finished an episode


class RunnerState(struct.PyTreeNode):
    """Everything that a run needs to resume. `key` never changes: an update draws from (key, update index)."""

    train_state: TrainState
    env_state: PyTree  # [B, ...]
    obs: PyTree  # [B, ...], raw
    episode: EpisodeState
    key: jax.Array  # [] typed key
    memory: PyTree = ()  # [B, ...], the hidden state of a recurrent policy before it sees `obs`


class Transition(struct.PyTreeNode):
    """One step of every environment."""

    obs: PyTree  # [B, ...], raw
    action: PyTree  # [B, ...], as the policy returned it; in PPO before it is clipped or squashed
    reward: jax.Array  # [B], raw
    terminated: jax.Array  # [B] bool
    truncated: jax.Array  # [B] bool
    next_obs: PyTree  # [B, ...], raw, before any auto-reset
    info: Terms = struct.field(default_factory=dict)  # [B] each, the numbers in `Step.info` by name


class Steps(struct.PyTreeNode):
    """The steps of a rollout, as passed to your own reward and advantage functions. Time-major."""

    obs: PyTree  # [T, B, ...], as the network sees it
    action: PyTree  # [T, B, ...], from the policy, before it is clipped or squashed
    parameters: PyTree  # [T, B, ...], of the distribution that the action was drawn from
    log_prob: jax.Array  # [T, B], of the action under that distribution
    reward: jax.Array  # [T, B], from the environment; for an advantage the reward to learn from, after normalize_reward
    value: jax.Array  # [T, B], of `obs`, by the critic that acted
    next_obs: PyTree  # [T, B, ...], as the network sees it, before any auto-reset
    next_value: jax.Array  # [T, B], of `next_obs`, by the critic
    terminated: jax.Array  # [T, B] bool
    truncated: jax.Array  # [T, B] bool
    # [T, B] each, what the environment reports by name; in an advantage also the arrays [T, B, ...] of your own reward
    info: Terms = struct.field(default_factory=dict)
    raw_obs: PyTree = None  # [T, B, ...], `obs` as the environment returned it
    raw_next_obs: PyTree = None  # [T, B, ...], `next_obs` as the environment returned it


class EpisodeStats(struct.PyTreeNode):
    """Statistics of the episodes that finished in one rollout; of constant size, whatever T and B. No sum drifts."""

    count: jax.Array  # [] int32
    return_sum: jax.Array  # []
    return_min: jax.Array  # [], +inf without an episode
    return_max: jax.Array  # [], -inf without an episode
    length_sum: jax.Array  # [], steps
    last_return_sum: jax.Array  # [], over environments, of the last episode that each has finished, at any time
    num_finished: jax.Array  # [] int32, environments that have finished an episode at any time
    info_sum: Terms = struct.field(default_factory=dict)  # [] each, of the info at the last step of each episode

    def means(self) -> Terms:
        """The fields of `Metrics` that these episodes fill."""
        none, count = self.count == 0, self.count.astype(jnp.float32)
        return {
            "episode_return_mean": self.return_sum / count,
            "episode_return_min": jnp.where(none, jnp.nan, self.return_min),
            "episode_return_max": jnp.where(none, jnp.nan, self.return_max),
            "last_return_mean": self.last_return_sum / self.num_finished.astype(jnp.float32),
            "episode_length_mean": self.length_sum / count,
            "episodes": self.count,
        }

    def info_means(self) -> Terms:
        """The entries of `Metrics.extra` that these episodes fill."""
        return {f"episode/{name}": x / self.count.astype(jnp.float32) for name, x in self.info_sum.items()}


class Batch(struct.PyTreeNode):
    """Samples to learn from: a whole rollout, or the M samples of a minibatch.

    For a recurrent policy each entry is a sequence, [N, L, ...]. Fields that a loss does not use cost nothing.
    """

    obs: PyTree  # [N, ...], as the network sees it; for a recurrent policy `Sequences`, whose obs is [N, L, ...]
    action: PyTree  # [N, ...]
    log_prob: jax.Array  # [N], under the policy that acted
    value: jax.Array  # [N], of the critic before the update
    advantage: jax.Array  # [N]
    target: jax.Array  # [N], the regression target of the value
    next_obs: PyTree = None  # [N, ...], as the network sees it, before any auto-reset
    reward: jax.Array | None = None  # [N], as the advantage sees it
    terminated: jax.Array | None = None  # [N] bool
    truncated: jax.Array | None = None  # [N] bool
    # [N] each, what the environment reports by name; and [N, ...] each, the arrays of your own reward and advantage
    info: Terms = struct.field(default_factory=dict)


NAN: Any = float("nan")
LOSS_TERMS = ("policy_loss", "value_loss", "entropy", "approx_kl", "clip_fraction")  # those with a field in Metrics


def count_timesteps(updates: Any, batch_size: int) -> Any:
    """Environment steps in so many updates of `batch_size` steps each, in the shape of `updates`.

    Exact in int64, computed on the host. Under jit, where int32 would wrap around beyond 2^31 - 1 steps, a float32
    product, whose relative error is at most 2^-23.
    """
    if isinstance(updates, Tracer):
        return updates.astype(jnp.float32) * jnp.float32(batch_size)
    return np.asarray(updates).astype(np.int64) * batch_size


class Metrics(struct.PyTreeNode, kw_only=True):
    """The numbers that one update reports. A number that an algorithm does not have is NaN.

    A mean, min or max over episodes is NaN if no episode finished in the update.

    The two means of the return differ in their weights. `episode_return_mean` counts each episode that finished in the
    update once. An environment with short episodes therefore counts more often than one with long ones; and early in a
    run, before long episodes can finish, only short ones count. `last_return_mean` counts each environment once, with
    the last episode that it has finished, in this update or before. It lags behind a policy that improves, by up to the
    length of an episode; and until every environment has finished an episode, it too is dominated by short ones.

    The five fields that a loss fills are NaN if the loss does not return them. `extra` holds every other number that a
    loss, reward or advantage returns, by its name. It also holds each number in `Step.info` as "episode/NAME", averaged
    over the last steps of finished episodes.
    """

    curve: ClassVar[tuple[str, str]] = ("timesteps", "episode_return_mean")  # the columns that a learning curve shows
    value_loss_factor: ClassVar[float] = 0.5  # the factor of the mean squared error in value_loss

    episode_return_mean: jax.Array  # [], of the episodes that finished in this update, raw rewards
    last_return_mean: jax.Array = NAN  # [], mean over environments of the last finished episode; NaN before the first
    episode_return_min: jax.Array  # [], as episode_return_mean
    episode_return_max: jax.Array  # [], as episode_return_mean
    episode_length_mean: jax.Array  # [], steps
    episodes: jax.Array  # [] int32, finished in this update
    policy_loss: jax.Array = NAN  # [], mean over the minibatches that were applied; so are the next four
    value_loss: jax.Array = NAN  # [], before vf_coef
    entropy: jax.Array = NAN  # [], nats; of the policy, before ent_coef
    approx_kl: jax.Array = NAN  # [], nats; from the policy that acted to the new one, never negative
    clip_fraction: jax.Array = NAN  # [], in [0, 1]; the share of samples whose ratio is clipped
    explained_variance: jax.Array = NAN  # [], of the targets by the value of the network that acted; at most 1
    learning_rate: jax.Array = NAN  # [], NaN with optimizer=...
    updates: jax.Array  # [] int32, updates applied since the start; a run that has diverged stops counting
    batch_size: int = struct.field(pytree_node=False)  # environment steps of one update; the same for all rows
    extra: Terms = struct.field(default_factory=dict)  # [] each, by name: your own numbers, and the environment's

    @property
    def timesteps(self) -> Any:
        """Environment steps since the start, `updates * batch_size`, as `count_timesteps` computes them."""
        return count_timesteps(self.updates, self.batch_size)

    def columns(self) -> list[str]:
        """The names of the columns in files and tables: fields, `timesteps` for `updates`, and the names in `extra`."""
        names = [field.name for field in dataclasses.fields(self) if field.name not in ("batch_size", "extra")]
        return ["timesteps" if name == "updates" else name for name in names] + sorted(self.extra)

    def column(self, name: str) -> Any:
        """The numbers in one of the `columns`."""
        return self.extra[name] if name in self.extra else getattr(self, name)
