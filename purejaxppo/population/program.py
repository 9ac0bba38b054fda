"""The compiled functions of a population: `init`, `advance` and `play` for chunks of members that fit the memory."""

import contextlib
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from purejaxppo.envs.base import Environment
from purejaxppo.population.algorithms import make_agent
from purejaxppo.population.checkpoints import unfinished_rows
from purejaxppo.population.data_parallel import share
from purejaxppo.population.memory import (
    MemoryPlan,
    even_width,
    held_bytes,
    memory_limit_bytes,
    plan_memory,
    program_bytes,
    tree_bytes,
)
from purejaxppo.population.options import Options
from purejaxppo.population.sharding import (
    OverSeeds,
    check_data_placement,
    data_mesh,
    in_turn,
    make_shared,
    make_spread,
    runner_shardings,
    seed_shardings,
    together,
)
from purejaxppo.population.store import DiskStore, MemberResult, MemoryStore, Rows, Store, widest
from purejaxppo.population.sweep import Program, with_numbers
from purejaxppo.ppo.agent import PPO
from purejaxppo.ppo.config import Config, PPOConfig
from purejaxppo.ppo.evaluate import Agent, play_episodes
from purejaxppo.ppo.types import Metrics, RunnerState, TrainState
from purejaxppo.utils.devices import compiler_options, quickly_compiled
from purejaxppo.utils.errors import PPOError

REPORTS = 16  # at least so many in a chunk of members; each report pauses the devices
REPORT_SECONDS = 1.0  # duration of a call, as far as whole updates allow
MOST_UPDATES = 2_048  # in one call
LEAST_ROWS = 16  # of the metrics of a call: with one or two, XLA makes another program, which rounds differently
MOST_METRICS = 2**26  # bytes of metrics that one call gives the host
EVALUATION_SEED = 1_000_003  # added to the population's seed: evaluation never uses the keys of training
CPU_WIDTH = 32  # members per CPU device in a chunk: more are not faster, and finish later
ACCELERATOR_WIDTH = 8_192  # members per GPU or TPU in a chunk, memory permitting


Numbers = Mapping[int, Any]  # `Program.numbers`, of one member or of all
AgentOf = Callable[[Numbers], Agent]


class Job(NamedTuple):
    """The training of the settings that one program serves."""

    program: Program
    num_seeds: int
    seed: int
    store: Store
    rows: list[Rows]  # the members that have no results yet
    start: TrainState | None = None  # [S, ...], trained states that the seeds start from

    @property
    def num_members(self) -> int:
        """All members, of all processes, trained or not."""
        return len(self.program.settings) * self.num_seeds

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


class Placed(NamedTuple):
    """The functions of `Compiled` before they are compiled, and the shardings of their arguments."""

    init: Callable[..., RunnerState]
    update: Callable[..., tuple[RunnerState, Metrics]]
    play: Callable[..., Any]
    gather: Callable[[RunnerState], RunnerState]
    runners: Any  # of runners [n, ...]
    members: Any  # of any other arrays [n, ...]
    everywhere: Any  # of an array that each device has whole


AGENT = ("env", "config", "actions", "init", "update", "policy", "start_memory")  # attributes of every agent


def make_setting_agent(env: Environment, config: Config, options: Options) -> Agent:
    """The agent of one setting. Raises PPOError if it lacks an attribute or does not fit its placement."""
    agent = (options.make_agent or make_agent)(env, config)
    missing = [name for name in AGENT if not hasattr(agent, name)]
    if missing:
        raise PPOError(
            f"make_agent must return an agent like pjp.PPO, got {type(agent).__name__} without {', '.join(missing)}"
        )
    if options.placement == "data":
        check_data_placement(agent, jax.device_count())
    return agent


def member_shapes(program: Program, options: Options) -> MemberResult:
    """The shapes of one member's results."""
    agent = make_setting_agent(program.env, program.config, options)
    runner, row = jax.eval_shape(lambda key: agent.update(agent.init(key)), jax.random.key(0))
    num_updates = program.config.num_updates
    metrics = jax.tree.map(lambda x: jax.ShapeDtypeStruct((num_updates, *x.shape), x.dtype), row)
    returns = jax.ShapeDtypeStruct((options.evaluation_episodes,), jnp.float32)
    return MemberResult(runner, metrics, returns, jax.ShapeDtypeStruct((), jnp.int32))


def member_inputs(job: Job, rows: Rows, width: int) -> tuple[jax.Array, jax.Array, dict[int, np.ndarray]]:
    """Training keys, evaluation keys and numbers of the members of `rows`; the last one is repeated up to `width`."""
    members = np.minimum(np.arange(rows[0], rows[0] + width), rows[1] - 1)
    setting, index = np.divmod(members, job.num_seeds)
    keys = folded_keys(job.seed, index)
    play_keys = folded_keys(job.seed + EVALUATION_SEED, index)
    return keys, play_keys, {leaf: values[setting] for leaf, values in job.program.numbers.items()}


def init_inputs(job: Job, rows: Rows, width: int) -> tuple[Any, ...]:
    """The arguments of `Compiled.init` for the same members."""
    keys, _, numbers = member_inputs(job, rows, width)
    if job.start is None:
        return keys, numbers
    seeds = np.minimum(np.arange(rows[0], rows[0] + width), rows[1] - 1) % job.num_seeds
    return keys, numbers, jax.tree.map(lambda x: x[seeds], job.start)


def compile_to_fit(job: Job, options: Options) -> tuple[Compiled, MemoryPlan]:
    """The program of a job, for chunks as wide as its members, the processor and the memory allow.

    The compiler reports the memory of a chunk. If that is too much, it compiles once more, for chunks that fit.
    """
    devices = used_devices(options.placement, job.num_members)
    multiple = len(devices) if options.placement == "seeds" else 1
    on_cpu = devices[0].platform == "cpu"
    most = (CPU_WIDTH if on_cpu else ACCELERATOR_WIDTH) * len(devices)
    width = chunk_width(job, most, multiple)
    in_host_memory = on_cpu and isinstance(job.store, MemoryStore)

    def planned(per_member: int) -> MemoryPlan:
        return plan_memory(
            num_members=job.num_left,
            width=width,
            multiple=multiple,
            per_member=per_member,
            kept=tree_bytes(job.store.like) * job.num_left if in_host_memory else 0,
            held=held_bytes(devices),
            limit=memory_limit_bytes(options.memory_limit, devices),
        )

    planned(tree_bytes(job.store.like.runner.train_state))  # refuses at once if not even the states fit
    compiled = compile_program(job, options, width)
    sharing = len(devices) if on_cpu else 1  # programs that share one memory
    plan = planned(-(-sharing * max(map(program_bytes, compiled[:3])) // width))
    return (compiled if plan.width == width else compile_program(job, options, plan.width)), plan


def chunk_width(job: Job, most: int, multiple: int) -> int:
    """The members of a chunk: as many as before if some have begun, so that their results do not change."""
    before = job.store.widest()
    if not before and isinstance(job.store, DiskStore):
        before = widest(unfinished_rows(job.store.folder))
    return -(-before // multiple) * multiple if before else even_width(job.num_left, most, multiple)


def used_devices(placement: str, num_members: int) -> list[Any]:
    """The devices to train on: of this process, at most one per member; with "data" those of all processes."""
    return jax.devices() if placement == "data" else jax.local_devices()[:num_members]


def compile_program(job: Job, options: Options, width: int) -> Compiled:
    """The functions of a job for chunks of `width` members."""
    devices = used_devices(options.placement, job.num_members)
    capacity = call_capacity(job.store.like.metrics, width)
    _, play_keys, numbers = member_inputs(job, (0, 1), width)
    starts = init_inputs(job, (0, 1), width)
    place = {"seeds": place_by_seed, "data": place_by_data}[options.placement]
    placed = place(job, options, devices, width, capacity)
    runners = jax.eval_shape(placed.init, *starts)
    fast, quick = compiler_options(devices[0].platform), quickly_compiled(devices[0].platform)
    init = jax.jit(placed.init, in_shardings=placed.members, out_shardings=placed.runners, compiler_options=quick)
    advance = jax.jit(
        placed.update,
        in_shardings=(placed.runners, placed.members, placed.everywhere),
        out_shardings=(placed.runners, placed.members),
        donate_argnums=0,
        compiler_options=fast,
    )
    play = jax.jit(placed.play, in_shardings=placed.members, out_shardings=placed.members, compiler_options=fast)
    init, advance, play = compile_at_once(
        init.lower(*starts),
        advance.lower(runners, numbers, jnp.int32(0)),
        play.lower(runners.train_state, play_keys, numbers),
    )
    return Compiled(init, advance, play, placed.gather, capacity)


def call_capacity(metrics: Metrics, width: int) -> int:
    """The most updates of one call for `width` members. metrics: the shapes of one member's, [U]

    The first call is a single update. With at least 2 * REPORTS updates that does not change the number of calls.
    """
    num_updates = metrics.updates.shape[0]
    share = 1 if num_updates < 2 * REPORTS else -(-(num_updates - 1) // (REPORTS - 1))
    fits = MOST_METRICS * num_updates // (width * tree_bytes(metrics))
    return max(1, min(share, MOST_UPDATES, fits))


def place_by_seed(job: Job, options: Options, devices: Sequence[Any], width: int, capacity: int) -> Placed:
    """Deals the members out over the devices; no program waits for another."""
    agent_of = functools.partial(member_agent, job.program, options)
    by_seed, everywhere = seed_shardings(devices)
    return Placed(
        init=make_spread(functools.partial(init_member, agent_of), devices),
        update=make_spread(
            functools.partial(update_member, agent_of, capacity),
            devices,
            num_replicated=1,
            over_seeds=over_seeds(job.program.config, width, devices),
        ),
        play=make_spread(functools.partial(evaluate_member, agent_of, options.evaluation_episodes), devices),
        gather=lambda runners: runners,
        runners=by_seed,
        members=by_seed,
        everywhere=everywhere,
    )


def place_by_data(job: Job, options: Options, devices: Sequence[Any], width: int, capacity: int) -> Placed:
    """Runs each member on all devices: its environments and minibatches are divided, its parameters are on each."""
    mesh = data_mesh(devices)
    agent_of = functools.partial(member_agent, job.program, options)
    everywhere = NamedSharding(mesh, PartitionSpec())  # each device has the whole

    def shared_agent_of(numbers: Numbers) -> Agent:
        agent = agent_of(numbers)
        assert isinstance(agent, PPO)  # check_data_placement has refused the others
        return share(agent, len(devices))

    init = jax.vmap(functools.partial(init_member, agent_of))
    update_parts = jax.vmap(functools.partial(update_member, shared_agent_of, capacity), in_axes=(0, 0, None))
    runners = jax.eval_shape(init, *init_inputs(job, (0, 1), width))
    return Placed(
        init=init,
        update=make_shared(update_parts, mesh, runners, num_replicated=2),
        play=jax.vmap(functools.partial(evaluate_member, agent_of, options.evaluation_episodes)),
        gather=jax.jit(lambda runners: runners, out_shardings=everywhere),
        runners=runner_shardings(mesh, runners),
        members=everywhere,
        everywhere=everywhere,
    )


def compile_at_once(*programs: jax.stages.Lowered) -> list[jax.stages.Compiled]:
    """Compiles the programs in parallel: the compiler mostly uses a single core."""
    with ThreadPoolExecutor() as pool:
        return list(pool.map(lambda program: program.compile(), programs))


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


def member_agent(program: Program, options: Options, numbers: Numbers) -> Agent:
    """The agent of a member, from its own numbers."""
    return make_setting_agent(*with_numbers(program, numbers), options)


def init_member(agent_of: AgentOf, key: jax.Array, numbers: Numbers, start: TrainState | None = None) -> RunnerState:
    """The state of a member before its first update, with the parameters of `start` if given."""
    agent = agent_of(numbers)
    return agent.init(key) if start is None else agent.continue_from(start, key)


def update_member(
    agent_of: AgentOf, capacity: int, runner: RunnerState, numbers: Numbers, count: jax.Array
) -> tuple[RunnerState, Metrics]:
    """Takes `count` updates of a member, at most `capacity`. -> (runner, metrics [rows])"""
    return update_up_to(agent_of(numbers), runner, count, capacity)


def evaluate_member(
    agent_of: AgentOf, num_episodes: int, train_state: TrainState, key: jax.Array, numbers: Numbers
) -> tuple[jax.Array, jax.Array]:
    """Plays greedy episodes of a member. -> (returns [num_episodes], number of episodes cut [])"""
    if not num_episodes:
        return jnp.zeros(0), jnp.int32(0)
    end = play_episodes(agent_of(numbers), train_state, key, num_episodes)
    return end.episode_return, jnp.sum(end.running, dtype=jnp.int32)


def over_seeds(config: Config, width: int, devices: Sequence[Any]) -> OverSeeds:
    """Runs the members of one device together; on a CPU in turn if it has a single one, or if each keeps it busy.

    On a CPU, large matrix products, and those that wait for each other, are slower in a batch than one by one.
    """
    alone = width <= len(devices) or not isinstance(config, PPOConfig) or config.cell is not None
    return in_turn if alone and devices[0].platform == "cpu" else together


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


def folded_keys(seed: int, indices: np.ndarray) -> jax.Array:
    """The keys of `seed_keys` at these indices. -> [n] typed keys"""
    return jax.vmap(functools.partial(jax.random.fold_in, jax.random.key(seed)))(jnp.asarray(indices, jnp.int32))
