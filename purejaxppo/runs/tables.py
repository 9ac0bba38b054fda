"""The tables that a run or a sweep ends with, as rows of text."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from purejaxppo.population.results import Ranked
from purejaxppo.population.statistics import decimals_of, interval_text, show_return, with_interval
from purejaxppo.population.sweep import show_point, show_value
from purejaxppo.ppo.evaluate import MAX_STEPS
from purejaxppo.runs.results import EVALUATION_EPISODES, FinishedRun, FinishedSweep

MOST_NAMED = 8  # diverged runs that a line names


def table(finished: FinishedRun, folder: Path) -> dict[str, str]:
    """The table that a run ends with."""
    summary = finished.summary
    iqm = (summary[f"final_return_iqm{part}"] for part in ("", "_95_low", "_95_high"))
    rows = {f"{return_name(summary)}, IQM": with_interval(*iqm)}
    if summary["solved_at"] is not None:
        episodes = summary["evaluation_episodes"]
        what = f"mean of {episodes} episodes" if episodes else return_name(summary)
        bar = f"{what} >= {summary['solved_at']:g}"
        rows["seeds solved"] = f"{summary['seeds_solved']} of {summary['num_seeds']}  ({bar})"
    rows |= cut_rows(summary.get("evaluation_episodes_cut"), summary["evaluation_episodes"] * summary["num_seeds"])
    if summary["diverged"]:
        first = min(update for update in summary["diverged_at"] if update is not None)
        rows["seeds diverged"] = f"{summary['diverged']} of {summary['num_seeds']}  (the first after {first} updates)"
    return rows | speed_rows(summary) | {"run folder": str(folder)}


def return_name(summary: Mapping[str, Any]) -> str:
    """The name of the returns that seeds are compared by: a population without greedy episodes has those of training.

    Summaries of sweeps from earlier versions do not say; they are always of greedy episodes.
    """
    return "final greedy return" if summary.get("evaluation_episodes", 1) else "final training return"


def cut_rows(num_cut: int | None, num_episodes: int) -> dict[str, str]:
    """A row with the number of evaluation episodes that were cut; no row if there are none, or if it is unknown."""
    if not num_cut:
        return {}
    text = f"{num_cut:,} of {num_episodes:,}  (had not ended after {MAX_STEPS:,} steps; their returns stop there)"
    return {"episodes cut": text}


def sweep_table(finished: FinishedSweep, folder: Path) -> dict[str, str]:
    """The table that a sweep ends with, below the table of its settings."""
    summary = finished.summary
    num_episodes = summary.get("evaluation_episodes", EVALUATION_EPISODES) * summary["num_seeds"] * len(finished.sweep)
    cut = cut_rows(summary.get("evaluation_episodes_cut"), num_episodes)
    return (
        best_rows(finished.sweep.table(), return_name(summary))
        | cut
        | speed_rows(summary)
        | {"sweep folder": str(folder)}
    )


def best_rows(rows: list[Ranked], name: str = "final greedy return") -> dict[str, str]:
    """The best setting of a sweep, and how many others tie with it. rows: its table; name: of the returns in it"""
    best = rows[0]
    found = {"best setting": show_point(best.point), f"its {name}, IQM": with_interval(*best.iqm)}
    if best.ties:
        others = sum(row.ties for row in rows) - 1
        is_largest = not (math.isnan(best.area) or best.area == rows[1].area)
        found["it ties with"] = f"{others} other setting{'' if others == 1 else 's'}: the 95% intervals overlap; " + (
            "it has the largest area under the training curve" if is_largest else "no training return tells them apart"
        )
    return found


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
    digits = [decimals_of(*row.iqm) for row in rows]
    columns = {
        f"{return_name(finished.summary)}, IQM": [
            f"{row.iqm.estimate:.{n}f}" for row, n in zip(rows, digits, strict=True)
        ],
        "95% interval": [interval_text(*row.iqm[1:], n) for row, n in zip(rows, digits, strict=True)],
        "mean training return": [show_return(row.area) for row in rows],
    }
    if rows[0].ties:
        columns["ties"] = ["yes" if row.ties else "" for row in rows]
    if any(row.num_diverged for row in rows):
        columns["diverged"] = [str(row.num_diverged) for row in rows]
    shown = [
        [*(show_value(row.point.get(name)) for name in names), *(texts[i] for texts in columns.values())]
        for i, row in enumerate(rows[:most])
    ]
    return [[*names, *columns], *shown]


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
