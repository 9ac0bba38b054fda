"""Aggregates over seeds, with intervals (Agarwal et al. 2021, "Deep RL at the Edge of the Statistical Precipice")."""

from typing import NamedTuple

import numpy as np
from scipy import stats


class Interval(NamedTuple):
    """An estimate and its 95% confidence interval; NaN bounds with a single seed."""

    estimate: float
    low: float
    high: float


def iqm(scores: np.ndarray) -> float:
    """Interquartile mean: the mean of the middle half. [S] -> scalar"""
    return float(stats.trim_mean(scores, 0.25))


def iqm_interval(scores: np.ndarray, *, num_resamples: int = 2_000, seed: int = 0) -> Interval:
    """The IQM over seeds with its percentile-bootstrap interval. [S] -> Interval"""
    estimate = iqm(scores)
    if len(scores) < 2:
        return Interval(estimate, float("nan"), float("nan"))
    indices = np.random.default_rng(seed).integers(len(scores), size=(num_resamples, len(scores)))
    resampled = stats.trim_mean(np.asarray(scores)[indices], 0.25, axis=1)
    low, high = np.quantile(resampled, [0.025, 0.975])
    return Interval(estimate, float(low), float(high))
