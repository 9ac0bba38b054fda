"""Called by mkdocs: $$...$$ and $...$ outside code become MathML, which browsers show without a script."""

import re
from typing import Any

from latex2mathml.converter import convert  # pyright: ignore[reportMissingImports]

CODE = re.compile(r"(```.*?```|`[^`\n]*`)", re.DOTALL)
BLOCK = re.compile(r"\$\$(.+?)\$\$", re.DOTALL)
INLINE = re.compile(r"(?<![\\$\w])\$([^$\n]+?)\$(?![\w$])")


def on_page_markdown(markdown: str, **_: Any) -> str:
    """The page with its formulas converted."""
    parts = CODE.split(markdown)
    return "".join(part if i % 2 else with_mathml(part) for i, part in enumerate(parts))


def with_mathml(text: str) -> str:
    """A text without code, its formulas converted."""
    text = BLOCK.sub(
        lambda found: f'<div style="margin: 1.2em 0">{convert(found[1].strip(), display="block")}</div>', text
    )
    # A line that began with <math> would be taken for a paragraph of its own.
    return INLINE.sub(lambda found: f"<span>{convert(found[1])}</span>", text)
