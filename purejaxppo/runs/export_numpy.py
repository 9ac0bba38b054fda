"""A program as a module of NumPy alone, and the arrays that it reads."""

import numpy as np

from purejaxppo.runs.export_operations import translations
from purejaxppo.runs.export_program import Operation, Program, Value, unsupported

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
    lines = [f'    {x.name} = np.asarray(inputs["{x.name}"], np.{x.dtype.name})' for x in program.inputs]
    lines.append(f"    N = len({program.inputs[0].name})")
    lines += [f"    {step.output.name} = {expression(step)}" for step in program.operations]
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
    """The right side of one line. Raises PPOError for an operation that NumPy lacks."""
    found, _ = translations(step, [read(value) for value in step.inputs])
    if found is None:
        raise unsupported(step.name)
    return found
