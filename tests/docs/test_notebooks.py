"""Each notebook runs from top to bottom in a process of its own, and holds what it says."""

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.py"))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_it_runs(path, tmp_path):
    command = [sys.executable, str(path)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    assert done.stdout


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_it_is_a_notebook_that_something_can_fail_in(path):
    text = path.read_text()
    assert text.startswith("# %% [markdown]\n# # ")
    assert "\n# %%\n" in text
    assert "assert " in text
    assert f"notebooks/{path.name}" in (ROOT / "docs" / "notebooks.md").read_text()
