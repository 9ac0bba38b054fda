"""What is learned in trainings as long as a user's."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import purejaxppo as pjp
from purejaxppo.population.statistics import iqm

KEY = jax.random.key(0)


@pytest.mark.slow
def test_cartpole_is_solved_at_the_defaults():
    population = pjp.train_population(pjp.make_env("CartPole-v1"), pjp.PPOConfig(), num_seeds=16)
    play = functools.partial(pjp.evaluate, population.agent, num_episodes=100)
    returns, _ = jax.jit(jax.vmap(play))(population.train_state, pjp.seed_keys(99, 16))
    assert iqm(returns.mean(axis=1)) >= 475
    training = np.asarray(population.metrics.episode_return_mean)[:, -50:]
    assert iqm(np.nanmean(training, axis=1)) >= 475


@pytest.mark.slow
def test_pendulum_is_learned():
    config = pjp.PPOConfig(
        num_envs=32,
        num_steps=64,
        total_timesteps=32 * 64 * 150,
        num_minibatches=8,
        update_epochs=10,
        learning_rate=1e-3,
        gamma=0.95,
        ent_coef=0.0,
        normalize_obs=True,
        normalize_reward=True,
    )
    for box_policy in ("clipped", "squashed"):
        agent = pjp.make_ppo(pjp.make_env("Pendulum-v1"), config.replace(box_policy=box_policy))
        runner, _ = jax.jit(lambda key, agent=agent: pjp.update_many(agent, agent.init(key), config.num_updates))(KEY)
        returns, _ = jax.jit(functools.partial(pjp.evaluate, agent))(runner.train_state, KEY)
        assert float(jnp.mean(returns)) > -250.0, box_policy  # at random about -1200
