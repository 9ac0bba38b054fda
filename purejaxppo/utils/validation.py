"""Checks of values at the boundary. Each raises PPOError with the name, the value and the remedy. Tracers pass."""

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from purejaxppo.utils.errors import PPOError

MAX_SEED = 2**32 - 1  # of jax.random.key; a larger one gives the key of another seed
MAX_COUNT = 2**31 - 1  # the largest int32
MAX_STEPS = 2**53  # of a run: beyond it float64, and so a CSV file and a log, skips whole numbers


def check_float32() -> None:
    """Raises PPOError under x64: the library computes in float32, and mixed programs would recompile or fail."""
    settings: Any = jax.config  # its attributes are made at run time
    if settings.jax_enable_x64:
        raise PPOError(
            'jax_enable_x64 is on, and this library computes in float32; jax.config.update("jax_enable_x64", False)'
        )


def standard_promotion(function: Callable[..., Any]) -> Callable[..., Any]:
    """Decorates other people's code, which relies on standard dtype promotion, for callers who have made it strict."""

    @functools.wraps(function)
    def promoted(*args: Any, **kwargs: Any) -> Any:
        with jax.numpy_dtype_promotion("standard"):
            return function(*args, **kwargs)

    return promoted


def check_key(key: Any) -> None:
    """Raises PPOError unless `key` is one typed key."""
    if not (isinstance(key, jax.Array) and jnp.issubdtype(key.dtype, jax.dtypes.prng_key)):
        found = shown_shape(key) if hasattr(key, "dtype") else shown(key)
        raise PPOError(f"key is {found} and not a typed key; make one with jax.random.key(0)")
    if key.shape != ():
        raise PPOError(f"key has shape {key.shape}; give one key, and vmap over more")


def check_seed(name: str, value: Any, *, most: int = MAX_SEED) -> None:
    """Raises PPOError unless `value` is a whole number from 0 to `most`: others would wrap around."""
    if is_traced(value):
        return
    if not _is_whole(value):
        raise PPOError(f"{name} = {shown(value)} is not a whole number; give an int from 0 to {most}")
    if not 0 <= value <= most:
        raise PPOError(f"{name} = {shown(value)} is out of range; give an int from 0 to {most}")


def check_function(name: str, value: Any, remedy: str) -> None:
    """Raises PPOError unless `value` is callable."""
    if not callable(value):
        raise PPOError(f"{name} = {shown(value)} is not callable; {remedy}")


def is_traced(value: Any) -> bool:
    """True for a tracer, whose value is not known yet. Checks let it pass."""
    return isinstance(value, Tracer)


def is_numeric(x: Any) -> bool:
    """True for a real number, a bool, or an array of them; traced ones too."""
    if isinstance(x, jax.Array | np.ndarray | np.generic):
        return any(jnp.issubdtype(x.dtype, kind) for kind in (jnp.bool_, jnp.integer, jnp.floating))
    return isinstance(x, bool | int | float)


def shown_shape(x: Any) -> str:
    """The dtype and shape of an array, or the type of anything else."""
    return f"{x.dtype}{list(x.shape)}" if hasattr(x, "dtype") else f"a {type(x).__name__}"


def check_size(name: str, value: Any, *, most: int | None = None) -> None:
    """Raises PPOError unless `value` is a whole number of at least 1, and at most `most`."""
    if not _is_whole(value):
        raise PPOError(f"{name} = {shown(value)} is not a whole number; give an int of at least 1")
    if value < 1:
        raise PPOError(f"{name} = {shown(value)} is below 1; give an int of at least 1")
    if most is not None and value > most:
        raise PPOError(f"{name} = {shown(value)} is too many; give an int of at most {most}")


def check_choice(name: str, value: Any, valid: tuple[str, ...]) -> None:
    """Raises PPOError unless `value` is one of the valid names."""
    if not isinstance(value, str) or value not in valid:
        raise PPOError(f"{name} = {shown(value)} is unknown; take one of {', '.join(valid)}")


def is_index(value: Any, size: int) -> bool:
    """True for a whole number from 0 to size - 1."""
    return _is_whole(value) and 0 <= value < size


def whole(value: Any) -> Any:
    """A float that is a whole number, such as 1e6, as an int; every other value as it is."""
    return int(value) if isinstance(value, float | np.floating) and float(value).is_integer() else value


def _is_whole(value: Any) -> bool:
    return isinstance(value, int | np.integer) and not isinstance(value, bool)


def check_switch(name: str, value: Any) -> None:
    """Raises PPOError unless `value` is True or False."""
    if not isinstance(value, bool | np.bool_):
        raise PPOError(f"{name} = {shown(value)} is neither True nor False; give one of them")


def is_number(value: Any) -> bool:
    """True for a real number or an array of them. A bool is not a number."""
    is_bool = isinstance(value, bool) or getattr(value, "dtype", None) == np.bool_
    return is_numeric(value) and not is_bool


def shown(value: Any) -> str:
    """The repr of a value in one short line."""
    if isinstance(value, int) and value.bit_length() > 10_000:  # Python refuses to write it
        return f"an int of {value.bit_length()} bits"
    text = " ".join(repr(value).split())
    return text if len(text) <= 60 else text[:57] + "..."


def check_divisions(what: str, size: int, parts: str, number: int) -> None:
    """Raises PPOError unless `number` divides `size`. `what` and `parts` name them in the message."""
    if size % number:
        fits = sorted(sorted(_divisors(size), key=lambda d: (abs(d - number), -d))[:3])
        raise PPOError(
            f"{what} = {shown(size)} does not divide into {parts} = {shown(number)}; "
            f"try {' or '.join(filter(None, [', '.join(map(str, fits[:-1])), str(fits[-1])]))}"
        )


def _divisors(n: int) -> list[int]:
    small = [d for d in range(1, math.isqrt(n) + 1) if n % d == 0]
    return sorted({*small, *(n // d for d in small)})
