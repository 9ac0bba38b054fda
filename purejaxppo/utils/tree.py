"""Types of pytrees, the identity, and a number for keys."""

from typing import Any

import jax

PyTree = Any
Structure = Any  # of a PyTree, as jax.tree.structure gives it
Terms = dict[str, jax.Array]  # numbers by name

NOT_SPLIT = 2**32 - 1  # folded into a key that is also split, or folded by small indices: none of them reaches it


def unchanged(x: PyTree) -> PyTree:
    """Returns x: where nothing has to be converted. Unlike a lambda, it can be pickled."""
    return x
