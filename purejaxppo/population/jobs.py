"""The jobs of a population, one for each program, and the folder that their results are in."""

import contextlib
import dataclasses
import functools
import inspect
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from purejaxppo.envs.base import Environment
from purejaxppo.population.algorithms import ALGORITHMS
from purejaxppo.population.checkpoints import (
    NO_CHECKPOINTS,
    checkpoint_folder,
    checkpoints,
    has_states,
    holding_rows,
    reopen_parts,
    split_rows,
    unfinished_rows,
    updates_done,
)
from purejaxppo.population.options import MakeAgent, Options, ignore
from purejaxppo.population.processes import barrier
from purejaxppo.population.program import Job, member_shapes
from purejaxppo.population.store import (
    POPULATION,
    TOTAL,
    DiskStore,
    Rows,
    check_folders,
    claim,
    holds,
    make_memory_store,
)
from purejaxppo.population.sweep import Point, make_programs
from purejaxppo.ppo.config import Config
from purejaxppo.utils.errors import PPOError
from purejaxppo.utils.files import make_folder, write_json
from purejaxppo.utils.lock import locked

FIVE = {"network", "optimizer", "loss", "advantage", "schedules"}  # parts that every folder tells of


def make_jobs(
    env: Environment, config: Config, points: Sequence[Point], num_seeds: int, seed: int, options: Options
) -> list[Job]:
    """The work left for this process, by program. Members lie setting by setting, and seed by seed in each.

    Raises PPOError if the folder holds another population, or with `extend` a longer one.
    """
    about = describe_population(env, config, points, num_seeds, seed, options)
    defaults = {"config": describe_config(type(config)())}
    programs = make_programs(env, config, points)
    likes = [member_shapes(program, options) for program in programs]
    sizes = [len(program.settings) * num_seeds for program in programs]
    if options.out is None:
        stores = [make_memory_store(*each) for each in zip(likes, sizes, strict=True)]
    else:
        of_states = {**about, "config": {x: y for x, y in about["config"].items() if x != "total_timesteps"}}
        stores = [
            DiskStore(like, num_members, options.out / f"program-{i}", of_states, defaults)
            for i, (like, num_members) in enumerate(zip(likes, sizes, strict=True))
        ]
        if jax.process_index() == 0:
            claim_stores(options.out, about, defaults, stores, extend=options.extend)
        barrier("claimed")
        claim(options.out, about, defaults)  # the other processes find it there, and see whether it is theirs
    start = options.start.train_states
    jobs = [
        Job(program, num_seeds, seed, store, store.missing(), start)
        for program, store in zip(programs, stores, strict=True)
    ]
    barrier("planned")  # all have seen what is missing, before the first writes
    if options.placement == "data":
        return jobs
    here = (jax.process_index(), jax.process_count())
    return [job._replace(rows=own_rows(job.rows, *here)) for job in jobs]


def own_rows(rows: Sequence[Rows], process: int, num_processes: int) -> list[Rows]:
    """The share of one process in the rows: evenly divided, and in order."""
    members = np.concatenate([np.arange(first, last) for first, last in rows]) if rows else np.arange(0)
    mine = np.array_split(members, num_processes)[process]
    pieces = np.split(mine, np.flatnonzero(np.diff(mine) != 1) + 1)
    return [(int(piece[0]), int(piece[-1]) + 1) for piece in pieces if piece.size]


def claim_stores(
    place: Path,
    about: dict[str, Any],
    defaults: Mapping[str, Mapping[str, Any]],
    stores: Sequence[DiskStore],
    *,
    extend: bool,
) -> None:
    """Takes the folder for this population. Raises PPOError if it is another's, or has done more updates."""
    if not extend:
        claim(place, about, defaults)
    elif holds(place, about, defaults, but=TOTAL):
        for store in stores:
            done, num_updates = updates_done(store.folder), store.like.metrics.updates.shape[0]
            if done > num_updates:
                raise PPOError(
                    f"{store.folder} has done {done} updates, and total_timesteps gives {num_updates}; give more"
                )
        write_json(place / POPULATION, about)
    else:
        claim(place, about, defaults)
    for store in stores:
        check_folders(store.folder)
        if extend:
            reopen_parts(store)


def describe_population(
    env: Environment, config: Config, points: Sequence[Point], num_seeds: int, seed: int, options: Options
) -> dict[str, Any]:
    """Everything that decides the results of a population, for its folder: another one must not go on in it."""
    return {
        "env": env.name,
        "env_params": [str(x) for x in jax.tree.leaves(env.params)],
        "config": describe_config(config),
        "settings": [{name: str(value) for name, value in point.items()} for point in points],
        "num_seeds": num_seeds,
        "seed": seed,
        "evaluation_episodes": options.evaluation_episodes,
        "init_from": options.start.digest,
        **describe_agent(options.make_agent),
    }


def describe_agent(make_agent: MakeAgent | None) -> dict[str, Any]:
    """The parts of the agent that are the caller's own: the keywords of `functools.partial`, and its function."""
    parts: dict[str, Any] = {}
    while isinstance(make_agent, functools.partial):
        parts, make_agent = {**make_agent.keywords, **parts}, make_agent.func
    takes = inspect.signature(make_agent).parameters if parts and make_agent is not None else {}
    own = {name for name, part in parts.items() if name not in takes or part is not takes[name].default}
    factories = [None, *(algorithm.make_agent for algorithm in ALGORITHMS.values())]
    return {
        **{f"own_{name}": name in own for name in ("network", "optimizer", "loss", "advantage")},
        "own_schedules": sorted(parts.get("schedules") or {}),
        **{f"own_{name}": True for name in own - FIVE},  # those are not in folders of earlier versions
        **({} if make_agent in factories else {"own_agent": True}),
    }


def describe_config(config: Config) -> dict[str, str]:
    """The hyperparameters as text, for the folder."""
    return {field.name: str(getattr(config, field.name)) for field in dataclasses.fields(config)}


@contextlib.contextmanager
def held(folder: Path | None) -> Iterator[None]:
    """Keeps others from training in a folder meanwhile; of several processes the first one holds it for all.

    Raises PPOError if another process trains there, or if the folder cannot be made.
    """
    if folder is None or jax.process_index() > 0:
        yield
        return
    make_folder(folder)
    with locked(folder):
        yield


def tell_begin(jobs: Sequence[Job], options: Options, *, is_begun: bool) -> None:
    """Says where the members on disk go on. Without an `on_begin`, missing checkpoints are a warning."""
    stores = [(job.program, job.store) for job in jobs if isinstance(job.store, DiskStore)]
    if jax.process_index() > 0 or not stores:
        return
    for program, store in stores:
        options.on_begin(describe_begin(store, program.config.num_updates))
    expects_some = is_begun and options.checkpoints._replace(kept=0) != NO_CHECKPOINTS._replace(kept=0)
    if options.on_begin is ignore and expects_some and not any(has_states(store.folder) for _, store in stores):
        warnings.warn(
            f"{str(options.out)!r} was begun before, and there is no checkpoint in it: it begins from the start",
            stacklevel=3,
        )


def describe_begin(store: DiskStore, num_updates: int) -> str:
    """A line for people: where the members of a program go on, how many are finished or begin from the start."""
    missing = store.missing()
    left = sum(last - first for first, last in missing)
    if not left:
        return f"all {store.num_members} runs are finished"
    goes_on = []
    for first, last in split_rows(missing, unfinished_rows(store.folder)):
        part = holding_rows(store.folder, (first, last))
        if part is not None:
            done = checkpoints(checkpoint_folder(store.folder, part))[-1]
            which = "" if last - first == store.num_members else f" for runs {first} to {last - 1}"
            goes_on.append(f"after {done} of {num_updates} updates{which}")
            left -= last - first
    finished = store.num_members - sum(last - first for first, last in missing)
    if not goes_on and not finished:
        return "begins from the start: there is no checkpoint"
    if left:
        goes_on.append(f"from the start for {left} runs, which have no checkpoint")
    return f"goes on {', '.join(goes_on)}" + (f"; {finished} runs are finished" if finished else "")
