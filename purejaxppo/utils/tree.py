"""Types of pytrees, and the identity."""

from typing import Any

import jax

PyTree = Any
Structure = Any  # of a PyTree, as jax.tree.structure gives it
Terms = dict[str, jax.Array]  # numbers by name


def unchanged(x: PyTree) -> PyTree:
    """Returns x: where nothing has to be converted. Unlike a lambda, it can be pickled."""
    return x
