"""`purejaxppo eval`, `render` and `plot`."""

import dataclasses
import functools
import json
import shutil
import sys
from pathlib import Path

import gymnasium
import jax
import numpy as np
import pytest
from PIL import Image

import purejaxppo as pjp
from purejaxppo.cli import finished
from purejaxppo.cli import main as cli
from purejaxppo.report import drawings
from purejaxppo.runs.comparison import comparison_rows
from purejaxppo.runs.finished import (
    act_for_each,
    describe_wins,
    evaluate_in_gymnasium,
    labels_of,
    play_in_gymnasium,
    shorten,
)

pytestmark = pytest.mark.slow

TINY = ["--seeds", "3", "--config.num-envs", "4", "--config.num-steps", "64", "--config.hidden-sizes", "8", "--quiet"]
# The same programs as those of test_runs.py and test_page.py.
SIZES = {"CartPole-v1": "5000", "Catch-bsuite": "4096"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("finished")
    for name, env, seed in (("a", "CartPole-v1", "0"), ("b", "CartPole-v1", "7"), ("catch", "Catch-bsuite", "0")):
        words = ["--env", env, "--seed", seed, "--out", str(folder / name), "--config.total-timesteps", SIZES[env]]
        assert cli.main(["train", *words, *TINY]) == 0
    return folder


def test_eval_gives_the_returns_of_evaluate(folder, capsys):
    out = folder / "eval.json"
    assert cli.main(["eval", str(folder / "a"), "--episodes", "20", "--seed", "3", "--json", str(out)]) == 0
    written = json.loads(out.read_text())
    run, keys = pjp.load_run(folder / "a"), pjp.seed_keys(3, 3)
    for i in range(3):
        returns, _ = pjp.evaluate(run.agent, run.seed(i).train_state, keys[i], 20)
        assert written["return_per_seed"][i] == pytest.approx(float(returns.mean()), rel=1e-6)
    assert written["eval/mean_reward"] == pytest.approx(np.mean(written["return_per_seed"]))
    assert written["seeds_solved"] == sum(x >= 475 for x in written["return_per_seed"])
    assert "IQM of 3 seeds" in capsys.readouterr().out


def test_eval_in_gymnasium_agrees_with_gymnax_in_distribution(folder):
    found = {}
    for backend in ("gymnax", "gymnasium"):
        out = folder / f"{backend}.json"
        arguments = ["--episodes", "200", "--seeds", "1", "--backend", backend, "--json", str(out)]
        assert cli.main(["eval", str(folder / "a"), *arguments]) == 0
        found[backend] = json.loads(out.read_text())["eval/mean_reward"]
    run = pjp.load_run(folder / "a")
    returns, _ = pjp.evaluate(run.agent, run.seed(0).train_state, jax.random.key(5), 200)
    error = float(returns.std()) * np.sqrt(2 / 200)
    assert abs(found["gymnax"] - found["gymnasium"]) < 4 * error


def make_player(run, seed, *, sampled):
    return functools.partial(
        jax.jit(functools.partial(act_for_each, run.agent, sampled=sampled)), run.seed(seed).train_state
    )


def test_an_episode_in_gymnasium_is_the_one_stepped_by_hand(folder):
    run = pjp.load_run(folder / "a")
    state, act = run.seed(1).train_state, jax.jit(run.agent.act)
    envs = gymnasium.make_vec("CartPole-v1", num_envs=3, vectorization_mode="sync")
    returns, is_cut = play_in_gymnasium(envs, make_player(run, 1, sampled=False), seed=11)
    assert not is_cut.any()
    for i in range(3):
        env = gymnasium.make("CartPole-v1")
        obs, _ = env.reset(seed=11 + i)
        total, ended = 0.0, False
        while not ended:
            action = int(act(state, np.asarray(obs, np.float32)))
            obs, reward, terminated, truncated, _ = env.step(action)
            total, ended = total + float(reward), terminated or truncated
        assert returns[i] == total
    assert len(set(returns)) > 1


def test_sampled_actions_differ_from_greedy_ones(folder):
    run = pjp.load_run(folder / "a")
    envs = gymnasium.make_vec("CartPole-v1", num_envs=20, vectorization_mode="sync")
    play = [play_in_gymnasium(envs, make_player(run, 0, sampled=x), seed=0)[0] for x in (False, True)]
    assert not np.array_equal(*play)


def test_render_films_the_best_seed(folder, capsys):
    assert cli.main(["render", str(folder / "a"), "--max-steps", "30"]) == 0
    best = pjp.load_run(folder / "a").population.best()
    with Image.open(folder / "a" / f"seed-{best}.gif") as film:
        assert film.n_frames > 5
    assert f"seed {best}:" in capsys.readouterr().out


def test_render_films_the_seed_that_is_asked_for(folder, capsys):
    out = folder / "film.gif"
    assert cli.main(["render", str(folder / "a"), "--seed", "2", "--out", str(out), "--max-steps", "10"]) == 0
    assert out.exists()
    assert "seed 2: " in capsys.readouterr().out


def test_plot_compares_runs(folder, capsys):
    out = folder / "two.png"
    assert cli.main(["plot", str(folder / "a"), str(folder / "b"), "--out", str(out)]) == 0
    with Image.open(out) as picture:
        assert np.asarray(picture.convert("L")).std() > 10
    out = capsys.readouterr().out
    assert [line.split()[0] for line in out.splitlines()[:3]] == ["run", "a", "b"]


def test_the_picture_of_two_runs_has_the_probability_of_improvement(folder, monkeypatch):
    drawn = []
    monkeypatch.setattr(finished, "plot_comparison", lambda curves, path, **options: drawn.append((curves, options)))
    assert cli.main(["plot", str(folder / "a"), str(folder / "b")]) == 0
    assert cli.main(["plot", str(folder / "a"), str(folder / "b"), str(folder / "a" / ".." / "a")]) == 0
    assert cli.main(["plot", str(folder / "a")]) == 0
    final = [pjp.load_run(folder / name).population.final_returns() for name in "ab"]
    found = pjp.probability_of_improvement(final[1], final[0])
    said = f"P(b > a) = {found.estimate:.2f} [{found.low:.2f}, {found.high:.2f}]"
    assert [options["note"] for _, options in drawn] == [said, said, None]
    assert [label for label, *_ in drawn[0][0]] == ["a", "b"]


@pytest.mark.parametrize(
    ("folders", "labels"),
    [
        (["runs/a", "runs/b"], ["a", "b"]),
        (["runs/a"], ["a"]),
        (["x/a/seed-0", "x/b/seed-0"], ["a/seed-0", "b/seed-0"]),
        (["x/a", "x/a/b"], ["a", "a/b"]),
        (["/x/a", "y"], None),
    ],
)
def test_labels_are_what_the_folders_do_not_share(folders, labels):
    found = labels_of([Path(folder) for folder in folders])
    assert found == labels or (labels is None and len(set(found)) == 2)


def test_names_lose_their_middle():
    assert [shorten("abcdefghij", most) for most in (10, 9, 4)] == ["abcdefghij", "abcd…ghij", "a…ij"]
    scores = {name: np.arange(3.0) for name in ("a" * 30 + "1" + "a" * 30, "a" * 30 + "2" + "a" * 30)}
    assert describe_wins(scores).startswith("P(second > first) = 0.50 [")


def test_render_refuses_what_it_cannot_do_before_it_plays(folder, refused, monkeypatch):
    monkeypatch.setattr(finished, "record_episodes", lambda *_, **__: pytest.fail("played"))
    monkeypatch.setitem(sys.modules, "av", None)
    assert "purejaxppo[video]" in refused(["render", str(folder / "a"), "--out", "film.mp4"])
    monkeypatch.setattr(drawings, "PICTURES", {})
    assert "no drawing" in refused(["render", str(folder / "a")])


SCALES = ["--scale", "CartPole-v1=20:500", "--scale", "Catch-bsuite=-1:1"]


@pytest.mark.parametrize(
    ("shown", "head"),
    [
        ("percentiles", "final return, IQM"),
        ("profile", "final return, IQM"),
        ("times", "steps until half reach it"),
    ],
)
def test_plot_shows_the_distribution_of_the_seeds(folder, capsys, shown, head):
    out = folder / f"{shown}.png"
    assert cli.main(["plot", str(folder / "a"), str(folder / "b"), "--show", shown, "--out", str(out)]) == 0
    with Image.open(out) as picture:
        assert np.asarray(picture.convert("L")).std() > 10
    assert head in capsys.readouterr().out


def test_runs_on_two_environments_are_compared_on_their_scales(folder, capsys):
    places = [str(folder / name) for name in ("a", "catch")]
    assert cli.main(["plot", *places, *SCALES, "--out", str(folder / "both.png")]) == 0
    row = capsys.readouterr().out.splitlines()[1]
    returns = [pjp.load_run(place).population.final_returns() for place in places]
    scores = np.stack([(returns[0] - 20) / 480, (returns[1] + 1) / 2], axis=1)
    assert row.startswith("a + catch")
    assert f"{pjp.aggregate(scores).iqm.estimate:.3f}" in row
    assert cli.main(["report", *places, *SCALES, "--out", str(folder / "both.html")]) == 0
    page = (folder / "both.html").read_text()
    for text in ("1 method on CartPole-v1, Catch-bsuite", "normalised return, IQM", "steps until half reach it"):
        assert text in page


@pytest.mark.parametrize("suffix", ["pdf", "svg"])
def test_plot_writes_figures_for_papers(folder, suffix):
    assert cli.main(["plot", str(folder / "a"), "--out", str(folder / f"figure.{suffix}")]) == 0
    assert (folder / f"figure.{suffix}").stat().st_size > 5_000


def test_comparison_counts_wins_against_the_first():
    rows = comparison_rows({"x": np.array([1.0, 2.0, 3.0, 4.0]), "y": np.array([5.0, 6.0, 7.0, 8.0])})
    assert rows[1][-1] == ""
    assert rows[2][-1].startswith("1.00")
    assert [row[2] for row in rows[1:]] == ["2.50", "6.50"]


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["eval", "{catch}", "--backend", "gymnasium"], "Catch-bsuite"),
        (["plot", "{a}", "{catch}"], "plot them apart"),
        (["plot", "{a}", "{catch}", *SCALES[:2]], "--scale Catch-bsuite"),
        (["plot", "{a}", "--scale", "CartPole-v1=1:1"], "CartPole-v1=1:1"),
        (["plot", "{a}", "--scale", "Catch-bsuite=0:1"], "--scale Catch-bsuite"),
        (["plot", "{a}", "{b}", "{catch}", *SCALES], "2 of CartPole-v1, 1 of Catch-bsuite"),
        (["plot", *["{a}"] * 9], "8"),
        (["eval", "{a}", "--env", "Acrobot-v1"], "trained in CartPole-v1, not in Acrobot-v1"),
        (["plot", "{a}", "{b}", "--env", "Acrobot-v1"], "leave out --env"),
        (["reproduce", "{a}", "--agent", "purejaxppo.examples.a2c:make_agent"], "leave out --agent"),
    ],
)
def test_bad_input_is_refused_with_one_line(folder, refused, arguments, named):
    places = {name: str(folder / name) for name in ("a", "b", "catch")}
    for i in range(9) if arguments[:3] == ["plot", "{a}", "{a}"] else ():
        shutil.copytree(folder / "a", folder / f"copy-{i}", dirs_exist_ok=True)
        arguments = [*arguments[: i + 1], str(folder / f"copy-{i}"), *arguments[i + 2 :]]
    assert named in refused([word.format(**places) for word in arguments])


def test_a_run_of_other_physics_is_not_played_in_gymnasium(folder):
    run = pjp.load_run(folder / "a")
    other = dataclasses.replace(run, spec=dataclasses.replace(run.spec, env_params={"length": 1.0}))
    with pytest.raises(pjp.PPOError, match="length"):
        evaluate_in_gymnasium(other, 1, 1, seed=0, sampled=False)
