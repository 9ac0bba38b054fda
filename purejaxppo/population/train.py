"""Training a population: many seeds of one setting, or of each setting of a sweep."""

import os
import warnings
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from typing import Any, Unpack, overload

import jax

from purejaxppo.envs.base import Environment
from purejaxppo.population.chunks import Spent, train_job
from purejaxppo.population.jobs import POPULATION, make_jobs, tell_begin
from purejaxppo.population.options import (
    MakeAgent,
    Options,
    PopulationOptions,
    Start,
    check_start_of,
    settle_options,
)
from purejaxppo.population.program import EVALUATION_SEED, Job, make_setting_agent
from purejaxppo.population.results import Costs, Population, Sweep
from purejaxppo.population.sharding import choose_placement
from purejaxppo.population.sweep import Point, at_point, check_whole, make_points
from purejaxppo.ppo.checks import check_env
from purejaxppo.ppo.config import Config
from purejaxppo.ppo.evaluate import Agent
from purejaxppo.utils.devices import idle_cores
from purejaxppo.utils.errors import PPOError
from purejaxppo.utils.files import make_folder, read_json
from purejaxppo.utils.lock import locked
from purejaxppo.utils.validation import MAX_SEED, check_seed

SweepOf = Mapping[str, Sequence[Any]] | Sequence[Point]  # a grid of values by name, or points


@overload
def train_population(
    env: Environment,
    config: Config,
    *,
    num_seeds: int,
    seed: int = ...,
    sweep: None = ...,
    make_agent: MakeAgent | None = ...,
    **options: Unpack[PopulationOptions],
) -> Population: ...
@overload
def train_population(
    env: Environment,
    config: Config,
    *,
    num_seeds: int,
    seed: int = ...,
    sweep: SweepOf,
    make_agent: MakeAgent | None = ...,
    **options: Unpack[PopulationOptions],
) -> Sweep: ...
def train_population(
    env: Environment,
    config: Config,
    *,
    num_seeds: int,
    seed: int = 0,
    sweep: SweepOf | None = None,
    make_agent: MakeAgent | None = None,
    **options: Unpack[PopulationOptions],
) -> Population | Sweep:
    """Trains seeds 0 ... num_seeds - 1 (`seed_keys(seed, num_seeds)`) of one setting, or of each setting of a sweep.

    Args:
        env: the environment, as `make_env` gives it.
        config: the hyperparameters. Their class chooses the agent, for example `make_ppo` for a `PPOConfig`.
        num_seeds: how many seeds to train.
        seed: the base seed; seed i trains on `fold_in(key(seed), i)`.
        sweep: lists of values by name (a grid), or a list of points, as `draw_points` draws them at random. Names are
            those of the config's fields and of the environment's parameters. Points that differ in numbers share one
            compilation; every setting trains on the same keys.
        make_agent: (env, config) -> agent, to train another agent than the config's own:
            `functools.partial(pjp.make_ppo, loss=..., network=...)`, or a function that returns your own agent.
        **options: placement, memory_limit, evaluation_episodes, out, checkpoint_every and more: see
            `PopulationOptions`.

    Returns:
        A `Population`; with a sweep a `Sweep`, which holds a `Population` for each setting.

    Raises:
        PPOError: for arguments that cannot work, before anything is compiled; and for members that cannot fit the
            memory, before anything is run.
        Interrupted: where `should_stop` said so.
    """
    message = idle_cores()
    if message:
        warnings.warn(message, stacklevel=2)
    check_setting(env, config, num_seeds, seed)
    settled = settle_options(config, num_seeds, make_agent, options)
    points, agents = make_settings(env, config, sweep, settled)
    settled = settled._replace(placement=choose_placement(settled.placement, agents, num_seeds))
    lock = nullcontext()
    if settled.out is not None and jax.process_index() == 0:  # it holds the folder for all
        make_folder(settled.out)
        lock = locked(settled.out)
    with lock:
        is_begun = settled.out is not None and os.path.exists(settled.out / POPULATION)
        jobs = make_jobs(env, config, points, num_seeds, seed, settled)
        tell_begin(jobs, settled, is_begun=is_begun)
        spent = Spent(0, sum(job.num_left * job.program.config.actual_timesteps for job in jobs), 0.0)
        costs = []
        for job in jobs:
            spent, cost = train_job(job, settled, spent)
            costs.append(cost)
    return assemble(points, agents, jobs, costs, is_sweep=sweep is not None)


def open_population(
    env: Environment,
    config: Config,
    *,
    num_seeds: int,
    seed: int = 0,
    sweep: SweepOf | None = None,
    make_agent: MakeAgent | None = None,
    **options: Unpack[PopulationOptions],
) -> Population | Sweep:
    """Reads the population that `train_population` has written to `out`. Trains nothing.

    Args:
        env, config, num_seeds, seed, sweep, make_agent: as in the call of `train_population`.
        **options: as in that call. `out` is needed, `evaluation_episodes` has to be the same, and those that say how
            to train make no difference.

    Returns:
        A `Population`, or with a sweep a `Sweep`. Results that are missing are refused when they are read.

    Raises:
        PPOError: for a folder without a population, or with another one.
    """
    check_setting(env, config, num_seeds, seed)
    settled = settle_options(config, num_seeds, make_agent, options)._replace(placement="seeds", extend=False)
    if settled.out is None:
        raise PPOError("out is missing; give the folder that train_population(..., out=...) has written")
    place = settled.out / POPULATION
    if not os.path.exists(place):
        raise PPOError(
            f"{str(settled.out)!r} holds no population; train it with train_population(..., out={str(settled.out)!r})"
        )
    if settled.start.digest is None:
        settled = settled._replace(start=Start(None, read_json(place).get("init_from")))
    points, agents = make_settings(env, config, sweep, settled)
    jobs = make_jobs(env, config, points, num_seeds, seed, settled)
    return assemble(points, agents, jobs, [Costs(0.0, 0.0, 0, None)] * len(jobs), is_sweep=sweep is not None)


def check_setting(env: Environment, config: Config, num_seeds: int, seed: int) -> None:
    """Raises PPOError for an argument of the wrong type, or out of range."""
    check_whole("num_seeds", num_seeds)
    check_seed("seed", seed, most=MAX_SEED - EVALUATION_SEED)
    check_env(env)
    if not isinstance(config, Config):
        raise PPOError(f"config must be a PPOConfig, got {type(config).__name__}")


def make_settings(
    env: Environment, config: Config, sweep: SweepOf | None, options: Options
) -> tuple[list[Point], list[Agent]]:
    """The settings of a population, and the agent of each. Raises PPOError for settings that cannot work."""
    points = [{}] if sweep is None else make_points(env, config, sweep)
    agents = [make_setting_agent(*at_point(env, config, point), options) for point in points]
    for agent in agents:
        check_start_of(agent, options.start)
    return points, agents


def assemble(
    points: list[Point], agents: list[Agent], jobs: Sequence[Job], costs: Sequence[Costs], *, is_sweep: bool
) -> Population | Sweep:
    """The populations in the order of the points, each with its rows of the results; without a sweep the only one."""
    found: dict[int, Population] = {}
    for job, cost in zip(jobs, costs, strict=True):
        for i, setting in enumerate(job.program.settings):
            rows = (i * job.num_seeds, (i + 1) * job.num_seeds)
            found[setting] = Population(agents[setting], points[setting], job.store, rows, cost)
    populations = tuple(found[setting] for setting in range(len(points)))
    return Sweep(tuple(points), populations) if is_sweep else populations[0]
