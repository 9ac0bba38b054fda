"""Quick trials of what releases of jax have got wrong, against NumPy in float64 or against the clock."""

import time

import jax
import jax.numpy as jnp
import numpy as np

ROWS = 40_000  # where jax#39103 has been seen: from 32,769 on
LENGTHS = (1_000, 30_000)


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


def relative_error(found: jax.Array, exact: np.ndarray) -> float:
    """max |found - exact| / |exact|"""
    return float(np.max(np.abs(np.asarray(found, np.float64) - exact) / np.abs(exact)))


def scan_growth() -> float:
    """Seconds per step of a long scan with stacked outputs, over those of a short one: at most 1 where it is linear."""
    short, long = map(seconds_per_step, LENGTHS)
    return long / short


def seconds_per_step(length: int, repeats: int = 5) -> float:
    """The least of some repeats: other work of the machine can only add time."""

    def step(x: jax.Array, _: None) -> tuple[jax.Array, jax.Array]:
        x = 0.999 * x + 1.0
        return x, x

    scan = jax.jit(lambda x: jax.lax.scan(step, x, length=length)).lower(start := jnp.zeros(())).compile()
    seconds = []
    for _ in range(repeats):
        started = time.perf_counter()
        jax.block_until_ready(scan(start))
        seconds.append(time.perf_counter() - started)
    return min(seconds) / length


def busy_cores(num_steps: int = 20_000) -> float:
    """Processor seconds per second while every device works on its own: the cores that this process gets."""
    work = jax.jit(lambda x: jax.lax.fori_loop(0, num_steps, lambda _, y: jnp.sin(y) + x, x))
    inputs = [jax.device_put(jnp.ones(1_000), device) for device in jax.local_devices()]
    jax.block_until_ready([work(x) for x in inputs])  # compiled, once for each device
    started, used = time.perf_counter(), time.process_time()
    jax.block_until_ready([work(x) for x in inputs])
    return (time.process_time() - used) / (time.perf_counter() - started)
