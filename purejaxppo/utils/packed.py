"""Packs many small arrays into one vector for each dtype, for the carry and the outputs of a scan.

Each separate array costs a kernel in every turn, which a GPU has to launch. On a CPU, XLA wakes another thread as soon
as more than nine kernels are ready at once, which doubled the time of a small rollout (benchmarks/NOTES.md).
"""

import jax
import jax.numpy as jnp
from flax import struct

from purejaxppo.utils.tree import PyTree, Structure

SMALL = 4096  # elements; a CPU takes longer to copy more


class Packed(struct.PyTreeNode):
    """A pytree whose small arrays are joined to one vector for each dtype. Packing changes no bit.

    In forward mode they share one tangent: where it is not 0 for one of them, an array at a point without a derivative,
    such as the root of 0, gets NaN even if it does not depend on the input.
    """

    vectors: dict[str, jax.Array]  # [n] by dtype, of all small arrays; bool is packed as int32
    large: list[jax.Array]
    arrays: tuple[jax.ShapeDtypeStruct, ...] = struct.field(pytree_node=False)  # all of them, in order
    structure: Structure = struct.field(pytree_node=False)
    max_size: int = struct.field(pytree_node=False)  # elements of a small array


def pack(tree: PyTree, max_size: int = SMALL) -> Packed:
    """Packs the arrays of at most `max_size` elements; larger ones stay as they are."""
    leaves, structure = jax.tree.flatten(jax.tree.map(jnp.asarray, tree))
    parts: dict[str, list[jax.Array]] = {}
    for x in leaves:
        if x.size <= max_size:
            parts.setdefault(packed_dtype(x), []).append((x.astype(jnp.int32) if x.dtype == bool else x).ravel())
    return Packed(
        vectors={dtype: jnp.concatenate(group) for dtype, group in parts.items()},
        large=[x for x in leaves if x.size > max_size],
        arrays=tuple(jax.ShapeDtypeStruct(x.shape, x.dtype) for x in leaves),
        structure=structure,
        max_size=max_size,
    )


def unpack(packed: Packed) -> PyTree:
    """The arrays of a pack; of packs that a scan has stacked, [T, ...] each."""
    large, taken = iter(packed.large), dict.fromkeys(packed.vectors, 0)

    def take(array: jax.ShapeDtypeStruct) -> jax.Array:
        if array.size > packed.max_size:
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
