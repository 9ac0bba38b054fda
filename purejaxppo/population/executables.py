"""Compiled programs of this process: a program that was compiled before is not compiled again."""

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Hashable, Sequence
from typing import Any

import jax
import numpy as np

MOST_PROGRAMS = 24  # kept; a population has three of each width
MOST_BYTES = 2**24  # of a program's text and constants; a larger one is not kept, since it holds on to its constants

_kept: OrderedDict[Hashable, Any] = OrderedDict()  # the least recently used first
_lock = threading.Lock()


def compile_once(lowered: Any, devices: Sequence[Any], options: dict[str, Any]) -> Any:
    """Compiles a lowered function, or returns the program of an equal one.

    lowered: of `jax.jit(fn, compiler_options=options).lower(...)`, for these devices
    """
    key = program_key(lowered, devices, options)
    with _lock:
        found = _kept.pop(key, None)
    program = lowered.compile() if found is None else found
    if key is not None:
        with _lock:
            _kept[key] = program
            while len(_kept) > MOST_PROGRAMS:
                _kept.popitem(last=False)
    return program


def forget_programs() -> None:
    """Drops the programs, so that the next call compiles."""
    with _lock:
        _kept.clear()


def program_key(lowered: Any, devices: Sequence[Any], options: dict[str, Any]) -> Hashable | None:
    """Everything that decides the compiled program and how it is called. None if the program is not to be kept, as with
    a callback to Python.

    Small constants are part of the text. JAX passes larger ones as hidden arguments, and leaves out unused arguments:
    neither shows in the text.
    """
    try:
        hidden, arguments = [np.asarray(x) for x in lowered._lowering.const_args], lowered._lowering.compile_args
        used = tuple(sorted(arguments["kept_var_idx"]))
        if arguments["host_callbacks"] or arguments["keepalive"]:  # functions of Python: the text only numbers them
            return None
    except (AttributeError, KeyError, TypeError):  # another release of JAX, or constants that are keys
        return None
    text = lowered.as_text().encode()
    if len(text) + sum(x.nbytes for x in hidden) > MOST_BYTES:
        return None
    digest = hashlib.sha256(text)
    for x in hidden:
        digest.update(f"{x.dtype}{x.shape}".encode() + x.tobytes())
    outside, inside = (jax.tree.flatten(x) for x in (lowered.out_info, lowered.args_info))
    settings = tuple(
        (name, repr(getattr(jax.config, name, value))) for name, value in sorted(jax.config.values.items())
    )
    shapes = (tuple(outside[0]), outside[1], tuple(map(repr, inside[0])), inside[1])
    key = (digest.digest(), used, shapes, tuple(devices), tuple(sorted(options.items())), settings)
    try:
        hash(key)
    except TypeError:  # a static field of a tree
        return None
    return key
