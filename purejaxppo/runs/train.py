"""A whole run with its folder: train a population or a sweep, write what there is to know; and load it again."""

import dataclasses
import math
import re
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from purejaxppo.envs import make_env
from purejaxppo.population.algorithms import ALGORITHMS, algorithm_of, make_agent
from purejaxppo.population.checkpoints import KEPT as KEPT_CHECKPOINTS
from purejaxppo.population.checkpoints import has_states, make_policy, updates_done
from purejaxppo.population.logs import NAMES
from purejaxppo.population.memory import MemoryPlan
from purejaxppo.population.options import Progress, ignore, never
from purejaxppo.population.program import EVALUATION_SEED
from purejaxppo.population.restore import KeptStates
from purejaxppo.population.results import Population, Ranked, Sweep
from purejaxppo.population.sharding import PLACEMENTS, describe_devices, describe_sharing
from purejaxppo.population.start import carried
from purejaxppo.population.statistics import (
    Aggregates,
    Interval,
    aggregate,
    decimals_of,
    interval_text,
    show_return,
    with_interval,
)
from purejaxppo.population.store import POPULATION, DiskStore, Store, of_rows, part_name
from purejaxppo.population.sweep import ENV, Point, check_whole, describe_programs, show_point, show_value
from purejaxppo.population.train import open_population, train_population
from purejaxppo.ppo.config import Config
from purejaxppo.ppo.evaluate import MAX_STEPS, Agent, Episode, record_episodes
from purejaxppo.ppo.factory import seed_keys
from purejaxppo.ppo.normalize import init_moments
from purejaxppo.ppo.types import Metrics, RunnerState, TrainState
from purejaxppo.runs.folder import git_revision, peak_memory_bytes, versions, write_metrics
from purejaxppo.runs.logs import PROGRESS, steps_told
from purejaxppo.runs.presets import solved_at
from purejaxppo.runs.summary import SUMMARY, digests, read_summary, with_nans
from purejaxppo.utils.errors import PPOError
from purejaxppo.utils.files import (
    as_path,
    check_tree,
    leaf_names,
    load_tree,
    make_folder,
    read_json,
    save_tree,
    write_json,
    write_whole,
)
from purejaxppo.utils.validation import MAX_SEED, check_choice, check_seed, is_index, shown

EVALUATION_EPISODES = 100
RESULTS = "checkpoints"  # where in a run's folder the chunks of members lie
START = "start"  # where the parameters lie that the seeds start from, if they are those of another run
# What config.json has to hold for the run to be repeated.
_KINDS: dict[str, Any] = {
    "env": str,
    "env_params": dict,
    "algorithm": str,
    "config": dict,
    "num_seeds": int,
    "seed": int,
    "preset": str,
    "sweep": list | None,
    "placement": str,
    "checkpoint_every": int | str | None,
    "keep_checkpoints": int,
    "keep_best": bool,
    "log_names": str,
    "init_from": str | None,
}
_CAME_LATER: dict[str, Any] = {"init_from": None}  # what config.json of earlier versions lacks, and stands for
PICTURES = ("report.html", "curves.png", "sweep.png", "after.gif")  # which show how a run has ended
METRICS, TABLE, SETTINGS = ("metrics.npz", "metrics.csv"), "table.csv", "settings"
KEPT = "kept"  # where the states lie that are filmed beside the first and the last
MOST_NAMED = 8  # diverged runs that a line for people names


@dataclasses.dataclass(frozen=True)
class RunSpec:
    """All that is needed to repeat a run."""

    env: str
    env_params: dict[str, float]
    config: Config
    num_seeds: int
    seed: int
    preset: str
    sweep: tuple[Point, ...] | None = None
    placement: str = "seeds"
    checkpoint_every: int | str | None = None  # these four change no result
    keep_checkpoints: int = KEPT_CHECKPOINTS
    keep_best: bool = False
    log_names: str = "sb3"
    init_from: str | None = None  # the run whose parameters it starts from; they lie in START of its own folder

    @property
    def num_members(self) -> int:
        """Seeds of all settings."""
        return self.num_seeds * len(self.sweep or [{}])

    @property
    def solved_at(self) -> float | None:
        """The return from which a seed has solved its task; of a sweep, in any of its settings. None without one."""
        changed = [
            {name.removeprefix(ENV): value for name, value in point.items() if name.startswith(ENV)}
            for point in self.sweep or [{}]
        ]
        found = [solved_at(self.env, self.env_params | params) for params in changed]
        return next((threshold for threshold in found if threshold is not None), None)


class FinishedRun(NamedTuple):
    """What a run leaves for its pictures and its table."""

    spec: RunSpec
    population: Population
    kept: dict[str, TrainState]  # of seed 0, after the updates that the algorithm films
    summary: dict[str, Any]


class FinishedSweep(NamedTuple):
    """What a sweep leaves for its pictures and its table."""

    spec: RunSpec
    sweep: Sweep
    summary: dict[str, Any]


@dataclasses.dataclass(frozen=True)
class LoadedRun:
    """A run folder, read back. What is large is read when it is asked for."""

    spec: RunSpec
    population: Population
    summary: dict[str, Any]

    @property
    def config(self) -> Config:
        """The hyperparameters."""
        return self.spec.config

    @property
    def agent(self) -> Agent:
        """The agent of the config."""
        return self.population.agent

    @property
    def metrics(self) -> Metrics:
        """[S, U]"""
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


def plan(spec: RunSpec) -> str:
    """For people: what will run where, before it does."""
    config, env = spec.config, make_env(spec.env, **spec.env_params)
    steps = f"{config.actual_timesteps:,} steps"
    if config.actual_timesteps != config.total_timesteps:
        steps += f" ({config.total_timesteps:,} asked for, in whole rollouts of {config.batch_size:,})"
    if spec.placement == "data":
        where = describe_sharing(spec.num_members, jax.devices())
    else:
        where = describe_devices(spec.num_members, jax.devices(), "seed" if spec.sweep is None else "run")
    if jax.process_count() > 1:
        where += f" in {jax.process_count()} processes"
    start = "" if spec.init_from is None else f", from the parameters of {spec.init_from}"
    lines = [f"{spec.env}, preset {spec.preset}: {where}, {steps} each{start}"]
    if spec.sweep is not None:
        lines.insert(0, describe_programs(env, config, spec.sweep, spec.num_seeds))
    return "\n".join(lines)


def train_run(
    spec: RunSpec,
    folder: Path,
    on_chunk: Callable[[Progress], None],
    *,
    memory_limit: int | str | None = None,
    should_stop: Callable[[], bool] = never,
    on_begin: Callable[[str], None] = ignore,
    on_plan: Callable[[MemoryPlan], None] = ignore,
) -> FinishedRun | FinishedSweep | None:
    """Trains and evaluates what `spec` says, and writes its folder. What is in there already is not trained again.

    Of several processes the first one writes; None in the others.
    """
    env, is_first = make_env(spec.env, **spec.env_params), jax.process_index() == 0
    if is_first:
        write_json(folder / "config.json", spec_to_json(spec))

    def keep_and_tell(progress: Progress) -> None:
        if is_first and progress.members[0] == 0 and progress.updates in algorithm_of(spec.config).film_after:
            keep_state(folder, progress)
        on_chunk(progress)

    trained = train_population(
        env,
        spec.config,
        num_seeds=spec.num_seeds,
        seed=spec.seed,
        sweep=spec.sweep,
        placement=spec.placement,
        memory_limit=memory_limit,
        evaluation_episodes=EVALUATION_EPISODES,
        out=folder / RESULTS,
        checkpoint_every=spec.checkpoint_every,
        keep_checkpoints=spec.keep_checkpoints,
        keep_best=spec.keep_best,
        extend=True,  # config.json says how long the run is to be
        init_from=None if spec.init_from is None else load_start(spec, folder),
        report_at=algorithm_of(spec.config).film_after,
        should_stop=should_stop,
        on_begin=on_begin,
        on_plan=on_plan,
        on_chunk=keep_and_tell,
    )
    if not is_first:
        return None
    return write_sweep(spec, trained, folder) if isinstance(trained, Sweep) else write_run(spec, trained, folder)


def save_start(spec: RunSpec, folder: Path, states: TrainState) -> None:
    """Keeps what the seeds of a run start from in its own folder. states: those of another run, [S or more, ...]"""
    save_tree(folder / START, carried(jax.tree.map(lambda x: x[: spec.num_seeds], states)))


def load_start(spec: RunSpec, folder: Path) -> TrainState:
    """What the seeds of a run start from, [S, ...]. Raises PPOError where it is missing or damaged."""
    agent = make_agent(make_env(spec.env, **spec.env_params), spec.config)
    like = carried(jax.eval_shape(agent.init, jax.random.key(0)).train_state)
    has_moments = any(name.startswith(".reward_moments") for name in leaf_names(folder / START))
    like = like.replace(reward_moments=jax.eval_shape(lambda: init_moments(())) if has_moments else None)
    return load_tree(folder / START, of_rows(like, spec.num_seeds))


def extended(spec: RunSpec, folder: Path, total_timesteps: int) -> RunSpec:
    """A run that was begun, with another number of timesteps. Raises PPOError unless it is more than is done."""
    if any("total_timesteps" in point for point in spec.sweep or ()):
        raise PPOError(f"{folder} is a sweep over total_timesteps; leave out --config.total-timesteps")
    config = spec.config.replace(total_timesteps=total_timesteps)
    places = [] if spec.sweep else (folder / RESULTS).glob("program-*")
    done = spec.config.num_updates if is_finished(folder) else max(map(updates_done, places), default=0)
    if config.num_updates <= done:
        steps = done * config.batch_size
        raise PPOError(
            f"total_timesteps = {total_timesteps} is not above the {steps} that {folder} has done; give more"
        )
    return dataclasses.replace(spec, config=config)


def is_extended(spec: RunSpec, folder: Path) -> bool:
    """Whether `spec` is longer, or shorter, than the folder says that its run is."""
    return load_spec(folder).config.total_timesteps != spec.config.total_timesteps


def reopen(folder: Path) -> None:
    """Removes what tells that a run is finished, and what shows its results: it is to go on."""
    for name in (SUMMARY, *METRICS, TABLE, *PICTURES):  # the summary first: without it the run is not finished
        (folder / name).unlink(missing_ok=True)


def check_checkpoints(spec: RunSpec) -> None:
    """Raises PPOError for checkpoints that could not be written."""
    is_shared = spec.placement == "data" and jax.process_count() > 1
    make_policy(spec.checkpoint_every, spec.keep_checkpoints, spec.keep_best, has_folder=True, is_shared=is_shared)


def check_not_lost(spec: RunSpec, folder: Path) -> None:
    """Raises PPOError where the log of a run tells of a checkpoint, and nothing is left: it never starts from zero.

    spec: as the run was begun. Where a checkpoint may not have been due yet, it is a warning.
    """
    done = steps_told(folder) // spec.config.batch_size
    if spec.checkpoint_every is None or done == 0 or any(map(has_states, (folder / RESULTS).glob("program-*"))):
        return
    place = folder / RESULTS
    said = f"{folder} had done {done} of {spec.config.num_updates} updates, and no checkpoint is left in {place}"
    if isinstance(spec.checkpoint_every, int) and done > spec.checkpoint_every:
        raise PPOError(f"{said}; put it back, or remove {folder / PROGRESS} to train from the start")
    warnings.warn(f"{said}: it begins from the start", stacklevel=2)


def keep_state(folder: Path, progress: Progress) -> None:
    """The train state of seed 0 as it is now, for its film."""
    place = folder / KEPT / f"after-{progress.updates}"
    if not place.exists():
        save_tree(place, jax.tree.map(lambda x: x[0], progress.train_states))


def kept_states(folder: Path, like: TrainState) -> dict[str, TrainState]:
    """Those that were kept, in the order of their updates; what is named otherwise is none."""
    names = [path.name.removeprefix("after-") for path in (folder / KEPT).glob("after-*")]
    updates = sorted(int(name) for name in names if re.fullmatch("[0-9]+", name))
    return {f"after-{n}": load_tree(folder / KEPT / f"after-{n}", like) for n in updates}


def write_run(
    spec: RunSpec, population: Population, folder: Path, summary: dict[str, Any] | None = None
) -> FinishedRun:
    """The metrics and the summary of a population. summary: as it was, for metrics that are written anew"""
    write_metrics(folder, metric_names(population), population.column)
    summary = (summary or summarise(spec, population)) | {"files": digests(folder, METRICS)}
    write_json(folder / SUMMARY, summary)
    return read_run(spec, population, folder, summary)


def read_run(spec: RunSpec, population: Population, folder: Path, summary: dict[str, Any]) -> FinishedRun:
    """The same, with the states for the films."""
    return FinishedRun(spec, population, kept_states(folder, population.store.like.runner.train_state), summary)


def write_sweep(spec: RunSpec, sweep: Sweep, folder: Path, summary: dict[str, Any] | None = None) -> FinishedSweep:
    """The metrics of each setting, the table of all and the summary. summary: as for `write_run`"""
    for i, population in enumerate(sweep):
        place = folder / SETTINGS / f"{i:04d}"
        make_folder(place)
        write_metrics(place, metric_names(population), population.column)
    rows = sweep.table()
    write_whole(folder / TABLE, lambda file: file.write(("\n".join(table_lines(rows)) + "\n").encode()))
    summary = summary or {
        "best_setting": rows[0].setting,
        "best_point": rows[0].point,
        "tied_settings": [row.setting for row in rows[1:] if row.ties],
        "evaluation_episodes": EVALUATION_EPISODES,
        "evaluation_episodes_cut": count_cut(list(sweep)),
        "diverged": sum(row.num_diverged for row in rows),
        "diverged_at": [or_none(population.diverged_at) for population in sweep],
        **costs(spec, list(sweep)),
    }
    summary |= {"files": digests(folder, sweep_files(len(sweep)))}
    write_json(folder / SUMMARY, summary)
    return FinishedSweep(spec, sweep, summary)


def sweep_files(num_settings: int) -> list[str]:
    """Those that `write_sweep` writes beside the summary."""
    return [TABLE, *(f"{SETTINGS}/{i:04d}/{name}" for i in range(num_settings) for name in METRICS)]


def metric_names(population: Population) -> list[str]:
    """The columns of its metrics."""
    return population.store.like.metrics.columns()


def table_lines(rows: list[Ranked]) -> list[str]:
    """table.csv, the best setting first."""
    names = list({name: None for row in rows for name in row.point})
    head = ["setting", *names, "seeds", "diverged", "iqm", "iqm_95_low", "iqm_95_high", "area", "ties"]
    lines = [
        [
            row.setting,
            *(show_value(row.point.get(name)) for name in names),
            row.num_seeds,
            row.num_diverged,
            *(f"{x:.9g}" for x in (*row.iqm, row.area)),
            str(row.ties).lower(),
        ]
        for row in rows
    ]
    return [",".join(map(str, line)) for line in [head, *lines]]


def summarise(spec: RunSpec, population: Population) -> dict[str, Any]:
    """summary.json: the greedy returns of the final policies, which seeds diverged, and what the run took."""
    final, diverged_at = population.final_returns(), or_none(population.diverged_at)
    aggregates = aggregate_finite(final, spec.solved_at)._asdict()
    return {
        "final_return_per_seed": final.tolist(),
        **{key: number for name, found in aggregates.items() for key, number in interval_entries(name, found).items()},
        "evaluation_episodes": EVALUATION_EPISODES,
        "evaluation_episodes_cut": count_cut([population]),
        "solved_at": spec.solved_at,
        "seeds_solved": None if spec.solved_at is None else int(np.sum(final >= spec.solved_at)),
        "diverged": sum(x is not None for x in diverged_at),
        "diverged_at": diverged_at,
        **costs(spec, [population]),
    }


def count_cut(populations: list[Population]) -> int | None:
    """How many greedy episodes, of all seeds, were cut before their end; None where older results do not tell."""
    cut = [population.episodes_cut for population in populations]
    return None if any(x is None for x in cut) else sum(int(x.sum()) for x in cut if x is not None)


def aggregate_finite(returns: np.ndarray, target: float | None) -> Aggregates:
    """`aggregate` of the seeds whose return is finite: in an environment that pays NaN some may have none. [S]"""
    finite = returns[np.isfinite(returns)]
    if finite.size:
        return aggregate(finite, target=target)
    return Aggregates(*[Interval(math.nan, math.nan, math.nan)] * len(Aggregates._fields))


def or_none(diverged_at: np.ndarray) -> list[int | None]:
    """The update of each seed that has diverged, None for the others. [S]"""
    return [None if update < 0 else update for update in diverged_at.tolist()]


def describe_divergence(summary: dict[str, Any]) -> str:
    """For people, of a run or a sweep: how many runs have diverged, and which."""
    if "best_setting" in summary:
        rows = enumerate(summary["diverged_at"])
        named = {f"setting {i} seed {j}": update for i, row in rows for j, update in enumerate(row)}
    else:
        named = {f"seed {i}": update for i, update in enumerate(summary["diverged_at"])}
    found = [f"{name} after {update} updates" for name, update in named.items() if update is not None]
    more = ", ..." if len(found) > MOST_NAMED else ""
    return f"{len(found)} of {len(named)} runs diverged: {', '.join(found[:MOST_NAMED])}{more}"


def interval_entries(name: str, interval: Interval) -> dict[str, float]:
    """final_return_NAME and its 95% bounds."""
    return {
        f"final_return_{name}": interval.estimate,
        f"final_return_{name}_95_low": interval.low,
        f"final_return_{name}_95_high": interval.high,
    }


def costs(spec: RunSpec, populations: list[Population]) -> dict[str, Any]:
    """What a run took. Speed is that of the members that this process trained now: None where there were none."""
    programs = {id(population.costs): population.costs for population in populations}.values()
    seconds = sum(spent.train_seconds for spent in programs)
    timesteps = sum(spent.timesteps for spent in programs)
    plans = [spent.plan for spent in programs if spent.plan is not None]
    return {
        "num_seeds": spec.num_seeds,
        "env_steps": sum(population.agent.config.actual_timesteps * spec.num_seeds for population in populations),
        "env_steps_per_second": timesteps / seconds if timesteps else None,
        "compile_seconds": sum(spent.compile_seconds for spent in programs),
        "train_seconds": seconds,
        "peak_memory_bytes": peak_memory_bytes(),
        "planned_memory_bytes": max((plan.peak for plan in plans), default=None),
        "devices": describe_devices(spec.num_seeds, jax.devices()),
    }


def table(finished: FinishedRun, folder: Path) -> dict[str, str]:
    """The rows that a run ends with."""
    summary = finished.summary
    iqm = (summary[f"final_return_iqm{part}"] for part in ("", "_95_low", "_95_high"))
    rows = {"final greedy return, IQM": with_interval(*iqm)}
    if summary["solved_at"] is not None:
        bar = f"mean of {summary['evaluation_episodes']} episodes >= {summary['solved_at']:g}"
        rows["seeds solved"] = f"{summary['seeds_solved']} of {summary['num_seeds']}  ({bar})"
    rows |= cut_rows(summary.get("evaluation_episodes_cut"), summary["evaluation_episodes"] * summary["num_seeds"])
    if summary["diverged"]:
        first = min(update for update in summary["diverged_at"] if update is not None)
        rows["seeds diverged"] = f"{summary['diverged']} of {summary['num_seeds']}  (the first after {first} updates)"
    return rows | speed_rows(summary) | {"run folder": str(folder)}


def cut_rows(num_cut: int | None, num_episodes: int) -> dict[str, str]:
    """A row that says how many episodes of an evaluation were cut; no row where none was, or where that is unknown."""
    if not num_cut:
        return {}
    text = f"{num_cut:,} of {num_episodes:,}  (had not ended after {MAX_STEPS:,} steps; their returns stop there)"
    return {"episodes cut": text}


def sweep_table(finished: FinishedSweep, folder: Path) -> dict[str, str]:
    """The rows that a sweep ends with, below the table of its settings."""
    summary = finished.summary
    num_episodes = EVALUATION_EPISODES * summary["num_seeds"] * len(finished.sweep)
    cut = cut_rows(summary.get("evaluation_episodes_cut"), num_episodes)
    return best_rows(finished.sweep.table()) | cut | speed_rows(summary) | {"sweep folder": str(folder)}


def best_rows(rows: list[Ranked]) -> dict[str, str]:
    """Which setting of a sweep is the best, and how many it ties with. rows: its table"""
    best = rows[0]
    found = {"best setting": show_point(best.point), "its final greedy return, IQM": with_interval(*best.iqm)}
    if best.ties:
        others = sum(row.ties for row in rows) - 1
        is_largest = not (math.isnan(best.area) or best.area == rows[1].area)
        found["it ties with"] = f"{others} other setting{'' if others == 1 else 's'}: the 95% intervals overlap; " + (
            "it has the largest area under the training curve" if is_largest else "no training return tells them apart"
        )
    return found


def speed_rows(summary: dict[str, Any]) -> dict[str, str]:
    """How long a run took."""
    speed = summary["env_steps_per_second"]
    return {
        "seconds to compile": f"{summary['compile_seconds']:.1f}",
        "seconds to train": f"{summary['train_seconds']:.1f}",
        "env-steps per second": "nothing was left to train" if speed is None else f"{speed:,.0f}",
    }


def sweep_rows(finished: FinishedSweep, most: int = 20) -> list[list[str]]:
    """The table of a sweep for people, the names first: at most `most` settings, the best first.

    The columns "diverged", of seeds, and "ties", with the best setting, are there where some do.
    """
    rows = finished.sweep.table()
    names = list({name: None for row in rows for name in row.point})
    digits = [decimals_of(*row.iqm) for row in rows]
    columns = {
        "final greedy return, IQM": [f"{row.iqm.estimate:.{n}f}" for row, n in zip(rows, digits, strict=True)],
        "95% interval": [interval_text(*row.iqm[1:], n) for row, n in zip(rows, digits, strict=True)],
        "mean training return": [show_return(row.area) for row in rows],
    }
    if rows[0].ties:
        columns["ties"] = ["yes" if row.ties else "" for row in rows]
    if any(row.num_diverged for row in rows):
        columns["diverged"] = [str(row.num_diverged) for row in rows]
    shown = [
        [*(show_value(row.point.get(name)) for name in names), *(texts[i] for texts in columns.values())]
        for i, row in enumerate(rows[:most])
    ]
    return [[*names, *columns], *shown]


def film_episodes(finished: FinishedRun) -> dict[str, Episode]:
    """Greedy episodes of seed 0, all from one start, by the name of their film: before, after, and in between."""
    agent, last = finished.population.agent, finished.population.seed(0)
    states = {"before": agent.init(last.key).train_state, **finished.kept, "after": last.train_state}
    stacked = jax.tree.map(lambda *x: jnp.stack(x), *states.values())
    key = seed_keys(finished.spec.seed + EVALUATION_SEED, 1)[0]
    return dict(zip(states, record_episodes(agent, stacked, key), strict=True))


def load_run(path: str | Path) -> LoadedRun:
    """A finished run. Raises PPOError for a folder that holds none, or a sweep."""
    folder = as_path("path", path)
    spec, population = _open(folder)
    if isinstance(population, Sweep):
        raise PPOError(f"{str(path)!r} is a sweep; purejaxppo report takes it, and load_sweep reads it")
    return LoadedRun(spec, population, read_summary(folder, spec.num_seeds, None))


def load_sweep(path: str | Path) -> Sweep:
    """A finished sweep. Raises PPOError for a folder that holds none, or a run of one setting."""
    _, sweep = _open(as_path("path", path))
    if isinstance(sweep, Population):
        raise PPOError(f"{str(path)!r} is a run of one setting; read it with load_run")
    return sweep


def load_checkpoint(path: str | Path, which: str | int = "newest", *, setting: int = 0) -> KeptStates:
    """The states that a run has kept, finished or not: "newest", each seed's "best", or those after `which` updates.

    setting: of a sweep, as `load_sweep` numbers them. Raises PPOError where there are none.
    """
    _, population = _open(as_path("path", path))
    settings = population if isinstance(population, Sweep) else [population]
    if not is_index(setting, len(settings)):
        raise PPOError(
            f"setting = {shown(setting)} is not among the {len(settings)} of {str(path)!r}; "
            f"take 0 to {len(settings) - 1}"
        )
    return settings[setting].checkpoint(which)


def load_spec(folder: Path) -> RunSpec:
    """What a run folder says that its run is. Raises PPOError for a folder that says none that can be."""
    if (folder / POPULATION).exists() and not (folder / "config.json").exists():
        raise PPOError(
            f"{str(folder)!r} was written by train_population(out=...), and is no run folder; "
            "read it with open_population(env, config, num_seeds=..., out=...)"
        )
    if not (folder / "config.json").exists() and (below := runs_below(folder)):
        more = ", ..." if len(below) > MOST_NAMED else ""
        raise PPOError(
            f"{str(folder)!r} is no run folder, and holds {len(below)}; give one of them, the newest first: "
            f"{', '.join(map(str, below[:MOST_NAMED]))}{more}"
        )
    spec = spec_from_json(read_json(folder / "config.json"), folder)
    try:
        check_whole("num_seeds", spec.num_seeds)
        check_seed("seed", spec.seed, most=MAX_SEED - EVALUATION_SEED)
        make_env(spec.env, **spec.env_params)
    except PPOError as error:
        raise PPOError(f"{folder / 'config.json'}: {error}") from None
    return spec


def runs_below(folder: Path) -> list[Path]:
    """The run folders right below a folder, the newest first."""
    found = {path.parent: path.stat().st_mtime for path in folder.glob("*/config.json")}
    return sorted(found, key=lambda path: (-found[path], path))


def mend_finished(folder: Path) -> tuple[FinishedRun | FinishedSweep, list[str]]:
    """What a run or a sweep has left for its pictures and its table, and which files were written anew for that.

    Raises PPOError where a result is missing or damaged, from which they are written.
    """
    spec, found = _open(folder)
    settings = list(found) if isinstance(found, Sweep) else [found]
    for store in {id(population.store): population.store for population in settings}.values():
        check_results(store, folder)
    summary, damaged = look_over(folder, spec, len(settings) if isinstance(found, Sweep) else None)
    if summary is not None and not damaged:
        read = (
            FinishedSweep(spec, found, summary) if isinstance(found, Sweep) else read_run(spec, found, folder, summary)
        )
        return read, []
    if isinstance(found, Sweep):
        return write_sweep(spec, found, folder, summary), damaged
    return write_run(spec, found, folder, summary), damaged


def look_over(folder: Path, spec: RunSpec, num_settings: int | None) -> tuple[dict[str, Any] | None, list[str]]:
    """The summary of a run that says it is finished, if it can be, and the files that are not those of that time."""
    try:
        summary = read_summary(folder, spec.num_seeds, num_settings)
    except PPOError:
        return None, [SUMMARY]
    known = summary.get("files", {})
    held = digests(folder, METRICS if num_settings is None else sweep_files(num_settings))
    return with_nans(summary), [name for name, now in held.items() if now is None or known.get(name) != now]


def check_results(store: Store, folder: Path) -> None:
    """Raises PPOError where results of a finished run are missing or damaged."""
    if not isinstance(store, DiskStore):
        return
    remedy = f"remove {folder / SUMMARY} to train them anew with --resume"
    for first, last in store.missing():
        raise PPOError(f"{folder} is finished, and {store.folder} lacks members {first} to {last - 1}; {remedy}")
    for part in map(part_name, store.parts()):
        for place in (store.folder / name / part for name in ("runners", "metrics", "best")):
            try:
                if place.exists() or place.parent.name != "best":
                    check_tree(place)
            except PPOError as error:
                where = store.folder / "runners" / part
                raise PPOError(f"{error}; to train these members anew, remove {where} and {folder / SUMMARY}") from None


def is_finished(folder: Path) -> bool:
    """Whether the run of a folder has been written whole: its summary comes last."""
    return (folder / SUMMARY).exists()


def _open(folder: Path) -> tuple[RunSpec, Population | Sweep]:
    spec = load_spec(folder)
    env = make_env(spec.env, **spec.env_params)
    opened = open_population(
        env,
        spec.config,
        num_seeds=spec.num_seeds,
        seed=spec.seed,
        sweep=spec.sweep,
        evaluation_episodes=EVALUATION_EPISODES,
        out=folder / RESULTS,
    )
    return spec, opened


def spec_to_json(spec: RunSpec) -> dict[str, Any]:
    """config.json."""
    fields = dataclasses.fields(spec.config)
    config = {field.name: _json_number(getattr(spec.config, field.name)) for field in fields}
    return {
        "env": spec.env,
        "env_params": spec.env_params,
        "algorithm": algorithm_of(spec.config).name,
        "config": config,
        "num_seeds": spec.num_seeds,
        "seed": spec.seed,
        "preset": spec.preset,
        "sweep": None if spec.sweep is None else [_json_point(point) for point in spec.sweep],
        "placement": spec.placement,
        "checkpoint_every": spec.checkpoint_every,
        "keep_checkpoints": spec.keep_checkpoints,
        "keep_best": spec.keep_best,
        "log_names": spec.log_names,
        "init_from": spec.init_from,
        "actual_timesteps": spec.config.actual_timesteps,
        "versions": versions(),
        "git_revision": git_revision(),
    }


def spec_from_json(content: dict[str, Any], folder: Path) -> RunSpec:
    """The inverse of `spec_to_json`. Raises PPOError for what that never writes."""
    path, content = folder / "config.json", _CAME_LATER | content
    for name, kind in _KINDS.items():
        if name not in content:
            raise PPOError(f"{path} lacks '{name}'; it is no run's config")
        if not isinstance(content[name], kind) or (isinstance(content[name], bool) and kind is not bool):
            raise PPOError(f"{path}: {name} = {shown(content[name])} cannot be; it is no run's config")
    points = content["sweep"]
    if points is not None and not all(isinstance(point, dict) for point in points):
        raise PPOError(f"{path}: sweep = {shown(points)} is no list of names and values; it is no run's config")
    try:
        check_choice("algorithm", content["algorithm"], tuple(algorithm.name for algorithm in ALGORITHMS.values()))
        check_choice("placement", content["placement"], PLACEMENTS)
        check_choice("log_names", content["log_names"], tuple(NAMES))
        config_class = {algorithm.name: cls for cls, algorithm in ALGORITHMS.items()}[content["algorithm"]]
        config = config_class().replace(**_python_point(content["config"]))
    except PPOError as error:
        raise PPOError(f"{path}: {error}") from None
    names = [field.name for field in dataclasses.fields(RunSpec) if field.name not in ("config", "sweep")]
    return RunSpec(
        config=config,
        sweep=None if points is None else tuple(map(_python_point, points)),
        **{name: content[name] for name in names},
    )


def _json_number(x: Any) -> Any:
    return str(x) if isinstance(x, float) and not math.isfinite(x) else x


def _json_point(point: Point) -> dict[str, Any]:
    return {name: _json_number(value) for name, value in point.items()}


def _python_point(point: dict[str, Any]) -> Point:
    return {name: _python_value(value) for name, value in point.items()}


def _python_value(x: Any) -> Any:
    if isinstance(x, list):
        return tuple(x)
    return float(x) if isinstance(x, str) and x in ("inf", "-inf", "nan") else x
