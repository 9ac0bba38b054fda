"""The best of several settings on fresh seeds: the seeds that it was chosen by flatter it."""

import math
from typing import NamedTuple

import numpy as np

from purejaxppo.population.statistics import (
    Interval,
    blocks,
    draw_counts,
    iqm_interval,
    middle_mean,
    percentile_interval,
)


class Selection(NamedTuple):
    """The score of the chosen setting on the seeds that it was chosen by, and on others that had no part in that.

    The greatest of many noisy scores is on average above its expectation: this selection bias is in `tuning`, whose
    interval does not cover it, and not in `test`, the figure to report (Patterson et al. 2024, "Empirical Design in
    Reinforcement Learning", Journal of Machine Learning Research 25).
    """

    setting: int
    tuning: Interval  # IQM of its final returns on the tuning seeds
    test: Interval  # IQM of its final returns on the test seeds
    bias: Interval  # tuning - test
    tune_seeds: int
    test_seeds: int


def select(setting: int, tuning: np.ndarray, test: np.ndarray) -> Selection:
    """Compares the final returns of a setting on its tuning seeds [S] and on its test seeds [S'].

    Returns that are not finite do not count, as in `Sweep.table`.
    """
    x, y = (scores[np.isfinite(scores)] for scores in (tuning, test))
    of_tuning, of_test = (iqm_interval(known) if known.size else Interval(*[math.nan] * 3) for known in (x, y))
    return Selection(setting, of_tuning, of_test, difference(np.sort(x), np.sort(y)), len(tuning), len(test))


def difference(x: np.ndarray, y: np.ndarray, *, num_resamples: int = 2_000, seed: int = 0) -> Interval:
    """IQM(x) - IQM(y) of independent runs, with its percentile-bootstrap interval; NaN without runs. x, y: sorted"""
    if not (x.size and y.size):
        return Interval(*[math.nan] * 3)
    estimate = (middle_mean(np.ones((1, len(x))), x) - middle_mean(np.ones((1, len(y))), y))[0]
    if min(len(x), len(y)) < 2:
        return Interval(float(estimate), math.nan, math.nan)
    random = np.random.default_rng(seed)
    resampled = [
        middle_mean(draw_counts(random, count, len(x)), x) - middle_mean(draw_counts(random, count, len(y)), y)
        for count in blocks(num_resamples, len(x) + len(y))
    ]
    return percentile_interval(estimate, np.concatenate(resampled))
