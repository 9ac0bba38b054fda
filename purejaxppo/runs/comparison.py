"""Methods side by side, on one environment or several: their runs, and scores that compare."""

import math
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from purejaxppo.population.run_distribution import normalized_scores
from purejaxppo.population.statistics import (
    Interval,
    aggregate,
    decimals_of,
    interval_text,
    iqm_interval,
    probability_of_improvement,
    with_interval,
)
from purejaxppo.runs.results import LoadedRun
from purejaxppo.utils.errors import PPOError

Scales = Mapping[str, tuple[float, float]]  # environment -> the returns that count as 0 and 1


class Comparison(NamedTuple):
    """Runs of several methods, each method with one run on each environment."""

    envs: list[str]
    methods: dict[str, list[LoadedRun]]  # by label, in the order of `envs`
    scores: dict[str, np.ndarray]  # [S, K], final returns of each method, normalised where `is_scaled`
    is_scaled: bool

    @property
    def score_name(self) -> str:
        """The name of the scores, in words."""
        return "normalised return" if self.is_scaled else "final return"


def compare(runs: Mapping[str, LoadedRun], scales: Scales) -> Comparison:
    """Puts runs beside each other: the i-th run of each environment belongs to method i.

    runs: by label. scales: needed for each environment if there are several.
    Raises PPOError if an environment has no scale, or more runs than another; or if numbers of seeds differ.
    """
    by_env: dict[str, dict[str, LoadedRun]] = {}
    for label, run in runs.items():
        by_env.setdefault(run.spec.env, {})[label] = run
    for env in scales:
        if env not in by_env:
            raise PPOError(f"--scale {env} is of none of the runs, which are of {', '.join(by_env)}")
    lacking = [env for env in by_env if env not in scales]
    if lacking and (len(by_env) > 1 or scales):
        raise PPOError(
            f"the runs are of {', '.join(by_env)}, whose returns do not compare; "
            f"plot them apart, or give --scale {lacking[0]}=LOW:HIGH, the returns that count as 0 and 1"
        )
    counts = {env: len(found) for env, found in by_env.items()}
    if len(set(counts.values())) > 1:
        text = ", ".join(f"{count} of {env}" for env, count in counts.items())
        raise PPOError(f"there are {text}; give a run of each method on each environment, in the same order")
    columns = zip(*(found.items() for found in by_env.values()), strict=True)
    methods = {" + ".join(label for label, _ in column): [run for _, run in column] for column in columns}
    return Comparison(
        list(by_env),
        methods,
        {label: scores_of(label, *each, scales=scales) for label, each in methods.items()},
        is_scaled=bool(scales),
    )


def scores_of(label: str, *runs: LoadedRun, scales: Scales) -> np.ndarray:
    """The final returns of one run on each environment, normalised if there are scales. -> [S, K]"""
    returns = [run.population.final_returns() for run in runs]
    if len({len(x) for x in returns}) > 1:
        raise PPOError(f"{label} have {', '.join(str(len(x)) for x in returns)} seeds; compare runs of as many")
    scores = np.stack(returns, axis=1)
    if not scales:
        return scores
    low, high = np.array([scales[run.spec.env] for run in runs]).T
    return normalized_scores(scores, low, high)


def comparison_rows(returns: Mapping[str, np.ndarray]) -> list[list[str]]:
    """A table, with a head, of runs by their final greedy returns [S], each compared with the first."""
    rows = [["run", "seeds", "final greedy return, IQM", "95% interval", "P(better than the first)"]]
    first = next(iter(returns.values()))
    for label, scores in returns.items():
        rows.append([label, str(len(scores)), *cells(iqm_interval(scores)), wins_over(first, scores)])
    return rows


def method_rows(comparison: Comparison) -> list[list[str]]:
    """A table, with a head: the aggregates of each method over seeds and environments, compared with the first."""
    name = comparison.score_name
    rows = [["method", "seeds", f"{name}, IQM", "95% interval", "mean", "95% interval", "P(better than the first)"]]
    first = next(iter(comparison.scores.values()))
    for label, scores in comparison.scores.items():
        found = aggregate(scores)
        rows.append([label, str(len(scores)), *cells(found.iqm), *cells(found.mean), wins_over(first, scores)])
    return rows


def course_rows(runs: Mapping[str, LoadedRun]) -> list[list[str]]:
    """A table, with a head: the area under each run's learning curve, and when its seeds solve the environment."""
    rows = [
        ["run", "mean training return, IQM", "95% interval", "steps until half reach it", "95% interval", "reached"]
    ]
    for label, run in runs.items():
        row, target = [label, *cells(iqm_interval(run.population.areas()))], run.spec.solved_at
        if target is None:
            rows.append([*row, "no target", "", ""])
            continue
        times = run.population.time_to(target)
        median, low, high = ("not known" if not math.isfinite(x) else f"{x:,.0f}" for x in times.median)
        reached = f"{times.num_reached} of {times.num_runs} reach {target:g}"
        rows.append([*row, median, f"{low} to {high}", reached])
    return rows


def wins_over(first: np.ndarray, scores: np.ndarray) -> str:
    """The probability that a run of `scores` is better than one of `first`; empty for the first itself."""
    return "" if scores is first else with_interval(*probability_of_improvement(scores, first), digits=2)


def cells(interval: Interval) -> tuple[str, str]:
    """The estimate and its bounds, with the same decimals: 12.0, 11.0 to 13.1"""
    digits = decimals_of(*interval)
    return f"{interval.estimate:.{digits}f}", interval_text(interval.low, interval.high, digits)
