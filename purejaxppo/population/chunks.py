"""Trains the members of a program in chunks that fit the memory, with reports and checkpoints between the updates."""

import dataclasses
import time
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from purejaxppo.population.checkpoints import (
    Best,
    Checkpoint,
    Policy,
    begun_chunks,
    better,
    drop_finished,
    find_checkpoint,
    split_rows,
    write_best,
    write_checkpoint,
)
from purejaxppo.population.options import Progress
from purejaxppo.population.processes import barrier, gather_rows, rest
from purejaxppo.population.program import (
    REPORT_SECONDS,
    Compiled,
    Job,
    compile_to_fit,
    finishing_programs,
    member_inputs,
)
from purejaxppo.population.results import NO_COSTS, Costs
from purejaxppo.population.sharding import pad_seeds
from purejaxppo.population.store import DiskStore, MemberResult, MemoryStore, Rows
from purejaxppo.ppo.types import Metrics, RunnerState
from purejaxppo.utils.errors import Interrupted
from purejaxppo.utils.files import to_host


class Spent(NamedTuple):
    """The work done so far."""

    timesteps: int  # over all members
    total_timesteps: int
    seconds: float  # of training, compilation left out


NOTHING_SPENT = Spent(0, 0, 0.0)


class Pace(NamedTuple):
    """The clock of a chunk: decides when the host looks next, and when a checkpoint is due."""

    written: float  # clock seconds of the newest checkpoint, or of the start of the chunk
    updates_per_second: float  # of the last call; 0 before the first


@dataclasses.dataclass
class Chunk:
    """A chunk of members in training."""

    job: Job
    compiled: Compiled
    rows: Rows
    runners: RunnerState  # [width, ...], on the devices; padding follows the members
    metrics: list[Metrics]  # [n, updates of a call] each
    best: Best | None
    done: int  # updates
    pace: Pace

    @property
    def writes_results(self) -> bool:
        """True if this process stores its results. Processes that share a run write it to disk once."""
        in_memory = isinstance(self.job.store, MemoryStore)
        return in_memory or self.job.options.placement == "seeds" or jax.process_index() == 0

    def to_host(self, is_best: bool) -> Checkpoint:
        """The members as they are now, on the host. is_best: they are compared with their best so far"""
        state, num_members = to_host(self.compiled.gather(self.runners)), self.rows[1] - self.rows[0]
        own = jax.tree.map(lambda x: x[:num_members], state)
        self.metrics = [jax.tree.map(lambda *x: np.concatenate(x, axis=1), *self.metrics)]
        if is_best:
            self.best = better(self.best, own, self.metrics[0], self.job.program.config.num_updates)
        return Checkpoint(own, self.metrics[0], self.best)


def train_job(job: Job, spent: Spent) -> tuple[Spent, Costs]:
    """Trains the members of a program in chunks that fit the memory, and stores their results."""
    costs, options = NO_COSTS, job.options
    if job.rows:
        started = time.perf_counter()
        compiled, plan = compile_to_fit(job)
        compile_seconds, before = time.perf_counter() - started, spent
        options.on_plan(plan)
        # Each piece of the rows has the checkpoints of one chunk.
        for rows in cut_rows(split_rows(job.rows, begun_chunks(job.store)), plan.width):
            spent = run_chunk(job, compiled, plan.width, rows, spent)
        costs = Costs(compile_seconds, spent.seconds - before.seconds, spent.timesteps - before.timesteps, plan)
    drop_finished(job.store)  # checkpoints that a killed process has left of finished members
    rest()
    if isinstance(job.store, MemoryStore) and options.placement == "seeds" and jax.process_count() > 1:
        own = job.rows[0] if job.rows else (0, 0)
        job.store.write(0, gather_rows(jax.tree.map(lambda x: x[slice(*own)], job.store.data)))
    barrier("trained")  # from here on the results of the other processes are there
    rest(False)
    return spent, over_processes(costs) if options.placement == "seeds" else costs


def over_processes(costs: Costs) -> Costs:
    """The costs over all processes: the seconds of the slowest, and the timesteps of all together."""
    if jax.process_count() == 1:
        return costs
    mine = np.array([[costs.compile_seconds, costs.train_seconds, costs.timesteps]], np.float64)
    every = gather_rows(mine.view(np.int32)).view(np.float64)  # devices do not gather float64
    compile_seconds, train_seconds, _ = every.max(axis=0).tolist()
    return Costs(compile_seconds, train_seconds, int(every[:, 2].sum()), costs.plan)


def cut_rows(rows: Sequence[Rows], width: int) -> list[Rows]:
    """Cuts the rows into pieces of at most `width`."""
    return [(first, min(first + width, last)) for begin, last in rows for first in range(begin, last, width)]


@finishing_programs()
def run_chunk(job: Job, compiled: Compiled, width: int, rows: Rows, spent: Spent) -> Spent:
    """Trains, evaluates and stores the members of `rows`, which then leave the memory. -> the work done so far"""
    config, options, num_members = job.program.config, job.options, rows[1] - rows[0]
    starts, play_keys, numbers = member_inputs(job, rows, width)
    # No other name holds what was restored: it leaves the memory as the chunk goes on.
    restored = restore(job, rows, compiled.init(*starts))
    started = time.perf_counter()
    chunk = Chunk(job, compiled, rows, *restored, Pace(started, 0.0))
    del restored, starts
    of_update, begun = num_members * config.batch_size, chunk.done
    now = spent = spent._replace(total_timesteps=spent.total_timesteps - begun * of_update)
    while chunk.done < config.num_updates:
        until_told = min((at - chunk.done for at in options.report_at if at > chunk.done), default=config.num_updates)
        capacity = min(compiled.capacity, until_told)
        count = next_count(chunk.done, config.num_updates, capacity, options.checkpoints, chunk.pace)
        if options.placement == "data":  # all processes take part in each call
            count = int(gather_rows(np.array([count])).min())
        called = time.perf_counter()
        chunk.runners, new = compiled.advance(chunk.runners, numbers, jnp.int32(count))
        chunk.metrics.append(jax.tree.map(lambda x, count=count: np.array(np.asarray(x)[:num_members, :count]), new))
        chunk.done += count
        timesteps = spent.timesteps + (chunk.done - begun) * of_update
        now = Spent(timesteps, spent.total_timesteps, spent.seconds + time.perf_counter() - started)
        chunk.pace = chunk.pace._replace(updates_per_second=count / (time.perf_counter() - called))
        seen = (chunk.metrics[-1], chunk.runners.train_state)
        options.on_chunk(Progress(rows, chunk.done, config.num_updates, *now, *seen))
        keep_or_stop(chunk)
    found = chunk.to_host(options.checkpoints.best)
    played = compiled.play(chunk.runners.train_state, play_keys, numbers)
    result = MemberResult(found.runners, found.metrics, *(np.asarray(x)[:num_members] for x in played))
    if chunk.writes_results:
        if isinstance(job.store, DiskStore) and found.best is not None and options.checkpoints.best:
            write_best(job.store, rows, found.best)
        job.store.write(rows[0], result)
        drop_finished(job.store)
    return now


def restore(job: Job, rows: Rows, fresh: RunnerState) -> tuple[RunnerState, list[Metrics], Best | None, int]:
    """The start of a chunk: its newest checkpoint, or `fresh`. -> (runners, metrics, best, updates done)"""
    found = find_checkpoint(job.store, rows)
    if found is None:
        return fresh, [], None, 0
    placed = jax.tree.map(lambda x, like: jax.device_put(pad_seeds(x, len(like)), like.sharding), found.runners, fresh)
    return placed, [jax.tree.map(np.asarray, found.metrics)], to_host(found.best), found.metrics.updates.shape[1]


def next_count(done: int, num_updates: int, capacity: int, policy: Policy, pace: Pace) -> int:
    """The updates until the host looks next: one until the speed is known, then REPORT_SECONDS of them.

    There are at most `capacity`, and no more than until the end, or until a checkpoint is due.
    """
    counts = [capacity, num_updates - done, int(REPORT_SECONDS * pace.updates_per_second)]
    if policy.every is not None:
        counts.append(policy.every - done % policy.every)
    if policy.seconds is not None:
        left = pace.written + policy.seconds - time.perf_counter()
        counts.append(int(left * pace.updates_per_second))
    return max(1, min(counts))


def keep_or_stop(chunk: Chunk) -> None:
    """Writes a checkpoint if one is due. If the caller wants to stop, writes one and raises Interrupted.

    After the last update it does neither: the results come next. Processes that share a run stop together.
    """
    store, options, num_updates = chunk.job.store, chunk.job.options, chunk.job.program.config.num_updates
    if chunk.done == num_updates:
        return
    stops = options.should_stop()
    if options.placement == "data":
        stops = bool(gather_rows(np.array([stops])).any())
    every, seconds = options.checkpoints[:2]
    due = every is not None and chunk.done % every == 0
    if seconds is not None:
        due = time.perf_counter() - chunk.pace.written >= seconds
    if isinstance(store, DiskStore) and (stops or due):
        found = chunk.to_host(due and options.checkpoints.best)
        if chunk.writes_results:
            write_checkpoint(store, chunk.rows, chunk.done, found, options.checkpoints.kept)
        chunk.pace = chunk.pace._replace(written=time.perf_counter())
    if stops:
        raise Interrupted(f"stopped after {chunk.done} of {num_updates} updates")
