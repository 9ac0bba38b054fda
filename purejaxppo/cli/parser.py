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
        options = [name for action in self._actions for name in action.option_strings]
        presets = [] if "--preset" not in options else presets_with(option)
        if presets:
            self.error(f"the preset has no {option}; take --preset {presets[0]}, which has it")
        self.error(unknown("option", option, options))

    def check_switch(self, option: str) -> None:
        """Exits with status 2 unless the option is a switch, which a file may set to false."""
        if option not in self._option_string_actions:
            self.refuse(option)
        if self._option_string_actions[option].nargs != 0:
            self.error(f"argument {option}: false is not a value of it; give another, or leave it out")


class Command(NamedTuple):
    """One command: what its help says, its options, and the function that runs it."""

    summary: str  # its line in `purejaxppo --help`
    about: str | None  # the first line of its own help
    examples: str
    add_options: Callable[[Parser, Preset], None]  # train and sweep show the preset's values as defaults
    run: Callable[[argparse.Namespace], int]  # -> exit status
    usage: str | None = None


def wide(prog: str) -> argparse.HelpFormatter:
    """Help with one option per line."""
    return argparse.RawDescriptionHelpFormatter(prog, max_help_position=38, width=120)


def config_option(name: str) -> str:
    """The option of a hyperparameter."""
    return PREFIX + name.replace("_", "-")


def presets_with(option: str) -> list[str]:
    """The presets that have the hyperparameter of this option."""
    return [
        name
        for name, preset in PRESETS.items()
        if option in [config_option(field.name) for field in dataclasses.fields(preset.config)]
    ]
