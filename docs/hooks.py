"""Called by mkdocs: formulas become MathML, which browsers show without a script, and named functions their source.

$$...$$ and $...$ outside code are formulas. A line `<!-- source: module.function -->` gives place to that function as
it is in the package, without its docstring; it raises for a name that is not there.
"""

import ast
import re
from pathlib import Path
from typing import Any

from latex2mathml.converter import convert  # pyright: ignore[reportMissingImports]

PACKAGE = Path(__file__).parent.parent / "purejaxppo"
CODE = re.compile(r"(```.*?```|`[^`\n]*`)", re.DOTALL)
BLOCK = re.compile(r"\$\$(.+?)\$\$", re.DOTALL)
INLINE = re.compile(r"(?<![\\$\w])\$([^$\n]+?)\$(?![\w$])")
SOURCE = re.compile(r"^<!-- source: ([\w.]+)\.(\w+) -->$", re.MULTILINE)


def on_page_markdown(markdown: str, **_: Any) -> str:
    """The page with its formulas converted, and the sources that it names."""
    parts = CODE.split(markdown)
    converted = "".join(part if i % 2 else with_mathml(part) for i, part in enumerate(parts))
    return SOURCE.sub(lambda found: f"```python\n{source(found[1], found[2])}\n```", converted)


def with_mathml(text: str) -> str:
    """A text without code, its formulas converted."""
    text = BLOCK.sub(
        lambda found: f'<div style="margin: 1.2em 0">{convert(found[1].strip(), display="block")}</div>', text
    )
    # A line that began with <math> would be taken for a paragraph of its own.
    return INLINE.sub(lambda found: f"<span>{convert(found[1])}</span>", text)


def source(module: str, name: str) -> str:
    """A function of the package, without its docstring."""
    text = (PACKAGE / f"{module.replace('.', '/')}.py").read_text()
    functions = {node.name: node for node in ast.parse(text).body if isinstance(node, ast.FunctionDef)}
    function, lines = functions[name], text.splitlines()
    docstring = function.body[0]
    assert isinstance(docstring, ast.Expr)
    return "\n".join(
        [*lines[function.lineno - 1 : docstring.lineno - 1], *lines[docstring.end_lineno : function.end_lineno]]
    )
