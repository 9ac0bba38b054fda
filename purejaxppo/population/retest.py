"""The find of a search again, on runs that had no part in finding it."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp

from purejaxppo.envs.base import Environment
from purejaxppo.population.algorithms import make_agent
from purejaxppo.population.options import MakeAgent
from purejaxppo.population.pbt import renew
from purejaxppo.population.search import History, Hyper, Member, SearchResult, make_agent_of, train_member
from purejaxppo.population.sweep import check_whole
from purejaxppo.ppo.config import Config


def make_retest(
    env: Environment, config: Config, *, num_seeds: int, make_agent: MakeAgent = make_agent
) -> Callable[[jax.Array, SearchResult], jax.Array]:
    """Trains what a search has found from fresh starts, (key, found) -> scores [M]; `jit` is the caller's.

    `found.scores[found.best]` is the greatest of many, and so too high on average. Here the hyperparameters of the best
    member, after population-based training its whole schedule of them, train M runs more. These have the keys that
    members N ... N + M - 1 of the search would have had, and the same kind of score.

    Args:
        env, config, make_agent: as in the search.
        num_seeds: M.

    Raises:
        PPOError: for arguments that do not fit.
    """
    agent_of = make_agent_of(env, config, make_agent)
    check_whole("num_seeds", num_seeds)

    def train(score: str, schedule: Hyper, updates: jax.Array, key: jax.Array) -> jax.Array:
        first = jax.tree.map(lambda x: x[0], schedule)

        def train_generation(member: Member, generation: tuple[Hyper, jax.Array]) -> tuple[Member, None]:
            hyper, num_updates = generation
            runner = renew(agent_of, member.hyper, hyper, member.runner)
            return train_member(agent_of, member.replace(runner=runner, hyper=hyper), num_updates, score), None

        start = Member(runner=agent_of(first).init(key), hyper=first, score=jnp.float32(jnp.nan))
        return jax.lax.scan(train_generation, start, (schedule, updates))[0].score

    def retest(key: jax.Array, found: SearchResult) -> jax.Array:
        fresh = found.scores.size + jnp.arange(num_seeds)
        keys = jax.vmap(functools.partial(jax.random.fold_in, jax.random.fold_in(key, 1)))(fresh)
        schedule, updates = lineage(found.history, found.best), jnp.array(found.generations)
        return jax.vmap(functools.partial(train, found.scored_by, schedule, updates))(keys)

    return retest


def lineage(history: History, member: jax.Array) -> Hyper:
    """The hyperparameters that led to a member of the last generation. -> [G] each"""

    def step_back(member: jax.Array, generation: tuple[Hyper, jax.Array]) -> tuple[jax.Array, Hyper]:
        hyper, parents = generation
        return parents[member], jax.tree.map(lambda x: x[member], hyper)

    return jax.lax.scan(step_back, member, (history.hyper, history.parents), reverse=True)[1]
