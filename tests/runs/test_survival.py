"""Whole runs and what may happen to them: stops, signals, full disks, and files that were planted."""

import ast
import dataclasses
import importlib.util
import json
import os
import pickle
import pty
import re
import shutil
import signal
import subprocess
import sys
import warnings
from contextlib import nullcontext
from pathlib import Path

import jax
import numpy as np
import pytest

import purejaxppo as pjp
from purejaxppo.cli import main as cli
from purejaxppo.cli import run_spec
from purejaxppo.cli import train as train_command
from purejaxppo.population import chunks as training
from purejaxppo.report import rewrite_page
from purejaxppo.report import train_run as report_train_run
from purejaxppo.runs import train as runs_train
from purejaxppo.runs.logs import log_file
from purejaxppo.utils import files as storage
from purejaxppo.utils.errors import NotWritten
from purejaxppo.utils.files import to_host
from purejaxppo.utils.lock import LOCK

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]


def load_benchmark():
    spec = importlib.util.spec_from_file_location("kills", ROOT / "benchmarks" / "kills.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules["kills"] = module  # its classes look for their module
    spec.loader.exec_module(module)
    return module


kills = load_benchmark()


@pytest.fixture(autouse=True, scope="module")
def compiled_once():
    with pytest.MonkeyPatch.context() as patch, kills.compiled_once():
        patch.setattr(kills.program, "CPU_WIDTH", 1)
        yield


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A finished run, and its words."""
    folder = tmp_path_factory.mktemp("runs") / "a"
    words = [*kills.KINDS["feed-forward"], *kills.KEEPING]
    assert cli.main([*words, "--out", str(folder)]) == 0
    return folder, words


@pytest.mark.parametrize("kind", ["recurrent", "full-batch", "sweep", "over devices"])
def test_every_kind_of_run_goes_on_bit_for_bit(kind, tmp_path):
    """A cut of benchmarks/kills.py, which stops each kind 20 times; test_checkpoints.py has the feed-forward one."""
    spec, asked = kills.spec_of(kind), []
    whole = kills.parts_of(kills.train_spec(spec, tmp_path / "whole", should_stop=lambda: asked.append(0) or False))
    found = kills.stop_and_go_on(spec, tmp_path / "stopped", len(asked) - 5)
    assert kills.same_results(kills.parts_of(found), whole)


def test_the_benchmark_sees_a_difference(run, tmp_path):
    results = kills.read_results(run[0])
    assert kills.same_results(results, kills.read_results(run[0]))
    (metrics, *rest), *_ = results
    other = metrics.replace(entropy=np.nextafter(metrics.entropy, np.float32(9.0)))
    assert not kills.same_results([(other, *rest)], results)


def test_a_run_keeps_its_checkpoint_options_and_its_best(run):
    folder, _ = run
    config = json.loads((folder / "config.json").read_text())
    assert (config["checkpoint_every"], config["keep_checkpoints"], config["keep_best"]) == (4, 2, True)
    best = pjp.load_checkpoint(folder, "best")
    np.testing.assert_array_equal(best.seeds, np.arange(4))
    assert np.all(best.returns >= pjp.load_checkpoint(folder).returns)
    assert not list((folder / "checkpoints" / "program-0").glob("unfinished/*"))
    with pytest.raises(pjp.PPOError, match="setting = 1 is not among the 1"):
        pjp.load_checkpoint(folder, setting=1)


@pytest.fixture
def without_pictures(monkeypatch):
    monkeypatch.setattr(report_train_run, "write_pictures", lambda finished, folder: None)


@pytest.fixture
def heeds_hangups():
    """SIGHUP as a login shell leaves it, for this process and those that it starts; under nohup it would be ignored."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


def test_a_run_that_is_stopped_at_its_pictures_makes_them_later(run, tmp_path, monkeypatch, capsys):
    folder, words = run
    real = report_train_run.write_pictures

    def stop(finished, place):
        os.kill(os.getpid(), signal.SIGTERM)
        real(finished, place)

    monkeypatch.setattr(report_train_run, "write_pictures", stop)
    out = tmp_path / "b"
    assert cli.main([*words, "--out", str(out)]) == 128 + signal.SIGTERM
    assert capsys.readouterr().err.splitlines()[-1] == f"purejaxppo: interrupted; go on with --resume {out}"
    assert (out / "summary.json").exists()
    assert not (out / "curves.png").exists()
    monkeypatch.setattr(report_train_run, "write_pictures", real)
    before = (out / "summary.json").read_bytes()
    assert cli.main(["train", "--resume", str(out)]) == 0
    assert {path.name for path in out.iterdir()} == {path.name for path in folder.iterdir()}
    assert (out / "summary.json").read_bytes() == before


def test_a_hangup_that_is_ignored_stays_so():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with train_command.StopSignal() as stop:
            os.kill(os.getpid(), signal.SIGHUP)
            assert not stop.is_set_anywhere()
    finally:
        signal.signal(signal.SIGHUP, before)


HUNG_UP = """
import fcntl, os, sys, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)  # as a login shell has its terminal
os.execv(sys.executable, [sys.executable, "-m", "purejaxppo.cli.main", *sys.argv[1:]])
"""


@pytest.mark.usefixtures("heeds_hangups")
def test_a_run_whose_terminal_is_gone_keeps_its_state(tmp_path):
    folder, (ours, its) = tmp_path / "a", pty.openpty()
    words = [*kills.KINDS["feed-forward"], "--config.total-timesteps", "4000000", "--out", str(folder)]
    process = subprocess.Popen(
        [sys.executable, "-c", HUNG_UP, *words],
        stdin=its,
        stdout=its,
        stderr=its,
        start_new_session=True,
    )
    os.close(its)
    shown = b""
    while b"steps/s" not in shown:
        shown += os.read(ours, 4096)
    os.close(ours)
    assert process.wait(timeout=100) == 128 + signal.SIGHUP
    assert list((folder / "checkpoints" / "program-0" / "unfinished").rglob("*.npz"))


def test_a_signal_at_the_end_of_the_training_is_not_lost(run, tmp_path, monkeypatch):
    _, words = run
    real = runs_train.train_in_folder

    def stop_at_the_end(*arguments, **options):
        finished = real(*arguments, **options)
        os.kill(os.getpid(), signal.SIGTERM)
        return finished

    monkeypatch.setattr(runs_train, "train_in_folder", stop_at_the_end)
    assert cli.main([*words, "--out", str(tmp_path / "b")]) == 128 + signal.SIGTERM
    assert not (tmp_path / "b" / "curves.png").exists()


def test_a_sweep_that_is_stopped_says_so(tmp_path, monkeypatch, capsys):
    words = [*kills.KINDS["sweep"], *kills.KEEPING, "--out", str(tmp_path / "a")]
    real = training.keep_or_stop

    def stop(*arguments):
        os.kill(os.getpid(), signal.SIGTERM)
        return real(*arguments)

    monkeypatch.setattr(training, "keep_or_stop", stop)
    assert cli.main(words) == 128 + signal.SIGTERM
    last = capsys.readouterr().err.splitlines()[-1]
    assert last == f"purejaxppo: stopped after 1 of 48 updates; its state is kept; go on with --resume {tmp_path / 'a'}"


@pytest.mark.usefixtures("without_pictures")
@pytest.mark.parametrize("size", [300, 3_000, 20_000])
def test_a_full_disk_is_one_line_and_the_run_goes_on(run, tmp_path, capsys, size):
    """A limit on the size of files stands for it: config.json, a checkpoint, or the metrics no longer fit."""
    whole, words = run
    out = tmp_path / "b"
    with kills.full_disk(size):
        assert cli.main([*words, "--out", str(out)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("purejaxppo: error: ")
    assert "could not be written: File too large; make room for it" in line
    assert line.endswith(f"go on with --resume {out}")
    if size > 300:
        with pytest.warns(UserWarning, match="had done 4 of 48 updates, and no checkpoint is left"):
            assert cli.main(["train", "--quiet", "--resume", str(out)]) == 0
        assert kills.same_results(kills.read_results(out), kills.read_results(whole))


def test_a_line_of_the_log_that_does_not_fit_is_said(tmp_path):
    said = r"progress\.jsonl could not be written: File too large; make room for it"
    with kills.full_disk(200), pytest.raises(NotWritten, match=said):
        write_lines(tmp_path, 100)
    assert len((tmp_path / "progress.jsonl").read_text().splitlines()) > 2


def write_lines(folder, count):
    with log_file(folder) as log:
        for step in range(count):
            log({"value_loss": 0.5}, step)


def test_a_folder_that_cannot_be_made_is_one_line(run, tmp_path, capsys):
    """Where a file lies in the place of a folder: root may write to any folder that is there."""
    out = tmp_path / "b"
    out.mkdir()
    shutil.copy(run[0] / "config.json", out)
    (out / "checkpoints").write_text("")
    assert cli.main(["train", "--quiet", "--resume", str(out)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "checkpoints could not be written: File exists; make room" in line


def test_a_file_in_the_place_of_results_is_refused_before_anything_is_compiled(run, tmp_path, capsys, monkeypatch):
    out = tmp_path / "b"
    (out / "checkpoints").mkdir(parents=True)
    shutil.copy(run[0] / "config.json", out)
    (out / "checkpoints" / "program-0").write_text("")
    monkeypatch.setattr("purejaxppo.population.train.train_job", lambda *_: pytest.fail("trained"))
    assert cli.main(["train", "--quiet", "--resume", str(out)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "program-0' is not a folder, and results belong there; remove it" in line


def stopped(words, out, report):
    """A run of two chunks that was stopped when it was asked for that time, some 13 times in each."""
    real = train_command.StopSignal.is_set_anywhere
    asked = iter(range(1, 10_000))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train_command.StopSignal, "is_set_anywhere", lambda self: next(asked) == report or real(self))
        assert cli.main([*words, "--out", str(out)]) == 128 + signal.SIGINT


@pytest.mark.usefixtures("without_pictures")
@pytest.mark.parametrize("report", [3, 18])
def test_a_resume_says_where_it_goes_on(run, tmp_path, capsys, report):
    out, (_, words) = tmp_path / "b", run
    stopped(words, out, report)
    done = int(re.search(r"stopped after (\d+) of 48", capsys.readouterr().err)[1])
    assert cli.main(["train", "--resume", str(out)]) == 0
    said = capsys.readouterr().out.splitlines()
    rest = {3: "0 to 1, from the start for 2 runs, which have no checkpoint", 18: "2 to 3; 2 runs are finished"}
    assert f"goes on after {done} of 48 updates for runs {rest[report]}" in said


@pytest.mark.parametrize("lost", ["checkpoints", "checkpoints/program-0/unfinished"])
def test_a_run_whose_checkpoints_are_lost_does_not_start_from_zero(run, tmp_path, capsys, lost):
    out, (_, words) = tmp_path / "b", run
    stopped(words, out, 6)
    shutil.rmtree(out / lost)
    assert cli.main(["train", "--quiet", "--resume", str(out)]) == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert re.search(r"had done \d+ of 48 updates, and no checkpoint is left in .*; put it back, or remove", line)
    (out / "progress.jsonl").unlink()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runs_train, "train_in_folder", lambda *_, on_begin, **__: on_begin("asked") or sys.exit(9))
        with pytest.raises(SystemExit):
            cli.main(["train", "--resume", str(out)])
    assert "asked" in capsys.readouterr().out


def test_a_checkpoint_that_may_not_have_been_due_is_a_warning(run, tmp_path):
    spec = run_spec.load_spec(run[0])
    step = spec.config.batch_size * 9
    (tmp_path / "progress.jsonl").write_text(json.dumps({"step": step}) + "\n")
    for every in ("60s", 9):
        with pytest.warns(
            UserWarning, match="had done 9 of 48 updates, and no checkpoint .*: it begins from the start"
        ):
            run_spec.check_not_lost(dataclasses.replace(spec, checkpoint_every=every), tmp_path)
    run_spec.check_not_lost(dataclasses.replace(spec, checkpoint_every=None), tmp_path)


def without_field(path):
    """As it was written before there was `share_trunk`."""
    content = json.loads(path.read_text())
    if path.name == "manifest.json":
        del content["sha256"], content["about"]["config"]["share_trunk"]
        content = {"sha256": storage._digest_of(content), **content}
    else:
        del content["config"]["share_trunk"]
    path.write_text(json.dumps(content))


@pytest.mark.usefixtures("without_pictures")
def test_a_run_of_before_there_was_a_hyperparameter_is_read_and_gone_on_with(run, tmp_path):
    whole, words = run
    out = tmp_path / "b"
    stopped(words, out, 20)
    for path in (out / "config.json", *out.rglob("population.json"), *out.rglob("manifest.json")):
        without_field(path)
    assert cli.main(["train", "--quiet", "--resume", str(out)]) == 0
    assert kills.same_results(kills.read_results(out), kills.read_results(whole))
    pjp.load_run(out)


def change_summary(change):
    def apply(folder):
        path = folder / "summary.json"
        path.write_text(json.dumps(change(json.loads(path.read_text()))))

    return apply


SUMMARIES = {
    "empty": change_summary(lambda x: {}),
    "texts": change_summary(lambda x: dict.fromkeys(x, "x")),
    "a number": change_summary(lambda x: x | {"diverged": 1}),
}


@pytest.fixture
def copy(run, tmp_path):
    return Path(shutil.copytree(run[0], tmp_path / "b"))


@pytest.mark.parametrize("name", SUMMARIES)
def test_a_summary_that_was_changed_is_refused(copy, name):
    SUMMARIES[name](copy)
    for read in (pjp.load_run, rewrite_page):
        with pytest.raises(pjp.PPOError, match=r"summary\.json does not fit .*; purejaxppo train --resume .* anew"):
            read(copy)


def test_a_summary_of_before_it_had_a_checksum_is_read(copy):
    change_summary(lambda x: x | {"files": {name: x["files"][name] for name in ("metrics.npz", "metrics.csv")}})(copy)
    before = (copy / "summary.json").read_bytes()
    assert pjp.load_run(copy).summary["num_seeds"] == 4
    assert cli.main(["train", "--quiet", "--resume", str(copy)]) == 0
    assert (copy / "summary.json").read_bytes() == before


def cut_file(name):
    return lambda folder: (folder / name).write_bytes((folder / name).read_bytes()[:-9])


MENDED = {
    "summary.json": SUMMARIES["texts"],
    "metrics.npz": cut_file("metrics.npz"),
    "metrics.csv": lambda folder: (folder / "metrics.csv").unlink(),
}


@pytest.mark.parametrize("name", MENDED)
def test_a_finished_run_is_made_whole_from_its_results(run, copy, capsys, monkeypatch, name):
    monkeypatch.setattr(train_command, "show_finished", lambda *_: None)
    MENDED[name](copy)
    assert cli.main(["train", "--resume", str(copy)]) == 0
    assert f"is finished; nothing is left to train; written anew from its results: {name}" in capsys.readouterr().out
    for file in ("metrics.npz", "metrics.csv"):
        assert (copy / file).read_bytes() == (run[0] / file).read_bytes()
    one, other = (json.loads((folder / "summary.json").read_text()) for folder in (copy, run[0]))
    assert one["final_return_per_seed"] == other["final_return_per_seed"]
    assert (one == other) == (name != "summary.json")
    assert cli.main(["train", "--resume", str(copy)]) == 0
    assert "anew" not in capsys.readouterr().out


@pytest.mark.parametrize("kind", ["runners", "metrics", "best"])
def test_a_finished_run_whose_results_are_damaged_is_not_called_finished(copy, capsys, kind):
    (place, *_) = sorted((copy / "checkpoints" / "program-0" / kind).iterdir())
    cut_file("leaves.npz")(place)
    assert cli.main(["train", "--resume", str(copy)]) == 2
    said = capsys.readouterr()
    assert "is finished" not in said.out
    assert re.search(f"{kind}/{place.name}' cannot be read: .*; to train these members again, remove ", said.err)


def test_a_finished_run_that_lacks_seeds_is_not_called_finished(copy, capsys):
    shutil.rmtree(copy / "checkpoints" / "program-0" / "runners" / "00000000-00000002")
    assert cli.main(["train", "--resume", str(copy)]) == 2
    assert re.search(r"is finished, and .* lacks members 0 to 1; remove .*summary\.json", capsys.readouterr().err)


def test_what_is_no_state_for_a_film_is_left_alone(copy, capsys):
    (copy / "kept" / "after-x").mkdir(parents=True)
    (copy / "report.html").unlink()
    assert cli.main(["train", "--quiet", "--resume", str(copy)]) == 0
    assert (copy / "report.html").exists()


def test_a_seed_that_cannot_be_is_refused_before_the_plan(copy, capsys):
    change = json.loads((copy / "config.json").read_text()) | {"seed": -1}
    (copy / "config.json").write_text(json.dumps(change))
    (copy / "summary.json").unlink()
    assert cli.main(["train", "--resume", str(copy)]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert re.search(r"config\.json: seed = -1 is out of range; give an int from 0", said.err)


def test_a_picture_that_does_not_fit_is_one_line_too(run, tmp_path, capsys):
    out = tmp_path / "b"
    shutil.copytree(run[0], out)
    (out / "report.html").unlink()
    with kills.full_disk(2_000):
        assert cli.main(["train", "--quiet", "--resume", str(out)]) == 2
    assert "could not be written: File too large" in capsys.readouterr().err
    assert not [path for path in out.iterdir() if path.name.startswith(".")]


class Trap:
    """What a pickle runs when it is loaded."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return Path.touch, (self.marker,)


def planted(marker):
    """Files that hold the trap: a pickle, an array of objects, and both by the names that are in an .npz."""
    trap = np.array([Trap(marker)], dtype=object)
    return pickle.dumps(Trap(marker)), trap


def plant(path, marker):
    """Replaces a file by a trap of its kind."""
    text, trap = planted(marker)
    if path.suffix == ".npz":
        with np.load(path) as arrays:
            names = arrays.files
        np.savez(path, **dict.fromkeys(names, trap))
    else:
        path.write_bytes(text)


def test_the_trap_works(tmp_path):
    marker = tmp_path / "marker"
    np.savez(tmp_path / "a.npz", x=planted(marker)[1])
    with np.load(tmp_path / "a.npz", allow_pickle=True) as arrays:
        arrays["x"]
    assert marker.exists()


def read_everything(folder):
    """All that loads something of a run folder, each refused or not."""
    for read in (
        lambda: pjp.load_run(folder).metrics,
        lambda: pjp.load_run(folder).runners,
        lambda: pjp.load_checkpoint(folder, "best"),
        lambda: cli.main(["train", "--quiet", "--resume", str(folder)]),
    ):
        try:
            read()
        except pjp.PPOError:
            continue


@pytest.mark.usefixtures("without_pictures")
def test_nothing_in_a_run_folder_is_executed(run, tmp_path, capsys):
    marker = tmp_path / "marker"
    files = [path.relative_to(run[0]) for path in run[0].rglob("*") if path.is_file()]
    assert {path.name for path in files} >= {"config.json", "metrics.npz", "leaves.npz", "manifest.json"}
    shutil.copytree(run[0], tmp_path / "b")
    for name in files:
        if "00000002-00000004" in name.parts:
            continue  # the second chunk is read as the first one is
        content = (tmp_path / "b" / name).read_bytes()
        plant(tmp_path / "b" / name, marker)
        if name.suffix in (".npz", ".json"):
            read_everything(tmp_path / "b")
        assert not marker.exists(), name
        (tmp_path / "b" / name).write_bytes(content)
    assert "Traceback" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("env", "os:system"),
        ("algorithm", "os.system"),
        ("config", {"activation": "os.system"}),
        ("config", {"lr_schedule": "__import__('os').abort()"}),
        ("sweep", [{"__class__": "os.system"}]),
    ],
)
def test_a_config_names_nothing_that_is_called(run, tmp_path, name, value):
    shutil.copytree(run[0], tmp_path / "b")
    content = json.loads((run[0] / "config.json").read_text())
    content[name] = content[name] | value if isinstance(value, dict) else value
    (tmp_path / "b" / "config.json").write_text(json.dumps(content))
    with pytest.raises(pjp.PPOError):
        pjp.load_run(tmp_path / "b")


def test_no_module_unpickles():
    for path in (ROOT / "purejaxppo").rglob("*.py"):
        tree = ast.parse(path.read_text())
        names = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
        names |= {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
        assert not names & {"pickle", "cloudpickle", "dill", "joblib", "marshal", "shelve"}, path
        for call in (node for node in ast.walk(tree) if isinstance(node, ast.Call)):
            if ast.unparse(call.func) in (
                "np.load",
                "np.savez",
                "np.lib.format.write_array",
                "np.lib.format.read_array",
            ):
                assert "allow_pickle=False" in ast.unparse(call), path
            assert ast.unparse(call.func) not in ("eval", "exec"), path


# The command line in a process that ends itself by SIGKILL in the course of a save: half the numbers are written, the
# folder is whole but not in its place, or it is in its place and the older ones are not gone.
KILLED = """
import os, signal, sys
import numpy as np
import jax
import purejaxppo as pjp
from purejaxppo.cli import main as cli
from purejaxppo.utils import files as storage
from purejaxppo.population import program

moment, *words = sys.argv[1:]
pjp.use_all_cores()
program.CPU_WIDTH = 1
jax.config.update("jax_persistent_cache_min_compile_time_secs", 1e9)  # it reads the cache, and tears no file of it
saves = []


def die(*_, **__):
    os.kill(os.getpid(), signal.SIGKILL)


def savez(path, **leaves):
    saves.append(path)
    if moment == "half" and len(saves) == 2:
        path.write_bytes(b"half")
        die()
    return real(path, **leaves)


def replace(source, target):
    if moment == "beside" and len(saves) == 3:
        die()
    os_replace(source, target)
    if moment == "there" and len(saves) == 4:
        die()


real, os_replace = np.savez, os.replace
np.savez, os.replace = savez, replace
sys.exit(cli.main(words))
"""


@pytest.mark.usefixtures("without_pictures")
def test_a_run_that_is_killed_while_it_saves_ends_bit_for_bit(run, tmp_path):
    """benchmarks/kills.py kills 200 processes, at any time."""
    whole, words = run
    out = tmp_path / "b"
    for moment in ("half", "beside", "there"):
        begun = (out / "config.json").exists()
        arguments = ["train", "--quiet", "--resume", str(out)] if begun else [*words, "--out", str(out)]
        command = [sys.executable, "-W", "ignore", "-c", KILLED, moment, *arguments]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == -signal.SIGKILL, done.stderr
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the checkpoint that is half written
        assert cli.main(["train", "--quiet", "--resume", str(out)]) == 0
    assert kills.same_results(kills.read_results(out), kills.read_results(whole))
    assert not [path for path in out.rglob(".*") if path.name != LOCK]


@pytest.mark.parametrize("first", ["two", "one"])
def test_a_run_over_devices_goes_on_from_the_same_state_on_another_number(first, tmp_path, monkeypatch):
    spec, reports, begun = kills.spec_of("over devices"), iter(range(1, 1_000)), []
    here, there = (nullcontext, kills.on_one_device) if first == "two" else (kills.on_one_device, nullcontext)
    with here(), pytest.raises(pjp.Interrupted):
        kills.train_spec(spec, tmp_path, should_stop=lambda: next(reports) == 6)
    (place,) = (tmp_path / "program-0" / "unfinished").iterdir()
    held = kills.checkpoints.checkpoints(place)[-1]
    real = training.restore

    def restore(job, rows, fresh):
        found = real(job, rows, fresh)
        begun.append((kept_at(job.store, held), to_host(found[0]), found[3], jax.tree.leaves(found[0])[0].sharding))
        raise pjp.Interrupted("seen")

    monkeypatch.setattr(training, "restore", restore)
    with there(), pytest.raises(pjp.Interrupted, match="seen"):
        kills.train_spec(spec, tmp_path)
    ((before, after, updates, sharding),) = begun
    assert (updates, len(sharding.device_set)) == (held, 1 if first == "two" else len(jax.devices()))
    jax.tree.map(np.testing.assert_array_equal, after, before)


def kept_at(store, updates):
    """The states of the first chunk as they lie on the disk."""
    (part,) = kills.checkpoints.unfinished(store.folder)
    return to_host(kills.checkpoints.read_checkpoint(store, part, updates).runners)
