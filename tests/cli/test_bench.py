"""`purejaxppo bench`: what is counted, how it is timed, and the report."""

import argparse
import contextlib
import importlib.util
import io
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import purejaxppo as pjp
from purejaxppo.cli import main as cli
from purejaxppo.cli.bench import programs, timing
from purejaxppo.cli.bench import run as bench_run
from purejaxppo.cli.bench.run import (
    Row,
    Trained,
    cost_rows,
    make_plan,
    phase_rows,
    show_number,
    show_table,
    speed_rows,
    train_name,
)
from purejaxppo.cli.bench.timing import in_pairs, measure_in_turn, spread_of
from purejaxppo.cli.bench.work import Work, step_limit, work_per_step
from purejaxppo.utils.packed import unpack

QUICK = programs.sizes_for("cpu", quick=True)


def test_the_work_of_the_defaults_is_that_of_the_goals():
    work = work_per_step(pjp.PPOConfig(), 4, 2)
    assert round(work.flop / 1e3) == 227
    assert work.tanh == 1280


def test_the_work_is_what_the_compiler_counts():
    """Of the passes there and back of one minibatch; the compiler counts the elementwise operations as well."""
    config = pjp.PPOConfig(hidden_sizes=(256, 128), activation="relu", update_epochs=1)
    agent = pjp.make_ppo(pjp.make_env("CartPole-v1"), config)
    params = agent.init(jax.random.key(0)).train_state.params

    def loss(params, obs):
        logits, value = agent.network.apply(params, obs)
        return jnp.sum(logits[:, 0]) + jnp.sum(value)

    obs = jnp.ones((512, 4))
    counted = [
        jax.jit(fn).lower(params, obs).compile().cost_analysis()["flops"] / 512
        for fn in (agent.network.apply, jax.grad(loss))
    ]
    assert sum(counted) == pytest.approx(work_per_step(config, 4, 2).flop, rel=0.03)


def test_the_work_of_one_layer_by_hand():
    config = pjp.PPOConfig(hidden_sizes=(10,), update_epochs=3)
    forward = 2 * (4 * 10 + 10 * 2) + 2 * (4 * 10 + 10 * 1)
    backward = forward + 2 * 10 * 2 + 2 * 10 * 1
    assert work_per_step(config, 4, 2) == Work(forward + 3 * (forward + backward), 4 * 2 * 10)
    assert work_per_step(config.replace(activation="relu"), 4, 2).tanh == 0


def test_the_limit_of_the_machine_of_the_goals():
    limit = step_limit(Work(227_200, 1280), gflop_rate=297, gtanh_rate=2 * 3.4)
    assert limit == pytest.approx(1.05e6, rel=0.01)


def test_a_spread_and_a_ratio_pair_by_pair():
    ours, peer = spread_of([10.0, 30.0, 20.0]), spread_of([5.0, 5.0, 2.0])
    assert ours == (20.0, 10.0, 30.0, [10.0, 30.0, 20.0])
    assert in_pairs(lambda a, b: a / b, ours, peer) == (6.0, 2.0, 10.0, [2.0, 6.0, 10.0])


def test_everything_is_measured_in_turn():
    order = []
    probes = {name: lambda repetition, name=name: order.append((repetition, name)) or repetition for name in "ab"}
    spreads = measure_in_turn(probes, 3, say=lambda _: None)
    assert order == [(0, "a"), (0, "b"), (1, "a"), (1, "b"), (2, "a"), (2, "b")]
    assert spreads["a"].values == [0, 1, 2]


def test_short_calls_are_repeated_and_the_first_is_not_timed(monkeypatch):
    clock, calls = [0.0], []

    def call():
        clock[0] += 0.125 if calls else 100.0  # the first compiles
        calls.append(clock[0])

    monkeypatch.setattr(timing.time, "perf_counter", lambda: clock[0])
    probe = timing.make_probe(timing.Timed(call, 3.0), 0.8)
    before = len(calls)
    assert probe(0) == 3.0 / 0.125
    assert len(calls) - before == 8


def test_the_limits_compute_what_they_say():
    sizes = QUICK._replace(matrix=8, products=3, tanh=16, tanh_chain=2, tanh_rounds=5)
    products, tanh = programs.limit_programs(sizes, jax.local_devices()).values()
    a = np.asarray(jax.random.normal(jax.random.key(0), (jax.local_device_count(), 8, 8))) / np.sqrt(8)
    np.testing.assert_allclose(products.call(), a @ a @ a @ a, rtol=1e-4, atol=1e-5)
    x = np.linspace(-1, 1, 16)
    for _ in range(10):
        x = np.tanh(x)
    np.testing.assert_allclose(tanh.call()[0], x, rtol=1e-5, atol=1e-6)


def test_what_is_measured_follows_the_platform():
    config, nothing = pjp.PPOConfig(), {"seeds": None, "timesteps": None, "repeats": None}
    assert make_plan("cpu", config, nothing).seeds == (1, 16, 64, 256)
    on_gpu = make_plan("accelerator", config, nothing)
    assert on_gpu.seeds == (1, 64, 1_024, 2_048, 8_192)
    assert on_gpu.timesteps == 500_000
    assert make_plan("quick", config, nothing | {"seeds": [3], "timesteps": 1_000})[:3] == ([3], 1_000, 2)
    large = config.replace(num_envs=2048, num_steps=32, num_minibatches=32)
    assert make_plan("quick", large, nothing).timesteps == 4 * 2048 * 32
    assert programs.sizes_for("gpu", quick=False).matrix == programs.sizes_for("cpu", quick=False).matrix == 2048
    with pytest.raises(pjp.PPOError, match="--timesteps 7 is below one rollout of 512"):
        make_plan("gpu", config, {"timesteps": 7})


@pytest.fixture(scope="module")
def rows():
    """As `run_bench` makes them, from invented measurements."""
    rates = {
        "large matrix products": 200,
        "tanh in cache": 8,
        "environment only, random actions": 6e6,
        "gymnax's own step, one jit": 2e6,
        "train, 1 seed": 2.5e5,
        "train, 16 seeds": 5e5,
        "update": 5e5,
        "noise": 1e7,
        "rollout": 4e6,
        "values and GAE": 5e6,
        "learning": 1e6,
        "- of which gradients": 2e6,
        "- of which permutations": 2e7,
    }
    spreads = {name: spread_of([rate, 2 * rate]) for name, rate in rates.items()}
    trained = {
        1: [Trained(5.0, [], 2**20)],
        16: [Trained(6.0, [100.0] * 16, 2**30), Trained(1.0, [500.0] * 16, 2**30)],
    }
    work = work_per_step(pjp.PPOConfig(), 4, 2)
    found = [*speed_rows(spreads, trained, work), *phase_rows(spreads), *cost_rows(trained)]
    return {row.name: row for row in found}


def test_what_follows_from_the_measurements(rows):
    limit = 1 / (227_200 / 2e11 + 1280 / 8e9)
    assert rows["limit of training"].spread.values == pytest.approx([limit, 2 * limit])
    assert "227 kFLOP and 1,280 tanh" in rows["limit of training"].remark
    assert rows["train, 16 seeds"].remark.startswith(
        "65% of the limit, 170 GFLOP/s; final training return, IQM 300.0  ("
    )
    assert "no episode at the end" in rows["train, 1 seed"].remark
    assert rows["ours over gymnax's"].spread.median == 3.0
    assert rows["rollout with the policy"].spread.least == pytest.approx(1 / (1e-7 + 2.5e-7))
    assert rows["phase: update"].spread.values == pytest.approx([2.0, 1.0])
    rest = 2.0 - 0.1 - 0.25 - 0.2 - 1.0
    assert rows["phase: rest"].spread.values == pytest.approx([rest, rest / 2])
    assert rows["- of which gradients"].spread.median == pytest.approx(0.375)
    assert rows["compile, 16 seeds, empty cache"][1:3] == (spread_of([6.0]), "s")
    assert rows["compile, 16 seeds, full cache"][1:3] == (spread_of([1.0]), "s")
    assert "compile, 1 seed, full cache" not in rows
    assert "1 GiB planned" in rows["peak memory"].remark


def test_the_table_has_a_line_for_each_measurement():
    row = Row("tanh in cache", spread_of([8.0, 16.0]), "G/s", "fast")
    measured = [{"name": row.name, "unit": row.unit, "remark": row.remark, **row.spread._asdict()}]
    report = {"title": "a machine", "measured": [*measured, {"name": "a switch", "remark": "failed: why"}]}
    lines = show_table(report).splitlines()
    assert lines[0] == "a machine"
    assert lines[3].split() == ["tanh", "in", "cache", "12", "8", "16", "G/s", "fast"]
    assert len({line.index(word) for line, word in zip(lines[2:4], ("unit", "G/s"), strict=True)}) == 1
    assert lines[4].split() == ["a", "switch", "failed:", "why"]
    assert show_number(1234567.8) == "1,234,568"
    assert show_number(0.12345) == "0.123"


@pytest.fixture(scope="module")
def quick(tmp_path_factory):
    """The command with tiny sizes. -> (its report, what it printed, its programs by name)"""
    out, made, said = tmp_path_factory.mktemp("bench") / "bench.json", {}, io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(said):
        for name in ("limit_programs", "stepping_programs", "phase_programs"):
            real = getattr(bench_run, name)
            patch.setattr(bench_run, name, lambda *given, real=real: made.update(found := real(*given)) or found)
        assert cli.main(["bench", "--quick", "--seeds", "2", "--out", str(out)]) == 0
    return json.loads(out.read_text()), said.getvalue(), made


@pytest.mark.slow
def test_the_quick_benchmark_from_end_to_end(quick):
    report, said, _ = quick
    assert not set(said) & {chr(i) for i in range(32) if i != 10}
    assert said.rstrip("\n") == show_table(report)
    assert "; CartPole-v1, 4 x 128 steps, 4 epochs x 4 minibatches, 2,048 steps a seed" in report["title"]
    measured = {row["name"]: row for row in report["measured"]}
    assert measured["compile, 2 seeds, full cache"]["most"] < measured["compile, 2 seeds, empty cache"]["least"]
    assert len(measured[train_name(2)]["values"]) == 2
    parts = ("noise", "rollout", "values and GAE", "learning", "rest")
    total = sum(np.array(measured[f"phase: {name}"]["values"]) for name in parts)
    assert total == pytest.approx(measured["phase: update"]["values"])
    assert measured["peak memory"]["median"] > 0.1


@pytest.mark.slow
def test_every_program_does_what_its_amount_says(quick):
    num_devices, programs = jax.local_device_count(), quick[2]
    products, tanh = programs["large matrix products"], programs["tanh in cache"]
    assert products.call().shape == (num_devices, 256, 256)
    assert products.amount == pytest.approx(2e-9 * 256**3 * num_devices)
    assert tanh.amount == pytest.approx(1e-9 * tanh.call().size * 64)
    ours, gymnax = programs["environment only, random actions"], programs["gymnax's own step, one jit"]
    obs, episodes = ours.call()
    assert obs.shape == (num_devices, 64, 4)
    assert ours.amount == 64 * 16 * num_devices
    assert 0 < episodes.length_sum.sum() <= ours.amount
    assert episodes.count.min() > 10  # random actions fall, and episodes begin anew
    _, rewards = gymnax.call()
    assert rewards.sum() == gymnax.amount  # one for each step


@pytest.mark.slow
def test_the_parts_of_an_update_are_those_of_the_update(quick):
    num_seeds, programs = 2 * jax.local_device_count(), quick[2]
    parts = ("update", "noise", "rollout", "values and GAE", "learning")
    assert {programs[name].amount for name in parts} == {num_seeds * 512}
    assert programs["values and GAE"].call().obs.shape == (num_seeds, 512, 4)
    (params, opt_state), _ = programs["learning"].call()
    assert all(np.any(x) for x in jax.tree.leaves(opt_state))  # Adam has seen gradients
    assert jax.tree.structure(programs["- of which gradients"].call()) == jax.tree.structure(unpack(params))
    indices = programs["- of which permutations"].call()
    assert sorted(indices[1, 3].ravel().tolist()) == list(range(512))


@pytest.fixture(scope="module")
def peers():
    """benchmarks/peers.py, which needs no peer to be imported."""
    return load(Path(__file__).parents[2] / "benchmarks" / "peers.py")


def load(path):
    """A script as a module."""
    spec = importlib.util.spec_from_file_location(f"benchmarks_{path.stem}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_peers_are_matched_with_the_seeds_that_they_can_train(peers):
    matches = peers.make_matches(["purejaxrl", "sb3"], [1, 16], 100_000, best=False, shape=peers.Shape(num_envs=64))
    assert [(m.peer, m.peer_seeds, m.our_seeds, m.peer_timesteps) for m in matches] == [
        ("purejaxrl", 1, 1, 100_000),
        ("purejaxrl", 16, 16, 100_000),
        ("sb3", 1, 1, 20_000),
    ]
    assert {m.shape.num_envs for m in matches} == {64}
    (at_best,) = peers.make_matches(["purejaxrl"], [1, 16], 100_000, best=True, shape=peers.Shape())
    assert (at_best.best, at_best.peer_seeds, at_best.our_seeds) == (True, 1, 64)


def test_the_ratio_to_a_peer_is_taken_pair_by_pair(peers):
    def run(speed):
        report = {"env_steps_per_second": speed, "compile_seconds": 2.0, "last_return_per_seed": [100.0, None, 200.0]}
        return report | peers.samples_of(report, 4)

    pairs = [peers.Pair(peer=run(100.0), ours=run(300.0)), peers.Pair(peer=run(200.0), ours=run(400.0))]
    assert peers.ratio_of(pairs) == (2.5, 2.0, 3.0, [3.0, 2.0])
    (match,) = peers.make_matches(["rejax"], [16], 100_000, best=False, shape=peers.Shape())
    assert peers.show_summary(match, pairs).split()[3:] == ["150", "350", "2.50", "(2.00", "to", "3.00)"]
    shown = peers.show_pair(match, pairs[0])
    assert "rejax, 16 seeds: 100 env-steps/s, 400 samples/s (compiled in 2.0 s, return 150)" in shown
    described = peers.describe(match, pairs)
    assert described["ratio"]["median"] == 2.5
    assert described["peer_optimizer_samples_per_second"]["values"] == [400.0, 800.0]


def test_rltools_trains_with_its_own_settings_beside_ours(peers, tmp_path):
    (match,) = peers.make_matches(["rltools"], [1, 16], 100_000, best=True, shape=peers.Shape())
    assert (match.our_seeds, match.shape) == (1, (4, 1024, 16))
    assert peers.RLTOOLS.num_samples // peers.RLTOOLS.num_minibatches == 256
    options = argparse.Namespace(envs=tmp_path, rltools=tmp_path / "rl-tools", rltools_flags="-lblas", checkout=None)
    command = peers.peer_command(match, options)
    assert command[1].endswith("rltools_ppo.py")
    assert "--flags=-lblas" in command
    rltools = load(peers.FOLDER / "rltools_ppo.py")
    assert rltools.read_output("PPO steps: 74\nTime: 0.5s\nMean return: -180.5\n") == (0.5, -180.5)
    with pytest.raises(SystemExit, match="something else"):
        rltools.read_output("Mean return: -180.5")


def test_every_peer_has_a_script_and_an_environment(peers):
    make_envs = load(peers.FOLDER / "make_envs.py")
    assert set(make_envs.REQUIREMENTS) == set(peers.PEERS) - {"rltools"}
    for name in peers.PEERS:
        assert (peers.FOLDER / f"{name}_ppo.py").exists()
