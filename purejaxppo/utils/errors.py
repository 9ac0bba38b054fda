"""The errors of this library, and errors of the user's code as one line that says where."""

import sysconfig
import traceback
from pathlib import Path

import flax
import jax
import numpy as np

_INSTALLED = tuple(sysconfig.get_paths()[name] for name in ("purelib", "platlib"))  # within Python's own folder
_PYTHON = (sysconfig.get_paths()["stdlib"], "<")
_LIBRARIES = (
    *(str(Path(file).parent) for file in (jax.__file__, flax.__file__, np.__file__)),
    str(Path(__file__).parents[1]),
)


class PPOError(ValueError):
    """Every error that this library raises itself: one line, with the field, its value and the remedy."""

    def __init__(self, message: str) -> None:
        # A value may be shown in several lines, as an array is.
        super().__init__(" ".join(line.strip() for line in message.splitlines()))


class NotWritten(PPOError):
    """A file could not be written: the disk is full, or the folder is not writable. Older files are still whole."""


class Interrupted(Exception):
    """A training was stopped on request. All files on disk are whole."""


def in_one_line(error: BaseException) -> str:
    """The error in one line for people, with the file and the line of their code. A PPOError is one already."""
    if isinstance(error, PPOError):
        return str(error)
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}{place_of(error)}"


def place_of(error: BaseException) -> str:
    """The innermost line of the user's code, as " (walk.py, line 26)"; "" if the traceback has none."""
    own = [frame for frame in traceback.extract_tb(error.__traceback__) if not is_library(frame.filename)]
    return f" ({Path(own[-1].filename).name}, line {own[-1].lineno})" if own else ""


def is_library(file: str) -> bool:
    """True for a file of Python, JAX, flax, NumPy or this library."""
    return file.startswith(_LIBRARIES) or (file.startswith(_PYTHON) and not file.startswith(_INSTALLED))
