"""The run that the options of `purejaxppo train` and `purejaxppo sweep` describe, its folder, and its TOML file."""

import argparse
import dataclasses
import re
import time
from pathlib import Path
from typing import Any

import jax
import tomli_w

from purejaxppo.cli.hyperparameters import given_fields
from purejaxppo.cli.option_types import each_once
from purejaxppo.cli.train_options import BATCH, TRIALS
from purejaxppo.envs import Environment, make_env, names_own_code
from purejaxppo.population.algorithms import make_agent
from purejaxppo.population.options import check_start_of, make_start
from purejaxppo.population.processes import barrier
from purejaxppo.population.sharding import AUTO, check_data_placement, choose_placement
from purejaxppo.population.spaces import named_space
from purejaxppo.population.sweep import Domain, at_point, draw_points, make_points
from purejaxppo.population.tpe import SearchPlan, load_optuna, settle_plan
from purejaxppo.ppo.config import Config, PPOConfig
from purejaxppo.runs.folder import make_free_folder, make_run_folder
from purejaxppo.runs.load import LoadedRun, load_run
from purejaxppo.runs.logs import check_installed, check_wandb_login
from purejaxppo.runs.own_agent import UNNAMED, bring_agent
from purejaxppo.runs.presets import default_preset, find_preset
from purejaxppo.runs.run_file import dashed, toml_value
from purejaxppo.runs.spec import RunSpec, load_spec
from purejaxppo.runs.summary import is_finished
from purejaxppo.runs.train import check_checkpoints, check_not_lost, extended, save_start
from purejaxppo.utils.errors import PPOError
from purejaxppo.utils.files import write_whole

_CHECKPOINT_OPTIONS = ("checkpoint_every", "keep_checkpoints", "keep_best")
_TOTAL = "config.total_timesteps"
_WRITTEN = (  # by --write-config as they were given
    *("placement", "keep_best", "log_names"),
    *("random", "random_seed", "test_seeds", "space", "search", "trials", "batch"),
)
_ON_RESUME = (
    *("command", "resume", "agent", _TOTAL, "memory_limit", "cache"),
    *("quiet", "json_lines", "strict", "tensorboard", "wandb"),
    *("cluster", "coordinator", "num_processes", "process_id", "heartbeat"),
    *_CHECKPOINT_OPTIONS,
)


def started(options: argparse.Namespace) -> tuple[RunSpec, Path]:
    """Makes a new run and its empty folder."""
    source = load_source(options)
    spec = make_spec(options, source)
    check_kept(options, spec)
    check_logs(options)
    name = re.sub(r"[^\w.-]+", "-", spec.env)  # brax/ant, walk.py:Walk
    folder = options.out
    if folder is None:  # in one process alone: `join_processes` refuses several
        folder = make_free_folder(Path("runs") / f"{name}-{time.strftime('%Y%m%d-%H%M%S')}")
    if jax.process_index() == 0:
        make_run_folder(folder)
        if source is not None:
            save_start(spec, folder, source.train_state)
    barrier("folder")
    return spec, folder


def resumed(options: argparse.Namespace) -> tuple[RunSpec, Path]:
    """Reads the run to go on with, and its folder. Raises PPOError for options that would make it another run.

    Only its number of timesteps may change, to more than are done.
    """
    is_own = options.env is not None and names_own_code(options.env)  # it is imported again
    allowed = (*_ON_RESUME, "env") if is_own else _ON_RESUME
    for name, value in vars(options).items():
        if name not in allowed and value is not None:
            raise PPOError(f"--resume goes on with the run as it is; leave out --{name.replace('_', '-')}")
    begun = load_spec(options.resume)
    if options.env not in (None, begun.env):
        raise PPOError(f"{options.resume} is a run of {begun.env}; leave out --env {options.env}")
    if options.agent is not None and begun.agent is None:
        raise PPOError(f"{options.resume} was trained by the agent of its config; leave out --agent {options.agent}")
    if begun.agent == UNNAMED:
        raise PPOError(
            f"{options.resume} was trained in Python by a function without a name; go on with it there, by train_run"
        )
    spec = dataclasses.replace(begun, **checkpoint_options(options))
    total = getattr(options, _TOTAL)
    spec = spec if total is None else extended(spec, options.resume, total)
    if spec.sweep is not None and (options.tensorboard or options.wandb):
        raise PPOError(
            f"{options.resume} is a sweep, whose settings train together; leave --tensorboard and --wandb out"
        )
    check_kept(options, spec)
    if not is_finished(options.resume):
        check_not_lost(begun, options.resume)
    check_logs(options)
    return spec, options.resume


def check_logs(options: argparse.Namespace) -> None:
    """Raises PPOError if a requested log lacks its package or a login, before a folder is made."""
    for extra in ("tensorboard", "wandb"):
        if getattr(options, extra):
            check_installed(extra)
    if options.wandb and jax.process_index() == 0:
        check_wandb_login()


def checkpoint_options(options: argparse.Namespace) -> dict[str, Any]:
    """The checkpoint options that are given, as fields of a RunSpec."""
    return {name: value for name in _CHECKPOINT_OPTIONS if (value := getattr(options, name)) is not None}


def check_kept(options: argparse.Namespace, spec: RunSpec) -> None:
    """Raises PPOError if checkpoints cannot be written, or if --keep is given without any."""
    if options.keep_checkpoints is not None and spec.checkpoint_every is None:
        raise PPOError(f"--keep {options.keep_checkpoints} would do nothing without --checkpoint-every; leave it out")
    check_checkpoints(spec)


def load_source(options: argparse.Namespace) -> LoadedRun | None:
    """The run that --init-from names, or None."""
    return None if options.init_from is None else load_run(options.init_from)


def make_spec(options: argparse.Namespace, source: LoadedRun | None = None) -> RunSpec:
    """The run that the options describe.

    Args:
        source: The run of --init-from, whose parameters the new run starts from. Its number of seeds is the default,
            and without --preset so are its environment and hyperparameters.
    """
    preset_name = options.preset
    if preset_name is None:
        preset_name = default_preset(options.env) if source is None else source.spec.preset
    preset, own = find_preset(preset_name), bring_agent(options.agent)
    config = preset.config if own is None or own.config is None else own.config
    env_name, env_params, num_seeds = preset.env, {}, preset.num_seeds
    if source is not None:
        num_seeds = source.spec.num_seeds
        if options.preset is None:
            env_name, env_params = source.spec.env, source.spec.env_params
            config = source.config if type(source.config) is type(config) else config
    config = config.replace(**given_fields(options, config))
    if options.env not in (None, env_name):
        env_name, env_params = options.env, {}
    env_params = env_params | each_once("--env-param", options.env_param or [])
    env = make_env(env_name, **env_params)
    space = read_space(options, config) if options.command == "sweep" else {}
    search = None if options.search is None else read_search(options, env, config, space)
    points = None
    if options.command == "sweep":
        points = [] if search is not None else make_points(env, config, read_sweep(options, space))
    num_seeds = options.seeds or num_seeds
    if options.test_seeds and source is not None:
        raise PPOError(f"--test-seeds {options.test_seeds} does not go with --init-from, which has no states for them")
    start = make_start(None if source is None else source.train_state, num_seeds)
    if own is not None:
        own.check(*at_point(env, config, (points or [{}])[0]))
    make = make_agent if own is None else own.make
    agents = [make(*at_point(env, config, point)) for point in points or [{}]]  # refuses before any folder
    for agent in agents:
        check_start_of(agent, start)
        if options.placement == "data":
            check_data_placement(agent, jax.device_count())
    return RunSpec(
        env=env_name,
        env_params=env_params,
        config=config,
        num_seeds=num_seeds,
        seed=options.seed or 0,
        preset=preset_name,
        sweep=None if points is None else tuple(points),
        test_seeds=options.test_seeds or 0,
        search=search,
        placement=choose_placement(options.placement or AUTO, agents * (search.batch if search else 1), num_seeds),
        log_names=options.log_names or "sb3",
        agent=options.agent,
        make_agent=None if own is None else own.make_agent,
        init_from=None if options.init_from is None else str(options.init_from),
        **checkpoint_options(options),
    )


def read_space(options: argparse.Namespace, config: Config) -> dict[str, Domain]:
    """The domain of each --over option, and those of --space; for --search without fields that change the program."""
    if not options.over and options.space is None:
        raise PPOError("a sweep needs --over NAME=VALUES, such as --over learning-rate=1e-4,3e-4")
    space: dict[str, Domain] = each_once("--over", options.over or [])
    if options.space is not None:
        if not isinstance(config, PPOConfig):
            raise PPOError(f"--space {options.space} is one for a PPOConfig, not for a {type(config).__name__}")
        space = named_space(options.space, config, numbers_only=options.search is not None) | space
    for name, domain in space.items():
        if isinstance(getattr(config, name, None), tuple) and isinstance(domain, list):
            space[name] = [(value,) if isinstance(value, int) else value for value in domain]  # 64 is one layer
    return space


def read_search(options: argparse.Namespace, env: Environment, config: Config, space: dict[str, Domain]) -> SearchPlan:
    """The search that --search, --trials, --batch and --random-seed describe."""
    if options.random is not None:
        raise PPOError(f"--random {options.random} draws without a model, and --search with one; leave out one")
    load_optuna()
    numbers = (options.trials or TRIALS, options.batch or BATCH, options.random_seed or 0)
    return settle_plan(env, config, SearchPlan(space, *numbers))  # pyright: ignore[reportArgumentType]


def read_sweep(options: argparse.Namespace, space: dict[str, Domain]) -> dict[str, Any] | list[dict[str, Any]]:
    """The values of each name, or with --random the points drawn from them."""
    if options.random is None and options.random_seed is not None:
        raise PPOError(f"--random-seed {options.random_seed} would do nothing without --random N; leave it out")
    for name in ("trials", "batch"):
        if getattr(options, name) is not None:
            raise PPOError(f"--{name} {getattr(options, name)} would do nothing without --search tpe; leave it out")
    if options.random is not None:
        return draw_points(options.random, space, options.random_seed or 0)
    for name, domain in space.items():
        if not isinstance(domain, list):
            raise PPOError(f"--over {name} is a range to draw from; say how many settings to draw with --random N")
    return space


def write_config(options: argparse.Namespace) -> int:
    """--write-config: writes the run to a TOML file, which --config reads. -> exit status"""
    if options.resume is not None:
        raise PPOError(f"{options.resume / 'config.json'} has what the run is; leave out --write-config")
    check_kept(options, spec := make_spec(options, load_source(options)))
    text = tomli_w.dumps(run_table(options, spec))
    write_whole(options.write_config, lambda file: file.write(text.encode()))
    print(f"written; run it with purejaxppo {options.command} --config {options.write_config}")
    return 0


def run_table(options: argparse.Namespace, spec: RunSpec) -> dict[str, Any]:
    """The run under the names of its options, with every hyperparameter."""
    plain = {name: getattr(spec, name) for name in ("preset", "env", "agent", "seed", "checkpoint_every", "init_from")}
    plain |= {"seeds": spec.num_seeds, "keep": options.keep_checkpoints, "out": options.out and str(options.out)}
    plain |= {name: getattr(options, name) for name in _WRITTEN}
    tables = {"config": vars(spec.config), "env-param": spec.env_params, "over": dict(options.over or {})}
    return {dashed(name): value for name, value in plain.items() if value is not None} | {
        table: {dashed(name): toml_value(value) for name, value in content.items() if value is not None}
        for table, content in tables.items()
        if content
    }
