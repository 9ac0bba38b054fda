"""The picture of a sweep: the final returns of every setting as a line, a heat map or parallel coordinates."""

import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from purejaxppo.population.statistics import MOST_DECIMALS, Interval, iqm, iqm_interval
from purejaxppo.population.sweep import is_number, plain, show_value
from purejaxppo.report.curves import BLUE, DPI, GREY, INCHES, LEGEND, VERMILLION, draw_solved, style_frame
from purejaxppo.report.files import write_figure
from purejaxppo.utils.errors import PPOError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.cm import ScalarMappable
    from matplotlib.figure import Figure

COLOUR_MAP = "viridis_r"  # the best is the darkest: it stands out on paper
MISSING = "#E0E0E0"
LOG_FROM = 20  # times the least value
MAX_TICKS = 8  # on an axis of numbers
ROW_INCHES = 0.22  # of a heat map
FAN = 0.08  # of the height of an upright axis: lines through one value would hide each other
LEGIBLE = 4.5  # points


class Axis(NamedTuple):
    """A name that the settings differ in, and how its values are laid out."""

    name: str
    values: list[Any]  # distinct, sorted
    scale: str  # "linear", "log" or "category"


def plot_sweep(
    points: Sequence[Mapping[str, Any]],
    scores: Sequence[np.ndarray],
    path: str | os.PathLike[str],
    *,
    title: str,
    solved_at: float | None = None,
    what: str = "final return",
) -> None:
    """Writes a picture of the final returns of P settings. Whole or not at all.

    points: the value of each name, the same names in every setting; scores: for each setting the returns [S] of its
    runs, NaN for a diverged one, which does not count; solved_at: the return that counts as solved; what: what the
    picture calls the scores.
    A name with one value has no axis. One axis gives the IQM with its 95% interval, two in a full grid give a heat map
    of the IQM, and anything else gives parallel coordinates. Raises PPOError if points and scores do not fit.
    """
    from matplotlib.figure import Figure

    points, scores = (
        [{name: plain(value) for name, value in point.items()} for point in points],
        [np.asarray(runs, np.float64) for runs in scores],
    )
    check_sweep(points, scores)
    axes = find_axes(points)
    finished = [runs[~np.isnan(runs)] for runs in scores]
    figure = Figure(figsize=INCHES, dpi=DPI, layout="constrained")
    if len(axes) == 1:
        draw_line(figure, axes[0], points, [final_interval(runs) for runs in finished], solved_at, what)
    else:
        draw = draw_grid if is_grid(axes, points) else draw_parallel
        draw(figure, axes, points, np.array([final_iqm(runs) for runs in finished]), solved_at, what)
    figure.axes[0].set_title(title, fontsize=9, loc="left")
    write_figure(figure, Path(path))


def check_sweep(points: list[dict[str, Any]], scores: list[np.ndarray]) -> None:
    """Raises PPOError if points and scores do not belong together."""
    if not points or len(points) != len(scores):
        raise PPOError(f"{len(points)} points and {len(scores)} scores; give the scores of each of at least one point")
    for i, (point, runs) in enumerate(zip(points, scores, strict=True)):
        if not point or point.keys() != points[0].keys():
            raise PPOError(f"point {i} has the names {list(point)}, and point 0 {list(points[0])}; give all the same")
        if runs.ndim != 1 or not runs.size:
            raise PPOError(f"the scores of point {i} have the shape {runs.shape}; give [S], one for each run")
        if point in points[:i]:
            raise PPOError(f"points {points.index(point)} and {i} are both {point}; put their scores into one")


def find_axes(points: list[dict[str, Any]]) -> list[Axis]:
    """An axis for each name that takes more than one value; the first name, where none does."""
    axes = [make_axis(name, [point[name] for point in points]) for name in points[0]]
    return [axis for axis in axes if len(axis.values) > 1] or axes[:1]


def make_axis(name: str, values: list[Any]) -> Axis:
    """An axis of numbers, a log one if they spread over more than LOG_FROM; or of categories."""
    distinct = sorted(set(values), key=sort_key)
    if not all(is_number(value) for value in distinct):
        return Axis(name, distinct, "category")
    return Axis(name, distinct, "log" if 0 < LOG_FROM * distinct[0] < distinct[-1] else "linear")


def sort_key(value: Any) -> tuple[int, Any]:
    """Orders values of several kinds: numbers, tuples by their entries, and all else by what it is called."""
    if is_number(value) or isinstance(value, bool):
        return 0, value
    return (1, value) if isinstance(value, tuple) else (2, str(value))


def is_grid(axes: list[Axis], points: list[dict[str, Any]]) -> bool:
    """True if the settings, which all differ, are the full product of two axes."""
    return len(axes) == 2 and len(points) == math.prod(len(axis.values) for axis in axes)


def final_interval(runs: np.ndarray) -> Interval:
    """The IQM of the runs that did not diverge; NaN where all did. [S] -> Interval"""
    return iqm_interval(runs) if runs.size else Interval(math.nan, math.nan, math.nan)


def final_iqm(runs: np.ndarray) -> float:
    """The IQM of the runs that did not diverge; NaN where all did. [S] -> scalar"""
    return iqm(runs) if runs.size else math.nan


def indices(axis: Axis, points: list[dict[str, Any]]) -> np.ndarray:
    """Which of the axis's values each setting has. -> [P] int"""
    return np.array([axis.values.index(point[axis.name]) for point in points])


def value_places(axis: Axis) -> np.ndarray:
    """Where the V values are on the axis: numbers at themselves, categories side by side. -> [V]"""
    return np.arange(len(axis.values)) if axis.scale == "category" else np.array(axis.values, float)


def fractions(axis: Axis, places: np.ndarray) -> np.ndarray:
    """The places from 0 at the axis's least value to 1 at its greatest, by its scale. [...] -> [...]"""
    ends = value_places(axis)[[0, -1]]
    if axis.scale == "log":
        places, ends = np.log(places), np.log(ends)
    return (places - ends[0]) / max(ends[1] - ends[0], np.finfo(float).tiny)


def round_ticks(axis: Axis) -> np.ndarray:
    """Round numbers between the least and the greatest value. -> [T]"""
    from matplotlib.ticker import LogLocator, MaxNLocator

    low, high = axis.values[0], axis.values[-1]
    ticks = (LogLocator() if axis.scale == "log" else MaxNLocator(5)).tick_values(low, high)
    return ticks[(ticks >= low) & (ticks <= high)]


def apart(fractions: np.ndarray, gap: float) -> list[int]:
    """Indices of sorted fractions [V] that have room for a label: the first, the last, and some in between."""
    last = len(fractions) - 1
    kept = [0]
    for i in range(1, last):
        if fractions[i] - fractions[kept[-1]] >= gap and 1 - fractions[i] >= gap:
            kept.append(i)
    return kept if last == 0 else [*kept, last]


def draw_line(
    figure: "Figure",
    axis: Axis,
    points: list[dict[str, Any]],
    intervals: list[Interval],
    solved_at: float | None,
    what: str,
) -> None:
    """The IQM and its interval against the value. Between categories there is nothing, so no line joins them."""
    axes = figure.add_subplot()
    places = value_places(axis)[indices(axis, points)]
    order = np.argsort(places)
    places, estimates, lows, highs = places[order], *np.array(intervals)[order].T
    joined = "o" if axis.scale == "category" else "o-"
    axes.plot(places, estimates, joined, color=BLUE, markersize=3.5, linewidth=0.8, label="IQM")
    if np.isfinite(lows).any():
        axes.vlines(places, lows, highs, color=BLUE, linewidth=2.2, alpha=0.35, label="95% interval")
    missing = places[np.isnan(estimates)]
    if missing.size:
        feet = np.full(missing.shape, 0.03)
        across = axes.get_xaxis_transform()
        axes.plot(missing, feet, "x", color=GREY, markersize=4, transform=across, label="all runs diverged")
    if solved_at is not None:
        draw_solved(axes, solved_at)
    place_ticks(axes, axis)
    axes.set_ylabel(what, fontsize=8)
    style_frame(axes)
    axes.legend(**LEGEND)


def place_ticks(axes: "Axes", axis: Axis) -> None:
    """Ticks at the values where there are few; matplotlib's own where there are many numbers."""
    if axis.scale == "log":
        axes.set_xscale("log")
    if axis.scale == "category" or len(axis.values) <= MAX_TICKS:
        kept = apart(fractions(axis, value_places(axis)), gap=0.1)
        labels = [show_value(axis.values[i]) for i in kept]
        axes.set_xticks(value_places(axis)[kept], labels, minor=False, **slanted(labels))
        axes.set_xticks([], minor=True)
    if axis.scale == "category":
        axes.set_xlim(-0.5, len(axis.values) - 0.5)
    axes.set_xlabel(axis.name, fontsize=8)


def slanted(labels: list[str]) -> dict[str, Any]:
    """How to turn labels that would run into each other side by side."""
    fits = len(labels) * max(map(len, labels)) <= 40
    return {} if fits else {"rotation": 30, "ha": "right", "rotation_mode": "anchor"}


def draw_grid(
    figure: "Figure",
    axes: list[Axis],
    points: list[dict[str, Any]],
    estimates: np.ndarray,
    solved_at: float | None,
    what: str,
) -> None:
    """A heat map of the IQM, its number in each cell, a frame around what is solved. The picture grows with rows."""
    across, up = sorted(axes, key=lambda axis: len(axis.values))  # a column has a fixed width: more rows fit
    table = np.full((len(up.values), len(across.values)), np.nan)
    table[indices(up, points), indices(across, points)] = estimates
    width, height = INCHES
    figure.set_figheight(max(height, 0.9 + ROW_INCHES * len(up.values)))
    panel = figure.add_subplot()
    colours = colour_scale(estimates)
    low, high = colours.get_clim()
    panel.imshow(table, cmap=colours.cmap, vmin=low, vmax=high, origin="lower", aspect="auto", interpolation="nearest")
    write_numbers(panel, table, colours, inches=(width - 1.4) / len(across.values))
    if solved_at is not None:
        frame_solved(panel, table, solved_at)
    for axis, set_ticks, gap in ((across, panel.set_xticks, 0.1), (up, panel.set_yticks, 0.0)):
        kept = apart(np.linspace(0, 1, len(axis.values)), gap)
        labels = [show_value(axis.values[i]) for i in kept]
        set_ticks(kept, labels, **(slanted(labels) if axis is across else {}))
    panel.set_xlabel(across.name, fontsize=8)
    panel.set_ylabel(up.name, fontsize=8)
    panel.tick_params(labelsize=7, length=0)
    panel.spines[:].set_visible(False)
    draw_colour_bar(figure, panel, colours, solved_at, what)


def colour_scale(estimates: np.ndarray) -> "ScalarMappable":
    """The colours from the least to the greatest IQM; grey for NaN."""
    import matplotlib
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    known = estimates[~np.isnan(estimates)]
    low, high = (known.min(), known.max()) if known.size else (0, 0)
    margin = 0.5 if low == high else 0  # equal colours are the middle one
    return ScalarMappable(
        Normalize(low - margin, high + margin), matplotlib.colormaps[COLOUR_MAP].with_extremes(bad=MISSING)
    )


def write_numbers(axes: "Axes", table: np.ndarray, colours: "ScalarMappable", inches: float) -> None:
    """The IQM in each cell of the given width, where it can be read there; a dash where there is none."""
    texts = [
        ["-" if np.isnan(value) else number for value, number in zip(*row, strict=True)]
        for row in zip(table, say_alike(table), strict=True)
    ]
    longest = max(len(text) for row in texts for text in row)
    size = min(7, 72 * inches / (0.65 * longest))
    if size < LEGIBLE:
        return
    cells = colours.to_rgba(table)
    for i, j in np.ndindex(table.shape):
        axes.text(j, i, texts[i][j], color=contrasting(cells[i, j]), fontsize=size, ha="center", va="center")


def say_alike(table: np.ndarray) -> list[list[str]]:
    """Numbers with as many decimals each as give the greatest of them three digits. [R, C] -> R lists of C"""
    greatest = np.nanmax(np.abs(table), initial=0)
    decimals = 2 if greatest == 0 else min(max(0, 2 - math.floor(math.log10(greatest))), MOST_DECIMALS)
    return [[f"{value:.{decimals}f}" for value in row] for row in table]


def contrasting(rgba: np.ndarray) -> str:
    """Black or white, whichever has the higher contrast to the colour (WCAG 2.1, relative luminance)."""
    channels = rgba[:3]
    linear = np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)
    luminance = linear @ [0.2126, 0.7152, 0.0722]
    return "white" if 1.05 / (luminance + 0.05) > (luminance + 0.05) / 0.05 else "black"


def frame_solved(axes: "Axes", table: np.ndarray, solved_at: float) -> None:
    """A frame inside each cell whose IQM is solved."""
    from matplotlib.patches import Rectangle

    for i, j in np.argwhere(table >= solved_at):
        axes.add_patch(Rectangle((j - 0.46, i - 0.44), 0.92, 0.88, fill=False, edgecolor=VERMILLION, linewidth=1.1))


def draw_colour_bar(
    figure: "Figure", axes: "Axes", colours: "ScalarMappable", solved_at: float | None, what: str
) -> None:
    """The colours of the IQM, with a dashed line where solved begins."""
    bar = figure.colorbar(colours, ax=axes, fraction=0.05, pad=0.02)
    bar.outline.set_visible(False)  # pyright: ignore[reportCallIssue, reportAttributeAccessIssue]
    bar.ax.tick_params(labelsize=7, width=0.6, length=2.5)
    label = f"{what}, IQM"
    if solved_at is not None:
        bar.ax.axhline(solved_at, color=VERMILLION, linewidth=1.2, linestyle=(0, (2, 1)))
        label += f" (solved: {solved_at:g})"
    bar.set_label(label, fontsize=8)


def draw_parallel(
    figure: "Figure",
    axes: list[Axis],
    points: list[dict[str, Any]],
    estimates: np.ndarray,
    solved_at: float | None,
    what: str,
) -> None:
    """A line through the values of each setting in the colour of its IQM, the best on top, the missing below."""
    from matplotlib.collections import LineCollection

    panel = figure.add_subplot()
    order = np.argsort(np.where(np.isnan(estimates), -np.inf, estimates), kind="stable")
    heights = np.stack([fanned_heights(axis, points, order) for axis in axes], axis=1)
    lines = [np.column_stack([np.arange(len(axes)), heights[i]]) for i in order]
    colours = colour_scale(estimates)
    inks = colours.to_rgba(estimates[order])
    panel.add_collection(LineCollection(lines, colors=inks, linewidths=0.9, zorder=2))
    for i, axis in enumerate(axes):
        draw_scale(panel, i, axis)
    panel.set_xlim(-0.05, len(axes) - 0.7)
    panel.set_ylim(-0.05, 1.05)
    names = [axis.name for axis in axes]
    panel.set_xticks(range(len(axes)), names, **slanted(names))
    panel.set_yticks([])
    panel.tick_params(labelsize=7, length=0)
    panel.spines[:].set_visible(False)
    draw_colour_bar(figure, panel, colours, solved_at, what)


def fanned_heights(axis: Axis, points: list[dict[str, Any]], order: np.ndarray) -> np.ndarray:
    """Where each setting's line meets the axis: at its value, and where many share one, beside it by rank. -> [P]"""
    heights = fractions(axis, value_places(axis)[indices(axis, points)])
    if len(axis.values) > MAX_TICKS:
        return heights
    ranks = np.argsort(order)
    return heights + FAN * (ranks / max(len(points) - 1, 1) - 0.5)


def draw_scale(axes: "Axes", x: int, axis: Axis) -> None:
    """One upright axis: its values where they are few, and otherwise round numbers."""
    many = axis.scale != "category" and len(axis.values) > MAX_TICKS
    ticks = round_ticks(axis) if many else value_places(axis)
    labels = [show_value(value) for value in (ticks.tolist() if many else axis.values)]
    heights = fractions(axis, ticks)
    axes.vlines(x, -FAN / 2, 1 + FAN / 2, color="black", linewidth=0.6, zorder=3)
    for i in apart(heights, gap=0.09):
        axes.annotate(
            labels[i],
            (x, heights[i]),
            xytext=(2.5, 0),
            textcoords="offset points",
            va="center",
            fontsize=6,
            zorder=4,
            bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 0.6},
        )
