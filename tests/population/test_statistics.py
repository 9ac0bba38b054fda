"""Aggregates over seeds: against scipy, rliable and hand-made cases."""

import math
import time
import tracemalloc

import numpy as np
import pytest
from scipy import stats

from purejaxppo.population import statistics
from purejaxppo.population.statistics import (
    Aggregates,
    aggregate,
    areas_under_curves,
    iqm,
    iqm_interval,
    probability_of_improvement,
    show_return,
    with_interval,
)
from purejaxppo.utils.errors import PPOError

NAN = math.nan
TARGET = 100.0
# 8 runs of 3 tasks, and what rliable 1.2.0 makes of them: 50,000 stratified resamples, gamma = TARGET, here rounded.
FIRST, SECOND = [12, 55, 31, 31, 78, 20, 9, 64], [200, 180, 500, 90, 500, 320, 500, 410]
TASKS = np.array([FIRST, SECOND, [-3, -7.5, -1, -2, -12, -4, -6, -5]]).T
RLIABLE_TASKS = {
    "iqm": (47.25, 32.417, 78.0),
    "mean": (123.3125, 86.708, 158.333),
    "optimality_gap": (56.2708, 50.562, 61.625),
}
RLIABLE_FIRST_TASK = {
    "iqm": (34.25, 16.0, 59.5),
    "mean": (37.5, 21.75, 54.375),
    "optimality_gap": (62.5, 45.625, 78.25),
}
RLIABLE_IMPROVEMENT = (0.47916667, 0.16666667, 0.79166667)  # of the first task over the first 6 runs of the third + 35
# Of R = 20,000 resamples each end of an interval scatters by sqrt(0.025 * 0.975 / R) / density: 1% of the width.
NUM_RESAMPLES = 20_000


def skewed(*shape: int) -> np.ndarray:
    return np.random.default_rng(7).exponential(size=shape)


def scipy_interval(samples, statistic, method="percentile") -> tuple[float, float]:
    """The interval of scipy.stats.bootstrap, which resamples each of the samples on its own."""
    result = stats.bootstrap(samples, statistic, method=method, n_resamples=NUM_RESAMPLES, rng=np.random.default_rng(3))
    return tuple(result.confidence_interval)


def assert_near(interval, low: float, high: float) -> None:
    """Both ends within 5% of the width: an interval of 90% or 99% would be off by 8% and 16%."""
    np.testing.assert_allclose(interval[1:], (low, high), rtol=0, atol=0.05 * (high - low))


def pooled(statistic):
    """The statistic of all strata together, as scipy.stats.bootstrap calls it."""
    return lambda *samples, axis: statistic(np.concatenate(samples, axis=axis), axis)


STATISTICS = {
    "iqm": lambda scores, axis: stats.trim_mean(scores, 0.25, axis=axis),
    "mean": lambda scores, axis: np.mean(scores, axis=axis),
    "median": lambda scores, axis: np.median(scores, axis=axis),
    "optimality_gap": lambda scores, axis: np.mean(np.maximum(1.0 - scores, 0), axis=axis),
}


# Aggregates


@pytest.mark.parametrize("name", Aggregates._fields)
@pytest.mark.parametrize("shape", [(1,), (2,), (5,), (16,), (101,), (1, 3), (7, 1), (6, 4), (5, 3)])
def test_estimates_are_those_of_all_runs_together(name, shape):
    scores = skewed(*shape)
    estimate = getattr(aggregate(scores, target=1.0, num_resamples=2), name).estimate
    assert estimate == pytest.approx(STATISTICS[name](scores.ravel(), 0), rel=1e-12)


@pytest.mark.parametrize("name", Aggregates._fields)
@pytest.mark.parametrize("num_strata", [1, 3])
def test_intervals_are_scipys_stratified_ones(name, num_strata):
    scores = skewed(24, num_strata) + 0.5 * np.arange(num_strata)
    interval = getattr(aggregate(scores, target=1.0, num_resamples=NUM_RESAMPLES), name)
    method = "BCa" if name == "mean" else "percentile"
    assert_near(interval, *scipy_interval(tuple(scores.T), pooled(STATISTICS[name]), method))


@pytest.mark.parametrize(("scores", "expected"), [(TASKS, RLIABLE_TASKS), (TASKS[:, 0], RLIABLE_FIRST_TASK)])
def test_aggregates_are_rliables(scores, expected):
    found = aggregate(scores, target=TARGET, num_resamples=NUM_RESAMPLES)._asdict()
    for name, (estimate, low, high) in expected.items():
        assert found[name].estimate == pytest.approx(estimate, abs=1e-4)
        if name != "mean":  # whose interval is a BCa one
            assert_near(found[name], low, high)


def test_strata_are_resampled_on_their_own():
    """Two tasks far apart: were the runs drawn from all tasks together, their share of each would vary as well."""
    scores = np.stack([skewed(30), 1_000 + skewed(30)], axis=1)
    mean = aggregate(scores).mean
    assert mean.high - mean.low < 1
    alone = aggregate(scores.ravel()).mean
    assert alone.high - alone.low > 100


def test_strata_are_resampled_independently():
    """Of two equal tasks the mean has half the variance; were runs resampled whole, it would have all of it."""
    runs = skewed(50)
    one, two = aggregate(runs).mean, aggregate(np.stack([runs, runs], axis=1)).mean
    assert (two.high - two.low) / (one.high - one.low) == pytest.approx(math.sqrt(0.5), rel=0.1)


def test_one_stratum_is_a_vector():
    assert aggregate(skewed(9), target=1.0) == aggregate(skewed(9)[:, None], target=1.0)


def test_order_of_the_runs_does_not_matter_to_the_estimate():
    scores = skewed(31)
    backwards = aggregate(scores[::-1], target=1.0)
    for one, other in zip(aggregate(scores, target=1.0), backwards, strict=True):
        assert one.estimate == pytest.approx(other.estimate, rel=1e-12)


def test_gap_counts_what_is_missing_and_nothing_else():
    gap = aggregate(np.array([500.0, 600.0, 300.0, 475.0]), target=475.0).optimality_gap
    assert gap.estimate == 175 / 4
    assert gap.low == 0  # some resamples leave the only failure out
    assert np.isnan(aggregate(skewed(5)).optimality_gap).all()


def test_equal_scores_have_an_interval_without_width():
    found = aggregate(np.full(8, 475.0), target=500.0)
    assert found == Aggregates(*[(475.0, 475.0, 475.0)] * 3, (25.0, 25.0, 25.0))


def test_ties_count_one_by_one():
    scores = np.array([1.0, 1.0, 1.0, 2.0, 2.0, 5.0, 5.0, 9.0])
    found = aggregate(scores, num_resamples=NUM_RESAMPLES)
    assert found.iqm.estimate == 10 / 4
    assert found.median.estimate == 2
    assert_near(found.iqm, *scipy_interval((scores,), pooled(STATISTICS["iqm"])))


@pytest.mark.parametrize("shape", [(1,), (1, 4)])
def test_one_run_has_an_estimate_without_bounds(shape):
    for interval in aggregate(skewed(*shape), target=1.0):
        np.testing.assert_array_equal(np.isnan(interval), [False, True, True])


def test_same_seed_same_interval_and_another_differs():
    scores = skewed(12)
    assert aggregate(scores, target=1.0, seed=4) == aggregate(scores, target=1.0, seed=4)
    assert aggregate(scores, target=1.0, seed=4).mean != aggregate(scores, target=1.0, seed=5).mean


def test_intervals_do_not_depend_on_the_blocks(monkeypatch):
    scores = skewed(12, 2)
    whole = aggregate(scores, target=1.0, num_resamples=100)
    monkeypatch.setattr(statistics, "BLOCK", 7 * 24)  # of 100 resamples the last two are a block of their own
    np.testing.assert_allclose(aggregate(scores, target=1.0, num_resamples=100), whole, rtol=1e-12)


def test_interval_covers_the_truth_19_times_in_20():
    random = np.random.default_rng(0)
    repeats, truth = 600, 10.0
    covered = np.zeros(3)
    for _ in range(repeats):
        found = aggregate(random.normal(truth, 2.0, size=40), num_resamples=400)[:3]
        covered += [interval.low <= truth <= interval.high for interval in found]
    # 600 repeats scatter by 0.9%, and the percentile interval of 40 runs is a little narrow.
    assert ((covered / repeats > 0.91) & (covered / repeats < 0.975)).all()


@pytest.mark.parametrize("shape", [(3, 2, 2), (), (0,), (0, 3)])
def test_shapes_that_are_no_scores_are_refused(shape):
    with pytest.raises(PPOError, match=r"\[S, K\]|at least one run"):
        aggregate(np.zeros(shape))


def test_diverged_seeds_are_refused_with_their_number():
    scores = np.array([[1.0, NAN], [math.inf, NAN], [2.0, 3.0]])
    with pytest.raises(PPOError, match=r"^3 of 6 scores are NaN or infinite.*drop them, or count them at the worst"):
        aggregate(scores)


# The IQM alone, as the summary of a run has it


@pytest.mark.parametrize("num_runs", [2, 3, 8, 41])
def test_iqm_interval_is_that_of_all_resamples_at_once(num_runs):
    scores = skewed(num_runs)
    picks = np.random.default_rng(0).integers(num_runs, size=(2_000, num_runs))
    expected = np.quantile(stats.trim_mean(scores[picks], 0.25, axis=1), [0.025, 0.975])
    np.testing.assert_allclose(iqm_interval(scores)[1:], expected, rtol=1e-12)


def test_a_score_that_is_not_finite_does_not_count_in_the_iqm():
    """The summary of a run with a diverged seed is written all the same."""
    assert iqm_interval(np.array([1.0, NAN, math.inf, 2.0])) == iqm_interval(np.array([1.0, 2.0]))
    assert iqm(np.array([1.0, NAN])) == 1.0
    assert math.isnan(iqm(np.array([NAN])))


# Probability of improvement


@pytest.mark.parametrize(("num_x", "num_y"), [(1, 1), (1, 6), (8, 5), (40, 70)])
@pytest.mark.parametrize("levels", [3, 1_000_000])  # with many ties, and with none
def test_probability_is_scipys_u(num_x, num_y, levels):
    random = np.random.default_rng(num_x)
    x, y = random.integers(levels, size=num_x), random.integers(levels, size=num_y)
    expected = stats.mannwhitneyu(x, y).statistic / (num_x * num_y)
    assert probability_of_improvement(x, y, num_resamples=2).estimate == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("decimals", [1, 12])
def test_interval_of_the_probability_is_scipys(decimals):
    x, y = skewed(30).round(decimals), np.random.default_rng(8).normal(1.0, 1.0, size=20).round(decimals)

    def statistic(x, y, axis):
        return stats.mannwhitneyu(x, y, axis=axis, method="asymptotic").statistic / (30 * 20)

    assert_near(probability_of_improvement(x, y, num_resamples=NUM_RESAMPLES), *scipy_interval((x, y), statistic))


def test_probability_is_rliables():
    found = probability_of_improvement(TASKS[:, 0], TASKS[:6, 2] + 35, num_resamples=NUM_RESAMPLES)
    estimate, low, high = RLIABLE_IMPROVEMENT
    assert found.estimate == pytest.approx(estimate, abs=1e-6)
    assert_near(found, low, high)


@pytest.mark.parametrize(("x", "y", "expected"), [([3, 4], [1, 2], 1), ([1, 2], [3, 4], 0), ([2, 2], [2, 2], 0.5)])
def test_probability_of_clear_cases(x, y, expected):
    assert probability_of_improvement(np.array(x), np.array(y)) == (expected, expected, expected)


def test_probability_over_tasks_is_the_mean_of_their_own():
    x, y = TASKS[:5], TASKS[2:]
    expected = np.mean([stats.mannwhitneyu(x[:, k], y[:, k]).statistic / 30 for k in range(3)])
    found = probability_of_improvement(x, y)
    assert found.estimate == pytest.approx(expected, rel=1e-12)
    assert found.low < expected < found.high


def test_improvement_one_way_is_none_the_other_way():
    x, y = skewed(9), skewed(14) + 0.1
    there, back = probability_of_improvement(x, y), probability_of_improvement(y, x)
    assert there.estimate == pytest.approx(1 - back.estimate)


@pytest.mark.parametrize(("num_x", "num_y"), [(1, 9), (9, 1)])
def test_probability_from_one_run_has_no_bounds(num_x, num_y):
    found = probability_of_improvement(skewed(num_x), skewed(num_y))
    np.testing.assert_array_equal(np.isnan(found), [False, True, True])


def test_probability_of_what_is_no_score_is_refused():
    with pytest.raises(PPOError, match=r"x \(2, 3\) and y \(2,\) must be"):
        probability_of_improvement(np.zeros((2, 3)), np.zeros(2))
    with pytest.raises(PPOError, match=r"^1 of 2 y are NaN"):
        probability_of_improvement(np.zeros(3), np.array([1.0, NAN]))
    with pytest.raises(PPOError, match="at least one run"):
        probability_of_improvement(np.zeros(0), np.zeros(3))


# Size


@pytest.mark.parametrize(
    "bootstrap",
    [
        lambda scores, n: aggregate(scores, target=1.0, num_resamples=n),
        lambda scores, n: aggregate(scores.reshape(-1, 50), target=1.0, num_resamples=n),
        lambda scores, n: probability_of_improvement(scores, scores + 0.1, num_resamples=n),
    ],
)
def test_hundred_thousand_runs_take_little_memory_and_time(bootstrap):
    scores = skewed(100_000)
    tracemalloc.start()
    start = time.process_time()
    bootstrap(scores, 200)
    seconds = time.process_time() - start
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 30e6
    assert seconds < 5  # for a tenth of the resamples: about half a second where nothing else runs


def test_few_runs_take_no_more_memory_with_more_resamples():
    tracemalloc.start()
    aggregate(skewed(1_000), num_resamples=5_000)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 30e6  # all at once: 40 MB for the picks alone


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (487.34, "487.3"),
        (12345.67, "12345.7"),
        (98.76, "98.8"),
        (9.876, "9.88"),
        (0.9, "0.900"),
        (-0.01234, "-0.0123"),
        (0.0, "0.0"),
        (1e-30, "0.000000000"),
        (float("nan"), "nan"),
        (float("-inf"), "-inf"),
    ],
)
def test_a_return_has_three_digits_and_a_decimal(value, text):
    assert show_return(value) == text


def test_an_interval_has_the_decimals_of_its_largest_number():
    assert with_interval(0.9, 0.85, 0.95) == "0.900  (95% interval 0.850 to 0.950)"
    assert with_interval(0.5, -20.0, 21.0) == "0.5  (95% interval -20.0 to 21.0)"
    assert with_interval(500.0, math.nan, math.nan) == "500.0"
    assert with_interval(-0.001, -0.004, 0.2, digits=2) == "0.00  (95% interval 0.00 to 0.20)"  # not -0.00
    assert with_interval(0.94, 0.8, 1.0, digits=2) == "0.94  (95% interval 0.80 to 1.00)"


def test_the_area_is_the_mean_of_a_curve_that_holds_its_last_return():
    returns = np.array([[NAN, 2.0, NAN, 4.0], [1.0, NAN, NAN, NAN], [NAN] * 4], np.float32)
    np.testing.assert_array_equal(areas_under_curves(returns), [2.5, 1.0, NAN])  # 2 2 2 4 and 1 1 1 1
    assert iqm(areas_under_curves(returns)) == (2.5 + 1.0) / 2
