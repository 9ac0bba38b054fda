"""Successive halving as one compiled program: all members start, and only the best train on to the end."""

import functools
from collections.abc import Callable
from typing import NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from purejaxppo.envs.base import Environment
from purejaxppo.population.algorithms import make_agent
from purejaxppo.population.options import MakeAgent
from purejaxppo.population.search import (
    SCORES,
    History,
    Member,
    SearchResult,
    Space,
    check_first_update,
    draw_members,
    prepare,
    rank,
    train_member,
)
from purejaxppo.population.sharding import make_spread
from purejaxppo.population.sweep import check_whole
from purejaxppo.ppo.config import Config
from purejaxppo.utils.errors import PPOError

T = TypeVar("T")  # a pytree of stacked members, [N, ...]


class Rungs(NamedTuple):
    """The plan of a successive halving, rung by rung."""

    members: tuple[int, ...]  # how many train in each rung
    updates: tuple[int, ...]  # of each of them in the rung; they add up to config.num_updates


def make_successive_halving(
    env: Environment,
    config: Config,
    space: Space,
    *,
    num_members: int,
    eta: int = 3,
    num_rungs: int = 3,
    make_agent: MakeAgent = make_agent,
    score: str = SCORES[0],
) -> Callable[[jax.Array], SearchResult]:
    """Makes a successive halving search: a pure function key -> SearchResult, for you to `jit`.

    Jamieson and Talwalkar (2016), with the geometric rungs of Li et al. (2018), section 3: all members train for
    1 / eta**(num_rungs - 1) of the updates, the best 1 / eta of them train on until they have done eta times as many,
    and so on; members of the last rung complete config.num_updates. A survivor keeps its state, and its learning rate
    anneals over config.num_updates from the start. With num_rungs = 1 this is random search.

    The program contains the update once, for as many members as each device has in the last rung. In each rung it
    repeats the update until all remaining members have trained. On an accelerator, let several members reach the last
    rung, so that they train in parallel.

    Args:
        env: the environment.
        config: the hyperparameters that the space does not name.
        space: name -> `uniform(low, high)` or `log_uniform(low, high)`. A name is a numeric field of the config, or
            "env.<parameter>".
        num_members: N, divisible by eta**(num_rungs - 1).
        eta: 1 / eta of the members go on from each rung to the next.
        num_rungs: how many rungs there are.
        make_agent: (env, config) -> agent; by default the agent of the config's class. Change its parts with
            `functools.partial(pjp.make_ppo, loss=..., network=...)`.
        score: the field of `Metrics` that ranks the members, by its mean over the latter half of a rung's updates:
            "episode_return_mean" (default) counts every episode once, "last_return_mean" every environment. Take the
            latter if episodes differ in length, so that short ones do not count more often.

    Raises:
        PPOError: if the space or the numbers of members, rungs and updates do not fit, or if the agent does not read
            one of the names in the space.
    """
    agent_of, space = prepare(env, config, space, make_agent, score)
    rungs = plan_rungs(config, num_members=num_members, eta=eta, num_rungs=num_rungs)
    block = block_size(rungs.members[-1])
    train_one = functools.partial(train_member, agent_of, score=score)
    check_first_update(agent_of, space)

    def run_rung(
        carry: tuple[Member, jax.Array], rung: tuple[jax.Array, jax.Array]
    ) -> tuple[tuple[Member, jax.Array], History]:
        (members, order), (num_alive, num_updates) = carry, rung
        members = train_alive(train_one, block, members, order, num_alive, num_updates)
        order = rank(members.score, order, num_alive)
        alive = jnp.argsort(order) < num_alive
        scores, parents = jnp.where(alive, members.score, jnp.nan), jnp.where(alive, jnp.arange(order.size), -1)
        return (members, order), History(hyper=members.hyper, scores=scores, parents=parents)

    def search(key: jax.Array) -> SearchResult:
        start = (draw_members(agent_of, space, key, num_members), jnp.arange(num_members))
        plan = (jnp.array(rungs.members), jnp.array(rungs.updates))
        (members, order), history = jax.lax.scan(run_rung, start, plan)
        best, updates = order[0], members.runner.train_state.update
        about = (config.batch_size, rungs.updates, score)
        return SearchResult(members.runner, members.hyper, members.score, best, updates, history, *about)

    return search


def halving_timesteps(config: Config, *, num_members: int, eta: int = 3, num_rungs: int = 3) -> int:
    """Environment steps that `make_successive_halving` takes with these arguments, over all members."""
    rungs = plan_rungs(config, num_members=num_members, eta=eta, num_rungs=num_rungs)
    return sum(n * updates for n, updates in zip(*rungs, strict=True)) * config.batch_size


def plan_rungs(config: Config, *, num_members: int, eta: int, num_rungs: int) -> Rungs:
    """The members and updates of each rung. Raises PPOError if a rung would have none of them."""
    check_whole("num_members", num_members)
    updates = plan_updates(config, eta=eta, num_rungs=num_rungs)
    steepness = eta ** (num_rungs - 1)
    if num_members % steepness:
        raise PPOError(
            f"num_members = {num_members} does not divide by eta ** (num_rungs - 1) = {steepness}; "
            f"give {max(1, num_members // steepness) * steepness}, or fewer rungs"
        )
    return Rungs(tuple(num_members // eta**rung for rung in range(num_rungs)), updates)


def plan_updates(config: Config, *, eta: int, num_rungs: int) -> tuple[int, ...]:
    """The updates of each rung. Raises PPOError if the first would have none."""
    check_whole("eta", eta, least=2)
    check_whole("num_rungs", num_rungs)
    steepness = eta ** min(num_rungs - 1, 31)  # beyond it a config cannot have as many updates
    if config.num_updates < steepness:
        raise PPOError(
            f"num_rungs = {num_rungs} with eta = {eta} needs config.num_updates >= {steepness}, and it is "
            f"{config.num_updates}; give fewer rungs, or total_timesteps >= {steepness * config.batch_size}"
        )
    reached = [config.num_updates * eta**rung // steepness for rung in range(num_rungs)]
    return tuple(np.diff(reached, prepend=0).tolist())


def train_alive(
    train_one: Callable[[Member, jax.Array], Member],
    block: int,
    members: Member,
    order: jax.Array,
    num_alive: jax.Array,
    num_updates: jax.Array,
) -> Member:
    """Trains the first `num_alive` of the order on all devices, in blocks; the others cost nothing.

    A device trains its blocks one after the other, and the members of a block together.
    """
    train = jax.vmap(train_one, in_axes=(0, None))

    def train_blocks(members: Member, num_blocks: jax.Array, num_updates: jax.Array) -> Member:
        step = lambda i, members: put(members, i, train(take(members, i), num_updates))  # noqa: E731
        return jax.lax.fori_loop(0, num_blocks, step, members)

    devices = jax.local_devices()[: order.size]
    spread = make_spread(train_blocks, devices, num_replicated=1, together=1)
    seats = deal(order, len(devices), block)
    num_blocks = -((jnp.arange(len(devices)) - num_alive // block) // len(devices))  # of each device; rounded up
    return put(members, seats, spread(take(members, seats), num_blocks, num_updates))


def take(members: T, seats: jax.Array) -> T:
    """The members at `seats`; beyond the last one, the last. -> [*seats.shape, ...]"""
    return jax.tree.map(lambda x: x.at[seats].get(mode="clip"), members)


def put(members: T, seats: jax.Array, new: T) -> T:
    """`members` with those at `seats` replaced; seats beyond the last are left out. new: [*seats.shape, ...]"""
    return jax.tree.map(lambda x, y: x.at[seats].set(y, mode="drop"), members, new)


def block_size(num_members: int) -> int:
    """Members to train together: the largest divisor of `num_members` that is at most a device's share of them."""
    share = -(-num_members // jax.local_device_count())
    return max(size for size in range(1, share + 1) if num_members % size == 0)


def deal(order: jax.Array, num_devices: int, block: int) -> jax.Array:
    """Deals blocks of `block` consecutive members of the order out to the devices in turn.

    [N] -> [D, blocks of a device, block]; N marks a seat without a member.
    """
    missing = -order.size % (num_devices * block)
    padded = jnp.pad(order, (0, missing), constant_values=order.size)
    return jnp.swapaxes(padded.reshape(-1, num_devices, block), 0, 1)
