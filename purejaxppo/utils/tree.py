"""Types and shapes of pytrees, and of keys; and the identity."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

PyTree = Any
Structure = Any  # of a PyTree, as jax.tree.structure gives it
Terms = dict[str, jax.Array]  # numbers by name

NOT_SPLIT = 2**32 - 1  # folded into a key that is also split, or folded by small indices: none of them reaches it


def key_shape() -> jax.ShapeDtypeStruct:
    """The shape of a typed key, to trace a function of one."""
    return jax.eval_shape(lambda: jax.random.key(0))


def like_array(value: Any, default: Any) -> Any:
    """`value` as a JAX array if `default` is an array. A list is another pytree, and no tracer can index it."""
    if not isinstance(default, jax.Array | np.ndarray) or np.ndim(default) == 0 or isinstance(value, jax.Array):
        return value
    is_float = jnp.issubdtype(default.dtype, jnp.floating)
    return jnp.asarray(value, jax.dtypes.canonicalize_dtype(default.dtype) if is_float else None)


def unchanged(x: PyTree) -> PyTree:
    """The identity, where nothing has to be converted. Unlike a lambda, it can be pickled."""
    return x


def leaf_shapes(tree: PyTree) -> dict[str, str]:
    """The dtype and the shape of each leaf, by its path."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {
        jax.tree_util.keystr(path): f"{getattr(x, 'dtype', type(x).__name__)}{list(np.shape(x))}" for path, x in leaves
    }


def difference(one: PyTree, other: PyTree) -> tuple[str, str, str] | None:
    """The first place where two pytrees differ in dtype, shape or structure, and what each has there."""
    shapes, others = leaf_shapes(one), leaf_shapes(other)
    for path in shapes | others:
        if shapes.get(path) != others.get(path):
            return path, shapes.get(path, "missing"), others.get(path, "missing")
    structure, others_structure = jax.tree.structure(one), jax.tree.structure(other)
    return None if structure == others_structure else ("", str(structure), str(others_structure))
