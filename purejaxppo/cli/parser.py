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
        options = [name for action in self._actions for name in action.option_strings]
        if not option.startswith(PREFIX):
            options = [without_prefix(name) for name in options]
        self.error(unknown("option", option, options))

    def add_short(self, action: argparse.Action) -> None:
        """Adds the name of a hyperparameter without its prefix, unless it is taken. The help does not mention it."""
        self._option_string_actions.setdefault(without_prefix(action.option_strings[0]), action)

    def short_names(self) -> dict[str, argparse.Action]:
        """The names that `add_short` has added."""
        return {name: x for name, x in self._option_string_actions.items() if name not in x.option_strings}

    def check_in_file(self, option: str, *, is_false: bool) -> None:
        """Exits with status 2 unless the option can be given like this in a file, outside of its tables."""
        if option in self.short_names():
            self.error(f"{option[2:]} is a hyperparameter; put it into the table [config]")
        if is_false and option not in self._option_string_actions:
            self.refuse(option)
        if is_false and self._option_string_actions[option].nargs != 0:
            self.error(f"argument {option}: false is not a value of it; give another, or leave it out")


class Command(NamedTuple):
    """One command: what its help says, its options, and the function that runs it."""

    about: str  # in the list of commands, and at the top of its own help
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


def without_prefix(option: str) -> str:
    """The short name of an option: --learning-rate"""
    return option.replace(PREFIX, "--", 1)


def presets_with(option: str) -> list[str]:
    """The presets that have the hyperparameter of this option."""
    short = without_prefix(option)
    return [
        name
        for name, preset in PRESETS.items()
        if short in [without_prefix(config_option(field.name)) for field in dataclasses.fields(preset.config)]
    ]
