"""The files that a finished run leaves: metrics, the table of a sweep, and summary.json."""

import math
import re
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from purejaxppo.population.results import Population, Ranked, Sweep, count_diverged
from purejaxppo.population.run_distribution import PERCENTS
from purejaxppo.population.sharding import describe_devices
from purejaxppo.population.statistics import Aggregates, Interval, aggregate, iqm_interval
from purejaxppo.population.sweep import show_value
from purejaxppo.ppo.types import TrainState
from purejaxppo.runs.folder import KEPT, METRICS, SETTINGS, TABLE, TESTED, peak_memory_bytes, write_metrics
from purejaxppo.runs.spec import RunSpec
from purejaxppo.runs.summary import SUMMARY, digests
from purejaxppo.utils.files import load_tree, make_folder, write_json, write_whole

EVALUATION_EPISODES = 100  # of each seed, at the end
BOUNDS = ("", "_95_low", "_95_high")  # how the entries of an interval end
NO_AGGREGATES = Aggregates(*[Interval(math.nan, math.nan, math.nan)] * len(Aggregates._fields))


class FinishedRun(NamedTuple):
    """A finished run, with everything that its pictures and its table show."""

    spec: RunSpec
    population: Population
    kept: dict[str, TrainState]  # of seed 0, after the updates that the algorithm films
    summary: dict[str, Any]


class FinishedSweep(NamedTuple):
    """A finished sweep, with everything that its pictures and its table show."""

    spec: RunSpec
    sweep: Sweep
    summary: dict[str, Any]


def write_run(
    spec: RunSpec, population: Population, folder: Path, summary: dict[str, Any] | None = None
) -> FinishedRun:
    """Writes the metrics and the summary of a run. Metrics that are written anew keep their `summary`."""
    write_metrics(folder, metric_names(population), population.column)
    summary = (summary or summarise(spec, population)) | {"files": digests(folder, METRICS)}
    write_json(folder / SUMMARY, summary)
    return read_run(spec, population, folder, summary)


def read_run(spec: RunSpec, population: Population, folder: Path, summary: dict[str, Any]) -> FinishedRun:
    """A run that is written already, with the states for its films, in the order of their updates."""
    names = [path.name.removeprefix("after-") for path in (folder / KEPT).glob("after-*")]
    updates = sorted(int(name) for name in names if re.fullmatch("[0-9]+", name))
    like = population.store.like.runner.train_state
    kept = {f"after-{n}": load_tree(folder / KEPT / f"after-{n}", like) for n in updates}
    return FinishedRun(spec, population, kept, summary)


def write_sweep(spec: RunSpec, sweep: Sweep, folder: Path, summary: dict[str, Any] | None = None) -> FinishedSweep:
    """Writes the metrics of each setting, the table of all, and the summary, as `write_run` does."""
    named = {f"{SETTINGS}/{i:04d}": population for i, population in enumerate(sweep)}
    for name, population in named.items() if sweep.tested is None else [*named.items(), (TESTED, sweep.tested)]:
        place = folder / name
        make_folder(place)
        write_metrics(place, metric_names(population), population.column)
    write_whole(folder / TABLE, lambda file: file.write(table_text(sweep.table()).encode()))
    summary = (summary or summarise_sweep(spec, sweep)) | {"files": digests(folder, sweep_files(sweep))}
    write_json(folder / SUMMARY, summary)
    return FinishedSweep(spec, sweep, summary)


def sweep_files(sweep: Sweep) -> list[str]:
    """The files that `write_sweep` writes beside the summary."""
    places = [f"{SETTINGS}/{i:04d}" for i in range(len(sweep))] + ([TESTED] if sweep.tested is not None else [])
    return [TABLE, *(f"{place}/{name}" for place in places for name in METRICS)]


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


def summarise(spec: RunSpec, population: Population) -> dict[str, Any]:
    """The content of summary.json: the final returns, which seeds diverged, and what the run took."""
    final = population.final_returns()
    finite = final[np.isfinite(final)]  # an environment may pay NaN
    aggregates = aggregate(finite, target=spec.solved_at) if finite.size else NO_AGGREGATES
    return {
        "final_return_per_seed": final.tolist(),
        **aggregate_entries(aggregates),
        "solved_at": spec.solved_at,
        "seeds_solved": None if spec.solved_at is None else int(np.sum(final >= spec.solved_at)),
        **distribution_entries(population, finite, spec.solved_at),
        "diverged_at": or_none(population.diverged_at),
        **costs(spec, [population]),
    }


def distribution_entries(population: Population, final: np.ndarray, solved_at: float | None) -> dict[str, Any]:
    """The entries about the distribution of the seeds: areas under their curves, percentiles, and times to solve.

    final: the finite final returns. A bound that is not known, such as that of a time that no seed needed, is null.
    """
    areas = population.areas()
    area = iqm_interval(areas[np.isfinite(areas)]) if np.isfinite(areas).any() else [math.nan] * 3
    times = None if solved_at is None else population.time_to(solved_at)
    median = [None] * 3 if times is None else times.median
    bounds = ("", "_95_low", "_95_high")
    return {
        **{f"area_iqm{bound}": number for bound, number in zip(bounds, area, strict=True)},
        "percentiles_of_final_return": {str(p): float(np.percentile(final, p)) for p in PERCENTS}
        if final.size
        else None,
        **{f"steps_to_solved{bound}": number for bound, number in zip(bounds, median, strict=True)},
        "seeds_reached": None if times is None else times.num_reached,
    }


def summarise_sweep(spec: RunSpec, sweep: Sweep) -> dict[str, Any]:
    """The content of summary.json: the best setting, which runs diverged, and what the sweep took."""
    rows = sweep.table()
    return {
        "best_setting": rows[0].setting,
        "best_point": rows[0].point,
        "tied_settings": [row.setting for row in rows[1:] if row.ties],
        "diverged_at": [or_none(population.diverged_at) for population in sweep],
        **selection_entries(sweep),
        **costs(spec, list(sweep)),
    }


def selection_entries(sweep: Sweep) -> dict[str, Any]:
    """The entries about the best setting on tuning and on test seeds; none without test seeds."""
    about = sweep.selection()
    if about is None or sweep.tested is None:
        return {}
    entries = {"selection_bias": about.bias, "tune_return_iqm": about.tuning, "test_return_iqm": about.test}
    return {
        "tune_seeds": about.tune_seeds,
        "test_seeds": about.test_seeds,
        "test_return_per_seed": sweep.tested.final_returns().tolist(),
        "test_diverged_at": or_none(sweep.tested.diverged_at),
        **{f"{name}{end}": x for name, interval in entries.items() for end, x in zip(BOUNDS, interval, strict=True)},
    }


def aggregate_entries(aggregates: Aggregates) -> dict[str, float]:
    """The entries final_return_NAME of each aggregate, and its 95% bounds."""
    return {
        f"final_return_{name}{bound}": number
        for name, interval in aggregates._asdict().items()
        for bound, number in zip(BOUNDS, interval, strict=True)
    }


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
