"""`purejaxppo doctor`: whether this machine can do what the library asks of it, and how to mend what it cannot."""

import importlib.util
import platform
import shutil
import time
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np

from purejaxppo.config import PPOConfig
from purejaxppo.devices import cpu_cores
from purejaxppo.envs import make_env
from purejaxppo.population.memory import memory_limit_bytes
from purejaxppo.population.placement import device_kind
from purejaxppo.ppo import make_train, seed_keys
from purejaxppo.runs.folder import make_run_folder, versions
from purejaxppo.types import PPOError

OPTIONAL = {"gymnasium": "eval --backend gymnasium"}  # package: what needs it
FREE_BYTES = 2**30  # on the disk: enough for the run folders of a day


class Finding(NamedTuple):
    """What one check has found."""

    name: str
    is_well: bool
    text: str  # with the remedy, where it is not well


def examine(folder: Path) -> list[Finding]:
    """Every check, in the order in which a fault would stop a run. folder: where runs would be written"""
    checks: list[Callable[[], Finding]] = [
        check_versions,
        check_devices,
        check_accelerator,
        check_memory,
        lambda: check_folder(folder),
        check_training,
        check_optional,
    ]
    return [check() for check in checks]


def check_versions() -> Finding:
    """The versions of Python and of the packages that results depend on."""
    found = ", ".join(f"{name} {version}" for name, version in versions().items())
    return Finding("versions", True, found)


def check_devices() -> Finding:
    """Whether every core is a device."""
    devices, cores = jax.local_devices(), cpu_cores()
    text = f"{len(devices)} of kind {device_kind(devices)}; {cores} cores, {platform.machine()}"
    if devices[0].platform == "cpu" and len(devices) < cores:
        return Finding("devices", False, f"{text}: {cores - len(devices)} idle; unset jax_num_cpu_devices")
    return Finding("devices", True, text)


def check_accelerator() -> Finding:
    """Whether an NVIDIA driver is here that JAX does not use."""
    if jax.default_backend() == "cpu" and shutil.which("nvidia-smi"):
        return Finding("accelerator", False, 'a GPU driver is here, and JAX runs on the CPU; pip install "jax[cuda12]"')
    return Finding(
        "accelerator", True, "none" if jax.default_backend() == "cpu" else jax.local_devices()[0].device_kind
    )


def check_memory() -> Finding:
    """What a population may take."""
    limit = memory_limit_bytes(None, jax.local_devices())
    return Finding("memory", limit >= FREE_BYTES, f"{limit / 2**30:.1f} GiB for a population")


def check_folder(folder: Path) -> Finding:
    """Whether a run can be written here."""
    trial = folder / f"doctor-{time.time_ns()}"
    try:
        make_run_folder(trial)
        trial.rmdir()
    except PPOError as error:
        return Finding("disk", False, str(error))
    free = shutil.disk_usage(folder).free
    return Finding("disk", free >= FREE_BYTES, f"{free / 2**30:.1f} GiB free in {str(folder)!r}")


def check_training() -> Finding:
    """Trains four seeds for a moment, and looks at what comes out."""
    env, config = make_env("CartPole-v1"), PPOConfig(total_timesteps=4_096)
    started = time.perf_counter()
    train = jax.jit(jax.vmap(make_train(env, config))).lower(keys := seed_keys(0, 4)).compile()
    compiled = time.perf_counter()
    _, metrics = jax.block_until_ready(train(keys))
    seconds = time.perf_counter() - compiled
    finite = bool(np.isfinite(metrics.value_loss).all() and np.isfinite(metrics.entropy).all())
    learned = bool(np.all(np.asarray(metrics.entropy)[:, -1] < np.asarray(metrics.entropy)[:, 0]))
    text = (
        f"4 seeds x {config.actual_timesteps:,} steps: compiled in {compiled - started:.1f} s, ran in {seconds:.2f} s"
    )
    if not (finite and learned):
        return Finding("training", False, f"{text}, and the results are wrong; install jax anew, or report this")
    return Finding("training", True, text)


def check_optional() -> Finding:
    """The packages that some commands need."""
    lacking = {name: use for name, use in OPTIONAL.items() if importlib.util.find_spec(name) is None}
    if lacking:
        text = "; ".join(f"{name} is not installed: {use} needs it" for name, use in lacking.items())
        return Finding("optional", True, text)
    return Finding("optional", True, ", ".join(f"{name} {metadata.version(name)}" for name in OPTIONAL))
