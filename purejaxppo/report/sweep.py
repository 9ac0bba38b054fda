"""The picture of a sweep: the final returns of every setting, as a heat map or against each name that varies."""

import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from purejaxppo.population.statistics import iqm, iqm_interval
from purejaxppo.population.sweep import is_number, plain, show_value
from purejaxppo.report.files import write_figure
from purejaxppo.report.plots import BLUE, DPI, GREY, INCHES, LEGEND, VERMILLION, draw_solved, style_frame

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOUR_MAP = "viridis_r"  # the best is the darkest: it stands out on paper
MISSING = "#E0E0E0"
LOG_FROM = 20  # times the least value
MAX_TICKS = 8  # side by side
ROW_INCHES = 0.22  # of a heat map
LEGIBLE = 4.5  # points


class Axis(NamedTuple):
    """A name that the settings differ in, and how its values are laid out."""

    name: str
    values: list[Any]  # distinct, sorted
    scale: str  # "linear" or "log" for numbers, "even" for a few, "category" for other values; these two side by side

    def places(self, points: list[dict[str, Any]]) -> np.ndarray:
        """Where each setting is on the axis. -> [P]"""
        values = [point[self.name] for point in points]
        return np.array(values if self.scale in ("linear", "log") else [self.values.index(x) for x in values])


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

    points: the value of each name, the same names in every setting, and no setting twice; scores: for each setting the
    returns [S] of its runs, NaN for a diverged one, which does not count; solved_at: the return that counts as solved;
    what: what the picture calls the scores.
    Two names in a full grid give a heat map of the IQM, and anything else a panel for each name with more than one
    value: the IQM of every setting, and of a single name its 95% interval.
    """
    from matplotlib.figure import Figure

    points = [{name: plain(value) for name, value in point.items()} for point in points]
    axes = find_axes(points)
    estimates = np.array([iqm(runs) for runs in scores])
    figure = Figure(figsize=INCHES, dpi=DPI, layout="constrained")
    if len(axes) == 2 and len(points) == math.prod(len(axis.values) for axis in axes):
        draw_grid(figure, axes, points, estimates, solved_at, what)
    else:
        figure.set_figheight(INCHES[1] * (1 + 0.6 * (len(axes) - 1)))
        for axis, panel in zip(axes, figure.subplots(len(axes), squeeze=False).flat, strict=True):
            draw_axis(panel, axis, points, estimates, is_alone=len(axes) == 1)
            if len(axes) == 1:
                draw_intervals(panel, axis.places(points), scores)
            draw_solved(panel, solved_at)
            panel.set_ylabel(what, fontsize=8)
        figure.axes[0].legend(**LEGEND)
    figure.axes[0].set_title(title, fontsize=9, loc="left")
    write_figure(figure, Path(path))


def find_axes(points: list[dict[str, Any]]) -> list[Axis]:
    """An axis for each name that takes more than one value; the first name, where none does."""
    axes = [make_axis(name, [point[name] for point in points]) for name in points[0]]
    return [axis for axis in axes if len(axis.values) > 1] or axes[:1]


def make_axis(name: str, values: list[Any]) -> Axis:
    """An axis of categories or numbers; a log one if many spread over more than LOG_FROM."""
    distinct = sorted(set(values), key=sort_key)
    if not all(is_number(value) for value in distinct):
        return Axis(name, distinct, "category")
    if len(distinct) <= MAX_TICKS:
        return Axis(name, distinct, "even")
    return Axis(name, distinct, "log" if 0 < LOG_FROM * distinct[0] < distinct[-1] else "linear")


def sort_key(value: Any) -> tuple[int, Any]:
    """Orders values of several kinds: numbers, tuples by their entries, and all else by what it is called."""
    if is_number(value) or isinstance(value, bool):
        return 0, value
    return (1, value) if isinstance(value, tuple) else (2, str(value))


def draw_axis(axes: "Axes", axis: Axis, points: list[dict[str, Any]], estimates: np.ndarray, *, is_alone: bool) -> None:
    """The IQM against the value. A line joins the numbers of a name that is alone."""
    places = axis.places(points)
    order = np.argsort(places, kind="stable")
    marker = "o-" if is_alone and axis.scale != "category" else "o"
    axes.plot(places[order], estimates[order], marker, color=BLUE, markersize=3.5, linewidth=0.8, label="IQM")
    missing = places[np.isnan(estimates)]
    if missing.size:
        style = {"color": GREY, "markersize": 4, "label": "all runs diverged"}
        axes.plot(missing, np.full(missing.shape, 0.03), "x", transform=axes.get_xaxis_transform(), **style)
    if axis.scale in ("linear", "log"):
        axes.set_xscale(axis.scale)
    else:
        label_values(axis, axes.set_xticks)
        axes.set_xlim(-0.5, len(axis.values) - 0.5)
    axes.set_xlabel(axis.name, fontsize=8)
    style_frame(axes)


def draw_intervals(axes: "Axes", places: np.ndarray, scores: Sequence[np.ndarray]) -> None:
    """The 95% interval of each setting that has one."""
    bounds = np.array([iqm_interval(runs)[1:] for runs in scores])
    if np.isfinite(bounds).any():
        axes.vlines(places, *bounds.T, color=BLUE, linewidth=2.2, alpha=0.35, label="95% interval")


def label_values(axis: Axis, set_ticks: Any, most: int | None = MAX_TICKS) -> None:
    """Ticks at the values that are side by side; at every few of them if there are more than `most`."""
    kept = range(0, len(axis.values), 1 if most is None else math.ceil(len(axis.values) / most))
    labels = [show_value(axis.values[i]) for i in kept]
    runs_together = most is not None and len(labels) * max(map(len, labels)) > 40
    set_ticks(kept, labels, **({"rotation": 30, "ha": "right", "rotation_mode": "anchor"} if runs_together else {}))


def draw_grid(
    figure: "Figure",
    axes: list[Axis],
    points: list[dict[str, Any]],
    estimates: np.ndarray,
    solved_at: float | None,
    what: str,
) -> None:
    """A heat map of the IQM, its number in each cell, a frame around what is solved. The picture grows with rows."""
    import matplotlib
    from matplotlib.patches import Rectangle

    # A column has a fixed width: more rows fit.
    across, up = (axis._replace(scale="even") for axis in sorted(axes, key=lambda axis: len(axis.values)))
    table = np.full((len(up.values), len(across.values)), np.nan)
    table[up.places(points), across.places(points)] = estimates
    known = estimates[~np.isnan(estimates)]
    low, high = (known.min(), known.max()) if known.size else (0, 0)
    margin = 0.5 if low == high else 0  # equal colours are the middle one
    figure.set_figheight(max(INCHES[1], 0.9 + ROW_INCHES * len(up.values)))
    panel = figure.add_subplot()
    colours = matplotlib.colormaps[COLOUR_MAP].with_extremes(bad=MISSING)
    image = panel.imshow(table, colours, vmin=low - margin, vmax=high + margin, origin="lower", aspect="auto")
    texts = {cell: "-" if np.isnan(value) else f"{value:.3g}" for cell, value in np.ndenumerate(table)}
    width = (INCHES[0] - 1.4) / len(across.values)
    size = min(7, 72 * width / (0.65 * max(map(len, texts.values()))))
    cells = image.to_rgba(table)
    for (i, j), text in texts.items():
        if size >= LEGIBLE:
            panel.text(j, i, text, color=contrasting(cells[i, j]), fontsize=size, ha="center", va="center")
        if solved_at is not None and table[i, j] >= solved_at:
            frame = Rectangle((j - 0.46, i - 0.44), 0.92, 0.88, fill=False, edgecolor=VERMILLION, linewidth=1.1)
            panel.add_patch(frame)
    label_values(across, panel.set_xticks)
    label_values(up, panel.set_yticks, most=None)
    panel.set_xlabel(across.name, fontsize=8)
    panel.set_ylabel(up.name, fontsize=8)
    panel.tick_params(labelsize=7, length=0)
    panel.spines[:].set_visible(False)
    bar = figure.colorbar(image, ax=panel, fraction=0.05, pad=0.02)
    bar.ax.tick_params(labelsize=7, width=0.6, length=2.5)
    bar.set_label(f"{what}, IQM" + ("" if solved_at is None else f" (solved: {solved_at:g})"), fontsize=8)


def contrasting(rgba: np.ndarray) -> str:
    """Black or white, whichever has the higher contrast to the colour (WCAG 2.1, relative luminance)."""
    channels = rgba[:3]
    linear = np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)
    return "white" if linear @ [0.2126, 0.7152, 0.0722] < 0.179 else "black"
