"""Asynchronous successive halving: one compiled program trains a batch of members, each in a rung of its own."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from purejaxppo.envs.base import Environment
from purejaxppo.population.algorithms import make_agent
from purejaxppo.population.halving import plan_updates, put, take
from purejaxppo.population.jobs import describe_agent, describe_base
from purejaxppo.population.options import MakeAgent
from purejaxppo.population.search import (
    SCORES,
    AgentOf,
    History,
    Member,
    SearchResult,
    Space,
    Tally,
    check_first_update,
    draw_unit,
    empty_tally,
    placed,
    prepare,
    scored,
    start_member,
    train_part,
)
from purejaxppo.population.sharding import make_spread, seed_shardings
from purejaxppo.population.sweep import check_whole
from purejaxppo.ppo.config import Config
from purejaxppo.utils.errors import PPOError
from purejaxppo.utils.files import as_key, as_path, is_key, load_tree, make_folder, save_tree
from purejaxppo.utils.lock import locked
from purejaxppo.utils.validation import check_key, is_traced


class Lane(struct.PyTreeNode):
    """A seat of the compiled program, and the member that trains in it; all of them with a leading axis [batch]."""

    member: Member
    tally: Tally  # of its rung
    updates: jax.Array  # [] int32, of its rung


def make_asha(
    env: Environment,
    config: Config,
    space: Space,
    *,
    num_runs: int,
    batch: int,
    eta: int = 3,
    num_rungs: int = 3,
    make_agent: MakeAgent = make_agent,
    score: str = SCORES[0],
) -> Callable[..., SearchResult]:
    """Makes an asynchronous successive halving search (ASHA): a host function (key, out=None) -> SearchResult.

    Li et al. (2018), "A System for Massively Parallel Hyperparameter Tuning", algorithm 2. `batch` members train in one
    compiled program, each in its own rung. When a member finishes its rung, its place goes to a promotion. The rungs
    are searched from the highest down for the best member that is among the top 1 / eta of those that have finished the
    rung and that has not been promoted yet. If no rung has one, a new member starts. No member waits for a rung to fill
    up. Member i has the same key and hyperparameters as member i of `make_successive_halving`.

    With `out`, each member is saved there after each rung. An interrupted search continues when you call it again with
    the same key, and its result is bit for bit the same as without the interruption. A finished search continues if you
    make it with a larger `num_runs`.

    Args:
        env, config, space, make_agent, score: as in `make_successive_halving`.
        num_runs: the budget: all members together take at most the environment steps of this many whole runs. A rung
            that would exceed it does not start.
        batch: how many members train together.
        eta: 1 / eta of the members that have finished a rung may be promoted.
        num_rungs: how many rungs there are. Each has as many updates as that rung of `make_successive_halving`.

    Returns:
        The search. Its result has one row per member that started, and one generation per rung that any member has
            finished; `best` is the best member of the last of these.

    Raises:
        PPOError: if the space or the numbers of runs, members, rungs and updates do not fit, or if the agent does not
            read one of the names in the space. The search raises it if `out` holds another search.
    """
    agent_of, space = prepare(env, config, space, make_agent, score)
    updates = plan_updates(config, eta=eta, num_rungs=num_rungs)
    check_whole("num_runs", num_runs, least=num_rungs)  # one bracket of the synchronous search takes no more
    check_whole("batch", batch)
    check_first_update(agent_of, space)
    budget, programs = num_runs * config.num_updates, Programs(agent_of, space, score, batch)
    about = {
        **describe_base(env, config),
        "space": {name: str(domain) for name, domain in space.items()},
        "rungs": [eta, *updates],
        "score": score,
        "batch": batch,
        "agent": describe_agent(make_agent),
    }

    def search(key: jax.Array, out: str | Path | None = None) -> SearchResult:
        if is_traced(key):
            raise PPOError("key is traced, and this search decides on the host; call it without jit and vmap")
        check_key(key)
        unit = draw_unit(space, jax.random.fold_in(key, 0), budget // updates[0])
        ladder = Ladder(eta, updates, budget)
        start = lambda i: programs.start(key, {name: x[i] for name, x in unit.items()}, i)  # noqa: E731
        if out is None:
            members = climb(programs, ladder, batch, start)
        else:
            folder = as_path("out", out)
            make_folder(folder)
            of_search = about | {"key": jax.random.key_data(key).tolist()}
            with locked(folder):
                members = climb(programs, ladder, batch, start, Shelf(folder, jax.eval_shape(start, 0), of_search))
        return result_of(ladder, members, config.batch_size, score)

    return search


class Programs:
    """The compiled functions of a search. The lanes are dealt out over the devices."""

    def __init__(self, agent_of: AgentOf, space: Space, score: str, batch: int) -> None:
        def train_lane(lane: Lane, num_updates: jax.Array) -> Lane:
            member, tally = train_part(agent_of, lane.member, lane.tally, num_updates, lane.updates, score)
            final = jnp.where(tally.done == lane.updates, scored(member, tally).score, member.score)
            return lane.replace(member=member.replace(score=final), tally=tally)

        self.start = jax.jit(lambda key, unit, number: start_member(agent_of, key, placed(space, unit), number))
        devices = jax.local_devices()[:batch]
        self._num_lanes = -(-batch // len(devices)) * len(devices)
        self._by_lane, _ = seed_shardings(devices)
        self.advance = jax.jit(make_spread(train_lane, devices, num_replicated=1))
        self.take, self.put = jax.jit(take), jax.jit(put, out_shardings=self._by_lane)

    def fill(self, lane: Lane) -> Lane:
        """All lanes, with one member. -> [batch or more, ...]"""
        lanes = jax.tree.map(lambda x: jnp.stack([x] * self._num_lanes), lane)
        return jax.device_put(lanes, self._by_lane)


class Job(NamedTuple):
    """One rung of one member."""

    member: int
    rung: int


class Ladder:
    """The scores of all rungs, and the next job by algorithm 2 of Li et al. (2018)."""

    def __init__(self, eta: int, updates: tuple[int, ...], budget: int) -> None:
        self.scores: list[dict[int, float]] = [{} for _ in updates]  # of each rung, by member
        self.num_members = 0  # that have begun
        self._promoted: list[set[int]] = [set() for _ in updates]  # to each rung
        self._eta, self.updates, self._left = eta, updates, budget

    def tell(self, job: Job, score: float) -> None:
        """Takes the score of a job that is finished."""
        self.scores[job.rung][job.member] = score

    def ask(self) -> Job | None:
        """The next job: a promotion into the highest rung, or a new member. Those beyond the budget are passed over."""
        for rung in reversed(range(len(self.updates))):
            member = self._next_of(rung) if self.updates[rung] <= self._left else None
            if member is not None:
                self._left -= self.updates[rung]
                self._promoted[rung].add(member)
                self.num_members += rung == 0
                return Job(member, rung)
        return None

    def _next_of(self, rung: int) -> int | None:
        """The best member of the rung below that is among its best 1 / eta and not yet promoted."""
        if rung == 0:
            return self.num_members
        best = self.ranked(rung - 1)[: len(self.scores[rung - 1]) // self._eta]
        return next((member for member in best if member not in self._promoted[rung]), None)

    def ranked(self, rung: int) -> list[int]:
        """The members that have finished a rung, best first. NaN ranks last, and of equals the first one is better."""
        scores = self.scores[rung]
        return sorted(scores, key=lambda member: (math.isnan(scores[member]), -scores[member], member))


class Shelf(NamedTuple):
    """A folder with the members after each rung."""

    folder: Path
    like: Member  # its shapes
    about: dict[str, Any]  # of the search

    def place(self, job: Job) -> Path:
        """The folder of the member after the job."""
        return self.folder / f"member-{job.member:06d}-rung-{job.rung}"

    def load(self, job: Job) -> Member | None:
        """The member after the job; None if it is not there. Raises PPOError if it is of another search."""
        return load_tree(self.place(job), self.like, self.about) if self.place(job).exists() else None


def climb(
    programs: Programs, ladder: Ladder, batch: int, start: Callable[[int], Member], shelf: Shelf | None = None
) -> dict[int, Member]:
    """Trains all jobs of the ladder. -> the members, each as its last rung left it

    A job that is on the shelf takes its time as if it trained, so that all decisions come in the same order.
    """
    members: dict[int, Member] = {}
    running: dict[int, tuple[Job, Member | None]] = {}  # by lane: the job, and its result if it is on the shelf
    lanes, left = None, [0] * batch
    while True:
        for lane in (lane for lane in range(batch) if lane not in running):
            if (job := ladder.ask()) is None:
                break
            running[lane], left[lane] = (job, shelf.load(job) if shelf else None), ladder.updates[job.rung]
            if running[lane][1] is None:
                member = members[job.member] if job.rung else start(job.member)
                fresh = Lane(member, empty_tally(), jnp.int32(left[lane]))
                lanes = programs.fill(fresh) if lanes is None else programs.put(lanes, lane, fresh)
        if not running:
            return members
        num_updates = min(left[lane] for lane in running)
        if any(kept is None for _, kept in running.values()):
            lanes = programs.advance(lanes, num_updates)
        for lane, (job, kept) in list(running.items()):
            left[lane] -= num_updates
            if left[lane] == 0:
                del running[lane]
                member = programs.take(lanes, lane).member if kept is None else kept
                if shelf and kept is None:
                    save_tree(shelf.place(job), member, shelf.about)
                members[job.member] = member
                ladder.tell(job, float(member.score))


def result_of(ladder: Ladder, members: dict[int, Member], batch_size: int, score: str) -> SearchResult:
    """The result of a search whose jobs are all finished."""
    every = jax.tree.map(stack, *(members[i] for i in range(len(members))))
    finished = [scores for scores in ladder.scores if scores]
    scores, parents = (np.full((len(finished), len(members)), empty) for empty in (np.float32(np.nan), np.int32(-1)))
    for row, known in enumerate(finished):
        scores[row, list(known)], parents[row, list(known)] = list(known.values()), list(known)
    hyper = jax.tree.map(lambda x: jnp.tile(x, (len(finished), 1)), every.hyper)
    history = History(hyper=hyper, scores=jnp.asarray(scores), parents=jnp.asarray(parents))
    best, updates = jnp.int32(ladder.ranked(len(finished) - 1)[0]), every.runner.train_state.update
    about = (batch_size, ladder.updates[: len(finished)], score)
    return SearchResult(every.runner, every.hyper, every.score, best, updates, history, *about)


def stack(*leaves: jax.Array) -> jax.Array:
    """Stacks arrays or typed keys, on the host: there a number of arrays that is new needs no compilation."""
    if is_key(leaves[0]):
        return as_key(stack(*map(jax.random.key_data, leaves)), leaves[0])
    return jnp.asarray(np.stack([np.asarray(x) for x in leaves]))
