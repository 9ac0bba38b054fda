"""Probe environments: each isolates one thing that PPO must be able to learn, in eight seeds of eight."""

import jax
import jax.numpy as jnp
import numpy as np

import purejaxppo as pjp

NUM_SEEDS = 8
FAST_COMPILE = {"xla_backend_optimization_level": 0}  # the programs run for 0.1 s and compile for longer


class Probe:
    """One step, one action, observation 0, reward 1; the probes below change one thing each."""

    default_params = ()
    observation_space = pjp.Box((1,), (-1.0,), (1.0,))
    action_space = pjp.Discrete(1)
    num_steps = 1
    ends_by_time_limit = False

    def first_obs(self, key):
        return jnp.zeros(1)

    def later_obs(self, obs):
        return obs

    def reward(self, obs, action, is_last):
        return 1.0

    def reset(self, key, params):
        obs = self.first_obs(key)
        return obs, (obs, jnp.int32(0))

    def step(self, key, state, action, params):
        obs, time = state[0], state[1] + 1
        is_last = time == self.num_steps
        reward = self.reward(obs, action, is_last)
        obs = self.later_obs(obs)
        return obs, (obs, time), reward, is_last & (not self.ends_by_time_limit), is_last & self.ends_by_time_limit


class RandomSign(Probe):
    """The observation is -1 or 1."""

    def first_obs(self, key):
        return jax.random.rademacher(key, (1,), jnp.float32)


def learn(probe, num_updates=40, **settings):
    """All seeds, trained. -> (value, probabilities), functions of one observation that return [seeds, ...]"""
    defaults = {"learning_rate": 1e-2, "gamma": 0.9, "ent_coef": 0.0, "hidden_sizes": (16,)}
    config = pjp.PPOConfig(num_envs=8, num_steps=16, total_timesteps=128 * num_updates, **(defaults | settings))
    env = pjp.make_env(probe)
    agent, train = pjp.make_ppo(env, config), pjp.make_train(env, config)
    runners, _ = jax.jit(jax.vmap(train), compiler_options=FAST_COMPILE)(pjp.seed_keys(0, NUM_SEEDS))

    def value(obs):
        return np.asarray(jax.vmap(lambda state: agent.value(state, jnp.array([obs])))(runners.train_state))

    def probabilities(obs):
        return np.asarray(
            jax.vmap(lambda state: jax.nn.softmax(agent.distribution(state, jnp.array([obs])).logits))(
                runners.train_state
            )
        )

    return value, probabilities


def test_2_a_value_that_depends_on_the_observation_is_learned():
    class PaysObservation(RandomSign):
        def reward(self, obs, action, is_last):
            return obs[0]

    value, _ = learn(PaysObservation())
    np.testing.assert_allclose(value(1.0), np.ones(NUM_SEEDS), atol=0.03)
    np.testing.assert_allclose(value(-1.0), -np.ones(NUM_SEEDS), atol=0.03)


def test_3_a_later_reward_is_discounted():
    class PaysAtTheEnd(Probe):
        num_steps = 2

        def later_obs(self, obs):
            return obs + 1.0

        def reward(self, obs, action, is_last):
            return is_last

    value, _ = learn(PaysAtTheEnd(), gamma=0.5)
    np.testing.assert_allclose(value(0.0), np.full(NUM_SEEDS, 0.5), atol=0.03)
    np.testing.assert_allclose(value(1.0), np.ones(NUM_SEEDS), atol=0.03)


def test_5_the_action_that_suits_the_observation_is_learned():
    class PaysMatch(RandomSign):
        action_space = pjp.Discrete(2)

        def reward(self, obs, action, is_last):
            return (obs[0] > 0) == (action == 1)

    _, probabilities = learn(PaysMatch())
    assert np.all(probabilities(1.0)[:, 1] > 0.95)
    assert np.all(probabilities(-1.0)[:, 0] > 0.95)


def test_6_the_value_goes_on_beyond_a_time_limit():
    class Endless(Probe):
        num_steps = 5
        ends_by_time_limit = True

    value, _ = learn(Endless(), num_updates=60, clip_value=False)
    np.testing.assert_allclose(value(0.0), np.full(NUM_SEEDS, 1 / (1 - 0.9)), atol=0.1)


def test_6_the_value_ends_at_a_termination():
    class Finite(Probe):
        num_steps = 5

        def later_obs(self, obs):
            return obs + 0.2

    value, _ = learn(Finite(), num_updates=60, clip_value=False)
    for time in range(5):
        expected = (1 - 0.9 ** (5 - time)) / (1 - 0.9)
        np.testing.assert_allclose(value(0.2 * time), np.full(NUM_SEEDS, expected), atol=0.2)
