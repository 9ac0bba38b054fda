"""`placement="data"`: one run over all devices, for policies with and without a memory."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import purejaxppo as pjp
from purejaxppo.population.sharding import make_spread, seed_shardings

SIZES = {"num_envs": 4, "num_steps": 8, "total_timesteps": 4 * 8 * 2, "hidden_sizes": (8,), "learning_rate": 1e-3}
SIZES |= {"num_minibatches": 2, "normalize_obs": True, "normalize_reward": True}
CHUNKS = pjp.RecurrentConfig(**SIZES, cell="lstm", cell_size=8, sequence_length=4, share_trunk=True)


@pytest.fixture(scope="module")
def env():
    return pjp.make_env("CartPole-v1")


@pytest.mark.skipif(jax.local_device_count() < 2, reason="nothing is dealt out on one device")
def test_arrays_of_size_0_are_dealt_out_over_devices():
    """As in a state of MJX without motion capture: the compiler of jaxlib 0.11 crashes on them."""
    devices = jax.local_devices()[:2]

    def count_up(state, count):
        state = jax.lax.fori_loop(0, count, lambda i, at: at | {"x": at["x"] + 1, "mocap": at["mocap"] * 2}, state)
        return state, jnp.zeros((3, 0)).at[0].set(1.0)

    by_seed, everywhere = seed_shardings(devices)
    spread = make_spread(count_up, devices, num_replicated=1)
    run = jax.jit(spread, in_shardings=(by_seed, everywhere), out_shardings=by_seed)
    state = {"x": jnp.arange(4.0), "mocap": jnp.zeros((4, 0, 3)), "keys": jnp.zeros((4, 2, 0), jnp.int32)}
    after, row = run(state, jnp.int32(3))
    np.testing.assert_array_equal(after["x"], [3.0, 4.0, 5.0, 6.0])
    assert jax.tree.map(jnp.shape, after) == jax.tree.map(jnp.shape, state)
    assert (after["keys"].dtype, row.shape) == (jnp.int32, (4, 3, 0))


@pytest.mark.slow
def test_devices_that_share_a_run_learn_what_one_does(env):
    one, shared = (
        pjp.train_population(env, CHUNKS, num_seeds=1, seed=3, placement=placement) for placement in ("seeds", "data")
    )
    states = (population.seed(0).train_state.params for population in (one, shared))
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=2e-4), *states)
    np.testing.assert_array_equal(one.metrics.episodes, shared.metrics.episodes)
    np.testing.assert_allclose(one.metrics.last_return_mean, shared.metrics.last_return_mean, rtol=1e-6)
    np.testing.assert_allclose(one.metrics.value_loss, shared.metrics.value_loss, rtol=1e-3)


def test_sequences_that_do_not_divide_over_the_devices_are_refused():
    env, config = pjp.make_env("CartPole-v1"), pjp.RecurrentConfig(**SIZES | {"num_minibatches": 4}, cell_size=8)
    with pytest.raises(pjp.PPOError, match="the number of sequences / num_minibatches = 1 does not divide"):
        pjp.train_population(env, config, num_seeds=1, placement="data")


def random_reward(params, steps, context):
    draw = jax.random.uniform(context.key)
    return steps.reward, {"draw": draw, "square": draw**2}


def test_a_reward_draws_on_its_own_on_each_device():
    """The numbers are means over the devices, and a variance of 0 is a draw that all of them share."""
    make_agent = functools.partial(pjp.make_ppo, reward=random_reward)
    shared = pjp.train_population(
        pjp.make_env("CartPole-v1"),
        pjp.PPOConfig(num_envs=4, num_steps=4, total_timesteps=32, hidden_sizes=(4,), num_minibatches=1),
        num_seeds=1,
        placement="data",
        make_agent=make_agent,
    )
    extra = shared.metrics.extra
    assert np.all(extra["square"] - extra["draw"] ** 2 > 1e-6)


class TestDataPlacement:
    """One run over all devices."""

    config = pjp.PPOConfig(num_envs=8, num_steps=16, total_timesteps=8 * 16 * 2, normalize_obs=True, num_minibatches=2)

    @pytest.mark.slow
    @pytest.mark.parametrize(
        "changes",
        [
            {"normalize_reward": True, "normalize_advantage_over": "batch", "lr_schedule": "adaptive"},
            {"normalize_obs": False, "target_kl": 1e-4},
        ],
        ids=["all that is shared", "KL"],
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
        from purejaxppo.population.options import Experiment

        (job,) = make_jobs(Experiment(env, self.config, 1, 0, bare_options("data")), [{}])
        text = program.compile_program(job, 1).advance.as_text()
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
