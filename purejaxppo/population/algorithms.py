"""The registry of algorithms: each class of configs with the function that makes its agent."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from purejaxppo.envs.base import Environment
from purejaxppo.ppo.config import Config, PPOConfig, RecurrentConfig
from purejaxppo.ppo.evaluate import Agent
from purejaxppo.ppo.factory import make_ppo
from purejaxppo.ppo.types import Metrics
from purejaxppo.utils.errors import PPOError


class Algorithm(NamedTuple):
    """An algorithm, as presets, run folders and the command line need it. The defaults suit an agent like PPO."""

    name: str  # in config.json
    make_agent: Callable[..., Agent]  # (env, config) -> agent
    film_after: tuple[int, ...] = ()  # updates after which a run films the policy, beside the first and the last
    describe_update: Callable[[Metrics, int, int], str] | None = None  # (metrics [n, U], i, number) -> line of update i
    plot: Callable[[np.ndarray, Any, str], None] | None = None  # (returns [S, U], path, title): writes the curves


ALGORITHMS: dict[type[Config], Algorithm] = {
    PPOConfig: Algorithm("ppo", make_ppo),
    RecurrentConfig: Algorithm("recurrent-ppo", make_ppo),
}


def register_algorithm(config_class: type[Config], algorithm: Algorithm) -> None:
    """Lets presets, run folders and the command line train configs of a class."""
    ALGORITHMS[config_class] = algorithm


def algorithm_of(config: Config) -> Algorithm:
    """The algorithm of a config's class, or of its nearest registered parent. Raises PPOError without one."""
    for config_class in type(config).__mro__:
        if config_class in ALGORITHMS:
            return ALGORITHMS[config_class]
    raise PPOError(f"no agent is known for a {type(config).__name__}; give make_agent=... or inherit from PPOConfig")


def make_agent(env: Environment, config: Config) -> Agent:
    """The agent of a config, by its class."""
    return algorithm_of(config).make_agent(env, config)
