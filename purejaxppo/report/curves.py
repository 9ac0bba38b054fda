"""Learning curves: the interquartile mean over seeds and its bootstrap band, at the updates that a chart shows."""

from typing import NamedTuple

import numpy as np

from purejaxppo.population.statistics import blocks, carry_forward, draw_counts, middle_mean
from purejaxppo.utils.errors import PPOError

MAX_POINTS = 200  # on the x-axis: more than the width can show
NUM_RESAMPLES = 2_000


class Band(NamedTuple):
    """The IQM over seeds and its pointwise 95% interval. NaN without a value; the bounds also with just one."""

    iqm: np.ndarray  # [U]
    low: np.ndarray  # [U]
    high: np.ndarray  # [U]


class Curve(NamedTuple):
    """The training returns of S seeds as a picture shows them, at U' updates."""

    timesteps: np.ndarray  # [U'], of one seed
    returns: np.ndarray  # [S, U'], each seed at its last value, NaN before its first
    band: Band  # [U']


def make_curve(timesteps: np.ndarray, returns: np.ndarray, what: str = "") -> Curve:
    """The curve of timesteps [U] and returns [S, U]. Raises PPOError, which begins with `what`, if the shapes disagree.

    It has the updates that the width can show, and each seed at its last value.
    """
    timesteps, returns = np.asarray(timesteps), np.asarray(returns, np.float64)
    if timesteps.ndim != 1 or returns.ndim != 2 or returns.shape[1] != len(timesteps) or not returns.size:
        shapes = f"timesteps {timesteps.shape} and returns {returns.shape}"
        raise PPOError(f"{what}{shapes} have to be [U] and [S, U], none empty")
    shown = thin(len(timesteps))
    timesteps, returns = timesteps[shown], carry_forward(returns)[:, shown]
    if len(timesteps) == 1:  # a point would not show: draw it over the steps that it stands for
        timesteps, returns = np.append(0, timesteps), np.repeat(returns, 2, axis=1)
    return Curve(timesteps, returns, iqm_band(returns))


def thin(num_updates: int) -> np.ndarray:
    """At most MAX_POINTS evenly spaced updates, with the first and the last. -> [U'] int"""
    return np.unique(np.linspace(0, num_updates - 1, min(num_updates, MAX_POINTS)).round().astype(int))


def iqm_band(returns: np.ndarray) -> Band:
    """The IQM over the seeds that have a value, with its percentile-bootstrap interval. [S, U] -> Band of [U]

    Seeds are resampled by their rank, so that one matrix product serves every update of a block of resamples.
    """
    random = np.random.default_rng(0)
    ranked = np.sort(returns, axis=0)  # NaN last
    num_seeds = np.sum(~np.isnan(returns), axis=0)
    band = Band(*np.full((3, returns.shape[1]), np.nan))
    for n in np.unique(num_seeds[num_seeds > 0]):
        updates = num_seeds == n
        values = ranked[:n, updates]
        band.iqm[updates] = middle_mean(np.ones((1, n)), values)[0]
        if n > 1:
            resampled = [middle_mean(draw_counts(random, size, n), values) for size in blocks(NUM_RESAMPLES, n)]
            band.low[updates], band.high[updates] = np.quantile(np.concatenate(resampled), [0.025, 0.975], axis=0)
    return band
