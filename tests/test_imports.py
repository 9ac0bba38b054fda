"""Imports point one way, as the house is laid out."""

import ast
import subprocess
import sys
from pathlib import Path

import purejaxppo

ROOT = Path(purejaxppo.__file__).parent
# A module may import from those above it, and a package's own modules from each other.
ORDER = [
    "types",
    "reasons",
    "config",
    "devices",
    "storage",
    "lock",
    "sums",
    "distributions",
    "networks",
    "recurrent_networks",
    "normalize",
    "envs",
    "imported",
    "actions",
    "rollout",
    "losses",
    "gae",
    "schedules",
    "checks",
    "update",
    "ppo",
    "recurrent",
    "full_batch",
    "evaluate",
    "population",
    "runs",
    "report",
    "doctor",
    "bench",
    "run_file",
    "options",
    "arguments",
    "cli",
    "__main__",
    "examples",
]
EXAMPLES_USE = {"purejaxppo", "jax", "flax", "optax", "collections", "dataclasses", "functools", "typing"}


def imports(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


def room(path):
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def test_every_module_has_its_place_in_the_order():
    rooms = {room(path) for path in ROOT.rglob("*.py")} - {"__init__"}
    assert rooms == set(ORDER)


def test_imports_point_upwards():
    for path in ROOT.rglob("*.py"):
        if path == ROOT / "__init__.py":
            continue
        for module in imports(path):
            if module.startswith("purejaxppo."):
                target = module.split(".")[1]
                assert target == room(path) or ORDER.index(target) < ORDER.index(room(path)), (path, module)


def test_examples_import_what_the_package_exports():
    for path in (ROOT / "examples").glob("*.py"):
        assert {module.split(".")[0] for module in imports(path)} <= EXAMPLES_USE, path
        assert not [module for module in imports(path) if module.startswith("purejaxppo.")], path


def test_the_algorithm_holds_no_host_code():
    for name in ("rollout", "gae", "losses", "update", "ppo", "recurrent", "full_batch"):
        names = set(imports(ROOT / f"{name}.py"))
        assert not {module.split(".")[0] for module in names} & {"numpy", "time", "os", "rich", "pathlib", "json"}


def test_importing_starts_no_backend_and_loads_nothing_heavy():
    code = """
import sys, purejaxppo
from jax.extend import backend
import jax
jax.config.update("jax_num_cpu_devices", 3)
assert jax.local_device_count() == 3
heavy = {"gymnax", "matplotlib", "pandas", "seaborn", "torch", "PIL"} & set(sys.modules)
assert not heavy, heavy
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_all_is_what_the_package_exports():
    assert sorted(purejaxppo.__all__) == sorted(set(purejaxppo.__all__))
    for name in purejaxppo.__all__:
        assert hasattr(purejaxppo, name)
