"""The options of a population: as a caller gives them, and checked."""

import hashlib
import inspect
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypedDict

import jax
import numpy as np

from purejaxppo.envs.base import Environment, traced
from purejaxppo.population.algorithms import algorithm_of
from purejaxppo.population.checkpoints import KEPT, NO_CHECKPOINTS, Policy, make_policy
from purejaxppo.population.memory import MemoryPlan, parse_bytes
from purejaxppo.population.own_agents import check_like_init
from purejaxppo.population.sharding import AUTO, PLACEMENTS
from purejaxppo.population.store import Rows
from purejaxppo.population.sweep import check_whole
from purejaxppo.ppo.checks import check_state
from purejaxppo.ppo.config import Config
from purejaxppo.ppo.evaluate import Agent
from purejaxppo.ppo.factory import make_ppo
from purejaxppo.ppo.types import Metrics, TrainState
from purejaxppo.utils.errors import PPOError
from purejaxppo.utils.files import as_path, bytes_of, to_host
from purejaxppo.utils.suggest import unknown
from purejaxppo.utils.tree import key_shape
from purejaxppo.utils.validation import check_choice, check_function, check_switch, shown

MakeAgent = Callable[..., Agent]  # (env, config) -> agent


class Progress(NamedTuple):
    """The progress of the chunk of members in training, as passed to `on_chunk`."""

    members: Rows  # the chunk: members first ... last - 1, ordered by setting, then by seed
    updates: int  # done so far by each member of the chunk
    num_updates: int  # of a whole run
    timesteps: int  # environment steps so far, over all members
    total_timesteps: int  # environment steps at the end, over all members
    seconds: float  # of training so far, compilation left out
    metrics: Metrics  # of the updates since the previous call, [n, updates]
    train_states: TrainState  # [n or more, ...], padding may follow the members; valid only during the call


class PopulationOptions(TypedDict, total=False):
    """The optional keywords of `train_population`. All of them have a default.

    Members that do not fit into memory together are trained in chunks, one after the other.

    With placement="data", your own loss must be a mean over the samples of a minibatch. The advantages that it receives
    are already normalised, and `context.config.normalize_advantage` is False.

    With `out`, results are written to disk and not held in memory. Members whose results are in the folder are not
    trained again, so an interrupted population continues. Only one call at a time may train in a folder; a second one
    raises PPOError. A chunk with a checkpoint continues from the newest one, and ends bit for bit as it would have
    without the interruption. If a population in `out` was begun with checkpoints but none is left, a warning says so,
    unless you give `on_begin`.

    A run that is extended follows the schedules of the longer run from where it continues. With constant schedules, it
    ends bit for bit as if it had been that long from the start.

    `on_chunk` is called after the first update of each chunk of members, then about once a second, or after each update
    if one takes longer. In a short run it is called about 16 times, if there are that many updates.
    """

    placement: str  # "seeds" spreads members over the devices, "data" spreads each run; "auto" (default) chooses
    memory_limit: int | str | None  # bytes, or text such as "4GiB"; by default most of what is free
    evaluation_episodes: int  # greedy episodes of each member after training, for `final_returns`; by default 0
    out: str | Path | None  # folder for the results; by default they stay in memory
    checkpoint_every: int | str | None  # updates, or a time such as "60s" or "5m"; needs `out`; by default never
    keep_checkpoints: int  # how many of the newest to keep until the results of their chunk are written; by default 2
    keep_best: bool  # also keep each seed at its highest training return, for `checkpoint("best")`; by default False
    extend: bool  # continue a population in `out` that has another `total_timesteps`; by default False
    init_from: TrainState | None  # [S, ...], seed i starts from the parameters of state i, as by `PPO.continue_from`
    test_seeds: int  # for a sweep: fresh seeds that train its best setting again, for `Sweep.selection`; by default 0
    report_at: Sequence[int]  # updates after which `on_chunk` is always called
    should_stop: Callable[[], bool]  # called after each `on_chunk`; True saves the state to `out`, raises Interrupted
    on_begin: Callable[[str], None]  # receives one line per program, which says where its members in `out` continue
    on_plan: Callable[[MemoryPlan], None]  # receives the memory plan of each program before it runs
    on_chunk: Callable[[Progress], None]  # receives the progress, on the host between calls of the program


def ignore(_: Any) -> None:
    """Default callback: does nothing."""


def never() -> bool:
    """Default stop condition: never stop early."""
    return False


class Start(NamedTuple):
    """The train states to start from; both are None for a start from scratch."""

    train_states: TrainState | None = None  # [S, ...], as `carried` leaves them
    digest: str | None = None  # of the states; kept in the population's folder


class Options(NamedTuple):
    """The options of a population, checked. Placement and memory limit change the results only by rounding."""

    make_agent: MakeAgent | None = None  # None: the agent of the config's class
    placement: str = AUTO
    memory_limit: int | str | None = None
    evaluation_episodes: int = 0
    out: Path | None = None
    checkpoints: Policy = NO_CHECKPOINTS
    extend: bool = False
    start: Start = Start()
    test_seeds: int = 0
    first_seed: int = 0  # the number of the first seed: test seeds follow those that a setting was chosen by
    reads: bool = False  # True: read the results in `out`, and train nothing
    report_at: Sequence[int] = ()
    should_stop: Callable[[], bool] = never
    on_begin: Callable[[str], None] = ignore
    on_plan: Callable[[MemoryPlan], None] = ignore
    on_chunk: Callable[[Progress], None] = ignore


class Experiment(NamedTuple):
    """The setting that points change, its seeds, and how they are trained or read."""

    env: Environment
    config: Config
    num_seeds: int
    seed: int
    options: Options

    def with_options(self, **changes: Any) -> "Experiment":
        """The experiment with other options."""
        return self._replace(options=self.options._replace(**changes))

    def within(self, folder: str) -> "Experiment":
        """The experiment in a folder of its own below `out`, if there is one."""
        return self if self.options.out is None else self.with_options(out=self.options.out / folder)


def settle_options(config: Config, num_seeds: int, make_agent: MakeAgent | None, given: PopulationOptions) -> Options:
    """Checks the options. Raises PPOError for an unknown name, a bad value, and values that exclude each other."""
    check_names(config, given)
    as_given: dict[str, Any] = {name: value for name, value in given.items() if name in Options._fields}
    options = Options(make_agent=make_agent, **as_given)
    for name in ("should_stop", "on_begin", "on_plan", "on_chunk"):
        check_function(name, getattr(options, name), "give one, or leave it out")
    if make_agent is not None:
        check_function("make_agent", make_agent, "give (env, config) -> agent, such as pjp.make_ppo")
    check_choice("placement", options.placement, (AUTO, *PLACEMENTS))
    if options.memory_limit is not None:
        parse_bytes(options.memory_limit)
    check_whole("evaluation_episodes", options.evaluation_episodes, least=0)
    check_whole("test_seeds", options.test_seeds, least=0)
    if options.test_seeds and given.get("init_from") is not None:
        raise PPOError(
            f"test_seeds = {options.test_seeds} does not go with init_from, which has no states for them; leave out one"
        )
    check_switch("extend", options.extend)
    if not isinstance(options.report_at, Sequence):
        raise PPOError(f"report_at = {shown(options.report_at)} is not a list; give one of updates, such as [8, 20]")
    for update in options.report_at:
        check_whole("report_at", update)
    policy = make_policy(
        given.get("checkpoint_every"),
        given.get("keep_checkpoints", KEPT),
        given.get("keep_best", False),
        has_folder=options.out is not None,
        is_shared=options.placement == "data" and jax.process_count() > 1,
    )
    out = None if options.out is None else as_path("out", options.out)
    return options._replace(out=out, checkpoints=policy, start=make_start(given.get("init_from"), num_seeds))


def check_names(config: Config, given: Mapping[str, Any]) -> None:
    """Raises PPOError for a keyword that is not an option, and says where a part of the agent belongs."""
    for name in given.keys() - PopulationOptions.__annotations__.keys():
        if name not in inspect.signature(make_ppo).parameters:
            raise PPOError(unknown("option", name, list(PopulationOptions.__annotations__)))
        factory = algorithm_of(config).make_agent
        if name not in inspect.signature(factory).parameters:
            raise PPOError(
                f"{name}=... does not go with {type(config).__name__}, whose agent has its own; leave it out"
            )
        raise PPOError(
            f"{name}=... is a part of the agent; "
            f"give make_agent=functools.partial(pjp.{factory.__name__}, {name}=...) in its place"
        )


def make_start(train_states: TrainState | None, num_seeds: int) -> Start:
    """The start of each seed. Raises PPOError unless there is a train state for each. train_states: [S, ...]"""
    if train_states is None:
        return Start()
    check_state(train_states, TrainState, "the train_state of a population")
    shape = np.shape(train_states.update)
    if len(shape) != 1:
        raise PPOError(
            f"init_from holds train states {list(shape)}; give those of a population, [S, ...]; one for all seeds is "
            "jax.tree.map(lambda x: jnp.stack([x] * num_seeds), train_state)"
        )
    if shape[0] < num_seeds:
        raise PPOError(f"init_from holds {shape[0]} seeds, and num_seeds = {num_seeds}; give at most {shape[0]}")
    states = to_host(jax.tree.map(lambda x: x[:num_seeds], carried(train_states)))
    digest = hashlib.sha256()
    for leaf in jax.tree.leaves(states):
        digest.update(bytes_of(leaf))
    return Start(states, digest.hexdigest())


def carried(train_states: TrainState) -> TrainState:
    """The states without the optimizer's state and the learning rate, which a new run does not take over."""
    return train_states.replace(opt_state=(), learning_rate=None)


def check_start_of(agent: Agent, start: Start) -> None:
    """Raises PPOError unless the agent can start from the states, if there are any. Runs nothing."""
    if start.train_states is not None:
        one = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), start.train_states)
        if not hasattr(agent, "continue_from"):
            raise PPOError(f"{type(agent).__name__} has no continue_from, which init_from needs; leave out init_from")
        begun = traced("init", agent.init, key_shape())
        check_like_init("continue_from", begun, traced("continue_from", agent.continue_from, one, key_shape()))
