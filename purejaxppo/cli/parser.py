"""argparse, with errors of one line and the right option for a misspelled one.

It stays because it comes with Python: no dependency, nothing to load at start-up, and error lines of our own.
"""

import argparse
import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple, NoReturn

from purejaxppo.runs.presets import PRESETS, Preset
from purejaxppo.utils.suggest import unknown

PREFIX = "--config."  # of the option of a hyperparameter


class Parser(argparse.ArgumentParser):
    """Reads the words of one command."""

    def __init__(self, **options: Any) -> None:
        super().__init__(allow_abbrev=False, formatter_class=wide, **options)
        self.source = ""  # "FILE: " while the words come from a file

    def error(self, message: str) -> NoReturn:
        """Exits with status 2."""
        self.exit(2, f"{self.prog}: error: {self.source}{' '.join(message.splitlines())}\n")

    def refuse(self, word: str) -> NoReturn:
        """Exits with status 2 because this command does not have the option."""
        option = word.split("=")[0]
        if not option.startswith("-"):
            self.error(f"{word!r} is one word too many; leave it out, or see {self.prog} --help")
        presets = [] if "--preset" not in self._option_string_actions else presets_with(option)
        if presets:
            self.error(f"the preset has no {option}; take --preset {presets[0]}, which has it")
        self.error(unknown("option", option, self.options(short=not option.startswith(PREFIX))))

    def add_short(self, option: str, action: argparse.Action) -> None:
        """Adds a second, shorter name of an option, unless it is taken. The help does not mention it."""
        self._option_string_actions.setdefault(option, action)

    def options(self, *, short: bool) -> list[str]:
        """All options, each under one name: the shorter one, or the one in the help."""
        names = {id(action): name for name, action in self._option_string_actions.items() if is_short(name, action)}
        return [
            names.get(id(action), name) if short else name
            for name, action in self._option_string_actions.items()
            if not is_short(name, action)
        ]

    def check_in_file(self, option: str) -> None:
        """Exits with status 2 for a hyperparameter outside of the table [config] of a file."""
        action = self._option_string_actions.get(option)
        if action is not None and is_short(option, action):
            self.error(f"{option[2:]} is a hyperparameter; put it into the table [config]")

    def check_switch(self, option: str) -> None:
        """Exits with status 2 unless the option is a switch, which a file may set to false."""
        if option not in self._option_string_actions:
            self.refuse(option)
        if self._option_string_actions[option].nargs != 0:
            self.error(f"argument {option}: false is not a value of it; give another, or leave it out")


class Command(NamedTuple):
    """One command: what its help says, its options, and the function that runs it."""

    summary: str  # its line in `purejaxppo --help`
    about: str  # the first line of its own help
    examples: str
    add_options: Callable[[Parser, Preset], None]  # train and sweep show the preset's values as defaults
    run: Callable[[argparse.Namespace], int]  # -> exit status
    usage: str | None = None


def wide(prog: str) -> argparse.HelpFormatter:
    """Help with one option per line."""
    return argparse.RawDescriptionHelpFormatter(prog, max_help_position=38, width=120)


def config_option(name: str) -> str:
    """The option of a hyperparameter: --config.learning-rate"""
    return PREFIX + name.replace("_", "-")


def short_option(name: str) -> str:
    """The same option without its prefix: --learning-rate"""
    return "--" + name.replace("_", "-")


def is_short(option: str, action: argparse.Action) -> bool:
    """True if `option` is a name that `Parser.add_short` gave to the action."""
    return option not in action.option_strings


def presets_with(option: str) -> list[str]:
    """The presets that have the hyperparameter of this option."""
    return [
        name
        for name, preset in PRESETS.items()
        if any(option in (config_option(x.name), short_option(x.name)) for x in dataclasses.fields(preset.config))
    ]
