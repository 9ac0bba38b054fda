"""Called by mkdocstrings: the fields of each class become a table, and lists of parameters become lists.

The table is made of the source as it is: names and defaults, and the comment beside each field; for a field of a config
without one, what the command line says of it.
"""

import ast
import re
from typing import Any

from griffe import Class, Docstring, Extension, Module  # pyright: ignore[reportMissingImports]

PARAMETER = re.compile(r"([a-z_]\w*(?:, [a-z_]\w*)*): +(.*)")  # "name: text" or "name, name: text"
SHAPE = re.compile(r"(\[[^\]]*\](?: [a-z]\w*)*)(?=,|;|$)")  # "[] int32" at the start of a comment


class Fields(Extension):
    """Works on the whole package, as its classes inherit from each other across modules."""

    def on_package(self, *, pkg: Module, **_: Any) -> None:
        """Gives each docstring of the package its lists, and each class with fields its table."""
        help_of = ast.literal_eval(str(pkg["cli.hyperparameters.MEANINGS"].value))
        for module in modules(pkg):
            for thing in [module, *members(module)]:
                if thing.docstring:
                    thing.docstring.value = with_lists(thing.docstring.value)
                if thing.is_class and (table := table_of(thing, help_of)):
                    if thing.docstring is None:
                        thing.docstring = Docstring("", parent=thing)
                    thing.docstring.value += f"\n\n{table}"


def modules(module: Module) -> list[Module]:
    """The module and those below it."""
    return [module, *(below for child in module.modules.values() if not child.is_alias for below in modules(child))]


def members(parent: Any) -> list[Any]:
    """The functions and classes of a module, and those of its classes."""
    own = [x for x in parent.members.values() if not x.is_alias and (x.is_function or x.is_class or x.is_attribute)]
    return own + [below for x in own if x.is_class for below in members(x)]


def table_of(cls: Class, help_of: dict[str, str]) -> str:
    """The fields of a class, those of its bases first, as a Markdown table; empty without any."""
    fields = {}
    for base in [*reversed(cls.mro()), cls]:
        for field in base.attributes.values():
            if field.annotation is not None and "instance-attribute" in field.labels and not field.name.startswith("_"):
                fields[field.name] = field
    rows = [
        f"| `{name}` | {default(field)} | {meaning(field) or help_of.get(name, '')} |" for name, field in fields.items()
    ]
    return "\n".join(["| field | default | what it is |", "|---|---|---|", *rows]) if rows else ""


def default(field: Any) -> str:
    """What a field is where it is not given."""
    if field.value is None or str(field.value).startswith("struct.field("):
        return ""
    text = str(field.value)
    return f"`{text[len('static(') : -1] if text.startswith('static(') else text}`".replace("|", "\\|")


def meaning(field: Any) -> str:
    """The comment beside a field, its shape as code."""
    line = field.parent.module.lines_collection[field.filepath][field.endlineno - 1]
    _, _, comment = line.partition("  # ")
    comment = comment.replace("|", "\\|").replace("<", "&lt;")
    return SHAPE.sub(r"`\1`", comment, count=1) if SHAPE.match(comment) else comment


def with_lists(text: str) -> str:
    """A docstring whose paragraphs of `name: text` are Markdown lists."""
    lines: list[str] = []
    in_list = False
    for line in text.splitlines():
        starts_paragraph = not lines or not lines[-1]
        found = PARAMETER.fullmatch(line)
        if found and (starts_paragraph or in_list):
            names = ", ".join(f"`{name}`" for name in found[1].split(", "))
            if not in_list and not starts_paragraph:
                lines.append("")
            lines.append(f"- {names}: {found[2]}")
            in_list = True
        elif in_list and line and not line.startswith(" ") and lines[-1].endswith("."):
            lines.extend(["", line])  # a sentence of its own, after the list
            in_list = False
        elif in_list and line:
            lines.append(f"    {line.strip()}")
        else:
            lines.append(line)
            in_list = False
    return "\n".join(lines)
