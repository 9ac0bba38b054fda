"""The snippets of each page in docs/ run, every page is in the navigation, and every public name in the reference."""

import dataclasses
import html
import importlib
import inspect
import os
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

import purejaxppo as pjp

DOCS = Path(__file__).parents[2] / "docs"
EXAMPLES = DOCS.parent / "purejaxppo" / "examples"
NAVIGATION = (DOCS.parent / "mkdocs.yml").read_text()
PAGES = {str(path.relative_to(DOCS)): path.read_text() for path in sorted(DOCS.rglob("*.md"))}
SNIPPETS = {  # some are in the indented tabs of a page
    name: [
        textwrap.dedent(indent + code)
        for indent, code in re.findall(r"^( *)```python\n\1(.*?)^ *```$", page, flags=re.DOTALL | re.MULTILINE)
    ]
    for name, page in PAGES.items()
}
WHAT_THEY_LEARN = {  # page: (what its snippets leave, at least)
    "environments.md": [
        ("-workshop_returns[0]", 0.0),  # at first it loses
        ("workshop_returns[1]", 5.0),  # ten steps of 1 at most, on average
        ("lander_returns", 8.5),  # a free fall lands at 4.5, and random thrust at 7.4
        ("bonus_return", -180.0),  # without the goal -200
    ],
    "examples.md": [("a2c_return", 100.0)],  # a random policy gets 22
    "ideas.md": [
        ("prediction_errors", 1.1),  # the first by the last
        ("own_return", 100.0),  # a random policy gets 22
    ],
    "policies.md": [("memory_return", 0.5)],  # a guess gets 0
    "tutorial.md": [("last_returns", 300.0)],
}
SHORTER = {  # page: (what stands there, what runs)
    "checkpoints.md": [("256 * 4", "256 * 20"), ("num_seeds=2", "num_seeds=4")],  # one program for two snippets
    "environments.md": [("in (plain, pjp.make_env(WithBonus(plain))):", "in [pjp.make_env(WithBonus(plain))]:")],
    "tutorial.md": [("num_seeds=64", "num_seeds=16"), ("(0, 1024)", "(0, 64)")],
}
TRACED = {  # page: snippets whose numbers nothing looks at, so their programs trace, and return zeros
    "algorithm.md": (1,),
    "checkpoints.md": (0,),
    "examples.md": (1,),
    "ideas.md": (0, 1, 4, 5, 6, 7, 8, 13),
    "migration.md": (1,),
    "policies.md": (0,),
    "populations.md": (2, 3, 4),
    "tutorial.md": (2,),
}
CALL = re.compile(r"jax\.jit\((.+)\)\((.+)\)")


def zeros(function, *args):
    """Zeros in the shape of the function's result: it is traced, and not compiled."""

    def zero(x):
        if jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key):
            return jax.random.split(jax.random.key(0), x.shape)
        return jnp.zeros(x.shape, x.dtype)

    return jax.tree.map(zero, jax.eval_shape(function, *args))


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name, snippets in SNIPPETS.items() if snippets and name != "suites.md"])
def test_the_snippets_run(name, capsys):
    names = {"__name__": "snippet", "zeros": zeros}
    for number, snippet in enumerate(SNIPPETS[name]):
        for long, short in SHORTER.get(name, []):
            snippet = snippet.replace(long, short)
        if number in TRACED.get(name, ()):
            snippet, traced = CALL.subn(r"zeros(\1, \2)", snippet)
            assert traced
        exec(compile(snippet, name, "exec"), names)
    for left, least in WHAT_THEY_LEARN.get(name, []):
        assert eval(left, names).mean() > least, left


@pytest.mark.slow
def test_the_loop_of_the_tutorial_runs_in_a_box():
    loop = SNIPPETS["tutorial.md"][-1]
    assert "def ppo_loss(" in loop
    code = loop.replace('"CartPole-v1"', '"Pendulum-v1"').replace("jax.random.key(1), 100)", "jax.random.key(1), 2)")
    names = {"__name__": "snippet"}
    exec(compile(code, "tutorial.md", "exec"), names)
    assert names["env"].action_space.shape == (1,)
    assert names["episodes"].count.shape == (2,)


def test_an_environment_is_short():
    assert len(SNIPPETS["environments.md"]) >= 3
    assert all(len(snippet.splitlines()) <= 60 for snippet in SNIPPETS["environments.md"])


def test_an_idea_is_short():
    assert len(SNIPPETS["ideas.md"]) >= 10
    for snippet in SNIPPETS["ideas.md"]:
        assert len([line for line in snippet.splitlines() if line.strip()]) < 40


@pytest.mark.parametrize("name", sorted({path.stem for path in EXAMPLES.glob("*.py")} - {"__init__", "keras_display"}))
def test_the_gallery_shows_an_example_as_it_is(name):
    sections = {section.split("\n\n`")[2].split("`")[0]: section for section in PAGES["examples.md"].split("\n## ")[1:]}
    (excerpt,) = re.findall(r"```py\n(.*?)```", sections[name], re.DOTALL)
    shown = [line.strip() for line in excerpt.splitlines() if line.strip()]
    lines = iter([line.strip() for line in (EXAMPLES / f"{name}.py").read_text().splitlines()])
    assert 5 <= len(shown) <= 10
    missing = [line for line in shown if line not in lines]  # `in` uses up the lines before, so the order counts
    assert not missing


def test_every_page_is_in_the_navigation():
    assert PAGES
    for name in PAGES:
        assert f": {name}\n" in NAVIGATION, name


def test_every_public_name_is_in_the_reference():
    described = {
        name for page in PAGES.values() for name in re.findall(r"^::: purejaxppo\.(?:\w+\.)?(\w+)$", page, re.MULTILINE)
    }
    assert described == set(pjp.__all__)


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("docs") / "site"
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    built = subprocess.run(command, cwd=DOCS.parent, env=environment, capture_output=True, text=True)
    assert built.returncode == 0, built.stdout + built.stderr
    return {
        str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*.html") if path.name != "404.html"
    }


def test_the_start_page_is_the_readme(site):
    readme = (DOCS.parent / "README.md").read_text()
    page = html.unescape(re.sub(r"<[^>]+>", "", site["index.html"]))
    for block in re.findall(r"```\w*\n(.*?)```", readme, re.DOTALL):
        assert block.strip() in page
    for heading in re.findall(r"^## (.*)$", readme, re.MULTILINE):
        assert f"\n{heading}" in page
    for picture in re.findall(r'<img [^>]*src="(images/[^"]+)"', site["index.html"]):
        assert (DOCS / picture).exists()
    assert site["index.html"].count('src="images/') == 2


def test_the_site_builds_strictly_and_asks_nothing_of_the_network(site):
    assert set(site) == {name.replace(".md", ".html") for name in PAGES}
    for page in site.values():
        assert "$$" not in page  # a formula that was not converted
        for address in re.findall(r'<(?:script|link|img|iframe)\b[^>]*?(?:src|href)="([^"]+)"', page):
            assert not address.startswith(("http:", "https:", "//")), address


def test_a_page_opened_from_the_disk_finds_the_others(site):
    for name, page in site.items():
        for address in re.findall(r'<a\b[^>]*?href="([^"#:]+)(?:#[^"]*)?"', page):
            target = os.path.normpath(os.path.join(os.path.dirname(name), html.unescape(address)))
            assert target in site, (name, address)


@pytest.mark.parametrize(
    "cls",
    [
        *(pjp.PPOConfig, pjp.RecurrentConfig, pjp.FullBatchConfig, pjp.TrainState, pjp.RunnerState, pjp.Transition),
        *(pjp.Metrics, pjp.FullBatchMetrics, pjp.Batch, pjp.EpisodeState, pjp.EpisodeStats),
    ],
    ids=lambda cls: cls.__name__,
)
def test_every_field_is_in_a_table_of_the_reference(site, cls):
    (page,) = (page for name, page in site.items() if f'id="purejaxppo.{cls.__name__}"' in page)
    table = re.search(rf'id="purejaxppo.{cls.__name__}".*?<table>(.*?)</table>', page, re.DOTALL)[1]
    rows = re.findall(r"<tr>\s*<td><code>(\w+)</code></td>\s*<td>(.*?)</td>\s*<td>(.*?)</td>", table)
    fields = dataclasses.fields(cls)
    assert {name for name, _, _ in rows} == {field.name for field in fields}
    if cls.__name__.endswith("Config"):
        shown = {name: html.unescape(default) for name, default, _ in rows}
        assert shown == {field.name: f"<code>{field.default!r}</code>" for field in fields}
        assert all(meaning for _, _, meaning in rows), rows


def test_parameters_are_a_list_in_the_reference(site):
    page = site["reference/populations.html"]
    for name in ("sweep", "make_agent", "num_resamples"):
        assert re.search(rf"<li[^>]*>\s*(<b>)?<code>{name}</code>", page), name
    for name in pjp.PopulationOptions.__annotations__:
        assert re.search(rf"<td><code>{name}</code></td>\s*<td></td>\s*<td>\S", page), name


def test_the_algorithm_shows_the_code_as_it_is(site):
    shown = html.unescape(re.sub(r"<[^>]+>", "", site["algorithm.html"]))
    named = re.findall(r"^\[([\w.]+)\.(\w+)\]\(\.\./purejaxppo/[\w/]+\.py\)$", PAGES["algorithm.md"], re.MULTILINE)
    assert len(named) >= 10
    for module, name in named:
        function = getattr(importlib.import_module(f"purejaxppo.{module}"), name)
        source = inspect.getsource(function)
        assert source.splitlines()[-1] in shown, name
        assert source.split('"""')[-1].strip("\n") in shown, name


def test_code_fits_a_page_of_1280_pixels(site):
    for name, snippets in SNIPPETS.items():
        for line in "".join(snippets).splitlines():
            assert len(line) <= 100, (name, line)
    for name, page in site.items():  # docs/site.css leaves room for 120 characters
        for most, block in [
            *((120, block) for block in re.findall(r"<pre>.*?</pre>", page, re.DOTALL)),
            *((80, block) for block in re.findall(r"doc-signature[^>]*>(.*?)</pre>", page, re.DOTALL)),
        ]:
            for line in html.unescape(re.sub(r"<[^>]+>", "", block)).splitlines():
                assert len(line) <= most, (name, line)


def test_the_pictures_of_the_readme_are_there_and_small():
    pictures = re.findall(r'<img src="([^"]+)" width="\d+" alt="[^"]+">', (DOCS.parent / "README.md").read_text())
    assert len(pictures) == 2
    for name in pictures:
        assert (DOCS.parent / name).stat().st_size < 300_000
