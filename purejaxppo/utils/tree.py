"""Types of pytrees."""

from typing import Any

import jax

PyTree = Any
Structure = Any  # of a PyTree, as jax.tree.structure gives it
Terms = dict[str, jax.Array]  # numbers by name
