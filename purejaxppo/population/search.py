"""The pieces of a search for hyperparameters: its space, and members that train together, their scores and ranking.

The searches are pure functions of a key (`halving`, `pbt`), or decide on the host (`asha`, `tpe`). Axes: N members,
G generations or rungs, D devices.
"""

import functools
import math
import zlib
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct
from jax.interpreters.partial_eval import dce_jaxpr

from purejaxppo.envs.base import Environment
from purejaxppo.population.options import MakeAgent
from purejaxppo.population.own_agents import numbers_traced
from purejaxppo.population.sweep import LogUniform, Uniform, at_point, check_space, full_name
from purejaxppo.ppo.config import Config, field_names
from purejaxppo.ppo.evaluate import Agent
from purejaxppo.ppo.types import RunnerState, count_timesteps
from purejaxppo.utils.errors import PPOError
from purejaxppo.utils.tree import key_shape
from purejaxppo.utils.validation import check_choice, check_function, check_key

Space = Mapping[str, Uniform | LogUniform]  # name -> the domain of its values
Hyper = dict[str, jax.Array]  # name -> values, [] of one member and [N] of all
SCORES = ("episode_return_mean", "last_return_mean")  # fields of Metrics that a member is scored by
AgentOf = Callable[[Hyper], Agent]  # the agent of one member


class Member(struct.PyTreeNode):
    """One member of a search; all members of it with a leading axis [N, ...]."""

    runner: RunnerState
    hyper: Hyper  # [] each
    score: jax.Array  # [], see `scored`; NaN before the first generation


class Tally(struct.PyTreeNode):
    """The score of a member's present generation so far."""

    return_sum: jax.Array  # [] float32
    count: jax.Array  # [] int32, the episodes of `return_sum`, or with "last_return_mean" the updates
    done: jax.Array  # [] int32, updates of the generation


class History(struct.PyTreeNode):
    """The course of a search. To trace member i back, follow `parents` from the last row up: i, parents[g, i], ..."""

    hyper: Hyper  # [G, N] each, the values that the members trained with
    scores: jax.Array  # [G, N], at the end of the generation; NaN for a dropped member
    parents: jax.Array  # [G, N] int32, the member whose state each one continued from; -1 for a dropped member


class SearchResult(struct.PyTreeNode):
    """The result of a search. Its best run is jax.tree.map(lambda x: x[best], runners)."""

    runners: RunnerState  # [N, ...], the final states; a dropped member's is its state when it was dropped
    hyper: Hyper  # [N] each, the values that each member trained with last
    scores: jax.Array  # [N], each member's last score
    best: jax.Array  # [] int32, the member that ranks first in the last generation
    updates: jax.Array  # [N] int32, updates that each member trained for
    history: History
    batch_size: int = struct.field(pytree_node=False)  # environment steps of one update
    generations: tuple[int, ...] = struct.field(pytree_node=False)  # updates of each generation or rung, [G]
    scored_by: str = struct.field(pytree_node=False, default=SCORES[0])  # the field of `Metrics`, one of SCORES

    @property
    def timesteps(self) -> Any:
        """Environment steps that each member trained for, [N], as `count_timesteps` computes them."""
        return count_timesteps(self.updates, self.batch_size)


def prepare(env: Environment, config: Config, space: Space, make_agent: MakeAgent, score: str) -> tuple[AgentOf, Space]:
    """The agent of a member, and the space with full names. Raises PPOError for arguments that do not fit."""
    check_choice("score", score, SCORES)
    return make_agent_of(env, config, make_agent), settle_space(env, config, space)


def settle_space(env: Environment, config: Config, space: Space) -> Space:
    """The space with full names. Raises PPOError unless it holds domains of numbers that one program can take."""
    check_space(space)
    space = {full_name(env, config, name): domain for name, domain in space.items()}
    static = field_names(config, static=True)
    for name, domain in space.items():
        if name in static:
            raise PPOError(
                f"{name} is a part of the program, and a search has one program for all its members; "
                "take it out of the space, and compare its values by a sweep"
            )
        if not isinstance(domain, Uniform | LogUniform):
            raise PPOError(f"{name} = {domain!r} is not a domain; give uniform(low, high) or log_uniform(low, high)")
        for bound in domain:
            at_point(env, config, {name: bound})
    return space


def draw(space: Space, key: jax.Array, num_members: int) -> Hyper:
    """Independent values of every name. Each name has its own stream: another name leaves its values as they are."""
    return placed(space, draw_unit(space, key, num_members))


def draw_unit(space: Space, key: jax.Array, num_members: int) -> Hyper:
    """Places in [0, 1) of the domain of every name. Those of a member do not depend on how many members there are."""
    return {name: jax.random.uniform(key_of(name, key), (num_members,)) for name in space}


def placed(space: Space, unit: Hyper) -> Hyper:
    """The values at these places of their domains."""
    hyper = {}
    for name, domain in space.items():
        is_log = isinstance(domain, LogUniform)
        low, high = map(math.log, domain) if is_log else domain
        value = low + unit[name] * (high - low)
        hyper[name] = clip(domain, jnp.exp(value) if is_log else value)
    return hyper


def clip(domain: Uniform | LogUniform, value: jax.Array) -> jax.Array:
    """The nearest value within the domain."""
    return jnp.clip(value, domain.low, domain.high)


def key_of(name: str, key: jax.Array) -> jax.Array:
    """The key for one hyperparameter."""
    return jax.random.fold_in(key, zlib.crc32(name.encode()))


def make_agent_of(env: Environment, config: Config, make_agent: MakeAgent) -> AgentOf:
    """The agent of a member as a function of its hyperparameters, which may be tracers.

    Raises PPOError for an environment, a config or a part of the agent that does not fit.
    """
    check_function("make_agent", make_agent, "give make_ppo, or a functools.partial of it with parts of your own")
    make_agent(env, config)
    return lambda hyper: make_agent(*at_point(env, config, hyper))


def check_read(space: Space, update: Callable[[Hyper, jax.Array], RunnerState], reason: str) -> None:
    """Raises PPOError for a name on which the runner after `update` does not depend. Runs nothing."""
    hyper = {name: jax.ShapeDtypeStruct((), jnp.float32) for name in space}
    with numbers_traced(space):
        jaxpr = jax.make_jaxpr(update)(hyper, key_shape()).jaxpr
    is_read = dce_jaxpr(jaxpr, [True] * len(jaxpr.outvars))[1]
    for name, read in zip(sorted(space), is_read, strict=False):  # the key comes after them
        if not read:
            raise PPOError(f"{name} would do nothing: {reason}")


def check_first_update(agent_of: AgentOf, space: Space) -> None:
    """Raises PPOError for a name that neither `init` nor the first update reads. Runs nothing."""

    def first_update(hyper: Hyper, key: jax.Array) -> RunnerState:
        agent = agent_of(hyper)
        return agent.update(agent.init(key))[0]

    check_read(space, first_update, "neither `init` nor `update` of the agent reads it; take it out of the space")


def draw_members(agent_of: AgentOf, space: Space, key: jax.Array, num_members: int) -> Member:
    """N members before their first update, with their hyperparameters. -> Member [N, ...]"""
    check_key(key)
    hyper = draw(space, jax.random.fold_in(key, 0), num_members)
    return jax.vmap(functools.partial(start_member, agent_of, key))(hyper, jnp.arange(num_members))


def start_member(agent_of: AgentOf, key: jax.Array, hyper: Hyper, number: jax.Array) -> Member:
    """The member of this number before its first update. key: of the search"""
    runner = agent_of(hyper).init(jax.random.fold_in(jax.random.fold_in(key, 1), number))
    return Member(runner=runner, hyper=hyper, score=jnp.float32(jnp.nan))


def train_member(agent_of: AgentOf, member: Member, num_updates: jax.Array, score: str = SCORES[0]) -> Member:
    """Trains one member for `num_updates` updates, and scores it by the latter half of them. score: of SCORES"""
    return scored(*train_part(agent_of, member, empty_tally(), num_updates, num_updates, score))


def train_part(
    agent_of: AgentOf, member: Member, tally: Tally, num_updates: jax.Array, of_updates: jax.Array, score: str
) -> tuple[Member, Tally]:
    """Trains one member for the next `num_updates` updates of a generation that has `of_updates`."""
    agent = agent_of(member.hyper)

    def update_and_tally(_: jax.Array, carry: tuple[RunnerState, Tally]) -> tuple[RunnerState, Tally]:
        runner, tally = carry
        runner, metrics = agent.update(runner)
        mean = getattr(metrics, score)
        weight = metrics.episodes if score == SCORES[0] else jnp.isfinite(mean).astype(jnp.int32)
        counted = jnp.where(tally.done >= of_updates // 2, weight, 0)
        return_sum = tally.return_sum + jnp.where(counted > 0, mean * counted, 0.0)
        return runner, Tally(return_sum=return_sum, count=tally.count + counted, done=tally.done + 1)

    runner, tally = jax.lax.fori_loop(0, num_updates, update_and_tally, (member.runner, tally))
    return member.replace(runner=runner), tally


def empty_tally() -> Tally:
    """The tally at the start of a generation."""
    return Tally(return_sum=jnp.float32(0), count=jnp.int32(0), done=jnp.int32(0))


def scored(member: Member, tally: Tally) -> Member:
    """Scores a member by its mean return in the generation, or as before if no episode ended; NaN if it has diverged.

    So a policy with episodes longer than a generation keeps its rank. Before the first episode the score is NaN, which
    ranks last.
    """
    score = jnp.where(tally.count > 0, tally.return_sum / tally.count, member.score)
    return member.replace(score=jnp.where(member.runner.train_state.diverged_at >= 0, jnp.nan, score))


def rank(scores: jax.Array, order: jax.Array, num_alive: int | jax.Array) -> jax.Array:
    """Sorts the first `num_alive` members of the order by score, best first; the others stay where they are.

    NaN ranks last, and ties keep their order. scores: [N], order: [N] -> order [N]
    """
    dropped = jnp.arange(order.size) >= num_alive
    loss = jnp.where(dropped, 0.0, -scores[order])
    return order[jnp.lexsort((loss, dropped))]
