"""Charts of the distribution of seeds: percentiles over training, performance profiles, and times to a threshold."""

from collections.abc import Mapping

import numpy as np

from purejaxppo.population.results import Population
from purejaxppo.population.run_distribution import performance_profile
from purejaxppo.report.charts import View, make_series, make_view, x_axis
from purejaxppo.report.curves import thin

SHARES = [0.0, 1.0]  # the y-axis of a chart of shares, also if all are alike
PERCENTILES = (50, 5, 95)  # the line, and the ends of its band


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
    returns = {label: each.final_returns() for label, each in populations.items()}
    known = {label: scores[np.isfinite(scores)] for label, scores in returns.items()}
    return {label: scores for label, scores in known.items() if scores.size}


def percentile_view(populations: Mapping[str, Population]) -> View:
    """The median of the training returns over seeds, in the band that holds nine seeds of ten."""
    series, across = [], ""
    for label, population in populations.items():
        across, x = x_axis(population)
        shown = thin(len(x))
        curves = population.percentiles(PERCENTILES, population.store.like.metrics.curve[1])[:, shown]
        series.append(make_series(f"median, {label}", x[shown], *curves))
    return make_view("return of training episodes, percentiles of seeds", across, "5th to 95th percentile", series)


def profile_view(scores: Mapping[str, np.ndarray], what: str) -> View:
    """The share of seeds above each score, from the least score of all to the greatest. scores: [S] or [S, K] each"""
    every = np.concatenate([np.ravel(x) for x in scores.values()])
    room = 0.5 if every.min() == every.max() else 0.0  # equal scores are in the middle
    tau = np.linspace(every.min() - room, every.max() + room, 201)
    profiles = {label: performance_profile(each, tau) for label, each in scores.items()}
    series = [make_series(label, tau, *profile[1:]) for label, profile in profiles.items()]
    view = make_view(f"share of runs above a {what}", what, "95% interval", series)
    return view | {"x_first": float(tau[0]), "y_range": SHARES}


def time_view(populations: Mapping[str, Population], target: float) -> View:
    """The share of seeds that have reached a training return, by environment steps: a step function."""
    series = []
    for label, population in populations.items():
        found, end = population.time_to(target), float(population.timesteps[-1])
        x = np.repeat(np.concatenate([[0.0], found.timesteps, [end]]), 2)[1:-1]
        low, high = (np.append(np.nan, bound) for bound in (found.low, found.high))
        series.append(make_series(label, x, *(np.repeat(y, 2) for y in (np.append(0.0, found.share), low, high))))
    view = make_view(f"share of seeds that have reached {target:g}", "environment steps", "95% interval", series)
    return view | {"y_range": SHARES}
