"""Whole runs and what may happen to them: stops, signals, full disks, and files that were planted."""

import ast
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
from pathlib import Path

import numpy as np
import pytest

import purejaxppo as pjp
from purejaxppo import cli
from purejaxppo.population import train as training

ROOT = Path(__file__).parent.parent


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
    for report in (3, len(asked) - 5):
        found = kills.stop_and_go_on(spec, tmp_path / str(report), report)
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


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_run_that_is_stopped_at_its_pictures_makes_them_later(run, tmp_path, monkeypatch, capsys, number):
    folder, words = run
    real = cli.write_pictures

    def stop(finished, place):
        os.kill(os.getpid(), number)
        real(finished, place)

    monkeypatch.setattr(cli, "write_pictures", stop)
    out = tmp_path / "b"
    assert cli.main([*words, "--out", str(out)]) == 128 + number
    assert capsys.readouterr().err.splitlines()[-1] == f"purejaxppo: interrupted; go on with --resume {out}"
    assert (out / "summary.json").exists()
    assert not (out / "curves.png").exists()
    monkeypatch.setattr(cli, "write_pictures", real)
    before = (out / "summary.json").read_bytes()
    assert cli.main(["train", "--resume", str(out)]) == 0
    assert {path.name for path in out.iterdir()} == {path.name for path in folder.iterdir()}
    assert (out / "summary.json").read_bytes() == before


def test_a_hangup_that_is_ignored_stays_so():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with cli.StopSignal() as stop:
            os.kill(os.getpid(), signal.SIGHUP)
            assert not stop.is_set_anywhere()
    finally:
        signal.signal(signal.SIGHUP, before)


HUNG_UP = """
import fcntl, os, sys, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)  # as a login shell has its terminal
os.execv(sys.executable, [sys.executable, "-m", "purejaxppo.cli", *sys.argv[1:]])
"""


def test_a_run_whose_terminal_is_gone_keeps_its_state(tmp_path):
    folder, (ours, its) = tmp_path / "a", pty.openpty()
    words = [
        "train",
        "--preset",
        "cleanrl",
        "--seeds",
        "2",
        "--config.total-timesteps",
        "4000000",
        "--out",
        str(folder),
    ]
    process = subprocess.Popen(
        [sys.executable, "-c", HUNG_UP, *words], stdin=its, stdout=its, stderr=its, start_new_session=True
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
    real = cli.train_run

    def stop_at_the_end(*arguments, **options):
        finished = real(*arguments, **options)
        os.kill(os.getpid(), signal.SIGTERM)
        return finished

    monkeypatch.setattr(cli, "train_run", stop_at_the_end)
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
    assert last == f"purejaxppo: stopped after 3 of 48 updates; its state is kept; go on with --resume {tmp_path / 'a'}"


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
        assert cli.main(["train", "--quiet", "--resume", str(out)]) == 0
        assert kills.same_results(kills.read_results(out), kills.read_results(whole))


def test_a_folder_that_cannot_be_made_is_one_line(run, tmp_path, capsys):
    """Where a file lies in the place of a folder: root may write to any folder that is there."""
    out = tmp_path / "b"
    out.mkdir()
    shutil.copy(run[0] / "config.json", out)
    (out / "checkpoints").write_text("")
    assert cli.main(["train", "--quiet", "--resume", str(out)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "checkpoints could not be written: File exists; make room" in line


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
        lambda: cli.main(["eval", str(folder), "--episodes", "1"]),
        lambda: cli.main(["train", "--quiet", "--resume", str(folder)]),
    ):
        try:
            read()
        except pjp.PPOError:
            continue


def test_nothing_in_a_run_folder_is_executed(run, tmp_path, capsys):
    marker = tmp_path / "marker"
    files = [path.relative_to(run[0]) for path in run[0].rglob("*") if path.is_file()]
    assert {path.name for path in files} >= {"config.json", "metrics.npz", "leaves.npz", "manifest.json"}
    shutil.copytree(run[0], tmp_path / "b")
    for name in files:
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


@pytest.mark.parametrize("i", [0, 1])
def test_the_snippets_of_the_page_run(i, capsys):
    """The second is orbax's v1 API on a state as it is: what the page says in its favour."""
    snippets = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "checkpoints.md").read_text(), flags=re.DOTALL)
    assert len(snippets) == 2
    exec(compile(snippets[i], "checkpoints.md", "exec"), {"__name__": "snippet"})


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
