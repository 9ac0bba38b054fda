"""Called by mkdocstrings: makes a table of the fields of each class, and lists of lists of parameters.

The table comes from the source: the name and default of each field, and the comment beside it. For a field of a config
without a comment it takes the help text of the command line.
"""

import ast
import re
from typing import Any

from griffe import Class, Docstring, Extension, Module  # pyright: ignore[reportMissingImports]

PARAMETER = re.compile(r"([a-z_]\w*(?:, [a-z_]\w*)*): +(.*)")  # "name: text" or "name, name: text"
SHAPE = re.compile(r"(\[[^\]]*\](?: [a-z]\w*)*)(?=,|;|$)")  # "[] int32" at the start of a comment


class Fields(Extension):
    """Works on the whole package, because its classes inherit from each other across modules."""

    def on_package(self, *, pkg: Module, **_: Any) -> None:
        """Adds lists to the docstrings of the package, and a table to each class with fields."""
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
    """Returns the module and those below it."""
    return [
        module,
        *(
            below
            for child in module.modules.values()
            if not child.is_alias
            for below in modules(child)
        ),
    ]


def members(parent: Any) -> list[Any]:
    """Returns the functions and classes of a module, and those of its classes."""
    own = [
        x
        for x in parent.members.values()
        if not x.is_alias and (x.is_function or x.is_class or x.is_attribute)
    ]
    return own + [below for x in own if x.is_class for below in members(x)]


def table_of(cls: Class, help_of: dict[str, str]) -> str:
    """Returns the fields of a class, those of its bases first, as a Markdown table; empty without fields."""
    fields = {}
    for base in [*reversed(cls.mro()), cls]:
        for field in base.attributes.values():
            if (
                field.annotation is not None
                and "instance-attribute" in field.labels
                and not field.name.startswith("_")
            ):
                fields[field.name] = field
    rows = [
        f"| `{name}` | {default(field)} | {meaning(field) or help_of.get(name, '')} |"
        for name, field in fields.items()
    ]
    return "\n".join(["| field | default | meaning |", "|---|---|---|", *rows]) if rows else ""


def default(field: Any) -> str:
    """Returns the default of a field as code; empty without one."""
    if field.value is None or str(field.value).startswith("struct.field("):
        return ""
    text = str(field.value)
    return f"`{text[len('static(') : -1] if text.startswith('static(') else text}`".replace(
        "|", "\\|"
    )


def meaning(field: Any) -> str:
    """Returns the comment beside a field, with its shape as code."""
    line = field.parent.module.lines_collection[field.filepath][field.endlineno - 1]
    _, _, comment = line.partition("  # ")
    comment = comment.replace("|", "\\|").replace("<", "&lt;")
    return SHAPE.sub(r"`\1`", comment, count=1) if SHAPE.match(comment) else comment


def with_lists(text: str) -> str:
    """Turns paragraphs of `name: text` in a docstring into Markdown lists."""
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
            lines.extend(["", line])  # a sentence after the list
            in_list = False
        elif in_list and line:
            lines.append(f"    {line.strip()}")
        else:
            lines.append(line)
            in_list = False
    return "\n".join(lines)
