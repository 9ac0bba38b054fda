import dataclasses
import functools
import os
import subprocess
import sys

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import purejaxppo as pjp
from purejaxppo.ppo import agent as core
from purejaxppo.ppo.agent import assess, draw_noise, learn, make_context, play, to_batch
from purejaxppo.ppo.factory import update_many
from purejaxppo.ppo.shuffle import shuffled_indices
from purejaxppo.ppo.update import update_minibatch
from purejaxppo.utils.packed import pack

SMALL = pjp.PPOConfig(num_envs=4, num_steps=16, total_timesteps=4 * 16 * 8, hidden_sizes=(8,))


@pytest.fixture(scope="module")
def env():
    return pjp.make_env("CartPole-v1")


def collect(agent, runner):
    """One rollout and its batch, as `update` makes them."""
    return jax.jit(functools.partial(_collect, agent))(runner)


def _collect(agent, runner):
    noise_key, _ = jax.random.split(jax.random.fold_in(runner.key, runner.train_state.update))
    runner, transitions, logits, _ = play(agent, runner, draw_noise(agent, noise_key))
    batch = to_batch(agent, assess(agent, runner, transitions, logits, runner.key)[1], transitions)
    return transitions.replace(obs=transitions.obs.obs, next_obs=transitions.next_obs.obs), batch


def collect_as_update_does(agent, runner):
    """The batch that an update learns from."""
    key, noise_key, _ = core.update_keys(runner)
    return core.collect(agent, *play(agent, runner, draw_noise(agent, noise_key)), key)[1].batch


def first_ratios(agent, num_updates):
    """The ratios of the first minibatch of the update after `num_updates`."""

    def ratios(key):
        runner, _ = pjp.update_many(agent, agent.init(key), num_updates)
        _, batch = collect(agent, runner)
        chosen = shuffled_indices(key, 1, agent.config.num_minibatches, agent.config.batch_size)[0, 0]
        minibatch = jax.tree.map(lambda x: x[chosen], batch)
        logits, value = agent.network.apply(runner.train_state.params, minibatch.obs)
        return jnp.exp(pjp.Categorical(logits).log_prob(minibatch.action) - minibatch.log_prob), value - minibatch.value

    return jax.jit(ratios)(jax.random.key(0))


@pytest.mark.parametrize("compute_dtype", ["float32", "bfloat16"])
def test_the_first_minibatch_has_ratio_one(env, compute_dtype):
    """With moments that each rollout moves."""
    config = pjp.PPOConfig(normalize_obs=True, normalize_reward=True, compute_dtype=compute_dtype)
    ratio, value_change = first_ratios(pjp.make_ppo(env, config), num_updates=3)
    # Acting works on [4, 4] observations and learning on [128, 4]: XLA may round an exponential differently there.
    np.testing.assert_allclose(ratio, 1.0, atol=2**-22, rtol=0)
    np.testing.assert_allclose(value_change, 0.0, atol=1e-6)


def test_terminated_and_truncated_steps_are_told_apart_in_the_targets(env):
    """Narrow limits of time and angle: the last step's target has V(s') at the limit, and nothing after a fall."""
    limited = pjp.make_env("CartPole-v1", max_steps_in_episode=10, theta_threshold_radians=0.1)
    agent = pjp.make_ppo(limited, dataclasses.replace(SMALL, num_steps=64, total_timesteps=10_000, gae_lambda=0.0))
    runner = agent.init(jax.random.key(1))
    transitions, batch = collect(agent, runner)
    next_value = np.asarray(agent.value(runner.train_state, transitions.next_obs))
    target = np.asarray(batch.target).reshape(64, 4)
    terminated, truncated = np.asarray(transitions.terminated), np.asarray(transitions.truncated)
    only_truncated = truncated & ~terminated
    assert only_truncated.sum() > 5
    assert terminated.sum() > 5
    np.testing.assert_allclose(target[terminated], 1.0, atol=1e-5)
    np.testing.assert_allclose(target[only_truncated], 1.0 + 0.99 * next_value[only_truncated], atol=1e-5)


AS_USERS_COMPILE = {"xla_backend_optimization_level": 3, "xla_llvm_disable_expensive_passes": False}


@pytest.fixture(scope="module")
def four_updates(env):
    agent = pjp.make_ppo(env, SMALL)
    many = functools.partial(pjp.update_many, agent)
    step = jax.jit(many, static_argnums=1, compiler_options=AS_USERS_COMPILE)
    start = agent.init(jax.random.key(3))
    return step, start, *step(start, 4)


def test_annealing_starts_at_the_full_rate_and_is_reported(four_updates):
    _, _, _, metrics = four_updates
    np.testing.assert_allclose(metrics.learning_rate, 2.5e-4 * (1 - np.arange(4) / 8), rtol=1e-6)
    np.testing.assert_array_equal(metrics.timesteps, 64 * np.arange(1, 5))


def test_chunked_updates_are_the_same_run(four_updates):
    step, start, whole, metrics = four_updates
    half, first = step(start, 2)
    again, second = step(half, 2)
    for a, b in zip(jax.tree.leaves(whole), jax.tree.leaves(again), strict=True):
        np.testing.assert_array_equal(
            *(jax.random.key_data(x) if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else x for x in (a, b))
        )
    np.testing.assert_array_equal(metrics.policy_loss, np.concatenate([first.policy_loss, second.policy_loss]))


NUMBERS = [field.name for field in dataclasses.fields(pjp.PPOConfig) if not field.metadata.get("static")]


def test_every_number_of_the_config_can_be_vmapped_over(env):
    base = dataclasses.replace(SMALL, target_kl=0.5, lr_schedule="adaptive")
    assert set(NUMBERS) == {
        "learning_rate",
        "desired_kl",
        "adam_eps",
        "gamma",
        "gae_lambda",
        "clip_eps",
        "vf_coef",
        "ent_coef",
        "max_grad_norm",
        "target_kl",
    }
    # Row i halves number i; the last row changes nothing.
    stacked = {
        name: jnp.array([getattr(base, name) * (0.5 if i == row else 1.0) for row in range(len(NUMBERS) + 1)])
        for i, name in enumerate(NUMBERS)
    }
    for name in ("target_kl", "desired_kl"):  # half of it is still far above the KL
        stacked[name] = stacked[name].at[NUMBERS.index(name)].set(1e-7)
    configs = dataclasses.replace(base, **stacked)
    runners, _ = jax.jit(jax.vmap(lambda c: pjp.make_train(env, c)(jax.random.key(0))))(configs)
    leaves = [np.asarray(x) for x in jax.tree.leaves(runners.train_state.params)]
    for row, name in enumerate(NUMBERS):
        assert any(not np.array_equal(x[row], x[-1]) for x in leaves), f"{name} had no effect"


def test_vmap_over_16_seeds_equals_16_single_runs(env):
    """Within 1e-4 of the largest weight after 2 updates: batched products round differently, and Adam amplifies it."""
    config = dataclasses.replace(pjp.PPOConfig(), total_timesteps=2 * 512)
    train = pjp.make_train(env, config)
    keys = pjp.seed_keys(0, 16)
    together, _ = jax.jit(jax.vmap(train))(keys)
    single = jax.jit(train)
    for i in range(16):
        alone, _ = single(keys[i])
        for a, b in zip(
            jax.tree.leaves(together.train_state.params), jax.tree.leaves(alone.train_state.params), strict=True
        ):
            np.testing.assert_allclose(a[i], b, atol=1e-4)


def test_seed_keys_do_not_change_when_seeds_are_added():
    few, many = pjp.seed_keys(7, 4), pjp.seed_keys(7, 64)
    np.testing.assert_array_equal(jax.random.key_data(few), jax.random.key_data(many)[:4])
    assert len({row.tobytes() for row in np.asarray(jax.random.key_data(many))}) == 64


@pytest.mark.slow
def test_the_same_seed_gives_the_same_bits_in_two_processes():
    code = """
import hashlib, jax, purejaxppo as pjp
env = pjp.make_env("CartPole-v1")
train = pjp.make_train(env, pjp.PPOConfig(total_timesteps=5 * 512))
runner, metrics = jax.jit(train)(jax.random.key(11))
leaves = jax.tree.leaves((runner.replace(key=jax.random.key_data(runner.key)), metrics))
print(hashlib.sha256(b"".join(jax.device_get(x).tobytes() for x in leaves)).hexdigest())
"""
    anew = {"JAX_DISABLE_MOST_OPTIMIZATIONS": "0", "JAX_ENABLE_COMPILATION_CACHE": "0"}  # as a user's are, and twice
    digests = [
        subprocess.run(
            [sys.executable, "-c", code], check=True, capture_output=True, text=True, env=os.environ | anew
        ).stdout
        for _ in range(2)
    ]
    assert digests[0] == digests[1]
    assert len(digests[0].strip()) == 64


def test_equal_states_have_equal_tree_structures(env):
    a = pjp.make_ppo(env, SMALL).init(jax.random.key(0))
    b = pjp.make_ppo(pjp.make_env("CartPole-v1"), SMALL).init(jax.random.key(1))
    assert jax.tree.structure(a) == jax.tree.structure(b)


def test_timesteps_are_counted_beyond_what_int32_holds(env):
    agent = pjp.make_ppo(env, SMALL.replace(total_timesteps=5_000_000_000))
    runner = agent.init(jax.random.key(0))
    late = runner.replace(train_state=runner.train_state.replace(update=jnp.int32(78_124_998)))
    runner, metrics = jax.jit(functools.partial(update_many, agent, num_updates=2))(late)
    assert metrics.timesteps.dtype == np.int64
    assert metrics.timesteps.tolist() == [4_999_999_936, 5_000_000_000]
    assert metrics.columns()[-1] == "timesteps"
    np.testing.assert_allclose(metrics.learning_rate, 0.0, atol=2**-23 * SMALL.learning_rate)
    inside = jax.jit(lambda metrics: metrics.timesteps)(metrics)
    np.testing.assert_allclose(inside, metrics.timesteps, rtol=2**-23)


@pytest.fixture(scope="module")
def one_batch(env):
    """State, one batch, and the packed parameters learned from all of it, or from its first minibatches, at any KL."""
    agent, key = pjp.make_ppo(env, SMALL.replace(learning_rate=0.05)), jax.random.key(5)
    state = (runner := agent.init(jax.random.key(0))).train_state
    _, batch = collect(agent, runner)
    (free, _), _ = jax.jit(functools.partial(learn, agent))(jnp.float32(0.05), state, batch, key)
    (epoch, _), (minibatch, _) = first_steps(agent, state, batch, key, 4), first_steps(agent, state, batch, key, 1)
    return state, batch, {"free": free, "one epoch": epoch, "one minibatch": minibatch}


@pytest.mark.parametrize("estimator", ["approx_kl", "log_ratio"])
def test_target_kl_by_epoch_leaves_out_the_epochs_after_the_one_that_exceeds_it(env, one_batch, estimator):
    params, _ = learned_from_one_batch(env, one_batch, "epoch", estimator)
    assert same(params["free"], params["loose"])
    assert same(params["one epoch"], params["bound"])
    assert not same(params["free"], params["bound"])


@pytest.mark.parametrize("estimator", ["approx_kl", "log_ratio"])
def test_target_kl_by_minibatch_leaves_out_the_one_that_exceeds_it(env, one_batch, estimator):
    """The first minibatch has a KL of 0 and is applied; the second exceeds any bound, by one estimator or both."""
    params, terms = learned_from_one_batch(env, one_batch, "minibatch", estimator)
    assert same(params["free"], params["loose"])
    assert not same(params["free"], params["bound"])
    if estimator == "approx_kl":
        assert same(params["one minibatch"], params["bound"])
        assert abs(float(terms["approx_kl"])) < 1e-7


def learned_from_one_batch(env, one_batch, kl_stop, estimator):
    """Parameters with and without a bound on the KL, and the terms of the tight one."""
    state, batch, params = one_batch

    @jax.jit
    def bounded(target_kl):
        changes = {"target_kl": target_kl, "kl_stop": kl_stop, "kl_estimator": estimator}
        agent = pjp.make_ppo(env, SMALL.replace(learning_rate=0.05, **changes))
        return learn(agent, jnp.float32(0.05), state, batch, jax.random.key(5))

    ((loose, _), _), ((bound, _), terms) = bounded(1e9), bounded(1e-9)
    return params | {"loose": loose, "bound": bound}, terms


def first_steps(agent, state, batch, key, count):
    """(packed params, opt_state) after the first minibatches of the update, one after another."""
    indices = shuffled_indices(key, agent.config.update_epochs, agent.config.num_minibatches, agent.config.batch_size)
    learned = (pack(state.params), state.opt_state)

    def loss(params, minibatch, key):
        return pjp.ppo_loss(params, minibatch, make_context(agent, state, key))

    step = jax.jit(functools.partial(update_minibatch, loss, agent.optimizer, jnp.float32(0.05)))
    for chosen in indices[0, :count]:
        learned, _ = step(learned, jax.tree.map(lambda x, chosen=chosen: x[chosen], batch), key)
    return learned


def test_an_update_traced_for_a_gpu_computes_the_same(env, monkeypatch):
    agent = pjp.make_ppo(env, SMALL)
    runner = agent.init(jax.random.key(3))
    for_cpu, (new, metrics) = jax.make_jaxpr(agent.update)(runner), jax.jit(agent.update)(runner)
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    update = functools.partial(agent.update)  # JAX remembers the program of `agent.update` itself
    assert arrays_of_rollout(jax.make_jaxpr(update)(runner)) > arrays_of_rollout(for_cpu)
    on_gpu, metrics_on_gpu = jax.jit(update)(runner)
    np.testing.assert_array_equal(on_gpu.obs, new.obs)
    jax.tree.map(np.testing.assert_array_equal, on_gpu.episode, new.episode)
    for ours, theirs in ((on_gpu.train_state.params, new.train_state.params), (metrics_on_gpu, metrics)):
        jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-6), ours, theirs)


def arrays_of_rollout(jaxpr):
    """How many arrays its loop takes."""
    loops = [x for x in jaxpr.eqns if x.primitive.name == "scan" and x.params["length"] == SMALL.num_steps]
    return max(len(x.invars) for x in loops)


def same(a, b):
    return all(np.allclose(x, y, atol=1e-6) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))


def test_act_is_greedy_without_a_key_and_samples_with_one(env):
    agent = pjp.make_ppo(env, SMALL)
    state = agent.init(jax.random.key(0)).train_state
    obs = jnp.array([0.1, 0.2, -0.05, 0.3])
    probabilities = jax.nn.softmax(agent.network.apply(state.params, obs)[0])
    assert int(agent.act(state, obs)) == int(jnp.argmax(probabilities))
    drawn = jax.vmap(lambda key: agent.act(state, obs, key))(jax.random.split(jax.random.key(1), 20_000))
    assert abs(float(jnp.mean(drawn == 1)) - float(probabilities[1])) < 0.015
    assert drawn.dtype == jnp.int32


def linear_init(key, obs):
    return {"policy": 0.01 * jax.random.normal(key, (4, 2)), "value": jnp.zeros(4)}


class Linen(nn.Module):
    @nn.compact
    def __call__(self, obs):
        hidden = nn.relu(nn.Dense(16)(obs))
        return nn.Dense(2)(hidden), nn.Dense(1)(hidden)[..., 0]


class Nnx(nnx.Module):
    def __init__(self, rngs):
        self.hidden, self.policy, self.value = (
            nnx.Linear(4, 16, rngs=rngs),
            nnx.Linear(16, 2, rngs=rngs),
            nnx.Linear(16, 1, rngs=rngs),
        )

    def __call__(self, obs):
        hidden = nnx.relu(self.hidden(obs))
        return self.policy(hidden), self.value(hidden)[..., 0]


def test_parameters_that_are_not_float32_are_told_of():
    network = pjp.Network(
        init=lambda key, obs: {"half": jax.random.normal(key, (4, 3), jnp.bfloat16)},
        apply=lambda params, obs: ((out := obs @ params["half"].astype(jnp.float32))[..., :2], out[..., 2]),
    )
    with pytest.raises(pjp.PPOError, match="keep the parameters float32"):
        pjp.make_ppo(pjp.make_env("CartPole-v1"), SMALL, network=network)


def nnx_network():
    graph, _ = nnx.split(nnx.eval_shape(lambda: Nnx(nnx.Rngs(0))))
    return pjp.Network(
        init=lambda key, obs: nnx.state(Nnx(nnx.Rngs(key))),
        apply=lambda params, obs: nnx.merge(graph, params)(obs),
    )


@pytest.mark.parametrize("network", [Linen(), nnx_network()], ids=["linen", "nnx"])
def test_a_network_of_ones_own_learns(env, network):
    config = dataclasses.replace(SMALL, num_steps=128, total_timesteps=40_000, learning_rate=5e-3)
    _, metrics = jax.jit(pjp.make_train(env, config, network=network))(jax.random.key(0))
    assert np.nanmean(metrics.episode_return_mean[-10:]) > 2 * np.nanmean(metrics.episode_return_mean[:5])


def test_an_optimizer_of_ones_own_is_used_and_its_rate_not_claimed(env):
    frozen = pjp.make_ppo(env, SMALL, optimizer=optax.sgd(0.0))
    start = frozen.init(jax.random.key(0))
    end, metrics = jax.jit(frozen.update)(start)
    for a, b in zip(jax.tree.leaves(start.train_state.params), jax.tree.leaves(end.train_state.params), strict=True):
        np.testing.assert_array_equal(a, b)
    assert np.isnan(metrics.learning_rate)


def huber_loss(params, minibatch, context):
    """ppo_loss with Huber's loss for the value."""
    loss, terms = pjp.ppo_loss(params, minibatch, context)
    huber = jnp.mean(optax.huber_loss(context.apply(params, minibatch.obs)[1], minibatch.target))
    return loss + context.vf_coef * (huber - terms["value_loss"]), terms | {"value_loss": huber}


@pytest.mark.slow
def test_an_advantage_of_ones_own_is_the_one_that_is_learned_from(env):
    """test_extension.py has one with a memory."""
    sizes = {"num_envs": 4, "num_steps": 32, "total_timesteps": 128, "hidden_sizes": (8,), "num_minibatches": 1}
    config = pjp.PPOConfig(**sizes, gae_lambda=0.5, gamma=0.9)

    def monte_carlo(steps, context):
        flags = (steps.terminated, steps.truncated)
        return pjp.reward_to_go(steps.reward, steps.next_value, *flags, gamma=context.config.gamma) - steps.value

    def learned(gae_lambda, **parts):
        agent = pjp.make_ppo(env, config.replace(gae_lambda=gae_lambda), **parts)
        return agent.update(agent.init(jax.random.key(0)))[0].train_state.params

    by_default = jax.jit(learned)
    own = jax.jit(functools.partial(learned, advantage=monte_carlo))(0.5)
    same, other = by_default(1.0), by_default(0.5)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=2e-5), own, same)
    assert max(float(jnp.abs(x - y).max()) for x, y in zip(*map(jax.tree.leaves, (own, other)), strict=True)) > 1e-4


def test_advantages_may_be_normalised_over_the_batch_or_not_at_all(env):
    per_minibatch = pjp.make_ppo(env, SMALL)
    runner = jax.jit(per_minibatch.init)(jax.random.key(0))
    _, raw = collect(per_minibatch, runner)
    advantage = np.asarray(raw.advantage, np.float64)
    expected = (advantage - advantage.mean()) / (advantage.std() + 1e-8)

    choices = {
        "minibatch": {},
        "batch": {"normalize_advantage_over": "batch"},
        "off": {"normalize_advantage": False},
    }
    policy_loss = {}
    for name, changes in choices.items():
        agent = pjp.make_ppo(env, dataclasses.replace(SMALL, **changes))
        own = jax.jit(functools.partial(collect_as_update_does, agent))(runner)
        np.testing.assert_array_equal(own.target, raw.target)
        if name == "batch":
            np.testing.assert_allclose(own.advantage, expected, rtol=1e-4, atol=1e-5)
        else:
            np.testing.assert_array_equal(own.advantage, raw.advantage)
        context = make_context(agent, runner.train_state, runner.key)
        policy_loss[name] = float(pjp.ppo_loss(runner.train_state.params, own, context)[1]["policy_loss"])
    # The ratio is 1: minus the mean of the advantages.
    np.testing.assert_allclose(policy_loss["off"], -advantage.mean(), rtol=1e-4)
    np.testing.assert_allclose([policy_loss["minibatch"], policy_loss["batch"]], 0.0, atol=1e-5)


def test_an_update_has_the_gradient_of_its_finite_differences_in_every_number(env):
    # One step of plain gradient descent on one batch of a policy that is far from uniform: smooth in each number.
    config = dataclasses.replace(SMALL, hidden_sizes=(64, 64), update_epochs=1, num_minibatches=1, clip_value=False)
    runner = jax.jit(pjp.make_ppo(env, config, optimizer=optax.sgd(1.0)).init)(jax.random.key(0))
    params = jax.tree.map(lambda x: x + 0.3 * jax.random.normal(jax.random.key(1), x.shape), runner.train_state.params)
    runner = runner.replace(train_state=runner.train_state.replace(params=params))
    direction = jax.tree.map(lambda x: jax.random.normal(jax.random.key(2), x.shape), params)

    def moved(numbers):
        agent = pjp.make_ppo(env, dataclasses.replace(config, **numbers), optimizer=optax.sgd(1.0))
        params = agent.update(runner)[0].train_state.params
        return sum(jnp.vdot(d, x) for d, x in zip(jax.tree.leaves(direction), jax.tree.leaves(params), strict=True))

    numbers = {name: jnp.float32(getattr(config, name)) for name in ("gamma", "gae_lambda", "vf_coef", "ent_coef")}
    slope = jax.jit(jax.grad(moved))(numbers)
    at = jax.jit(moved)
    for name, number in numbers.items():
        step = 0.01
        ahead, behind = (at(numbers | {name: number + sign * step}) for sign in (1, -1))
        difference = (float(ahead) - float(behind)) / (2 * step)
        np.testing.assert_allclose(slope[name], difference, rtol=0.02, atol=2e-3)
        assert abs(difference) > 1e-2, name


def test_the_gradient_in_the_learning_rate_is_the_step(env):
    # params = before - rate * step: what the optimizer's state says does not depend on the rate.
    config = dataclasses.replace(SMALL, update_epochs=1, num_minibatches=1)
    runner = jax.jit(pjp.make_ppo(env, config).init)(jax.random.key(0))

    def learned(rate):
        return pjp.make_ppo(env, config.replace(learning_rate=rate)).update(runner)[0].train_state.params

    rate = jnp.float32(1e-2)
    after, slope = jax.jit(lambda rate: jax.jvp(learned, (rate,), (jnp.float32(1.0),)))(rate)
    jax.tree.map(
        lambda x, y, z: np.testing.assert_allclose(z, (y - x) / rate, atol=1e-4),
        runner.train_state.params,
        after,
        slope,
    )


class Line:
    """A place that is pushed towards 0 for 6 steps: smooth, and beside it a feature that is always 0."""

    default_params = None
    observation_space = pjp.Box((2,), (-np.inf,) * 2, (np.inf,) * 2)
    action_space = pjp.Box((1,), (-10.0,), (10.0,))

    def reset(self, key, params):
        place = jax.random.normal(key)
        return jnp.stack([place, 0.0]), (place, 0)

    def step(self, key, state, action, params):
        place, time = state[0] + 0.1 * action[0], state[1] + 1
        return jnp.stack([place, 0.0]), (place, time), -(place**2), False, time == 6


FINE = pjp.PPOConfig(
    num_envs=2, num_steps=4, total_timesteps=2 * 4 * 2, update_epochs=2, num_minibatches=2, hidden_sizes=(3,),
    normalize_obs=True, normalize_reward=True, lr_schedule="adaptive", target_kl=0.05, kl_stop="minibatch",
)  # fmt: skip
SMALLEST, LARGEST = float(np.finfo(np.float32).tiny), float(np.finfo(np.float32).max)
ENDS = {
    "max_grad_norm": (np.inf, LARGEST, SMALLEST),  # in this order: the first two are compared
    "learning_rate": (0.0, SMALLEST),
    "desired_kl": (SMALLEST, LARGEST),
    "adam_eps": (SMALLEST, 1e-8, 1e6),
    "gamma": (0.0, 1.0),
    "gae_lambda": (0.0, 1.0),
    "clip_eps": (SMALLEST, LARGEST),
    "vf_coef": (0.0,),
    "ent_coef": (0.0,),
    "target_kl": (SMALLEST, LARGEST),  # no minibatch is applied, and each
}
AT_ENDS = [FINE, *(FINE.replace(**{name: value}) for name, values in ENDS.items() for value in values)]
AT_ENDS.append(FINE.replace(vf_coef=0.0, ent_coef=0.0, gae_lambda=0.0, gamma=0.0))


@pytest.mark.slow
def test_the_gradient_through_updates_is_finite_at_the_ends_of_every_range():
    env = pjp.make_env(Line())
    assert set(ENDS) == {path[0].name for path, _ in jax.tree.leaves_with_path(FINE)}

    def outcome(config, key):
        runner, metrics = pjp.make_train(env, config)(key)
        told = (metrics.value_loss, metrics.approx_kl, metrics.episode_return_mean, metrics.explained_variance)
        return sum(jnp.nansum(x) for x in (*map(jnp.square, jax.tree.leaves(runner.train_state.params)), *told))

    configs = jax.tree.map(lambda *x: jnp.asarray(x, jnp.float32), *AT_ENDS)
    value, slope = jax.jit(jax.vmap(jax.value_and_grad(outcome), (0, None)))(configs, jax.random.key(0))
    assert np.all(np.isfinite(value))
    for path, x in jax.tree.leaves_with_path(slope):
        assert np.all(np.isfinite(x)), (path, x)
        np.testing.assert_allclose(x[1], x[2], rtol=1e-4, atol=1e-6)  # max_grad_norm clips neither
    assert np.any(slope.gamma != 0)


def test_a_traced_config_goes_with_an_optimizer_of_ones_own(env):
    def train(config, key):
        return pjp.make_train(env, config, optimizer=optax.adam(1e-3))(key)

    jax.eval_shape(train, SMALL, jax.random.key(0))


@pytest.mark.parametrize(
    ("parts", "said"),
    [
        ({"network": lambda x: x}, "lacks init and apply"),
        ({"network": Nnx}, r"nnx module Nnx.*pjp\.Network\(init="),
        ({"network": Nnx(nnx.Rngs(0))}, r"nnx module Nnx.*pjp\.Network\(init="),
        ({"network": pjp.Network(linear_init, lambda params, obs: obs @ params["policy"])}, "has to return"),
        (
            {"network": pjp.Network(linear_init, lambda params, obs: params["missing"])},
            "network.apply cannot be traced",
        ),
        ({"optimizer": optax.adam}, "is not an optax transformation"),
        ({"optimizer": "adam"}, "is not an optax transformation"),
        ({"loss": "mse"}, "is not callable"),
        ({"loss": lambda params, minibatch: minibatch.value}, "loss cannot be traced"),
        ({"loss": lambda params, minibatch, context: jnp.sum(minibatch.value)}, "has to return"),
        ({"loss": lambda *args: (args[1].value, pjp.ppo_loss(*args)[1])}, r"float32\[16\] to minimise"),
        ({"loss": lambda *args: (pjp.ppo_loss(*args)[0], {"value": args[1].value})}, r"value as float32\[16\]"),
        ({"loss": lambda *args: (pjp.ppo_loss(*args)[0], {"learning_rate": 1.0})}, "'learning_rate', which is another"),
        ({"loss": lambda *args: (pjp.ppo_loss(*args)[0], {"a,b": 1.0})}, "'a,b'"),
    ],
)
def test_parts_that_do_not_fit_are_refused_in_one_line(env, parts, said):
    with pytest.raises(pjp.PPOError, match=said) as caught:
        pjp.make_ppo(env, SMALL, **parts)
    assert "\n" not in str(caught.value)


def test_a_config_of_another_kind_is_refused(env):
    with pytest.raises(pjp.PPOError, match="config must be a PPOConfig, got"):
        pjp.make_ppo(env, {"gamma": 0.9})


def test_evaluate_counts_each_episode_once(env):
    agent = pjp.make_ppo(env, SMALL)
    state = agent.init(jax.random.key(0)).train_state
    returns, lengths = jax.jit(functools.partial(pjp.evaluate, agent, num_episodes=64))(state, jax.random.key(1))
    np.testing.assert_array_equal(returns, lengths)
    assert lengths.min() >= 8
    assert lengths.max() <= 500
    assert len(np.unique(lengths)) > 1
    _, cut_lengths = pjp.evaluate(agent, state, jax.random.key(1), num_episodes=8, max_steps=3)
    assert set(np.asarray(cut_lengths)) == {3}
    sampled, _ = pjp.evaluate(agent, state, jax.random.key(1), num_episodes=64, sampled=True)
    assert not np.array_equal(sampled, returns)


class Endless:
    """Pays 2^24, then 1 for ever: one that adds them up in float32 stays at 2^24."""

    default_params = None
    observation_space = pjp.Box((1,), (0.0,), (1.0,))
    action_space = pjp.Discrete(2)

    def reset(self, key, params):
        return jnp.zeros(1), jnp.float32(2.0**24)

    def step(self, key, state, action, params):
        return jnp.zeros(1), jnp.float32(1.0), state, False, False


def test_evaluate_adds_up_long_episodes():
    agent = pjp.make_ppo(pjp.make_env(Endless()), SMALL.replace(hidden_sizes=()))
    state = agent.init(jax.random.key(0)).train_state
    returns, _ = pjp.evaluate(agent, state, jax.random.key(1), num_episodes=2, max_steps=1001)
    assert returns.tolist() == [2.0**24 + 1000] * 2


def test_record_episodes_is_one_greedy_episode(env):
    agent = pjp.make_ppo(env, SMALL)
    (episode,) = pjp.record_episodes(agent, agent.init(jax.random.key(0)).train_state, jax.random.key(2), max_steps=100)
    length = len(episode.reward)
    assert episode.obs.shape == (length + 1, 4)
    assert episode.probabilities.shape == (length, 2)
    np.testing.assert_array_equal(episode.action, episode.probabilities.argmax(axis=1))
    assert np.abs(episode.obs[:-1, 2]).max() < 12 * np.pi / 180 < np.abs(episode.obs[-1, 2])


def test_record_episodes_of_several_states_are_those_of_each_from_the_same_starts(env):
    agent, key = pjp.make_ppo(env, SMALL), jax.random.key(2)
    states = jax.vmap(lambda key: agent.init(key).train_state)(pjp.seed_keys(0, 2))
    episodes = pjp.record_episodes(agent, states, key, 2, max_steps=20)
    assert len(episodes) == 4
    np.testing.assert_array_equal(episodes[0].obs[0], episodes[2].obs[0])
    assert (episodes[0].obs[0] != episodes[1].obs[0]).any()
    (one,) = pjp.record_episodes(agent, jax.tree.map(lambda x: x[1], states), key, max_steps=20)
    np.testing.assert_array_equal(one.action, episodes[2].action)
    np.testing.assert_allclose(one.obs, episodes[2].obs, rtol=1e-4, atol=1e-6)


def test_the_reward_scale_does_not_leak_across_episodes(env):
    agent = pjp.make_ppo(
        env, dataclasses.replace(SMALL, num_steps=64, total_timesteps=10_000, normalize_reward=True, gamma=0.9)
    )
    runner = agent.init(jax.random.key(0))
    end, _ = jax.jit(agent.update)(runner)
    transitions, _ = collect(agent, runner)
    done = np.asarray(transitions.terminated | transitions.truncated)
    returns, running = [], np.zeros(4)
    for reward, ended in zip(np.asarray(transitions.reward), done, strict=True):
        running = 0.9 * running + reward
        returns.append(running)
        running = np.where(ended, 0.0, running)
    assert done.any()
    np.testing.assert_allclose(end.episode.discounted_return, running, rtol=1e-6)
    moments = end.train_state.reward_moments
    np.testing.assert_allclose(moments.mean, np.mean(returns), rtol=1e-5)
    np.testing.assert_allclose(moments.square_deviation / moments.count, np.var(returns), rtol=1e-4)


def test_the_observation_moments_are_those_of_what_was_seen(env):
    agent = pjp.make_ppo(env, dataclasses.replace(SMALL, normalize_obs=True))
    runner = agent.init(jax.random.key(0))
    transitions, _ = collect(agent, runner)
    end, _ = jax.jit(agent.update)(runner)
    obs = np.asarray(transitions.obs).reshape(-1, 4)
    np.testing.assert_allclose(end.train_state.obs_moments.mean, obs.mean(0), rtol=1e-4, atol=1e-6)
    second, batch = collect(agent, end)
    normalised = (np.asarray(second.obs).reshape(-1, 4) - obs.mean(0)) / np.sqrt(obs.var(0) + 1e-8)
    np.testing.assert_allclose(batch.obs, np.clip(normalised, -10, 10), rtol=1e-3, atol=1e-4)
