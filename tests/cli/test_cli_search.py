"""`purejaxppo sweep` with test seeds, a model that proposes the settings, and published spaces."""

import json
import re
import shutil
from pathlib import Path

import arithmetic
import numpy as np
import pytest

import purejaxppo as pjp
from purejaxppo.cli import main as cli
from purejaxppo.cli.arguments import read_options
from purejaxppo.cli.run_spec import make_spec

AGENT = ["--agent", f"{Path(arithmetic.__file__)}:make_agent"]
OVER = ["--over", "learning-rate=log:1e-5:1"]
SEARCH = ["--search", "tpe", "--trials", "4", "--batch", "2", "--tune-seeds", "2", "--test-seeds", "3"]


@pytest.fixture(scope="module")
def searched(tmp_path_factory):
    """The folder of a finished search, whose runs play no greedy episodes."""
    folder = tmp_path_factory.mktemp("searches") / "a"
    with pytest.MonkeyPatch.context() as patch:
        for module in ("train", "load"):
            patch.setattr(f"purejaxppo.runs.{module}.EVALUATION_EPISODES", 0)
        words = ["sweep", "--env", "CartPole-v1", *AGENT, *OVER, *SEARCH, "--out", str(folder), "--quiet"]
        assert cli.main(words) == 0
        yield folder


def test_both_scores_of_the_best_setting_are_in_every_file(searched):
    summary = json.loads((searched / "summary.json").read_text())
    sweep = pjp.load_sweep(searched, make_agent=arithmetic.make_agent)
    found = sweep.selection()
    assert (summary["tune_seeds"], summary["test_seeds"]) == (2, 3)
    assert summary["best_setting"] == found.setting
    assert summary["test_return_per_seed"] == pytest.approx(sweep.tested.final_returns().tolist())
    for name, interval in (("tune_return_iqm", found.tuning), ("test_return_iqm", found.test)):
        assert [summary[f"{name}{end}"] for end in ("", "_95_low", "_95_high")] == pytest.approx(list(interval))
    assert summary["selection_bias"] == pytest.approx(summary["tune_return_iqm"] - summary["test_return_iqm"])
    page = (searched / "report.html").read_text()
    assert all(words in page for words in ("on the 2 tuning seeds", "on 3 test seeds", "selection bias"))
    assert summary["devices"].startswith("8 runs, ")  # of 4 settings
    with np.load(searched / "test" / "metrics.npz") as arrays:
        assert arrays["episode_return_mean"].shape == (3, 4)


def test_a_search_whose_second_half_is_lost_goes_on_to_the_same(searched, tmp_path, capsys):
    folder = tmp_path / "b"
    shutil.copytree(searched, folder)
    (folder / "summary.json").unlink()
    for place in ("batch-0001", f"test-{json.loads((searched / 'summary.json').read_text())['best_setting']:04d}"):
        shutil.rmtree(folder / "checkpoints" / place)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"sweep": []}))  # the settings are not known yet
    with pytest.raises(pjp.PPOError, match="has not finished"):
        pjp.load_sweep(folder, make_agent=arithmetic.make_agent)
    assert cli.main(["sweep", "--resume", str(folder), *AGENT]) == 0
    assert "4 settings of learning_rate by TPE, 2 at a time, 2 seeds each" in capsys.readouterr().out
    for name in ("config.json", "table.csv", "test/metrics.csv"):
        assert (folder / name).read_bytes() == (searched / name).read_bytes()
    assert cli.main(["sweep", "--resume", str(folder), *AGENT]) == 0
    assert "nothing is left to train" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--trials", "4"], "--trials 4 .* --search"),
        (["--search", "tpe", "--random", "3"], "--random 3"),
        (["--search", "tpe", "--trials", "5", "--batch", "2"], "num_trials = 5"),
        (["--search", "tpe", "--over", "gamma=0.9,0.99"], "gamma"),
        (["--search", "smac"], "smac"),
        (["--space", "arlbench"], "arlbench-ppo-cc"),
    ],
)
def test_options_that_do_not_fit_are_refused(refused, words, message):
    assert re.search(message, refused(["sweep", "--over", "learning-rate=log:1e-5:1", *words]))


def test_a_published_space_is_what_is_drawn_from_and_searched():
    words = ["sweep", "--preset", "cleanrl", "--space", "arlbench-ppo-cc", "--over", "gamma=uniform:0.9:1"]
    drawn = make_spec(read_options([*words, "--random", "5"]))
    space = pjp.named_space("arlbench-ppo-cc", drawn.config) | {"gamma": pjp.uniform(0.9, 1.0)}
    assert list(drawn.sweep) == pjp.draw_points(5, space)
    searched = make_spec(read_options([*words, "--search", "tpe"])).search
    assert set(searched.space) == set(space) - {"num_minibatches", "normalize_advantage"}
    assert (searched.num_trials, searched.batch, searched.seed) == (64, 16, 0)
