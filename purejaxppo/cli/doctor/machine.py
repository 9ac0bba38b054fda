"""Checks of this machine and installation, with a remedy for each fault."""

import platform
import shutil
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from purejaxppo.cli.doctor.findings import Finding, Note, run_checks
from purejaxppo.envs import make_env
from purejaxppo.population.memory import memory_limit_bytes
from purejaxppo.population.sharding import device_kind
from purejaxppo.ppo.config import PPOConfig
from purejaxppo.ppo.factory import make_train, seed_keys
from purejaxppo.runs.folder import make_run_folder
from purejaxppo.utils.devices import cpu_cores, idle_cores
from purejaxppo.utils.errors import PPOError
from purejaxppo.utils.files import versions

FREE_BYTES = 2**30  # on the disk: enough for the run folders of a day
ROUNDING = 1e-4  # relative error of a float32 sum of some numbers, at most; a wrong one is off by far more
FULL = 1e-5  # relative error of a sum of products of 32 bits, at most
ROWS = 40_000  # where jax#39103 has been seen: from 32,769 on
LENGTHS = (1_000, 30_000)  # of two scans
GROWTH = 6.0  # of the time per step of a scan: linear ones have 1 at most, and jax 0.11.1 88

# The releases of jax with known faults on a CPU. pyproject.toml leaves them out; the changelog has the evidence.
_HANGS = "QR batched by vmap, as in flax's orthogonal initializer, hangs for good on a CPU"
WRONG_RELEASES = {
    "0.10.0": _HANGS,
    "0.10.1": _HANGS,
    "0.10.2": f"{_HANGS}; and sums of matrix @ row under vmap are wrong from 32,769 rows on (jax#39103)",
    "0.11.0": _HANGS,
    "0.11.1": "a scan with stacked outputs takes time quadratic in its length on a CPU (jax#40101)",
}


def examine(folder: Path) -> list[Finding]:
    """Runs every check, in the order in which a fault would stop a run. folder: where runs would be written"""
    checks = {
        "versions": lambda: ", ".join(f"{name} {version}" for name, version in versions().items()),
        "jax": lambda: check_release(jax.__version__),
        "sums": check_sums,
        "gradients": check_gradients,
        "shifts": check_shifts,
        "scans": check_scans,
        "devices": check_devices,
        "memory": check_memory,
        "disk": lambda: check_folder(folder),
        "cache": show_cache,
        "training": check_training,
    }
    return run_checks(checks)


def check_release(version: str) -> str:
    """Checks that this release of jax is not one with known faults."""
    if version in WRONG_RELEASES:
        raise PPOError(f"{version}: {WRONG_RELEASES[version]}; pip install --upgrade purejaxppo jax")
    return f"{version} has none of the known faults ({', '.join(WRONG_RELEASES)})"


def check_sums() -> str:
    """Checks sums over products of many rows: jax#39103. A GPU may round products to fewer than 32 bits."""
    layer, row = layer_error(), row_sum_error()
    if layer > ROUNDING:
        raise PPOError(f"sums of x @ kernel over {ROWS:,} rows are off by {layer:.1e}; install another jax")
    if row > ROUNDING:
        return Note(
            f"sums of matrix @ row under vmap are off by {row:.1e} (jax#39103); in your own code write row @ matrix"
        )
    if layer > FULL:
        return Note(f"products are off by {layer:.0e}; for all 32 bits set JAX_DEFAULT_MATMUL_PRECISION=highest")
    return f"over {ROWS:,} rows, within {max(layer, row):.0e} of float64"


def row_sum_error() -> float:
    """Largest relative error of sum((matrix @ row)^2) over many rows at once: what jax#39103 gets wrong."""
    rows, matrix = np.random.default_rng(0).uniform(1.0, 2.0, (ROWS + 3, 3)).astype(np.float32), np.eye(3)
    found = jax.jit(jax.vmap(lambda row: jnp.sum((jnp.asarray(matrix, jnp.float32) @ row) ** 2)))(rows)
    return relative_error(found, np.sum(rows.astype(np.float64) ** 2, axis=1))


def layer_error() -> float:
    """Largest relative error of sum(x @ kernel) over each row, the product that the networks here are made of."""
    rng = np.random.default_rng(0)
    x, kernel = (rng.uniform(1.0, 2.0, shape).astype(np.float32) for shape in ((ROWS, 8), (8, 8)))
    found = jax.jit(lambda x, kernel: jnp.sum(x @ kernel, axis=1))(x, kernel)
    return relative_error(found, np.sum(x.astype(np.float64) @ kernel.astype(np.float64), axis=1))


def check_gradients() -> str:
    """Checks the gradient of a tanh layer over many rows, whose sums and products XLA leaves to other libraries."""
    error = gradient_error()
    if error > ROUNDING:
        raise PPOError(f"gradients of a tanh layer over {ROWS:,} rows are off by {error:.1e}; install another jax")
    return f"of a tanh layer over {ROWS:,} rows, within {max(error, 1e-7):.0e} of float64"


def gradient_error() -> float:
    """Largest error of the gradient of mean(tanh(x @ kernel + bias)^2), as a share of its largest number."""
    rng = np.random.default_rng(0)
    x, kernel, bias = (rng.normal(size=shape).astype(np.float32) for shape in ((ROWS, 8), (8, 8), (8,)))
    loss = lambda kernel, bias: jnp.mean(jnp.tanh(x @ kernel + bias) ** 2)  # noqa: E731
    with jax.default_matmul_precision("highest"):  # the products of a GPU, too
        found = jax.jit(jax.grad(loss, argnums=(0, 1)))(kernel, bias)
    y = np.tanh(x.astype(np.float64) @ kernel + bias)
    slope = 2 * y * (1 - y**2) / y.size
    exact = (x.T @ slope, slope.sum(axis=0))
    return max(float(np.max(np.abs(np.asarray(a) - b)) / np.max(np.abs(b))) for a, b in zip(found, exact, strict=True))


def check_shifts() -> str:
    """Checks an array that is shifted into itself and then reshaped: xla#49176. Nothing in this library does that."""
    if not shift_is_right():
        return Note(
            "x.at[1:].set(x[:-1]).reshape(...) under jit gives wrong values (xla#49176); in your own code write "
            "jnp.concatenate([x[:1], x[:-1]])"
        )
    return "rows that are shifted into their own array keep their values"


def shift_is_right() -> bool:
    """True if rows shifted by one hold what NumPy says."""
    rows = np.arange(128, dtype=np.int32).reshape(8, 16)

    def shift(x: jax.Array) -> jax.Array:
        moved = x + 1
        return moved.at[1:].set(moved[:-1]).reshape(1, 8, 16)

    return np.array_equal(jax.jit(shift)(jnp.asarray(rows))[0], rows[[0, 0, 1, 2, 3, 4, 5, 6]] + 1)


def relative_error(found: jax.Array, exact: np.ndarray) -> float:
    """max |found - exact| / |exact|"""
    return float(np.max(np.abs(np.asarray(found, np.float64) - exact) / np.abs(exact)))


def check_scans() -> str:
    """Checks that the time of a scan with stacked outputs is linear in its length: jax#40101."""
    short, long = map(seconds_per_step, LENGTHS)
    text = f"a step of {LENGTHS[1]:,} takes {long / short:.1f} times as long as one of {LENGTHS[0]:,}"
    if long > GROWTH * short:
        raise PPOError(f"{text}: time is not linear in the length (jax#40101); install another jax")
    return text


def seconds_per_step(length: int, repeats: int = 5) -> float:
    """The least of some repeats: other work of the machine can only add time."""

    def step(x: jax.Array, _: None) -> tuple[jax.Array, jax.Array]:
        x = 0.999 * x + 1.0
        return x, x

    scan = jax.jit(lambda x: jax.lax.scan(step, x, length=length))
    jax.block_until_ready(scan(0.0))  # compiled
    seconds = []
    for _ in range(repeats):
        started = time.perf_counter()
        jax.block_until_ready(scan(0.0))
        seconds.append(time.perf_counter() - started)
    return min(seconds) / length


def check_devices() -> str:
    """Checks that every core is a device, and that a GPU is used."""
    devices = jax.local_devices()
    if devices[0].platform == "cpu" and shutil.which("nvidia-smi"):
        raise PPOError('there is a GPU driver, but JAX runs on the CPU; pip install "jax[cuda12]"')
    if idle := idle_cores():
        raise PPOError(f"{idle}, or unset jax_num_cpu_devices")
    return f"{len(devices)} of kind {device_kind(devices)}; {cpu_cores()} cores, {platform.machine()}"


def check_memory() -> str:
    """Checks the memory that a population may take."""
    limit = memory_limit_bytes(None, jax.local_devices())
    text = f"{limit / 2**30:.1f} GiB for a population"
    if limit < FREE_BYTES:
        raise PPOError(f"{text} is little; end other programs")
    return text


def check_folder(folder: Path) -> str:
    """Checks that a run can be written to the folder."""
    trial = folder / f"doctor-{time.time_ns()}"
    make_run_folder(trial)
    trial.rmdir()
    free = shutil.disk_usage(folder).free
    text = f"{free / 2**30:.1f} GiB free in {str(folder)!r}"
    if free < FREE_BYTES:
        raise PPOError(f"{text} is little; make room, or go to another folder")
    return text


def show_cache() -> str:
    """The folder of compiled programs."""
    settings: Any = jax.config  # its attributes are made at run time
    folder = settings.jax_compilation_cache_dir
    if not folder:
        return "none: each process compiles anew; --cache FOLDER keeps the programs"
    return f"compiled programs are kept in {folder!r}"


def check_training() -> str:
    """Trains four seeds for a moment and checks the results."""
    env, config = make_env("CartPole-v1"), PPOConfig(total_timesteps=4_096)
    started = time.perf_counter()
    train = jax.jit(jax.vmap(make_train(env, config))).lower(keys := seed_keys(0, 4)).compile()
    compiled = time.perf_counter()
    _, metrics = jax.block_until_ready(train(keys))
    seconds = time.perf_counter() - compiled
    entropy = np.asarray(metrics.entropy)
    text = (
        f"4 seeds x {config.actual_timesteps:,} steps: compiled in {compiled - started:.1f} s, ran in {seconds:.2f} s"
    )
    if not (np.isfinite(metrics.value_loss).all() and np.all(entropy[:, -1] < entropy[:, 0])):
        raise PPOError(f"{text}, but the results are wrong; reinstall jax, or report this")
    return text
