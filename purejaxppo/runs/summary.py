"""Reading summary.json: a file that was cut or edited is refused, with the entry that does not fit."""

import hashlib
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from purejaxppo.population.statistics import Aggregates
from purejaxppo.utils.errors import PPOError
from purejaxppo.utils.files import read_json
from purejaxppo.utils.validation import shown

SUMMARY = "summary.json"
_NUMBER = int | float | None  # JSON has no NaN
_COSTS: dict[str, Any] = {
    "num_seeds": int,
    "env_steps": int,
    "env_steps_per_second": _NUMBER,
    "compile_seconds": int | float,
    "train_seconds": int | float,
    "peak_memory_bytes": int | None,
    "planned_memory_bytes": int | None,
    "devices": str,
    "diverged": int,
    "diverged_at": list,
}
_AGGREGATES = [f"final_return_{name}{bound}" for name in Aggregates._fields for bound in ("", "_95_low", "_95_high")]
_RUN: dict[str, Any] = {
    **_COSTS,
    **dict.fromkeys(_AGGREGATES, _NUMBER),
    "final_return_per_seed": list,
    "evaluation_episodes": int,
    "solved_at": _NUMBER,
    "seeds_solved": int | None,
}
# Entries that summaries of older versions lack.
_LATER: dict[str, Any] = {"evaluation_episodes_cut": int | None, "tied_settings": list}
_SWEEP: dict[str, Any] = {**_COSTS, "best_setting": int, "best_point": dict}


def read_summary(folder: Path, num_seeds: int, num_settings: int | None) -> dict[str, Any]:
    """The summary of a run, or with `num_settings` of a sweep. Raises PPOError for one that has been changed."""
    path = folder / SUMMARY
    content = read_json(path)
    remedy = f"purejaxppo train --resume {folder} writes it anew"
    known = _RUN if num_settings is None else _SWEEP
    for name in known:
        if name not in content:
            raise PPOError(f"{path} lacks '{name}'; {remedy}")
    for name, kind in (known | _LATER).items():
        if name in content and not is_of(content[name], kind):
            raise PPOError(f"{path}: {name} = {shown(content[name])} cannot be; {remedy}")
    rows = [content["diverged_at"]] if num_settings is None else content["diverged_at"]
    returns = content.get("final_return_per_seed", [None] * num_seeds)
    solved = [content.get(name) is None for name in ("solved_at", "seeds_solved")]
    fits = {
        "diverged_at": len(rows) == (num_settings or 1) and all(is_row(row, num_seeds, int | None) for row in rows),
        "final_return_per_seed": is_row(returns, num_seeds, _NUMBER),
        "seeds_solved": solved[0] == solved[1],
        "files": isinstance(content.get("files", {}), dict),
    }
    fits["diverged"] = fits["diverged_at"] and content["diverged"] == sum(x is not None for row in rows for x in row)
    for name, is_well in fits.items():
        if not is_well:
            raise PPOError(f"{path}: {name} = {shown(content.get(name))} does not fit the run; {remedy}")
    return content


def is_finished(folder: Path) -> bool:
    """True if the run of a folder has been written whole: its summary comes last."""
    return (folder / SUMMARY).exists()


def with_nans(summary: dict[str, Any]) -> dict[str, Any]:
    """A summary with NaN for the returns that JSON holds as null."""
    return {
        name: math.nan if value is None and name.startswith("final_return_") else value
        for name, value in summary.items()
    }


def is_of(value: Any, kind: Any) -> bool:
    """True if a value of JSON has this type; true and false are not numbers."""
    return isinstance(value, kind) and not isinstance(value, bool)


def is_row(row: Any, length: int, kind: Any) -> bool:
    """True if a value of JSON is a list of this length, with values of this type."""
    return isinstance(row, list) and len(row) == length and all(is_of(x, kind) for x in row)


def digests(folder: Path, names: Iterable[str]) -> dict[str, str | None]:
    """The SHA-256 of each file, None if it cannot be read."""
    return {name: digest(folder / name) for name in names}


def digest(path: Path) -> str | None:
    """The SHA-256 of a file, None if it cannot be read."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return None
