"""The progress of a run: a live view in a terminal, plain lines elsewhere, or JSON lines; and the table at the end."""

import json
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from time import monotonic
from typing import Any

import numpy as np
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn
from rich.table import Table
from rich.text import Text

from purejaxppo.population.logs import named, numbers_of
from purejaxppo.population.options import Progress as TrainProgress
from purejaxppo.population.statistics import iqm, show_return
from purejaxppo.population.store import Rows
from purejaxppo.ppo.types import Metrics
from purejaxppo.runs.spec import RunSpec
from purejaxppo.utils.files import finite

_UPDATE_SEEDS = 256  # with more, not all may train at once, and updates do not have one line each
_BARS = "▁▂▃▄▅▆▇█"
_LINES = 10  # printed during a run without a terminal


class ProgressView(AbstractContextManager):
    """Shows percent, environment steps, speed and time left of each chunk; in a terminal also the seeds."""

    def __init__(self, console: Console, *, num_members: int, is_sweep: bool = False) -> None:
        self._console = console
        self._num_members = num_members  # of all chunks
        self._is_sweep = is_sweep
        self._lines = 0
        self._mean_return = float("nan")
        self._diverged: dict[Rows, int] = {}  # of each chunk
        self._members: Rows = (0, 0)  # of the chunk in training
        self._latest = np.zeros(0)  # the newest return of each of them
        self._course: list[float] = []  # the IQM of these so far
        self._bar = Progress(
            SpinnerColumn(finished_text=""),
            TextColumn("{task.percentage:>3.0f}%"),
            BarColumn(bar_width=20),
            TextColumn("{task.description}"),
        )
        self._task = self._bar.add_task("", total=1.0)
        self._told_at = monotonic()
        self._stage = "compiling"  # until the first report
        self._speed: tuple[str, float] | None = None  # told at that time, with the seconds that were left
        self._below = ""
        self._live = Live(get_renderable=self._show, console=console, refresh_per_second=8)
        self._is_live = console.is_terminal and not console.is_dumb_terminal

    def __enter__(self) -> "ProgressView":
        self._told_at = monotonic()
        if self._is_live:
            self._live.start()
        return self

    def __exit__(self, *_: Any) -> None:
        if self._is_live:
            self._live.stop()

    def __call__(self, progress: TrainProgress) -> None:
        """Shows a report of the training."""
        share = progress.timesteps / progress.total_timesteps
        returns = np.asarray(progress.metrics.episode_return_mean)
        self._mean_return = latest_mean_return(returns, self._mean_return)
        self._diverged[progress.members] = count_diverged(progress)
        num_diverged = sum(self._diverged.values())
        if self._is_live:
            self._note(progress.members, returns)
            self._bar.update(self._task, completed=share)
            self._speed, self._told_at = (describe_speed(progress), seconds_left(progress)), monotonic()
            self._below = describe_members(self._latest, self._course, progress.members, num_diverged, self._is_sweep)
        elif share * _LINES >= self._lines + 1:
            self._lines = int(share * _LINES)
            first, last = progress.members
            of = "" if last - first == self._num_members else f" of {name_members(progress.members, self._is_sweep)}"
            line = describe_progress(progress, of, self._mean_return, num_diverged)
            print_line(self._console, f"{share:>4.0%}  {line}")

    def begin(self, plan: str, config: dict[str, Any]) -> None:
        """Shows what is about to run."""
        self.say(plan)

    def say(self, text: str) -> None:
        """Prints a line above the bar."""
        print_line(self._console, text)

    def planned(self, text: str) -> None:
        """Says how the compiled program is about to run. There is no speed to show until its first report."""
        self._stage, self._told_at = "training", monotonic()
        self.say(text)

    def resume(self, text: str) -> None:
        """Says where the run goes on."""
        self.say(text)

    def end(self, summary: dict[str, Any], folder: Path) -> None:
        """Does nothing: the progress has been printed."""

    def _note(self, members: Rows, returns: np.ndarray) -> None:
        if members != self._members:
            self._members, self._latest, self._course = members, np.full(len(returns), np.nan), []
        for column in returns.T:
            self._latest = np.where(np.isnan(column), self._latest, column)
        known = self._latest[np.isfinite(self._latest)]
        if known.size:
            self._course.append(iqm(known))

    def _show(self) -> RenderableType:
        """The current view, drawn several times a second."""
        description = describe_now(self._speed, monotonic() - self._told_at, self._stage)
        self._bar.update(self._task, description=description)
        return Group(self._bar, Text(self._below, overflow="ellipsis", no_wrap=True))


class JsonView(AbstractContextManager):
    """Prints JSON, one object per line: the run, its newest update at each report, and the summary."""

    def __init__(self, names: str) -> None:
        self._names = names

    def __exit__(self, *_: Any) -> None:
        pass

    def begin(self, plan: str, config: dict[str, Any]) -> None:
        """Prints the content of config.json."""
        self.tell("begin", config)

    def say(self, text: str) -> None:
        """Prints a text for people."""
        self.tell("note", {"text": text})

    def planned(self, text: str) -> None:
        """Says how the compiled program is about to run."""
        self.say(text)

    def resume(self, text: str) -> None:
        """Says where the run goes on."""
        self.say(text)

    def end(self, summary: dict[str, Any], folder: Path) -> None:
        """Prints the content of summary.json and the run folder."""
        self.tell("summary", summary | {"folder": str(folder)})

    def __call__(self, progress: TrainProgress) -> None:
        """Shows a report of the training."""
        newest = numbers_of(progress, progress.metrics.updates.shape[1] - 1)
        done = {"share": progress.timesteps / progress.total_timesteps, "updates": progress.updates}
        self.tell("progress", done | named(newest, self._names))

    def tell(self, event: str, content: dict[str, Any]) -> None:
        """Prints one line at once."""
        print(json.dumps({"event": event, **finite(content)}, allow_nan=False), flush=True)


class UpdateView(AbstractContextManager):
    """Prints one line for each update, in the algorithm's own words."""

    def __init__(self, console: Console, describe_update: Callable[[Metrics, int, int], str]) -> None:
        self._console = console
        self._describe_update = describe_update

    def __exit__(self, *_: Any) -> None:
        pass

    def begin(self, plan: str, config: dict[str, Any]) -> None:
        """Shows what is about to run."""
        print_line(self._console, plan)

    def say(self, text: str) -> None:
        """Does nothing: only updates have lines."""

    def planned(self, text: str) -> None:
        """Does nothing: only updates have lines."""

    def resume(self, text: str) -> None:
        """Says where the run goes on."""
        self._console.print(text, highlight=False, soft_wrap=True)

    def end(self, summary: dict[str, Any], folder: Path) -> None:
        """Does nothing: the progress has been printed."""

    def __call__(self, progress: TrainProgress) -> None:
        """Shows a report of the training."""
        num_updates = progress.metrics.updates.shape[1]
        for i in range(num_updates):
            print_line(
                self._console, self._describe_update(progress.metrics, i, progress.updates - num_updates + i + 1)
            )


def make_view(console: Console, spec: RunSpec) -> ProgressView | UpdateView:
    """The view of a run: the algorithm's own lines if it has some and all seeds train at once, otherwise a bar."""
    describe_update = spec.algorithm.describe_update
    if describe_update is not None and spec.sweep is None and spec.num_seeds <= _UPDATE_SEEDS:
        return UpdateView(console, describe_update)
    return ProgressView(console, num_members=spec.num_members, is_sweep=spec.sweep is not None)


def latest_mean_return(returns: np.ndarray, before: float) -> float:
    """The mean over seeds in the newest update with finished episodes; `before` if there is none. [S, U]"""
    for column in returns.T[::-1]:
        if not np.all(np.isnan(column)):
            return float(np.nanmean(column))
    return before


def count_diverged(progress: TrainProgress) -> int:
    """The number of members of the current chunk that have diverged, without padding."""
    first, last = progress.members
    return int(np.sum(np.asarray(progress.train_states.diverged_at)[: last - first] >= 0))


def name_members(members: Rows, is_sweep: bool) -> str:
    """Names the members of a chunk: "seeds 0 to 31", or of a sweep "runs 0 to 31"."""
    first, last = members
    what = "run" if is_sweep else "seed"
    return f"{what} {first}" if last - first == 1 else f"{what}s {first} to {last - 1}"


def describe_progress(progress: TrainProgress, of: str, mean_return: float, num_diverged: int) -> str:
    """One line of numbers. of: " of seeds 0 to 31", or "" for all members"""
    speed = progress.timesteps / progress.seconds
    left = clock(seconds_left(progress))
    diverged = f"  {num_diverged} diverged" if num_diverged else ""
    steps = f"{progress.timesteps:>11,} steps  {speed:>9,.0f} steps/s"
    return f"{steps}  training return{of} {show_return(mean_return):>7}  {left} left{diverged}"


def describe_speed(progress: TrainProgress) -> str:
    """The numbers beside the bar."""
    return f"{progress.timesteps:,} steps  {progress.timesteps / progress.seconds:,.0f} steps/s"


def seconds_left(progress: TrainProgress) -> float:
    """The time that the rest takes at the speed so far."""
    return progress.seconds * (progress.total_timesteps / progress.timesteps - 1)


def describe_now(speed: tuple[str, float] | None, seconds: float, stage: str) -> str:
    """The text beside the bar, some seconds after the start or the newest report.

    speed: a text with the seconds that were left then, None before the first report; stage: shown until then
    """
    if speed is None:
        return f"{stage}  {clock(seconds)}"
    text, left = speed
    return f"{text}  {clock(max(0.0, left - seconds))} left"


def describe_members(latest: np.ndarray, course: list[float], members: Rows, num_diverged: int, is_sweep: bool) -> str:
    """Two lines about the members in training: their IQM so far, the best and the worst. latest: [n], NaN if unknown"""
    first, last = members
    what = "run" if is_sweep else "seed"
    diverged = f"  {num_diverged} diverged" if num_diverged else ""
    if not course:
        return f"training return: no episode has ended yet{diverged}"
    if last - first == 1:
        return f"training return {show_return(course[-1])}  {spark(course)}{diverged}"
    best, worst = np.nanargmax(latest), np.nanargmin(latest)
    return (
        f"training return, IQM of {name_members(members, is_sweep)}  {show_return(course[-1])}  {spark(course)}"
        f"{diverged}\nbest {what} {first + best}: {show_return(latest[best])}   "
        f"worst {what} {first + worst}: {show_return(latest[worst])}"
    )


def spark(values: list[float], width: int = 24) -> str:
    """A line of bars for the newest `width` values, scaled to the range of all values.

    Equal values are drawn in the middle, because at the bottom they would look like the worst.
    """
    low, high = min(values), max(values)
    shares = [0.5 if high == low else (x - low) / (high - low) for x in values[-width:]]
    heights = [round(share * (len(_BARS) - 1)) for share in shares]
    return "".join(_BARS[height] for height in heights)


def clock(seconds: float) -> str:
    """m:ss, or h:mm:ss from an hour on."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def print_line(console: Console, text: str) -> None:
    """Prints plain text. A terminal wraps it between words; elsewhere a line stays one line."""
    console.print(text, highlight=False, markup=False, emoji=False, soft_wrap=not console.is_terminal)


def print_table(console: Console, rows: dict[str, str]) -> None:
    """Prints two columns without a frame. A terminal wraps cells that are too wide."""
    if not console.is_terminal:
        width = max(map(len, rows))
        print_line(console, "\n".join(f"{name:<{width}}  {value}" for name, value in rows.items()))
        return
    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    for _ in range(2):
        table.add_column(overflow="fold")
    for name, value in rows.items():
        table.add_row(Text(name), Text(value))
    console.print(table, highlight=False)


def print_rows(console: Console, rows: list[list[str]]) -> None:
    """Prints a table without a frame, whose first row is its head. A terminal wraps cells that are too wide."""
    if not console.is_terminal:
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        for first, *others in rows:
            cells = [f"{cell:>{width}}" for cell, width in zip(others, widths[1:], strict=True)]
            print_line(console, "  ".join([f"{first:<{widths[0]}}", *cells]).rstrip())
        return
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for i, name in enumerate(rows[0]):
        table.add_column(Text(name), justify="right" if i else "left", overflow="fold")
    for row in rows[1:]:
        table.add_row(*map(Text, row))
    console.print(table, highlight=False)
