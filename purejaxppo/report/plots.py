"""Pictures of charts: each line in its band, the single seeds of a line that is alone, and the return to reach."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from purejaxppo.report.canvas import BLUE, GREEN, GREY, ORANGE, PINK, SKY, VERMILLION
from purejaxppo.report.charts import STEPS, View, returns_view
from purejaxppo.report.curves import make_curve
from purejaxppo.report.files import write_figure
from purejaxppo.runs.finished import shorten
from purejaxppo.utils.errors import PPOError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INCHES = (3.5, 2.5)  # one column of a paper
DPI = 200
MAX_SEED_LINES = 32  # more would fill the plot
LEGEND: dict[str, Any] = {"fontsize": 6.5, "framealpha": 0.85, "edgecolor": "none", "handlelength": 1.6}
LEGEND_INCHES = 0.14  # a row of a legend below the axes
LEGEND_WIDTH = 215  # points, of a label beside its line
# Okabe and Ito's colours; the ones that are hard to see on white come last.
CURVE_COLOURS = (BLUE, ORANGE, GREEN, PINK, "#000000", SKY, VERMILLION, "#F0E442")


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
    plot_view(returns_view([("", make_curve(timesteps, returns))], solved_at), path, title=title)


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
    check_number(len(curves), "curves")
    made = [(label, make_curve(*values, what=f"{label}: ")) for label, *values in curves]
    plot_view(returns_view(made, solved_at), path, title=title, note=note)


def check_number(number: int, what: str) -> None:
    """Raises PPOError for more lines than colours tell apart."""
    if not 1 <= number <= len(CURVE_COLOURS):
        raise PPOError(f"{number} {what}; give 1 to {len(CURVE_COLOURS)}, more cannot be told apart by colour")


def plot_view(view: View, path: str | os.PathLike[str], *, title: str, note: str | None = None) -> None:
    """Writes a chart as a picture. Whole or not at all. note: a line above the legend

    The legend of several lines is below, where it covers none.
    """
    series, is_alone = view["series"], len(view["series"]) == 1
    num_rows = 0 if is_alone else len(series) + (note is not None) + (view["target"] is not None)
    figure, axes = make_axes(title, height=INCHES[1] + LEGEND_INCHES * num_rows)
    for colour, label, one in zip(CURVE_COLOURS, fit_labels([one["label"] for one in series]), series, strict=False):
        mid, low, high = (np.array(one[name], float) for name in ("mid", "low", "high"))
        axes.plot(one["x"], mid, color=colour, linewidth=1.3, label=label)
        if np.isfinite(low).any():
            alpha = 0.35 if is_alone else 0.2
            axes.fill_between(one["x"], low, high, color=colour, alpha=alpha, linewidth=0, label=view["band_name"])
    draw_seeds(axes, series[0]["x"], view["lines"])
    style_axes(axes, view)
    legend: dict[str, Any] = {"title": note, "title_fontsize": LEGEND["fontsize"], **LEGEND}
    if is_alone:
        for line in axes.legend(**legend).get_lines():  # a seed's is too faint to be found again, where it stands alone
            line.set(alpha=1, linewidth=max(0.8, line.get_linewidth()))
    else:
        axes.set_ylabel(f"{axes.get_ylabel()}\nband: {view['band_name']}")
        lines = [line for line in axes.get_lines() if not str(line.get_label()).startswith("_")]
        figure.legend(handles=lines, loc="outside lower center", **legend)
    write_figure(figure, Path(path))


def style_axes(axes: "Axes", view: View) -> None:
    """The return that counts as solved, labels and ticks of a chart whose lines are drawn."""
    from matplotlib.ticker import EngFormatter, MaxNLocator

    series, first = view["series"], view["x_first"]
    if not any(number is not None for one in series for number in one["mid"]):
        axes.text(0.5, 0.5, "no episode has finished", transform=axes.transAxes, ha="center", va="center", fontsize=8)
        axes.set_yticks([])
    axes.update_datalim([(first, y) for y in view["y_range"]])
    axes.autoscale_view()
    draw_solved(axes, view["target"])
    last = max(one["x"][-1] for one in series)
    axes.set_xlim(first, first + 1.02 * (last - first))  # 499,712 steps still have a tick at 500k
    axes.set_xlabel(view["x_name"], fontsize=8)
    axes.set_ylabel(view["name"].replace(", ", ",\n"), fontsize=8)
    axes.xaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
    if view["x_name"] == STEPS:
        axes.xaxis.set_major_formatter(EngFormatter(sep=""))


def make_axes(title: str, height: float = INCHES[1]) -> "tuple[Figure, Axes]":
    """A figure of one panel, as wide as a column."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(INCHES[0], height), dpi=DPI, layout="constrained")  # no pyplot, nor its global state
    axes = figure.add_subplot()
    axes.set_title(title, fontsize=9, loc="left")
    style_frame(axes)
    return figure, axes


def draw_seeds(axes: "Axes", x: Sequence[float], lines: Sequence[dict[str, Any]]) -> None:
    """The first of the lines of single seeds, faintly, below all else."""
    from matplotlib.collections import LineCollection

    if lines:
        label = "single seeds" if len(lines) <= MAX_SEED_LINES else f"first {MAX_SEED_LINES} seeds"
        paths = [np.column_stack([x, np.array(line["y"], float)]) for line in lines[:MAX_SEED_LINES]]
        axes.add_collection(LineCollection(paths, colors=GREY, linewidths=0.4, alpha=0.3, zorder=0.5, label=label))


def draw_solved(axes: "Axes", solved_at: float | None) -> None:
    """A dashed line at the return that counts as solved, if one does."""
    if solved_at is not None:
        axes.axhline(solved_at, color=VERMILLION, linewidth=0.9, linestyle=(0, (4, 3)), label=f"solved: {solved_at:g}")


def style_frame(axes: "Axes") -> None:
    """Thin ticks, and no frame at the top and on the right."""
    axes.tick_params(labelsize=7, width=0.6, length=2.5)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_linewidth(0.6)


def fit_labels(labels: list[str]) -> list[str]:
    """Shortens the labels that are wider than the legend, and numbers all of them if two would be alike then."""
    short = [fit(label) for label in labels]
    return short if len(set(short)) == len(short) else [fit(f"{i}: {label}") for i, label in enumerate(labels, 1)]


def fit(label: str) -> str:
    """Shortens a label to the width of the legend, and keeps one visible that begins with _, which matplotlib hides."""
    from matplotlib.textpath import TextPath

    label = f" {label}" if label.startswith("_") else label
    width = TextPath((0, 0), label, size=LEGEND["fontsize"]).get_extents().width
    return label if width <= LEGEND_WIDTH else shorten(label, int(len(label) * LEGEND_WIDTH / width))
