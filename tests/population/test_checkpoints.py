"""Populations that stop within a chunk: what comes after is to the bit what would have come."""

import dataclasses
import json
import shutil
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

import purejaxppo as pjp
from purejaxppo.cli import main as cli
from purejaxppo.population import chunks as training
from purejaxppo.population import program
from purejaxppo.population.checkpoints import (
    KEPT,
    Policy,
    checkpoints,
    newest_checkpoint,
    read_seconds,
    training_returns,
)
from purejaxppo.population.checkpoints import unfinished as begun_chunks
from purejaxppo.population.chunks import Pace, next_count
from purejaxppo.runs import train as runs_train

pytestmark = pytest.mark.slow

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


@pytest.fixture(autouse=True, scope="module")
def compiled_once():
    """Each program of these tests is made once."""
    made, real = {}, training.compile_to_fit

    def compile_or_remember(job):
        devices = program.used_devices(job.options.placement, job.num_members)
        key = (repr(job.program.config), job.num_members, job.options.placement, program.CPU_WIDTH, len(devices))
        if key not in made:
            made[key] = real(job)
        return made[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "compile_to_fit", compile_or_remember)
        yield


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


@pytest.mark.parametrize("report", [1, 20, 33])
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


@pytest.mark.parametrize("every", [1, 20])
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


@pytest.mark.parametrize(("updates", "kept"), [(3, []), (9, [4, 8]), (14, [8, 12])])
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
    content, right = path.read_bytes(), read_newest(tmp_path, whole)
    refused = 0
    for position in np.random.default_rng(0).integers(8 * len(content), size=500):
        damaged = bytearray(content)
        damaged[position // 8] ^= 1 << position % 8
        path.write_bytes(damaged)
        try:
            found = read_newest(tmp_path, whole)
            jax.tree.map(np.testing.assert_array_equal, to_numpy(found), to_numpy(right))
        except pjp.PPOError as error:
            assert "00000008" in str(error)  # noqa: PT017
            refused += 1
    assert refused > 300


def test_every_change_of_a_manifest_is_noticed(env, whole, tmp_path):
    place = interrupted(env, tmp_path)
    shutil.rmtree(place / "00000004")
    path = place / "00000008" / "manifest.json"
    content = path.read_text()
    for name in ("about", "versions", "leaves"):
        manifest = json.loads(content)
        manifest[name] = dict(list(manifest[name].items())[1:])
        path.write_text(json.dumps(manifest))
        with pytest.raises(pjp.PPOError, match=r"manifest\.json does not fit its checksum"):
            read_newest(tmp_path, whole)
    path.write_text(content)
    about = json.loads(content)["about"]
    assert about["env"] == "CartPole-v1"
    assert about["config"]["num_steps"] == "16"


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
    with pytest.raises(pjp.PPOError, match="to train these members again"):
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
    assert next_count(done, 20, capacity, Policy(every, None, KEPT, False), Pace(0.0, 1e9)) == stop - done


@pytest.mark.parametrize(
    ("left", "speed", "count"),
    [(10.0, 0.0, 1), (10.0, 3.0, 3), (0.5, 5.0, 2), (10.0, 100.0, 6), (-1.0, 100.0, 1), (0.025, 100.0, 2)],
)
def test_the_host_looks_when_a_checkpoint_by_time_is_due(left, speed, count, monkeypatch):
    monkeypatch.setattr(training.time, "perf_counter", lambda: 1_000.0)
    pace = Pace(written=1_000.0 - 60.0 + left, updates_per_second=speed)
    assert next_count(4, 20, 6, Policy(None, 60.0, KEPT, False), pace) == count


def test_checkpoints_by_time_change_no_result(env, whole, tmp_path, monkeypatch):
    """A clock that goes a second each time that it is read: it decides when, and nothing else."""
    ticks = iter(range(1_000_000))
    monkeypatch.setattr(training.time, "perf_counter", lambda: float(next(ticks)))
    kept = []

    def note(progress):
        kept.append(unfinished(tmp_path).get("00000000-00000004", [0])[-1])

    assert_same(train(env, tmp_path, checkpoint_every="40s", on_chunk=note), whole)
    written = sorted(set(kept) - {0})
    assert 2 <= len(written) < 20


@pytest.mark.parametrize("kept", [1, 3])
def test_the_newest_are_kept(env, tmp_path, kept):
    with pytest.raises(Died):
        train(env, tmp_path, checkpoint_every=2, keep_checkpoints=kept, on_chunk=die_after(4, 11))
    assert unfinished(tmp_path) == {"00000004-00000008": [2, 4, 6, 8, 10][-kept:]}


def best_by_hand(metrics, every):
    """The checkpoint, or the end, at which each member's training return is highest."""
    num_updates = metrics.updates.shape[1]
    ends = [*range(every, num_updates, every), num_updates]
    cut = [jax.tree.map(lambda x, end=end: np.asarray(x)[:, :end], metrics) for end in ends]
    scores = np.stack([training_returns(part, num_updates) for part in cut])
    return np.array(ends)[np.nanargmax(scores, axis=0)], np.nanmax(scores, axis=0)


@pytest.mark.parametrize("report", [None, 2, 33])
def test_each_seed_is_kept_at_its_best(env, whole, tmp_path, report):
    """What is kept is the state that the training had then, whether it was interrupted or not."""
    states = {}

    def note(progress):
        states[progress.updates, progress.members[0]] = jax.tree.map(np.asarray, progress.train_states)

    options = {"checkpoint_every": 4, "keep_best": True, "on_chunk": note}
    if report is not None:
        with pytest.raises(pjp.Interrupted):
            train(env, tmp_path, should_stop=stop_at(report), **options)
    found = train(env, tmp_path, **options)
    assert_same(found, whole)
    best = found.checkpoint("best")
    updates, returns = best_by_hand(whole.metrics, every=4)
    np.testing.assert_array_equal(best.seeds, np.arange(10))
    np.testing.assert_array_equal(best.updates, updates)
    np.testing.assert_array_equal(best.returns, returns)
    assert len(set(updates.tolist())) > 1
    for i in range(10):
        one = jax.tree.map(lambda x, i=i: x[i], best.runners.train_state)
        then = states[int(updates[i]), WIDTH * (i // WIDTH)]
        jax.tree.map(lambda x, y, i=i: np.testing.assert_array_equal(x, y[i % WIDTH]), one, then)
    assert int(found.agent.act(one, best.runners.obs[9, 0])) in (0, 1)


def test_what_is_kept_is_read_while_the_population_trains(env, whole, tmp_path):
    options = {"checkpoint_every": 4, "keep_best": True}
    with pytest.raises(Died):
        train(env, tmp_path, on_chunk=die_after(4, 10), **options)
    half = pjp.open_population(env, CONFIG, num_seeds=10, evaluation_episodes=3, out=tmp_path)
    newest, eighth, best = half.checkpoint(), half.checkpoint(8), half.checkpoint("best")
    np.testing.assert_array_equal(newest.seeds, np.arange(8))
    np.testing.assert_array_equal(newest.updates, [21] * 4 + [8] * 4)
    np.testing.assert_array_equal(eighth.seeds, [4, 5, 6, 7])
    np.testing.assert_array_equal(best.seeds, np.arange(8))
    assert (best.updates[4:] <= 8).all()
    done = jax.tree.map(lambda x: x[:4], to_numpy(newest.runners))
    jax.tree.map(np.testing.assert_array_equal, done, to_numpy(jax.tree.map(lambda x: x[:4], whole.runners)))
    with pytest.raises(pjp.PPOError, match="holds no checkpoint 7; it holds those after 4, 8, 21 updates"):
        half.checkpoint(7)
    with pytest.raises(pjp.PPOError, match="checkpoint = 'bset' is unknown"):
        half.checkpoint("bset")
    with pytest.raises(pjp.PPOError, match="holds no checkpoint 'best'"):
        whole.checkpoint("best")


def test_best_is_optional_when_a_run_goes_on(env, whole, tmp_path):
    with pytest.raises(Died):
        train(env, tmp_path / "a", checkpoint_every=4, on_chunk=die_after(0, 10))
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    late = train(env, tmp_path / "a", checkpoint_every=4, keep_best=True)
    assert_same(late, whole)
    assert (late.checkpoint("best").updates[:4] >= 12).all()
    assert_same(train(env, tmp_path / "b"), whole)


def test_a_population_goes_on_where_chunks_are_others(env, whole, tmp_path, monkeypatch):
    """On one device, with chunks of its own size: from the state that was kept, and never from zero."""
    with pytest.raises(pjp.Interrupted):
        train(env, tmp_path, should_stop=stop_at(33))
    ((place, (begun,)),) = begun_chunks(tmp_path / "program-0").items()
    monkeypatch.setattr(program, "used_devices", lambda *_: jax.devices()[:1])
    monkeypatch.setattr(training, "cut_rows", lambda rows, width: REAL_CUT(rows, min(width, 3)))
    seen = []
    resumed = train(env, tmp_path, on_chunk=lambda progress: seen.append((progress.members, progress.updates)))
    first = dict(reversed(seen))
    assert first[place[0], place[0] + 3] == begun + 1
    assert first[place[0] + 3, place[1]] == begun + 1
    assert unfinished(tmp_path) == {}
    ours, theirs = (found.column("value_loss")[slice(*place)] for found in (resumed, whole))
    np.testing.assert_array_equal(ours[:, :begun], theirs[:, :begun])
    np.testing.assert_allclose(ours[:, begun], theirs[:, begun], rtol=1e-3)


REAL_CUT = training.cut_rows


def test_a_checkpoint_of_another_run_is_not_taken(env, whole, tmp_path):
    """Of the same shapes, copied into the folder: the manifest says what it belongs to."""
    other = interrupted_with(env, tmp_path / "other", CONFIG.replace(gamma=0.5))
    place = interrupted_with(env, tmp_path / "a", CONFIG)
    for name in ("00000004", "00000008"):
        shutil.rmtree(place / name)
        shutil.copytree(other / name, place / name)
    with pytest.raises(pjp.PPOError, match=r"is of another run: its config is .*; it does not belong here"):
        train(env, tmp_path / "a")


def interrupted_with(env, folder, config):
    with pytest.raises(Died):
        train(env, folder, config, checkpoint_every=4, on_chunk=die_after(0, 10))
    return folder / "program-0" / "unfinished" / "00000000-00000004"


@pytest.mark.parametrize(("text", "seconds"), [("60s", 60.0), ("5m", 300.0), ("1.5h", 5_400.0), (".5s", 0.5)])
def test_times(text, seconds):
    assert read_seconds(text) == seconds


@pytest.mark.parametrize("text", ["60", "s", "0s", "-5m", "5 m", "5d", "1e3s", "nans", ""])
def test_what_is_no_time(env, tmp_path, text):
    with pytest.raises(pjp.PPOError, match='is not a time; give "60s"'):
        train(env, tmp_path, checkpoint_every=text)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"keep_best": True}, "keep_best = True chooses among checkpoints, and there are none"),
        ({"checkpoint_every": 4, "keep_checkpoints": 0}, "keep_checkpoints = 0 is not a whole number of at least 1"),
        ({"checkpoint_every": 2.5}, "checkpoint_every = 2.5 is not a whole number of at least 1"),
    ],
)
def test_checkpoints_that_cannot_be_are_refused(env, tmp_path, options, said):
    with pytest.raises(pjp.PPOError, match=said):
        train(env, tmp_path, **options)


WORDS = ["train", "--preset", "cleanrl", "--quiet", "--seeds", "4", "--config.total-timesteps", "4000000"]


def test_a_run_that_is_stopped_goes_on_from_its_checkpoint(tmp_path):
    """test_survival.py kills one."""
    folder = tmp_path / "a"
    command = [sys.executable, "-m", "purejaxppo.cli.main", *WORDS, "--checkpoint-every", "40", "--out", str(folder)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    place = folder / "checkpoints" / "program-0" / "unfinished" / "00000000-00000004"
    deadline = time.monotonic() + 120
    while len(checkpoints(place)) < 2 and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    _, error = process.communicate(timeout=120)
    kept = checkpoints(place)
    assert len(kept) >= 1
    assert process.returncode == 128 + signal.SIGTERM
    assert error.startswith("purejaxppo: stopping at the next report; once more to stop at once\n")
    assert error.splitlines()[-1] == (
        f"purejaxppo: stopped after {kept[-1]} of 7812 updates; its state is kept; go on with --resume {folder}"
    )
    begun = []
    with pytest.MonkeyPatch.context() as patch:
        real = runs_train.train_in_folder

        def stop_soon(spec, folder, view, **options):
            def note(progress):
                begun.append(progress.updates)
                raise KeyboardInterrupt

            return real(spec, folder, note, **options)

        patch.setattr(runs_train, "train_in_folder", stop_soon)
        assert cli.main(["train", "--quiet", "--resume", str(folder), "--checkpoint-every", "40"]) == 130
    assert begun == [kept[-1] + 1]  # the first report of a chunk comes after its first update
