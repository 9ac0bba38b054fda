"""Aggregates over seeds, with intervals (Agarwal et al. 2021, "Deep RL at the Edge of the Statistical Precipice")."""

import functools
import math
from collections.abc import Callable, Iterator
from statistics import NormalDist
from typing import NamedTuple

import numpy as np

from purejaxppo.utils.errors import PPOError
from purejaxppo.utils.validation import check_size, shown

BLOCK = 2**17  # runs drawn at a time, so that memory does not grow with the number of resamples
MOST_DECIMALS = 9  # of a return in print
LAST_SHARE = 0.1  # share of the updates whose episodes give the final return


class Interval(NamedTuple):
    """An estimate and its 95% confidence interval; NaN bounds with a single seed."""

    estimate: float
    low: float
    high: float


class Aggregates(NamedTuple):
    """Aggregates over the runs of a population, or of several settings or tasks (Agarwal et al. 2021, section 4.3)."""

    iqm: Interval
    mean: Interval
    median: Interval
    optimality_gap: Interval  # in units of return; NaN without a target


class Selection(NamedTuple):
    """The best setting's score on the seeds that it was chosen by, and on fresh seeds that had no part in the choice.

    The highest of many noisy scores is on average above its expectation. `tuning` has this selection bias, which its
    interval does not account for; `test` does not have it, so report `test` (Patterson et al. 2024, "Empirical Design
    in Reinforcement Learning", Journal of Machine Learning Research 25).
    """

    setting: int  # index in the sweep
    tuning: Interval  # IQM of the final returns on the tuning seeds
    test: Interval  # IQM of the final returns on the test seeds
    bias: Interval  # tuning - test
    tune_seeds: int
    test_seeds: int


def decimals_of(*values: float) -> int:
    """Decimals that leave the largest of the values three significant digits, and at least one."""
    largest = max((abs(x) for x in values if math.isfinite(x)), default=0.0)
    return 1 if largest == 0 else min(max(1, 2 - math.floor(math.log10(largest))), MOST_DECIMALS)


def show_return(value: float) -> str:
    """A return for people: 487.3, 0.912"""
    return f"{value:.{decimals_of(value)}f}"


def with_interval(estimate: float, low: float, high: float, digits: int | None = None) -> str:
    """12.3  (95% interval 11.0 to 13.1), or 12.3 if the bounds are NaN"""
    digits = decimals_of(estimate, low, high) if digits is None else digits
    interval = "" if math.isnan(low) else f"  (95% interval {interval_text(low, high, digits)})"
    return f"{estimate:z.{digits}f}{interval}"


def interval_text(low: float, high: float, digits: int | None = None) -> str:
    """11.0 to 13.1"""
    digits = decimals_of(low, high) if digits is None else digits
    return "" if math.isnan(low) else f"{low:z.{digits}f} to {high:z.{digits}f}"


def carry_forward(returns: np.ndarray) -> np.ndarray:
    """Fills each NaN with the seed's last value before it; leading ones stay. [S, U] -> [S, U]"""
    updates = np.arange(returns.shape[1])
    last = np.maximum.accumulate(np.where(np.isnan(returns), 0, updates), axis=1)
    return np.take_along_axis(returns, last, axis=1)


def areas_under_curves(returns: np.ndarray) -> np.ndarray:
    """The area under each seed's learning curve, per step: its mean return in training. [S, U] -> [S]

    An update in which no episode ended takes the return before it, or at the start the first one. NaN for a seed
    without an episode.
    """
    returns = carry_forward(returns.astype(np.float64))
    filled = carry_forward(returns[:, ::-1])  # backwards: the first return fills the start
    return np.where(np.isfinite(filled).all(axis=1), filled.mean(axis=1), np.nan)


def iqm(scores: np.ndarray) -> float:
    """Interquartile mean of the finite scores: the mean of their middle half; NaN without one. [S] -> scalar

    The bits are those of scipy.stats.trim_mean, whose import takes half a second of the first report of a run.
    """
    known = finite_ones(scores)
    if not known.size:
        return math.nan
    cut = len(known) // 4
    return float(np.mean(np.partition(known, (cut, len(known) - cut - 1))[cut : len(known) - cut]))


def iqm_interval(scores: np.ndarray, *, num_resamples: int = 2_000, seed: int = 0) -> Interval:
    """The IQM of the finite scores with its percentile-bootstrap interval; NaN without one. [S] -> Interval"""
    known = finite_ones(scores).astype(np.float64)
    if len(known) < 2:
        return Interval(iqm(known), math.nan, math.nan)
    return aggregate(known, num_resamples=num_resamples, seed=seed).iqm


def finite_ones(scores: np.ndarray) -> np.ndarray:
    """The scores that are finite. [S] -> [n]"""
    scores = np.asarray(scores)
    return scores[np.isfinite(scores)]


def aggregate(
    scores: np.ndarray, *, target: float | None = None, num_resamples: int = 2_000, seed: int = 0
) -> Aggregates:
    """IQM, mean, median and optimality gap of S runs in each of K strata, with 95% bootstrap intervals.

    The interval of the mean is a BCa interval (`bca_of_mean`); the other three are percentile intervals. All four
    statistics pool the S K values, so the median is the median of all runs. (rliable takes the median over strata of
    each stratum's mean, which for a single stratum is the mean.) The bootstrap resamples the runs of each stratum
    separately.

    Args:
        scores: [S], or [S, K] with one column per setting or task.
        target: the return that counts as good enough, for the optimality gap. Without it, the gap is NaN.
        num_resamples: how many resamples the bootstrap draws.
        seed: the random seed of the bootstrap.

    Returns:
        The `Aggregates`; their bounds are NaN with fewer than two runs.

    Raises:
        PPOError: if a score is not finite.
    """
    scores = finite_scores("scores", scores)
    check_size("num_resamples", num_resamples)
    if scores.ndim not in (1, 2):
        raise PPOError(f"scores {scores.shape} must be [S] or [S, K]; give one value for each run")
    num_runs, num_strata = len(scores), scores[0].size
    values = scores.T.ravel()  # stratum by stratum
    order = np.argsort(values, kind="stable")
    ranked = values[order]
    gaps = np.maximum(math.nan if target is None else target - ranked, np.zeros_like(ranked))
    estimates = pooled_statistics(np.ones((1, len(ranked))), ranked, gaps)[0]
    if num_runs < 2:
        return Aggregates(*(Interval(float(estimate), math.nan, math.nan) for estimate in estimates))
    random = np.random.default_rng(seed)
    resampled = [
        pooled_statistics(
            draw_counts(random, count * num_strata, num_runs).reshape(count, -1).take(order, axis=1), ranked, gaps
        )
        for count in blocks(num_resamples, len(ranked))
    ]
    draws = np.concatenate(resampled).T
    found = Aggregates(*map(percentile_interval, estimates, draws))
    return found._replace(mean=bca_of_mean(found.mean.estimate, draws[1], scores.reshape(num_runs, -1)))


def probability_of_improvement(x: np.ndarray, y: np.ndarray, *, num_resamples: int = 2_000, seed: int = 0) -> Interval:
    """The probability that a run of X beats a run of Y, P(X > Y) + P(X = Y) / 2, with its bootstrap interval.

    Over several tasks it is the mean of their probabilities. The interval is a percentile interval: the bootstrap
    resamples the runs of each setting and task separately (Agarwal et al. 2021, section 4.3).

    Args:
        x: [S], the scores of one setting; or [S, K] with one column per task.
        y: [S'] or [S', K], the scores of another setting.
        num_resamples: how many resamples the bootstrap draws.
        seed: the random seed of the bootstrap.

    Returns:
        The probability as an `Interval`; its bounds are NaN if either setting has fewer than two runs.

    Raises:
        PPOError: if a score is not finite.
    """
    x, y = finite_scores("x", x), finite_scores("y", y)
    check_size("num_resamples", num_resamples)
    if x.ndim not in (1, 2) or x.ndim != y.ndim or x.shape[1:] != y.shape[1:]:
        raise PPOError(f"x {x.shape} and y {y.shape} must be [S] and [S'], or [S, K] and [S', K] with the same tasks")
    random, estimates, resampled = np.random.default_rng(seed), [], []
    for of_x, of_y in zip(np.sort(x.reshape(len(x), -1).T), np.sort(y.reshape(len(y), -1).T), strict=True):
        below, up_to = np.searchsorted(of_y, of_x, "left"), np.searchsorted(of_y, of_x, "right")
        estimates.append(share_of_wins(np.ones((1, len(x))), np.ones((1, len(y))), below, up_to)[0])
        wins = functools.partial(share_of_wins, below=below, up_to=up_to)
        resampled.append(resample_pair(wins, random, num_resamples, len(x), len(y)))
    estimate = float(np.mean(estimates))
    if min(len(x), len(y)) < 2:
        return Interval(estimate, math.nan, math.nan)
    return percentile_interval(estimate, np.mean(resampled, axis=0))


def select(setting: int, tuning: np.ndarray, test: np.ndarray) -> Selection:
    """Compares the final returns of a setting on its tuning seeds [S] and on its test seeds [S'].

    Returns that are not finite do not count, as in `Sweep.table`.
    """
    bias = difference(*(np.sort(finite_ones(scores)) for scores in (tuning, test)))
    return Selection(setting, iqm_interval(tuning), iqm_interval(test), bias, len(tuning), len(test))


def difference(x: np.ndarray, y: np.ndarray, *, num_resamples: int = 2_000, seed: int = 0) -> Interval:
    """IQM(x) - IQM(y) of independent runs, with its percentile-bootstrap interval; NaN without runs. x, y: sorted"""
    if not (x.size and y.size):
        return Interval(math.nan, math.nan, math.nan)

    def minus(of_x: np.ndarray, of_y: np.ndarray) -> np.ndarray:
        return middle_mean(of_x, x) - middle_mean(of_y, y)

    estimate = float(minus(np.ones((1, len(x))), np.ones((1, len(y))))[0])
    if min(len(x), len(y)) < 2:
        return Interval(estimate, math.nan, math.nan)
    random = np.random.default_rng(seed)
    return percentile_interval(estimate, resample_pair(minus, random, num_resamples, len(x), len(y)))


def last_returns(returns: np.ndarray, episodes: np.ndarray, num_updates: int | None = None) -> np.ndarray:
    """The mean return of the episodes that ended in the last tenth of the updates; NaN without one. [S, U] -> [S]

    The tenth is of `num_updates`, by default of U.
    """
    last = max(1, round(LAST_SHARE * (returns.shape[1] if num_updates is None else num_updates)))
    returns, episodes = returns[:, -last:].astype(np.float64), episodes[:, -last:]
    total = np.sum(np.where(episodes > 0, returns * episodes, 0.0), axis=1)
    count = episodes.sum(axis=1)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def finite_scores(name: str, scores: np.ndarray | float) -> np.ndarray:
    """The scores as float64. Raises PPOError if one is not finite: a NaN cannot be ranked."""
    try:
        scores = np.asarray(scores, np.float64)
    except (TypeError, ValueError):
        raise PPOError(f"{name} = {shown(scores)} is not an array of numbers; give one number for each run") from None
    if not scores.size:
        raise PPOError(f"{name} {scores.shape} are empty; give the score of at least one run")
    diverged = scores.size - int(np.isfinite(scores).sum())
    if diverged:
        raise PPOError(
            f"{diverged} of {scores.size} {name} are NaN or infinite, as of diverged seeds, "
            "or of seeds that have not finished an episode; drop them, or count them at the worst return"
        )
    return scores


def blocks(num_resamples: int, num_values: int) -> Iterator[int]:
    """Splits the resamples into counts that fit the memory; they add up to num_resamples."""
    most = max(1, BLOCK // num_values)
    for start in range(0, num_resamples, most):
        yield min(most, num_resamples - start)


def draw_counts(random: np.random.Generator, num_samples: int, num_runs: int) -> np.ndarray:
    """Draws S of S runs with replacement, R times. -> [R, S] int, counts of each run; rows add up to S"""
    picks = random.integers(num_runs, size=(num_samples, num_runs))
    picks += num_runs * np.arange(num_samples)[:, None]
    return np.bincount(picks.ravel(), minlength=picks.size).reshape(picks.shape)


def resample_pair(
    statistic: Callable[..., np.ndarray], random: np.random.Generator, num_resamples: int, num_x: int, num_y: int
) -> np.ndarray:
    """A statistic of resamples of two groups of runs, from how often each run was drawn. -> [R]"""
    draws = [
        statistic(draw_counts(random, count, num_x), draw_counts(random, count, num_y))
        for count in blocks(num_resamples, num_x + num_y)
    ]
    return np.concatenate(draws)


def pooled_statistics(counts: np.ndarray, ranked: np.ndarray, gaps: np.ndarray) -> np.ndarray:
    """IQM, mean, median and mean gap of R samples that hold value i of N counts[:, i] times. [R, N], [N] -> [R, 4]

    The median is (v_floor((N-1)/2) + v_floor(N/2)) / 2, v_k the value that has place k = 0 ... N-1 in a sample.
    """
    n, filled = len(ranked), np.cumsum(counts, axis=-1)
    lower, upper = (ranked[np.count_nonzero(filled <= place, axis=-1)] for place in ((n - 1) // 2, n // 2))
    return np.stack([middle_mean(counts, ranked), counts @ ranked / n, (lower + upper) / 2, counts @ gaps / n], -1)


def middle_mean(counts: np.ndarray, ranked: np.ndarray) -> np.ndarray:
    """sum_i kept_i ranked_i / (N - 2 cut), cut = floor(N / 4): as scipy.stats.trim_mean(..., 0.25) of each sample.

    kept_i: how many of the counts_i copies of ranked_i have a place from cut to N - cut. [R, N], [N, ...] -> [R, ...]
    """
    n = len(ranked)
    cut = n // 4
    filled = np.cumsum(counts, axis=-1)
    kept = np.clip(filled, cut, n - cut) - np.clip(filled - counts, cut, n - cut)
    return kept @ ranked / (n - 2 * cut)


def share_of_wins(of_x: np.ndarray, of_y: np.ndarray, below: np.ndarray, up_to: np.ndarray) -> np.ndarray:
    """U / (S S'), U = sum_i of_x_i (#{y < x_i} + #{y <= x_i}) / 2 (Mann and Whitney 1947), for R samples.

    of_x: [R, S] and of_y: [R, S'] count each run, y sorted; below, up_to: [S], how many of y are < and <= x_i. -> [R]
    """
    passed = np.pad(np.cumsum(of_y, axis=-1), ((0, 0), (1, 0)))
    pairs = np.sum(of_x * (passed[:, below] + passed[:, up_to]), axis=-1)
    return pairs / (2 * of_x.shape[-1] * of_y.shape[-1])


def bca_of_mean(estimate: float, resampled: np.ndarray, scores: np.ndarray) -> Interval:
    """The BCa interval of the mean of S runs in each of K strata (Efron 1987), from resampled means. [R], [S, K]

    The percentiles Phi(z0 + (z0 + z) / (1 - a (z0 + z))) for z = -1.96, 1.96: z0 = Phi^-1 of the share of means below
    the estimate, a = sum u^3 / (6 (sum u^2)^1.5), u = score - mean of its stratum.
    """
    u = scores - scores.mean(axis=0)
    if not np.any(u):
        return Interval(estimate, estimate, estimate)
    a = np.sum(u**3) / (6 * np.sum(u**2) ** 1.5)
    share = (np.mean(resampled < estimate) + np.mean(resampled <= estimate)) / 2
    half = 0.5 / len(resampled)  # of a resample: of few, all may be on one side
    normal = NormalDist()
    z0 = normal.inv_cdf(min(max(share, half), 1 - half))
    ends = [z0 + normal.inv_cdf(level) for level in (0.025, 0.975)]
    low, high = np.quantile(resampled, [normal.cdf(z0 + z / (1 - a * z)) for z in ends])
    return Interval(estimate, float(low), float(high))


def percentile_interval(estimate: float, resampled: np.ndarray) -> Interval:
    """The middle 95% of the resampled estimates (Efron 1979). [R] -> Interval"""
    low, high = np.quantile(resampled, [0.025, 0.975])
    return Interval(float(estimate), float(low), float(high))
