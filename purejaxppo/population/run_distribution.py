"""The distribution of runs, not only their mean: profiles, percentiles, times to a threshold, and normalised scores."""

import math
import warnings
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from purejaxppo.population.statistics import Interval, carry_forward, finite_scores
from purejaxppo.utils.errors import PPOError
from purejaxppo.utils.validation import shown

CONFIDENCE = 0.95
Z = 1.959963984540054  # standard errors on each side of an estimate that hold 95%
PERCENTS = (5, 25, 50, 75, 95)  # of the runs, in pictures and tables
NUM_THRESHOLDS = 101  # of a profile, evenly from the least to the greatest score


class Profile(NamedTuple):
    """A performance profile: the share of runs above each threshold, with its pointwise 95% interval."""

    thresholds: np.ndarray  # [N], in units of the scores
    share: np.ndarray  # [N], in [0, 1]
    low: np.ndarray  # [N]
    high: np.ndarray  # [N]


class ThresholdTimes(NamedTuple):
    """When runs first reach a return, in environment steps of a run. Runs that end before are censored, not dropped."""

    median: Interval  # steps after which half of the runs have reached it, inf if fewer have; `low` at most the last
    num_reached: int
    num_runs: int
    timesteps: np.ndarray  # [N], at which the share changes
    share: np.ndarray  # [N], of the runs that have reached it by then: 1 - S(t), S by Kaplan and Meier (1958)
    low: np.ndarray  # [N], of its pointwise 95% interval; NaN where nothing is known of it
    high: np.ndarray  # [N]


def performance_profile(scores: np.ndarray, thresholds: np.ndarray | Sequence[float] | None = None) -> Profile:
    """The share of runs whose score is above tau (Agarwal et al. 2021, section 4.3).

    F(tau) = 1 / (S K) sum_k sum_s [x_sk > tau], with the interval of Wilson (1927) for S K runs:
    (F + z^2 / 2n -+ z sqrt(F (1 - F) / n + z^2 / 4n^2)) / (1 + z^2 / n), z = 1.96, n = S K. Unlike a bootstrap's it has
    a width where all runs are above tau, or none. Over several tasks it is wider than need be.

    Args:
        scores: [S], or [S, K] with a column for each setting or task, whose scores have to be normalised.
        thresholds: [N], tau; by default 101 from the least to the greatest score.

    Raises:
        PPOError: if a score is not finite.
    """
    scores = finite_scores("scores", scores).ravel()
    tau = np.linspace(scores.min(), scores.max(), NUM_THRESHOLDS) if thresholds is None else np.asarray(thresholds)
    n, z = scores.size, Z
    share = 1 - np.searchsorted(np.sort(scores), tau, "right") / n
    middle = (share + z**2 / (2 * n)) / (1 + z**2 / n)
    margin = z * np.sqrt(share * (1 - share) / n + z**2 / (4 * n**2)) / (1 + z**2 / n)
    return Profile(tau, share, np.maximum(middle - margin, 0.0), np.minimum(middle + margin, 1.0))


def percentile_curves(returns: np.ndarray, percents: Sequence[float] = PERCENTS) -> np.ndarray:
    """Percentiles of the runs at each update, each run at its last return. [S, U] -> [P, U]

    A band between two of them holds that share of the runs, now and in future, where the interval of a mean only says
    how well the mean is known. NaN where no run has a return yet.
    """
    with warnings.catch_warnings(action="ignore", category=RuntimeWarning):  # of an update in which no run has one
        return np.nanpercentile(carry_forward(np.asarray(returns, np.float64)), percents, axis=0)


def percentile_of_runs(scores: np.ndarray, percent: float) -> Interval:
    """A percentile of the runs, with its distribution-free 95% interval. [S] -> Interval

    The interval lies between two of the sorted scores, x_(l) and x_(u), where P(l <= B < u) >= 0.95 for B ~
    Binomial(S, percent / 100) (Conover 1999, section 3.2), by `scipy.stats.quantile_test`. A bound is infinite where
    no score is far enough out, as of the 5th percentile of fewer than 73 runs.

    Raises PPOError if a score is not finite, or `percent` is not between 0 and 100.
    """
    from scipy import stats

    scores = finite_scores("scores", scores)
    if not 0 < percent < 100:
        raise PPOError(f"percent = {shown(percent)} is out of range; give a number above 0 and below 100")
    low, high = stats.quantile_test(scores, p=percent / 100).confidence_interval(CONFIDENCE)
    low, high = (math.copysign(math.inf, sign) if math.isnan(x) else x for sign, x in ((-1, low), (1, high)))
    return Interval(float(np.percentile(scores, percent)), float(low), float(high))


def first_passages(
    returns: np.ndarray, timesteps: np.ndarray, target: float, diverged_at: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """The steps at which each run first has a return of at least `target`, and whether it has.

    A run that never has is seen until its last step, or until it diverged.

    returns: [S, U]; timesteps: [U]; diverged_at: [S], the update; -1 for a run that has not. -> ([S], bool [S])
    """
    updates = np.arange(len(timesteps))
    diverged_at = np.full(len(returns), -1) if diverged_at is None else diverged_at
    seen = np.where(diverged_at < 0, len(timesteps), diverged_at)  # updates of each run
    passed = (returns >= target) & (updates < seen[:, None])
    reached = passed.any(axis=1)
    last = np.append(0, timesteps)[seen]
    return np.where(reached, np.asarray(timesteps)[passed.argmax(axis=1)], last), reached


def threshold_times(timesteps: np.ndarray, reached: np.ndarray) -> ThresholdTimes:
    """The share of runs that have reached a threshold by each step, and the step at which half of them have.

    S(t) = prod_{t_i <= t} (1 - d_i / n_i), d_i runs that reach it at t_i out of the n_i that had not and are still
    seen (Kaplan and Meier 1958); its interval is S^exp(-+ z e), z = 1.96, Greenwood's of log(-log S) with
    e^2 = sum_{t_i <= t} d_i / (n_i (n_i - d_i)) / log(S)^2. That of the median holds every t whose interval of S(t)
    includes 1/2 (Brookmeyer and Crowley 1982). `scipy.stats` has both, but its import takes half a second of a run.

    timesteps, reached: [S], as `first_passages` returns them. Raises PPOError without a run.
    """
    timesteps, reached = finite_scores("timesteps", timesteps), np.asarray(reached, bool)
    if not reached.any():
        never, empty = Interval(math.inf, float(timesteps.max()), math.inf), np.empty(0)
        return ThresholdTimes(never, 0, len(reached), empty, empty, empty, empty)
    at, place = np.unique(timesteps, return_inverse=True)
    d = np.bincount(place[reached], minlength=len(at))
    n = len(timesteps) - np.searchsorted(np.sort(timesteps), at)
    s = np.cumprod((n - d) / n)
    with np.errstate(divide="ignore", invalid="ignore"):  # where no run has reached it, or all have
        error = np.sqrt(np.cumsum(d / (n * (n - d)))) / np.abs(np.log(s))
        low, high = (s ** np.exp(sign * Z * error) for sign in (1, -1))
    known = (s < 1) & (s > 0)
    half = first_at_most(at, s, 0.5)
    # Where all runs have reached it, log(-log S) has no interval: the median is not later.
    earliest = min(first_at_most(at, np.where(known, low, s), 0.5), float(timesteps.max()))
    latest = first_at_most(at, np.where(known, high, s), 0.5)
    median = Interval(half, earliest, latest) if len(reached) > 1 else Interval(half, math.nan, math.nan)
    lower, upper = (np.where(known, 1 - bound, np.nan) for bound in (high, low))
    return ThresholdTimes(median, int(reached.sum()), len(reached), at, 1 - s, lower, upper)


def first_at_most(at: np.ndarray, values: np.ndarray, level: float) -> float:
    """Where falling values first are at most the level, up to rounding; inf if they never are. [N], [N] -> scalar"""
    below = values <= level + 1e-9  # a product over runs may miss 1/2 by its rounding, and the median by one step
    return float(at[below.argmax()]) if below.any() else math.inf


def normalized_scores(scores: np.ndarray, low: np.ndarray | float, high: np.ndarray | float) -> np.ndarray:
    """Scores of several tasks on one scale: (x - low) / (high - low). [S, K] -> [S, K]

    low, high: [K], the scores that count as 0 and 1 in each task, such as a random policy's and a solved one's.
    Raises PPOError where they are equal, or if a number is not finite.
    """
    scores, low, high = finite_scores("scores", scores), finite_scores("low", low), finite_scores("high", high)
    if np.any(low == high):
        raise PPOError(f"low = {low} and high = {high} are equal in a task; give two scores that differ")
    return (scores - low) / (high - low)
