"""summary.json and its checksum: a file that was cut or edited is refused."""

import hashlib
import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from purejaxppo.utils.errors import PPOError
from purejaxppo.utils.files import finite, read_json, write_json

SUMMARY = "summary.json"
FILES = "files"  # the entry with the SHA-256 of each file of results, this one included


def write_summary(folder: Path, summary: Mapping[str, Any], names: Iterable[str]) -> dict[str, Any]:
    """Writes the summary with the checksums of these files and its own, and reads it again."""
    held = {**summary, FILES: digests(folder, names)}
    held[FILES][SUMMARY] = checksum(held)
    write_json(folder / SUMMARY, held)
    return read_summary(folder)


def read_summary(folder: Path) -> dict[str, Any]:
    """The summary, with NaN where JSON holds null for a return. Raises PPOError for none, and for an edited one."""
    if not is_finished(folder):
        raise PPOError(
            f"{str(folder)!r} holds no finished run; if it holds one that was interrupted, go on with purejaxppo train "
            f"--resume {folder}, or read its states with load_checkpoint"
        )
    content = read_json(folder / SUMMARY)
    files = content.get(FILES, {})  # earlier versions wrote none, or not the summary's own
    is_whole = isinstance(files, dict) and files.get(SUMMARY) in (None, checksum(content))
    if not is_whole or "num_seeds" not in content:
        raise PPOError(
            f"{folder / SUMMARY} does not fit its checksum; purejaxppo train --resume {folder} writes it anew"
        )
    return {
        name: math.nan if value is None and name.startswith("final_return_") else value
        for name, value in content.items()
    }


def checksum(summary: Mapping[str, Any]) -> str:
    """The SHA-256 of a summary without its own."""
    others = {name: digest for name, digest in summary.get(FILES, {}).items() if name != SUMMARY}
    text = json.dumps(finite({**summary, FILES: others}), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def is_finished(folder: Path) -> bool:
    """True if the run of a folder has been written whole: its summary comes last."""
    return (folder / SUMMARY).exists()


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
