"""How devices work together on one run, for `ppo.agent`, which does not know how many there are."""

from collections.abc import Callable
from typing import NamedTuple

import jax

from purejaxppo.ppo.config import PPOConfig
from purejaxppo.ppo.normalize import scale_reward
from purejaxppo.ppo.types import Batch, EpisodeStats, RunnerState
from purejaxppo.ppo.update import Learned, Take, take_samples, update_minibatch
from purejaxppo.utils.tree import PyTree, Terms, unchanged


class Collected(NamedTuple):
    """A rollout, ready to learn from."""

    batch: Batch  # N samples, or N sequences
    numbers: Terms  # to report
    episodes: EpisodeStats
    obs: PyTree  # [T, B, ...], raw; None without normalize_obs


class Collective(NamedTuple):
    """How the devices that share a run work together. The defaults are for one device, which has the whole run."""

    num_devices: int = 1
    own_envs: Callable[[PyTree], PyTree] = unchanged  # noise [T, B, ...] -> of this device's environments
    scale_reward: Callable[..., tuple[RunnerState, jax.Array]] = scale_reward  # as `normalize.scale_reward`
    gather: Callable[[Collected], Collected] = unchanged  # this device's part -> the whole, on every device
    take: Take = take_samples  # (batch, indices of a minibatch) -> this device's part of it
    descend: Callable[..., tuple[Learned, Terms]] = update_minibatch  # as `update.update_minibatch`
    own_key: Callable[[jax.Array], jax.Array] = unchanged  # of a reward or an advantage, for this device's environments
    seen_config: Callable[[PPOConfig], PPOConfig] = unchanged  # the config that a loss, reward and advantage see


ONE_DEVICE = Collective()
