"""The jobs of a population, one for each program, and the folder that their results are in."""

import dataclasses
import functools
import hashlib
import inspect
import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from purejaxppo.envs.base import Environment
from purejaxppo.envs.suites import Adapted
from purejaxppo.population.algorithms import ALGORITHMS
from purejaxppo.population.checkpoints import (
    NO_CHECKPOINTS,
    has_states,
    holding_rows,
    reopen_parts,
    split_rows,
    unfinished,
    updates_done,
)
from purejaxppo.population.options import Experiment, MakeAgent, Options, ignore
from purejaxppo.population.processes import barrier
from purejaxppo.population.program import Job, member_shapes
from purejaxppo.population.store import DiskStore, Rows, make_memory_store, missing_rows
from purejaxppo.population.sweep import Point, make_programs
from purejaxppo.ppo.config import Config
from purejaxppo.utils.errors import PPOError
from purejaxppo.utils.files import completed, make_folder, plain, read_json, write_json

POPULATION = "population.json"  # describes the population of a folder
TOTAL = "config.total_timesteps"  # in it; may grow
OBJECT = "env_object"  # the attributes of the environment's object
MOST_NESTED = 3  # objects within each other that are looked through
WRITTEN_OUT = 1_000  # numbers of an array that `str` writes out, at most
PRINTED = {"precision": 8, "threshold": WRITTEN_OUT, "edgeitems": 3, "linewidth": 75, "suppress": False, "sign": "-"}
PRINTED |= {"nanstr": "nan", "infstr": "inf", "formatter": None, "floatmode": "maxprec", "legacy": False}  # as at first
FIVE = {"network", "optimizer", "loss", "advantage", "schedules"}  # parts that every folder tells of


def make_jobs(experiment: Experiment, points: Sequence[Point]) -> list[Job]:
    """The work left for this process, by program. Members lie setting by setting, and seed by seed in each.

    Raises PPOError if the folder holds another population, or with `extend` a longer one.
    """
    options, programs = experiment.options, make_programs(experiment.env, experiment.config, points)
    sizes = [(member_shapes(program, options), len(program.settings) * experiment.num_seeds) for program in programs]
    if options.out is None:
        stores = [make_memory_store(*each) for each in sizes]
    else:
        about = describe_population(experiment, points)
        defaults = {"config": describe_config(type(experiment.config)())}
        of_states = {**about, "config": {x: y for x, y in about["config"].items() if x != "total_timesteps"}}
        of_states.pop(OBJECT, None)  # not all of these need be the same
        folders = [options.out / f"program-{i}" for i in range(len(programs))]
        stores = [DiskStore(*each, place, of_states, defaults) for each, place in zip(sizes, folders, strict=True)]
        if jax.process_index() == 0:
            claim(options.out, about, defaults, stores, extend=options.extend)
        barrier("claimed")
        if not is_claimed(options.out, about, defaults):  # the other processes see whether it is theirs
            raise PPOError(f"{str(options.out)!r} is not the folder that process 0 sees; give one on a shared disk")
    jobs = [
        Job(experiment, program, store, missing_rows(store)) for program, store in zip(programs, stores, strict=True)
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


def claim(
    place: Path,
    about: dict[str, Any],
    defaults: Mapping[str, Mapping[str, Any]],
    stores: Sequence[DiskStore],
    *,
    extend: bool,
) -> None:
    """Takes the folder for this population. Raises PPOError if it is another's, or has done more updates."""
    held = is_claimed(place, about, defaults, but=TOTAL if extend else None)
    for store in stores if held and extend else []:
        done = updates_done(store.folder)
        if done > store.num_updates:
            raise PPOError(
                f"{store.folder} has done {done} updates, and total_timesteps gives {store.num_updates}; give more"
            )
    if extend or not held:
        make_folder(place)
        write_json(place / POPULATION, about)
    for store in stores:
        for folder in (store.folder, *(store.folder / name for name in ("runners", "metrics", "best", "unfinished"))):
            if os.path.lexists(folder) and not folder.is_dir():
                raise PPOError(f"{str(folder)!r} is not a folder, and results belong there; remove it")
        if extend:
            reopen_parts(store)


def is_claimed(
    place: Path, about: dict[str, Any], defaults: Mapping[str, Mapping[str, Any]], but: str | None = None
) -> bool:
    """True if the folder holds this population, False if it holds none yet.

    defaults: values for names that an older folder lacks, by the name of the dict that they are in
    Raises PPOError if it holds another one, and names the first difference; a difference in `but` does not count.
    """
    if not os.path.exists(place / POPULATION):
        return False
    held, wanted = flattened(completed(read_json(place / POPULATION), defaults)), flattened(about)
    for name in {**wanted, **held}:
        if name.startswith(f"{OBJECT}.") and not (name in held and name in wanted):
            continue  # an attribute that an object has only after some use, or a folder from before they were kept
        if name != but and held.get(name) != wanted.get(name):
            raise PPOError(
                f"{str(place)!r} holds another population: its {name} is {held.get(name)}, "
                f"and {wanted.get(name)} is wanted; give what it holds, or choose another folder"
            )
    return True


def flattened(about: dict[str, Any]) -> dict[str, Any]:
    """The description with its hyperparameters as "config.NAME", and so the attributes of the environment's object."""
    inner = {name: part for name in ("config", OBJECT) if isinstance(part := about.get(name), dict)}
    named = {f"{name}.{own}": value for name, part in inner.items() for own, value in part.items()}
    return {**about, **dict.fromkeys(inner), OBJECT: None, **named}


def describe_population(experiment: Experiment, points: Sequence[Point]) -> dict[str, Any]:
    """Everything that decides the results of a population, for its folder: another one must not go on in it."""
    options = experiment.options
    return {
        **describe_base(experiment.env, experiment.config),
        "settings": [{name: described(value) for name, value in point.items()} for point in points],
        "num_seeds": experiment.num_seeds,
        "seed": experiment.seed,
        "evaluation_episodes": options.evaluation_episodes,
        "init_from": options.start.digest,
        **({"first_seed": options.first_seed} if options.first_seed else {}),  # folders of earlier versions lack it
        **describe_agent(options.make_agent),
    }


def describe_base(env: Environment, config: Config) -> dict[str, Any]:
    """The environment and the hyperparameters as text, for a folder."""
    params = [described(x) for x in jax.tree.leaves(env.params)]
    own = attributes_of(env)  # older folders lack them
    return {"env": env.name, "env_params": params, "config": describe_config(config), **({OBJECT: own} if own else {})}


def attributes_of(env: Environment) -> dict[str, str]:
    """The numbers and texts in the object of a user's environment, and in the objects within it, as text by name."""
    step = getattr(getattr(env.step, "__self__", None), "step_object", None)
    own = getattr(step, "__self__", None)
    return {} if isinstance(own, Adapted) else dict(attributes("", own, MOST_NESTED))


def attributes(name: str, value: Any, depth: int) -> Iterator[tuple[str, str]]:
    """The numbers and texts within a value, by name. Functions and what is nested deeper are left out."""
    if isinstance(value, Environment):
        yield f"{name}.name", value.name
        yield from ((f"{name}.{own}", text) for own, text in attributes_of(value).items())
    elif isinstance(value, bool | int | float | str | np.generic | np.ndarray | jax.Array):
        yield name, described(value)
    elif isinstance(value, tuple | list) and all(isinstance(x, bool | int | float) for x in value):
        yield name, described(np.asarray(value))
    elif depth and not callable(value):
        inner = dict(enumerate(value)) if isinstance(value, tuple | list) else value
        for own, x in (inner if isinstance(inner, dict) else getattr(inner, "__dict__", {})).items():
            yield from attributes(f"{name}.{own}".removeprefix("."), x, depth - 1)


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
    return {field.name: described(plain(getattr(config, field.name))) for field in dataclasses.fields(config)}


def described(value: Any) -> str:
    """A value as text, the same in every process, with a digest of long arrays, of which the text has few numbers."""
    arrays = [x for x in jax.tree.leaves(value) if isinstance(x, np.ndarray | jax.Array) and x.size > WRITTEN_OUT]
    digest = hashlib.sha256(b"".join(np.asarray(x).tobytes() for x in arrays)).hexdigest()
    with np.printoptions(**PRINTED):  # the user may have set others
        return f"{value} sha256 {digest}" if arrays else str(value)


def tell_begin(jobs: Sequence[Job], options: Options, *, is_begun: bool) -> None:
    """Says where the members on disk go on. Without an `on_begin`, missing checkpoints are a warning."""
    stores = [job.store for job in jobs if isinstance(job.store, DiskStore)]
    if jax.process_index() > 0 or not stores:
        return
    for store in stores:
        options.on_begin(describe_begin(store))
    expects_some = is_begun and options.checkpoints._replace(kept=0) != NO_CHECKPOINTS._replace(kept=0)
    if options.on_begin is ignore and expects_some and not any(has_states(store.folder) for store in stores):
        warnings.warn(
            f"{str(options.out)!r} was begun before, and there is no checkpoint in it: it begins from the start",
            stacklevel=5,
        )


def describe_begin(store: DiskStore) -> str:
    """A line for people: where the members of a program go on, how many are finished or begin from the start."""
    missing = missing_rows(store)
    left = sum(last - first for first, last in missing)
    if not left:
        return f"all {store.num_members} runs are finished"
    finished, goes_on, begun = store.num_members - left, [], unfinished(store.folder)
    for first, last in split_rows(missing, begun):
        part = holding_rows(begun, (first, last))
        if part is not None:
            which = "" if last - first == store.num_members else f" for runs {first} to {last - 1}"
            goes_on.append(f"after {begun[part][-1]} of {store.num_updates} updates{which}")
            left -= last - first
    if not goes_on and not finished:
        return "begins from the start: there is no checkpoint"
    if left:
        goes_on.append(f"from the start for {left} runs, which have no checkpoint")
    return f"goes on {', '.join(goes_on)}" + (f"; {finished} runs are finished" if finished else "")
