"""The algorithms that presets, run folders and the command line know, each by the class of its config."""

import inspect
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
    """What the host asks of an algorithm. Everything but the first two has a default for an agent like PPO."""

    name: str  # in config.json
    make_agent: Callable[..., Agent]  # (env, config) -> agent; keywords are parts that the user passes
    film_after: tuple[int, ...] = ()  # updates whose policies are filmed, beside the first and the last
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
    """The algorithm of a config's class, or of its nearest parent. Raises PPOError if there is none."""
    for config_class in type(config).__mro__:
        if config_class in ALGORITHMS:
            return ALGORITHMS[config_class]
    raise PPOError(f"no agent is known for a {type(config).__name__}; give make_agent=... or inherit from PPOConfig")


def make_agent(env: Environment, config: Config, **parts: Any) -> Agent:
    """The agent of a config, by its class.

    parts: keywords of its factory, such as those of `make_ppo`. Raises PPOError for others.
    """
    factory = algorithm_of(config).make_agent
    for name in parts.keys() - inspect.signature(factory).parameters.keys():
        raise PPOError(f"{name}=... does not go with {type(config).__name__}, whose agent has its own; leave it out")
    return factory(env, config, **parts)
