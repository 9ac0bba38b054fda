import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from purejaxppo.ppo.config import PPOConfig
from purejaxppo.ppo.optimizer import make_optimizer
from purejaxppo.ppo.shuffle import shuffled_indices
from purejaxppo.ppo.types import Batch, RunnerState, TrainState
from purejaxppo.ppo.update import (
    Order,
    all_finite,
    apply_gradient,
    epochs_within_kl,
    keep_finite,
    kl_is_within,
    minibatches_within_kl,
    own_buffers,
    update_epoch,
    update_epochs,
    update_minibatch,
)
from purejaxppo.utils.packed import pack, unpack

EPOCHS, MINIBATCHES = 5, 2


def terms_of(x, approx_kl=0.0):
    terms = {"policy_loss": x, "value_loss": 2 * x, "entropy": 3 * x, "clip_fraction": 4 * x, "mean_log_ratio": 5 * x}
    return terms | {"approx_kl": approx_kl}


def within_kl(epoch, target, learned, indices):
    return epochs_within_kl(epoch, lambda terms: kl_is_within(terms, target, "approx_kl"), learned, indices)


def counting_epoch(kls, values):
    """An epoch that counts itself, and whose terms are looked up by its number, which `indices` holds."""

    def epoch(learned, order):
        params, opt_state = learned
        number = order.indices[0, 0]
        value, kl = jnp.asarray(values)[number], jnp.asarray(kls)[number]
        return (params + 1.0 + 0.0 * value[0], opt_state + number), terms_of(value, kl)  # NaN gives NaN

    return epoch


def numbered(epochs):
    return ordered(jnp.broadcast_to(jnp.arange(epochs)[:, None, None], (epochs, MINIBATCHES, 3)))


def ordered(indices):
    return Order(indices, jax.random.split(jax.random.key(0), indices.shape[:-1]))


def run_within(kls, target, values=None):
    kls = np.asarray(kls, np.float32)
    kls = kls if kls.ndim == 2 else np.stack([kls, kls], axis=1)
    values = np.arange(2.0 * len(kls), dtype=np.float32).reshape(-1, 2) if values is None else values
    start = (jnp.float32(0), jnp.int32(0))
    return within_kl(counting_epoch(kls, values), target, start, numbered(len(kls)))


def quadratic_loss(params, minibatch, key=None):
    error = minibatch.obs @ params["w"] - minibatch.target
    loss = jnp.mean(jnp.square(error))
    return loss, terms_of(loss, jnp.mean(jnp.abs(error)))


def batch_of(seed, samples=24):
    rng = np.random.default_rng(seed)
    numbers = {name: jnp.asarray(rng.normal(size=samples), jnp.float32) for name in ("log_prob", "value", "advantage")}
    obs = jnp.asarray(rng.normal(size=(samples, 3)), jnp.float32)
    return Batch(obs=obs, action=jnp.arange(samples), target=obs @ jnp.asarray([1.0, -2.0, 0.5]), **numbers)


def learner(config, rate=0.05):
    optimizer = make_optimizer(config)
    params = {"w": jnp.zeros(3)}

    def step(learned, minibatch, key=None):
        return update_minibatch(quadratic_loss, optimizer, jnp.float32(rate), learned, minibatch, key)

    return step, (pack(params), optimizer.init(params))


def assert_equal_trees(one, other):
    assert jax.tree.structure(one) == jax.tree.structure(other)
    jax.tree.map(np.testing.assert_array_equal, one, other)


def test_the_terms_are_those_before_the_step():
    step, learned = learner(PPOConfig())
    batch = batch_of(0)
    (params, _), terms = step(learned, batch)
    assert terms["policy_loss"] == quadratic_loss({"w": jnp.zeros(3)}, batch)[0]
    assert quadratic_loss(unpack(params), batch)[0] < terms["policy_loss"]


def test_an_epoch_steps_through_its_minibatches_in_turn():
    indices = jnp.asarray([[4, 1], [0, 5], [3, 2]])

    def remember(learned, minibatch, key):
        params, opt_state = learned
        return (params.at[opt_state].set(minibatch.action), opt_state + 1), terms_of(minibatch.value.sum())

    batch = batch_of(1, samples=6)
    (seen, _), terms = update_epoch(remember, batch, (jnp.zeros((3, 2), jnp.int32), jnp.int32(0)), ordered(indices))
    assert seen.tolist() == indices.tolist()
    np.testing.assert_allclose(terms["policy_loss"], [batch.value[i].sum() for i in indices], rtol=1e-6)


def test_update_epochs_applies_every_epoch_and_averages_every_minibatch():
    values = np.arange(2.0 * EPOCHS, dtype=np.float32).reshape(EPOCHS, 2)
    epoch = counting_epoch(np.full((EPOCHS, 2), 9.0, np.float32), values)
    (params, opt_state), terms = update_epochs(epoch, (jnp.float32(0), jnp.int32(0)), numbered(EPOCHS))
    assert (float(params), int(opt_state)) == (5.0, 0 + 1 + 2 + 3 + 4)
    for name, mean in (("policy_loss", 4.5), ("value_loss", 9.0), ("entropy", 13.5), ("clip_fraction", 18.0)):
        assert float(terms[name]) == mean
    assert float(terms["approx_kl"]) == 9.0


@pytest.mark.parametrize(
    ("kls", "applied"),
    [
        ([0.01, 0.01, 0.01, 0.01], 4),
        ([0.01, 0.05, 0.01, 0.01], 2),  # the epoch that exceeds is applied, and nothing after it
        ([0.05, 0.01, 0.01, 0.01], 1),
        ([0.01, 0.01, 0.01, 0.05], 4),
        ([0.03, 0.03, 0.04, 0.01], 3),  # equal is not above
        ([np.nan, 0.01, 0.01, 0.01], 4),  # NaN ends nothing: `keep_finite` is to see it
    ],
)
def test_epochs_after_the_first_that_exceeds_change_nothing(kls, applied):
    (params, opt_state), terms = run_within(kls, np.float32(0.03))
    assert (float(params), int(opt_state)) == (applied, sum(range(applied)))
    # The values are 0, 1, 2, ..., two an epoch.
    assert float(terms["policy_loss"]) == np.arange(2.0 * applied).mean()
    assert float(terms["clip_fraction"]) == 4 * np.arange(2.0 * applied).mean()
    np.testing.assert_allclose(terms["approx_kl"], np.mean(kls[:applied]), rtol=1e-6)


def test_the_mean_kl_of_the_epoch_decides_and_not_its_last_minibatch():
    # CleanRL looks at the last minibatch alone.
    assert float(run_within([[0.01, 0.04], [0.1, 0.0], [0.0, 0.0]], 0.03)[0][0]) == 2
    assert float(run_within([[0.0, 0.05], [0.0, 0.05], [0.0, 0.05]], 0.03)[0][0]) == 3


def test_what_is_not_applied_does_not_leak():
    values = np.asarray([[1.0, 2.0], [3.0, 4.0], [np.nan, np.inf]], np.float32)
    (params, _), terms = run_within([0.01, 0.05, np.nan], 0.03, values)
    assert float(params) == 2
    assert float(terms["policy_loss"]) == 2.5
    np.testing.assert_allclose(terms["approx_kl"], 0.03, rtol=1e-6)


def test_params_and_optimizer_state_stop_together():
    config = PPOConfig()
    step, learned = learner(config)
    batch, indices = batch_of(2), ordered(shuffled_indices(jax.random.key(0), EPOCHS, MINIBATCHES, 24))

    def epoch(learned, chosen):
        return update_epoch(step, batch, learned, chosen)

    stopped, terms = jax.jit(lambda x: within_kl(epoch, 0.0, learned, x))(indices)
    one, expected = jax.jit(lambda x: update_epochs(epoch, learned, x))(jax.tree.map(lambda x: x[:1], indices))
    assert_equal_trees(stopped, one)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-6), terms, expected)


def test_an_optimizer_is_given_the_parameters():
    decay = optax.with_extra_args_support(optax.add_decayed_weights(0.5))
    params, gradient = jnp.float32([1.0, -2.0]), jnp.zeros(2)
    packed, _ = apply_gradient(decay, jnp.float32(1.0), (pack(params), decay.init(params)), gradient)
    np.testing.assert_array_equal(unpack(packed), 1.5 * params)


@pytest.mark.parametrize(
    ("kls", "applied"),
    [
        ([0.01, 0.02, 0.03, 0.01], 4),  # equal is not above
        ([0.01, 0.05, 0.01, 0.01], 1),  # the minibatch that exceeds is not applied, and nothing after it
        ([0.05, 0.01, 0.01, 0.01], 0),
        ([0.01, 0.01, 0.01, 0.05], 3),
        ([0.01, np.nan, 0.01, 0.05], 3),  # NaN ends nothing: `keep_finite` is to see it
    ],
)
def test_minibatches_from_the_first_that_exceeds_on_change_nothing(kls, applied):
    kls = jnp.asarray(kls, jnp.float32)
    batch = batch_of(4, samples=12)

    def count(learned, minibatch, key):
        params, opt_state = learned
        number = minibatch.action[0] // 3  # of the minibatch, in the order of `indices`
        return (params + 1.0, opt_state + number + 1), terms_of(number.astype(jnp.float32), kls[number])

    within = functools.partial(kl_is_within, target_kl=0.03, estimator="approx_kl")
    order = ordered(jnp.arange(12).reshape(2, 2, 3))
    (params, opt_state), terms = minibatches_within_kl(count, within, (jnp.float32(0), jnp.int32(0)), batch, order)
    assert (float(params), int(opt_state)) == (applied, sum(range(1, applied + 1)))
    for found, factor in ((terms["policy_loss"], 1), (terms["entropy"], 3)):
        expected = factor * np.arange(applied).mean() if applied else np.nan
        np.testing.assert_allclose(found, expected)


@pytest.mark.parametrize(
    ("estimator", "value", "near"),
    [
        ("approx_kl", 0.02, True),
        ("approx_kl", 0.03, True),
        ("approx_kl", 0.04, False),
        ("approx_kl", np.nan, True),
        ("log_ratio", -0.02, True),  # of the log-ratio's negative mean, which may itself be negative
        ("log_ratio", -0.04, False),
        ("log_ratio", 0.04, True),
        ("log_ratio", np.nan, True),
    ],
)
def test_the_kl_is_within_its_target_by_the_estimator_of_the_config(estimator, value, near):
    other = {"approx_kl": "mean_log_ratio", "log_ratio": "approx_kl"}[estimator]
    own = {"approx_kl": "approx_kl", "log_ratio": "mean_log_ratio"}[estimator]
    terms = terms_of(jnp.float32(0)) | {own: jnp.float32(value), other: jnp.float32(9.0 * np.sign(value))}
    assert bool(kl_is_within(terms, np.float32(0.03), estimator)) == near


def runner_of(update, weight, diverged_at=-1):
    state = TrainState(
        params={"w": jnp.float32([1.0, weight])},
        opt_state=(jnp.int32(update),),
        obs_moments=None,
        reward_moments=None,
        update=jnp.int32(update),
        diverged_at=jnp.int32(diverged_at),
        learning_rate=None,
    )
    key = jax.random.key(7)
    return RunnerState(train_state=state, env_state=jnp.int32(update), obs=jnp.float32(update), episode=None, key=key)


@pytest.mark.parametrize("weight", [jnp.nan, jnp.inf, -jnp.inf])
def test_an_update_that_is_not_finite_is_not_applied(weight):
    before, good, bad = runner_of(4, 2.0), runner_of(5, 3.0), runner_of(5, weight)
    assert bool(all_finite(good))
    assert not bool(all_finite(bad))
    assert_equal_runners(keep_finite(before, good), good)
    frozen = runner_of(4, 2.0, diverged_at=4)
    assert_equal_runners(keep_finite(before, bad), frozen)
    assert_equal_runners(keep_finite(frozen, good), frozen)  # for good
    assert_equal_runners(keep_finite(runner_of(0, 2.0, diverged_at=0), runner_of(1, 3.0)), runner_of(0, 2.0, 0))


def assert_equal_runners(one, other):
    assert_equal_trees(one.replace(key=None), other.replace(key=None))


@pytest.mark.parametrize("traced", [False, True])
def test_with_an_infinite_target_the_parameters_are_those_without_one_bit_for_bit(traced):
    step, learned = learner(PPOConfig())
    batch, indices = batch_of(3), ordered(shuffled_indices(jax.random.key(1), EPOCHS, MINIBATCHES, 24))

    def epoch(learned, chosen):
        return update_epoch(step, batch, learned, chosen)

    if traced:
        within = jax.jit(lambda target: within_kl(epoch, target, learned, indices))(jnp.inf)
    else:
        within = jax.jit(lambda x: within_kl(epoch, jnp.inf, learned, x))(indices)
    plain = jax.jit(lambda x: update_epochs(epoch, learned, x))(indices)
    assert float(jnp.abs(unpack(plain[0][0])["w"]).max()) > 0.1
    assert_equal_trees(within[0], plain[0])
    # The means of the terms are quotients there and products with 1 / n here.
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-6), within[1], plain[1])


def test_every_leaf_has_a_buffer_of_its_own():
    shared = jnp.arange(3.0)
    copies = own_buffers({"a": shared, "b": shared})
    assert len({x.unsafe_buffer_pointer() for x in (shared, *copies.values())}) == 3
    assert_equal_trees(copies, {"a": shared, "b": shared})
