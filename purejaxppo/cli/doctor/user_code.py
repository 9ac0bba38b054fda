"""Checks of the user's environment and network, and of the agents that learn with them."""

import inspect
from collections.abc import Callable
from typing import Any, cast

from purejaxppo.cli.doctor.agent import check_agent
from purejaxppo.cli.doctor.environment import check_env
from purejaxppo.cli.doctor.findings import Finding, fault
from purejaxppo.envs import Environment, make_env
from purejaxppo.envs.user_code import is_factory, make_own_env
from purejaxppo.policies.recurrent_networks import RecurrentNetwork
from purejaxppo.ppo.config import PPOConfig, RecurrentConfig
from purejaxppo.ppo.factory import make_ppo
from purejaxppo.utils.errors import PPOError, in_one_line

# Small agents: what is looked at does not depend on the size.
SIZES: dict[str, Any] = {"num_envs": 8, "num_steps": 32, "total_timesteps": 8 * 32 * 4, "num_minibatches": 4}


def examine_own(env: Any, network: Any = None) -> list[Finding]:
    """Runs `check_env` on an environment and `check_agent` on the agents that learn in it.

    Args:
        env: Anything that `make_env` takes, or a factory of it.
        network: A `Network` or `RecurrentNetwork`, or a factory of one, which may take the Environment. Without it,
            an agent of each kind is checked with its default network.
    """
    try:
        given = make_own_env(env)
    except PPOError as error:
        return [fault("interface", str(error))]
    findings = check_env(given)
    if not all(
        finding.is_well for finding in findings if finding.name in ("interface", "purity", "vmap", "scan", "key", "run")
    ):
        return findings
    built = make_env(given)
    agents: dict[str, Callable[[], Any]] = {
        "policy": lambda: make_ppo(built, PPOConfig(**SIZES)),
        "recurrent policy": lambda: make_ppo(built, RecurrentConfig(**SIZES)),
    }
    if network is not None:
        agents = {"network": lambda: make_own_agent(built, network)}
    for kind, make in agents.items():
        findings += examine_agent(kind, make)
    return findings


def examine_agent(kind: str, make: Callable[[], Any]) -> list[Finding]:
    """`check_agent` on what `make` makes, with the kind in the name of each finding."""
    try:
        found = check_agent(make())
    except Exception as error:  # user code may raise anything
        return [fault(kind, in_one_line(error))]
    return [finding._replace(name=f"{kind}: {finding.name}") for finding in found]


def make_own_agent(env: Environment, network: Any) -> Any:
    """The agent of a network: with a memory, if the network has one."""
    made = network
    if is_factory(network, ("init", "apply")):
        made = network(env) if takes_argument(network) else network()
    if isinstance(made, RecurrentNetwork):
        return make_ppo(env, RecurrentConfig(**SIZES), network=cast(Any, made))
    return make_ppo(env, PPOConfig(**SIZES), network=made)


def takes_argument(factory: Callable[..., Any]) -> bool:
    """True if the factory takes the environment."""
    kinds = (
        inspect.Parameter.POSITIONAL_ONLY,
        inspect.Parameter.POSITIONAL_OR_KEYWORD,
        inspect.Parameter.VAR_POSITIONAL,
    )
    return any(parameter.kind in kinds for parameter in inspect.signature(factory).parameters.values())
