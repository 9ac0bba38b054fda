"""Populations that stop within a chunk: what comes after is to the bit what would have come."""

import dataclasses
import shutil
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

import purejaxppo as pjp
from purejaxppo import cli
from purejaxppo.population import program
from purejaxppo.population.checkpoints import checkpoints, newest_checkpoint
from purejaxppo.population.train import next_stop

# Rewards are scaled: the running returns of unfinished episodes are part of what has to come back.
CONFIG = pjp.PPOConfig(
    num_envs=4, num_steps=16, total_timesteps=4 * 16 * 21, hidden_sizes=(8,), normalize_obs=True, normalize_reward=True
)
WIDTH = 4  # members of a chunk, of 10


@pytest.fixture(scope="module")
def env():
    return pjp.make_env("CartPole-v1")


@pytest.fixture(autouse=True)
def chunks_of_four(monkeypatch):
    monkeypatch.setattr(program, "CPU_WIDTH", WIDTH // len(jax.devices()) or 1)


def train(env, out, config=CONFIG, **options):
    return pjp.train_population(env, config, num_seeds=10, evaluation_episodes=3, out=out, **options)


@pytest.fixture(scope="module")
def whole(env, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(program, "CPU_WIDTH", WIDTH // len(jax.devices()) or 1)
        return train(env, tmp_path_factory.mktemp("whole"))


def assert_same(one, other):
    data = [to_numpy((population.metrics, population.runners)) for population in (one, other)]
    jax.tree.map(np.testing.assert_array_equal, *data)
    np.testing.assert_array_equal(one.final_returns(), other.final_returns())


def to_numpy(tree):
    is_key = lambda x: jax.numpy.issubdtype(x.dtype, jax.dtypes.prng_key)  # noqa: E731
    return jax.tree.map(lambda x: np.asarray(jax.random.key_data(x) if is_key(x) else x), tree)


def stop_at(report):
    """Wants to stop when it is asked for the `report`-th time."""
    asked = iter(range(1, 10_000))
    return lambda: next(asked) == report


def unfinished(folder):
    return {path.name: checkpoints(path) for path in (folder / "program-0" / "unfinished").glob("*")}


@pytest.mark.parametrize("report", [1, 2, 7, 15, 20, 21, 33, 41, 55, 60])
def test_a_population_that_stops_goes_on_bit_for_bit(env, whole, tmp_path, report):
    with pytest.raises(pjp.Interrupted, match="of 21 updates"):
        train(env, tmp_path, should_stop=stop_at(report))
    assert unfinished(tmp_path) == {
        f"{first:08d}-{min(first + WIDTH, 10):08d}": [updates]
        for first, updates in [(WIDTH * ((report - 1) // 20), (report - 1) % 20 + 1)]
    }
    begun = []
    resumed = train(env, tmp_path, on_chunk=lambda progress: begun.append((progress.members[0], progress.updates)))
    assert begun[0] == (WIDTH * ((report - 1) // 20), (report - 1) % 20 + 2)
    assert_same(resumed, whole)
    assert unfinished(tmp_path) == {}


@pytest.mark.parametrize("every", [1, 4, 20])
def test_checkpoints_change_no_result(env, whole, tmp_path, every):
    assert_same(train(env, tmp_path, checkpoint_every=every), whole)
    assert unfinished(tmp_path) == {}


class Died(Exception):
    """Stands for a process that ends without warning."""


def die_after(members, updates):
    def die(progress):
        if progress.members[0] == members and progress.updates == updates:
            raise Died

    return die


@pytest.mark.parametrize(("updates", "kept"), [(3, []), (5, [4]), (9, [4, 8]), (14, [8, 12])])
def test_at_most_one_interval_is_lost(env, whole, tmp_path, updates, kept):
    with pytest.raises(Died):
        train(env, tmp_path, checkpoint_every=4, on_chunk=die_after(4, updates))
    assert unfinished(tmp_path) == ({"00000004-00000008": kept} if kept else {})
    begun = []
    resumed = train(env, tmp_path, on_chunk=lambda progress: begun.append(progress.updates))
    assert begun[0] == (kept or [0])[-1] + 1
    assert_same(resumed, whole)


def interrupted(env, folder):
    with pytest.raises(Died):
        train(env, folder, checkpoint_every=4, on_chunk=die_after(0, 10))
    return folder / "program-0" / "unfinished" / "00000000-00000004"


def flip(path, position):
    content = bytearray(path.read_bytes())
    content[position] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("damage", ["flip", "cut", "lost"])
def test_a_damaged_checkpoint_is_passed_over_and_said(env, whole, tmp_path, damage):
    place = interrupted(env, tmp_path) / "00000008" / "leaves.npz"
    size = place.stat().st_size
    {
        "flip": lambda: flip(place, 300),
        "cut": lambda: place.write_bytes(place.read_bytes()[: size // 2]),
        "lost": place.unlink,
    }[damage]()
    begun = []
    with pytest.warns(UserWarning, match="00000008.*that of update 4 is used"):
        resumed = train(env, tmp_path, on_chunk=lambda progress: begun.append(progress.updates))
    assert begun[0] == 5
    assert_same(resumed, whole)


def read_newest(folder, population):
    store = dataclasses.replace(population.store, folder=folder / "program-0")
    return newest_checkpoint(store, (0, 4))


def test_no_bit_flip_gives_a_wrong_state(env, whole, tmp_path):
    """500 flips: each is refused, or in a field of the zip file that nothing depends on."""
    place = interrupted(env, tmp_path)
    shutil.rmtree(place / "00000004")
    path = place / "00000008" / "leaves.npz"
    content, (_, right) = path.read_bytes(), read_newest(tmp_path, whole)
    refused = 0
    for position in np.random.default_rng(0).integers(8 * len(content), size=500):
        damaged = bytearray(content)
        damaged[position // 8] ^= 1 << position % 8
        path.write_bytes(damaged)
        try:
            _, found = read_newest(tmp_path, whole)
            jax.tree.map(np.testing.assert_array_equal, to_numpy(found), to_numpy(right))
        except pjp.PPOError as error:
            assert "00000008" in str(error)  # noqa: PT017
            refused += 1
    assert refused > 300


def test_no_shortened_file_is_taken_for_a_whole_one(env, whole, tmp_path):
    place = interrupted(env, tmp_path)
    shutil.rmtree(place / "00000004")
    for name in ("leaves.npz", "manifest.json"):
        path = place / "00000008" / name
        content = path.read_bytes()
        for length in np.linspace(0, len(content) - 1, 25).astype(int):
            path.write_bytes(content[:length])
            with pytest.raises(pjp.PPOError, match="00000008"):
                read_newest(tmp_path, whole)
        path.write_bytes(content)


def test_without_a_valid_checkpoint_nothing_starts_from_zero(env, tmp_path):
    place = interrupted(env, tmp_path)
    for updates in checkpoints(place):
        (place / f"{updates:08d}" / "manifest.json").unlink()
    with pytest.raises(pjp.PPOError, match="to train these members anew"):
        train(env, tmp_path)


def test_a_half_written_checkpoint_is_none(env, tmp_path, monkeypatch):
    """A full disk, or a process that dies, while a checkpoint is written."""

    def fail(*arguments, **keywords):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez", fail)
    with pytest.raises(pjp.PPOError, match="00000004 could not be written: No space left on device; make room"):
        train(env, tmp_path, checkpoint_every=4)
    assert unfinished(tmp_path) == {"00000000-00000004": []}
    assert not any((tmp_path / "program-0" / "unfinished" / "00000000-00000004").iterdir())


def test_checkpoints_need_a_folder_and_a_whole_number(env, tmp_path):
    with pytest.raises(pjp.PPOError, match="checkpoint_every = 4 needs a folder"):
        train(env, None, checkpoint_every=4)
    with pytest.raises(pjp.PPOError, match="checkpoint_every = 0 is not"):
        train(env, tmp_path, checkpoint_every=0)


def test_a_population_in_memory_stops_too(env):
    with pytest.raises(pjp.Interrupted, match="after 3 of 21"):
        train(env, None, should_stop=stop_at(3))


@pytest.mark.parametrize(
    ("done", "capacity", "every", "stop"),
    [
        (0, 6, None, 6),
        (18, 6, None, 20),
        (0, 6, 4, 4),
        (4, 6, 4, 8),
        (5, 6, 4, 8),
        (4, 2, 7, 6),
        (6, 2, 7, 7),
        (18, 6, 4, 20),
        (0, 50, 50, 20),
    ],
)
def test_the_host_looks_at_the_next_report_or_checkpoint(done, capacity, every, stop):
    assert next_stop(done, 20, capacity, every) == stop


WORDS = ["train", "--preset", "cleanrl", "--quiet", "--seeds", "4", "--config.total-timesteps", "4000000"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_run_that_is_killed_goes_on_from_its_checkpoint(tmp_path, number):
    folder = tmp_path / "a"
    command = [sys.executable, "-m", "purejaxppo.cli", *WORDS, "--checkpoint-every", "40", "--out", str(folder)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    place = folder / "checkpoints" / "program-0" / "unfinished" / "00000000-00000004"
    deadline = time.monotonic() + 120
    while len(checkpoints(place)) < 2 and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(number)
    _, error = process.communicate(timeout=120)
    kept = checkpoints(place)
    assert len(kept) >= 1
    if number == signal.SIGTERM:
        assert process.returncode == 128 + signal.SIGTERM
        assert error.splitlines()[-1] == (
            f"purejaxppo: stopped after {kept[-1]} of 7812 updates; its state is kept; go on with --resume {folder}"
        )
    else:
        assert process.returncode == -signal.SIGKILL
    begun = []
    with pytest.MonkeyPatch.context() as patch:
        real = cli.train_run

        def stop_soon(spec, folder, view, **options):
            def note(progress):
                begun.append(progress.updates)
                raise KeyboardInterrupt

            return real(spec, folder, note, **options)

        patch.setattr(cli, "train_run", stop_soon)
        assert cli.main(["train", "--quiet", "--resume", str(folder), "--checkpoint-every", "40"]) == 130
    assert begun == [40 * (kept[-1] // 40) + 40]
