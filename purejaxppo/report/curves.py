"""Learning curves: the interquartile mean over seeds, its bootstrap band, and the seeds themselves."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from purejaxppo.population.statistics import blocks, carry_forward, draw_counts, middle_mean
from purejaxppo.report.canvas import BLUE, GREY, VERMILLION
from purejaxppo.report.files import write_figure
from purejaxppo.utils.errors import PPOError

if TYPE_CHECKING:
    from matplotlib.axes import Axes

INCHES = (3.5, 2.5)  # one column of a paper
DPI = 200
MAX_POINTS = 200  # on the x-axis: more than the width can show
MAX_SEED_LINES = 32  # more would fill the plot
NUM_RESAMPLES = 2_000
LEGEND: dict[str, Any] = {"fontsize": 6.5, "framealpha": 0.85, "edgecolor": "none", "handlelength": 1.6}


class Band(NamedTuple):
    """The IQM over seeds and its pointwise 95% interval: NaN without a seed, the interval with fewer than two."""

    iqm: np.ndarray  # [U]
    low: np.ndarray  # [U]
    high: np.ndarray  # [U]


class Curve(NamedTuple):
    """The training returns of S seeds as a picture shows them, at U' updates."""

    timesteps: np.ndarray  # [U'], of one seed
    returns: np.ndarray  # [S, U'], each seed at its last value, NaN before its first
    band: Band  # [U']


def plot_curves(
    timesteps: np.ndarray,
    returns: np.ndarray,
    path: str | os.PathLike[str],
    *,
    title: str,
    solved_at: float | None = None,
) -> None:
    """Writes a picture of the training returns of S seeds over U updates. Whole or not at all.

    timesteps: [U], environment steps of one seed; returns: [S, U], NaN where no episode finished;
    path: ends in .png, .pdf or .svg; solved_at: the return of a dashed line.
    Raises PPOError where the shapes disagree, and for another suffix.
    """
    plot_curve(make_curve(timesteps, returns), path, title=title, solved_at=solved_at)


def make_curve(timesteps: np.ndarray, returns: np.ndarray) -> Curve:
    """The curve of timesteps [U] and returns [S, U]. Raises PPOError if the shapes disagree."""
    timesteps, returns = np.asarray(timesteps), np.asarray(returns, np.float64)
    if timesteps.ndim != 1 or returns.ndim != 2 or returns.shape[1] != len(timesteps) or not returns.size:
        raise PPOError(f"timesteps {timesteps.shape} and returns {returns.shape} have to be [U] and [S, U], none empty")
    timesteps, returns = shown_curve(timesteps, returns)
    return Curve(timesteps, returns, iqm_band(returns))


def plot_curve(curve: Curve, path: str | os.PathLike[str], *, title: str, solved_at: float | None = None) -> None:
    """`plot_curves`, of what `make_curve` gives."""
    from matplotlib.figure import Figure

    timesteps, returns, band = curve
    figure = Figure(figsize=INCHES, dpi=DPI, layout="constrained")
    axes = figure.add_subplot()
    draw_band(axes, timesteps, band, num_seeds=len(returns))
    draw_seeds(axes, timesteps, returns)
    if solved_at is not None:
        draw_solved(axes, solved_at)
    style_axes(axes, timesteps[-1], title)
    write_figure(figure, Path(path))


def shown_curve(timesteps: np.ndarray, returns: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The updates that the width can show, each seed at its last value. [U], [S, U] -> [U'], [S, U']"""
    shown = thin(len(timesteps))
    timesteps, returns = timesteps[shown], carry_forward(returns)[:, shown]
    if len(timesteps) == 1:  # a point would not show: draw it over the steps that it stands for
        return np.append(0, timesteps), np.repeat(returns, 2, axis=1)
    return timesteps, returns


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


def draw_seeds(axes: "Axes", timesteps: np.ndarray, returns: np.ndarray) -> None:
    """The curves [S, U] of the first seeds, faintly, below all else. A single seed is its own IQM, and is left out."""
    from matplotlib.collections import LineCollection

    num_seeds = len(returns)
    if num_seeds == 1:
        return
    lines = [np.column_stack([timesteps, seed]) for seed in returns[:MAX_SEED_LINES]]
    label = "single seeds" if num_seeds <= MAX_SEED_LINES else f"first {MAX_SEED_LINES} seeds"
    axes.add_collection(LineCollection(lines, colors=GREY, linewidths=0.4, alpha=0.3, zorder=0.5, label=label))


def draw_band(axes: "Axes", timesteps: np.ndarray, band: Band, num_seeds: int) -> None:
    """The IQM as a bold line in its interval. A single seed has no interval."""
    label = f"IQM of {num_seeds} seeds" if num_seeds > 1 else "one seed"
    axes.plot(timesteps, band.iqm, color=BLUE, linewidth=1.3, label=label)
    if num_seeds > 1:
        axes.fill_between(timesteps, band.low, band.high, color=BLUE, alpha=0.35, linewidth=0, label="95% interval")
    if np.isnan(band.iqm).all():
        axes.text(0.5, 0.5, "no episode has finished", transform=axes.transAxes, ha="center", va="center", fontsize=8)
        axes.set_yticks([])


def draw_solved(axes: "Axes", solved_at: float) -> None:
    """A dashed line at the return that counts as solved."""
    axes.axhline(solved_at, color=VERMILLION, linewidth=0.9, linestyle=(0, (4, 3)), label=f"solved: {solved_at:g}")


def style_axes(axes: "Axes", last_timestep: int, title: str) -> None:
    """Labels, ticks and the legend."""
    from matplotlib.ticker import EngFormatter, MaxNLocator

    axes.set_title(title, fontsize=9, loc="left")
    axes.set_xlabel("environment steps", fontsize=8)
    axes.set_ylabel("return of training episodes", fontsize=8)
    axes.set_xlim(0, 1.02 * last_timestep)  # 499,712 steps still have a tick at 500k
    axes.xaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    style_frame(axes)
    legend = axes.legend(**LEGEND)
    for line in legend.get_lines():  # a seed's is too faint to be found again, where it stands alone
        line.set(alpha=1, linewidth=max(0.8, line.get_linewidth()))


def style_frame(axes: "Axes") -> None:
    """Thin ticks, and no frame at the top and on the right."""
    axes.tick_params(labelsize=7, width=0.6, length=2.5)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_linewidth(0.6)
