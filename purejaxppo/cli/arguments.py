"""All commands by name, and how the words of the command line and the TOML file that --config names are read."""

import argparse
import dataclasses
from collections.abc import Sequence
from pathlib import Path

from purejaxppo import __version__
from purejaxppo.cli.bench.command import BENCH
from purejaxppo.cli.completion import COMPLETION
from purejaxppo.cli.doctor.command import DOCTOR
from purejaxppo.cli.finished import EVALUATE, EXPORT, PLOT, RENDER, REPORT, REPRODUCE
from purejaxppo.cli.lists import ENVS, LIST_PRESETS
from purejaxppo.cli.option_types import a_path
from purejaxppo.cli.parser import Command, Parser
from purejaxppo.cli.train import SWEEP, TRAIN
from purejaxppo.runs.own_agent import bring_agent
from purejaxppo.runs.presets import Preset, default_preset, find_preset
from purejaxppo.runs.run_file import read_words
from purejaxppo.utils.files import read_json
from purejaxppo.utils.suggest import unknown

COMMANDS: dict[str, Command] = {
    "train": TRAIN,
    "sweep": SWEEP,
    "eval": EVALUATE,
    "render": RENDER,
    "plot": PLOT,
    "report": REPORT,
    "export": EXPORT,
    "reproduce": REPRODUCE,
    "doctor": DOCTOR,
    "bench": BENCH,
    "envs": ENVS,
    "presets": LIST_PRESETS,
    "completion": COMPLETION,
}
_EXAMPLES = """examples:
  purejaxppo train                                   train 16 seeds on CartPole-v1, in seconds
  purejaxppo train --env Acrobot-v1 --seeds 64       with the preset for that environment
  purejaxppo eval runs/a --episodes 1000             play new episodes with the trained policies
  purejaxppo COMMAND --help                          show all options of a command"""


def read_options(words: Sequence[str]) -> argparse.Namespace:
    """The options that the words give, and for the others those of the file that --config names."""
    path = first_options(words, "--config").config if words[:1] in (["train"], ["sweep"]) else None
    of_file, switched_off = ([], []) if path is None else read_words(a_path(path))
    parser, commands = make_parser(chosen_preset([*words[:1], *of_file, *words[1:]]))
    check_command(commands, parser, words)
    given = parse(parser, commands, words)
    if path is None:
        return given
    command = commands[words[0]]
    command.source = f"{path}: "
    for word in [*of_file, *switched_off]:
        command.check_in_file(word.split("=")[0], is_false=word in switched_off)
    return merged(command, parse(parser, commands, [words[0], *of_file]), given)


def first_options(words: Sequence[str], *options: str) -> argparse.Namespace:
    """The values of some options, which decide what the others are."""
    parser = Parser(add_help=False)
    for name in options:
        parser.add_argument(name, nargs="?")
    return parser.parse_known_args(words)[0]


def parse(parser: Parser, commands: dict[str, Parser], words: Sequence[str]) -> argparse.Namespace:
    """The options of one command. Exits with status 2 for a word that it does not have."""
    known, rest = parser.parse_known_args(words)
    if rest:
        commands[known.command].refuse(rest[0])
    return known


def merged(command: Parser, base: argparse.Namespace, given: argparse.Namespace) -> argparse.Namespace:
    """The options given, and for the others those of `base`; lists of names and values are merged name by name."""
    options = vars(given).copy()
    for name, value in vars(base).items():
        if options[name] == command.get_default(name):
            options[name] = value
        elif isinstance(value, list):
            again = {name for name, _ in options[name]}
            options[name] = [pair for pair in value if pair[0] not in again] + options[name]
    return argparse.Namespace(**options)


def check_command(commands: dict[str, Parser], parser: Parser, words: Sequence[str]) -> None:
    """Exits with status 2 unless the words begin with a command, or ask for help or the version."""
    if not words:
        parser.error(f"no command is given; take one of {', '.join(commands)}, or --help")
    for word in words:
        if not word.startswith("-"):
            if word not in commands:
                parser.error(unknown("command", word, list(commands)))
            return
        if word not in ("-h", "--help", "--version"):
            parser.refuse(word)


def chosen_preset(words: Sequence[str]) -> Preset:
    """The preset that the words name: its algorithm decides which hyperparameters there are.

    Imports the agent that --agent names; if its file defines a config, that takes the place of the preset's.
    """
    known = first_options(words, "--preset", "--env", "--init-from", "--agent")
    if known.preset is None and known.init_from:
        known.preset = read_json(Path(known.init_from) / "config.json").get("preset")
    preset = find_preset(default_preset(known.env) if known.preset is None else known.preset)
    own = bring_agent(known.agent)
    return preset if own is None or own.config is None else dataclasses.replace(preset, config=own.config)


def make_parser(preset: Preset) -> tuple[Parser, dict[str, Parser]]:
    """The parser of all words, and the parser of each command by name."""
    parser = Parser(
        prog="purejaxppo",
        usage="purejaxppo COMMAND [OPTION ...]",
        description="PPO in JAX: trains thousands of seeds in one compiled program.",
        epilog=_EXAMPLES,
    )
    parser.add_argument("--version", action="version", version=f"purejaxppo {__version__}")
    subparsers = parser.add_subparsers(
        title="commands", dest="command", required=True, metavar="COMMAND", parser_class=Parser, prog=parser.prog
    )
    commands = {}
    for name, command in COMMANDS.items():
        commands[name] = subparsers.add_parser(
            name,
            usage=command.usage,
            help=command.about,
            description=command.about,
            epilog=f"examples:\n{command.examples}",
        )
        command.add_options(commands[name], preset)
    return parser, commands
