"""Every promise in docs/guarantees.md names tests, and they exist."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ROWS = [
    [cell.strip() for cell in line.strip("|").split("|")]
    for line in (ROOT / "docs" / "guarantees.md").read_text().splitlines()
    if line.startswith("|")
][2:]
PROMISES = [row for row in ROWS if not row[0].startswith("**")]


def functions(path):
    """The names of the tests of a file, those of a class below its name."""
    body = ast.parse((ROOT / path).read_text()).body
    inner = [(f"{node.name}::", node.body) for node in body if isinstance(node, ast.ClassDef)]
    return {
        prefix + node.name
        for prefix, nodes in [("", body), *inner]
        for node in nodes
        if isinstance(node, ast.FunctionDef)
    }


@pytest.mark.parametrize("row", PROMISES, ids=lambda row: row[0][:40])
def test_a_promise_has_a_test(row):
    promise, exactly, tests = row
    assert promise
    assert exactly
    named = re.findall(r"`(tests/[\w/]*test_\w+\.py)::([\w:]+)`", tests)
    assert re.sub(r"`[^`]*`|, ", "", tests) == ""
    assert named
    for path, name in named:
        assert name in functions(path), f"{path} has no {name}"


def test_there_are_promises():
    assert len(PROMISES) > 25
