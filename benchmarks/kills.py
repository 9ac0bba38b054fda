"""What a run survives: stops, kill -9, damaged files and full disks. One table, one JSON; status 1 if anything is lost.

python benchmarks/kills.py [--stops 20] [--kills 200] [--json OUT]

Runs are tiny, in chunks of two members, with a checkpoint every four updates and each seed's best kept. They are of
five kinds: feed-forward, recurrent, full-batch, a sweep, and one that is spread over the devices. Each must end as the
one that nothing happened to: states, metrics, returns and best states, bit for bit.

stops    in-process: stopped after a random update, and gone on with; and gone on with on one device
kills    `purejaxppo train` in a process that is killed at a random moment, or while it writes
flips, cuts, losses    in a checkpoint and in the results of a finished run
disks    every file of a run, where the disk takes only so many bytes (RLIMIT_FSIZE)
"""

import argparse
import collections
import contextlib
import dataclasses
import io
import json
import os
import re
import resource
import select
import shutil
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from rich.console import Console

import purejaxppo as pjp
from purejaxppo.cli import main as cli
from purejaxppo.cli.arguments import read_options
from purejaxppo.cli.run_spec import make_spec
from purejaxppo.population import checkpoints, chunks, program, store
from purejaxppo.runs import results, summary
from purejaxppo.runs import train as runs
from purejaxppo.runs.console import print_rows
from purejaxppo.runs.load import open_run
from purejaxppo.runs.spec import RunSpec
from purejaxppo.utils.files import to_host, write_json

EVERY = 4  # updates between two checkpoints
KILLS_OF_A_RUN = 20
SIZES = [*("--config.num-envs", "4", "--config.num-steps", "16", "--config.total-timesteps", str(4 * 16 * 48))]
SMALL = ["--config.hidden-sizes", "8", "--config.normalize-obs", "true", "--config.normalize-reward", "true"]
KINDS = {
    "feed-forward": ["train", "--preset", "cleanrl", "--seeds", "4", *SIZES, *SMALL],
    "recurrent": ["train", "--preset", "recurrent", "--seeds", "4", *SIZES, "--config.cell-size", "8"],
    "full-batch": [
        *("train", "--preset", "keras", "--seeds", "4", *SIZES),
        *("--config.policy-iterations", "4", "--config.value-iterations", "4", "--config.hidden-sizes", "8"),
    ],
    "sweep": ["sweep", "--preset", "cleanrl", "--seeds", "2", "--over", "learning-rate=1e-3,1e-2", *SIZES, *SMALL],
    "over devices": ["train", "--preset", "cleanrl", "--seeds", "4", "--placement", "data", *SIZES, *SMALL],
}
KEEPING = ["--quiet", "--checkpoint-every", str(EVERY), "--keep-best"]


class Moment(NamedTuple):
    """When a process is killed: some seconds after a line that it says, or after its start."""

    line: str  # how the line begins; "" for the start
    nth: int  # which of these lines
    seconds: float


class Survival(NamedTuple):
    """What has happened to the processes of all runs."""

    in_save: dict[str, list[bool]]  # by kind: of each kill, whether something was being written
    lost: dict[str, list[int]]  # updates that were done anew, for each time that a chunk went on
    same: dict[str, list[bool]]  # of each run, whether it ended as the one that nothing happened to


def in_process(work: Callable[[int], int], log: Path) -> tuple[int, int]:
    """Calls `work` in a forked process, with a pipe to write to. -> (process id, the pipe to read from)

    JAX must not have started here: its threads do not survive a fork.
    """
    read, write = os.pipe()
    process = os.fork()
    if process:
        os.close(write)
        return process, read
    os.close(read)
    status = 70
    try:
        with log.open("a") as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
            status = work(write)
            sys.stdout.flush()
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
    finally:
        os._exit(status)


def result_of(work: Callable[[int], int], log: Path) -> tuple[int, list[str]]:
    """The status and the lines of a process that ends by itself."""
    process, pipe = in_process(work, log)
    with os.fdopen(pipe) as lines:
        said = lines.read().splitlines()
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]), said


def set_up(cache: Path) -> None:
    """Chunks of two members, and programs that are compiled once."""
    pjp.use_all_cores()
    program.CPU_WIDTH = 1
    jax.config.update("jax_compilation_cache_dir", str(cache))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    warnings.simplefilter("always", UserWarning)


def announce(pipe: int) -> None:
    """Makes this process say what it does: what it goes on from, what it has done, and when it writes."""

    def say(*words: Any) -> None:
        os.write(pipe, (" ".join(map(str, words)) + "\n").encode())

    def saying(real: Callable[..., None]) -> Callable[..., None]:
        def write(path: Path, *rest: Any) -> None:
            say("saving", path.name)
            real(path, *rest)
            say("saved", path.name)

        return write

    checkpoints.save_tree, store.save_tree = saying(checkpoints.save_tree), saying(store.save_tree)
    runs.write_json, summary.write_json = saying(runs.write_json), saying(summary.write_json)
    results.write_metrics = saying(results.write_metrics)
    find, keep = chunks.find_checkpoint, chunks.keep_or_stop

    def find_and_say(place: Any, rows: Any) -> Any:
        found = find(place, rows)
        say("begun", *rows, 0 if found is None else found.metrics.updates.shape[1])
        return found

    def say_and_keep(chunk: chunks.Chunk) -> None:
        say("done", *chunk.rows, chunk.done)
        keep(chunk)

    chunks.find_checkpoint, chunks.keep_or_stop = find_and_say, say_and_keep


def command(words: list[str], cache: Path) -> Callable[[int], int]:
    """The work of a process: one command, told of as it goes."""

    def run(pipe: int) -> int:
        set_up(cache)
        announce(pipe)
        return cli.main(words)

    return run


def listen(process: int, pipe: int, moment: Moment | None) -> list[str]:
    """What a process says until it ends, or until it is killed at that moment."""
    started, text, deadline, is_alive = time.monotonic(), "", None, True
    while True:
        lines = text.splitlines()
        if moment is not None and deadline is None:
            heard = sum(line.startswith(moment.line) for line in lines) if moment.line else moment.nth
            now = time.monotonic() if moment.line else started
            deadline = now + moment.seconds if heard >= moment.nth else None
        left = None if deadline is None or not is_alive else max(0.0, deadline - time.monotonic())
        if select.select([pipe], [], [], left)[0]:
            heard = os.read(pipe, 65_536)
            if not heard:
                os.close(pipe)
                return text.splitlines()
            text += heard.decode()
        elif is_alive:
            os.kill(process, signal.SIGKILL)
            is_alive = False


def draw_moment(random: np.random.Generator) -> Moment:
    """Half of them while something is written, most others in training, and some at any time since the start."""
    kind = random.choice(["save", "train", "start"], p=[0.6, 0.3, 0.1])
    if kind == "save":
        return Moment("saving", int(random.integers(1, 9)), random.uniform(0.0, 0.01))
    return Moment("begun", 1, random.uniform(0.0, 2.0)) if kind == "train" else Moment("", 0, random.uniform(0.0, 4.0))


class Watched:
    """What is known of a run from what its processes have said. Raises AssertionError where the next one disagrees."""

    def __init__(self) -> None:
        self.lost: list[int] = []
        self._done: dict[str, int] = {}  # updates, by chunk
        self._safe: dict[str, int] = {}  # of the newest checkpoint

    def note(self, lines: list[str]) -> bool:
        """Takes in the lines of a process. -> whether it was writing when it ended"""
        chunk, is_writing = "", False
        for word, *rest in map(str.split, lines):
            is_writing = word == "saving"
            if word in ("begun", "done"):
                chunk, updates = "-".join(rest[:2]), int(rest[2])
                if word == "begun":
                    self._go_on(chunk, updates)
                self._done[chunk] = updates
            elif word == "saved" and rest[0].isdecimal():
                self._safe[chunk] = int(rest[0])
        return is_writing

    def _go_on(self, chunk: str, updates: int) -> None:
        done, safe = self._done.get(chunk, 0), self._safe.get(chunk, 0)
        assert updates >= safe, f"chunk {chunk} went on from {updates}, and {safe} was on the disk"
        assert done - updates <= EVERY, f"chunk {chunk} had done {done}, and went on from {updates}"
        if done:
            self.lost.append(done - updates)


def kill_run(kind: str, folder: Path, cache: Path, random: np.random.Generator) -> tuple[list[bool], list[int]]:
    """Trains a run whose processes are killed, up to some 20 of them, and lets it finish.

    -> (of each kill, whether something was being written; the updates that were done anew)
    """
    watched, kills = Watched(), []
    log = folder.with_suffix(".log")
    while True:
        begun = (folder / "config.json").exists()
        if not begun:
            shutil.rmtree(folder, ignore_errors=True)  # killed before there was a run to go on with
        out = [*KINDS[kind], *KEEPING, "--out", str(folder)]
        words = [out[0], "--quiet", "--resume", str(folder)] if begun else out
        process, pipe = in_process(command(words, cache), log)
        lines = listen(process, pipe, draw_moment(random) if len(kills) < KILLS_OF_A_RUN else None)
        status = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
        assert status in (0, -signal.SIGKILL), f"{kind}: status {status}; {log} says why"
        is_writing = watched.note(lines)
        if status == 0:
            return kills, watched.lost
        kills.append(is_writing)


def survive_kills(folder: Path, cache: Path, num_kills: int, seed: int) -> Survival:
    """Runs of all kinds in turn, until that many processes were killed, three tenths of them while writing."""
    survival = Survival(*(collections.defaultdict(list) for _ in range(3)))
    random, i = np.random.default_rng(seed), 0
    for kind, words in KINDS.items():
        status, _ = result_of(
            command([*words, *KEEPING, "--out", str(folder / f"whole {kind}")], cache), folder / "log"
        )
        assert status == 0, f"{kind}: status {status}; {folder / 'log'} says why"
    while True:
        killed = [x for kills in survival.in_save.values() for x in kills]
        if len(killed) >= num_kills and sum(killed) >= 0.3 * num_kills and i % len(KINDS) == 0:
            return survival
        kind = list(KINDS)[i % len(KINDS)]
        place = folder / f"run {i}"
        kills, lost = kill_run(kind, place, cache, random)
        status, said = result_of(
            lambda pipe, place=place, kind=kind: compare(pipe, place, folder / f"whole {kind}"), folder / "log"
        )
        survival.in_save[kind] += kills
        survival.lost[kind] += lost
        survival.same[kind].append(status == 0)
        print(
            f"{kind}: {len(kills)} kills, {sum(kills)} while writing; {said or 'the same'}", file=sys.stderr, flush=True
        )
        i += 1


def compare(pipe: int, one: Path, other: Path) -> int:
    """The work of a process: 0 where two finished runs are the same."""
    same = same_results(read_results(one), read_results(other))
    os.write(pipe, b"" if same else b"NOT the same\n")
    return 0 if same else 1


def read_results(folder: Path) -> Any:
    """All that a run or a sweep has found, on the host."""
    return parts_of(open_run(folder)[1])


def all_of(population: pjp.Population) -> Any:
    """Metrics, states, returns, and each seed at its best."""
    best = population.checkpoint("best")
    return to_host((population.metrics, population.runners, population.final_returns(), tuple(best)))


def same_results(one: Any, other: Any) -> bool:
    """Whether two trees are the same, bit for bit."""
    pairs = zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True)
    return all(x.dtype == y.dtype and x.shape == y.shape and x.tobytes() == y.tobytes() for x, y in pairs)


def spec_of(kind: str) -> RunSpec:
    """The run of a kind, as its command makes it."""
    return make_spec(read_options([*KINDS[kind], *KEEPING]))


def train_spec(spec: RunSpec, out: Path, **options: Any) -> Any:
    """The population or sweep of a run, without the files around it."""
    return pjp.train_population(
        pjp.make_env(spec.env, **spec.env_params),
        spec.config,
        num_seeds=spec.num_seeds,
        seed=spec.seed,
        sweep=spec.sweep,
        placement=spec.placement,
        evaluation_episodes=3,
        out=out,
        checkpoint_every=spec.checkpoint_every,
        keep_checkpoints=spec.keep_checkpoints,
        keep_best=spec.keep_best,
        **options,
    )


@contextlib.contextmanager
def compiled_once() -> Iterator[None]:
    """Programs that are made once for all populations within: nothing else is changed by it."""
    made, real = {}, chunks.compile_to_fit

    def compile_or_remember(job: program.Job) -> Any:
        devices = program.used_devices(job.options.placement, job.num_members)
        key = (repr(job.program.config), job.num_members, job.options.placement, len(devices))
        if key not in made:
            made[key] = real(job)
        return made[key]

    chunks.compile_to_fit = compile_or_remember
    try:
        yield
    finally:
        chunks.compile_to_fit = real


@contextlib.contextmanager
def on_one_device() -> Iterator[None]:
    """The first device alone, as on a machine that has no other."""
    real = program.used_devices
    program.used_devices = lambda *arguments: real(*arguments)[:1]
    try:
        yield
    finally:
        program.used_devices = real


def parts_of(found: Any) -> list[Any]:
    """The results of each setting, or of the one there is."""
    return [all_of(population) for population in results.settings_of(found)]


class Stops(NamedTuple):
    """What came of runs that were stopped at random updates, by kind."""

    same: dict[str, list[bool]]  # each as the one that was not stopped
    elsewhere: dict[str, list[bool]]  # gone on with on one device: the same up to the stop, and close after it


def survive_stops(folder: Path, num_stops: int, seed: int) -> Stops:
    """Runs of each kind, each stopped once and gone on with."""
    stops, random = Stops({}, {}), np.random.default_rng(seed)
    for kind in KINDS:
        spec, asked = spec_of(kind), []
        whole = train_spec(spec, folder / kind, should_stop=lambda asked=asked: asked.append(0) or False)
        chosen = 1 + random.choice(len(asked), size=num_stops, replace=num_stops > len(asked))
        stops.same[kind] = [
            same_results(parts_of(stop_and_go_on(spec, folder / f"{kind} {i}", n)), parts_of(whole))
            for i, n in enumerate(chosen)
        ]
        if spec.placement == "seeds":
            stops.elsewhere[kind] = [
                goes_on_elsewhere(spec, folder / f"{kind} elsewhere {n}", int(n), whole) for n in chosen[:3]
            ]
    return stops


def stopped(spec: RunSpec, out: Path, report: int) -> pjp.Interrupted:
    """Stops a run when it is asked for that time. -> the reason that it gives"""
    reports = iter(range(1, 1_000_000))
    try:
        train_spec(spec, out, should_stop=lambda: next(reports) == report)
    except pjp.Interrupted as reason:
        return reason
    raise AssertionError(f"{out} did not stop")


def stop_and_go_on(spec: RunSpec, out: Path, report: int, **options: Any) -> Any:
    """Stops a run when it is asked for that time, and goes on with it."""
    stopped(spec, out, report)
    return train_spec(spec, out, **options)


def goes_on_elsewhere(spec: RunSpec, out: Path, report: int, whole: Any) -> bool:
    """True if a run that was stopped goes on, on one device, from the same states and nearly to the same ones."""
    begun, seen = int(str(stopped(spec, out, report)).split()[2]), []
    with on_one_device():
        found = train_spec(spec, out, on_chunk=lambda progress: seen.append((*progress.members, progress.updates)))
    first, last, updates = seen[0]
    pairs = zip(all_metrics(found), all_metrics(whole), strict=True)
    ours, theirs = (np.concatenate(x)[first:last] for x in zip(*pairs, strict=True))
    same_before = ours[:, :begun].tobytes() == theirs[:, :begun].tobytes()
    return begun < updates and same_before and np.allclose(ours[:, begun], theirs[:, begun], rtol=1e-3)


def all_metrics(found: Any) -> list[np.ndarray]:
    """A number of each update and member, by setting."""
    return [population.column("value_loss") for population in results.settings_of(found)]


def half_trained(spec: RunSpec, out: Path) -> Path:
    """A run that was stopped in its second chunk, with two checkpoints; their folder."""
    stopped(spec, out, 20)
    (place,) = (out / "program-0" / "unfinished").iterdir()
    assert len(checkpoints.checkpoints(place)) == 2
    return place


Damage = Callable[[Path, np.random.Generator], None]


def flip_bit(path: Path, random: np.random.Generator) -> None:
    """Changes one bit of a file."""
    content = bytearray(path.read_bytes())
    content[random.integers(len(content))] ^= 1 << int(random.integers(8))
    path.write_bytes(content)


def cut_short(path: Path, random: np.random.Generator) -> None:
    """Leaves the beginning of a file."""
    path.write_bytes(path.read_bytes()[: random.integers(path.stat().st_size)])


def remove(path: Path, random: np.random.Generator) -> None:
    """Removes a file."""
    path.unlink()


def damage_many(
    damage: Damage, count: int, files: list[Path], read: Callable[[], Any], random: np.random.Generator
) -> collections.Counter[str]:
    """How often a damaged file, one at a time and larger ones more often, was noticed, and how."""
    right, outcomes = read(), collections.Counter()
    sizes = np.array([path.stat().st_size for path in files], np.float64)
    for _ in range(count):
        path = files[random.choice(len(files), p=sizes / sizes.sum() if damage is flip_bit else None)]
        content = path.read_bytes()
        damage(path, random)
        outcomes[outcome_of(read, right, path)] += 1
        path.write_bytes(content)
    return outcomes


def outcome_of(read: Callable[[], Any], right: Any, path: Path) -> str:
    """What reading a damaged file comes to."""
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        try:
            found = read()
        except pjp.PPOError as error:
            return "refused" if any(part in str(error) for part in path.parts[-3:]) else "refused, file NOT named"
    if any("is used" in str(warning.message) for warning in said):
        return "the one before is used"
    return "harmless" if same_results(found, right) else "WRONG"


def survive_damage(folder: Path, seed: int, flips: int = 500, others: int = 50) -> dict[str, dict[str, int]]:
    """Flips, cuts and losses in the newest checkpoint of a run, and in the results of a finished one."""
    spec, random = spec_of("feed-forward"), np.random.default_rng(seed)
    whole = train_spec(spec, folder / "damaged whole")
    place = half_trained(spec, folder / "damaged half")
    half = dataclasses.replace(whole.store, folder=folder / "damaged half" / "program-0")
    rows = next(iter(checkpoints.unfinished(half.folder)))
    newest = sorted(place.iterdir())[-1]

    def read_half() -> Any:
        return to_host(checkpoints.newest_checkpoint(half, rows))

    def read_whole() -> Any:
        return parts_of(train_spec(spec, folder / "damaged whole", on_chunk=refuse_to_train))

    in_half = [path for path in newest.iterdir() if path.is_file()]
    in_whole = [path for path in (folder / "damaged whole").rglob("*") if path.is_file()]
    found = {}
    for name, damage, count in (("flips", flip_bit, flips), ("cuts", cut_short, others), ("losses", remove, others)):
        found[f"{name} in a checkpoint"] = damage_many(damage, count // 2, in_half, read_half, random)
        found[f"{name} in results"] = damage_many(damage, count - count // 2, in_whole, read_whole, random)
    return {name: dict(outcomes) for name, outcomes in found.items()}


def refuse_to_train(progress: Any) -> None:
    """Nothing is trained where results are read."""
    raise AssertionError("a finished population was trained anew")


@contextlib.contextmanager
def full_disk(size: int) -> Iterator[None]:
    """Files that can grow to that many bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def survive_full_disks(folder: Path, seed: int, count: int = 50) -> dict[str, int]:
    """Whole commands whose files may grow to a random size; each goes on when there is room again."""
    words, random, outcomes = [*KINDS["feed-forward"], *KEEPING], np.random.default_rng(seed), collections.Counter()
    cli.main([*words, "--out", str(folder / "roomy")])
    largest = max(path.stat().st_size for path in (folder / "roomy").rglob("*") if path.is_file())
    whole = read_results(folder / "roomy")
    for i in range(count):
        out, said = folder / f"full {i}", io.StringIO()
        with (
            contextlib.redirect_stderr(said),
            contextlib.redirect_stdout(said),
            full_disk(log_uniform(random, largest)),
        ):
            status = cli.main([*words, "--out", str(out)])
        outcomes[f"status {status}"] += 1
        if status == 0:
            continue
        line = said.getvalue().strip().splitlines()[-1]
        is_named = "could not be written" in line and "make room" in line and "Traceback" not in said.getvalue()
        outcomes["one line that says it" if status == 2 and is_named else f"NOT said: {line}"] += 1
        again = ["train", "--quiet", "--resume", str(out)]
        if not (out / "config.json").exists():
            shutil.rmtree(out)
            again = [*words, "--out", str(out)]
        same = cli.main(again) == 0 and same_results(read_results(out), whole)
        outcomes["and then ends the same" if same else "and then ends NOT the same"] += 1
    return dict(outcomes)


def log_uniform(random: np.random.Generator, largest: int) -> int:
    """A size up to the largest file: small ones as often as large ones."""
    return int(np.exp(random.uniform(np.log(100), np.log(largest))))


def in_one_process(work: Callable[[], Any], cache: Path, log: Path) -> Any:
    """What `work` returns in a process of its own, in JSON."""

    def run(pipe: int) -> int:
        set_up(cache)
        with compiled_once():
            os.write(pipe, json.dumps(work()).encode())
        return 0

    status, said = result_of(run, log)
    assert status == 0, f"status {status}; {log} says why"
    return json.loads("".join(said))


def show(report: dict[str, Any]) -> list[list[str]]:
    """A row for each thing that was done, the head first."""
    rows = [["what", "how often", "came to"]]
    for kind, same in report["stops"]["same"].items():
        rows.append([f"stopped, {kind}", str(len(same)), f"{sum(same)} bit for bit the same"])
    for kind, close in report["stops"]["elsewhere"].items():
        rows.append(
            [f"stopped, {kind}, then on one device", str(len(close)), f"{sum(close)} go on from the same state"]
        )
    for kind, in_save in report["kills"]["in_save"].items():
        same, lost = report["kills"]["same"][kind], report["kills"]["lost"][kind]
        came_to = f"{sum(same)} of {len(same)} runs the same; at most {max(lost, default=0)} updates of {EVERY} lost"
        rows.append([f"killed, {kind}", f"{len(in_save)}, {sum(in_save)} while writing", came_to])
    for name, outcomes in [*report["damage"].items(), ("disk full", report["disks"])]:
        rows.append([name, "", ", ".join(f"{count} {outcome}" for outcome, count in sorted(outcomes.items()))])
    return rows


def is_well(report: dict[str, Any]) -> bool:
    """Whether nothing was lost, and nothing wrong was loaded."""
    stops, kills = report["stops"], report["kills"]
    all_same = [*stops["same"].values(), *stops["elsewhere"].values(), *kills["same"].values()]
    outcomes = " ".join(name for found in [*report["damage"].values(), report["disks"]] for name in found)
    return all(map(all, all_same)) and not re.search("WRONG|NOT", outcomes)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stops", type=int, default=20, help="of each kind of run (default 20)")
    parser.add_argument("--kills", type=int, default=200, help="of all kinds together (default 200)")
    parser.add_argument("--flips", type=int, default=500, help="of single bits (default 500)")
    parser.add_argument("--others", type=int, default=50, help="cuts, losses, and full disks, of each (default 50)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        cache, log = folder / "cache", folder / "log"
        report = {
            "stops": in_one_process(lambda: survive_stops(folder, options.stops, options.seed)._asdict(), cache, log),
            "damage": in_one_process(
                lambda: survive_damage(folder, options.seed, options.flips, options.others), cache, log
            ),
            "disks": in_one_process(lambda: survive_full_disks(folder, options.seed, options.others), cache, log),
            "kills": survive_kills(folder, cache, options.kills, options.seed)._asdict(),
        }
    print_rows(Console(width=140), show(report))
    if options.json:
        write_json(options.json, report | {"options": {**vars(options), "json": str(options.json)}})
    return 0 if is_well(report) else 1


if __name__ == "__main__":
    sys.exit(main())
