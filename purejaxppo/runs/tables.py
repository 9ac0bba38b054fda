"""The tables that a run or a sweep ends with, as rows of text."""

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from purejaxppo.population.results import Ranked
from purejaxppo.population.statistics import Selection, decimals_of, interval_text, show_return, with_interval
from purejaxppo.population.sweep import show_point, show_value
from purejaxppo.ppo.evaluate import MAX_STEPS
from purejaxppo.runs.results import Finished, FinishedSweep, LoadedRun

MOST_NAMED = 8  # diverged runs that a line names


def table(finished: Finished, folder: Path) -> dict[str, str]:
    """The table that a run ends with, or a sweep below the table of its settings."""
    return run_table(finished, folder) if isinstance(finished, LoadedRun) else sweep_table(finished, folder)


def run_table(finished: LoadedRun, folder: Path) -> dict[str, str]:
    """The table that a run ends with."""
    summary, num_seeds = finished.summary, finished.summary["num_seeds"]
    iqm = (summary[f"final_return_iqm{part}"] for part in ("", "_95_low", "_95_high"))
    rows = {f"{return_name(summary)}, IQM": with_interval(*iqm)}
    if summary["solved_at"] is not None:
        episodes = summary["evaluation_episodes"]
        what = f"mean of {episodes} episodes" if episodes else return_name(summary)
        rows["seeds solved"] = f"{summary['seeds_solved']} of {num_seeds}  ({what} >= {summary['solved_at']:g})"
    rows |= cut_rows(summary["evaluation_episodes_cut"], summary["evaluation_episodes"] * num_seeds)
    if summary["diverged"]:
        first = min(update for update in summary["diverged_at"] if update is not None)
        rows["seeds diverged"] = f"{summary['diverged']} of {num_seeds}  (the first after {first} updates)"
    return rows | speed_rows(summary) | {"run folder": str(folder)}


def distribution_rows(summary: Mapping[str, Any]) -> dict[str, str]:
    """The rows about the distribution of the seeds of a run, as far as its summary has them."""
    rows = {}
    if summary.get("area_iqm") is not None:
        low, high = (math.nan if x is None else x for x in (summary[f"area_iqm_95_{end}"] for end in ("low", "high")))
        rows["mean training return, IQM"] = with_interval(summary["area_iqm"], low, high)
    if summary.get("percentiles_of_final_return"):
        texts = [f"{show_return(value)} ({name}%)" for name, value in summary["percentiles_of_final_return"].items()]
        rows[f"{return_name(summary)}, percentiles of seeds"] = ", ".join(texts)
    if summary.get("seeds_reached") is not None:
        steps = {name: summary[f"steps_to_solved{name}"] for name in ("", "_95_low", "_95_high")}
        median, low, high = ("not known" if x is None else f"{x:,.0f}" for x in steps.values())
        rows[f"steps until half of the seeds reach {summary['solved_at']:g}"] = (
            f"{median}  (95% interval {low} to {high}; {summary['seeds_reached']} of {summary['num_seeds']} reached it)"
        )
    return rows


def return_name(summary: Mapping[str, Any]) -> str:
    """The name of the returns that seeds are compared by: without greedy episodes, those of training."""
    return "final greedy return" if summary.get("evaluation_episodes", 1) else "final training return"


def cut_rows(num_cut: int, num_episodes: int) -> dict[str, str]:
    """A row with the number of evaluation episodes that were cut; no row if there are none."""
    text = f"{num_cut:,} of {num_episodes:,}  (had not ended after {MAX_STEPS:,} steps; their returns stop there)"
    return {"episodes cut": text} if num_cut else {}


def sweep_table(finished: FinishedSweep, folder: Path) -> dict[str, str]:
    """The table that a sweep ends with, below the table of its settings."""
    summary = finished.summary
    num_episodes = summary["evaluation_episodes"] * summary["num_seeds"] * len(finished.sweep)
    return {
        **best_rows(finished.sweep.table(), return_name(summary), finished.sweep.selection()),
        **cut_rows(summary["evaluation_episodes_cut"], num_episodes),
        **speed_rows(summary),
        "sweep folder": str(folder),
    }


def best_rows(
    rows: list[Ranked], name: str = "final greedy return", selection: Selection | None = None
) -> dict[str, str]:
    """The best setting of a sweep, how many others tie with it, and its returns, with those on test seeds if there are.

    rows: the table of the sweep; name: of the returns in it
    """
    best = rows[0]
    found = {"best setting": show_point(best.point)}
    if best.ties:
        others = sum(row.ties for row in rows) - 1
        is_largest = not (math.isnan(best.area) or best.area == rows[1].area)
        found["it ties with"] = f"{others} other setting{'' if others == 1 else 's'}: the 95% intervals overlap; " + (
            "it has the largest area under the training curve" if is_largest else "no training return tells them apart"
        )
    if selection is None:
        return {**found, f"its {name}, IQM": with_interval(*best.iqm)}
    return {
        **found,
        f"its {name}, IQM": f"{with_interval(*selection.tuning)} on the {selection.tune_seeds} tuning seeds",
        "the same on fresh seeds": f"{with_interval(*selection.test)} on {selection.test_seeds} test seeds",
        "selection bias": f"{with_interval(*selection.bias)}, tuning minus test",
    }


def speed_rows(summary: dict[str, Any]) -> dict[str, str]:
    """The seconds that a run took, and its speed."""
    speed = summary["env_steps_per_second"]
    return {
        "seconds to compile": f"{summary['compile_seconds']:.1f}",
        "seconds to train": f"{summary['train_seconds']:.1f}",
        "env-steps per second": "nothing was left to train" if speed is None else f"{speed:,.0f}",
    }


def sweep_rows(finished: FinishedSweep, most: int = 20) -> list[list[str]]:
    """The settings of a sweep as a table with a head: at most `most` of them, the best first.

    It has the column "diverged" if seeds did, and "ties" if settings tie with the best.
    """
    rows = finished.sweep.table()
    names = list({name: None for row in rows for name in row.point})
    columns: dict[str, Callable[[Ranked], str]] = {
        **{name: lambda row, name=name: show_value(row.point.get(name)) for name in names},
        f"{return_name(finished.summary)}, IQM": lambda row: f"{row.iqm.estimate:.{decimals_of(*row.iqm)}f}",
        "95% interval": lambda row: interval_text(*row.iqm[1:], decimals_of(*row.iqm)),
        "mean training return": lambda row: show_return(row.area),
    }
    if rows[0].ties:
        columns["ties"] = lambda row: "yes" if row.ties else ""
    if any(row.num_diverged for row in rows):
        columns["diverged"] = lambda row: str(row.num_diverged)
    return [list(columns), *([show(row) for show in columns.values()] for row in rows[:most])]


def describe_divergence(summary: dict[str, Any]) -> str:
    """A line for people about a run or a sweep: how many runs have diverged, and which."""
    if "best_setting" in summary:
        rows = enumerate(summary["diverged_at"])
        named = {f"setting {i} seed {j}": update for i, row in rows for j, update in enumerate(row)}
    else:
        named = {f"seed {i}": update for i, update in enumerate(summary["diverged_at"])}
    found = [f"{name} after {update} updates" for name, update in named.items() if update is not None]
    more = ", ..." if len(found) > MOST_NAMED else ""
    return f"{len(found)} of {len(named)} runs diverged: {', '.join(found[:MOST_NAMED])}{more}"
