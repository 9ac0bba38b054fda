"""CartPole against Gymnasium's own, step by step."""

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import purejaxppo as pjp

KEY = jax.random.key(0)
X_LIMIT, THETA_LIMIT = 2.4, 12 * 2 * np.pi / 360
BAND = 1e-5  # float32 and float64 may disagree this close to a limit
TOLERANCE = 1e-5  # absolute, of all four coordinates


def random_states(seed, count):
    """States that are not terminal, and actions. -> float32 [count, 4], int [count]"""
    rng = np.random.default_rng(seed)
    states = rng.uniform([-3, -3, -0.3, -3], [3, 3, 0.3, 3], (4 * count, 4)).astype(np.float32)
    states = states[inside(states)]
    assert len(states) >= count
    return states[:count], rng.integers(0, 2, count)


def limit_distance(states):
    """Signed distance to the nearest limit, of x or theta: negative outside. [N, 4] -> [N]"""
    return np.minimum(X_LIMIT - np.abs(states[:, 0]), THETA_LIMIT - np.abs(states[:, 2]))


def inside(states):
    return limit_distance(states.astype(np.float64)) > BAND


def our_state(states, time=0):
    _, example = pjp.make_env("CartPole-v1").reset(KEY, pjp.make_env("CartPole-v1").params)
    return example.replace(
        x=jnp.asarray(states[:, 0]),
        x_dot=jnp.asarray(states[:, 1]),
        theta=jnp.asarray(states[:, 2]),
        theta_dot=jnp.asarray(states[:, 3]),
        time=jnp.broadcast_to(jnp.asarray(time, jnp.int32), len(states)),
    )


def our_steps(env, states, actions, time=0):
    step = jax.jit(jax.vmap(env.step, in_axes=(None, 0, 0, None)))
    return jax.tree.map(np.asarray, step(KEY, our_state(states, time), jnp.asarray(actions, jnp.int32), env.params))


def gymnasium_steps(env, states, actions):
    """-> next states float64 [N, 4], rewards [N], terminated [N]"""
    cartpole = env.unwrapped
    next_states, rewards, terminated = np.empty((len(states), 4)), np.empty(len(states)), np.empty(len(states), bool)
    for i, (state, action) in enumerate(zip(states.astype(np.float64), actions.tolist(), strict=True)):
        cartpole.state, cartpole.steps_beyond_terminated = state, None
        _, rewards[i], terminated[i], _, _ = cartpole.step(action)
        next_states[i] = cartpole.state
    return next_states, rewards, terminated


def assert_same_steps(env, gym_env, states, actions):
    step = our_steps(env, states, actions)
    next_states, rewards, terminated = gymnasium_steps(gym_env, states, actions)
    np.testing.assert_allclose(step.obs, next_states, rtol=0, atol=TOLERANCE)
    np.testing.assert_array_equal(
        step.obs, np.stack([step.state.x, step.state.x_dot, step.state.theta, step.state.theta_dot], axis=1)
    )
    np.testing.assert_array_equal(step.reward, rewards)
    decided = np.abs(limit_distance(next_states)) > BAND
    np.testing.assert_array_equal(step.terminated[decided], terminated[decided])
    assert not step.truncated.any()
    return next_states, terminated


def test_100_000_steps_are_those_of_gymnasium():
    states, actions = random_states(seed=0, count=100_000)
    env, gym_env = pjp.make_env("CartPole-v1"), gymnasium.make("CartPole-v1")
    next_states, terminated = assert_same_steps(env, gym_env, states, actions)
    x, theta = next_states[:, 0], next_states[:, 2]
    for side in (x > X_LIMIT, x < -X_LIMIT, theta > THETA_LIMIT, theta < -THETA_LIMIT):
        assert np.sum(side & terminated) > 200  # every way to fail is among them


@pytest.mark.parametrize(
    "changes",
    [
        {"length": 1.0, "masspole": 0.2},
        {"length": 1.0},
        {"masspole": 0.2},
        {"masscart": 3.0},
        {"gravity": 20.0, "force_mag": 5.0, "tau": 0.01},
        {"masspole": 0.3, "total_mass": 2.0},
        {"length": 0.8, "polemass_length": 0.5},
    ],
    ids=lambda changes: ",".join(f"{name}={value}" for name, value in changes.items()),
)
def test_changed_parameters_do_what_they_do_in_gymnasium(changes):
    gym_env = gymnasium.make("CartPole-v1")
    cartpole = gym_env.unwrapped
    for name, value in changes.items():
        setattr(cartpole, name, value)
    if "total_mass" not in changes:
        cartpole.total_mass = cartpole.masspole + cartpole.masscart
    if "polemass_length" not in changes:
        cartpole.polemass_length = cartpole.masspole * cartpole.length
    states, actions = random_states(seed=1, count=2_000)
    assert_same_steps(pjp.make_env("CartPole-v1", **changes), gym_env, states, actions)


def test_derived_parameters_follow_traced_ones():
    def derived(length, masspole):
        params = pjp.make_env("CartPole-v1", length=length, masspole=masspole).params
        return params.total_mass, params.polemass_length

    lengths, masses = jnp.array([0.5, 1.0, 2.0]), jnp.array([0.1, 0.2, 0.4])
    total_mass, polemass_length = jax.jit(jax.vmap(derived))(lengths, masses)
    np.testing.assert_allclose(total_mass, 1.0 + masses, rtol=1e-6)
    np.testing.assert_allclose(polemass_length, masses * lengths, rtol=1e-6)


@pytest.mark.parametrize(("name", "limit"), [("CartPole-v0", 200), ("CartPole-v1", 500)])
def test_1000_episodes_are_cut_at_the_limit_and_not_before(name, limit):
    states, actions = random_states(seed=2, count=1_000)
    elapsed = np.random.default_rng(3).integers(limit - 3, limit, 1_000)  # steps taken before this one
    step = our_steps(pjp.make_env(name), states, actions, time=elapsed)

    timed = gymnasium.wrappers.TimeLimit(gymnasium.make("CartPole-v1").unwrapped, max_episode_steps=limit)
    for i in range(1_000):
        timed.unwrapped.state, timed.unwrapped.steps_beyond_terminated = states[i].astype(np.float64), None
        timed._elapsed_steps = int(elapsed[i])
        _, _, terminated, truncated, _ = timed.step(int(actions[i]))
        assert (bool(step.terminated[i]), bool(step.truncated[i])) == (terminated, truncated)

    np.testing.assert_array_equal(step.truncated, elapsed == limit - 1)
    np.testing.assert_array_equal(step.state.time, elapsed + 1)
    # All four combinations of the flags are among them.
    assert np.unique(np.stack([step.terminated, step.truncated], axis=1), axis=0).shape == (4, 2)


def test_a_pole_that_falls_in_the_last_step_sets_both_flags():
    states = np.tile(np.array([[0.0, 0.0, THETA_LIMIT - 0.001, 3.0]], np.float32), (2, 1))
    step = our_steps(pjp.make_env("CartPole-v1"), states, np.array([1, 1]), time=np.array([499, 498]))
    np.testing.assert_array_equal(step.terminated, [True, True])
    np.testing.assert_array_equal(step.truncated, [True, False])
    np.testing.assert_array_equal(step.reward, [1.0, 1.0])


def balanced_episodes(env, num_episodes, num_steps):
    """Flags of a controller that keeps the pole up, [episodes, steps] each; nothing resets."""

    def episode(key):
        def act_and_step(carry, _):
            obs, state = carry
            action = (obs @ jnp.array([0.1, 0.2, 1.0, 0.3]) > 0).astype(jnp.int32)
            step = env.step(KEY, state, action, env.params)
            return (step.obs, step.state), (step.terminated, step.truncated)

        return jax.lax.scan(act_and_step, env.reset(key, env.params), length=num_steps)[1]

    return jax.tree.map(np.asarray, jax.jit(jax.vmap(episode))(jax.random.split(KEY, num_episodes)))


@pytest.mark.parametrize(("name", "limit"), [("CartPole-v0", 200), ("CartPole-v1", 500)])
def test_a_balanced_pole_is_cut_at_the_limit(name, limit):
    terminated, truncated = balanced_episodes(pjp.make_env(name), num_episodes=64, num_steps=limit + 10)
    assert not terminated.any()
    np.testing.assert_array_equal(truncated, np.broadcast_to(np.arange(1, limit + 11) >= limit, truncated.shape))


def test_whole_random_episodes_are_as_long_as_gymnasiums():
    rng = np.random.default_rng(4)
    starts = rng.uniform(-0.05, 0.05, (100, 4)).astype(np.float32)
    actions = rng.integers(0, 2, (100, 200))
    env = pjp.make_env("CartPole-v1")

    def terminations(state, actions):
        def step(state, action):
            step = env.step(KEY, state, action, env.params)
            return step.state, step.terminated

        return jax.lax.scan(step, state, actions)[1]

    terminated = np.asarray(jax.jit(jax.vmap(terminations))(our_state(starts), jnp.asarray(actions, jnp.int32)))
    cartpole = gymnasium.make("CartPole-v1").unwrapped
    for start, sequence, ours in zip(starts, actions, terminated, strict=True):
        cartpole.state, cartpole.steps_beyond_terminated = start.astype(np.float64), None
        length = 1 + next(i for i, action in enumerate(sequence.tolist()) if cartpole.step(action)[2])
        assert 1 + np.argmax(ours) == length
