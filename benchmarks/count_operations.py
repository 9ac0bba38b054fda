"""Counts the operations in each loop of an update: what a GPU would launch, read from the program without a GPU.

python benchmarks/count_operations.py [--seeds 8] [--preset cleanrl] [--compute-dtype bfloat16] [--h100] [--json OUT]

The program is an update of the preset's environment under vmap over the seeds. The table has, for each loop, its turns
in an update, and for one turn, without the loops inside of it: the equations of the jaxpr; and of the optimised HLO the
kernels, which are fusions, matrix products and all other instructions that compute or copy something.

The HLO is that of this device, or with --h100 that of an H100, compiled ahead of time. This takes JAX's CUDA plugin and
a compiler for its assembly, and neither a GPU nor a driver. In an environment of their own, where JAX is jax's version:

pip install . "jax-cuda12-plugin==JAX" "jax-cuda12-pjrt==JAX" nvidia-cuda-nvcc-cu12 nvidia-nvjitlink-cu12
JAX_SKIP_CUDA_CONSTRAINTS_CHECK=1 python benchmarks/count_operations.py --h100
"""

import argparse
import dataclasses
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import jax
from jax.experimental import topologies
from jax.extend import core
from jax.sharding import SingleDeviceSharding
from rich.console import Console

import purejaxppo as pjp
from purejaxppo.population.algorithms import make_agent
from purejaxppo.runs.console import print_rows
from purejaxppo.runs.presets import find_preset
from purejaxppo.utils.devices import compiler_options
from purejaxppo.utils.files import versions, write_json

H100 = """
platform_name: "CUDA"
device_description_str: "NVIDIA H100 80GB HBM3"
dnn_version_info { major: 9 minor: 8 }
runtime_version { major: 12 minor: 9 }
gpu_device_info {
  cuda_compute_capability { major: 9 }
  core_count: 132
  fpus_per_core: 128
  clock_rate_ghz: 1.98
  memory_bandwidth: 3352320000000
  l2_cache_size: 52428800
  device_memory_size: 84942979072
  threads_per_warp: 32
  threads_per_core_limit: 2048
  threads_per_block_limit: 1024
  block_dim_limit_x: 2147483647
  block_dim_limit_y: 65535
  block_dim_limit_z: 65535
  registers_per_core_limit: 65536
  registers_per_block_limit: 65536
  shared_memory_per_core: 233472
  shared_memory_per_block: 49152
  shared_memory_per_block_optin: 232448
}
"""
FREE = {
    "parameter",
    "constant",
    "tuple",
    "get-tuple-element",
    "bitcast",
    "iota",
    "after-all",
    "partition-id",
    "fusion-done",
}
FILES = ("population/", "ppo/", "policies/", "envs/")  # of the package, whose functions name a loop
_COMPUTATION = re.compile(r"^(?:ENTRY )?%(\S+) .*\{$")
_INSTRUCTION = re.compile(r"^\s+(?:ROOT )?%\S+ = (?:\(.*?\)|\S+) ([a-z][\w-]*)\(")
_CALLED = re.compile(r"(?:body|to_apply)=%([\w.-]+)")
_FRAME = re.compile(r"stack_frame_id=(\d+)")
_TURNS = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')


@dataclasses.dataclass
class Loop:
    """One loop of a program."""

    name: str  # of the function that it is in
    turns: int  # in an update, over all turns of the loops around it; 0 if not known
    counts: Counter[str]  # of one turn, without the loops inside


def loops_of_jaxpr(jaxpr: Any, turns: int = 1, name: str = "update", counts: Counter[str] | None = None) -> list[Loop]:
    """The loops of a jaxpr, this body first: the equations of each, by primitive."""
    here = Loop(name, turns, Counter() if counts is None else counts)
    inner = []
    for equation in jaxpr.eqns:
        is_loop = equation.primitive.name in ("scan", "while")
        if not is_loop:
            here.counts[equation.primitive.name] += 1
        for body in jaxprs_in(equation.params):
            if is_loop:
                inner += loops_of_jaxpr(body, turns * equation.params.get("length", 0), body.debug_info.func_name)
            else:
                inner += loops_of_jaxpr(body, turns, name, here.counts)[1:]
    return [here, *inner]


def jaxprs_in(params: dict[str, Any]) -> Iterator[Any]:
    """The jaxprs among the parameters of an equation."""
    for value in params.values():
        for x in value if isinstance(value, tuple | list) else (value,):
            if isinstance(x, core.ClosedJaxpr):
                yield x.jaxpr
            elif isinstance(x, core.Jaxpr):
                yield x


def loops_of_hlo(text: str) -> list[Loop]:
    """The loops of an optimised HLO module, the whole program first: the kernels of each, by opcode."""
    bodies, frames = computations(text), Frames(text)
    entry = next(name for name in bodies if re.search(rf"^ENTRY %{re.escape(name)} ", text, re.MULTILINE))

    def visit(computation: str, here: Loop) -> list[Loop]:
        inner = []
        for line in bodies[computation]:
            found = _INSTRUCTION.match(line)
            if found is None or found[1] in FREE:
                continue
            called = _CALLED.search(line)
            if found[1] == "call" and called:  # a call alone costs nothing: what it calls is counted
                inner += visit(called[1], here)[1:]
            elif found[1] == "while" and called:
                turns, frame = _TURNS.search(line), _FRAME.search(line)
                name = frames.function(int(frame[1])) if frame else "unknown"
                inner += visit(called[1], Loop(name, here.turns * int(turns[1]) if turns else 0, Counter()))
            else:
                here.counts[found[1]] += 1
        return [here, *inner]

    return visit(entry, Loop("update", 1, Counter()))


def computations(text: str) -> dict[str, list[str]]:
    """The lines of each computation, by its name."""
    found: dict[str, list[str]] = {}
    lines: list[str] = []
    for line in text.splitlines():
        head = _COMPUTATION.match(line)
        if head:
            lines = found.setdefault(head[1], [])
        else:
            lines.append(line)
    return found


class Frames:
    """The stack frames that an HLO module lists at its start."""

    def __init__(self, text: str) -> None:
        def rows(title: str, pattern: str) -> dict[int, tuple[str, ...]]:
            block = re.search(rf"^{title}\n((?:\d+ .*\n)+)", text, re.MULTILINE)
            lines = block[1].splitlines() if block else []
            return {int(line.split()[0]): re.search(pattern, line).groups() for line in lines}  # type: ignore[union-attr]

        self.files = rows("FileNames", r'"(.*)"')
        self.functions = rows("FunctionNames", r'"(.*)"')
        self.places = rows("FileLocations", r"file_name_id=(\d+) function_name_id=(\d+)")
        self.frames = rows("StackFrames", r"file_location_id=(\d+)(?: parent_frame_id=(\d+))?")

    def function(self, frame: int) -> str:
        """The innermost function of the package on the stack of a frame."""
        while frame in self.frames:
            place, parent = self.frames[frame]
            file, function = (int(x) for x in self.places[int(place)])
            if any(f"purejaxppo/{folder}" in self.files[file][0] for folder in FILES):
                return self.functions[function][0].removesuffix(".<locals>.<lambda>")
            if parent is None or int(parent) == frame:
                break
            frame = int(parent)
        return "unknown"


def count(agent: Any, num_seeds: int, is_h100: bool) -> dict[str, list[Loop]]:
    """The loops of an update of the agent, by the kind of the count."""
    runners = jax.eval_shape(jax.vmap(agent.init), jax.eval_shape(lambda: pjp.seed_keys(0, num_seeds)))
    platform = "cuda" if is_h100 else jax.default_backend()
    program = jax.jit(
        jax.vmap(agent.update),
        in_shardings=h100() if is_h100 else None,
        compiler_options=compiler_options(platform),
    )
    with mock.patch.object(jax, "default_backend", return_value=platform):  # some functions choose by it
        traced = program.trace(runners)
    return {
        "equations": loops_of_jaxpr(traced.jaxpr.jaxpr),
        "kernels": loops_of_hlo(traced.lower(lowering_platforms=(platform,)).compile().as_text() or ""),
    }


def h100() -> SingleDeviceSharding:
    """A device that can be compiled for, and does not have to be there."""
    topology = topologies.get_topology_desc(platform="cuda", topology="1x1x1", target_config=H100)
    return SingleDeviceSharding(topology.devices[0])


def table(loops: list[Loop], what: str) -> list[list[str]]:
    """A row for each loop, the head first, and the sum over an update."""
    rows = [
        [
            loop.name,
            str(loop.turns),
            str(loop.counts.total()),
            ", ".join(f"{n} {op}" for op, n in loop.counts.most_common(6)),
        ]
        for loop in loops
    ]
    whole = sum(loop.turns * loop.counts.total() for loop in loops)
    return [["loop", "turns", f"{what} a turn", "most of them"], *rows, ["an update in all", "", str(whole), ""]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=8)
    parser.add_argument("--preset", default="cleanrl")
    parser.add_argument("--compute-dtype")
    parser.add_argument("--h100", action="store_true")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()

    preset = find_preset(options.preset)
    changes = {"compute_dtype": options.compute_dtype} if options.compute_dtype else {}
    agent = make_agent(pjp.make_env(preset.env), dataclasses.replace(preset.config, **changes))
    found = count(agent, options.seeds, options.h100)
    for what, loops in found.items():
        print_rows(Console(width=160), table(loops, what))
    if options.json:
        rows = {what: [dataclasses.asdict(loop) for loop in loops] for what, loops in found.items()}
        write_json(options.json, {"loops": rows, "seeds": options.seeds, "versions": versions()})


if __name__ == "__main__":
    main()
