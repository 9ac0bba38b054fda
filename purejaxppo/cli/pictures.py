"""The pictures and the report page that a run ends with."""

from pathlib import Path

import numpy as np

from purejaxppo.population.algorithms import algorithm_of
from purejaxppo.runs.results import FinishedRun, FinishedSweep, film_episodes

CURVES = "curves.png"
FRAMES = 300  # of a film


def has_pictures(folder: Path) -> bool:
    """True if the folder holds all pictures of its finished run."""
    return (folder / "report.html").exists()  # written last, as it shows the others


def write_pictures(finished: FinishedRun, folder: Path) -> None:
    """Writes curves.png, report.html, and if the environment can be drawn a film of each kept policy."""
    from purejaxppo.report import film_episode, find_curve, find_picture, plot_curve, write_run_page

    metrics, env = finished.population.metrics, finished.population.agent.env
    curve = find_curve(finished.population)
    if find_picture(env) is not None:
        for name, episode in film_episodes(finished).items():
            film_episode(env, episode, folder / f"{name}.gif", max_frames=FRAMES)
    own_plot = algorithm_of(finished.spec.config).plot
    if own_plot is not None:
        own_plot(np.asarray(metrics.column(metrics.curve[1])), folder / CURVES, finished.spec.env)
    else:
        plot_curve(curve, folder / CURVES, title=finished.spec.env, solved_at=finished.spec.solved_at)
    write_run_page(finished, curve, folder)


def write_sweep_pictures(finished: FinishedSweep, folder: Path) -> None:
    """Writes sweep.png (final greedy returns by setting), curves.png (the best settings) and report.html."""
    from purejaxppo.report import best_curves, plot_beside, plot_sweep, write_sweep_page

    sweep, env = finished.sweep, finished.spec.env
    solved_at, returns = finished.spec.solved_at, list(sweep.final_returns())
    place, what = folder / "sweep.png", "final greedy return"
    plot_sweep(sweep.points, returns, place, title=env, solved_at=solved_at, what=what)
    curves = best_curves(sweep)
    plot_beside(curves, folder / CURVES, title=f"{env}, the best settings", solved_at=solved_at)
    write_sweep_page(finished, curves, folder)
