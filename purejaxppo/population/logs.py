"""Logging of a training: one call per update, with numbers under the names of Stable-Baselines3 or CleanRL."""

import math
from collections.abc import Callable

import numpy as np

from purejaxppo.population.options import Progress
from purejaxppo.population.statistics import finite_ones, iqm
from purejaxppo.utils.validation import check_choice, check_function

Log = Callable[[dict[str, float], int], None]  # numbers by name, and the environment steps of each seed so far

# Our name of a number -> its names in Stable-Baselines3 and in CleanRL.
_PLACES = {
    "episode_return_mean": ("rollout/ep_rew_mean", "charts/episodic_return"),
    "last_return_mean": ("rollout/last_return_mean", "charts/last_return_mean"),  # ours: they have no such number
    "episode_length_mean": ("rollout/ep_len_mean", "charts/episodic_length"),
    "steps_per_second": ("time/fps", "charts/SPS"),
    "timesteps": ("time/total_timesteps", "charts/global_step"),
    "approx_kl": ("train/approx_kl", "losses/approx_kl"),
    "clip_fraction": ("train/clip_fraction", "losses/clipfrac"),
    "entropy": ("train/entropy_loss", "losses/entropy"),
    "explained_variance": ("train/explained_variance", "losses/explained_variance"),
    "learning_rate": ("train/learning_rate", "charts/learning_rate"),
    "policy_loss": ("train/policy_gradient_loss", "losses/policy_loss"),
    "value_loss": ("train/value_loss", "losses/value_loss"),
    "evaluation": ("eval/mean_reward", "eval/episodic_return"),
}
_FACTORS = {"entropy": -1.0, "value_loss": 2.0}  # Stable-Baselines3 negates one, and the other has no factor 1/2
# Our name of a number -> its name in a log, and what it is multiplied by there.
SB3 = {name: (place, _FACTORS.get(name, 1.0)) for name, (place, _) in _PLACES.items()}
CLEANRL = {name: (place, 1.0) for name, (_, place) in _PLACES.items()}
NAMES = {"sb3": SB3, "cleanrl": CLEANRL}
# Prefixes of numbers in `Metrics.extra`: of one that a loss returns, and of "episode/NAME".
EXTRA = {"sb3": ("train/", "rollout/"), "cleanrl": ("losses/", "charts/")}
POPULATION = ("seeds", "first_seed", "return_iqm", "return_best", "return_worst", "diverged")  # under population/

TAKEN = {*SB3, *POPULATION}  # names with a meaning of their own in a log


class LogProgress:
    """Calls `log` once for each update, with means over the members of the chunk in training.

    Pass it to `train_population` as `on_chunk`. A number that an update does not have, such as the return if no episode
    has finished, is left out. If the population is trained in several chunks, the log starts again with each of them;
    the first member of the chunk is `population/first_seed`. A number in `Metrics.extra` keeps its name under train/,
    and "episode/NAME" becomes rollout/NAME; with CleanRL's names, they are under losses/ and charts/.

    Args:
        log: called with the numbers by name, and the environment steps of each seed so far.
        names: "sb3" for the names of Stable-Baselines3, "cleanrl" for those of CleanRL; signs and factors match them
            too.

    Raises:
        PPOError: if `log` cannot be called, or if `names` is unknown.
    """

    def __init__(self, log: Log, names: str = "sb3") -> None:
        check_function("log", log, "give one of (metrics, step)")
        check_choice("names", names, tuple(NAMES))
        self._log, self._names = log, names

    def __call__(self, progress: Progress) -> None:
        """Logs each update in `progress`."""
        for update in range(progress.metrics.updates.shape[1]):
            numbers = numbers_of(progress, update)
            self._log(named(numbers, self._names), int(numbers["timesteps"]))


def numbers_of(progress: Progress, update: int) -> dict[str, float]:
    """The numbers of one update, under our names. update: its index in `progress`."""
    metrics, (first, last) = progress.metrics, progress.members
    column = lambda name: np.asarray(metrics.column(name))[:, update]  # noqa: E731
    ours = [name for name in metrics.columns() if name in SB3 and name not in metrics.extra]
    places = {name: name for name in ours} | {
        name: f"extra/{name}" if name in TAKEN else name for name in metrics.extra
    }
    means = {place: mean_known(column(name)) for name, place in places.items()}
    returns, index = column("episode_return_mean"), progress.updates - metrics.updates.shape[1] + update
    known = finite_ones(returns)
    spread = {"return_iqm": iqm(known), "return_best": known.max(), "return_worst": known.min()} if known.size else {}
    diverged_at = np.asarray(progress.train_states.diverged_at)[: last - first]  # padding may follow the members
    numbers = {
        **means,
        "value_loss": means["value_loss"] * 0.5 / metrics.value_loss_factor,
        "timesteps": np.max(column("timesteps")),
        "steps_per_second": progress.timesteps / progress.seconds,
        "seeds": last - first,
        "first_seed": first,
        "diverged": np.sum((diverged_at >= 0) & (diverged_at <= index)),
        **spread,
    }
    return {name: float(value) for name, value in numbers.items()}


def mean_known(values: np.ndarray) -> float:
    """The mean of the values that are not NaN; NaN if all are. [n] -> scalar"""
    known = values[~np.isnan(values)]
    return known.mean(dtype=np.float64) if known.size else math.nan


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
