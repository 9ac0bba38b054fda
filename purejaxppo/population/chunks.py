"""Trains the members of a program in chunks that fit the memory, with reports and checkpoints between the updates."""

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
    better,
    drop_finished,
    find_checkpoint,
    padded,
    split_rows,
    unfinished_rows,
    write_best,
    write_checkpoint,
)
from purejaxppo.population.options import Options, Progress
from purejaxppo.population.processes import barrier, gather_rows, rest
from purejaxppo.population.program import (
    REPORT_SECONDS,
    Compiled,
    Job,
    compile_to_fit,
    finishing_programs,
    init_inputs,
    member_inputs,
)
from purejaxppo.population.results import Costs
from purejaxppo.population.store import DiskStore, MemberResult, MemoryStore, Rows, Store
from purejaxppo.ppo.types import Metrics, RunnerState
from purejaxppo.utils.errors import Interrupted
from purejaxppo.utils.files import to_host

_FLOAT32_COUNTS = 2**24  # float32 represents every whole number below it


class Spent(NamedTuple):
    """The work done so far."""

    timesteps: int  # over all members
    total_timesteps: int
    seconds: float  # of training, compilation left out


class Pace(NamedTuple):
    """The clock of a chunk: decides when the host looks next, and when a checkpoint is due."""

    written: float  # clock seconds of the newest checkpoint, or of the start of the chunk
    updates_per_second: float  # of the last call; 0 before the first


def train_job(job: Job, options: Options, spent: Spent) -> tuple[Spent, Costs]:
    """Trains the members of a program in chunks that fit the memory, and stores their results."""
    costs = Costs(0.0, 0.0, 0, None)
    if job.rows:
        started = time.perf_counter()
        compiled, plan = compile_to_fit(job, options)
        compile_seconds, before = time.perf_counter() - started, spent
        options.on_plan(plan)
        for rows in cut_rows(begun_rows(job), plan.width):
            spent = run_chunk(job, compiled, plan.width, rows, options, spent)
        costs = Costs(compile_seconds, spent.seconds - before.seconds, spent.timesteps - before.timesteps, plan)
    if isinstance(job.store, DiskStore):
        drop_finished(job.store)  # checkpoints that a killed process has left of finished members
    rest()
    if options.placement == "seeds":
        share_results(job)
    barrier("trained")  # from here on the results of the other processes are there
    rest(False)
    return spent, over_processes(costs) if options.placement == "seeds" else costs


def over_processes(costs: Costs) -> Costs:
    """The costs over all processes: the seconds of the slowest, and the timesteps of all together."""
    if jax.process_count() == 1:
        return costs
    parts = divmod(costs.timesteps, _FLOAT32_COUNTS)  # each exact in float32, which devices can gather
    every = gather_rows(np.array([[costs.compile_seconds, costs.train_seconds, *parts]], np.float32))
    compile_seconds, train_seconds = every[:, :2].max(axis=0).tolist()
    high, low = every[:, 2:].astype(np.int64).sum(axis=0).tolist()
    return costs._replace(
        compile_seconds=compile_seconds, train_seconds=train_seconds, timesteps=high * _FLOAT32_COUNTS + low
    )


def begun_rows(job: Job) -> list[Rows]:
    """The members to train, cut so that each piece has the checkpoints of one chunk."""
    return split_rows(job.rows, unfinished_rows(job.store.folder)) if isinstance(job.store, DiskStore) else job.rows


def cut_rows(rows: Sequence[Rows], width: int) -> list[Rows]:
    """Cuts the rows into pieces of at most `width`."""
    return [(first, min(first + width, last)) for begin, last in rows for first in range(begin, last, width)]


def writes_results(store: Store, placement: str) -> bool:
    """True if this process stores its results. Processes that share a run write it to disk once."""
    return isinstance(store, MemoryStore) or placement == "seeds" or jax.process_index() == 0


def share_results(job: Job) -> None:
    """Gives each process the results that the others hold in memory."""
    if isinstance(job.store, MemoryStore) and jax.process_count() > 1:
        own = job.rows[0] if job.rows else (0, 0)
        every = gather_rows(jax.tree.map(lambda x: x[slice(*own)], job.store.data))
        job.store.write(0, every)


def run_chunk(job: Job, compiled: Compiled, width: int, rows: Rows, options: Options, spent: Spent) -> Spent:
    """Trains a chunk and stores its results, so that they leave the memory before the next chunk begins."""
    result, best, spent = train_chunk(job, compiled, width, rows, options, spent)
    if writes_results(job.store, options.placement):
        if isinstance(job.store, DiskStore) and best is not None:
            write_best(job.store, rows[0], best)
        job.store.write(rows[0], result)
        if isinstance(job.store, DiskStore):
            drop_finished(job.store)
    return spent


@finishing_programs()
def train_chunk(
    job: Job, compiled: Compiled, width: int, rows: Rows, options: Options, spent: Spent
) -> tuple[MemberResult, Best | None, Spent]:
    """Trains and evaluates the members of `rows`, at most `width`.

    -> (their results, each member at its best if asked for, the work done so far)
    """
    config, (first, last) = job.program.config, rows
    _, play_keys, numbers = member_inputs(job, rows, width)
    runners, metrics, best, begun = restore(job, rows, compiled.init(*init_inputs(job, rows, width)))
    started, done, of_update = time.perf_counter(), begun, (last - first) * config.batch_size
    pace = Pace(written=started, updates_per_second=0.0)
    now = spent = spent._replace(total_timesteps=spent.total_timesteps - begun * of_update)
    while done < config.num_updates:
        until_told = min((at - done for at in options.report_at if at > done), default=config.num_updates)
        capacity = min(paced(compiled.capacity, pace), until_told)
        count = next_count(done, config.num_updates, capacity, options.checkpoints, pace)
        if options.placement == "data":  # all processes take part in each call
            count = int(gather_rows(np.array([count])).min())
        called = time.perf_counter()
        runners, new = compiled.advance(runners, numbers, jnp.int32(count))
        metrics.append(jax.tree.map(lambda x, count=count: np.array(np.asarray(x)[: last - first, :count]), new))
        done += count
        now = Spent(
            spent.timesteps + (done - begun) * of_update,
            spent.total_timesteps,
            spent.seconds + time.perf_counter() - started,
        )
        pace = pace._replace(updates_per_second=count / (time.perf_counter() - called))
        progress = Progress(rows, done, config.num_updates, *now, metrics[-1], runners.train_state)
        options.on_chunk(progress)
        best, pace = keep_or_stop(job, compiled, progress, runners, metrics, best, options, pace)
    state, every = to_host(compiled.gather(runners)), join_updates(metrics)
    own = jax.tree.map(lambda x: x[: last - first], state)
    played = compiled.play(runners.train_state, play_keys, numbers)
    result = MemberResult(own, every, *(np.asarray(x)[: last - first] for x in played))
    return result, better(best, own, every, config.num_updates) if options.checkpoints.best else None, now


def restore(job: Job, rows: Rows, fresh: RunnerState) -> tuple[RunnerState, list[Metrics], Best | None, int]:
    """The start of a chunk: its newest checkpoint, or `fresh`. -> (runners, metrics, best, updates done)"""
    updates, found = find_checkpoint(job.store, rows) if isinstance(job.store, DiskStore) else (0, None)
    if found is None:
        return fresh, [], None, 0
    return padded(found.runners, fresh), [jax.tree.map(np.asarray, found.metrics)], to_host(found.best), updates


def paced(capacity: int, pace: Pace) -> int:
    """The updates of the next call: one until the speed is known, then REPORT_SECONDS of them, at most `capacity`."""
    return max(1, min(capacity, int(REPORT_SECONDS * pace.updates_per_second)))


def next_count(done: int, num_updates: int, capacity: int, policy: Policy, pace: Pace) -> int:
    """The updates until the host looks next: after a call, about when a checkpoint is due, or at the end."""
    count = next_stop(done, num_updates, capacity, policy.every) - done
    if policy.seconds is None:
        return count
    left = pace.written + policy.seconds - time.perf_counter()
    return max(1, min(count, int(left * pace.updates_per_second)))


def next_stop(done: int, num_updates: int, capacity: int, every: int | None) -> int:
    """The update after which the host looks next: after a call, at a checkpoint, or at the end."""
    checkpoint = num_updates if every is None else (done // every + 1) * every
    return min(done + capacity, checkpoint, num_updates)


def is_due(done: int, policy: Policy, pace: Pace) -> bool:
    """True if a checkpoint is due after `done` updates."""
    if policy.seconds is not None:
        return time.perf_counter() - pace.written >= policy.seconds
    return policy.every is not None and done % policy.every == 0


def keep_or_stop(
    job: Job,
    compiled: Compiled,
    progress: Progress,
    runners: RunnerState,
    metrics: list[Metrics],
    best: Best | None,
    options: Options,
    pace: Pace,
) -> tuple[Best | None, Pace]:
    """Writes a checkpoint if one is due. If the caller wants to stop, writes one and raises Interrupted.

    After the last update it does neither: the results come next. Processes that share a run stop together.
    """
    rows, done = progress.members, progress.updates
    if done == job.program.config.num_updates:
        return best, pace
    stops = options.should_stop()
    if options.placement == "data":
        stops = bool(gather_rows(np.array([stops])).any())
    due = is_due(done, options.checkpoints, pace)
    if isinstance(job.store, DiskStore) and (stops or due):
        state = to_host(compiled.gather(runners))
        if writes_results(job.store, options.placement):
            own, every = jax.tree.map(lambda x: x[: rows[1] - rows[0]], state), join_updates(metrics)
            metrics[:] = [every]
            if due and options.checkpoints.best:
                best = better(best, own, every, job.program.config.num_updates)
            write_checkpoint(job.store, rows, done, Checkpoint(own, every, best), options.checkpoints.kept)
        pace = pace._replace(written=time.perf_counter())
    if stops:
        raise Interrupted(f"stopped after {done} of {job.program.config.num_updates} updates")
    return best, pace


def join_updates(metrics: Sequence[Metrics]) -> Metrics:
    """Joins the metrics of consecutive calls. [n, u] each -> [n, U]"""
    return jax.tree.map(lambda *x: np.concatenate(x, axis=1), *metrics)
