"""The house is laid out in rooms, imports point one way, and files and functions are short."""

import ast
import subprocess
import sys
from pathlib import Path

import purejaxppo

ROOT = Path(purejaxppo.__file__).parent
# A room may import from those before it, and its own modules from each other.
ROOMS = ["utils", "envs", "policies", "ppo", "population", "runs", "report", "examples", "cli"]
LOOSE = {"__init__.py", "__main__.py", "py.typed"}
KERAS = ("keras.py", "keras_display.py")  # part of the package's interface, and so made from its inside
EXAMPLES_USE = {"purejaxppo", "jax", "flax", "optax", "collections", "dataclasses", "functools", "typing"}


def imports(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


def room(path):
    return path.relative_to(ROOT).parts[0]


def test_the_house_has_its_rooms_and_no_loose_files():
    assert {path.name for path in ROOT.iterdir() if path.is_dir()} - {"__pycache__"} == set(ROOMS)
    assert {path.name for path in ROOT.iterdir() if path.is_file()} == LOOSE


def test_files_are_short_and_functions_take_few_parameters():
    for path in ROOT.rglob("*.py"):
        source = path.read_text()
        assert len(source.splitlines()) <= 400, path
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.FunctionDef):
                parameters = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
                assert len([x for x in parameters if x.arg != "self"]) <= 10, (path, node.name)


def test_docstrings_open_with_what_a_thing_is_or_does():
    for path in ROOT.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
                text = ast.get_docstring(node) or ""
                assert not text.startswith(("What ", "Whether ", "Those ", "That of ", "The same ")), (path, text)


def test_imports_point_upwards():
    for path in ROOT.glob("*/**/*.py"):
        for module in imports(path):
            if module.startswith("purejaxppo."):
                assert ROOMS.index(module.split(".")[1]) <= ROOMS.index(room(path)), (path, module)


def test_examples_import_what_the_package_exports():
    for path in (ROOT / "examples").glob("*.py"):
        if path.name in KERAS:
            continue
        allowed = EXAMPLES_USE | ({"gymnasium", "numpy"} if path.name == "gymnasium_host.py" else set())
        assert {module.split(".")[0] for module in imports(path)} <= allowed, path
        assert not [module for module in imports(path) if module.startswith("purejaxppo.")], path


def test_the_algorithm_holds_no_host_code():
    for name in ("rollout", "gae", "losses", "update", "agent", "memory"):
        names = set(imports(ROOT / "ppo" / f"{name}.py"))
        assert not {module.split(".")[0] for module in names} & {"numpy", "time", "os", "rich", "pathlib", "json"}


def test_importing_and_reading_options_start_no_backend_and_load_nothing_heavy():
    """flax brings the plain `rich`; a live view needs more of it."""
    code = """
import contextlib, gc, io, sys
collector = lambda: (gc.get_threshold(), gc.get_stats()[2]["collections"])
before = collector()
import purejaxppo
assert collector() == before  # no search for garbage among the modules
from purejaxppo.cli.main import main
heavy = {"gymnax", "matplotlib", "pandas", "scipy.stats", "seaborn", "torch", "PIL", "jinja2", "rich.live"}
assert not heavy & set(sys.modules), heavy & set(sys.modules)
for words in (["--help"], ["train", "--help"], ["sweep", "--sedes", "3"], ["completion", "fish"], ["presets"]):
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        with contextlib.suppress(SystemExit):
            main(words)
purejaxppo.aggregate([1.0, 2.0, 4.0])  # and the next line: every run ends with these
purejaxppo.threshold_times([1.0, 2.0], [True, False])
assert not heavy & set(sys.modules), heavy & set(sys.modules)
import jax
jax.config.update("jax_num_cpu_devices", 3)
assert jax.local_device_count() == 3
purejaxppo.make_env("Pong-misc")  # whose module imports seaborn for its pictures
for_pictures = {"matplotlib.pyplot", "seaborn", "scipy.stats"} & set(sys.modules)
assert not for_pictures, for_pictures
class Cycle:
    def __del__(self):
        print("looked for garbage at the end")
cycle = Cycle()
cycle.itself = cycle
del cycle
"""
    done = subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.PIPE)
    assert not done.stdout  # a command leaves its objects to the system


def test_all_is_what_the_package_exports():
    assert sorted(purejaxppo.__all__) == sorted(set(purejaxppo.__all__))
    for name in purejaxppo.__all__:
        assert hasattr(purejaxppo, name)
