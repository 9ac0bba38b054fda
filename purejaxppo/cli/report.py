"""purejaxppo report: writes report.html of a finished run again."""

import argparse

from purejaxppo.cli.finished_run import add_run_argument
from purejaxppo.cli.option_types import file_to_write
from purejaxppo.cli.parser import Command, Parser
from purejaxppo.envs.user_code import bring_env
from purejaxppo.runs.presets import Preset


def add_options(parser: Parser, _: Preset) -> None:
    """The run and the file of the page."""
    add_run_argument(parser)
    parser.add_argument(
        "--out", metavar="FILE", type=file_to_write(".html"), help="file to write (default RUN/report.html)"
    )


def report(options: argparse.Namespace) -> int:
    """Writes the page."""
    from purejaxppo.report import rewrite_page

    bring_env(options.env)
    print(f"written to {rewrite_page(options.folder, options.out)}")
    return 0


REPORT = Command(
    about="Writes report.html of a run or sweep again.",
    examples="""  purejaxppo report runs/a
  purejaxppo report runs/a --out a.html""",
    add_options=add_options,
    run=report,
)
