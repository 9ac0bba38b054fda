"""The commands: parsing and calling, nothing more."""

import argparse
import dataclasses
import os
import re
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import jax
import numpy as np
import tomli_w
from rich.console import Console

from purejaxppo.cli.arguments import completion_script, read_options
from purejaxppo.envs import env_names, make_env, names_own_code
from purejaxppo.envs.suites import SUITES, is_installed
from purejaxppo.envs.user_code import bring_env, find_own
from purejaxppo.population.algorithms import algorithm_of, make_agent
from purejaxppo.population.logs import Log, LogProgress, named
from purejaxppo.population.memory import describe_plan
from purejaxppo.population.options import Progress, ignore
from purejaxppo.population.processes import HEARTBEAT, barrier, end_with, join, leave, part
from purejaxppo.population.sharding import check_data_placement
from purejaxppo.population.start import check_start_of, make_start
from purejaxppo.population.sweep import Domain, at_point, draw_points, make_points
from purejaxppo.ppo.config import Config, PPOConfig
from purejaxppo.ppo.evaluate import record_episodes
from purejaxppo.ppo.factory import seed_keys
from purejaxppo.runs.finished import (
    comparison_rows,
    describe_wins,
    evaluate_in_gymnasium,
    evaluate_run,
    evaluation_table,
    labels_of,
    summarise_evaluation,
)
from purejaxppo.runs.folder import make_free_folder, make_run_folder
from purejaxppo.runs.logs import check_installed, check_wandb_login, open_logs, tell_all
from purejaxppo.runs.presets import PRESETS, default_preset, find_preset
from purejaxppo.runs.run_file import dashed, toml_value
from purejaxppo.runs.stop import StopSignal
from purejaxppo.runs.train import (
    FinishedRun,
    FinishedSweep,
    LoadedRun,
    RunSpec,
    check_checkpoints,
    check_not_lost,
    describe_divergence,
    extended,
    film_episodes,
    is_extended,
    is_finished,
    load_run,
    load_spec,
    mend_finished,
    plan,
    reopen,
    save_start,
    spec_to_json,
    sweep_rows,
    sweep_table,
    table,
    train_run,
)
from purejaxppo.utils.devices import use_all_cores
from purejaxppo.utils.errors import Interrupted, NotWritten, PPOError
from purejaxppo.utils.files import write_json, write_whole
from purejaxppo.utils.lock import locked

_PROCESS_OPTIONS = ("cluster", "coordinator", "num_processes", "process_id", "heartbeat")
_CHECKPOINT_OPTIONS = ("checkpoint_every", "keep_checkpoints", "keep_best")
_SHOWN_OPTIONS = ("quiet", "json_lines", "strict", "tensorboard", "wandb")
_TOTAL = "config.total_timesteps"
_ON_RESUME = ("command", "resume", _TOTAL, "memory_limit", *_SHOWN_OPTIONS, *_CHECKPOINT_OPTIONS, *_PROCESS_OPTIONS)
CURVES = "curves.png"
DIVERGED = 3  # the exit status of --strict
PIPE_CLOSED = 141  # that of a program which SIGPIPE has ended
FRAMES = 300  # of a film that a run ends with


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command. -> exit status: 0 done, 2 bad input, 3 a run diverged under --strict, 141 nobody reads"""
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        return end_with(run_command(words))
    except PPOError as error:
        print(f"purejaxppo: error: {error}", file=sys.stderr)
        return end_with(2)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for what is left to write
        return end_with(PIPE_CLOSED)
    except (RuntimeError, AssertionError) as error:  # also an assertion: JAX_PLATFORMS=cuda without a GPU
        fault = fault_of_jax(error)
        if fault is None:
            raise
        print(f"purejaxppo: error: {fault}", file=sys.stderr)
        return end_with(2)
    except KeyboardInterrupt:
        print("purejaxppo: interrupted", file=sys.stderr)
        return end_with(130)


def run_command(words: Sequence[str]) -> int:
    """Runs the command of the words. -> exit status. Raises BrokenPipeError where nobody reads what it prints."""
    try:
        options = read_options(words)
        return RUN[options.command](options)
    finally:
        if sys.stdout is not None:  # as it is where a shell has closed it
            sys.stdout.flush()  # a short output meets the closed pipe here and not at Python's end


def fault_of_jax(error: Exception) -> str | None:
    """What to say of an error of JAX that can be mended: too little memory, or no such device. None of another."""
    if "RESOURCE_EXHAUSTED" in str(error):
        reason = str(error).splitlines()[0]
        return f"the memory is too small: {reason}; take fewer seeds, episodes or steps, or a smaller --config.num-envs"
    try:
        jax.devices()
    except (RuntimeError, AssertionError) as reason:
        lines = str(reason).splitlines() or ["it finds no such device"]
        return f"JAX cannot start: {lines[0].split(' (set ')[0]}; unset JAX_PLATFORMS, or set it to cpu"
    return None


def train(options: argparse.Namespace) -> int:
    """purejaxppo train, purejaxppo sweep"""
    if options.write_config is not None:
        return write_config(options)
    if options.cluster or any(x is not None for x in (options.coordinator, options.num_processes, options.process_id)):
        join_processes(options)
    elif options.heartbeat is not None:
        raise PPOError(f"--heartbeat {options.heartbeat} would do nothing in one process alone; leave it out")
    spec, folder = resumed(options) if options.resume else started(options)
    with locked(folder) if jax.process_index() == 0 else nullcontext():
        return train_in(folder, spec, options)


def train_in(folder: Path, spec: RunSpec, options: argparse.Namespace) -> int:
    """Trains a run, or goes on with it, in a folder that no other process writes to meanwhile. -> exit status"""
    from purejaxppo.runs.console import JsonView, make_view, print_line

    is_first = jax.process_index() == 0  # it speaks for all
    console = Console(quiet=options.quiet or options.json_lines or not is_first)
    view = JsonView(spec.log_names) if options.json_lines and is_first else make_view(console, spec)
    goes_further = bool(options.resume) and is_extended(spec, folder)
    if goes_further and is_first:
        reopen(folder)
    is_done, finished = bool(options.resume) and is_finished(folder) and not goes_further, None
    if is_done:
        leave()  # what is left to do is the first process's alone
        if not is_first:
            return 0
        finished, mended = mend_finished(folder)
        anew = f"; written anew from its results: {', '.join(mended)}" if mended else ""
        print_line(console, f"{folder} is finished; nothing is left to train{anew}")
        if has_pictures(folder) and not mended:
            return diverged_status(finished.summary) if options.strict else 0
    else:
        view.begin(plan(spec), spec_to_json(spec))
    stop = StopSignal()
    try:
        with stop:
            if not is_done:
                with view, own_logs(options, spec, folder) as log:
                    finished = train_run(
                        spec,
                        folder,
                        tell_both(view, LogProgress(log, spec.log_names)),
                        memory_limit=options.memory_limit,
                        should_stop=stop.is_set_anywhere,
                        on_begin=view.resume if options.resume else ignore,
                        on_plan=lambda memory: view.planned(describe_plan(memory)),
                    )
                    if isinstance(finished, FinishedRun):
                        log(evaluation_entries(finished), spec.config.actual_timesteps)
            stop.from_now_on_at_once()
            if finished is not None:
                show_finished(finished, folder, console)
                view.end(finished.summary, folder)
    except (Interrupted, KeyboardInterrupt) as reason:
        text = f"{reason}; its state is kept" if isinstance(reason, Interrupted) else "interrupted"
        print(f"purejaxppo: {text}; go on with --resume {folder}", file=sys.stderr)
        if isinstance(reason, Interrupted):
            stop.is_set_anywhere()  # another process may have stopped this one: with its number
            part(128 + stop.number)
        return 128 + stop.number
    except NotWritten as error:
        raise PPOError(f"{error}; go on with --resume {folder}") from None
    leave()
    return diverged_status(finished.summary) if options.strict and finished is not None else 0


def write_config(options: argparse.Namespace) -> int:
    """purejaxppo train --write-config FILE: what would run, for --config."""
    if options.resume is not None:
        raise PPOError(f"{options.resume / 'config.json'} has what the run is; leave out --write-config")
    source = load_source(options)
    check_checkpoints(spec := make_spec(options, source))
    text = tomli_w.dumps(run_table(options, spec))
    write_whole(options.write_config, lambda file: file.write(text.encode()))
    print(f"written; run it with purejaxppo {options.command} --config {options.write_config}")
    return 0


def run_table(options: argparse.Namespace, spec: RunSpec) -> dict[str, Any]:
    """What the command would run, under the names of its options; every hyperparameter is said."""
    config = {field.name: getattr(spec.config, field.name) for field in dataclasses.fields(spec.config)}
    plain = {
        "preset": spec.preset,
        "env": spec.env,
        "seeds": spec.num_seeds,
        "seed": spec.seed,
        "out": None if options.out is None else str(options.out),
        "placement": options.placement,
        "checkpoint_every": spec.checkpoint_every,
        "keep": options.keep_checkpoints,
        "keep_best": options.keep_best,
        "log_names": getattr(options, "log_names", None),
        "init_from": spec.init_from,
        "random": getattr(options, "random", None),
        "random_seed": getattr(options, "random_seed", None),
    }
    tables = {"config": config, "env-param": spec.env_params, "over": dict(getattr(options, "over", None) or {})}
    return {dashed(name): value for name, value in plain.items() if value is not None} | {
        table: {dashed(name): toml_value(value) for name, value in content.items() if value is not None}
        for table, content in tables.items()
        if content
    }


def own_logs(options: argparse.Namespace, spec: RunSpec, folder: Path) -> AbstractContextManager[Log]:
    """Where the numbers of a run go. Those of a sweep, whose settings train together, go nowhere."""
    if spec.sweep is not None or jax.process_index() > 0:
        return nullcontext(tell_all([]))
    return open_logs(folder, spec_to_json(spec), has_tensorboard=options.tensorboard, wandb_project=options.wandb)


def evaluation_entries(finished: FinishedRun) -> dict[str, float]:
    """What a log is told of the evaluation at the end."""
    return named({"evaluation": finished.summary["final_return_mean"]}, finished.spec.log_names)


def tell_both(first: Callable[[Progress], None], second: Callable[[Progress], None]) -> Callable[[Progress], None]:
    """One listener in the place of two."""

    def tell(progress: Progress) -> None:
        first(progress)
        second(progress)

    return tell


def show_finished(finished: FinishedRun | FinishedSweep, folder: Path, console: Console) -> None:
    """The pictures and the table."""
    from purejaxppo.report.page import PAGE
    from purejaxppo.runs.console import print_rows, print_table

    report = {"report": str(folder / PAGE)}

    if isinstance(finished, FinishedSweep):
        write_sweep_pictures(finished, folder)
        print_rows(console, sweep_rows(finished))
        print_table(console, sweep_table(finished, folder) | report)
    else:
        write_pictures(finished, folder)
        print_table(console, table(finished, folder) | report)


def diverged_status(summary: dict[str, Any]) -> int:
    """The exit status of --strict, which says why it is not 0."""
    if summary["diverged"]:
        print(f"purejaxppo: {describe_divergence(summary)}", file=sys.stderr)
    return DIVERGED if summary["diverged"] else 0


def join_processes(options: argparse.Namespace) -> None:
    """Joins the processes that share the run. Raises PPOError for options that they would not share."""
    if options.out is None and options.resume is None:
        raise PPOError("several processes need one run folder, on a disk that they share; give --out or --resume")
    join(
        options.coordinator,
        options.num_processes,
        options.process_id,
        heartbeat_seconds=options.heartbeat or HEARTBEAT,
        remedy=f"what is finished is kept; go on with --resume {options.out or options.resume} in all processes",
    )


def started(options: argparse.Namespace) -> tuple[RunSpec, Path]:
    """A new run and its empty folder."""
    check_logs(options)
    source = load_source(options)
    spec = make_spec(options, source)
    check_checkpoints(spec)
    check_login(options)
    name = re.sub(r"[^\w.-]+", "-", spec.env)  # brax/ant, walk.py:Walk
    if options.out is None:  # in one process alone: `join_processes` refuses several
        folder = make_free_folder(Path("runs") / f"{name}-{time.strftime('%Y%m%d-%H%M%S')}")
    else:
        folder = options.out
    if jax.process_index() == 0:
        make_run_folder(folder)
        if source is not None:
            save_start(spec, folder, source.train_state)
    barrier("folder")
    return spec, folder


def resumed(options: argparse.Namespace) -> tuple[RunSpec, Path]:
    """A run that was begun, and its folder. Raises PPOError for options that would make it another one.

    Its number of timesteps may be another one, as long as that is more than is done.
    """
    is_own = options.env is not None and names_own_code(options.env)  # it is imported again
    allowed = (*_ON_RESUME, "env") if is_own else _ON_RESUME
    for name, value in vars(options).items():
        if name not in allowed and value is not None:
            raise PPOError(f"--resume goes on with the run as it is; leave out --{name.replace('_', '-')}")
    check_logs(options)
    bring_env(options.env)
    begun = load_spec(options.resume)
    if options.env not in (None, begun.env):
        raise PPOError(f"{options.resume} is a run of {begun.env}; leave out --env {options.env}")
    spec = dataclasses.replace(begun, **checkpoint_options(options))
    total = getattr(options, _TOTAL)
    spec = spec if total is None else extended(spec, options.resume, total)
    if spec.sweep is not None and (getattr(options, "tensorboard", None) or getattr(options, "wandb", None)):
        raise PPOError(
            f"{options.resume} is a sweep, whose settings train together; leave --tensorboard and --wandb out"
        )
    check_checkpoints(spec)
    if not is_finished(options.resume):
        check_not_lost(begun, options.resume)
    check_login(options)
    return spec, options.resume


def check_logs(options: argparse.Namespace) -> None:
    """Raises PPOError where the package of a log that is asked for is not installed."""
    for extra in ("tensorboard", "wandb"):
        if getattr(options, extra, None):
            check_installed(extra)


def check_login(options: argparse.Namespace) -> None:
    """Raises PPOError where a log that is asked for would let nobody in; before there is a folder."""
    if getattr(options, "wandb", None) and jax.process_index() == 0:
        check_wandb_login()


def checkpoint_options(options: argparse.Namespace) -> dict[str, Any]:
    """Those that are given, as fields of a RunSpec."""
    return {name: value for name in _CHECKPOINT_OPTIONS if (value := getattr(options, name)) is not None}


def evaluate(options: argparse.Namespace) -> int:
    """purejaxppo eval"""
    from purejaxppo.runs.console import print_table

    bring_env(options.env)
    play = {"gymnax": evaluate_run, "gymnasium": evaluate_in_gymnasium}[options.backend]
    run = load_run(options.folder)
    num_seeds = run.spec.num_seeds if options.seeds is None else min(options.seeds, run.spec.num_seeds)
    played = play(run, num_seeds, options.episodes, seed=options.seed, sampled=options.sampled)
    summary = summarise_evaluation(run.spec.solved_at, played) | {
        "backend": options.backend,
        "sampled": options.sampled,
    }
    if options.json is not None:
        write_json(options.json, summary)
    print_table(Console(), evaluation_table(summary))
    return 0


def render(options: argparse.Namespace) -> int:
    """purejaxppo render"""
    from purejaxppo.report import check_film, check_picture, film_episode

    bring_env(options.env)
    run = load_run(options.folder)
    check_picture(run.agent.env)
    seed = run.population.best() if options.seed is None else options.seed
    out = options.out or options.folder / f"seed-{seed}.gif"
    check_film(out)
    state, key = run.seed(seed).train_state, seed_keys(options.start, 1)[0]
    (episode,) = record_episodes(run.agent, state, key, max_steps=options.max_steps)
    last, length = film_episode(run.agent.env, episode, out), len(episode.reward)
    cut = f", cut by --max-steps {options.max_steps}: the episode had not ended" if episode.is_cut else ""
    part = f"; the film shows the first {last}" if last < length else ""
    print(f"seed {seed}: {length} steps, greedy return {np.sum(episode.reward):g}{cut}, in {out}{part}")
    return 0


def plot(options: argparse.Namespace) -> int:
    """purejaxppo plot"""
    from purejaxppo.report import plot_comparison
    from purejaxppo.runs.console import print_rows

    bring_env(options.env)
    each_once("plot", [(str(folder), folder) for folder in options.folders])
    labels = labels_of(options.folders)
    runs = {label: load_run(folder) for label, folder in zip(labels, options.folders, strict=True)}
    named = {run.spec.env for run in runs.values()}
    if len(named) > 1:
        raise PPOError(f"the runs are of {', '.join(sorted(named))}, whose returns do not compare; plot them apart")
    curves = [
        (label, run.population.timesteps, run.population.column("episode_return_mean")) for label, run in runs.items()
    ]
    returns = {label: run.population.final_returns() for label, run in runs.items()}
    env, note = named.pop(), describe_wins(returns) if len(runs) == 2 else None
    targets = [run.spec.solved_at for run in runs.values() if run.spec.solved_at is not None]
    plot_comparison(curves, options.out, title=env, solved_at=next(iter(targets), None), note=note)
    print_rows(Console(), comparison_rows(returns))
    print(f"drawn in {options.out}")
    return 0


def report(options: argparse.Namespace) -> int:
    """purejaxppo report"""
    from purejaxppo.report import write_report

    bring_env(options.env)
    print(f"written to {write_report(options.folder, options.out)}")
    return 0


def doctor(options: argparse.Namespace) -> int:
    """purejaxppo doctor"""
    from purejaxppo.cli.doctor import examine, examine_own
    from purejaxppo.runs.console import print_table

    use_all_cores()
    try:
        here = Path.cwd()
    except FileNotFoundError:
        raise PPOError("the working folder has been removed; go to another") from None
    if options.network is not None and options.env is None:
        raise PPOError("--network is looked at in an environment; give --env as well")
    own = []
    if options.env is not None:
        is_own = names_own_code(options.env) or options.env.endswith(".py")
        own = [find_own("env", options.env) if is_own else make_env(options.env)]
    if options.network is not None:
        own.append(find_own("network", options.network))
    findings = examine(here) + (examine_own(*own) if own else [])
    print_table(Console(), {f"{x.verdict:<8}{x.name}": x.text for x in findings})
    return 0 if all(x.is_well for x in findings) else 1


def bench(options: argparse.Namespace) -> int:
    """purejaxppo bench"""
    from purejaxppo.cli.bench.report import show_table
    from purejaxppo.cli.bench.run import make_plan, run_bench

    use_all_cores()
    config = PPOConfig(**given_fields(options, PPOConfig()))
    plan = make_plan(
        jax.default_backend(),
        config,
        seeds=options.seeds,
        timesteps=options.timesteps,
        repeats=options.repeats,
        quick=options.quick,
    )
    with Console(stderr=True).status("starting") as status:  # silent where there is no terminal
        report = run_bench(config, plan, say=status.update)
    print(show_table(report))
    if options.out is not None:
        write_json(options.out, report)
    return 0


def given_fields(options: argparse.Namespace, config: Config) -> dict[str, Any]:
    """The hyperparameters that the options set, by name."""
    chosen = {field.name: getattr(options, f"config.{field.name}", None) for field in dataclasses.fields(config)}
    return {name: value for name, value in chosen.items() if value is not None}


def envs(options: argparse.Namespace) -> int:
    """purejaxppo envs"""
    if options.suite is not None:
        print(*env_names(options.suite), sep="\n")  # to make each of them takes minutes
        return 0
    for name in env_names():
        env = make_env(name)
        print(f"{name:<26}{type(env.action_space).__name__:<10}{env.observation_space.__class__.__name__}")
    for suite in SUITES:
        found = f"purejaxppo envs {suite}" if is_installed(suite) else f'pip install "purejaxppo[{suite}]"'
        print(f"{suite + '/...':<26}{found}")
    return 0


def presets(_: argparse.Namespace) -> int:
    """purejaxppo presets"""
    for name, preset in PRESETS.items():
        size = f"{preset.num_seeds:>3} seeds x {preset.config.total_timesteps:>9,} steps"
        print(f"{name:<24}{preset.env:<25}{size}  {preset.summary}")
    return 0


def completion(options: argparse.Namespace) -> int:
    """purejaxppo completion"""
    print(completion_script(options.shell))
    return 0


def load_source(options: argparse.Namespace) -> LoadedRun | None:
    """The run of --init-from; None without it."""
    if options.init_from is None:
        return None
    bring_env(options.env)
    return load_run(options.init_from)


def make_spec(options: argparse.Namespace, source: LoadedRun | None = None) -> RunSpec:
    """The run that the options describe: the preset's, or that of `source`, with what they change.

    source: the run of --init-from, whose parameters it starts from; its seeds, and without --preset the rest, are the
        defaults
    """
    preset_name = options.preset
    if preset_name is None:
        preset_name = default_preset(options.env) if source is None else source.spec.preset
    preset = find_preset(preset_name)
    env_name, env_params, config, num_seeds = preset.env, {}, preset.config, preset.num_seeds
    if source is not None:
        num_seeds = source.spec.num_seeds
        if options.preset is None:
            env_name, env_params, config = source.spec.env, source.spec.env_params, source.config
    config = config.replace(**given_fields(options, config))
    if options.env not in (None, env_name):
        env_name, env_params = options.env, {}
    env_params = env_params | each_once("--env-param", options.env_param or [])
    bring_env(options.env)
    env = make_env(env_name, **env_params)
    points = make_points(env, config, read_sweep(options, config)) if options.command == "sweep" else None
    num_seeds = options.seeds or num_seeds
    start = make_start(None if source is None else source.train_state, num_seeds)
    for point in points or [{}]:
        agent = make_agent(*at_point(env, config, point))  # refuses here, before there is a folder
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
        placement=options.placement or "seeds",
        log_names=getattr(options, "log_names", None) or "sb3",
        init_from=None if options.init_from is None else str(options.init_from),
        **checkpoint_options(options),
    )


def read_sweep(options: argparse.Namespace, config: Config) -> dict[str, Any] | list[dict[str, Any]]:
    """The grid of the --over options, or with --random that many points drawn from them."""
    if not options.over:
        raise PPOError("a sweep needs --over NAME=VALUES, such as --over learning-rate=1e-4,3e-4")
    if options.random is None and options.random_seed is not None:
        raise PPOError(f"--random-seed {options.random_seed} would do nothing without --random N; leave it out")
    space: dict[str, Domain] = each_once("--over", options.over)
    for name, domain in space.items():
        if isinstance(getattr(config, name, None), tuple) and isinstance(domain, list):
            space[name] = [(value,) if isinstance(value, int) else value for value in domain]  # 64 is one layer
    if options.random is not None:
        return draw_points(options.random, space, options.random_seed or 0)
    for name, domain in space.items():
        if not isinstance(domain, list):
            raise PPOError(f"--over {name} is a range to draw from; say how many settings to draw with --random N")
    return space


def each_once(option: str, pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    """The values by name. Raises PPOError for a name that comes twice."""
    names = [name for name, _ in pairs]
    for name in names:
        if names.count(name) > 1:
            raise PPOError(f"{option} names {name} twice; give it once")
    return dict(pairs)


def has_pictures(folder: Path) -> bool:
    """Whether all pictures of a finished run are there."""
    return (folder / "report.html").exists()  # the last, which shows the others


def write_pictures(finished: FinishedRun, folder: Path) -> None:
    """A film of each kept policy where the environment can be drawn, report.html, and curves.png."""
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
    """sweep.png, the final greedy returns by setting, curves.png of the best settings, and report.html."""
    from purejaxppo.report import best_curves, plot_beside, plot_sweep, write_sweep_page

    sweep, env = finished.sweep, finished.spec.env
    solved_at, returns = finished.spec.solved_at, list(sweep.final_returns())
    place, what = folder / "sweep.png", "final greedy return"
    plot_sweep(sweep.points, returns, place, title=env, solved_at=solved_at, what=what)
    curves = best_curves(sweep)
    plot_beside(curves, folder / CURVES, title=f"{env}, the best settings", solved_at=solved_at)
    write_sweep_page(finished, curves, folder)


RUN = {
    "train": train,
    "sweep": train,
    "eval": evaluate,
    "render": render,
    "plot": plot,
    "report": report,
    "doctor": doctor,
    "bench": bench,
    "envs": envs,
    "presets": presets,
    "completion": completion,
}


if __name__ == "__main__":
    sys.exit(main())
