"""Rollouts: what a transition holds, and the statistics of the episodes."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import purejaxppo as pjp
from purejaxppo.envs.vector import reset_batch
from purejaxppo.ppo.rollout import count_step, empty_episodes, end_episodes, episode_stats, make_noise
from purejaxppo.utils.sums import precise_sum

KEY = jax.random.key(0)


class CoinState(NamedTuple):
    start: jax.Array
    time: jax.Array


class Coins:
    """Ends by chance, in either way or both at once. Rewards are random multiples of 1/4: their sums are exact."""

    default_params = ()
    observation_space = pjp.Box((2,), (0.0, 0.0), (1.0, np.inf))
    action_space = pjp.Discrete(2)

    def reset(self, key, params):
        state = CoinState(jax.random.uniform(key), jnp.int32(0))
        return jnp.stack([state.start, state.time]), state

    def step(self, key, state, action, params):
        end_key, reward_key = jax.random.split(key)
        terminated, truncated = jax.random.bernoulli(end_key, 0.06, (2,))
        reward = jax.random.randint(reward_key, (), -8, 9) / 4 + action
        state = state._replace(time=state.time + 1)
        return jnp.stack([state.start, state.time]), state, reward, terminated, truncated


@functools.partial(jax.jit, static_argnames="num_envs")
def start_runner(env, key, num_envs):
    obs, state = reset_batch(env, key, num_envs)
    return pjp.RunnerState(None, state, obs, empty_episodes(num_envs), key)


@functools.partial(jax.jit, static_argnames=("num_steps", "num_envs"))
def random_noise(env, key, num_steps, num_envs):
    return make_noise(
        env,
        lambda key, shape: jax.random.randint(key, shape, 0, env.action_space.n),
        key,
        (num_steps, num_envs),
    )


@jax.jit
def random_rollout(env, runner, noise):
    return pjp.rollout(env, lambda obs, noise: (noise, ()), runner, noise)


def consecutive_rollouts(env, num_rollouts, num_steps, num_envs):
    """-> [(transitions, episode statistics)], each going on where the one before has ended"""
    runner, results = start_runner(env, KEY, num_envs), []
    for i in range(num_rollouts):
        noise = random_noise(env, jax.random.fold_in(KEY, i), num_steps, num_envs)
        runner, transitions, _, episodes = random_rollout(env, runner, noise)
        results.append((transitions, episodes))
    return results


class Recount:
    """NumPy's count of the episodes, one step and environment at a time, over any number of rollouts."""

    def __init__(self, num_envs):
        self.returns, self.lengths = np.zeros(num_envs), np.zeros(num_envs, int)
        self.running, self.last = np.zeros(num_envs), np.full(num_envs, np.nan)

    def finished(self, transitions):
        """-> returns and lengths of the episodes that ended in this rollout"""
        reward, done = np.asarray(transitions.reward), np.asarray(transitions.terminated | transitions.truncated)
        returns, lengths = [], []
        for t, b in np.ndindex(reward.shape):
            self.returns[b] += reward[t, b]
            self.lengths[b] += 1
            if done[t, b]:
                returns.append(self.returns[b])
                lengths.append(self.lengths[b])
                self.returns[b], self.lengths[b] = 0.0, 0
        return np.array(returns), np.array(lengths)

    def last_returns(self, transitions):
        """-> [B], of the last episode that each environment has finished so far; NaN before its first"""
        reward, done = np.asarray(transitions.reward), np.asarray(transitions.terminated | transitions.truncated)
        for t, b in np.ndindex(reward.shape):
            self.running[b] += reward[t, b]
            if done[t, b]:
                self.last[b], self.running[b] = self.running[b], 0.0
        return self.last


class OneOrHundred:
    """Half of the episodes last 1 step and pay 0, the others 100 steps and pay 1 at the end: a mean return of 1/2."""

    default_params = ()
    observation_space = pjp.Box((1,), 0.0, 1.0)
    action_space = pjp.Discrete(2)

    def reset(self, key, params):
        state = CoinState(jax.random.bernoulli(key).astype(jnp.float32), jnp.int32(0))
        return state.start[None], state

    def step(self, key, state, action, params):
        state = state._replace(time=state.time + 1)
        ends = state.time >= jnp.where(state.start > 0, 100, 1)
        return state.start[None], state, jnp.where(ends, state.start, 0.0), ends, False


@pytest.fixture(params=["CartPole-v1", Coins()], ids=["CartPole", "Coins"], scope="module")
def env(request):
    return pjp.make_env(request.param)


def test_an_observation_is_the_next_one_of_the_step_before_unless_that_was_done(env):
    runner, noise = start_runner(env, KEY, 8), random_noise(env, jax.random.key(1), 40, 8)
    runner, transitions, _, _ = random_rollout(env, runner, noise)
    done = np.asarray(transitions.terminated | transitions.truncated)
    following = np.concatenate([transitions.obs[1:], runner.obs[None]])
    same = np.all(transitions.next_obs == following, axis=-1)
    np.testing.assert_array_equal(same, ~done)
    assert 8 < done.sum() < done.size / 2


def test_stepping_one_environment_at_a_time_gives_the_rollout(env):
    runner, noise = start_runner(env, KEY, 8), random_noise(env, jax.random.key(1), 40, 8)
    end, transitions, _, _ = random_rollout(env, runner, noise)
    runner, end = runner.replace(key=None), end.replace(key=None)
    runner, end, transitions, (actions, _, starts) = jax.tree.map(
        lambda x: x if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else np.asarray(x),
        (runner, end, transitions, noise),
    )
    done = transitions.terminated | transitions.truncated
    assert done.sum() > 8

    step, at = jax.jit(env.step), lambda tree, *index: jax.tree.map(lambda x: x[index], tree)
    for b in range(8):
        obs, state = at((runner.obs, runner.env_state), b)
        for t in range(40):
            np.testing.assert_allclose(transitions.obs[t, b], obs, atol=1e-4)
            assert transitions.action[t, b] == actions[t, b]
            after = step(noise.step_key[t, b], state, actions[t, b], env.params)
            np.testing.assert_allclose(transitions.next_obs[t, b], after.obs, atol=1e-4)
            for name in ("reward", "terminated", "truncated"):
                assert getattr(transitions, name)[t, b] == getattr(after, name)
            obs, state = at(tuple(starts), t, b) if done[t, b] else (after.obs, after.state)
        jax.tree.map(
            lambda x, y: np.testing.assert_allclose(x, y, atol=1e-4), at((end.obs, end.env_state), b), (obs, state)
        )


def test_the_policy_acts_on_the_current_observation_and_its_noise():
    env = pjp.make_env("CartPole-v1")

    def policy(obs, noise):
        return ((obs[:, 2] > 0) ^ (noise == 1)).astype(jnp.int32), obs - noise[:, None]

    runner, noise = start_runner(env, KEY, 8), random_noise(env, jax.random.key(1), 10, 8)
    _, transitions, distribution_params, _ = pjp.rollout(env, policy, runner, noise)
    action, expected_params = jax.vmap(policy)(transitions.obs, noise.action)
    np.testing.assert_array_equal(transitions.action, action)
    np.testing.assert_array_equal(distribution_params, expected_params)


def test_a_rollout_in_pieces_is_the_whole_one(env):
    runner, noise = start_runner(env, KEY, 8), random_noise(env, jax.random.key(1), 40, 8)
    whole_end, whole, _, _ = random_rollout(env, runner, noise)
    pieces = []
    for i in range(4):
        piece = jax.tree.map(lambda x, i=i: x[10 * i : 10 * (i + 1)], noise)
        runner, transitions, _, _ = random_rollout(env, runner, piece)
        pieces.append(transitions)
    joined = jax.tree.map(lambda *x: np.concatenate(x), *pieces)
    jax.tree.map(np.testing.assert_array_equal, joined, whole)
    jax.tree.map(np.testing.assert_array_equal, runner.replace(key=None), whole_end.replace(key=None))


@pytest.mark.parametrize("num_steps", [10, 40])
def test_episode_statistics_are_those_of_a_recount(env, num_steps):
    recount, crossing = Recount(num_envs=8), 0
    for transitions, episodes in consecutive_rollouts(env, 6, num_steps, num_envs=8):
        under_way = recount.lengths > 0
        returns, lengths = recount.finished(transitions)
        done = np.asarray(transitions.terminated | transitions.truncated)
        crossing += np.sum(under_way & done.any(axis=0))
        assert episodes.count == len(returns)
        assert episodes.return_sum == returns.sum()
        assert episodes.return_min == returns.min(initial=np.inf)
        assert episodes.return_max == returns.max(initial=-np.inf)
        assert episodes.length_sum == lengths.sum()
        assert (episodes.count.dtype, episodes.length_sum.dtype) == (jnp.int32, jnp.float32)
    assert crossing > 4  # episodes that began in one rollout and ended in a later one


TENTH = np.float32(0.1)


@pytest.mark.parametrize("before", [0.0, 2.0**21, 2.0**24, 1e7])
def test_the_return_of_a_long_episode_is_that_of_float64(before):
    """A million rewards of 0.1: added one by one from 0 they make 100,958, and from 2^21 on nothing."""
    episode = empty_episodes(1).replace(episode_return=jnp.full(1, before))
    step = jax.jit(lambda episode: jax.lax.fori_loop(0, 10**6, lambda _, x: count_step(x, TENTH), episode))
    episode = step(episode)
    np.testing.assert_allclose(episode.episode_return, before + 10**6 * float(TENTH), rtol=1e-7)
    ended = end_episodes(episode, jnp.ones(1, bool))
    assert not any(np.any(x) for x in jax.tree.leaves(ended.replace(discounted_return=0)))


def test_the_sum_over_many_episodes_is_that_of_float64():
    shape = (1000, 100)
    returns = np.random.default_rng(0).normal(0.1, 0.001, shape).astype(np.float32)
    done = np.random.default_rng(1).random(shape) < 0.9
    counted = empty_episodes(shape).replace(episode_return=jnp.asarray(returns))
    got = jax.jit(episode_stats)(empty_episodes(1), counted, done, {}).return_sum
    np.testing.assert_allclose(got, returns[done].sum(dtype=np.float64), rtol=1e-6)


def test_the_lengths_of_long_episodes_add_up():
    shape = (2, 64)  # to three times what an int32 holds
    length = np.random.default_rng(2).integers(10**8, 1.1e8, shape).astype(np.int32)
    done = np.arange(2)[:, None] == np.arange(64) % 2
    counted = empty_episodes(shape).replace(episode_length=jnp.asarray(length))
    got = jax.jit(episode_stats)(empty_episodes(1), counted, done, {}).length_sum
    np.testing.assert_allclose(got, length[done].sum(dtype=np.float64), rtol=1e-6)


def test_a_precise_sum_is_right_to_its_last_bit_and_has_the_gradient_of_a_sum():
    numbers = np.asarray([[1e8, 1.0, -1e8], [0.5, 2.0**-20, 3.0]], np.float32)
    got, slope = jax.jit(jax.vmap(jax.value_and_grad(precise_sum)))(numbers)
    assert got.tolist() == [1.0, 3.5 + 2.0**-20]
    assert np.all(np.asarray(slope) == 1)
    million = np.full(10**6, TENTH)
    np.testing.assert_allclose(jax.jit(precise_sum)(million), 10**6 * float(TENTH), rtol=1e-7)


def test_a_step_with_both_flags_ends_one_episode():
    env = pjp.make_env(Coins())
    both = 0
    for transitions, episodes in consecutive_rollouts(env, 20, 40, num_envs=8):
        flags = np.asarray(transitions.terminated).astype(int) + np.asarray(transitions.truncated)
        both += np.sum(flags == 2)
        assert episodes.count == np.sum(flags > 0)
    assert both > 5


class AtRest:
    """The reward has no derivative at its state, which does not depend on the parameter; the reward does."""

    default_params = 2.0
    observation_space = pjp.Box((1,), -1.0, 1.0)
    action_space = pjp.Discrete(2)

    def reset(self, key, params):
        return jnp.zeros(1), jnp.zeros(())

    def step(self, key, state, action, params):
        return jnp.zeros(1), state, params + jnp.sqrt(state), False, False


def test_a_return_has_the_derivative_of_its_parameter_alone():
    env = pjp.make_env(AtRest())
    runner, noise = start_runner(env, KEY, 3), random_noise(env, KEY, 5, 3)

    def returns(params):
        return random_rollout(env.replace(params=params), runner, noise)[0].episode.episode_return

    np.testing.assert_array_equal(jax.jvp(returns, (2.0,), (1.0,))[1], 5.0)
    np.testing.assert_array_equal(jax.jacrev(returns)(2.0), 5.0)


def test_statistics_without_an_episode_are_empty():
    env = pjp.make_env("CartPole-v1")  # nothing falls in 4 steps
    ((_, episodes),) = consecutive_rollouts(env, 1, num_steps=4, num_envs=8)
    assert (episodes.count, episodes.return_sum, episodes.length_sum) == (0, 0.0, 0)
    assert (episodes.return_min, episodes.return_max) == (np.inf, -np.inf)


def small_agent(env, num_steps, num_envs):
    config = pjp.PPOConfig(
        num_envs=num_envs,
        num_steps=num_steps,
        total_timesteps=100 * num_envs * num_steps,
        update_epochs=1,
        num_minibatches=1,
        normalize_advantage=num_envs * num_steps > 1,
        hidden_sizes=(),
    )
    return pjp.make_ppo(env, config)


@pytest.fixture(scope="module")
def updates():
    """60 updates of 4 steps of 2 environments, not all of which finish an episode. -> (runner, metrics, transitions)"""
    agent, seen = small_agent(pjp.make_env(Coins()), num_steps=4, num_envs=2), []

    def watched_rollout(*args):
        result = pjp.rollout(*args)
        seen.append(result[1])
        return result

    def update(runner, _):
        runner, metrics = agent.update(runner)
        return runner, (metrics, seen.pop())

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("purejaxppo.ppo.agent.rollout", watched_rollout)
        runner, rest = jax.jit(lambda key: jax.lax.scan(update, agent.init(key), length=60))(KEY)
    return jax.tree.map(np.asarray, (runner.replace(key=None), *rest))


def test_metrics_report_the_episodes_of_each_update(updates):
    _, metrics, transitions = updates
    recount = Recount(num_envs=2)
    for i in range(60):
        returns, lengths = recount.finished(jax.tree.map(lambda x, i=i: x[i], transitions))
        assert metrics.episodes[i] == len(returns)
        if len(returns):
            np.testing.assert_allclose(metrics.episode_return_mean[i], returns.mean(), rtol=1e-6)
            assert metrics.episode_return_min[i] == returns.min()
            assert metrics.episode_return_max[i] == returns.max()
            np.testing.assert_allclose(metrics.episode_length_mean[i], lengths.mean(), rtol=1e-6)
    assert np.sum(metrics.episodes > 1) > 5
    np.testing.assert_array_equal(metrics.timesteps, 8 * np.arange(1, 61))


def test_the_return_by_environment_is_the_mean_of_the_last_finished_episodes(updates):
    _, metrics, transitions = updates
    recount = Recount(num_envs=2)
    for i in range(60):
        last = recount.last_returns(jax.tree.map(lambda x, i=i: x[i], transitions))
        expected = np.nan if np.isnan(last).all() else np.nanmean(last)
        np.testing.assert_allclose(metrics.last_return_mean[i], expected, rtol=1e-6)
    assert np.isnan(metrics.last_return_mean[0])
    assert not np.isnan(last).any()


def test_episodes_of_1_and_100_steps_count_alike_in_the_return_by_environment():
    env, num_envs = pjp.make_env(OneOrHundred()), 64
    recount, by_episode = Recount(num_envs), []
    for transitions, episodes in consecutive_rollouts(env, 3, num_steps=50, num_envs=num_envs):
        last, means = recount.last_returns(transitions), episodes.means()
        assert episodes.num_finished == np.sum(~np.isnan(last))
        np.testing.assert_allclose(means["last_return_mean"], np.nanmean(last), rtol=1e-6)
        by_episode.append(float(means["episode_return_mean"]))
    assert by_episode[:2] == [0, 1]  # at first only the short ones end, then the long ones
    assert episodes.num_finished == num_envs
    assert abs(last.mean() - 0.5) < 0.2  # 64 coins scatter by 0.06


def test_metrics_without_an_episode_are_nan_and_learning_goes_on(updates):
    runner, metrics, _ = updates
    none = metrics.episodes == 0
    assert 5 < none.sum() < 55
    for name in ("episode_return_mean", "episode_return_min", "episode_return_max", "episode_length_mean"):
        np.testing.assert_array_equal(np.isnan(getattr(metrics, name)), none, err_msg=name)
    for name in ("policy_loss", "value_loss", "entropy", "approx_kl", "clip_fraction", "learning_rate"):
        assert np.all(np.isfinite(getattr(metrics, name))), name
    assert all(np.all(np.isfinite(x)) for x in jax.tree.leaves(runner.train_state.params))
