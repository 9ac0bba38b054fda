import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from purejaxppo.ppo.normalize import (
    discounted_returns,
    init_moments,
    init_obs_moments,
    normalize_obs,
    standard_deviation,
    update_moments,
    update_obs_moments,
)
from purejaxppo.ppo.types import Moments

fast_update = jax.jit(update_moments)


def moments_of(samples, sizes, shape=()):
    moments, start = init_moments(shape), 0
    for size in sizes:
        moments = fast_update(moments, samples[start : start + size])
        start += size
    assert start == len(samples)
    return moments


def draw(seed, count, *shape, mean=0.0, std=1.0):
    return np.random.default_rng(seed).normal(mean, std, size=(count, *shape)).astype(np.float32)


def check_moments(moments, samples, rtol=1e-5):
    exact = samples.astype(np.float64)
    deviation = exact.std(axis=0)
    assert float(moments.count) == len(samples)
    # A mean is as good as its samples: to a few roundings of their size.
    bound = rtol * deviation + 8 * 2.0**-24 * np.abs(exact).max(axis=0)
    assert np.all(np.abs(np.asarray(moments.mean, np.float64) - exact.mean(axis=0)) <= bound)
    np.testing.assert_allclose(moments.square_deviation / moments.count, deviation**2, rtol=rtol)
    np.testing.assert_allclose(standard_deviation(moments), np.sqrt(deviation**2 + 1e-8), rtol=rtol)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    sizes=st.lists(st.sampled_from([1, 2, 7, 32, 128]), min_size=1, max_size=12).filter(lambda x: sum(x) > 1),
    mean=st.sampled_from([0.0, -3.0, 100.0]),
    std=st.sampled_from([0.1, 1.0, 1e3]),
)
def test_any_split_gives_the_moments_of_everything(seed, sizes, mean, std):
    samples = draw(seed, sum(sizes), 3, mean=mean, std=std)
    # The samples of (100, 0.1) are 1000 deviations from 0: one rounding of the mean is 1e-4 of a deviation.
    check_moments(moments_of(samples, sizes, (3,)), samples, rtol=1e-5 + 1e-6 * abs(mean) / std)


@pytest.mark.parametrize(
    "sizes", [(100_000,), (512,) * 195 + (160,), (4,) * 100, (1, 99_999)], ids=["1", "196", "4s", "2"]
)
def test_a_huge_offset_keeps_the_deviation(sizes):
    # The mean of squares less the square of the mean would have an error of 10 beside the variance of 1.
    samples = draw(0, sum(sizes), mean=1e4)
    moments = moments_of(samples, sizes)
    assert abs(float(moments.mean) - samples.mean(dtype=np.float64)) < 5e-3
    np.testing.assert_allclose(standard_deviation(moments), samples.std(dtype=np.float64), rtol=1e-4)


def test_samples_far_from_the_earlier_ones_are_weighed_by_their_number():
    samples = np.concatenate([draw(1, 1000, mean=-50.0), draw(2, 10, mean=1000.0)])
    check_moments(moments_of(samples, (1000, 10)), samples)
    check_moments(moments_of(samples[::-1], (10, 1000)), samples)


def test_leading_axes_are_samples():
    samples = draw(3, 6 * 5, 2)
    got = update_moments(init_moments((2,)), samples.reshape(6, 5, 2))
    check_moments(got, samples)


def test_integer_samples_are_counted_as_floats():
    got = update_moments(init_moments(()), jnp.asarray([1, 2, 3, 6], jnp.int32))
    assert (got.count.dtype, got.mean.dtype, got.square_deviation.dtype) == (jnp.float32,) * 3
    assert (float(got.count), float(got.mean), float(got.square_deviation)) == (4.0, 3.0, 14.0)


@pytest.mark.parametrize("shape", [(), (3,), (2, 2)], ids=str)
def test_no_sample_yet_normalises_nothing(shape):
    moments = init_moments(shape)
    assert float(moments.count) == 0
    np.testing.assert_array_equal(standard_deviation(moments), np.ones(shape))
    obs = draw(4, 5, *shape)
    np.testing.assert_array_equal(normalize_obs(moments, obs), obs)


def test_one_sample_is_its_own_mean():
    moments = update_moments(init_moments(()), jnp.asarray([7.0]))
    assert (float(moments.mean), float(moments.square_deviation)) == (7.0, 0.0)
    np.testing.assert_allclose(standard_deviation(moments), 1e-4, rtol=1e-6)


def test_samples_that_do_not_vary_normalise_to_0():
    moments = update_moments(init_moments((2,)), jnp.full((100, 2), 3.0))
    assert normalize_obs(moments, jnp.full(2, 3.0)).tolist() == [0.0, 0.0]
    assert normalize_obs(moments, jnp.asarray([4.0, 2.0])).tolist() == [10.0, -10.0]


@pytest.mark.parametrize("size", [1, 3, 128, 500])
def test_a_feature_that_never_changes_is_seen_as_exactly_0(size):
    feature = np.asarray([12345.678, 0.1, -3e7, 1e-20, 0.0, 1e6 + 0.3], np.float32)
    batches = np.broadcast_to(feature, (6, size, 6))  # the mean of most is rounded

    def see(batches):
        start = init_obs_moments(batches[0])
        moments, seen = jax.lax.scan(lambda m, obs: (update_obs_moments(m, obs), normalize_obs(m, obs)), start, batches)
        return seen, moments

    several = np.stack([batches, np.float32(0.7) * batches])
    for seen, moments in (jax.jit(see)(batches), jax.jit(jax.vmap(see))(several), see(batches)):
        assert not np.any(seen)
        assert not np.any(moments.square_deviation)
    moments = moments_of(batches.reshape(-1, 6), (size,) * 6, (6,))  # where no observation was there at the start
    np.testing.assert_array_equal(moments.mean, feature)
    assert not np.any(moments.square_deviation)


@pytest.mark.parametrize("last", [20, 500])
def test_a_feature_that_counts_on_from_a_million_has_its_mean_and_deviation(last):
    # The second case is of episodes that grow: the mean has to move by less than one rounding of a million.
    longest = np.linspace(20, last, 4000).astype(int)
    samples = 1e6 + np.random.default_rng(15).integers(0, longest[:, None], (4000, 64)).astype(np.float32)
    moments, _ = jax.jit(lambda x: jax.lax.scan(lambda m, x: (update_moments(m, x), None), init_moments(()), x))(
        samples.astype(np.float32)
    )
    mean, deviation = samples.mean(dtype=np.float64), samples.std(dtype=np.float64)
    assert abs(float(moments.mean) + float(moments.mean_low) - mean) < 1e-3 * deviation
    np.testing.assert_allclose(standard_deviation(moments), deviation, rtol=1e-4)
    probe = np.float32(1e6 + last // 2)
    np.testing.assert_allclose(normalize_obs(moments, probe), (probe - mean) / deviation, atol=1e-3)


def test_moments_keep_their_structure_in_a_scan():
    batches = draw(5, 6, 8, 3)
    scanned, _ = jax.lax.scan(lambda m, x: (update_moments(m, x), None), init_moments((3,)), batches)
    check_moments(scanned, batches.reshape(-1, 3))


def test_obs_are_centred_scaled_and_clipped():
    moments = Moments(count=jnp.float32(4), mean=jnp.asarray([1.0, 2.0]), square_deviation=jnp.asarray([16.0, 1.0]))
    obs = jnp.asarray([[3.0, 2.5], [1.0, 2.0], [1e6, -1e6], [19.0, 2.0 - 4.5]])
    expected = [[1.0, 1.0], [0.0, 0.0], [10.0, -10.0], [9.0, -9.0]]
    np.testing.assert_allclose(normalize_obs(moments, obs), expected, rtol=1e-6)


def test_normalised_samples_have_mean_0_and_deviation_1():
    samples = draw(6, 4096, 3, mean=5.0, std=2.0)
    got = np.asarray(normalize_obs(moments_of(samples, (4096,), (3,)), samples), np.float64)
    np.testing.assert_allclose(got.mean(axis=0), 0.0, atol=1e-5)
    np.testing.assert_allclose(got.std(axis=0), 1.0, rtol=1e-5)


def test_without_moments_obs_are_untouched():
    obs = {"a": jnp.asarray([1e6]), "b": jnp.asarray([3], jnp.int32)}
    assert normalize_obs(None, obs) is obs


def test_every_leaf_has_its_own_moments():
    data = {"far": draw(7, 64, 2, mean=100.0), "near": (draw(8, 64),)}
    moments = {"far": moments_of(data["far"], (64,), (2,)), "near": (moments_of(data["near"][0], (64,)),)}
    got = normalize_obs(moments, data)
    np.testing.assert_array_equal(got["far"], normalize_obs(moments["far"], data["far"]))
    np.testing.assert_array_equal(got["near"][0], normalize_obs(moments["near"][0], data["near"][0]))
    assert float(jnp.abs(got["far"]).max()) < 5


def returns_loop(reward, done, start, gamma):
    out, last = np.zeros(reward.shape), np.zeros(reward.shape[1])
    for b in range(reward.shape[1]):
        running = float(start[b])
        for t in range(reward.shape[0]):
            running = gamma * running + float(reward[t, b])
            out[t, b] = running
            if done[t, b]:
                running = 0.0
        last[b] = running
    return last, out


@pytest.mark.parametrize("gamma", [0.0, 0.5, 0.99, 1.0])
@pytest.mark.parametrize("share", [0.0, 0.15, 1.0])
def test_discounted_returns_agree_with_a_loop(gamma, share):
    rng = np.random.default_rng(9)
    reward, done, start = draw(10, 64, 5), rng.random((64, 5)) < share, draw(11, 5)
    last, returns = discounted_returns(reward, done, start, gamma)
    expected_last, expected = returns_loop(reward, done, start, gamma)
    # At most 64 terms of size 4, two roundings each.
    np.testing.assert_allclose(returns, expected, atol=64 * 4 * 2 * 2.0**-24)
    np.testing.assert_allclose(last, expected_last, atol=64 * 4 * 2 * 2.0**-24)


def test_the_last_reward_is_added_and_then_the_return_is_reset():
    # PureJaxRL and rejax reset first: 1, 2.5, 8, then 0.5 * 8 + 16 = 20, the next episode with the last one's reward.
    reward = jnp.asarray([[1.0], [2.0], [8.0], [16.0]])
    done = jnp.asarray([[False], [False], [True], [False]])
    last, returns = discounted_returns(reward, done, jnp.zeros(1), 0.5)
    assert returns[:, 0].tolist() == [1.0, 2.5, 9.25, 16.0]
    assert last.tolist() == [16.0]


def test_an_episode_that_ends_with_the_rollout_leaves_nothing():
    done = jnp.asarray([[False, False], [True, False]])
    last, returns = discounted_returns(jnp.ones((2, 2)), done, jnp.full(2, 4.0), 0.5)
    assert returns.tolist() == [[3.0, 3.0], [2.5, 2.5]]
    assert last.tolist() == [0.0, 2.5]


def test_two_rollouts_are_one():
    rng = np.random.default_rng(12)
    reward, done, start = draw(13, 10, 3), rng.random((10, 3)) < 0.3, draw(14, 3)
    whole_last, whole = discounted_returns(reward, done, start, 0.9)
    middle, first = discounted_returns(reward[:4], done[:4], start, 0.9)
    last, second = discounted_returns(reward[4:], done[4:], middle, 0.9)
    np.testing.assert_array_equal(jnp.concatenate([first, second]), whole)
    np.testing.assert_array_equal(last, whole_last)
