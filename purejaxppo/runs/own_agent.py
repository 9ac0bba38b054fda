"""Agents of the user's own in runs: a function (env, config) -> agent, in a file that --agent names or from Python.

config.json keeps the name only. Code is imported from what a command names, never from what a run folder says.
"""

import sys
from pathlib import Path
from typing import Any, NamedTuple

from purejaxppo.envs.base import Environment
from purejaxppo.envs.user_code import find_own, module_name
from purejaxppo.population.options import MakeAgent
from purejaxppo.population.own_agents import check_functions, check_members
from purejaxppo.ppo.config import Config
from purejaxppo.ppo.evaluate import Agent
from purejaxppo.utils.devices import use_all_cores
from purejaxppo.utils.errors import PPOError, in_one_line
from purejaxppo.utils.validation import check_function

CALLED_LIKE = "give (env, config) -> agent, such as pjp.make_ppo"
UNNAMED = "a function given in Python"  # the name of one that no command can import


class OwnAgent(NamedTuple):
    """An agent of the user's own."""

    name: str  # FILE.py:NAME, module:NAME, or UNNAMED
    make_agent: MakeAgent
    config: Config | None  # the one that its file defines, if it does

    def make(self, env: Environment, config: Config) -> Agent:
        """The agent of one setting. Raises PPOError if the function fails or returns something else."""
        try:
            agent = self.make_agent(env, config)
        except PPOError:
            raise
        except Exception as error:  # the user's code, which may raise anything
            raise PPOError(f"agent {self.name}: {in_one_line(error)}") from error
        check_members(f"agent {self.name}", agent, config)
        return agent

    def check(self, env: Environment, config: Config) -> None:
        """Traces the agent, and runs nothing. Raises PPOError if a function fails or returns something else."""
        check_functions(f"agent {self.name}", self.make(env, config))


_BROUGHT: dict[tuple[str, str], OwnAgent] = {}  # by `file_and_name`


def bring_agent(text: str | None) -> OwnAgent | None:
    """Imports the agent that --agent names, after which this process can read runs of it.

    Raises PPOError if the file or the name is missing, or is not a function.
    """
    if text is None:
        return None
    use_all_cores()  # before the module starts JAX
    found: Any = find_own("agent", text)
    check_function(f"agent {text}", found, CALLED_LIKE)
    module = sys.modules[module_name(text.rpartition(":")[0])]
    own = OwnAgent(text, found, find_config(found, module))
    _BROUGHT[file_and_name(text)] = own
    return own


def agent_in_python(make_agent: MakeAgent, config: Config | None = None) -> OwnAgent:
    """An agent that a caller passes, under the name by which a command can import it. config: of its own class."""
    check_function("make_agent", make_agent, CALLED_LIKE)
    module = sys.modules.get(getattr(make_agent, "__module__", None) or "")
    name, place = getattr(make_agent, "__qualname__", ""), getattr(module, "__name__", "")
    is_found = module is not None and getattr(module, name, None) is make_agent
    if place == "__main__":
        place = Path(getattr(module, "__file__", None) or "").name
    if config is None:
        config = find_config(make_agent, module)
    return OwnAgent(f"{place}:{name}" if is_found and place else UNNAMED, make_agent, config)


def find_config(make_agent: MakeAgent, module: Any) -> Config | None:
    """The config that goes with an agent: an attribute `config` of its function, or `config` or `CONFIG` beside it."""
    found = (getattr(*place, None) for place in ((make_agent, "config"), (module, "config"), (module, "CONFIG")))
    return next((config for config in found if isinstance(config, Config)), None)


def agent_of_run(name: str, folder: Path) -> OwnAgent:
    """The agent of a run folder, if a command has named it. Raises PPOError, which says what to give, otherwise."""
    found = _BROUGHT.get(file_and_name(name))
    if name == UNNAMED and len(_BROUGHT) == 1:  # the command says which it is
        (found,) = _BROUGHT.values()
    if found is not None:
        return found._replace(name=name)
    place, _, function = name.rpartition(":")
    wanted = "FILE.py:FUNCTION with a function that makes it" if name == UNNAMED else name
    if place.endswith(".py") and not Path(place).exists():
        wanted = f"PATH/{Path(place).name}:{function} with the path where it is now"
    raise PPOError(
        f"{folder} was trained by an agent of your own, {name}, which is imported only if you name it: "
        f"give --agent {wanted}, or in Python load_run(path, make_agent=...)"
    )


def file_and_name(text: str) -> tuple[str, str]:
    """The parts of FILE.py:NAME or module:NAME that stay the same when the file or the caller is elsewhere."""
    place, _, name = text.rpartition(":")
    return Path(place).name.removesuffix(".py").rpartition(".")[2], name
