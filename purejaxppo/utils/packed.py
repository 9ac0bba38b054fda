"""Many small arrays as one vector for each dtype, for what a loop carries and stacks.

An array of its own takes a kernel of its own in every turn. A GPU has to launch it. XLA's CPU backend wakes another
thread as soon as more than nine kernels are ready at once, which doubles the time of a small rollout's step
(benchmarks/NOTES.md). The bits of the arrays are the same.
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
    most: int = struct.field(pytree_node=False)  # numbers of a small array


def pack(tree: PyTree, most: int = SMALL) -> Packed:
    """Packs the arrays of at most so many numbers."""
    leaves, structure = jax.tree.flatten(jax.tree.map(jnp.asarray, tree))
    parts: dict[str, list[jax.Array]] = {}
    for x in leaves:
        if x.size <= most:
            parts.setdefault(packed_dtype(x), []).append((x.astype(jnp.int32) if x.dtype == bool else x).ravel())
    return Packed(
        vectors={dtype: jnp.concatenate(group) for dtype, group in parts.items()},
        large=[x for x in leaves if x.size > most],
        arrays=tuple(jax.ShapeDtypeStruct(x.shape, x.dtype) for x in leaves),
        structure=structure,
        most=most,
    )


def unpack(packed: Packed) -> PyTree:
    """The arrays of a pack; of packs that a scan has stacked, [T, ...] each."""
    large, taken = iter(packed.large), dict.fromkeys(packed.vectors, 0)

    def take(array: jax.ShapeDtypeStruct) -> jax.Array:
        if array.size > packed.most:
            return next(large)
        dtype = packed_dtype(array)
        start = taken[dtype]
        taken[dtype] += array.size
        part = packed.vectors[dtype][..., start : taken[dtype]]
        part = part.reshape(*part.shape[:-1], *array.shape)
        return part.astype(bool) if array.dtype == bool else part

    return jax.tree.unflatten(packed.structure, [take(array) for array in packed.arrays])


def packed_dtype(x: jax.Array | jax.ShapeDtypeStruct) -> str:
    """The dtype that an array is packed as."""
    return "int32" if x.dtype == bool else str(x.dtype)
