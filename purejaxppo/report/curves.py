"""Learning curves of one setting or several: the interquartile mean over seeds, its bootstrap band, and the seeds."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from purejaxppo.population.statistics import blocks, carry_forward, draw_counts, middle_mean
from purejaxppo.report.canvas import BLUE, GREEN, GREY, ORANGE, PINK, SKY, VERMILLION
from purejaxppo.report.files import write_figure
from purejaxppo.runs.finished import shorten
from purejaxppo.utils.errors import PPOError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INCHES = (3.5, 2.5)  # one column of a paper
DPI = 200
MAX_POINTS = 200  # on the x-axis: more than the width can show
MAX_SEED_LINES = 32  # more would fill the plot
NUM_RESAMPLES = 2_000
LEGEND: dict[str, Any] = {"fontsize": 6.5, "framealpha": 0.85, "edgecolor": "none", "handlelength": 1.6}
LEGEND_INCHES = 0.14  # a row of a legend below the axes
LEGEND_WIDTH = 215  # points, of a label beside its line
# Okabe and Ito's colours; the ones that are hard to see on white come last.
CURVE_COLOURS = (BLUE, ORANGE, GREEN, PINK, "#000000", SKY, VERMILLION, "#F0E442")


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


def plot_comparison(
    curves: Sequence[tuple[str, np.ndarray, np.ndarray]],
    path: str | os.PathLike[str],
    *,
    title: str,
    solved_at: float | None = None,
    note: str | None = None,
) -> None:
    """Writes a picture of the training returns of up to 8 settings: IQM and 95% band of each. Whole or not at all.

    curves: label, timesteps and returns of each setting, as `plot_curves` takes them; note: a line above the legend.
    Raises PPOError if there are too many, or the shapes disagree.
    """
    if not 1 <= len(curves) <= len(CURVE_COLOURS):
        raise PPOError(f"{len(curves)} curves; give 1 to {len(CURVE_COLOURS)}, more cannot be told apart by colour")
    made = [(label, make_curve(*values, what=f"{label}: ")) for label, *values in curves]
    plot_beside(made, path, title=title, solved_at=solved_at, note=note)


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


def plot_curve(curve: Curve, path: str | os.PathLike[str], *, title: str, solved_at: float | None = None) -> None:
    """`plot_curves`, of what `make_curve` gives."""
    figure, axes = make_axes(title)
    num_seeds = len(curve.returns)
    draw_curve(axes, curve, f"IQM of {num_seeds} seeds" if num_seeds > 1 else "one seed", BLUE, alpha=0.35)
    draw_seeds(axes, curve.timesteps, curve.returns)
    if np.isnan(curve.band.iqm).all():
        axes.text(0.5, 0.5, "no episode has finished", transform=axes.transAxes, ha="center", va="center", fontsize=8)
        axes.set_yticks([])
    style_axes(axes, curve.timesteps[-1], solved_at)
    legend = axes.legend(**LEGEND)
    for line in legend.get_lines():  # a seed's is too faint to be found again, where it stands alone
        line.set(alpha=1, linewidth=max(0.8, line.get_linewidth()))
    write_figure(figure, Path(path))


def plot_beside(
    curves: Sequence[tuple[str, Curve]],
    path: str | os.PathLike[str],
    *,
    title: str,
    solved_at: float | None = None,
    note: str | None = None,
) -> None:
    """`plot_comparison` for curves that `make_curve` has made. Its legend is below, where it covers none."""
    num_rows = len(curves) + (solved_at is not None) + (note is not None)
    figure, axes = make_axes(title, height=INCHES[1] + LEGEND_INCHES * num_rows)
    for colour, label, (_, curve) in zip(
        CURVE_COLOURS, fit_labels([label for label, _ in curves]), curves, strict=False
    ):
        draw_curve(axes, curve, label, colour, alpha=0.2)
    style_axes(axes, max(curve.timesteps[-1] for _, curve in curves), solved_at)
    axes.set_ylabel("return of training episodes\nIQM and 95% interval", fontsize=8)
    lines = [line for line in axes.get_lines() if not str(line.get_label()).startswith("_")]
    size = LEGEND["fontsize"]
    figure.legend(handles=lines, loc="outside lower center", title=note, title_fontsize=size, **LEGEND)
    write_figure(figure, Path(path))


def make_axes(title: str, height: float = INCHES[1]) -> "tuple[Figure, Axes]":
    """A figure of one panel, as wide as a column."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(INCHES[0], height), dpi=DPI, layout="constrained")  # no pyplot, nor its global state
    axes = figure.add_subplot()
    axes.set_title(title, fontsize=9, loc="left")
    style_frame(axes)
    return figure, axes


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


def draw_curve(axes: "Axes", curve: Curve, label: str, colour: str, alpha: float) -> None:
    """The IQM as a bold line in its interval, which a single seed does not have."""
    timesteps, returns, band = curve
    axes.plot(timesteps, band.iqm, color=colour, linewidth=1.3, label=label)
    if len(returns) > 1:
        style = {"color": colour, "alpha": alpha, "linewidth": 0, "label": "95% interval"}
        axes.fill_between(timesteps, band.low, band.high, **style)


def draw_seeds(axes: "Axes", timesteps: np.ndarray, returns: np.ndarray) -> None:
    """The curves [S, U] of the first seeds, faintly, below all else. A single seed is its own IQM, and is left out."""
    from matplotlib.collections import LineCollection

    if len(returns) == 1:
        return
    lines = [np.column_stack([timesteps, seed]) for seed in returns[:MAX_SEED_LINES]]
    label = "single seeds" if len(returns) <= MAX_SEED_LINES else f"first {MAX_SEED_LINES} seeds"
    axes.add_collection(LineCollection(lines, colors=GREY, linewidths=0.4, alpha=0.3, zorder=0.5, label=label))


def draw_solved(axes: "Axes", solved_at: float | None) -> None:
    """A dashed line at the return that counts as solved, if one does."""
    if solved_at is not None:
        axes.axhline(solved_at, color=VERMILLION, linewidth=0.9, linestyle=(0, (4, 3)), label=f"solved: {solved_at:g}")


def style_axes(axes: "Axes", last_timestep: int, solved_at: float | None = None) -> None:
    """The return that counts as solved, labels and ticks."""
    from matplotlib.ticker import EngFormatter, MaxNLocator

    draw_solved(axes, solved_at)
    axes.set_xlabel("environment steps", fontsize=8)
    axes.set_ylabel("return of training episodes", fontsize=8)
    axes.set_xlim(0, 1.02 * last_timestep)  # 499,712 steps still have a tick at 500k
    axes.xaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))


def style_frame(axes: "Axes") -> None:
    """Thin ticks, and no frame at the top and on the right."""
    axes.tick_params(labelsize=7, width=0.6, length=2.5)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_linewidth(0.6)


def fit_labels(labels: list[str]) -> list[str]:
    """The labels, those that are wider than a legend without their middle; numbered where they would be alike then."""
    short = [fit(label) for label in labels]
    return short if len(set(short)) == len(short) else [fit(f"{i}: {label}") for i, label in enumerate(labels, 1)]


def fit(label: str) -> str:
    """A label that a legend has room for, and does not leave out, as matplotlib does where it begins with _."""
    from matplotlib.textpath import TextPath

    label = f" {label}" if label.startswith("_") else label
    width = TextPath((0, 0), label, size=LEGEND["fontsize"]).get_extents().width
    return label if width <= LEGEND_WIDTH else shorten(label, int(len(label) * LEGEND_WIDTH / width))
