"""Population-based training as one compiled program: the worst members copy the best, and change the hyperparameters.

`make_retest` trains the best member of any search again.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from purejaxppo.envs.base import Environment
from purejaxppo.population.algorithms import make_agent
from purejaxppo.population.options import MakeAgent
from purejaxppo.population.search import (
    SCORES,
    AgentOf,
    History,
    Hyper,
    Member,
    SearchResult,
    Space,
    check_read,
    clip,
    draw,
    draw_members,
    key_of,
    make_agent_of,
    prepare,
    rank,
    train_member,
)
from purejaxppo.population.sharding import make_spread, pad_seeds
from purejaxppo.population.sweep import LogUniform, check_whole, is_number
from purejaxppo.ppo.config import Config
from purejaxppo.ppo.types import RunnerState, TrainState
from purejaxppo.utils.errors import PPOError

# Fields of hyperparameters in a train state: that of an adaptive rate, and of the states of optax.inject_hyperparams.
CARRIED = {"learning_rate", "hyperparams"}
FACTORS = (0.8, 1.25)  # of a perturbation (Jaderberg et al. 2017, appendix A.1)


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
    score: str = SCORES[0],
) -> Callable[[jax.Array], SearchResult]:
    """Makes population-based training (Jaderberg et al. 2017): a pure function key -> SearchResult, for you to `jit`.

    Every `interval` updates, each member of the worst `quantile` (at least one member) copies the whole train state
    (parameters, optimizer, normalisation, update count) and the hyperparameters of a random member of the best
    `quantile`. Each of its hyperparameters is then drawn anew with probability `resample`, and perturbed otherwise (see
    `explore`). The member keeps its own key, environments and running episodes: the copy has its own random stream, and
    an episode in progress counts for the policy that finishes it.

    A new value takes effect with the next update, even where the train state carries it: as the learning rate of
    lr_schedule="adaptive", or in the state of `optax.inject_hyperparams`.

    Args:
        env, config, make_agent: as in `make_successive_halving`.
        space: as in `make_successive_halving`. A member whose "env.<parameter>" changes continues in mid-episode.
        num_members: N.
        interval: updates per generation; must divide config.num_updates.
        quantile: the share of members that is replaced, above 0 and at most 0.5.
        resample: the probability that a hyperparameter is drawn anew rather than perturbed.
        score: as in `make_successive_halving`, over the latter half of a generation's updates.

    Raises:
        PPOError: if the space, interval, quantile or probability does not fit, or if no update reads one of the names
            in the space, for example because only `network.init` does.
    """
    agent_of, space = prepare(env, config, space, make_agent, score)
    check_pbt(config, num_members=num_members, interval=interval, quantile=quantile, resample=resample)

    def next_update(hyper: Hyper, key: jax.Array) -> RunnerState:
        """An update with new hyperparameters; nothing before it depends on them."""
        before = jax.tree.map(jnp.ones_like, hyper)
        runner = renew(agent_of, before, hyper, agent_of(before).init(key))
        return agent_of(hyper).update(runner)[0]

    remedy = "take it out of the space, or compare its values by a sweep"
    check_read(space, next_update, f"no update of a run that goes on reads it; {remedy}")
    num_exchanged = max(1, int(num_members * quantile))
    devices = jax.local_devices()[:num_members]
    train_all = make_spread(functools.partial(train_member, agent_of, score=score), devices, num_replicated=1)

    def run_generation(members: Member, key: jax.Array) -> tuple[Member, History]:
        members, parents = evolve(agent_of, space, num_exchanged, resample, key, members)
        trained = train_all(pad_seeds(members, len(devices)), jnp.int32(interval))
        members = jax.tree.map(lambda x: x[:num_members], trained)
        return members, History(hyper=members.hyper, scores=members.score, parents=parents)

    def search(key: jax.Array) -> SearchResult:
        members = draw_members(agent_of, space, key, num_members)
        keys = jax.random.split(jax.random.fold_in(key, 2), config.num_updates // interval)
        members, history = jax.lax.scan(run_generation, members, keys)
        best = rank(members.score, jnp.arange(num_members), num_members)[0]
        updates = jnp.full(num_members, config.num_updates)
        about = (config.batch_size, (interval,) * (config.num_updates // interval), score)
        return SearchResult(members.runner, members.hyper, members.score, best, updates, history, *about)

    return search


def pbt_timesteps(config: Config, *, num_members: int) -> int:
    """Environment steps that `make_pbt` takes with these arguments, over all members."""
    check_whole("num_members", num_members)
    return num_members * config.actual_timesteps


def check_pbt(config: Config, *, num_members: int, interval: int, quantile: float, resample: float) -> None:
    """Raises PPOError for numbers out of range, and for an interval that does not divide the updates."""
    check_whole("num_members", num_members)
    check_whole("interval", interval)
    if config.num_updates % interval:
        fits = max(1, round(config.num_updates / interval)) * interval * config.batch_size
        raise PPOError(
            f"config.num_updates = {config.num_updates} does not divide into generations of interval = {interval}; "
            f"give total_timesteps = {fits}, or another interval"
        )
    if not is_number(quantile) or not 0.0 < quantile <= 0.5:
        raise PPOError(f"quantile = {quantile!r} is not a number above 0 and at most 0.5; 0.25 replaces a quarter")
    if not is_number(resample) or not 0.0 <= resample <= 1.0:
        raise PPOError(f"resample = {resample!r} is not a probability; give a number from 0 to 1")


def evolve(
    agent_of: AgentOf, space: Space, num_exchanged: int, resample: float, key: jax.Array, members: Member
) -> tuple[Member, jax.Array]:
    """Replaces the worst members. -> (members, parents [N]: the member whose state each goes on from)"""
    exploit_key, explore_key = jax.random.split(key)
    parents = exploit(exploit_key, members.score, num_exchanged)
    members = adopt(members, parents)
    explored = explore(space, explore_key, members.hyper, resample)
    is_new = parents != jnp.arange(parents.size)
    hyper = jax.tree.map(functools.partial(jnp.where, is_new), explored, members.hyper)
    runner = jax.vmap(functools.partial(renew, agent_of))(members.hyper, hyper, members.runner)
    return members.replace(runner=runner, hyper=hyper), parents


def renew(agent_of: AgentOf, before: Hyper, after: Hyper, runner: RunnerState) -> RunnerState:
    """The runner with the hyperparameters of `after` in its train state, as `init` would put them there.

    A field that `init` fills alike for `before` and `after` stays as it is.
    """
    old, new = (agent_of(hyper).init(runner.key).train_state for hyper in (before, after))

    def renewed(path: tuple[Any, ...], carried: jax.Array, old: jax.Array, new: jax.Array) -> jax.Array:
        names = {getattr(part, "name", None) for part in path}
        return jnp.where(old != new, new, carried) if names & CARRIED else carried

    train_state: TrainState = jax.tree_util.tree_map_with_path(renewed, runner.train_state, old, new)
    return runner.replace(train_state=train_state)


def exploit(key: jax.Array, scores: jax.Array, num_exchanged: int) -> jax.Array:
    """Chooses the member that each one goes on from: for the worst a random one of the best, for the others itself.

    Ties are exchanged too, so that the last in rank get new hyperparameters even if all are equal. A member whose
    score is NaN is never copied. scores: [N] -> [N] int32
    """
    order = rank(scores, jnp.arange(scores.size), scores.size)
    worst = order[scores.size - num_exchanged :]
    chosen = order[jax.random.randint(key, (num_exchanged,), 0, num_exchanged)]
    return jnp.arange(scores.size).at[worst].set(jnp.where(jnp.isnan(scores[chosen]), worst, chosen))


def adopt(members: Member, parents: jax.Array) -> Member:
    """Gives each member the train state, hyperparameters and score of its parent; it keeps its key and environments."""
    copied = (members.runner.train_state, members.hyper, members.score)
    train_state, hyper, score = jax.tree.map(lambda x: x[parents], copied)
    return Member(runner=members.runner.replace(train_state=train_state), hyper=hyper, score=score)


def explore(space: Space, key: jax.Array, hyper: Hyper, resample: float) -> Hyper:
    """Perturbs every value, or with probability `resample` draws it anew; within its domain.

    A perturbation multiplies by 0.8 or 1.25: in a LogUniform domain the value, in a Uniform one its distance from the
    lower bound.
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


def make_retest(
    env: Environment, config: Config, *, num_seeds: int, make_agent: MakeAgent = make_agent
) -> Callable[[jax.Array, SearchResult], jax.Array]:
    """Makes a retest of a search's best member: a pure function (key, found) -> scores [M], for you to `jit`.

    `found.scores[found.best]` is the highest of many noisy scores, and so on average too high. The retest trains M new
    runs from scratch with the best member's hyperparameters; after population-based training, with the whole schedule
    that led to it. The runs have the keys that members N ... N + M - 1 of the search would have had, and the same kind
    of score.

    Args:
        env, config, make_agent: as in the search.
        num_seeds: M.

    Raises:
        PPOError: if an argument is invalid.
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
