"""The arguments of the commands that read a finished run."""

from purejaxppo.cli.option_types import a_path
from purejaxppo.cli.parser import Parser


def add_run_argument(parser: Parser) -> None:
    """Adds the run folder, and the files of the user's own environment and agent."""
    parser.add_argument("folder", metavar="RUN", type=a_path, help="run folder")
    add_env_option(parser)


def add_env_option(parser: Parser) -> None:
    """Adds --env and --agent, which name the files of the user's own environment and agent."""
    parser.add_argument("--env", metavar="FILE.py:CLASS", help="the environment of yours that the run was trained in")
    parser.add_argument("--agent", metavar="FILE.py:FUNCTION", help="the agent of yours that was trained")
