"""`purejaxppo bench`: what is counted, how it is timed, and the report."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import purejaxppo as pjp
from purejaxppo.cli.bench import programs, timing
from purejaxppo.cli.bench.compiling import compile_elsewhere
from purejaxppo.cli.bench.report import show_number, show_table
from purejaxppo.cli.bench.run import Trained, assemble, compiled_once, compiled_sizes, make_plan, with_rest
from purejaxppo.cli.bench.timing import in_pairs, measure_in_turn, spread_of
from purejaxppo.cli.bench.work import Work, step_limit, work_per_step
from purejaxppo.utils.files import write_json

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
    limit = step_limit(Work(227_200, 1280), flop_rate=297e9, tanh_rate=2 * 3.4e9)
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
    assert timing.calls_within(call, 0.8) == 8
    assert timing.make_probe(timing.Timed(call, 3.0), 0.8)(0) == 3.0 / 0.125


@pytest.mark.slow
@pytest.mark.parametrize("num_devices", [1, jax.local_device_count()])
def test_every_program_does_what_its_amount_says(num_devices):
    """With one device as well, as an accelerator has."""
    devices = jax.local_devices()[:num_devices]
    limits = programs.limit_programs(QUICK, devices)
    assert limits["sgemm"].call().shape == (num_devices, 256, 256)
    assert limits["sgemm"].amount == 2 * 256**3 * num_devices
    assert limits["tanh"].amount == limits["tanh"].call().size * 64
    config = pjp.PPOConfig(total_timesteps=512)  # fewer than one call steps without a policy
    agent = pjp.make_ppo(pjp.make_env("CartPole-v1"), config)
    stepping = programs.stepping_programs(agent, QUICK, devices)
    obs, episodes = stepping["env_only"].call()
    assert obs.shape == (num_devices, 64, 4)
    assert stepping["env_only"].amount == 64 * 16 * num_devices
    assert 0 < episodes.length_sum.sum() <= stepping["env_only"].amount
    assert episodes.count.min() > 10  # random actions fall, and episodes begin anew
    assert stepping["rollout"].call()[1].reward.size == stepping["rollout"].amount == 2 * 512 * num_devices
    _, rewards = stepping["gymnax_step_spread"].call()
    assert rewards.sum() == stepping["gymnax_step_spread"].amount  # one for each step


def test_the_limits_compute_what_they_say():
    sizes = QUICK._replace(matrix=8, products=3, tanh=16, tanh_chain=2, tanh_rounds=5)
    limits = programs.limit_programs(sizes, jax.local_devices())
    a = np.asarray(jax.random.normal(jax.random.key(0), (jax.local_device_count(), 8, 8))) / np.sqrt(8)
    np.testing.assert_allclose(limits["sgemm"].call(), a @ a @ a @ a, rtol=1e-4, atol=1e-5)
    x = np.linspace(-1, 1, 16)
    for _ in range(10):
        x = np.tanh(x)
    np.testing.assert_allclose(limits["tanh"].call()[0], x, rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_the_parts_of_an_update_are_those_of_the_update():
    agent = pjp.make_ppo(pjp.make_env("CartPole-v1"), pjp.PPOConfig())
    runner = agent.init(jax.random.key(0))
    _, transitions, logits = programs.act_on(agent, runner, programs.noise_of(agent, runner))
    batch = programs.judge_steps(agent, runner, transitions, logits)
    assert batch.obs.shape == (512, 4)
    (params, _), _ = programs.learn_from(agent, runner, batch)
    moved = jax.tree.map(lambda x, y: float(jnp.abs(x - y).max()), params, runner.train_state.params)
    assert min(jax.tree.leaves(moved)) > 0
    descended = programs.descend_plainly(agent, runner, batch)
    assert jax.tree.structure(descended) == jax.tree.structure(params)
    assert sorted(programs.draw_permutations(agent, runner)[3].ravel().tolist()) == list(range(512))


def test_what_is_measured_follows_the_platform():
    config = pjp.PPOConfig()
    assert make_plan("cpu", config).seeds == (1, 16, 64, 256)
    on_gpu = make_plan("gpu", config)
    assert on_gpu.seeds == (1, 64, 1_024, 2_048, 8_192)
    assert on_gpu.timesteps == 500_000
    assert compiled_sizes(on_gpu) == [1, 8_192]
    asked = make_plan("gpu", config, seeds=[3], timesteps=1_000, repeats=7, quick=True)
    assert asked[:3] == ((3,), 1_000, 7)
    large = config.replace(num_envs=2048, num_steps=32, num_minibatches=32)
    assert make_plan("cpu", large, quick=True).timesteps == 4 * 2048 * 32
    assert programs.sizes_for("gpu", quick=False).matrix == programs.sizes_for("cpu", quick=False).matrix == 2048


def test_a_cache_of_the_callers_own_is_left_alone():
    before = jax.config.jax_compilation_cache_dir
    assert before
    with compiled_once():
        assert jax.config.jax_compilation_cache_dir == before


@pytest.fixture(scope="module")
def report():
    """As `run_bench` makes it, from invented measurements."""
    names = ["sgemm", "tanh", "env_only", "gymnax_step", "gymnax_step_spread", "rollout", "train.1", "train.16"]
    phases = ["phase.update", "phase.noise", "phase.rollout", "phase.learning", "phase.learning.gradients"]
    rates = [2e11, 8e9, 6e6, 2e6, 3e6, 1e6, 2.5e5, 5e5, 5e5, 1e7, 4e6, 1e6, 2e6]
    spreads = {name: spread_of([rate, 2 * rate]) for name, rate in zip([*names, *phases], rates, strict=True)}
    trained = {
        1: [Trained(2.5e5, [], 2**20), Trained(5e5, [], 2**20)],
        16: [Trained(5e5, [100.0] * 16, 2**30), Trained(1e6, [500.0] * 16, 2**30)],
    }
    compiling = {"16": {"cold": spread_of([6.0])._asdict(), "warm": spread_of([1.0])._asdict()}}
    return {
        "machine": {
            "platform": "gpu",
            "device": "A Device",
            "num_devices": 1,
            "cores": 8,
            "versions": {"jax": "0.11.2"},
        },
        "plan": make_plan("gpu", pjp.PPOConfig())._asdict(),
        "config": vars(pjp.PPOConfig()),
        **assemble(spreads, trained, work_per_step(pjp.PPOConfig(), 4, 2)),
        "compile_seconds": compiling,
        "peak_memory_bytes": 2**31,
    }


def test_what_follows_from_the_measurements(report):
    limit = 1 / (227_200 / 2e11 + 1280 / 8e9)
    assert report["limits"]["env_steps_per_second"]["values"] == pytest.approx([limit, 2 * limit])
    single, many = report["training"]
    assert many["share_of_limit"]["values"] == pytest.approx([5e5 / limit] * 2)
    assert many["flop_per_second"]["median"] == pytest.approx(7.5e5 * 227_200)
    assert many["final_return_iqm"]["estimate"] == pytest.approx(300.0)
    assert len(many["final_returns"]) == 32
    assert single["final_return_iqm"] is None  # no episode ended
    assert report["env_steps_per_second"]["env_only_over_gymnax_step"]["median"] == 3.0
    phases = report["phases_microseconds_per_env_step"]
    assert phases["update"]["values"] == pytest.approx([2.0, 1.0])
    assert phases["rest"]["values"] == pytest.approx([2.0 - 0.1 - 0.25 - 1.0, 1.0 - 0.05 - 0.125 - 0.5])


def test_the_rest_leaves_out_what_is_within_a_part():
    rates = {"update": spread_of([1e6]), "learning": spread_of([2e6]), "learning.gradients": spread_of([4e6])}
    assert with_rest(rates)["rest"].median == pytest.approx(0.5)


def test_the_table_says_what_the_report_holds(report):
    lines = show_table(report).splitlines()
    assert lines[0].startswith("1 x A Device (gpu, 8 cores), jax 0.11.2; CartPole-v1, 4 x 128 steps,")
    rows = {line.split("  ")[0]: line for line in lines[2:]}
    assert rows["large matrix products"].split()[3:] == ["300", "200", "400", "GFLOP/s"]
    assert rows["tanh in cache"].split()[3:] == ["12", "8", "16", "G/s"]
    assert "227 kFLOP and 1,280 tanh" in rows["limit of training"]
    assert "final training return, IQM 300.0  (" in rows["train, 16 seeds"]
    assert "65% of the limit, 170 GFLOP/s" in rows["train, 16 seeds"]
    assert "no episode at the end" in rows["train, 1 seed"]
    assert rows["compile, 16 seeds, cold cache"].split()[5:] == ["6", "6", "6", "s"]
    assert rows["- of which gradients"].split()[4] == "0.375"
    assert "2 GiB" in rows["peak memory"]
    assert "1 GiB planned" in rows["peak memory"]
    assert show_number(1234567.8) == "1,234,568"
    assert show_number(0.12345) == "0.123"


def test_the_report_is_json(report, tmp_path):
    write_json(tmp_path / "bench.json", report)
    read = json.loads((tmp_path / "bench.json").read_text())
    assert read["training"][1]["env_steps_per_second"] == {
        "median": 7.5e5,
        "least": 5e5,
        "most": 1e6,
        "values": [5e5, 1e6],
    }


def test_a_failing_compilation_is_an_error_that_says_why(tmp_path):
    with pytest.raises(pjp.PPOError, match="unknown environment 'CartPole-v7'"):
        compile_elsewhere("CartPole-v7", pjp.PPOConfig(), 1, str(tmp_path))


@pytest.mark.slow
def test_the_quick_benchmark_from_end_to_end(tmp_path):
    out = tmp_path / "bench.json"
    command = [sys.executable, "-m", "purejaxppo.cli.main", "bench", "--quick", "--seeds", "2", "--out", str(out)]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "COLUMNS": "80"})
    assert done.returncode == 0, done.stderr
    assert not set(done.stdout) & {chr(i) for i in range(32) if i != 10}
    report = json.loads(out.read_text())
    assert done.stdout.rstrip("\n") == show_table(report)
    cold, warm = (report["compile_seconds"]["2"][name]["median"] for name in ("cold", "warm"))
    assert warm < cold
    (trained,) = report["training"]
    assert trained["seeds"] == 2
    assert 0 < trained["share_of_limit"]["median"] < 1
    assert len(trained["final_returns"]) == 4  # two seeds, two repetitions
    assert len(set(trained["final_returns"])) > 2  # which are not the same runs
    phases = report["phases_microseconds_per_env_step"]
    parts = ("noise", "rollout", "values_and_gae", "learning", "rest")
    assert sum(np.array(phases[name]["values"]) for name in parts) == pytest.approx(phases["update"]["values"])
    assert report["peak_memory_bytes"] > 1e8


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["bench", "--seeds", "0"], "--seeds: 0 is below 1"),
        (["bench", "--seeds", "two"], "--seeds: 'two' is not a whole number"),
        (["bench", "--repeats", "0"], "--repeats: 0 is below 1"),
        (["bench", "--timesteps", "100"], "--timesteps 100 is below one rollout of 512; give at least that"),
        (["bench", "--out", "nowhere/bench.json"], "'nowhere' is not a folder that you can write to"),
        (["bench", "--config.num-minibatches", "3"], "num_minibatches = 3"),
        (["bench", "--quik"], "unknown option '--quik'; did you mean --quick"),
        (["bench", "--config.total-timesteps", "1000"], "unknown option '--config.total-timesteps'"),
    ],
)
def test_bad_input_is_one_line_and_status_2(arguments, said, refused):
    assert said in refused(arguments)


@pytest.fixture(scope="module")
def peers():
    """benchmarks/peers.py, which needs no peer to be imported."""
    path = Path(__file__).parents[2] / "benchmarks" / "peers.py"
    spec = importlib.util.spec_from_file_location("benchmarks_peers", path)
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
        return {"env_steps_per_second": speed, "compile_seconds": 2.0, "last_return_per_seed": [100.0, None, 200.0]}

    pairs = [peers.Pair(peer=run(100.0), ours=run(300.0)), peers.Pair(peer=run(200.0), ours=run(400.0))]
    assert peers.ratio_of(pairs) == (2.5, 2.0, 3.0, [3.0, 2.0])
    (match,) = peers.make_matches(["rejax"], [16], 100_000, best=False, shape=peers.Shape())
    assert peers.show_summary(match, pairs).split()[3:] == ["150", "350", "2.50", "(2.00", "to", "3.00)"]
    assert "rejax, 16 seeds: 100 env-steps/s (compiled in 2.0 s, return 150)" in peers.show_pair(match, pairs[0])
    assert peers.describe(match, pairs)["ratio"]["median"] == 2.5


def test_every_peer_has_a_script_and_an_environment(peers):
    path = peers.FOLDER / "make_envs.py"
    spec = importlib.util.spec_from_file_location("benchmarks_make_envs", path)
    make_envs = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(make_envs)
    assert set(make_envs.REQUIREMENTS) == set(peers.PEERS)
    for name in peers.PEERS:
        assert (peers.FOLDER / f"{name}_ppo.py").exists()
