"""The progress of a run: a live view in a terminal, plain lines elsewhere, or JSON lines; and the table at the end."""

import json
import math
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
from purejaxppo.population.statistics import carry_forward, finite_ones, iqm, show_return
from purejaxppo.population.store import Rows
from purejaxppo.ppo.types import Metrics
from purejaxppo.runs.spec import RunSpec
from purejaxppo.utils.files import finite

_UPDATE_SEEDS = 256  # with more, not all may train at once, and updates do not have one line each
_BARS = "▁▂▃▄▅▆▇█"
_LINES = 10  # printed during a run without a terminal


class View(AbstractContextManager):
    """Shows a run as it goes. This one prints what it is told in words."""

    def __init__(self, console: Console) -> None:
        self._console = console

    def __exit__(self, *_: Any) -> None:
        pass

    def __call__(self, progress: TrainProgress) -> None:
        """Shows a report of the training."""

    def begin(self, plan: str, config: dict[str, Any]) -> None:
        """Shows what is about to run. config: the content of config.json"""
        self.say(plan)

    def say(self, text: str) -> None:
        """Shows a text for people: a line above the bar."""
        print_line(self._console, text)

    def planned(self, text: str) -> None:
        """Says how the compiled program is about to run."""
        self.say(text)

    def end(self, summary: dict[str, Any], folder: Path) -> None:
        """Shows the content of summary.json."""


class ProgressView(View):
    """Shows percent, environment steps, speed and time left of each chunk; in a terminal also the seeds."""

    def __init__(self, console: Console, *, num_members: int, is_sweep: bool = False) -> None:
        super().__init__(console)
        self._num_members = num_members  # of all chunks
        self._is_sweep = is_sweep
        self._lines = 0
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
        speed, left = progress.timesteps / progress.seconds, progress.seconds * (1 / share - 1)
        self._note(progress)
        members, diverged = progress.members, sum(self._diverged.values())
        if self._is_live:
            self._bar.update(self._task, completed=share)
            self._speed = (f"{progress.timesteps:,} steps  {speed:,.0f} steps/s", left)
            self._told_at = monotonic()
            self._below = describe_members(self._latest, self._course, members, diverged, self._is_sweep)
        elif share * _LINES >= self._lines + 1:
            self._lines = int(share * _LINES)
            of = "" if members[1] - members[0] == self._num_members else f" of {name_members(members, self._is_sweep)}"
            known = finite_ones(self._latest)
            mean_return = show_return(known.mean() if known.size else math.nan)
            self.say(
                f"{share:>4.0%}  {progress.timesteps:>11,} steps  {speed:>9,.0f} steps/s  training return{of} "
                f"{mean_return:>7}  {clock(left)} left{describe_diverged(diverged)}"
            )

    def planned(self, text: str) -> None:
        """Says how the compiled program is about to run. There is no speed to show until its first report."""
        self._stage, self._told_at = "training", monotonic()
        self.say(text)

    def _note(self, progress: TrainProgress) -> None:
        members, returns = progress.members, np.asarray(progress.metrics.episode_return_mean)
        diverged_at = np.asarray(progress.train_states.diverged_at)[: members[1] - members[0]]  # without padding
        self._diverged[members] = int(np.sum(diverged_at >= 0))
        if members != self._members:
            self._members, self._latest, self._course = members, np.full(len(returns), np.nan), []
        self._latest = carry_forward(np.column_stack([self._latest, returns]))[:, -1]
        known = finite_ones(self._latest)
        if known.size:
            self._course.append(iqm(known))

    def _show(self) -> RenderableType:
        """The current view, drawn several times a second."""
        seconds = monotonic() - self._told_at
        text = f"{self._stage}  {clock(seconds)}"
        if self._speed is not None:
            speed, left = self._speed
            text = f"{speed}  {clock(max(0.0, left - seconds))} left"
        self._bar.update(self._task, description=text)
        return Group(self._bar, Text(self._below, overflow="ellipsis", no_wrap=True))


class JsonView(View):
    """Prints JSON, one object per line: the run, its newest update at each report, and the summary."""

    def __init__(self, names: str) -> None:
        self._names = names

    def __call__(self, progress: TrainProgress) -> None:
        """Prints the newest update."""
        newest = numbers_of(progress, progress.metrics.updates.shape[1] - 1)
        done = {"share": progress.timesteps / progress.total_timesteps, "updates": progress.updates}
        self._tell("progress", done | named(newest, self._names))

    def begin(self, plan: str, config: dict[str, Any]) -> None:
        """Prints the content of config.json."""
        self._tell("begin", config)

    def say(self, text: str) -> None:
        """Prints a text for people."""
        self._tell("note", {"text": text})

    def end(self, summary: dict[str, Any], folder: Path) -> None:
        """Prints the content of summary.json and the run folder."""
        self._tell("summary", summary | {"folder": str(folder)})

    def _tell(self, event: str, content: dict[str, Any]) -> None:
        print(json.dumps({"event": event, **finite(content)}, allow_nan=False), flush=True)


class UpdateView(View):
    """Prints one line for each update, in the algorithm's own words."""

    def __init__(self, console: Console, describe_update: Callable[[Metrics, int, int], str]) -> None:
        super().__init__(console)
        self._describe_update = describe_update

    def __call__(self, progress: TrainProgress) -> None:
        """Prints the updates of a report."""
        num_updates = progress.metrics.updates.shape[1]
        for i in range(num_updates):
            self.say(self._describe_update(progress.metrics, i, progress.updates - num_updates + i + 1))

    def planned(self, text: str) -> None:
        """Does nothing: only updates have lines."""


def make_view(console: Console, spec: RunSpec) -> View:
    """The view of a run: the algorithm's own lines if it has some and all seeds train at once, otherwise a bar."""
    describe_update = spec.algorithm.describe_update
    if describe_update is not None and spec.sweep is None and spec.num_seeds <= _UPDATE_SEEDS:
        return UpdateView(console, describe_update)
    return ProgressView(console, num_members=spec.num_members, is_sweep=spec.sweep is not None)


def name_members(members: Rows, is_sweep: bool) -> str:
    """Names the members of a chunk: "seeds 0 to 31", or of a sweep "runs 0 to 31"."""
    first, last = members
    what = "run" if is_sweep else "seed"
    return f"{what} {first}" if last - first == 1 else f"{what}s {first} to {last - 1}"


def describe_diverged(num_diverged: int) -> str:
    """The end of a line: how many members have diverged, if any."""
    return f"  {num_diverged} diverged" if num_diverged else ""


def describe_members(latest: np.ndarray, course: list[float], members: Rows, num_diverged: int, is_sweep: bool) -> str:
    """Two lines about the members in training: their IQM so far, the best and the worst. latest: [n], NaN if unknown"""
    diverged = describe_diverged(num_diverged)
    if not course:
        return f"training return: no episode has ended yet{diverged}"
    now = f"{show_return(course[-1])}  {spark(course)}{diverged}"
    if members[1] - members[0] == 1:
        return f"training return {now}"
    ends = {"best": np.nanargmax(latest), "worst": np.nanargmin(latest)}
    what = "run" if is_sweep else "seed"
    named = [f"{end} {what} {members[0] + i}: {show_return(latest[i])}" for end, i in ends.items()]
    return f"training return, IQM of {name_members(members, is_sweep)}  {now}\n{'   '.join(named)}"


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
    """Prints two columns without a head."""
    print_rows(console, [list(row) for row in rows.items()], has_head=False)


def print_rows(console: Console, rows: list[list[str]], *, has_head: bool = True) -> None:
    """Prints a table without a frame; below a head, numbers follow the first column.

    A terminal wraps cells that are too wide; elsewhere a row is a line.
    """
    if not console.is_terminal:
        first_width, *widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        side = ">" if has_head else "<"
        for first, *others in rows:
            cells = [f"{cell:{side}{width}}" for cell, width in zip(others, widths, strict=True)]
            print_line(console, "  ".join([f"{first:<{first_width}}", *cells]).rstrip())
        return
    table = Table(box=None, show_header=has_head, pad_edge=False, padding=(0, 2, 0, 0))
    for i, name in enumerate(rows[0]):
        table.add_column(Text(name), justify="right" if i and has_head else "left", overflow="fold")
    for row in rows[has_head:]:
        table.add_row(*map(Text, row))
    console.print(table, highlight=False)
