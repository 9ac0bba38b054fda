"""The README is short, its snippets run, its options exist, and it links every page of the documentation."""

import re
from pathlib import Path

import pytest

from purejaxppo.cli.arguments import make_parser
from purejaxppo.runs.presets import PRESETS, find_preset

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
PAGES = {path.name: path.read_text() for path in (ROOT / "docs").glob("*.md")}
SNIPPETS = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
OTHER_PROGRAMS = re.compile(
    r"`(?:python|pip|jupytext|tensorboard) [^`]*`|^ *(?:python|pip|jupytext|tensorboard|#SBATCH) .*$", re.MULTILINE
)
OF_CLEANRL = {"--num-envs", "--num-steps", "--update-epochs", "--seed", "--gae", "--target-kl"}


def first_words(snippet):
    return re.sub(r"\W+", "-", next(line for line in snippet.splitlines()[2:] if line.strip()))[:40]


@pytest.mark.parametrize(
    "snippet",
    [pytest.param(x, id=first_words(x), marks=[pytest.mark.slow] if "1024" in x else []) for x in SNIPPETS],
)
def test_the_snippet_runs(snippet, capsys):
    shorter = snippet.replace("total_timesteps=20_480", "total_timesteps=1_024").replace("(0, 1024)", "(0, 64)")
    exec(compile(shorter, "README.md", "exec"), {"__name__": "snippet"})


def test_it_is_short_and_has_a_snippet():
    assert len(README.splitlines()) <= 200
    assert SNIPPETS


def test_every_page_is_linked():
    for name in set(PAGES) - {"index.md"}:  # the index is the README
        assert f"(docs/{name})" in README, name


@pytest.fixture(scope="module")
def options():
    parsers = [
        parser for name in ("fast", "keras", "recurrent") for parser in make_parser(find_preset(name))[1].values()
    ]
    given = {option for parser in parsers for action in parser._actions for option in action.option_strings}
    return given | {option.replace("--config.", "--") for option in given}  # a hyperparameter needs no prefix


@pytest.mark.parametrize("name", ["README.md", *sorted(PAGES)])
def test_every_option_exists(name, options):
    text = OTHER_PROGRAMS.sub("", README if name == "README.md" else PAGES[name])
    used = set(re.findall(r"(?<![\w-])(--[a-z][a-z.-]*[a-z])", text))
    unknown = used - options - (OF_CLEANRL if name == "migration.md" else set())
    assert not unknown


def test_every_preset_is_described():
    for name in PRESETS:
        assert f"`{name}`" in PAGES["commandline.md"], name
