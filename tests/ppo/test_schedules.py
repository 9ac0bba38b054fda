"""Numbers that change over a run: schedules, and the learning rate that follows the KL."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import purejaxppo as pjp
from purejaxppo.population.algorithms import make_agent
from purejaxppo.population.jobs import make_jobs
from purejaxppo.population.options import Experiment
from purejaxppo.population.search import make_agent_of
from purejaxppo.population.sweep import grid
from purejaxppo.ppo.schedules import SHAPES, adapted_rate, cosine, linear, make_schedules

UPDATES = 8
SMALL = pjp.PPOConfig(num_envs=4, num_steps=16, total_timesteps=4 * 16 * UPDATES, hidden_sizes=(8,))
KEY = jax.random.key(0)
FAST_COMPILE = {"xla_backend_optimization_level": 0}  # the programs run for 0.1 s and compile for longer


@pytest.fixture(scope="module")
def env():
    return pjp.make_env("CartPole-v1")


def run(agent, num_updates=UPDATES):
    """-> (runner, metrics) of a run"""
    train = jax.jit(lambda runner: pjp.update_many(agent, runner, num_updates), compiler_options=FAST_COMPILE)
    return train(jax.jit(agent.init)(KEY))


def telling_loss(params, minibatch, context):
    """ppo_loss, with what it is given as the clip range and the entropy coefficient for its clip fraction and KL."""
    loss, terms = pjp.ppo_loss(params, minibatch, context)
    return loss, terms | {"clip_fraction": context.clip_eps, "approx_kl": context.ent_coef}


def assert_followed(metrics, config, factors):
    """The rate, the clip range and the entropy coefficient of each update are the config's times `factors`."""
    for name, seen in (("learning_rate", "learning_rate"), ("clip_eps", "clip_fraction"), ("ent_coef", "approx_kl")):
        number = getattr(config, name)
        expected = number * np.asarray(factors[name] if isinstance(factors, dict) else factors)
        np.testing.assert_allclose(getattr(metrics, seen), expected, rtol=2e-6, atol=1e-7 * number)  # ulps of 1 + cos


def test_linear_falls_from_the_full_rate_to_0_and_stays():
    got = jax.vmap(lambda k: linear(k, 10))(jnp.arange(13))
    np.testing.assert_allclose(got, [*(1 - np.arange(10) / 10), 0, 0, 0], rtol=1e-6)
    assert (got[0], got.dtype) == (1.0, jnp.float32)


def test_cosine_falls_from_the_full_rate_to_0_and_stays():
    got = jax.vmap(lambda k: cosine(k, 10))(jnp.arange(13))
    np.testing.assert_allclose(got, [*(0.5 + 0.5 * np.cos(np.pi * np.arange(10) / 10)), 0, 0, 0], atol=1e-7)
    np.testing.assert_allclose(got[:10], [optax.cosine_decay_schedule(1.0, 10)(k) for k in range(10)], atol=1e-7)
    assert got[0] == 1.0


@pytest.mark.parametrize("shape", SHAPES)
def test_a_run_of_one_update_has_the_full_rate(shape):
    schedules = make_schedules(pjp.PPOConfig(total_timesteps=512, lr_schedule=shape), None)
    assert float(schedules.learning_rate(jnp.int32(0))) == 1.0


def test_the_numbers_follow_the_schedules_of_the_config(env):
    factors = 0.5 + 0.5 * np.cos(np.pi * np.arange(UPDATES) / UPDATES)
    shapes = dict.fromkeys(("lr_schedule", "clip_eps_schedule", "ent_coef_schedule"), "cosine")
    config = SMALL.replace(learning_rate=3e-4, clip_eps=0.3, ent_coef=0.02, **shapes)
    runner, metrics = run(pjp.make_ppo(env, config, loss=telling_loss))
    assert_followed(metrics, config, factors)
    assert metrics.learning_rate[0] == np.float32(3e-4)
    assert runner.train_state.learning_rate is None


def test_without_annealing_the_rate_stays(env):
    agent = pjp.make_ppo(env, SMALL.replace(anneal_lr=False))
    state = agent.init(KEY).train_state
    assert {float(agent.rate_rule.rate(state.replace(update=jnp.int32(k)))) for k in range(10)} == {np.float32(2.5e-4)}


def test_the_rate_that_is_reported_is_the_one_that_is_applied(env):
    # Of Adam's first step, every parameter moves by the rate, up to epsilon.
    config = SMALL.replace(update_epochs=1, num_minibatches=1, learning_rate=1e-3, adam_eps=1e-30)
    agent = pjp.make_ppo(env, config, schedules={"learning_rate": lambda k: 0.25})
    start = agent.init(KEY)
    end, metrics = jax.jit(agent.update, compiler_options=FAST_COMPILE)(start)
    moved = jax.tree.map(lambda x, y: jnp.max(jnp.abs(x - y)), start.train_state.params, end.train_state.params)
    np.testing.assert_allclose(jax.tree.leaves(moved), 2.5e-4, rtol=1e-2)
    np.testing.assert_allclose(metrics.learning_rate, 2.5e-4, rtol=1e-6)


def test_any_optax_schedule_is_a_factor_on_the_configs_number(env):
    schedules = {
        "learning_rate": optax.warmup_cosine_decay_schedule(0.0, 1.0, 2, UPDATES),
        "clip_eps": optax.piecewise_constant_schedule(1.0, {4: 0.5}),
        "ent_coef": optax.linear_schedule(2.0, 0.0, UPDATES),
    }
    config = SMALL.replace(learning_rate=1e-3, clip_eps=0.4, ent_coef=0.1)
    with jax.numpy_dtype_promotion("strict"):
        _, metrics = run(pjp.make_ppo(env, config, schedules=schedules, loss=telling_loss))
    by_hand = {name: [float(schedule(k)) for k in range(UPDATES)] for name, schedule in schedules.items()}
    assert_followed(metrics, config, by_hand)


def test_a_sweep_over_the_shapes_takes_a_program_each(env, bare_options):
    sweep = {"lr_schedule": ["linear", "cosine", "adaptive"], "learning_rate": [1e-3, 3e-3]}
    jobs = make_jobs(Experiment(env, SMALL, 2, 0, bare_options("seeds")), grid(sweep))
    assert [job.program.config.lr_schedule for job in jobs] == sweep["lr_schedule"]
    for job in jobs:
        (rates,) = job.program.numbers.values()
        np.testing.assert_allclose(rates, sweep["learning_rate"])


@pytest.mark.parametrize(
    ("rate", "kl", "expected"),
    [
        (1e-3, 0.021, 1e-3 / 1.5),
        (1e-3, 0.0199, 1e-3),
        (1e-3, 0.0051, 1e-3),
        (1e-3, 0.0049, 1.5e-3),
        (1e-3, 0.0, 1.5e-3),
        (1e-3, np.nan, 1e-3),
        (9e-3, 0.0, 1e-2),
        (1.1e-6, 1.0, 1e-6),
        (5e-2, 1.0, 5e-2 / 1.5),  # a first rate out of the bounds goes towards them
        (5e-2, 0.0, 1e-2),
    ],
)
def test_the_rate_that_follows_the_kl_by_hand(rate, kl, expected):
    got = adapted_rate(jnp.float32(rate), jnp.float32(kl), 0.01)
    assert got.dtype == jnp.float32
    np.testing.assert_allclose(got, expected, rtol=1e-6)


def test_the_adaptive_rate_is_that_of_the_kl_of_the_update_before(env):
    config = SMALL.replace(lr_schedule="adaptive", learning_rate=1e-3, desired_kl=1e-3, num_steps=32)
    agent = pjp.make_ppo(env, config)
    runner, metrics = run(agent, 40)
    rate, kl = np.asarray(metrics.learning_rate), np.asarray(metrics.approx_kl)
    expected = [adapted_rate(r, k, 1e-3) for r, k in zip(rate, kl, strict=True)]
    np.testing.assert_allclose([*rate[1:], runner.train_state.learning_rate], expected, rtol=1e-6)
    assert (rate[1:] > rate[:-1]).any()
    assert (rate[1:] < rate[:-1]).any()
    assert 0.5e-3 < np.median(kl[20:]) < 2e-3


@pytest.mark.slow
def test_a_population_that_is_interrupted_keeps_its_adaptive_rates(env, tmp_path):
    config = SMALL.replace(lr_schedule="adaptive", learning_rate=1e-3)
    whole = pjp.train_population(env, config, num_seeds=2)
    asked = []

    def after_some():
        asked.append(1)
        return len(asked) > 3

    arguments = {"num_seeds": 2, "out": tmp_path / "p", "checkpoint_every": 2}
    with pytest.raises(pjp.Interrupted):
        pjp.train_population(env, config, should_stop=after_some, **arguments)
    again = pjp.train_population(env, config, **arguments)
    np.testing.assert_array_equal(again.metrics.learning_rate, whole.metrics.learning_rate)
    np.testing.assert_array_equal(again.train_state.learning_rate, whole.train_state.learning_rate)
    assert len(np.unique(again.metrics.learning_rate)) > 2


def test_a_search_over_the_first_rate_adapts_it_for_each_member(env):
    agent_of = make_agent_of(env, SMALL.replace(lr_schedule="adaptive"), make_agent)
    first = jax.vmap(lambda rate: agent_of({"learning_rate": rate}).init(KEY).train_state.learning_rate)
    np.testing.assert_allclose(first(jnp.array([1e-4, 1e-3])), [1e-4, 1e-3], rtol=1e-6)


@pytest.mark.parametrize(
    ("changes", "parts", "said"),
    [
        ({}, {"gama": lambda k: 1.0}, "unknown number in schedules 'gama'"),
        ({}, {"ent_coef": 0.5}, r"schedules\['ent_coef'\] = 0.5 is not callable"),
        ({}, {"ent_coef": lambda k: jnp.ones(2)}, r"returns shape \(2,\); return one factor"),
        ({}, {"clip_eps": lambda k: k["x"]}, r"schedules\['clip_eps'\] cannot be traced"),
        ({"lr_schedule": "cosine"}, {"learning_rate": lambda k: 1.0}, "lr_schedule = 'cosine' would do nothing"),
        ({"lr_schedule": "adaptive"}, {"learning_rate": lambda k: 1.0}, "lr_schedule = 'adaptive' would do nothing"),
        ({"anneal_lr": False}, {"learning_rate": lambda k: 1.0}, "anneal_lr = False would do nothing"),
        ({"ent_coef_schedule": "linear"}, {"ent_coef": lambda k: 1.0}, "ent_coef_schedule = 'linear' would do"),
    ],
    ids=lambda x: x if isinstance(x, str) else "",
)
def test_schedules_that_do_not_fit_are_refused_in_one_line(env, changes, parts, said):
    with pytest.raises(pjp.PPOError, match=said) as caught:
        pjp.make_ppo(env, SMALL.replace(**changes), schedules=parts)
    assert "\n" not in str(caught.value)


def test_a_schedule_beside_an_optimizer_of_ones_own_is_refused(env):
    with pytest.raises(pjp.PPOError, match=r'schedules\["learning_rate"\] would do nothing'):
        pjp.make_ppo(env, SMALL, optimizer=optax.adam(1e-3), schedules={"learning_rate": lambda k: 1.0})
    for shape in ("cosine", "adaptive"):
        with pytest.raises(pjp.PPOError, match=f"lr_schedule = {shape} would do nothing beside optimizer"):
            pjp.make_ppo(env, SMALL.replace(lr_schedule=shape), optimizer=optax.adam(1e-3))
    pjp.make_ppo(env, SMALL, optimizer=optax.adam(1e-3), schedules={"ent_coef": lambda k: 1.0})
