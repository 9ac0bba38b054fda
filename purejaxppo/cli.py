"""The commands: parsing and calling, nothing more."""

import argparse
import dataclasses
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from rich.console import Console

from purejaxppo import __version__
from purejaxppo.config import unknown
from purejaxppo.envs import env_names, make_env
from purejaxppo.full_batch import FullBatchMetrics
from purejaxppo.population.train import make_agent
from purejaxppo.runs.folder import make_run_folder
from purejaxppo.runs.presets import PRESETS, SOLVED_AT, Preset, find_preset
from purejaxppo.runs.train import FinishedRun, RunSpec, film_episodes, plan, table, train_run
from purejaxppo.types import PPOError

# What each option of --config.* means; the defaults are the preset's.
_CONFIG_HELP = {
    "num_envs": "environments stepped in parallel, for each seed",
    "num_steps": "steps of each environment in one rollout",
    "total_timesteps": "environment steps of each seed, over all its environments",
    "update_epochs": "passes over a rollout",
    "num_minibatches": "minibatches of one pass",
    "learning_rate": "of Adam, in the first update",
    "anneal_lr": "true or false: learning rate down to 0 in a line",
    "adam_eps": "Adam's epsilon",
    "gamma": "discount per step, 0 to 1",
    "gae_lambda": "lambda of the advantages, 0 to 1",
    "clip_eps": "the ratio stays within 1 +- this",
    "clip_value": "true or false: clip the value like the ratio",
    "vf_coef": "weight of the value loss",
    "ent_coef": "weight of the entropy bonus",
    "max_grad_norm": "global norm; inf does not clip",
    "normalize_advantage": "true or false, in each minibatch",
    "target_kl": "nats; an update's passes over the data end beyond it",
    "kl_stop": "epoch or minibatch: whose KL is compared",
    "kl_estimator": "approx_kl, or log_ratio as in the Keras example",
    "activation": "tanh, relu, gelu, silu or elu",
    "hidden_sizes": "of each tower, as 64,64",
    "policy_iterations": "full-batch steps of the policy in an update, at most",
    "value_iterations": "full-batch steps of the value in an update",
    "policy_learning_rate": "of the policy's Adam",
    "value_learning_rate": "of the value's Adam",
    "bootstrap_time_limits": "true or false: a time limit is worth V, not 0",
    "normalize_obs": "true or false: by running mean and standard deviation",
    "normalize_reward": "true or false: by the running scale of the return",
}


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
        "envs": add("envs", help="list the environments"),
    }
    _add_train_options(commands["train"], preset)
    commands["train"].set_defaults(run=train)
    commands["envs"].set_defaults(run=envs)
    return parser, commands


def train(options: argparse.Namespace) -> int:
    """purejaxppo train"""
    spec = make_spec(options)
    folder = options.out or Path("runs") / f"{spec.env}-{time.strftime('%Y%m%d-%H%M%S')}"
    make_run_folder(folder)

    from purejaxppo.runs.console import make_view, print_table

    console = Console(quiet=options.quiet)
    console.print(plan(spec), highlight=False, soft_wrap=True)
    with make_view(console, spec.config) as view:
        finished = train_run(spec, folder, view)
    write_pictures(finished, folder)
    print_table(console, table(finished, folder))
    return 0


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
    chosen = {field.name: getattr(options, f"config.{field.name}") for field in dataclasses.fields(preset.config)}
    config = preset.config.replace(**{name: value for name, value in chosen.items() if value is not None})
    env_name, env_params = options.env or preset.env, dict(options.env_param or [])
    make_agent(make_env(env_name, **env_params), config)  # refuses here, before there is a folder
    return RunSpec(
        env=env_name,
        env_params=env_params,
        config=config,
        num_seeds=options.seeds or preset.num_seeds,
        seed=options.seed,
        preset=preset_name,
    )


def default_preset(env_name: str | None) -> str:
    """The preset of a command that names none."""
    return "fast" if env_name is None or env_name.startswith("CartPole") else "cleanrl"


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


def _wide(prog: str) -> argparse.HelpFormatter:
    return argparse.HelpFormatter(prog, max_help_position=38, width=110)


def _add_train_options(parser: Parser, preset: Preset) -> None:
    presets = "; ".join(f"{name}: {entry.summary}" for name, entry in PRESETS.items())
    parser.add_argument(
        "--preset",
        metavar="NAME",
        help=f"settings to start from, fast by default for CartPole and else cleanrl ({presets})",
    )
    parser.add_argument(
        "--env", metavar="NAME", help="environment, the preset's by default; `purejaxppo envs` lists them"
    )
    parser.add_argument(
        "--env-param", metavar="NAME=NUMBER", action="append", type=_assignment, help="set an environment parameter"
    )
    parser.add_argument("--seeds", metavar="N", type=_whole(1), help="seeds, trained together; the preset's by default")
    parser.add_argument("--seed", metavar="N", type=_whole(0), default=0, help="the seed of them all (default 0)")
    parser.add_argument("--out", metavar="FOLDER", type=Path, help="run folder (default runs/ENV-DATE-TIME)")
    parser.add_argument("--quiet", action="store_true", help="print errors only")
    group = parser.add_argument_group("hyperparameters, the preset's by default")
    for field in dataclasses.fields(preset.config):
        group.add_argument(
            f"--config.{field.name.replace('_', '-')}",
            dest=f"config.{field.name}",
            metavar=_METAVARS.get(type(field.default), "X"),
            type=_reader(field.default),
            help=_CONFIG_HELP[field.name],
        )


_METAVARS = {int: "N", float: "X", bool: "BOOL", str: "NAME", tuple: "N,N"}


def _reader(default: Any) -> Callable[[str], Any]:
    """Reads the text of a config field, by the type of its default."""
    readers = {bool: _switch, int: _whole(1), float: _number, tuple: _sizes, str: str, type(None): _number}
    return readers[type(default)]


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number") from None


def _whole(least: int) -> Callable[[str], int]:
    def read(text: str) -> int:
        try:
            number = int(text.replace("_", ""))
        except ValueError:
            raise argparse.ArgumentTypeError(f"{text!r} is not a whole number") from None
        if number < least:
            raise argparse.ArgumentTypeError(f"{number} is below {least}")
        return number

    return read


def _switch(text: str) -> bool:
    if text.lower() not in ("true", "false"):
        raise argparse.ArgumentTypeError(f"{text!r} is neither true nor false")
    return text.lower() == "true"


def _sizes(text: str) -> tuple[int, ...]:
    return tuple(_whole(1)(part) for part in text.split(",") if part)


def _assignment(text: str) -> tuple[str, float]:
    name, equals, value = text.partition("=")
    if not equals:
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=NUMBER")
    number = _number(value)
    return name.replace("-", "_"), int(number) if number.is_integer() and "." not in value else number


if __name__ == "__main__":
    sys.exit(main())
