"""One setting for several environments: a sweep in each of them, and their scores on one scale."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Unpack

import numpy as np

from purejaxppo.envs import Environment, make_env
from purejaxppo.population.options import MakeAgent, PopulationOptions
from purejaxppo.population.results import Population, Sweep, best_of
from purejaxppo.population.statistics import Interval, aggregate, iqm
from purejaxppo.population.sweep import Point, check_whole, is_number
from purejaxppo.population.train import SweepOf, settle, train_sweep, train_test, warn_of_idle_cores
from purejaxppo.ppo.config import Config
from purejaxppo.utils.errors import PPOError
from purejaxppo.utils.validation import shown

Bounds = tuple[float, float]  # the returns that count as 0 and as 1


class CrossRanked(NamedTuple):
    """A setting in the table of several environments."""

    setting: int
    point: Point
    score: Interval  # IQM over seeds and environments of the scaled returns, seeds resampled within each environment


@dataclasses.dataclass(frozen=True)
class CrossSweep:
    """The sweeps of several environments, over the same settings and seeds."""

    sweeps: dict[str, Sweep]  # by the name of the environment
    bounds: dict[str, Bounds]  # by the name of the environment: the returns that count as 0 and as 1
    are_given: bool  # False: the bounds are the lowest and the highest IQM of the settings themselves
    tested: dict[str, Population] | None = None  # the best setting in each environment, trained again on the test seeds

    @property
    def points(self) -> tuple[Point, ...]:
        """The settings, which are the same in each environment."""
        return next(iter(self.sweeps.values())).points

    def scores(self) -> np.ndarray:
        """The scaled final returns, (return - low) / (high - low) with the bounds, [settings, S, environments].

        A return that is not finite counts as the low bound.
        """
        every = [self._scaled(name, sweep.final_returns()) for name, sweep in self.sweeps.items()]
        return np.stack(every, axis=-1)

    def table(self) -> list[CrossRanked]:
        """The settings, the best over all environments first."""
        rows = [
            CrossRanked(i, point, aggregate(scores).iqm)
            for i, (point, scores) in enumerate(zip(self.points, self.scores(), strict=True))
        ]
        return sorted(rows, key=lambda row: -row.score.estimate)

    def best(self) -> int:
        """The index of the best setting, the first in `table`."""
        return self.table()[0].setting

    def test_score(self) -> Interval | None:
        """The score of the best setting on the test seeds, computed as in `table`; None without test seeds.

        The score of this setting in `table` is biased upwards, because the setting was chosen by it; see `Selection`.
        """
        if self.tested is None:
            return None
        every = [self._scaled(name, population.final_returns()) for name, population in self.tested.items()]
        return aggregate(np.stack(every, axis=-1)).iqm

    def _scaled(self, name: str, returns: np.ndarray) -> np.ndarray:
        low, high = self.bounds[name]
        return (np.where(np.isfinite(returns), returns, low) - low) / (high - low)


def sweep_environments(
    envs: Sequence[str | Environment],
    config: Config,
    *,
    sweep: SweepOf,
    tune_seeds: int,
    bounds: Mapping[str, Bounds] | None = None,
    seed: int = 0,
    make_agent: MakeAgent | None = None,
    **options: Unpack[PopulationOptions],
) -> CrossSweep:
    """Compares settings over several environments, to find the one that is best over all of them.

    Runs a sweep in each environment (`train_population`). With `out`, each environment has its own subfolder, and an
    interrupted sweep continues. Returns are scaled by `bounds`, so that 0 and 1 mean the same everywhere. Without
    bounds, the scale of an environment runs from the lowest to the highest IQM of the settings themselves. It ranks
    these settings, but its scores cannot be compared with those of other sweeps.

    Args:
        envs: names, or environments made by `make_env`; at least two.
        config: the hyperparameters that the settings change.
        sweep: lists of values by name (a grid), or a list of points.
        tune_seeds: how many seeds each setting trains on in each environment.
        bounds: by the name of the environment, the returns that count as 0 and as 1, for example those of a random
            policy and of an expert.
        seed, make_agent, **options: as in `train_population`. With `test_seeds`, the setting that is best over all
            environments is trained again in each of them, on seeds that follow the tuning seeds.

    Returns:
        A `CrossSweep`, which holds a `Sweep` for each environment.

    Raises:
        PPOError: if the environments or bounds do not fit, and as `train_population` does.
    """
    made = {env.name: env for env in map(make_env, [envs] if isinstance(envs, str) else envs)}
    if len(made) < 2 or len(made) != len(envs):
        raise PPOError(f"envs = {shown(envs)} are not several different environments; give at least two")
    check_whole("tune_seeds", tune_seeds)
    check_bounds(list(made), bounds)
    warn_of_idle_cores()
    first = settle(next(iter(made.values())), config, tune_seeds, seed, make_agent, options)
    of_env = {name: first.within(name.replace("/", "-"))._replace(env=env) for name, env in made.items()}
    sweeps = {name: train_sweep(each.with_options(test_seeds=0), sweep) for name, each in of_env.items()}
    scale = dict(bounds) if bounds is not None else {name: range_of(name, found) for name, found in sweeps.items()}
    cross = CrossSweep(sweeps, scale, are_given=bounds is not None)
    if not first.options.test_seeds:
        return cross
    tested = {name: train_test(experiment, sweeps[name], cross.best()) for name, experiment in of_env.items()}
    return dataclasses.replace(cross, tested=tested)


def check_bounds(names: Sequence[str], bounds: Any) -> None:
    """Raises PPOError unless there are two numbers, low < high, for each of the environments."""
    if bounds is None:
        return
    if not isinstance(bounds, Mapping) or set(bounds) != set(names):
        raise PPOError(f"bounds = {shown(bounds)} are not those of {', '.join(names)}; give (low, high) for each")
    for name, pair in bounds.items():
        is_pair = isinstance(pair, tuple | list) and len(pair) == 2 and all(map(is_number, pair))
        if not is_pair or not pair[0] < pair[1]:
            raise PPOError(f"bounds of {name} = {shown(pair)} are not numbers low < high; give the returns of 0 and 1")


def range_of(name: str, sweep: Sweep) -> Bounds:
    """The least and the greatest IQM of the settings. Raises PPOError if they do not differ."""
    estimates = list(map(iqm, sweep.final_returns()))
    best_of(estimates, "setting")
    low, high = float(np.nanmin(estimates)), float(np.nanmax(estimates))
    if low == high:
        raise PPOError(f"all settings have the score {low:g} in {name}, which gives no scale; give bounds=")
    return low, high
