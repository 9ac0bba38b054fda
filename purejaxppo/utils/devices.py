"""The processor cores of this machine, as JAX devices."""

import contextlib
import contextvars
import os
from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import jax

from purejaxppo.utils.validation import check_size

# XLA uses half of a 512-bit vector unit unless told (cores without one go on as they are), and optimises for a second
# more than pays.
CPU_OPTIONS = {"xla_cpu_prefer_vector_width": 512, "xla_backend_optimization_level": 1}
_FOR_ALL = contextvars.ContextVar("for all platforms", default=False)
CACHE = 2**20  # bytes of second-level cache, where the system does not say


def compiler_options(platform: str) -> dict[str, Any]:
    """Compiler options of this library's programs, for `jax.jit(..., compiler_options=...)`."""
    return CPU_OPTIONS if platform == "cpu" else {}


def traces_for_cpu() -> bool:
    """True if functions are traced for a CPU, as far as the default backend tells."""
    return jax.default_backend() == "cpu" and not _FOR_ALL.get()


@contextlib.contextmanager
def traced_for_all_platforms() -> Iterator[None]:
    """Within it nothing is traced in a form that a CPU alone is faster with: for programs that leave this machine."""
    token = _FOR_ALL.set(True)
    try:
        yield
    finally:
        _FOR_ALL.reset(token)


def quickly_compiled(platform: str) -> dict[str, Any]:
    """Compiler options for programs that run once: half the time to compile, and several times slower."""
    return {"xla_backend_optimization_level": 0} if platform == "cpu" else {}


def core_ids() -> list[int]:
    """The numbers of the processor cores that this process may use."""
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else list(range(os.cpu_count() or 1))


def cpu_cores() -> int:
    """The processor cores that this process may use."""
    return len(core_ids())


def cache_of_core(place: Path = Path("/sys/devices/system/cpu")) -> int:
    """Bytes of second-level cache that a core has to itself, as Linux tells; CACHE where it does not."""
    cores = core_ids()
    with contextlib.suppress(OSError, ValueError, StopIteration):
        caches = (place / f"cpu{cores[0]}" / "cache").glob("index*")
        second = next(cache for cache in caches if (cache / "level").read_text().strip() == "2")
        sharing = int((second / "shared_cpu_map").read_text().replace(",", ""), 16)  # a bit for each core
        kibibytes = int((second / "size").read_text().strip().removesuffix("K"))
        return kibibytes * 2**10 // sum(sharing >> core & 1 for core in cores)
    return CACHE


def share_of_cores(mine: Sequence[int], neighbours: Sequence[Sequence[int]]) -> int:
    """This process's share of the cores `mine`, at least 1. A core that k processes may use counts as 1/k.

    `neighbours` are the cores of each process on this machine, this one included.
    """
    return max(1, int(sum(Fraction(1, sum(core in cores for cores in neighbours)) for core in mine)))


def use_all_cores(cores: int | None = None) -> None:
    """Makes each core a JAX CPU device: XLA keeps only one core busy with operations as small as PPO's.

    Does nothing once JAX has started, or if `jax_num_cpu_devices` is already set.

    Args:
        cores: the number of devices; by default all cores that this process may use

    Raises:
        PPOError: if `cores` is not a whole number of at least 1
    """
    if cores is not None:
        check_size("cores", cores)
    settings: Any = jax.config  # its attributes are made at run time
    if settings.jax_num_cpu_devices < 0:
        with contextlib.suppress(RuntimeError):  # what JAX raises once it has started
            jax.config.update("jax_num_cpu_devices", cpu_cores() if cores is None else cores)


def idle_cores() -> str | None:
    """Says why a population leaves cores of this machine idle, and what to do; None if it uses them all.

    None with several processes too, because they share the cores.
    """
    devices, cores = jax.local_devices(), cpu_cores()
    if devices[0].platform != "cpu" or len(devices) >= cores or jax.process_count() > 1:
        return None
    return (
        f"JAX has {len(devices)} CPU device(s) for {cores} cores; "
        f'call jax.config.update("jax_num_cpu_devices", {cores}) before the first computation'
    )
