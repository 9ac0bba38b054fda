"""The files of a run's folder. Each appears whole or not at all: written beside its place, then renamed into it."""

import dataclasses
import io
import json
import math
import os
import platform
import subprocess
import tempfile
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any, BinaryIO

import jax
import numpy as np

from purejaxppo.types import Metrics, PPOError

CSV_ROWS = 1_000_000  # beyond this, metrics.csv has quantiles over seeds
_QUANTILES = (0.0, 0.25, 0.5, 0.75, 1.0)
_VERSIONS_OF = ("purejaxppo", "jax", "jaxlib", "flax", "optax", "gymnax", "numpy")


def make_run_folder(path: Path) -> None:
    """Creates an empty folder. Raises PPOError where there is one with files, or where none can be written."""
    try:
        path.mkdir(parents=True, exist_ok=True)
        occupied = any(path.iterdir())
        with tempfile.TemporaryFile(dir=path):
            pass
    except OSError as error:
        raise PPOError(
            f"run folder {str(path)!r} cannot be written: {error.strerror}; choose another with --out"
        ) from None
    if occupied:
        raise PPOError(f"run folder {str(path)!r} holds files already; choose another with --out, or remove it")


def write_whole(path: Path, write: Callable[[BinaryIO], Any]) -> None:
    """Calls `write` with a file beside `path`, and puts it in place when it is complete and on the disk."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(name, 0o644)
        os.replace(name, path)
    except BaseException:
        os.unlink(name)
        raise


def write_json(path: Path, content: dict[str, Any]) -> None:
    """A number that is not finite is written as null: JSON has none."""
    text = json.dumps(_finite(content), indent=2, allow_nan=False) + "\n"
    write_whole(path, lambda file: file.write(text.encode()))


def write_metrics(folder: Path, metrics: Metrics) -> None:
    """metrics.npz with an array [S, U] for each field, and metrics.csv with a row for each seed and update."""
    columns = {name: np.asarray(value) for name, value in vars(metrics).items()}
    write_whole(folder / "metrics.npz", lambda file: np.savez(file, allow_pickle=False, **columns))
    num_seeds, num_updates = columns["timesteps"].shape
    table = _rows(columns) if num_seeds * num_updates <= CSV_ROWS else _quantile_rows(columns)
    write_whole(folder / "metrics.csv", lambda file: _write_csv(file, table))


def read_metrics(folder: Path, metrics_class: type[Metrics] = Metrics) -> Metrics:
    """The metrics of a run folder, [S, U]. Raises PPOError for a file that is damaged or of another version."""
    path = folder / "metrics.npz"
    names = [field.name for field in dataclasses.fields(metrics_class)]
    try:
        with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as arrays:
            columns = {name: arrays[name] for name in names if name in arrays}
    except Exception as error:  # whatever a damaged zip file makes its reader raise
        raise PPOError(f"{path} cannot be read: {error}") from error
    missing = [name for name in names if name not in columns]
    if missing:
        raise PPOError(f"{path} lacks {', '.join(missing)}: it is of another version")
    return metrics_class(**columns)


def versions() -> dict[str, str]:
    """What the run was made with."""
    found = {name: metadata.version(name) for name in _VERSIONS_OF}
    return {"python": platform.python_version(), **found}


def git_revision() -> str | None:
    """The revision of the working folder, with "-dirty" if it has changes; None outside a repository."""
    try:
        command = ["git", "describe", "--always", "--abbrev=40", "--dirty", "--exclude=*"]
        return subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None


def peak_memory_bytes() -> int | None:
    """The most memory that this process has held; on a GPU or TPU, what its device has. None where unknown."""
    stats = jax.local_devices()[0].memory_stats() if jax.default_backend() != "cpu" else None
    if stats is not None:
        return stats.get("peak_bytes_in_use")
    try:
        import resource
    except ImportError:  # Windows has none
        return None
    scale = 1 if platform.system() == "Darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * scale


def _rows(columns: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    num_seeds, num_updates = columns["timesteps"].shape
    seed, update = np.divmod(np.arange(num_seeds * num_updates), num_updates)
    return {"seed": seed, "update": update + 1, **{name: value.ravel() for name, value in columns.items()}}


def _quantile_rows(columns: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    table = {"update": np.arange(columns["timesteps"].shape[1]) + 1}
    for name, value in columns.items():
        with np.errstate(all="ignore"):
            quantiles = _nan_quantiles(value)
        table |= {f"{name}_q{100 * q:g}": row for q, row in zip(_QUANTILES, quantiles, strict=True)}
    return table


def _nan_quantiles(value: np.ndarray) -> np.ndarray:
    some = ~np.all(np.isnan(value.astype(np.float64)), axis=0)
    quantiles = np.full((len(_QUANTILES), value.shape[1]), np.nan)
    quantiles[:, some] = np.nanquantile(value[:, some].astype(np.float64), _QUANTILES, axis=0)
    return quantiles


def _write_csv(file: BinaryIO, table: dict[str, np.ndarray]) -> None:
    whole = {name: np.issubdtype(column.dtype, np.integer) for name, column in table.items()}
    formats = ["%d" if whole[name] else "%.9g" for name in table]
    file.write((",".join(table) + "\n").encode())
    rows = np.column_stack([column.astype(np.float64) for column in table.values()])
    np.savetxt(file, rows, fmt=formats, delimiter=",")


def _finite(x: Any) -> Any:
    if isinstance(x, dict):
        return {key: _finite(value) for key, value in x.items()}
    if isinstance(x, list | tuple):
        return [_finite(value) for value in x]
    return None if isinstance(x, float) and not math.isfinite(x) else x
