"""Products of layers against NumPy in float64."""

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

import purejaxppo as pjp
from purejaxppo.policies.products import MAX_COLUMNS, bfloat16_matmul, product_of_output
from purejaxppo.utils.errors import PPOError

ENV = pjp.make_env("CartPole-v1")
ROUNDED = 2.0**-8  # of a number of bfloat16, relative


def in_float64(x):
    return np.asarray(x, ml_dtypes.bfloat16).astype(np.float64)


def test_it_is_the_product_of_rounded_operands_summed_in_float32_and_so_is_its_derivative():
    rng = np.random.default_rng(0)
    x, y, dx, dy, g = (rng.normal(size=n).astype("f") for n in ((3, 5, 64), (64, 7), (3, 5, 64), (64, 7), (3, 5, 7)))
    product, tangent = jax.jvp(bfloat16_matmul, (x, y), (dx, dy))
    assert product.dtype == tangent.dtype == jnp.float32
    sizes = np.abs(in_float64(x)) @ np.abs(in_float64(y))
    np.testing.assert_array_less(np.abs(product - in_float64(x) @ in_float64(y)), sizes * 64 * 2.0**-24)
    terms = in_float64(dx) @ in_float64(y), in_float64(x) @ in_float64(dy)
    np.testing.assert_allclose(tangent, sum(terms), atol=ROUNDED * max(np.abs(term).max() for term in terms))
    gx, gy = jax.vjp(bfloat16_matmul, x, y)[1](g)
    assert gx.dtype == gy.dtype == jnp.float32
    expected = in_float64(g) @ in_float64(y).T, np.einsum("abk,abn->kn", in_float64(x), in_float64(g))
    for ours, theirs in zip((gx, gy), expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=ROUNDED, atol=1e-5)


@pytest.mark.parametrize("columns", [1, 2, MAX_COLUMNS, MAX_COLUMNS + 1])
@pytest.mark.parametrize("lead", [(), (7,), (3, 5)])
def test_the_product_of_an_output_layer_and_its_derivatives_are_those_of_numpy(columns, lead):
    rng = np.random.default_rng(columns)
    shapes = (*lead, 64), (64, columns), (*lead, 64), (64, columns), (*lead, columns)
    x, y, dx, dy, g = (rng.normal(size=shape).astype("f") for shape in shapes)
    multiply = lambda x, y: product_of_output(x, y, (((x.ndim - 1,), (0,)), ((), ())), precision="highest")  # noqa: E731
    product, tangent = jax.jvp(multiply, (x, y), (dx, dy))
    assert product.shape == (*lead, columns)
    np.testing.assert_allclose(product, x.astype(float) @ y, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(tangent, dx.astype(float) @ y + x.astype(float) @ dy, rtol=1e-5, atol=2e-5)
    gx, gy = jax.vjp(multiply, x, y)[1](g)
    np.testing.assert_allclose(gx, g.astype(float) @ y.T, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(gy, x.reshape(-1, 64).T.astype(float) @ g.reshape(-1, columns), rtol=1e-5, atol=2e-5)


@pytest.mark.parametrize("config_class", [pjp.PPOConfig, pjp.RecurrentConfig])
def test_the_products_of_the_hidden_layers_alone_change_their_type(config_class):
    def network(**fields):
        return pjp.make_ppo(ENV, config_class(hidden_sizes=(8,), **fields)).network

    def types(network):
        params = network.params(jax.random.key(0), jnp.zeros(4))
        assert {x.dtype for x in jax.tree.leaves(params)} == {jnp.dtype("float32")}
        run = lambda params: jax.tree.map(jnp.sum, network.step(params, network.start(), jnp.ones(4)))  # noqa: E731
        assert {x.dtype for x in jax.tree.leaves(jax.eval_shape(run, params))} == {jnp.dtype("float32")}
        gradient = jax.grad(lambda params: sum(jax.tree.leaves(run(params))))
        lines = jax.jit(gradient).lower(params).as_text().splitlines()
        return [line.split(" : ")[1] for line in lines if "dot_general" in line]

    by_type = {name: types(network(compute_dtype=name)) for name in ("float32", "bfloat16")}
    assert types(network()) == by_type["float32"]
    assert not any("bf16" in dot for dot in by_type["float32"])
    assert any("bf16" in dot for dot in by_type["bfloat16"])
    # Operands of mixed types would be multiplied in float32.
    assert not any("bf16" in dot.split("->")[0] and "f32" in dot.split("->")[0] for dot in by_type["bfloat16"])


def test_it_is_refused_beside_a_network_of_your_own():
    own = pjp.make_ppo(ENV, pjp.PPOConfig()).network
    with pytest.raises(PPOError, match=r"compute_dtype = 'bfloat16'.*network"):
        pjp.make_ppo(ENV, pjp.PPOConfig(compute_dtype="bfloat16"), network=own)
