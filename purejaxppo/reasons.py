"""What code of the caller's own has raised, in one line that says where."""

import sysconfig
import traceback
from pathlib import Path

import flax
import jax
import numpy as np

from purejaxppo.types import PPOError

_INSTALLED = tuple(sysconfig.get_paths()[name] for name in ("purelib", "platlib"))  # within Python's own folder
_PYTHON = (sysconfig.get_paths()["stdlib"], "<")
_LIBRARIES = tuple(str(Path(file).parent) for file in (jax.__file__, flax.__file__, np.__file__, __file__))


def in_one_line(error: BaseException) -> str:
    """The error, for people, with the file and the line; ours is a line already."""
    if isinstance(error, PPOError):
        return str(error)
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}{place_of(error)}"


def place_of(error: BaseException) -> str:
    """The innermost line of the caller's, as " (walk.py, line 26)"; "" where no line of the traceback is."""
    own = [frame for frame in traceback.extract_tb(error.__traceback__) if not is_library(frame.filename)]
    return f" ({Path(own[-1].filename).name}, line {own[-1].lineno})" if own else ""


def is_library(file: str) -> bool:
    """Whether a file is Python's, JAX's, flax's, NumPy's or ours."""
    return file.startswith(_LIBRARIES) or (file.startswith(_PYTHON) and not file.startswith(_INSTALLED))
