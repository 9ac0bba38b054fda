"""A program as an ONNX model."""

import ast
import importlib
from pathlib import Path
from typing import Any

import numpy as np

from purejaxppo.runs.export_operations import translations
from purejaxppo.runs.export_program import Operation, Program, Value
from purejaxppo.utils.errors import PPOError
from purejaxppo.utils.files import write_whole

OPSET, IR_VERSION = 18, 10  # read by onnxruntime 1.18 and later


def write_model(program: Program, path: Path, about: str) -> None:
    """Writes the model. Raises PPOError if onnx is not installed, or for an operation that it lacks."""
    try:
        onnx = importlib.import_module("onnx")
    except ImportError:
        raise PPOError('--format onnx needs onnx, which is not installed; pip install "purejaxppo[onnx]"') from None
    graph, helper = Graph(onnx, program), onnx.helper
    for step in program.operations:
        graph.add(step)
    for name, value in program.outputs.items():
        graph.nodes.append(helper.make_node("Identity", [graph.read(value)], [name]))
    given, found = (
        [helper.make_tensor_value_info(name, graph.kind(x.dtype), [parse_size(n) for n in x.shape]) for name, x in each]
        for each in ([(x.name, x) for x in program.inputs], program.outputs.items())
    )
    weights = [onnx.numpy_helper.from_array(x, name) for name, x in graph.weights.items()]
    model = helper.make_model(
        helper.make_graph(graph.nodes, "policy", given, found, initializer=weights),
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
        producer_name="purejaxppo",
        doc_string=about,
    )
    onnx.checker.check_model(model, full_check=True)
    write_whole(path, lambda file: file.write(model.SerializeToString()))


def parse_size(size: Any) -> int | str:
    """A size of a shape as ONNX has it: a number, or a text."""
    return size if isinstance(size, int) else str(size)


class Graph:
    """The nodes and weights of a model while it is built."""

    def __init__(self, onnx: Any, program: Program) -> None:
        self.onnx, self.first = onnx, program.inputs[0]
        self.nodes: list[Any] = []
        self.weights: dict[str, np.ndarray] = {}

    def kind(self, dtype: Any) -> int:
        """ONNX's number of a dtype."""
        return self.onnx.helper.np_dtype_to_tensor_dtype(np.dtype(dtype))

    def read(self, value: Value) -> str:
        """The name of a value; the numbers of a constant become a weight."""
        return value.name if value.array is None else self.weight(value.array, value.name)

    def weight(self, array: np.ndarray, name: str | None = None) -> str:
        """The name of a constant."""
        name = name or f"constant.{len(self.weights)}"
        self.weights[name] = array
        return name

    def add(self, step: Operation) -> None:
        """Adds the nodes of one operation."""
        inputs = {f"x{i}": value for i, value in enumerate(step.inputs)} | {"N": self.first}
        _, text = translations(step, [f"x{i}" for i in range(len(step.inputs))])

        def emit(tree: ast.expr, output: str | None = None) -> str:
            match tree:
                case ast.Call(ast.Name(operator), arguments, keywords):
                    names = [emit(x) for x in arguments]
                    attributes = {str(keyword.arg): ast.literal_eval(keyword.value) for keyword in keywords}
                    if "to" in attributes:
                        attributes["to"] = self.kind(attributes["to"])
                    output = output or f"node.{len(self.nodes)}"
                    self.nodes.append(self.onnx.helper.make_node(operator, names, [output], **attributes))
                    return output
                case ast.Name(name):
                    return self.read(inputs[name])
                case ast.List():
                    return self.weight(np.asarray(ast.literal_eval(tree), np.int64))
            return self.weight(np.asarray(ast.literal_eval(tree), step.inputs[0].dtype))

        emit(ast.parse(text, mode="eval").body, step.output.name)
