"""`placement="data"`: one update, shared by devices, for policies with and without a memory."""

import functools

import jax
import numpy as np
import pytest

import purejaxppo as pjp

SIZES = {"num_envs": 4, "num_steps": 8, "total_timesteps": 4 * 8 * 2, "hidden_sizes": (8,), "learning_rate": 1e-3}
SIZES |= {"num_minibatches": 2, "normalize_obs": True, "normalize_reward": True}
CONFIGS = {
    "gru": pjp.RecurrentConfig(**SIZES, cell_size=8),
    "chunks": pjp.RecurrentConfig(**SIZES, cell="lstm", cell_size=8, sequence_length=4, share_trunk=True),
    "batch": pjp.PPOConfig(**SIZES, normalize_advantage_over="batch"),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", CONFIGS)
def test_devices_that_share_a_run_learn_what_one_does(name):
    env = pjp.make_env("CartPole-v1")
    one, shared = (
        pjp.train_population(env, CONFIGS[name], num_seeds=1, seed=3, placement=placement, evaluation_episodes=2)
        for placement in ("seeds", "data")
    )
    states = (population.seed(0).train_state.params for population in (one, shared))
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=2e-4), *states)
    np.testing.assert_array_equal(one.metrics.episodes, shared.metrics.episodes)
    np.testing.assert_allclose(one.metrics.last_return_mean, shared.metrics.last_return_mean, rtol=1e-6)
    np.testing.assert_allclose(one.metrics.value_loss, shared.metrics.value_loss, rtol=1e-3)


def test_sequences_that_do_not_divide_over_the_devices_are_refused():
    env, config = pjp.make_env("CartPole-v1"), CONFIGS["gru"].replace(num_minibatches=4)
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
