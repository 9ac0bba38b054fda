"""Matrix products of the layers: hidden ones in `compute_dtype`, narrow outputs column by column on a CPU."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.custom_derivatives import SymbolicZero

from purejaxppo.utils.devices import traces_for_cpu

Dimensions = Any  # contracting and batch dimensions, as in `jax.lax.dot_general`
MAX_COLUMNS = 5  # of a product that is computed column by column


@functools.partial(jax.custom_jvp, nondiff_argnums=(2, 3))
def bfloat16_product(x: jax.Array, y: jax.Array, dimensions: Dimensions, precision: Any = None) -> jax.Array:
    """`jax.lax.dot_general` of operands rounded to bfloat16, summed in float32.

    The products of the derivatives have such operands too; their sums are rounded to bfloat16.
    """
    add_up = functools.partial(jax.lax.dot_general, precision=precision, preferred_element_type=jnp.float32)
    return add_up(rounded(x), rounded(y), dimensions)


@functools.partial(bfloat16_product.defjvp, symbolic_zeros=True)
def _bfloat16_product_jvp(dimensions: Dimensions, precision: Any, primals: tuple, tangents: tuple) -> tuple:
    # A sum in bfloat16 has a transpose of bfloat16: the products of the gradient take operands of that type.
    (x, y), (dx, dy) = primals, tangents
    add_up = functools.partial(jax.lax.dot_general, precision=precision, preferred_element_type=jnp.bfloat16)
    product: Any = bfloat16_product(x, y, dimensions, precision)
    tangent = jnp.zeros_like(product)
    if not isinstance(dx, SymbolicZero):
        tangent += add_up(dx.astype(jnp.bfloat16), rounded(y), dimensions).astype(product.dtype)
    if not isinstance(dy, SymbolicZero):
        tangent += add_up(rounded(x), dy.astype(jnp.bfloat16), dimensions).astype(product.dtype)
    return product, tangent


def rounded(x: jax.Array) -> jax.Array:
    """x in bfloat16. XLA may skip a conversion alone, in one program and not in another; this one it may not."""
    return jax.lax.reduce_precision(x, exponent_bits=8, mantissa_bits=7).astype(jnp.bfloat16)


# By `compute_dtype`: `dot_general` of a flax layer, whose own is None.
PRODUCTS: dict[str, Callable[..., Any] | None] = {"float32": None, "bfloat16": bfloat16_product}


def bfloat16_matmul(x: jax.Array, kernel: jax.Array) -> Any:
    """`bfloat16_product` of [..., n] and [n, m]. -> [..., m]"""
    return bfloat16_product(x, kernel, (((x.ndim - 1,), (0,)), ((), ())))


def product_of_output(x: jax.Array, kernel: jax.Array, dimensions: Dimensions, precision: Any = None, **_: Any) -> Any:
    """`jax.lax.dot_general` of [..., n] and [n, m]; on a CPU up to MAX_COLUMNS columns one by one. -> [..., m]

    XLA's CPU backend takes half as long for the gradients of products with vectors as for those of a narrow matrix.
    """
    if kernel.shape[1] > MAX_COLUMNS or not traces_for_cpu():
        return jax.lax.dot_general(x, kernel, dimensions, precision=precision)
    return jnp.stack([jnp.matmul(x, column, precision=precision) for column in kernel.T], axis=-1)
