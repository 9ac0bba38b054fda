"""The display of the Keras example: its table, its curve beside the published one, its films and presets."""

import os
from pathlib import Path
from typing import Any

import numpy as np

from purejaxppo.examples.keras import FullBatchConfig, make_full_batch_ppo
from purejaxppo.population.algorithms import Algorithm, register_algorithm
from purejaxppo.runs.presets import PRESETS, Preset
from purejaxppo.utils.errors import PPOError

# Mean return of each epoch: as published with the example, and from its algorithm run again on current packages.
PUBLISHED = (18, 22, 27, 37, 48, 67, 133, 167, 182, 190, 200, 190, 190, 182, 182, 190, 190, 190) + (200,) * 12
RUN_AGAIN = (
    *(23, 28, 41, 55, 90, 117, 142, 181, 160, 181, 190, 190, 173, 181, 200),
    *(200, 200, 190, 190, 166, 173, 190, 200, 200, 181, 190, 200, 200, 190, 200),
)  # fmt: skip


def plot_keras_curve(returns: np.ndarray, path: str | os.PathLike[str], title: str) -> None:
    """Writes a picture of the mean return of each epoch [S, U], with the example's two runs. Whole or not at all."""
    from matplotlib.ticker import MaxNLocator

    from purejaxppo.report.files import write_figure
    from purejaxppo.report.plots import BLUE, GREY, LEGEND, VERMILLION, make_axes

    if returns.ndim != 2 or not returns.size:
        raise PPOError(f"returns {returns.shape} have to be [S, U], and not empty")
    figure, axes = make_axes(f"{title}, full-batch PPO")
    num_seeds, num_epochs = returns.shape
    epochs, label = np.arange(1, num_epochs + 1), f"median of {num_seeds} seeds" if num_seeds > 1 else "one seed"
    axes.plot(epochs, np.median(returns, axis=0), color=BLUE, linewidth=1.3, label=label)
    if num_seeds > 1:
        low, high = np.quantile(returns, [0.05, 0.95], axis=0)
        axes.fill_between(epochs, low, high, color=BLUE, alpha=0.25, linewidth=0, label="90% of the seeds")
    for marker, color, label, values in (
        ("o", VERMILLION, "example, published", PUBLISHED),
        ("^", GREY, "example, run again", RUN_AGAIN),
    ):
        shown = values[:num_epochs]
        axes.plot(epochs[: len(shown)], shown, marker, color=color, markersize=2.5, label=label)
    axes.set_xlabel("epoch", fontsize=8)
    axes.set_ylabel("mean return of the epoch", fontsize=8)
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    axes.set_ylim(bottom=0)
    axes.legend(**LEGEND, loc="lower right")
    write_figure(figure, Path(path))


def describe_epoch(metrics: Any, i: int, epoch: int) -> str:
    """One line of the example's table; of several seeds, the median and the middle 90%. metrics: [S, U]"""
    returns, lengths = (np.asarray(x)[:, i] for x in (metrics.epoch_return_mean, metrics.epoch_length_mean))
    if len(returns) == 1:
        return f"Epoch: {epoch}. Mean Return: {returns[0]:.6g}. Mean Length: {lengths[0]:.6g}"
    low, high = np.quantile(returns, [0.05, 0.95])
    return (
        f"Epoch: {epoch}. Median of {len(returns)} seeds: Mean Return: {np.median(returns):.6g} "
        f"(90% within {low:.4g} to {high:.4g}). Mean Length: {np.median(lengths):.6g}"
    )


def register_keras() -> None:
    """Adds the example's presets, and the agent and the pictures of its config."""
    # The example's text ends an episode at 15 degrees; the environment, its own included, does at 12.
    example = FullBatchConfig()
    bootstrapped, parallel = example.replace(bootstrap_time_limits=True), example.replace(num_envs=8, num_steps=500)
    env = "CartPole-v0"
    PRESETS["keras"] = Preset("the Keras example: time limits end in value 0", env, example, 1)
    PRESETS["keras-bootstrap"] = Preset("the Keras example, bootstrapping at time limits", env, bootstrapped, 1)
    PRESETS["keras-8"] = Preset("the Keras example on 8 environments of 500 steps", env, parallel, 1)
    algorithm = Algorithm("full-batch-ppo", make_full_batch_ppo, (8, 20), describe_epoch, plot_keras_curve)
    register_algorithm(FullBatchConfig, algorithm)
