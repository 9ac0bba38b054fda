"""A program as a module of NumPy alone, and the arrays that it reads."""

from typing import Any

import numpy as np

from purejaxppo.runs.export_program import Operation, Program, Value, unsupported

ELEMENTWISE = {
    "add": "{} + {}",
    "sub": "{} - {}",
    "mul": "{} * {}",
    "div": "{} / {}",
    "neg": "-{}",
    "square": "{0} * {0}",
    "eq": "{} == {}",
    "ne": "{} != {}",
    "lt": "{} < {}",
    "le": "{} <= {}",
    "gt": "{} > {}",
    "ge": "{} >= {}",
    "and": "{} & {}",
    "or": "{} | {}",
    "not": "~{}",
    "max": "np.maximum({}, {})",
    "min": "np.minimum({}, {})",
    **{name: f"np.{name}({{}})" for name in ("exp", "log", "log1p", "expm1", "sqrt", "tanh", "sin", "cos", "abs")},
    **{name: f"np.{name}({{}})" for name in ("sign", "floor", "ceil")},
    "pow": "{} ** {}",
    "rsqrt": "1 / np.sqrt({})",
    "logistic": "0.5 * (1 + np.tanh(0.5 * {}))",
    "select_n": "np.where({0}, {2}, {1})",
    "clamp": "np.minimum(np.maximum({1}, {0}), {2})",
}
REDUCTIONS = {"reduce_sum": "sum", "reduce_max": "max", "reduce_min": "min", "reduce_and": "all", "reduce_or": "any"}
CONVOLVE = '''

def convolve(x, kernel, strides, padding):
    """x: [N, *space, c], kernel: [*window, c, k] -> [N, *space, k]"""
    rank = len(strides)
    x = np.pad(x, [(0, 0), *padding, (0, 0)])
    x = np.lib.stride_tricks.sliding_window_view(x, kernel.shape[:rank], axis=tuple(range(1, rank + 1)))
    x = x[(slice(None), *(slice(None, None, step) for step in strides))]
    return np.tensordot(x, kernel, axes=[[*range(rank + 2, 2 * rank + 2), rank + 1], [*range(rank), rank]])
'''


def write_module(program: Program, about: str) -> str:
    """The source of a module with the function `act`, which reads its arrays from the .npz beside it."""
    first = program.inputs[0].name
    lines = [f'    {x.name} = np.asarray(inputs["{x.name}"], np.{x.dtype.name})' for x in program.inputs]
    lines.append(f"    N = len({first})")
    lines += [f"    {targets(step)} = {expression(step)}" for step in program.operations]
    results = ", ".join(f'"{name}": {read(value)}' for name, value in program.outputs.items())
    helper = CONVOLVE if any("convolve(" in line for line in lines) else ""
    return f'''"""{about}

Made by `purejaxppo export`. It needs NumPy alone, and the .npz file of the same name beside it.
"""

from pathlib import Path

import numpy as np

W = dict(np.load(Path(__file__).with_suffix(".npz")))
{helper}

def act(inputs):
    """inputs: arrays by name -> outputs: arrays by name"""
{chr(10).join(lines)}
    return {{{results}}}
'''


def targets(step: Operation) -> str:
    """The left side of one line."""
    return ", ".join(x.name for x in step.outputs) + ("," if step.name == "split" and len(step.outputs) == 1 else "")


def read(value: Value) -> str:
    """The text that reads a value."""
    if value.array is None:
        return value.name
    if not value.is_scalar:
        return f'W["{value.name}"]'
    number = value.array.item()
    text = repr(number) if np.isfinite(number) else f'"{number}"'
    return f"np.{value.dtype.name}({text})" if value.dtype != bool else repr(number)


def expression(step: Operation) -> str:
    """The right side of one line. Raises PPOError for an operation that is not in these tables."""
    name, params, texts = step.name, step.params, [read(value) for value in step.inputs]
    x, dtype = texts[0], f"np.{step.outputs[0].dtype.name}"
    if name in ELEMENTWISE and is_alike(step):
        return ELEMENTWISE[name].format(*texts)
    if name in REDUCTIONS:
        kind = f", dtype={dtype}" if name == "reduce_sum" else ""
        return f"np.{REDUCTIONS[name]}({x}, axis={tuple(params['axes'])}{kind})"
    match name:
        case "integer_pow":
            return f"{x} ** {params['y']}"
        case "convert_element_type":
            return f"{x}.astype({dtype})"
        case "argmax" | "argmin":
            return f"np.{name}({x}, axis={params['axes'][0]}).astype({dtype})"
        case "reshape" | "squeeze":
            return f"{x}.reshape({shape_text(step.shape)})"
        case "broadcast_in_dim":
            return broadcast(step, x)
        case "transpose":
            return f"{x}.transpose({tuple(params['permutation'])})"
        case "concatenate":
            return f"np.concatenate([{', '.join(texts)}], axis={params['dimension']})"
        case "stack":
            return f"np.stack([{', '.join(texts)}], axis={params['axis']})"
        case "slice":
            return f"{x}[{slices(step)}]"
        case "split":
            ends = np.cumsum(params["sizes"])[:-1].tolist()
            return f"np.split({x}, {ends}, axis={params['axis']})"
        case "pad" if all(low >= 0 and high >= 0 and not inside for low, high, inside in params["padding_config"]):
            pairs = [(low, high) for low, high, _ in params["padding_config"]]
            return f"np.pad({x}, {pairs}, constant_values={texts[1]})"
        case "dot_general":
            return product(step, *texts)
        case "conv_general_dilated":
            return convolution(step, *texts)
    raise unsupported(name)


def is_alike(step: Operation) -> bool:
    """False for integers that NumPy and ONNX divide in another way, and for a choice of more than two."""
    if step.name == "select_n":
        return step.inputs[0].dtype == bool and len(step.inputs) == 3
    return step.name not in ("div", "pow") or all(value.dtype.kind == "f" for value in step.inputs)


def shape_text(shape: Any) -> str:
    """(N, 4)"""
    return f"({', '.join(map(str, shape))}{',' if len(shape) == 1 else ''})"


def broadcast(step: Operation, x: str) -> str:
    """New axes, and repetition along axes."""
    places = step.params["broadcast_dimensions"]
    if not places:
        return f"np.broadcast_to({x}, {shape_text(step.shape)})"
    shape = with_new_axes(step)
    reshaped = x if shape == step.inputs[0].shape else f"{x}.reshape({shape_text(shape)})"
    return reshaped if shape == step.shape else f"np.broadcast_to({reshaped}, {shape_text(step.shape)})"


def with_new_axes(step: Operation) -> tuple[Any, ...]:
    """The shape of the input of a broadcast, with axes of size 1 where the output has new ones."""
    shape = [1] * len(step.shape)
    for place, size in zip(step.params["broadcast_dimensions"], step.inputs[0].shape, strict=True):
        shape[place] = size
    return tuple(shape)


def slices(step: Operation) -> str:
    """1:3, :, ::2"""
    params, size = step.params, step.inputs[0].shape
    strides = params["strides"] or [1] * len(size)
    texts = []
    for first, last, stride, whole in zip(params["start_indices"], params["limit_indices"], strides, size, strict=True):
        bounds = ":" if first == 0 and last == whole else f"{first}:{last}"
        texts.append(bounds if stride == 1 else f"{bounds}:{stride}")
    return ", ".join(texts)


def is_matmul(step: Operation) -> bool:
    """True for a product of [..., n] and [n, m], which is a matrix product."""
    (left, right), batch = step.params["dimension_numbers"]
    rank, other = (len(value.shape) for value in step.inputs)
    return not any(batch) and other == 2 and tuple(left) == (rank - 1,) and tuple(right) == (0,)


def einsum_text(step: Operation) -> str:
    """The product in the notation of Einstein: the axes of the batch first, then those of the left, then the right."""
    (left, right), (left_batch, right_batch) = step.params["dimension_numbers"]
    letters = iter("abcdefghijklmnopqrstuvwxyz")
    first = [next(letters) for _ in step.inputs[0].shape]
    second = [next(letters) for _ in step.inputs[1].shape]
    for mine, other in zip((*left, *left_batch), (*right, *right_batch), strict=True):
        second[other] = first[mine]
    batch = [first[axis] for axis in left_batch]
    free = [x for x in first if x not in second] + [x for x in second if x not in first]
    return f"{''.join(first)},{''.join(second)}->{''.join([*batch, *free])}"


def product(step: Operation, x: str, y: str) -> str:
    """A matrix product, or the sum of products."""
    return f"{x} @ {y}" if is_matmul(step) else f'np.einsum("{einsum_text(step)}", {x}, {y}, optimize=True)'


def check_convolution(step: Operation) -> None:
    """Raises PPOError for a convolution with holes or groups."""
    params = step.params
    dilations = {*params["lhs_dilation"], *params["rhs_dilation"]}
    if dilations != {1} or params["feature_group_count"] != 1 or params["batch_group_count"] != 1:
        raise unsupported("conv_general_dilated with groups or dilation")


def convolution(step: Operation, x: str, kernel: str) -> str:
    """A convolution, its axes brought into the order of `convolve`."""
    check_convolution(step)
    params, numbers = step.params, step.params["dimension_numbers"]
    batch, features, *space = numbers.lhs_spec
    filters, channels, *window = numbers.rhs_spec
    order = (numbers.out_spec[0], *numbers.out_spec[2:], numbers.out_spec[1])
    found = (
        f"convolve({x}.transpose({(batch, *space, features)}), {kernel}.transpose({(*window, channels, filters)}), "
        f"{tuple(params['window_strides'])}, {[tuple(pair) for pair in params['padding']]})"
    )
    back = tuple(np.argsort(order).tolist())
    return found if back == tuple(range(len(back))) else f"{found}.transpose({back})"
