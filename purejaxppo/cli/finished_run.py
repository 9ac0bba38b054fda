"""The arguments of the commands that read a finished run."""

from purejaxppo.cli.option_types import a_path
from purejaxppo.cli.parser import Parser


def add_run_argument(parser: Parser) -> None:
    """Adds the run folder and --env, which names the file of the user's own environment."""
    parser.add_argument("folder", metavar="RUN", type=a_path, help="run folder")
    add_env_option(parser)


def add_env_option(parser: Parser) -> None:
    """Adds --env, which names the file of the user's own environment."""
    parser.add_argument(
        "--env", metavar="FILE.py:CLASS", help="where the run is of an environment of yours: as it was trained with"
    )
