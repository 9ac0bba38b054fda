"""Checkpoints of a chunk of members while it trains: an interrupted chunk goes on from the newest one.

The folder of a program holds a folder for each unfinished chunk, which holds a folder for each checkpoint, named by the
number of updates done. Each checkpoint appears whole or not at all, with a checksum for every leaf.
"""

import dataclasses
import itertools
import math
import re
import shutil
import warnings
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from purejaxppo.population.statistics import last_returns
from purejaxppo.population.store import DiskStore, Rows, Store, complement, names_in, of_rows, part_name, parts_in
from purejaxppo.population.sweep import check_whole
from purejaxppo.ppo.types import Metrics, RunnerState
from purejaxppo.utils.errors import PPOError
from purejaxppo.utils.files import leaf_names, leaf_shape, save_tree
from purejaxppo.utils.tree import PyTree
from purejaxppo.utils.validation import check_switch

UNFINISHED = "unfinished"
KEPT = 2  # checkpoints: the newest, and one to fall back on
_SECONDS = {"s": 1.0, "m": 60.0, "h": 3_600.0}


class Policy(NamedTuple):
    """When to write checkpoints of a chunk in training, and how many to keep."""

    every: int | None  # updates between two checkpoints
    seconds: float | None  # or the time between them
    kept: int  # how many of the newest stay while the chunk trains
    best: bool  # also keep each member at its best, for good


class Best(NamedTuple):
    """n members, each at the checkpoint with its highest training return, or all at one checkpoint; or their shapes."""

    runners: RunnerState  # [n, ...]
    returns: Any  # [n] training returns there, over a tenth of the updates; NaN if no episode finished in it
    updates: Any  # [n] int32, updates done there


class KeptStates(NamedTuple):
    """Saved states of seeds, from checkpoints or from the end of training."""

    seeds: np.ndarray  # [n], the seeds that have such a state
    updates: np.ndarray  # [n], updates that each of them had done
    returns: np.ndarray  # [n], training returns over a tenth of the run up to there; NaN if no episode finished in it
    runners: RunnerState  # [n, ...], the states


class Checkpoint(NamedTuple):
    """A chunk of n members after some updates."""

    runners: RunnerState  # [n, ...]
    metrics: Metrics  # [n, updates]
    best: Best | None = None


NO_CHECKPOINTS = Policy(every=None, seconds=None, kept=KEPT, best=False)


def make_policy(every: int | str | None, kept: int, best: bool, *, has_folder: bool, is_shared: bool) -> Policy:
    """The policy of these options. Raises PPOError for a bad value, and for checkpoints that could not be written.

    every: updates, or a time such as "60s"; is_shared: True if several processes train each run together
    """
    check_whole("keep_checkpoints", kept, least=1)
    check_switch("keep_best", best)
    if every is None:
        if best:
            raise PPOError("keep_best = True chooses among checkpoints, and there are none; give checkpoint_every=...")
        return NO_CHECKPOINTS._replace(kept=kept)
    seconds = read_seconds(every) if isinstance(every, str) else None
    if seconds is None:
        check_whole("checkpoint_every", every, least=1)
    if not has_folder:
        raise PPOError(f"checkpoint_every = {every} needs a folder to write to; give out=...")
    if seconds is not None and is_shared:
        raise PPOError(f"checkpoint_every = {every!r}: processes that share a run have no common clock; give updates")
    return Policy(None if isinstance(every, str) else every, seconds, kept, best)


def read_seconds(text: str) -> float:
    """The seconds of "60s", "5m" or "1.5h". Raises PPOError for any other text."""
    found = re.fullmatch(r"(\d+\.?\d*|\.\d+)([smh])", text)
    seconds = float(found[1]) * _SECONDS[found[2]] if found else math.nan
    if not 0 < seconds < math.inf:
        raise PPOError(
            f'checkpoint_every = {text!r} is not a time; give "60s", "5m", "1.5h", or updates as a whole number'
        )
    return seconds


def checkpoint_folder(program_folder: Path, rows: Rows) -> Path:
    """The folder of a chunk's checkpoints."""
    return program_folder / UNFINISHED / part_name(rows)


def checkpoints(folder: Path) -> list[int]:
    """The number of updates of each checkpoint in a folder, in order."""
    return sorted(int(name) for name in names_in(folder) if name.isdecimal())


def unfinished(program_folder: Path) -> dict[Rows, list[int]]:
    """The updates of each checkpoint of the chunks that have one, both in order."""
    found = {
        rows: checkpoints(checkpoint_folder(program_folder, rows)) for rows in parts_in(program_folder / UNFINISHED)
    }
    return {rows: updates for rows, updates in found.items() if updates}


def begun_chunks(store: Store) -> dict[Rows, list[int]]:
    """The unfinished chunks of a store, which has none in memory."""
    return unfinished(store.folder) if isinstance(store, DiskStore) else {}


def updates_done(program_folder: Path) -> int:
    """The most updates that a member on disk has done; 0 if none has begun."""
    done = [updates_of(program_folder, part) for part in parts_in(program_folder / "runners")]
    return max(done + [updates[-1] for updates in unfinished(program_folder).values()], default=0)


def has_states(program_folder: Path) -> bool:
    """True if a member on disk has begun, damaged or not."""
    return bool(parts_in(program_folder / "runners") or unfinished(program_folder))


def updates_of(program_folder: Path, part: Rows) -> int:
    """The updates of a finished part, perhaps of a shorter run. Raises PPOError if it is damaged."""
    return leaf_shape(program_folder / "metrics" / part_name(part), "['metrics'].episodes")[1]


def write_checkpoint(store: DiskStore, rows: Rows, updates: int, checkpoint: Checkpoint, kept: int) -> None:
    """Adds a checkpoint, then removes all but the newest `kept`."""
    folder = checkpoint_folder(store.folder, rows)
    write_anew(store, folder / f"{updates:08d}", checkpoint)
    for old in checkpoints(folder)[:-kept]:
        shutil.rmtree(folder / f"{old:08d}")


def write_best(store: DiskStore, part: Rows, best: Best) -> None:
    """Writes the members of a chunk at their best, for good."""
    write_anew(store, store.folder / "best" / part_name(part), best)


def write_anew(store: DiskStore, place: Path, tree: PyTree) -> None:
    """Writes a pytree in place of one that was damaged, or left by a process that died."""
    shutil.rmtree(place, ignore_errors=True)
    save_tree(place, tree, store.about)


def drop_finished(store: Store) -> None:
    """Removes the checkpoints of members whose results are stored."""
    if not isinstance(store, DiskStore):
        return
    for rows in unfinished(store.folder):
        if not complement(store.parts(), rows):
            shutil.rmtree(checkpoint_folder(store.folder, rows), ignore_errors=True)


def holding_rows(begun: Mapping[Rows, list[int]], rows: Rows) -> Rows | None:
    """The chunk of `unfinished` with the most updates that holds all of `rows`; None without one.

    It differs from `rows` if the memory or the devices have changed.
    """
    holding = [part for part in begun if part[0] <= rows[0] and rows[1] <= part[1]]
    return max(holding, key=lambda part: begun[part][-1], default=None)


def find_checkpoint(store: Store, rows: Rows) -> Checkpoint | None:
    """The checkpoint that `rows` go on from; None if they never began. Raises PPOError as `newest_checkpoint` does."""
    if not isinstance(store, DiskStore):
        return None
    part = holding_rows(unfinished(store.folder), rows)
    if part is None:
        return None
    return jax.tree.map(lambda x: x[rows[0] - part[0] : rows[1] - part[0]], newest_checkpoint(store, part))


def newest_checkpoint(store: DiskStore, part: Rows) -> Checkpoint | None:
    """The newest undamaged checkpoint of a chunk; None without any.

    Warns of a damaged one. Raises PPOError if all are damaged: a run never starts again from zero by itself.
    """
    folder, damage = checkpoint_folder(store.folder, part), None
    for updates in reversed(checkpoints(folder)):
        try:
            found = read_checkpoint(store, part, updates)
        except PPOError as error:
            damage = damage or error
            continue
        if damage:
            warnings.warn(f"{damage}; that of update {updates} is used", stacklevel=2)
        return found
    if damage:
        raise PPOError(f"{damage}, with no older checkpoint left; remove {str(folder)!r} to train these members again")
    return None


def read_checkpoint(store: DiskStore, part: Rows, updates: int) -> Checkpoint:
    """Reads a checkpoint of a chunk. Raises PPOError if it is damaged, or of another run."""
    place = checkpoint_folder(store.folder, part) / f"{updates:08d}"
    has_best = any(name.startswith(".best") for name in leaf_names(place))
    like = Checkpoint(store.like.runner, metrics_after(store, updates), best_shapes(store) if has_best else None)
    return store.read(place, of_rows(like, part))


def metrics_after(store: DiskStore, updates: int) -> Metrics:
    """The shapes of one member's metrics after some updates."""
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct((updates,), x.dtype), store.like.metrics)


def read_best(store: DiskStore, part: Rows) -> Best | None:
    """The members of a finished chunk at their best; None if it has not kept them."""
    place = store.folder / "best" / part_name(part)
    return store.read(place, of_rows(best_shapes(store), part)) if place.exists() else None


def best_shapes(store: DiskStore) -> Best:
    """The shapes of one member at its best."""
    return Best(store.like.runner, *(jax.ShapeDtypeStruct((), dtype) for dtype in (jnp.float32, jnp.int32)))


def better(best: Best | None, runners: RunnerState, metrics: Metrics, num_updates: int) -> Best:
    """Replaces those members of `best` that are better now. On the host.

    runners: [n, ...], now; metrics: [n, updates so far] of `num_updates`
    """
    returns = training_returns(metrics, num_updates)
    now = Best(runners, returns, np.full(len(returns), metrics.updates.shape[1], np.int32))
    if best is None:
        return now
    is_better = np.isnan(best.returns) | (returns > best.returns)
    choose = lambda x, y: np.where(is_better.reshape(-1, *[1] * (x.ndim - 1)), x, y)  # noqa: E731
    return jax.tree.map(choose, now, best)


def training_returns(metrics: Metrics, num_updates: int) -> np.ndarray:
    """The training return of each member, as `last_returns` over a tenth of `num_updates`. -> [n]"""
    arrays = (np.asarray(metrics.episode_return_mean), np.asarray(metrics.episodes))
    return last_returns(*arrays, num_updates).astype(np.float32)


def reopen_parts(store: DiskStore) -> None:
    """Turns each part with fewer updates than the run into a checkpoint, so that its members go on from there."""
    for part in store.parts():
        done = updates_of(store.folder, part)
        if done == store.num_updates:
            continue
        shorter = dataclasses.replace(store, like=store.like._replace(metrics=metrics_after(store, done)))
        found = Checkpoint(store.runners(part), shorter.metrics(part), read_best(store, part))
        write_checkpoint(store, part, done, found, KEPT)
        for folder in ("runners", "metrics", "best"):  # the runners first: without them the part does not count
            discard(store.folder / folder / part_name(part))


def discard(folder: Path) -> None:
    """Removes a folder, if it exists, so that nobody sees it half removed."""
    if folder.exists():
        gone = folder.with_name(f".{folder.name}.gone")
        shutil.rmtree(gone, ignore_errors=True)
        folder.rename(gone)
        shutil.rmtree(gone, ignore_errors=True)


def split_rows(rows: Sequence[Rows], parts: Iterable[Rows]) -> list[Rows]:
    """Cuts the rows wherever one of the parts begins or ends."""
    edges = sorted({edge for part in parts for edge in part})
    cuts = [[first, *(edge for edge in edges if first < edge < last), last] for first, last in rows]
    return [piece for cut in cuts for piece in itertools.pairwise(cut)]


def kept_states(store: Store, rows: Rows, which: str | int) -> KeptStates:
    """The "newest" or "best" states of the members of `rows`, or those after `which` updates, of members that have one.

    Raises PPOError if no member has one, and for a damaged checkpoint without an older one to fall back on.
    """
    if not isinstance(store, DiskStore):
        raise PPOError("a population in memory keeps no checkpoints; call train_population with out=...")
    if which not in ("newest", "best") and (not isinstance(which, int) or isinstance(which, bool)):
        raise PPOError(f'checkpoint = {which!r} is unknown; give "newest", "best", or a number of updates')
    begun, taken, pieces = unfinished(store.folder), set(), []
    for part in [*store.parts(), *reversed(begun)]:
        wanted = [i for i in range(max(part[0], rows[0]), min(part[1], rows[1])) if i not in taken]
        found = states_of_part(store, part, which) if wanted else None
        if found is not None:
            picked = np.array(wanted) - part[0]
            pieces.append((np.array(wanted), jax.tree.map(lambda x, picked=picked: x[picked], found)))
            taken.update(wanted)
    if not pieces:
        updates = sorted({*itertools.chain(*begun.values()), *([store.num_updates] if store.parts() else [])})
        held = f"those after {', '.join(map(str, updates))} updates" if updates else "none at all"
        raise PPOError(f"{str(store.folder)!r} holds no checkpoint {which!r}; it holds {held}")
    seeds, states = jax.tree.map(lambda *x: jnp.concatenate(x), *pieces)
    order = np.argsort(seeds)
    runners, returns, updates = jax.tree.map(lambda x: x[order], states)
    return KeptStates(np.asarray(seeds)[order] - rows[0], np.asarray(updates), np.asarray(returns), runners)


def states_of_part(store: DiskStore, part: Rows, which: str | int) -> Best | None:
    """The states of a chunk, finished or not; None if it has none."""
    if part in store.parts():
        if which == "best":
            return read_best(store, part)
        if which not in ("newest", store.num_updates):
            return None
        found = Checkpoint(store.runners(part), store.metrics(part))
    elif isinstance(which, int):
        is_there = which in checkpoints(checkpoint_folder(store.folder, part))
        found = read_checkpoint(store, part, which) if is_there else None
    else:
        found = newest_checkpoint(store, part)
    if found is None or which == "best":
        return found and found.best
    return better(None, found.runners, found.metrics, store.num_updates)
