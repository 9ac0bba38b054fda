"""The snippets of each page in docs/ run, every page is in the navigation, and every public name in the reference."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import purejaxppo as pjp

DOCS = Path(__file__).parent.parent / "docs"
NAVIGATION = (DOCS.parent / "mkdocs.yml").read_text()
PAGES = {str(path.relative_to(DOCS)): path.read_text() for path in sorted(DOCS.rglob("*.md"))}
SNIPPETS = {name: re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL) for name, page in PAGES.items()}
WHAT_THEY_LEARN = {  # page: (what the last of its snippets leave, at least)
    "environments.md": ("returns", 8.5),  # a free fall lands at 4.5, and random thrust at 7.4
    "embedding.md": ("memory_return", 0.5),  # a guess gets 0
    "tutorial.md": ("last_returns", 100.0),
}


@pytest.mark.parametrize("name", [name for name, snippets in SNIPPETS.items() if snippets])
def test_the_snippets_run(name, capsys):
    names = {"__name__": "snippet"}
    for snippet in SNIPPETS[name]:
        exec(compile(snippet, name, "exec"), names)
    if name in WHAT_THEY_LEARN:
        left, least = WHAT_THEY_LEARN[name]
        assert names[left].mean() > least


def test_an_environment_of_ones_own_is_short():
    assert all(len(snippet.splitlines()) <= 60 for snippet in SNIPPETS["environments.md"])


def test_a_variant_of_ones_own_is_short():
    assert len(SNIPPETS["embedding.md"]) >= 3
    for snippet in SNIPPETS["embedding.md"]:
        assert len([line for line in snippet.splitlines() if line.strip()]) < 40


def test_every_page_is_in_the_navigation():
    assert PAGES
    for name in PAGES:
        assert f": {name}\n" in NAVIGATION, name


def test_every_public_name_is_in_the_reference():
    described = {
        name for page in PAGES.values() for name in re.findall(r"^::: purejaxppo\.(?:\w+\.)?(\w+)$", page, re.MULTILINE)
    }
    assert described == set(pjp.__all__)


def test_the_site_builds_strictly_and_asks_nothing_of_the_network(tmp_path):
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path / "site")]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    built = subprocess.run(command, cwd=DOCS.parent, env=environment, capture_output=True, text=True)
    assert built.returncode == 0, built.stdout + built.stderr
    pages = list((tmp_path / "site").rglob("index.html"))
    assert len(pages) == len(PAGES)
    for page in pages:
        text = page.read_text()
        assert "$$" not in text  # a formula that was not converted
        for address in re.findall(r'<(?:script|link|img|iframe)\b[^>]*?(?:src|href)="([^"]+)"', text):
            assert not address.startswith(("http:", "https:", "//")), address
