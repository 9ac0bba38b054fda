"""The types of the options: each function reads the text of a value, or raises PPOError with the remedy."""

import math
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from purejaxppo.population.checkpoints import read_seconds
from purejaxppo.population.sweep import Domain, log_uniform, uniform
from purejaxppo.utils.errors import PPOError
from purejaxppo.utils.validation import MAX_COUNT, whole


def read_number(text: str) -> float:
    """A number."""
    if number_in(text) is None:
        raise PPOError(f"{text!r} is not a number; give one such as 0.5 or 3e-4")
    return float(text)


def whole_from(least: int, most: int = MAX_COUNT) -> Callable[[str], int]:
    """A whole number from `least` to `most`: 1000000, 1_000_000 or 1e6."""

    def read(text: str) -> int:
        number = whole(number_in(text))
        if not isinstance(number, int):
            raise PPOError(f"{text!r} is not a whole number; give one from {least} to {most}")
        if number < least:
            raise PPOError(f"{number} is below {least}; give a whole number of at least that")
        if number > most:
            raise PPOError(f"{number} is above {most}; give a whole number of at most that")
        return number

    return read


def number_in(text: str) -> float | None:
    """The int or float that a text is, or None."""
    for read in (int, float):
        try:
            return read(text)
        except ValueError:
            continue
    return None


def a_path(text: str) -> Path:
    """The path of a file or folder, which need not exist."""
    if not text or "\0" in text:
        raise PPOError(f"{text!r} is not a path; give that of a folder or file")
    return Path(text)


def a_name(text: str) -> str:
    """A name that is not empty."""
    if not text.strip():
        raise PPOError(f"{text!r} is not a name; give one")
    return text


def file_to_write(*suffixes: str) -> Callable[[str], Path]:
    """A file with one of the suffixes, in a folder that can be written to."""

    def read(text: str) -> Path:
        path = a_path(text)
        if path.suffix not in suffixes:
            raise PPOError(f"{text!r} does not end in {' or '.join(suffixes)}")
        if not os.access(path.parent, os.W_OK):
            raise PPOError(f"{str(path.parent)!r} is not a folder that you can write to; take another")
        if path.is_dir():
            raise PPOError(f"{text!r} is a folder; give the name of a file")
        return path

    return read


def read_interval(text: str) -> int | str:
    """Updates between two checkpoints, as a whole number, or the time: 60s, 5m, 1.5h"""
    if text.lstrip("-").replace("_", "").isdecimal():
        return whole_from(1)(text)
    read_seconds(text)
    return text


def read_switch(text: str) -> bool:
    """true or false."""
    if text.lower() not in ("true", "false"):
        raise PPOError(f"{text!r} is neither true nor false; give one of them")
    return text.lower() == "true"


def read_sizes(text: str) -> tuple[int, ...]:
    """Sizes of layers: 64,64, or 64x64 as in a sweep."""
    return tuple(map(whole_from(1), text.split("," if "," in text else "x"))) if text else ()


def read_value(text: str) -> Any:
    """A value of any type: a switch, a whole number, a number, sizes as 64x64, or a name."""
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    number = number_in(text)
    if number is not None:
        return number
    try:
        return tuple(map(int, text.split("x")))
    except ValueError:
        return text


def read_domain(text: str) -> tuple[str, Domain]:
    """NAME=VALUE,VALUE,... or NAME=log:LOW:HIGH or NAME=uniform:LOW:HIGH"""
    name, values = named(text, "NAME=VALUES, such as learning-rate=1e-4,3e-4")
    name, ranges = name.removeprefix("config."), {"log": log_uniform, "uniform": uniform}
    kind, *bounds = values.split(":")
    if not bounds:
        return name, [read_value(value) for value in values.split(",")]
    if kind not in ranges or len(bounds) != 2:
        raise PPOError(f"{values!r} is not a range; give log:LOW:HIGH or uniform:LOW:HIGH")
    return name, ranges[kind](*map(read_number, bounds))


def read_assignment(text: str) -> tuple[str, float]:
    """NAME=NUMBER"""
    name, value = named(text, "NAME=NUMBER, such as length=0.5")
    number = read_number(value)
    if math.isinf(number) and "inf" not in value.lower():
        raise PPOError(f"{value!r} is more than a float can hold; give a number below 3.4e38")
    return name, number if "." in value else whole(number)


def read_scale(text: str) -> tuple[str, tuple[float, float]]:
    """ENV=LOW:HIGH, two numbers that differ"""
    env, _, bounds = text.partition("=")
    low, _, high = bounds.partition(":")
    if not env or not high:
        raise PPOError(f"{text!r} is not ENV=LOW:HIGH, such as CartPole-v1=20:500")
    scale = read_number(low), read_number(high)
    if not all(map(math.isfinite, scale)) or scale[0] == scale[1]:
        raise PPOError(f"{text!r} has no scale; give two finite numbers that differ")
    return env, scale


def named(text: str, wanted: str) -> tuple[str, str]:
    """The name, with underscores, and the value of NAME=VALUE."""
    name, _, value = text.partition("=")
    if not name or not value:
        raise PPOError(f"{text!r} is not {wanted}")
    return name.replace("-", "_"), value


def each_once(option: str, pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    """The values by name. Raises PPOError if a name comes twice."""
    names = [name for name, _ in pairs]
    for name in names:
        if names.count(name) > 1:
            raise PPOError(f"{option} names {name} twice; give it once")
    return dict(pairs)
