"""Environments and agents can be pickled, and what comes back makes the same programs."""

import functools
import pickle

import jax
import numpy as np
import pytest
from workshop import Workshop

import purejaxppo as pjp
from purejaxppo.envs.suites import is_installed
from purejaxppo.population.algorithms import make_agent

SIZES = {"num_envs": 2, "num_steps": 4, "total_timesteps": 16, "hidden_sizes": (4,)}
PPO = pjp.PPOConfig(num_minibatches=2, normalize_obs=True, clip_eps_schedule="cosine", **SIZES)
MEMORY = pjp.RecurrentConfig(num_minibatches=1, cell_size=4, **SIZES)
AGENTS = {
    "clipped": ("Pendulum-v1", PPO),
    "squashed": ("Pendulum-v1", PPO.replace(box_policy="squashed", box_std="state", share_trunk=True)),
    "image": ("Breakout-MinAtar", PPO.replace(lr_schedule="adaptive")),
    "tree": (Workshop(), PPO),
    "gru": (Workshop(), MEMORY),
    "lstm": ("CartPole-v1", MEMORY.replace(cell="lstm", share_trunk=True)),
    "full batch": ("CartPole-v1", pjp.FullBatchConfig(**SIZES)),
}


def again(x):
    return pickle.loads(pickle.dumps(x))


def own_schedule(update):
    return 0.5**update


@pytest.mark.parametrize("name", list(AGENTS))
def test_an_agent_comes_back_with_the_same_programs(name):
    env, config = AGENTS[name]
    parts = {"schedules": {"ent_coef": own_schedule}} if name == "gru" else {}
    make = functools.partial(pjp.make_ppo, **parts) if parts else make_agent
    agent = make(pjp.make_env(env), config)
    same = again(agent)
    key = jax.random.key(0)
    start = jax.eval_shape(agent.init, key)
    for function, other, argument in ((agent.init, same.init, key), (agent.update, same.update, start)):
        programs = [jax.jit(each).lower(argument).as_text() for each in (function, other)]
        assert programs[0] == programs[1]


def test_every_environment_by_name_comes_back():
    for name in pjp.env_names():
        env = pjp.make_env(name)
        same = again(env)
        assert (same.name, same.action_space) == (env.name, env.action_space)
        jax.tree.map(np.testing.assert_array_equal, same.params, env.params)
        assert jax.eval_shape(same.reset, jax.random.key(0), same.params)


@pytest.mark.parametrize("name", ["brax/inverted_pendulum/positional", "jumanji/Snake-v1"])
def test_an_environment_of_a_suite_comes_back(name):
    if not is_installed(name.split("/")[0]):
        pytest.skip("the suite is an extra")
    env = pjp.make_env(name)
    same = again(env)
    programs = [jax.jit(each.reset).lower(jax.random.key(0), each.params).as_text() for each in (env, same)]
    assert programs[0] == programs[1]
