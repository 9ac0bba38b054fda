"""The commands: parsing and calling, nothing more."""

import argparse
import dataclasses
import signal
import sys
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, NoReturn

import jax
import jax.numpy as jnp
import numpy as np
from rich.console import Console

from purejaxppo import __version__
from purejaxppo.config import PPOConfig, unknown
from purejaxppo.devices import use_all_cores
from purejaxppo.envs import env_names, make_env
from purejaxppo.evaluate import record_episodes
from purejaxppo.full_batch import FullBatchMetrics
from purejaxppo.options import file_to_write, one_of, read_assignment, read_bytes, read_domain, reader_of, whole_from
from purejaxppo.population.memory import describe_plan
from purejaxppo.population.placement import PLACEMENTS
from purejaxppo.population.processes import barrier, join, leave
from purejaxppo.population.program import make_agent
from purejaxppo.population.sweep import (
    ENV,
    Domain,
    RunConfig,
    at_point,
    draw_points,
    make_points,
    show_value,
)
from purejaxppo.ppo import seed_keys
from purejaxppo.runs.finished import (
    comparison_rows,
    evaluate_in_gymnasium,
    evaluate_run,
    evaluation_table,
    summarise_evaluation,
)
from purejaxppo.runs.folder import make_run_folder
from purejaxppo.runs.presets import PRESETS, SOLVED_AT, Preset, default_preset, find_preset
from purejaxppo.runs.train import (
    FinishedRun,
    FinishedSweep,
    RunSpec,
    film_episodes,
    is_finished,
    load_run,
    load_spec,
    plan,
    sweep_rows,
    sweep_table,
    table,
    train_run,
)
from purejaxppo.storage import write_json
from purejaxppo.types import Interrupted, PPOError

_PROCESS_OPTIONS = ("cluster", "coordinator", "num_processes", "process_id", "heartbeat")
COMPARED = 6  # settings in the curves of a sweep

# What each option of --config.* means; the defaults are the preset's.
_CONFIG_HELP = {
    "num_envs": "environments stepped in parallel, for each seed",
    "num_steps": "steps of each environment in one rollout",
    "total_timesteps": "environment steps of each seed, over all its environments",
    "update_epochs": "passes over a rollout",
    "num_minibatches": "minibatches of one pass",
    "learning_rate": "of Adam, in the first update",
    "anneal_lr": "true or false: the learning rate follows lr-schedule",
    "lr_schedule": "linear or cosine, to 0 at the end; constant; or adaptive, which follows the KL",
    "desired_kl": "nats; where the adaptive rate holds the mean KL of an update",
    "adam_eps": "Adam's epsilon",
    "gamma": "discount per step, 0 to 1",
    "gae_lambda": "lambda of the advantages, 0 to 1",
    "clip_eps": "the ratio stays within 1 +- this",
    "clip_eps_schedule": "constant; linear or cosine, to 0 at the end",
    "clip_value": "true or false: clip the value like the ratio",
    "vf_coef": "weight of the value loss",
    "ent_coef": "weight of the entropy bonus",
    "ent_coef_schedule": "constant; linear or cosine, to 0 at the end",
    "max_grad_norm": "global norm; inf does not clip",
    "normalize_advantage": "true or false: to mean 0 and standard deviation 1",
    "normalize_advantage_over": "each minibatch, or the whole batch",
    "target_kl": "nats; an update's passes over the data end beyond it",
    "kl_stop": "epoch or minibatch: whose KL is compared",
    "kl_estimator": "approx_kl, or log_ratio as in the Keras example",
    "activation": "tanh, relu, gelu, silu or elu",
    "hidden_sizes": "of each tower, as 64,64",
    "cell": "gru or lstm: what remembers",
    "cell_size": "numbers in the memory of each tower",
    "sequence_length": "steps that a gradient goes back; all of a rollout by default",
    "box_policy": "clipped or squashed: how a Gaussian keeps to the bounds of a Box",
    "box_std": "shared or state: one standard deviation for all states, or a function of the state",
    "policy_iterations": "full-batch steps of the policy in an update, at most",
    "value_iterations": "full-batch steps of the value in an update",
    "policy_learning_rate": "of the policy's Adam",
    "value_learning_rate": "of the value's Adam",
    "bootstrap_time_limits": "true or false: a time limit is worth V, not 0",
    "normalize_obs": "true or false: by running mean and standard deviation",
    "normalize_reward": "true or false: by the running scale of the return",
}


class StopSignal(AbstractContextManager):
    """Notes the first Ctrl-C or SIGTERM for the training to see; the second one ends it where it is."""

    def __init__(self) -> None:
        self.number = signal.SIGINT
        self._noted = False
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> "StopSignal":
        self._before = {each: signal.signal(each, self._note) for each in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *_: Any) -> None:
        for each, handler in self._before.items():
            signal.signal(each, handler)

    def is_set(self) -> bool:
        """Whether a signal has come."""
        return self._noted

    def _note(self, number: int, _: Any) -> None:
        self.number = signal.Signals(number)
        if self._noted:
            raise KeyboardInterrupt
        self._noted = True
        print("purejaxppo: stopping at the next report; once more to stop at once", file=sys.stderr, flush=True)


class Parser(argparse.ArgumentParser):
    """argparse, with one line for an error, and the nearest option for an unknown one."""

    def __init__(self, **options: Any) -> None:
        super().__init__(allow_abbrev=False, **options)

    def error(self, message: str) -> NoReturn:
        """Leaves with status 2."""
        prefix = "unrecognized arguments: "
        if message.startswith(prefix):
            option = next(word for word in message.removeprefix(prefix).split(" "))
            message = unknown("option", option.split("=")[0], [o for a in self._actions for o in a.option_strings])
        self.exit(2, f"{self.prog}: error: {message}\n")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command. -> exit status: 0 done, 2 bad input"""
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        parser, commands = make_parser(chosen_preset(words))
        known, rest = parser.parse_known_args(words)
        if rest:
            commands[known.command].error("unrecognized arguments: " + " ".join(rest))
        return known.run(known)
    except PPOError as error:
        print(f"purejaxppo: error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("purejaxppo: interrupted", file=sys.stderr)
        return 130


def chosen_preset(words: Sequence[str]) -> Preset:
    """The preset that the words name: its algorithm decides which hyperparameters there are."""
    parser = Parser(add_help=False)
    parser.add_argument("--preset", nargs="?")
    parser.add_argument("--env", nargs="?")
    known, _ = parser.parse_known_args(words)
    return find_preset(known.preset or default_preset(known.env))


def make_parser(preset: Preset) -> tuple[Parser, dict[str, Parser]]:
    """The parser, and that of each command."""
    parser = Parser(prog="purejaxppo", description="PPO in JAX: thousands of seeds in one compiled program.")
    parser.add_argument("--version", action="version", version=f"purejaxppo {__version__}")
    add = parser.add_subparsers(dest="command", required=True, metavar="COMMAND", parser_class=Parser).add_parser
    commands = {
        "train": add("train", help="train a population of seeds, and write its run folder", formatter_class=_wide),
        "sweep": add("sweep", help="train settings beside each other, each with seeds", formatter_class=_wide),
        "eval": add("eval", help="play new episodes with the policies of a run", formatter_class=_wide),
        "render": add("render", help="film an episode of a run", formatter_class=_wide),
        "plot": add("plot", help="draw one run, or several beside each other", formatter_class=_wide),
        "doctor": add("doctor", help="look at this machine and installation", formatter_class=_wide),
        "bench": add(
            "bench", help="measure speed, and how far it is from this machine's limits", formatter_class=_wide
        ),
        "envs": add("envs", help="list the environments"),
    }
    _add_eval_options(commands["eval"])
    _add_render_options(commands["render"])
    _add_plot_options(commands["plot"])
    _add_bench_options(commands["bench"])
    _add_sweep_options(commands["sweep"])
    for name in ("train", "sweep"):
        _add_run_options(commands[name], preset)
        commands[name].set_defaults(run=train)
    runs = {"eval": evaluate, "render": render, "plot": plot, "doctor": doctor, "bench": bench, "envs": envs}
    for name, run in runs.items():
        commands[name].set_defaults(run=run)
    return parser, commands


def train(options: argparse.Namespace) -> int:
    """purejaxppo train, purejaxppo sweep"""
    if options.cluster or any(x is not None for x in (options.coordinator, options.num_processes, options.process_id)):
        join_processes(options)
    spec, folder = resumed(options) if options.resume else started(options)

    from purejaxppo.runs.console import make_view, print_rows, print_table

    console = Console(quiet=options.quiet or jax.process_index() > 0)  # the first process speaks for all
    if options.resume and is_finished(folder):
        console.print(f"{folder} is finished; nothing is left to train", highlight=False, soft_wrap=True)
        leave()
        return 0
    console.print(plan(spec), highlight=False, soft_wrap=True)
    stop = StopSignal()
    try:
        with stop, make_view(console, spec) as view:
            finished = train_run(
                spec,
                folder,
                view,
                memory_limit=options.memory_limit,
                checkpoint_every=options.checkpoint_every,
                should_stop=stop.is_set,
                on_plan=lambda memory: view.say(describe_plan(memory)),
            )
    except (Interrupted, KeyboardInterrupt) as reason:
        text = f"{reason}; its state is kept" if isinstance(reason, Interrupted) else "interrupted"
        print(f"purejaxppo: {text}; go on with --resume {folder}", file=sys.stderr)
        return 128 + stop.number
    if isinstance(finished, FinishedSweep):
        write_sweep_pictures(finished, folder)
        print_rows(console, sweep_rows(finished))
        print_table(console, sweep_table(finished, folder))
    elif finished is not None:
        write_pictures(finished, folder)
        print_table(console, table(finished, folder))
    leave()
    return 0


def join_processes(options: argparse.Namespace) -> None:
    """Joins the processes that share the run. Raises PPOError for options that they would not share."""
    if options.out is None and options.resume is None:
        raise PPOError("several processes need one run folder, on a disk that they share; give --out or --resume")
    join(
        options.coordinator,
        options.num_processes,
        options.process_id,
        heartbeat_seconds=options.heartbeat,
        remedy=f"what is finished is kept; go on with --resume {options.out or options.resume} in all processes",
    )


def started(options: argparse.Namespace) -> tuple[RunSpec, Path]:
    """A new run and its empty folder."""
    spec = make_spec(options)
    folder = options.out or Path("runs") / f"{spec.env}-{time.strftime('%Y%m%d-%H%M%S')}"
    if jax.process_index() == 0:
        make_run_folder(folder)
    barrier("folder")
    return spec, folder


def resumed(options: argparse.Namespace) -> tuple[RunSpec, Path]:
    """A run that was begun, and its folder. Raises PPOError for options that would make it another one."""
    with_it = ("command", "run", "resume", "quiet", "memory_limit", "checkpoint_every", *_PROCESS_OPTIONS)
    for name, value in vars(options).items():
        if name not in with_it and value is not None:
            raise PPOError(f"--resume goes on with the run as it is; leave out --{name.replace('_', '-')}")
    return load_spec(options.resume), options.resume


def evaluate(options: argparse.Namespace) -> int:
    """purejaxppo eval"""
    from purejaxppo.runs.console import print_table

    play = {"gymnax": evaluate_run, "gymnasium": evaluate_in_gymnasium}[options.backend]
    run = load_run(options.folder)
    num_seeds = run.spec.num_seeds if options.seeds is None else min(options.seeds, run.spec.num_seeds)
    returns = play(run, num_seeds, options.episodes, seed=options.seed, sampled=options.sampled)
    summary = summarise_evaluation(run.spec.env, returns) | {"backend": options.backend, "sampled": options.sampled}
    if options.json is not None:
        write_json(options.json, summary)
    print_table(Console(), evaluation_table(summary))
    return 0


def render(options: argparse.Namespace) -> int:
    """purejaxppo render"""
    from purejaxppo.report import check_drawing, film_episode

    run = load_run(options.folder)
    check_drawing(run.spec.env)
    seed = run.population.best() if options.seed is None else options.seed
    state = jax.tree.map(lambda x: jnp.asarray(x)[None], run.seed(seed).train_state)
    episode = record_episodes(run.agent, state, seed_keys(options.start, 1)[0], max_steps=options.max_steps)[0]
    out = options.out or options.folder / f"seed-{seed}.gif"
    film_episode(run.spec.env, episode, out)
    print(f"seed {seed}: {len(episode.reward)} steps, return {np.sum(episode.reward):g}, in {out}")
    return 0


def plot(options: argparse.Namespace) -> int:
    """purejaxppo plot"""
    from purejaxppo.report import plot_comparison
    from purejaxppo.runs.console import print_rows

    runs = {str(folder): load_run(folder) for folder in options.folders}
    named = {run.spec.env for run in runs.values()}
    if len(named) > 1:
        raise PPOError(f"the runs are of {', '.join(sorted(named))}, whose returns do not compare; plot them apart")
    curves = [
        (label, run.population.column("timesteps")[0], run.population.column("episode_return_mean"))
        for label, run in runs.items()
    ]
    plot_comparison(curves, options.out, title=(env := named.pop()), solved_at=SOLVED_AT.get(env))
    print_rows(Console(), comparison_rows({label: run.population.final_returns() for label, run in runs.items()}))
    print(f"drawn in {options.out}")
    return 0


def doctor(options: argparse.Namespace) -> int:
    """purejaxppo doctor"""
    from purejaxppo.doctor import examine
    from purejaxppo.runs.console import print_table

    use_all_cores()
    findings = examine(Path.cwd())
    print_table(Console(), {f"{'ok' if x.is_well else 'NOT OK':<8}{x.name}": x.text for x in findings})
    return 0 if all(x.is_well for x in findings) else 1


def bench(options: argparse.Namespace) -> int:
    """purejaxppo bench"""
    from purejaxppo.bench.report import show_table
    from purejaxppo.bench.run import make_plan, run_bench

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


def given_fields(options: argparse.Namespace, config: RunConfig) -> dict[str, Any]:
    """The hyperparameters that the options set, by name."""
    chosen = {field.name: getattr(options, f"config.{field.name}", None) for field in dataclasses.fields(config)}
    return {name: value for name, value in chosen.items() if value is not None}


def envs(options: argparse.Namespace) -> int:
    """purejaxppo envs"""
    for name in env_names():
        env = make_env(name)
        print(f"{name:<26}{type(env.action_space).__name__:<10}{env.observation_space.__class__.__name__}")
    return 0


def make_spec(options: argparse.Namespace) -> RunSpec:
    """The run that the options describe: the preset's, with what they change."""
    preset_name = options.preset or default_preset(options.env)
    preset = find_preset(preset_name)
    config = preset.config.replace(**given_fields(options, preset.config))
    env_name, env_params = options.env or preset.env, dict(options.env_param or [])
    env = make_env(env_name, **env_params)
    points = make_points(env, config, read_sweep(options, config)) if options.command == "sweep" else None
    for point in points or [{}]:
        make_agent(*at_point(env, config, point))  # refuses here, before there is a folder
    return RunSpec(
        env=env_name,
        env_params=env_params,
        config=config,
        num_seeds=options.seeds or preset.num_seeds,
        seed=options.seed or 0,
        preset=preset_name,
        sweep=None if points is None else tuple(points),
        placement=options.placement or "seeds",
    )


def read_sweep(options: argparse.Namespace, config: RunConfig) -> dict[str, Any] | list[dict[str, Any]]:
    """The grid of the --over options, or with --random that many points drawn from them."""
    if not options.over:
        raise PPOError("a sweep needs --over NAME=VALUES, such as --over learning-rate=1e-4,3e-4")
    space: dict[str, Domain] = dict(options.over)
    for name, domain in space.items():
        if isinstance(getattr(config, name, None), tuple) and isinstance(domain, list):
            space[name] = [(value,) if isinstance(value, int) else value for value in domain]  # 64 is one layer
    if options.random is not None:
        return draw_points(options.random, space, options.random_seed or 0)
    for name, domain in space.items():
        if not isinstance(domain, list):
            raise PPOError(f"--over {name} is a range to draw from; say how many settings to draw with --random N")
    return space


def write_pictures(finished: FinishedRun, folder: Path) -> None:
    """curves.png, and a film of each kept policy where the environment can be drawn."""
    from purejaxppo.report import film_episode, has_drawing, plot_curves, plot_keras_curve

    metrics, env = finished.population.metrics, finished.spec.env
    if isinstance(metrics, FullBatchMetrics):
        plot_keras_curve(np.asarray(metrics.epoch_return_mean), folder / "curves.png", title=f"{env}, full-batch PPO")
    else:
        plot_curves(
            np.asarray(metrics.timesteps)[0],
            np.asarray(metrics.episode_return_mean),
            folder / "curves.png",
            title=env,
            solved_at=SOLVED_AT.get(env),
        )
    if has_drawing(env):
        for name, episode in film_episodes(finished).items():
            film_episode(env, episode, folder / f"{name}.gif")


def write_sweep_pictures(finished: FinishedSweep, folder: Path) -> None:
    """sweep.png, the final returns by setting, and curves.png of the best settings."""
    from purejaxppo.report import plot_comparison, plot_sweep

    sweep, env = finished.sweep, finished.spec.env
    solved_at = SOLVED_AT.get(env)
    plot_sweep(sweep.points, list(sweep.final_returns()), folder / "sweep.png", title=env, solved_at=solved_at)
    curves = [
        (
            ", ".join(f"{name.removeprefix(ENV)} {show_value(value)}" for name, value in row.point.items()),
            np.asarray(sweep[row.setting].column("timesteps"))[0],
            np.asarray(sweep[row.setting].column("episode_return_mean")),
        )
        for row in sweep.table()[:COMPARED]
    ]
    plot_comparison(curves, folder / "curves.png", title=f"{env}, the best settings", solved_at=solved_at)


def _wide(prog: str) -> argparse.HelpFormatter:
    return argparse.HelpFormatter(prog, max_help_position=38, width=110)


def _add_eval_options(parser: Parser) -> None:
    parser.add_argument("folder", metavar="RUN", type=Path, help="run folder")
    parser.add_argument("--episodes", metavar="N", type=whole_from(1), default=100, help="of each seed (default 100)")
    parser.add_argument("--seeds", metavar="N", type=whole_from(1), help="the first N seeds only (default all)")
    parser.add_argument("--seed", metavar="N", type=whole_from(0), default=1, help="of the episodes (default 1)")
    parser.add_argument("--sampled", action="store_true", help="draw actions as in training, not the most probable")
    parser.add_argument(
        "--backend",
        metavar="NAME",
        type=one_of(["gymnax", "gymnasium"]),
        default="gymnax",
        help="gymnax: as trained (default); gymnasium: Gymnasium's own environment of that name",
    )
    parser.add_argument("--json", metavar="FILE", type=file_to_write(".json"), help="write the numbers there too")


def _add_render_options(parser: Parser) -> None:
    parser.add_argument("folder", metavar="RUN", type=Path, help="run folder")
    parser.add_argument("--seed", metavar="I", type=whole_from(0), help="which seed's policy (default the best)")
    parser.add_argument("--start", metavar="N", type=whole_from(0), default=0, help="seed of the episode (default 0)")
    parser.add_argument(
        "--max-steps", metavar="N", type=whole_from(1), default=1_000, help="of the episode (default 1000)"
    )
    parser.add_argument("--out", metavar="FILE", type=file_to_write(".gif"), help="the film (default RUN/seed-I.gif)")


def _add_plot_options(parser: Parser) -> None:
    parser.add_argument("folders", metavar="RUN", type=Path, nargs="+", help="run folders, up to 8 of one environment")
    parser.add_argument(
        "--out",
        metavar="FILE",
        type=file_to_write(".png"),
        default=Path("comparison.png"),
        help="the picture (default comparison.png)",
    )


def _add_sweep_options(parser: Parser) -> None:
    parser.add_argument(
        "--over",
        metavar="NAME=VALUES",
        action="append",
        type=read_domain,
        help="values of a hyperparameter or environment parameter: learning-rate=1e-4,3e-4  hidden-sizes=64x64,128  "
        "env.length=0.5,1; or a range for --random: learning-rate=log:1e-5:1e-2  gamma=uniform:0.9:0.999. "
        "Several make a grid",
    )
    parser.add_argument("--random", metavar="N", type=whole_from(1), help="draw N settings instead of the whole grid")
    parser.add_argument("--random-seed", metavar="N", type=whole_from(0), help="of the draw (default 0)")


def _add_run_options(parser: Parser, preset: Preset) -> None:
    presets = "; ".join(f"{name}: {entry.summary}" for name, entry in PRESETS.items())
    parser.add_argument(
        "--preset",
        metavar="NAME",
        help=f"settings to start from, by default those of the environment's family, or else cleanrl ({presets})",
    )
    parser.add_argument(
        "--env", metavar="NAME", help="environment, the preset's by default; `purejaxppo envs` lists them"
    )
    parser.add_argument(
        "--env-param", metavar="NAME=NUMBER", action="append", type=read_assignment, help="set an environment parameter"
    )
    parser.add_argument(
        "--seeds", metavar="N", type=whole_from(1), help="seeds, trained together; the preset's by default"
    )
    parser.add_argument("--seed", metavar="N", type=whole_from(0), help="the seed of them all (default 0)")
    parser.add_argument("--out", metavar="FOLDER", type=Path, help="run folder (default runs/ENV-DATE-TIME)")
    parser.add_argument(
        "--resume", metavar="FOLDER", type=Path, help="go on with an interrupted run; what is finished stays"
    )
    parser.add_argument(
        "--checkpoint-every",
        metavar="N",
        type=whole_from(1),
        help="updates between two checkpoints of the seeds in training; Ctrl-C and SIGTERM write one as well",
    )
    parser.add_argument(
        "--memory-limit",
        metavar="SIZE",
        type=read_bytes,
        help="4GiB, 500MB, ...; more seeds than fit are trained in chunks (default 90%% of what is free)",
    )
    parser.add_argument(
        "--placement",
        metavar="NAME",
        type=one_of(PLACEMENTS),
        help="seeds: the runs spread over the devices (default); data: the environments of each run",
    )
    group = parser.add_argument_group("several processes, on one machine or many, that share the run folder")
    group.add_argument("--cluster", action="store_true", help="as SLURM, GKE or Cloud TPU has started them")
    group.add_argument("--coordinator", metavar="HOST:PORT", help="of process 0; with the next two, for any others")
    group.add_argument("--num-processes", metavar="N", type=whole_from(1), help="how many there are")
    group.add_argument("--process-id", metavar="I", type=whole_from(0), help="which this one is, from 0")
    group.add_argument(
        "--heartbeat", metavar="SECONDS", type=whole_from(1), default=100, help="until a lost machine is noticed (100)"
    )
    parser.add_argument("--quiet", action="store_true", help="print errors only")
    _add_config_options(parser, preset.config, "hyperparameters, the preset's by default")


def _add_bench_options(parser: Parser) -> None:
    parser.add_argument("--quick", action="store_true", help="tiny sizes, for a first look: the numbers mean little")
    parser.add_argument(
        "--seeds",
        metavar="N",
        nargs="+",
        type=whole_from(1),
        help="populations to train, one after the other (default 1 16 64 256 on a CPU, 1 64 1024 2048 8192 elsewhere)",
    )
    parser.add_argument(
        "--timesteps",
        metavar="N",
        type=whole_from(1),
        help="environment steps of each seed (default 100,000 on a CPU, 500,000 elsewhere)",
    )
    parser.add_argument(
        "--repeats",
        metavar="N",
        type=whole_from(1),
        help="of each measurement, in turn; the median is shown (default 5)",
    )
    parser.add_argument("--out", metavar="FILE", type=file_to_write(".json"), help="write all that was measured there")
    _add_config_options(parser, PPOConfig(), "hyperparameters, PPOConfig's by default", without=("total_timesteps",))


def _add_config_options(parser: Parser, config: RunConfig, title: str, without: Sequence[str] = ()) -> None:
    group = parser.add_argument_group(title)
    for field in dataclasses.fields(config):
        if field.name in without:
            continue
        group.add_argument(
            f"--config.{field.name.replace('_', '-')}",
            dest=f"config.{field.name}",
            metavar=_METAVARS.get(field.type, "X"),
            type=reader_of(field.type),
            help=_CONFIG_HELP[field.name],
        )


_METAVARS: dict[Any, str] = {int: "N", int | None: "N", bool: "BOOL", str: "NAME", tuple[int, ...]: "N,N"}


if __name__ == "__main__":
    sys.exit(main())
