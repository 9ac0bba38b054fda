"""purejaxppo doctor: checks this machine, and the user's environment and network."""

import argparse
from pathlib import Path

from purejaxppo.cli import doctor
from purejaxppo.cli.compile_cache import add_cache_option
from purejaxppo.cli.parser import Command, Parser
from purejaxppo.envs import make_env, names_own_code
from purejaxppo.envs.user_code import find_own
from purejaxppo.runs.presets import Preset
from purejaxppo.utils.devices import use_all_cores
from purejaxppo.utils.errors import PPOError


def add_options(parser: Parser, _: Preset) -> None:
    """The environment and the network."""
    parser.add_argument(
        "--env",
        metavar="MODULE:FACTORY",
        help="also check an environment: a factory in a module or in FILE.py, or a name",
    )
    parser.add_argument(
        "--network",
        metavar="MODULE:FACTORY",
        help="check this network in it, not the default ones; the factory may take the Environment",
    )
    add_cache_option(parser)


def print_findings(options: argparse.Namespace) -> int:
    """Prints a line for each finding. -> exit status: 1 if there is a fault"""
    from rich.console import Console

    from purejaxppo.runs.console import print_table

    use_all_cores()
    try:
        here = Path.cwd()
    except FileNotFoundError:
        raise PPOError("the working folder has been removed; go to another") from None
    if options.network is not None and options.env is None:
        raise PPOError("--network is looked at in an environment; give --env as well")
    own = []
    if options.env is not None:
        is_own = names_own_code(options.env) or options.env.endswith(".py")
        own = [find_own("env", options.env) if is_own else make_env(options.env)]
    if options.network is not None:
        own.append(find_own("network", options.network))
    findings = doctor.examine(here) + (doctor.examine_own(*own) if own else [])
    print_table(Console(), {f"{x.verdict:<8}{x.name}": x.text for x in findings})
    return 0 if all(x.is_well for x in findings) else 1


DOCTOR = Command(
    about="Checks this machine and your own environment; exits with status 1 if something has to be fixed.",
    examples="""  purejaxppo doctor
  purejaxppo doctor --env my_envs.py:make_env --network my_nets.py:make_network""",
    add_options=add_options,
    run=print_findings,
)
