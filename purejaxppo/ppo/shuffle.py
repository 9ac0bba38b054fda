"""Shuffles a batch: an independent permutation of its samples for each epoch."""

import math

import jax
import jax.numpy as jnp

SHORT = 512  # samples that `short_permutation` takes, at most
NARROW = 16  # rows of a table that `long_permutation` takes, at least
ROUNDS = 4  # of `long_permutation`


def shuffled_indices(key: jax.Array, num_epochs: int, num_minibatches: int, num_samples: int) -> jax.Array:
    """An independent permutation of the samples for each epoch. -> [epochs, minibatches, M] int32"""
    permute = short_permutation if num_samples <= SHORT else long_permutation
    permuted = jax.vmap(lambda key: permute(key, num_samples))(jax.random.split(key, num_epochs))
    return permuted.reshape(num_epochs, num_minibatches, -1)


def short_permutation(key: jax.Array, n: int) -> jax.Array:
    """A uniform permutation of n <= SHORT numbers by one sort of words: random bits above, a number below. -> [n] int32

    `jax.random.permutation` sorts pairs instead, in two to three times the time. Numbers whose random bits tie are in
    the order of number ^ mask, a fair one for a random mask. So all that departs from uniform is in the permutations
    with two tied pairs or more: of n = 512 numbers with 23 random bits each, one in 8000.
    """
    bits = (n - 1).bit_length()
    below = 2**bits - 1
    words = jax.random.bits(key, (n + 1,))
    mask = words[n] & below
    number = jnp.arange(n, dtype=jnp.uint32) ^ mask
    ordered = jax.lax.sort((words[:n] & ~jnp.uint32(below)) | number)
    return ((ordered & below) ^ mask).astype(jnp.int32)


def long_permutation(key: jax.Array, n: int) -> jax.Array:
    """A permutation of n numbers without a sort: a Feistel network with random round functions. -> [n] int32

    The numbers fill a table of a rows and b columns. A round rotates each column by a random amount, then each row:
    x <- x + f(y) mod a, then y <- y + g(x) mod b, with tables f and g of random words (Black and Rogaway 2002, "Ciphers
    with Arbitrary Finite Domains", section 5). Every number goes to every place as often, up to the rounding of words
    mod a and b; numbers meet in a minibatch as by chance, as far as tests tell. Where n has no divisor near its root
    it is `jax.random.permutation`, which sorts twice, in 10 to 30 times the time.
    """
    rows = max(a for a in range(1, math.isqrt(n) + 1) if n % a == 0)
    if rows < NARROW:
        return jax.random.permutation(key, n)
    columns = n // rows
    words = jax.random.bits(key, (ROUNDS, rows + columns))
    number = jnp.arange(n, dtype=jnp.uint32)
    x, y = number // columns, number % columns
    for word in words:
        x = (x + word[:columns][y] % rows) % rows
        y = (y + word[columns:][x] % columns) % columns
    return (x * columns + y).astype(jnp.int32)
