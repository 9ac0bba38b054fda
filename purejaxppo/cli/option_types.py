"""The types of the options: each function reads the text of a value, or raises ArgumentTypeError with the remedy."""

import argparse
import math
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from purejaxppo.population.checkpoints import read_seconds
from purejaxppo.population.memory import parse_bytes
from purejaxppo.population.sweep import Domain, log_uniform, uniform
from purejaxppo.utils.errors import PPOError
from purejaxppo.utils.validation import MAX_COUNT, MAX_STEPS


def read_number(text: str) -> float:
    """A number."""
    try:
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number; give one such as 0.5 or 3e-4") from None


def whole_from(least: int, most: int = MAX_COUNT) -> Callable[[str], int]:
    """A whole number from `least` to `most`, which may be written as 1e6."""

    def read(text: str) -> int:
        try:
            number = read_whole(text)
        except ValueError:
            raise argparse.ArgumentTypeError(
                f"{text!r} is not a whole number; give one from {least} to {most}"
            ) from None
        if number < least:
            raise argparse.ArgumentTypeError(f"{number} is below {least}; give a whole number of at least that")
        if number > most:
            raise argparse.ArgumentTypeError(f"{number} is above {most}; give a whole number of at most that")
        return number

    return read


def read_whole(text: str) -> int:
    """A whole number: 1000000, 1_000_000 or 1e6. Raises ValueError for other texts."""
    try:
        return int(text.replace("_", ""))
    except ValueError:
        number = float(text)
        if not number.is_integer():
            raise
        return int(number)


def one_of(names: Sequence[str]) -> Callable[[str], str]:
    """One of the names."""

    def read(text: str) -> str:
        if text not in names:
            raise argparse.ArgumentTypeError(f"{text!r} is unknown; take one of {', '.join(names)}")
        return text

    return read


def a_path(text: str) -> Path:
    """The path of a file or folder, which need not exist."""
    if not text or "\0" in text:
        raise argparse.ArgumentTypeError(f"{text!r} is not a path; give that of a folder or file")
    return Path(text)


def a_name(text: str) -> str:
    """A name that is not empty."""
    if not text.strip():
        raise argparse.ArgumentTypeError(f"{text!r} is not a name; give one")
    return text


def file_to_write(*suffixes: str) -> Callable[[str], Path]:
    """A file with one of the suffixes, in a folder that can be written to."""

    def read(text: str) -> Path:
        path = a_path(text)
        if path.suffix not in suffixes:
            raise argparse.ArgumentTypeError(f"{text!r} does not end in {' or '.join(suffixes)}")
        if not os.access(path.parent, os.W_OK):
            raise argparse.ArgumentTypeError(
                f"{str(path.parent)!r} is not a folder that you can write to; take another"
            )
        if path.is_dir():
            raise argparse.ArgumentTypeError(f"{text!r} is a folder; give the name of a file")
        return path

    return read


def read_bytes(text: str) -> int:
    """Bytes: 500MB, 4GiB, or a plain number."""
    try:
        return parse_bytes(text)
    except PPOError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def read_interval(text: str) -> int | str:
    """Updates between two checkpoints, as a whole number, or the time: 60s, 5m, 1.5h"""
    if text.lstrip("-").replace("_", "").isdecimal():
        return whole_from(1)(text)
    try:
        read_seconds(text)
    except PPOError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return text


def read_switch(text: str) -> bool:
    """true or false."""
    if text.lower() not in ("true", "false"):
        raise argparse.ArgumentTypeError(f"{text!r} is neither true nor false; give one of them")
    return text.lower() == "true"


def read_sizes(text: str) -> tuple[int, ...]:
    """Sizes of layers: 64,64"""
    return tuple(whole_from(1)(part) for part in text.split(",")) if text else ()


def read_domain(text: str) -> tuple[str, Domain]:
    """NAME=VALUE,VALUE,... or NAME=log:LOW:HIGH or NAME=uniform:LOW:HIGH"""
    name, equals, values = text.partition("=")
    if not name or not equals or not values:
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=VALUES, such as learning-rate=1e-4,3e-4")
    ranges = {"log": log_uniform, "uniform": uniform}
    kind, *bounds = values.split(":")
    if bounds and (kind not in ranges or len(bounds) != 2):
        raise argparse.ArgumentTypeError(f"{values!r} is not a range; give log:LOW:HIGH or uniform:LOW:HIGH")
    try:
        domain = (
            ranges[kind](*map(read_number, bounds)) if bounds else [read_value(value) for value in values.split(",")]
        )
    except PPOError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return name.removeprefix("config.").replace("-", "_"), domain


def read_value(text: str) -> Any:
    """A value of a sweep: a switch, a whole number, a number, sizes as 64x64, or a name."""
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    for read in (int, float, lambda text: tuple(map(int, text.split("x")))):
        try:
            return read(text)
        except ValueError:
            continue
    return text


def read_assignment(text: str) -> tuple[str, float]:
    """NAME=NUMBER"""
    name, equals, value = text.partition("=")
    if not name or not equals:
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=NUMBER, such as length=0.5")
    number = read_number(value)
    if math.isinf(number) and "inf" not in value.lower():
        raise argparse.ArgumentTypeError(f"{value!r} is more than a float can hold; give a number below 3.4e38")
    return name.replace("-", "_"), int(number) if number.is_integer() and "." not in value else number


def reader_of(name: str, annotation: Any) -> Callable[[str], Any]:
    """Reads the text of a config field, by its type."""
    if name == "total_timesteps":
        return whole_from(1, MAX_STEPS)
    readers = {
        bool: read_switch,
        int: whole_from(1),
        int | None: whole_from(1),
        float: read_number,
        float | None: read_number,
        tuple[int, ...]: read_sizes,
        str: str,
    }
    return readers.get(annotation, read_value)  # a field of the user's own may have any type


def each_once(option: str, pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    """The values by name. Raises PPOError if a name comes twice."""
    names = [name for name, _ in pairs]
    for name in names:
        if names.count(name) > 1:
            raise PPOError(f"{option} names {name} twice; give it once")
    return dict(pairs)
