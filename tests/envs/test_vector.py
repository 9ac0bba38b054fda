"""B environments at once: the auto-reset, and the starts that it draws."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

import purejaxppo as pjp
from purejaxppo.envs import vector
from purejaxppo.ppo.rollout import empty_episodes, make_noise

KEY = jax.random.key(0)
X_LIMIT, THETA_LIMIT = 2.4, 12 * 2 * np.pi / 360


class CoinState(NamedTuple):
    start: jax.Array
    time: jax.Array


class Coins:
    """Ends by chance, in either way or both at once; the observation tells the episode and its time."""

    default_params = ()
    observation_space = pjp.Box((2,), (0.0, 0.0), (1.0, np.inf))
    action_space = pjp.Discrete(2)

    def reset(self, key, params):
        state = CoinState(jax.random.uniform(key), jnp.int32(0))
        return jnp.stack([state.start, state.time]), state

    def step(self, key, state, action, params):
        terminated, truncated = jax.random.bernoulli(key, 0.2, (2,))
        state = state._replace(time=state.time + 1)
        return jnp.stack([state.start, state.time]), state, action, terminated, truncated


def random_rollout(env, key, num_steps, num_envs):
    """Uniformly random actions from fresh starts. -> what `rollout` returns"""
    reset_key, noise_key = jax.random.split(key)
    obs, state = vector.reset_batch(env, reset_key, num_envs)
    runner = pjp.RunnerState(None, state, obs, empty_episodes(num_envs), key)
    noise = make_noise(
        env,
        lambda key, shape: jax.random.randint(key, shape, 0, env.action_space.n),
        noise_key,
        (num_steps, num_envs),
    )
    return pjp.rollout(env, lambda obs, noise: (noise, ()), runner, noise)


jitted_rollout = jax.jit(random_rollout, static_argnames=("num_steps", "num_envs"))


def without_key(rollout_output):
    runner, *rest = rollout_output
    return runner.replace(key=None), *rest


def starts_after_done(runner, transitions):
    """The first observations of the episodes that an auto-reset began. -> [episodes, ...]"""
    following = np.concatenate([transitions.obs[1:], runner.obs[None]])
    return following[np.asarray(transitions.terminated | transitions.truncated)]


@pytest.fixture(scope="module")
def cartpole_rollout():
    """(runner, transitions) of random actions, of some 3,000 episodes"""
    env = pjp.make_env("CartPole-v1")
    runner, transitions, _, _ = jitted_rollout(env, KEY, num_steps=128, num_envs=512)
    return jax.tree.map(np.asarray, (runner.replace(key=None), transitions))


def mixed_states(env, num_envs):
    """Environment 0, 3, 6, ... falls in its next step, 1, 4, 7, ... meets the time limit, 2, 5, 8, ... goes on."""
    _, state = vector.reset_batch(env, KEY, num_envs)
    kind = jnp.arange(num_envs) % 3
    state = state.replace(
        x_dot=jnp.where(kind == 0, 200.0, state.x_dot), time=jnp.where(kind == 1, 499, 7).astype(jnp.int32)
    )
    return np.asarray(kind), state


@pytest.mark.parametrize("drawn", [True, False], ids=["DrawnStarts", "StartKeys"])
def test_a_done_environment_goes_on_from_its_own_start_and_reports_the_observation_before(drawn):
    env = pjp.make_env("CartPole-v1")
    kind, state = mixed_states(env, 9)
    start_keys, step_keys = jax.random.split(jax.random.key(1), (1, 9)), jax.random.split(jax.random.key(2), 9)
    starts = vector.draw_ahead(env, start_keys) if drawn else vector.StartKeys(start_keys)
    action = jnp.ones(9, jnp.int32)
    obs, new_state, step = jax.jit(vector.step_batch)(
        env, step_keys, state, action, jax.tree.map(lambda x: x[0], starts)
    )

    expected = jax.jit(jax.vmap(env.step, in_axes=(0, 0, 0, None)))(step_keys, state, action, env.params)
    jax.tree.map(np.testing.assert_array_equal, step, expected)
    np.testing.assert_array_equal(step.terminated, kind == 0)
    np.testing.assert_array_equal(step.truncated, kind == 1)
    for i in range(9):
        if kind[i] == 2:
            going_on = step.obs[i], jax.tree.map(lambda x, i=i: x[i], step.state)
        else:
            going_on = env.reset(start_keys[0, i], env.params)
            assert not np.array_equal(obs[i], step.obs[i])
        jax.tree.map(np.testing.assert_array_equal, (obs[i], jax.tree.map(lambda x, i=i: x[i], new_state)), going_on)


@pytest.mark.parametrize("env", ["CartPole-v1", Coins()], ids=["CartPole", "Coins"])
def test_starts_drawn_ahead_and_from_keys_give_bit_equal_rollouts(env, monkeypatch):
    env = pjp.make_env(env)
    assert isinstance(vector.make_starts(env, KEY, (100, 8)), vector.DrawnStarts)
    ahead = jitted_rollout(env, KEY, num_steps=100, num_envs=8)
    monkeypatch.setattr(vector, "AHEAD_BYTES", 0)
    assert isinstance(vector.make_starts(env, KEY, (100, 8)), vector.StartKeys)
    from_keys = jax.jit(lambda env, key: random_rollout(env, key, num_steps=100, num_envs=8))(env, KEY)
    jax.tree.map(np.testing.assert_array_equal, without_key(ahead), without_key(from_keys))
    assert ahead[-1].count > 8


class Drift:
    """A place that is pushed, with a gain, and cut after three steps; the reward is its square, with a minus."""

    default_params = {"gain": 2.0}
    observation_space = pjp.Box((1,), -np.inf, np.inf)
    action_space = pjp.Box((1,), -1.0, 1.0)

    def reset(self, key, params):
        place = jax.random.normal(key, (1,))
        return place, (place, 0)

    def step(self, key, state, action, params):
        place, time = state
        place = place + params["gain"] * action
        return place, (place, time + 1), -jnp.sum(place**2), False, time >= 2


def test_starts_from_keys_are_the_same_in_a_batch_of_seeds_and_have_the_gradient_of_drawn_ones():
    env = pjp.make_env(Drift())

    def reward(gain, push, key, form):
        here = env.replace(params={"gain": gain})
        obs, state = vector.reset_batch(here, key, 6)
        total = 0.0
        for keys in jax.random.split(key, (4, 6)):
            starts = vector.draw_ahead(here, keys[None]) if form == "ahead" else vector.StartKeys(keys[None])
            obs, state, step = vector.step_batch(here, keys, state, push, jax.tree.map(lambda x: x[0], starts))
            total += jnp.sum(step.reward)
        return total, obs

    def in_seeds(form):
        gradient = jax.grad(lambda *args: reward(*args, form), argnums=(0, 1), has_aux=True)
        return jax.jit(jax.vmap(gradient, in_axes=(None, None, 0)))(2.0, jnp.full((6, 1), 0.3), pjp.seed_keys(0, 3))

    (ahead, obs), (from_keys, same_obs) = in_seeds("ahead"), in_seeds("keys")
    np.testing.assert_array_equal(obs, same_obs)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5), ahead, from_keys)
    assert min(np.abs(x).min() for x in from_keys) > 1e-3


def test_starts_are_drawn_ahead_up_to_a_size_in_bytes(monkeypatch):
    env = pjp.make_env("CartPole-v1")
    size = 5 * 3 * (4 * 4 + 5 * 4)  # four coordinates of observation; those and the time of state
    monkeypatch.setattr(vector, "AHEAD_BYTES", size)
    assert isinstance(vector.make_starts(env, KEY, (5, 3)), vector.DrawnStarts)
    monkeypatch.setattr(vector, "AHEAD_BYTES", size - 1)
    assert isinstance(vector.make_starts(env, KEY, (5, 3)), vector.StartKeys)


def test_the_observation_of_a_fallen_pole_is_beyond_a_limit_and_the_next_one_near_0(cartpole_rollout):
    runner, transitions = cartpole_rollout
    x, theta = transitions.next_obs[..., 0], transitions.next_obs[..., 2]
    beyond = (np.abs(x) > X_LIMIT) | (np.abs(theta) > THETA_LIMIT)
    np.testing.assert_array_equal(beyond, transitions.terminated)
    assert np.all(np.abs(starts_after_done(runner, transitions)) <= 0.05)
    assert not np.any(np.all(np.abs(transitions.next_obs) <= 0.05, axis=-1) & transitions.terminated)


def test_starts_after_an_auto_reset_have_the_distribution_of_the_environment(cartpole_rollout):
    starts = starts_after_done(*cartpole_rollout)
    assert len(starts) > 2_000
    for i in range(4):
        assert scipy.stats.kstest(starts[:, i], "uniform", args=(-0.05, 0.1)).pvalue > 0.01
    correlation = np.corrcoef(starts.T)[np.triu_indices(4, k=1)]
    assert np.max(np.abs(correlation)) < 4 / np.sqrt(len(starts))


def test_no_two_episodes_share_a_start(cartpole_rollout):
    runner, transitions = cartpole_rollout
    starts = np.concatenate([transitions.obs[0], starts_after_done(runner, transitions)])
    assert len(np.unique(starts, axis=0)) == len(starts) > 2_500


def test_no_two_updates_share_a_start():
    env = pjp.make_env("CartPole-v1", max_steps_in_episode=1)
    config = pjp.PPOConfig(
        num_envs=32, num_steps=2, update_epochs=1, total_timesteps=64 * 50, num_minibatches=1, hidden_sizes=()
    )
    agent = pjp.make_ppo(env, config)

    @jax.jit
    def starts(key):
        first = agent.init(key)

        def update(runner, _):
            runner, _ = agent.update(runner)
            return runner, runner.obs

        return jnp.concatenate([first.obs[None], jax.lax.scan(update, first, length=50)[1]])

    rows = np.concatenate([starts(key).reshape(-1, 4) for key in pjp.seed_keys(0, 2)])
    assert np.all(np.abs(rows) <= 0.05)
    assert len(np.unique(rows, axis=0)) == len(rows) == 2 * 51 * 32


def test_a_time_limit_of_1_resets_in_each_step():
    env = pjp.make_env("CartPole-v1", max_steps_in_episode=1)
    runner, transitions, _, episodes = jitted_rollout(env, KEY, num_steps=100, num_envs=8)
    assert np.all(transitions.truncated)
    assert not np.any(transitions.terminated)
    assert (episodes.count, episodes.length_sum, episodes.return_sum) == (800, 800, 800.0)
    assert (episodes.return_min, episodes.return_max) == (1.0, 1.0)
    assert np.all(np.abs(transitions.obs) <= 0.05)
    assert np.all(np.any(np.abs(transitions.next_obs) > 0.05, axis=-1))  # one push leaves the starts
    np.testing.assert_array_equal(runner.env_state.time, np.zeros(8))


def test_the_starts_of_a_batch_are_those_of_its_keys():
    env = pjp.make_env("CartPole-v1")
    obs, state = vector.reset_batch(env, KEY, 5)
    for i, key in enumerate(jax.random.split(KEY, 5)):
        jax.tree.map(
            np.testing.assert_array_equal,
            (obs[i], jax.tree.map(lambda x, i=i: x[i], state)),
            env.reset(key, env.params),
        )
    assert len(np.unique(obs, axis=0)) == 5
