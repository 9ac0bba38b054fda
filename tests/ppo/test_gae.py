import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import rlax
from hypothesis import example, given, settings
from hypothesis import strategies as st

import purejaxppo as pjp
from purejaxppo.ppo.gae import backward_sums_in_parallel, gae, reward_to_go

UNIT_ROUNDOFF = 2.0**-24  # of float32
FLAGS = {"none": (0.0, 0.0), "terminated": (0.2, 0.0), "truncated": (0.0, 0.2), "both": (1.0, 1.0), "mixed": (0.2, 0.2)}
NAMES = ("reward", "value", "next_value", "terminated", "truncated")
fast_gae = jax.jit(gae)


def draw(seed, shape, flags="mixed", scale=1.0):
    rng = np.random.default_rng(seed)
    reward, value, next_value = (scale * rng.normal(size=(3, *shape))).astype(np.float32)
    if flags == "both":  # a step has both flags or neither
        terminated = truncated = rng.random(shape) < 0.2
    else:
        terminated, truncated = (rng.random(shape) < share for share in FLAGS[flags])
    return reward, value, next_value, terminated, truncated


def loop(reward, value, next_value, terminated, truncated, gamma, gae_lambda):
    # The textbook's backward recursion in Python floats, and the same over absolute values: the size of the sums.
    gamma, gae_lambda = float(np.float32(gamma)), float(np.float32(gae_lambda))
    advantage, size = np.zeros(reward.shape), np.zeros(reward.shape)
    for b in range(reward.shape[1]):
        later = later_size = 0.0
        for t in reversed(range(reward.shape[0])):
            r, v, v_next = float(reward[t, b]), float(value[t, b]), float(next_value[t, b])
            if terminated[t, b]:
                delta, delta_size = r - v, abs(r) + abs(v)
            else:
                delta, delta_size = r + gamma * v_next - v, abs(r) + gamma * abs(v_next) + abs(v)
            if terminated[t, b] or truncated[t, b]:
                later = later_size = 0.0
            later = delta + gamma * gae_lambda * later
            later_size = delta_size + gamma * gae_lambda * later_size
            advantage[t, b], size[t, b] = later, later_size
    return advantage, size


def column(*numbers, dtype=jnp.float32):
    return jnp.asarray(numbers, dtype)[:, None]


def hand(terminated=(False, False), truncated=(False, False), next_value=(1.0, 3.0), gae_lambda=0.5):
    # reward 1, 2; V(s_t) 0.5, 1; gamma 1/2: every number below is exact in float32.
    advantage = gae(
        column(1.0, 2.0),
        column(0.5, 1.0),
        column(*next_value),
        column(*terminated, dtype=bool),
        column(*truncated, dtype=bool),
        gamma=0.5,
        gae_lambda=gae_lambda,
    )
    return advantage[:, 0].tolist()


@settings(max_examples=100, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    steps=st.sampled_from([1, 2, 3, 7, 16, 64, 256]),
    envs=st.sampled_from([1, 2, 5, 8]),
    gamma=st.sampled_from([0.0, 1.0, 0.99]) | st.floats(0, 1, width=32, allow_subnormal=False),
    gae_lambda=st.sampled_from([0.0, 1.0, 0.95]) | st.floats(0, 1, width=32, allow_subnormal=False),
    flags=st.sampled_from(sorted(FLAGS)),
    scale=st.sampled_from([1e-3, 1.0, 1e3]),
)
@example(seed=0, steps=256, envs=8, gamma=1.0, gae_lambda=1.0, flags="none", scale=1.0)
@example(seed=1, steps=16, envs=2, gamma=0.0, gae_lambda=0.0, flags="mixed", scale=1.0)
def test_agrees_with_a_float64_loop(seed, steps, envs, gamma, gae_lambda, flags, scale):
    data = draw(seed, (steps, envs), flags, scale)
    expected, size = loop(*data, gamma, gae_lambda)
    got = np.asarray(fast_gae(*data, gamma=gamma, gae_lambda=gae_lambda), np.float64)
    # Three roundings make delta, and three more each step back (gamma lambda, the product, the sum): an error of at
    # most 3 (remaining + 1) roundoffs of the sum of absolute values, to first order; 4 leaves room for the higher ones.
    remaining = np.arange(steps, 0, -1)[:, None]
    assert np.all(np.abs(got - expected) <= 4 * (remaining + 1) * UNIT_ROUNDOFF * size + 1e-36)


@pytest.mark.parametrize(("steps", "gamma"), [(1, 0.9), (7, 1.0), (128, 0.99)])
@pytest.mark.parametrize("flags", ["none", "mixed"])
def test_sums_in_parallel_agree_with_a_float64_loop(steps, gamma, flags):
    reward, value, next_value, terminated, truncated = draw(3, (steps, 4), flags)
    delta = reward + np.float32(gamma) * np.where(terminated, np.float32(0), next_value) - value
    trace = np.where(terminated | truncated, np.float32(0), np.float32(gamma) * np.float32(0.95))
    expected, size = (np.zeros((steps + 1, 4)) for _ in range(2))
    for t in reversed(range(steps)):
        expected[t] = delta[t] + trace[t].astype(np.float64) * expected[t + 1]
        size[t] = abs(delta[t]) + trace[t].astype(np.float64) * size[t + 1]
    got = np.asarray(jax.jit(backward_sums_in_parallel)(delta, trace), np.float64)
    remaining = np.arange(steps, 0, -1)[:, None]
    assert np.all(np.abs(got - expected[:-1]) <= 2 * (remaining + 1) * UNIT_ROUNDOFF * size[:-1])


def test_a_cpu_sums_in_a_loop_and_a_gpu_without_one():
    traced = jax.jit(functools.partial(gae, gamma=0.9, gae_lambda=0.9)).trace(*draw(4, (16, 2)))
    programs = {name: traced.lower(lowering_platforms=(name,)).as_text() for name in ("cpu", "cuda")}
    assert {name: "while" in text for name, text in programs.items()} == {"cpu": True, "cuda": False}


def test_hand_worked_without_flags():
    # delta = 1 + 0.5 - 0.5 = 1 and 2 + 1.5 - 1 = 2.5; A_0 = 1 + 0.25 * 2.5
    assert hand() == [1.625, 2.5]


def test_hand_worked_termination():
    # delta_0 = 1 - 0.5, and nothing of the next episode
    assert hand(terminated=(True, False)) == [0.5, 2.5]


def test_hand_worked_truncation():
    # delta_0 = 1 + 0.5 * 4 - 0.5, with V of the final observation 4, and nothing of the next episode
    assert hand(truncated=(True, False), next_value=(4.0, 3.0)) == [2.5, 2.5]


def test_hand_worked_both_flags_are_a_termination():
    assert hand(terminated=(True, False), truncated=(True, False), next_value=(4.0, 3.0)) == [0.5, 2.5]


def test_lambda_is_in_the_trace():
    # Brax leaves it out of the policy's advantage: A_0 = 1 + 0.5 * 2.5 = 2.25 for every lambda.
    assert [hand(gae_lambda=x)[0] for x in (0.0, 0.25, 0.5, 1.0)] == [1.0, 1.3125, 1.625, 2.25]


def test_lambda_0_is_the_temporal_difference():
    reward, value, next_value, terminated, truncated = draw(2, (16, 3))
    got = gae(reward, value, next_value, terminated, truncated, gamma=0.9, gae_lambda=0.0)
    np.testing.assert_allclose(got, reward + 0.9 * next_value * ~terminated - value, rtol=1e-6, atol=1e-6)


def test_lambda_1_is_the_discounted_return_less_the_value():
    reward = np.asarray([[1.0], [2.0], [4.0]], np.float32)
    value = np.asarray([[10.0], [20.0], [30.0]], np.float32)
    next_value = np.asarray([[20.0], [30.0], [8.0]], np.float32)
    no = np.zeros((3, 1), bool)
    got = gae(reward, value, next_value, no, no, gamma=0.5, gae_lambda=1.0)
    assert got[:, 0].tolist() == [1 + 1 + 1 + 1 - 10, 2 + 2 + 2 - 20, 4 + 4 - 30]


def test_truncation_bootstraps_from_the_next_value():
    # Brax takes V(s_t) or 0 instead: 1 + 0.5 * 0.5 - 0.5 = 0.75 or 0.5, whatever the final observation.
    got = [hand(truncated=(True, False), next_value=(v, 3.0))[0] for v in (0.0, 4.0, -8.0)]
    assert got == [0.5, 2.5, -3.5]


def test_truncation_is_not_zeroed():
    reward, value, next_value, _, _ = draw(3, (8, 2))
    no, always = np.zeros((8, 2), bool), np.ones((8, 2), bool)
    got = gae(reward, value, next_value, no, always, gamma=0.9, gae_lambda=0.95)
    np.testing.assert_allclose(got, reward + 0.9 * next_value - value, rtol=1e-6, atol=1e-6)


def test_termination_in_the_last_step_is_not_bootstrapped():
    # Spinning Up bootstraps it: A_1 = 2 + 1.5 - 1 = 2.5.
    assert hand(terminated=(False, True)) == [1.25, 1.0]


def test_truncation_in_the_last_step_is_bootstrapped():
    assert hand(truncated=(False, True)) == hand() == [1.625, 2.5]


def test_nothing_crosses_the_end_of_an_episode():
    reward, value, next_value, _, _ = draw(4, (6, 2))
    ends, no = np.zeros((6, 2), bool), np.zeros((6, 2), bool)
    ends[2] = True
    for terminated, truncated in ((ends, no), (no, ends), (ends, ends)):
        first = gae(reward, value, next_value, terminated, truncated, gamma=0.9, gae_lambda=0.9)
        second = gae(
            reward, value + (np.arange(6) > 2)[:, None], next_value, terminated, truncated, gamma=0.9, gae_lambda=0.9
        )
        np.testing.assert_array_equal(first[:3], second[:3])
        assert np.all(np.asarray(first[3:]) != np.asarray(second[3:]))


@pytest.mark.parametrize("poison", [np.nan, np.inf])
def test_the_value_after_a_termination_is_not_looked_at(poison):
    assert hand(terminated=(True, False), next_value=(poison, 3.0)) == [0.5, 2.5]


def test_no_gradient_flows_through_the_value_after_a_termination():
    reward, value, next_value, terminated, truncated = draw(5, (16, 3))
    slope = jax.grad(lambda v: gae(reward, value, v, terminated, truncated, gamma=0.9, gae_lambda=0.9).sum())(
        next_value
    )
    np.testing.assert_array_equal(np.asarray(slope) == 0.0, terminated)


@pytest.mark.parametrize("ends", ["none", "terminated"])
def test_agrees_with_rlax_on_one_trajectory(ends):
    reward, value, _, terminated, truncated = (x[:, 0] for x in draw(6, (64, 1), ends))
    values = np.append(value, np.float32(0.7))
    got = gae(reward, value, values[1:], terminated, truncated, gamma=0.97, gae_lambda=0.9)
    discounts = (0.97 * ~terminated).astype(np.float32)
    expected = rlax.truncated_generalized_advantage_estimation(reward, discounts, 0.9, values)
    assert terminated.any() == (ends == "terminated")
    np.testing.assert_allclose(got, expected, rtol=2e-5, atol=2e-5)


def test_agrees_with_rlax_on_the_segments_between_truncations():
    reward, value, final_value, terminated, truncated = (x[:, 0] for x in draw(7, (64, 1)))
    truncated[-1] = True
    next_value = np.where(truncated, final_value, np.append(value[1:], np.float32(0)))
    got = gae(reward, value, next_value, terminated, truncated, gamma=0.97, gae_lambda=0.9)
    cuts = np.flatnonzero(truncated) + 1
    expected = [
        rlax.truncated_generalized_advantage_estimation(
            reward[start:stop],
            (0.97 * ~terminated[start:stop]).astype(np.float32),
            0.9,
            np.append(value[start:stop], final_value[stop - 1]),
        )
        for start, stop in zip([0, *cuts[:-1]], cuts, strict=True)
    ]
    assert len(expected) > 5
    assert (terminated & ~truncated).sum() > 3
    np.testing.assert_allclose(got, np.concatenate(expected), rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("shape", [(7,), (7, 2, 3)])
def test_takes_any_shape_with_time_first(shape):
    data = draw(8, shape)
    got = gae(*data, gamma=0.9, gae_lambda=0.8)
    flat = gae(*(x.reshape(7, -1) for x in data), gamma=0.9, gae_lambda=0.8)
    assert got.shape == shape
    np.testing.assert_array_equal(got.reshape(7, -1), flat)


def test_gamma_and_lambda_may_be_traced():
    data = draw(9, (7, 2))
    gammas, lambdas = jnp.asarray([0.0, 0.5, 1.0]), jnp.asarray([1.0, 0.5, 0.9])
    many = jax.vmap(lambda g, x: gae(*data, gamma=g, gae_lambda=x))(gammas, lambdas)
    one_by_one = [gae(*data, gamma=float(g), gae_lambda=float(x)) for g, x in zip(gammas, lambdas, strict=True)]
    np.testing.assert_allclose(many, jnp.stack(one_by_one), rtol=1e-5, atol=1e-6)


def test_reward_to_go_agrees_with_a_float64_loop():
    gamma = float(np.float32(0.9))
    for seed, flags in enumerate(sorted(FLAGS)):
        reward, _, next_value, terminated, truncated = draw(seed, (40, 3), flags)
        expected, following = np.zeros(reward.shape), next_value[-1].astype(np.float64)
        for t in reversed(range(len(reward))):
            following = np.where(truncated[t], next_value[t], following)
            following = np.where(terminated[t], 0.0, following)
            following = expected[t] = reward[t] + gamma * following
        got = reward_to_go(reward, next_value, terminated, truncated, gamma=0.9)
        np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("shape", [(7, 2), (2,)])
def test_each_step_or_environment_may_have_its_own_discount(shape):
    reward, value, next_value, terminated, truncated = draw(9, (7, 2))
    gamma = np.random.default_rng(0).uniform(0.5, 1.0, shape).astype(np.float32)
    ends = terminated | truncated
    ends[-1] = True
    following, advantage, expected = np.zeros(2), np.zeros(2), []
    for t in reversed(range(7)):
        discount = np.broadcast_to(gamma, (7, 2))[t].astype(np.float64)
        after = np.where(terminated[t], 0.0, next_value[t])
        following = reward[t] + discount * np.where(ends[t], after, following)
        delta = reward[t] + discount * after - value[t]
        advantage = delta + discount * 0.9 * np.where(ends[t], 0.0, advantage)
        expected.insert(0, (following, advantage))
    flags = (terminated, truncated)
    got = (
        reward_to_go(reward, next_value, *flags, gamma=gamma),
        gae(reward, value, next_value, *flags, gamma=gamma, gae_lambda=0.9),
    )
    np.testing.assert_allclose(np.stack(got, axis=1), expected, rtol=1e-5, atol=1e-5)


def test_reward_to_go_is_gae_at_lambda_one():
    draw = np.random.default_rng(0)
    reward, value, next_value = draw.normal(size=(3, 50, 4)).astype(np.float32)
    terminated, truncated = draw.random((2, 50, 4)) < 0.1
    returns = reward_to_go(reward, next_value, terminated, truncated, gamma=0.9)
    # GAE's values have to be consistent: V(s_{t+1}) of one step is V(s_t) of the next, but where a flag cuts.
    consistent = np.concatenate([next_value[:1] * 0 + value[:1], next_value[:-1]])
    advantage = gae(reward, consistent, next_value, terminated, truncated, gamma=0.9, gae_lambda=1.0)
    np.testing.assert_allclose(advantage + consistent, returns, atol=1e-5)


def calls_with(name, changed):
    """`gae` and `reward_to_go` with one array changed, where they take it."""
    data = dict(zip(NAMES, draw(10, (8, 4)), strict=True))
    data[name] = changed(data[name])
    yield lambda: gae(**data, gamma=0.9, gae_lambda=0.9)
    if name != "value":
        yield lambda: reward_to_go(**{key: x for key, x in data.items() if key != "value"}, gamma=0.9)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("shape", [(1, 4), (8, 1), (8,), (7, 4), (4, 8)])
def test_shapes_that_differ_are_refused(name, shape):
    for call in calls_with(name, lambda x: np.zeros(shape, x.dtype)):
        with pytest.raises(pjp.PPOError, match=f"{name} .*give arrays of one shape"):
            call()


@pytest.mark.parametrize("steps", [np.zeros((0, 4)), np.zeros(0), np.float32(1.0)])
def test_no_step_at_all_is_refused(steps):
    same = {"reward": steps, "next_value": steps, "terminated": steps > 0, "truncated": steps > 0}
    for call in (lambda: gae(value=steps, **same, gamma=0.9, gae_lambda=0.9), lambda: reward_to_go(**same, gamma=0.9)):
        with pytest.raises(pjp.PPOError, match="give arrays of one shape, time first, with at least one step"):
            call()


def test_no_environment_has_no_advantage():
    nothing = np.zeros((8, 0), np.float32)
    assert gae(nothing, nothing, nothing, nothing > 0, nothing > 0, gamma=0.9, gae_lambda=0.9).shape == (8, 0)


def test_python_numbers_are_refused_by_their_names():
    numbers = {"reward": 1.0, "next_value": 1.0, "terminated": 1.0, "truncated": 1.0}
    told = ", ".join(f"{name} float" for name in numbers)
    with pytest.raises(pjp.PPOError, match=f"^{told}: give arrays of one shape"):
        reward_to_go(**numbers, gamma=0.9)


@pytest.mark.parametrize("name", NAMES)
def test_what_is_of_another_kind_is_refused(name):
    kind, wanted = (np.float32, "bools") if name in ("terminated", "truncated") else (np.int32, "floats")
    for call in calls_with(name, lambda x: x.astype(kind)):
        with pytest.raises(pjp.PPOError, match=rf"{name} is {kind.__name__}\[8, 4\]; give {wanted}"):
            call()


def test_the_advantage_of_an_agent_is_gae_with_the_numbers_of_its_config():
    reward, value, next_value, terminated, truncated = map(jnp.asarray, draw(3, (9, 2)))
    filler = jnp.zeros(0)
    steps = pjp.Steps(
        obs=filler, action=filler, parameters=filler, log_prob=filler, next_obs=filler,
        reward=reward, value=value, next_value=next_value, terminated=terminated, truncated=truncated,
    )  # fmt: skip
    config = pjp.PPOConfig(gamma=0.9, gae_lambda=0.7)
    context = pjp.LossContext(**dict.fromkeys(pjp.LossContext._fields))._replace(config=config)
    expected = gae(reward, value, next_value, terminated, truncated, gamma=0.9, gae_lambda=0.7)
    np.testing.assert_array_equal(pjp.gae_advantage(steps, context), expected)
