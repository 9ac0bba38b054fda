"""purejaxppo train and purejaxppo sweep: they train a run in its folder, or go on with one."""

import argparse
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import jax

from purejaxppo.cli.parser import Command
from purejaxppo.cli.run_spec import resumed, started, write_config
from purejaxppo.cli.train_options import add_sweep_options, add_train_options
from purejaxppo.envs.user_code import bring_env
from purejaxppo.population.processes import HEARTBEAT, join, leave, part
from purejaxppo.report.pictures import has_pictures
from purejaxppo.report.train_run import show_finished
from purejaxppo.runs.load import mend_finished
from purejaxppo.runs.spec import RunSpec, spec_to_json
from purejaxppo.runs.stop import StopSignal
from purejaxppo.runs.summary import is_finished
from purejaxppo.runs.tables import describe_divergence
from purejaxppo.runs.train import Watched, is_extended, plan, reopen, train_watched
from purejaxppo.utils.errors import Interrupted, NotWritten, PPOError
from purejaxppo.utils.lock import locked

DIVERGED = 3  # the exit status of --strict


def train(options: argparse.Namespace) -> int:
    """Trains a run, or goes on with it. -> exit status"""
    if options.write_config is None:
        join_processes(options)
    bring_env(options.env)  # its module may start JAX, which has to join the others before
    if options.write_config is not None:
        return write_config(options)
    spec, folder = resumed(options) if options.resume else started(options)
    with locked(folder) if jax.process_index() == 0 else nullcontext():
        return train_in(folder, spec, options)


def train_in(folder: Path, spec: RunSpec, options: argparse.Namespace) -> int:
    """Trains the run in its folder, which this process has locked, and writes its pictures. -> exit status"""
    from rich.console import Console

    from purejaxppo.runs.console import JsonView, make_view, print_line

    is_first = jax.process_index() == 0  # it prints and writes for all
    console = Console(quiet=options.quiet or options.json_lines or not is_first)
    view = JsonView(spec.log_names) if options.json_lines and is_first else make_view(console, spec)
    goes_further = bool(options.resume) and is_extended(spec, folder)
    if goes_further and is_first:
        reopen(folder)
    finished = None
    is_done = bool(options.resume) and is_finished(folder) and not goes_further
    if is_done:
        leave()  # only the first process has something left to do
        if not is_first:
            return 0
        finished, mended = mend_finished(spec, folder)
        anew = f"; written anew from its results: {', '.join(mended)}" if mended else ""
        print_line(console, f"{folder} is finished; nothing is left to train{anew}")
        if has_pictures(folder) and not mended:
            return diverged_status(finished.summary) if options.strict else 0
    else:
        view.begin(plan(spec), spec_to_json(spec))
    stop = StopSignal()
    watched = Watched(
        view,
        tensorboard=options.tensorboard,
        wandb=options.wandb,
        memory_limit=options.memory_limit,
        should_stop=stop.is_set_anywhere,
        is_begun=bool(options.resume),
    )
    try:
        with stop:
            if not is_done:
                finished = train_watched(spec, folder, watched)
            stop.from_now_on_at_once()
            if finished is not None:
                show_finished(finished, folder, console)
                view.end(finished.summary, folder)
    except (Interrupted, KeyboardInterrupt) as reason:
        text = f"{reason}; its state is kept" if isinstance(reason, Interrupted) else "interrupted"
        print(f"purejaxppo: {text}; go on with --resume {folder}", file=sys.stderr)
        if isinstance(reason, Interrupted):
            stop.is_set_anywhere()  # gives the number of the signal, which another process may have received
            part(128 + stop.number)
        return 128 + stop.number
    except NotWritten as error:
        raise PPOError(f"{error}; go on with --resume {folder}") from None
    leave()
    return diverged_status(finished.summary) if options.strict and finished is not None else 0


def diverged_status(summary: dict[str, Any]) -> int:
    """The exit status under --strict. Prints the reason if it is not 0."""
    if summary["diverged"]:
        print(f"purejaxppo: {describe_divergence(summary)}", file=sys.stderr)
    return DIVERGED if summary["diverged"] else 0


def join_processes(options: argparse.Namespace) -> None:
    """Joins the processes that share the run, if there are several.

    Raises PPOError unless the options name one run folder, and for --heartbeat in one process alone.
    """
    if not options.cluster and options.coordinator is options.num_processes is options.process_id is None:
        if options.heartbeat is not None:
            raise PPOError(f"--heartbeat {options.heartbeat} would do nothing in one process alone; leave it out")
        return
    if options.out is None and options.resume is None:
        raise PPOError("several processes need one run folder, on a disk that they share; give --out or --resume")
    join(
        options.coordinator,
        options.num_processes,
        options.process_id,
        heartbeat_seconds=options.heartbeat or HEARTBEAT,
        remedy=f"what is finished is kept; go on with --resume {options.out or options.resume} in all processes",
    )


TRAIN = Command(
    about="Trains a population of seeds and writes its metrics, curves, clips and policies.",
    examples="""  purejaxppo train --env Pendulum-v1 --seeds 64 --out runs/a --checkpoint-every 5m
  purejaxppo train --resume runs/a
  purejaxppo train --resume runs/a --total-timesteps 2e6
  purejaxppo train --preset cleanrl --learning-rate 1e-3 --env-param length=0.7""",
    add_options=add_train_options,
    run=train,
    usage="purejaxppo train [OPTION ...]",
)
SWEEP = Command(
    about="Trains several settings, each with several seeds, and ranks them.",
    examples="""  purejaxppo sweep --over learning-rate=1e-4,3e-4,1e-3 --over hidden-sizes=64x64,128 --seeds 16
  purejaxppo sweep --over learning-rate=log:1e-5:1e-2 --over gamma=uniform:0.9:0.999 --random 32
  purejaxppo sweep --over learning-rate=log:1e-5:1e-2 --search tpe --seeds 4 --test-seeds 64""",
    add_options=add_sweep_options,
    run=train,
    usage="purejaxppo sweep --over NAME=VALUES [OPTION ...]",
)
