"""Packed arrays in a scan give the same bits as separate ones."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from purejaxppo.utils.packed import SMALL, pack, unpack


def outputs(x):
    """Every kind of output that a step may have, from one number."""
    return {
        "float": (x, x * jnp.arange(6.0).reshape(2, 3)),
        "flag": (x > 2, jnp.arange(5) > x),
        "integer": jnp.int32(x) - 3,
        "byte": jnp.full(2, x).astype(jnp.uint8),
        "half": jnp.bfloat16(x),
        "nothing": (),
        "large": jnp.full(SMALL + 1, x),
        "constant": 0.5,
        "empty": jnp.zeros((0, 2)),
    }


def plain(x):
    return jax.lax.scan(lambda total, y: (total + y, outputs(total + y)), 0.0, x)


def packed(x):
    total, y = jax.lax.scan(lambda total, y: (total + y, pack(outputs(total + y))), 0.0, x)
    return total, unpack(y)


@pytest.mark.parametrize("transform", [lambda f: f, jax.jit, jax.vmap], ids=["as it is", "jit", "vmap"])
def test_packed_outputs_are_those_of_a_plain_scan(transform):
    x = jnp.array([1.5, -0.0, jnp.nan, 2.0**-140, jnp.inf])
    x = jnp.stack([x, x + 1.0]) if transform is jax.vmap else x
    got, wanted = transform(packed)(x), transform(plain)(x)
    assert jax.tree.structure(got) == jax.tree.structure(wanted)
    for one, other in zip(jax.tree.leaves(got), jax.tree.leaves(wanted), strict=True):
        assert (one.dtype, one.shape) == (other.dtype, other.shape)
        assert np.asarray(one).tobytes() == np.asarray(other).tobytes()


@pytest.mark.parametrize("max_size", [0, 1, 2, 6, SMALL])
@pytest.mark.parametrize("transform", [lambda f: f, jax.jit, jax.vmap], ids=["as it is", "jit", "vmap"])
def test_unpack_is_the_inverse_of_pack(max_size, transform):
    x = jnp.float32(2.5)[None] if transform is jax.vmap else jnp.float32(2.5)
    got, wanted = (transform(f)(x) for f in (lambda x: unpack(pack(with_key(x), max_size)), with_key))
    assert jax.tree.structure(got) == jax.tree.structure(wanted)
    for one, other in zip(jax.tree.leaves(got), jax.tree.leaves(jax.tree.map(jnp.asarray, wanted)), strict=True):
        assert (one.dtype, one.shape) == (other.dtype, other.shape)
        assert bool(jnp.all(one == other))


def with_key(x):
    return outputs(x) | {"key": jax.random.key(x.astype(int))}


def test_a_turn_stacks_one_array_of_each_dtype_and_the_large_ones():
    stacked = jax.eval_shape(lambda: pack(outputs(jnp.float32(1.0))))
    shapes = sorted((str(x.dtype), x.shape) for x in jax.tree.leaves(stacked))
    assert shapes == [
        ("bfloat16", (1,)),
        ("float32", (8,)),
        ("float32", (SMALL + 1,)),
        ("int32", (7,)),
        ("uint8", (2,)),
    ]


def test_gradients_go_through_packed_outputs():
    def loss(scan):
        return lambda x: jnp.sum(jnp.sin(scan(x)[1]["float"][1]))

    x = jnp.array([1.0, 2.0, 3.0])
    wanted = jax.grad(loss(plain))(x)
    assert np.abs(wanted).min() > 0
    np.testing.assert_array_equal(jax.grad(loss(packed))(x), wanted)
