"""Seconds to compile a training with an empty persistent cache and with a full one, each in a new process."""

import dataclasses
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable

from purejaxppo.cli.bench.timing import Spread, spread_of
from purejaxppo.envs import make_env
from purejaxppo.population.train import train_population
from purejaxppo.ppo.config import PPOConfig
from purejaxppo.utils.errors import PPOError

# Every compiled program is kept. On an accelerator the parent already holds most of the memory.
_CHILD = {
    "JAX_ENABLE_COMPILATION_CACHE": "true",
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
    "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
}


def measure_compiling(
    env: str, config: PPOConfig, num_seeds: int, repeats: int, say: Callable[[str], None]
) -> dict[str, Spread]:
    """Seconds to trace and compile a `train_population`, in pairs of a cold and a warm cache."""
    seconds: dict[str, list[float]] = {"cold": [], "warm": []}
    for repetition in range(repeats):
        with tempfile.TemporaryDirectory(prefix="purejaxppo-bench-") as cache:
            for name, values in seconds.items():
                say(f"compiling {num_seeds} seeds, {name} cache, {repetition + 1} of {repeats}")
                values.append(compile_elsewhere(env, config, num_seeds, cache))
    return {name: spread_of(values) for name, values in seconds.items()}


def compile_elsewhere(env: str, config: PPOConfig, num_seeds: int, cache: str) -> float:
    """Seconds to compile in a new process. Raises PPOError with its last line of output if it fails."""
    task = {"env": env, "num_seeds": num_seeds, "config": dataclasses.asdict(config)}
    done = subprocess.run(
        [sys.executable, "-m", "purejaxppo.cli.bench.compiling"],
        input=json.dumps(task),
        capture_output=True,
        text=True,
        env={**os.environ, **_CHILD, "JAX_COMPILATION_CACHE_DIR": cache},
    )
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise PPOError(f"compiling {num_seeds} seeds in a process of its own failed with {last!r}; try fewer --seeds")
    return float(done.stdout.splitlines()[-1])


def main() -> None:
    """Reads a task from standard input, trains for one update, and prints the seconds of compilation."""
    task = json.load(sys.stdin)
    fields = {name: tuple(value) if isinstance(value, list) else value for name, value in task["config"].items()}
    config = PPOConfig().replace(**fields)
    config = config.replace(total_timesteps=config.batch_size)
    population = train_population(make_env(task["env"]), config, num_seeds=task["num_seeds"])
    print(population.compile_seconds)


if __name__ == "__main__":
    main()
