"""Presets: one for each family of environments, and the command that says what they learn."""

import importlib.util
import json
import sys
from pathlib import Path

import jax
import pytest

import purejaxppo as pjp
from purejaxppo import cli
from purejaxppo.population.program import make_agent
from purejaxppo.runs.presets import PRESETS, Preset, default_preset, find_preset

TINY = pjp.PPOConfig(num_envs=2, num_steps=16, total_timesteps=64, hidden_sizes=(4,))


@pytest.fixture
def scores(monkeypatch):
    path = Path(__file__).parent.parent / "benchmarks" / "scores.py"
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
        ("FourRooms-misc", "cleanrl"),
        ("Nothing-v9", "cleanrl"),
    ],
)
def test_an_environment_takes_the_preset_of_its_family(env, name):
    assert default_preset(env) == name


@pytest.mark.parametrize("name", [name for name, preset in PRESETS.items() if preset.family])
def test_a_preset_goes_with_every_environment_of_its_family(name):
    preset = find_preset(name)
    family = [env for env in pjp.env_names() if default_preset(env) == name]
    assert preset.env in family
    for env in family:
        agent = make_agent(pjp.make_env(env), preset.config)
        jax.eval_shape(lambda key, agent=agent: agent.update(agent.init(key)), jax.random.key(0))


def test_train_begins_with_the_preset_of_the_environment(tmp_path, capsys):
    small = ["--seeds", "1", "--config.total-timesteps", "2048", "--out", str(tmp_path / "run"), "--quiet"]
    assert cli.main(["train", "--env", "Pendulum-v1", *small]) == 0
    spec = pjp.load_run(tmp_path / "run").spec
    assert (spec.preset, spec.config) == ("pendulum", find_preset("pendulum").config.replace(total_timesteps=2048))


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
    assert {*scores.DEFAULT, "minatar"} == {name for name, preset in PRESETS.items() if preset.family}
