"""purejaxppo bench --gpu: populations as far as the memory goes, large runs, compiler switches, and time by kernel.

Each measurement has a process of its own: compiler switches are read when JAX starts, one that fails or takes too long
leaves the others as they are, and the GPU's memory is free at its start.
"""

import dataclasses
import gzip
import json
import os
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax

from purejaxppo.cli.bench.run import ENV, Plan, show_seeds, train_name
from purejaxppo.cli.bench.timing import spread_of
from purejaxppo.envs import make_env
from purejaxppo.population.results import Costs
from purejaxppo.population.train import train_population
from purejaxppo.ppo.config import PPOConfig
from purejaxppo.runs.spec import from_json, to_json
from purejaxppo.utils.errors import in_one_line
from purejaxppo.utils.files import versions

SECONDS = 150  # for one measurement
WIDE = 2_048  # seeds that compiler switches and kernels are measured with, beside one seed
LARGE_RUNS = (2_048, 8_192)  # environments, of 32 steps and 32 minibatches
SWITCHES = {
    "loops in command buffers": "--xla_gpu_enable_command_buffer=+WHILE",
    "graphs of one operation": "--xla_gpu_graph_min_graph_size=1",
    "unrolled loops in command buffers": "--xla_gpu_enable_command_buffer=+WHILE --xla_gpu_graph_min_graph_size=1 "
    "--xla_gpu_command_buffer_unroll_loops=true",
}
KERNELS = 40  # in the report, the longest first


class Case(NamedTuple):
    """One measurement."""

    name: str
    config: PPOConfig
    num_seeds: int
    repeats: int
    flags: str = ""  # for XLA
    has_kernels: bool = False  # also profiles a training


def make_cases(config: PPOConfig, plan: Plan) -> list[Case]:
    """All measurements: every population, then large runs, switches and kernels."""
    config = config.replace(total_timesteps=plan.timesteps)
    few, many = min(plan.seeds), min(max(plan.seeds), WIDE)
    large = [
        config.replace(num_envs=n, num_steps=32, num_minibatches=32, total_timesteps=max(plan.timesteps, 8 * 32 * n))
        for n in LARGE_RUNS[: 1 if plan.quick else None]
    ]
    return [
        *(Case(train_name(n), config, n, plan.repeats) for n in plan.seeds),
        *(Case(f"one run of {each.num_envs} x {each.num_steps}", each, 1, plan.repeats) for each in large),
        *(
            Case(f"{name}, {show_seeds(n)}", config, n, plan.repeats, flags)
            for name, flags in SWITCHES.items()
            for n in sorted({few, many})
        ),
        Case(f"by kernel, {show_seeds(many)}", config, many, 1, has_kernels=True),
    ]


def measure(case: Case) -> dict[str, Any]:
    """Whole trainings, without compilation: env-steps per second of each, after one that is not timed."""
    env, kernels = make_env(ENV), []

    def train(seed: int) -> Costs:
        return train_population(env, case.config, num_seeds=case.num_seeds, seed=seed).costs

    first, *costs = [train(i) for i in range(case.repeats + 1)]
    if case.has_kernels:
        with tempfile.TemporaryDirectory() as folder:
            with jax.profiler.trace(folder):
                train(0)
            kernels = read_kernels(Path(folder), case.config.num_updates)
    assert first.plan is not None  # something was left to train
    chunks = f", in {first.plan.num_chunks} chunks" if first.plan.num_chunks > 1 else ""
    return {
        **spread_of([x.timesteps / x.train_seconds for x in costs])._asdict(),
        "unit": "env-steps/s",
        "remark": f"compiled in {first.compile_seconds:.1f} s{chunks}",
        "compile_seconds": first.compile_seconds,
        "planned_bytes": first.plan.peak,
        "chunks": first.plan.num_chunks,
        "device": jax.devices()[0].device_kind,
        "kernels": kernels,
    }


def read_kernels(folder: Path, num_updates: int) -> list[dict[str, Any]]:
    """A row for each kernel of a trace, with its microseconds of one update: the longest in all first."""
    micros, calls = Counter(), Counter()
    for file in folder.rglob("*.trace.json.gz"):
        events = json.loads(gzip.decompress(file.read_bytes()))["traceEvents"]
        places = {e["pid"]: e["args"]["name"] for e in events if e.get("name") == "process_name"}
        for e in events:
            if e.get("ph") == "X" and "/device:GPU" in places.get(e["pid"], ""):
                micros[e["name"]] += e.get("dur", 0)
                calls[e["name"]] += 1
    return [
        {
            "name": "- of which a kernel",
            "median": us / num_updates,
            "unit": "us an update",
            "remark": f"{calls[name] / num_updates:.1f} calls  {name}",
        }
        for name, us in micros.most_common(KERNELS)
    ]


def measure_apart(case: Case) -> dict[str, Any]:
    """`measure` in another process; {"remark": "failed: ..."} if it did not succeed in time."""
    flags = f"{os.environ.get('XLA_FLAGS', '')} {case.flags}".strip()
    environment = {**os.environ, "XLA_FLAGS": flags, "XLA_PYTHON_CLIENT_PREALLOCATE": "true"}
    command = [sys.executable, "-m", "purejaxppo.cli.bench.gpu"]
    text = json.dumps(case._replace(config=to_json(vars(case.config)))).encode()
    try:
        done = subprocess.run(command, input=text, capture_output=True, timeout=SECONDS, env=environment)
    except subprocess.TimeoutExpired:
        return {"remark": f"failed: not done after {SECONDS} s"}
    if done.returncode:
        lines = done.stderr.decode(errors="replace").strip().splitlines() or ["no message"]
        return {"remark": f"failed: {lines[-1]}"}
    return json.loads(done.stdout.splitlines()[-1])


def run_gpu_bench(config: PPOConfig, plan: Plan, say: Callable[[str], None]) -> dict[str, Any]:
    """Measures every case. Its report is plain JSON, as that of `run_bench`."""
    measured = []
    for case in make_cases(config, plan):
        say(case.name)
        found = measure_apart(case)
        kernels = found.pop("kernels", [])
        row = {"name": case.name, "num_seeds": case.num_seeds, "flags": case.flags}
        measured += [row | dataclasses.asdict(case.config) | found, *kernels]
    device = next((row["device"] for row in measured if "device" in row), "unknown")
    return {
        "title": f"{device}, jax {versions()['jax']}; {ENV}",
        "machine": {"device": device, "versions": versions()},
        "plan": plan._asdict(),
        "measured": measured,
    }


if __name__ == "__main__":
    try:
        name, fields, *others = json.load(sys.stdin)
        print(json.dumps(measure(Case(name, PPOConfig(**from_json(fields)), *others))))
    except Exception as error:  # the caller shows the last line
        sys.exit(in_one_line(error))
