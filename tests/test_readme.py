"""Every Python snippet of the README runs as it stands, and its options and files exist."""

import re
from pathlib import Path

import pytest

from purejaxppo.arguments import make_parser
from purejaxppo.runs.presets import PRESETS, find_preset

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
PAGES = {path.name: path.read_text() for path in (ROOT / "docs").glob("*.md")}
SNIPPETS = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)


def first_words(snippet):
    return re.sub(r"\W+", "-", next(line for line in snippet.splitlines()[2:] if line.strip()))[:40]


@pytest.mark.parametrize(
    "snippet",
    [pytest.param(x, id=first_words(x), marks=[pytest.mark.slow] if "1024" in x else []) for x in SNIPPETS],
)
def test_the_snippet_runs(snippet, capsys):
    shorter = snippet.replace("total_timesteps=20_480", "total_timesteps=1_024")  # a thousand seeds, for two updates
    exec(compile(shorter, "README.md", "exec"), {"__name__": "snippet"})


def test_there_are_snippets():
    assert len(SNIPPETS) >= 6


def test_every_page_is_linked():
    for name in PAGES:
        assert f"(docs/{name})" in README


def test_every_option_in_the_readme_exists():
    parsers = [parser for name in ("fast", "keras") for parser in make_parser(find_preset(name))[1].values()]
    known = {option for parser in parsers for action in parser._actions for option in action.option_strings}
    text = re.sub(r"`python benchmarks/[^`]*`|^#SBATCH .*$", "", README, flags=re.MULTILINE)
    used = set(re.findall(r"(?<![\w-])(--[a-z][a-z.-]+)", text))
    assert used <= known, used - known


def test_every_preset_is_in_the_readme():
    for name in PRESETS:
        assert f"`{name}`" in README
