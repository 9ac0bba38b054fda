"""purejaxppo doctor: checks this machine, and the user's environment and network."""

import argparse
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

from rich.console import Console

from purejaxppo.cli import doctor
from purejaxppo.cli.compile_cache import add_cache_option
from purejaxppo.cli.doctor.findings import Finding, fault
from purejaxppo.cli.parser import Command, Parser, option
from purejaxppo.envs import Environment, make_env, names_own_code
from purejaxppo.envs.user_code import find_own, is_factory, make_own_env
from purejaxppo.policies.recurrent_networks import RecurrentNetwork
from purejaxppo.ppo.config import PPOConfig, RecurrentConfig
from purejaxppo.ppo.factory import make_ppo
from purejaxppo.runs.presets import Preset
from purejaxppo.utils.devices import use_all_cores
from purejaxppo.utils.errors import PPOError

# Small agents: what is looked at does not depend on the size.
SIZES: dict[str, Any] = {"num_envs": 8, "num_steps": 32, "total_timesteps": 8 * 32 * 4, "num_minibatches": 4}


def add_options(parser: Parser, _: Preset) -> None:
    """The environment and the network."""
    about = "also check an environment: a factory in a module or in FILE.py, or a name"
    option(parser, "--env", "MODULE:FACTORY", str, about)
    about = "check this network in it, not the default ones; the factory may take the Environment"
    option(parser, "--network", "MODULE:FACTORY", str, about)
    add_cache_option(parser)


def print_findings(options: argparse.Namespace) -> int:
    """Prints a line for each finding. -> exit status: 1 if there is a fault"""
    from purejaxppo.runs.console import print_table  # which loads more of rich

    use_all_cores()
    try:
        here = Path.cwd()
    except FileNotFoundError:
        raise PPOError("the working folder has been removed; go to another") from None
    if options.network is not None and options.env is None:
        raise PPOError("--network is looked at in an environment; give --env as well")
    env = network = None
    if options.env is not None:
        is_own = names_own_code(options.env) or options.env.endswith(".py")
        env = find_own("env", options.env) if is_own else make_env(options.env)
    if options.network is not None:
        network = find_own("network", options.network)
    findings = doctor.examine(here)
    if env is not None:
        findings += examine_own(env, network)
    print_table(Console(), {f"{x.verdict:<8}{x.name}": x.text for x in findings})
    return 0 if all(x.is_well for x in findings) else 1


def examine_own(env: Any, network: Any) -> list[Finding]:
    """Checks an environment or a factory of one, and the agents that learn in it.

    Without a network, an agent of each kind is checked with its default one.
    """
    try:
        given = make_own_env(env)
    except PPOError as error:
        return [fault("interface", error)]
    findings = doctor.check_env(given)
    if not all(x.is_well for x in findings if x.name in ("interface", "purity", "vmap", "key", "run")):
        return findings
    built = make_env(given)
    if network is not None:
        return findings + examine_agent("network", lambda: make_own_agent(built, network))
    findings += examine_agent("policy", lambda: make_ppo(built, PPOConfig(**SIZES)))
    return findings + examine_agent("recurrent policy", lambda: make_ppo(built, RecurrentConfig(**SIZES)))


def examine_agent(kind: str, make: Callable[[], Any]) -> list[Finding]:
    """`check_agent` on what `make` makes, with the kind in the name of each finding."""
    try:
        return [x._replace(name=f"{kind}: {x.name}") for x in doctor.check_agent(make())]
    except Exception as error:  # user code may raise anything
        return [fault(kind, error)]


def make_own_agent(env: Environment, network: Any) -> Any:
    """The agent of a network, or of its factory, which may take the environment."""
    if is_factory(network, ("init", "apply")):
        parameters = inspect.signature(network).parameters.values()
        takes_env = any(x.kind not in (x.KEYWORD_ONLY, x.VAR_KEYWORD) for x in parameters)
        network = network(env) if takes_env else network()
    config = RecurrentConfig if isinstance(network, RecurrentNetwork) else PPOConfig
    return make_ppo(env, config(**SIZES), network=cast(Any, network))


DOCTOR = Command(
    about="Checks this machine and your own environment; exits with status 1 if something has to be fixed.",
    examples="""  purejaxppo doctor
  purejaxppo doctor --env my_envs.py:make_env --network my_nets.py:make_network""",
    add_options=add_options,
    run=print_findings,
)
