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
    low: np.ndarray  # [N], lower end of the interval
    high: np.ndarray  # [N], upper end of the interval


class ThresholdTimes(NamedTuple):
    """The environment steps at which runs first reach a return. A run that never does is censored at its last step."""

    median: Interval  # steps by which half of the runs have reached it, inf if fewer have; `low` at most the last step
    num_reached: int  # runs that have reached it
    num_runs: int
    timesteps: np.ndarray  # [N], the distinct steps at which a run reached it or was censored
    share: np.ndarray  # [N], of the runs that have reached it by then: 1 - S(t), by Kaplan and Meier (1958)
    low: np.ndarray  # [N], lower end of its pointwise 95% interval; NaN where the share is 0 or 1
    high: np.ndarray  # [N], upper end


def performance_profile(scores: np.ndarray, thresholds: np.ndarray | Sequence[float] | None = None) -> Profile:
    """The share of runs whose score is above tau (Agarwal et al. 2021, section 4.3).

    F(tau) = 1 / (S K) sum_k sum_s [x_sk > tau], with the interval of Wilson (1927) for n = S K runs, z = 1.96:
    (F + z^2 / 2n -+ z sqrt(F (1 - F) / n + z^2 / 4n^2)) / (1 + z^2 / n).

    Unlike a bootstrap interval, it has a width even where all runs are above tau, or none are. Over several tasks it is
    wider than necessary.

    Args:
        scores: [S], or [S, K] with one column per setting or task; normalise the scores of different tasks first.
        thresholds: [N], the values of tau; by default 101, evenly spaced from the lowest to the highest score.

    Returns:
        The `Profile`, with one entry per threshold.

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
    """Percentiles over runs at each update. A run without a new return counts with its last one.

    The band between two percentiles holds that share of the runs, now and in future. A confidence interval of the mean
    only says how well the mean is known.

    Args:
        returns: [S, U], NaN for an update in which a run has no return.
        percents: [P], each from 0 to 100.

    Returns:
        The percentiles, [P, U]; NaN where no run has a return yet.
    """
    with warnings.catch_warnings(action="ignore", category=RuntimeWarning):  # of an update in which no run has one
        return np.nanpercentile(carry_forward(np.asarray(returns, np.float64)), percents, axis=0)


def percentile_of_runs(scores: np.ndarray, percent: float) -> Interval:
    """A percentile of the runs' scores, with its distribution-free 95% interval.

    The bounds are two of the sorted scores, x_(l) and x_(u), with P(l <= B < u) >= 0.95 for B ~ Binomial(S,
    percent / 100) (Conover 1999, section 3.2), as computed by `scipy.stats.quantile_test`. A bound is infinite if there
    are too few runs for it: the lower bound of the 5th percentile needs at least 72.

    Args:
        scores: [S].
        percent: above 0 and below 100.

    Returns:
        The percentile as an `Interval`.

    Raises:
        PPOError: if a score is not finite, or if `percent` is out of range.
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
    """Finds the steps at which each run first has a return of at least `target`.

    A run that never does is censored at its last step before it diverged, or else at the end.

    Args:
        returns: [S, U].
        timesteps: [U], environment steps of a run after each update.
        target: the return to reach.
        diverged_at: [S], the index of the update that was not finite, or -1 for a run that has not diverged; by default
            no run has.

    Returns:
        The steps of the first passage or of the censoring, [S]; and bool [S], true for a run that reached `target`.
    """
    updates = np.arange(len(timesteps))
    diverged_at = np.full(len(returns), -1) if diverged_at is None else diverged_at
    seen = np.where(diverged_at < 0, len(timesteps), diverged_at)  # updates of each run
    passed = (returns >= target) & (updates < seen[:, None])
    reached = passed.any(axis=1)
    last = np.append(0, timesteps)[seen]
    return np.where(reached, np.asarray(timesteps)[passed.argmax(axis=1)], last), reached


def threshold_times(timesteps: np.ndarray, reached: np.ndarray) -> ThresholdTimes:
    """The share of runs that have reached a threshold by each step, and the step by which half of them have.

    S(t) = prod_{t_i <= t} (1 - d_i / n_i), where d_i runs reach the threshold at t_i, out of the n_i that were still
    observed and had not reached it before (Kaplan and Meier 1958). Its interval is S^exp(-+ z e), where z = 1.96 and e
    is Greenwood's standard error of log(-log S), e^2 = sum_{t_i <= t} d_i / (n_i (n_i - d_i)) / log(S)^2. The interval
    of the median holds every t at which the interval of S(t) includes 1/2 (Brookmeyer and Crowley 1982). `scipy.stats`
    has both, but importing it takes half a second.

    Args:
        timesteps: [S], as `first_passages` returns them.
        reached: [S] bool, as `first_passages` returns it.

    Returns:
        The `ThresholdTimes`.

    Raises:
        PPOError: if there are no runs, or if a number of steps is not finite.
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
    """Puts the scores of several tasks on one scale: (x - low) / (high - low).

    Args:
        scores: [S, K].
        low: [K], or one number for all tasks: the score that counts as 0 in each task, for example a random policy's.
        high: [K], or one number for all tasks: the score that counts as 1 in each task, for example that of a policy
            that solves it.

    Returns:
        The normalised scores, [S, K].

    Raises:
        PPOError: if `low` and `high` are equal in a task, or if a number is not finite.
    """
    scores, low, high = finite_scores("scores", scores), finite_scores("low", low), finite_scores("high", high)
    if np.any(low == high):
        raise PPOError(f"low = {low} and high = {high} are equal in a task; give two scores that differ")
    return (scores - low) / (high - low)
