"""Two ways to put a population's states on disk: ours, and orbax's v1 API (which comes with flax), as it is.

python benchmarks/stores.py [--seeds 16 64 1024] [--flips 500] [--repeats 3] [--json OUT]

Seconds and bytes of whole states of `cleanrl` seeds before their first update, median of the repeats after a first one;
what single bit flips come to; and what is left where the disk takes a third of the bytes.
"""

import argparse
import contextlib
import dataclasses
import logging
import resource
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
from rich.console import Console

import purejaxppo as pjp
from purejaxppo.runs.console import print_rows
from purejaxppo.utils.files import load_tree, save_tree, to_host, write_json


@dataclasses.dataclass(frozen=True)
class Way:
    """How a tree is saved and loaded."""

    name: str
    save: Callable[[Path, Any], Any]
    load: Callable[[Path, Any], Any]  # (folder, a tree of the same shapes) -> tree


def make_ways() -> tuple[list[Way], float]:
    """Both, and the seconds that the import of orbax takes after ours."""
    started = time.perf_counter()
    import orbax.checkpoint.experimental.v1 as orbax

    seconds = time.perf_counter() - started
    logging.disable(logging.ERROR)  # orbax logs each save
    theirs = Way("orbax", lambda to, tree: orbax.save(str(to), tree), lambda of, like: orbax.load(str(of), like))
    return [Way("ours", save_tree, load_tree), theirs], seconds


def host_states(num_seeds: int) -> dict[str, np.ndarray]:
    """The states of a population before its first update, as NumPy arrays by name."""
    agent = pjp.make_ppo(pjp.make_env("CartPole-v1"), pjp.PPOConfig())
    runners = to_host(jax.jit(jax.vmap(agent.init))(pjp.seed_keys(0, num_seeds)))
    return {jax.tree_util.keystr(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(runners)}


def files_of(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def time_way(way: Way, tree: dict[str, np.ndarray], folder: Path, repeats: int) -> dict[str, float]:
    """Median seconds, and megabytes on disk."""
    seconds = []
    for i in range(repeats + 1):
        started = time.perf_counter()
        way.save(folder / str(i), tree)
        saved = time.perf_counter()
        way.load(folder / str(i), tree)
        seconds.append((saved - started, time.perf_counter() - saved))
    save, load = np.median(seconds[1:], axis=0)
    return {"save": save, "load": load, "megabytes": sum(x.stat().st_size for x in files_of(folder / "0")) / 1e6}


def flip_bits(way: Way, tree: dict[str, np.ndarray], folder: Path, count: int) -> Counter[str]:
    """What single bit flips come to, anywhere in the files."""
    way.save(folder, tree)
    random, found = np.random.default_rng(0), Counter()
    files = files_of(folder)
    sizes = np.array([path.stat().st_size for path in files], np.float64)
    for _ in range(count):
        path = files[random.choice(len(files), p=sizes / sizes.sum())]
        content = path.read_bytes()
        damaged = bytearray(content)
        damaged[random.integers(len(damaged))] ^= 1 << int(random.integers(8))
        path.write_bytes(damaged)
        found[outcome_of(way, folder, tree)] += 1
        path.write_bytes(content)
    return found


def outcome_of(way: Way, folder: Path, tree: dict[str, np.ndarray]) -> str:
    try:
        back = way.load(folder, tree)
    except Exception:  # whatever a reader makes of a damaged file
        return "refused"
    same = back.keys() == tree.keys() and all(np.asarray(back[x]).tobytes() == tree[x].tobytes() for x in tree)
    return "harmless" if same else "WRONG"


def fill_disk(way: Way, tree: dict[str, np.ndarray], folder: Path, size: int) -> str:
    """What a save raises where no file may grow beyond `size`, and the files that it leaves."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    folder.mkdir()
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    raised = "nothing"
    with contextlib.suppress(Exception):
        try:
            way.save(folder / "a", tree)
        except Exception as error:
            raised = type(error).__name__
    resource.setrlimit(resource.RLIMIT_FSIZE, before)
    return f"{raised}, {len(files_of(folder))} files left"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[16, 64, 1024])
    parser.add_argument("--flips", type=int, default=500)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()

    ways, seconds = make_ways()
    rows = [["way", "seeds", "save s", "load s", "MB", "flips", "full disk"]]
    report: dict[str, Any] = {"import_seconds_of_orbax": seconds, "ways": {}}
    folder = Path(tempfile.mkdtemp())
    for way in ways:
        for num_seeds in options.seeds:
            tree = host_states(num_seeds)
            found = time_way(way, tree, folder / f"{way.name} {num_seeds}", options.repeats)
            report["ways"].setdefault(way.name, {})[num_seeds] = found
            numbers = (f"{found[name]:.3g}" for name in ("save", "load", "megabytes"))
            rows.append([way.name, str(num_seeds), *numbers, "", ""])
        tree = host_states(4)
        flips = flip_bits(way, tree, folder / f"{way.name} flips", options.flips)
        full = fill_disk(way, tree, folder / f"{way.name} full", sum(leaf.nbytes for leaf in tree.values()) // 8)
        report["ways"][way.name] |= {"flips": dict(flips), "full_disk": full}
        rows.append([way.name, "4", "", "", "", ", ".join(f"{n} {name}" for name, n in sorted(flips.items())), full])
    shutil.rmtree(folder)
    print_rows(Console(width=160), rows)
    print(f"importing orbax took {seconds:.2f} s", file=sys.stderr)
    if options.json:
        write_json(options.json, report)


if __name__ == "__main__":
    main()
