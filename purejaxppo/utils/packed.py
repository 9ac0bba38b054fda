"""Many small outputs of a scan as one vector for each dtype.

On a GPU each array that a scan stacks is a kernel in every turn. Where the body returns `pack(outputs)` and the stacked
result goes through `unpack`, the small outputs of a dtype share one, and their bits are the same.
"""

import jax
import jax.numpy as jnp
from flax import struct

from purejaxppo.utils.tree import PyTree, Structure

SMALL = 4096  # numbers; a CPU takes longer to copy more


class Packed(struct.PyTreeNode):
    """A pytree of arrays, of which the small ones of each dtype lie one after the other."""

    vectors: dict[str, jax.Array]  # [n] by dtype, of all small arrays; bool is packed as int32
    large: list[jax.Array]
    arrays: tuple[jax.ShapeDtypeStruct, ...] = struct.field(pytree_node=False)  # all of them, in order
    structure: Structure = struct.field(pytree_node=False)


def pack(tree: PyTree) -> Packed:
    """Packs the outputs of a turn."""
    leaves, structure = jax.tree.flatten(jax.tree.map(jnp.asarray, tree))
    parts: dict[str, list[jax.Array]] = {}
    for x in filter(is_small, leaves):
        parts.setdefault(str(packed_dtype(x)), []).append(x.ravel().astype(packed_dtype(x)))
    return Packed(
        vectors={dtype: jnp.concatenate(group) for dtype, group in parts.items()},
        large=[x for x in leaves if not is_small(x)],
        arrays=tuple(jax.ShapeDtypeStruct(x.shape, x.dtype) for x in leaves),
        structure=structure,
    )


def unpack(packed: Packed) -> PyTree:
    """The outputs of all turns, [T, ...], from the stacked packs of them."""
    large, taken = iter(packed.large), dict.fromkeys(packed.vectors, 0)

    def take(array: jax.ShapeDtypeStruct) -> jax.Array:
        if not is_small(array):
            return next(large)
        dtype = str(packed_dtype(array))
        start = taken[dtype]
        taken[dtype] += array.size
        stacked = packed.vectors[dtype][:, start : taken[dtype]]
        return stacked.reshape(len(stacked), *array.shape).astype(array.dtype)

    return jax.tree.unflatten(packed.structure, [take(array) for array in packed.arrays])


def is_small(x: jax.Array | jax.ShapeDtypeStruct) -> bool:
    """True if an array is packed."""
    return x.size <= SMALL


def packed_dtype(x: jax.Array | jax.ShapeDtypeStruct) -> jnp.dtype:
    """The dtype that an array is packed as."""
    return jnp.dtype(jnp.int32) if x.dtype == bool else x.dtype
