"""argparse, with errors of one line and the right option for a misspelled one.

It stays because it comes with Python: no dependency, nothing to load at start-up, and error lines of our own.
"""

import argparse
import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple, NoReturn

from purejaxppo.runs.presets import PRESETS, Preset
from purejaxppo.utils.errors import PPOError
from purejaxppo.utils.suggest import unknown

PREFIX = "--config."  # of the option of a hyperparameter


class Parser(argparse.ArgumentParser):
    """Reads the words of one command."""

    def __init__(self, **options: Any) -> None:
        super().__init__(allow_abbrev=False, formatter_class=wide, **options)
        self.source = ""  # "FILE: " while the words come from a file
        self.short_names: dict[str, argparse.Action] = {}  # of the hyperparameters

    def _get_value(self, action: argparse.Action, arg_string: str) -> Any:
        """Lets a type refuse a text by an error, whose message argparse would drop."""
        try:
            return action.type(arg_string) if callable(action.type) else arg_string
        except (PPOError, TypeError, ValueError) as error:
            raise argparse.ArgumentError(action, str(error)) from None

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is not None and value not in action.choices:
            raise argparse.ArgumentError(action, f"{value!r} is unknown; take one of {', '.join(action.choices)}")

    def error(self, message: str) -> NoReturn:
        """Exits with status 2."""
        self.exit(2, f"{self.prog}: error: {self.source}{' '.join(message.splitlines())}\n")

    def refuse(self, word: str) -> NoReturn:
        """Exits with status 2 because this command does not have the option."""
        name = word.split("=")[0]
        if not name.startswith("-"):
            self.error(f"{word!r} is one word too many; leave it out, or see {self.prog} --help")
        presets = presets_with(name) if "--preset" in self._option_string_actions else []
        if presets:
            self.error(f"the preset has no {name}; take --preset {presets[0]}, which has it")
        options = [option for action in self._actions for option in action.option_strings]
        if not name.startswith(PREFIX):
            options = [option.replace(PREFIX, "--", 1) for option in options]
        self.error(unknown("option", name, options))

    def add_short(self, action: argparse.Action) -> None:
        """Adds the name of a hyperparameter without its prefix, unless it is taken. The help does not mention it."""
        short = action.option_strings[0].replace(PREFIX, "--", 1)
        if self._option_string_actions.setdefault(short, action) is action:
            self.short_names[short] = action

    def check_in_file(self, name: str, *, is_false: bool) -> None:
        """Exits with status 2 unless the option can be given like this in a file, outside of its tables."""
        if name in self.short_names:
            self.error(f"{name[2:]} is a hyperparameter; put it into the table [config]")
        if is_false and name not in self._option_string_actions:
            self.refuse(name)
        if is_false and self._option_string_actions[name].nargs != 0:
            self.error(f"argument {name}: false is not a value of it; give another, or leave it out")


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


def option(to: Any, name: str, metavar: str, read: Callable[[str], Any], about: str, **more: Any) -> argparse.Action:
    """Adds an argument with a value to a parser or a group. `read` raises PPOError for a text that is not valid."""
    return to.add_argument(name, metavar=metavar, type=read, help=about, **more)


def switch(to: Any, name: str, about: str, **more: Any) -> None:
    """Adds an option without a value."""
    to.add_argument(name, action="store_true", help=about, **more)


def presets_with(name: str) -> list[str]:
    """The presets that have the hyperparameter of this option, which may be given without its prefix."""
    field_name = name.replace(PREFIX, "--", 1)[2:].replace("-", "_")
    return [
        preset
        for preset, entry in PRESETS.items()
        if field_name in [field.name for field in dataclasses.fields(entry.config)]
    ]
