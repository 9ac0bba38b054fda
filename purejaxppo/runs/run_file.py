"""A run described by a TOML file, under the names of the options of `purejaxppo train` and `sweep`."""

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from purejaxppo.population.sweep import LogUniform, Uniform
from purejaxppo.utils.errors import PPOError
from purejaxppo.utils.validation import shown

TABLES = ("config", "env-param", "over")
NOT_IN_A_FILE = ("config", "write-config", "resume")


def read_words(path: Path) -> tuple[list[str], list[str]]:
    """The options of a file as words of the command line, and the names of the switches that it sets to false.

    Raises PPOError for a file that cannot be read or is not TOML, and for a table or a value that no option takes.
    """
    try:
        content = tomllib.loads(path.read_text())
    except OSError as error:
        raise PPOError(f"{path} cannot be read: {error.strerror}; give --config the path of a TOML file") from None
    except (ValueError, RecursionError) as error:
        raise PPOError(f"{path} is not valid TOML: {' '.join(str(error).split())}; correct it there") from None
    tables = {dashed(name): table for name, table in content.items() if isinstance(table, dict)}
    for name in tables:
        if name not in TABLES:
            raise PPOError(f"{path}: [{shown(name)}] is not a table of a run; take one of {', '.join(TABLES)}")
    plain = once(path, {name: value for name, value in content.items() if not isinstance(value, dict)})
    for name in plain:
        if name in NOT_IN_A_FILE:
            raise PPOError(f"{path}: {name} belongs on the command line; leave it out")
    words = [f"--{name}" for name, value in plain.items() if value is True]
    words += [f"--{name}={text_of(path, name, x)}" for name, x in plain.items() if not isinstance(x, bool)]
    for table, option in (("config", "--config."), ("env-param", "--env-param="), ("over", "--over=")):
        given = once(path, flattened(tables.get(table, {})))
        words += [f"{option}{name}={text_of(path, name, value)}" for name, value in given.items()]
    return words, [f"--{name}" for name, value in plain.items() if value is False]


def flattened(table: Mapping[str, Any]) -> dict[str, Any]:
    """The values by dotted name, such as env.length, which TOML reads as a table in a table."""
    flat = {}
    for name, value in table.items():
        parts = {f"{name}.{key}": x for key, x in value.items()} if isinstance(value, dict) else {name: value}
        flat.update(parts)
    return flat


def once(path: Path, values: Mapping[str, Any]) -> dict[str, Any]:
    """The values under names with dashes. Raises PPOError if a name is given with a dash and with an underscore."""
    names = [dashed(name) for name in values]
    for name in names:
        if names.count(name) > 1:
            raise PPOError(f"{path} names {shown(name)} twice, with - and with _; leave one out")
    return dict(zip(names, values.values(), strict=True))


def text_of(path: Path, name: str, value: Any) -> str:
    """A value as text for the command line: true, 0.5, cosine, or 64,64; a list of lists is 64x64,128."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float | str):
        return str(value)
    if isinstance(value, list) and value:
        return ",".join(
            "x".join(text_of(path, name, x) for x in part) if isinstance(part, list) else text_of(path, name, part)
            for part in value
        )
    raise PPOError(f"{path}: {shown(name)} = {shown(value)} cannot be; give a number, a text, true, false or a list")


def dashed(name: str) -> str:
    """The name of an option: with dashes."""
    return name.replace("_", "-")


def toml_value(value: Any) -> Any:
    """A hyperparameter, or its values in a sweep, in the form that `read_words` reads."""
    if isinstance(value, LogUniform):
        return f"log:{value.low}:{value.high}"
    if isinstance(value, Uniform):
        return f"uniform:{value.low}:{value.high}"
    if isinstance(value, tuple | list):
        return [toml_value(x) for x in value]
    return value
