"""`act` on one observation and on several, and what it refuses."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from workshop import Workshop

import purejaxppo as pjp
from purejaxppo.population.algorithms import make_agent

SIZES = {"num_envs": 2, "num_steps": 4, "total_timesteps": 16, "hidden_sizes": (4,)}
CONFIGS = {
    "feed-forward": pjp.PPOConfig(num_minibatches=1, **SIZES),
    "recurrent": pjp.RecurrentConfig(num_minibatches=1, cell_size=4, **SIZES),
    "full batch": pjp.FullBatchConfig(**SIZES),
}
KEY = jax.random.key(3)


@functools.cache
def started(name):
    agent = make_agent(pjp.make_env("CartPole-v1"), CONFIGS[name])
    return agent, jax.jit(agent.init)(jax.random.key(0))


@functools.cache
def masking(name):
    agent = make_agent(pjp.make_env(Workshop()), CONFIGS[name])
    return agent, jax.jit(agent.init)(jax.random.key(0))


def action_of(returned, name):
    return returned[0] if name == "recurrent" else returned


def stacked(tree, count):
    return jax.tree.map(lambda x: jnp.broadcast_to(x, (count, *x.shape)), tree)


@pytest.mark.parametrize("name", list(CONFIGS))
def test_each_of_several_observations_has_a_draw_of_its_own(name):
    """Of n actions of probability p, n p are drawn, within 5 standard deviations: one draw for all gives 0 or n."""
    agent, runner = started(name)
    obs, count = runner.obs[0], 2_000
    drawn = action_of(agent.act(runner.train_state, stacked(obs, count), KEY), name)
    distribution, _ = agent.policy(runner.train_state, agent.start_memory, obs)
    p = float(jax.nn.softmax(distribution.logits)[1])
    assert drawn.shape == (count,)
    assert abs(int(drawn.sum()) - count * p) < 5 * np.sqrt(count * p * (1 - p))


@pytest.mark.parametrize("name", ["feed-forward", "recurrent"])
def test_several_trees_of_observations_with_masks_are_acted_on_as_one_by_one(name):
    agent, runner = masking(name)
    together = agent.act(runner.train_state, runner.obs)
    apart = [agent.act(runner.train_state, jax.tree.map(lambda x, i=i: x[i], runner.obs)) for i in range(2)]
    jax.tree.map(lambda x, *y: np.testing.assert_allclose(x, np.stack(y), atol=1e-6), together, *apart)
    drawn = action_of(agent.act(runner.train_state, stacked(jax.tree.map(lambda x: x[0], runner.obs), 40), KEY), name)
    for part in jax.tree.leaves(drawn):
        assert len(np.unique(np.asarray(part).reshape(40, -1), axis=0)) > 1


def test_a_memory_goes_with_its_observation():
    agent, runner = started("recurrent")
    obs, state = stacked(runner.obs[0], 3), runner.train_state
    _, memory = agent.act(state, obs, KEY)
    assert agent.act(state, obs, KEY, memory)[0].shape == (3,)
    for other in (runner.obs[0], stacked(runner.obs[0], 2)):
        with pytest.raises(pjp.PPOError, match="memory"):
            agent.act(state, other, KEY, memory)


def test_masks_and_parts_of_an_observation_have_its_leading_axes():
    agent, runner = masking("feed-forward")
    one = jax.tree.map(lambda x: x[0], runner.obs)
    target = {**one.obs, "target": runner.obs.obs["target"]}
    for obs in (one.replace(action_mask=runner.obs.action_mask), one.replace(obs=target)):
        with pytest.raises(pjp.PPOError, match=r"obs\['asked'\] .*\(2,\)"):
            agent.act(runner.train_state, obs, KEY)


@pytest.mark.parametrize("name", list(CONFIGS))
def test_train_states_in_a_stack_or_of_another_agent_are_refused_in_one_line(name):
    agent, runner = started(name)
    obs = runner.obs[0]
    wider = make_agent(agent.env, agent.config.replace(hidden_sizes=(5,)))
    other = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(wider.init, KEY).train_state)
    for train_state, said in ((stacked(runner.train_state, 2), r"\[2\].*vmap"), (other, "train_state")):
        with pytest.raises(pjp.PPOError, match=said) as caught:
            agent.act(train_state, obs)
        assert "\n" not in str(caught.value)


def test_a_stack_that_a_network_would_broadcast_over_is_refused():
    network = pjp.Network(
        lambda key, obs: {"policy": jnp.zeros((4, 2)), "value": jnp.zeros(4)},
        lambda params, obs: (obs @ params["policy"], (obs * params["value"]).sum(-1)),
    )
    agent = pjp.make_ppo(pjp.make_env("CartPole-v1"), CONFIGS["feed-forward"], network=network)
    runner = agent.init(KEY)
    several = stacked(runner.train_state, 4)
    with pytest.raises(pjp.PPOError, match="vmap"):
        agent.act(several, runner.obs[0])
    with pytest.raises(pjp.PPOError, match="vmap"):
        pjp.evaluate(agent, several, KEY, num_episodes=4)
    assert jax.vmap(agent.act, in_axes=(0, None))(several, runner.obs[0]).shape == (4,)


@pytest.mark.parametrize("dtype", [np.uint8, np.int32, np.float64])
def test_a_network_sees_floats_whatever_type_the_observation_has(dtype):
    network = pjp.Network(lambda key, obs: jnp.eye(4), lambda params, obs: ((obs - 1) @ params[:, :2], obs[..., 0]))
    agent = pjp.make_ppo(pjp.make_env("CartPole-v1"), CONFIGS["feed-forward"], network=network)
    state, obs = agent.init(KEY).train_state, np.array([0, 1, 2, 3], dtype)  # 0 - 1 is 255 in uint8
    assert agent.act(state, obs) == 1
    assert agent.value(state, obs).dtype == jnp.float32
