"""`purejaxppo reproduce` says whether a run comes out the same, and `purejaxppo export` gives its policy."""

import dataclasses
import hashlib
import json
import shutil
import subprocess
import sys

import gymnasium
import jax
import numpy as np
import pytest

import purejaxppo as pjp
from purejaxppo.cli import main as cli
from purejaxppo.runs.finished import play_in_gymnasium
from purejaxppo.runs.folder import START
from purejaxppo.runs.own_agent import bring_agent
from purejaxppo.runs.reproduce import ROUNDING, Comparison, Difference, compare, describe, difference
from purejaxppo.runs.spec import load_spec, spec_to_json
from purejaxppo.runs.train import save_start, write_config

pytestmark = pytest.mark.slow

BRIEF = ["--seeds", "2", "--normalize-obs", "true", "--quiet", "--total-timesteps"]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A run that has learned a little, a, and a sweep from its parameters, s."""
    place = tmp_path_factory.mktemp("reproduce")
    assert cli.main(["train", "--out", str(place / "a"), *BRIEF, "20480"]) == 0
    from_a = ["--init-from", str(place / "a"), "--over", "learning-rate=0.001,0.002", "--num-envs", "2"]
    assert cli.main(["sweep", "--out", str(place / "s"), *from_a, "--num-steps", "8", *BRIEF, "48"]) == 0
    return place


def test_a_run_is_reproduced_to_the_bit(runs, tmp_path, capsys):
    out = tmp_path / "again"
    assert cli.main(["reproduce", str(runs / "s"), "--quiet", "--out", str(out)]) == 0
    assert "same to the bit: metrics, final states and greedy returns of 2 seeds" in capsys.readouterr().out
    for before, after in zip(pjp.load_sweep(runs / "s"), pjp.load_sweep(out), strict=True):
        assert before.metrics.policy_loss.tobytes() == after.metrics.policy_loss.tobytes()


def test_a_repetition_from_other_parameters_is_not_the_same(runs, tmp_path, capsys):
    folder = tmp_path / "s"
    shutil.copytree(runs / "s", folder)
    shutil.rmtree(folder / START)
    swapped = jax.tree.map(lambda x: x[::-1], pjp.load_run(runs / "a").train_state)
    save_start(load_spec(folder), folder, swapped)
    assert cli.main(["reproduce", str(folder), "--quiet"]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("not the same: the largest difference is ")
    assert lines[1].startswith("the first update that differs is 1, in setting 0: ")
    assert lines[2].startswith("setting 0: final return, IQM: ")
    assert lines[4] == "versions, revision, code and devices are those of the run"


def test_the_lengths_of_an_extended_run_are_kept_and_named(runs, tmp_path):
    spec = load_spec(runs / "s")
    for total in (48, 48, 80, 112):
        write_config(dataclasses.replace(spec, config=spec.config.replace(total_timesteps=total)), tmp_path)
    earlier = json.loads((tmp_path / "config.json").read_text())["earlier_timesteps"]
    assert earlier == [48, 80]
    said = describe(Comparison([Difference("x", 1.0, None)], {}, [(np.zeros(2), np.ones(2))], earlier))
    assert any("extended from 48 timesteps" in line for line in said)


def test_what_a_run_was_made_with_is_compared(runs, tmp_path):
    shutil.copytree(runs / "a", tmp_path / "a")
    config = json.loads((tmp_path / "a" / "config.json").read_text())
    changed = config | {"versions": config["versions"] | {"jax": "0.0.1"}, "code": {"mine.py:agent": "abc"}}
    (tmp_path / "a" / "config.json").write_text(json.dumps(changed))
    found = compare(load_spec(tmp_path / "a"), tmp_path / "a", runs / "a")
    assert found.changed == {
        "jax": ("0.0.1", config["versions"]["jax"]),
        "code of mine.py:agent": ("abc", "unknown"),
    }
    assert f"jax: 0.0.1 in the run, {config['versions']['jax']} now" in describe(found)


def test_the_code_of_an_own_agent_is_recorded(runs, tmp_path, monkeypatch):
    source = b"import purejaxppo as pjp\n\nmake_agent = pjp.make_ppo\n"
    (tmp_path / "made_again.py").write_bytes(source)
    name = f"{tmp_path}/made_again.py:make_agent"
    bring_agent(name)
    code = spec_to_json(dataclasses.replace(load_spec(runs / "a"), agent=name))["code"]
    assert code == {name: hashlib.sha256(source).hexdigest()}


def test_a_run_that_is_not_finished_is_refused(runs, tmp_path, refused):
    shutil.copytree(runs / "a", tmp_path / "half")
    (tmp_path / "half" / "summary.json").unlink()
    assert "half" in refused(["reproduce", str(tmp_path / "half")])
    assert str(runs) in refused(["reproduce", str(runs / "a"), "--out", str(runs / "s")])


@pytest.mark.parametrize(
    ("one", "other", "found"),
    [
        ([[1.0, np.nan]], [[1.0, np.nan]], None),
        ([[1.0, 2.0]], [[1.0, 2.0002]], Difference("loss", 1e-4, 2)),
        ([[0.0, 0.0]], [[0.5, 0.0]], Difference("loss", 0.5, 1)),
        ([[1.0, np.nan]], [[1.0, 3.0]], Difference("loss", np.inf, 2)),
    ],
)
def test_a_difference_is_relative_to_the_largest_number(one, other, found):
    seen = difference("loss", np.array(one), np.array(other))
    if found is None:
        assert seen is None
    else:
        assert seen._replace(relative=0.0) == found._replace(relative=0.0)
        np.testing.assert_allclose(seen.relative, found.relative, rtol=1e-6)


def test_rounding_is_told_from_another_result():
    returns = [(np.array([1.0, 2.0]), np.array([1.0, 2.5]))]
    near, far = (Comparison([Difference("x", size, None)], {}, returns, []) for size in (ROUNDING / 2, ROUNDING * 2))
    assert (near.is_same, far.is_same) == (True, False)
    assert describe(near)[0].startswith("within rounding: the largest difference is 0.0005 of x")
    assert describe(far)[0].startswith("not the same")


SCORE = """
import sys
for name in ("jax", "flax", "purejaxppo"):
    sys.modules[name] = None  # an import of it fails
import gymnasium, numpy as np
sys.path.insert(0, sys.argv[1])
if sys.argv[2] == "npz":
    from policy import act
else:
    import onnxruntime
    session = onnxruntime.InferenceSession(sys.argv[1] + "/policy.onnx")
    act = lambda inputs: {"action": session.run(["action"], inputs)[0]}
envs = gymnasium.make_vec("CartPole-v1", num_envs=10, vectorization_mode="sync")
obs, _ = envs.reset(seed=11)
total, running = np.zeros(10), np.ones(10, bool)
while running.any():
    obs, reward, terminated, truncated, _ = envs.step(act({"obs": obs})["action"])
    total += np.where(running, reward, 0.0)
    running &= ~(terminated | truncated)
print(*total)
"""


@pytest.mark.parametrize("kind", ["npz", "onnx"])
def test_an_exported_policy_scores_the_same_in_gymnasium_without_jax(runs, kind, capsys):
    if kind == "onnx":
        pytest.importorskip("onnxruntime")
    assert cli.main(["export", str(runs / "a"), "--format", kind, "--seed", "1"]) == 0
    assert f"policy.{kind}" in capsys.readouterr().out
    command = [sys.executable, "-c", SCORE, str(runs / "a"), kind]
    printed = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120).stdout
    run = pjp.load_run(runs / "a")
    act, state = jax.jit(run.agent.act), run.seed(1).train_state
    envs = gymnasium.make_vec("CartPole-v1", num_envs=10, vectorization_mode="sync")
    returns, _ = play_in_gymnasium(envs, lambda obs, key, memory: (act(state, obs), memory), seed=11)
    assert printed.split() == [str(x) for x in returns]
    assert returns.mean() > 50


def test_a_module_that_no_export_wrote_is_not_overwritten(runs, tmp_path, refused):
    (tmp_path / "mine.py").write_text("x = 1\n")
    assert "mine.py" in refused(["export", str(runs / "a"), "--out", str(tmp_path / "mine.npz")])
    assert (tmp_path / "mine.py").read_text() == "x = 1\n"


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--format", "pt"], "'pt'"),
        (["--out", "policy.pt"], "'policy.pt'"),
        (["--out", "policy.npz", "--format", "onnx"], "policy.npz"),
        (["--format", "onnx", "--sampled"], "--sampled"),
        (["--seed", "2"], "seed 2"),
    ],
)
def test_a_wrong_export_is_refused(runs, refused, arguments, named):
    assert named in refused(["export", str(runs / "a"), *arguments])
