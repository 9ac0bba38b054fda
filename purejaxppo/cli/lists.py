"""purejaxppo envs, purejaxppo presets: what there is to train."""

import argparse

from purejaxppo.cli.parser import Command, Parser, option
from purejaxppo.envs import env_names, make_env
from purejaxppo.envs.suites import SUITES, is_installed
from purejaxppo.runs.presets import PRESETS, Preset


def add_suite(parser: Parser, _: Preset) -> None:
    """The suite."""
    option(parser, "suite", "SUITE", str, "list the environments of brax or jumanji", nargs="?")


def list_envs(options: argparse.Namespace) -> int:
    """Prints the environments."""
    if options.suite is not None:
        print(*env_names(options.suite), sep="\n")  # to make each of them takes minutes
        return 0
    for name in env_names():
        env = make_env(name)
        print(f"{name:<26}{type(env.action_space).__name__:<10}{env.observation_space.__class__.__name__}")
    for suite in SUITES:
        found = f"purejaxppo envs {suite}" if is_installed(suite) else f'pip install "purejaxppo[{suite}]"'
        print(f"{suite + '/...':<26}{found}")
    return 0


def list_presets(_: argparse.Namespace) -> int:
    """Prints the presets."""
    for name, preset in PRESETS.items():
        size = f"{preset.num_seeds:>3} seeds x {preset.config.total_timesteps:>9,} steps"
        print(f"{name:<24}{preset.env:<25}{size}  {preset.summary}")
    return 0


ENVS = Command(
    about="Lists the environments and the types of their spaces.",
    examples="""  purejaxppo envs
  purejaxppo envs brax                               the environments of an installed suite""",
    add_options=add_suite,
    run=list_envs,
)
LIST_PRESETS = Command(
    about="Lists the presets, the named settings to start from.",
    examples="""  purejaxppo presets
  purejaxppo train --preset fast                     train with one of them""",
    add_options=lambda parser, preset: None,
    run=list_presets,
)
