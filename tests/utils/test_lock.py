"""One training at a time in a folder: by the command line, and by `train_population`."""

import errno
import fcntl
import os
import subprocess
import sys

import arithmetic
import pytest

import purejaxppo as pjp
from purejaxppo.cli import main as cli
from purejaxppo.cli import train as train_command
from purejaxppo.runs.folder import make_run_folder
from purejaxppo.utils.lock import LOCK, locked

TINY = ["--seeds", "3", "--config.total-timesteps", "5000", "--config.num-envs", "4", "--config.num-steps", "64"]
TINY += ["--config.hidden-sizes", "8"]
HOLD = """
import fcntl, os, sys
file = open(sys.argv[1], "w")
fcntl.flock(file, fcntl.LOCK_EX)
print(os.getpid(), file=file, flush=True)
print("held", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def holder(tmp_path):
    """A process that holds the lock of tmp_path / "a"."""
    (tmp_path / "a").mkdir()
    command = [sys.executable, "-c", HOLD, str(tmp_path / "a" / LOCK)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def train(out, **options):
    options["make_agent"] = arithmetic.make_agent
    return pjp.train_population(pjp.make_env("CartPole-v1"), arithmetic.CONFIG, num_seeds=1, out=out, **options)


def test_two_processes_do_not_train_in_one_folder(holder, tmp_path, refused):
    said = f"is in use by process {holder.pid}; wait for its end or stop it, or take another folder"
    with pytest.raises(pjp.PPOError, match=said):
        train(tmp_path / "a")
    assert said in refused(["train", "--out", str(tmp_path / "a"), *TINY])
    assert [path.name for path in (tmp_path / "a").iterdir()] == [LOCK]


def test_a_run_that_trains_is_not_gone_on_with(tmp_path, refused, monkeypatch):
    """Nor is what it writes at its end touched."""
    out, said = tmp_path / "a", []
    real = train_command.train_watched

    def train_and_resume(*arguments, **options):
        before = real(*arguments, **options)
        said.append(refused(["train", "--quiet", "--resume", str(out)]))
        return before

    monkeypatch.setattr(train_command, "train_watched", train_and_resume)
    assert cli.main(["train", "--quiet", "--out", str(out), *TINY]) == 0
    assert f"is in use by process {os.getpid()};" in said[0]
    assert not (out / LOCK).exists()
    assert cli.main(["train", "--quiet", "--resume", str(out)]) == 0


def test_the_lock_goes_with_a_process_that_is_killed(holder, tmp_path):
    holder.kill()
    holder.wait()
    assert (tmp_path / "a" / LOCK).exists()
    make_run_folder(tmp_path / "a")  # what is left of it is no file of a run
    with locked(tmp_path / "a"):
        assert (tmp_path / "a" / LOCK).read_text() == f"{os.getpid()}\n"
    assert not list((tmp_path / "a").iterdir())


def test_a_training_that_failed_leaves_the_folder_free(tmp_path):
    def fail(_):
        with pytest.raises(pjp.PPOError, match=f"is in use by process {os.getpid()}"):
            train(tmp_path)
        raise RuntimeError("mine")

    for _ in range(2):
        with pytest.raises(RuntimeError, match="mine"):
            train(tmp_path, on_chunk=fail)
    assert not (tmp_path / LOCK).exists()
    train(tmp_path)


def test_a_lock_that_was_removed_as_it_was_taken_is_taken_anew(tmp_path, monkeypatch):
    """The process that had it ends between our open and our lock: a third one may have made the file anew."""
    real, path = fcntl.flock, tmp_path / LOCK

    def flock(handle, operation):
        monkeypatch.setattr(fcntl, "flock", real)
        path.unlink()
        real(handle, operation)

    monkeypatch.setattr(fcntl, "flock", flock)
    with locked(tmp_path):
        assert path.exists()
        with pytest.raises(pjp.PPOError, match="is in use by"), locked(tmp_path):
            pass


@pytest.mark.parametrize("where", ["disk", "system"])
def test_without_locks_it_goes_on(where, tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(errno.ENOTSUP, "Operation not supported")

    if where == "disk":
        monkeypatch.setattr(fcntl, "flock", refuse)
    else:
        monkeypatch.setitem(sys.modules, "fcntl", None)  # as on Windows
    with locked(tmp_path), locked(tmp_path):
        pass
    assert not list(tmp_path.iterdir())


def test_a_folder_that_takes_no_file_is_the_writers_to_refuse(tmp_path):
    with locked(tmp_path / "nowhere"):
        pass
