"""The results of a training: `Population` holds the seeds of one setting, `Sweep` several settings."""

import dataclasses
import functools
import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import numpy as np

from purejaxppo.population.checkpoints import KeptStates, kept_states
from purejaxppo.population.memory import MemoryPlan
from purejaxppo.population.run_distribution import (
    PERCENTS,
    Profile,
    ThresholdTimes,
    first_passages,
    percentile_curves,
    performance_profile,
    threshold_times,
)
from purejaxppo.population.statistics import (
    Aggregates,
    Interval,
    Selection,
    aggregate,
    areas_under_curves,
    iqm,
    iqm_interval,
    last_returns,
    select,
)
from purejaxppo.population.store import Rows, Store
from purejaxppo.population.sweep import Point, show_value
from purejaxppo.ppo.evaluate import Agent
from purejaxppo.ppo.types import Metrics, RunnerState, TrainState
from purejaxppo.utils.errors import PPOError
from purejaxppo.utils.validation import is_index, shown

if TYPE_CHECKING:
    from pandas import DataFrame


class Costs(NamedTuple):
    """The cost of the program that trained a setting, over all settings that it served."""

    compile_seconds: float
    train_seconds: float  # compilation and evaluation left out
    timesteps: int  # of training, over all members
    plan: MemoryPlan | None  # None if nothing was left to train


NO_COSTS = Costs(0.0, 0.0, 0, None)


@dataclasses.dataclass(frozen=True, repr=False)
class Population:
    """The trained seeds of one setting. Results on disk are read only when you ask for them."""

    agent: Agent
    point: Point  # the values in which it differs from the base setting, by name
    store: Store
    rows: Rows  # of its seeds in `store`
    costs: Costs

    def __repr__(self) -> str:
        point = "".join(f", {name}={show_value(value)}" for name, value in self.point.items())
        updates = self.agent.config.num_updates
        return f"Population(env={self.agent.env.name}, seeds={self.num_seeds}, updates={updates}{point})"

    @property
    def num_seeds(self) -> int:
        """The number of seeds, S."""
        return self.rows[1] - self.rows[0]

    @functools.cached_property
    def metrics(self) -> Metrics:
        """The metrics of every update, [S, U], on the host."""
        return self.store.metrics(self.rows)

    @functools.cached_property
    def runners(self) -> RunnerState:
        """The final states, [S, ...], on the host."""
        return self.store.runners(self.rows)

    @property
    def train_state(self) -> TrainState:
        """The final train states, [S, ...]."""
        return self.runners.train_state

    @property
    def compile_seconds(self) -> float:
        """Compile time of the program that trained these seeds; settings that share a program share it."""
        return self.costs.compile_seconds

    @property
    def train_seconds(self) -> float:
        """Run time of the program that trained these seeds, without compilation and evaluation."""
        return self.costs.train_seconds

    def seed(self, i: int) -> RunnerState:
        """The final state of seed i, ready to act and be evaluated.

        `agent.continue_from` trains it further, with a new schedule. Raises PPOError if i is out of range, or if the
        seed has no results yet.
        """
        if not is_index(i, self.num_seeds):
            raise PPOError(
                f"seed {shown(i)} is not among the {self.num_seeds} of this population; take 0 to {self.num_seeds - 1}"
            )
        row = self.rows[0] + i
        return jax.tree.map(lambda x: x[0], self.store.runners((row, row + 1)))

    def checkpoint(self, which: str | int = "newest") -> KeptStates:
        """Reads states from disk: the "newest", each seed's "best" (needs `keep_best`), or those after `which` updates.

        In an unfinished population, some seeds may lack such a state: `KeptStates.seeds` lists the seeds that have one.
        Raises PPOError if none has.
        """
        return kept_states(self.store, self.rows, which)

    def column(self, name: str) -> np.ndarray:
        """One field of the metrics, [S, U], without reading the others."""
        return self.store.column(name, self.rows)

    @property
    def timesteps(self) -> np.ndarray:
        """Environment steps of a seed after each update, [U]. In `metrics`, a diverged seed's steps stop increasing."""
        return (1 + np.arange(self.agent.config.num_updates)) * self.agent.config.batch_size

    @functools.cached_property
    def diverged_at(self) -> np.ndarray:
        """The index of each seed's first update that was not finite, [S] int32; -1 for a seed that has not diverged."""
        return first_standstill(self.column("timesteps"), self.timesteps)

    def final_returns(self, score: str | None = None) -> np.ndarray:
        """The final return of each seed, [S]: the mean over its greedy episodes, or over its last training episodes.

        Without greedy episodes (`evaluation_episodes`), it is the mean over the episodes that ended in the last tenth
        of the updates. A diverged seed has the return of its last good state.

        score: a column of the metrics to average instead, over the last tenth of the updates; for example
        "last_return_mean", in which every environment counts once.
        """
        if score is not None:
            column = self.column(score)
            return last_returns(column, np.isfinite(column).astype(np.int32))
        returns = self.store.returns(self.rows)
        if returns.shape[1]:
            return returns.mean(axis=1)
        return last_returns(self.column("episode_return_mean"), self.column("episodes"))

    @property
    def episodes_cut(self) -> np.ndarray:
        """The number of each seed's greedy episodes that reached the step limit before they ended, [S]."""
        return self.store.episodes_cut(self.rows)

    def best(self) -> int:
        """The seed with the highest final return. Raises PPOError if no seed has one."""
        return best_of(self.final_returns(), "seed")

    def area(self) -> float:
        """The mean training return over the run, IQM over seeds: the area under the learning curve, per step."""
        return iqm(self.areas())

    def areas(self, column: str = "episode_return_mean") -> np.ndarray:
        """The mean training return of each seed over the run, [S]: the area under its learning curve, per step.

        Pass it to `aggregate` for an interval.

        column: a column of the metrics; "last_return_mean" counts every environment equally.
        """
        return areas_under_curves(self.column(column))

    def profile(self, thresholds: np.ndarray | Sequence[float] | None = None) -> Profile:
        """The share of seeds whose final return is above each threshold; see `performance_profile`.

        Raises PPOError if a seed has no final return.
        """
        return performance_profile(self.final_returns(), thresholds)

    def percentiles(self, percents: Sequence[float] = PERCENTS, column: str = "episode_return_mean") -> np.ndarray:
        """Percentiles over seeds of a column of the metrics, at each update, [P, U]; see `percentile_curves`."""
        return percentile_curves(self.column(column), percents)

    def time_to(self, target: float, column: str | None = None) -> ThresholdTimes:
        """The environment steps at which seeds first reach a training return; a seed that never does is censored.

        column: a column of the metrics; by default "last_return_mean", or "episode_return_mean" of an agent that does
        not report it.
        """
        returns = self.column("last_return_mean" if column is None else column)
        if column is None and np.isnan(returns).all():
            returns = self.column("episode_return_mean")
        return threshold_times(*first_passages(returns, self.timesteps, target, self.diverged_at))

    def aggregate(self, target: float | None = None) -> Aggregates:
        """IQM, mean, median and optimality gap of the final returns, with 95% intervals."""
        return aggregate(self.final_returns(), target=target)

    def to_dataframe(self) -> "DataFrame":
        """A pandas DataFrame with one row per seed and update."""
        import pandas

        num_updates = self.metrics.updates.shape[1]
        seed, update = np.divmod(np.arange(self.num_seeds * num_updates), num_updates)
        columns = {name: np.asarray(self.metrics.column(name)).ravel() for name in self.metrics.columns()}
        return pandas.DataFrame({"seed": seed, "update": update + 1, **columns})


class Ranked(NamedTuple):
    """A setting in the table of a sweep."""

    setting: int
    point: Point
    iqm: Interval  # of the final returns of its seeds
    num_seeds: int  # seeds that have a final return
    num_diverged: int = 0  # diverged seeds; they count with their last good state
    area: float = math.nan  # under the learning curve, per step: the mean training return
    ties: bool = False  # True if its interval overlaps that of the highest IQM, and it is not alone in that


@dataclasses.dataclass(frozen=True, repr=False)
class Sweep:
    """The populations of several settings, each with the same seeds. `sweep[i]` is the population of setting i."""

    points: tuple[Point, ...]  # the values that each setting changes, by name
    populations: tuple[Population, ...]
    tested: Population | None = None  # the best setting, trained again on the test seeds

    def __repr__(self) -> str:
        names = ", ".join({name: None for point in self.points for name in point})
        return f"Sweep(env={self[0].agent.env.name}, settings={len(self)}, seeds={self[0].num_seeds}, over=[{names}])"

    def __len__(self) -> int:
        return len(self.populations)

    def __getitem__(self, setting: int) -> Population:
        return self.populations[setting]

    def __iter__(self) -> Iterator[Population]:
        return iter(self.populations)

    @property
    def metrics(self) -> Metrics:
        """The metrics, [settings, S, U]. Raises PPOError if settings differ in updates, or in steps per update."""
        for what, name in (("updates", "num_updates"), ("steps of an update", "batch_size")):
            numbers = {getattr(population.agent.config, name) for population in self}
            if len(numbers) > 1:
                raise PPOError(
                    f"the settings have {min(numbers)} to {max(numbers)} {what}, which do not fit one array; "
                    "read the metrics of each setting, sweep[i].metrics"
                )
        return jax.tree.map(lambda *x: np.stack(x), *(population.metrics for population in self))

    def final_returns(self, score: str | None = None) -> np.ndarray:
        """The final return of each seed, [settings, S]; see `Population.final_returns`."""
        return np.stack([population.final_returns(score) for population in self])

    def best(self, score: str | None = None) -> int:
        """The index of the best setting, the first in `table`. Raises PPOError if no seed has a final return."""
        first = self.table(score)[0]
        best_of([first.iqm.estimate], "setting")
        return first.setting

    def selection(self) -> Selection | None:
        """The score of the best setting on the tuning seeds and on the test seeds; None without test seeds."""
        if self.tested is None:
            return None
        best = self.best()
        return select(best, self[best].final_returns(), self.tested.final_returns())

    def table(self, score: str | None = None) -> list[Ranked]:
        """The settings, best first, each with the IQM of its final returns and its 95% interval.

        Settings whose interval overlaps that of the highest IQM tie with it and come first, ordered by `area`. The rest
        are ordered by IQM.

        score: as in `Population.final_returns`.
        """
        rows = rank(self.points, self.final_returns(score))
        for i, population in enumerate(self):
            rows[i] = rows[i]._replace(num_diverged=count_diverged(population), area=population.area())
        return sort_ranked(rows)

    def to_dataframe(self) -> "DataFrame":
        """A pandas DataFrame with one row per setting, seed and update; the point is in columns "setting.NAME"."""
        import pandas

        frames = [population.to_dataframe() for population in self]
        for i, (frame, point) in enumerate(zip(frames, self.points, strict=True)):
            frame["setting"] = i
            for name, value in point.items():
                frame[f"setting.{name}"] = [value] * len(frame)  # which may be a tuple
        return pandas.concat(frames, ignore_index=True)


def first_standstill(timesteps: np.ndarray, expected: np.ndarray) -> np.ndarray:
    """The first update after which a seed has fewer steps than expected; -1 without one. [S, U], [U] -> [S] int32

    The steps of a diverged seed stand still, so the metrics tell which seeds have diverged.
    """
    behind = timesteps < expected
    return np.where(behind.any(axis=1), behind.argmax(axis=1), -1).astype(np.int32)


def count_diverged(population: Population) -> int:
    """The number of seeds that have diverged."""
    return int(np.sum(population.diverged_at >= 0))


def rank(points: Sequence[Point], scores: np.ndarray) -> list[Ranked]:
    """Each setting with the IQM of the scores that are finite. scores: [settings, S]"""
    return [
        Ranked(i, point, iqm_interval(row), int(np.isfinite(row).sum()))
        for i, (point, row) in enumerate(zip(points, scores, strict=True))
    ]


def sort_ranked(rows: list[Ranked]) -> list[Ranked]:
    """Sorts the rows as `Sweep.table` does; settings without a score come last."""
    rows = sorted(rows, key=lambda row: (math.isnan(row.iqm.estimate), -row.iqm.estimate))
    top = rows[0].iqm
    tied = [row for row in rows if row.iqm.estimate == top.estimate or row.iqm.high >= top.low]
    if len(tied) < 2:
        return rows
    by_area = sorted(tied, key=lambda row: (math.isnan(row.area), -row.area))
    return [row._replace(ties=True) for row in by_area] + [row for row in rows if row not in tied]


def best_of(scores: Any, what: str) -> int:
    """The index of the highest score, NaN left out."""
    scores = np.asarray(scores)
    if np.all(np.isnan(scores)):
        raise PPOError(f"no {what} has finished an episode in its last updates; train longer, or evaluate at the end")
    return int(np.nanargmax(scores))
