"""Sums of many numbers in float32: a pair of numbers, high + low, holds what one would lose by rounding."""

import jax
import jax.numpy as jnp


def add(high: jax.Array, low: jax.Array, x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """high + low + x as such a pair, high rounded from the sum (Dekker 1971; Knuth's exact sum of two). [...] each"""
    total = high + x
    part = total - high
    low = low + ((high - (total - part)) + (x - part))
    high = total + low
    return high, low - (high - total)


@jax.custom_jvp
def precise_sum(x: jax.Array) -> jax.Array:
    """The sum of all numbers, right to about its last bit however many there are. [...] -> []"""

    def join(one: tuple[jax.Array, jax.Array], other: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        return add(one[0], one[1] + other[1], other[0])

    start = (jnp.float32(0.0), jnp.float32(0.0))
    return jax.lax.reduce((x, jnp.zeros_like(x)), start, join, tuple(range(x.ndim)))[0]


@precise_sum.defjvp
def _precise_sum_jvp(primals: tuple, tangents: tuple) -> tuple[jax.Array, jax.Array]:
    return precise_sum(*primals), jnp.sum(tangents[0])
