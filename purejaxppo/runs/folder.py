"""The names and files of a run folder, and what it tells of the machine that wrote it."""

import csv
import io
import platform
import subprocess
import tempfile
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import BinaryIO

import jax
import numpy as np

from purejaxppo.runs.summary import is_finished
from purejaxppo.utils.errors import PPOError
from purejaxppo.utils.files import write_whole
from purejaxppo.utils.lock import LOCK

# Names in a run's folder, beside config.json and summary.json.
RESULTS = "checkpoints"  # the chunks of members, in training and finished
START = "start"  # the parameters that the seeds start from, if they are those of another run
KEPT = "kept"  # the states that are filmed beside the first and the last
METRICS, TABLE, SETTINGS = ("metrics.npz", "metrics.csv"), "table.csv", "settings"
TESTED = "test"  # the metrics of the best setting of a sweep on the test seeds
PICTURES = ("report.html", "curves.png", "sweep.png", "after.gif")  # which show how a run has ended
CSV_ROWS = 1_000_000  # beyond this, metrics.csv has quantiles over seeds
_BLOCK = 10_000  # rows of a table that are text at once
_QUANTILES = (0.0, 0.25, 0.5, 0.75, 1.0)


def make_run_folder(path: Path) -> None:
    """Creates an empty folder. Raises PPOError if it holds files already, or cannot be written."""
    try:
        path.mkdir(parents=True, exist_ok=True)
        occupied = any(entry.name != LOCK for entry in path.iterdir())
        with tempfile.TemporaryFile(dir=path):
            pass
    except OSError as error:
        raise unwritable(path, error) from None
    if occupied and (path / "config.json").exists() and not is_finished(path):
        raise PPOError(
            f"run folder {str(path)!r} holds a run that has not finished; go on with --resume {path}, "
            "or choose another folder with --out"
        )
    if occupied:
        raise PPOError(f"run folder {str(path)!r} holds files already; choose another with --out, or remove it")


def make_free_folder(path: Path) -> Path:
    """Creates the folder `path`, or the first free one of path-2, path-3, ... Returns the one created.

    Two processes never get the same folder. Raises PPOError if it cannot be made.
    """
    folder, number = path, 1
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        while True:
            try:
                folder.mkdir()
                return folder
            except FileExistsError:
                number += 1
                folder = path.with_name(f"{path.name}-{number}")
    except OSError as error:
        raise unwritable(path, error) from None


def unwritable(path: Path, error: OSError) -> PPOError:
    """The error for a run folder that cannot be written."""
    return PPOError(f"run folder {str(path)!r} cannot be written: {error.strerror}; choose another with --out")


def write_metrics(folder: Path, names: Sequence[str], column: Callable[[str], np.ndarray]) -> None:
    """Writes metrics.npz with an array [S, U] for each field, and metrics.csv with a row for each seed and update.

    column: name -> [S, U], called for one name at a time, because all of them may not fit the memory
    """
    write_whole(folder / "metrics.npz", lambda file: _write_npz(file, names, column))
    num_seeds, num_updates = column("timesteps").shape
    rows = _rows if num_seeds * num_updates <= CSV_ROWS else _quantile_rows
    table = rows(names, column)
    write_whole(folder / "metrics.csv", lambda file: _write_csv(file, table))


def git_revision() -> str | None:
    """The git revision of the working folder, with "-dirty" if it has changes; None outside a repository."""
    try:
        command = ["git", "describe", "--always", "--abbrev=40", "--dirty", "--exclude=*"]
        return subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None


def peak_memory_bytes() -> int | None:
    """The peak memory of this process; on a GPU or TPU, of its first device. None if unknown."""
    stats = jax.local_devices()[0].memory_stats() if jax.default_backend() != "cpu" else None
    if stats is not None:
        return stats.get("peak_bytes_in_use")
    try:
        import resource
    except ImportError:  # Windows does not have it
        return None
    scale = 1 if platform.system() == "Darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * scale


def _write_npz(file: BinaryIO, names: Sequence[str], column: Callable[[str], np.ndarray]) -> None:
    """Writes like `np.savez`, but holds only one array at a time."""
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED, allowZip64=True) as archive:
        for name in names:
            with archive.open(f"{name}.npy", "w", force_zip64=True) as entry:
                np.lib.format.write_array(entry, column(name), allow_pickle=False)


def _write_csv(file: BinaryIO, table: Mapping[str, np.ndarray]) -> None:
    """Writes the columns as pandas does, whose import takes longer. Nine digits are what a float32 needs."""
    text = io.TextIOWrapper(file, "utf-8", newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(table)
    texts = lambda x: map("%.9g".__mod__, x.tolist()) if x.dtype.kind == "f" else x.tolist()  # noqa: E731
    for first in range(0, len(table["update"]), _BLOCK):
        writer.writerows(zip(*(texts(x[first : first + _BLOCK]) for x in table.values()), strict=True))
    text.detach()


def _rows(names: Sequence[str], column: Callable[[str], np.ndarray]) -> dict[str, np.ndarray]:
    num_seeds, num_updates = column("timesteps").shape
    seed, update = np.divmod(np.arange(num_seeds * num_updates), num_updates)
    return {"seed": seed, "update": update + 1, **{name: column(name).ravel() for name in names}}


def _quantile_rows(names: Sequence[str], column: Callable[[str], np.ndarray]) -> dict[str, np.ndarray]:
    table = {"update": np.arange(column("timesteps").shape[1]) + 1}
    for name in names:
        value = column(name).astype(np.float64)
        some = ~np.all(np.isnan(value), axis=0)
        quantiles = np.full((len(_QUANTILES), value.shape[1]), np.nan)
        with np.errstate(all="ignore"):
            quantiles[:, some] = np.nanquantile(value[:, some], _QUANTILES, axis=0)
        table |= {f"{name}_q{100 * q:g}": row for q, row in zip(_QUANTILES, quantiles, strict=True)}
    return table
