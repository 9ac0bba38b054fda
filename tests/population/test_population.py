import dataclasses
import functools
import signal
import subprocess
import sys
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import purejaxppo as pjp
from purejaxppo.population import program
from purejaxppo.population.program import update_up_to
from purejaxppo.population.sharding import (
    choose_placement,
    describe_devices,
    make_spread,
    pad_seeds,
)
from purejaxppo.utils.devices import CACHE, cache_of_core, core_ids, cpu_cores

SMALL = pjp.PPOConfig(num_envs=4, num_steps=16, total_timesteps=4 * 16 * 5, hidden_sizes=(8,))


@pytest.fixture(scope="module")
def env():
    return pjp.make_env("CartPole-v1")


def test_a_population_is_told_after_each_update(env):
    """3 seeds on 2 devices: one is padding, and is dropped."""
    seen = []
    population = pjp.train_population(env, SMALL, num_seeds=3, seed=5, on_chunk=seen.append)
    assert population.metrics.policy_loss.shape == (3, 5)
    np.testing.assert_array_equal(population.metrics.timesteps[2], np.arange(1, 6) * SMALL.batch_size)
    assert [progress.updates for progress in seen] == [1, 2, 3, 4, 5]
    assert seen[-1].timesteps == 3 * SMALL.actual_timesteps
    assert seen[0].metrics.entropy.shape == (3, 1)


def test_one_program_serves_every_chunk_length(env):
    agent = pjp.make_ppo(env, SMALL)
    start = agent.init(jax.random.key(0))
    traces = []

    @jax.jit
    def advance(runner, count):
        traces.append(None)
        return update_up_to(agent, runner, count, 4)

    _, three = advance(start, 3)
    end, four = advance(start, 4)
    assert len(traces) == 1
    np.testing.assert_array_equal(three.policy_loss[:3], four.policy_loss[:3])
    assert three.timesteps[3] == 0
    assert int(end.train_state.update) == 4


def test_spread_over_devices_is_vmap():
    devices = jax.local_devices()
    x = jnp.arange(4.0 * len(devices)).reshape(-1, 2)
    spread = jax.jit(make_spread(lambda row, scale: scale * jnp.sum(row), devices, num_replicated=1))
    np.testing.assert_array_equal(spread(x, 3.0), 3.0 * x.sum(1))


def test_constants_of_a_loop_are_no_arguments_of_what_is_spread():
    """As one of size 0 jaxlib 0.11 crashed on it: SpaceInvaders has such ones, and evaluates in a loop."""
    devices = jax.local_devices()
    x = jnp.arange(4.0 * len(devices)).reshape(-1, 2)

    def doubled_until_large(row):
        return jax.lax.while_loop(lambda row: jnp.sum(row) < 100, lambda row: row.at[:].set(2 * row + 1), row)

    spread = make_spread(doubled_until_large, devices)
    assert not jax.make_jaxpr(spread)(x).consts
    np.testing.assert_array_equal(jax.jit(spread)(x), jax.vmap(doubled_until_large)(x))


def test_seeds_in_turn_are_seeds_together():
    devices = jax.local_devices()[:1]
    x = jnp.arange(6.0).reshape(3, 2)

    def fn(row, scale):
        return scale * jnp.sum(row)

    for together in (None, 1, 2, 3):  # 2: the last block has one seed
        result = make_spread(fn, devices, num_replicated=1, together=together)(x, 2.0)
        np.testing.assert_array_equal(result, 2.0 * x.sum(1))


def test_as_many_seeds_run_together_as_the_cache_holds(monkeypatch):
    # Activations of a minibatch of 128 samples in two towers of 64-64: 128 KiB.
    monkeypatch.setattr(program, "cache_of_core", lambda: 2**20)
    count = functools.partial(program.seeds_together, width=64, devices=jax.local_devices()[:1])
    assert count(pjp.PPOConfig()) == 8
    assert count(pjp.PPOConfig(share_trunk=True)) == 16
    assert count(pjp.PPOConfig(num_envs=64, num_minibatches=2)) == 1
    assert count(pjp.PPOConfig(), width=1) == count(pjp.PPOConfig(cell="gru")) == 1
    assert count(pjp.PPOConfig(), devices=[SimpleNamespace(platform="gpu")]) is None


def test_the_cache_of_a_core_is_read_from_the_system(tmp_path):
    cores = core_ids()
    place = tmp_path / f"cpu{cores[0]}" / "cache" / "index2"
    assert cache_of_core(tmp_path) == CACHE
    place.mkdir(parents=True)
    shared = sum(1 << core for core in cores)
    for name, text in {"level": "2", "size": "2048K", "shared_cpu_map": f"00000000,{shared:08x}"}.items():
        (place / name).write_text(text + "\n")
    assert cache_of_core(tmp_path) == 2**21 // len(cores)
    (place / "size").write_text("much\n")
    assert cache_of_core(tmp_path) == CACHE


def test_padding_repeats_the_last_seed():
    padded = pad_seeds({"a": jnp.arange(5)}, 4)
    np.testing.assert_array_equal(padded["a"], [0, 1, 2, 3, 4, 4, 4, 4])
    assert pad_seeds(jnp.arange(4), 2).shape == (4,)


@pytest.mark.slow
def test_every_core_is_used_unless_jax_has_started():
    code = """
import purejaxppo as pjp, jax
{before}
pjp.make_env("CartPole-v1")
from purejaxppo.utils.devices import cpu_cores, idle_cores
print(jax.local_device_count(), cpu_cores(), idle_cores())
"""

    def run(before):
        command = [sys.executable, "-c", code.format(before=before)]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.split(" ", 2)

    count, cores, message = run("")
    assert count == cores
    assert message.strip() == "None"
    assert run('jax.config.update("jax_num_cpu_devices", 3)')[0] == "3"


@pytest.mark.slow
def test_a_population_that_leaves_cores_idle_says_so():
    code = """
import sys
import jax, purejaxppo as pjp
from purejaxppo.population import train
jax.numpy.zeros(3)
env = pjp.make_env("CartPole-v1")
print(jax.local_device_count())
train.train_job = lambda *_: sys.exit()
config = pjp.PPOConfig(num_envs=4, num_steps=16, total_timesteps=64, hidden_sizes=(8,))
pjp.train_population(env, config, num_seeds=2)
"""
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout == "1\n"
    if cpu_cores() > 1:
        assert f'call jax.config.update("jax_num_cpu_devices", {cpu_cores()}) before' in done.stderr
    else:
        assert done.stderr == ""


def test_describe_devices_counts_what_is_used():
    devices = jax.local_devices()
    assert describe_devices(1, devices) == "1 seed on 1 CPU device"
    if len(devices) == 2:
        assert describe_devices(17, devices) == "17 seeds, up to 9 on each of 2 CPU devices"


LARGE = pjp.PPOConfig(num_envs=64, num_minibatches=1)


@pytest.mark.parametrize(
    ("changes", "parts", "num_seeds", "chosen"),
    [
        ({}, {}, 1, "data"),
        ({}, {}, 2, "data"),
        ({}, {}, 4, "seeds"),  # they keep every device busy
        ({"num_minibatches": 64}, {}, 1, "seeds"),  # small minibatches: the devices would wait for each other
        ({"num_envs": 66}, {}, 1, "seeds"),  # does not divide
        ({}, {"loss": lambda *given: pjp.ppo_loss(*given)}, 1, "seeds"),  # may not be a mean over samples
        ({"cell": "gru"}, {}, 1, "seeds"),
    ],
)
def test_auto_shares_few_large_runs_out_over_the_cores(env, monkeypatch, changes, parts, num_seeds, chosen):
    monkeypatch.setattr(jax, "devices", lambda: jax.local_devices()[:1] * 4)
    agent = pjp.make_ppo(env, LARGE.replace(**changes), **parts)
    assert choose_placement("auto", [agent], num_seeds) == chosen
    assert [choose_placement(name, [agent], num_seeds) for name in ("seeds", "data")] == ["seeds", "data"]
    assert choose_placement("auto", [agent, pjp.make_ppo(env, SMALL)], 1) == "seeds"  # every setting has to be large


def test_auto_leaves_accelerators_and_other_algorithms_to_seeds(env, monkeypatch):
    full_batch = pjp.make_full_batch_ppo(env, pjp.FullBatchConfig(num_steps=64, total_timesteps=64))
    monkeypatch.setattr(jax, "devices", lambda: [SimpleNamespace(platform="cpu")] * 4)
    assert choose_placement("auto", [full_batch], 1) == "seeds"
    monkeypatch.setattr(jax, "devices", lambda: [SimpleNamespace(platform="gpu")] * 4)
    assert choose_placement("auto", [pjp.make_ppo(env, LARGE)], 1) == "seeds"


@pytest.mark.parametrize("num_seeds", [0, -1, 1.5, "4", True])
def test_a_wrong_number_of_seeds_is_refused(env, num_seeds):
    with pytest.raises(pjp.PPOError, match="num_seeds = "):
        pjp.train_population(env, SMALL, num_seeds=num_seeds)


def test_rounded_totals_are_reported():
    config = dataclasses.replace(SMALL, total_timesteps=330)
    assert (config.num_updates, config.actual_timesteps) == (5, 320)


@pytest.mark.slow
def test_ctrl_c_in_a_running_program_ends_a_script_by_the_interrupt_alone():
    """With two CPU devices, jaxlib aborts where a process exits while a program runs."""
    code = """
import os, signal, threading
import jax
jax.config.update("jax_num_cpu_devices", 2)
import purejaxppo as pjp
from purejaxppo.population import chunks
chunks.REPORT_SECONDS = 60.0  # so that the second call outlasts the end of the script
signal.signal(signal.SIGINT, signal.default_int_handler)  # a script in the background would ignore it

def press(progress):
    if progress.updates == 1:  # once, in the course of the second call
        threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGINT)).start()

config = pjp.PPOConfig(num_envs=1, num_steps=4_096, total_timesteps=4_096 * 4_000, update_epochs=1, hidden_sizes=(2,))
pjp.train_population(pjp.make_env("CartPole-v1"), config, num_seeds=2, on_chunk=press)
"""
    done = subprocess.run([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True)
    assert done.returncode == -signal.SIGINT
    assert done.stderr.endswith("\nKeyboardInterrupt\n")
