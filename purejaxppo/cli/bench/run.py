"""The whole benchmark: limits, stepping, phases and trainings in turn, then compilation. Its report is plain JSON."""

import contextlib
import dataclasses
import functools
import math
import tempfile
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from purejaxppo.cli.bench.compiling import measure_compiling
from purejaxppo.cli.bench.programs import limit_programs, phase_programs, sizes_for, stepping_programs
from purejaxppo.cli.bench.timing import Probe, Spread, in_pairs, make_probe, measure_in_turn
from purejaxppo.cli.bench.work import Work, step_limit, work_per_step
from purejaxppo.envs import make_env
from purejaxppo.envs.base import Environment
from purejaxppo.envs.spaces import Box
from purejaxppo.population.results import Population
from purejaxppo.population.statistics import aggregate
from purejaxppo.population.train import train_population
from purejaxppo.ppo.agent import PPO
from purejaxppo.ppo.config import PPOConfig
from purejaxppo.ppo.factory import make_ppo
from purejaxppo.runs.folder import git_revision, peak_memory_bytes
from purejaxppo.utils.devices import cpu_cores
from purejaxppo.utils.errors import PPOError
from purejaxppo.utils.files import versions

ENV = "CartPole-v1"  # the work per step is counted for it, and gymnax has it too
COMPILING_REPEATS = 3  # fewer than of the rest, as each starts two processes
LEAST_UPDATES = 4  # of a training, by default


class Plan(NamedTuple):
    """The sizes and repetitions to measure."""

    seeds: tuple[int, ...]  # number of seeds of each population
    timesteps: int  # of each seed
    repeats: int
    least_seconds: float  # of one repetition, except for whole trainings
    quick: bool


class Trained(NamedTuple):
    """The results of a timed training."""

    env_steps_per_second: float
    final_returns: list[float]  # of the seeds that finished an episode
    planned_bytes: int


def make_plan(
    platform: str,
    config: PPOConfig,
    *,
    seeds: Sequence[int] | None = None,
    timesteps: int | None = None,
    repeats: int | None = None,
    quick: bool = False,
) -> Plan:
    """The plan that the caller asks for, with defaults that suit the platform: an accelerator needs thousands of seeds.

    Raises PPOError for fewer timesteps than one rollout has.
    """
    if timesteps is not None and timesteps < config.batch_size:
        raise PPOError(f"--timesteps {timesteps} is below one rollout of {config.batch_size}; give at least that")
    if quick:
        default = Plan((1, 2), 2_048, 2, 0.005, quick)
    elif platform == "cpu":
        default = Plan((1, 16, 64, 256), 100_000, 5, 0.3, quick)
    else:
        default = Plan((1, 64, 1_024, 2_048, 8_192), 500_000, 5, 0.3, quick)
    return default._replace(
        seeds=tuple(seeds or default.seeds),
        timesteps=timesteps or max(default.timesteps, LEAST_UPDATES * config.batch_size),
        repeats=repeats or default.repeats,
    )


def run_bench(config: PPOConfig, plan: Plan, say: Callable[[str], None]) -> dict[str, Any]:
    """Measures everything on the devices of this process. `say` is called with the name of each measurement."""
    config = config.replace(total_timesteps=plan.timesteps)
    trained: dict[int, list[Trained]] = {num_seeds: [] for num_seeds in plan.seeds}
    with compiled_once():
        say("compiling")
        env, devices = make_env(ENV), jax.local_devices()
        agent = make_ppo(env, config)
        probes = program_probes(agent, plan, devices)
        for num_seeds in plan.seeds:
            probes[train_name(num_seeds)] = functools.partial(train_once, env, config, num_seeds, trained[num_seeds])
        spreads = measure_in_turn(probes, plan.repeats, say)
    compiling = {
        num_seeds: measure_compiling(ENV, config, num_seeds, 1 if plan.quick else COMPILING_REPEATS, say)
        for num_seeds in compiled_sizes(plan)
    }
    assert isinstance(env.observation_space, Box)  # as CartPole's is
    work = work_per_step(config, math.prod(env.observation_space.shape), agent.actions.num_outputs)
    return {
        "machine": describe_machine(devices),
        "plan": plan._asdict(),
        "config": dataclasses.asdict(config),
        **assemble(spreads, trained, work),
        "compile_seconds": {
            str(num_seeds): {name: spread._asdict() for name, spread in both.items()}
            for num_seeds, both in compiling.items()
        },
        "peak_memory_bytes": peak_memory_bytes(),
    }


def compiled_sizes(plan: Plan) -> list[int]:
    """Sizes of the populations whose compilation is timed: the smallest and the largest."""
    return [min(plan.seeds)] if plan.quick else sorted({min(plan.seeds), max(plan.seeds)})


def program_probes(agent: PPO, plan: Plan, devices: Sequence[Any]) -> dict[str, Probe]:
    """Compiles the programs that are measured in addition to whole trainings."""
    sizes = sizes_for(devices[0].platform, plan.quick)
    programs = limit_programs(sizes, devices)
    programs |= stepping_programs(agent, sizes, devices) | phase_programs(agent, sizes, devices)
    return {name: make_probe(timed, plan.least_seconds) for name, timed in programs.items()}


def train_name(num_seeds: int) -> str:
    """The name of the measurement of a population."""
    return f"train.{num_seeds}"


def train_once(env: Environment, config: PPOConfig, num_seeds: int, trained: list[Trained], repetition: int) -> float:
    """Env-steps per second of a whole `train_population`. Each repetition has its own seeds."""
    population = train_population(env, config, num_seeds=num_seeds, seed=repetition)
    trained.append(what_it_left(population))
    return trained[-1].env_steps_per_second


def what_it_left(population: Population) -> Trained:
    """The speed without compilation, and the final returns."""
    costs, returns = population.costs, population.final_returns()
    assert costs.plan is not None  # something was left to train
    return Trained(
        costs.timesteps / costs.train_seconds, returns[~np.isnan(returns)].tolist(), planned_bytes=costs.plan.peak
    )


def assemble(spreads: dict[str, Spread], trained: dict[int, list[Trained]], work: Work) -> dict[str, Any]:
    """The measurements by kind, and their ratios, which are taken repetition by repetition."""
    limit = in_pairs(functools.partial(step_limit, work), spreads["sgemm"], spreads["tanh"])
    phases = {name.removeprefix("phase."): spread for name, spread in spreads.items() if name.startswith("phase.")}
    stepping = {name: spreads[name] for name in ("env_only", "gymnax_step", "gymnax_step_spread", "rollout")}
    for name in ("gymnax_step", "gymnax_step_spread"):
        stepping[f"env_only_over_{name}"] = in_pairs(lambda a, b: a / b, spreads["env_only"], spreads[name])
    return {
        "work_per_env_step": work._asdict(),
        "limits": {
            "sgemm_flop_per_second": spreads["sgemm"]._asdict(),
            "tanh_per_second": spreads["tanh"]._asdict(),
            "env_steps_per_second": limit._asdict(),
        },
        "env_steps_per_second": {name: spread._asdict() for name, spread in stepping.items()},
        "training": [
            describe_training(num_seeds, runs, spreads[train_name(num_seeds)], limit, work)
            for num_seeds, runs in trained.items()
        ],
        "phases_microseconds_per_env_step": {name: spread._asdict() for name, spread in with_rest(phases).items()},
    }


def with_rest(phases: dict[str, Spread]) -> dict[str, Spread]:
    """Converts to microseconds per env-step, and adds the rest: the whole update minus its parts.

    Alone, the parts write results to memory that stay in the cache within the whole, so the rest can be below 0.
    """
    times = {name: in_pairs(lambda rate: 1e6 / rate, spread) for name, spread in phases.items()}
    parts = [time for name, time in times.items() if name != "update" and "." not in name]
    return {**times, "rest": in_pairs(lambda whole, *parts: whole - sum(parts), times["update"], *parts)}


def describe_training(
    num_seeds: int, runs: Sequence[Trained], speed: Spread, limit: Spread, work: Work
) -> dict[str, Any]:
    """A population: its speed, its share of the limit, and the returns of the runs that were timed."""
    returns = np.array([x for run in runs for x in run.final_returns])
    iqm = aggregate(returns).iqm._asdict() if returns.size else None
    return {
        "seeds": num_seeds,
        "env_steps_per_second": speed._asdict(),
        "flop_per_second": in_pairs(lambda rate: rate * work.flop, speed)._asdict(),
        "share_of_limit": in_pairs(lambda rate, most: rate / most, speed, limit)._asdict(),
        "final_return_iqm": iqm,  # of the last tenth of training, over the seeds of all repetitions
        "final_returns": returns.tolist(),
        "planned_bytes": max(run.planned_bytes for run in runs),
    }


def describe_machine(devices: Sequence[Any]) -> dict[str, Any]:
    """The machine, its devices and the versions."""
    settings: Any = jax.config  # its attributes are made at run time
    return {
        "platform": devices[0].platform,
        "device": devices[0].device_kind,
        "num_devices": len(devices),
        "cores": cpu_cores(),
        "matmul_precision": settings.jax_default_matmul_precision or "default",
        "versions": versions(),
        "git_revision": git_revision(),
    }


@contextlib.contextmanager
def compiled_once() -> Iterator[None]:
    """Keeps compiled programs for later repetitions in a temporary cache, unless there is a cache already.

    Without effect once JAX has compiled something without a cache.
    """
    settings: Any = jax.config  # its attributes are made at run time
    if settings.jax_compilation_cache_dir:
        yield
        return
    with tempfile.TemporaryDirectory(prefix="purejaxppo-bench-") as cache:
        jax.config.update("jax_compilation_cache_dir", cache)
        try:
            yield
        finally:
            jax.config.update("jax_compilation_cache_dir", None)
