"""The critic along a rollout, beside the critic at every observation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import purejaxppo as pjp
from purejaxppo.ppo.memory import ObsAndMemory, start_memories
from purejaxppo.ppo.types import Transition
from purejaxppo.ppo.values import next_values, values

T, B = 24, 4
# Steps of the first rollout that end an episode: none; the last one alone; more than one round of the loop computes.
ENDS = {"none": (0.0, False), "last": (0.0, True), "many": (0.5, True)}


def make_rollout(agent, key, share, ends_last):
    """A random rollout, each step of which starts where the one before it ended, or anew."""
    obs_key, start_key, end_key, memory_key = jax.random.split(key, 4)
    draw = lambda key, like: jax.random.normal(key, (T, B, *jnp.shape(like)))  # noqa: E731
    memories = lambda key: jax.tree.map(lambda x: draw(key, x), agent.start_memory)  # noqa: E731
    next_obs = ObsAndMemory(draw(obs_key, np.zeros(4)), memories(memory_key))
    starts = ObsAndMemory(draw(start_key, np.zeros(4)), start_memories(agent.start_memory, (T, B)))
    done = (jax.random.uniform(end_key, (T, B)) < share).at[-1, 0].set(ends_last)

    def follow(start, before):
        ended = done[:-1].reshape(T - 1, B, *[1] * (start.ndim - 2))
        return jnp.concatenate([start[:1], jnp.where(ended, start[1:], before[:-1])])

    kinds = jax.random.bernoulli(end_key, 0.5, (T, B))
    return Transition(
        obs=jax.tree.map(follow, starts, next_obs),
        action=jnp.zeros((T, B), jnp.int32),
        reward=jnp.zeros((T, B)),
        terminated=done & kinds,
        truncated=done & ~kinds,
        next_obs=next_obs,
    )


@pytest.fixture(scope="module", params=["feed-forward", "normalised", "recurrent"])
def rollouts(request):
    """An agent, its state, and a rollout for each of ENDS: [3, T, B, ...]."""
    sizes = {"num_envs": B, "num_steps": T, "num_minibatches": 1, "total_timesteps": T * B, "hidden_sizes": (8,)}
    if request.param == "recurrent":
        config = pjp.RecurrentConfig(**sizes)
    else:
        config = pjp.PPOConfig(**sizes, normalize_obs=request.param == "normalised")
    agent = pjp.make_ppo(pjp.make_env("CartPole-v1"), config)
    state = jax.jit(agent.init)(jax.random.key(0)).train_state
    if config.normalize_obs:
        state = state.replace(obs_moments=state.obs_moments.replace(count=2.0, square_deviation=jnp.arange(1.0, 5.0)))
    drawn = [make_rollout(agent, jax.random.key(i), *ends) for i, ends in enumerate(ENDS.values())]
    return agent, state, jax.tree.map(lambda *x: jnp.stack(x), *drawn)


def as_computed(agent, state, transitions):
    return next_values(agent.network, state, transitions, values(agent.network, state, transitions.obs))


def at_every_step(agent, state, transitions):
    return agent.value(state, transitions.next_obs.obs, transitions.next_obs.memory)


def test_the_next_value_is_the_critic_at_the_observation_before_a_reset(rollouts):
    agent, state, transitions = rollouts
    in_step = jax.jit(jax.vmap(lambda rollout: as_computed(agent, state, rollout)))
    np.testing.assert_allclose(in_step(transitions), at_every_step(agent, state, transitions), rtol=1e-5, atol=1e-6)
    alone = jax.tree.map(lambda x: x[-1], transitions)
    np.testing.assert_allclose(
        as_computed(agent, state, alone), at_every_step(agent, state, alone), rtol=1e-5, atol=1e-6
    )


def test_the_next_value_has_the_derivative_of_the_critic(rollouts):
    agent, state, transitions = rollouts
    rollout = jax.tree.map(lambda x: x[-1], transitions)
    weight = jax.random.normal(jax.random.key(5), (T, B))

    def of(function):
        return lambda params, obs: jnp.vdot(
            weight,
            function(agent, state.replace(params=params), rollout.replace(next_obs=rollout.next_obs.replace(obs=obs))),
        )

    got, wanted = (
        jax.jit(jax.grad(of(function), argnums=(0, 1)))(state.params, rollout.next_obs.obs)
        for function in (as_computed, at_every_step)
    )
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-5), got, wanted)
    assert np.abs(wanted[1]).max() > 0
