"""The memory plan: how many members fit at a time, known before the first step."""

import math
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax

from purejaxppo.population.store import key_data
from purejaxppo.utils.errors import PPOError

_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12, "ki": 2**10, "mi": 2**20, "gi": 2**30, "ti": 2**40}
_UNTOLD = 2**34  # bytes of a device that does not report its memory
_SPARE = 0.9  # share of the free memory to use when no limit is given


class MemoryPlan(NamedTuple):
    """The memory of a program in bytes: of this process on a CPU, else of each device."""

    limit: int
    held: int  # in use before the first chunk
    kept: int  # results of all members; 0 if they go to disk
    per_member: int  # of a chunk, by the compiler's analysis
    width: int  # members of a chunk
    num_chunks: int

    @property
    def peak(self) -> int:
        """The most that is in use at once."""
        return self.held + self.kept + self.per_member * self.width


def describe_plan(plan: MemoryPlan) -> str:
    """The plan for people."""
    chunks = f"{plan.num_chunks} chunks of up to {plan.width}" if plan.num_chunks > 1 else "one chunk"
    return (
        f"{chunks}; memory: {show_bytes(plan.per_member)} a member and {show_bytes(plan.held)} held already, "
        f"{show_bytes(plan.peak)} expected of {show_bytes(plan.limit)}"
    )


def even_width(num_members: int, most: int, multiple: int) -> int:
    """The smallest multiple of members per chunk that needs as few chunks as `most` does. most >= multiple"""
    most = most // multiple * multiple
    num_chunks = -(-num_members // most)
    per_chunk = -(-num_members // num_chunks)
    return -(-per_chunk // multiple) * multiple


def plan_memory(
    *, num_members: int, width: int, multiple: int, per_member: int, kept: int, held: int, limit: int
) -> MemoryPlan:
    """Chunks of `width` members, or as many as fit the limit. Raises PPOError if not even `multiple` members fit."""
    fits = (limit - held - kept) // per_member // multiple * multiple
    if fits < multiple:
        least = held + kept + per_member * multiple
        remedy = "raise the limit, or write the results to disk (out=..., or --out)" if kept else "raise the limit"
        raise PPOError(
            f"memory limit {show_bytes(limit)} is below the {show_bytes(least)} that {multiple} members at a time "
            f"take at least; {remedy}, or take fewer num_envs or num_steps"
        )
    width = width if width <= fits else even_width(num_members, fits, multiple)
    return MemoryPlan(limit, held, kept, per_member, width, num_chunks=-(-num_members // width))


def program_bytes(compiled: Any) -> int:
    """Bytes of arguments, results and temporaries of a program on one device; donated buffers count once."""
    stats = compiled.memory_analysis()
    parts = (stats.argument_size_in_bytes, stats.output_size_in_bytes, stats.temp_size_in_bytes)
    return sum(parts) - stats.alias_size_in_bytes


def memory_limit_bytes(given: int | str | None, devices: Sequence[Any]) -> int:
    """The limit in bytes: as given, else what is in use plus most of what is free."""
    if given is not None:
        return parse_bytes(given)
    return held_bytes(devices) + int(_SPARE * free_bytes(devices))


def held_bytes(devices: Sequence[Any]) -> int:
    """Bytes in use now: by this process on a CPU, else on the fullest device."""
    if devices[0].platform != "cpu":
        return max((device.memory_stats() or {}).get("bytes_in_use", 0) for device in devices)
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:  # not Linux: take the peak instead
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def free_bytes(devices: Sequence[Any]) -> int:
    """Bytes that are free: of this machine or its control group on a CPU, else on the fullest device."""
    if devices[0].platform != "cpu":
        stats = [device.memory_stats() or {"bytes_limit": _UNTOLD} for device in devices]
        return min(entry["bytes_limit"] - entry.get("bytes_in_use", 0) for entry in stats)
    try:
        found = re.search(r"MemAvailable:\s+(\d+) kB", Path("/proc/meminfo").read_text())
    except OSError:
        found = None
    of_machine = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return min([int(found[1]) * 1024 if found else of_machine // 2, *group_free_bytes()])


def group_free_bytes(root: Path = Path("/sys/fs/cgroup")) -> list[int]:
    """Bytes that a container's control group, version 2 or 1, leaves free; empty without a limit."""
    pairs = (("memory.max", "memory.current"), ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"))
    free = []
    for limit, used in pairs:
        try:
            free.append(int((root / limit).read_text()) - int((root / used).read_text()))
        except (OSError, ValueError):  # no such file, or "max"
            continue
    return free


def parse_bytes(text: int | str) -> int:
    """The bytes of 4GiB, 500MB, 1.5g or a number. Raises PPOError for anything else."""
    if isinstance(text, int) and not isinstance(text, bool) and text > 0:
        return text
    found = re.fullmatch(r"\s*(\d{1,18}(?:\.\d+)?)\s*([kmgt]i?)?b?\s*", text.lower()) if isinstance(text, str) else None
    if not found or float(found[1]) == 0:
        raise PPOError(f"memory limit {text!r} is not a size; give bytes, or text such as 4GiB or 500MB")
    return int(float(found[1]) * _UNITS[found[2] or ""])


def show_bytes(count: float) -> str:
    """Bytes with three digits and a binary unit; from 1,000 GiB on as a whole number."""
    for unit in ("B", "KiB", "MiB"):
        if count < 999.5:
            return f"{count:.3g} {unit}"
        count /= 1024
    return f"{count:.3g} GiB" if count < 999.5 else f"{count:,.0f} GiB"


def tree_bytes(tree: Any) -> int:
    """The bytes of a tree of arrays or of their shapes. A typed key counts as its data."""
    return sum(math.prod(x.shape) * x.dtype.itemsize for x in jax.tree.leaves(jax.eval_shape(key_data, tree)))
