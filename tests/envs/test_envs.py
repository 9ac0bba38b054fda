"""`make_env`: every name, environments of the caller's own, parameters, and what is refused."""

import dataclasses
import os
import re
import subprocess
import sys
from typing import NamedTuple

import gymnax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import struct
from gymnax.environments import environment as gymnax_environment
from gymnax.environments import spaces as gymnax_spaces
from gymnax.environments.classic_control.cartpole import CartPole

import purejaxppo as pjp
from purejaxppo.envs.adapters.gymnax import PutOff
from purejaxppo.envs.spaces import example_action, settle_space
from purejaxppo.ppo.rollout import empty_episodes, make_noise

KEY = jax.random.key(0)
SMALL = pjp.PPOConfig(num_envs=2, num_steps=8, total_timesteps=64, num_minibatches=2, hidden_sizes=(4,))


def test_a_module_that_is_put_off_is_imported_at_its_first_use(monkeypatch):
    later = PutOff("colorsys")
    monkeypatch.setitem(sys.modules, "colorsys", later)
    assert not hasattr(later, "__file__")  # asked of every module by those who look for a class
    assert later.rgb_to_hsv(0.0, 0.0, 0.5) == (2 / 3, 1.0, 0.5)
    assert sys.modules["colorsys"] is not later
    with pytest.raises(AttributeError):
        later.no_such_function()


class WalkParams(struct.PyTreeNode):
    step_size: float = 1.0
    limit: float = 3.0


class WalkState(NamedTuple):
    position: jax.Array
    time: jax.Array


class Walk:
    """A walk on a line, right or left, that ends beyond `limit`. Weak types, ints and Python floats on purpose."""

    default_params = WalkParams()
    observation_space = pjp.Box((2,), (-10.0, 0.0), (10.0, 10.0))
    action_space = pjp.Discrete(2)

    def observe(self, state):
        return jnp.stack([state.position, state.time])

    def reset(self, key, params):
        state = WalkState(0.1 * jax.random.uniform(key), 0)
        return self.observe(state), state

    def step(self, key, state, action, params):
        position = state.position + params.step_size * (2 * action - 1)
        state = WalkState(position, state.time + 1)
        return self.observe(state), state, 1, jnp.abs(position) > params.limit, state.time >= 10


def walk_with(**attributes):
    """A Walk of its own class, with some of its attributes replaced."""
    return type("ChangedWalk", (Walk,), attributes)()


def shapes(env):
    """-> (obs, state) from reset, Step from step, without running anything"""
    action = jax.eval_shape(lambda: example_action(env.action_space))
    start = jax.eval_shape(env.reset, KEY, env.params)
    return start, jax.eval_shape(env.step, KEY, start[1], action, env.params)


def random_rollout(env, key, num_steps, num_envs):
    """Transitions [T, B] of uniformly random actions."""

    def action_noise(key, shape):
        if isinstance(env.action_space, pjp.Discrete):
            return jax.random.randint(key, shape, 0, env.action_space.n)
        return jax.random.uniform(key, shape + env.action_space.shape, minval=-1.0)

    reset_key, noise_key = jax.random.split(key)
    obs, state = jax.vmap(env.reset, in_axes=(0, None))(jax.random.split(reset_key, num_envs), env.params)
    runner = pjp.RunnerState(None, state, obs, empty_episodes(num_envs), key)
    noise = make_noise(env, action_noise, noise_key, (num_steps, num_envs))
    return pjp.rollout(env, lambda obs, noise: (noise, ()), runner, noise)[1]


class Traced:
    """jit of a function, and how often it was traced."""

    def __init__(self, function):
        self.count = 0

        def counted(*args):
            self.count += 1
            return function(*args)

        self.jitted = jax.jit(counted)

    def __call__(self, *args):
        return self.jitted(*args)


def refused(parts, function, *args, **kwargs):
    """`function` raises PPOError with one line that holds every one of `parts`. -> the line"""
    with pytest.raises(pjp.PPOError) as info:
        function(*args, **kwargs)
    line = str(info.value)
    assert type(info.value) is pjp.PPOError
    assert "\n" not in line
    assert len(line) < 1_000
    for part in parts:
        assert part in line, f"{part!r} is not in {line!r}"
    return line


# Every name


def test_the_names_are_those_of_gymnax_without_its_download_and_with_cartpole_v0():
    names = pjp.env_names()
    assert set(names) == (set(gymnax.registered_envs) - {"MNISTBandit-bsuite"}) | {"CartPole-v0"}
    assert len(names) == len(set(names)) == 26
    assert names == sorted(names)


@pytest.mark.parametrize("name", pjp.env_names())
def test_reset_and_step_agree_in_structure_shape_dtype_and_weak_type(name):
    env = pjp.make_env(name)
    assert env.name == name
    (obs, state), step = shapes(env)

    assert isinstance(step, pjp.Step)
    assert jax.tree.structure(state) == jax.tree.structure(step.state)
    for x, y in zip(jax.tree.leaves((obs, state)), jax.tree.leaves((step.obs, step.state)), strict=True):
        assert (x.shape, x.dtype) == (y.shape, y.dtype)
        assert not x.weak_type
        assert not y.weak_type
    assert obs.dtype == jnp.float32
    assert obs.shape == (env.observation_space.shape if isinstance(env.observation_space, pjp.Box) else ())
    for x, dtype in ((step.reward, jnp.float32), (step.terminated, jnp.bool_), (step.truncated, jnp.bool_)):
        assert (x.shape, x.dtype, x.weak_type) == ((), dtype, False)


@pytest.mark.slow
@pytest.mark.parametrize("name", pjp.env_names())
def test_every_environment_can_be_rolled_out(name):
    env = pjp.make_env(name)
    transitions = jax.jit(lambda key: random_rollout(env, key, num_steps=16, num_envs=2))(KEY)
    assert transitions.reward.shape == (16, 2)
    assert transitions.next_obs.shape == transitions.obs.shape
    for x in (transitions.obs, transitions.next_obs, transitions.reward):
        assert np.isfinite(x).all()


@pytest.mark.parametrize("name", pjp.env_names())
def test_every_environment_has_an_agent_whose_actions_fit(name):
    env = pjp.make_env(name)
    agent = pjp.make_ppo(env, SMALL)
    state = jax.eval_shape(agent.init, KEY).train_state
    obs, _ = jax.eval_shape(env.reset, KEY, env.params)
    for key in (None, KEY):
        action = jax.eval_shape(agent.act, state, obs, key)
        expected = jax.eval_shape(lambda: example_action(env.action_space))
        assert (action.shape, action.dtype) == (expected.shape, expected.dtype)


@pytest.mark.parametrize("name", pjp.env_names())
def test_every_environment_learns_in_one_program_under_strict_promotion(name):
    """Traced alone: an update returns a state of the types that it was given, so one program does every update."""
    with jax.numpy_dtype_promotion("strict"):
        agent = pjp.make_ppo(pjp.make_env(name), SMALL)
        start = jax.eval_shape(agent.init, KEY)
        after, metrics = jax.eval_shape(agent.update, start)
    types = [jax.tree.map(lambda x: (x.shape, x.dtype, x.weak_type), runner) for runner in (start, after)]
    assert types[0] == types[1]
    assert metrics.episode_return_mean.shape == ()


@pytest.mark.parametrize("name", ["CartPole-v1", "Pendulum-v1"])
def test_every_part_works_under_strict_promotion(name):
    with jax.numpy_dtype_promotion("strict"):
        env = pjp.make_env(name)
        for changes in ({"kl_stop": "epoch"}, {"kl_stop": "minibatch"}):
            changes |= {"target_kl": 0.1, "normalize_obs": True, "normalize_reward": True}
            agent = pjp.make_ppo(env, SMALL.replace(**changes))
            runner, _ = jax.eval_shape(lambda key, agent=agent: agent.update(agent.init(key)), KEY)
        jax.eval_shape(lambda state, key: pjp.evaluate(agent, state, key, 3, sampled=True), runner.train_state, KEY)
        if name == "CartPole-v1":
            full_batch = pjp.make_full_batch_ppo(env, pjp.FullBatchConfig(num_steps=8, total_timesteps=8))
            jax.eval_shape(lambda key: full_batch.update(full_batch.init(key)), KEY)


@pytest.mark.parametrize("changes", [{}, {"box_policy": "squashed"}, {"box_std": "state"}, {"share_trunk": True}])
@pytest.mark.parametrize("cell", ["feed-forward", "gru", "lstm"])
def test_every_kind_of_policy_works_under_strict_promotion(cell, changes):
    env = pjp.make_env("Pendulum-v1")
    sizes = {"num_envs": 2, "num_steps": 8, "num_minibatches": 2, "total_timesteps": 16}
    with jax.numpy_dtype_promotion("strict"):
        if cell == "feed-forward":
            agent = pjp.make_ppo(env, pjp.PPOConfig(**sizes, **changes))
        else:
            agent = pjp.make_ppo(env, pjp.RecurrentConfig(cell=cell, **sizes, **changes))
        runner, _ = jax.eval_shape(lambda key: agent.update(agent.init(key)), KEY)
        jax.eval_shape(lambda state, key: pjp.evaluate(agent, state, key, 3, sampled=True), runner.train_state, KEY)


def test_a_number_out_of_n_is_observed_as_n_numbers():
    env = pjp.make_env("FrozenLake-misc")
    assert env.observation_space == pjp.Box((16,), (0.0,) * 16, (1.0,) * 16)
    state = theirs = gymnax.make("FrozenLake-misc")[0].reset_env(KEY, env.params)[1]
    for i, action in enumerate([1, 2, 1, 0]):
        key = jax.random.fold_in(KEY, i)
        step = env.step(key, state, jnp.int32(action), env.params)
        obs, theirs, *_ = gymnax.make("FrozenLake-misc")[0].step_env(key, theirs, action, env.params)
        state = step.state
        assert step.obs.tolist() == np.eye(16)[int(obs)].tolist()


class Left(CartPole):
    """A gymnax environment in which only one action is legal."""

    def action_mask(self, state, params):
        return jnp.array([True, False])


def test_the_mask_of_a_gymnax_instance_is_heeded():
    env = pjp.make_env(Left())
    assert isinstance(env.reset(KEY, env.params)[0], pjp.MaskedObs)
    agent = pjp.make_ppo(env, SMALL)
    runner = jax.jit(agent.init)(KEY)
    keys = jax.random.split(KEY, 100)
    assert not jax.vmap(lambda key: agent.act(runner.train_state, jax.tree.map(lambda x: x[0], runner.obs), key))(
        keys
    ).any()


# What is accepted


def test_a_gymnax_instance_is_the_environment_of_its_name():
    instance, _ = gymnax.make("MountainCar-v0")
    ours, named = pjp.make_env(instance), pjp.make_env("MountainCar-v0")
    assert (ours.name, ours.params) == (named.name, named.params)
    assert (ours.observation_space, ours.action_space) == (named.observation_space, named.action_space)
    jax.tree.map(np.testing.assert_array_equal, random_rollout(ours, KEY, 20, 2), random_rollout(named, KEY, 20, 2))
    assert pjp.make_env(instance, force=0.5).params.force == 0.5


def test_an_environment_is_accepted_as_it_is():
    env = pjp.make_env("CartPole-v1", length=0.7)
    again = pjp.make_env(env)
    assert again == env
    assert jax.tree.structure(again) == jax.tree.structure(env)
    assert pjp.make_env(env, gravity=5.0).params == env.params.replace(gravity=5.0)


def test_an_object_of_ones_own_is_settled_and_can_be_trained_on():
    env = pjp.make_env(Walk())
    assert env.name == "Walk"
    (obs, state), step = shapes(env)
    for x in jax.tree.leaves((obs, state, step)):
        assert not x.weak_type
    assert state.time.dtype == step.state.time.dtype == jnp.int32
    assert step.reward.dtype == jnp.float32

    key, action = jax.random.key(1), jnp.int32(1)
    obs, state = env.reset(key, env.params)
    np.testing.assert_allclose(env.step(key, state, action, env.params).obs, [obs[0] + 1.0, 1.0], rtol=1e-6)

    runner, metrics = jax.eval_shape(pjp.make_train(env, SMALL), key)  # test_probes.py runs such ones
    assert metrics.episodes.shape == (4,)
    assert runner.obs.shape == (2, 2)


def test_the_name_of_an_object_is_its_own():
    assert pjp.make_env(walk_with(name="Stroll")).name == "Stroll"


def test_keywords_set_parameters_and_leave_the_others():
    assert pjp.make_env(Walk(), step_size=2.0).params == WalkParams(step_size=2.0, limit=3.0)
    env = pjp.make_env(Walk(), limit=0.5)
    _, state = env.reset(KEY, env.params)
    assert env.step(KEY, state, jnp.int32(1), env.params).terminated
    default = pjp.make_env("MountainCar-v0").params
    assert pjp.make_env("MountainCar-v0", gravity=0.001).params == default.replace(gravity=0.001)
    assert pjp.make_env("MountainCar-v0").params == default


def test_cartpole_v0_is_v1_with_200_steps():
    v0, v1 = pjp.make_env("CartPole-v0"), pjp.make_env("CartPole-v1")
    assert (v0.params.max_steps_in_episode, v1.params.max_steps_in_episode) == (200, 500)
    assert v0.params.replace(max_steps_in_episode=500) == v1.params


# One program


def test_a_jitted_function_compiles_once_for_two_equal_environments():
    first, second = pjp.make_env("CartPole-v1"), pjp.make_env("CartPole-v1")
    assert jax.tree.structure(first) == jax.tree.structure(second)
    start = Traced(lambda env, key: env.reset(key, env.params))
    start(first, KEY)
    start(second, KEY)
    start(pjp.make_env("CartPole-v1", length=0.9), KEY)
    start(pjp.make_env(first), KEY)
    assert start.count == 1


def test_a_jitted_function_compiles_once_for_two_environments_of_one_object():
    walk = Walk()
    start = Traced(lambda env, key: env.reset(key, env.params))
    start(pjp.make_env(walk), KEY)
    start(pjp.make_env(walk, limit=5.0), KEY)
    assert start.count == 1


class Sized:
    """Observes so many numbers as its attribute says."""

    default_params, action_space, size = None, pjp.Discrete(2), 2

    @property
    def observation_space(self):
        return pjp.Box((self.size,), 0.0, 1.0)

    def reset(self, key, params):
        return jnp.zeros(self.size), ()

    def step(self, key, state, action, params):
        return jnp.zeros(self.size), (), 0.0, False, True


def test_an_object_whose_attribute_changes_is_made_anew():
    env = Sized()
    assert pjp.make_env(env).observation_space.shape == (2,)
    env.size = 3
    agent = pjp.make_ppo(pjp.make_env(env), pjp.PPOConfig(hidden_sizes=(2,)))
    assert jax.eval_shape(agent.init, jax.random.key(0)).obs.shape == (4, 3)


def test_a_function_of_an_object_need_not_have_a_hash():
    @dataclasses.dataclass
    class Reset:
        obs: jax.Array

        def __call__(self, key, params):
            return self.obs, ()

    env = Sized()
    env.reset = Reset(jnp.ones(2))
    made = pjp.make_env(env)
    assert made.reset(jax.random.key(0), None)[0].tolist() == [1.0, 1.0]
    assert jax.eval_shape(pjp.make_ppo(made, pjp.PPOConfig()).init, jax.random.key(0)).obs.shape == (4, 2)


def test_vmap_over_a_parameter_compiles_once_and_equals_separate_runs():
    def observations(length, masspole, key):
        return random_rollout(pjp.make_env("CartPole-v1", length=length, masspole=masspole), key, 20, 4).next_obs

    together, alone = Traced(jax.vmap(observations, in_axes=(0, 0, None))), Traced(observations)
    for lengths, masses in (([0.3, 0.5, 1.0], [0.1, 0.2, 0.4]), ([0.4, 0.6, 2.0], [0.3, 0.1, 0.1])):
        batched = together(jnp.array(lengths), jnp.array(masses), KEY)
        assert np.unique(np.asarray(batched), axis=0).shape == batched.shape  # each parameter matters
        for i in range(3):
            np.testing.assert_allclose(batched[i], alone(lengths[i], masses[i], KEY), rtol=0, atol=1e-5)
    assert together.count == alone.count == 1


def test_vmap_over_environments_equals_separate_runs():
    envs = [pjp.make_env("CartPole-v1", length=length) for length in (0.3, 0.5, 1.0)]
    stacked = jax.tree.map(lambda *leaves: jnp.stack([jnp.asarray(x) for x in leaves]), *envs)

    def observations(env, key):
        return random_rollout(env, key, 20, 4).next_obs

    together, alone = jax.jit(jax.vmap(observations, in_axes=(0, None)))(stacked, KEY), jax.jit(observations)
    assert np.unique(np.asarray(together), axis=0).shape == together.shape  # each parameter matters
    for env, ours in zip(envs, together, strict=True):
        np.testing.assert_allclose(ours, alone(env, KEY), rtol=0, atol=1e-5)


def test_make_env_inside_jit_leaves_no_tracer_behind():
    instance, _ = gymnax.make("Acrobot-v1")
    jax.jit(lambda x: x + pjp.make_env(instance).params.dt)(1.0)
    env = pjp.make_env(instance)
    assert not any(isinstance(x, jax.core.Tracer) for x in jax.tree.leaves(env))


# What is refused


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("CartPol-v1", "CartPole-v1"),
        ("cartpole", "CartPole-v1"),
        ("MountainCar", "MountainCar-v0"),
        ("breakout", "Breakout-MinAtar"),
    ],
)
def test_an_unknown_name_is_refused_with_the_nearest(name, nearest):
    line = refused([repr(name), nearest], pjp.make_env, name)
    assert sum(known in line for known in pjp.env_names()) <= 3


def test_an_unknown_parameter_is_refused_with_the_nearest():
    line = refused(["'lenght'", "CartPole-v1", "length"], pjp.make_env, "CartPole-v1", lenght=1.0)
    assert "gravity" not in line
    refused(["'lenght'", "length"], pjp.make_env, "CartPole-v1", length=1.0, lenght=1.0)
    refused(["'limits'", "Walk", "limit"], pjp.make_env, Walk(), limits=1.0)
    refused(["'zzz'", "step_size", "limit"], pjp.make_env, Walk(), zzz=1.0)
    refused(["ChangedWalk", "limit"], pjp.make_env, walk_with(default_params=(1.0, 3.0)), limit=1.0)


def test_a_parameter_may_be_a_pytree():
    default = WalkParams(step_size={"right": jnp.float32(1.0), "left": np.ones(2, np.float32)})

    def step(self, key, state, action, params):
        size = jnp.where(action == 1, params.step_size["right"], params.step_size["left"][0])
        return Walk.step(self, key, state, action, params.replace(step_size=size))

    walk = walk_with(default_params=default, step=step)
    sizes = {"right": jnp.array([2.0, 3.0]), "left": jnp.ones((2, 2))}

    def position(size):
        env = pjp.make_env(walk, step_size=size)
        return env.step(KEY, env.reset(KEY, env.params)[1], jnp.int32(1), env.params).state.position

    start = pjp.make_env(walk).reset(KEY, default)[1].position
    np.testing.assert_allclose(jax.vmap(position)(sizes) - start, [2.0, 3.0], rtol=1e-6)
    np.testing.assert_allclose(position({"right": 2, "left": np.ones(2)}) - start, 2.0, rtol=1e-6)
    for wrong, named in (
        ({"right": 1.0}, "step_size['left']"),
        (1.0, "step_size"),
        ({"right": "a", "left": np.ones(2)}, "['right'] = 'a'"),
        ({"right": np.nan, "left": np.ones(2)}, "['right'] is NaN"),
        ({"right": 1.0, "left": np.ones(3)}, "['left'] has shape (3,)"),
    ):
        refused(["step_size", named], pjp.make_env, walk, step_size=wrong)


@pytest.mark.parametrize("value", [np.array([0.5, 1.0]), jnp.array([0.5, 1.0])])
def test_several_values_of_a_parameter_are_refused(value):
    refused(["CartPole-v1", "length", "(2,)", "vmap"], pjp.make_env, "CartPole-v1", length=value)


def test_a_derived_parameter_that_was_given_is_kept():
    env = pjp.make_env(pjp.make_env("CartPole-v1", total_mass=2.0), gravity=9.0)
    assert (env.params.total_mass, env.params.gravity) == (2.0, 9.0)
    assert pjp.make_env(env, masscart=3.0).params.total_mass == pytest.approx(3.1)


def test_a_name_like_cartpole_is_no_cartpole():
    assert pjp.make_env(walk_with(name="CartPole-mine"), limit=2.0).params.limit == 2.0


def test_a_gymnax_space_of_another_kind_is_refused():
    class Odd(gymnax_environment.Environment):
        def observation_space(self, params):
            return gymnax_spaces.Dict({"x": gymnax_spaces.Space()})

    refused(["Odd", "Space", "Discrete, Box, Dict and Tuple"], pjp.make_env, Odd())


def changed_step(change):
    """A Walk whose step's output is changed."""
    return walk_with(step=lambda self, *args: change(*Walk.step(self, *args)))


def test_reset_and_step_that_disagree_are_refused():
    cast = changed_step(lambda obs, state, *rest: (obs, state._replace(time=state.time * 1.0), *rest))
    refused(["ChangedWalk", "time", "int32", "float32", "reset", "step"], pjp.make_env, cast)
    widened = changed_step(lambda obs, state, *rest: (obs, state._replace(position=state.position[None]), *rest))
    refused(["ChangedWalk", "position", "[1]", "reset", "step"], pjp.make_env, widened)
    renamed = changed_step(lambda obs, state, *rest: (obs, tuple(state), *rest))
    refused(["ChangedWalk", "position", "missing from step"], pjp.make_env, renamed)
    longer = changed_step(lambda obs, state, *rest: (jnp.append(obs, 1.0), state, *rest))
    refused(["ChangedWalk", "step", "(3,)", "(2,)"], pjp.make_env, longer)


def test_x64_is_refused():
    program = """
import jax
import purejaxppo as pjp

def line(function, *args):
    try:
        function(*args)
    except pjp.PPOError as error:
        print(str(error))
    else:
        print("accepted")

line(pjp.make_env, "CartPole-v1")
jax.config.update("jax_enable_x64", False)
env = pjp.make_env("CartPole-v1")
jax.config.update("jax_enable_x64", True)
line(pjp.make_ppo, env, pjp.PPOConfig())
"""
    run = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "JAX_ENABLE_X64": "1", "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        check=True,
    )
    lines = run.stdout.splitlines()
    assert len(lines) == 2
    for line in lines:
        assert re.search(r"jax_enable_x64 is on.*float32.*False", line)


def test_batched_keys_are_welcome_under_vmap():
    agent = pjp.make_ppo(pjp.make_env("CartPole-v1"), SMALL)
    assert jax.eval_shape(jax.vmap(agent.init), jax.random.split(KEY, 3)).obs.shape == (3, 2, 4)


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        (-1, (-1.0,) * 6),
        (np.float32(0.5), (0.5,) * 6),
        (-np.inf, (-np.inf,) * 6),
        (np.arange(6).reshape(2, 3), (0.0, 1.0, 2.0, 3.0, 4.0, 5.0)),
        (jnp.array([[0.0, -jnp.inf, 2.0]] * 2), (0.0, -np.inf, 2.0) * 2),
        ([0, 1, 2, 3, 4, 5], (0.0, 1.0, 2.0, 3.0, 4.0, 5.0)),
    ],
)
def test_a_box_takes_a_number_or_an_array_as_its_bound_and_prints_as_it_is_made(given, kept):
    box = pjp.Box((2, 3), given, 9.0)
    assert (box.low, box.high) == (kept, (9.0,) * 6)
    assert hash(box) == hash(pjp.Box((2, 3), kept, (9.0,) * 6))
    assert eval(repr(box), {"Box": pjp.Box}) == box
    assert eval(repr(pjp.Box((1,), box.low[:1], [9])), {"Box": pjp.Box}) == pjp.Box((1,), box.low[:1], 9.0)
    assert walk_with(observation_space=pjp.Box((2,), -10, np.full(2, 10.0)))


def test_a_space_without_elements_is_refused():
    for sizes in ((3, 0), (), [3, 2]):
        env = walk_with(action_space=pjp.MultiDiscrete(sizes))
        refused(["ChangedWalk", "action_space", str(sizes)], pjp.make_env, env)
    refused(["Box", "1.0 and 0.5"], pjp.Box, (2,), (0.0, 1.0), (1.0, 0.5))
    refused(["Box", "nan"], pjp.Box, (2,), np.nan, 1.0)
    for bound in ((0.0,), [[1], [2, 3]], None, "x"):
        refused(["Box", repr(bound)], pjp.Box, (2,), 0.0, bound)


def test_the_bounds_of_a_config_are_themselves_valid():
    extremes = {"gamma": 1.0, "gae_lambda": 0.0, "learning_rate": 0.0, "vf_coef": 0.0, "ent_coef": 0.0}
    config = pjp.PPOConfig(**extremes, max_grad_norm=float("inf"), hidden_sizes=(), total_timesteps=512)
    assert config.num_updates == 1
    pjp.make_ppo(pjp.make_env("CartPole-v1"), config)


def test_an_environment_prints_in_a_line():
    cartpole = "Environment(CartPole-v0: Box(4,) -> Discrete(2), max_steps_in_episode=200)"
    assert repr(pjp.make_env("CartPole-v0")) == cartpole
    walk = pjp.make_env(walk_with())
    parts = {"far": pjp.Box((2,), 0.0, 1.0), "on": pjp.Discrete(2)}
    changed = walk.replace(
        observation_space=settle_space("observation_space", parts), action_space=pjp.MultiDiscrete((2, 3))
    )
    shown = "SpaceTree(['far']: Box(2,), ['on']: Discrete(2)) -> MultiDiscrete(2, 3)"
    assert repr(changed) == f"Environment(ChangedWalk: {shown})"


def test_a_box_of_many_bounds_prints_some_of_them():
    assert repr(pjp.Box((784,), 0.0, np.arange(784))) == "Box(shape=(784,), low=0.0, high=(0.0, 1.0, 2.0, ..., 783.0))"
