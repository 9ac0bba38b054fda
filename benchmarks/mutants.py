"""Whether the tests bite: small faults are put into the modules of the algorithm, one at a time, and the tests run.

pip install mutmut
python benchmarks/mutants.py [--modules gae losses update rollout] [--workers 2] [--json OUT]

The faults are those of mutmut's operators (an operator, a number, a name, an argument, a condition changed), and four
for numerical code: a minus lost, minimum and maximum, sum and mean swapped, a gradient no longer stopped. A fault that
no test sees is printed. One that makes the tests run ten times as long as they should counts as seen.

Only the tests of a fault's own module run, with those in TESTS, up to the first that fails: what the tests of whole
trainings would see besides does not count. Before any fault they have to pass on the module as it is.
"""

import argparse
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import libcst as cst  # pyright: ignore[reportMissingImports]
from libcst import metadata  # pyright: ignore[reportMissingImports]
from mutmut.mutation.mutators import mutation_operators  # pyright: ignore[reportMissingImports]
from rich.console import Console

from purejaxppo.population.options import ignore
from purejaxppo.runs.console import print_rows
from purejaxppo.utils.files import read_json, write_json

ROOT = Path(__file__).resolve().parent.parent
MODULES = ("gae", "losses", "update", "optimizer", "shuffle", "rollout")
TESTS = {"rollout": ("ppo/test_rollout.py", "envs/test_vector.py")}
CUT_SHORT = "ignore:Error reading persistent compilation cache entry"  # left by one that was killed
LONGEST = 600.0  # s, for the tests of one fault
SWAPPED = {"minimum": "maximum", "maximum": "minimum", "sum": "mean", "mean": "sum", "min": "max", "max": "min"}
KEPT_AS_THEY_ARE = (cst.Annotation, cst.Import, cst.ImportFrom, cst.Decorator)


class Mutant(NamedTuple):
    """A module with one fault."""

    module: str
    line: int
    before: str
    after: str
    source: str


class Outcome(NamedTuple):
    """What the tests made of a fault."""

    mutant: Mutant
    seen: bool
    seconds: float


def make_mutants(module: str, source: str) -> list[Mutant]:
    """A module with each of its faults."""
    wrapper = metadata.MetadataWrapper(cst.parse_module(source))
    positions = wrapper.resolve(metadata.PositionProvider)
    found = []
    for node in code_nodes(wrapper.module):
        for faulty in faults(node):
            changed: Any = wrapper.module.deep_replace(node, faulty)
            line = positions[node].start.line
            found.append(Mutant(module, line, *changed_line(source, changed.code), changed.code))
    return found


def code_nodes(node: cst.CSTNode) -> Iterator[cst.CSTNode]:
    """The nodes that do something when the program runs: no type, import, decorator or docstring."""
    if isinstance(node, KEPT_AS_THEY_ARE) or is_docstring(node) or is_type_alias(node):
        return
    yield node
    for child in node.children:
        yield from code_nodes(child)


def is_docstring(node: cst.CSTNode) -> bool:
    """Whether a node is a statement of nothing but a string."""
    return isinstance(node, cst.Expr) and isinstance(node.value, cst.SimpleString | cst.ConcatenatedString)


def is_type_alias(node: cst.CSTNode) -> bool:
    """True if the node is a type alias, which is named in CapWords."""
    if not isinstance(node, cst.Assign) or not isinstance(target := node.targets[0].target, cst.Name):
        return False
    return target.value[:1].isupper() and not target.value.isupper()


def faults(node: cst.CSTNode) -> Iterable[cst.CSTNode]:
    """What a node could wrongly be."""
    for kind, operator in mutation_operators:
        if isinstance(node, kind):
            yield from operator(node)
    if isinstance(node, cst.UnaryOperation) and isinstance(node.operator, cst.Minus):
        yield node.expression
    if isinstance(node, cst.Call) and isinstance(node.func, cst.Attribute):
        name = node.func.attr.value
        if name in SWAPPED:
            yield node.with_changes(func=node.func.with_changes(attr=cst.Name(SWAPPED[name])))
        if name == "stop_gradient":
            yield node.args[0].value


def changed_line(before: str, after: str) -> tuple[str, str]:
    """The first line that differs."""
    pairs = zip(before.splitlines(), after.splitlines(), strict=False)
    return next(((x.strip(), y.strip()) for x, y in pairs if x != y), ("", "a line less, or more"))


def tests_of(module: str) -> list[str]:
    """The test files for the faults of a module."""
    return [f"tests/{name}" for name in TESTS.get(module, (f"ppo/test_{module}.py",))]


class Plugin:
    """Of pytest: the tests that took least without a fault come first, and hypothesis looks for no smaller example."""

    def __init__(self, durations: Path) -> None:
        self.durations = durations
        self.seconds: dict[str, float] = {}

    def pytest_configure(self) -> None:
        from hypothesis import Phase, settings

        settings.register_profile("mutants", phases=[Phase.explicit, Phase.generate], derandomize=True)
        settings.load_profile("mutants")

    def pytest_collection_modifyitems(self, items: list[Any]) -> None:
        if self.durations.exists():
            known = read_json(self.durations)
            items.sort(key=lambda item: known.get(item.nodeid, 0.0))

    def pytest_runtest_logreport(self, report: Any) -> None:
        self.seconds[report.nodeid] = self.seconds.get(report.nodeid, 0.0) + report.duration

    def pytest_sessionfinish(self) -> None:
        if not self.durations.exists():
            write_json(self.durations, self.seconds)


def start_tests(mutant: Mutant, folder: Path, cache: Path) -> int:
    """The tests in a process of their own, which imports the package with the fault. -> its pid; it exits 0 unseen

    cache: of what the tests compile: most of it is the same with and without the fault.
    """
    pid = os.fork()
    if pid:
        return pid
    try:
        shutil.copytree(ROOT / "purejaxppo", folder / "purejaxppo", ignore=shutil.ignore_patterns("__pycache__"))
        (folder / "purejaxppo" / "ppo" / f"{mutant.module}.py").write_text(mutant.source)
        os.chdir(ROOT)
        os.setpgrp()
        with open(folder / "log", "w") as log:
            os.dup2(log.fileno(), 1)
            os.dup2(log.fileno(), 2)
            jax.config.update("jax_compilation_cache_dir", str(cache))
            sys.path.insert(0, str(folder))
            for name in [name for name in sys.modules if name.split(".")[0] == "purejaxppo"]:
                del sys.modules[name]
            import pytest

            # Nothing that is held here is of speed, and most of the time is the compiler's.
            jax.config.update("jax_disable_most_optimizations", True)
            plugin = Plugin(cache.parent / f"{mutant.module}.json")
            options = ["-x", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", "-m", "not slow", "-W", CUT_SHORT]
            status = int(pytest.main([*options, *tests_of(mutant.module)], plugins=[plugin]))
            sys.stdout.flush()
            os._exit(status)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(1)


def run_all(
    mutants: list[Mutant], caches: Iterable[Path], console: Console, keep: Callable[[list[Outcome]], None]
) -> list[Outcome]:
    """The tests of every fault, as many at a time as there are folders for what is compiled, each with its own.

    keep: is told the outcomes so far
    """
    waiting, running, outcomes, caches = list(reversed(mutants)), {}, [], list(caches)
    with tempfile.TemporaryDirectory(prefix="mutants-") as place:
        while waiting or running:
            while waiting and caches:
                mutant, folder, cache = waiting.pop(), Path(tempfile.mkdtemp(dir=place)), caches.pop()
                running[start_tests(mutant, folder, cache)] = (mutant, folder, cache, time.monotonic())
            for pid, (mutant, folder, cache, started) in list(running.items()):
                status = status_of(pid, time.monotonic() - started)
                if status is not None:
                    outcomes.append(Outcome(mutant, status != 0, time.monotonic() - started))
                    tell(outcomes, len(mutants), console)
                    keep(outcomes)
                    shutil.rmtree(folder)
                    caches.append(cache)
                    del running[pid]
            time.sleep(0.1)
    return outcomes


def status_of(pid: int, seconds: float) -> int | None:
    """The exit status of a process; None while it runs. One that runs too long is killed."""
    if seconds > LONGEST:
        os.killpg(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        return 1
    finished, status = os.waitpid(pid, os.WNOHANG)
    return os.waitstatus_to_exitcode(status) if finished else None


def tell(outcomes: list[Outcome], total: int, console: Console) -> None:
    """One line for a fault that nobody saw, and one for every twentieth."""
    last = outcomes[-1]
    if not last.seen:
        console.print(describe(last.mutant), highlight=False, markup=False, soft_wrap=True)
    if len(outcomes) % 20 == 0:
        console.print(f"{len(outcomes)} of {total}, {sum(x.seen for x in outcomes)} seen", highlight=False)


def describe(mutant: Mutant) -> str:
    """One line for people."""
    return f"{mutant.module}.py:{mutant.line}  {mutant.before}  ->  {mutant.after}"


def table(outcomes: list[Outcome], modules: Iterable[str]) -> list[list[str]]:
    """A row for each module and one for all, the head first."""
    rows = [["module", "faults", "seen", "share"]]
    for name in (*modules, "all"):
        own = [x for x in outcomes if name in (x.mutant.module, "all")]
        seen = sum(x.seen for x in own)
        rows.append([name, str(len(own)), str(seen), f"{seen / len(own):.1%}"])
    return rows


def as_json(outcomes: list[Outcome]) -> dict[str, Any]:
    """The outcome of each fault, without the source of its module."""
    return {
        "outcomes": [
            {key: value for key, value in x.mutant._asdict().items() if key != "source"}
            | {"seen": x.seen, "seconds": x.seconds}
            for x in outcomes
        ]
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--modules", nargs="+", default=MODULES, help="of the package (default: %(default)s)")
    parser.add_argument("--workers", type=int, default=2, help="faults tested at a time (default: %(default)s)")
    parser.add_argument("--json", type=Path, help="where to write the outcome of each fault")
    options = parser.parse_args()

    # What every child imports, once, and nothing that starts a thread.
    import flax.linen  # noqa: F401
    import optax  # noqa: F401
    import pandas as pd  # noqa: F401
    import scipy.stats  # noqa: F401

    sources = {name: (ROOT / "purejaxppo" / "ppo" / f"{name}.py").read_text() for name in options.modules}
    console = Console()
    unchanged = [Mutant(name, 1, "as it is", "as it is", source) for name, source in sources.items()]
    mutants = [mutant for name, source in sources.items() for mutant in make_mutants(name, source)]
    random.Random(0).shuffle(mutants)  # so that what is done so far is a fair sample
    with tempfile.TemporaryDirectory(prefix="mutants-cache-") as place:
        caches = [Path(tempfile.mkdtemp(dir=place)) for _ in range(options.workers)]
        failing = [x.mutant.module for x in run_all(unchanged, caches, Console(quiet=True), ignore) if x.seen]
        if failing:
            sys.exit(f"the tests of {', '.join(failing)} fail without any fault; mend them first")
        keep = ignore if options.json is None else lambda outcomes: write_json(options.json, as_json(outcomes))
        outcomes = run_all(mutants, caches, console, keep)
    print_rows(console, table(outcomes, options.modules))


if __name__ == "__main__":
    main()
