"""The logs of a training: JSON lines in the run folder, TensorBoard, and Weights & Biases."""

import contextlib
import importlib.util
import json
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

from purejaxppo.population.logs import Log
from purejaxppo.utils.errors import PPOError
from purejaxppo.utils.files import read_json, write_json, write_whole, written_or_said

PROGRESS = "progress.jsonl"
FIRST_SEED = "population/first_seed"
PACKAGES = {"tensorboard": "tensorboardX", "wandb": "wandb"}  # the extras, and what is imported of each


@contextlib.contextmanager
def open_logs(
    folder: Path, config: dict[str, Any], *, has_tensorboard: bool, wandb_project: str | None
) -> Iterator[Log]:
    """Opens progress.jsonl and the other logs that are asked for. config: the content of config.json"""
    with contextlib.ExitStack() as opened:
        logs: list[Log] = [opened.enter_context(log_file(folder))]
        if has_tensorboard:
            logs.append(opened.enter_context(tensorboard(folder)))
        if wandb_project is not None:
            logs.append(opened.enter_context(weights_and_biases(folder, config, wandb_project)))

        def log(metrics: dict[str, float], step: int) -> None:
            for each in logs:
                each(metrics, step)

        yield log


@contextlib.contextmanager
def log_file(folder: Path) -> Iterator[Log]:
    """progress.jsonl, with one line for each update. A run that repeats updates replaces their lines.

    Raises NotWritten if the disk is full or the folder cannot be written.
    """
    path = folder / PROGRESS
    file: TextIO | None = None

    def log(metrics: dict[str, float], step: int) -> None:
        nonlocal file
        if file is None:
            kept = lines_before(path, metrics.get(FIRST_SEED), step)
            write_whole(path, lambda file: file.write("".join(kept).encode()))
            with written_or_said(path):
                file = path.open("a", buffering=1)
        with written_or_said(path):
            file.write(json.dumps({"step": step, **metrics}) + "\n")

    try:
        yield log
    finally:
        if file is not None:
            with written_or_said(path):  # closing writes what is still in the buffer
                file.close()


@contextlib.contextmanager
def tensorboard(folder: Path) -> Iterator[Log]:
    """Event files in the folder "tensorboard" of the run; each chunk of seeds after the first has its own subfolder.

    Updates that a run repeats replace the earlier points.
    """
    from tensorboardX import SummaryWriter  # pyright: ignore[reportMissingImports]

    writers: dict[int, Any] = {}

    def log(metrics: dict[str, float], step: int) -> None:
        first_seed = int(metrics.get(FIRST_SEED, 0))
        if first_seed not in writers:
            place = folder / "tensorboard" / (f"from-seed-{first_seed}" if first_seed else "")
            writers[first_seed] = SummaryWriter(str(place), purge_step=step)
        for name, value in metrics.items():
            writers[first_seed].add_scalar(name, value, step)

    try:
        yield log
    finally:
        for writer in writers.values():
            writer.close()


@contextlib.contextmanager
def weights_and_biases(folder: Path, config: dict[str, Any], project: str) -> Iterator[Log]:
    """A run of Weights & Biases, whose steps are environment steps. A resumed training continues the same run.

    Raises PPOError if wandb does not start a run, and then leaves nothing of it in the folder.
    """
    import wandb  # pyright: ignore[reportMissingImports]

    place, is_new = folder / "wandb.json", not (folder / "wandb").exists()
    known = read_json(place) if place.exists() else {"id": uuid.uuid4().hex[:8], "project": project}
    quiet = wandb.Settings(silent=True)  # its summary would land in the live view
    try:
        run = wandb.init(
            project=known["project"],
            id=known["id"],
            resume="allow",
            dir=str(folder),
            name=folder.name,
            config=config,
            settings=quiet,
        )
    except (wandb.Error, ValueError) as error:
        if is_new:
            shutil.rmtree(folder / "wandb", ignore_errors=True)
        raise refused_by_wandb(error) from None
    write_json(place, known)
    run.define_metric("env_steps", hidden=True)
    run.define_metric("*", step_metric="env_steps")
    try:
        yield lambda metrics, step: run.log({"env_steps": step, **metrics})
    finally:
        run.finish()


def check_installed(extra: str) -> None:
    """Raises PPOError if the package of a log is not installed."""
    if importlib.util.find_spec(PACKAGES[extra]) is None:
        raise PPOError(f'--{extra} needs {PACKAGES[extra]}, which is not installed; pip install "purejaxppo[{extra}]"')


def check_wandb_login() -> None:
    """Raises PPOError if Weights & Biases has no key, and no terminal to ask for one."""
    import wandb  # pyright: ignore[reportMissingImports]

    try:
        wandb.setup(settings=wandb.Settings(silent=True))
        wandb.login()
    except (wandb.Error, ValueError) as error:
        raise refused_by_wandb(error) from None


def refused_by_wandb(error: Exception) -> PPOError:
    """An error of wandb as a line that says what to do."""
    reason = " ".join(str(error).split()).rstrip(".")
    return PPOError(f"--wandb: {reason}; run wandb login, or set WANDB_MODE=offline")


def lines_before(path: Path, first_seed: float | None, step: int) -> list[str]:
    """The complete lines of a log, without those that this chunk of seeds is about to write again."""
    lines = path.read_text().splitlines(keepends=True) if path.exists() else []
    told = [(line, told_by(line)) for line in lines if line.endswith("\n")]
    return [line for line, content in told if content and not (content[0] == first_seed and content[1] >= step)]


def steps_told(folder: Path) -> int:
    """The largest number of environment steps in the log of a run; 0 without a log."""
    path = folder / PROGRESS
    lines = path.read_text(errors="replace").splitlines() if path.is_file() else []
    steps = [content[1] for content in map(told_by, lines) if content]
    return max((step for step in steps if isinstance(step, int)), default=0)


def told_by(line: str) -> tuple[float | None, int] | None:
    """The first seed and the step of a line; None if `log_file` has not written it."""
    try:
        content = json.loads(line)
        return content.get(FIRST_SEED), content["step"]
    except (ValueError, KeyError, AttributeError):
        return None
