"""Learning curves of several settings or runs beside each other."""

import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from purejaxppo.report.curves import BLUE, DPI, INCHES, VERMILLION, Curve, draw_solved, make_curve, style_axes
from purejaxppo.report.files import write_figure
from purejaxppo.runs.finished import shorten
from purejaxppo.utils.errors import PPOError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    Returns = tuple[str, np.ndarray, np.ndarray]  # label, timesteps [U], returns [S, U]

# Okabe and Ito's colours; the ones that are hard to see on white come last.
CURVE_COLOURS = (BLUE, "#E69F00", "#009E73", "#CC79A7", "#000000", "#56B4E9", VERMILLION, "#F0E442")
LEGEND_INCHES = 0.14  # a row of the legend
LEGEND_POINTS, LEGEND_WIDTH = 6.5, 215  # of its letters, and of a label beside its line


def plot_comparison(
    curves: "Sequence[Returns]",
    path: str | os.PathLike[str],
    *,
    title: str,
    solved_at: float | None = None,
    note: str | None = None,
) -> None:
    """Writes a picture of the training returns of up to 8 settings: IQM and 95% band of each. Whole or not at all.

    curves: label, timesteps [U] of one seed, and returns [S, U] with NaN where no episode finished, for each setting;
    solved_at: the return of a dashed line; note: a line above the legend.
    Raises PPOError if there are too many, or the shapes disagree.
    """
    check_curves(curves)
    made = [(label, make_curve(*values)) for label, *values in curves]
    plot_beside(made, path, title=title, solved_at=solved_at, note=note)


def plot_beside(
    curves: "Sequence[tuple[str, Curve]]",
    path: str | os.PathLike[str],
    *,
    title: str,
    solved_at: float | None = None,
    note: str | None = None,
) -> None:
    """`plot_comparison` for curves that `make_curve` has made."""
    from matplotlib.figure import Figure

    labels = fit_labels([label for label, _ in curves])
    num_columns = legend_columns(labels)
    num_rows = math.ceil((len(curves) + (solved_at is not None)) / num_columns) + (note is not None)
    width, height = INCHES
    figure = Figure(figsize=(width, height + LEGEND_INCHES * num_rows), dpi=DPI, layout="constrained")
    axes = figure.add_subplot()
    for colour, label, (_, curve) in zip(CURVE_COLOURS, labels, curves, strict=False):
        draw_curve(axes, curve, label=label, colour=colour)
    if solved_at is not None:
        draw_solved(axes, solved_at)
    style_axes(axes, max(curve.timesteps[-1] for _, curve in curves), title)
    axes.set_ylabel("return of training episodes\nIQM and 95% interval", fontsize=8)
    place_legend(figure, axes, num_columns, note)
    write_figure(figure, Path(path))


def check_curves(curves: "Sequence[Returns]") -> None:
    """Raises PPOError for no curves, more than colours, or curves whose shapes disagree."""
    if not 1 <= len(curves) <= len(CURVE_COLOURS):
        raise PPOError(f"{len(curves)} curves; give 1 to {len(CURVE_COLOURS)}, more cannot be told apart by colour")
    for label, timesteps, returns in curves:
        shapes = np.shape(timesteps), np.shape(returns)
        if len(shapes[0]) != 1 or len(shapes[1]) != 2 or shapes[1][1] != shapes[0][0] or 0 in shapes[1]:
            raise PPOError(
                f"{label}: timesteps {shapes[0]} and returns {shapes[1]} have to be [U] and [S, U], none empty"
            )


def draw_curve(axes: "Axes", curve: Curve, *, label: str, colour: str) -> None:
    """The IQM of one setting as a line in its band."""
    timesteps, _, band = curve
    axes.plot(timesteps, band.iqm, color=colour, linewidth=1.2, label=label)
    axes.fill_between(timesteps, band.low, band.high, color=colour, alpha=0.2, linewidth=0)


def legend_columns(labels: list[str]) -> int:
    """Two labels side by side, where the width has room."""
    return 2 if len(labels) > 1 and max(map(len, labels)) <= 26 else 1


def fit_labels(labels: list[str]) -> list[str]:
    """The labels, those that are wider than a legend without their middle; numbered where they would be alike then."""
    short = [fit(label) for label in labels]
    return short if len(set(short)) == len(short) else [fit(f"{i}: {label}") for i, label in enumerate(labels, 1)]


def fit(label: str) -> str:
    """A label that a legend has room for, and does not leave out, as matplotlib does where it begins with _."""
    from matplotlib.textpath import TextPath

    label = f" {label}" if label.startswith("_") else label
    width = TextPath((0, 0), label, size=LEGEND_POINTS).get_extents().width
    return label if width <= LEGEND_WIDTH else shorten(label, int(len(label) * LEGEND_WIDTH / width))


def place_legend(figure: "Figure", axes: "Axes", num_columns: int, note: str | None) -> None:
    """Below the axes: among curves that fill them it would cover some."""
    handles, labels = axes.get_legend_handles_labels()
    axes.legend().remove()
    figure.legend(
        handles,
        labels,
        loc="outside lower center",
        ncols=num_columns,
        title=note,
        title_fontsize=LEGEND_POINTS,
        fontsize=LEGEND_POINTS,
        frameon=False,
        handlelength=1.6,
        columnspacing=1.2,
        borderaxespad=0.2,
    )
