"""What a log is told, against the metrics of the run, and what its readers find."""

import dataclasses
import glob
import io
import json
import os
import struct
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import arithmetic
import numpy as np
import pytest
from rich.console import Console
from scipy import stats

import purejaxppo as pjp
from purejaxppo.cli import main as cli
from purejaxppo.examples.keras_display import describe_epoch
from purejaxppo.population.logs import CLEANRL, NAMES, SB3
from purejaxppo.population.options import Progress
from purejaxppo.runs import console as runs_console
from purejaxppo.runs.console import (
    ProgressView,
    UpdateView,
    describe_members,
    name_members,
    print_rows,
    print_table,
    spark,
)
from purejaxppo.runs.logs import log_file, tensorboard, weights_and_biases

METRICS = [field.name for field in dataclasses.fields(pjp.Metrics)]
NAN = float("nan")
TINY = ["--seeds", "3", "--config.total-timesteps", "5000", "--config.num-envs", "4", "--config.num-steps", "64"]
TINY += ["--config.hidden-sizes", "8"]  # the program of test_runs.py


def make_progress(returns, *, members=(0, 2), updates=None, diverged_at=(-1, -1, 7)):
    """The newest updates of two members and one row of padding. returns: [2, U]"""
    returns = np.asarray(returns, np.float32)
    num_updates = returns.shape[1]
    updates = num_updates if updates is None else updates
    rows = np.arange(updates - num_updates, updates)
    numbers = {name: np.full(returns.shape, 0.5, np.float32) for name in METRICS}
    numbers |= {"episode_return_mean": returns, "updates": np.tile(rows + 1, (2, 1)), "batch_size": 512, "extra": {}}
    return Progress(
        members=members,
        updates=updates,
        num_updates=8,
        timesteps=1024 * updates,
        total_timesteps=8192,
        seconds=2.0,
        metrics=pjp.Metrics(**numbers),
        train_states=SimpleNamespace(diverged_at=np.array(diverged_at)),
    )


def told(progress, names="sb3"):
    calls = []
    pjp.LogProgress(lambda metrics, step: calls.append((metrics, step)), names)(progress)
    return calls


def test_one_call_an_update_with_the_names_signs_and_factors_of_the_others():
    (first, second) = told(make_progress([[10.0, 30.0], [20.0, NAN]]))
    assert [step for _, step in (first, second)] == [512, 1024]
    assert first[0] == {
        "rollout/ep_rew_mean": 15.0,
        "rollout/last_return_mean": 0.5,
        "rollout/ep_len_mean": 0.5,
        "time/fps": 1024.0,
        "time/total_timesteps": 512.0,
        "train/approx_kl": 0.5,
        "train/clip_fraction": 0.5,
        "train/entropy_loss": -0.5,
        "train/value_loss": 1.0,
        "train/explained_variance": 0.5,
        "train/learning_rate": 0.5,
        "train/policy_gradient_loss": 0.5,
        "population/seeds": 2.0,
        "population/first_seed": 0.0,
        "population/diverged": 0.0,
        "population/return_iqm": 15.0,
        "population/return_best": 20.0,
        "population/return_worst": 10.0,
    }
    assert second[0]["rollout/ep_rew_mean"] == second[0]["population/return_iqm"] == 30.0
    (other, _) = told(make_progress([[10.0], [20.0]]), "cleanrl")[0]
    assert (other["charts/episodic_return"], other["losses/entropy"], other["losses/value_loss"]) == (15.0, 0.5, 0.5)
    assert set(SB3) == set(CLEANRL)
    assert not {name for name, _ in SB3.values()} & {name for name, _ in CLEANRL.values()}


def test_what_is_not_there_is_left_out():
    (metrics, _) = told(make_progress([[NAN], [NAN]]))[0]
    assert not {"rollout/ep_rew_mean", "population/return_iqm", "population/return_best"} & set(metrics)
    assert np.isfinite(list(metrics.values())).all()


def test_the_diverged_are_counted_from_their_update_on_without_the_padding():
    progress = make_progress([[1.0] * 4, [2.0] * 4], updates=8, diverged_at=(6, -1, 0))
    assert [metrics["population/diverged"] for metrics, _ in told(progress)] == [0.0, 0.0, 1.0, 1.0]


def test_a_population_tells_its_own_metrics_update_by_update():
    calls, env = [], pjp.make_env("CartPole-v1")
    options = {"make_agent": arithmetic.make_agent, "on_chunk": pjp.LogProgress(lambda *told: calls.append(told))}
    metrics = pjp.train_population(env, arithmetic.CONFIG, num_seeds=3, **options).metrics
    assert [step for _, step in calls] == metrics.timesteps[0].tolist()
    for update, (found, _) in enumerate(calls):
        for ours, (theirs, factor) in SB3.items():
            column = getattr(metrics, ours)[:, update] if hasattr(metrics, ours) else np.full(3, NAN)
            if np.isfinite(column).all():
                np.testing.assert_allclose(found[theirs], factor * column.mean(dtype=np.float64), rtol=1e-6)
        returns = metrics.episode_return_mean[:, update]
        np.testing.assert_allclose(found["population/return_iqm"], stats.trim_mean(returns, 0.25), rtol=1e-6)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [((3,), "log = 3 is not callable"), ((print, "sb4"), "names = 'sb4' is unknown; take one of sb3, cleanrl")],
)
def test_what_is_no_log_is_refused(arguments, said):
    with pytest.raises(pjp.PPOError, match=said):
        pjp.LogProgress(*arguments)


def steps_in(folder):
    return [json.loads(line)["step"] for line in (folder / "progress.jsonl").read_text().splitlines()]


def test_a_run_that_goes_on_repeats_no_line_and_drops_a_torn_one(tmp_path):
    with log_file(tmp_path) as log:
        for first_seed in (0.0, 32.0):
            for step in (1, 2, 3):
                log({"population/first_seed": first_seed}, step)
    with (tmp_path / "progress.jsonl").open("a") as file:
        file.write('{"step": 4, "popul')
    with log_file(tmp_path) as log:
        log({"population/first_seed": 32.0}, 3)
        log({"population/first_seed": 32.0}, 4)
    assert steps_in(tmp_path) == [1, 2, 3, 1, 2, 3, 4]


def records(path):
    """The scalars of an event file, read by TensorBoard's own format: name, step, value."""
    from tensorboardX.proto.event_pb2 import Event

    data, place = Path(path).read_bytes(), 0
    while place < len(data):
        (length,) = struct.unpack_from("<Q", data, place)
        event = Event.FromString(data[place + 12 : place + 12 + length])
        place += 12 + length + 4
        yield from ((value.tag, event.step, value.simple_value) for value in event.summary.value)


def test_tensorboard_reads_what_was_logged_with_a_folder_for_each_chunk(tmp_path):
    with tensorboard(tmp_path) as log:
        log({"a": 1.5, "population/first_seed": 0.0}, 512)
        log({"a": 2.5, "population/first_seed": 0.0}, 1024)
        log({"a": 3.5, "population/first_seed": 32.0}, 512)
    (first,) = glob.glob(str(tmp_path / "tensorboard" / "events*"))
    (second,) = glob.glob(str(tmp_path / "tensorboard" / "from-seed-32" / "events*"))
    assert [x for x in records(first) if x[0] == "a"] == [("a", 512, 1.5), ("a", 1024, 2.5)]
    assert [x for x in records(second) if x[0] == "a"] == [("a", 512, 3.5)]


def test_a_run_prints_json_lines_alone_and_logs_where_it_is_told_to(tmp_path, capsys):
    arguments = [
        "train",
        *TINY,
        "--out",
        str(tmp_path / "a"),
        "--json-lines",
        "--tensorboard",
        "--log-names",
        "cleanrl",
    ]
    assert cli.main(arguments) == 0
    out, err = capsys.readouterr()
    lines = [json.loads(line) for line in out.splitlines()]
    assert err == ""
    assert {line["event"] for line in lines[1:-1]} == {"note", "progress"}
    assert (lines[0]["event"], lines[0]["num_seeds"], lines[-1]["event"]) == ("begin", 3, "summary")
    summary = json.loads((tmp_path / "a" / "summary.json").read_text())
    assert {name: lines[-1][name] for name in summary} == summary
    assert lines[-2]["share"] == 1.0
    assert steps_in(tmp_path / "a") == [*range(256, 4865, 256), 4864]
    last = (tmp_path / "a" / "progress.jsonl").read_text().splitlines()[-1]
    assert json.loads(last) == {"step": 4864, "eval/episodic_return": summary["final_return_mean"]}
    (events,) = glob.glob(str(tmp_path / "a" / "tensorboard" / "events*"))
    found = {(tag, step) for tag, step, _ in records(events)}
    assert ("losses/entropy", 1536) in found
    assert ("eval/episodic_return", 4864) in found
    assert json.loads((tmp_path / "a" / "config.json").read_text())["log_names"] == "cleanrl"


def wandb_run(home, out, **environment):
    """A run of it in a process of its own, with no key of this machine's: wandb starts threads and a service."""
    command = [
        sys.executable,
        "-m",
        "purejaxppo.cli.main",
        "train",
        *TINY,
        "--quiet",
        "--wandb",
        "trial",
        "--out",
        str(out),
    ]
    known = {name: value for name, value in os.environ.items() if not name.startswith("WANDB_")}
    own = {"HOME": str(home), "WANDB_CACHE_DIR": str(home), **environment}
    return subprocess.run(
        command, env=known | own, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=200
    )


@pytest.mark.slow
def test_weights_and_biases_keeps_a_run_without_a_network_and_says_nothing(tmp_path):
    out = tmp_path / "a"
    done = wandb_run(tmp_path, out, WANDB_MODE="offline")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    (kept,) = glob.glob(str(out / "wandb" / "offline-run-*" / "run-*.wandb"))
    content = Path(kept).read_bytes()
    for name in (b"rollout/ep_rew_mean", b"eval/mean_reward", b"env_steps"):
        assert name in content
    assert json.loads((out / "wandb.json").read_text())["project"] == "trial"


@pytest.mark.parametrize("key", [{}, {"WANDB_API_KEY": "short"}])
def test_without_a_key_weights_and_biases_is_one_line_and_leaves_no_folder(tmp_path, key):
    done = wandb_run(tmp_path, tmp_path / "a", **key)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith("purejaxppo: error: --wandb: ")
    assert done.stderr.endswith("; run wandb login, or set WANDB_MODE=offline\n")
    assert not (tmp_path / "a").exists()


def test_where_weights_and_biases_begins_no_run_the_folder_stays_empty(tmp_path, monkeypatch):
    wandb = pytest.importorskip("wandb")

    def refuse(dir, **_):
        (Path(dir) / "wandb").mkdir()
        raise wandb.errors.CommError("no such\nentity.")

    monkeypatch.setattr(wandb, "init", refuse)
    said = r"^--wandb: no such entity; run wandb login, or set WANDB_MODE=offline$"
    with pytest.raises(pjp.PPOError, match=said), weights_and_biases(tmp_path, {}, "trial"):
        pass
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("extra", ["tensorboard", "wandb"])
def test_a_package_that_is_missing_is_named_before_anything_runs(extra, refused, monkeypatch, tmp_path):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    line = refused(["train", f"--{extra}", *(["x"] if extra == "wandb" else [])])
    assert f'which is not installed; pip install "purejaxppo[{extra}]"' in line
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("width", [60, 80, 120])
def test_the_live_view_shows_the_seeds_within_the_width(width):
    file = io.StringIO()
    console = Console(file=file, force_terminal=True, width=width, height=20, color_system=None, _environ={})
    with ProgressView(console, num_members=2) as view:
        view.say("one chunk")
        view(make_progress([[10.0, 30.0], [20.0, NAN]], updates=4))
        view(make_progress([[NAN, 50.0], [NAN, NAN]], updates=8, diverged_at=(-1, 6, 0)))
    last = file.getvalue().split("\n")[-5:]
    text = "\n".join(last)
    assert "100%" in text
    assert "return, IQM of seeds 0 to 1  35.0  ▁█  1 diverged" in text
    assert "best seed 0: 50.0   worst seed 1: 20.0" in text
    assert all(len(line.split("\x1b[2K")[-1]) <= width for line in last)


@pytest.mark.parametrize(
    "settings", [{"force_terminal": False}, {"force_terminal": True, "_environ": {"TERM": "dumb"}}]
)
def test_where_there_is_no_terminal_there_is_no_control_character(settings):
    file = io.StringIO()
    with ProgressView(Console(file=file, width=80, **settings), num_members=2) as view:
        view(make_progress([[10.0], [20.0]], updates=8))
    assert "100%" in file.getvalue()
    assert all(character.isprintable() or character == "\n" for character in file.getvalue())


@pytest.mark.parametrize("width", [80, 120])
def test_a_terminal_breaks_lines_between_words_and_nothing_else_breaks_them(width):
    text = "CartPole-v1, preset cleanrl: " + "24 seeds on [2] CPU devices, 199,680 steps each, " * 4
    for is_terminal in (True, False):
        file = io.StringIO()
        console = Console(file=file, force_terminal=is_terminal, width=width, color_system=None, _environ={})
        for view in (ProgressView(console, num_members=24), UpdateView(console, describe_epoch)):
            view.begin(text, {})
        lines = file.getvalue().splitlines()
        assert " ".join(line.strip() for line in lines).split() == (text + text).split()
        assert (max(map(len, lines)) <= width) == is_terminal


def test_the_live_view_counts_on_its_own_while_it_compiles_and_between_reports(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(runs_console, "monotonic", lambda: now[0])

    def last_frame(*reports, plan=None):
        console = Console(file=io.StringIO(), force_terminal=True, width=80, color_system=None, _environ={})
        with ProgressView(console, num_members=2) as view:
            if plan is not None:
                now[0] += 30.0
                view.planned(plan)
            for report in reports:
                view(report)
            now[0] += 65.0
        return console.file.getvalue()

    assert "compiling  1:05" in last_frame()
    assert "training  1:05" in last_frame(plan="one chunk")
    report = make_progress([[1.0], [2.0]], updates=4)._replace(seconds=100.0)
    assert "4,096 steps  41 steps/s  0:35 left" in last_frame(report)
    assert "4,096 steps  410 steps/s  0:00 left" in last_frame(report._replace(seconds=10.0))


def test_a_table_breaks_what_is_too_wide_and_cuts_nothing():
    file = io.StringIO()
    name = "a-folder-[bold]-of-many-letters" * 4
    console = Console(file=file, width=60, force_terminal=True, color_system=None, _environ={})
    print_rows(console, [["run", "IQM"], [name, "1.0"]])
    print_table(console, {"run folder": name})
    assert file.getvalue().count("…") == 0
    assert max(map(len, file.getvalue().splitlines())) <= 60
    assert "".join(file.getvalue().replace("1.0", "").split()) == f"runIQM{name}runfolder{name}"


def test_where_there_is_no_terminal_a_row_is_a_line_and_nothing_follows_it():
    file = io.StringIO()
    name = "a-folder-[bold]-of-many-letters" * 4
    print_rows(Console(file=file, width=60), [["run", "IQM"], [name, "1.0"], ["b", "20.0"]])
    print_table(Console(file=file, width=60), {"run folder": name, "seeds": "2"})
    rest = " " * (len(name) - 1)
    assert file.getvalue() == (f"run{rest[2:]}   IQM\n{name}   1.0\nb{rest}  20.0\nrun folder  {name}\nseeds       2\n")


def test_a_line_of_a_chunk_says_whose_return_it_is():
    file = io.StringIO()
    with ProgressView(Console(file=file, width=200), num_members=6) as view:
        view(make_progress([[10.0], [20.0]], updates=8)._replace(members=(2, 4)))
    assert "training return of seeds 2 to 3    15.0" in file.getvalue()
    with ProgressView(Console(file=file, width=200), num_members=2) as view:
        view(make_progress([[10.0], [20.0]], updates=8))
    assert "  training return    15.0" in file.getvalue()
    assert name_members((5, 6), True) == "run 5"


def test_one_seed_is_no_population_and_a_chunk_names_its_members():
    assert describe_members(np.array([3.0]), [1.0, 3.0], (0, 1), 0, False) == "training return 3.00  ▁█"
    text = describe_members(np.array([30.0, NAN, 0.5]), [400.0], (32, 35), 0, True)
    assert text == "training return, IQM of runs 32 to 34  400.0  ▅\nbest run 32: 30.0   worst run 34: 0.500"
    assert describe_members(np.array([NAN, NAN]), [], (0, 2), 0, False) == "training return: no episode has ended yet"


def test_a_spark_line_shows_the_newest_within_the_range_of_all():
    assert spark([0.0, 1.0, 2.0, 7.0]) == "▁▂▃█"
    assert spark([500.0, 500.0]) == "▅▅"  # neither the floor nor the ceiling
    assert spark([0.0, *[7.0] * 30], width=4) == "████"


def test_every_name_is_one_of_the_contract():
    assert {"rollout/ep_rew_mean", "time/fps", "eval/mean_reward"} <= {name for name, _ in NAMES["sb3"].values()}
    assert {"charts/episodic_return", "charts/SPS"} <= {name for name, _ in NAMES["cleanrl"].values()}


def test_an_own_number_by_a_name_of_the_log_has_a_place_of_its_own():
    progress = make_progress([[1.0], [2.0]])
    extra = {name: np.full((2, 1), 7.0) for name in ("evaluation", "seeds", "kl")}
    (numbers,) = (call for call, _ in told(progress._replace(metrics=progress.metrics.replace(extra=extra))))
    assert numbers["population/seeds"] == 2.0
    assert "eval/mean_reward" not in numbers
    assert [numbers[f"train/{name}"] for name in ("extra/evaluation", "extra/seeds", "kl")] == [7.0, 7.0, 7.0]
