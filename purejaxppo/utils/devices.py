"""The processor cores of this machine, as JAX devices."""

import contextlib
import os
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import jax

from purejaxppo.utils.validation import check_size

# XLA uses half of a 512-bit vector unit unless told (cores without one go on as they are), and optimises for a second
# more than pays.
CPU_OPTIONS = {"xla_cpu_prefer_vector_width": 512, "xla_backend_optimization_level": 1}


def compiler_options(platform: str) -> dict[str, Any]:
    """What programs of this library are compiled with: `jax.jit(..., compiler_options=...)`."""
    return CPU_OPTIONS if platform == "cpu" else {}


def quickly_compiled(platform: str) -> dict[str, Any]:
    """The same for programs that run once: compiled in half of the time, and some times slower."""
    return {"xla_backend_optimization_level": 0} if platform == "cpu" else {}


def core_ids() -> list[int]:
    """The numbers of the processor cores that this process may use."""
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else list(range(os.cpu_count() or 1))


def cpu_cores() -> int:
    """The processor cores that this process may use."""
    return len(core_ids())


def share_of_cores(mine: Sequence[int], neighbours: Sequence[Sequence[int]]) -> int:
    """How many of the cores `mine` fall to this process: a core that k processes may use counts as 1/k. At least 1.

    `neighbours` are the cores of each process of this machine, this one's among them.
    """
    return max(1, int(sum(Fraction(1, sum(core in cores for cores in neighbours)) for core in mine)))


def use_all_cores(cores: int | None = None) -> None:
    """Makes one JAX CPU device of each core: XLA keeps a single core busy on operations as small as PPO's.

    `cores` is how many, and by default all that this process may use. Without effect once JAX has started, or where
    `jax_num_cpu_devices` is set already. Raises PPOError for fewer than one.
    """
    if cores is not None:
        check_size("cores", cores)
    settings: Any = jax.config  # its attributes are made at run time
    if settings.jax_num_cpu_devices < 0:
        with contextlib.suppress(RuntimeError):  # what JAX raises once it has started
            jax.config.update("jax_num_cpu_devices", cpu_cores() if cores is None else cores)


def idle_cores() -> str | None:
    """Why a population leaves cores of this machine idle, and how to mend it; None where it does not.

    None too among several processes: they share the cores.
    """
    devices, cores = jax.local_devices(), cpu_cores()
    if devices[0].platform != "cpu" or len(devices) >= cores or jax.process_count() > 1:
        return None
    return (
        f"JAX has {len(devices)} CPU device(s) for {cores} cores; "
        f'call jax.config.update("jax_num_cpu_devices", {cores}) before the first computation'
    )
