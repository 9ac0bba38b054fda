"""Learning from steps that were made elsewhere is the learning of an update."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import purejaxppo as pjp
from purejaxppo.ppo.agent import draw_noise, play, update_keys

SMALL = pjp.PPOConfig(num_envs=2, num_steps=16, total_timesteps=96, hidden_sizes=(4,), num_minibatches=2)


def make_agent(**changes):
    return pjp.make_ppo(pjp.make_env("CartPole-v1", max_steps_in_episode=7), SMALL.replace(**changes))


def steps_of(agent, runner):
    """The rollout that an update makes, without what only the agent knows."""
    noise = draw_noise(agent, update_keys(runner)[1])
    acted, transitions, _, _ = play(agent, runner, noise)
    return acted, transitions.replace(obs=transitions.obs.obs, next_obs=transitions.next_obs.obs)


def assert_close(ours, expected):
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=2e-5, atol=1e-6), ours, expected)


def test_recorded_steps_are_learned_from_like_those_of_an_update():
    agent = make_agent(normalize_obs=True, normalize_reward=True, cell="gru", cell_size=4)
    runner = agent.init(jax.random.key(0))
    learn_from, update = jax.jit(agent.learn_from), jax.jit(agent.update)
    for _ in range(2):
        acted, transitions = jax.jit(lambda runner: steps_of(agent, runner))(runner)
        assert jnp.any(transitions.truncated)
        given = jax.tree.map(np.asarray, transitions)
        (ours, metrics), (expected, metrics_expected) = learn_from(runner, given), update(runner)
        assert int(metrics.episodes) > 0
        assert_close(metrics, metrics_expected)
        for name in ("train_state", "episode", "memory"):
            assert_close(getattr(ours, name), getattr(expected, name))
        runner = ours.replace(obs=acted.obs, env_state=acted.env_state)


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("obs", np.zeros((16, 2, 3))),
        ("next_obs", np.zeros((8, 2, 4))),
        ("action", np.zeros(16, int)),
        ("reward", np.zeros((16, 2, 1))),
        ("terminated", np.zeros((2, 16), bool)),
    ],
)
def test_steps_of_another_shape_are_refused(name, wrong):
    agent = make_agent()
    runner = agent.init(jax.random.key(0))
    flags, obs = jnp.zeros((16, 2), bool), jnp.zeros((16, 2, 4))
    transitions = pjp.Transition(obs, flags.astype(int), flags.astype(float), flags, flags, obs)
    jax.eval_shape(agent.learn_from, runner, transitions)
    with pytest.raises(pjp.PPOError, match=rf"transitions\.{name} has the shape"):
        agent.learn_from(runner, transitions.replace(**{name: wrong}))
