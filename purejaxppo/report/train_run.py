"""`train_run`: a whole run from Python, with what `purejaxppo train` gives: view, folder, logs, pictures and report."""

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict, Unpack

import jax
import numpy as np

from purejaxppo.envs import make_env, register_env
from purejaxppo.population.options import MakeAgent
from purejaxppo.population.results import Sweep
from purejaxppo.population.sharding import AUTO, check_data_placement, choose_placement
from purejaxppo.population.sweep import at_point, make_points
from purejaxppo.population.train import SweepOf, check_setting
from purejaxppo.ppo.config import Config
from purejaxppo.report.page import PAGE
from purejaxppo.report.pictures import has_pictures, write_pictures
from purejaxppo.runs.folder import make_run_folder
from purejaxppo.runs.load import mend_finished
from purejaxppo.runs.logs import check_installed, check_wandb_login
from purejaxppo.runs.own_agent import agent_in_python
from purejaxppo.runs.presets import PRESETS, default_preset, shown_preset
from purejaxppo.runs.results import Finished, FinishedSweep, LoadedRun
from purejaxppo.runs.spec import RunSpec, load_spec, spec_to_json
from purejaxppo.runs.summary import is_finished
from purejaxppo.runs.tables import sweep_rows, table
from purejaxppo.runs.train import Watched, check_checkpoints, check_not_lost, extended, plan, reopen, train_watched
from purejaxppo.utils.devices import use_all_cores
from purejaxppo.utils.errors import PPOError
from purejaxppo.utils.files import as_path
from purejaxppo.utils.lock import locked
from purejaxppo.utils.suggest import unknown

if TYPE_CHECKING:
    from rich.console import Console


class RunOptions(TypedDict, total=False):
    """The optional keywords of `train_run`, which all have a default."""

    placement: str  # "seeds" spreads seeds over the devices, "data" spreads each run; "auto" (default) chooses
    checkpoint_every: int | str | None  # updates, or a time such as "60s" or "5m"; by default never
    keep_checkpoints: int  # how many of the newest to keep until their seeds are finished; by default 2
    keep_best: bool  # also keep each seed at its best training return; by default False
    log_names: str  # names of the numbers in logs: "sb3" (default) or "cleanrl"
    memory_limit: int | str | None  # bytes, or text such as "4GiB"; by default most of what is free
    tensorboard: bool  # also write event files to the folder; by default False
    wandb: str | None  # the project of Weights & Biases to log to; by default none
    test_seeds: int  # for a sweep: fresh seeds that train its best setting again; by default 0


def train_run(
    env: Any,
    config: Config,
    *,
    out: str | Path,
    num_seeds: int = 16,
    seed: int = 0,
    sweep: SweepOf | None = None,
    make_agent: MakeAgent | None = None,
    quiet: bool = False,
    **options: Unpack[RunOptions],
) -> LoadedRun | Sweep:
    """Trains a run or a sweep as `purejaxppo train` does, with a progress view, a run folder, clips and a report.

    If the folder already holds this run, training continues where it stopped; a finished run is only read. A run in the
    folder with fewer `total_timesteps` is extended.

    Args:
        env: a name, or anything else that `make_env` takes. Your own environment is registered under its name.
        config: the hyperparameters.
        out: the run folder: config.json, metrics.csv, metrics.npz, summary.json, checkpoints/, curves.png, report.html,
            and clips if the environment can be drawn.
        num_seeds: how many seeds to train.
        seed: the base seed; seed i trains on `fold_in(key(seed), i)`.
        sweep: lists of values by name (a grid), or a list of points, as in `train_population`.
        make_agent: (env, config) -> agent, to train another agent than the config's own. `load_run` then needs it too.
        quiet: print nothing.
        **options: checkpoint_every, placement, memory_limit and more: see `RunOptions`.

    Returns:
        A `LoadedRun`, as `load_run` returns it; with a sweep a `Sweep`.

    Raises:
        PPOError: if an argument cannot work, before the folder is made; if the folder holds other files or another run;
            or if there are several processes, for which you call `train_population` instead.
    """
    use_all_cores()  # before the next line starts JAX
    if jax.process_count() > 1:
        raise PPOError("train_run trains in one process; in several take train_population, or purejaxppo train")
    folder = as_path("out", out)
    for name in options.keys() - RunOptions.__annotations__.keys():
        raise PPOError(unknown("option", name, list(RunOptions.__annotations__)))
    for extra in ("tensorboard", "wandb"):
        if options.get(extra):
            check_installed(extra)
            if sweep is not None:
                raise PPOError(f"{extra} has no curves of a sweep, whose settings train together; leave it out")
    if options.get("wandb"):
        check_wandb_login()
    given: dict[str, Any] = dict(options)
    watching = {name: given.pop(name) for name in ("memory_limit", "tensorboard", "wandb") if name in given}
    placement = given.pop("placement", AUTO)
    name, env_params = name_env(env)
    made = make_env(name, **env_params)
    check_setting(made, config, num_seeds, seed)
    own = None if make_agent is None else agent_in_python(make_agent, config)
    if placement == AUTO and (folder / "config.json").exists():
        placement = load_spec(folder, make_agent, config).placement
    spec = RunSpec(
        env=name,
        env_params=env_params,
        config=config,
        num_seeds=num_seeds,
        seed=seed,
        preset=nearest_preset(name, config),
        sweep=None if sweep is None else tuple(make_points(made, config, sweep)),
        agent=None if own is None else own.name,
        make_agent=make_agent,
        placement=placement,
        **given,
    )
    spec_to_json(spec)
    check_checkpoints(spec)
    settings = [at_point(made, config, point) for point in spec.sweep or ({},)]
    if own is not None:
        own.check(*settings[0])
    # A setting that cannot be trained is refused here; nothing runs.
    agents = [spec.algorithm.make_agent(*setting) for setting in settings]
    if placement == "data":
        for agent in agents:
            check_data_placement(agent, jax.device_count())
    spec = dataclasses.replace(spec, placement=choose_placement(placement, agents, num_seeds))
    finished = train_here(spec, folder, quiet, watching)
    return finished.sweep if isinstance(finished, FinishedSweep) else finished


def train_here(spec: RunSpec, folder: Path, quiet: bool, watching: dict[str, Any]) -> Finished:
    """Trains the run in its folder, or goes on with it, and writes its pictures."""
    from rich.console import Console

    from purejaxppo.runs.console import make_view, print_line

    is_begun = (folder / "config.json").exists()
    if not is_begun:
        make_run_folder(folder)
    console = Console(quiet=quiet)
    with locked(folder):
        if is_begun:
            make_ready(spec, folder)
        if is_begun and is_finished(folder):
            finished, mended = mend_finished(spec, folder)
            print_line(console, f"{folder} is finished; nothing is left to train")
            if has_pictures(folder) and not mended:
                return finished
        else:
            view = make_view(console, spec)
            view.begin(plan(spec), spec_to_json(spec))
            finished = train_watched(spec, folder, Watched(view, is_begun=is_begun, **watching))
            assert finished is not None  # there is one process alone
        show_finished(finished, folder, console)
    return finished


def show_finished(finished: Finished, folder: Path, console: "Console") -> None:
    """Writes the pictures and prints the tables."""
    from purejaxppo.runs.console import print_rows, print_table

    write_pictures(finished, folder)
    if isinstance(finished, FinishedSweep):
        print_rows(console, sweep_rows(finished))
    print_table(console, table(finished, folder) | {"report": str(folder / PAGE)})


def make_ready(spec: RunSpec, folder: Path) -> None:
    """Prepares a folder for a run that was begun there: but for its length and its checkpoints it is the same.

    Raises PPOError if it holds another run, or a longer one.
    """
    begun = load_spec(folder, spec.make_agent, spec.config)
    changes = {name: getattr(spec, name) for name in ("checkpoint_every", "keep_checkpoints", "keep_best", "log_names")}
    if type(begun.config) is type(spec.config):
        changes["config"] = begun.config.replace(total_timesteps=spec.config.total_timesteps)
    same = dataclasses.replace(begun, **changes)
    for field in dataclasses.fields(RunSpec):
        if field.compare and getattr(same, field.name) != getattr(spec, field.name):
            raise PPOError(
                f"{folder} holds another run: its {field.name} is {getattr(begun, field.name)}, "
                f"not {getattr(spec, field.name)}; give another folder as out, or remove it"
            )
    if begun.config.total_timesteps != spec.config.total_timesteps:
        extended(begun, folder, spec.config.total_timesteps)
        reopen(folder)
    elif not is_finished(folder):
        check_not_lost(begun, folder)


def name_env(env: Any) -> tuple[str, dict[str, Any]]:
    """The name of an environment in config.json, and the parameters in which it differs from the one of that name."""
    if isinstance(env, str):
        make_env(env)
        return env, {}
    made = make_env(env)
    try:
        known = make_env(made.name)
    except PPOError:
        known = None
    if known is None or jax.tree.structure(known) != jax.tree.structure(made):
        register_env(made.name, made)
        return made.name, {}
    if not dataclasses.is_dataclass(made.params):
        return made.name, {}
    values = {field.name: np.asarray(getattr(made.params, field.name)) for field in dataclasses.fields(made.params)}
    differ = {name: x for name, x in values.items() if not np.array_equal(x, getattr(known.params, name))}
    return made.name, {name: x.tolist() for name, x in differ.items()}


def nearest_preset(env: str, config: Config) -> str:
    """A preset with the values of this config, that of the environment before others; otherwise one of its class."""
    default = default_preset(env)
    fitting = [name for name, preset in PRESETS.items() if type(preset.config) is type(config)]
    same = [name for name in fitting if shown_preset(name, config) == f"preset {name}"]
    if default in same or not fitting:
        return default
    return next(iter(same), "cleanrl" if "cleanrl" in fitting else fitting[0])
