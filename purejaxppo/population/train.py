"""Training a population: many seeds of one setting, or of each setting of a sweep."""

import dataclasses
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
        env: the environment, as `make_env` gives it.
        config: the hyperparameters. Their class chooses the agent, for example `make_ppo` for a `PPOConfig`.
        num_seeds: how many seeds to train. With the option `test_seeds`, these are the tuning seeds: the best setting
            of a sweep is trained once more on seeds num_seeds ... num_seeds + test_seeds - 1, which had no part in the
            choice, and `Sweep.selection` compares its two scores.
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
    if sweep is None:
        check_no_test(settled)
        return train_settings((env, config), [{}], num_seeds, seed, settled)[0][0]
    points, ahead = make_points(env, config, sweep), settled.test_seeds * config.actual_timesteps
    populations, spent = train_settings((env, config), points, num_seeds, seed, settled, ahead=ahead)
    found = Sweep(tuple(points), populations)
    return train_best((env, config), found, seed, settled, spent) if settled.test_seeds else found


def train_settings(
    base: tuple[Environment, Config],
    points: Sequence[Point],
    num_seeds: int,
    seed: int,
    options: Options,
    spent: Spent | None = None,
    ahead: int = 0,
) -> tuple[tuple[Population, ...], Spent]:
    """Trains the seeds of each setting. -> (populations in the order of the points, the work done so far)

    base: the environment and config that the points change; spent: the work done before, of a search or a test; ahead:
    environment steps that follow this call
    """
    agents = make_settings(*base, points, options)
    options = options._replace(placement=choose_placement(options.placement, agents, num_seeds))
    lock = nullcontext()
    if options.out is not None and jax.process_index() == 0:  # it holds the folder for all
        make_folder(options.out)
        lock = locked(options.out)
    with lock:
        is_begun = options.out is not None and os.path.exists(options.out / POPULATION)
        jobs = make_jobs(*base, points, num_seeds, seed, options)
        tell_begin(jobs, options, is_begun=is_begun)
        left = sum(job.num_left * job.program.config.actual_timesteps for job in jobs)
        spent = spent or Spent(0, 0, 0.0)
        spent = spent._replace(total_timesteps=spent.timesteps + left + ahead)
        costs = []
        for job in jobs:
            spent, cost = train_job(job, options, spent)
            costs.append(cost)
    return assemble(points, agents, jobs, costs), spent


def train_best(
    base: tuple[Environment, Config], sweep: Sweep, seed: int, options: Options, spent: Spent | None = None
) -> Sweep:
    """Trains the best setting once more, on the test seeds. -> the sweep with `tested`"""
    return dataclasses.replace(sweep, tested=train_test(base, sweep, sweep.best(), seed, options, spent))


def train_test(
    base: tuple[Environment, Config],
    sweep: Sweep,
    setting: int,
    seed: int,
    options: Options,
    spent: Spent | None = None,
) -> Population:
    """Trains one setting of a sweep once more, on the test seeds."""
    of_test = test_options(options, setting, sweep[setting].num_seeds)
    (tested,), _ = train_settings(base, [sweep.points[setting]], options.test_seeds, seed, of_test, spent)
    return tested


def open_best(base: tuple[Environment, Config], sweep: Sweep, seed: int, options: Options) -> Sweep:
    """Reads what `train_best` has written, if the sweep is finished."""
    if any(missing_rows(population.store) for population in sweep):
        return sweep
    best = sweep.best()
    of_test = test_options(options, best, sweep[best].num_seeds)
    (tested,) = open_settings(base, [sweep.points[best]], options.test_seeds, seed, of_test)
    return dataclasses.replace(sweep, tested=tested)


def test_options(options: Options, best: int, num_seeds: int) -> Options:
    """The options of the test of setting `best`: its seeds follow the `num_seeds` ones that it was chosen by."""
    out = None if options.out is None else options.out / f"test-{best:04d}"
    return options._replace(out=out, first_seed=num_seeds)


def check_no_test(options: Options) -> None:
    """Raises PPOError for test seeds where nothing is chosen."""
    if options.test_seeds:
        raise PPOError(
            f"test_seeds = {options.test_seeds} tests the best setting of a sweep; give sweep=, or leave it out"
        )


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
    if sweep is None:
        check_no_test(settled)
        return open_settings((env, config), [{}], num_seeds, seed, settled)[0]
    points = make_points(env, config, sweep)
    found = Sweep(tuple(points), open_settings((env, config), points, num_seeds, seed, settled))
    return open_best((env, config), found, seed, settled) if settled.test_seeds else found


def open_settings(
    base: tuple[Environment, Config], points: Sequence[Point], num_seeds: int, seed: int, options: Options
) -> tuple[Population, ...]:
    """Reads what `train_settings` has written to `options.out`."""
    assert options.out is not None
    place = options.out / POPULATION
    if not os.path.exists(place):
        raise PPOError(
            f"{str(options.out)!r} holds no population; train it with train_population(..., out={str(options.out)!r})"
        )
    if options.start.digest is None:
        options = options._replace(start=Start(None, read_json(place).get("init_from")))
    agents = make_settings(*base, points, options)
    jobs = make_jobs(*base, points, num_seeds, seed, options)
    return assemble(points, agents, jobs, [Costs(0.0, 0.0, 0, None)] * len(jobs))


def check_setting(env: Environment, config: Config, num_seeds: int, seed: int) -> None:
    """Raises PPOError for an argument of the wrong type, or out of range."""
    check_whole("num_seeds", num_seeds)
    check_seed("seed", seed, most=MAX_SEED - EVALUATION_SEED)
    check_env(env)
    if not isinstance(config, Config):
        raise PPOError(f"config must be a PPOConfig, got {type(config).__name__}")


def make_settings(env: Environment, config: Config, points: Sequence[Point], options: Options) -> list[Agent]:
    """The agent of each setting. Raises PPOError for settings that cannot work."""
    agents = [make_setting_agent(*at_point(env, config, point), options) for point in points]
    for agent in agents:
        check_start_of(agent, options.start)
    return agents


def assemble(
    points: Sequence[Point], agents: Sequence[Agent], jobs: Sequence[Job], costs: Sequence[Costs]
) -> tuple[Population, ...]:
    """The populations in the order of the points, each with its rows of the results."""
    found: dict[int, Population] = {}
    for job, cost in zip(jobs, costs, strict=True):
        for i, setting in enumerate(job.program.settings):
            rows = (i * job.num_seeds, (i + 1) * job.num_seeds)
            found[setting] = Population(agents[setting], points[setting], job.store, rows, cost)
    return tuple(found[setting] for setting in range(len(points)))
