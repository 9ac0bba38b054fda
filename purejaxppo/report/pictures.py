"""The pictures that a run or a sweep ends with: films, learning curves, and the report page that shows them."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from purejaxppo.population.algorithms import ALGORITHMS
from purejaxppo.population.cross import CrossSweep
from purejaxppo.population.program import EVALUATION_SEED
from purejaxppo.population.results import Population, Sweep
from purejaxppo.population.sweep import ENV, Point, plain
from purejaxppo.ppo.evaluate import Episode, check_play, cut, play
from purejaxppo.ppo.types import TrainState
from purejaxppo.report.cross import write_cross
from purejaxppo.report.drawings import find_picture
from purejaxppo.report.film import film_episode
from purejaxppo.report.page import PAGE, views_of, write_page
from purejaxppo.report.plots import plot_view
from purejaxppo.report.sweep import plot_sweep
from purejaxppo.runs.results import Finished, FinishedSweep, LoadedRun, as_finished, read_kept
from purejaxppo.runs.spec import RunSpec
from purejaxppo.runs.tables import return_name
from purejaxppo.utils.devices import quickly_compiled
from purejaxppo.utils.errors import PPOError
from purejaxppo.utils.files import as_path, make_folder, to_host
from purejaxppo.utils.validation import shown

CURVES = "curves.png"
FRAMES = 300  # of a film
MAX_FILMED = 1_000  # steps of an episode


def write_report(population: Population | Sweep | CrossSweep, folder: str | Path) -> Path:
    """Writes the pictures and report.html of a population or a sweep that was trained in memory.

    Args:
        population: what `train_population` or `sweep_environments` returns; for the latter, only the page is written.
        folder: where to write; it is made if it is not there.

    Returns:
        The path of report.html.

    Raises:
        PPOError: if `population` is something else, and if the folder cannot be written.
    """
    if not isinstance(population, Population | Sweep | CrossSweep):
        raise PPOError(f"population = {shown(population)} is not a Population, Sweep or CrossSweep; give one")
    place = as_path("folder", folder)
    make_folder(place)
    if isinstance(population, CrossSweep):
        write_cross(population, place / PAGE)
        return place / PAGE
    first = population[0] if isinstance(population, Sweep) else population
    spec = RunSpec(
        env=first.agent.env.name,
        env_params={},
        config=first.agent.config,
        num_seeds=first.num_seeds,
        seed=0,
        preset="",
        sweep=population.points if isinstance(population, Sweep) else None,
        make_agent=None if isinstance(first.agent.config, tuple(ALGORITHMS)) else lambda *_: first.agent,
    )
    write_pictures(as_finished(spec, population), place)
    return place / PAGE


def has_pictures(folder: Path) -> bool:
    """True if the folder holds all pictures of its finished run."""
    return (folder / PAGE).exists()  # written last, as it shows the others


def write_pictures(finished: Finished, folder: Path) -> None:
    """Writes curves.png and report.html; of a run also films of its kept policies, of a sweep sweep.png."""
    env, views = finished.spec.env, views_of(finished)
    if isinstance(finished, FinishedSweep):
        solved_at, what = finished.spec.solved_at, return_name(finished.summary)
        points, returns = distinct_settings(finished.sweep)
        plot_sweep(points, returns, folder / "sweep.png", title=env, solved_at=solved_at, what=what)
        plot_view(views[0], folder / CURVES, title=f"{env}, the best settings")
        write_page(finished, folder, views)
        return
    population, own_plot = finished.population, finished.spec.algorithm.plot
    if find_picture(population.agent.env) is not None:
        for name, episode in film_episodes(finished, read_kept(folder, population)).items():
            film_episode(population.agent.env, episode, folder / f"{name}.gif", max_frames=FRAMES)
    if own_plot is not None:
        own_plot(np.asarray(population.column(population.metrics.curve[1])), folder / CURVES, env)
    else:
        plot_view(views[0], folder / CURVES, title=env)
    write_page(finished, folder, views)


def distinct_settings(sweep: Sweep) -> tuple[list[Point], list[np.ndarray]]:
    """Each setting once, with its value of every name that a setting changes, and its final returns [S].

    A setting that comes again, as among random draws from a list, has had the same keys and so the same runs.
    """
    names = {name: None for point in sweep.points for name in point}
    points: list[Point] = []
    returns: list[np.ndarray] = []
    for i, population in enumerate(sweep):
        env, config = population.agent.env, population.agent.config
        values = {**sweep.points[i]}
        for name in names.keys() - values.keys():
            owner = env.params if name.startswith(ENV) else config
            values[name] = getattr(owner, name.removeprefix(ENV))
        point = {name: plain(values[name]) for name in names} or {"setting": i}
        if point not in points:
            points.append(point)
            returns.append(population.final_returns())
    return points, returns


def film_episodes(finished: LoadedRun, kept: dict[str, TrainState]) -> dict[str, Episode]:
    """Greedy episodes of seed 0, all from one start, by the name of their film: before, those `kept`, and after."""
    agent, last = finished.population.agent, finished.population.seed(0)
    states = {**kept, "after": last.train_state}
    check_play(agent, last.train_state, last.key, 1, MAX_FILMED)

    def play_each(key: jax.Array, seed: jax.Array, later: list[TrainState]) -> tuple:
        runs = jax.tree.map(lambda *x: jnp.stack(x), agent.init(key).train_state, *later)
        start = jax.random.fold_in(jax.random.key(seed), 0)
        return jax.vmap(lambda state: play(agent, state, start, MAX_FILMED))(runs)

    quick = quickly_compiled(jax.default_backend())  # and one program: compiling takes longer than playing
    seed = np.uint32(finished.spec.seed + EVALUATION_SEED)
    played = to_host(jax.jit(play_each, compiler_options=quick)(last.key, seed, list(states.values())))
    return {name: cut(*jax.tree.map(lambda x, i=i: x[i], played)) for i, name in enumerate(["before", *states])}
