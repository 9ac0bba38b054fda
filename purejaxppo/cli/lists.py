"""purejaxppo envs, purejaxppo presets: what there is to train."""

import argparse

from purejaxppo.cli.parser import Command, Parser, option
from purejaxppo.envs import env_names
from purejaxppo.envs.suites import SUITES, is_installed
from purejaxppo.runs.presets import PRESETS, Preset, default_preset


def add_suite(parser: Parser, _: Preset) -> None:
    """The suite."""
    option(parser, "suite", "SUITE", str, f"list the environments of {', '.join(SUITES)}", nargs="?")


def list_envs(options: argparse.Namespace) -> int:
    """Prints the environments."""
    if options.suite is not None:
        print(*env_names(options.suite), sep="\n")
        return 0
    for name in env_names():
        print(f"{name:<27}preset {default_preset(name)}")
    for suite in SUITES:
        found = f"purejaxppo envs {suite}" if is_installed(suite) else f'pip install "purejaxppo[{suite}]"'
        print(f"{suite + '/...':<27}{found}")
    return 0


def list_presets(_: argparse.Namespace) -> int:
    """Prints the presets."""
    for name, preset in PRESETS.items():
        size = f"{preset.num_seeds:>3} seeds x {preset.config.total_timesteps:>9,} steps"
        print(f"{name:<24}{preset.env:<25}{size}  {preset.summary}")
    return 0


ENVS = Command(
    about="Lists the environments and the preset that each is trained with.",
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
