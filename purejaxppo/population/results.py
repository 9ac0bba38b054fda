"""What a population leaves: seeds of one setting, and settings beside each other."""

import dataclasses
import functools
import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import numpy as np

from purejaxppo.population.memory import MemoryPlan
from purejaxppo.population.restore import KeptStates, kept_states
from purejaxppo.population.statistics import Aggregates, Interval, aggregate, area_under_curve, last_returns
from purejaxppo.population.store import Rows, Store
from purejaxppo.population.sweep import Point
from purejaxppo.ppo.evaluate import Agent
from purejaxppo.ppo.types import Metrics, RunnerState, TrainState
from purejaxppo.utils.errors import PPOError
from purejaxppo.utils.validation import is_index, shown

if TYPE_CHECKING:
    from pandas import DataFrame


class Costs(NamedTuple):
    """What the program of a setting took, for all settings that it served."""

    compile_seconds: float
    train_seconds: float  # compilation and evaluation left out
    timesteps: int  # of training, over all members
    plan: MemoryPlan | None  # None where nothing was left to train


@dataclasses.dataclass(frozen=True)
class Population:
    """The seeds of one setting, trained. Results that were written to disk are read when they are asked for."""

    agent: Agent
    point: Point  # what differs from the base setting
    store: Store
    rows: Rows  # of the store
    costs: Costs

    @property
    def num_seeds(self) -> int:
        """S."""
        return self.rows[1] - self.rows[0]

    @functools.cached_property
    def metrics(self) -> Metrics:
        """[S, U], on the host."""
        return self.store.metrics(self.rows)

    @functools.cached_property
    def runners(self) -> RunnerState:
        """The final states, [S, ...], on the host."""
        return self.store.runners(self.rows)

    @property
    def train_state(self) -> TrainState:
        """[S, ...]"""
        return self.runners.train_state

    @property
    def compile_seconds(self) -> float:
        """Of the program that trained it."""
        return self.costs.compile_seconds

    @property
    def train_seconds(self) -> float:
        """Of the program that trained it, compilation left out."""
        return self.costs.train_seconds

    def seed(self, i: int) -> RunnerState:
        """The final state of seed i, ready to act and evaluate; `agent.continue_from` trains it on with a new schedule.

        Raises PPOError where there is none.
        """
        if not is_index(i, self.num_seeds):
            raise PPOError(
                f"seed {shown(i)} is not among the {self.num_seeds} of this population; take 0 to {self.num_seeds - 1}"
            )
        row = self.rows[0] + i
        return jax.tree.map(lambda x: x[0], self.store.runners((row, row + 1)))

    def checkpoint(self, which: str | int = "newest") -> KeptStates:
        """The states that were kept: "newest", each seed's "best" (`keep_best`), or those after `which` updates.

        Of a population that is not finished they are those of the seeds that have got so far. Raises PPOError where
        there are none.
        """
        return kept_states(self.store, self.rows, which)

    def column(self, name: str) -> np.ndarray:
        """One field of the metrics, [S, U], without reading the others."""
        return self.store.column(name, self.rows)

    @property
    def timesteps(self) -> np.ndarray:
        """Environment steps of a seed after each update, [U]; in `metrics` those of a diverged seed stand still."""
        return (1 + np.arange(self.agent.config.num_updates)) * self.agent.config.batch_size

    @functools.cached_property
    def diverged_at(self) -> np.ndarray:
        """The index of each seed's update that was not finite, [S] int32; -1 where there was none."""
        return first_standstill(self.column("timesteps"), self.timesteps)

    def final_returns(self) -> np.ndarray:
        """How good each seed became, [S]: the mean of its greedy episodes, or without any of its last in training.

        A diverged seed has the return of its last good state.
        """
        returns = self.store.returns(self.rows)
        if returns.shape[1]:
            return returns.mean(axis=1)
        return last_returns(self.column("episode_return_mean"), self.column("episodes"))

    @property
    def episodes_cut(self) -> np.ndarray | None:
        """How many of each seed's greedy episodes were cut before their end, by the most steps of `evaluate`, [S].

        None where the results are of an older version, which did not keep it.
        """
        return self.store.episodes_cut(self.rows)

    def best(self) -> int:
        """The seed with the highest final return. Raises PPOError where none has one."""
        return best_of(self.final_returns(), "seed")

    def area(self) -> float:
        """The area under the learning curve, per step: the mean training return over the run, IQM over seeds."""
        return area_under_curve(self.column("episode_return_mean"))

    def aggregate(self, target: float | None = None) -> Aggregates:
        """IQM, mean, median and optimality gap of the final returns, with 95% intervals."""
        return aggregate(self.final_returns(), target=target)

    def to_dataframe(self) -> "DataFrame":
        """A pandas DataFrame with a row for each seed and update."""
        import pandas

        num_updates = self.metrics.updates.shape[1]
        seed, update = np.divmod(np.arange(self.num_seeds * num_updates), num_updates)
        columns = {name: np.asarray(self.metrics.column(name)).ravel() for name in self.metrics.columns()}
        return pandas.DataFrame({"seed": seed, "update": update + 1, **columns})


class Ranked(NamedTuple):
    """A setting in the table of a sweep."""

    setting: int
    point: Point
    iqm: Interval  # of its seeds' final returns
    num_seeds: int  # that have one
    num_diverged: int = 0  # of its seeds; they count with their last good state
    area: float = math.nan  # under its learning curve, per step: the mean training return
    ties: bool = False  # its interval overlaps that of the greatest IQM, as does another's


@dataclasses.dataclass(frozen=True)
class Sweep:
    """Settings beside each other, each with the same seeds."""

    points: tuple[Point, ...]
    populations: tuple[Population, ...]

    def __len__(self) -> int:
        return len(self.populations)

    def __getitem__(self, setting: int) -> Population:
        return self.populations[setting]

    def __iter__(self) -> Iterator[Population]:
        return iter(self.populations)

    @property
    def metrics(self) -> Metrics:
        """[settings, S, U]. Raises PPOError where the settings differ in their updates, or in the steps of one."""
        check_equal("updates", [population.agent.config.num_updates for population in self])
        check_equal("steps of an update", [population.agent.config.batch_size for population in self])
        return jax.tree.map(lambda *x: np.stack(x), *(population.metrics for population in self))

    def final_returns(self) -> np.ndarray:
        """How good each seed of each setting became, [settings, S]."""
        return np.stack([population.final_returns() for population in self])

    def best(self) -> int:
        """The first setting of the table. Raises PPOError where no seed has a final return."""
        first = self.table()[0]
        best_of([first.iqm.estimate], "setting")
        return first.setting

    def table(self) -> list[Ranked]:
        """The settings, the best first, each with the IQM of its final returns and its 95% interval.

        Those whose intervals overlap that of the greatest IQM tie with it: `area` orders them, and IQM the others.
        """
        ranked = rank(self.points, self.final_returns())
        return sort_ranked(
            [
                row._replace(num_diverged=count_diverged(population), area=population.area())
                for row, population in zip(ranked, self, strict=True)
            ]
        )

    def to_dataframe(self) -> "DataFrame":
        """A pandas DataFrame with a row for each setting, seed and update; the point in columns "setting.NAME"."""
        import pandas

        frames = [
            population.to_dataframe().assign(setting=i, **{f"setting.{name}": [x] * n for name, x in point.items()})
            for i, (point, population) in enumerate(zip(self.points, self.populations, strict=True))
            for n in [population.metrics.updates.size]
        ]
        return pandas.concat(frames, ignore_index=True)


def first_standstill(timesteps: np.ndarray, expected: np.ndarray) -> np.ndarray:
    """The first update after which a seed has fewer steps than expected; -1 without one. [S, U], [U] -> [S] int32

    A diverged seed takes no further step that counts: so what diverged is known without the states.
    """
    behind = timesteps < expected
    return np.where(behind.any(axis=1), behind.argmax(axis=1), -1).astype(np.int32)


def count_diverged(population: Population) -> int:
    """How many of its seeds have diverged."""
    return int(np.sum(population.diverged_at >= 0))


def rank(points: Sequence[Point], scores: np.ndarray) -> list[Ranked]:
    """Each setting with the IQM over those of its seeds that have a score. scores: [settings, S]"""
    rows = []
    for i, (point, row) in enumerate(zip(points, scores, strict=True)):
        known = row[np.isfinite(row)]
        nothing = Interval(float("nan"), float("nan"), float("nan"))
        rows.append(Ranked(i, point, aggregate(known).iqm if known.size else nothing, int(known.size)))
    return rows


def sort_ranked(rows: list[Ranked]) -> list[Ranked]:
    """The best first, as `Sweep.table` says; settings without a score last."""
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


def check_equal(what: str, numbers: Sequence[int]) -> None:
    """Raises PPOError unless all settings have the same number. `what` names it in the message."""
    if len(set(numbers)) > 1:
        raise PPOError(
            f"the settings have {min(numbers)} to {max(numbers)} {what}, which fit no one array; "
            "read the metrics of each, sweep[i].metrics"
        )
