"""Each operation of a program in two languages: an expression of NumPy, and calls of ONNX operators.

In the second, a number is a constant of the first input's dtype, a list a constant of whole numbers, and a keyword an
attribute; N is the first input of the program, whose first axis has that size.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from purejaxppo.runs.export_program import Operation, is_fixed, unsupported

ELEMENTWISE: dict[str, tuple[str | None, str]] = {
    "add": ("{} + {}", "Add({}, {})"),
    "sub": ("{} - {}", "Sub({}, {})"),
    "mul": ("{} * {}", "Mul({}, {})"),
    "div": ("{} / {}", "Div({}, {})"),
    "pow": ("{} ** {}", "Pow({}, {})"),
    "neg": ("-{}", "Neg({})"),
    "square": ("{0} * {0}", "Mul({0}, {0})"),
    "eq": ("{} == {}", "Equal({}, {})"),
    "ne": ("{} != {}", "Not(Equal({}, {}))"),
    "lt": ("{} < {}", "Less({}, {})"),
    "le": ("{} <= {}", "LessOrEqual({}, {})"),
    "gt": ("{} > {}", "Greater({}, {})"),
    "ge": ("{} >= {}", "GreaterOrEqual({}, {})"),
    "and": ("{} & {}", "And({}, {})"),
    "or": ("{} | {}", "Or({}, {})"),
    "not": ("~{}", "Not({})"),
    "max": ("np.maximum({}, {})", "Max({}, {})"),
    "min": ("np.minimum({}, {})", "Min({}, {})"),
    **{
        name: (f"np.{name}({{}})", f"{name.title()}({{}})")
        for name in ("exp", "log", "sqrt", "tanh", "sin", "cos", "abs", "sign", "floor", "ceil")
    },
    "log1p": ("np.log1p({})", "Log(Add({}, 1))"),
    "expm1": ("np.expm1({})", "Sub(Exp({}), 1)"),
    "rsqrt": ("1 / np.sqrt({})", "Reciprocal(Sqrt({}))"),
    "logistic": ("0.5 * (1 + np.tanh(0.5 * {}))", "Sigmoid({})"),
    "erf": (None, "Erf({})"),
    "select_n": ("np.where({0}, {2}, {1})", "Where({0}, {2}, {1})"),
    "clamp": ("np.minimum(np.maximum({1}, {0}), {2})", "Min(Max({1}, {0}), {2})"),
}
REDUCTIONS = {
    "reduce_sum": ("sum", "ReduceSum"),
    "reduce_max": ("max", "ReduceMax"),
    "reduce_min": ("min", "ReduceMin"),
    "reduce_and": ("all", "ReduceMin"),
    "reduce_or": ("any", "ReduceMax"),
}


def translations(step: Operation, texts: Sequence[str]) -> tuple[str | None, str]:
    """An operation in both languages; None where NumPy lacks it. Raises PPOError for one that is not in these tables.

    texts: what its inputs are called
    """
    name, params, shape, dtype = step.name, step.params, step.output.shape, step.output.dtype.name
    x, *others = texts or [""]  # iota has no input
    if name in ELEMENTWISE and is_alike(step):
        numpy, onnx = ELEMENTWISE[name]
        return numpy and numpy.format(*texts), onnx.format(*texts)
    if name in REDUCTIONS:
        return reduction(step, x)
    match name:
        case "integer_pow":
            return f"{x} ** {params['y']}", f"Pow({x}, {params['y']})"
        case "convert_element_type":
            return f"{x}.astype(np.{dtype})", f'Cast({x}, to="{dtype}")'
        case "argmax" | "argmin":
            axis, operator = params["axes"][0], {"argmax": "ArgMax", "argmin": "ArgMin"}[name]
            onnx = f'Cast({operator}({x}, axis={axis}, keepdims=0), to="{dtype}")'
            return f"np.{name}({x}, axis={axis}).astype(np.{dtype})", onnx
        case "reshape" | "squeeze":
            return reshaped(x, shape)
        case "broadcast_in_dim":
            return broadcast(step, x)
        case "transpose":
            order = params["permutation"]
            return f"{x}.transpose({tuple(order)})", f"Transpose({x}, perm={list(order)})"
        case "concatenate":
            axis = params["dimension"]
            return f"np.concatenate([{', '.join(texts)}], axis={axis})", f"Concat({', '.join(texts)}, axis={axis})"
        case "slice":
            return part(step, x)
        case "pad" if all(low >= 0 and high >= 0 and not inside for low, high, inside in params["padding_config"]):
            pairs = [(int(low), int(high)) for low, high, _ in params["padding_config"]]
            pads = [low for low, _ in pairs] + [high for _, high in pairs]
            return f"np.pad({x}, {pairs}, constant_values={others[0]})", f"Pad({x}, {pads}, {others[0]})"
        case "dot_general":
            return product(step, x, others[0])
        case "conv_general_dilated":
            return convolution(step, x, others[0])
    raise unsupported(name)


def is_alike(step: Operation) -> bool:
    """True if both languages compute what JAX does: for other dtypes some operations differ, or are not there."""
    kinds = {value.dtype.kind for value in step.inputs}
    match step.name:
        case "div" | "pow":
            return kinds == {"f"}
        case "and" | "or" | "not":
            return kinds == {"b"}
        case "select_n":
            return step.inputs[0].dtype == bool and len(step.inputs) == 3
    return True


def reduction(step: Operation, x: str) -> tuple[str, str]:
    """A reduction. ONNX reduces booleans as integers."""
    numpy, operator = REDUCTIONS[step.name]
    axes, dtype = step.params["axes"], step.output.dtype.name
    if dtype == "bool":
        onnx = f'Cast({operator}(Cast({x}, to="int32"), {list(axes)}, keepdims=0), to="bool")'
    else:
        onnx = f"{operator}({x}, {list(axes)}, keepdims=0)"
    kind = f", dtype=np.{dtype}" if numpy == "sum" else ""
    return f"np.{numpy}({x}, axis={tuple(axes)}{kind})", onnx


def reshaped(x: str, shape: Sequence[Any]) -> tuple[str, str]:
    """An array in another shape, of which one size may depend on N."""
    return f"{x}.reshape({shape_text(shape)})", f"Reshape({x}, {[n if isinstance(n, int) else -1 for n in shape]})"


def shape_text(shape: Sequence[Any]) -> str:
    """(N, 4)"""
    return f"({', '.join(map(str, shape))}{',' if len(shape) == 1 else ''})"


def broadcast(step: Operation, x: str) -> tuple[str, str]:
    """New axes, and repetition along axes."""
    given, shape = step.inputs[0].shape, step.output.shape
    widened: list[Any] = [1] * len(shape)
    for place, size in zip(step.params["broadcast_dimensions"], given, strict=True):
        widened[place] = size
    numpy, onnx = (x, x) if tuple(widened) == given or not given else reshaped(x, widened)
    if tuple(widened) == shape:
        return numpy, onnx if onnx != x else f"Identity({x})"
    return f"np.broadcast_to({numpy}, {shape_text(shape)})", f"Expand({onnx}, {onnx_shape(shape)})"


def onnx_shape(shape: Sequence[Any]) -> str:
    """A shape as ONNX's array of whole numbers, also one that contains the batch size N."""
    if is_fixed(shape):
        return str(list(shape))
    if unknown := [size for size in shape if not isinstance(size, int) and str(size) != "N"]:
        raise unsupported(f"an array of {unknown[0]} rows")
    sizes = [f"[{size}]" if isinstance(size, int) else "Shape(N, start=0, end=1)" for size in shape]
    return f"Concat({', '.join(sizes)}, axis=0)"


def part(step: Operation, x: str) -> tuple[str, str]:
    """x[1:3, :, ::2], and the bounds of the axes that are shortened."""
    params, sizes = step.params, step.inputs[0].shape
    strides = params["strides"] or [1] * len(sizes)
    rows = list(zip(params["start_indices"], params["limit_indices"], strides, sizes, strict=True))
    texts = []
    for first, last, stride, size in rows:
        bounds = ":" if first == 0 and last == size else f"{first}:{last}"
        texts.append(bounds if stride == 1 else f"{bounds}:{stride}")
    cut = [(first, last, axis, stride) for axis, (first, last, stride, _) in enumerate(rows) if texts[axis] != ":"]
    lists = ", ".join(str([int(number) for number in numbers]) for numbers in zip(*cut, strict=True))
    return f"{x}[{', '.join(texts)}]", f"Slice({x}, {lists})" if cut else f"Identity({x})"


def product(step: Operation, x: str, y: str) -> tuple[str, str]:
    """A matrix product where [..., n] meets [n, m], otherwise a sum of products in the notation of Einstein.

    In it the axes of the batch come first, then those of the left, then those of the right.
    """
    (left, right), (left_batch, right_batch) = step.params["dimension_numbers"]
    ranks = [len(value.shape) for value in step.inputs]
    if not left_batch and ranks[1] == 2 and (tuple(left), tuple(right)) == ((ranks[0] - 1,), (0,)):
        return f"{x} @ {y}", f"MatMul({x}, {y})"
    letters = iter("abcdefghijklmnopqrstuvwxyz")
    first, second = ([next(letters) for _ in range(rank)] for rank in ranks)
    for mine, other in zip((*left, *left_batch), (*right, *right_batch), strict=True):
        second[other] = first[mine]
    batch = [first[axis] for axis in left_batch]
    free = [a for a in first if a not in second] + [a for a in second if a not in first]
    equation = f"{''.join(first)},{''.join(second)}->{''.join([*batch, *free])}"
    return f'np.einsum("{equation}", {x}, {y}, optimize=True)', f'Einsum({x}, {y}, equation="{equation}")'


def convolution(step: Operation, x: str, kernel: str) -> tuple[str, str]:
    """A convolution, its axes brought into the order of the module's `convolve`, and of ONNX.

    Raises PPOError for one with holes or groups.
    """
    params, numbers = step.params, step.params["dimension_numbers"]
    dilations = {*params["lhs_dilation"], *params["rhs_dilation"]}
    if dilations != {1} or params["feature_group_count"] != 1 or params["batch_group_count"] != 1:
        raise unsupported("conv_general_dilated with groups or dilation")
    strides, padding = params["window_strides"], [(int(low), int(high)) for low, high in params["padding"]]
    batch, features, *space = numbers.lhs_spec
    filters, channels, *window = numbers.rhs_spec
    back = np.argsort((numbers.out_spec[0], *numbers.out_spec[2:], numbers.out_spec[1])).tolist()
    arrays = f"{x}.transpose({(batch, *space, features)}), {kernel}.transpose({(*window, channels, filters)})"
    numpy = f"convolve({arrays}, {tuple(strides)}, {padding}).transpose({tuple(back)})"
    arrays = f"Transpose({x}, perm={list(numbers.lhs_spec)}), Transpose({kernel}, perm={list(numbers.rhs_spec)})"
    pads = [low for low, _ in padding] + [high for _, high in padding]
    onnx = f"Conv({arrays}, strides={list(strides)}, pads={pads})"
    return numpy, f"Transpose({onnx}, perm={np.argsort(numbers.out_spec).tolist()})"
