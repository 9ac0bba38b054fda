"""The compiled functions of a population: `init`, `advance` and `play` for chunks of members that fit the memory."""

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from purejaxppo.envs.base import Environment
from purejaxppo.population.algorithms import make_agent
from purejaxppo.population.checkpoints import begun_chunks
from purejaxppo.population.data_parallel import share
from purejaxppo.population.executables import compile_once
from purejaxppo.population.memory import (
    MemoryPlan,
    even_width,
    held_bytes,
    memory_limit_bytes,
    plan_memory,
    program_bytes,
    tree_bytes,
)
from purejaxppo.population.options import Experiment, Options
from purejaxppo.population.own_agents import check_functions, check_members, numbers_traced
from purejaxppo.population.sharding import (
    check_data_placement,
    make_shared,
    make_spread,
    runner_shardings,
    seed_shardings,
)
from purejaxppo.population.store import MemberResult, MemoryStore, Rows, Store
from purejaxppo.population.sweep import Program, with_numbers
from purejaxppo.ppo.config import Config, PPOConfig
from purejaxppo.ppo.evaluate import Agent, play_episodes
from purejaxppo.ppo.types import Metrics, RunnerState, TrainState
from purejaxppo.utils.devices import cache_of_core, compiler_options, quickly_compiled

REPORTS = 16  # at least so many in a chunk of members; each report pauses the devices
REPORT_SECONDS = 1.0  # duration of a call, as far as whole updates allow
MOST_UPDATES = 2_048  # in one call
LEAST_ROWS = 16  # of the metrics of a call: with one or two, XLA makes another program, which rounds differently
MOST_METRICS = 2**26  # bytes of metrics that one call gives the host
EVALUATION_SEED = 1_000_003  # added to the population's seed: evaluation never uses the keys of training
CPU_WIDTH = 32  # members per CPU device in a chunk: more are not faster, and finish later
ACCELERATOR_WIDTH = 8_192  # members per GPU or TPU in a chunk, memory permitting


Numbers = Mapping[int, Any]  # `Program.numbers`, of one member or of all


class Job(NamedTuple):
    """The training of the settings that one program serves."""

    experiment: Experiment
    program: Program
    store: Store
    rows: list[Rows]  # the members that have no results yet

    @property
    def options(self) -> Options:
        """The options of the experiment."""
        return self.experiment.options

    @property
    def num_members(self) -> int:
        """All members, of all processes, trained or not."""
        return len(self.program.settings) * self.experiment.num_seeds

    @property
    def num_left(self) -> int:
        """Members left to train."""
        return sum(last - first for first, last in self.rows)


class Compiled(NamedTuple):
    """A program for chunks of one width."""

    init: Any  # (keys [n], numbers[, train states [n, ...] to start from]) -> runners [n, ...]
    advance: Any  # (runners, numbers, count) -> (runners, metrics [n, rows])
    play: Any  # (train states [n, ...], keys [n], numbers) -> (returns [n, E], episodes cut [n])
    gather: Callable[[RunnerState], RunnerState]  # moves them to where this process can read them
    capacity: int  # most updates of one call


def make_setting_agent(env: Environment, config: Config, options: Options) -> Agent:
    """The agent of one setting. Raises PPOError if it lacks an attribute or does not fit its placement."""
    agent = (options.make_agent or make_agent)(env, config)
    check_members("make_agent", agent, config)
    if options.placement == "data":
        check_data_placement(agent, jax.device_count())
    return agent


def member_shapes(program: Program, options: Options) -> MemberResult:
    """The shapes of one member's results. Raises PPOError if the agent fails with the numbers that differ traced."""

    def first_update(key: jax.Array, numbers: Numbers) -> tuple[RunnerState, Metrics]:
        agent = make_setting_agent(*with_numbers(program, numbers), options)
        if options.make_agent is not None:
            check_functions("make_agent", agent)
        return agent.update(agent.init(key))

    numbers = {leaf: jax.ShapeDtypeStruct(values.shape[1:], values.dtype) for leaf, values in program.numbers.items()}
    paths = jax.tree_util.tree_leaves_with_path((program.env, program.config))
    with numbers_traced(jax.tree_util.keystr(paths[leaf][0][-1:], simple=True) for leaf in numbers):
        runner, row = jax.eval_shape(first_update, jax.random.key(0), numbers)
    metrics = jax.tree.map(lambda x: jax.ShapeDtypeStruct((program.config.num_updates, *x.shape), x.dtype), row)
    returns = jax.ShapeDtypeStruct((options.evaluation_episodes,), jnp.float32)
    return MemberResult(runner, metrics, returns, jax.ShapeDtypeStruct((), jnp.int32))


def member_inputs(job: Job, rows: Rows, width: int) -> tuple[tuple[Any, ...], jax.Array, dict[int, np.ndarray]]:
    """The arguments of `Compiled.init`, evaluation keys and numbers of the members of `rows`.

    The last member is repeated up to `width`.
    """
    members = np.minimum(np.arange(rows[0], rows[0] + width), rows[1] - 1)
    setting, seed = np.divmod(members, job.experiment.num_seeds)
    numbers = {leaf: values[setting] for leaf, values in job.program.numbers.items()}
    indices = jnp.asarray(seed + job.options.first_seed, jnp.int32)
    bases = map(jax.random.key, (job.experiment.seed, job.experiment.seed + EVALUATION_SEED))
    keys, play_keys = (jax.vmap(jax.random.fold_in, (None, 0))(base, indices) for base in bases)
    start = job.options.start.train_states
    started = () if start is None else (jax.tree.map(lambda x: x[seed], start),)
    return (keys, numbers, *started), play_keys, numbers


def compile_to_fit(job: Job) -> tuple[Compiled, MemoryPlan]:
    """The program of a job, for chunks as wide as its members, the processor and the memory allow.

    The compiler reports the memory of a chunk. If that is too much, it compiles once more, for chunks that fit.
    """
    devices = used_devices(job.options.placement, job.num_members)
    multiple = len(devices) if job.options.placement == "seeds" else 1
    on_cpu = devices[0].platform == "cpu"
    width = chunk_width(job, (CPU_WIDTH if on_cpu else ACCELERATOR_WIDTH) * len(devices), multiple)
    in_host_memory = on_cpu and isinstance(job.store, MemoryStore)

    def planned(per_member: int) -> MemoryPlan:
        return plan_memory(
            num_members=job.num_left,
            width=width,
            multiple=multiple,
            per_member=per_member,
            kept=tree_bytes(job.store.like) * job.num_left if in_host_memory else 0,
            held=held_bytes(devices),
            limit=memory_limit_bytes(job.options.memory_limit, devices),
        )

    planned(tree_bytes(job.store.like.runner.train_state))  # refuses at once if not even the states fit
    compiled = compile_program(job, width)
    sharing = len(devices) if on_cpu else 1  # programs that share one memory
    plan = planned(-(-sharing * max(map(program_bytes, compiled[:3])) // width))
    return (compiled if plan.width == width else compile_program(job, plan.width)), plan


def chunk_width(job: Job, most: int, multiple: int) -> int:
    """The members of a chunk: as many as before if some have begun, so that their results do not change."""
    begun = job.store.parts() or begun_chunks(job.store)
    if not begun:
        return even_width(job.num_left, most, multiple)
    return -(-max(last - first for first, last in begun) // multiple) * multiple


def used_devices(placement: str, num_members: int) -> list[Any]:
    """The devices to train on: of this process, at most one per member; with "data" those of all processes."""
    return jax.devices() if placement == "data" else jax.local_devices()[:num_members]


def compile_program(job: Job, width: int) -> Compiled:
    """The functions of a job for chunks of `width` members.

    With placement "seeds" these are dealt out over the devices, and no program waits for another. With "data" each runs
    on all devices: its environments and minibatches are divided, its parameters are on each.
    """
    options = job.options
    devices = used_devices(options.placement, job.num_members)
    capacity = call_capacity(job.store.like.metrics, width)
    starts, play_keys, numbers = member_inputs(job, (0, 1), width)
    init, update, play = member_functions(job.program, options, capacity, len(devices))
    by_seed, everywhere = seed_shardings(devices)
    if options.placement == "data":
        init, play = jax.vmap(init), jax.vmap(play)
        runners = jax.eval_shape(init, *starts)
        of_runners = runner_shardings(devices, runners)
        of_members = everywhere = of_runners.key
        update = make_shared(jax.vmap(update, in_axes=(0, 0, None)), of_runners, num_replicated=2)
        gather = jax.jit(lambda runners: runners, out_shardings=everywhere)
    else:
        together = seeds_together(job.program.config, width, devices)
        init, play = make_spread(init, devices), make_spread(play, devices)
        update = make_spread(update, devices, num_replicated=1, together=together)
        runners = jax.eval_shape(init, *starts)
        of_runners, of_members = by_seed, by_seed
        gather = lambda runners: runners  # noqa: E731
    fast, quick = compiler_options(devices[0].platform), quickly_compiled(devices[0].platform)
    placed = [
        jax.jit(init, in_shardings=of_members, out_shardings=of_runners, compiler_options=quick).lower(*starts),
        jax.jit(
            update,
            in_shardings=(of_runners, of_members, everywhere),
            out_shardings=(of_runners, of_members),
            donate_argnums=0,
            compiler_options=fast,
        ).lower(runners, numbers, jnp.int32(0)),
        jax.jit(play, in_shardings=of_members, out_shardings=of_members, compiler_options=fast).lower(
            runners.train_state, play_keys, numbers
        ),
    ]
    with ThreadPoolExecutor() as pool:  # the compiler mostly uses a single core
        init, advance, play = pool.map(compile_once, placed, [devices] * 3, [quick, fast, fast])
    return Compiled(init, advance, play, gather, capacity)


def member_functions(
    program: Program, options: Options, capacity: int, num_devices: int
) -> tuple[Callable[..., Any], Callable[..., Any], Callable[..., Any]]:
    """`init`, `update` and `play` of one member, as in `Compiled`; `numbers` are its own."""

    def agent_of(numbers: Numbers) -> Any:
        return make_setting_agent(*with_numbers(program, numbers), options)

    def init(key: jax.Array, numbers: Numbers, start: TrainState | None = None) -> RunnerState:
        agent = agent_of(numbers)
        return agent.init(key) if start is None else agent.continue_from(start, key)

    def update(runner: RunnerState, numbers: Numbers, count: jax.Array) -> tuple[RunnerState, Metrics]:
        agent = agent_of(numbers)
        return update_up_to(
            share(agent, num_devices) if options.placement == "data" else agent, runner, count, capacity
        )

    def play(train_state: TrainState, key: jax.Array, numbers: Numbers) -> tuple[jax.Array, jax.Array]:
        if not options.evaluation_episodes:
            return jnp.zeros(0), jnp.int32(0)
        end = play_episodes(agent_of(numbers), train_state, key, options.evaluation_episodes)
        return end.episode_return, jnp.sum(end.running, dtype=jnp.int32)

    return init, update, play


def call_capacity(metrics: Metrics, width: int) -> int:
    """The most updates of one call for `width` members. metrics: the shapes of one member's, [U]

    The first call is a single update. With at least 2 * REPORTS updates that does not change the number of calls.
    """
    num_updates = metrics.updates.shape[0]
    share = 1 if num_updates < 2 * REPORTS else -(-(num_updates - 1) // (REPORTS - 1))
    fits = MOST_METRICS * num_updates // (width * tree_bytes(metrics))
    return max(1, min(share, MOST_UPDATES, fits))


@contextlib.contextmanager
def finishing_programs() -> Iterator[None]:
    """If the body raises, waits for the programs that still run on the devices.

    Ctrl-C ends the wait for a result, but not the program that computes it. With several CPU devices, jaxlib calls
    std::terminate in a process that exits before such a program is done.
    """
    try:
        yield
    except BaseException:
        with contextlib.suppress(jax.errors.JaxRuntimeError):  # a program may fail
            jax.block_until_ready(jax.live_arrays())
        raise


def seeds_together(config: Config, width: int, devices: Sequence[Any]) -> int | None:
    """How many members of a device run in step; None: all.

    On a CPU as many as have their activations of one minibatch in the second-level cache of a core. Each alone if it
    keeps the core busy: large matrix products, and those that wait for each other, are slower in a batch.
    """
    if devices[0].platform != "cpu":
        return None
    if width <= len(devices) or not isinstance(config, PPOConfig) or config.cell is not None:
        return 1
    units = sum(config.hidden_sizes) * (1 if config.share_trunk else 2)
    of_member = config.num_samples // config.num_minibatches * max(units, 1) * 4  # bytes
    return max(1, cache_of_core() // of_member)


def update_up_to(agent: Agent, runner: RunnerState, count: jax.Array, capacity: int) -> tuple[RunnerState, Metrics]:
    """Takes `count` updates, at most `capacity`: one program for every count. -> (runner, metrics [rows])

    There are max(capacity, LEAST_ROWS) rows, so that a short run that is extended equals the long one bit for bit.
    Rows from `count` on are 0.
    """
    update = jax.jit(agent.update)  # traced once for both uses
    blank = jax.eval_shape(update, runner)[1]
    rows = max(capacity, LEAST_ROWS)
    metrics = jax.tree.map(lambda x: jnp.zeros((rows, *x.shape), x.dtype), blank)

    def update_and_note(i: jax.Array, carry: tuple[RunnerState, Metrics]) -> tuple[RunnerState, Metrics]:
        runner, metrics = carry
        runner, row = update(runner)
        return runner, jax.tree.map(lambda all_rows, x: all_rows.at[i].set(x), metrics, row)

    return jax.lax.fori_loop(0, count, update_and_note, (runner, metrics))
