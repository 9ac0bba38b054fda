"""Searches for hyperparameters as pure functions of a key: members train together in one compiled program, and their
stacked states are what is ranked, dropped and copied.

Axes: N members, G generations (the rungs of successive halving), D devices.
"""

import dataclasses
import functools
import math
import zlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jax.interpreters.partial_eval import dce_jaxpr

from purejaxppo.envs.base import Environment
from purejaxppo.population.program import make_agent
from purejaxppo.population.sharding import in_turn, make_spread, pad_seeds
from purejaxppo.population.sweep import LogUniform, Uniform, at_point, check_whole, full_name, is_number
from purejaxppo.ppo.config import Config
from purejaxppo.ppo.evaluate import Agent
from purejaxppo.ppo.types import RunnerState, TrainState, count_timesteps
from purejaxppo.utils.errors import PPOError
from purejaxppo.utils.validation import check_function, check_key

Space = Mapping[str, Uniform | LogUniform]  # name -> the domain of its values
Hyper = dict[str, jax.Array]  # name -> values, [] of one member and [N] of all
AgentOf = Callable[[Hyper], Agent]  # the agent of one member
MakeAgent = Callable[[Environment, Any], Agent]  # of a config

# Fields of hyperparameters in a train state: that of an adaptive rate, and of the states of optax.inject_hyperparams.
CARRIED = {"learning_rate", "hyperparams"}
FACTORS = (0.8, 1.25)  # of a perturbation (Jaderberg et al. 2017, appendix A.1)


class Member(struct.PyTreeNode):
    """One member of a search; [N, ...] of each for all of them."""

    runner: RunnerState
    hyper: Hyper  # [] each
    score: jax.Array  # [], see `score_of`; NaN before the first generation


class History(struct.PyTreeNode):
    """What happened in each generation. A lineage is read from the last row upwards: i, parents[g, i], ..."""

    hyper: Hyper  # [G, N] each, what the members trained with
    scores: jax.Array  # [G, N], at the end of the generation; NaN for a dropped member too
    parents: jax.Array  # [G, N] int32, whose state the member went on from; -1 for a dropped member


class SearchResult(struct.PyTreeNode):
    """A finished search; jax.tree.map(lambda x: x[best], runners) is the run it found."""

    runners: RunnerState  # [N, ...]; a dropped member's is as it was when it dropped
    hyper: Hyper  # [N] each, the last that the member trained with
    scores: jax.Array  # [N], the member's last
    best: jax.Array  # [] int32, the first in the last generation's ranking
    updates: jax.Array  # [N] int32, that each member took
    history: History
    batch_size: int = struct.field(pytree_node=False)  # environment steps of one update

    @property
    def timesteps(self) -> Any:
        """Environment steps that each member took, [N], as `count_timesteps` computes them."""
        return count_timesteps(self.updates, self.batch_size)


class Rungs(NamedTuple):
    """The plan of a successive halving."""

    members: tuple[int, ...]  # that train in each rung
    updates: tuple[int, ...]  # of each of them in the rung; together config.num_updates


def make_successive_halving(
    env: Environment,
    config: Config,
    space: Space,
    *,
    num_members: int,
    eta: int = 3,
    num_rungs: int = 3,
    make_agent: MakeAgent = make_agent,
) -> Callable[[jax.Array], SearchResult]:
    """Successive halving as one function, key -> SearchResult; `jit` is the caller's.

    Jamieson and Talwalkar (2016), in the geometry of Li et al. (2018), section 3: all members train for
    1 / eta**(num_rungs - 1) of the updates, the best 1 / eta of them go on until eta times as many, and so on; those
    of the last rung train for the whole config.num_updates. A survivor goes on with its state as it is, and its
    learning rate anneals over config.num_updates from the start. With num_rungs = 1 this is random search.

    space: name -> `uniform(low, high)` or `log_uniform(low, high)`, for numbers of the config and "env.<parameter>".
    make_agent: of a config, by default what its class is for; `functools.partial(make_ppo, loss=..., network=...)`
        brings parts of one's own.

    The program holds the update once, for as many members as the last rung gives each device; a rung runs it as often
    as it takes for those that are alive. On an accelerator, let several members reach the last rung.

    Raises PPOError for a space, or for numbers of members, rungs and updates, that do not fit, and for a number of the
    space that the agent does not read.
    """
    agent_of = make_agent_of(env, config, make_agent)
    space = settle_space(env, config, space)
    rungs = plan_rungs(config, num_members=num_members, eta=eta, num_rungs=num_rungs)
    check_read(
        space,
        functools.partial(first_update, agent_of),
        "neither `init` nor `update` of the agent reads it; take it out of the space",
    )
    run = functools.partial(run_rung, functools.partial(train_alive, agent_of, block_size(rungs.members[-1])))

    def search(key: jax.Array) -> SearchResult:
        members = draw_members(agent_of, space, key, num_members)
        plan = (jnp.array(rungs.members), jnp.array(rungs.updates))
        (members, order), history = jax.lax.scan(run, (members, jnp.arange(num_members)), plan)
        return make_result(members, order[0], members.runner.train_state.update, history, config.batch_size)

    return search


def make_pbt(
    env: Environment,
    config: Config,
    space: Space,
    *,
    num_members: int,
    interval: int,
    quantile: float = 0.25,
    resample: float = 0.25,
    make_agent: MakeAgent = make_agent,
) -> Callable[[jax.Array], SearchResult]:
    """Population-based training (Jaderberg et al. 2017) as one function, key -> SearchResult; `jit` is the caller's.

    Every `interval` updates each member of the worst `quantile` (at least one member) takes the whole train state
    (parameters, optimizer, normalisation, count of updates) and the hyperparameters of a random member of the best
    `quantile`; then each of its hyperparameters is drawn anew with probability `resample`, and perturbed otherwise
    (see `explore`). It keeps its own key, environments and running episodes: a copy follows a random stream of its
    own, and an episode under way counts for the one that ends it.

    A new value counts from the next update on. That holds for numbers that a train state carries as well: the rate of
    lr_schedule="adaptive", which is then the new learning_rate, and what `optax.inject_hyperparams` keeps in its state.

    space, make_agent: as in `make_successive_halving`. A member whose "env.<parameter>" changes goes on in mid-episode.

    Raises PPOError for a space, or for an interval, quantile or probability, that does not fit, and for a number of the
    space that no update reads, such as one for `network.init`.
    """
    agent_of = make_agent_of(env, config, make_agent)
    space = settle_space(env, config, space)
    check_pbt(config, num_members=num_members, interval=interval, quantile=quantile, resample=resample)
    check_read(
        space,
        functools.partial(next_update, agent_of),
        "no update of a run that goes on reads it; take it out of the space, or compare its values by a sweep",
    )
    num_exchanged = max(1, int(num_members * quantile))
    run = functools.partial(
        run_generation,
        functools.partial(evolve, agent_of, space, num_exchanged, resample),
        functools.partial(train_all, agent_of, interval),
    )

    def search(key: jax.Array) -> SearchResult:
        members = draw_members(agent_of, space, key, num_members)
        keys = jax.random.split(jax.random.fold_in(key, 2), config.num_updates // interval)
        members, history = jax.lax.scan(run, members, keys)
        best = rank(members.score, jnp.arange(num_members), num_members)[0]
        return make_result(members, best, jnp.full(num_members, config.num_updates), history, config.batch_size)

    return search


def halving_timesteps(config: Config, *, num_members: int, eta: int = 3, num_rungs: int = 3) -> int:
    """Environment steps that such a successive halving takes."""
    rungs = plan_rungs(config, num_members=num_members, eta=eta, num_rungs=num_rungs)
    return sum(n * updates for n, updates in zip(*rungs, strict=True)) * config.batch_size


def pbt_timesteps(config: Config, *, num_members: int) -> int:
    """Environment steps that a population-based training of so many members takes."""
    check_whole("num_members", num_members)
    return num_members * config.actual_timesteps


def plan_rungs(config: Config, *, num_members: int, eta: int, num_rungs: int) -> Rungs:
    """The members and updates of each rung. Raises PPOError where the numbers leave a rung without either."""
    check_whole("num_members", num_members)
    check_whole("eta", eta, least=2)
    check_whole("num_rungs", num_rungs)
    if num_rungs > num_members.bit_length():  # as eta is at least 2; a power of it might never end
        raise PPOError(
            f"num_rungs = {num_rungs} is more than num_members = {num_members} divide into; give fewer rungs"
        )
    steepness = eta ** (num_rungs - 1)
    if num_members % steepness:
        raise PPOError(
            f"num_members = {num_members} does not divide by eta ** (num_rungs - 1) = {steepness}; "
            f"give {max(1, num_members // steepness) * steepness}, or fewer rungs"
        )
    if config.num_updates < steepness:
        raise PPOError(
            f"num_rungs = {num_rungs} with eta = {eta} needs config.num_updates >= {steepness}, and it is "
            f"{config.num_updates}; give fewer rungs, or total_timesteps >= {steepness * config.batch_size}"
        )
    reached = [config.num_updates * eta**rung // steepness for rung in range(num_rungs)]
    return Rungs(
        members=tuple(num_members // eta**rung for rung in range(num_rungs)),
        updates=tuple(np.diff(reached, prepend=0).tolist()),
    )


def make_agent_of(env: Environment, config: Config, make_agent: MakeAgent) -> AgentOf:
    """The agent of one member as a function of its hyperparameters, which may be tracers.

    Raises PPOError for an environment, a config or parts that do not fit.
    """
    check_function("make_agent", make_agent, "give make_ppo, or a functools.partial of it with parts of your own")
    make_agent(env, config)

    def agent_of(hyper: Hyper) -> Agent:
        return make_agent(*at_point(env, config, hyper))

    return agent_of


def draw(space: Space, key: jax.Array, num_members: int) -> Hyper:
    """Independent values of every name. Each name has its own stream: another name leaves its values as they are."""
    return {
        name: from_unit(domain, jax.random.uniform(key_of(name, key), (num_members,))) for name, domain in space.items()
    }


def from_unit(domain: Uniform | LogUniform, position: jax.Array) -> jax.Array:
    """The value at a position in [0, 1] of the domain; of its logarithm, for LogUniform."""
    if isinstance(domain, LogUniform):
        return clip(domain, jnp.exp(math.log(domain.low) + position * (math.log(domain.high) - math.log(domain.low))))
    return clip(domain, domain.low + position * (domain.high - domain.low))


def clip(domain: Uniform | LogUniform, value: jax.Array) -> jax.Array:
    """The nearest value within the domain."""
    return jnp.clip(value, domain.low, domain.high)


def draw_members(agent_of: AgentOf, space: Space, key: jax.Array, num_members: int) -> Member:
    """N members before their first update, hyperparameters and all. -> Member [N, ...]"""
    check_key(key)
    hyper = draw(space, jax.random.fold_in(key, 0), num_members)
    keys = jax.vmap(functools.partial(jax.random.fold_in, jax.random.fold_in(key, 1)))(jnp.arange(num_members))
    runners = jax.vmap(lambda hyper, key: agent_of(hyper).init(key))(hyper, keys)
    return Member(runner=runners, hyper=hyper, score=jnp.full(num_members, jnp.nan))


def train_member(agent_of: AgentOf, member: Member, num_updates: jax.Array) -> Member:
    """`num_updates` updates of one member, and the score of their latter half."""
    agent = agent_of(member.hyper)

    def update_and_tally(i: jax.Array, carry: tuple) -> tuple[RunnerState, jax.Array, jax.Array]:
        runner, return_sum, episodes = carry
        runner, metrics = agent.update(runner)
        counted = jnp.where(i >= num_updates // 2, metrics.episodes, 0)
        return_sum += jnp.where(counted > 0, metrics.episode_return_mean * counted, 0.0)
        return runner, return_sum, episodes + counted

    start = (member.runner, jnp.float32(0), jnp.int32(0))
    runner, return_sum, episodes = jax.lax.fori_loop(0, num_updates, update_and_tally, start)
    has_diverged = runner.train_state.diverged_at >= 0
    return member.replace(runner=runner, score=score_of(member.score, return_sum, episodes, has_diverged))


def score_of(previous: jax.Array, return_sum: jax.Array, episodes: jax.Array, has_diverged: jax.Array) -> jax.Array:
    """The mean return of the episodes; without an episode the previous score, and NaN of a member that has diverged.

    A policy whose episodes outlast what is counted keeps its rank so. Before any episode it is NaN, which ranks last.
    """
    score = jnp.where(episodes > 0, return_sum / episodes, previous)
    return jnp.where(has_diverged, jnp.nan, score)


def run_rung(
    train: Callable[..., Member], carry: tuple[Member, jax.Array], rung: tuple[jax.Array, jax.Array]
) -> tuple[tuple[Member, jax.Array], History]:
    """Trains the members that are alive, and ranks them. carry: (members, their order); rung: a row of Rungs."""
    members, order = carry
    num_alive, num_updates = rung
    members = train(members, order, num_alive, num_updates)
    order = rank(members.score, order, num_alive)
    return (members, order), note_rung(members, order, num_alive)


def train_alive(
    agent_of: AgentOf,
    block: int,
    members: Member,
    order: jax.Array,
    num_alive: jax.Array,
    num_updates: jax.Array,
) -> Member:
    """Trains the first `num_alive` of the order, a multiple of `block`, on every device; the others cost nothing."""
    devices = jax.local_devices()[: order.size]
    spread = make_spread(functools.partial(train_blocks, agent_of), devices, num_replicated=1, over_seeds=in_turn)
    seats = deal(order, len(devices), block)
    num_blocks = -((jnp.arange(len(devices)) - num_alive // block) // len(devices))  # of each device; rounded up
    return put(members, seats, spread(take(members, seats), num_blocks, num_updates))


def train_blocks(agent_of: AgentOf, members: Member, num_blocks: jax.Array, num_updates: jax.Array) -> Member:
    """Trains the first `num_blocks` blocks of one device in turn, the members of a block together.

    members: [blocks, members of a block, ...]
    """
    train = jax.vmap(functools.partial(train_member, agent_of), in_axes=(0, None))

    def train_block(i: jax.Array, members: Member) -> Member:
        return put(members, i, train(take(members, i), num_updates))

    return jax.lax.fori_loop(0, num_blocks, train_block, members)


def take(members: Member, seats: jax.Array) -> Member:
    """The members at `seats`; beyond the last one, the last. -> Member [*seats.shape, ...]"""
    return jax.tree.map(lambda x: x.at[seats].get(mode="clip"), members)


def put(members: Member, seats: jax.Array, new: Member) -> Member:
    """`members` with those at `seats` replaced; what has a seat beyond the last is lost. new: [*seats.shape, ...]"""
    return jax.tree.map(lambda x, y: x.at[seats].set(y, mode="drop"), members, new)


def block_size(num_members: int) -> int:
    """Members to train together: the largest divisor of `num_members` that is no more than a device's share of them."""
    share = -(-num_members // jax.local_device_count())
    return max(size for size in range(1, share + 1) if num_members % size == 0)


def deal(order: jax.Array, num_devices: int, block: int) -> jax.Array:
    """Blocks of `block` consecutive members of the order, dealt out to the devices in turn.

    [N] -> [D, blocks of a device, block]; N stands where there is no member.
    """
    missing = -order.size % (num_devices * block)
    padded = jnp.pad(order, (0, missing), constant_values=order.size)
    return jnp.swapaxes(padded.reshape(-1, num_devices, block), 0, 1)


def rank(scores: jax.Array, order: jax.Array, num_alive: int | jax.Array) -> jax.Array:
    """The first `num_alive` members of the order by their scores, best first; the others stay where they are.

    NaN ranks last, and equal members as the order has them. scores: [N], order: [N] -> order [N]
    """
    dropped = jnp.arange(order.size) >= num_alive
    loss = jnp.where(dropped, 0.0, -scores[order])
    return order[jnp.lexsort((loss, dropped))]


def note_rung(members: Member, order: jax.Array, num_alive: jax.Array) -> History:
    """The row of a rung in which the first `num_alive` of the order trained."""
    alive = jnp.argsort(order) < num_alive
    return History(
        hyper=members.hyper,
        scores=jnp.where(alive, members.score, jnp.nan),
        parents=jnp.where(alive, jnp.arange(order.size), -1),
    )


def run_generation(
    evolve: Callable[[jax.Array, Member], tuple[Member, jax.Array]],
    train: Callable[[Member], Member],
    members: Member,
    key: jax.Array,
) -> tuple[Member, History]:
    """Replaces the worst by what became of the last generation, and trains all."""
    members, parents = evolve(key, members)
    members = train(members)
    return members, History(hyper=members.hyper, scores=members.score, parents=parents)


def train_all(agent_of: AgentOf, num_updates: int, members: Member) -> Member:
    """Trains every member, on every device. members: [N, ...]"""
    num_members = members.score.size
    devices = jax.local_devices()[:num_members]
    spread = make_spread(functools.partial(train_member, agent_of), devices, num_replicated=1)
    trained = spread(pad_seeds(members, len(devices)), jnp.int32(num_updates))
    return jax.tree.map(lambda x: x[:num_members], trained)


def evolve(
    agent_of: AgentOf, space: Space, num_exchanged: int, resample: float, key: jax.Array, members: Member
) -> tuple[Member, jax.Array]:
    """The members with the worst of them replaced, and whose state each goes on from. -> (members, parents [N])"""
    exploit_key, explore_key = jax.random.split(key)
    parents = exploit(exploit_key, members.score, num_exchanged)
    members = adopt(members, parents)
    explored = explore(space, explore_key, members.hyper, resample)
    is_new = parents != jnp.arange(parents.size)
    hyper = jax.tree.map(functools.partial(jnp.where, is_new), explored, members.hyper)
    runner = jax.vmap(functools.partial(renew, agent_of))(members.hyper, hyper, members.runner)
    return members.replace(runner=runner, hyper=hyper), parents


def renew(agent_of: AgentOf, before: Hyper, after: Hyper, runner: RunnerState) -> RunnerState:
    """The runner with the hyperparameters that its train state carries: as `init` makes them of `after`.

    One that `init` makes alike of `before` and `after` stays as it is.
    """
    old, new = (agent_of(hyper).init(runner.key).train_state for hyper in (before, after))

    def renewed(path: tuple[Any, ...], carried: jax.Array, old: jax.Array, new: jax.Array) -> jax.Array:
        names = {getattr(part, "name", None) for part in path}
        return jnp.where(old != new, new, carried) if names & CARRIED else carried

    train_state: TrainState = jax.tree_util.tree_map_with_path(renewed, runner.train_state, old, new)
    return runner.replace(train_state=train_state)


def exploit(key: jax.Array, scores: jax.Array, num_exchanged: int) -> jax.Array:
    """Whose train state each member goes on from: one of the worst from a random one of the best, the others their own.

    Equal scores are exchanged too: where no member is better than another, the worst still get new hyperparameters.
    From a member whose score is NaN nobody goes on. scores: [N] -> [N] int32
    """
    order = rank(scores, jnp.arange(scores.size), scores.size)
    worst = order[scores.size - num_exchanged :]
    chosen = order[jax.random.randint(key, (num_exchanged,), 0, num_exchanged)]
    return jnp.arange(scores.size).at[worst].set(jnp.where(jnp.isnan(scores[chosen]), worst, chosen))


def adopt(members: Member, parents: jax.Array) -> Member:
    """Each member with the train state, hyperparameters and score of its parent; key and environments stay its own."""
    copied = (members.runner.train_state, members.hyper, members.score)
    train_state, hyper, score = jax.tree.map(lambda x: x[parents], copied)
    return Member(runner=members.runner.replace(train_state=train_state), hyper=hyper, score=score)


def explore(space: Space, key: jax.Array, hyper: Hyper, resample: float) -> Hyper:
    """Every value perturbed, or with probability `resample` drawn anew; within its domain.

    A perturbation multiplies by 0.8 or 1.25: the value, and in a Uniform domain its distance from the lower bound.
    """
    fresh_key, factor_key, resample_key = jax.random.split(key, 3)
    explored = {}
    for name, fresh in draw(space, fresh_key, next(iter(hyper.values())).size).items():
        origin = 0.0 if isinstance(space[name], LogUniform) else space[name].low
        factor = jax.random.choice(key_of(name, factor_key), jnp.array(FACTORS), fresh.shape)
        perturbed = clip(space[name], origin + (hyper[name] - origin) * factor)
        resampled = jax.random.bernoulli(key_of(name, resample_key), resample, fresh.shape)
        explored[name] = jnp.where(resampled, fresh, perturbed)
    return explored


def key_of(name: str, key: jax.Array) -> jax.Array:
    """The key for one hyperparameter."""
    return jax.random.fold_in(key, zlib.crc32(name.encode()))


def make_result(
    members: Member, best: jax.Array, updates: jax.Array, history: History, batch_size: int
) -> SearchResult:
    """What the search returns of its last members."""
    return SearchResult(
        runners=members.runner,
        hyper=members.hyper,
        scores=members.score,
        best=best,
        updates=updates,
        history=history,
        batch_size=batch_size,
    )


def settle_space(env: Environment, config: Config, space: Space) -> Space:
    """The space with full names. Raises PPOError unless it holds domains of numbers that one program can take."""
    if not isinstance(space, Mapping) or not space:
        raise PPOError(f'space = {space!r} has no names; give a dict such as {{"gamma": uniform(0.9, 1.0)}}')
    space = {full_name(env, config, name): domain for name, domain in space.items()}
    static = [field.name for field in dataclasses.fields(config) if field.metadata.get("static", False)]
    for name, domain in space.items():
        if name in static:
            raise PPOError(
                f"{name} is a part of the program, and a search has one program for all its members; "
                "take it out of the space, and compare its values by a sweep"
            )
        if not isinstance(domain, Uniform | LogUniform):
            raise PPOError(f"{name} = {domain!r} is no domain; give uniform(low, high) or log_uniform(low, high)")
        for bound in domain:
            at_point(env, config, {name: bound})
    return space


def first_update(agent_of: AgentOf, hyper: Hyper, key: jax.Array) -> RunnerState:
    """A member after its first update."""
    agent = agent_of(hyper)
    return agent.update(agent.init(key))[0]


def next_update(agent_of: AgentOf, hyper: Hyper, key: jax.Array) -> RunnerState:
    """A member after the first update with new hyperparameters, which alone depends on them."""
    before = jax.tree.map(jnp.ones_like, hyper)
    runner = renew(agent_of, before, hyper, agent_of(before).init(key))
    return agent_of(hyper).update(runner)[0]


def check_read(space: Space, update: Callable[[Hyper, jax.Array], RunnerState], reason: str) -> None:
    """Raises PPOError for a name that the runner after `update` does not depend on. Runs nothing."""
    hyper = {name: jax.ShapeDtypeStruct((), jnp.float32) for name in space}
    jaxpr = jax.make_jaxpr(update)(hyper, jax.eval_shape(lambda: jax.random.key(0))).jaxpr
    is_read = dce_jaxpr(jaxpr, [True] * len(jaxpr.outvars))[1]
    for name, read in zip(sorted(space), is_read, strict=False):  # the key comes after them
        if not read:
            raise PPOError(f"{name} would do nothing: {reason}")


def check_pbt(config: Config, *, num_members: int, interval: int, quantile: float, resample: float) -> None:
    """Raises PPOError for numbers that leave no generation, or no sense to an exchange."""
    check_whole("num_members", num_members)
    check_whole("interval", interval)
    if config.num_updates % interval:
        fits = max(1, round(config.num_updates / interval)) * interval * config.batch_size
        raise PPOError(
            f"config.num_updates = {config.num_updates} does not divide into generations of interval = {interval}; "
            f"give total_timesteps = {fits}, or another interval"
        )
    if not is_number(quantile) or not 0.0 < quantile <= 0.5:
        raise PPOError(f"quantile = {quantile!r} is not a number above 0 and at most 0.5; 0.25 exchanges a quarter")
    if not is_number(resample) or not 0.0 <= resample <= 1.0:
        raise PPOError(f"resample = {resample!r} is not a probability; give a number from 0 to 1")
