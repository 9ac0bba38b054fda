"""What a population promises: its members do not know of each other, wherever and with however many they run."""

import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

import purejaxppo as pjp
from purejaxppo.population.program import update_up_to

CONFIG = pjp.PPOConfig(num_envs=4, num_steps=32, total_timesteps=4 * 32 * 2, hidden_sizes=(16,))
# Different widths and devices round differently; an update multiplies what the one before it has left.
TOLERANCE = {"rtol": 0.0, "atol": 2e-4}


@pytest.fixture(scope="module")
def env():
    return pjp.make_env("CartPole-v1")


@pytest.fixture(scope="module")
def two_updates(env):
    """One program of 64 members: keys -> (final parameters, metrics [64, 2])."""
    agent = pjp.make_ppo(env, CONFIG)

    @jax.jit
    @jax.vmap
    def run(key, scale):
        runner = agent.init(key)
        state = runner.train_state
        params = jax.tree.map(lambda x: scale * x, state.params)
        runner, metrics = update_up_to(agent, runner.replace(train_state=state.replace(params=params)), jnp.int32(2), 2)
        return runner.train_state.params, jax.tree.map(lambda x: x[:2], metrics)  # no other update was made

    return run


def assert_equal(one, other):
    jax.tree.map(np.testing.assert_array_equal, one, other)


def test_permuted_keys_permute_the_outputs_bit_for_bit(two_updates):
    keys, ones = pjp.seed_keys(0, 64), jnp.ones(64)
    order = np.random.default_rng(1).permutation(64)
    straight, permuted = two_updates(keys, ones), two_updates(keys[order], ones)
    assert_equal(jax.tree.map(lambda x: x[order], straight), permuted)


def test_a_poisoned_member_leaves_the_others_bit_for_bit(two_updates):
    keys, others = pjp.seed_keys(0, 64), np.arange(64) != 17
    clean = two_updates(keys, jnp.ones(64))
    params, metrics = poisoned = two_updates(keys, jnp.ones(64).at[17].set(jnp.nan))
    assert all(np.isnan(x[17]).any() for x in jax.tree.leaves(params))
    assert np.isnan(metrics.policy_loss[17]).all()
    assert_equal(*(jax.tree.map(lambda x: x[others], x) for x in (clean, poisoned)))


def leaves(population):
    params = population.runners.train_state.params
    return np.concatenate([np.asarray(x).reshape(population.num_seeds, -1) for x in jax.tree.leaves(params)], axis=1)


@pytest.mark.slow
def test_a_seed_is_the_same_among_1024_and_among_64(env, monkeypatch):
    monkeypatch.setattr("purejaxppo.population.program.CPU_WIDTH", 1024)  # both whole, in one chunk
    many = pjp.train_population(env, CONFIG, num_seeds=1024, seed=3)
    few = pjp.train_population(env, CONFIG, num_seeds=64, seed=3)
    assert (many.costs.plan.num_chunks, few.costs.plan.num_chunks) == (1, 1)
    np.testing.assert_allclose(many.metrics.value_loss[17], few.metrics.value_loss[17], rtol=1e-4)
    np.testing.assert_allclose(leaves(many)[:64], leaves(few), **TOLERANCE)
    assert np.abs(leaves(many)[17] - leaves(many)[18]).max() > 0.1  # what another seed would be


@pytest.mark.slow
def test_seeds_among_1024_and_among_64_end_alike(env):
    config = CONFIG.replace(total_timesteps=128 * 40, learning_rate=1e-3)
    options = {"seed": 3, "evaluation_episodes": 16}
    many = pjp.train_population(env, config, num_seeds=1024, **options).final_returns()
    few = pjp.train_population(env, config, num_seeds=64, **options).final_returns()
    assert stats.ks_2samp(many, few).pvalue > 0.01
    agent = pjp.make_ppo(env, config)
    play = jax.jit(jax.vmap(lambda key: pjp.evaluate(agent, agent.init(key).train_state, key, num_episodes=16)[0]))
    untrained = play(pjp.seed_keys(3, 64)).mean(axis=1)
    assert stats.ks_2samp(untrained, few).pvalue < 0.01  # the comparison can tell


@pytest.mark.slow
def test_any_number_of_devices_gives_one_population(tmp_path):
    """18 seeds, so that some are padded, after 2 updates."""
    code = """
import sys
import numpy as np, jax, purejaxppo as pjp
from purejaxppo.population import program
env = pjp.make_env("CartPole-v1")
base = pjp.PPOConfig(num_envs=4, num_steps=32, total_timesteps=256, hidden_sizes=(16,))
assert jax.local_device_count() == 8
asked = []
for count in (1, 8):
    program.used_devices = lambda *_: asked.append(count) or jax.devices()[:count]
    short = pjp.train_population(env, base, num_seeds=18, seed=3, evaluation_episodes=0)
    assert asked[-1] == count
    params = [np.asarray(x).reshape(18, -1) for x in jax.tree.leaves(short.runners.train_state.params)]
    np.savez(f"{sys.argv[1]}/{count}.npz", params=np.concatenate(params, 1), loss=short.metrics.value_loss)
"""
    environment = {**os.environ, "JAX_NUM_CPU_DEVICES": "8", "JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}
    command = [sys.executable, "-W", "ignore", "-c", code, str(tmp_path)]
    subprocess.run(command, check=True, env=environment, timeout=300)
    results = {}
    for count in (1, 8):
        with np.load(tmp_path / f"{count}.npz") as file:
            results[count] = {name: file[name] for name in file.files}
    np.testing.assert_allclose(results[8]["params"], results[1]["params"], **TOLERANCE)
    np.testing.assert_allclose(results[8]["loss"], results[1]["loss"], rtol=1e-4)
