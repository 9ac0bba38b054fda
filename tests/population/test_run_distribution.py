"""Profiles, percentiles, times to a threshold and normalised scores: against SciPy and hand-made cases."""

import math

import numpy as np
import pytest
from scipy import stats

from purejaxppo.population.run_distribution import (
    first_passages,
    normalized_scores,
    percentile_curves,
    percentile_of_runs,
    performance_profile,
    threshold_times,
)
from purejaxppo.utils.errors import PPOError

NAN, INF = math.nan, math.inf
SCORES = np.random.default_rng(3).exponential(size=16).round(1)  # with ties


def test_a_profile_is_the_share_above_with_wilsons_interval():
    tau = np.append(SCORES[:5], [-1.0, 99.0])
    found = performance_profile(SCORES, tau)
    np.testing.assert_allclose(found.share, 1 - stats.ecdf(SCORES).cdf.evaluate(tau), rtol=1e-12)
    for share, low, high in zip(*found[1:], strict=True):
        expected = stats.binomtest(round(share * 16), 16).proportion_ci(method="wilson")
        np.testing.assert_allclose((low, high), expected, rtol=1e-9, atol=1e-12)


def test_a_profile_pools_the_tasks():
    found = performance_profile(SCORES.reshape(8, 2))
    assert (found.thresholds[0], found.thresholds[-1]) == (SCORES.min(), SCORES.max())
    np.testing.assert_array_equal(found.share, performance_profile(SCORES).share)


def test_percentiles_of_runs_hold_their_last_return():
    returns = np.array([[NAN, 1.0, NAN], [NAN, 3.0, 5.0], [NAN, NAN, 2.0]])
    np.testing.assert_array_equal(percentile_curves(returns, (0, 50, 100)), [[NAN, 1, 1], [NAN, 2, 2], [NAN, 3, 5]])


def test_the_interval_of_a_percentile_lies_between_two_scores():
    scores = np.arange(16.0)
    assert percentile_of_runs(scores, 50) == (7.5, 3.0, 12.0)  # the 4th and 13th of 16: Conover 1999, table A3
    low = percentile_of_runs(scores, 5)
    assert (low.estimate, low.low) == (0.75, -INF)
    assert percentile_of_runs(scores, 95).high == INF


def test_a_run_reaches_the_target_at_its_first_return_of_at_least_that():
    returns = np.array([[1.0, 5.0, 2.0], [NAN, 4.0, 9.0], [1.0, 1.0, 1.0], [1.0, 2.0, 9.0], [9.0, 9.0, 9.0]])
    diverged_at = np.array([-1, -1, -1, 1, 0])  # the last two repeat the episodes of a state that is kept
    timesteps, reached = first_passages(returns, np.array([10, 20, 30]), 5.0, diverged_at)
    np.testing.assert_array_equal(timesteps, [20, 30, 30, 10, 0])
    np.testing.assert_array_equal(reached, [True, True, False, False, False])


def test_censored_runs_count_as_long_as_they_are_seen():
    found = threshold_times(np.array([1.0, 2.0, 3.0, 4.0]), np.array([True, False, True, True]))
    np.testing.assert_array_equal(found.timesteps, [1, 2, 3, 4])
    np.testing.assert_allclose(found.share, [1 / 4, 1 / 4, 1 - 3 / 4 / 2, 1])  # 1 of 4, then 1 of the 2 that are left
    assert (found.num_reached, found.num_runs) == (3, 4)
    assert found.median[0] == 3


def test_shares_over_time_and_their_intervals_agree_with_scipy():
    random = np.random.default_rng(5)
    timesteps, reached = random.integers(1, 9, 30).astype(float), random.random(30) < 0.7  # with ties
    found = threshold_times(timesteps, reached)
    survival = stats.ecdf(stats.CensoredData(uncensored=timesteps[reached], right=timesteps[~reached])).sf
    bounds = survival.confidence_interval(0.95, method="log-log")
    np.testing.assert_array_equal(found.timesteps, survival.quantiles)
    np.testing.assert_allclose(found.share, 1 - survival.probabilities, rtol=1e-12)
    np.testing.assert_allclose(found.low, 1 - bounds.high.probabilities, rtol=1e-12)
    np.testing.assert_allclose(found.high, 1 - bounds.low.probabilities, rtol=1e-12)


def test_the_median_time_is_not_a_step_late_by_rounding():
    for size in range(2, 400):
        median = threshold_times(np.arange(1.0, size + 1), np.ones(size, bool)).median.estimate
        assert median == (size + 1) // 2


def test_the_interval_of_a_median_time_is_brookmeyer_and_crowleys():
    """S within exp(-exp(log(-log S) -+ 1.96 se)), se of Greenwood: by hand, every run seen to its end."""
    times = np.arange(1.0, 21.0)
    survival = 1 - times / 20
    at_risk = 21 - times
    with np.errstate(divide="ignore", invalid="ignore"):
        se = np.sqrt(np.cumsum(1 / (at_risk * (at_risk - 1)))) / np.abs(np.log(survival))
        low, high = (np.exp(-np.exp(np.log(-np.log(survival)) + sign * 1.959964 * se)) for sign in (1, -1))
    found = threshold_times(times, np.ones(20, bool))
    np.testing.assert_allclose(found.low[:-1], 1 - high[:-1], rtol=1e-5)
    np.testing.assert_allclose(found.high[:-1], 1 - low[:-1], rtol=1e-5)
    assert found.median == (10, times[np.argmax(low <= 0.5)], times[np.argmax(high <= 0.5)])


def test_a_time_that_most_runs_do_not_need_is_not_known():
    timesteps = np.array([5.0, 9.0, 9.0, 9.0])
    some, none = (threshold_times(timesteps, np.arange(4) < count) for count in (1, 0))
    assert some.median == (INF, 5.0, INF)  # S(5) is within 0.13 to 0.96
    assert none.median == (INF, 9.0, INF)
    assert (none.num_reached, len(none.share)) == (0, 0)
    np.testing.assert_array_equal(threshold_times(timesteps[:1], np.array([True])).median, [5, NAN, NAN])


def test_normalised_scores_are_0_and_1_at_their_bounds():
    scores = np.array([[20.0, -500.0], [500.0, -100.0], [260.0, -300.0]])
    found = normalized_scores(scores, np.array([20.0, -500.0]), np.array([500.0, -100.0]))
    np.testing.assert_allclose(found, [[0, 0], [1, 1], [0.5, 0.5]])


@pytest.mark.parametrize(
    ("function", "named"),
    [
        (lambda: performance_profile([1.0, NAN]), "scores"),
        (lambda: percentile_of_runs(SCORES, 100), "percent = 100"),
        (lambda: normalized_scores(SCORES, 1.0, 1.0), "low = 1.0"),
        (lambda: threshold_times(np.empty(0), np.empty(0)), "timesteps"),
    ],
)
def test_numbers_that_have_no_statistic_are_refused(function, named):
    with pytest.raises(PPOError, match=named):
        function()
