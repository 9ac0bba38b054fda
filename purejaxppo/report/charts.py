"""The charts of a report page as data: the return, its distribution over seeds, diagnostics and your own metrics."""

import dataclasses
import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from purejaxppo.population.results import Population, Sweep
from purejaxppo.population.run_distribution import performance_profile
from purejaxppo.population.statistics import carry_forward, finite_ones
from purejaxppo.population.sweep import show_point
from purejaxppo.ppo.types import Metrics
from purejaxppo.report.curves import Curve, make_curve, thin
from purejaxppo.runs.results import metric_names

SEED_LINES = 64  # more could not be told apart, and would make the page large
COMPARED = 6  # settings of a sweep in its charts
TABLE_ROWS = 11  # of the table beside the chart
SHARES = [0.0, 1.0]  # the y-axis of a chart of shares, also if all are alike

STEPS = "environment steps"  # the x-axis of most charts
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
        return STEPS, population.timesteps
    return x, np.arange(1, len(population.timesteps) + 1)


def best_settings(sweep: Sweep) -> dict[str, Population]:
    """The best settings of a sweep by what they differ in, the best first."""
    return {show_point(row.point): sweep[row.setting] for row in sweep.table()[:COMPARED]}


def own_metrics(population: Population) -> list[str]:
    """The columns that `Metrics` itself does not have: own numbers, "episode/NAME", and fields of a subclass."""
    known = {field.name for field in dataclasses.fields(Metrics)} | {"timesteps", *population.store.like.metrics.curve}
    return [name for name in metric_names(population) if name not in known]


def run_views(population: Population, solved_at: float | None) -> list[View]:
    """The charts of a run: the return, the diagnostics that it has values of, and its own metrics."""
    alone = {f"median of {population.num_seeds} seeds" if population.num_seeds > 1 else "the seed": population}
    diagnostics = [(name, title) for name, title in DIAGNOSTICS.items() if np.isfinite(population.column(name)).any()]
    return [
        returns_of({"": population}, solved_at),
        *(metric_view(title, name, alone) for name, title in diagnostics),
        *own_views(alone),
    ]


def own_views(populations: Mapping[str, Population]) -> list[View]:
    """A chart for each own metric, with a line for each population that has it. populations: by label"""
    names = {name: None for population in populations.values() for name in own_metrics(population)}
    return [
        metric_view(name, name, {label: each for label, each in populations.items() if name in own_metrics(each)})
        for name in names
    ]


def returns_of(populations: Mapping[str, Population], solved_at: float | None) -> View:
    """The training returns of populations by label, as `returns_view`."""
    across = x_axis(next(iter(populations.values())))[0]
    return returns_view([(label, find_curve(each)) for label, each in populations.items()], solved_at, across)


def returns_view(curves: Sequence[tuple[str, Curve]], solved_at: float | None, across: str = STEPS) -> View:
    """The training returns of one or more settings: the IQM in its interval. One without a label shows its seeds too.

    curves: by label
    """
    lines: list[dict[str, Any]] = []
    if [label for label, _ in curves] == [""]:
        ((_, curve),) = curves
        num_seeds = len(curve.returns)
        curves = [(f"IQM of {num_seeds} seeds" if num_seeds > 1 else "the seed", curve)]
        shown = curve.returns[:SEED_LINES] if num_seeds > 1 else []
        lines = [{"label": f"seed {i}", "y": numbers(seed)} for i, seed in enumerate(shown)]
    series = [make_series(label, x, *band) for label, (x, _, band) in curves]
    return make_view("return of training episodes", across, "95% interval", series, target=solved_at, lines=lines)


def metric_view(title: str, name: str, populations: Mapping[str, Population]) -> View:
    """One column of the metrics: its median and quartiles over the seeds that have a value, for each population."""

    def quartiles(population: Population, shown: np.ndarray) -> np.ndarray:
        column = np.asarray(population.column(name), np.float64)[:, shown]
        with warnings.catch_warnings(action="ignore", category=RuntimeWarning):  # of an update in which no seed has one
            return np.nanpercentile(column, [50, 25, 75], axis=0)

    return banded_view(title, "middle half of the seeds", populations, quartiles)


def percentile_view(populations: Mapping[str, Population]) -> View:
    """The median of the training returns over seeds, in the band that holds nine seeds of ten."""

    def percentiles(population: Population, shown: np.ndarray) -> np.ndarray:
        return population.percentiles([50, 5, 95], population.store.like.metrics.curve[1])[:, shown]

    labelled = {f"median, {label}": population for label, population in populations.items()}
    title = "return of training episodes, percentiles of seeds"
    return banded_view(title, "5th to 95th percentile", labelled, percentiles)


def banded_view(
    title: str, band_name: str, populations: Mapping[str, Population], curves: Callable[..., np.ndarray]
) -> View:
    """A line in its band for each population. curves: (population, U' updates) -> the line and its bounds, [3, U']"""
    series, across = [], ""
    for label, population in populations.items():
        across, x = x_axis(population)
        shown = thin(len(x))
        series.append(make_series(label, x[shown], *curves(population, shown)))
    return make_view(title, across, band_name, series)


def distribution_views(populations: Mapping[str, Population], solved_at: float | None, what: str) -> list[View]:
    """The charts of the distribution of seeds, for populations with at least two. what: the name of their returns"""
    several = {label: each for label, each in populations.items() if each.num_seeds > 1}
    if not several:
        return []
    views, returns = [percentile_view(several)], known_returns(several)
    if returns:
        views.append(profile_view(returns, what))
    if solved_at is not None:
        views.append(time_view(several, solved_at))
    return views


def known_returns(populations: Mapping[str, Population]) -> dict[str, np.ndarray]:
    """The final returns of the seeds that have a finite one, for each population that has any."""
    known = {label: finite_ones(each.final_returns()) for label, each in populations.items()}
    return {label: scores for label, scores in known.items() if scores.size}


def profile_view(scores: Mapping[str, np.ndarray], what: str) -> View:
    """The share of seeds above each score, from the least score of all to the greatest. scores: [S] or [S, K] each"""
    every = np.concatenate([np.ravel(x) for x in scores.values()])
    room = 0.5 if every.min() == every.max() else 0.0  # equal scores are in the middle
    tau = np.linspace(every.min() - room, every.max() + room, 201)
    profiles = {label: performance_profile(each, tau) for label, each in scores.items()}
    series = [make_series(label, tau, *profile[1:]) for label, profile in profiles.items()]
    ends = {"x_first": float(tau[0]), "y_range": SHARES}
    return make_view(f"share of runs above a {what}", what, "95% interval", series, **ends)


def time_view(populations: Mapping[str, Population], target: float) -> View:
    """The share of seeds that have reached a training return, by environment steps: a step function."""
    series = []
    for label, population in populations.items():
        found, end = population.time_to(target), float(population.timesteps[-1])
        x = np.repeat(np.concatenate([[0.0], found.timesteps, [end]]), 2)[1:-1]
        low, high = (np.append(np.nan, bound) for bound in (found.low, found.high))
        series.append(make_series(label, x, *(np.repeat(y, 2) for y in (np.append(0.0, found.share), low, high))))
    title = f"share of seeds that have reached {target:g}"
    return make_view(title, STEPS, "95% interval", series, y_range=SHARES)


def make_view(name: str, across: str, band_name: str, series: list[dict[str, Any]], **changes: Any) -> View:
    """A chart without a target, without lines of single seeds, and with a y-axis as long as its values need.

    changes: of these
    """
    view = {"name": name, "x_name": across, "band_name": band_name, "series": series}
    return view | {"x_first": 0.0, "y_range": [], "target": None, "lines": []} | changes


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
