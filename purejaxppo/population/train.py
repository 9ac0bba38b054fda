"""Training a population: chunks of members that fit the memory, and within each compiled chunks of updates."""

import contextlib
import dataclasses
import hashlib
import os
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, overload

import jax
import jax.numpy as jnp
import numpy as np
import optax

from purejaxppo.envs.base import Environment
from purejaxppo.policies.networks import NetworkLike
from purejaxppo.population.checkpoints import (
    KEPT,
    NO_CHECKPOINTS,
    Best,
    Checkpoint,
    Policy,
    better,
    checkpoint_folder,
    checkpoints,
    drop_finished,
    find_checkpoint,
    has_states,
    holding_rows,
    make_policy,
    padded,
    reopen_parts,
    split_rows,
    unfinished_rows,
    updates_done,
    write_best,
    write_checkpoint,
)
from purejaxppo.population.memory import MemoryPlan, parse_bytes
from purejaxppo.population.processes import barrier, gather_rows, rest
from purejaxppo.population.program import (
    EVALUATION_SEED,
    REPORT_SECONDS,
    Compiled,
    Job,
    MakeAgent,
    Options,
    Progress,
    Start,
    compile_to_fit,
    finishing_programs,
    init_inputs,
    make_setting_agent,
    member_inputs,
    member_shapes,
)
from purejaxppo.population.results import Costs, Population, Sweep
from purejaxppo.population.store import (
    POPULATION,
    TOTAL,
    DiskStore,
    MemberResult,
    MemoryStore,
    Rows,
    Store,
    check_folders,
    claim,
    holds,
    make_memory_store,
)
from purejaxppo.population.sweep import Point, at_point, check_whole, make_points, make_programs
from purejaxppo.ppo.checks import check_env, check_state
from purejaxppo.ppo.config import Config
from purejaxppo.ppo.evaluate import Agent
from purejaxppo.ppo.factory import make_ppo
from purejaxppo.ppo.gae import Advantage, gae_advantage
from purejaxppo.ppo.losses import Loss, ppo_loss
from purejaxppo.ppo.schedules import Schedule
from purejaxppo.ppo.types import Metrics, RunnerState, TrainState
from purejaxppo.utils.devices import idle_cores
from purejaxppo.utils.errors import Interrupted, PPOError
from purejaxppo.utils.files import as_path, make_folder, read_json, to_host, write_json
from purejaxppo.utils.lock import locked
from purejaxppo.utils.validation import MAX_SEED, check_function, check_seed, check_switch

_FLOAT32_COUNTS = 2**24  # every whole number below it is a float32


class Plan(NamedTuple):
    """What a population is of, and what is left to do for it."""

    points: list[Point]
    agents: list[Agent]  # of each point
    jobs: list[Job]
    is_sweep: bool


class Spent(NamedTuple):
    """The work so far."""

    timesteps: int  # over all members
    total_timesteps: int
    seconds: float  # of training


class Pace(NamedTuple):
    """What tells when the host looks next, and when a checkpoint by time is due."""

    written: float  # the newest, or where the chunk began; seconds of the clock
    updates_per_second: float  # of the last call; 0 before the first


def ignore(_: Any) -> None:
    """What is told to nobody."""


def never() -> bool:
    """What goes on to its end."""
    return False


@overload
def train_population(
    env: Environment,
    config: Config,
    *,
    num_seeds: int,
    seed: int = ...,
    sweep: None = ...,
    network: NetworkLike | None = ...,
    optimizer: optax.GradientTransformation | None = ...,
    loss: Loss = ...,
    advantage: Advantage = ...,
    schedules: Mapping[str, Schedule] | None = ...,
    make_agent: MakeAgent | None = ...,
    placement: str = ...,
    memory_limit: int | str | None = ...,
    evaluation_episodes: int = ...,
    out: str | Path | None = ...,
    checkpoint_every: int | str | None = ...,
    keep_checkpoints: int = ...,
    keep_best: bool = ...,
    extend: bool = ...,
    init_from: TrainState | None = ...,
    report_at: Sequence[int] = ...,
    should_stop: Callable[[], bool] = ...,
    on_begin: Callable[[str], None] = ...,
    on_plan: Callable[[MemoryPlan], None] = ...,
    on_chunk: Callable[[Progress], None] = ...,
) -> Population: ...
@overload
def train_population(
    env: Environment,
    config: Config,
    *,
    num_seeds: int,
    seed: int = ...,
    sweep: Mapping[str, Sequence[Any]] | Sequence[Point],
    network: NetworkLike | None = ...,
    optimizer: optax.GradientTransformation | None = ...,
    loss: Loss = ...,
    advantage: Advantage = ...,
    schedules: Mapping[str, Schedule] | None = ...,
    make_agent: MakeAgent | None = ...,
    placement: str = ...,
    memory_limit: int | str | None = ...,
    evaluation_episodes: int = ...,
    out: str | Path | None = ...,
    checkpoint_every: int | str | None = ...,
    keep_checkpoints: int = ...,
    keep_best: bool = ...,
    extend: bool = ...,
    init_from: TrainState | None = ...,
    report_at: Sequence[int] = ...,
    should_stop: Callable[[], bool] = ...,
    on_begin: Callable[[str], None] = ...,
    on_plan: Callable[[MemoryPlan], None] = ...,
    on_chunk: Callable[[Progress], None] = ...,
) -> Sweep: ...
def train_population(
    env: Environment,
    config: Config,
    *,
    num_seeds: int,
    seed: int = 0,
    sweep: Mapping[str, Sequence[Any]] | Sequence[Point] | None = None,
    network: NetworkLike | None = None,
    optimizer: optax.GradientTransformation | None = None,
    loss: Loss = ppo_loss,
    advantage: Advantage = gae_advantage,
    schedules: Mapping[str, Schedule] | None = None,
    make_agent: MakeAgent | None = None,
    placement: str = "seeds",
    memory_limit: int | str | None = None,
    evaluation_episodes: int = 0,
    out: str | Path | None = None,
    checkpoint_every: int | str | None = None,
    keep_checkpoints: int = KEPT,
    keep_best: bool = False,
    extend: bool = False,
    init_from: TrainState | None = None,
    report_at: Sequence[int] = (),
    should_stop: Callable[[], bool] = never,
    on_begin: Callable[[str], None] = ignore,
    on_plan: Callable[[MemoryPlan], None] = ignore,
    on_chunk: Callable[[Progress], None] = ignore,
) -> Population | Sweep:
    """Trains seeds 0 ... num_seeds - 1 (`seed_keys(seed, num_seeds)`) of one setting, or of each point of a sweep.

    sweep: lists of values by name (a grid), or a list of points, as `draw_points` draws them at random. Names are
        those of the config's fields and of the environment's parameters. Points that differ in numbers share one
        compilation; every setting trains on the same keys. With a sweep the result is a `Sweep`.
    network, optimizer, loss, advantage, schedules: as in `make_ppo`, for every member alike; a schedule is a factor on
        the member's own number.
    make_agent: (env, config) -> agent, in place of `make_ppo`: `functools.partial(make_ppo, reward=..., modules=...)`,
        or a function that makes an agent of your own, with what `evaluate.Agent` lists. The parts above are passed on
        to it where they are given.
    placement: "seeds" spreads the members over the devices of this process; "data" spreads the environments and the
        minibatches of each run over all devices, and averages what they say: your own loss has to be a mean over the
        samples of a minibatch. Their advantages are normalised already, and `context.config.normalize_advantage` is
        False.
    memory_limit: bytes, or a text such as "4GiB"; by default most of what is free. Members that do not fit together
        are trained in chunks, one after the other.
    evaluation_episodes: of the greedy policy of each member at the end, for `final_returns`; with 0 of them these are
        the returns of training.
    out: a folder for the results, which are then not held in memory. Members whose results are there are not trained
        again: a population that was interrupted goes on. One call at a time trains in it; another one is refused.
    checkpoint_every: updates, or a time such as "60s" or "5m", after which the state of the chunk in training is
        written to `out` as well; an interrupted chunk goes on from there, and ends bit for bit as it would have.
    keep_checkpoints: how many of them stay while the chunk trains, the newest; they go when its results are there.
    keep_best: keeps each seed at its best as well, after the checkpoint, or the end, with the highest training return
        over a tenth of the updates; `Population.checkpoint("best")` reads it, in the course of the run and after it.
    extend: goes on with a population in `out` that was begun with another `total_timesteps`, finished or not. From
        there on its schedules are those of a run of the new length. With schedules that are constant it ends bit for
        bit as if it had had that length from the start.
    init_from: train states [S, ...] of another population with the same network, such as `Population.train_state`.
        Seed i starts from the parameters and statistics of seed i, as by `PPO.continue_from`.
    report_at: updates after which `on_chunk` is called in any case.
    should_stop: is asked after each call of `on_chunk`; where it says so, the state is written to `out`, if there is
        one, and `Interrupted` is raised.
    on_begin: is told where the members in `out` go on, or that they begin from the start, a line for each program.
        Without it a folder that was begun with checkpoints, and has none, is a warning.
    on_plan: is told the memory plan of each program before it runs.
    on_chunk: is called on the host in the course of each chunk of members: after its first update, then about every
        second, or after each update where one takes longer; in a short run some 16 times, if it has as many updates.

    Raises PPOError for what cannot work before anything is compiled, and for what cannot fit before anything is run.
    """
    warn_of_idle_cores()
    check_limits(memory_limit, evaluation_episodes)
    told = {"should_stop": should_stop, "on_begin": on_begin, "on_plan": on_plan, "on_chunk": on_chunk}
    for name, function in told.items():
        check_function(name, function, "give one, or leave it out")
    is_shared = placement == "data" and jax.process_count() > 1
    policy = make_policy(checkpoint_every, keep_checkpoints, keep_best, has_folder=out is not None, is_shared=is_shared)
    check_switch("extend", extend)
    options = Options(
        network,
        optimizer,
        loss,
        advantage,
        schedules,
        placement,
        memory_limit,
        evaluation_episodes,
        policy,
        should_stop,
        on_plan,
        on_chunk,
        make_start(init_from, num_seeds),
        tuple(report_at),
        make_agent,
    )
    points, agents = make_settings(env, config, num_seeds, seed, sweep, options)
    with held(out):
        is_begun = out is not None and os.path.exists(as_path("out", out) / POPULATION)
        jobs = make_jobs(env, config, points, num_seeds, seed, options, out, extend=extend)
        if jax.process_index() == 0:
            tell_begin(jobs, policy, on_begin, is_begun=is_begun)
        spent = Spent(0, sum(job.num_left * job.program.config.actual_timesteps for job in jobs), 0.0)
        costs = []
        for job in jobs:
            spent, cost = train_job(job, options, spent)
            costs.append(cost)
    return assemble(Plan(points, agents, jobs, sweep is not None), costs)


def open_population(
    env: Environment,
    config: Config,
    *,
    num_seeds: int,
    out: str | Path,
    seed: int = 0,
    sweep: Mapping[str, Sequence[Any]] | Sequence[Point] | None = None,
    network: NetworkLike | None = None,
    optimizer: optax.GradientTransformation | None = None,
    loss: Loss = ppo_loss,
    advantage: Advantage = gae_advantage,
    schedules: Mapping[str, Schedule] | None = None,
    make_agent: MakeAgent | None = None,
    evaluation_episodes: int = 0,
) -> Population | Sweep:
    """What `train_population` has written to `out`, called with the same arguments; nothing is trained.

    Raises PPOError for a folder of no population or another; results that are missing are refused when they are read.
    """
    folder = as_path("out", out)
    if not os.path.exists(folder / POPULATION):
        raise PPOError(f"{str(out)!r} holds no population; train it with train_population(..., out={str(out)!r})")
    options = Options(
        network,
        optimizer,
        loss,
        advantage,
        schedules,
        "seeds",
        None,
        evaluation_episodes,
        NO_CHECKPOINTS,
        never,
        ignore,
        ignore,
        Start(None, read_json(folder / POPULATION).get("init_from")),
        make_agent=make_agent,
    )
    points, agents = make_settings(env, config, num_seeds, seed, sweep, options)
    plan = Plan(points, agents, make_jobs(env, config, points, num_seeds, seed, options, out), sweep is not None)
    return assemble(plan, [Costs(0.0, 0.0, 0, None)] * len(plan.jobs))


def make_settings(
    env: Environment,
    config: Config,
    num_seeds: int,
    seed: int,
    sweep: Mapping[str, Sequence[Any]] | Sequence[Point] | None,
    options: Options,
) -> tuple[list[Point], list[Agent]]:
    """The settings of a population, and the agent of each. Raises PPOError for what cannot work."""
    check_whole("num_seeds", num_seeds)
    check_seed("seed", seed, most=MAX_SEED - EVALUATION_SEED)
    check_env(env)
    if not isinstance(config, Config):
        raise PPOError(f"config = {config!r} is no config; give PPOConfig(...), or another of the three")
    points = [{}] if sweep is None else make_points(env, config, sweep)
    agents = [make_setting_agent(*at_point(env, config, point), options) for point in points]
    for agent in agents:
        check_start_of(agent, options.start)
    return points, agents


def check_start_of(agent: Agent, start: Start) -> None:
    """Raises PPOError unless the agent can start from these states, where there are any. Runs nothing."""
    if start.train_states is not None:
        one = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), start.train_states)
        jax.eval_shape(agent.continue_from, one, jax.random.key(0))


def make_start(train_states: TrainState | None, num_seeds: int) -> Start:
    """What the seeds start from. Raises PPOError unless there is a train state for each. train_states: [S, ...]"""
    if train_states is None:
        return Start(None, None)
    check_state(train_states, TrainState, "the train_state of a population")
    shape = np.shape(train_states.update)
    if len(shape) != 1:
        raise PPOError(f"init_from holds train states {list(shape)}; give those of a population, [S, ...]")
    if shape[0] < num_seeds:
        raise PPOError(f"init_from holds {shape[0]} seeds, and num_seeds = {num_seeds}; give at most {shape[0]}")
    states = to_host(jax.tree.map(lambda x: x[:num_seeds], carried(train_states)))
    digest = hashlib.sha256()
    for leaf in jax.tree.leaves(states):
        digest.update(np.ascontiguousarray(leaf).data)
    return Start(states, digest.hexdigest())


def carried(train_states: TrainState) -> TrainState:
    """Without what a new run does not take over: the optimizer's state and the rate that it was at."""
    return train_states.replace(opt_state=(), learning_rate=None)


@contextlib.contextmanager
def held(out: str | Path | None) -> Iterator[None]:
    """Keeps others from training in a folder meanwhile; of several processes the first one holds it for all.

    Raises PPOError where another trains there, and where the folder cannot be made.
    """
    if out is None or jax.process_index() > 0:
        yield
        return
    folder = as_path("out", out)
    make_folder(folder)
    with locked(folder):
        yield


def assemble(plan: Plan, costs: Sequence[Costs]) -> Population | Sweep:
    """The settings in the order of the points, each with its rows of the results; one alone without a sweep."""
    found = {
        setting: Population(
            plan.agents[setting], plan.points[setting], job.store, (i * job.num_seeds, (i + 1) * job.num_seeds), cost
        )
        for job, cost in zip(plan.jobs, costs, strict=True)
        for i, setting in enumerate(job.program.settings)
    }
    in_order = tuple(found[setting] for setting in range(len(plan.points)))
    return Sweep(tuple(plan.points), in_order) if plan.is_sweep else in_order[0]


def make_jobs(
    env: Environment,
    config: Config,
    points: Sequence[Point],
    num_seeds: int,
    seed: int,
    options: Options,
    out: str | Path | None,
    *,
    extend: bool = False,
) -> list[Job]:
    """What is left to do for this process, by program. Members lie setting by setting, and seed by seed in each.

    Raises PPOError where `out` holds the results of another population, or with `extend` of a longer one.
    """
    about = describe_population(env, config, points, num_seeds, seed, options)
    defaults = {"config": describe_config(type(config)())}
    place = None if out is None else as_path("out", out)
    programs = make_programs(env, config, points)
    likes = [member_shapes(program, options) for program in programs]
    sizes = [len(program.settings) * num_seeds for program in programs]
    if place is None:
        stores = [make_memory_store(*each) for each in zip(likes, sizes, strict=True)]
    else:
        of_states = {**about, "config": {x: y for x, y in about["config"].items() if x != "total_timesteps"}}
        stores = [
            DiskStore(like, num_members, place / f"program-{i}", of_states, defaults)
            for i, (like, num_members) in enumerate(zip(likes, sizes, strict=True))
        ]
        if jax.process_index() == 0:
            claim_stores(place, about, defaults, stores, extend=extend)
        barrier("claimed")
        claim(place, about, defaults)  # the others find it there, and see whether it is theirs
    start = options.start.train_states
    jobs = [
        Job(program, num_seeds, seed, store, store.missing(), start)
        for program, store in zip(programs, stores, strict=True)
    ]
    barrier("planned")  # all have seen what is missing, before the first writes
    if options.placement == "data":
        return jobs
    here = (jax.process_index(), jax.process_count())
    return [job._replace(rows=own_rows(job.rows, *here)) for job in jobs]


def claim_stores(
    place: Path,
    about: dict[str, Any],
    defaults: Mapping[str, Mapping[str, Any]],
    stores: Sequence[DiskStore],
    *,
    extend: bool,
) -> None:
    """Makes the folder that of this population. Raises PPOError where it is another's, or has done more updates."""
    if not extend:
        claim(place, about, defaults)
    elif holds(place, about, defaults, but=TOTAL):
        for store in stores:
            done, num_updates = updates_done(store.folder), store.like.metrics.updates.shape[0]
            if done > num_updates:
                raise PPOError(
                    f"{store.folder} has done {done} updates, and total_timesteps gives {num_updates}; give more"
                )
        write_json(place / POPULATION, about)
    else:
        claim(place, about, defaults)
    for store in stores:
        check_folders(store.folder)
        if extend:
            reopen_parts(store)


def describe_population(
    env: Environment,
    config: Config,
    points: Sequence[Point],
    num_seeds: int,
    seed: int,
    options: Options,
) -> dict[str, Any]:
    """What decides the results of a population, for its folder: another one must not go on in it."""
    return {
        "env": env.name,
        "env_params": [str(x) for x in jax.tree.leaves(env.params)],
        "config": describe_config(config),
        "settings": [{name: str(value) for name, value in point.items()} for point in points],
        "num_seeds": num_seeds,
        "seed": seed,
        "evaluation_episodes": options.evaluation_episodes,
        "own_network": options.network is not None,
        "own_optimizer": options.optimizer is not None,
        "own_loss": options.loss is not ppo_loss,
        "own_advantage": options.advantage is not gae_advantage,
        "own_schedules": sorted(options.schedules or {}),
        "init_from": options.start.digest,
        **({} if options.make_agent in (None, make_ppo) else {"own_agent": True}),  # which earlier folders do not say
    }


def describe_config(config: Config) -> dict[str, str]:
    """The hyperparameters, in the words of a folder."""
    return {field.name: str(getattr(config, field.name)) for field in dataclasses.fields(config)}


def tell_begin(jobs: Sequence[Job], policy: Policy, on_begin: Callable[[str], None], *, is_begun: bool) -> None:
    """Says where the members on disk go on. Where nobody listens, checkpoints that should be there are a warning."""
    on_disk = [(job, job.store) for job in jobs if isinstance(job.store, DiskStore)]
    for job, store in on_disk:
        on_begin(describe_begin(store, job.program.config.num_updates))
    has_checkpoints = policy.every is not None or policy.seconds is not None
    if (
        on_begin is ignore
        and is_begun
        and has_checkpoints
        and not any(has_states(store.folder) for _, store in on_disk)
    ):
        warnings.warn(
            f"{str(on_disk[0][1].folder.parent)!r} was begun before, and there is no checkpoint in it: "
            "it begins from the start",
            stacklevel=3,
        )


def describe_begin(store: DiskStore, num_updates: int) -> str:
    """For people: where the members of a program go on, and how many are finished or begin from the start."""
    missing = store.missing()
    left = sum(last - first for first, last in missing)
    if not left:
        return f"all {store.num_members} runs are finished"
    goes_on = []
    for first, last in split_rows(missing, unfinished_rows(store.folder)):
        part = holding_rows(store.folder, (first, last))
        if part is not None:
            done = checkpoints(checkpoint_folder(store.folder, part))[-1]
            which = "" if last - first == store.num_members else f" for runs {first} to {last - 1}"
            goes_on.append(f"after {done} of {num_updates} updates{which}")
            left -= last - first
    finished = store.num_members - sum(last - first for first, last in missing)
    if not goes_on and not finished:
        return "begins from the start: there is no checkpoint"
    if left:
        goes_on.append(f"from the start for {left} runs, which have no checkpoint")
    return f"goes on {', '.join(goes_on)}" + (f"; {finished} runs are finished" if finished else "")


def train_job(job: Job, options: Options, spent: Spent) -> tuple[Spent, Costs]:
    """Trains the members of a program in chunks that fit, and stores what each chunk leaves."""
    costs = Costs(0.0, 0.0, 0, None)
    if job.rows:
        started = time.perf_counter()
        compiled, plan = compile_to_fit(job, options)
        compile_seconds, before = time.perf_counter() - started, spent
        options.on_plan(plan)
        for rows in cut_rows(begun_rows(job), plan.width):
            spent = run_chunk(job, compiled, plan.width, rows, options, spent)
        costs = Costs(compile_seconds, spent.seconds - before.seconds, spent.timesteps - before.timesteps, plan)
    if isinstance(job.store, DiskStore):
        drop_finished(job.store)  # what a process that died has left of members that are finished
    rest()
    if options.placement == "seeds":
        share_results(job)
    barrier("trained")  # what the others have written is there
    rest(False)
    return spent, over_processes(costs) if options.placement == "seeds" else costs


def over_processes(costs: Costs) -> Costs:
    """The costs of all processes: the slowest's seconds, and everyone's timesteps."""
    if jax.process_count() == 1:
        return costs
    parts = divmod(costs.timesteps, _FLOAT32_COUNTS)  # each exact in float32, which is what a device can gather
    every = gather_rows(np.array([[costs.compile_seconds, costs.train_seconds, *parts]], np.float32))
    compile_seconds, train_seconds = every[:, :2].max(axis=0).tolist()
    high, low = every[:, 2:].astype(np.int64).sum(axis=0).tolist()
    return costs._replace(
        compile_seconds=compile_seconds, train_seconds=train_seconds, timesteps=high * _FLOAT32_COUNTS + low
    )


def begun_rows(job: Job) -> list[Rows]:
    """The members to train, cut so that the checkpoints of each piece are those of one chunk."""
    return split_rows(job.rows, unfinished_rows(job.store.folder)) if isinstance(job.store, DiskStore) else job.rows


def cut_rows(rows: Sequence[Rows], width: int) -> list[Rows]:
    """The rows in pieces of at most `width`."""
    return [(first, min(first + width, last)) for begin, last in rows for first in range(begin, last, width)]


def own_rows(rows: Sequence[Rows], process: int, num_processes: int) -> list[Rows]:
    """The part of the rows that falls to one of several processes: evenly, and in their order."""
    members = np.concatenate([np.arange(first, last) for first, last in rows]) if rows else np.arange(0)
    mine = np.array_split(members, num_processes)[process]
    pieces = np.split(mine, np.flatnonzero(np.diff(mine) != 1) + 1)
    return [(int(piece[0]), int(piece[-1]) + 1) for piece in pieces if piece.size]


def writes_results(store: Store, placement: str) -> bool:
    """Whether this process keeps what it has trained: on disk, the results of a run that all share are written once."""
    return isinstance(store, MemoryStore) or placement == "seeds" or jax.process_index() == 0


def share_results(job: Job) -> None:
    """Gives every process the results that the others hold in memory."""
    if isinstance(job.store, MemoryStore) and jax.process_count() > 1:
        own = job.rows[0] if job.rows else (0, 0)
        every = gather_rows(jax.tree.map(lambda x: x[slice(*own)], job.store.data))
        job.store.write(0, every)


def run_chunk(job: Job, compiled: Compiled, width: int, rows: Rows, options: Options, spent: Spent) -> Spent:
    """Trains a chunk and stores what it leaves, which is gone from memory before the next one begins."""
    result, best, spent = train_chunk(job, compiled, width, rows, options, spent)
    if writes_results(job.store, options.placement):
        if isinstance(job.store, DiskStore) and best is not None:
            write_best(job.store, rows[0], best)
        job.store.write(rows[0], result)
        if isinstance(job.store, DiskStore):
            drop_finished(job.store)
    return spent


@finishing_programs()
def train_chunk(
    job: Job, compiled: Compiled, width: int, rows: Rows, options: Options, spent: Spent
) -> tuple[MemberResult, Best | None, Spent]:
    """Trains and evaluates the members of `rows`, at most `width`.

    -> (what they leave, each at its best if that is wanted, the work so far)
    """
    config, (first, last) = job.program.config, rows
    _, play_keys, numbers = member_inputs(job, rows, width)
    runners, metrics, best, begun = restore(job, rows, compiled.init(*init_inputs(job, rows, width)))
    started, done, of_update = time.perf_counter(), begun, (last - first) * config.batch_size
    pace = Pace(written=started, updates_per_second=0.0)
    now = spent = spent._replace(total_timesteps=spent.total_timesteps - begun * of_update)
    while done < config.num_updates:
        until_told = min((at - done for at in options.report_at if at > done), default=config.num_updates)
        capacity = min(paced(compiled.capacity, pace), until_told)
        count = next_count(done, config.num_updates, capacity, options.checkpoints, pace)
        if options.placement == "data":  # all processes take part in each call
            count = int(gather_rows(np.array([count])).min())
        called = time.perf_counter()
        runners, new = compiled.advance(runners, numbers, jnp.int32(count))
        metrics.append(jax.tree.map(lambda x, count=count: np.array(np.asarray(x)[: last - first, :count]), new))
        done += count
        now = Spent(
            spent.timesteps + (done - begun) * of_update,
            spent.total_timesteps,
            spent.seconds + time.perf_counter() - started,
        )
        pace = pace._replace(updates_per_second=count / (time.perf_counter() - called))
        progress = Progress(rows, done, config.num_updates, *now, metrics[-1], runners.train_state)
        options.on_chunk(progress)
        best, pace = keep_or_stop(job, compiled, progress, runners, metrics, best, options, pace)
    state, every = to_host(compiled.gather(runners)), join_updates(metrics)
    own = jax.tree.map(lambda x: x[: last - first], state)
    played = compiled.play(runners.train_state, play_keys, numbers)
    result = MemberResult(own, every, *(np.asarray(x)[: last - first] for x in played))
    return result, better(best, own, every, config.num_updates) if options.checkpoints.best else None, now


def restore(job: Job, rows: Rows, fresh: RunnerState) -> tuple[RunnerState, list[Metrics], Best | None, int]:
    """Where the training of a chunk begins: its newest checkpoint, or `fresh`. -> (runners, metrics, best, updates)"""
    updates, found = find_checkpoint(job.store, rows) if isinstance(job.store, DiskStore) else (0, None)
    if found is None:
        return fresh, [], None, 0
    return padded(found.runners, fresh), [jax.tree.map(np.asarray, found.metrics)], to_host(found.best), updates


def paced(capacity: int, pace: Pace) -> int:
    """The updates of the next call: one while the speed is unknown, then those of REPORT_SECONDS that fit a call."""
    return max(1, min(capacity, int(REPORT_SECONDS * pace.updates_per_second)))


def next_count(done: int, num_updates: int, capacity: int, policy: Policy, pace: Pace) -> int:
    """The updates until the host looks next: at the end of a call, about when a checkpoint is due, or at the end."""
    count = next_stop(done, num_updates, capacity, policy.every) - done
    if policy.seconds is None:
        return count
    left = pace.written + policy.seconds - time.perf_counter()
    return max(1, min(count, int(left * pace.updates_per_second)))


def next_stop(done: int, num_updates: int, capacity: int, every: int | None) -> int:
    """The update after which the host looks next: at the end of a call, at a checkpoint, or at the end."""
    checkpoint = num_updates if every is None else (done // every + 1) * every
    return min(done + capacity, checkpoint, num_updates)


def is_due(done: int, policy: Policy, pace: Pace) -> bool:
    """Whether a checkpoint is to be written after `done` updates."""
    if policy.seconds is not None:
        return time.perf_counter() - pace.written >= policy.seconds
    return policy.every is not None and done % policy.every == 0


def keep_or_stop(
    job: Job,
    compiled: Compiled,
    progress: Progress,
    runners: RunnerState,
    metrics: list[Metrics],
    best: Best | None,
    options: Options,
    pace: Pace,
) -> tuple[Best | None, Pace]:
    """Writes a checkpoint where one is due, or the caller wants to stop. Raises Interrupted in that case.

    After the last update it does neither: the results come next. Processes that share a run stop together.
    """
    rows, done = progress.members, progress.updates
    if done == job.program.config.num_updates:
        return best, pace
    stops = options.should_stop()
    if options.placement == "data":
        stops = bool(gather_rows(np.array([stops])).any())
    due = is_due(done, options.checkpoints, pace)
    if isinstance(job.store, DiskStore) and (stops or due):
        state = to_host(compiled.gather(runners))
        if writes_results(job.store, options.placement):
            own, every = jax.tree.map(lambda x: x[: rows[1] - rows[0]], state), join_updates(metrics)
            metrics[:] = [every]
            if due and options.checkpoints.best:
                best = better(best, own, every, job.program.config.num_updates)
            write_checkpoint(job.store, rows, done, Checkpoint(own, every, best), options.checkpoints.kept)
        pace = pace._replace(written=time.perf_counter())
    if stops:
        raise Interrupted(f"stopped after {done} of {job.program.config.num_updates} updates")
    return best, pace


def join_updates(metrics: Sequence[Metrics]) -> Metrics:
    """Those of consecutive calls in one. [n, u] each -> [n, U]"""
    return jax.tree.map(lambda *x: np.concatenate(x, axis=1), *metrics)


def check_limits(memory_limit: int | str | None, evaluation_episodes: int) -> None:
    """Raises PPOError for a memory limit that is no size, and a number of episodes that is none."""
    if memory_limit is not None:
        parse_bytes(memory_limit)
    check_whole("evaluation_episodes", evaluation_episodes, least=0)


def warn_of_idle_cores() -> None:
    """Says so where JAX has started with fewer CPU devices than there are cores."""
    message = idle_cores()
    if message:
        warnings.warn(message, stacklevel=3)
