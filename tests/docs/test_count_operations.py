"""benchmarks/count_operations.py: what it reads from a jaxpr and from an HLO module."""

import importlib.util
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

import purejaxppo as pjp

STEPS = (jnp.zeros((16, 2)),) * 3 + (jnp.zeros((16, 2), bool),) * 2
HLO = """HloModule m

FileNames
1 "/x/purejaxppo/ppo/gae.py"
2 "/x/else/where.py"

FunctionNames
1 "gae"
2 "scan"

FileLocations
1 {file_name_id=1 function_name_id=1 line=1}
2 {file_name_id=2 function_name_id=2 line=1}

StackFrames
1 {file_location_id=1 parent_frame_id=1}
2 {file_location_id=2 parent_frame_id=1}

%inner (p: f32[]) -> f32[] {
  %p = f32[] parameter(0)
  ROOT %dot.1 = f32[] dot(%p, %p)
}

%body (p.1: (f32[], s32[])) -> (f32[], s32[]) {
  %p.1 = (f32[], s32[]) parameter(0)
  %fusion = f32[] fusion(%p.1), kind=kLoop, calls=%inner
  %while.1 = (f32[], s32[]) while(%p.1), condition=%c, body=%inner
  ROOT %tuple = (f32[], s32[]) tuple(%fusion)
}

ENTRY %main (a: f32[]) -> f32[] {
  %a = f32[] parameter(0)
  %copy = f32[] copy(%a)
  ROOT %while = (f32[], s32[]) while(%a), condition=%c, body=%body, metadata={stack_frame_id=2}, """
HLO += 'backend_config={"known_trip_count":{"n":"4"}}\n}\n'


@pytest.fixture(scope="module")
def counts():
    path = Path(__file__).parents[2] / "benchmarks" / "count_operations.py"
    spec = importlib.util.spec_from_file_location("count_operations", path)
    module = sys.modules["count_operations"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    yield module
    del sys.modules["count_operations"]


def test_loops_of_hlo_are_named_for_the_function_around_them_and_do_not_count_what_is_free(counts):
    loops = [(loop.name, loop.turns, dict(loop.counts)) for loop in counts.loops_of_hlo(HLO)]
    assert loops == [("update", 1, {"copy": 1}), ("gae", 4, {"fusion": 1}), ("unknown", 0, {"dot": 1})]


def test_loops_of_a_program_are_found_in_its_jaxpr_and_in_its_hlo(counts):
    traced = jax.jit(lambda *steps: pjp.gae(*steps, gamma=0.9, gae_lambda=0.9)).trace(*STEPS)
    outside, scan = counts.loops_of_jaxpr(traced.jaxpr.jaxpr)
    assert (outside.name, outside.turns, scan.turns) == ("update", 1, 16)
    assert scan.counts["mul"] == scan.counts["add"] == 1
    outside, scan = counts.loops_of_hlo(traced.lower().compile().as_text())
    assert (scan.name, scan.turns) == ("backward_sums", 2)  # 8 steps at once
    assert scan.counts.total() > 0
