"""The whole benchmark: limits, stepping, phases and trainings in turn, then compilation. Its report is plain JSON."""

import contextlib
import dataclasses
import functools
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.experimental.compilation_cache import compilation_cache

from purejaxppo.cli.bench.programs import limit_programs, phase_programs, sizes_for, stepping_programs
from purejaxppo.cli.bench.timing import Probe, Spread, in_pairs, make_probe, measure_in_turn, spread_of
from purejaxppo.cli.bench.work import Work, step_limit, work_per_step
from purejaxppo.envs import make_env
from purejaxppo.envs.base import Environment
from purejaxppo.population.executables import forget_programs
from purejaxppo.population.memory import show_bytes
from purejaxppo.population.statistics import aggregate, with_interval
from purejaxppo.population.train import train_population
from purejaxppo.ppo.config import PPOConfig
from purejaxppo.ppo.factory import make_ppo
from purejaxppo.runs.folder import git_revision, peak_memory_bytes
from purejaxppo.utils.devices import cpu_cores
from purejaxppo.utils.errors import PPOError
from purejaxppo.utils.files import versions
from purejaxppo.utils.suggest import plural

ENV = "CartPole-v1"  # gymnax has it too
OBS_SIZE, NUM_ACTIONS = 4, 2  # of CartPole
CACHE = ("jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs")  # settings of JAX
LEAST_UPDATES = 4  # of a training, by default
NUMBERS = ("median", "least", "most")  # of a line of the table


class Plan(NamedTuple):
    """The sizes and repetitions to measure."""

    seeds: Sequence[int]  # number of seeds of each population
    timesteps: int  # of each seed
    repeats: int
    least_seconds: float  # of one repetition, except for whole trainings
    quick: bool = False


PLANS = {
    "quick": Plan((1, 2), 2_048, 2, 0.005, quick=True),
    "cpu": Plan((1, 16, 64, 256), 100_000, 5, 0.3),
    "accelerator": Plan((1, 64, 1_024, 2_048, 8_192), 500_000, 5, 0.3),
    "gpu": Plan((1, 64, 1_024, 2_048, 8_192), 100_000, 2, 0.3),  # of --gpu
}


class Trained(NamedTuple):
    """One timed training."""

    compile_seconds: float
    final_returns: list[float]  # of the seeds that finished an episode
    planned_bytes: int


class Row(NamedTuple):
    """One measurement of the report."""

    name: str
    spread: Spread
    unit: str
    remark: str = ""


def make_plan(kind: str, config: PPOConfig, given: Mapping[str, Any]) -> Plan:
    """The plan of a kind in PLANS, with the `seeds`, `timesteps` and `repeats` that are given and not None.

    Raises PPOError for fewer timesteps than one rollout has.
    """
    given = {name: value for name, value in given.items() if value is not None}
    if given.get("timesteps", config.batch_size) < config.batch_size:
        raise PPOError(
            f"--timesteps {given['timesteps']} is below one rollout of {config.batch_size}; give at least that"
        )
    timesteps = max(PLANS[kind].timesteps, LEAST_UPDATES * config.batch_size)
    return PLANS[kind]._replace(**{"timesteps": timesteps, **given})


def run_bench(config: PPOConfig, plan: Plan, say: Callable[[str], None]) -> dict[str, Any]:
    """Measures everything on the devices of this process. `say` is called with the name of each measurement."""
    config = config.replace(total_timesteps=plan.timesteps)
    trained: dict[int, list[Trained]] = {num_seeds: [] for num_seeds in plan.seeds}
    env, devices = make_env(ENV), jax.local_devices()
    with empty_cache():  # the first training of a size compiles anew, and the others find its program
        say("compiling")
        agent, sizes = make_ppo(env, config), sizes_for(devices[0].platform, plan.quick)
        programs = limit_programs(sizes, devices)
        programs |= stepping_programs(agent, sizes, devices) | phase_programs(agent, sizes, devices)
        probes: dict[str, Probe] = {name: make_probe(timed, plan.least_seconds) for name, timed in programs.items()}
        for num_seeds, runs in trained.items():
            probes[train_name(num_seeds)] = functools.partial(train_once, env, config, num_seeds, runs)
        spreads = measure_in_turn(probes, plan.repeats, say)
    work = work_per_step(config, OBS_SIZE, NUM_ACTIONS)
    rows = [*speed_rows(spreads, trained, work), *phase_rows(spreads), *cost_rows(trained)]
    device, cores, used = devices[0], cpu_cores(), versions()
    return {
        "title": (
            f"{len(devices)} x {device.device_kind} ({device.platform}, {cores} cores), jax {used['jax']}; {ENV}, "
            f"{config.num_envs} x {config.num_steps} steps, {config.update_epochs} epochs x "
            f"{config.num_minibatches} minibatches, {plan.timesteps:,} steps a seed; "
            f"{plural(plan.repeats, 'repetition')}"
        ),
        "machine": {
            "platform": device.platform,
            "device": device.device_kind,
            "num_devices": len(devices),
            "cores": cores,
            "versions": used,
            "git_revision": git_revision(),
        },
        "plan": plan._asdict(),
        "config": dataclasses.asdict(config),
        "measured": [{"name": x.name, "unit": x.unit, "remark": x.remark, **x.spread._asdict()} for x in rows],
    }


@contextlib.contextmanager
def empty_cache() -> Iterator[None]:
    """Keeps compiled programs in a folder of its own, and then JAX's settings as they were."""
    before = {name: getattr(jax.config, name) for name in CACHE}
    with tempfile.TemporaryDirectory(prefix="purejaxppo-bench-") as folder:
        try:
            set_cache(dict(zip(CACHE, (folder, 0.0), strict=True)))
            yield
        finally:
            set_cache(before)


def set_cache(settings: dict[str, Any]) -> None:
    """Changes the settings of JAX's cache of compiled programs."""
    for name, value in settings.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()


def train_name(num_seeds: int) -> str:
    """The name of the measurement of a population."""
    return f"train, {show_seeds(num_seeds)}"


def show_seeds(count: int) -> str:
    """1 seed, 16 seeds"""
    return f"{count} seed{'s' if count > 1 else ''}"


def train_once(env: Environment, config: PPOConfig, num_seeds: int, trained: list[Trained], repetition: int) -> float:
    """Env-steps per second of a `train_population`, without compilation. Each repetition has its own seeds."""
    forget_programs()  # the time to compile with a full cache is that of the next process
    population = train_population(env, config, num_seeds=num_seeds, seed=repetition)
    costs, returns = population.costs, population.final_returns()
    assert costs.plan is not None  # something was left to train
    trained.append(Trained(population.compile_seconds, returns[~np.isnan(returns)].tolist(), costs.plan.peak))
    return costs.timesteps / costs.train_seconds


def speed_rows(spreads: Mapping[str, Spread], trained: Mapping[int, list[Trained]], work: Work) -> list[Row]:
    """The limits of the machine and of training on it, steps without learning, and whole trainings.

    A ratio or a limit is taken repetition by repetition.
    """
    products, tanh = spreads["large matrix products"], spreads["tanh in cache"]
    limit = in_pairs(functools.partial(step_limit, work), products, tanh)
    ours, gymnax = spreads["environment only, random actions"], spreads["gymnax's own step, one jit"]
    acting = in_pairs(lambda *rates: 1 / sum(1 / rate for rate in rates), spreads["noise"], spreads["rollout"])
    needs = f"at {work.flop / 1e3:,.0f} kFLOP and {work.tanh:,} tanh per env-step"
    rows = [
        Row("large matrix products", products, "GFLOP/s"),
        Row("tanh in cache", tanh, "G/s"),
        Row("limit of training", limit, "env-steps/s", needs),
        Row("environment only, random actions", ours, "env-steps/s"),
        Row("gymnax's own step, one jit", gymnax, "env-steps/s"),
        Row("ours over gymnax's", in_pairs(lambda a, b: a / b, ours, gymnax), "times"),
        Row("rollout with the policy", acting, "env-steps/s"),
    ]
    for num_seeds, runs in trained.items():
        speed = spreads[train_name(num_seeds)]
        share = in_pairs(lambda rate, most: rate / most, speed, limit).median
        returns = np.array([x for run in runs for x in run.final_returns])
        learned = "no episode at the end"
        if returns.size:  # of the last tenth of training, over the seeds of all repetitions
            learned = f"final training return, IQM {with_interval(*aggregate(returns).iqm)}"
        rate = f"{show_number(speed.median * work.flop / 1e9)} GFLOP/s"
        rows.append(Row(train_name(num_seeds), speed, "env-steps/s", f"{share:.0%} of the limit, {rate}; {learned}"))
    return rows


def phase_rows(spreads: Mapping[str, Spread]) -> list[Row]:
    """One update in its parts, and the rest: the whole minus its parts.

    Alone, the parts write results to memory that stay in the cache within the whole, so the rest can be below 0.
    """
    parts = ("noise", "rollout", "values and GAE", "learning")
    shown = ("update", *parts, "- of which gradients", "- of which permutations")
    times = {name: in_pairs(lambda rate: 1e6 / rate, spreads[name]) for name in shown}
    rest = in_pairs(lambda whole, *parts: whole - sum(parts), times["update"], *(times[name] for name in parts))
    return [
        Row(name if name.startswith("-") else f"phase: {name}", time, "us per env-step")
        for name, time in {**times, "rest": rest}.items()
    ]


def cost_rows(trained: Mapping[int, list[Trained]]) -> list[Row]:
    """Seconds to compile, with an empty cache in the first repetition, and the peak memory of this process."""
    rows = []
    for num_seeds, runs in trained.items():
        cold, *warm = [run.compile_seconds for run in runs]
        rows.append(Row(f"compile, {show_seeds(num_seeds)}, empty cache", spread_of([cold]), "s"))
        if warm:
            rows.append(Row(f"compile, {show_seeds(num_seeds)}, full cache", spread_of(warm), "s"))
    peak, planned = peak_memory_bytes(), max(run.planned_bytes for runs in trained.values() for run in runs)
    if peak is not None:
        remark = f"{show_bytes(planned)} planned for the largest population"
        rows.append(Row("peak memory", spread_of([peak / 2**30]), "GiB", remark))
    return rows


def show_table(report: Mapping[str, Any]) -> str:
    """The report as text: its title, and a table with one line per measurement."""
    rows = [("measured", "median", "least", "most", "unit", "")] + [
        (x["name"], *(show_number(x[key]) if key in x else "" for key in NUMBERS), x.get("unit", ""), x["remark"])
        for x in report["measured"]
    ]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join(cell.rjust(widths[i]) if i in (1, 2, 3) else cell.ljust(widths[i]) for i, cell in enumerate(row))
        for row in rows
    ]
    return "\n".join([report["title"], "", *map(str.rstrip, lines)])


def show_number(x: float) -> str:
    """Three digits, or a whole number with commas."""
    return f"{x:,.0f}" if x >= 100 else f"{x:.3g}"
