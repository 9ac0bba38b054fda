"""Checks of this machine and installation, with a remedy for each fault."""

import importlib.util
import os
import platform
import shutil
import time
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import jax
import numpy as np

from purejaxppo.cli.doctor import probes
from purejaxppo.cli.doctor.findings import Finding, attempted, fault, note, well
from purejaxppo.cli.doctor.releases import WRONG_RELEASES
from purejaxppo.envs import make_env
from purejaxppo.population.memory import memory_limit_bytes
from purejaxppo.population.sharding import device_kind
from purejaxppo.ppo.config import PPOConfig
from purejaxppo.ppo.factory import make_train, seed_keys
from purejaxppo.runs.folder import make_run_folder
from purejaxppo.utils.devices import cpu_cores
from purejaxppo.utils.errors import PPOError
from purejaxppo.utils.files import versions

OPTIONAL = {"gymnasium": "eval --backend gymnasium"}  # package: what needs it
FREE_BYTES = 2**30  # on the disk: enough for the run folders of a day
ROUNDING = 1e-4  # relative error of a float32 sum of some numbers, at most; a wrong one is off by far more
GROWTH = 6.0  # of the time per step of a scan: linear ones have 1 at most, and jax 0.11.1 88


def examine(folder: Path) -> list[Finding]:
    """Runs every check, in the order in which a fault would stop a run. folder: where runs would be written"""
    checks: dict[str, Callable[[], Finding]] = {
        "versions": check_versions,
        "jax": check_release,
        "sums": check_sums,
        "scans": check_scans,
        "precision": check_precision,
        "devices": check_devices,
        "cores": check_cores,
        "accelerator": check_accelerator,
        "memory": check_memory,
        "disk": lambda: check_folder(folder),
        "cache": check_cache,
        "training": check_training,
        "optional": check_optional,
    }
    return [attempted(name, check) for name, check in checks.items()]


def check_versions() -> Finding:
    """The versions of Python and of the packages that results depend on."""
    found = ", ".join(f"{name} {version}" for name, version in versions().items())
    return Finding("versions", True, found)


def check_release(version: str = jax.__version__) -> Finding:
    """Checks that this release of jax is not one with known faults."""
    if version in WRONG_RELEASES:
        return fault("jax", f"{version}: {WRONG_RELEASES[version]}; pip install --upgrade purejaxppo jax")
    return well("jax", f"{version} has none of the known faults ({', '.join(WRONG_RELEASES)})")


def check_sums() -> Finding:
    """Checks sums over products of many rows: jax#39103."""
    layer, row = probes.layer_error(), probes.row_sum_error()
    if layer > ROUNDING:
        return fault(
            "sums", f"sums of x @ kernel over {probes.ROWS:,} rows are off by {layer:.1e}; install another jax"
        )
    if row > ROUNDING:
        text = f"sums of matrix @ row under vmap are off by {row:.1e} (jax#39103); in your own code write row @ matrix"
        return note("sums", text)
    return well("sums", f"over {probes.ROWS:,} rows, within {max(layer, row):.0e} of float64")


def check_scans() -> Finding:
    """Checks that the time of a scan is linear in its length: jax#40101."""
    growth, (short, long) = probes.scan_growth(), probes.LENGTHS
    text = f"a step of {long:,} takes {growth:.1f} times as long as one of {short:,}"
    if growth > GROWTH:
        return fault("scans", f"{text}: time is not linear in the length (jax#40101); install another jax")
    return well("scans", text)


def check_precision() -> Finding:
    """Checks that floats have 32 bits. A GPU may round products to fewer."""
    settings: Any = jax.config  # its attributes are made at run time
    if settings.jax_enable_x64:
        return fault("precision", "jax_enable_x64 is on, and this library computes in float32; unset JAX_ENABLE_X64")
    error = probes.layer_error()
    if error > 1e-5:
        text = (
            f"products are off by {error:.0e}: fewer than 32 bits; for all 32 set JAX_DEFAULT_MATMUL_PRECISION=highest"
        )
        return note("precision", text)
    return well("precision", "float32, also in products")


def check_devices() -> Finding:
    """Checks that every core is a device."""
    devices, cores = jax.local_devices(), cpu_cores()
    text = f"{len(devices)} of kind {device_kind(devices)}; {cores} cores, {platform.machine()}"
    if devices[0].platform == "cpu" and len(devices) < cores:
        return Finding("devices", False, f"{text}: {cores - len(devices)} idle; unset jax_num_cpu_devices")
    return Finding("devices", True, text)


def check_cores() -> Finding:
    """Measures how many cores this process gets while every device works."""
    busy, cores = probes.busy_cores(), cpu_cores()
    text = f"{busy:.1f} of {cores} busy while all devices work"
    if jax.default_backend() == "cpu" and busy < 0.6 * cores:
        return note("cores", f"{text}; other processes or a quota of this container take the rest")
    return well("cores", text)


def check_accelerator() -> Finding:
    """Checks for an NVIDIA driver that JAX does not use."""
    if jax.default_backend() == "cpu" and shutil.which("nvidia-smi"):
        return Finding(
            "accelerator", False, 'there is a GPU driver, but JAX runs on the CPU; pip install "jax[cuda12]"'
        )
    return Finding(
        "accelerator", True, "none" if jax.default_backend() == "cpu" else jax.local_devices()[0].device_kind
    )


def check_memory() -> Finding:
    """Checks the memory that a population may take."""
    limit = memory_limit_bytes(None, jax.local_devices())
    return Finding("memory", limit >= FREE_BYTES, f"{limit / 2**30:.1f} GiB for a population")


def check_folder(folder: Path) -> Finding:
    """Checks that a run can be written to the folder."""
    trial = folder / f"doctor-{time.time_ns()}"
    try:
        make_run_folder(trial)
        trial.rmdir()
    except PPOError as error:
        return Finding("disk", False, str(error))
    free = shutil.disk_usage(folder).free
    return Finding("disk", free >= FREE_BYTES, f"{free / 2**30:.1f} GiB free in {str(folder)!r}")


def check_cache() -> Finding:
    """Checks that compiled programs can be kept for the next process."""
    settings: Any = jax.config
    folder = settings.jax_compilation_cache_dir
    if not folder:
        return well("cache", "none: each process compiles anew; --cache FOLDER keeps the programs")
    if "://" not in folder and not is_writable(Path(folder)):
        return fault("cache", f"{folder!r} cannot be written to; set JAX_COMPILATION_CACHE_DIR to another folder")
    return well("cache", f"compiled programs are kept in {folder!r}")


def is_writable(folder: Path) -> bool:
    """True if files can be made in the folder, or the folder itself if it does not exist."""
    there = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    return there.is_dir() and os.access(there, os.W_OK)


def check_training() -> Finding:
    """Trains four seeds for a moment and checks the results."""
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
        return Finding("training", False, f"{text}, but the results are wrong; reinstall jax, or report this")
    return Finding("training", True, text)


def check_optional() -> Finding:
    """Lists the packages that some commands need."""
    lacking = {name: use for name, use in OPTIONAL.items() if importlib.util.find_spec(name) is None}
    if lacking:
        text = "; ".join(f"{name} is not installed: {use} needs it" for name, use in lacking.items())
        return Finding("optional", True, text)
    return Finding("optional", True, ", ".join(f"{name} {metadata.version(name)}" for name in OPTIONAL))
