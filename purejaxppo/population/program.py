"""The compiled functions of a population: `init`, `advance` and `play` for chunks of members that fit the memory."""

import contextlib
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import NamedSharding, PartitionSpec

from purejaxppo.envs.base import Environment
from purejaxppo.policies.networks import NetworkLike
from purejaxppo.population.algorithms import make_agent
from purejaxppo.population.checkpoints import Policy, unfinished_rows
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
from purejaxppo.population.sharding import (
    PLACEMENTS,
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
from purejaxppo.ppo.gae import Advantage, gae_advantage
from purejaxppo.ppo.losses import Loss, ppo_loss
from purejaxppo.ppo.schedules import Schedule
from purejaxppo.ppo.types import Metrics, RunnerState, TrainState
from purejaxppo.utils.devices import compiler_options, quickly_compiled
from purejaxppo.utils.errors import PPOError
from purejaxppo.utils.validation import check_function

REPORTS = 16  # of a chunk of members, at least: how often the host sees its metrics; each costs the devices a pause
REPORT_SECONDS = 1.0  # that a call is to take, where so many updates fit into it
MOST_UPDATES = 2_048  # of one call
LEAST_ROWS = 16  # of its metrics: of one or two, XLA makes another program, with other roundings
MOST_METRICS = 2**26  # bytes of the metrics of one call, which go to the host
EVALUATION_SEED = 1_000_003  # added to the population's: evaluation never plays on the keys of training
CPU_WIDTH = 32  # members for each CPU device in a chunk: more of them are no faster, and finish later
ACCELERATOR_WIDTH = 8_192  # for each other device, where the memory allows as many


Numbers = Mapping[int, Any]  # of one member, or of all: what `Program.numbers` holds
AgentOf = Callable[[Numbers], Agent]
MakeAgent = Callable[..., Agent]  # (env, config) -> agent; keywords are parts that the user passes


class Progress(NamedTuple):
    """What the host sees after some updates of a chunk of members."""

    members: Rows  # the chunk: members first ... last - 1, setting by setting and seed by seed
    updates: int  # done so far, of each member of the chunk
    num_updates: int  # of a whole run
    timesteps: int  # environment steps so far, over all members
    total_timesteps: int  # of all members
    seconds: float  # of training so far, compilation left out
    metrics: Metrics  # of these updates, [n, updates]
    train_states: TrainState  # [n or more, ...]: padding may follow the members; valid during the call only


class Start(NamedTuple):
    """Trained states that the members start from, or None."""

    train_states: TrainState | None  # [S, ...], as `carried` leaves them
    digest: str | None  # of them; kept in the population's folder


class Options(NamedTuple):
    """What the caller brings beside settings and seeds. Placement and memory change no result, up to rounding."""

    network: NetworkLike | None
    optimizer: optax.GradientTransformation | None
    loss: Loss
    advantage: Advantage
    schedules: Mapping[str, Schedule] | None
    placement: str
    memory_limit: int | str | None
    evaluation_episodes: int
    checkpoints: Policy
    should_stop: Callable[[], bool]
    on_plan: Callable[[MemoryPlan], None]
    on_chunk: Callable[[Progress], None]
    start: Start = Start(None, None)
    report_at: tuple[int, ...] = ()  # updates after which the host looks in any case
    make_agent: MakeAgent | None = None  # None: that of the config


class Job(NamedTuple):
    """What is to be done for the settings of one program."""

    program: Program
    num_seeds: int
    seed: int
    store: Store
    rows: list[Rows]  # the members that have no results yet
    start: TrainState | None = None  # [S, ...], trained, that the seeds start from

    @property
    def num_members(self) -> int:
        """Those of all processes, and with results or without."""
        return len(self.program.settings) * self.num_seeds

    @property
    def num_left(self) -> int:
        """Members to train."""
        return sum(last - first for first, last in self.rows)


class Compiled(NamedTuple):
    """A program for chunks of one width."""

    init: Any  # (keys [n], numbers), and the train states [n, ...] to start from if any -> runners [n, ...]
    advance: Any  # (runners, numbers, count) -> (runners, metrics [n, rows])
    play: Any  # (train states [n, ...], keys [n], numbers) -> (returns [n, E], how many of them were cut [n])
    gather: Callable[[RunnerState], RunnerState]  # to where this process can read them
    capacity: int  # updates of one call, at most


DEFAULT_PARTS = {"network": None, "optimizer": None, "loss": ppo_loss, "advantage": gae_advantage, "schedules": None}
AGENT = ("env", "config", "actions", "init", "update", "policy", "start_memory")  # attributes of every agent


def make_setting_agent(env: Environment, config: Config, options: Options) -> Agent:
    """The agent of one setting. Raises PPOError where it does not go with its placement."""
    parts = {name: getattr(options, name) for name in DEFAULT_PARTS}
    given = {name: part for name, part in parts.items() if part is not DEFAULT_PARTS[name]}
    if options.make_agent is not None:
        check_function("make_agent", options.make_agent, "give (env, config) -> agent, such as pjp.make_ppo")
    agent = (options.make_agent or make_agent)(env, config, **given)
    missing = [name for name in AGENT if not hasattr(agent, name)]
    if missing:
        raise PPOError(
            f"make_agent returns a {type(agent).__name__} without {', '.join(missing)}; give it as PPO has it"
        )
    if options.placement not in PLACEMENTS:
        raise PPOError(f"placement = {options.placement!r} is unknown; take one of {', '.join(PLACEMENTS)}")
    if options.placement == "data":
        check_data_placement(agent, jax.device_count())
    return agent


def member_shapes(program: Program, options: Options) -> MemberResult:
    """The shapes of what one member leaves."""
    agent = make_setting_agent(program.env, program.config, options)
    runner, row = jax.eval_shape(lambda key: agent.update(agent.init(key)), jax.random.key(0))
    num_updates = program.config.num_updates
    metrics = jax.tree.map(lambda x: jax.ShapeDtypeStruct((num_updates, *x.shape), x.dtype), row)
    returns = jax.ShapeDtypeStruct((options.evaluation_episodes,), jnp.float32)
    return MemberResult(runner, metrics, returns, jax.ShapeDtypeStruct((), jnp.int32))


def member_inputs(job: Job, rows: Rows, width: int) -> tuple[jax.Array, jax.Array, dict[int, np.ndarray]]:
    """For `width` members from the first of `rows` on, the last one repeated: keys, keys to play with, numbers."""
    members = np.minimum(np.arange(rows[0], rows[0] + width), rows[1] - 1)
    setting, index = np.divmod(members, job.num_seeds)
    keys = folded_keys(job.seed, index)
    play_keys = folded_keys(job.seed + EVALUATION_SEED, index)
    return keys, play_keys, {leaf: values[setting] for leaf, values in job.program.numbers.items()}


def init_inputs(job: Job, rows: Rows, width: int) -> tuple[Any, ...]:
    """The arguments of `Compiled.init` for such members."""
    keys, _, numbers = member_inputs(job, rows, width)
    if job.start is None:
        return keys, numbers
    seeds = np.minimum(np.arange(rows[0], rows[0] + width), rows[1] - 1) % job.num_seeds
    return keys, numbers, jax.tree.map(lambda x: x[seeds], job.start)


def compile_to_fit(job: Job, options: Options) -> tuple[Compiled, MemoryPlan]:
    """The program of a job, as wide as its members, the processor and the memory allow.

    The compiler says what a chunk takes. Where that is too much, it compiles once more, for chunks that fit.
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

    planned(tree_bytes(job.store.like.runner.train_state))  # refuses at once what no program could fit
    compiled = compile_program(job, options, width)
    sharing = len(devices) if on_cpu else 1  # programs that take the memory of one
    plan = planned(-(-sharing * max(map(program_bytes, compiled[:3])) // width))
    return (compiled if plan.width == width else compile_program(job, options, plan.width)), plan


def chunk_width(job: Job, most: int, multiple: int) -> int:
    """The members of a chunk: as before where some have begun, so that they come out as they would have."""
    before = job.store.widest()
    if not before and isinstance(job.store, DiskStore):
        before = widest(unfinished_rows(job.store.folder))
    return -(-before // multiple) * multiple if before else even_width(job.num_left, most, multiple)


def used_devices(placement: str, num_members: int) -> list[Any]:
    """Those of this process, at most one for each member; with "data" all of all processes."""
    return jax.devices() if placement == "data" else jax.local_devices()[:num_members]


def compile_program(job: Job, options: Options, width: int) -> Compiled:
    """The functions of a job for chunks of `width` members."""
    devices = used_devices(options.placement, job.num_members)
    capacity = call_capacity(job.store.like.metrics, width)
    compile_placed = {"seeds": compile_over_seeds, "data": compile_over_data}[options.placement]
    agent_of = functools.partial(member_agent, job.program, options)
    return compile_placed(job, agent_of, devices, width, capacity, options.evaluation_episodes)


def call_capacity(metrics: Metrics, width: int) -> int:
    """The most updates of one call for `width` members. metrics: the shapes of one member's, [U]

    From twice as many updates as reports on, the first call of a single one leaves the number of calls as it is.
    """
    num_updates = metrics.updates.shape[0]
    share = 1 if num_updates < 2 * REPORTS else -(-(num_updates - 1) // (REPORTS - 1))
    fits = MOST_METRICS * num_updates // (width * tree_bytes(metrics))
    return max(1, min(share, MOST_UPDATES, fits))


def compile_over_seeds(
    job: Job, agent_of: AgentOf, devices: Sequence[Any], width: int, capacity: int, num_episodes: int
) -> Compiled:
    """Members dealt out over the devices; no program waits for another."""
    _, play_keys, numbers = member_inputs(job, (0, 1), width)
    starts = init_inputs(job, (0, 1), width)
    by_seed, everywhere = seed_shardings(devices)
    init_members = make_spread(functools.partial(init_member, agent_of), devices)
    update_members = make_spread(
        functools.partial(update_member, agent_of, capacity),
        devices,
        num_replicated=1,
        over_seeds=over_seeds(job.program.config, width, devices),
    )
    play_members = make_spread(functools.partial(evaluate_member, agent_of, num_episodes), devices)
    runners = jax.eval_shape(init_members, *starts)
    fast, quick = compiler_options(devices[0].platform), quickly_compiled(devices[0].platform)
    advance = jax.jit(
        update_members, in_shardings=(by_seed, by_seed, everywhere), donate_argnums=0, compiler_options=fast
    )
    play = jax.jit(play_members, in_shardings=by_seed, compiler_options=fast)
    init, advance, play = compile_at_once(
        jax.jit(init_members, in_shardings=by_seed, compiler_options=quick).lower(*starts),
        advance.lower(runners, numbers, jnp.int32(0)),
        play.lower(runners.train_state, play_keys, numbers),
    )
    return Compiled(init, advance, play, gather=lambda runners: runners, capacity=capacity)


def compile_over_data(
    job: Job, agent_of: AgentOf, devices: Sequence[Any], width: int, capacity: int, num_episodes: int
) -> Compiled:
    """Each member on all devices: its environments and minibatches divided among them, what it learns on each."""
    mesh = data_mesh(devices)
    everywhere = NamedSharding(mesh, PartitionSpec())  # each device has the whole

    def shared_agent_of(numbers: Numbers) -> Agent:
        agent = agent_of(numbers)
        assert isinstance(agent, PPO)  # check_data_placement has refused the others
        return share(agent)

    _, play_keys, numbers = member_inputs(job, (0, 1), width)
    starts = init_inputs(job, (0, 1), width)
    init_members = jax.vmap(functools.partial(init_member, agent_of))
    update_parts = jax.vmap(functools.partial(update_member, shared_agent_of, capacity), in_axes=(0, 0, None))
    play_members = jax.vmap(functools.partial(evaluate_member, agent_of, num_episodes))
    runners = jax.eval_shape(init_members, *starts)
    update_members = make_shared(update_parts, mesh, runners, num_replicated=2)
    placed = runner_shardings(mesh, runners)
    fast, quick = compiler_options(devices[0].platform), quickly_compiled(devices[0].platform)
    advance = jax.jit(
        update_members,
        in_shardings=(placed, everywhere, everywhere),
        out_shardings=(placed, everywhere),
        donate_argnums=0,
        compiler_options=fast,
    )
    play = jax.jit(play_members, in_shardings=everywhere, out_shardings=everywhere, compiler_options=fast)
    init, advance, play = compile_at_once(
        jax.jit(init_members, in_shardings=everywhere, out_shardings=placed, compiler_options=quick).lower(*starts),
        advance.lower(runners, numbers, jnp.int32(0)),
        play.lower(runners.train_state, play_keys, numbers),
    )
    gather = jax.jit(lambda runners: runners, out_shardings=everywhere)
    return Compiled(init, advance, play, gather, capacity)


def compile_at_once(*programs: jax.stages.Lowered) -> list[jax.stages.Compiled]:
    """The programs, compiled side by side: most of the compiler's time it keeps one core busy."""
    with ThreadPoolExecutor() as pool:
        return list(pool.map(lambda program: program.compile(), programs))


@contextlib.contextmanager
def finishing_programs() -> Iterator[None]:
    """Where the body raises, waits for the programs that still run on the devices.

    Ctrl-C ends the wait for a result and not the program that computes it. With several CPU devices, jaxlib calls
    std::terminate in a process that exits before such a program is done.
    """
    try:
        yield
    except BaseException:
        with contextlib.suppress(jax.errors.JaxRuntimeError):  # of a program that fails
            jax.block_until_ready(jax.live_arrays())
        raise


def member_agent(program: Program, options: Options, numbers: Numbers) -> Agent:
    """The agent of a member, from the numbers in which it differs."""
    return make_setting_agent(*with_numbers(program, numbers), options)


def init_member(agent_of: AgentOf, key: jax.Array, numbers: Numbers, start: TrainState | None = None) -> RunnerState:
    """The state of a member before its first update; with the parameters of `start` if there is one."""
    agent = agent_of(numbers)
    return agent.init(key) if start is None else agent.continue_from(start, key)


def update_member(
    agent_of: AgentOf, capacity: int, runner: RunnerState, numbers: Numbers, count: jax.Array
) -> tuple[RunnerState, Metrics]:
    """`count` updates of a member, at most `capacity`. -> (runner, metrics [rows])"""
    return update_up_to(agent_of(numbers), runner, count, capacity)


def evaluate_member(
    agent_of: AgentOf, num_episodes: int, train_state: TrainState, key: jax.Array, numbers: Numbers
) -> tuple[jax.Array, jax.Array]:
    """Returns of greedy episodes of a member, [num_episodes], and how many of the episodes were cut, []."""
    if not num_episodes:
        return jnp.zeros(0), jnp.int32(0)
    end = play_episodes(agent_of(numbers), train_state, key, num_episodes)
    return end.episode_return, jnp.sum(end.running, dtype=jnp.int32)


def over_seeds(config: Config, width: int, devices: Sequence[Any]) -> OverSeeds:
    """How the members of one device run: together, but in turn on a CPU if only one is there, or if each is busy alone.

    A batch of matrix products is slower there than one after another, where they are large or wait for each other.
    """
    alone = width <= len(devices) or not isinstance(config, PPOConfig) or config.cell is not None
    return in_turn if alone and devices[0].platform == "cpu" else together


def update_up_to(agent: Agent, runner: RunnerState, count: jax.Array, capacity: int) -> tuple[RunnerState, Metrics]:
    """`count` updates, at most `capacity`: one program for every count. -> (runner, metrics [rows])

    There are `capacity` rows or LEAST_ROWS, whichever is more, so that a short run that is extended is the long one to
    the bit. Those from `count` on are 0.
    """
    update = jax.jit(agent.update)  # so that it is traced once for both
    blank = jax.eval_shape(update, runner)[1]
    rows = max(capacity, LEAST_ROWS)
    metrics = jax.tree.map(lambda x: jnp.zeros((rows, *x.shape), x.dtype), blank)

    def update_and_note(i: jax.Array, carry: tuple[RunnerState, Metrics]) -> tuple[RunnerState, Metrics]:
        runner, metrics = carry
        runner, row = update(runner)
        return runner, jax.tree.map(lambda all_rows, x: all_rows.at[i].set(x), metrics, row)

    return jax.lax.fori_loop(0, count, update_and_note, (runner, metrics))


def folded_keys(seed: int, indices: np.ndarray) -> jax.Array:
    """`seed_keys` at some indices. -> [n] typed keys"""
    return jax.vmap(functools.partial(jax.random.fold_in, jax.random.key(seed)))(jnp.asarray(indices, jnp.int32))
