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
_AGGREGATES = [f"final_return_{name}{bound}" for name in Aggregates._fields for bound in ("", "_95_low", "_95_high")]
# The entries of every summary, and those of a run and of a sweep beside them, with their types.
_BOTH: dict[str, Any] = {
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
    "evaluation_episodes": int,
    "evaluation_episodes_cut": int,
}
_RUN: dict[str, Any] = {
    **dict.fromkeys(_AGGREGATES, _NUMBER),
    "final_return_per_seed": list,
    "solved_at": _NUMBER,
    "seeds_solved": int | None,
}
_SWEEP: dict[str, Any] = {"best_setting": int, "best_point": dict, "tied_settings": list}


def read_summary(folder: Path, num_seeds: int, num_settings: int | None) -> dict[str, Any]:
    """The summary of a run, or with `num_settings` of a sweep. Raises PPOError for one that has been changed."""
    path = folder / SUMMARY
    content = read_json(path)
    remedy = f"purejaxppo train --resume {folder} writes it anew"
    for name, kind in (_BOTH | (_RUN if num_settings is None else _SWEEP)).items():
        if name not in content:
            raise PPOError(f"{path} lacks '{name}'; {remedy}")
        if not is_of(content[name], kind):
            raise PPOError(f"{path}: {name} = {shown(content[name])} cannot be; {remedy}")
    rows = [content["diverged_at"]] if num_settings is None else content["diverged_at"]
    returns = content.get("final_return_per_seed", [None] * num_seeds)
    are_rows = all(is_row(row, num_seeds, int | None) for row in rows)
    fits = {
        "diverged_at": len(rows) == (num_settings or 1) and are_rows,
        "diverged": are_rows and content["diverged"] == sum(x is not None for row in rows for x in row),
        "final_return_per_seed": is_row(returns, num_seeds, _NUMBER),
        "seeds_solved": (content.get("solved_at") is None) == (content.get("seeds_solved") is None),
        "files": isinstance(content.get("files", {}), dict),
    }
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
    found: dict[str, str | None] = {}
    for name in names:
        try:
            with (folder / name).open("rb") as file:
                found[name] = hashlib.file_digest(file, "sha256").hexdigest()
        except OSError:
            found[name] = None
    return found
