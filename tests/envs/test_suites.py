"""Brax and Jumanji through the small protocol: they step as their own code does, and end as they say themselves."""

import importlib.util
import math
import re
from pathlib import Path
from typing import NamedTuple

import brax.envs
import jax
import jax.numpy as jnp
import jumanji
import numpy as np
import pytest
from brax.envs.wrappers.training import EpisodeWrapper
from jumanji import specs, types
from jumanji.wrappers import AutoResetWrapper, MultiToSingleWrapper

import purejaxppo as pjp
from purejaxppo.cli import main as cli
from purejaxppo.envs.adapters.jumanji import adapt, mask_readings, some_legal
from purejaxppo.envs.suites import SUITES
from purejaxppo.envs.vector import make_starts, step_batch

KEY = jax.random.key(0)
SMALL = pjp.PPOConfig(num_envs=2, num_steps=16, total_timesteps=64, num_minibatches=2, hidden_sizes=(4,))


class Slope(brax.envs.Env):
    """A Brax environment without physics: an action moves the position, and beyond 2 it is done."""

    observation_size = 1
    action_size = 1
    backend = "none"

    def reset(self, rng):
        position = jax.random.uniform(rng, (1,))
        return brax.envs.State(None, position, 0.0, 0.0, {}, {"time_out": 0.0})

    def step(self, state, action):
        position = state.obs + action
        return state.replace(obs=position, reward=10 * position[0], done=1.0 * (position[0] > 2))


class Count(NamedTuple):
    time: jax.Array
    action_mask: jax.Array


class Countdown(jumanji.Environment):
    """Four steps. Action 1 in the second one ends it for good; the fourth one is a limit in time."""

    observation_spec = specs.Spec(Count, "Count", time=specs.Array((), jnp.int32), action_mask=specs.Array((2,), bool))
    action_spec = specs.DiscreteArray(2)

    def reset(self, key):
        return jnp.int32(0), types.restart(Count(jnp.int32(0), jnp.ones(2, bool)))

    def step(self, state, action):
        time = state + 1
        seen = Count(time, jnp.ones(2, bool))
        lost, over = (time == 2) & (action == 1), time == 4
        kinds = [types.transition, types.termination, types.truncation]
        return time, jax.lax.switch(lost + 2 * (over & ~lost), kinds, jnp.float32(time), seen)


def refused(parts, function, *args, **kwargs):
    """`function` raises PPOError with one line that holds every one of `parts`."""
    with pytest.raises(pjp.PPOError) as info:
        function(*args, **kwargs)
    assert "\n" not in str(info.value)
    for part in parts:
        assert part in str(info.value)


def learns_in_one_program(make_agent, values):
    """Two updates, vmapped over values of which each makes an agent: all finite, one compilation. -> the second one's
    metrics"""
    traces = []

    def update(value, runner):
        traces.append(1)
        return make_agent(value).update(runner)

    runner = jax.jit(jax.vmap(lambda value, key: make_agent(value).init(key)))(values, pjp.seed_keys(0, len(values)))
    update = jax.jit(jax.vmap(update))
    runner, _ = update(values, runner)
    runner, metrics = update(values, runner)
    assert len(traces) == 1
    losses = metrics.policy_loss, metrics.value_loss, metrics.entropy
    for x in jax.tree.leaves((runner.train_state, runner.obs, runner.episode, losses)):
        assert bool(jnp.all(jnp.isfinite(x)))
    return metrics


# Brax


@pytest.mark.slow
def test_brax_steps_and_ends_as_its_own_episode_wrapper_says():
    """One pole falls, the other one stands until the limit of 30."""
    env = pjp.make_env("brax/inverted_pendulum/positional", episode_length=30)
    theirs = EpisodeWrapper(brax.envs.get_environment("inverted_pendulum", backend="positional"), 30, action_repeat=1)

    def play(key, force):
        def step(states, _):
            our_state, their_state = states
            ours, after = env.step(key, our_state, force, env.params), theirs.step(their_state, force)
            return (ours.state, after), (ours._replace(state=()), after.replace(pipeline_state=None))

        obs, our_state = env.reset(key, env.params)
        start = theirs.reset(key)
        return jax.lax.scan(step, (our_state, start), None, 30)[1], obs, start.obs

    with jax.numpy_dtype_promotion("standard"):
        (ours, after), obs, first = jax.jit(jax.vmap(play))(jax.random.split(KEY, 2), jnp.array([[1.0], [0.0]]))
    np.testing.assert_array_equal(obs, first)
    assert np.any(obs[0] != obs[1])
    np.testing.assert_array_equal(ours.obs, after.obs)
    np.testing.assert_array_equal(ours.reward, after.reward)
    np.testing.assert_array_equal(ours.terminated | ours.truncated, after.done > 0)
    np.testing.assert_array_equal(ours.truncated & ~ours.terminated, after.info["truncation"] > 0)
    assert ours.terminated.any(axis=1).tolist() == [True, False]
    assert ours.truncated.sum(axis=1).tolist() == [1, 1]


def test_brax_done_is_a_termination_the_limit_a_truncation_and_what_follows_a_fresh_start():
    env = pjp.make_env(Slope(), episode_length=4)
    action = jnp.array([[0.9], [0.1], [0.5], [-0.1]])  # ends in 2 or 3 steps; at 4; at 3 or 4; at 4
    keys = jax.random.split(KEY, 4)
    obs, state = jax.vmap(env.reset, in_axes=(0, None))(keys, env.params)
    first, ended, starts = obs, np.zeros(4, bool), []
    for t in range(1, 5):
        drawn = make_starts(env, jax.random.key(t), (1, 4))
        obs, state, step = step_batch(env, keys, state, action, jax.tree.map(lambda x: x[0], drawn))
        position = first + t * action  # only until it ends
        going = ~ended
        np.testing.assert_allclose(step.obs[going], position[going], rtol=1e-6)
        np.testing.assert_array_equal(step.terminated[going], position[going, 0] > 2)
        np.testing.assert_array_equal(step.truncated[going], np.full(4, t == 4)[going])
        np.testing.assert_allclose(step.reward, 10 * step.obs[:, 0], rtol=1e-6)
        done = np.asarray(step.terminated | step.truncated) & going
        starts += obs[done, 0].tolist()
        assert np.all((obs[done] >= 0) & (obs[done] < 1))
        assert np.all(np.asarray(state.time)[done] == 0)
        ended |= done
    assert ended.all()
    assert len(set(starts) | set(first[:, 0].tolist())) == 8


def test_brax_is_learned_from_in_one_program_for_every_limit():
    def make_agent(limit):
        return pjp.make_ppo(pjp.make_env("brax/fast", episode_length=limit), SMALL)

    metrics = learns_in_one_program(make_agent, jnp.array([4, 8]))
    np.testing.assert_array_equal(metrics.episode_length_mean, [4.0, 8.0])
    np.testing.assert_array_equal(metrics.episodes, [8, 4])


def test_brax_environments_of_one_name_and_one_instance_share_their_programs():
    assert pjp.make_env("brax/fast") == pjp.make_env("brax/fast")
    slope = Slope()
    ours, again = pjp.make_env(slope), pjp.make_env(slope, episode_length=7)
    assert jax.tree.structure(ours) == jax.tree.structure(again)
    assert (ours.name, ours.params.episode_length) == ("brax/slope", 1_000)


def test_names_of_brax_are_its_own_with_its_backends():
    names = pjp.env_names("brax")
    assert {"brax/fast", "brax/swimmer", "brax/ant", "brax/ant/spring", "brax/ant/mjx"} <= set(names)
    assert {name.split("/")[1] for name in names} == set(brax.envs._envs)
    refused(["'antt'", "ant"], pjp.make_env, "brax/antt")
    refused(["'swimmer/spring'", "swimmer"], pjp.make_env, "brax/swimmer/spring")


def test_brax_that_resets_by_itself_or_observes_no_vector_is_refused():
    refused(["AutoResetWrapper", "get_environment"], pjp.make_env, brax.envs.create("fast"))
    counted = EpisodeWrapper(brax.envs.get_environment("fast"), 10, 1)
    refused(["EpisodeWrapper", "get_environment"], pjp.make_env, brax.envs.Wrapper(counted))
    dicts = brax.envs.get_environment("fast", obs_mode="dict_state")
    refused(["Fast", "state", "one vector"], pjp.make_env, dicts)
    refused(["episode_length = 0", "from 1"], pjp.make_env, "brax/fast", episode_length=0)
    refused(["'episode_lenght'", "episode_length"], pjp.make_env, "brax/fast", episode_lenght=5)


# Jumanji


def their_steps(env, key, actions):
    """Jumanji's own time steps for a sequence of its own actions."""
    state, start = env.reset(key)
    steps = jax.lax.scan(lambda state, action: env.step(state, action), state, actions)[1]
    return start, steps


def our_steps(env, key, actions):
    obs, state = env.reset(key, env.params)

    def step(state, action):
        after = env.step(key, state, action, env.params)
        return after.state, after._replace(state=())

    return obs, jax.lax.scan(step, state, actions)[1]


def assert_ends_alike(ours, theirs):
    np.testing.assert_array_equal(ours.reward, theirs.reward)
    np.testing.assert_array_equal(ours.terminated, theirs.last() & (theirs.discount == 0))
    np.testing.assert_array_equal(ours.truncated, theirs.last() & (theirs.discount == 1))


def test_a_snake_moves_as_jumanjis_and_sees_its_grid_and_its_steps():
    actions = jnp.array([0, 1, 2, 3] * 5)
    theirs_env = jumanji.make("Snake-v1")
    start, theirs = jax.jit(lambda key: their_steps(theirs_env, key, actions))(KEY)
    obs, ours = jax.jit(lambda key: our_steps(pjp.make_env("jumanji/Snake-v1"), key, actions))(KEY)
    assert obs.obs.shape == (12 * 12 * 5 + 1,)
    for seen, shown in ((obs, start.observation), (ours.obs, theirs.observation)):
        np.testing.assert_array_equal(seen.obs[..., :-1].reshape(shown.grid.shape), shown.grid)
        np.testing.assert_array_equal(seen.obs[..., -1], shown.step_count)
        np.testing.assert_array_equal(seen.action_mask, some_legal(shown.action_mask))
    assert_ends_alike(ours, theirs)


def test_a_mask_over_whole_actions_makes_one_discrete_of_their_parts():
    theirs_env, env = jumanji.make("Tetris-v0"), pjp.make_env("jumanji/Tetris-v0")
    assert env.action_space == pjp.Discrete(4 * 10)
    rotation, column = jnp.array([0, 1, 2, 3, 0]), jnp.array([0, 4, 7, 2, 5])
    start, theirs = jax.jit(lambda: their_steps(theirs_env, KEY, jnp.stack([rotation, column], axis=1)))()
    obs, ours = jax.jit(lambda: our_steps(env, KEY, 10 * rotation + column))()
    np.testing.assert_array_equal(obs.action_mask, start.observation.action_mask.ravel())
    np.testing.assert_array_equal(ours.obs.obs[:, :100].reshape(-1, 10, 10), theirs.observation.grid)
    assert_ends_alike(ours, theirs)
    assert np.any(ours.obs.obs[:, :100] != 0)


def test_a_mask_over_the_parts_of_an_action_stays_one():
    env = pjp.make_env("jumanji/Cleaner-v0")
    assert env.action_space == pjp.MultiDiscrete((4, 4, 4))
    _, start = jumanji.make("Cleaner-v0").reset(KEY)
    obs, _ = env.reset(KEY, env.params)
    np.testing.assert_array_equal(obs.action_mask, start.observation.action_mask.ravel())


def test_no_mask_is_none():
    env = pjp.make_env("jumanji/RubiksCube-partly-scrambled-v0")
    assert env.action_space == pjp.MultiDiscrete((6, 1, 3))
    assert env.action_mask is None


@pytest.mark.parametrize(
    ("sizes", "action_shape", "mask_shape", "readings"),
    [
        ((4,), (), (4,), (True, False)),
        ((4,), (), (5,), (False, False)),
        ((4, 10), (2,), (4, 10), (False, True)),
        ((4, 10), (2,), (2, 10), (False, False)),
        ((5, 5, 5), (3,), (3, 5), (True, False)),
        ((9, 9, 9), (3,), (9, 9, 9), (False, True)),
        ((2, 2), (2,), (2, 2), (True, True)),
        ((6, 1, 3), (3,), None, (True, False)),
    ],
)
def test_a_mask_is_of_parts_or_of_whole_actions(sizes, action_shape, mask_shape, readings):
    assert mask_readings(sizes, action_shape, mask_shape) == readings


def test_where_nothing_is_legal_everything_is():
    mask = jnp.array([[True, False], [False, False]])
    np.testing.assert_array_equal(some_legal(mask), [[True, False], [True, True]])


@pytest.mark.parametrize(
    ("actions", "terminated", "truncated"),
    [
        ([0, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 1]),
        ([0, 1], [0, 1], [0, 0]),
    ],
)
def test_the_discount_of_an_end_says_what_it_is(actions, terminated, truncated):
    obs, steps = our_steps(pjp.make_env(Countdown()), KEY, jnp.array(actions))
    np.testing.assert_array_equal(steps.terminated, np.array(terminated, bool))
    np.testing.assert_array_equal(steps.truncated, np.array(truncated, bool))
    np.testing.assert_array_equal(steps.obs.obs, np.arange(1, len(actions) + 1))
    assert obs.obs.shape == ()


def test_jumanji_is_learned_from_in_one_program_with_legal_actions():
    env = pjp.make_env("jumanji/Knapsack-v1")
    metrics = learns_in_one_program(lambda _: pjp.make_ppo(env, SMALL), jnp.arange(2))
    assert np.all(metrics.entropy < math.log(50))


def test_what_a_policy_sees_can_be_chosen():
    snake = jumanji.make("Snake-v1")
    env = pjp.make_env(adapt(snake, lambda observation: observation.grid))
    assert env.observation_space.shape == (12, 12, 5)
    obs, _ = jax.eval_shape(env.reset, KEY, env.params)
    assert obs.obs.shape == (12, 12, 5)
    assert obs.action_mask.shape == (4,)


def test_several_agents_and_what_resets_by_itself_are_refused():
    agents = jumanji.make("LevelBasedForaging-v0")
    refused(["LevelBasedForaging", "2 agents", "MultiToSingleWrapper"], pjp.make_env, agents)
    assert pjp.make_env(MultiToSingleWrapper(agents)).action_space == pjp.MultiDiscrete((6, 6))
    refused(["AutoResetWrapper"], pjp.make_env, AutoResetWrapper(jumanji.make("Maze-v0")))
    refused(["Sokoban-v0", "downloads"], pjp.make_env, "jumanji/Sokoban-v0")
    refused(["'Snak-v1'", "Snake-v1"], pjp.make_env, "jumanji/Snak-v1")


# Both


def test_an_unknown_suite_and_one_that_is_not_installed_are_refused(monkeypatch):
    refused(["'brix'", "brax"], pjp.make_env, "brix/ant")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    refused(["brax is not installed", 'pip install "purejaxppo[brax]"'], pjp.make_env, "brax/reacher")
    refused(["jumanji is not installed", 'pip install "purejaxppo[jumanji]"'], pjp.env_names, "jumanji")
    refused(
        ["craftax is not installed", 'pip install "purejaxppo[craftax]"'], pjp.make_env, "craftax/Craftax-Pixels-v1"
    )


def test_the_suites_are_listed(capsys):
    assert cli.main(["envs", "jumanji"]) == 0
    assert capsys.readouterr().out.split() == pjp.env_names("jumanji")


def test_a_run_in_a_suite_is_kept_and_comes_back(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    options = ["--config.num-envs", "2", "--config.num-steps", "16", "--config.total-timesteps", "64", "--quiet"]
    options += ["--config.num-minibatches", "2", "--env-param", "episode_length=8", "--seeds", "2"]
    assert cli.main(["train", "--env", "brax/fast", *options]) == 0
    (folder,) = (tmp_path / "runs").iterdir()
    assert folder.name.startswith("brax-fast-")
    run = pjp.load_run(folder)
    np.testing.assert_array_equal(run.population.column("episode_length_mean"), 8.0)


def snippets():
    page = (Path(__file__).parents[2] / "docs" / "suites.md").read_text()
    return re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL)


@pytest.mark.parametrize(("suite", "snippet"), zip(SUITES, snippets(), strict=True), ids=SUITES)
def test_the_snippet_of_the_page_runs(suite, snippet, capsys):
    pytest.importorskip(SUITES[suite], reason=f"{suite} is not installed")
    exec(compile(snippet, "suites.md", "exec"), {"__name__": "snippet"})
    assert capsys.readouterr().out.count("\n") >= 2
