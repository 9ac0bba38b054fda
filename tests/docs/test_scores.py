"""Presets: one for each family of environments, and the command and the page that say what they learn."""

import importlib.util
import json
import sys
import tomllib
from pathlib import Path

import jax
import pytest

import purejaxppo as pjp
from purejaxppo.cli import main as cli
from purejaxppo.envs.suites import SUITES
from purejaxppo.population.algorithms import make_agent
from purejaxppo.runs.presets import PRESETS, Preset, default_preset, find_preset

ROOT = Path(__file__).parents[2]
TINY = pjp.PPOConfig(num_envs=2, num_steps=16, total_timesteps=64, hidden_sizes=(4,))


@pytest.fixture
def scores(monkeypatch):
    path = ROOT / "benchmarks" / "scores.py"
    monkeypatch.syspath_prepend(path.parent)
    spec = importlib.util.spec_from_file_location("scores", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setitem(PRESETS, "tiny", Preset("a test", "Catch-bsuite", TINY, 3))
    return module


@pytest.mark.parametrize(
    ("env", "name"),
    [
        (None, "fast"),
        ("CartPole-v1", "fast"),
        ("CartPole-v0", "fast"),
        ("Acrobot-v1", "acrobot"),
        ("MountainCar-v0", "mountaincar"),
        ("MountainCarContinuous-v0", "mountaincar-continuous"),
        ("Pendulum-v1", "pendulum"),
        ("Catch-bsuite", "catch"),
        ("DeepSea-bsuite", "deepsea"),
        ("Asterix-MinAtar", "minatar"),
        ("Freeway-MinAtar", "minatar"),
        ("FourRooms-misc", "fourrooms"),
        ("UmbrellaChain-bsuite", "umbrellachain"),
        ("DiscountingChain-bsuite", "discountingchain"),
        ("Reacher-misc", "reacher"),
        ("MemoryChain-bsuite", "recurrent"),
        ("Pong-misc", "cleanrl"),
        ("Nothing-v9", "cleanrl"),
    ],
)
def test_an_environment_takes_the_preset_of_its_family(env, name):
    assert default_preset(env) == name


@pytest.mark.parametrize("name", [name for name, preset in PRESETS.items() if preset.family])
def test_a_preset_goes_with_every_environment_of_its_family(name):
    preset = find_preset(name)
    suite, slash, _ = preset.env.partition("/")
    if slash:
        pytest.importorskip(SUITES[suite], reason=f"{suite} is not installed")
    family = [preset.env] if slash else [env for env in pjp.env_names() if default_preset(env) == name]
    assert preset.env in family
    assert default_preset(preset.env) == name
    for env in family:
        agent = make_agent(pjp.make_env(env), preset.config)
        start = jax.eval_shape(agent.init, jax.random.key(0))
        if not slash:  # those of suites take seconds to trace, and their own tests train in them
            jax.eval_shape(agent.update, start)


def test_train_begins_with_the_preset_of_the_environment(tmp_path, capsys):
    given = ["--env", "Pendulum-v1", "--config.total-timesteps", "2048", "--write-config", str(tmp_path / "run.toml")]
    assert cli.main(["train", *given]) == 0
    written = tomllib.loads((tmp_path / "run.toml").read_text())
    config = pjp.PPOConfig(
        **{name.replace("-", "_"): x for name, x in written["config"].items() if name != "hidden-sizes"}
    )
    assert written["preset"] == "pendulum"
    assert config == find_preset("pendulum").config.replace(total_timesteps=2048)


@pytest.mark.slow
def test_the_scores_are_those_of_the_greedy_policies(scores, tmp_path, monkeypatch, capsys):
    out = tmp_path / "scores.json"
    monkeypatch.setattr(
        sys, "argv", ["scores.py", "--presets", "tiny", "--seeds", "3", "--seed", "5", "--json", str(out)]
    )
    scores.main()
    found = json.loads(out.read_text())["scores"]["tiny"]
    population = pjp.train_population(
        pjp.make_env("Catch-bsuite"), TINY, num_seeds=3, seed=5, evaluation_episodes=scores.EPISODES
    )
    assert found["returns"] == population.final_returns().tolist()
    assert (found["solved_at"], found["seeds_solved"], found["timesteps"]) == (None, None, 64)
    printed = capsys.readouterr().out
    assert "Catch-bsuite" in printed
    assert "no threshold" in printed


def test_the_scores_leave_out_no_family_but_minatar(scores):
    families = {name for name, preset in PRESETS.items() if preset.family and "/" not in preset.env}
    assert {scores.ROWS[name].preset for name in scores.DEFAULT} == families - {"minatar"}
    assert {row.preset for row in scores.ROWS.values()} == families


def test_every_row_trains_in_an_environment_of_its_presets_family(scores):
    for row in scores.ROWS.values():
        env = row.env or find_preset(row.preset).env
        assert default_preset(env) == row.preset
        make_agent(pjp.make_env(env, **row.env_params), scores.config_of(row, None))


def test_a_counterpart_differs_in_its_memory_alone(scores):
    forgetful = scores.counterpart(find_preset("recurrent").config)
    assert type(forgetful) is pjp.PPOConfig
    assert forgetful.learning_rate == find_preset("recurrent").config.learning_rate
    assert scores.counterpart(forgetful) == find_preset("recurrent").config
    row = scores.ROWS["recurrent-20-feed-forward"]
    assert scores.config_of(row, 2048) == forgetful.replace(total_timesteps=2048)


def test_an_unknown_row_is_refused_with_the_nearest(scores):
    with pytest.raises(pjp.PPOError, match="did you mean pendulum"):
        scores.find_row("pendulm")


def test_what_was_published_stands_beside_the_environment_as_it_is_by_default(scores):
    found = {
        "preset": "recurrent",
        "env": "MemoryChain-bsuite",
        "policy": "GRU",
        "timesteps": 40_960,
        "iqm": {"estimate": 1.0, "low": 1.0, "high": 1.0},
        "returns": [1.0, -0.5],
        "solved_at": None,
    }
    rows = scores.markdown({"a": {**found, "env_params": {}}, "b": {**found, "env_params": {"memory_length": 20}}})
    _, _, default, longer = rows.splitlines()
    assert default.startswith("| MemoryChain-bsuite | recurrent | GRU | 2 | 40,960 | 1.00 | 1.00 to 1.00 | -0.50 |")
    assert default.endswith("| gymnax 0.1 (150k) |")
    assert longer.startswith("| MemoryChain-bsuite, memory_length 20 | recurrent |")
    assert longer.endswith("| no threshold |  |")


def test_the_table_of_the_page_is_that_of_the_measured_files(scores, monkeypatch, capsys):
    files = sorted(str(path) for path in (ROOT / "benchmarks" / "results" / "scores").glob("*.json"))
    monkeypatch.setattr(sys, "argv", ["scores.py", "--from", *files, "--markdown"])
    scores.main()
    assert capsys.readouterr().out in (ROOT / "docs" / "scores.md").read_text()


def test_the_page_names_every_source(scores):
    page, sources = (ROOT / "docs" / "scores.md").read_text(), importlib.import_module("published").SOURCES
    cited = {one.source for published in scores.PUBLISHED.values() for one in published}
    assert cited == set(sources)
    for name, source in sources.items():
        assert f"| [{name}]({source.url}) | {source.protocol} |" in page
