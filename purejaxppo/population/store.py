"""The store of a population's results, which fills up as its chunks finish: in memory, or in parts on disk."""

import dataclasses
import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from purejaxppo.ppo.types import Metrics, RunnerState, count_timesteps
from purejaxppo.utils.errors import PPOError
from purejaxppo.utils.files import added, as_key, is_key, leaf_names, load_leaf, load_tree, save_tree
from purejaxppo.utils.tree import PyTree

Rows = tuple[int, int]  # members first ... last - 1
PART = r"([0-9]{8,})-([0-9]{8,})"  # the name of a part's folder


class MemberResult(NamedTuple):
    """The results of one member; of several, with a leading axis; or the shapes of either."""

    runner: RunnerState  # the final state
    metrics: Metrics  # [U]
    returns: Any  # [E], of greedy episodes at the end
    episodes_cut: Any  # [] int32, how many of them reached the limit of steps before their end


@dataclasses.dataclass(frozen=True)
class Columns:
    """Reads the results of members, which a store keeps as arrays."""

    like: MemberResult  # the shapes of one member's results
    num_members: int

    def leaf(self, name: str, rows: Rows) -> np.ndarray:
        """An array of `as_played`, by its path in it, [n, ...]."""
        raise NotImplementedError

    def metrics(self, rows: Rows) -> Metrics:
        """The metrics of some members, [n, U]. Raises PPOError if the results are of a shorter run."""
        read = lambda path, _: self.leaf(jax.tree_util.keystr(path), rows)  # noqa: E731
        return jax.tree_util.tree_map_with_path(read, {"metrics": self.like.metrics})["metrics"]

    def column(self, name: str, rows: Rows) -> np.ndarray:
        """One field of the metrics, or their timesteps, [n, U]; reads no other. Raises PPOError as `metrics` does."""
        if name == "timesteps":
            return count_timesteps(self.column("updates", rows), self.like.metrics.batch_size)
        field = f"extra[{name!r}]" if name in self.like.metrics.extra else name
        return self.leaf(f"['metrics'].{field}", rows)

    def returns(self, rows: Rows) -> np.ndarray:
        """The returns of the greedy episodes, [n, E]."""
        return self.leaf("['returns']", rows)

    def episodes_cut(self, rows: Rows) -> np.ndarray:
        """The number of greedy episodes that were cut, [n]."""
        return self.leaf("['episodes_cut']", rows)


@dataclasses.dataclass(frozen=True)
class MemoryStore(Columns):
    """Results in the memory of this process."""

    data: MemberResult  # NumPy arrays with a leading axis of all members
    done: list[Rows]

    def parts(self) -> list[Rows]:
        """The members whose results were written together, in order."""
        return sorted(self.done)

    def write(self, first: int, result: MemberResult) -> None:
        """Keeps the results."""
        rows = (first, first + len(result.returns))
        jax.tree.map(lambda every, x: np.copyto(every[slice(*rows)], x), self.data, result)
        self.done.append(rows)

    def runners(self, rows: Rows) -> RunnerState:
        """The final states of some members, [n, ...]."""
        typed = lambda like, x: as_key(x[slice(*rows)], like) if is_key(like) else x[slice(*rows)]  # noqa: E731
        return jax.tree.map(typed, self.like.runner, self.data.runner)

    def leaf(self, name: str, rows: Rows) -> np.ndarray:
        """An array of `as_played`, by its path in it, [n, ...]."""
        leaves = jax.tree_util.tree_leaves_with_path(as_played(self.data))
        return {jax.tree_util.keystr(path): leaf for path, leaf in leaves}[name][slice(*rows)]


@dataclasses.dataclass(frozen=True)
class DiskStore(Columns):
    """Results in parts below `folder`: one per chunk. Its runners are written last, and make it whole."""

    folder: Path
    about: Mapping[str, Any] = dataclasses.field(default_factory=dict)  # the population, for the manifests
    defaults: Mapping[str, Mapping[str, Any]] = dataclasses.field(default_factory=dict)  # of names that older ones lack

    @property
    def num_updates(self) -> int:
        """The number of updates of a member, U."""
        return self.like.metrics.updates.shape[0]

    def parts(self) -> list[Rows]:
        """The parts on disk, in order. Raises PPOError for a file that does not belong to this population."""
        folder = self.folder / "runners"
        for name in names_in(folder):
            if not re.fullmatch(PART, name) and not name.startswith("."):
                raise PPOError(f"{str(folder)!r} holds {name!r}, which is not a part of a population; remove it")
        parts = parts_in(folder)
        if parts and parts[-1][1] > self.num_members:
            raise PPOError(f"{self.folder} holds member {parts[-1][1] - 1}, and there are {self.num_members}")
        return parts

    def write(self, first: int, result: MemberResult) -> None:
        """Adds a part with the results."""
        name = part_name((first, first + len(result.returns)))
        shutil.rmtree(self.folder / "metrics" / name, ignore_errors=True)  # of a process that died between the two
        save_tree(self.folder / "metrics" / name, as_played(result), self.about)
        save_tree(self.folder / "runners" / name, result.runner, self.about)

    def read(self, folder: Path, like: PyTree) -> PyTree:
        """Reads a pytree of this population. Raises PPOError if it is damaged, or of another one."""
        return load_tree(folder, like, self.about, self.defaults)

    def runners(self, rows: Rows) -> RunnerState:
        """The final states of some members, [n, ...]."""
        parts = []
        for part, cut in self._holding(rows):
            folder, like = self.folder / "runners" / part_name(part), of_rows(self.like.runner, part)
            runners = load_tree(folder, like, self.about, self.defaults, on_host=True)
            parts.append(jax.tree.map(lambda x, cut=cut: x[cut], runners))
        return jax.tree.map(lambda *x: (jnp if is_key(x[0]) else np).concatenate(x), *parts)

    def leaf(self, name: str, rows: Rows) -> np.ndarray:
        """An array of `as_played`, by its path in it, [n, ...]. Raises PPOError for metrics of a shorter run."""
        parts = [(self.folder / "metrics" / part_name(part), cut) for part, cut in self._holding(rows)]
        leaf = np.concatenate([self._leaf_of(place, name)[cut] for place, cut in parts])
        if name.startswith("['metrics']") and leaf.shape[1] != self.num_updates:
            raise PPOError(
                f"{self.folder} holds {leaf.shape[1]} of {self.num_updates} updates; resume the run, "
                "or call train_population(..., extend=True), to go on"
            )
        return leaf

    def _leaf_of(self, place: Path, name: str) -> np.ndarray:
        """A leaf of one part, [n, ...]; a column that an earlier version did not write has its value in `ADDED`."""
        value = added(name)
        if value is None or name in leaf_names(place):
            return load_leaf(place, name, self.about, self.defaults)
        updates = load_leaf(place, "['metrics'].updates", self.about, self.defaults)
        return np.full(updates.shape, value, np.float32)

    def _holding(self, rows: Rows) -> list[tuple[Rows, slice]]:
        """The parts that hold some members, each with its own rows of them. Raises PPOError if a member is missing."""
        first, last = rows
        holding = [part for part in self.parts() if part[0] < last and part[1] > first]
        lacking = complement(holding, rows)
        if lacking:
            raise PPOError(f"{self.folder} lacks member {lacking[0][0]}; start the population again to go on")
        return [(part, slice(max(first - part[0], 0), last - part[0])) for part in holding]


Store = MemoryStore | DiskStore


def as_played(result: MemberResult) -> dict[str, PyTree]:
    """The results beside the runner, under the names that they have on disk."""
    return {"metrics": result.metrics, "returns": result.returns, "episodes_cut": result.episodes_cut}


def make_memory_store(like: MemberResult, num_members: int) -> MemoryStore:
    """An empty store in memory."""
    key_shapes = jax.eval_shape(key_data, like)
    try:
        data = jax.tree.map(lambda x: np.empty((num_members, *x.shape), x.dtype), key_shapes)
    except (MemoryError, ValueError):  # more than the memory, or more than an address can say
        raise PPOError(
            f"the results of {num_members} members do not fit the memory; write them to disk (out=...)"
        ) from None
    return MemoryStore(like, num_members, data, done=[])


def missing_rows(store: Store) -> list[Rows]:
    """The members that have no results yet."""
    return complement(store.parts(), (0, store.num_members))


def part_name(rows: Rows) -> str:
    """The name of the folder of a part."""
    return f"{rows[0]:08d}-{rows[1]:08d}"


def parts_in(folder: Path) -> list[Rows]:
    """The rows of the parts in a folder, in order."""
    found = [re.fullmatch(PART, name) for name in names_in(folder)]
    return sorted((int(match[1]), int(match[2])) for match in found if match)


def names_in(folder: Path) -> list[str]:
    """The names in a folder; none without a folder. Raises OSError if it cannot be read, where glob finds nothing."""
    try:
        return [path.name for path in folder.iterdir()]
    except (FileNotFoundError, NotADirectoryError):  # none yet, or removed meanwhile
        return []


def complement(parts: Sequence[Rows], rows: Rows) -> list[Rows]:
    """The pieces of `rows` that lie in none of the parts."""
    gaps, (reached, end) = [], rows
    for first, last in [*sorted(parts), (end, end)]:
        if min(first, end) > reached:
            gaps.append((reached, min(first, end)))
        reached = max(reached, last)
    return gaps


def of_rows(like: PyTree, rows: Rows) -> PyTree:
    """The shapes of the members of `rows` from those of one."""
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct((rows[1] - rows[0], *x.shape), x.dtype), like)


def key_data(tree: PyTree) -> PyTree:
    """Replaces typed keys by their data."""
    return jax.tree.map(lambda x: jax.random.key_data(x) if is_key(x) else x, tree)
