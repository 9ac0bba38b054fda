"""Called by mkdocs: inserts the README and the source of functions, and converts formulas.

The start page is the README, with its links made relative to docs/. A line that is a link
to a function, `[module.function](../purejaxppo/module.py)`, is replaced by that function as it is in the package,
without its docstring; a name that does not exist is an error.
Formulas, $$...$$ and $...$ outside code, become MathML, which browsers show without a script.
"""

import ast
import re
from pathlib import Path
from typing import Any

from latex2mathml.converter import convert  # pyright: ignore[reportMissingImports]

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "purejaxppo"
CODE = re.compile(r"(```.*?```|`[^`\n]*`)", re.DOTALL)
BLOCK = re.compile(r"\$\$(.+?)\$\$", re.DOTALL)
INLINE = re.compile(r"(?<![\\$\w])\$([^$\n]+?)\$(?![\w$])")
SOURCE = re.compile(r"^\[([\w.]+)\.(\w+)\]\(\.\./purejaxppo/[\w/]+\.py\)$", re.MULTILINE)


def on_page_markdown(markdown: str, *, page: Any, **_: Any) -> str:
    """Returns the page with its formulas converted and the sources that it names; for the start page, the README."""
    if page.file.src_uri == "index.md":
        markdown = readme()
    parts = CODE.split(markdown)
    converted = "".join(part if i % 2 else with_mathml(part) for i, part in enumerate(parts))
    return SOURCE.sub(lambda found: f"```python\n{source(found[1], found[2])}\n```", converted)


def readme() -> str:
    """Returns the README with its links and pictures as a page in docs/ names them."""
    return re.sub(r'(\]\(|src=")docs/', r"\1", (ROOT / "README.md").read_text())


def with_mathml(text: str) -> str:
    """Converts the formulas of a text without code."""
    text = BLOCK.sub(
        lambda found: (
            f'<div style="margin: 1.2em 0">{convert(found[1].strip(), display="block")}</div>'
        ),
        text,
    )
    # Markdown would take a line that begins with <math> for a separate paragraph.
    return INLINE.sub(lambda found: f"<span>{convert(found[1])}</span>", text)


def source(module: str, name: str) -> str:
    """Returns a function of the package without its docstring."""
    text = (PACKAGE / f"{module.replace('.', '/')}.py").read_text()
    functions = {
        node.name: node for node in ast.parse(text).body if isinstance(node, ast.FunctionDef)
    }
    function, lines = functions[name], text.splitlines()
    docstring = function.body[0]
    assert isinstance(docstring, ast.Expr)
    return "\n".join(
        [
            *lines[function.lineno - 1 : docstring.lineno - 1],
            *lines[docstring.end_lineno : function.end_lineno],
        ]
    )
