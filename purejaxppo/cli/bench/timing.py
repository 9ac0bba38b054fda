"""Measures rates: repetitions of all programs in turn, with their median and spread."""

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax

Probe = Callable[[int], float]  # number of the repetition -> what it measured


class Timed(NamedTuple):
    """A compiled call and the amount of its work."""

    call: Callable[[], Any]
    amount: float


class Spread(NamedTuple):
    """Repetitions of one measurement."""

    median: float
    least: float
    most: float
    values: list[float]  # in the order of the repetitions


def spread_of(values: Sequence[float]) -> Spread:
    """Their median, least and most."""
    return Spread(statistics.median(values), min(values), max(values), list(values))


def in_pairs(combine: Callable[..., float], *spreads: Spread) -> Spread:
    """The spread of a function of measurements, such as a ratio, computed repetition by repetition."""
    return spread_of([combine(*values) for values in zip(*(spread.values for spread in spreads), strict=True)])


def seconds_of(call: Callable[[], Any], count: int) -> float:
    """Seconds of `count` calls, one after the other."""
    started = time.perf_counter()
    for _ in range(count):
        jax.block_until_ready(call())
    return time.perf_counter() - started


def make_probe(timed: Timed, least_seconds: float) -> Probe:
    """A probe of the amount per second, measured over at least so long, after a first call that compiles."""
    seconds_of(timed.call, 1)
    count = 1
    while seconds_of(timed.call, count) < least_seconds:
        count *= 2
    return lambda _: count * timed.amount / seconds_of(timed.call, count)


def measure_in_turn(probes: Mapping[str, Probe], repeats: int, say: Callable[[str], None]) -> dict[str, Spread]:
    """Runs each probe once per repetition, so that a slow minute of the machine affects all of them."""
    values: dict[str, list[float]] = {name: [] for name in probes}
    for repetition in range(repeats):
        for name, probe in probes.items():
            say(f"repetition {repetition + 1} of {repeats}: {name}")
            values[name].append(probe(repetition))
    return {name: spread_of(value) for name, value in values.items()}
