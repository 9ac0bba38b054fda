import functools
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import purejaxppo as pjp
from purejaxppo.examples.keras import close_at_time_limits, fit_policy, fit_value, keras_adam, make_batch, standardized
from purejaxppo.examples.keras_display import PUBLISHED, RUN_AGAIN

FIXTURE = Path(__file__).parents[1] / "fixtures" / "keras_epoch.npz"
# Absolute; two float32 renderings differ by what the script found between float32 and float64 (at most 1e-6), except
# in `carried`, where samples that cross the clipping edge amplify it.
TOLERANCE = {"actor": 1e-5, "critic": 1e-5, "kl": 2e-6}
CARRIED = {"actor": 1e-3, "critic": 2e-5, "kl": 3e-4}
fast_standardized = jax.jit(standardized)


@pytest.fixture(scope="module")
def reference():
    with np.load(FIXTURE) as arrays:
        return dict(arrays)


def tower(reference, prefix):
    """A tower's arrays as flax.linen's parameters."""
    layers = {
        f"Dense_{i}": {name: jnp.asarray(reference[f"{prefix}/{name}_{i}"]) for name in ("kernel", "bias")}
        for i in range(3)
    }
    return {"params": layers}


def transitions_of(reference, name):
    buffer = {
        key: reference[f"buffer/{name}/{key}"] for key in ("obs", "reward", "terminated", "truncated", "last_obs")
    }
    obs = jnp.asarray(buffer["obs"])
    return pjp.Transition(
        obs=obs,
        action=jnp.asarray(reference[f"buffer/{name}/action"], jnp.int32),
        reward=jnp.asarray(buffer["reward"]),
        terminated=jnp.asarray(buffer["terminated"]),
        truncated=jnp.asarray(buffer["truncated"]),
        next_obs=jnp.concatenate([obs[1:], jnp.asarray(buffer["last_obs"])[None]]),
    )


def epoch(reference, case):
    """One case of the fixture, by the library. -> (agent, batch, policy fit, critic params, value loss)"""
    number = {name: float(reference[f"case/{case}/{name}"]) for name in ("policy_lr", "gae_lambda")}
    config = pjp.FullBatchConfig(policy_learning_rate=number["policy_lr"], gae_lambda=number["gae_lambda"])
    agent = pjp.make_full_batch_ppo(pjp.make_env("CartPole-v0"), config)
    return agent, jax.jit(functools.partial(_epoch, agent))(*start_of(reference, case, agent))


def start_of(reference, case, agent):
    transitions = transitions_of(reference, str(reference[f"case/{case}/buffer"]))
    if f"case/{case}/after" in reference:
        before = str(reference[f"case/{case}/after"])
        _, fit, critic, critic_state, _ = epoch(reference, before)[1]
        params = {"actor": fit.params, "critic": critic}
        buffer = str(reference[f"case/{before}/weights"])
        return transitions, params, {"actor": fit.opt_state, "critic": critic_state}, behaviour(reference, buffer)
    weights = str(reference[f"case/{case}/weights"])
    params = behaviour(reference, weights)
    states = {
        "actor": agent.actor_optimizer.init(params["actor"]),
        "critic": agent.critic_optimizer.init(params["critic"]),
    }
    return transitions, params, states, params


def behaviour(reference, weights):
    return {name: tower(reference, f"weights/{weights}/{name}") for name in ("actor", "critic")}


def _epoch(agent, transitions, params, states, acted):
    logits = agent.logits(acted["actor"], transitions.obs)
    batch = make_batch(agent, acted["critic"], close_at_time_limits(transitions), logits)
    fit = fit_policy(agent, params["actor"], states["actor"], batch)
    return batch, fit, *fit_value(agent, params["critic"], states["critic"], batch)


def assert_tower_close(params, reference, prefix, atol):
    for i in range(3):
        for name in ("kernel", "bias"):
            expected = reference[f"{prefix}/{name}_{i}"]
            np.testing.assert_allclose(params["params"][f"Dense_{i}"][name], expected, rtol=1e-4, atol=atol)


@pytest.mark.parametrize("size", [1, 128, 500, 4000])
def test_equal_advantages_are_standardized_to_0(size):
    for number in (0.0, 1e-18, 0.1, 12345.678, 1e6 + 0.3):  # the mean of most is rounded
        equal = jnp.full((size, 1), number)
        for advantage in (equal, equal.at[0].multiply(1 + 2.0**-23)):  # up to rounding
            assert not np.any(fast_standardized(advantage))


def test_other_advantages_are_standardized_as_the_example_does():
    advantage = np.random.default_rng(0).normal(size=(4000, 1)).astype(np.float32)
    for scale, shift in ((1.0, 0.0), (1e-6, 0.0), (0.1, 100.0)):
        shifted = scale * advantage + np.float32(shift)
        expected = jax.jit(lambda x: (x - jnp.mean(x)) / jnp.std(x))(shifted)
        np.testing.assert_array_equal(fast_standardized(shifted), expected)
    for number in (np.nan, np.inf, -np.inf):
        assert np.all(np.isnan(standardized(jnp.full(8, 2.0).at[3].set(number))))


class Bandit:
    """One step, and a reward of 1 whatever is done."""

    default_params = None
    observation_space = pjp.Box((1,), (0.0,), (1.0,))
    action_space = pjp.Discrete(2)

    def reset(self, key, params):
        return jnp.ones(1), ()

    def step(self, key, state, action, params):
        return jnp.ones(1), (), jnp.float32(1.0), True, False


def test_a_bandit_of_constant_reward_does_not_freeze():
    config = pjp.FullBatchConfig(num_steps=8, total_timesteps=16, hidden_sizes=(), policy_iterations=2)
    agent = pjp.make_full_batch_ppo(pjp.make_env(Bandit()), config)
    runner = agent.init(jax.random.key(0))
    after, _ = jax.jit(lambda runner: pjp.update_many(agent, runner, 2))(runner)
    assert (int(after.train_state.update), int(after.train_state.diverged_at)) == (2, -1)
    before, state = runner.train_state.params, after.train_state.params
    jax.tree.map(np.testing.assert_array_equal, state["actor"], before["actor"])  # there is nothing to choose
    assert any(np.any(x != y) for x, y in zip(*map(jax.tree.leaves, (state["critic"], before["critic"])), strict=True))


@pytest.mark.parametrize("case", ["example", "default_lambda", "early_stop", "stop_at_once", "vector", "carried"])
def test_an_epoch_equals_the_independent_rendering(reference, case):
    _, (batch, fit, critic, _, value_loss) = epoch(reference, case)
    tolerance = CARRIED if case == "carried" else TOLERANCE
    buffer = f"buffer/{reference[f'case/{case}/buffer']}"
    lam = str(float(reference[f"case/{case}/gae_lambda"]))
    np.testing.assert_allclose(batch.log_prob, reference[f"{buffer}/log_prob"].ravel(), atol=1e-6)
    np.testing.assert_allclose(batch.target, reference[f"{buffer}/return"].ravel(), rtol=1e-5)
    np.testing.assert_allclose(batch.advantage, reference[f"{buffer}/advantage/{lam}"].ravel(), atol=1e-5)
    assert int(fit.iterations) == int(reference[f"case/{case}/executed"])
    np.testing.assert_allclose(fit.kl, reference[f"case/{case}/kl"][-1], atol=tolerance["kl"])
    assert_tower_close(fit.params, reference, f"case/{case}/final/actor", tolerance["actor"])
    source = str(reference[f"case/{case}/critic_from"])
    assert_tower_close(critic, reference, f"case/{source}/final/critic", tolerance["critic"])
    np.testing.assert_allclose(value_loss, reference[f"case/{source}/value_loss"][-1], rtol=1e-4)


def test_the_kl_of_the_next_pass_is_the_kl_after_the_step(reference):
    """Written as the example has it: step, then one more forward pass for the KL."""
    agent, (batch, fit, *_) = epoch(reference, "early_stop")
    params = tower(reference, "weights/initial/actor")
    state = agent.actor_optimizer.init(params)

    def loss(params):
        log_ratio = pjp.Categorical(logits=agent.logits(params, batch.obs)).log_prob(batch.action) - batch.log_prob
        ratio = jnp.exp(log_ratio)
        edge = jnp.where(batch.advantage > 0, 1.2, 0.8) * batch.advantage
        return -jnp.mean(jnp.minimum(ratio * batch.advantage, edge)), -jnp.mean(log_ratio)

    kls = []
    for _ in range(80):
        gradient, _ = jax.grad(loss, has_aux=True)(params)
        updates, state = agent.actor_optimizer.update(gradient, state)
        params = jax.tree.map(jnp.add, params, updates)
        kls.append(float(loss(params)[1]))
        if kls[-1] > 0.015:
            break
    assert len(kls) == int(fit.iterations)
    np.testing.assert_allclose(fit.kl, kls[-1], atol=2e-6)
    for a, b in zip(jax.tree.leaves(fit.params), jax.tree.leaves(params), strict=True):
        np.testing.assert_allclose(a, b, atol=2e-6)


def test_keras_adam_is_written_out():
    """Three steps against float64, where epsilon matters: a gradient as small as epsilon."""
    optimizer = keras_adam(0.01, 1e-7)
    gradients = np.array([[1e-7, 2.0], [3e-7, -1.0], [1e-8, 0.5]])
    params, state = jnp.zeros(2), optimizer.init(jnp.zeros(2))
    m, v, expected = np.zeros(2), np.zeros(2), np.zeros(2)
    for t, gradient in enumerate(gradients, start=1):
        updates, state = optimizer.update(jnp.asarray(gradient, jnp.float32), state)
        params = params + updates
        m, v = 0.9 * m + 0.1 * gradient, 0.999 * v + 0.001 * gradient**2
        expected -= 0.01 * np.sqrt(1 - 0.999**t) / (1 - 0.9**t) * m / (np.sqrt(v) + 1e-7)
        np.testing.assert_allclose(params, expected, rtol=2e-4)


@pytest.fixture(scope="module")
def small():
    """A config whose policy stops after different counts for different seeds."""
    config = pjp.FullBatchConfig(num_steps=500, total_timesteps=1500, policy_iterations=12, policy_learning_rate=2e-3)
    return pjp.make_full_batch_ppo(pjp.make_env("CartPole-v0"), config)


@pytest.fixture(scope="module")
def update(small):
    return jax.jit(small.update)


@pytest.mark.slow
def test_vmapped_stopping_is_that_of_single_seeds(small, update):
    keys = pjp.seed_keys(0, 5)
    together, stop = jax.jit(jax.vmap(small.update)), []
    runners = jax.vmap(small.init)(keys)
    singles = [small.init(key) for key in keys]
    for _ in range(2):
        runners, metrics = together(runners)
        for i in range(5):
            singles[i], alone = update(singles[i])
            stop.append((int(metrics.policy_iterations[i]), int(alone.policy_iterations)))
    assert all(a == b for a, b in stop)
    assert len({count for count, _ in stop}) > 3


def test_a_policy_that_has_stopped_stays_exactly_as_it_is(small, update):
    """One more permitted iteration changes nothing for a seed that the KL has stopped before."""
    runner = small.init(jax.random.key(1))
    longer = pjp.make_full_batch_ppo(small.env, small.config.replace(policy_iterations=13))
    (a, first), (b, second) = update(runner), jax.jit(longer.update)(runner)
    assert int(first.policy_iterations) == int(second.policy_iterations) < 12
    for x, y in zip(jax.tree.leaves(a.train_state), jax.tree.leaves(b.train_state), strict=True):
        np.testing.assert_array_equal(x, y)
    assert float(first.kl) > 0.015


def test_every_update_starts_afresh_and_counts_the_cut_episode(small, update):
    runner, metrics = update(small.init(jax.random.key(2)))
    mean = float(metrics.epoch_return_mean)
    assert float(metrics.epoch_length_mean) == mean
    assert 500 / mean == pytest.approx(int(metrics.episodes) + 1)
    assert int(runner.episode.episode_length[0]) == 500 - int(metrics.episode_length_mean * metrics.episodes + 0.5)
    assert runner.episode.has_finished.all()
    assert float(metrics.last_return_mean) == float(runner.episode.last_return[0])
    again, _ = update(runner.replace(obs=runner.obs + 100.0))
    same, _ = update(runner)
    np.testing.assert_array_equal(again.obs, same.obs)


def test_the_two_treatments_of_a_time_limit():
    """Rewards of 1, a limit every 2 steps: the example values what follows at 0, the variant at V."""
    terminal = np.array([[False], [True], [False], [True]])
    never = np.zeros_like(terminal)
    value = np.array([[10.0], [20.0], [30.0], [40.0]], np.float32)
    reward = np.ones((4, 1), np.float32)
    np.testing.assert_allclose(
        pjp.reward_to_go(reward, value, terminal, never, gamma=0.5), [[1.5], [1.0], [1.5], [1.0]]
    )
    np.testing.assert_allclose(
        pjp.reward_to_go(reward, value, never, terminal, gamma=0.5), [[6.5], [11.0], [11.5], [21.0]]
    )
    transitions = pjp.Transition(
        obs=value, action=value, reward=reward, terminated=never, truncated=terminal, next_obs=value
    )
    closed = close_at_time_limits(transitions)
    np.testing.assert_array_equal(closed.terminated, terminal)
    assert not closed.truncated.any()


def test_the_towers_are_glorot_uniform_with_zero_biases(small):
    params = small.init(jax.random.key(0)).train_state.params
    for name, outputs in (("actor", 2), ("critic", 1)):
        layers = params[name]["params"]
        assert [layers[f"Dense_{i}"]["kernel"].shape for i in range(3)] == [(4, 64), (64, 64), (64, outputs)]
        for layer in layers.values():
            bound = np.sqrt(6 / sum(layer["kernel"].shape))
            assert 0.9 * bound < np.abs(layer["kernel"]).max() <= bound
            assert not layer["bias"].any()


def test_the_defaults_are_the_example():
    config = pjp.FullBatchConfig()
    assert (config.num_envs, config.num_steps, config.num_updates) == (1, 4000, 30)
    assert (config.policy_iterations, config.value_iterations) == (80, 80)
    assert (config.policy_learning_rate, config.value_learning_rate, config.adam_eps) == (3e-4, 1e-3, 1e-7)
    assert (config.gamma, config.gae_lambda, config.clip_eps, config.target_kl) == (0.99, 0.97, 0.2, 0.01)
    assert not config.bootstrap_time_limits


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"num_steps": 0}, "num_steps = 0 is below 1"),
        ({"target_kl": 0.0}, "target_kl = 0.0 is out of range; give a number above 0"),
        ({"target_kl": None}, "target_kl = None is not a number"),
        ({"total_timesteps": 3999}, "total_timesteps = 3999 is below one rollout"),
        ({"learning_rate": 1e-3}, "unknown FullBatchConfig field 'learning_rate'; did you mean"),
    ],
)
def test_bad_input_names_the_field(changes, said):
    with pytest.raises(pjp.PPOError, match=said):
        pjp.FullBatchConfig().replace(**changes)


def test_parts_of_the_other_algorithm_are_refused():
    env = pjp.make_env("CartPole-v0")
    network = pjp.Network(lambda key, obs: None, lambda params, obs: (obs, obs))
    with pytest.raises(pjp.PPOError, match=r"network=\.\.\. does not go with FullBatchConfig"):
        pjp.train_population(env, pjp.FullBatchConfig(), num_seeds=1, network=network)
    with pytest.raises(pjp.PPOError, match="Pendulum-v1 has the action space"):
        pjp.make_full_batch_ppo(pjp.make_env("Pendulum-v1"), pjp.FullBatchConfig())


def epochs_outside(curve, returns):
    """In how many epochs a curve [U] leaves the middle 90% of the seeds [S, U]."""
    low, high = np.quantile(np.floor(returns), [0.05, 0.95], axis=0)
    return int(np.sum((np.array(curve) < low) | (np.array(curve) > high)))


@pytest.mark.slow
def test_16_seeds_learn_as_the_example_did():
    """The median is there by epoch 15, and the example's two runs are as ordinary as the seeds themselves.

    Of the first 20 of 30 epochs, any run leaves the middle 90% of the others in some. Neither run does so in more than
    95% of the seeds do. What the example printed is cut to whole numbers, so the seeds' returns are too.
    """
    config = pjp.FullBatchConfig(total_timesteps=20 * 4_000)
    population = pjp.train_population(pjp.make_env("CartPole-v0"), config, num_seeds=16)
    assert isinstance(population.metrics, pjp.FullBatchMetrics)
    returns = np.asarray(population.metrics.epoch_return_mean)
    usual = np.quantile([epochs_outside(np.floor(seed), returns) for seed in returns], 0.95)
    assert epochs_outside(PUBLISHED[:20], returns) <= usual < 10
    assert epochs_outside(RUN_AGAIN[:20], returns) <= usual
    median = np.median(returns, axis=0)
    assert np.argmax(median >= 190) + 1 <= 15
    assert np.median(returns[:, -5:]) >= 190


def test_the_agent_prints_in_a_line():
    agent = pjp.make_full_batch_ppo(pjp.make_env("CartPole-v0"), pjp.FullBatchConfig())
    assert repr(agent) == "FullBatchPPO(CartPole-v0, FullBatchConfig, 30 updates)"
