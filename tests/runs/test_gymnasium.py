"""What is trained here plays as well in Gymnasium, which shares no code with it."""

from types import SimpleNamespace

import gymnasium
import jax
import numpy as np
import pytest

import purejaxppo as pjp
from purejaxppo.cli import main as cli
from purejaxppo.ppo.memory import start_memories
from purejaxppo.runs.finished import evaluate_in_gymnasium, evaluate_run

pytestmark = pytest.mark.slow

SHORT = ["--config.total-timesteps", "4096", "--config.num-envs", "4", "--config.num-steps", "64", "--quiet"]
SHORT += ["--config.num-minibatches", "4"]


def assert_equal_in_mean(ours, theirs):
    """The means of two samples of returns differ by less than 4 standard errors."""
    error = np.sqrt(ours.var() / ours.size + theirs.var() / theirs.size)
    assert abs(ours.mean() - theirs.mean()) <= 4 * error


@pytest.fixture(scope="module")
def pendulum(tmp_path_factory):
    """A run whose policy is clipped: many a sample is out of the bounds."""
    folder = tmp_path_factory.mktemp("runs") / "pendulum"
    assert cli.main(["train", "--env", "Pendulum-v1", "--seeds", "2", "--out", str(folder), *SHORT]) == 0
    return pjp.load_run(folder)


def test_actions_in_a_box_are_those_that_gymnasium_takes(pendulum):
    run = pendulum
    for sampled in (False, True):
        ours = evaluate_run(run, 2, 200, seed=1, sampled=sampled).returns
        theirs = evaluate_in_gymnasium(run, 2, 50, seed=1, sampled=sampled).returns
        assert theirs.shape == (2, 50)
        for one, other in zip(ours, theirs, strict=True):
            assert_equal_in_mean(one, other)


def test_an_episode_in_a_box_is_the_one_stepped_by_hand(pendulum):
    run = pendulum
    state, act = run.seed(0).train_state, jax.jit(run.agent.act)
    returns = evaluate_in_gymnasium(run, 1, 2, seed=7, sampled=False).returns
    for i in range(2):
        env, total, ended = gymnasium.make("Pendulum-v1"), 0.0, False
        obs, _ = env.reset(seed=7 + i)
        while not ended:
            action = np.asarray(act(state, obs))
            obs, reward, terminated, truncated, _ = env.step(action)
            total, ended = total + float(reward), terminated or truncated
        assert returns[0, i] == pytest.approx(total, rel=1e-4)  # one action or two at a time: another kernel


def test_an_episode_of_a_recurrent_policy_is_the_one_stepped_by_hand():
    config = pjp.RecurrentConfig(num_envs=2, num_steps=8, total_timesteps=16, num_minibatches=1, cell_size=4)
    agent, random = pjp.make_ppo(pjp.make_env("CartPole-v1"), config), np.random.default_rng(0)
    shapes = jax.eval_shape(agent.init, jax.random.key(0)).train_state
    params = jax.tree.map(lambda x: random.normal(size=x.shape).astype(np.float32), shapes.params)
    state = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), shapes).replace(params=params)
    spec = SimpleNamespace(env="CartPole-v1", env_params={})
    run = SimpleNamespace(agent=agent, spec=spec, seed=lambda i: SimpleNamespace(train_state=state))

    @jax.jit
    def choose(memory, obs):
        distribution, memory = agent.policy(state, memory, obs[None])
        return distribution.mode()[0], memory

    start = start_memories(agent.start_memory, (1,))
    returns = evaluate_in_gymnasium(run, 1, 2, seed=7, sampled=False).returns
    assert returns.tolist() == [[play_by_hand(choose, start, seed=7 + i) for i in range(2)]]
    assert returns.tolist() != [[play_by_hand(choose, start, seed=7 + i, forgets=True) for i in range(2)]]


def play_by_hand(choose, memory, *, seed, forgets=False):
    env, total, ended = gymnasium.make("CartPole-v1"), 0.0, False
    obs, _ = env.reset(seed=seed)
    while not ended:
        action, after = choose(memory, obs)
        memory = memory if forgets else after
        obs, reward, terminated, truncated, _ = env.step(int(action))
        total, ended = total + float(reward), terminated or truncated
    return total
