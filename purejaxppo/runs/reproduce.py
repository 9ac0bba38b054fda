"""Repeating a run from its folder, and comparing the two."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import jax
import numpy as np

from purejaxppo.population.results import Population
from purejaxppo.population.statistics import iqm_interval, with_interval
from purejaxppo.runs.folder import START
from purejaxppo.runs.load import open_results
from purejaxppo.runs.results import settings_of
from purejaxppo.runs.spec import EARLIER, RunSpec, load_spec
from purejaxppo.runs.summary import SUMMARY, is_finished
from purejaxppo.runs.train import Watched, train_watched
from purejaxppo.utils.errors import PPOError
from purejaxppo.utils.files import read_json, to_host
from purejaxppo.utils.suggest import plural

if TYPE_CHECKING:
    from purejaxppo.runs.console import View

ROUNDING = 1e-3  # a difference within rounding, relative to the largest number of the same array


class Difference(NamedTuple):
    """The largest difference between two arrays, relative to the largest number in the first."""

    name: str
    relative: float
    first_update: int | None  # of metrics: the first, from 1, in which they differ


class Comparison(NamedTuple):
    """How a repetition compares with its run."""

    differences: list[Difference]  # of the arrays that are not the same to the bit
    changed: dict[str, tuple[str, str]]  # what the two were made with, where that differs
    returns: list[tuple[np.ndarray, np.ndarray]]  # final returns [S] of each setting, of the run and of the repetition
    earlier: list[int]  # timesteps of the run before each time that it was extended

    @property
    def largest(self) -> Difference | None:
        """The largest difference; None if all is the same to the bit."""
        return max(self.differences, key=lambda one: one.relative, default=None)

    @property
    def is_same(self) -> bool:
        """True if nothing differs by more than rounding."""
        return self.largest is None or self.largest.relative <= ROUNDING


def check_repeatable(folder: Path) -> RunSpec:
    """The description of a run. Raises PPOError if it is not finished."""
    spec = load_spec(folder)
    if not is_finished(folder):
        raise PPOError(f"{str(folder)!r} is not finished; go on with purejaxppo train --resume {folder}")
    return spec


def repeat(spec: RunSpec, folder: Path, out: Path, view: "View", memory_limit: int | str | None = None) -> Comparison:
    """Trains the run of `folder` again in the empty folder `out`, and compares the two."""
    if spec.init_from is not None:
        shutil.copytree(folder / START, out / START)
    train_watched(spec, out, Watched(view, memory_limit=memory_limit))
    return compare(spec, folder, out)


def compare(spec: RunSpec, folder: Path, out: Path) -> Comparison:
    """Compares two folders of one run: metrics, final states, and greedy returns."""
    before, now = (settings_of(open_results(spec, place)) for place in (folder, out))
    arrays = zip(arrays_of(before), arrays_of(now), strict=True)
    differences = [difference(name, one, other) for (name, one), (_, other) in arrays]
    made_before, made_now = origin(folder), origin(out)
    made = {x: (made_before.get(x, "unknown"), made_now.get(x, "unknown")) for x in made_before | made_now}
    return Comparison(
        differences=[each for each in differences if each is not None],
        changed={name: pair for name, pair in made.items() if pair[0] != pair[1]},
        returns=[(one.final_returns(), other.final_returns()) for one, other in zip(before, now, strict=True)],
        earlier=read_json(folder / "config.json").get(EARLIER, []),
    )


def arrays_of(settings: list[Population]) -> Iterator[tuple[str, np.ndarray]]:
    """The results of all settings by name."""
    for i, population in enumerate(settings):
        place = f"setting {i}: " if len(settings) > 1 else ""
        for name in population.store.like.metrics.columns():
            yield f"{place}{name}", np.asarray(population.column(name))
        for path, x in jax.tree_util.tree_leaves_with_path(to_host(population.train_state)):
            yield f"{place}train_state{jax.tree_util.keystr(path)}", x
        yield f"{place}greedy returns", population.store.returns(population.rows)


def difference(name: str, one: np.ndarray, other: np.ndarray) -> Difference | None:
    """The largest difference of two arrays; None if they are the same to the bit."""
    if one.tobytes() == other.tobytes():
        return None
    is_metric = "train_state" not in name and one.ndim == 2 and not name.endswith("returns")
    first, second = one.astype(np.float64), other.astype(np.float64)
    differs = (first != second) & ~(np.isnan(first) & np.isnan(second))
    is_known = np.isfinite(first) & np.isfinite(second)
    gap = np.abs(np.where(is_known, first - second, 0.0)).max(initial=0.0)
    size = np.abs(np.where(is_known, first, 0.0)).max(initial=0.0)
    relative = np.inf if np.any(differs & ~is_known) else gap / size if size else gap
    updates = np.flatnonzero(differs.any(axis=0)) if is_metric else []
    return Difference(name, float(relative), int(updates[0]) + 1 if len(updates) else None)


def origin(folder: Path) -> dict[str, str]:
    """Versions, revision, code and devices of a run, by name."""
    config, summary = read_json(folder / "config.json"), read_json(folder / SUMMARY)
    found = {**config.get("versions", {}), **{f"code of {name}": x for name, x in config.get("code", {}).items()}}
    found |= {"git revision": config.get("git_revision"), "devices": summary.get("devices")}
    return {name: str(x) for name, x in found.items()}


def describe(comparison: Comparison) -> list[str]:
    """The lines that say how the repetition compares."""
    largest, lines = comparison.largest, []
    if largest is None:
        num_seeds = len(comparison.returns[0][0])
        lines.append(f"the same to the bit: metrics, final states and greedy returns of {plural(num_seeds, 'seed')}")
    else:
        said = "within rounding" if comparison.is_same else "not the same"
        size = f"{largest.relative:.2g} of" if largest.relative < np.inf else "between a number and none, in"
        lines.append(f"{said}: the largest difference is {size} {largest.name}")
    updates = [(one.first_update, one.name) for one in comparison.differences if one.first_update is not None]
    if updates:
        first, name = min(updates, key=lambda update: update[0])
        lines.append(f"the first update that differs is {first}, in {name}")
    for i, pair in enumerate(() if comparison.is_same else comparison.returns):
        place = f"setting {i}: " if len(comparison.returns) > 1 else ""
        before, now = (with_interval(*iqm_interval(returns)) for returns in pair)
        lines.append(f"{place}final return, IQM: {before} in the run, {now} now")
    if comparison.earlier and not comparison.is_same:
        lines.append(
            f"the run was extended from {comparison.earlier[0]} timesteps, and until then followed the schedules of "
            "that length"
        )
    lines += [f"{name}: {before} in the run, {now} now" for name, (before, now) in comparison.changed.items()]
    if not comparison.changed and largest is not None:
        lines.append("versions, revision, code and devices are those of the run")
    return lines
