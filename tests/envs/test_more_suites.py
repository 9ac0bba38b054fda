"""Craftax, XLand-MiniGrid and Navix: they step as their own loops do, and end as they say themselves."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import purejaxppo as pjp

pytestmark = pytest.mark.slow  # to compile

KEY = jax.random.key(0)
STEPS = 1_000


def needs(suite):
    """Skips the test where the suite is not installed."""
    pytest.importorskip(suite, reason=f"{suite} is not installed")


def our_loop(env, begin):
    """Takes random steps, starting a new episode after each end. -> observations of the starts, and each step's values

    begin: (key of the step, state after it) -> the key of the next start
    """
    reset, step = jax.jit(env.reset), jax.jit(env.step)

    def advance(key, state, action):
        after = step(key, state, action, env.params)
        return after.state, (after.obs, after.reward, after.terminated, after.truncated, after.info)

    return loop(lambda key: reset(key, env.params), advance, begin, env.action_space.n)


def loop(reset, advance, begin, num_actions):
    """As `our_loop`, from a suite's own functions. -> each start's observation; each step's values, stacked"""
    keys = jax.random.split(jax.random.key(1), STEPS)
    actions = jax.random.randint(jax.random.key(2), STEPS, 0, num_actions)
    obs, state = reset(KEY)
    starts, steps = [obs], []
    for i in range(STEPS):
        state, seen = advance(keys[i], state, actions[i])
        steps.append(jax.device_get(seen))
        if steps[-1][2] or steps[-1][3]:
            obs, state = reset(begin(keys[i], state))
            starts.append(obs)
    return np.stack(starts), jax.tree.map(lambda *x: np.stack(x), *steps)


def assert_same(ours, theirs):
    """The loops agree. They are different programs, whose real numbers may differ in the last bit."""
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=0, atol=2e-7), ours, theirs)


def plain(tree):
    """Typed keys as their data."""
    is_key = lambda x: jnp.issubdtype(x.dtype, jax.dtypes.prng_key)  # noqa: E731
    return jax.tree.map(lambda x: jax.random.key_data(x) if is_key(x) else x, tree)


def assert_filmed(env, obs, state):
    """A step on the host can be drawn."""
    picture = env.draw(*jax.device_get((obs, state)), env.params)
    assert picture.mode == "RGB"
    assert len(picture.getcolors(maxcolors=2**24)) > 4


# Craftax


def craftax(name):
    """An environment of Craftax of 150 steps, and Craftax's own."""
    needs("craftax")
    from craftax.craftax_env import make_craftax_env_from_name

    return pjp.make_env(f"craftax/{name}", max_timesteps=150), make_craftax_env_from_name(name, auto_reset=False)


def test_craftax_steps_as_its_own_loop_and_death_is_told_from_the_limit():
    env, own = craftax("Craftax-Classic-Symbolic-v1")
    params = own.default_params.replace(max_timesteps=150)

    @jax.jit  # of both: the compiler makes what they share once
    def both(key, state, action):
        ours = env.step(key, state, action, env.params)
        obs, after, reward, done, info = own.step(key, state, action, params)
        del info["discount"]
        dead, late = after.player_health <= 0, after.timestep >= 150
        theirs = (obs, after, reward, dead, late, info)
        return after, plain(tuple(ours)), plain(theirs), done

    @jax.jit
    def both_starts(key):
        ours, theirs = env.reset(key, env.params), own.reset(key, params)
        return theirs, plain(ours), plain(theirs)

    finished = []

    def advance(key, state, action):
        after, *seen = both(key, state, action)
        ours, theirs, done = jax.device_get(seen)
        assert_same(ours, theirs)
        dead, late = theirs[3:5]
        assert bool(done) == bool(dead | late)
        finished.extend([(bool(dead), bool(late))] if done else [])
        return after, (theirs[0], *theirs[2:])

    def begin(key):
        start, *seen = both_starts(key)
        assert_same(*jax.device_get(seen))
        return start

    _, steps = loop(begin, advance, lambda key, after: jax.random.fold_in(key, 1), own.num_actions)
    assert {(True, False), (False, True)} <= set(finished)
    assert any((x > 0).any() for name, x in steps[-1].items() if name.startswith("Achievements/"))


def test_the_full_craftax_has_the_shapes_of_its_own():
    """It goes through the adapter as Craftax-Classic does, and takes twice as long to compile."""
    env, own = craftax("Craftax-Symbolic-v1")
    state = jax.eval_shape(own.reset, KEY, own.default_params)[1]
    ours = jax.eval_shape(env.step, KEY, state, 0, env.params)
    obs, after, reward, _, info = jax.eval_shape(own.step, KEY, state, 0, own.default_params)
    del info["discount"]
    shapes = functools.partial(jax.tree.map, lambda x: (x.shape, x.dtype))
    assert shapes((ours.obs, ours.state, ours.reward, ours.info)) == shapes((obs, after, reward, info))
    assert obs.shape == env.observation_space.shape


def test_craftax_is_named_by_its_own_names():
    needs("craftax")
    from craftax.craftax_classic.envs.craftax_symbolic_env import CraftaxClassicSymbolicEnv

    assert "craftax/Craftax-Symbolic-v1" in pjp.env_names("craftax")
    with pytest.raises(pjp.PPOError, match=r"'Craftax-Symbolic-v2'.*Craftax-Symbolic-v1"):
        pjp.make_env("craftax/Craftax-Symbolic-v2")
    with pytest.raises(pjp.PPOError, match=r"CraftaxClassicSymbolicEnv .*auto_reset=False"):
        pjp.make_env(CraftaxClassicSymbolicEnv())


def test_an_instance_of_craftax_is_the_environment_of_its_name():
    env, own = craftax("Craftax-Classic-Symbolic-v1")
    made = pjp.make_env(own)
    assert made.name == env.name == "craftax/Craftax-Classic-Symbolic-v1"
    assert (made.observation_space, made.action_space) == (env.observation_space, pjp.Discrete(17))
    assert made.params.max_timesteps == 10_000


# XLand-MiniGrid


def xland():
    """An XLand environment of 50 steps: the red ball wants to be held."""
    import xminigrid
    from xminigrid.core.constants import TILES_REGISTRY, Colors, Tiles
    from xminigrid.core.goals import AgentHoldGoal
    from xminigrid.core.rules import EmptyRule
    from xminigrid.types import RuleSet

    ball = TILES_REGISTRY[Tiles.BALL, Colors.RED]
    ruleset = RuleSet(AgentHoldGoal(tile=ball).encode(), EmptyRule().encode()[None], ball[None])
    return xminigrid.make("XLand-MiniGrid-R1-9x9", max_steps=50, ruleset=ruleset)


def test_xland_minigrid_steps_as_its_own_loop():
    needs("xminigrid")
    env, params = made = xland()
    from purejaxppo.envs.adapters.xminigrid import adapt

    own_reset, own_step = (jax.jit(functools.partial(method, params)) for method in (env.reset, env.step))

    def planes(codes):
        return np.concatenate([np.eye(13)[codes[..., 0]], np.eye(12)[codes[..., 1]]], axis=-1)

    def advance(key, state, action):
        after = own_step(state, action)
        over, goal = bool(after.last()), float(after.discount) == 0
        success = {"success": float(goal and after.reward > 0)}
        return after, (planes(np.asarray(after.observation)), after.reward, goal, over and not goal, success)

    def reset(key):
        start = own_reset(key)
        return planes(np.asarray(start.observation)), start

    def begin(key, after):  # as its GymAutoResetWrapper does
        return jax.random.split(after.state.key)[0]

    theirs = loop(reset, advance, begin, 6)
    assert theirs[1][2].any()
    assert theirs[1][3].any()
    ours = pjp.make_env(adapt(made))
    assert_same(our_loop(ours, begin), theirs)
    assert_filmed(ours, *reset(KEY))


def test_xland_minigrid_that_resets_by_itself_is_refused_and_dicts_are_observed():
    needs("xminigrid")
    import xminigrid
    from xminigrid.wrappers import DirectionObservationWrapper, GymAutoResetWrapper

    env, _ = xminigrid.make("MiniGrid-DoorKey-5x5")
    with pytest.raises(pjp.PPOError, match="GymAutoResetWrapper"):
        pjp.make_env(DirectionObservationWrapper(GymAutoResetWrapper(env)))
    space = pjp.make_env(DirectionObservationWrapper(env)).observation_space
    assert space.tree == {"img": pjp.Box((7, 7, 25), 0.0, 1.0), "direction": pjp.Box((4,), 0.0, 1.0)}
    assert pjp.make_env(env) == pjp.make_env(env)
    with pytest.raises(pjp.PPOError, match=r"'MiniGrid-DoorKey-5x6'.*MiniGrid-DoorKey-5x5"):
        pjp.make_env("xminigrid/MiniGrid-DoorKey-5x6")
    with pytest.raises(pjp.PPOError, match="max_steps = 0"):
        pjp.make_env("xminigrid/MiniGrid-DoorKey-5x5", max_steps=0)


def test_each_episode_of_xland_draws_a_ruleset_of_the_benchmark_of_its_name(tmp_path, monkeypatch):
    needs("xminigrid")
    from xminigrid import benchmarks

    goals = jnp.arange(8, dtype=jnp.uint8)[:, None] * jnp.ones(5, jnp.uint8)
    rules, tiles = jnp.zeros((8, 1, 7), jnp.uint8), jnp.tile(jnp.array([[[3, 1]]], jnp.uint8), (8, 1, 1))
    stored = {"goals": goals, "rules": rules, "init_tiles": tiles, "num_rules": jnp.zeros(8)}
    name = benchmarks.registered_benchmarks()[0]
    benchmarks.save_bz2_pickle(stored, tmp_path / benchmarks.NAME2HFFILENAME[name])
    monkeypatch.setattr(benchmarks, "DATA_PATH", str(tmp_path))
    full_name = f"xminigrid/XLand-MiniGrid-R1-9x9/{name}"
    assert full_name in pjp.env_names("xminigrid")
    env = pjp.make_env(full_name)
    _, state = jax.jit(jax.vmap(env.reset, in_axes=(0, None)))(jax.random.split(KEY, 32), env.params)
    drawn = np.asarray(state.state.goal_encoding)
    assert (drawn == drawn[:, :1]).all()
    assert len(set(drawn[:, 0].tolist())) > 4


# Navix


def test_navix_steps_as_its_own_loop_and_resets_by_ours():
    needs("navix")
    import navix

    own = navix.make("Navix-LavaGapS5-v0", max_steps=40)
    own_reset, own_step = jax.jit(own.reset), jax.jit(own.step)

    def planes(codes):
        codes = np.asarray(codes)
        return np.concatenate([np.eye(n)[codes[..., i]] for i, n in enumerate((11, 6, 4))], axis=-1)

    def advance(key, state, action):
        after = own_step(state, action)
        ends = bool(after.step_type == 2), bool(after.step_type == 1)
        success = {"success": float(ends[0] and after.reward > 0)}
        return after, (planes(after.observation), after.reward, *ends, success)

    def reset(given):
        """Its own auto-reset takes a step, whatever the action; the first start is from a key."""
        start = own_step(given, 0) if isinstance(given, navix.Timestep) else own_reset(given)
        return planes(start.observation), start

    theirs = loop(reset, advance, lambda key, after: after, 7)
    assert theirs[1][2].any()
    assert theirs[1][3].any()
    env = pjp.make_env("navix/Navix-LavaGapS5-v0", max_steps=40)
    assert_same(our_loop(env, lambda key, after: after.state.key), theirs)


def test_navix_shows_pixels_and_codes_of_any_instance():
    needs("navix")
    import navix

    with pytest.raises(pjp.PPOError, match=r"'Navix-DoorKey-5x6-v0'.*Navix-DoorKey-5x5-v0"):
        pjp.make_env("navix/Navix-DoorKey-5x6-v0")
    own = navix.make("Navix-Empty-5x5-v0", observation_fn=navix.observations.rgb_first_person)
    env = pjp.make_env(own, penalty_coeff=0.5)
    assert env == pjp.make_env(own, penalty_coeff=0.5)
    assert env.observation_space == pjp.Box((56, 56, 3), 0.0, 1.0)
    assert env.params.penalty_coeff == 0.5
    categorical = navix.make("Navix-Empty-5x5-v0", observation_fn=navix.observations.categorical)
    assert pjp.make_env(categorical).observation_space == pjp.Box((5, 5), -np.inf, np.inf)


def test_navix_is_learned_and_filmed():
    """Random steps find the goal late, and a policy that has learned goes there at once."""
    needs("navix")
    env = pjp.make_env("navix/Navix-Empty-5x5-v0")
    config = pjp.PPOConfig(num_envs=8, num_steps=32, total_timesteps=8_192, learning_rate=3e-3, hidden_sizes=(32,))
    agent = pjp.make_ppo(env, config)
    runner, metrics = jax.jit(pjp.make_train(env, config))(KEY)
    success = np.asarray(metrics.extra["episode/success"])
    assert np.nanmean(success[-8:]) > 0.9
    assert np.nanmean(metrics.episode_length_mean[-8:]) < 0.5 * np.nanmean(metrics.episode_length_mean[:8])
    (episode,) = pjp.record_episodes(agent, runner.train_state, KEY, max_steps=3)
    assert_filmed(env, *jax.tree.map(lambda x: x[0], (episode.obs, episode.state)))
