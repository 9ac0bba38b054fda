"""The charts of a report page as data: the return, the diagnostics and your own metrics over the training."""

import dataclasses
import math
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from purejaxppo.population.results import Population, Sweep
from purejaxppo.population.statistics import carry_forward
from purejaxppo.population.sweep import show_point
from purejaxppo.ppo.types import Metrics
from purejaxppo.report.curves import Curve, make_curve, thin
from purejaxppo.runs.results import metric_names

SEED_LINES = 64  # more could not be told apart, and would make the page large
COMPARED = 6  # settings of a sweep in its charts
TABLE_ROWS = 11  # of the table beside the chart

View = dict[str, Any]  # one choice of the chart, as page.js reads it
DIAGNOSTICS = {
    "last_return_mean": "return by environment: of the last episode of each",
    "episode_length_mean": "length of training episodes, steps",
    "entropy": "entropy of the policy, nats",
    "approx_kl": "KL of an update, nats",
    "clip_fraction": "clipped share of the ratios",
    "explained_variance": "explained variance of the value",
    "value_loss": "value loss",
    "policy_loss": "policy loss",
    "learning_rate": "learning rate",
}


def find_curve(population: Population) -> Curve:
    """The training returns of a population, as its picture shows them."""
    _, y = population.store.like.metrics.curve
    return make_curve(x_axis(population)[1], population.column(y))


def x_axis(population: Population) -> tuple[str, np.ndarray]:
    """The name of the x-axis of a population's charts, and its value at each update [U]."""
    x, _ = population.store.like.metrics.curve
    if x == "timesteps":
        return "environment steps", population.timesteps
    return x, np.arange(1, len(population.timesteps) + 1)


def best_settings(sweep: Sweep) -> dict[str, Population]:
    """The best settings of a sweep by what they differ in, the best first."""
    return {show_point(row.point): sweep[row.setting] for row in sweep.table()[:COMPARED]}


def best_curves(sweep: Sweep) -> list[tuple[str, Curve]]:
    """The learning curves of the best settings of a sweep."""
    return [(label, find_curve(population)) for label, population in best_settings(sweep).items()]


def own_metrics(population: Population) -> list[str]:
    """The columns that `Metrics` itself does not have: own numbers, "episode/NAME", and fields of a subclass."""
    known = {field.name for field in dataclasses.fields(Metrics)} | {"timesteps", *population.store.like.metrics.curve}
    return [name for name in metric_names(population) if name not in known]


def run_views(population: Population, curve: Curve, solved_at: float | None) -> list[View]:
    """The charts of a run: the return, the diagnostics that it has values of, and its own metrics."""
    alone = {f"median of {population.num_seeds} seeds" if population.num_seeds > 1 else "the seed": population}
    diagnostics = [(name, title) for name, title in DIAGNOSTICS.items() if np.isfinite(population.column(name)).any()]
    return [
        return_view(curve, solved_at, x_axis(population)[0]),
        *(metric_view(title, name, alone) for name, title in diagnostics),
        *own_views(alone),
    ]


def sweep_views(sweep: Sweep, curves: Sequence[tuple[str, Curve]], solved_at: float | None) -> list[View]:
    """The charts of a sweep: the return and the own metrics of its best settings."""
    return [returns_view(curves, solved_at, x_axis(sweep[0])[0]), *own_views(best_settings(sweep))]


def own_views(populations: Mapping[str, Population]) -> list[View]:
    """A chart for each own metric, with a line for each population that has it. populations: by label"""
    names = {name: None for population in populations.values() for name in own_metrics(population)}
    return [
        metric_view(name, name, {label: each for label, each in populations.items() if name in own_metrics(each)})
        for name in names
    ]


def return_view(curve: Curve, solved_at: float | None, across: str) -> View:
    """The training returns of a run: the IQM in its interval, and the first seeds."""
    if len(curve.returns) == 1:
        return returns_view([("the seed", curve)], solved_at, across)
    lines = [{"label": f"seed {i}", "y": numbers(seed)} for i, seed in enumerate(curve.returns[:SEED_LINES])]
    return returns_view([(f"IQM of {len(curve.returns)} seeds", curve)], solved_at, across) | {"lines": lines}


def returns_view(curves: Sequence[tuple[str, Curve]], solved_at: float | None, across: str) -> View:
    """The training returns of one or more settings, by label: the IQM in its interval."""
    series = [make_series(label, x, *band) for label, (x, _, band) in curves]
    view = make_view("return of training episodes", across, "95% interval", series)
    return view | {"target": solved_at, "target_name": "solved:"}


def metric_view(title: str, name: str, populations: Mapping[str, Population]) -> View:
    """One column of the metrics: its median and quartiles over the seeds that have a value, for each population."""
    series, across = [], ""
    for label, population in populations.items():
        across, x = x_axis(population)
        shown = thin(len(x))
        column = np.asarray(population.column(name), np.float64)[:, shown]
        with warnings.catch_warnings(action="ignore", category=RuntimeWarning):  # of an update in which no seed has one
            quartiles = np.nanquantile(column, [0.5, 0.25, 0.75], axis=0)
        series.append(make_series(label, x[shown], *quartiles))
    return make_view(title, across, "middle half of the seeds", series)


def make_view(name: str, across: str, band_name: str, series: list[dict[str, Any]]) -> View:
    """A chart without a target, without lines of single seeds, and with a y-axis as long as its values need."""
    view = {"name": name, "x_name": across, "band_name": band_name, "series": series, "y_range": []}
    return view | {"x_first": 0.0, "target": None, "target_name": "", "lines": []}


def make_series(label: str, x: np.ndarray, mid: np.ndarray, low: np.ndarray, high: np.ndarray) -> dict[str, Any]:
    """A line in its band."""
    return {"label": label, "x": x.tolist(), "mid": numbers(mid), "low": numbers(low), "high": numbers(high)}


def last_values(population: Population, name: str) -> np.ndarray:
    """The last value of a column for each seed, NaN for a seed without one. -> [S]"""
    return carry_forward(np.asarray(population.column(name), np.float64))[:, -1]


def view_rows(views: Sequence[View]) -> list[list[str]]:
    """Some of the numbers of charts, for readers who do not see them: the head, and a row for each of some updates."""
    columns = [(view, series) for view in views if view["x_name"] == views[0]["x_name"] for series in view["series"]]
    head = [views[0]["x_name"]]
    for view, series in columns:
        head += [series["label"] if view is views[0] else f"{view['name']}, {series['label']}", view["band_name"]]
    x, rows = views[0]["series"][0]["x"], []
    for i in np.unique(np.linspace(0, len(x) - 1, TABLE_ROWS).round().astype(int)).tolist():
        row = [f"{x[i]:,}" if x[i] == int(x[i]) else f"{x[i]:.4g}"]
        for _, series in columns:
            nearest = int(np.argmin(np.abs(np.array(series["x"]) - x[i])))
            mid, low, high = (series[name][nearest] for name in ("mid", "low", "high"))
            row += ["" if mid is None else f"{mid:g}", "" if low is None else f"{low:g} to {high:g}"]
        rows.append(row)
    return [head, *rows]


def numbers(values: np.ndarray) -> list[float | None]:
    """Six digits of each, more than a screen can show; None for a value that is not finite."""
    return [float(f"{value:.6g}") if math.isfinite(value) else None for value in values.tolist()]
