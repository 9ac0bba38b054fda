"""States of a chunk of members in the course of its training: a chunk that was interrupted goes on from the newest.

Below the folder of a program lies one folder for each unfinished chunk, and in it one for each checkpoint, named by the
updates that are done. Each appears whole or not at all, with a checksum for every leaf.
"""

import shutil
import warnings
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp

from purejaxppo.population.store import Rows, of_rows, part_name
from purejaxppo.storage import load_tree, save_tree
from purejaxppo.types import Metrics, PPOError, PyTree, RunnerState

UNFINISHED = "unfinished"
KEPT = 2  # the newest, and one to fall back on


class Checkpoint(NamedTuple):
    """A chunk of n members after some updates."""

    runners: RunnerState  # [n, ...]
    metrics: Metrics  # [n, updates]


def checkpoint_folder(program_folder: Path, rows: Rows) -> Path:
    """Where the checkpoints of a chunk lie."""
    return program_folder / UNFINISHED / part_name(rows)


def write_checkpoint(folder: Path, updates: int, checkpoint: Checkpoint) -> None:
    """Adds a checkpoint; once it is on the disk, all but the newest go."""
    save_tree(folder / f"{updates:08d}", checkpoint)
    for old in checkpoints(folder)[:-KEPT]:
        shutil.rmtree(folder / f"{old:08d}")


def checkpoints(folder: Path) -> list[int]:
    """The updates of the checkpoints that are there, in order."""
    return sorted(int(path.name) for path in folder.iterdir() if path.name.isdecimal()) if folder.is_dir() else []


def newest_checkpoint(folder: Path, like: Checkpoint, num_members: int) -> tuple[int, Checkpoint | None]:
    """The newest that is undamaged, and the updates that it holds; 0 and None where there is none at all.

    like: the shapes of one member's state, and of its metrics in one update. A damaged one is passed over with a
    warning. Raises PPOError where all are damaged: a run never starts from zero by itself.
    """
    damage: list[str] = []
    for updates in reversed(checkpoints(folder)):
        try:
            found = load_tree(folder / f"{updates:08d}", shapes(like, num_members, updates))
        except PPOError as error:
            damage.append(str(error))
            continue
        if damage:
            warnings.warn(f"{damage[0]}; that of update {updates} is used", stacklevel=2)
        return updates, found
    if damage:
        raise PPOError(f"{damage[0]}, and there is no older one; remove {str(folder)!r} to train these members anew")
    return 0, None


def shapes(like: Checkpoint, num_members: int, updates: int) -> Checkpoint:
    """Those of a checkpoint."""
    metrics = jax.tree.map(lambda x: jax.ShapeDtypeStruct((num_members, updates), x.dtype), like.metrics)
    return Checkpoint(of_rows(like.runners, num_members), metrics)


def drop_checkpoints(folder: Path) -> None:
    """Removes those of a chunk whose results are stored."""
    shutil.rmtree(folder, ignore_errors=True)


def padded(runners: PyTree, like: PyTree) -> PyTree:
    """The states of n members, followed by copies of the last one, placed on the devices as `like` [width, ...] is."""

    def pad(x: jax.Array, y: jax.Array) -> jax.Array:
        missing = len(y) - len(x)
        return jax.device_put(jnp.concatenate([x, jnp.repeat(x[-1:], missing, axis=0)]) if missing else x, y.sharding)

    return jax.tree.map(pad, runners, like)
