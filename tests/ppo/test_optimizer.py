import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from purejaxppo.ppo.config import PPOConfig
from purejaxppo.ppo.optimizer import adam_step, clipped, make_optimizer, scale_by_given_rate
from purejaxppo.ppo.update import apply_gradient, update_minibatch
from purejaxppo.utils.packed import pack, unpack


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
    return loss, {}


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
    learned = (pack(params), optimizer.init(params))
    step = jax.jit(lambda learned, gradient: update_minibatch(linear_loss, optimizer, 0.05, learned, gradient, None)[0])
    for count, gradient in enumerate(gradients, 1):
        learned = step(learned, gradient)
        expected = adam(params, gradients[:count], 0.05, max_norm)
        for name in params:
            np.testing.assert_allclose(unpack(learned[0])[name], expected[name], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("max_norm", [0.5, np.inf])
def test_steps_are_those_of_optax_to_the_bit(max_norm):
    optax_clip, optax_adam = optax.clip_by_global_norm(max_norm), optax.scale_by_adam(eps=1e-5)
    theirs = optax.flatten(optax.chain(optax_clip, optax_adam, scale_by_given_rate()))
    gradients = {"a": jax.random.normal(jax.random.key(0), (20, 8, 4)), "b": jnp.zeros((20, 3))}
    params = jax.tree.map(lambda x: x[0], gradients)

    def descend(optimizer):
        def step(learned, gradient):
            return apply_gradient(optimizer, jnp.float32(0.05), learned, gradient), None

        return jax.jit(lambda: jax.lax.scan(step, (pack(params), optimizer.init(params)), gradients)[0])()

    ours = descend(make_optimizer(PPOConfig(max_grad_norm=max_norm)))
    jax.tree.map(np.testing.assert_array_equal, ours, descend(theirs))


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


def central_difference(function, at, along, step=1e-4):
    """Of a function on NumPy's float64."""
    up, down = (function(*(x + sign * step * d for x, d in zip(at, along, strict=True))) for sign in (1.0, -1.0))
    return (up - down) / (2 * step)


@pytest.mark.parametrize("along", np.eye(3).tolist())
def test_the_derivative_of_an_adam_step_is_that_of_finite_differences(along):
    at = (0.3, 0.04, 0.1)
    step, slope = jax.jvp(adam_step, tuple(map(jnp.float32, at)), tuple(map(jnp.float32, along)))
    np.testing.assert_allclose(step, 0.3 / (0.2 + 0.1), rtol=1e-6)
    expected = central_difference(lambda m, v, eps: m / (np.sqrt(v) + eps), at, along)
    np.testing.assert_allclose(slope, expected, rtol=1e-5)


def test_the_derivative_of_an_adam_step_counts_the_root_as_flat_where_it_is_infinite():
    slopes = jax.grad(adam_step, argnums=(0, 1, 2))(0.0, 0.0, 1e-5)
    np.testing.assert_allclose(slopes, (1e5, 0.0, 0.0), rtol=1e-6)


@pytest.mark.parametrize(("max_norm", "slope_of_norm"), [(2.0, 1.0), (50.0, 0.0), (np.inf, 0.0)])
def test_the_derivative_of_clipping_is_that_of_finite_differences(max_norm, slope_of_norm):
    gradient, along = np.array([3.0, 4.0]), np.array([1.0, -0.5])  # of norm 5

    def scaled(x):
        return x * min(1.0, max_norm / np.sqrt((x**2).sum()))

    at = (jnp.asarray(gradient, jnp.float32), jnp.float32(max_norm))
    result, slope = jax.jvp(clipped, at, (jnp.asarray(along, jnp.float32), jnp.float32(0.0)))
    np.testing.assert_allclose(result, scaled(gradient), rtol=1e-6)
    np.testing.assert_allclose(slope, central_difference(scaled, (gradient,), (along,)), rtol=1e-5, atol=1e-6)
    _, slope = jax.jvp(clipped, at, (jnp.zeros(2), jnp.float32(1.0)))
    np.testing.assert_allclose(slope, slope_of_norm * gradient / 5.0, rtol=1e-6)


def test_a_gradient_whose_norm_overflows_is_not_clipped_to_0():
    assert np.isnan(clipped({"a": jnp.full(3, 1e20)}, jnp.float32(0.5))["a"]).all()


def test_the_derivative_of_clipping_is_finite_at_a_gradient_of_0():
    at, along = ({"a": jnp.zeros(2)}, 0.5), ({"a": jnp.array([1.0, 2.0])}, 1.0)
    np.testing.assert_array_equal(jax.jvp(clipped, at, along)[1]["a"], [1.0, 2.0])
