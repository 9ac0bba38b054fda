"""The errors of this library, and errors of the user's code as one line that says where."""

import sysconfig
import textwrap
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

MOST = 300  # characters of an error of other people's code
REMEDIES = {  # for code that needs a value before there is one
    jax.errors.TracerBoolConversionError: "take jnp.where for if, jax.lax.while_loop for while, & for and, | for or",
    jax.errors.TracerIntegerConversionError: "index an array of jnp in place of a list",
    jax.errors.TracerArrayConversionError: "take jnp for np",
    jax.errors.ConcretizationTypeError: "take jnp for math, jnp.float32(x) for float(x), jnp.int32(x) for int(x)",
}


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
    remedy = next((text for kind, text in REMEDIES.items() if isinstance(error, kind)), None)
    known_later = f"a value is needed that is known only when the compiled program runs; {remedy}"
    text = textwrap.shorten(str(error), MOST, placeholder=" ...") if remedy is None else known_later
    return f"{type(error).__name__}: {text}{place_of(error)}"


def place_of(error: BaseException) -> str:
    """The innermost line of the user's code, as " (walk.py, line 26)"; "" if the traceback has none."""
    own = [frame for frame in traceback.extract_tb(error.__traceback__) if not is_library(frame.filename)]
    return f" ({Path(own[-1].filename).name}, line {own[-1].lineno})" if own else ""


def is_library(file: str) -> bool:
    """True for a file of Python, JAX, flax, NumPy or this library."""
    return file.startswith(_LIBRARIES) or (file.startswith(_PYTHON) and not file.startswith(_INSTALLED))
