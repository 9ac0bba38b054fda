"""The processor cores of this machine, as JAX devices."""

import contextlib
import os
from typing import Any

import jax


def cpu_cores() -> int:
    """The processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def use_all_cores() -> None:
    """Makes one JAX CPU device of each core: XLA keeps a single core busy on operations as small as PPO's.

    Without effect once JAX has started, or where `jax_num_cpu_devices` is set already.
    """
    settings: Any = jax.config  # its attributes are made at run time
    if settings.jax_num_cpu_devices < 0:
        with contextlib.suppress(RuntimeError):  # what JAX raises once it has started
            jax.config.update("jax_num_cpu_devices", cpu_cores())


def idle_cores() -> str | None:
    """Why a population leaves cores of this machine idle, and how to mend it; None where it does not."""
    devices, cores = jax.local_devices(), cpu_cores()
    if devices[0].platform != "cpu" or len(devices) >= cores:
        return None
    return (
        f"JAX has {len(devices)} CPU device(s) for {cores} cores; "
        f'call jax.config.update("jax_num_cpu_devices", {cores}) before the first computation'
    )
