"""Training a run into its folder, from the start, from where it stopped, or further than it was planned."""

import dataclasses
import importlib
import threading
import warnings
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import jax

from purejaxppo.envs import make_env
from purejaxppo.population.checkpoints import has_states, make_policy, updates_done
from purejaxppo.population.logs import LogProgress, named
from purejaxppo.population.memory import describe_plan
from purejaxppo.population.options import Progress, carried, ignore, never
from purejaxppo.population.sharding import describe_devices
from purejaxppo.population.store import of_rows
from purejaxppo.population.sweep import describe_programs
from purejaxppo.population.tpe import search_tpe
from purejaxppo.population.train import train_population
from purejaxppo.ppo.normalize import init_moments
from purejaxppo.ppo.types import TrainState
from purejaxppo.runs.folder import KEPT, METRICS, PICTURES, RESULTS, START, TABLE
from purejaxppo.runs.logs import PROGRESS, open_logs, steps_told
from purejaxppo.runs.presets import shown_preset
from purejaxppo.runs.results import EVALUATION_EPISODES, Finished, LoadedRun, write_results
from purejaxppo.runs.spec import EARLIER, RunSpec, load_spec, spec_to_json
from purejaxppo.runs.summary import SUMMARY, is_finished
from purejaxppo.utils.errors import PPOError
from purejaxppo.utils.files import leaf_names, load_tree, read_json, save_tree, write_json
from purejaxppo.utils.suggest import plural

if TYPE_CHECKING:
    from purejaxppo.runs.console import View

EARLY = ("matplotlib.figure", "matplotlib.backends.backend_agg", "PIL.ImageDraw", "PIL.ImageFont", "jinja2")


def plan(spec: RunSpec) -> str:
    """A text for people: what is about to run, and on which devices."""
    config, devices, num_runs = spec.config, jax.devices(), spec.num_members
    steps = f"{config.actual_timesteps:,} steps"
    if config.actual_timesteps != config.total_timesteps:
        steps += f" ({config.total_timesteps:,} asked for, in whole rollouts of {config.batch_size:,})"
    where = describe_devices(num_runs, devices, "seed" if spec.sweep is None else "run", spec.placement)
    if jax.process_count() > 1:
        where += f" in {jax.process_count()} processes"
    start = "" if spec.init_from is None else f", from the parameters of {spec.init_from}"
    agent = "" if spec.agent is None else f", agent {spec.agent}"
    line = f"{spec.env}, {shown_preset(spec.preset, config)}{agent}: {where}, {steps} each{start}"
    if spec.sweep is None:
        return line
    env = make_env(spec.env, **spec.env_params)
    test = f"; then the best once more, on {spec.test_seeds} test seeds" if spec.test_seeds else ""
    if spec.search is not None:
        found = (
            f"{spec.search.num_trials} settings of {', '.join(sorted(spec.search.space))} by TPE, {spec.search.batch} "
        )
        return f"{found}at a time, {plural(spec.num_seeds, 'seed')} each, in one compilation{test}\n{line}"
    return f"{describe_programs(env, config, spec.sweep, spec.num_seeds)}{test}\n{line}"


class Watched(NamedTuple):
    """How a training is watched."""

    view: "View"
    tensorboard: bool = False
    wandb: str | None = None  # the project
    memory_limit: int | str | None = None
    should_stop: Callable[[], bool] = never
    is_begun: bool = False  # the view says where it goes on


def train_watched(spec: RunSpec, folder: Path, watched: Watched) -> Finished | None:
    """Trains with the view and the logs open. A sweep has no logs, because its settings train together.

    Returns None in all processes but the first.
    """
    threading.Thread(target=import_early).start()
    view, logs = watched.view, nullcontext(lambda metrics, step: None)
    if spec.sweep is None and jax.process_index() == 0:
        content = spec_to_json(spec)
        logs = open_logs(folder, content, has_tensorboard=watched.tensorboard, wandb_project=watched.wandb)
    with view, logs as log:
        tell_log = LogProgress(log, spec.log_names)

        def tell(progress: Progress) -> None:
            view(progress)
            tell_log(progress)

        finished = train_in_folder(
            spec,
            folder,
            tell,
            memory_limit=watched.memory_limit,
            should_stop=watched.should_stop,
            on_begin=view.say if watched.is_begun else ignore,
            on_plan=lambda memory: view.planned(describe_plan(memory)),
        )
        if isinstance(finished, LoadedRun):
            score = {"evaluation": finished.summary["final_return_mean"]}
            log(named(score, spec.log_names), spec.config.actual_timesteps)
    return finished


def import_early() -> None:
    """Imports what the pictures at the end need, in a thread, while programs compile."""
    for name in EARLY:
        importlib.import_module(name)


def train_in_folder(
    spec: RunSpec, folder: Path, on_chunk: Callable[[Progress], None], **options: Any
) -> Finished | None:
    """Trains and evaluates a run, and writes its folder. Members whose results are there are not trained again.

    The first of several processes writes; the others return None. options: of `train_population`
    """
    env, is_first = make_env(spec.env, **spec.env_params), jax.process_index() == 0
    if is_first:
        write_config(spec, folder)

    def keep_and_tell(progress: Progress) -> None:
        place = folder / KEPT / f"after-{progress.updates}"
        is_filmed = progress.members[0] == 0 and progress.updates in spec.algorithm.film_after
        if is_first and is_filmed and not place.exists():
            save_tree(place, jax.tree.map(lambda x: x[0], progress.train_states))
        on_chunk(progress)

    keywords: dict[str, Any] = {
        "seed": spec.seed,
        "test_seeds": spec.test_seeds,
        "make_agent": spec.make_agent,
        "placement": spec.placement,
        "evaluation_episodes": EVALUATION_EPISODES,
        "out": folder / RESULTS,
        "checkpoint_every": spec.checkpoint_every,
        "keep_checkpoints": spec.keep_checkpoints,
        "keep_best": spec.keep_best,
        "extend": True,  # config.json says how long the run is to be
        "init_from": None if spec.init_from is None else load_start(spec, folder),
        "report_at": spec.algorithm.film_after,
        "on_chunk": keep_and_tell,
        **options,
    }
    if spec.search is None:
        trained = train_population(env, spec.config, num_seeds=spec.num_seeds, sweep=spec.sweep, **keywords)
    else:
        space, num_trials, batch, search_seed = spec.search
        of_search = {"num_trials": num_trials, "batch": batch, "search_seed": search_seed, **keywords}
        trained = search_tpe(env, spec.config, space, tune_seeds=spec.num_seeds, **of_search)
        spec = dataclasses.replace(spec, sweep=trained.points)
        if is_first:
            write_json(folder / "config.json", spec_to_json(spec))  # with the settings, which are known now
    return write_results(spec, trained, folder) if is_first else None


def write_config(spec: RunSpec, folder: Path) -> None:
    """Writes config.json. It keeps the lengths that the run had before it was extended."""
    path, content = folder / "config.json", spec_to_json(spec)
    if path.exists():
        before = read_json(path)
        earlier, total = before.get(EARLIER, []), before["config"]["total_timesteps"]
        earlier = earlier if total == spec.config.total_timesteps else [*earlier, total]
        content |= {EARLIER: earlier} if earlier else {}
    write_json(path, content)


def save_start(spec: RunSpec, folder: Path, states: TrainState) -> None:
    """Copies the states that a run starts from to its folder. states: of another run, [S or more, ...]"""
    save_tree(folder / START, carried(jax.tree.map(lambda x: x[: spec.num_seeds], states)))


def load_start(spec: RunSpec, folder: Path) -> TrainState:
    """The states that the seeds of a run start from, [S, ...]. Raises PPOError if they are missing or damaged."""
    agent = spec.algorithm.make_agent(make_env(spec.env, **spec.env_params), spec.config)
    like = carried(jax.eval_shape(agent.init, jax.random.key(0)).train_state)
    has_moments = any(name.startswith(".reward_moments") for name in leaf_names(folder / START))
    like = like.replace(reward_moments=jax.eval_shape(lambda: init_moments(())) if has_moments else None)
    return load_tree(folder / START, of_rows(like, (0, spec.num_seeds)))


def extended(spec: RunSpec, folder: Path, total_timesteps: int) -> RunSpec:
    """The spec with another number of timesteps. Raises PPOError unless it is more than the folder has done."""
    if spec.search is not None:
        raise PPOError(f"{folder} is a search, whose settings depend on its length; leave out --config.total-timesteps")
    if any("total_timesteps" in point for point in spec.sweep or ()):
        raise PPOError(f"{folder} is a sweep over total_timesteps; leave out --config.total-timesteps")
    config = spec.config.replace(total_timesteps=total_timesteps)
    places = [] if spec.sweep else (folder / RESULTS).glob("program-*")
    done = spec.config.num_updates if is_finished(folder) else max(map(updates_done, places), default=0)
    if config.num_updates <= done:
        steps = done * config.batch_size
        raise PPOError(
            f"total_timesteps = {total_timesteps} is not above the {steps} that {folder} has done; give more"
        )
    return dataclasses.replace(spec, config=config)


def is_extended(spec: RunSpec, folder: Path) -> bool:
    """True if `spec` is longer, or shorter, than the run in the folder."""
    return load_spec(folder, spec.make_agent, spec.config).config.total_timesteps != spec.config.total_timesteps


def reopen(folder: Path) -> None:
    """Removes the summary, the metrics and the pictures of a finished run that is to go on."""
    for name in (SUMMARY, *METRICS, TABLE, *PICTURES):  # the summary first: without it the run is not finished
        (folder / name).unlink(missing_ok=True)


def check_checkpoints(spec: RunSpec) -> None:
    """Raises PPOError if the checkpoints that the run asks for cannot be written."""
    is_shared = spec.placement == "data" and jax.process_count() > 1
    make_policy(spec.checkpoint_every, spec.keep_checkpoints, spec.keep_best, has_folder=True, is_shared=is_shared)


def check_not_lost(spec: RunSpec, folder: Path) -> None:
    """Raises PPOError if the log tells of a checkpoint that is gone, so that the run does not start from zero.

    It only warns if a checkpoint may not have been due yet. spec: as the run was begun
    """
    done = steps_told(folder) // spec.config.batch_size
    if spec.checkpoint_every is None or done == 0 or any(map(has_states, (folder / RESULTS).glob("program-*"))):
        return
    place = folder / RESULTS
    said = f"{folder} had done {done} of {spec.config.num_updates} updates, and no checkpoint is left in {place}"
    if isinstance(spec.checkpoint_every, int) and done > spec.checkpoint_every:
        raise PPOError(f"{said}; put it back, or remove {folder / PROGRESS} to train from the start")
    warnings.warn(f"{said}: it begins from the start", stacklevel=2)
