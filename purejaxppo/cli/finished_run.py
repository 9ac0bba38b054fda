"""The arguments of the commands that read a finished run."""

from purejaxppo.cli.compile_cache import add_cache_option
from purejaxppo.cli.option_types import a_path
from purejaxppo.cli.parser import Parser


def add_run_argument(parser: Parser) -> None:
    """Adds the run folder, and the options of `add_run_options`."""
    parser.add_argument("folder", metavar="RUN", type=a_path, help="folder of a finished run")
    add_run_options(parser)


def add_run_options(parser: Parser) -> None:
    """Adds --env and --agent, which name the files of the user's own environment and agent, and --cache."""
    parser.add_argument("--env", metavar="FILE.py:CLASS", help="your own environment, if it was given in training")
    parser.add_argument("--agent", metavar="FILE.py:FUNCTION", help="your own agent, if it was given in training")
    add_cache_option(parser)
