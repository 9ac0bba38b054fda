import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.stats

from purejaxppo.ppo.config import PPOConfig
from purejaxppo.ppo.optimizer import make_optimizer, scale_by_given_rate
from purejaxppo.ppo.shuffle import long_permutation, short_permutation, shuffled_indices
from purejaxppo.ppo.types import Batch, RunnerState, TrainState
from purejaxppo.ppo.update import (
    Order,
    all_finite,
    apply_gradient,
    epochs_within_kl,
    keep_finite,
    kl_is_within,
    minibatches_within_kl,
    update_epoch,
    update_epochs,
    update_minibatch,
)

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


def adam(param, gradients, rate, max_norm, eps=1e-5, first=0.9, second=0.999):
    """Kingma and Ba 2015, algorithm 1, on gradients scaled to a global norm of at most max_norm. float64"""
    param = {name: np.asarray(x, np.float64) for name, x in param.items()}
    mean, square = ({name: np.zeros(x.shape) for name, x in param.items()} for _ in range(2))
    for step, gradient in enumerate(gradients, 1):
        norm = sum((np.asarray(g, np.float64) ** 2).sum() for g in gradient.values()) ** 0.5
        for name in param:
            g = np.asarray(gradient[name], np.float64) * min(1.0, max_norm / norm)
            mean[name] = first * mean[name] + (1 - first) * g
            square[name] = second * square[name] + (1 - second) * g**2
            unbiased = square[name] / (1 - second**step)
            param[name] = param[name] - rate * (mean[name] / (1 - first**step)) / (unbiased**0.5 + eps)
    return param


def linear_loss(params, gradient, key):
    # Its gradient is `gradient`.
    loss = sum(jnp.sum(params[name] * gradient[name]) for name in params)
    return loss, terms_of(loss)


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

    return step, (params, optimizer.init(params))


def assert_equal_trees(one, other):
    assert jax.tree.structure(one) == jax.tree.structure(other)
    jax.tree.map(np.testing.assert_array_equal, one, other)


@pytest.mark.parametrize(("epochs", "minibatches", "samples"), [(1, 1, 1), (4, 4, 512), (3, 2, 6), (10, 1, 30)])
def test_each_epoch_is_a_permutation(epochs, minibatches, samples):
    indices = shuffled_indices(jax.random.key(0), epochs, minibatches, samples)
    assert indices.shape == (epochs, minibatches, samples // minibatches)
    assert indices.dtype == jnp.int32
    for epoch in indices.reshape(epochs, -1):
        assert sorted(epoch.tolist()) == list(range(samples))


def test_epochs_and_keys_differ():
    indices = np.concatenate([shuffled_indices(jax.random.key(k), 4, 4, 128).reshape(4, -1) for k in range(3)])
    assert len({tuple(epoch) for epoch in indices.tolist()}) == 12
    np.testing.assert_array_equal(shuffled_indices(jax.random.key(2), 4, 4, 128).reshape(4, -1), indices[8:])


def test_permutations_are_uniform_and_epochs_independent():
    keys = jax.random.split(jax.random.key(0), 8000)
    shuffled = jax.jit(jax.vmap(lambda key: shuffled_indices(key, 2, 2, 4).reshape(2, 4)))(keys)
    first, second = np.asarray(shuffled).transpose(1, 0, 2)
    for epoch in (first, second):  # each of the 24 orders as often
        counts = np.unique(epoch, axis=0, return_counts=True)[1]
        assert len(counts) == 24
        assert scipy.stats.chisquare(counts).pvalue > 0.01
    for position in range(4):  # and every sample as often in every position
        assert scipy.stats.chisquare(np.bincount(first[:, position], minlength=4)).pvalue > 0.01
    both = np.zeros((4, 4))
    np.add.at(both, (first[:, 0], second[:, 0]), 1)
    assert scipy.stats.chisquare(both.ravel()).pvalue > 0.01


def test_positions_in_a_large_batch_are_uniform():
    keys = jax.random.split(jax.random.key(1), 4000)
    shuffled = np.asarray(jax.jit(jax.vmap(lambda key: shuffled_indices(key, 1, 4, 100).ravel()))(keys))
    for position in (0, 42, 99):
        assert scipy.stats.chisquare(np.bincount(shuffled[:, position], minlength=100)).pvalue > 0.01


@pytest.mark.parametrize("n", [1, 2, 3, 5, 64, 511, 512])
def test_short_permutations_hold_every_number_once(n):
    rows = jax.jit(jax.vmap(lambda key: short_permutation(key, n)))(jax.random.split(jax.random.key(n), 200))
    assert rows.dtype == jnp.int32
    np.testing.assert_array_equal(np.sort(rows, axis=1), np.broadcast_to(np.arange(n), (200, n)))


@pytest.mark.parametrize("permute", [short_permutation, jax.random.permutation])
@pytest.mark.parametrize(("n", "orders"), [(3, 6), (5, 120)])
def test_short_permutations_and_those_of_jax_are_uniform(permute, n, orders):
    rows = jax.jit(jax.vmap(lambda key: permute(key, n)))(jax.random.split(jax.random.key(2), 12_000))
    counts = np.unique(rows, axis=0, return_counts=True)[1]
    assert len(counts) == orders
    assert scipy.stats.chisquare(counts).pvalue > 0.01


def test_neighbours_in_a_short_permutation_of_512_are_independent():
    rows = np.asarray(
        jax.jit(jax.vmap(lambda key: short_permutation(key, 512)))(jax.random.split(jax.random.key(3), 500))
    )
    quarters = np.zeros((4, 4))
    np.add.at(quarters, (rows[:, ::2].ravel() // 128, rows[:, 1::2].ravel() // 128), 1)
    expected = np.full((4, 4), 128 / 511) - np.eye(4) / 511  # without replacement
    assert scipy.stats.chisquare(quarters.ravel(), 500 * 256 * expected.ravel() / 4).pvalue > 0.01


def test_of_two_numbers_with_the_same_random_bits_either_is_first_as_often(monkeypatch):
    monkeypatch.setattr(jax.random, "bits", lambda key, shape: jnp.zeros(shape, jnp.uint32).at[-1].set(key))
    rows = np.stack([short_permutation(jnp.uint32(mask), 8) for mask in range(8)])
    place = np.argsort(rows, axis=1)
    for i in range(8):
        assert all((place[:, i] < place[:, j]).sum() == 4 for j in range(8) if i != j)


@pytest.mark.parametrize(("permute", "n"), [(short_permutation, 512), (long_permutation, 1024)])
def test_permutations_promote_no_dtype(permute, n):
    with jax.numpy_dtype_promotion("strict"):
        assert sorted(permute(jax.random.key(0), n).tolist()) == list(range(n))


@pytest.mark.parametrize("n", [513, 576, 1024, 30 * 31, 3 * 8192])
def test_long_permutations_hold_every_number_once(n):
    rows = np.asarray(shuffled_indices(jax.random.key(n), 20, 1, n)).reshape(20, n)
    np.testing.assert_array_equal(np.sort(rows, axis=1), np.broadcast_to(np.arange(n), (20, n)))
    assert len({tuple(row) for row in rows.tolist()}) == 20
    assert rows.dtype == np.int32


def test_samples_that_fill_no_table_are_permuted_by_jax():
    key = jax.random.key(4)
    np.testing.assert_array_equal(long_permutation(key, 2 * 521), jax.random.permutation(key, 2 * 521))
    assert not np.array_equal(long_permutation(key, 1024), jax.random.permutation(key, 1024))


@pytest.fixture(scope="module")
def places():
    """The place of each number of a table of 24 x 24, [keys, n]."""
    n, keys = 576, jax.random.split(jax.random.key(6), 40_000)
    return {
        permute.__name__: np.argsort(jax.jit(jax.vmap(lambda key, f=permute: f(key, n)))(keys), axis=1)
        for permute in (long_permutation, jax.random.permutation)
    }


# Corners of a rectangle in the table, neighbours and far ones: what few rounds would leave together.
GROUPS = {
    "in a row": (0, 1),
    "far in a row": (24, 40),
    "in a column": (3, 27),
    "far in a column": (5, 24 * 17 + 5),
    "across": (0, 25),
    "three in a row": (48, 49, 50),
    "rectangle": (0, 7, 24 * 5, 24 * 5 + 7),
    "square": (100, 101, 124, 125),
}


@pytest.mark.parametrize("permute", ["long_permutation", "permutation"])
@pytest.mark.parametrize("group", GROUPS.values(), ids=GROUPS)
def test_numbers_meet_in_a_minibatch_as_often_as_by_chance(permute, group, places):
    minibatch = places[permute][:, group] // 144
    met = np.sum(np.all(minibatch == minibatch[:, :1], axis=1))
    chance = np.prod([(143 - i) / (575 - i) for i in range(len(group) - 1)])
    assert scipy.stats.binomtest(int(met), len(minibatch), chance).pvalue > 0.001


@pytest.mark.parametrize("permute", ["long_permutation", "permutation"])
@pytest.mark.parametrize("number", [0, 77, 575])
def test_a_number_goes_everywhere_as_often(permute, number, places):
    counts = np.bincount(places[permute][:, number], minlength=576)
    assert scipy.stats.chisquare(counts).pvalue > 0.001


@pytest.mark.parametrize("permute", ["long_permutation", "permutation"])
def test_the_distance_of_neighbours_is_that_of_chance(permute, places):
    place = places[permute]
    distance = (place[:, 1::2] - place[:, ::2]) % 576
    counts = np.bincount(distance.ravel(), minlength=576)[1:]
    assert scipy.stats.chisquare(counts).pvalue > 0.001


def test_the_given_rate_scales_and_descends():
    transform = scale_by_given_rate()
    state = transform.init({"w": jnp.ones(2)})
    gradient = {"w": jnp.asarray([2.0, -4.0])}
    for rate in (0.5, 0.25):
        updates, new_state = transform.update(gradient, state, learning_rate=jnp.float32(rate))
        assert updates["w"].tolist() == [-2.0 * rate, 4.0 * rate]
        assert new_state == state
    assert jax.tree.leaves(state) == []


@pytest.mark.parametrize(("max_norm", "clips"), [(0.5, True), (np.inf, False), (1e3, False), (3.0, None)])
def test_steps_agree_with_adam_after_clipping_by_global_norm(max_norm, clips):
    # rejax clips element by element, and so turns the gradient.
    rng = np.random.default_rng(0)
    gradients = [
        {"a": (x * rng.normal(size=(3, 2))).astype(np.float32), "b": (x * rng.normal(size=4)).astype(np.float32)}
        for x in (3.0, 0.3, 10.0, 1.0, 0.5)
    ]
    norms = [np.sqrt(sum((g**2).sum() for g in gradient.values())) for gradient in gradients]
    assert {max_norm < norm for norm in norms} == ({True, False} if clips is None else {clips})
    optimizer = make_optimizer(PPOConfig(max_grad_norm=max_norm))
    params = {"a": jnp.ones((3, 2)), "b": jnp.zeros(4)}
    learned = (params, optimizer.init(params))
    step = jax.jit(lambda learned, gradient: update_minibatch(linear_loss, optimizer, 0.05, learned, gradient, None)[0])
    for count, gradient in enumerate(gradients, 1):
        learned = step(learned, gradient)
        expected = adam(params, gradients[:count], 0.05, max_norm)
        for name in params:
            np.testing.assert_allclose(learned[0][name], expected[name], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("max_norm", [0.5, np.inf])
def test_steps_are_those_of_optax_to_the_bit(max_norm):
    optax_clip, optax_adam = optax.clip_by_global_norm(max_norm), optax.scale_by_adam(eps=1e-5)
    theirs = optax.flatten(optax.chain(optax_clip, optax_adam, scale_by_given_rate()))
    gradients = {"a": jax.random.normal(jax.random.key(0), (20, 8, 4)), "b": jnp.zeros((20, 3))}
    params = jax.tree.map(lambda x: x[0], gradients)

    def descend(optimizer):
        def step(learned, gradient):
            return apply_gradient(optimizer, jnp.float32(0.05), learned, gradient), None

        return jax.jit(lambda: jax.lax.scan(step, (params, optimizer.init(params)), gradients)[0])()

    assert_equal_trees(descend(make_optimizer(PPOConfig(max_grad_norm=max_norm))), descend(theirs))


def test_clipping_keeps_the_direction():
    optimizer = make_optimizer(PPOConfig(max_grad_norm=0.5))
    gradient = {"a": jnp.asarray([3.0, 0.01]), "b": jnp.asarray([4.0])}
    _, state = optimizer.update(gradient, optimizer.init(gradient), gradient, learning_rate=1.0)
    mean = optax.tree.get(state, "mu")  # 0.1 times the clipped gradient, in one vector
    scale = 0.1 * 0.5 / np.sqrt(9 + 1e-4 + 16)
    np.testing.assert_allclose(mean, scale * np.asarray([3.0, 0.01, 4.0]), rtol=1e-5)


def test_adam_eps_is_the_configs():
    gradient = {"w": jnp.asarray([1e-3])}
    for eps in (1e-5, 1e-3):
        optimizer = make_optimizer(PPOConfig(adam_eps=eps))
        updates, _ = optimizer.update(gradient, optimizer.init(gradient), gradient, learning_rate=1.0)
        np.testing.assert_allclose(updates["w"], [-1e-3 / (1e-3 + eps)], rtol=1e-5)


def test_the_terms_are_those_before_the_step():
    step, learned = learner(PPOConfig())
    batch = batch_of(0)
    (params, _), terms = step(learned, batch)
    assert terms["policy_loss"] == quadratic_loss({"w": jnp.zeros(3)}, batch)[0]
    assert quadratic_loss(params, batch)[0] < terms["policy_loss"]


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
    learned, _ = apply_gradient(decay, jnp.float32(1.0), (params, decay.init(params)), gradient)
    np.testing.assert_array_equal(learned, 1.5 * params)


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
    assert float(jnp.abs(plain[0][0]["w"]).max()) > 0.1
    assert_equal_trees(within[0], plain[0])
    # The means of the terms are quotients there and products with 1 / n here.
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-6), within[1], plain[1])
