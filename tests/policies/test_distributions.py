import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
import scipy.stats

from purejaxppo.policies.distributions import (
    UNROLLED,
    Categorical,
    Joint,
    MultiCategorical,
    invert,
    invert_unrolled,
)

DRAWS = 10**6
BELOW_ONE = float(np.nextafter(np.float32(1), np.float32(0)))
RARE = 1e-4  # about 20 p-values below, of which one in 500 suites would fall under it; 0.4% off in one action does
SIZES = [2, 3, 18]
MASKS = {
    "first of 2": (2, [0]),
    "last of 2": (2, [1]),
    "first": (3, [0]),
    "middle": (3, [1]),
    "last": (3, [2]),
    "all but the middle": (3, [0, 2]),
    "first of 18": (18, [0]),
    "middle of 18": (18, [9]),
    "last of 18": (18, [17]),
    "several of 18": (18, [0, 1, 5, 6, 7, 12, 16, 17]),
    "all but one of 18": (18, [a for a in range(18) if a != 4]),
}
masked = pytest.mark.parametrize(("size", "illegal"), MASKS.values(), ids=MASKS.keys())


def draw_logits(seed, *shape, illegal=()):
    logits = np.random.default_rng(seed).normal(scale=1.5, size=shape).astype(np.float32)
    logits[..., list(illegal)] = -np.inf
    return logits


@jax.jit
def sample_many(logits, key):
    return Categorical(logits).sample(Categorical.noise(key, (DRAWS,)))


@jax.jit
def sample(logits, noise):
    return Categorical(logits).sample(noise)


@jax.jit
def every(logits, noise):
    policy = Categorical(logits)
    action = policy.sample(noise)
    return action, policy.mode(), policy.log_prob(action), policy.entropy()


@pytest.mark.parametrize("size", [1, 2, 7, UNROLLED])
def test_sampling_without_reductions_draws_the_same_actions(size):
    logits = draw_logits(size, 4000, size)
    logits[np.random.default_rng(size).random(logits.shape) < 0.3] = -np.inf
    logits[:, 0] = np.where(np.isinf(logits).all(axis=1), 0.0, logits[:, 0])
    noise = np.random.default_rng(1).random(4000).astype(np.float32)
    noise[:20], noise[20:40] = 0.0, BELOW_ONE
    drawn = jax.jit(invert)(logits, noise)
    np.testing.assert_array_equal(jax.jit(invert_unrolled)(logits, noise), drawn)
    assert len(np.unique(drawn)) == size


@pytest.mark.parametrize("size", SIZES)
def test_log_prob_agrees_with_scipy(size):
    logits = draw_logits(size, 50, size)
    expected = scipy.special.log_softmax(logits.astype(np.float64), axis=-1)
    for action in range(size):
        got = Categorical(jnp.asarray(logits)).log_prob(jnp.full(50, action))
        np.testing.assert_allclose(got, expected[:, action], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("size", SIZES)
def test_entropy_agrees_with_scipy(size):
    logits = draw_logits(size, 50, size)
    expected = scipy.stats.entropy(scipy.special.softmax(logits.astype(np.float64), axis=-1), axis=-1)
    np.testing.assert_allclose(Categorical(jnp.asarray(logits)).entropy(), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("size", SIZES)
def test_a_uniform_policy_has_entropy_log_n(size):
    policy = Categorical(jnp.full(size, 3.0))
    np.testing.assert_allclose(policy.entropy(), np.log(size), rtol=1e-6)
    np.testing.assert_allclose(policy.log_prob(jnp.int32(size - 1)), -np.log(size), rtol=1e-6)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("seed", range(2))
def test_sampling_frequencies_are_the_probabilities(size, seed):
    logits = draw_logits(10 + seed, size)
    counts = np.bincount(sample_many(logits, jax.random.key(seed)), minlength=size)
    expected = DRAWS * scipy.special.softmax(logits.astype(np.float64))
    assert counts.shape == (size,)
    assert expected.min() > 100
    assert scipy.stats.chisquare(counts, expected * (DRAWS / expected.sum())).pvalue > RARE


@pytest.mark.parametrize("size", SIZES)
def test_sampling_inverts_the_distribution_function(size):
    logits = draw_logits(20, size)
    noise = np.linspace(0, 1, 4001, endpoint=False, dtype=np.float32)
    cumulative = np.cumsum(scipy.special.softmax(logits.astype(np.float64)))
    clear = np.abs(noise[:, None] - cumulative[:-1]).min(axis=1) > 1e-6
    expected = np.searchsorted(cumulative[:-1], noise, side="right")
    assert clear.sum() > 3900
    np.testing.assert_array_equal(sample(logits, noise)[clear], expected[clear])


def test_the_boundary_belongs_to_the_next_action():
    quarter = np.float32(0.25)
    noise = np.asarray([0.0, np.nextafter(quarter, np.float32(0)), quarter, 0.5, 0.75, BELOW_ONE], np.float32)
    assert sample(np.zeros(4, np.float32), noise).tolist() == [0, 0, 1, 2, 3, 3]


def test_noise_is_uniform_below_1():
    noise = np.asarray(Categorical.noise(jax.random.key(0), (1000, 100)))
    assert noise.shape == (1000, 100)
    assert noise.dtype == np.float32
    assert noise.min() >= 0
    assert noise.max() < 1
    assert scipy.stats.kstest(noise.ravel(), "uniform").pvalue > RARE


@masked
def test_a_masked_action_is_never_drawn(size, illegal):
    logits = draw_logits(size, size, illegal=illegal)
    counts = np.bincount(sample_many(logits, jax.random.key(size)), minlength=size)
    legal = np.setdiff1d(np.arange(size), illegal)
    assert counts.shape == (size,)
    assert counts[illegal].sum() == 0
    expected = DRAWS * scipy.special.softmax(logits[legal].astype(np.float64))
    if len(legal) > 1:
        assert scipy.stats.chisquare(counts[legal], expected * (DRAWS / expected.sum())).pvalue > RARE


@masked
def test_a_masked_action_is_not_drawn_by_noise_at_the_edges_of_its_interval(size, illegal):
    # 2^-23 wide intervals, that 10^6 draws would miss: the noise within 3 floats of every boundary, for 200 policies.
    logits = draw_logits(30 + size, 200, size, illegal=illegal)
    cumulative = np.cumsum(scipy.special.softmax(logits, axis=-1), axis=-1, dtype=np.float32)
    edges = np.concatenate([np.zeros((200, 1), np.float32), cumulative], axis=-1).view(np.int32)
    noise = np.concatenate([(edges + step).view(np.float32) for step in range(-3, 4)], axis=-1)
    noise = np.clip(np.nan_to_num(noise), np.float32(0), np.float32(BELOW_ONE))
    actions = np.asarray(jax.jit(jax.vmap(jax.vmap(sample, (None, 0))))(logits, noise))
    assert actions.min() >= 0
    assert actions.max() < size
    assert not np.isin(actions, illegal).any()


@pytest.mark.parametrize("size", SIZES)
def test_noise_0_and_the_largest_noise_draw_the_first_and_the_last_action(size):
    logits = draw_logits(40, 500, size)
    assert set(sample(logits, np.zeros(500, np.float32)).tolist()) == {0}
    assert set(sample(logits, np.full(500, BELOW_ONE, np.float32)).tolist()) == {size - 1}


@masked
def test_noise_0_and_the_largest_noise_draw_the_first_and_the_last_legal_action(size, illegal):
    logits = draw_logits(50, 500, size, illegal=illegal)
    legal = np.setdiff1d(np.arange(size), illegal)
    assert set(sample(logits, np.zeros(500, np.float32)).tolist()) == {legal[0]}
    assert set(sample(logits, np.full(500, BELOW_ONE, np.float32)).tolist()) == {legal[-1]}


def test_an_action_whose_probability_rounds_to_0_is_not_drawn():
    logits = np.asarray([[-300.0, 0.0, -300.0], [0.0, -300.0, -300.0]], np.float32)
    for noise in (0.0, 0.5, BELOW_ONE):
        assert sample(logits, np.full(2, noise, np.float32)).tolist() == [1, 0]


def draw_mask(seed, size):
    """A tenth of the actions is legal, the first among them; the last third is not."""
    mask = np.random.default_rng(seed).random(size) < 0.1
    mask[-(size // 3) :], mask[0] = False, True
    return mask


def noise_at_the_boundaries(seed, logits):
    """[N], of the grid that noise is drawn from: its ends, and what is within 4 steps of some actions' intervals."""
    cumulative = np.cumsum(scipy.special.softmax(logits.astype(np.float64)))
    some = np.random.default_rng(seed).choice(np.unique(np.round(cumulative * 2**23)), 36)
    steps = np.concatenate([(some + np.arange(-4, 5)[:, None]).ravel(), [0, 1, 2**23 - 2, 2**23 - 1]])
    return (np.clip(steps, 0, 2**23 - 1) * 2.0**-23).astype(np.float32)


def masked_case(seed, size):
    mask = draw_mask(seed, size)
    logits = draw_logits(seed, size, illegal=np.flatnonzero(~mask))
    return mask, logits, noise_at_the_boundaries(seed, logits)


@pytest.mark.parametrize("size", [729, 2187, 20_000])
def test_a_masked_one_of_many_actions_is_never_drawn(size):
    # XLA sums so many in blocks, and from one action to the next the sums may fall.
    mask, logits, noise = masked_case(size, size)
    actions = np.asarray(sample(jnp.asarray(logits), noise))
    assert mask[actions].all()
    probability = scipy.special.softmax(logits.astype(np.float64))
    upper = np.cumsum(probability)[actions]
    assert np.all((upper - probability[actions] - 1e-6 <= noise) & (noise <= upper + 1e-6))


def test_masked_ones_of_many_actions_are_never_drawn_in_spaces_of_several():
    sizes = (729, 361)
    masks, logits, noise = zip(*(masked_case(size, size) for size in sizes), strict=True)
    noise = jnp.asarray(noise)  # [2, N]
    choices = MultiCategorical(jnp.concatenate(logits), sizes)
    tree = {"a": Categorical(jnp.asarray(logits[0])), "b": choices}
    joint = Joint(tuple(tree.values()), jax.tree.structure(dict.fromkeys(tree, 0)))
    drawn = jax.jit(jax.vmap(joint.sample))({"a": noise[0], "b": noise.T})
    assert masks[0][drawn["a"]].all()
    for i, mask in enumerate(masks):
        assert mask[drawn["b"][:, i]].all()


@masked
def test_masking_leaves_the_distribution_of_the_legal_actions(size, illegal):
    logits = draw_logits(60, size, illegal=illegal)
    legal = np.setdiff1d(np.arange(size), illegal)
    policy, alone = Categorical(jnp.asarray(logits)), Categorical(jnp.asarray(logits[legal]))
    np.testing.assert_allclose(policy.entropy(), alone.entropy(), rtol=1e-6, atol=1e-7)
    for position, action in enumerate(legal):
        np.testing.assert_allclose(
            policy.log_prob(jnp.int32(action)), alone.log_prob(jnp.int32(position)), rtol=1e-6, atol=1e-7
        )
    for action in illegal:
        assert policy.log_prob(jnp.int32(action)) == -jnp.inf


@masked
def test_the_gradient_of_log_prob_is_finite_and_0_at_masked_logits(size, illegal):
    logits = draw_logits(70, size, illegal=illegal)
    legal = np.setdiff1d(np.arange(size), illegal)
    probability = scipy.special.softmax(logits.astype(np.float64))
    for action in legal:
        slope = np.asarray(jax.grad(lambda z, a=action: Categorical(z).log_prob(jnp.int32(a)))(logits))
        np.testing.assert_allclose(slope, (np.arange(size) == action) - probability, rtol=1e-5, atol=1e-6)
        assert np.all(slope[illegal] == 0)


@masked
def test_the_gradient_of_entropy_is_finite_and_0_at_masked_logits(size, illegal):
    logits = draw_logits(80, size, illegal=illegal)
    legal = np.setdiff1d(np.arange(size), illegal)
    slope = np.asarray(jax.grad(lambda z: Categorical(z).entropy())(logits))
    log_prob = scipy.special.log_softmax(logits[legal].astype(np.float64))
    entropy = -(np.exp(log_prob) * log_prob).sum()
    assert np.all(slope[illegal] == 0)
    np.testing.assert_allclose(slope[legal], -np.exp(log_prob) * (log_prob + entropy), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("size", SIZES)
def test_the_gradient_of_entropy_is_that_of_the_formula(size):
    logits = draw_logits(90, size)
    log_prob = scipy.special.log_softmax(logits.astype(np.float64))
    entropy = -(np.exp(log_prob) * log_prob).sum()
    slope = jax.grad(lambda z: Categorical(z).entropy())(logits)
    np.testing.assert_allclose(slope, -np.exp(log_prob) * (log_prob + entropy), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("size", SIZES)
def test_mode_is_the_most_probable_action(size):
    logits = draw_logits(100, 50, size)
    assert Categorical(jnp.asarray(logits)).mode().tolist() == logits.argmax(axis=-1).tolist()


@masked
def test_mode_is_a_legal_action(size, illegal):
    logits = draw_logits(110, 50, size, illegal=illegal) - np.float32(1e6)
    assert not np.isin(Categorical(jnp.asarray(logits)).mode(), illegal).any()


def test_equal_logits_have_the_first_action_as_mode():
    assert Categorical(jnp.asarray([0.0, 2.0, 2.0])).mode() == 1


@pytest.mark.parametrize("shift", [-1e4, 0.0, 1e4])
def test_a_common_shift_of_the_logits_changes_nothing(shift):
    logits = np.asarray([0.0, 1.0, -2.0, 0.5], np.float32)  # exact beside 1e4
    plain, shifted = Categorical(jnp.asarray(logits)), Categorical(jnp.asarray(logits + np.float32(shift)))
    assert shifted.entropy() == plain.entropy()
    assert shifted.log_prob(jnp.int32(2)) == plain.log_prob(jnp.int32(2))


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_huge_logits_stay_finite(sign):
    logits = jnp.asarray([sign * 1e4, 0.0, sign * 5e3])
    best = int(jnp.argmax(logits))
    policy = Categorical(logits)
    gap = [float(logits[best] - x) for x in logits]
    assert [float(policy.log_prob(jnp.int32(a))) for a in range(3)] == [-x for x in gap]
    assert float(policy.entropy()) == 0.0
    assert int(policy.mode()) == best
    assert set(sample(logits, np.asarray([0.0, 0.5, BELOW_ONE], np.float32)).tolist()) == {best}
    for function in (lambda z: Categorical(z).entropy(), lambda z: Categorical(z).log_prob(jnp.int32(1))):
        assert bool(jnp.all(jnp.isfinite(jax.grad(function)(logits))))


@pytest.mark.parametrize("axes", [(), (5,), (2, 3), (2, 1, 4)])
def test_any_leading_axes_are_taken(axes):
    logits = jnp.asarray(draw_logits(120, *axes, 3))
    noise = Categorical.noise(jax.random.key(1), axes)
    got = every(logits, noise)
    assert [x.dtype for x in got] == [jnp.int32, jnp.int32, jnp.float32, jnp.float32]
    assert {x.shape for x in got} == {axes}
    for x, flat in zip(got, every(logits.reshape(-1, 3), noise.ravel()), strict=True):
        np.testing.assert_allclose(np.ravel(x), flat, rtol=1e-6)


def test_vmap_agrees_with_leading_axes():
    logits, noise = jnp.asarray(draw_logits(130, 7, 4, 3)), Categorical.noise(jax.random.key(2), (7, 4))
    for got, expected in zip(jax.jit(jax.vmap(jax.vmap(every)))(logits, noise), every(logits, noise), strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-6)


def test_vmap_over_policies_themselves():
    policies = Categorical(jnp.asarray(draw_logits(140, 7, 3)))
    np.testing.assert_allclose(jax.vmap(lambda policy: policy.entropy())(policies), policies.entropy(), rtol=1e-6)
