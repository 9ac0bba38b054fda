"""MuJoCo Playground through the small protocol: it steps as its own code does, and only the critic sees what is
privileged."""

from ctypes.util import find_library
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import purejaxppo as pjp

REASON = 'playground is not installed; pip install "purejaxppo[playground]"'
playground = pytest.importorskip("mujoco_playground", reason=REASON)

import mujoco  # noqa: E402
from brax.envs.wrappers.training import EpisodeWrapper  # noqa: E402

from purejaxppo.envs.adapters.playground import Camera  # noqa: E402
from purejaxppo.report.drawings import find_picture  # noqa: E402

KEY = jax.random.key(0)
REMEMBERING = pjp.RecurrentConfig(num_envs=2, num_steps=8, num_minibatches=2, cell_size=4, hidden_sizes=(4,))
SMALL = pjp.PPOConfig(num_envs=2, num_steps=16, total_timesteps=64, num_minibatches=2, hidden_sizes=(4,))


class Slope(playground.MjxEnv):
    """An environment without physics: an action moves the position, of which the policy sees only a noisy reading."""

    action_size = 1
    xml_path = mj_model = mjx_model = None

    def __init__(self, episode_length=4):
        self._config = SimpleNamespace(episode_length=episode_length)

    def reset(self, rng):
        position = jax.random.uniform(rng, (1,))
        return playground.State(position, self.observe(position), 0.0, 0.0, {"height": 0.0}, {"key": rng})

    def step(self, state, action):
        state.info["key"], key = jax.random.split(state.info["key"])
        position = state.data + action
        state.metrics["height"] = position[0]
        done = (position[0] > 2).astype(float)
        return state.replace(data=position, obs=self.observe(position, key), reward=10 * position[0], done=done)

    def observe(self, position, key=None):
        noise = 0.0 if key is None else jax.random.normal(key)
        return {"state": position + noise, "privileged_state": jnp.concatenate([position, position**2])}


@pytest.fixture(scope="module")
def slope():
    return pjp.make_env(Slope())


@pytest.mark.slow
def test_a_thousand_random_steps_are_those_of_playground():
    """Its own environment with Brax's EpisodeWrapper, in one program with ours, and for an episode of 300 steps."""
    name = "PendulumSwingup"
    env = pjp.make_env(f"playground/{name}", episode_length=300)
    theirs = playground.registry.load(name, config_overrides={"impl": "jax"})
    wrapped = EpisodeWrapper(theirs, 300, action_repeat=1)

    def play(key):
        def step(states, key):
            ours, their_state, time = states
            action = jax.random.uniform(key, (1,), minval=-1.0, maxval=1.0)
            ours, after = env.step(key, ours, action, env.params), wrapped.step(their_state, action)
            ended = after.done > 0
            start = wrapped.reset(key), env.reset(key, env.params)[1]
            going_on = jax.tree.map(lambda x, y: jnp.where(ended, x, y), start, (after, ours.state))
            return (going_on[1], going_on[0], time), (ours._replace(state=()), after.replace(data=None))

        obs, ours = env.reset(key, env.params)
        start = wrapped.reset(key)
        return jax.lax.scan(step, (ours, start, 0), jax.random.split(key, 1_000))[1], obs, start.obs

    (ours, after), obs, first = jax.jit(play)(KEY)
    np.testing.assert_array_equal(obs, first)
    np.testing.assert_array_equal(ours.obs, after.obs)
    np.testing.assert_array_equal(ours.reward, after.reward)
    np.testing.assert_array_equal(ours.terminated | ours.truncated, after.done > 0)
    np.testing.assert_array_equal(ours.truncated & ~ours.terminated, after.info["truncation"] > 0)
    assert ours.truncated.sum() == 3
    assert ours.info.keys() == after.metrics.keys()
    for name, x in ours.info.items():
        np.testing.assert_array_equal(x, after.metrics[name])


def test_done_is_a_termination_the_limit_a_truncation_and_nothing_given_is_written_to(slope):
    obs, state = slope.reset(KEY, slope.params)
    assert jax.tree.map(jnp.shape, obs) == {"state": (1,), "privileged_state": (2,)}
    position, metrics = float(state.playground.data[0]), dict(state.playground.metrics)
    for action, terminated, truncated in (
        (0.1, [0, 0, 0, 0], [0, 0, 0, 1]),
        (0.9, [0, int(position > 0.2), 1], [0] * 3),
    ):
        at = state
        for t in range(len(terminated)):
            after = slope.step(KEY, at, jnp.array([action]), slope.params)
            np.testing.assert_allclose(after.obs["privileged_state"][0], position + (t + 1) * action, rtol=1e-6)
            np.testing.assert_allclose(after.info["height"], position + (t + 1) * action, rtol=1e-6)
            assert (int(after.terminated), int(after.truncated)) == (terminated[t], truncated[t])
            at = after.state
    assert state.playground.metrics == metrics


@pytest.mark.parametrize("config", [SMALL, REMEMBERING])
def test_the_actor_does_not_see_what_is_privileged_and_the_critic_sees_nothing_else(slope, config):
    agent = pjp.make_ppo(slope, config)
    runner = jax.jit(agent.init)(KEY)
    memory = jax.tree.map(lambda x: x[0], runner.memory)
    state, privileged = jnp.array([0.3]), jnp.array([0.1, 0.2])

    def see(state, privileged):
        obs = {"state": state, "privileged_state": privileged}
        policy = agent.distribution(runner.train_state, obs, memory)
        return np.asarray(policy.mode()), np.asarray(agent.value(runner.train_state, obs, memory))

    mean, value = see(state, privileged)
    other_mean, other_value = see(state, privileged + 1.0)
    np.testing.assert_array_equal(mean, other_mean)
    assert value != other_value
    other_mean, other_value = see(state + 1.0, privileged)
    assert mean != other_mean
    np.testing.assert_array_equal(value, other_value)


def test_a_shared_trunk_of_what_only_the_critic_may_see_is_refused(slope):
    for config in (SMALL, REMEMBERING):
        with pytest.raises(pjp.PPOError, match=r"share_trunk.*playground/Slope"):
            pjp.make_ppo(slope, config.replace(share_trunk=True))


def test_two_sights_are_learned_from(slope):
    runner, metrics = jax.jit(pjp.make_train(slope, SMALL.replace(normalize_obs=True)))(KEY)
    assert all(bool(jnp.all(jnp.isfinite(x))) for x in jax.tree.leaves(runner.train_state))
    np.testing.assert_array_equal(metrics.episode_length_mean <= 4, True)
    assert np.isfinite(metrics.extra["episode/height"]).all()


def test_the_doctor_finds_nothing(slope):
    assert all(finding.is_well for finding in pjp.check_env(slope))


@pytest.mark.skipif(not find_library("EGL"), reason="EGL is not installed, and this machine may have no display")
def test_a_film_shows_the_physics_in_real_time(slope):
    env = playground.registry.load("CartpoleBalance", config_overrides={"impl": "jax"})
    picture = find_picture(slope.replace(draw=Camera(env)))
    data = mujoco.MjData(env.mj_model)
    state = SimpleNamespace(playground=SimpleNamespace(data=data))
    upright = picture.draw(None, state, None)
    data.qpos[1] = 1.5
    fallen = picture.draw(None, state, None)
    columns = np.abs(np.asarray(fallen, int) - np.asarray(upright)).sum(axis=(0, 2)).nonzero()[0]
    assert upright.size == (360, 270)
    assert columns.min() > 150  # the pole falls to the right of the cart
    assert (picture.steps_per_second, picture.every) == (100, 5)


def test_names_of_playground_are_its_registry_with_its_physics():
    names = pjp.env_names("playground")
    assert {name.split("/")[1] for name in names} == set(playground.registry.ALL_ENVS)
    assert {"playground/CartpoleBalance", "playground/CartpoleBalance/warp", "playground/Go1Getup"} <= set(names)
    with pytest.raises(pjp.PPOError, match=r"'CartpoleBalence'.*CartpoleBalance"):
        pjp.make_env("playground/CartpoleBalence")


def test_a_robot_that_cannot_be_downloaded_is_named_in_one_line(monkeypatch):
    def load(*args, **kwargs):
        raise FileNotFoundError("git")

    monkeypatch.setattr(playground.registry, "load", load)
    with pytest.raises(pjp.PPOError, match=r"playground/Go1Getup.*Menagerie.*git") as info:
        pjp.make_env("playground/Go1Getup")
    assert "\n" not in str(info.value)


def test_what_resets_or_counts_by_itself_is_refused():
    with pytest.raises(pjp.PPOError, match=r"BraxAutoResetWrapper.*registry\.load"):
        pjp.make_env(playground.wrapper.wrap_for_brax_training(Slope()))
    with pytest.raises(pjp.PPOError, match="EpisodeWrapper"):
        pjp.make_env(playground.wrapper.Wrapper(EpisodeWrapper(Slope(), 10, 1)))
