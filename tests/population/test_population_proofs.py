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

CONFIG = pjp.PPOConfig(num_envs=4, num_steps=32, total_timesteps=4 * 32 * 2)
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
    config = CONFIG.replace(total_timesteps=128 * 40, learning_rate=1e-3, hidden_sizes=(16,))
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
    """18 seeds, so that some are padded, after 2 updates; on 1 and 8 devices also 64 seeds after 40."""
    code = """
import sys
import numpy as np, jax, purejaxppo as pjp
env, base = pjp.make_env("CartPole-v1"), pjp.PPOConfig(num_envs=4, num_steps=32, total_timesteps=256)
assert jax.local_device_count() == int(sys.argv[1])
short = pjp.train_population(env, base, num_seeds=18, seed=3)
params = [np.asarray(x).reshape(18, -1) for x in jax.tree.leaves(short.runners.train_state.params)]
results = {"params": np.concatenate(params, 1), "loss": short.metrics.value_loss}
if sys.argv[1] in "18":
    long = base.replace(total_timesteps=128 * 40, learning_rate=1e-3, hidden_sizes=(16,))
    final = pjp.train_population(env, long, num_seeds=64, seed=3, evaluation_episodes=16).final_returns()
    results["final"] = final
np.savez(sys.argv[2], **results)
"""
    results = {}
    for count in (1, 2, 4, 8):
        path = tmp_path / f"{count}.npz"
        command = [sys.executable, "-W", "ignore", "-c", code, str(count), str(path)]
        subprocess.run(command, check=True, env={**os.environ, "JAX_NUM_CPU_DEVICES": str(count)}, timeout=300)
        with np.load(path) as file:
            results[count] = {name: file[name] for name in file.files}
    for count in (2, 4, 8):
        np.testing.assert_allclose(results[count]["params"], results[1]["params"], **TOLERANCE)
        np.testing.assert_allclose(results[count]["loss"], results[1]["loss"], rtol=1e-4)
    assert stats.ks_2samp(results[8]["final"], results[1]["final"]).pvalue > 0.01


class TestDataPlacement:
    """One run over all devices."""

    config = pjp.PPOConfig(num_envs=8, num_steps=16, total_timesteps=8 * 16 * 2, normalize_obs=True, num_minibatches=2)

    @pytest.mark.slow
    @pytest.mark.parametrize(
        "changes",
        [
            {},
            {"normalize_reward": True, "normalize_advantage_over": "batch", "lr_schedule": "adaptive"},
            {"normalize_obs": False, "normalize_advantage": False, "target_kl": 1e-4},
        ],
        ids=["defaults", "all that is shared", "KL"],
    )
    def test_it_is_the_run_of_one_device(self, env, changes):
        config = self.config.replace(**changes)
        shared = pjp.train_population(env, config, num_seeds=2, seed=1, placement="data")
        train = jax.jit(jax.vmap(pjp.make_train(env, config)))
        runners, metrics = train(pjp.seed_keys(1, 2))
        for name in ("policy_loss", "value_loss", "entropy", "explained_variance"):
            np.testing.assert_allclose(getattr(shared.metrics, name), getattr(metrics, name), rtol=1e-4, atol=1e-6)
        np.testing.assert_array_equal(shared.metrics.episodes, metrics.episodes)
        for one, other in zip(
            jax.tree.leaves(shared.runners.train_state), jax.tree.leaves(runners.train_state), strict=True
        ):
            np.testing.assert_allclose(one, other, rtol=1e-3, atol=2e-4)
        np.testing.assert_allclose(shared.runners.env_state.x, runners.env_state.x, atol=1e-5)

    @pytest.mark.skipif(jax.local_device_count() < 2, reason="there is nothing to share on one device")
    def test_the_work_is_shared(self, env, bare_options):
        """Each device steps its own environments and differentiates its own part of a minibatch."""
        from purejaxppo.population import program
        from purejaxppo.population.jobs import make_jobs

        options = bare_options("data")
        (job,) = make_jobs(env, self.config, [{}], 1, 0, options)
        text = program.compile_program(job, options, 1).advance.as_text()
        count = jax.local_device_count()
        assert "all-reduce" in text
        assert f"f32[1,{8 // count},4]" in text  # environments
        assert f"f32[1,{64 // count},64]" in text  # hidden units of the samples of a minibatch
        assert "f32[1,64,64]{" not in "".join(line for line in text.splitlines() if "tanh" in line)

    @pytest.mark.parametrize(
        ("config", "said"),
        [
            (config.replace(num_envs=3, num_minibatches=1), "num_envs = 3 does not divide over"),
            (config.replace(num_envs=2, num_steps=15), "= 15 does not divide over"),
        ],
    )
    def test_what_does_not_divide_is_refused(self, env, config, said):
        if jax.device_count() == 1:
            pytest.skip("everything divides over one device")
        with pytest.raises(pjp.PPOError, match=said):
            pjp.train_population(env, config, num_seeds=1, placement="data")

    def test_the_full_batch_variant_is_refused(self, env):
        config = pjp.FullBatchConfig(num_steps=64, total_timesteps=64)
        with pytest.raises(pjp.PPOError, match="for a FullBatchPPO leave it out"):
            pjp.train_population(env, config, num_seeds=1, placement="data")

    def test_an_unknown_placement_is_refused(self, env):
        with pytest.raises(pjp.PPOError, match="placement = 'date' is unknown; take one of auto, seeds, data"):
            pjp.train_population(env, self.config, num_seeds=1, placement="date")
