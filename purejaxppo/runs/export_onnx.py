"""A program as an ONNX model."""

import importlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from purejaxppo.runs.export_numpy import check_convolution, einsum_text, is_alike, is_matmul, with_new_axes
from purejaxppo.runs.export_program import Operation, Program, Value, is_fixed, unsupported
from purejaxppo.utils.errors import PPOError
from purejaxppo.utils.files import write_whole

OPSET, IR_VERSION = 18, 10  # read by onnxruntime 1.18 and later

# The first operator takes all inputs, the next its output.
ELEMENTWISE = {
    "add": ["Add"],
    "sub": ["Sub"],
    "mul": ["Mul"],
    "div": ["Div"],
    "neg": ["Neg"],
    "max": ["Max"],
    "min": ["Min"],
    "eq": ["Equal"],
    "ne": ["Equal", "Not"],
    "lt": ["Less"],
    "le": ["LessOrEqual"],
    "gt": ["Greater"],
    "ge": ["GreaterOrEqual"],
    "and": ["And"],
    "or": ["Or"],
    "not": ["Not"],
    "exp": ["Exp"],
    "log": ["Log"],
    "sqrt": ["Sqrt"],
    "tanh": ["Tanh"],
    "sin": ["Sin"],
    "cos": ["Cos"],
    "abs": ["Abs"],
    "sign": ["Sign"],
    "floor": ["Floor"],
    "ceil": ["Ceil"],
    "pow": ["Pow"],
    "rsqrt": ["Sqrt", "Reciprocal"],
    "logistic": ["Sigmoid"],
    "erf": ["Erf"],
}
REDUCTIONS = {"reduce_sum": "ReduceSum", "reduce_max": "ReduceMax", "reduce_min": "ReduceMin"}
REDUCTIONS |= {"reduce_and": "ReduceMin", "reduce_or": "ReduceMax"}


def write_model(program: Program, path: Path, about: str) -> None:
    """Writes the model. Raises PPOError if onnx is not installed, or for an operation that is not in these tables."""
    try:
        onnx = importlib.import_module("onnx")
    except ImportError:
        raise PPOError('--format onnx needs onnx, which is not installed; pip install "purejaxppo[onnx]"') from None
    graph = Graph(onnx, program)
    for step in program.operations:
        translate(graph, step)
    for name, value in program.outputs.items():
        graph.node("Identity", [value], name)
    given, found = (
        [onnx.helper.make_tensor_value_info(name, graph.kind(x.dtype), sizes(x)) for name, x in values]
        for values in ([(x.name, x) for x in program.inputs], program.outputs.items())
    )
    weights = [onnx.numpy_helper.from_array(x, name) for name, x in graph.weights.items()]
    model = onnx.helper.make_model(
        onnx.helper.make_graph(graph.nodes, "policy", given, found, initializer=weights),
        opset_imports=[onnx.helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
        producer_name="purejaxppo",
        doc_string=about,
    )
    onnx.checker.check_model(model, full_check=True)
    write_whole(path, lambda file: file.write(model.SerializeToString()))


def sizes(value: Value) -> list[Any]:
    """Its shape; a size that is not a number becomes a text."""
    return [size if isinstance(size, int) else str(size) for size in value.shape]


class Graph:
    """The nodes and weights of a model while it is built."""

    def __init__(self, onnx: Any, program: Program) -> None:
        self.onnx = onnx
        self.nodes: list[Any] = []
        self.weights: dict[str, np.ndarray] = {}
        self.first = program.inputs[0]

    def kind(self, dtype: Any) -> int:
        """ONNX's number of a dtype."""
        return self.onnx.helper.np_dtype_to_tensor_dtype(np.dtype(dtype))

    def weight(self, array: Any, name: str | None = None) -> str:
        """The name of a constant."""
        name = name or f"constant.{len(self.weights)}"
        self.weights[name] = np.asarray(array)
        return name

    def ints(self, numbers: Sequence[int]) -> str:
        """The name of a constant of whole numbers, [n]."""
        return self.weight(np.asarray(numbers, np.int64))

    def name(self, x: Value | str) -> str:
        """The name of a value, after its weights are added."""
        if isinstance(x, str) or x.array is None:
            return x if isinstance(x, str) else x.name
        return self.weight(x.array, x.name)

    def node(self, operator: str, inputs: Sequence[Value | str], output: str | None = None, **attributes: Any) -> str:
        """Adds a node. -> the name of its output"""
        output = output or f"node.{len(self.nodes)}"
        names = [self.name(x) for x in inputs]
        self.nodes.append(self.onnx.helper.make_node(operator, names, [output], **attributes))
        return output

    def shape(self, shape: Sequence[Any]) -> str:
        """A shape, also one that contains the batch size N."""
        if is_fixed(shape):
            return self.ints(shape)
        size = self.node("Gather", [self.node("Shape", [self.first]), self.ints([0])])
        parts = []
        for n in shape:
            if not isinstance(n, int) and str(n) != "N":
                raise unsupported(f"an array of {n} rows")
            parts.append(self.ints([n]) if isinstance(n, int) else size)
        return self.node("Concat", parts, axis=0)

    def reshape(self, x: Value | str, shape: Sequence[Any], output: str | None = None) -> str:
        """The array in another shape, of which one size may depend on N."""
        return self.node("Reshape", [x, self.ints([n if isinstance(n, int) else -1 for n in shape])], output)


def translate(graph: Graph, step: Operation) -> None:
    """Adds the nodes of one operation. Raises PPOError for one that is not in these tables."""
    name, output, inputs = step.name, step.outputs[0].name, step.inputs
    is_logic = name in ("and", "or", "not") and inputs[0].dtype != bool
    if name in ELEMENTWISE and is_alike(step) and not is_logic:
        first, *others = ELEMENTWISE[name]
        found = graph.node(first, inputs, None if others else output)
        for i, operator in enumerate(others):
            found = graph.node(operator, [found], output if i == len(others) - 1 else None)
    elif name in OTHERS and is_alike(step):
        OTHERS[name](graph, step, output)
    elif name in REDUCTIONS:
        reduce(graph, step, output)
    else:
        raise unsupported(name)


def reduce(graph: Graph, step: Operation, output: str) -> None:
    """A reduction; over booleans it goes by integers."""
    is_bool = step.outputs[0].dtype == bool
    x = graph.node("Cast", step.inputs, to=graph.kind(np.int32)) if is_bool else step.inputs[0]
    axes = graph.ints(step.params["axes"])
    found = graph.node(REDUCTIONS[step.name], [x, axes], None if is_bool else output, keepdims=0)
    if is_bool:
        graph.node("Cast", [found], output, to=graph.kind(bool))


def convert(graph: Graph, step: Operation, output: str) -> None:
    """A dtype."""
    graph.node("Cast", step.inputs, output, to=graph.kind(step.outputs[0].dtype))


def argument(graph: Graph, step: Operation, output: str) -> None:
    """The index of the largest or the smallest."""
    operator = {"argmax": "ArgMax", "argmin": "ArgMin"}[step.name]
    found = graph.node(operator, step.inputs, axis=step.params["axes"][0], keepdims=0)
    graph.node("Cast", [found], output, to=graph.kind(step.outputs[0].dtype))


def broadcast(graph: Graph, step: Operation, output: str) -> None:
    """New axes, and repetition along axes."""
    shape = with_new_axes(step)
    if shape == step.shape:
        graph.reshape(step.inputs[0], shape, output)
    else:
        graph.node("Expand", [graph.reshape(step.inputs[0], shape), graph.shape(step.shape)], output)


def cut(graph: Graph, step: Operation, output: str) -> None:
    """A slice, along the axes that it shortens."""
    params, whole = step.params, step.inputs[0].shape
    rows = zip(params["start_indices"], params["limit_indices"], params["strides"] or [1] * len(whole), strict=True)
    parts = [
        (axis, first, last, stride)
        for axis, (first, last, stride) in enumerate(rows)
        if (first, stride) != (0, 1) or last != whole[axis]
    ]
    axes, starts, ends, strides = ([int(part[i]) for part in parts] for i in range(4))
    graph.node("Slice", [step.inputs[0], *map(graph.ints, (starts, ends, axes, strides))], output)


def stack(graph: Graph, step: Operation, output: str) -> None:
    """Arrays side by side along a new axis."""
    axis, shape = step.params["axis"], step.inputs[0].shape
    parts = [graph.reshape(x, (*shape[:axis], 1, *shape[axis:])) for x in step.inputs]
    graph.node("Concat", parts, output, axis=axis)


def split(graph: Graph, step: Operation, output: str) -> None:
    """Pieces along an axis."""
    lengths, names = graph.ints(step.params["sizes"]), [value.name for value in step.outputs]
    inputs = [graph.name(step.inputs[0]), lengths]
    graph.nodes.append(graph.onnx.helper.make_node("Split", inputs, names, axis=step.params["axis"]))


def pad(graph: Graph, step: Operation, output: str) -> None:
    """A border of one number."""
    low, high, inside = zip(*step.params["padding_config"], strict=True)
    if min(*low, *high, 0) < 0 or any(inside):
        raise unsupported("pad with holes, or with negative widths")
    graph.node("Pad", [step.inputs[0], graph.ints([*low, *high]), step.inputs[1]], output)


def product(graph: Graph, step: Operation, output: str) -> None:
    """A matrix product, or the sum of products."""
    if is_matmul(step):
        graph.node("MatMul", step.inputs, output)
    else:
        graph.node("Einsum", step.inputs, output, equation=einsum_text(step))


def convolution(graph: Graph, step: Operation, output: str) -> None:
    """A convolution, its axes brought into the order of ONNX."""
    check_convolution(step)
    params, numbers = step.params, step.params["dimension_numbers"]
    x, kernel = (
        graph.node("Transpose", [value], perm=order)
        for value, order in zip(step.inputs, (numbers.lhs_spec, numbers.rhs_spec), strict=True)
    )
    low, high = zip(*params["padding"], strict=True)
    found = graph.node("Conv", [x, kernel], strides=params["window_strides"], pads=[*low, *high])
    graph.node("Transpose", [found], output, perm=np.argsort(numbers.out_spec).tolist())


def power(graph: Graph, step: Operation, output: str) -> None:
    """A whole power."""
    dtype = step.inputs[0].dtype
    graph.node("Pow", [step.inputs[0], graph.weight(np.asarray(step.params["y"], dtype))], output)


def log_of_one_more(graph: Graph, step: Operation, output: str) -> None:
    """log(1 + x)"""
    graph.node("Log", [graph.node("Add", [step.inputs[0], graph.weight(np.ones((), step.inputs[0].dtype))])], output)


def exponential_minus_one(graph: Graph, step: Operation, output: str) -> None:
    """exp(x) - 1"""
    graph.node("Sub", [graph.node("Exp", step.inputs), graph.weight(np.ones((), step.inputs[0].dtype))], output)


OTHERS: dict[str, Callable[[Graph, Operation, str], Any]] = {
    "integer_pow": power,
    "square": lambda graph, step, output: graph.node("Mul", [*step.inputs] * 2, output),
    "log1p": log_of_one_more,
    "expm1": exponential_minus_one,
    "select_n": lambda graph, step, output: graph.node("Where", [step.inputs[i] for i in (0, 2, 1)], output),
    "clamp": lambda graph, step, output: graph.node(
        "Min", [graph.node("Max", step.inputs[:2]), step.inputs[2]], output
    ),
    "convert_element_type": convert,
    "argmax": argument,
    "argmin": argument,
    "reshape": lambda graph, step, output: graph.reshape(step.inputs[0], step.shape, output),
    "squeeze": lambda graph, step, output: graph.reshape(step.inputs[0], step.shape, output),
    "broadcast_in_dim": broadcast,
    "transpose": lambda graph, step, output: graph.node(
        "Transpose", step.inputs, output, perm=step.params["permutation"]
    ),
    "concatenate": lambda graph, step, output: graph.node("Concat", step.inputs, output, axis=step.params["dimension"]),
    "stack": stack,
    "slice": cut,
    "split": split,
    "pad": pad,
    "dot_general": product,
    "conv_general_dilated": convolution,
}
