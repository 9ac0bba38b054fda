"""`purejaxppo sweep`, its resumption, and `--placement`."""

import csv
import json
import os
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

import purejaxppo as pjp
from purejaxppo.cli import main as cli
from purejaxppo.cli.arguments import read_options
from purejaxppo.cli.run_spec import make_spec
from purejaxppo.runs.train import plan

TINY = ["--seeds", "3", "--config.total-timesteps", "512", "--config.num-envs", "4", "--config.num-steps", "64"]


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sweeps") / "a"
    over = ["--over", "learning-rate=1e-4,1e-2", "--over", "env.length=0.5,1", "--over", "hidden-sizes=8,8x8"]
    command = [sys.executable, "-m", "purejaxppo.cli.main", "sweep", "--out", str(folder), *TINY, *over]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "COLUMNS": "100"})
    assert done.returncode == 0, done.stderr
    return folder, done.stdout


@pytest.mark.slow
def test_the_sweep_says_beforehand_what_it_compiles(swept):
    _, out = swept
    first, second = out.splitlines()[:2]
    assert first == "8 settings of env.length, hidden_sizes, learning_rate, 3 seeds each, in 2 compilations"
    assert second.startswith("CartPole-v1, preset fast, changed: 24 runs,")
    assert out.count("expected of") == 2


@pytest.mark.slow
def test_the_table_is_sorted_and_is_that_of_the_file(swept):
    folder, out = swept
    with (folder / "table.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 8
    for tied, column in (("true", "area"), ("false", "iqm")):
        ranked = [float(row[column]) for row in rows if row["ties"] == tied]
        assert ranked == sorted(ranked, reverse=True)
    assert [row["ties"] for row in rows] == sorted((row["ties"] for row in rows), reverse=True)
    summary = json.loads((folder / "summary.json").read_text())
    named = [summary["best_setting"], *summary["tied_settings"]]
    assert named == [int(row["setting"]) for row in rows[: max(1, len(named))]]
    num_tied = sum(row["ties"] == "true" for row in rows)
    assert len(named) == max(1, num_tied)
    assert (f"it ties with                  {num_tied - 1} other setting" in out) == (num_tied > 1)
    sweep = pjp.load_sweep(folder)
    for row in rows:
        point = sweep.points[int(row["setting"])]
        assert float(row["learning_rate"]) == point["learning_rate"]
        assert row["hidden_sizes"] == "x".join(map(str, point["hidden_sizes"]))
    assert [row.setting for row in sweep.table()] == [int(row["setting"]) for row in rows]
    head = next(line for line in out.splitlines() if "95% interval" in line).split()
    assert "".join(out.split()).endswith(f"report{folder / 'report.html'}")
    assert head[:7] == ["learning_rate", "env.length", "hidden_sizes", "final", "greedy", "return,", "IQM"]
    assert head[7:] == ["95%", "interval", "mean", "training", "return", *(["ties"] if num_tied > 1 else [])]


@pytest.mark.slow
def test_the_folder_of_a_sweep_holds_each_setting(swept):
    folder, _ = swept
    assert sorted(path.name for path in (folder / "settings").iterdir()) == [f"{i:04d}" for i in range(8)]
    with np.load(folder / "settings" / "0005" / "metrics.npz") as arrays:
        assert arrays["entropy"].shape == (3, 2)
        np.testing.assert_array_equal(arrays["entropy"], pjp.load_sweep(folder)[5].metrics.entropy)
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["env_steps"] == 8 * 3 * 512
    assert summary["best_point"].keys() == {"learning_rate", "env.length", "hidden_sizes"}
    for name in ("sweep.png", "curves.png"):
        with Image.open(folder / name) as picture:
            assert picture.size[0] > 500


@pytest.mark.slow
def test_a_sweep_and_a_run_are_not_taken_for_each_other(swept):
    with pytest.raises(pjp.PPOError, match="is a sweep; purejaxppo report takes it, and load_sweep reads it"):
        pjp.load_run(swept[0])


@pytest.mark.slow
def test_a_finished_run_is_left_alone(swept, capsys):
    before = (swept[0] / "summary.json").read_bytes()
    assert cli.main(["sweep", "--resume", str(swept[0])]) == 0
    assert "is finished; nothing is left to train" in capsys.readouterr().out
    assert (swept[0] / "summary.json").read_bytes() == before


def test_random_settings_are_drawn():
    over = ["--over", "learning-rate=log:1e-4:1e-2", "--over", "num-envs=4", "--random", "2", "--random-seed", "7"]
    space = {"learning_rate": pjp.log_uniform(1e-4, 1e-2), "num_envs": [4]}
    assert list(make_spec(read_options(["sweep", *TINY, *over])).sweep) == pjp.draw_points(2, space, seed=7)


def test_placement_is_an_option():
    """test_population_processes.py trains with it."""
    spec = make_spec(read_options(["train", "--placement", "data", *TINY]))
    assert spec.placement == "data"
    assert "3 seeds, the environments of each over" in plan(spec)
