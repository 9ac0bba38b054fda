"""Finished runs and sweeps, and the files that they leave: metrics, the table of a sweep, and summary.json."""

import dataclasses
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from purejaxppo.population.results import Population, Ranked, Sweep, count_diverged
from purejaxppo.population.run_distribution import PERCENTS
from purejaxppo.population.sharding import describe_devices
from purejaxppo.population.statistics import Aggregates, Interval, aggregate, finite_ones, iqm_interval
from purejaxppo.population.sweep import show_value
from purejaxppo.ppo.config import Config
from purejaxppo.ppo.evaluate import Agent
from purejaxppo.ppo.types import Metrics, RunnerState, TrainState
from purejaxppo.runs.folder import KEPT, METRICS, SETTINGS, TABLE, TESTED, peak_memory_bytes, write_metrics
from purejaxppo.runs.spec import RunSpec
from purejaxppo.runs.summary import write_summary
from purejaxppo.utils.files import load_tree, make_folder, write_whole

EVALUATION_EPISODES = 100  # of each seed, at the end
NO_AGGREGATES = Aggregates(*[Interval(math.nan, math.nan, math.nan)] * len(Aggregates._fields))


@dataclasses.dataclass(frozen=True)
class LoadedRun:
    """A finished run. Metrics and states are read on first use."""

    spec: RunSpec
    population: Population
    summary: dict[str, Any]

    @property
    def config(self) -> Config:
        """The hyperparameters."""
        return self.spec.config

    @property
    def agent(self) -> Agent:
        """The agent that was trained."""
        return self.population.agent

    @property
    def metrics(self) -> Metrics:
        """The metrics of all seeds, [S, U]."""
        return self.population.metrics

    @property
    def runners(self) -> RunnerState:
        """The final states of all seeds, [S, ...]."""
        return self.population.runners

    @property
    def train_state(self) -> TrainState:
        """The train states of all seeds, [S, ...]; jax.tree.map(lambda x: x[i], ...) is that of seed i."""
        return self.population.train_state

    def seed(self, i: int) -> RunnerState:
        """The final state of seed i, without reading the others."""
        return self.population.seed(i)


class FinishedSweep(NamedTuple):
    """A finished sweep, with everything that its pictures and its table show."""

    spec: RunSpec
    sweep: Sweep
    summary: dict[str, Any]


Finished = LoadedRun | FinishedSweep


def as_finished(spec: RunSpec, results: Population | Sweep, summary: dict[str, Any] | None = None) -> Finished:
    """The run or sweep of these results. summary: by default made from them"""
    make: Any = FinishedSweep if isinstance(results, Sweep) else LoadedRun
    return make(spec, results, summary or summarise(spec, results))


def write_results(
    spec: RunSpec, results: Population | Sweep, folder: Path, summary: dict[str, Any] | None = None
) -> Finished:
    """Writes the metrics, the table of a sweep, and the summary. Files that are written anew keep their `summary`."""
    for place, population in populations_of(results).items():
        make_folder(folder / place)
        write_metrics(folder / place, metric_names(population), population.column)
    if isinstance(results, Sweep):
        write_whole(folder / TABLE, lambda file: file.write(table_text(results.table()).encode()))
    summary = write_summary(folder, summary or summarise(spec, results), files_of(results))
    return as_finished(spec, results, summary)


def populations_of(results: Population | Sweep) -> dict[str, Population]:
    """The populations of a run or a sweep, those on test seeds included, by the folder of their metrics."""
    if isinstance(results, Population):
        return {"": results}
    settings = {f"{SETTINGS}/{i:04d}": population for i, population in enumerate(results)}
    return settings | ({} if results.tested is None else {TESTED: results.tested})


def files_of(results: Population | Sweep) -> list[str]:
    """The files that `write_results` writes beside the summary."""
    metrics = [str(Path(place, name)) for place in populations_of(results) for name in METRICS]
    return metrics if isinstance(results, Population) else [TABLE, *metrics]


def settings_of(results: Population | Sweep) -> list[Population]:
    """The populations of a sweep, or the one of a run."""
    return list(results) if isinstance(results, Sweep) else [results]


def read_kept(folder: Path, population: Population) -> dict[str, TrainState]:
    """The states of seed 0 that are filmed, by the name of their film, in the order of their updates."""
    names = [path.name.removeprefix("after-") for path in (folder / KEPT).glob("after-*")]
    updates = sorted(int(name) for name in names if re.fullmatch("[0-9]+", name))
    like = population.store.like.runner.train_state
    return {f"after-{n}": load_tree(folder / KEPT / f"after-{n}", like) for n in updates}


def metric_names(population: Population) -> list[str]:
    """The columns of the metrics of a population."""
    return population.store.like.metrics.columns()


def table_text(rows: list[Ranked]) -> str:
    """The content of table.csv, the best setting first."""
    names = list({name: None for row in rows for name in row.point})
    lines = [["setting", *names, "seeds", "diverged", "iqm", "iqm_95_low", "iqm_95_high", "area", "ties"]]
    for row in rows:
        values = [show_value(row.point.get(name)) for name in names]
        numbers = [f"{x:.9g}" for x in (*row.iqm, row.area)]
        lines.append([str(row.setting), *values, str(row.num_seeds), str(row.num_diverged), *numbers])
        lines[-1].append(str(row.ties).lower())
    return "".join(",".join(line) + "\n" for line in lines)


def summarise(spec: RunSpec, results: Population | Sweep) -> dict[str, Any]:
    """The content of summary.json: the returns or the best setting, what diverged, and what the training took."""
    found = sweep_entries(results) if isinstance(results, Sweep) else run_entries(spec, results)
    return found | costs(spec, settings_of(results))


def run_entries(spec: RunSpec, population: Population) -> dict[str, Any]:
    """The entries about the seeds of a run: their final returns, and which diverged."""
    final = population.final_returns()
    finite = finite_ones(final)  # an environment may pay NaN
    aggregates = aggregate(finite, target=spec.solved_at) if finite.size else NO_AGGREGATES
    return {
        "final_return_per_seed": final.tolist(),
        **aggregate_entries(aggregates),
        "solved_at": spec.solved_at,
        "seeds_solved": None if spec.solved_at is None else int(np.sum(final >= spec.solved_at)),
        **distribution_entries(population, finite, spec.solved_at),
        "diverged_at": or_none(population.diverged_at),
    }


def distribution_entries(population: Population, final: np.ndarray, solved_at: float | None) -> dict[str, Any]:
    """The entries about the distribution of the seeds: areas under their curves, percentiles, and times to solve.

    final: the finite final returns. A bound that is not known, such as that of a time that no seed needed, is null.
    """
    times = None if solved_at is None else population.time_to(solved_at)
    percentiles = {str(p): float(np.percentile(final, p)) for p in PERCENTS} if final.size else None
    return {
        **interval_entries("area_iqm", iqm_interval(population.areas())),
        "percentiles_of_final_return": percentiles,
        **interval_entries("steps_to_solved", [None] * 3 if times is None else times.median),
        "seeds_reached": None if times is None else times.num_reached,
    }


def sweep_entries(sweep: Sweep) -> dict[str, Any]:
    """The entries about the settings of a sweep: the best one, and which runs diverged."""
    rows = sweep.table()
    return {
        "best_setting": rows[0].setting,
        "best_point": rows[0].point,
        "tied_settings": [row.setting for row in rows[1:] if row.ties],
        "diverged_at": [or_none(population.diverged_at) for population in sweep],
        **selection_entries(sweep),
    }


def selection_entries(sweep: Sweep) -> dict[str, Any]:
    """The entries about the best setting on tuning and on test seeds; none without test seeds."""
    about = sweep.selection()
    if about is None or sweep.tested is None:
        return {}
    return {
        "tune_seeds": about.tune_seeds,
        "test_seeds": about.test_seeds,
        "test_return_per_seed": sweep.tested.final_returns().tolist(),
        "test_diverged_at": or_none(sweep.tested.diverged_at),
        **interval_entries("selection_bias", about.bias),
        **interval_entries("tune_return_iqm", about.tuning),
        **interval_entries("test_return_iqm", about.test),
    }


def aggregate_entries(aggregates: Aggregates) -> dict[str, float | None]:
    """The entries final_return_NAME of each aggregate, and its 95% bounds."""
    entries: dict[str, float | None] = {}
    for name, interval in aggregates._asdict().items():
        entries |= interval_entries(f"final_return_{name}", interval)
    return entries


def interval_entries(name: str, interval: Sequence[float | None]) -> dict[str, float | None]:
    """An estimate and its 95% bounds as entries of summary.json."""
    return dict(zip((name, f"{name}_95_low", f"{name}_95_high"), interval, strict=True))


def or_none(diverged_at: np.ndarray) -> list[int | None]:
    """The update in which each seed diverged, None for the others. [S]"""
    return [None if update < 0 else update for update in diverged_at.tolist()]


def costs(spec: RunSpec, populations: list[Population]) -> dict[str, Any]:
    """The seeds, time and memory that a run took. The speed is None if nothing was left to train."""
    programs = {id(population.costs): population.costs for population in populations}.values()
    what = "seed" if spec.sweep is None else "run"
    seconds, timesteps = (sum(getattr(cost, name) for cost in programs) for name in ("train_seconds", "timesteps"))
    return {
        "num_seeds": spec.num_seeds,
        "diverged": sum(count_diverged(population) for population in populations),
        "evaluation_episodes": populations[0].store.like.returns.shape[0],
        "evaluation_episodes_cut": sum(int(population.episodes_cut.sum()) for population in populations),
        "env_steps": sum(population.agent.config.actual_timesteps * spec.num_seeds for population in populations),
        "env_steps_per_second": timesteps / seconds if timesteps else None,
        "compile_seconds": sum(cost.compile_seconds for cost in programs),
        "train_seconds": seconds,
        "peak_memory_bytes": peak_memory_bytes(),
        "planned_memory_bytes": max((cost.plan.peak for cost in programs if cost.plan is not None), default=None),
        "devices": describe_devices(spec.num_members, jax.devices(), what, spec.placement),
    }
