"""Reads the states that a population keeps on disk: the newest, each seed's best, or those of a checkpoint."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from purejaxppo.population.checkpoints import (
    Best,
    Checkpoint,
    best_shapes,
    checkpoint_folder,
    checkpoints,
    newest_checkpoint,
    read_checkpoint,
    training_returns,
    unfinished_rows,
)
from purejaxppo.population.store import DiskStore, Rows, Store, part_name
from purejaxppo.ppo.types import RunnerState
from purejaxppo.utils.errors import PPOError
from purejaxppo.utils.files import load_tree


class KeptStates(NamedTuple):
    """States of seeds during their training."""

    seeds: np.ndarray  # [n], the seeds that have a state
    updates: np.ndarray  # [n], updates done by each of them
    returns: np.ndarray  # [n], training returns over the last tenth up to there; NaN if no episode finished in it
    runners: RunnerState  # [n, ...]


def kept_states(store: Store, rows: Rows, which: str | int) -> KeptStates:
    """The "newest" or "best" states of the members of `rows`, or those after `which` updates, of members that have one.

    Raises PPOError if no member has one, and for a damaged checkpoint without an older one to fall back on.
    """
    if not isinstance(store, DiskStore):
        raise PPOError("a population in memory keeps no checkpoints; call train_population with out=...")
    if which not in ("newest", "best") and (not isinstance(which, int) or isinstance(which, bool)):
        raise PPOError(f'checkpoint = {which!r} is unknown; give "newest", "best", or a number of updates')
    taken: set[int] = set()
    pieces = []
    for part in [*store.parts(), *reversed(unfinished_rows(store.folder))]:
        wanted = [i for i in range(max(part[0], rows[0]), min(part[1], rows[1])) if i not in taken]
        found = states_of_part(store, part, which) if wanted else None
        if found is not None:
            picked = np.array(wanted) - part[0]
            pieces.append(jax.tree.map(lambda x, picked=picked: x[picked], found))
            taken.update(wanted)
    if not pieces:
        raise PPOError(f"{str(store.folder)!r} holds no checkpoint {which!r}; {describe_kept(store)}")
    joined = jax.tree.map(lambda *x: jnp.concatenate(x), *pieces)
    order = np.argsort(joined.seeds)
    seeds, updates, returns, runners = jax.tree.map(lambda x: x[order], joined)
    return KeptStates(np.asarray(seeds) - rows[0], np.asarray(updates), np.asarray(returns), runners)


def states_of_part(store: DiskStore, part: Rows, which: str | int) -> KeptStates | None:
    """The states of a chunk, with its members as seeds; None if it has none."""
    num_updates = store.like.metrics.updates.shape[0]
    if part in store.parts():
        if which == "best":
            return finished_best(store, part)
        if which not in ("newest", num_updates):
            return None
        return states_now(store, part, Checkpoint(store.runners(part), store.metrics(part)))
    if isinstance(which, int):
        is_there = which in checkpoints(checkpoint_folder(store.folder, part))
        return states_now(store, part, read_checkpoint(store, part, which)) if is_there else None
    _, found = newest_checkpoint(store, part)
    if found is None or which == "newest":
        return None if found is None else states_now(store, part, found)
    return None if found.best is None else best_states(part, found.best)


def states_now(store: DiskStore, part: Rows, found: Checkpoint) -> KeptStates:
    """The states of a checkpoint, or of the end."""
    updates = found.metrics.updates.shape[1]
    returns = training_returns(found.metrics, store.like.metrics.updates.shape[0])
    return KeptStates(np.arange(*part), np.full(len(returns), updates), returns, found.runners)


def finished_best(store: DiskStore, part: Rows) -> KeptStates | None:
    """The members of a finished chunk at their best; None if it has not kept them."""
    place = store.folder / "best" / part_name(part)
    if not place.exists():
        return None
    return best_states(part, load_tree(place, best_shapes(store, part[1] - part[0]), store.about, store.defaults))


def best_states(part: Rows, best: Best) -> KeptStates:
    """Members at their best, as `KeptStates`."""
    return KeptStates(np.arange(*part), np.asarray(best.updates), np.asarray(best.returns), best.runners)


def describe_kept(store: DiskStore) -> str:
    """A phrase for people: the checkpoints that exist."""
    updates = {n for part in unfinished_rows(store.folder) for n in checkpoints(checkpoint_folder(store.folder, part))}
    if store.parts():
        updates.add(store.like.metrics.updates.shape[0])
    return f"it holds those after {', '.join(map(str, sorted(updates)))} updates" if updates else "it holds none at all"
