"""The store of a population's results, which fills up as its chunks finish: in memory, or in parts on disk."""

import dataclasses
import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from purejaxppo.ppo.types import Metrics, RunnerState, count_timesteps
from purejaxppo.utils.errors import PPOError
from purejaxppo.utils.files import (
    completed,
    is_key,
    leaf_names,
    load_leaf,
    load_tree,
    make_folder,
    read_json,
    save_tree,
    write_json,
)
from purejaxppo.utils.tree import PyTree

Rows = tuple[int, int]  # members first ... last - 1
POPULATION = "population.json"  # describes the population of a folder
TOTAL = "config.total_timesteps"  # in it; may grow
PART = r"([0-9]{8,})-([0-9]{8,})"  # the name of a part's folder


class MemberResult(NamedTuple):
    """The results of one member; of several, with a leading axis; or the shapes of either."""

    runner: RunnerState  # the final state
    metrics: Metrics  # [U]
    returns: Any  # [E], of greedy episodes at the end
    episodes_cut: Any  # [] int32, how many of them reached the limit of steps before their end


@dataclasses.dataclass(frozen=True)
class MemoryStore:
    """Results by member, in the memory of this process."""

    like: MemberResult  # the shapes of one member's results
    num_members: int
    data: MemberResult  # NumPy arrays with a leading axis of all members
    done: list[Rows]

    def missing(self) -> list[Rows]:
        """The members that have no results yet."""
        return complement(self.done, self.num_members)

    def widest(self) -> int:
        """The most members whose results were written at once; 0 before the first."""
        return widest(self.done)

    def write(self, first: int, result: MemberResult) -> None:
        """Keeps the results [n, ...] of the members from `first` on. Keys are given as their data."""
        rows = (first, first + len(result.returns))
        jax.tree.map(lambda every, x: np.copyto(every[slice(*rows)], x), self.data, result)
        self.done.append(rows)

    def runners(self, rows: Rows) -> RunnerState:
        """The final states of some members, [n, ...]."""
        return as_keys(self.like.runner, jax.tree.map(lambda x: x[slice(*rows)], self.data.runner))

    def metrics(self, rows: Rows) -> Metrics:
        """The metrics of some members, [n, U]."""
        return jax.tree.map(lambda x: x[slice(*rows)], self.data.metrics)

    def column(self, name: str, rows: Rows) -> np.ndarray:
        """One field of the metrics, [n, U]."""
        return self.metrics(rows).column(name)

    def returns(self, rows: Rows) -> np.ndarray:
        """The returns of the greedy episodes, [n, E]."""
        return self.data.returns[slice(*rows)]

    def episodes_cut(self, rows: Rows) -> np.ndarray | None:
        """The number of greedy episodes that were cut, [n]."""
        return self.data.episodes_cut[slice(*rows)]


@dataclasses.dataclass(frozen=True)
class DiskStore:
    """Results by member, in parts below `folder`: one per chunk. Its runners are written last, and make it whole."""

    like: MemberResult  # the shapes of one member's results
    num_members: int
    folder: Path
    about: Mapping[str, Any] = dataclasses.field(default_factory=dict)  # the population, for the manifests
    defaults: Mapping[str, Mapping[str, Any]] = dataclasses.field(default_factory=dict)  # of names that older ones lack

    def missing(self) -> list[Rows]:
        """The members that have no part yet. Raises PPOError for a part of a member that does not exist."""
        parts = self.parts()
        if parts and parts[-1][1] > self.num_members:
            raise PPOError(f"{self.folder} holds member {parts[-1][1] - 1}, and there are {self.num_members}")
        return complement(parts, self.num_members)

    def widest(self) -> int:
        """The most members of a part; 0 before the first."""
        return widest(self.parts())

    def parts(self) -> list[Rows]:
        """The parts on disk, in order."""
        folder = self.folder / "runners"
        names = [path.name for path in folder.iterdir() if not path.name.startswith(".")] if folder.is_dir() else []
        for name in names:
            if not re.fullmatch(PART, name):
                raise PPOError(f"{str(folder)!r} holds {name!r}, which is not a part of a population; remove it")
        return parts_in(folder)

    def write(self, first: int, result: MemberResult) -> None:
        """Adds a part with the results [n, ...] of the members from `first` on. Keys are given as their data."""
        name = part_name((first, first + len(result.returns)))
        shutil.rmtree(self.folder / "metrics" / name, ignore_errors=True)  # of a process that died between the two
        played = {"metrics": result.metrics, "returns": result.returns, "episodes_cut": result.episodes_cut}
        save_tree(self.folder / "metrics" / name, played, self.about)
        save_tree(self.folder / "runners" / name, result.runner, self.about)

    def runners(self, rows: Rows) -> RunnerState:
        """The final states of some members, [n, ...]."""
        parts = [self._part(name, size, cut) for name, size, cut in self._of(rows)]
        return jax.tree.map(lambda *x: jnp.concatenate(x), *parts)

    def metrics(self, rows: Rows) -> Metrics:
        """The metrics of some members, [n, U]."""
        fields = [field.name for field in dataclasses.fields(self.like.metrics)]
        columns = {name: self.column(name, rows) for name in fields if name not in ("batch_size", "extra")}
        return self.like.metrics.replace(
            **columns, extra={name: self.column(name, rows) for name in self.like.metrics.extra}
        )

    def column(self, name: str, rows: Rows) -> np.ndarray:
        """One field of the metrics, or their timesteps, [n, U]; reads no other.

        Raises PPOError if the results are of a shorter run, which was to be extended.
        """
        if name == "timesteps":
            return count_timesteps(self.column("updates", rows), self.like.metrics.batch_size)
        if name == "updates":
            column = np.concatenate([self._updates(part)[cut] for part, _, cut in self._of(rows)])
        elif name in self.like.metrics.extra:
            column = self._extra(f"['metrics'].extra[{name!r}]", rows)
        else:
            column = self._leaf(f"['metrics'].{name}", rows)
        num_updates = self.like.metrics.updates.shape[0]
        if column.shape[1] != num_updates:
            raise PPOError(
                f"{self.folder} holds {column.shape[1]} of {num_updates} updates; resume the run, "
                "or call train_population(..., extend=True), to go on"
            )
        return column

    def returns(self, rows: Rows) -> np.ndarray:
        """The returns of the greedy episodes, [n, E]."""
        return self._leaf("['returns']", rows)

    def episodes_cut(self, rows: Rows) -> np.ndarray | None:
        """The number of greedy episodes that were cut, [n]; None in a folder of an older version."""
        name = "['episodes_cut']"
        if not all(name in leaf_names(self.folder / "metrics" / part) for part, _, _ in self._of(rows)):
            return None
        return self._leaf(name, rows)

    def _part(self, name: str, size: int, cut: slice) -> RunnerState:
        part = load_tree(self.folder / "runners" / name, of_rows(self.like.runner, size), self.about, self.defaults)
        return jax.tree.map(lambda x: x[cut], part)

    def _updates(self, part: str) -> np.ndarray:
        """The counts of updates of a part; an older version wrote its timesteps instead."""
        place, old = self.folder / "metrics" / part, "['metrics'].timesteps"
        if os.path.exists(place) and old in leaf_names(place):
            return load_leaf(place, old, self.about, self.defaults) // np.int32(self.like.metrics.batch_size)
        return load_leaf(place, "['metrics'].updates", self.about, self.defaults)

    def _extra(self, name: str, rows: Rows) -> np.ndarray:
        """A number of `Metrics.extra`; NaN if the folder was begun before the environment reported it."""
        if all(name in leaf_names(self.folder / "metrics" / part) for part, _, _ in self._of(rows)):
            return self._leaf(name, rows)
        return np.full((rows[1] - rows[0], *self.like.metrics.updates.shape), np.nan, np.float32)

    def _leaf(self, name: str, rows: Rows) -> np.ndarray:
        folder = self.folder / "metrics"
        parts = [(load_leaf(folder / part, name, self.about, self.defaults), cut) for part, _, cut in self._of(rows)]
        return np.concatenate([leaf[cut] for leaf, cut in parts])

    def _of(self, rows: Rows) -> list[tuple[str, int, slice]]:
        """The parts that hold some members: name, size, and rows in it. Raises PPOError if a member is missing."""
        first, last = rows
        holding = [part for part in self.parts() if part[0] < last and part[1] > first]
        lacking = complement([(a - first, b - first) for a, b in holding], last - first)
        if lacking:
            raise PPOError(f"{self.folder} lacks member {first + lacking[0][0]}; start the population again to go on")
        return [
            (part_name(part), part[1] - part[0], slice(max(first - part[0], 0), last - part[0])) for part in holding
        ]


Store = MemoryStore | DiskStore


def claim(folder: Path, description: dict[str, Any], defaults: Mapping[str, Mapping[str, Any]]) -> None:
    """Takes a folder for a population. Raises PPOError if it holds another one, and names the first difference.

    defaults: values for names that an older folder lacks, by the name of the dict that they are in
    """
    if not holds(folder, description, defaults):
        make_folder(folder)
        write_json(folder / POPULATION, description)


def holds(
    folder: Path, description: dict[str, Any], defaults: Mapping[str, Mapping[str, Any]], but: str | None = None
) -> bool:
    """True if the folder is for this population, False if for none yet.

    Raises PPOError if it holds another one, and names the first difference; a difference in `but` does not count.
    """
    path = folder / POPULATION
    if not os.path.exists(path):
        return False
    held, wanted = flattened(completed(read_json(path), defaults)), flattened(description)
    for name in {**wanted, **held}:
        if name != but and held.get(name) != wanted.get(name):
            raise PPOError(
                f"{str(folder)!r} holds another population: its {name} is {held.get(name)}, "
                f"and {wanted.get(name)} is wanted; choose another folder"
            )
    return True


def check_folders(folder: Path) -> None:
    """Raises PPOError if a file has the name of a folder that a program writes to."""
    for place in (folder, *(folder / name for name in ("runners", "metrics", "best", "unfinished"))):
        if os.path.lexists(place) and not place.is_dir():
            raise PPOError(f"{str(place)!r} is not a folder, and results belong there; remove it")


def flattened(description: dict[str, Any]) -> dict[str, Any]:
    """The description with its hyperparameters as "config.NAME"."""
    config = description.get("config")
    fields = {f"config.{name}": value for name, value in config.items()} if isinstance(config, dict) else {}
    return {**description, **fields, "config": None} if fields else description


def make_memory_store(like: MemberResult, num_members: int) -> MemoryStore:
    """An empty store in memory."""
    try:
        data = jax.tree.map(lambda x: np.empty((num_members, *x.shape), x.dtype), jax.eval_shape(key_data, like))
    except (MemoryError, ValueError):  # more than the memory, or more than an address can say
        raise PPOError(
            f"the results of {num_members} members do not fit the memory; write them to disk (out=...)"
        ) from None
    return MemoryStore(like, num_members, data, done=[])


def part_name(rows: Rows) -> str:
    """The name of the folder of a part."""
    return f"{rows[0]:08d}-{rows[1]:08d}"


def parts_in(folder: Path) -> list[Rows]:
    """The rows of the parts in a folder, in order."""
    names = [path.name for path in folder.iterdir()] if folder.is_dir() else []
    found = [re.fullmatch(PART, name) for name in names]
    return sorted((int(match[1]), int(match[2])) for match in found if match)


def complement(done: list[Rows], num_members: int) -> list[Rows]:
    """The rows of 0 ... num_members - 1 that are not in `done`."""
    gaps, reached = [], 0
    for first, last in sorted(done):
        if first > reached:
            gaps.append((reached, min(first, num_members)))
        reached = max(reached, last)
    return [*gaps, (reached, num_members)] if reached < num_members else gaps


def widest(done: list[Rows]) -> int:
    """The most members of a piece; 0 without any."""
    return max((last - first for first, last in done), default=0)


def of_rows(like: PyTree, num_rows: int) -> PyTree:
    """The shapes of `num_rows` members from those of one."""
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct((num_rows, *x.shape), x.dtype), like)


def key_data(tree: PyTree) -> PyTree:
    """Replaces typed keys by their data."""
    return jax.tree.map(lambda x: jax.random.key_data(x) if is_key(x) else x, tree)


def as_keys(like: PyTree, tree: PyTree) -> PyTree:
    """Makes typed keys of their data where `like` has keys."""
    return jax.tree.map(lambda want, x: jax.random.wrap_key_data(jnp.asarray(x)) if is_key(want) else x, like, tree)
