from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from jax.test_util import check_grads

from purejaxppo.policies.distributions import Categorical
from purejaxppo.ppo.config import PPOConfig
from purejaxppo.ppo.losses import (
    LossContext,
    approx_kl,
    clip_fraction,
    clipped_value_loss,
    explained_variance,
    normalized_advantage,
    policy_loss,
    ppo_loss,
    value_loss,
)
from purejaxppo.ppo.types import Batch

TORCH = Path(__file__).parents[1] / "fixtures" / "ppo_loss_torch.npz"
TERMS = ("policy_loss", "value_loss", "entropy", "approx_kl", "clip_fraction")
SWITCHES = [(False, False), (False, True), (True, False), (True, True)]
fast_approx_kl = jax.jit(approx_kl)
fast_normalized_advantage = jax.jit(normalized_advantage)
fast_explained_variance = jax.jit(explained_variance)


def draw(seed, samples=64, actions=4):
    rng = np.random.default_rng(seed)
    numbers = {
        "logits": rng.normal(size=(samples, actions)),
        "value": rng.normal(size=samples),
        "old_log_prob": rng.normal(-1.4, 0.3, size=samples),
        "old_value": rng.normal(size=samples),
        "advantage": 2.0 * rng.normal(size=samples) + 1.0,
        "target": rng.normal(size=samples),
    }
    x = {name: a.astype(np.float32) for name, a in numbers.items()}
    return x | {"action": rng.integers(actions, size=samples).astype(np.int32)}


def batch_of(x):
    return Batch(
        obs=jnp.zeros((len(x["action"]), 1)),
        action=jnp.asarray(x["action"]),
        log_prob=jnp.asarray(x["old_log_prob"]),
        value=jnp.asarray(x["old_value"]),
        advantage=jnp.asarray(x["advantage"]),
        target=jnp.asarray(x["target"]),
    )


def loss_of(x, logits=None, value=None, **options):
    logits = x["logits"] if logits is None else logits
    value = x["value"] if value is None else value
    names = ("clip_eps", "vf_coef", "ent_coef")
    numbers = {"clip_eps": 0.2, "vf_coef": 0.5, "ent_coef": 0.01} | {k: v for k, v in options.items() if k in names}
    context = LossContext(
        config=PPOConfig(**{name: switch for name, switch in options.items() if name not in names}),
        apply=lambda params, obs: params,
        distribution=Categorical,
        params=None,
        modules={},
        key=None,
        update=0,
        **numbers,
    )
    return ppo_loss((jnp.asarray(logits), jnp.asarray(value)), batch_of(x), context)


def by_numpy(x, clip_eps=0.2, vf_coef=0.5, ent_coef=0.01, clip_value=True, normalize_advantage=True):
    # Sample by sample, in Python floats.
    samples = len(x["action"])
    advantage = [float(a) for a in x["advantage"]]
    if normalize_advantage:
        mean = sum(advantage) / samples
        deviation = (sum((a - mean) ** 2 for a in advantage) / samples) ** 0.5
        advantage = [(a - mean) / (deviation + 1e-8) for a in advantage]
    sums = dict.fromkeys((*TERMS, "mean_log_ratio"), 0.0)
    for i in range(samples):
        weights = np.exp(x["logits"][i].astype(np.float64))
        probability = weights / weights.sum()
        log_ratio = np.log(probability[x["action"][i]]) - float(x["old_log_prob"][i])
        ratio = np.exp(log_ratio)
        nearest = min(max(ratio, 1 - clip_eps), 1 + clip_eps)
        sums["policy_loss"] -= min(ratio * advantage[i], nearest * advantage[i])
        value, old, target = (float(x[name][i]) for name in ("value", "old_value", "target"))
        error = (value - target) ** 2
        if clip_value:
            error = max(error, (min(max(value, old - clip_eps), old + clip_eps) - target) ** 2)
        sums["value_loss"] += error / 2
        sums["entropy"] -= (probability * np.log(probability)).sum()
        sums["approx_kl"] += ratio - 1 - log_ratio
        sums["mean_log_ratio"] += log_ratio
        sums["clip_fraction"] += abs(ratio - 1) > clip_eps
    terms = {name: total / samples for name, total in sums.items()}
    return terms["policy_loss"] + vf_coef * terms["value_loss"] - ent_coef * terms["entropy"], terms


@pytest.mark.parametrize(("clip_value", "normalize_advantage"), SWITCHES)
@pytest.mark.parametrize("seed", range(3))
def test_the_loss_agrees_with_numpy(seed, clip_value, normalize_advantage):
    x = draw(seed)
    options = {
        "clip_eps": 0.3,
        "vf_coef": 0.7,
        "ent_coef": 0.05,
        "clip_value": clip_value,
        "normalize_advantage": normalize_advantage,
    }
    loss, terms = loss_of(x, **options)
    expected_loss, expected = by_numpy(x, **options)
    assert 0.1 < expected["clip_fraction"] < 0.9
    np.testing.assert_allclose(loss, expected_loss, rtol=1e-5, atol=1e-6)
    for name in expected:
        np.testing.assert_allclose(terms[name], expected[name], rtol=1e-5, atol=1e-6, err_msg=name)


def test_clipping_and_normalising_are_on_unless_told():
    x = draw(0)
    assert loss_of(x)[0] == loss_of(x, clip_value=True, normalize_advantage=True)[0]
    assert len({float(loss_of(x, clip_value=c, normalize_advantage=n)[0]) for c, n in SWITCHES}) == 4


@pytest.mark.parametrize(("clip_value", "normalize_advantage"), SWITCHES)
def test_the_loss_and_its_gradients_agree_with_pytorch(clip_value, normalize_advantage):
    with np.load(TORCH) as stored:
        x = dict(stored)
    case = f"clip_value={clip_value},normalize_advantage={normalize_advantage}/"
    options = {name: float(x[name]) for name in ("clip_eps", "vf_coef", "ent_coef")}

    def loss(logits, value):
        return loss_of(x, logits, value, clip_value=clip_value, normalize_advantage=normalize_advantage, **options)

    value_and_grad = jax.jit(jax.value_and_grad(loss, argnums=(0, 1), has_aux=True))
    (got, terms), gradients = value_and_grad(x["logits"], x["value"])
    np.testing.assert_allclose(got, x[case + "loss"], rtol=1e-5)
    for name in TERMS:
        np.testing.assert_allclose(terms[name], x[case + name], rtol=2e-5, err_msg=name)
    for name, gradient in zip(("logits", "value"), gradients, strict=True):
        expected = x[f"{case}{name}_gradient"]
        assert np.abs(expected).max() > 1e-3
        np.testing.assert_allclose(gradient, expected, rtol=1e-4, atol=1e-7, err_msg=name)


@pytest.mark.parametrize(("clip_value", "normalize_advantage"), SWITCHES)
def test_gradients_agree_with_finite_differences(clip_value, normalize_advantage):
    with np.load(TORCH) as stored:  # drawn away from every kink
        x = dict(stored)
    with jax.enable_x64(True):
        check_grads(
            jax.jit(
                lambda logits, value: loss_of(
                    x, logits, value, clip_value=clip_value, normalize_advantage=normalize_advantage
                )[0]
            ),
            (x["logits"].astype(np.float64), x["value"].astype(np.float64)),
            order=1,
            modes=("fwd", "rev"),
            eps=1e-5,
            atol=1e-7,
            rtol=1e-6,
        )


@pytest.mark.parametrize(
    ("ratio", "advantage", "slope"),
    [
        (1.5, 2.0, 0.0),  # a good action, already likelier than 1 + eps: no more
        (0.5, -2.0, 0.0),  # a bad action, already rarer than 1 - eps: no more
        (1.5, -2.0, 2.0),  # a bad action that became likelier: back
        (0.5, 2.0, -2.0),  # a good action that became rarer: back
        (1.1, 2.0, -2.0),
        (0.9, -2.0, 2.0),
        (1.0, 2.0, -2.0),
        (1.0, -2.0, 2.0),
    ],
)
def test_the_clipped_gradient_is_0_on_the_right_side_alone(ratio, advantage, slope):
    got = jax.grad(lambda r: policy_loss(r[None], jnp.asarray([advantage]), 0.2))(jnp.float32(ratio))
    assert float(got) == slope


@pytest.mark.parametrize(("gain", "advantage", "stops"), [(0.5, 1.0, True), (0.5, -1.0, False), (-0.5, -1.0, True)])
def test_a_clipped_sample_gives_the_logits_no_gradient(gain, advantage, stops):
    x = draw(1, samples=1)
    log_prob = Categorical(jnp.asarray(x["logits"])).log_prob(x["action"])
    x |= {"old_log_prob": np.asarray(log_prob) - np.float32(gain), "advantage": np.asarray([advantage], np.float32)}
    slope = jax.grad(lambda z: loss_of(x, z, vf_coef=0.0, ent_coef=0.0, normalize_advantage=False)[0])(x["logits"])
    assert bool(jnp.all(slope == 0)) == stops


@pytest.mark.parametrize(
    ("value", "target", "slope"),
    [
        (1.5, 2.0, 0.0),  # beyond old + eps, towards the target: no more
        (0.5, 0.0, 0.0),  # beyond old - eps, towards the target: no more
        (1.5, 0.0, 1.5),  # beyond old + eps, away from the target: back
        (0.5, 2.0, -1.5),
        (1.1, 2.0, -0.9),  # within eps: the plain gradient
    ],
)
def test_the_clipped_value_gradient_is_0_on_the_right_side_alone(value, target, slope):
    one = jnp.ones(1)
    got = jax.grad(lambda v: clipped_value_loss(v[None], one, target * one, 0.2))(jnp.float32(value))
    np.testing.assert_allclose(got, slope, rtol=1e-6)
    assert (float(got) == 0.0) == (slope == 0.0)


def test_policy_loss_hand_worked():
    ratio, advantage = jnp.asarray([1.5, 1.5, 0.5, 0.5]), jnp.asarray([1.0, -1.0, 1.0, -1.0])
    # min(ratio A, clipped A) = 1.25, -1.5, 0.5, -0.75
    assert float(policy_loss(ratio, advantage, 0.25)) == 0.125


def test_value_losses_hand_worked():
    value, old, target = jnp.asarray([3.0, 3.0]), jnp.asarray([1.0, 1.0]), jnp.asarray([4.0, 0.0])
    assert float(value_loss(value, target)) == (1 + 9) / 4
    # clipped to 1.5: (1.5 - 4)^2 = 6.25 is the larger one, and 1.5^2 = 2.25 the smaller one
    assert float(clipped_value_loss(value, old, target, 0.5)) == (6.25 + 9) / 4


def test_value_clipping_within_eps_changes_nothing():
    x = draw(2)
    near = x["old_value"] + np.clip(x["value"], -0.19, 0.19)
    assert value_loss(near, x["target"]) == clipped_value_loss(near, x["old_value"], x["target"], 0.2)


def test_unchanged_policy_has_no_kl_and_no_clipping():
    x = draw(3)
    x["old_log_prob"] = np.asarray(Categorical(jnp.asarray(x["logits"])).log_prob(x["action"]))
    _, terms = loss_of(x, normalize_advantage=False)
    assert float(terms["approx_kl"]) == 0.0
    assert float(terms["clip_fraction"]) == 0.0
    np.testing.assert_allclose(terms["policy_loss"], -x["advantage"].mean(dtype=np.float64), rtol=1e-6)


def test_unchanged_policy_has_the_policy_gradient():
    x = draw(4)
    x["old_log_prob"] = np.asarray(Categorical(jnp.asarray(x["logits"])).log_prob(x["action"]))
    got = jax.grad(lambda z: loss_of(x, z, ent_coef=0.0, normalize_advantage=False)[0])(x["logits"])
    probability = np.asarray(jax.nn.softmax(x["logits"]), np.float64)
    expected = -x["advantage"][:, None] * (np.eye(4)[x["action"]] - probability) / 64
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-7)


@settings(max_examples=200, deadline=None)
@given(
    size=st.sampled_from([1, 2, 7, 64]),
    scale=st.floats(-12, 1.3).map(lambda x: 10.0**x),
    shift=st.floats(-3, 3),
    seed=st.integers(0, 2**32 - 1),
)
@example(size=1, scale=1e-7, shift=0.0, seed=0)
def test_approx_kl_is_never_negative(size, scale, shift, seed):
    log_ratio = scale * (np.random.default_rng(seed).normal(size=size) + shift)
    got = fast_approx_kl(log_ratio.astype(np.float32))
    assert got >= 0
    assert np.isfinite(got) or log_ratio.max() > 80  # the largest float32 is exp(88.7)


def test_approx_kl_of_small_and_of_large_log_ratios():
    for x in (1e-4, -1e-2, 0.5, -3.0, 10.0):
        exact = np.expm1(np.float64(np.float32(x))) - np.float64(np.float32(x))
        # An error of 4 roundoffs in expm1(x), beside the result x^2 / 2; exp(x) - 1 would have one of a roundoff of 1.
        np.testing.assert_allclose(approx_kl(jnp.asarray([x])), exact, rtol=1e-6 + 8 * 2.0**-24 / abs(x))


def test_approx_kl_estimates_kl_of_old_to_new():
    old, new = np.asarray([0.7, 0.2, 0.1]), np.asarray([0.4, 0.35, 0.25])
    action = np.repeat(np.arange(3), (old * 1000).round().astype(int))  # exactly as often as the old policy draws it
    got = approx_kl(jnp.asarray(np.log(new / old)[action]))
    np.testing.assert_allclose(got, (old * np.log(old / new)).sum(), rtol=1e-5)


def test_clip_fraction_counts_both_sides():
    ratio = jnp.asarray([0.7, 0.9, 1.0, 1.1, 1.3, 5.0, 0.0, 1.0])
    assert float(clip_fraction(ratio, 0.2)) == 4 / 8


def test_normalized_advantage_has_mean_0_and_standard_deviation_1():
    advantage = draw(5)["advantage"]
    got = np.asarray(normalized_advantage(advantage), np.float64)
    exact = advantage.astype(np.float64)
    np.testing.assert_allclose(got, (exact - exact.mean()) / (exact.std() + 1e-8), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose([got.mean(), got.std()], [0.0, 1.0], atol=1e-6)


# The mean of most of these is rounded, so what is left of them beside it is not 0.
EQUAL = (0.0, 1e-18, 0.1, 2.0, 12345.678, 1e6 + 0.3)


def test_advantages_whose_variance_overflows_are_not_normalised_to_0():
    assert np.isnan(normalized_advantage(jnp.array([1e20, -1e20, 3e20]))).all()


@pytest.mark.parametrize("size", [1, 128, 500, 4000])
def test_equal_advantages_are_normalised_to_0_and_explain_nothing(size):
    value = jnp.linspace(-1, 1, size)
    for number in EQUAL:
        equal = jnp.full(size, number)
        for numbers in (equal, equal.at[0].multiply(1 + 2.0**-23)):  # up to rounding
            assert not np.any(fast_normalized_advantage(numbers))
            assert np.isnan(fast_explained_variance(value, numbers))


@pytest.mark.parametrize("function", [normalized_advantage, lambda x: explained_variance(jnp.arange(8.0), x)])
def test_gradients_at_equal_numbers_are_finite(function):
    assert np.all(np.isfinite(jax.grad(lambda x: jnp.nansum(function(x)))(jnp.full(8, 2.0))))


@pytest.mark.parametrize("number", [np.nan, np.inf, -np.inf])
def test_an_advantage_that_is_not_finite_is_not_hidden(number):
    assert np.all(np.isnan(normalized_advantage(jnp.full(8, 2.0).at[3].set(number))))


def test_entropy_lowers_the_loss_and_value_error_raises_it():
    x = draw(6)
    loss, terms = loss_of(x, vf_coef=0.0, ent_coef=0.0)
    assert loss == terms["policy_loss"]
    np.testing.assert_allclose(loss_of(x, vf_coef=0.0, ent_coef=2.0)[0], loss - 2 * terms["entropy"], rtol=1e-6)
    np.testing.assert_allclose(loss_of(x, vf_coef=2.0, ent_coef=0.0)[0], loss + 2 * terms["value_loss"], rtol=1e-6)


def test_explained_variance():
    value, target = jnp.asarray([1.0, 2.0, 3.0, 4.0]), jnp.asarray([2.0, 4.0, 6.0, 8.0])
    assert float(explained_variance(target, target)) == 1.0
    assert float(explained_variance(target + 5.0, target)) == 1.0  # a constant error is no variance
    assert float(explained_variance(jnp.zeros(4), target)) == 0.0
    assert float(explained_variance(value, target)) == 0.75  # 1 - 1.25 / 5
    assert float(explained_variance(-target, target)) == -3.0
    assert float(explained_variance(value / 8, target / 8)) == 0.75  # whatever the scale


@pytest.mark.parametrize("sign", [-1.0, 1.0])
def test_advantages_of_either_sign_that_differ_by_rounding_alone_are_0(sign):
    advantage = np.float32(sign * 12345.678) * np.ones(64, np.float32)
    advantage[::3] = np.nextafter(advantage[0], np.float32(0))
    assert not np.asarray(normalized_advantage(advantage)).any()
    assert np.asarray(normalized_advantage(advantage * np.linspace(1, 1.001, 64, dtype=np.float32))).any()
