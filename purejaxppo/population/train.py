"""Training a population: many seeds of one setting, or of each setting of a sweep."""

import dataclasses
import os
import warnings
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from typing import Any, Unpack, overload

import jax
import numpy as np

from purejaxppo.envs.base import Environment
from purejaxppo.population.chunks import NOTHING_SPENT, Spent, train_job
from purejaxppo.population.jobs import POPULATION, make_jobs, tell_begin
from purejaxppo.population.options import (
    Experiment,
    MakeAgent,
    PopulationOptions,
    Start,
    check_start_of,
    settle_options,
)
from purejaxppo.population.program import EVALUATION_SEED, Job, make_setting_agent
from purejaxppo.population.results import NO_COSTS, Costs, Population, Sweep
from purejaxppo.population.sharding import choose_placement
from purejaxppo.population.store import missing_rows
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
        env: the environment, as made by `make_env`.
        config: the hyperparameters. Its class chooses the agent, for example `make_ppo` for a `PPOConfig`.
        num_seeds: how many seeds to train. With the option `test_seeds`, these are the tuning seeds: the best setting
            of a sweep is trained again on seeds num_seeds ... num_seeds + test_seeds - 1, which had no part in the
            choice, and `Sweep.selection` compares its two scores.
        seed: the base seed; seed i trains on `fold_in(key(seed), i)`.
        sweep: lists of values by name (a grid), or a list of points, for example random ones from `draw_points`. A name
            is a field of the config or a parameter of the environment. Points that differ only in numbers share one
            compilation. Every setting trains on the same keys.
        make_agent: (env, config) -> agent, to train another agent than the config's own:
            `functools.partial(pjp.make_ppo, loss=..., network=...)`, or a function that returns your own agent.
        **options: placement, memory_limit, evaluation_episodes, out, checkpoint_every and more: see
            `PopulationOptions`.

    Returns:
        A `Population`; with a sweep a `Sweep`, which holds a `Population` for each setting.

    Raises:
        PPOError: if an argument cannot work, before anything is compiled; or if the members cannot fit into memory,
            even in chunks, before anything runs.
        Interrupted: if `should_stop` returned True.
    """
    warn_of_idle_cores()
    experiment = settle(env, config, num_seeds, seed, make_agent, options)
    return train_one(experiment) if sweep is None else train_sweep(experiment, sweep)


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
        **options: as in that call. `out` is required, and `evaluation_episodes` must be the same. Options that say how
            to train have no effect.

    Returns:
        A `Population`; with a sweep a `Sweep`. Reading a result that is missing raises PPOError.

    Raises:
        PPOError: if the folder holds no population, or a different one.
    """
    experiment = settle(env, config, num_seeds, seed, make_agent, options, reads=True)
    return train_one(experiment) if sweep is None else train_sweep(experiment, sweep)


def warn_of_idle_cores() -> None:
    """Warns the caller's caller if this process leaves cores idle."""
    message = idle_cores()
    if message:
        warnings.warn(message, stacklevel=3)


def settle(
    env: Environment,
    config: Config,
    num_seeds: int,
    seed: int,
    make_agent: MakeAgent | None,
    given: PopulationOptions,
    *,
    reads: bool = False,
) -> Experiment:
    """The experiment of these arguments. Raises PPOError for one of the wrong type, or out of range."""
    check_setting(env, config, num_seeds, seed)
    options = settle_options(config, num_seeds, make_agent, given)
    if reads:
        options = options._replace(reads=True, placement="seeds", extend=False)
        if options.out is None:
            raise PPOError("out is missing; give the folder that train_population(..., out=...) has written")
    return Experiment(env, config, num_seeds, seed, options)


def check_setting(env: Environment, config: Config, num_seeds: int, seed: int) -> None:
    """Raises PPOError for an argument of the wrong type, or out of range."""
    check_whole("num_seeds", num_seeds)
    check_seed("seed", seed, most=MAX_SEED - EVALUATION_SEED)
    check_env(env)
    if not isinstance(config, Config):
        raise PPOError(f"config must be a PPOConfig, got {type(config).__name__}")


def train_one(experiment: Experiment) -> Population:
    """Trains or reads the setting of the experiment."""
    test_seeds = experiment.options.test_seeds
    if test_seeds:
        raise PPOError(f"test_seeds = {test_seeds} tests the best setting of a sweep; give sweep=, or leave it out")
    return train_settings(experiment, [{}])[0][0]


def train_sweep(experiment: Experiment, sweep: SweepOf) -> Sweep:
    """Trains or reads each setting of a sweep, and its test."""
    points = make_points(experiment.env, experiment.config, sweep)
    ahead = experiment.options.test_seeds * experiment.config.actual_timesteps
    populations, spent = train_settings(experiment, points, ahead=ahead)
    return with_test(experiment, Sweep(tuple(points), populations), spent)


def train_settings(
    experiment: Experiment, points: Sequence[Point], spent: Spent = NOTHING_SPENT, ahead: int = 0
) -> tuple[tuple[Population, ...], Spent]:
    """Trains or reads the seeds of each setting. -> (populations in the order of the points, the work done so far)

    spent: the work done before, of a search or a test; ahead: environment steps that follow this call
    """
    experiment = settle_start(experiment)
    agents = make_agents(experiment, points)
    placement = choose_placement(experiment.options.placement, agents, experiment.num_seeds)
    experiment = experiment.with_options(placement=placement)
    options, lock = experiment.options, nullcontext()
    if options.out is not None and not options.reads and jax.process_index() == 0:  # it holds the folder for all
        make_folder(options.out)
        lock = locked(options.out)
    with lock:
        is_begun = options.out is not None and os.path.exists(options.out / POPULATION)
        jobs = make_jobs(experiment, points)
        if options.reads:
            return assemble(points, agents, jobs, [NO_COSTS] * len(jobs)), spent
        tell_begin(jobs, options, is_begun=is_begun)
        left = sum(job.num_left * job.program.config.actual_timesteps for job in jobs)
        spent, costs = spent._replace(total_timesteps=spent.timesteps + left + ahead), []
        for job in jobs:
            spent, cost = train_job(job, spent)
            costs.append(cost)
    return assemble(points, agents, jobs, costs), spent


def settle_start(experiment: Experiment) -> Experiment:
    """The experiment; one that is read has the start that its folder tells. Raises PPOError if the folder has none."""
    options = experiment.options
    if not options.reads:
        return experiment
    assert options.out is not None
    place = options.out / POPULATION
    if not os.path.exists(place):
        raise PPOError(
            f"{str(options.out)!r} holds no population; train it with train_population(..., out={str(options.out)!r})"
        )
    if options.start.digest is not None:
        return experiment
    return experiment.with_options(start=Start(None, read_json(place).get("init_from")))


def with_test(experiment: Experiment, sweep: Sweep, spent: Spent = NOTHING_SPENT) -> Sweep:
    """The sweep with the test of its best setting, if there are test seeds and nothing is missing.

    Without a final return no setting is the best: then it warns, and keeps what was trained.
    """
    options = experiment.options
    if not options.test_seeds or (options.reads and any(missing_rows(population.store) for population in sweep)):
        return sweep
    if not np.isfinite(sweep.final_returns()).any():
        if not options.reads:
            warnings.warn(
                f"test_seeds = {options.test_seeds} are left out: no setting has finished an episode in its last "
                "updates; train longer, or give evaluation_episodes",
                stacklevel=4,
            )
        return sweep
    return dataclasses.replace(sweep, tested=train_test(experiment, sweep, sweep.best(), spent))


def train_test(experiment: Experiment, sweep: Sweep, setting: int, spent: Spent = NOTHING_SPENT) -> Population:
    """Trains or reads one setting of a sweep once more, on the seeds that follow the tuning seeds."""
    of_test = experiment.within(f"test-{setting:04d}").with_options(first_seed=experiment.num_seeds)
    of_test = of_test._replace(num_seeds=experiment.options.test_seeds)
    return train_settings(of_test, [sweep.points[setting]], spent)[0][0]


def make_agents(experiment: Experiment, points: Sequence[Point]) -> list[Agent]:
    """The agent of each setting. Raises PPOError for settings that cannot work."""
    settings = (at_point(experiment.env, experiment.config, point) for point in points)
    agents = [make_setting_agent(*setting, experiment.options) for setting in settings]
    for agent in agents:
        check_start_of(agent, experiment.options.start)
    return agents


def assemble(
    points: Sequence[Point], agents: Sequence[Agent], jobs: Sequence[Job], costs: Sequence[Costs]
) -> tuple[Population, ...]:
    """The populations in the order of the points, each with its rows of the results."""
    found: dict[int, Population] = {}
    for job, cost in zip(jobs, costs, strict=True):
        num_seeds = job.experiment.num_seeds
        for i, setting in enumerate(job.program.settings):
            rows = (i * num_seeds, (i + 1) * num_seeds)
            found[setting] = Population(agents[setting], points[setting], job.store, rows, cost)
    return tuple(found[setting] for setting in range(len(points)))
