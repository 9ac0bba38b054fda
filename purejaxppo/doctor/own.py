"""An environment and a network by name: `module:factory`, `path/to/file.py:factory`, or the name of an environment."""

import importlib
import importlib.util
import inspect
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any, cast

from purejaxppo.config import PPOConfig, unknown
from purejaxppo.doctor.agent import check_agent
from purejaxppo.doctor.environment import check_env
from purejaxppo.doctor.findings import Finding, fault, in_one_line
from purejaxppo.envs import Environment, make_env
from purejaxppo.ppo import make_ppo
from purejaxppo.recurrent import RecurrentConfig, make_recurrent_ppo
from purejaxppo.recurrent_networks import RecurrentNetwork
from purejaxppo.types import PPOError

# Small agents: what is looked at does not depend on the size.
SIZES: dict[str, Any] = {"num_envs": 8, "num_steps": 32, "total_timesteps": 8 * 32 * 4, "num_minibatches": 4}


def find_own(what: str, text: str) -> Any:
    """What `text` names, imported: an attribute of a module or file, or without a colon an environment of ours.

    Modules are looked for in the working folder too. Raises PPOError where there is none.
    """
    place, colon, name = text.rpartition(":")
    if not colon:
        if what == "network":
            raise PPOError(f"network {text!r} has no colon; give module:factory or file.py:factory")
        return make_env(text)
    module = _import(what, place)
    if not hasattr(module, name):
        known = [other for other in vars(module) if not other.startswith("_")]
        raise PPOError(unknown(f"{what} in {place}", name, known or ["nothing: it is empty"]))
    return getattr(module, name)


def _import(what: str, place: str) -> ModuleType:
    """A module by its name, or a file. Raises PPOError where it is not there, or raises on import."""
    is_file = place.endswith(".py")
    if is_file and not Path(place).is_file():
        raise PPOError(f"{what}: there is no file {place!r}")
    folder = str(Path(place).absolute().parent if is_file else Path.cwd())
    if folder not in sys.path:
        sys.path.insert(0, folder)
    try:
        return importlib.import_module(Path(place).stem if is_file else place)
    except Exception as error:  # code of the caller's own, which may raise anything
        raise PPOError(f"{what}: {place!r} cannot be imported: {in_one_line(error)}") from error


def examine_own(env: Any, network: Any = None) -> list[Finding]:
    """`check_env` on what `env` makes, and `check_agent` on the agents that learn in it.

    env: a factory of what `make_env` takes, or that itself. network: a factory of a `Network` or `RecurrentNetwork`,
    which takes the Environment or nothing; or that itself. Without one, both kinds of agent have their own.
    """
    try:
        given = env() if is_factory(env, ("reset", "step")) else env
    except Exception as error:  # code of the caller's own, which may raise anything
        return [fault("interface", in_one_line(error))]
    findings = check_env(given)
    if not all(
        finding.is_well for finding in findings if finding.name in ("interface", "purity", "vmap", "scan", "key", "run")
    ):
        return findings
    built = make_env(given)
    agents: dict[str, Callable[[], Any]] = {
        "policy": lambda: make_ppo(built, PPOConfig(**SIZES)),
        "recurrent policy": lambda: make_recurrent_ppo(built, RecurrentConfig(**SIZES)),
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
    except Exception as error:  # code of the caller's own, which may raise anything
        return [fault(kind, in_one_line(error))]
    return [finding._replace(name=f"{kind}: {finding.name}") for finding in found]


def make_own_agent(env: Environment, network: Any) -> Any:
    """The agent of a network: with a memory, if the network has one."""
    made = network
    if is_factory(network, ("init", "apply")):
        made = network(env) if takes_argument(network) else network()
    if isinstance(made, RecurrentNetwork):
        return make_recurrent_ppo(env, RecurrentConfig(**SIZES), network=cast(Any, made))
    return make_ppo(env, PPOConfig(**SIZES), network=made)


def is_factory(thing: Any, methods: tuple[str, ...]) -> bool:
    """Whether something has to be called first: it is callable, and no object with these methods itself."""
    return callable(thing) and (isinstance(thing, type) or not all(hasattr(thing, name) for name in methods))


def takes_argument(factory: Callable[..., Any]) -> bool:
    """Whether a factory can be given the environment."""
    kinds = (
        inspect.Parameter.POSITIONAL_ONLY,
        inspect.Parameter.POSITIONAL_OR_KEYWORD,
        inspect.Parameter.VAR_POSITIONAL,
    )
    return any(parameter.kind in kinds for parameter in inspect.signature(factory).parameters.values())
