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
from purejaxppo.population.algorithms import make_agent
from purejaxppo.runs.presets import PRESETS, Preset, default_preset, find_preset

ROOT = Path(__file__).parents[2]
TINY = pjp.PPOConfig(num_envs=2, num_steps=16, total_timesteps=64, hidden_sizes=(4,))


@pytest.fixture
def board(monkeypatch):
    path = ROOT / "benchmarks" / "leaderboard.py"
    monkeypatch.syspath_prepend(path.parent)
    spec = importlib.util.spec_from_file_location("leaderboard", path)
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
    assert default_preset(preset.env) == name
    if "/" in preset.env:
        return  # test_run_file.py makes the agents of the suites' presets
    for env in [env for env in pjp.env_names() if default_preset(env) == name]:
        agent = make_agent(pjp.make_env(env), preset.config)
        jax.eval_shape(agent.update, jax.eval_shape(agent.init, jax.random.key(0)))


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
def test_a_row_has_the_scores_of_its_greedy_policies_and_is_checked(board, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(board, "FILE", tmp_path / "leaderboard.json")
    monkeypatch.setattr(sys, "argv", ["leaderboard.py", "--run", "tiny", "--seeds", "3", "--seed", "5"])
    assert board.main() == 0
    found = json.loads(board.FILE.read_text())["tiny"]
    population = pjp.train_population(
        pjp.make_env("Catch-bsuite"), TINY, num_seeds=3, seed=5, evaluation_episodes=board.EPISODES
    )
    assert found["returns"] == population.final_returns().tolist()
    assert found["auc"] == pytest.approx(population.area())
    assert (found["solved_at"], found["seeds_solved"], found["timesteps"]) == (None, None, 64)
    assert found["command"] == "python benchmarks/leaderboard.py --run tiny --seeds 3 --seed 5"
    assert board.check_rows(["tiny"]) == 0
    assert "tiny: the same to the bit" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("returns", "low", "high", "verdict"),
    [
        ([1.0, 2.0], 1.0, 2.0, "the same to the bit"),
        ([2.0, 3.0], 2.0, 3.0, "agrees"),
        ([5.0, 6.0], 5.0, 6.0, "does not agree"),
    ],
)
def test_rows_agree_if_their_intervals_overlap(board, returns, low, high, verdict):
    before = {"returns": [1.0, 2.0], "iqm": {"low": 1.0, "high": 2.0}}
    assert board.agreement(before, {"returns": returns, "iqm": {"low": low, "high": high}}) == verdict


def test_there_is_a_row_for_every_preset_of_a_family(board):
    families = {name for name, preset in PRESETS.items() if preset.family}
    assert families <= {row.preset for row in board.ROWS.values()}


def test_every_row_trains_in_an_environment_of_its_presets_family(board):
    for row in board.ROWS.values():
        env = row.env or find_preset(row.preset).env
        assert row.preset in (default_preset(env), "cleanrl")
        if "/" not in env:
            make_agent(pjp.make_env(env, **row.env_params), board.config_of(row, None))


def test_a_counterpart_differs_in_its_memory_alone(board):
    forgetful = board.counterpart(find_preset("recurrent").config)
    assert (type(forgetful), forgetful.cell) == (pjp.PPOConfig, None)
    assert forgetful.learning_rate == find_preset("recurrent").config.learning_rate
    assert board.counterpart(forgetful) == find_preset("recurrent").config
    row = board.ROWS["recurrent-20-feed-forward"]
    assert board.config_of(row, 2048) == forgetful.replace(total_timesteps=2048)


def test_an_unknown_row_is_refused_with_the_nearest(board):
    with pytest.raises(pjp.PPOError, match="did you mean pendulum"):
        board.find_row("pendulm")


def test_what_was_published_stands_beside_the_environment_as_it_is_by_default(board):
    found = {
        "preset": "recurrent",
        "env": "MemoryChain-bsuite",
        "policy": "GRU",
        "timesteps": 40_960,
        "auc": None,
        "iqm": {"estimate": 1.0, "low": 1.0, "high": 1.0},
        "returns": [1.0, -0.5],
        "solved_at": None,
    }
    about = {"seconds": None, "command": "", "device": "", "jax": "", "commit": "", "date": ""}
    page = board.page(
        "<!-- table: results -->\n\n|\n\n<!-- end -->",
        {"a": {**found, **about, "env_params": {}}, "b": {**found, **about, "env_params": {"memory_length": 20}}},
    )
    _, _, _, _, default, longer, _, _ = page.splitlines()
    assert default.startswith("| MemoryChain-bsuite | recurrent | GRU | 2 | 40,960 | 1.00 | 1.00 to 1.00 |  | -0.50 |")
    assert default.endswith("| gymnax 0.1 (150k) |")
    assert longer.startswith("| MemoryChain-bsuite, memory_length 20 | recurrent |")
    assert longer.endswith("| no threshold |  |")


def test_the_tables_of_the_page_are_those_of_the_file(board):
    text = board.PAGE.read_text()
    assert board.page(text, board.read_rows()) == text


def test_the_page_names_every_source(board):
    page, sources = (ROOT / "docs" / "leaderboard.md").read_text(), importlib.import_module("published").SOURCES
    cited = {one.source for published in board.PUBLISHED.values() for one in published}
    assert cited == set(sources)
    for name, source in sources.items():
        assert f"| [{name}]({source.url}) | {source.protocol} |" in page
