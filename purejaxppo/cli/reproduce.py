"""purejaxppo reproduce: repeats a run from its folder and says whether it came out the same."""

import argparse
import contextlib
import dataclasses
import tempfile
from pathlib import Path

from rich.console import Console

from purejaxppo.cli.finished import add_run
from purejaxppo.cli.option_types import a_path
from purejaxppo.cli.parser import Command, Parser, option, switch
from purejaxppo.envs.user_code import bring_env
from purejaxppo.population.memory import parse_bytes
from purejaxppo.runs.folder import make_run_folder
from purejaxppo.runs.presets import Preset
from purejaxppo.runs.reproduce import check_repeatable, describe, repeat
from purejaxppo.runs.spec import spec_to_json
from purejaxppo.runs.train import plan
from purejaxppo.utils.lock import locked


def add_reproduce(parser: Parser, _: Preset) -> None:
    """The run, and the folder of its repetition."""
    add_run(parser)
    option(parser, "--out", "FOLDER", a_path, "keep the repetition in a new run folder (default: it is removed)")
    about = "such as 4GiB or 500MB (default 90%% of the free memory)"
    option(parser, "--memory-limit", "SIZE", parse_bytes, about)
    switch(parser, "--quiet", "print the comparison only")


def reproduce(options: argparse.Namespace) -> int:
    """Repeats the run and prints the comparison. -> 0 if it came out the same, at least within rounding; otherwise 1"""
    from purejaxppo.runs.console import make_view  # which loads more of rich

    bring_env(options.env)
    spec = check_repeatable(options.folder)
    spec = dataclasses.replace(spec, checkpoint_every=None, keep_best=False)  # which change no result
    view = make_view(Console(quiet=options.quiet), spec)
    with contextlib.ExitStack() as stack:
        out = options.out or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="purejaxppo-")))
        make_run_folder(out)
        stack.enter_context(locked(out))
        view.begin(plan(spec), spec_to_json(spec))
        comparison = repeat(spec, options.folder, out, view, options.memory_limit)
    print(*describe(comparison), sep="\n")
    return 0 if comparison.is_same else 1


REPRODUCE = Command(
    about="Repeats a run from its folder, and says whether it came out the same.",
    examples="""  purejaxppo reproduce runs/a
  purejaxppo reproduce runs/a --out runs/a-again""",
    add_options=add_reproduce,
    run=reproduce,
)
