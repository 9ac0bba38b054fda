"""How often the host sees a training, by its speed; and that this changes no result."""

import dataclasses

import jax
import numpy as np
import pytest

import purejaxppo as pjp
from purejaxppo.population import chunks as training
from purejaxppo.population import program
from purejaxppo.population.program import call_capacity
from purejaxppo.runs import train as runs
from purejaxppo.runs.spec import RunSpec
from purejaxppo.utils.files import to_host

METRICS = [field.name for field in dataclasses.fields(pjp.Metrics)]
CONFIG = pjp.PPOConfig(num_envs=4, num_steps=4, total_timesteps=4 * 4 * 64, hidden_sizes=(4,))


@pytest.fixture(scope="module")
def env():
    return pjp.make_env("CartPole-v1")


@pytest.fixture(scope="module")
def compiled(env):
    """The program of one seed, compiled once."""
    kept = []
    with pytest.MonkeyPatch.context() as patch:
        real = training.compile_to_fit
        patch.setattr(training, "compile_to_fit", lambda *given: kept.append(real(*given)) or kept[0])
        pjp.train_population(env, CONFIG, num_seeds=1)
    return kept[0]


@pytest.fixture
def train(env, compiled, monkeypatch):
    """Trains on a clock that stands still but for the updates. -> when the host has seen which update, and the run"""
    now = [0.0]
    monkeypatch.setattr(training.time, "perf_counter", lambda: now[0])

    def run(seconds, **options):
        def advance(runners, numbers, count):
            now[0] += int(count) * seconds
            return compiled[0].advance(runners, numbers, count)

        timed = (compiled[0]._replace(advance=advance), compiled[1])
        monkeypatch.setattr(training, "compile_to_fit", lambda *_: timed)
        seen = []
        population = pjp.train_population(
            env, CONFIG, num_seeds=1, on_chunk=lambda progress: seen.append((now[0], progress.updates)), **options
        )
        return seen, population

    return run


def assert_same(one, other):
    jax.tree.map(np.testing.assert_array_equal, *(to_host((each.metrics, each.runners)) for each in (one, other)))


def test_a_slow_run_is_seen_every_second_and_a_fast_one_as_often_as_before(train):
    slow, slowly = train(0.3)
    times, updates = zip(*slow, strict=True)
    assert updates[:3] == (1, 4, 7)
    assert max(np.diff(times)) <= 2.0
    fast, quickly = train(1e-4)
    assert len(fast) <= 16
    assert fast[0][1] == 1
    slowest, _ = train(100.0)
    assert [seen for _, seen in slowest] == list(range(1, 65))
    assert_same(slowly, quickly)


def test_a_stop_is_heeded_at_the_next_report_and_the_run_goes_on_to_the_same_end(train, tmp_path):
    asked = iter(range(100))
    with pytest.raises(pjp.Interrupted, match="after 7 of 64"):
        train(0.3, out=tmp_path, should_stop=lambda: next(asked) == 2)
    resumed = train(0.01, out=tmp_path)[1]
    assert_same(resumed, train(0.01)[1])


def test_the_host_looks_after_the_updates_that_it_is_told_of(train):
    seen = [updates for _, updates in train(1e-4, report_at=(8, 20))[0]]
    assert {8, 20} <= set(seen)


def test_the_films_of_the_keras_example_are_of_the_updates_that_it_names(monkeypatch, tmp_path):
    told = {}
    monkeypatch.setattr(runs, "train_population", lambda *_, **options: told.update(options) or 1 / 0)
    spec = RunSpec("CartPole-v1", {}, pjp.FullBatchConfig(), num_seeds=1, seed=0, preset="keras")
    with pytest.raises(ZeroDivisionError):
        runs.train_in_folder(spec, tmp_path, lambda progress: None)
    assert told["report_at"] == (8, 20)


def shapes_of(num_updates):
    """Of the metrics of a run."""
    names = [name for name in METRICS if name != "batch_size"]
    shape = jax.ShapeDtypeStruct((num_updates,), np.float32)
    return pjp.Metrics(**dict.fromkeys(names, shape), batch_size=512)


@pytest.mark.parametrize("num_updates", [1, 15, 31, 32, 47, 100, 976, 1_000, 30_000])
def test_a_fast_run_has_no_more_calls_than_sixteen_reports_took(num_updates):
    metrics = shapes_of(num_updates)
    capacity = call_capacity(metrics, width=16)
    before = -(-num_updates // max(1, num_updates // program.REPORTS))
    assert 1 + -(-(num_updates - 1) // capacity) <= before


def test_the_metrics_of_a_call_stay_small_however_long_the_run_and_wide_the_chunk():
    metrics = shapes_of(10**7)
    assert call_capacity(metrics, width=1) == program.MOST_UPDATES
    wide = call_capacity(metrics, width=8_192)
    assert wide >= 1
    assert wide * 8_192 * 13 * 4 <= program.MOST_METRICS
