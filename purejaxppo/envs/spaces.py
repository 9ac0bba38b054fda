"""Spaces of observations and actions: Discrete, MultiDiscrete, Box, and pytrees of these."""

import dataclasses
import math
from typing import Any, NamedTuple, Self

import jax
import jax.numpy as jnp
import numpy as np

from purejaxppo.utils.errors import PPOError
from purejaxppo.utils.tree import PyTree, Structure
from purejaxppo.utils.validation import shown

MOST_BOUNDS = 16  # of a Box that prints all of them


class Discrete(NamedTuple):
    """The integers 0 ... n - 1."""

    n: int


class MultiDiscrete(NamedTuple):
    """k integers at once, the i-th from 0 ... sizes[i] - 1."""

    sizes: tuple[int, ...]


class _Bounds(NamedTuple):
    shape: tuple[int, ...]
    low: tuple[float, ...]  # flattened
    high: tuple[float, ...]  # flattened


class Box(_Bounds):
    """Real arrays of one shape, from `low` to `high`, which may be infinite.

    A bound is given as one number for all entries, as an array of the shape, or flattened; it is kept flattened.
    Raises PPOError if the shape is not a tuple of sizes, a bound does not fit it, or the box is empty.
    """

    __slots__ = ()

    def __new__(cls, shape: tuple[int, ...], low: Any, high: Any) -> Self:
        """A Box whose bounds are flat tuples of floats."""
        if not (isinstance(shape, tuple) and all(map(is_size, shape))):
            raise PPOError(f"a Box of shape {shape!r} needs a tuple of whole numbers, such as (4,)")
        box = super().__new__(cls, shape, flat_bound(shape, low), flat_bound(shape, high))
        for least, most in zip(box.low, box.high, strict=True):
            if not least <= most or least == math.inf or most == -math.inf:
                raise PPOError(f"a Box with the bounds {least} and {most} is empty; give low <= high")
        return box

    def __repr__(self) -> str:
        """As the constructor takes it; a bound that all entries share is written once."""
        return f"Box(shape={self.shape!r}, low={show_bound(self.low)}, high={show_bound(self.high)})"


def flat_bound(shape: tuple[int, ...], bound: Any) -> tuple[float, ...]:
    """A bound of a Box as a flat tuple of floats. Raises PPOError if it does not fit the shape."""
    size = math.prod(shape)
    try:
        values = np.asarray(bound)
    except ValueError:  # lists of different lengths
        values = np.asarray(None)
    if values.dtype.kind not in "biuf" or values.shape not in ((), shape, (size,)):
        raise PPOError(
            f"a Box of shape {shape} has the bound {shown(bound)}; give one number, or one for each of its {size}"
        )
    return tuple(np.broadcast_to(values, values.shape or shape).ravel().astype(np.float64).tolist())


def show_bound(bound: tuple[float, ...]) -> str:
    """A bound as Python code: one number if all entries share it. Infinity is float('inf'), which needs no import."""
    texts = [repr(x) if math.isfinite(x) else f"float('{x}')" for x in bound]
    if len(set(texts)) == 1:
        return texts[0]
    return f"({', '.join(texts if len(texts) <= MOST_BOUNDS else [*texts[:3], '...', texts[-1]])})"


Space = Discrete | MultiDiscrete | Box

ARRAY: Structure = jax.tree.structure(0)  # of one array, rather than a pytree of arrays


@dataclasses.dataclass(frozen=True, repr=False)
class SpaceTree:
    """A pytree of spaces, such as a dict of them, in a form that can be hashed. `make_env` converts to it."""

    parts: tuple[Space, ...]  # in the order of the leaves
    structure: Structure

    @property
    def tree(self) -> PyTree:
        """The pytree as it was given."""
        return self.structure.unflatten(self.parts)

    def __repr__(self) -> str:
        return repr(self.tree)


def settle_space(what: str, space: Any) -> Space | SpaceTree:
    """A space unchanged, or a pytree of spaces as a SpaceTree. Raises PPOError for anything else."""
    if isinstance(space, Space | SpaceTree):
        return space
    parts, structure = jax.tree.flatten(space, is_leaf=lambda x: x is None or isinstance(x, Space))
    if not parts or not all(isinstance(part, Space) for part in parts):
        raise PPOError(
            f"{what} = {space!r} is not a space; give pjp.Discrete, pjp.MultiDiscrete or pjp.Box, or a pytree of these"
        )
    return SpaceTree(tuple(parts), structure)


def show_space(space: Space | SpaceTree) -> str:
    """A space in a few letters, without the bounds of a Box: Box(4,), Discrete(2)."""
    if isinstance(space, SpaceTree):
        parts = [f"{place}: {show_space(part)}" for place, part in parts_of(space).items()]
        return f"SpaceTree({', '.join(parts)})"
    if isinstance(space, Discrete):
        return f"Discrete({space.n})"
    return f"Box{space.shape}" if isinstance(space, Box) else f"MultiDiscrete{space.sizes}"


def structure_of(space: Space | SpaceTree) -> Structure:
    """The pytree structure of the elements of a space."""
    return space.structure if isinstance(space, SpaceTree) else ARRAY


def parts_of(space: Space | SpaceTree) -> dict[str, Space]:
    """The spaces of a pytree by their place in it, such as "['left']"; "" is the place of a space alone."""
    tree = space.tree if isinstance(space, SpaceTree) else space
    places = jax.tree_util.tree_leaves_with_path(tree, is_leaf=lambda x: isinstance(x, Space))
    return {jax.tree_util.keystr(path): part for path, part in places}


def in_parts(what: str, structure: Structure, tree: PyTree) -> list[Any]:
    """The entries of a pytree, one for each part of a space. Raises PPOError if the structures differ."""
    try:
        return structure.flatten_up_to(tree)
    except ValueError:
        given = jax.tree.structure(tree)
        raise PPOError(f"{what}: the structure is {given}, and that of the space {structure}; make them one") from None


def shape_of(space: Space) -> tuple[int, ...]:
    """The shape of an array of the space."""
    if isinstance(space, Box):
        return space.shape
    return (len(space.sizes),) if isinstance(space, MultiDiscrete) else ()


def shapes_of(space: Space | SpaceTree) -> PyTree:
    """The shape of each array of the space, in the structure of the space."""
    return structure_of(space).unflatten(map(shape_of, parts_of(space).values()))


def example_action(space: Space | SpaceTree) -> PyTree:
    """An action of the right structure, shapes and dtypes."""
    parts = parts_of(space).values()
    zeros = [jnp.zeros(shape_of(part), jnp.float32 if isinstance(part, Box) else jnp.int32) for part in parts]
    return structure_of(space).unflatten(zeros)


def check_space(what: str, space: Space) -> None:
    """Raises PPOError for a space of integers that is empty. A Box has checked itself."""
    if isinstance(space, Discrete) and not is_size(space.n):
        raise PPOError(f"{what} = Discrete(n={space.n!r}) needs a whole number of at least 1, a Python int")
    if isinstance(space, MultiDiscrete) and not (
        isinstance(space.sizes, tuple) and space.sizes and all(map(is_size, space.sizes))
    ):
        raise PPOError(f"{what} = MultiDiscrete(sizes={space.sizes!r}) needs a tuple of whole numbers of at least 1")


def is_size(n: object) -> bool:
    """True for a whole number of at least 1 that fits an int32."""
    return isinstance(n, int) and not isinstance(n, bool) and 1 <= n < 2**31
