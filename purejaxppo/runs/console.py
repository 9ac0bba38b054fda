"""What a person sees of a run: a live bar on a terminal, plain lines elsewhere, and the table at the end."""

from contextlib import AbstractContextManager
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn
from rich.table import Table

from purejaxppo.full_batch import FullBatchConfig, FullBatchMetrics
from purejaxppo.population.program import Progress as TrainProgress
from purejaxppo.population.store import Rows
from purejaxppo.runs.train import RunSpec

_EPOCH_SEEDS = 256  # more may not be trained at once, and an epoch is then no line
_LINES = 10  # printed in the course of a run where there is no terminal


class ProgressView(AbstractContextManager):
    """Shows each chunk of a run: percent, environment steps, steps per second, mean return, time left."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._lines = 0
        self._mean_return = float("nan")
        self._diverged: dict[Rows, int] = {}  # of each chunk
        self._bar = Progress(
            TextColumn("{task.percentage:>3.0f}%"),
            BarColumn(bar_width=28),
            TextColumn("{task.description}"),
            console=console,
            transient=False,
        )
        self._task = self._bar.add_task("compiling", total=1.0)

    def __enter__(self) -> "ProgressView":
        if self._console.is_terminal:
            self._bar.start()
        return self

    def __exit__(self, *_: Any) -> None:
        if self._console.is_terminal:
            self._bar.stop()

    def __call__(self, progress: TrainProgress) -> None:
        """To be called after each chunk."""
        share = progress.timesteps / progress.total_timesteps
        self._mean_return = latest_mean_return(np.asarray(progress.metrics.episode_return_mean), self._mean_return)
        self._diverged[progress.members] = count_diverged(progress)
        line = describe_progress(progress, self._mean_return, sum(self._diverged.values()))
        if self._console.is_terminal:
            self._bar.update(self._task, completed=share, description=line)
        elif share * _LINES >= self._lines + 1:
            self._lines = int(share * _LINES)
            self._console.print(f"{share:>4.0%}  {line}", highlight=False, soft_wrap=True)

    def say(self, text: str) -> None:
        """A line above the bar."""
        self._console.print(text, highlight=False, soft_wrap=True)


class EpochView(AbstractContextManager):
    """Prints each update as the Keras example does; for several seeds, the median and the middle 90%."""

    def __init__(self, console: Console) -> None:
        self._console = console

    def __exit__(self, *_: Any) -> None:
        pass

    def say(self, text: str) -> None:
        """Nothing: the example prints its epochs alone."""

    def __call__(self, progress: TrainProgress) -> None:
        """To be called after each chunk."""
        metrics = progress.metrics
        assert isinstance(metrics, FullBatchMetrics)
        num_updates = metrics.epoch_return_mean.shape[1]
        for i in range(num_updates):
            line = describe_epoch(
                progress.updates - num_updates + i + 1,
                np.asarray(metrics.epoch_return_mean)[:, i],
                np.asarray(metrics.epoch_length_mean)[:, i],
            )
            self._console.print(line, highlight=False, soft_wrap=True)


def make_view(console: Console, spec: RunSpec) -> ProgressView | EpochView:
    """The example's own table for a run of its algorithm, else a bar."""
    is_example = isinstance(spec.config, FullBatchConfig) and spec.sweep is None and spec.num_seeds <= _EPOCH_SEEDS
    return EpochView(console) if is_example else ProgressView(console)


def describe_epoch(epoch: int, returns: np.ndarray, lengths: np.ndarray) -> str:
    """One line of the example's table. returns, lengths: [S]"""
    if len(returns) == 1:
        return f"Epoch: {epoch}. Mean Return: {returns[0]:.6g}. Mean Length: {lengths[0]:.6g}"
    low, high = np.quantile(returns, [0.05, 0.95])
    return (
        f"Epoch: {epoch}. Median of {len(returns)} seeds: Mean Return: {np.median(returns):.6g} "
        f"(90% within {low:.4g} to {high:.4g}). Mean Length: {np.median(lengths):.6g}"
    )


def latest_mean_return(returns: np.ndarray, before: float) -> float:
    """The mean over seeds in the newest update in which episodes finished; `before` if there was none. [S, U]"""
    for column in returns.T[::-1]:
        if not np.all(np.isnan(column)):
            return float(np.nanmean(column))
    return before


def count_diverged(progress: TrainProgress) -> int:
    """The members of the chunk in training that have diverged; padding may follow them."""
    first, last = progress.members
    return int(np.sum(np.asarray(progress.train_states.diverged_at)[: last - first] >= 0))


def describe_progress(progress: TrainProgress, mean_return: float, num_diverged: int) -> str:
    """One line of numbers."""
    speed = progress.timesteps / progress.seconds
    left = progress.seconds * (progress.total_timesteps / progress.timesteps - 1)
    diverged = f"  {num_diverged} diverged" if num_diverged else ""
    return (
        f"{progress.timesteps:>11,} steps  {speed:>9,.0f} steps/s  return {mean_return:>7.1f}  {clock(left)} left"
        f"{diverged}"
    )


def clock(seconds: float) -> str:
    """m:ss, or h:mm:ss from an hour on."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def print_table(console: Console, rows: dict[str, str]) -> None:
    """Two columns, without a frame."""
    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    for name, value in rows.items():
        table.add_row(name, value)
    console.print(table, highlight=False)


def print_rows(console: Console, rows: list[list[str]]) -> None:
    """A table whose first row is its head, without a frame."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for name in rows[0]:
        table.add_column(name, justify="right")
    for row in rows[1:]:
        table.add_row(*row)
    console.print(table, highlight=False)
