import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from purejaxppo.ppo.shuffle import SHORT, long_permutation, short_permutation, shuffled_indices


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


@pytest.mark.parametrize(("n", "permute"), [(SHORT, short_permutation), (SHORT + 64, long_permutation)])
def test_short_batches_are_sorted_and_long_ones_are_not(n, permute):
    key = jax.random.key(5)
    expected = permute(jax.random.split(key, 1)[0], n)
    np.testing.assert_array_equal(shuffled_indices(key, 1, 4, n).ravel(), expected)
