"""Logging of a training: one call per update, with numbers under the names of Stable-Baselines3 or CleanRL."""

import math
import warnings
from collections.abc import Callable

import numpy as np

from purejaxppo.population.options import Progress
from purejaxppo.population.statistics import iqm
from purejaxppo.population.store import Rows
from purejaxppo.utils.validation import check_choice, check_function

Log = Callable[[dict[str, float], int], None]  # numbers by name, and the environment steps of each seed so far

# Our name of a number -> its name in a log, and what it is multiplied by there.
# Stable-Baselines3 negates the entropy, and its value loss has no factor 1/2.
SB3 = {
    "episode_return_mean": ("rollout/ep_rew_mean", 1.0),
    "episode_length_mean": ("rollout/ep_len_mean", 1.0),
    "steps_per_second": ("time/fps", 1.0),
    "timesteps": ("time/total_timesteps", 1.0),
    "approx_kl": ("train/approx_kl", 1.0),
    "clip_fraction": ("train/clip_fraction", 1.0),
    "entropy": ("train/entropy_loss", -1.0),
    "explained_variance": ("train/explained_variance", 1.0),
    "learning_rate": ("train/learning_rate", 1.0),
    "policy_loss": ("train/policy_gradient_loss", 1.0),
    "value_loss": ("train/value_loss", 2.0),
    "evaluation": ("eval/mean_reward", 1.0),
}
CLEANRL = {
    "episode_return_mean": ("charts/episodic_return", 1.0),
    "episode_length_mean": ("charts/episodic_length", 1.0),
    "steps_per_second": ("charts/SPS", 1.0),
    "timesteps": ("charts/global_step", 1.0),
    "approx_kl": ("losses/approx_kl", 1.0),
    "clip_fraction": ("losses/clipfrac", 1.0),
    "entropy": ("losses/entropy", 1.0),
    "explained_variance": ("losses/explained_variance", 1.0),
    "learning_rate": ("charts/learning_rate", 1.0),
    "policy_loss": ("losses/policy_loss", 1.0),
    "value_loss": ("losses/value_loss", 1.0),
    "evaluation": ("eval/episodic_return", 1.0),
}
NAMES = {"sb3": SB3, "cleanrl": CLEANRL}
# Prefixes of numbers in `Metrics.extra`: of one that a loss returns, and of "episode/NAME".
EXTRA = {"sb3": ("train/", "rollout/"), "cleanrl": ("losses/", "charts/")}
POPULATION = ("seeds", "first_seed", "return_iqm", "return_best", "return_worst", "diverged")  # under population/


class LogProgress:
    """Calls `log` once for each update, with means over the members of the chunk in training.

    Pass it to `train_population` as `on_chunk`. A number that an update lacks, such as the return if no episode has
    finished, is left out. If the population is trained in several chunks, the log begins anew with each; its members
    are those from `population/first_seed` on. A number of `Metrics.extra` keeps its name under train/, and
    "episode/NAME" becomes rollout/NAME; with CleanRL's names under losses/ and charts/.

    Args:
        log: called with the numbers by name, and the environment steps of each seed so far.
        names: "sb3" for Stable-Baselines3's names, "cleanrl" for CleanRL's; signs and factors are theirs too.

    Raises:
        PPOError: for a `log` that cannot be called, or other `names`.
    """

    def __init__(self, log: Log, names: str = "sb3") -> None:
        check_function("log", log, "give one of (metrics, step)")
        check_choice("names", names, tuple(NAMES))
        self._log, self._names = log, names

    def __call__(self, progress: Progress) -> None:
        """Logs each of these updates of a chunk."""
        for update in range(progress.metrics.updates.shape[1]):
            numbers = numbers_of(progress, update)
            self._log(named(numbers, self._names), int(numbers["timesteps"]))


def numbers_of(progress: Progress, update: int) -> dict[str, float]:
    """The numbers of one update, under our names. update: its index in `progress`."""
    metrics, index = progress.metrics, progress.updates - progress.metrics.updates.shape[1] + update
    columns = [name for name in metrics.columns() if name in SB3 or name in metrics.extra]
    means = {name: mean_known(np.asarray(metrics.column(name))[:, update]) for name in columns}
    means["value_loss"] *= 0.5 / metrics.value_loss_factor
    return {
        **means,
        "timesteps": float(np.max(np.asarray(metrics.timesteps)[:, update])),
        "steps_per_second": progress.timesteps / progress.seconds,
        **of_population(
            np.asarray(metrics.episode_return_mean)[:, update],
            np.asarray(progress.train_states.diverged_at),
            progress.members,
            index,
        ),
    }


def of_population(returns: np.ndarray, diverged_at: np.ndarray, members: Rows, update: int) -> dict[str, float]:
    """The spread of the members. returns: [n]; diverged_at: [n or more], padding may follow the members."""
    first, last = members
    diverged = diverged_at[: last - first]
    known = returns[np.isfinite(returns)]
    spread = {"return_iqm": iqm(known), "return_best": known.max(), "return_worst": known.min()} if known.size else {}
    counts = {"seeds": last - first, "first_seed": first, "diverged": np.sum((diverged >= 0) & (diverged <= update))}
    return {name: float(value) for name, value in (counts | spread).items()}


def mean_known(values: np.ndarray) -> float:
    """The mean of the values that are not NaN; NaN if all are. [n] -> scalar"""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # if all are NaN
        return float(np.nanmean(values, dtype=np.float64))


def named(numbers: dict[str, float], names: str) -> dict[str, float]:
    """The finite numbers, under the names of a log."""
    table = NAMES[names] | {name: (f"population/{name}", 1.0) for name in POPULATION}
    taken = {place for place, _ in table.values()}
    for name in numbers.keys() - table.keys():
        of_loss, of_episode = EXTRA[names]
        own = name.removeprefix("episode/")
        place = of_loss + name if own == name else of_episode + own
        table[name] = (f"extra/{name}" if place in taken else place, 1.0)
    return {table[name][0]: table[name][1] * value for name, value in numbers.items() if math.isfinite(value)}
