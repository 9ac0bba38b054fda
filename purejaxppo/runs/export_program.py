"""A function of JAX as a flat list of array operations, from which files in other languages are written."""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.extend.core import Literal

from purejaxppo.utils.errors import PPOError
from purejaxppo.utils.tree import PyTree

# Operations that only call others, and those that return their input.
CALLS = {"jit", "pjit", "closed_call", "core_call", "custom_jvp_call", "custom_vjp_call", "checkpoint", "remat2"}
SAME = {"copy", "copy_p", "stop_gradient", "optimization_barrier"}


class Value(NamedTuple):
    """An array of the program; constants hold their numbers."""

    name: str
    shape: tuple[Any, ...]  # sizes, or expressions in the batch size N
    dtype: np.dtype
    array: np.ndarray | None = None

    @property
    def is_scalar(self) -> bool:
        """True for a constant without axes."""
        return self.array is not None and self.array.ndim == 0


class Operation(NamedTuple):
    """One primitive of JAX."""

    name: str
    inputs: list[Value]
    output: Value
    params: Mapping[str, Any]


class Program(NamedTuple):
    """Operations in the order in which they run."""

    inputs: list[Value]
    operations: list[Operation]
    outputs: dict[str, Value]

    @property
    def constants(self) -> dict[str, np.ndarray]:
        """The arrays that the operations and the outputs read, by name; numbers without axes are left out."""
        read = [value for operation in self.operations for value in operation.inputs] + list(self.outputs.values())
        return {value.name: value.array for value in read if value.array is not None and not value.is_scalar}


def make_program(
    function: Callable[[PyTree, dict[str, Any]], dict[str, Any]], weights: PyTree, inputs: Mapping[str, Any]
) -> Program:
    """The program of `function(weights, inputs)`. Whatever depends on the weights alone is computed here.

    inputs: shapes and dtypes by name; the sizes may be symbols of `jax.export`
    """
    closed, outputs = jax.make_jaxpr(function, return_shape=True)(weights, dict(inputs))
    named, flattener = jax.tree_util.tree_leaves_with_path(weights), Flattener()
    known = [flattener.constant(x, path_name(path)) for path, x in named]
    given = [Value(name, tuple(x.shape), np.dtype(x.dtype)) for name, x in sorted(inputs.items())]
    found = flattener.run(closed.jaxpr, closed.consts, [*known, *given])
    operations = needed(flattener.operations, found)
    for value in (*found, *(x for operation in operations for x in (*operation.inputs, operation.output))):
        if value.dtype.kind == "V":  # of a type that NumPy does not know
            raise unsupported(value.dtype.name)
    return Program(given, operations, dict(zip(sorted(outputs), found, strict=True)))


def needed(operations: Sequence[Operation], outputs: Sequence[Value]) -> list[Operation]:
    """The operations that the outputs depend on."""
    wanted, kept = {value.name for value in outputs}, []
    for operation in reversed(operations):
        if operation.output.name in wanted:
            wanted |= {value.name for value in operation.inputs}
            kept.append(operation)
    return kept[::-1]


class Flattener:
    """Inlines calls, folds constants, and names the values."""

    def __init__(self) -> None:
        self.operations: list[Operation] = []
        self.names: set[str] = set()

    def named(self, name: str) -> str:
        """This name, or the first free one of name_2, name_3, ..."""
        free, number = name, 1
        while free in self.names:
            number += 1
            free = f"{name}_{number}"
        self.names.add(free)
        return free

    def constant(self, x: Any, name: str = "constant") -> Value:
        """A constant under this name, or one like it."""
        array = np.asarray(x)
        return Value(self.named(name), array.shape, array.dtype, array)

    def run(self, jaxpr: Any, consts: Sequence[Any], inputs: Sequence[Value]) -> list[Value]:
        """Adds the operations of a jaxpr. -> its outputs"""
        values = dict(zip(jaxpr.invars, inputs, strict=True))
        values |= {var: self.constant(x) for var, x in zip(jaxpr.constvars, consts, strict=True)}

        def read(atom: Any) -> Value:
            if not isinstance(atom, Literal):
                return values[atom]
            aval: Any = atom.aval
            return self.constant(np.asarray(atom.val, aval.dtype))

        for eqn in jaxpr.eqns:
            outputs = self.apply(eqn, [read(atom) for atom in eqn.invars])
            values |= dict(zip(eqn.outvars, outputs, strict=True))
        return [read(atom) for atom in jaxpr.outvars]

    def apply(self, eqn: Any, inputs: list[Value]) -> list[Value]:
        """Adds one operation. -> its outputs"""
        name, params, avals = eqn.primitive.name, eqn.params, [var.aval for var in eqn.outvars]
        if name in CALLS:
            inner = next(params[key] for key in ("jaxpr", "call_jaxpr", "fun_jaxpr") if key in params)
            return self.run(getattr(inner, "jaxpr", inner), getattr(inner, "consts", ()), inputs)
        if name in SAME:
            return inputs
        if all(value.array is not None for value in inputs) and all(is_fixed(aval.shape) for aval in avals):
            found = eqn.primitive.bind(*(value.array for value in inputs), **params)
            names = [value.name for value in inputs if not value.name.startswith("constant")]
            source = names[0] if names else "constant"
            return [self.constant(x, source) for x in (found if eqn.primitive.multiple_results else [found])]
        if name in ("gather", "dynamic_slice"):
            return [self.slice_at(name, params, *inputs, like=avals[0])]
        if name == "split":
            ends, axis = np.cumsum(params["sizes"]), params["axis"]
            starts = [[0] * axis + [int(end - size)] for end, size in zip(ends, params["sizes"], strict=True)]
            return [self.part(inputs[0], start, aval) for start, aval in zip(starts, avals, strict=True)]
        if name == "stack":
            axis = params["axis"]
            widened = [jax.ShapeDtypeStruct((*x.shape[:axis], 1, *x.shape[axis:]), x.dtype) for x in inputs]
            inputs = [self.add("reshape", [x], like, {}) for x, like in zip(inputs, widened, strict=True)]
            name, params = "concatenate", {"dimension": axis}
        (aval,) = avals
        return [self.add(name, inputs, aval, params)]

    def add(self, name: str, inputs: list[Value], like: Any, params: Mapping[str, Any]) -> Value:
        """Appends an operation, whose output has the shape and dtype of `like`. -> its output"""
        output = Value(self.named("v"), tuple(like.shape), np.dtype(like.dtype))
        self.operations.append(Operation(name, inputs, output, params))
        return output

    def part(self, operand: Value, starts: Sequence[int], like: Any) -> Value:
        """The part of the shape of `like` that begins at `starts`, and at 0 along the axes after these."""
        starts = [*starts, *[0] * (len(operand.shape) - len(starts))]
        ends = [start + size for start, size in zip(starts, like.shape, strict=True)]
        return self.add("slice", [operand], like, {"start_indices": starts, "limit_indices": ends, "strides": None})

    def slice_at(self, name: str, params: Mapping[str, Any], operand: Value, *places: Value, like: Any) -> Value:
        """A gather or a dynamic slice at one fixed place, as a slice. Raises PPOError for other places."""
        sizes, starts = params["slice_sizes"], [0] * len(operand.shape)
        axes = range(len(starts)) if name == "dynamic_slice" else params["dimension_numbers"].start_index_map
        at = np.ravel([place.array for place in places if place.array is not None])
        if len(at) != len(axes):
            raise unsupported(name)
        for axis, start in zip(axes, at, strict=True):
            starts[axis] = int(start)
        for start, size, whole in zip(starts, sizes, operand.shape, strict=True):
            if start + size != whole and not (is_fixed((size, whole)) and 0 <= start <= whole - size):
                raise unsupported(name)
        found = self.part(operand, starts, jax.ShapeDtypeStruct(sizes, operand.dtype))
        return found if found.shape == tuple(like.shape) else self.add("reshape", [found], like, {})


def is_fixed(shape: Sequence[Any]) -> bool:
    """True if the sizes are numbers."""
    return all(isinstance(size, int) for size in shape)


def path_name(path: Any) -> str:
    """The name of a leaf: params_actor_Dense_0_kernel"""
    return re.sub(r"\W+", "_", jax.tree_util.keystr(path, simple=True, separator="_"))


def unsupported(name: str) -> PPOError:
    """The error for an operation that the other languages lack."""
    return PPOError(f"the policy computes {name!r}, which only --format jax can hold; take that")
