"""Each example does what it says, at tiny sizes."""

import importlib
import pkgutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import purejaxppo as pjp
from purejaxppo import examples
from purejaxppo.examples import (
    a2c,
    auxiliary_loss,
    gymnasium_host,
    nnx_network,
    rnd,
    self_play,
    single_file,
    success_rate,
    vtrace,
)

SMALL = pjp.PPOConfig(num_envs=4, num_steps=16, total_timesteps=4 * 16 * 3, hidden_sizes=(8,), num_minibatches=2)
NAMES = sorted({module.name for module in pkgutil.iter_modules(examples.__path__)} - {"keras", "keras_display"})


@pytest.fixture(scope="module")
def env():
    return pjp.make_env("CartPole-v1")


def train(agent, num_updates=None):
    updates = num_updates or agent.config.num_updates
    return jax.jit(lambda key: pjp.update_many(agent, agent.init(key), updates))(jax.random.key(0))


@pytest.mark.parametrize("name", NAMES)
def test_an_example_uses_public_names_and_says_how_it_is_run(name):
    module = importlib.import_module(f"purejaxppo.examples.{name}")
    source = Path(module.__file__).read_text()
    assert f"To run it: python -m purejaxppo.examples.{name}\n" in module.__doc__
    assert 'if __name__ == "__main__":\n    main()\n' in source
    assert "from purejaxppo" not in source
    assert "import purejaxppo." not in source
    assert len(source.splitlines()) <= {"single_file": 300, "rnd": 110, "gymnasium_host": 110, "self_play": 85}.get(
        name, 60
    )


def test_importing_the_examples_computes_nothing():
    code = f"""
from jax._src import xla_bridge
import {", ".join(f"purejaxppo.examples.{name}" for name in NAMES)}
assert not xla_bridge.backends_are_initialized()
"""
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.slow
def test_the_single_file_trains_to_the_bits_of_make_ppo(env):
    config = SMALL.replace(hidden_sizes=(8, 8), num_envs=3, num_minibatches=4, learning_rate=1e-2)
    config = config.replace(total_timesteps=3 * config.batch_size)
    key = jax.random.key(1)
    ours, metrics = jax.jit(single_file.make_train(env, config))(key)
    runner, expected = jax.jit(pjp.make_train(env, config))(key)
    assert int(jnp.sum(expected.episodes)) > 0
    jax.tree.map(np.testing.assert_array_equal, ours.params, runner.train_state.params)
    np.testing.assert_array_equal(ours.actors.obs, runner.obs)
    assert {*metrics, "timesteps", "last_return_mean"} == {*expected.columns(), "updates"}
    for name, x in metrics.items():
        np.testing.assert_array_equal(x, getattr(expected, name), err_msg=name)


def test_the_auxiliary_loss_falls(env):
    config = SMALL.replace(learning_rate=1e-2, anneal_lr=False)
    _, metrics = train(auxiliary_loss.make_agent(env, config), num_updates=10)
    error = metrics.extra["prediction_error"]
    assert error[-1] < 0.6 * error[0]
    assert np.isfinite(metrics.approx_kl).all()


def test_the_predictor_of_rnd_learns_and_its_target_does_not():
    env = pjp.make_env(rnd.DeepSea(4))
    config = rnd.RNDConfig(num_envs=4, num_steps=16, total_timesteps=640, learning_rate=3e-3, hidden_sizes=(8,))
    agent = rnd.make_agent(env, config)
    runner, metrics = train(agent)
    before, after = jax.jit(agent.init)(jax.random.key(0)).train_state.params, runner.train_state.params
    jax.tree.map(np.testing.assert_array_equal, before["target"], after["target"])
    error, bonus = metrics.extra["prediction_error"], metrics.extra["bonus"]
    assert error[-1] < 0.5 * error[0]
    assert (bonus > 0).all()
    assert bonus[0] > error[0]  # times bonus_scale, and before the predictor has learned from the rollout
    assert (metrics.episode_return_max <= 1.0).all()  # the environment's, without the bonus


def test_deep_sea_pays_on_one_path():
    sea = rnd.DeepSea(3)
    env = pjp.make_env(sea)
    key, returns = jax.random.key(0), []
    for path in np.ndindex(2, 2, 2):
        obs, state = env.reset(key, ())
        total = 0.0
        for i, action in enumerate(path):
            assert obs.sum() == 1.0
            after = env.step(key, state, action, ())
            obs, state, total = after.obs, after.state, total + float(after.reward)
            assert bool(after.terminated) == (i == 2)
        returns.append(total)
    np.testing.assert_allclose(max(returns), 0.99, rtol=1e-6)
    assert sum(x > 0 for x in returns) == 1
    np.testing.assert_allclose(min(returns), -0.02 / 3, rtol=1e-5)  # two steps to the right, and then to the left


def random_steps(T=6, B=3):
    draw = np.random.default_rng(0)
    value = draw.normal(size=(T + 1, B)).astype(np.float32)
    terminated, truncated = draw.random((T, B)) < 0.2, draw.random((T, B)) < 0.2
    cut = terminated | truncated
    next_value = np.where(cut, draw.normal(size=(T, B)), value[1:]).astype(np.float32)
    steps = pjp.Steps(
        obs=None,
        action=None,
        parameters=None,
        log_prob=None,
        reward=draw.normal(size=(T, B)).astype(np.float32),
        value=value[:-1],
        next_obs=None,
        next_value=next_value,
        terminated=terminated,
        truncated=truncated,
    )
    assert terminated.any()
    assert (truncated & ~terminated).any()
    return steps, draw.normal(size=(T, B)).astype(np.float32)


def test_vtrace_is_equation_1_of_its_paper():
    steps, log_ratio = random_steps()
    gamma, rho_max, c_max = 0.9, 1.5, 0.8
    advantage, target = vtrace.vtrace(log_ratio, steps, gamma, rho_max, c_max)
    ratio = np.exp(log_ratio.astype(np.float64))
    rho, c = np.minimum(rho_max, ratio), np.minimum(c_max, ratio)
    following = np.where(steps.terminated, 0.0, steps.next_value.astype(np.float64))
    delta = rho * (steps.reward + gamma * following - steps.value)
    cut = steps.terminated | steps.truncated
    T, B = ratio.shape
    for b in range(B):
        v = np.zeros(T)
        for s in range(T):
            v[s], weight = steps.value[s, b], 1.0
            for t in range(s, T):
                v[s] += weight * delta[t, b]
                weight *= gamma * c[t, b]
                if cut[t, b]:
                    break
        np.testing.assert_allclose(target[:, b], v, rtol=1e-5)
        for s in range(T):
            v_next = following[s, b] if cut[s, b] or s == T - 1 else v[s + 1]
            expected = rho[s, b] * (steps.reward[s, b] + gamma * v_next - steps.value[s, b])
            np.testing.assert_allclose(advantage[s, b], expected, rtol=1e-5, atol=1e-6)


def test_vtrace_on_policy_gives_returns():
    steps, _ = random_steps()
    advantage, target = vtrace.vtrace(jnp.zeros(steps.reward.shape), steps, 0.9)
    flags = (steps.terminated, steps.truncated)
    returns = pjp.reward_to_go(steps.reward, steps.next_value, *flags, gamma=0.9)
    np.testing.assert_allclose(target, returns, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(advantage, returns - steps.value, rtol=1e-5, atol=1e-6)


@pytest.fixture(scope="module")
def params(env):
    return jax.jit(pjp.make_ppo(env, SMALL).init)(jax.random.key(0)).train_state.params


def context_of(agent, params):
    return pjp.LossContext(
        *(agent.config, agent.forward, agent.actions.distribution, params, {}, jax.random.key(0), 0, 0.2, 0.5, 0.01)
    )


def test_vtrace_in_ppo_gives_returns(env, params):
    """At the policy that acted, whose ratios are 1."""
    agent, (steps, _) = vtrace.make_agent(env, SMALL), random_steps()
    obs, action = jnp.ones((6, 3, 4)), jnp.zeros((6, 3), jnp.int32)
    log_prob = agent.actions.distribution(agent.forward(params, obs)[0]).log_prob(action)
    steps = steps.replace(obs=obs, action=action, log_prob=log_prob)
    advantage, target = agent.advantage(steps, context_of(agent, params))
    flags = (steps.terminated, steps.truncated)
    returns = pjp.reward_to_go(steps.reward, steps.next_value, *flags, gamma=SMALL.gamma)
    np.testing.assert_allclose(target, returns, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(advantage, returns - steps.value, rtol=1e-4, atol=1e-5)


def test_a2c_follows_the_policy_gradient(env, params):
    """At the policy that acted, where the clipped ratio has the gradient of A2C."""
    assert (a2c.CONFIG.update_epochs, a2c.CONFIG.num_minibatches) == (1, 1)
    agent = pjp.make_ppo(env, SMALL.replace(normalize_advantage=False))
    batch = pjp.Batch(*(jnp.ones(n) for n in ((3, 4), 3, 3, 3)), advantage=jnp.arange(3.0), target=jnp.zeros(3))
    log_prob = agent.actions.distribution(agent.forward(params, batch.obs)[0]).log_prob(batch.action)
    batch = batch.replace(log_prob=log_prob, value=agent.forward(params, batch.obs)[1])
    context = context_of(agent, params)
    losses = (a2c.a2c_loss, pjp.ppo_loss)
    one, other = (jax.grad(lambda params, loss=loss: loss(params, batch, context)[0])(params) for loss in losses)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-6), one, other)


def test_the_nnx_network_learns_after_its_warmup(env):
    agent = nnx_network.make_agent(env, SMALL)
    before = jax.jit(agent.init)(jax.random.key(0)).train_state.params
    runner, metrics = train(agent)
    moved = jax.tree.map(lambda x, y: float(jnp.abs(x - y).max()), before, runner.train_state.params)
    assert min(jax.tree.leaves(moved)) > 0
    assert np.isfinite(metrics.value_loss).all()


def test_the_success_rate_is_in_the_metrics():
    config = SMALL.replace(num_steps=32, total_timesteps=384)
    _, metrics = train(pjp.make_ppo(pjp.make_env(success_rate.Walk()), config))
    share = metrics.extra["episode/success"]
    assert ((share >= 0) & (share <= 1)).all()
    assert 0 < share.mean() < 1


@pytest.mark.parametrize("name", ["CartPole-v1", "Pendulum-v1"])
def test_a_simulator_on_the_host_is_learned_from(name, monkeypatch):
    learned_from = []
    learn_from = pjp.PPO.learn_from

    def spy(agent, runner, transitions):
        jax.debug.callback(learned_from.append, transitions)
        return learn_from(agent, runner, transitions)

    monkeypatch.setattr(pjp.PPO, "learn_from", spy)
    config = SMALL.replace(num_steps=210, total_timesteps=4 * 210 * 2, num_minibatches=1, update_epochs=1)
    runner, metrics = gymnasium_host.train(name, config)
    jax.effects_barrier()
    steps = learned_from[-1]
    done = np.asarray(steps.terminated | steps.truncated)
    assert int(runner.train_state.update) == 2
    assert np.isfinite(metrics.policy_loss).all()
    assert metrics.episodes[-1] == done.sum() > 0
    follows = np.asarray(steps.obs[1:]) == np.asarray(steps.next_obs[:-1])
    np.testing.assert_array_equal(follows.all(-1), ~done[:-1])  # an ended episode is seen as it was before the reset
    if name == "Pendulum-v1":
        assert not np.any(steps.terminated)
        assert np.abs(np.asarray(steps.action)).max() > 2.0  # the policy's own action, which the bounds cut


def test_the_advantage_of_self_play_counts_the_other_players_value_negatively():
    """Against the recursion of its docstring in float64, with moves of one player and the other in any order."""
    steps, noise = random_steps()
    sign = np.where(noise < 0, -1.0, 1.0).astype(np.float32)
    config = pjp.PPOConfig(gamma=0.9, gae_lambda=0.8)
    given = steps.replace(info={"next_value_sign": jnp.asarray(sign)})
    advantage = self_play.negamax_advantage(given, SimpleNamespace(config=config))
    expected, later = np.zeros(sign.shape), np.zeros(sign.shape[1])
    for t in reversed(range(len(sign))):
        next_value = np.where(steps.terminated[t], 0.0, steps.next_value[t].astype(np.float64))
        delta = steps.reward[t] + 0.9 * sign[t] * next_value - steps.value[t]
        later = delta + np.where(steps.terminated[t] | steps.truncated[t], 0.0, 0.9 * 0.8 * sign[t] * later)
        expected[t] = later
    np.testing.assert_allclose(advantage, expected, rtol=1e-5, atol=1e-6)
    assert {-1.0, 1.0} == set(sign.ravel().tolist())


def test_an_opening_plays_legal_moves_and_ends_no_game():
    pytest.importorskip("pgx", reason='pgx is not installed; pip install "purejaxppo[pgx]"')
    env = self_play.with_random_openings(pjp.make_env("pgx/tic_tac_toe/self_play"), most=3)
    keys = jax.random.split(jax.random.key(0), 64)
    obs, state = jax.jit(jax.vmap(env.reset, in_axes=(0, None)))(keys, env.params)
    stones = np.asarray(obs.obs).sum(axis=(1, 2, 3))
    assert set(stones.tolist()) == {0.0, 1.0, 2.0, 3.0}
    np.testing.assert_array_equal(np.asarray(obs.action_mask).sum(axis=1), 9 - stones)
    assert not np.asarray(state.pgx.terminated).any()
