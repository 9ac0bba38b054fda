"""gymnax, whose environments have names without a slash. Its own `step` resets by itself, and is not called."""

import importlib
import sys
import types
from typing import Any

import jax
import numpy as np

from purejaxppo.envs.base import Step, numbers_in
from purejaxppo.envs.spaces import Box, Discrete, settle_space
from purejaxppo.envs.suites import Adapted, once
from purejaxppo.utils.errors import PPOError
from purejaxppo.utils.tree import PyTree
from purejaxppo.utils.validation import standard_promotion

# Environments of this library: a name of gymnax, and the parameters that differ.
_VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {"CartPole-v0": ("CartPole-v1", {"max_steps_in_episode": 200})}
LEFT_OUT = {"MNISTBandit-bsuite": "downloads data when it is constructed; construct it and pass the instance"}
_FOR_PICTURES = ("matplotlib.pyplot", "seaborn")  # seaborn brings scipy.stats and pandas


class PutOff(types.ModuleType):
    """Stands for a module, which is imported when one of its attributes is first used."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        if sys.modules.get(self.__name__) is self:
            del sys.modules[self.__name__]
        return getattr(importlib.import_module(self.__name__), name)


def _without_pictures() -> Any:
    """Imports gymnax without the packages that only its pictures need."""
    later = {name: PutOff(name) for name in _FOR_PICTURES if name not in sys.modules}
    sys.modules.update(later)
    try:
        return importlib.import_module("gymnax")
    finally:
        for name, module in later.items():
            if sys.modules.get(name) is module:
                del sys.modules[name]


_gymnax: Any = _without_pictures()
_spaces: Any = _gymnax.environments.spaces
BASE: Any = _gymnax.environments.environment.Environment


class GymnaxEnvironment(Adapted):
    """One environment of gymnax, as an object that `make_env` takes.

    An observation out of n is n numbers, one of them 1: a network would take a single number for a quantity.
    """

    def __init__(self, env: Any) -> None:
        self.name = env.name
        self.default_params = jax.tree.map(plain_number, env.default_params)
        shown = as_space(env.name, env.observation_space(self.default_params))
        self.action_space = as_space(env.name, env.action_space(self.default_params))
        self._choices = shown.n if isinstance(shown, Discrete) else None
        self.observation_space = shown if self._choices is None else Box((self._choices,), 0.0, 1.0)
        self.action_mask, self.draw = getattr(env, "action_mask", None), getattr(env, "draw", None)
        self._env = env

    @standard_promotion
    def reset(self, key: jax.Array, params: PyTree) -> tuple[PyTree, PyTree]:
        """-> (obs, state)"""
        obs, state = self._env.reset_env(key, params)
        return self._seen(obs), state

    @standard_promotion
    def step(self, key: jax.Array, state: PyTree, action: PyTree, params: PyTree) -> Step:
        """One step of gymnax. `info` has no discount, which `terminated` says too."""
        obs, state, reward, terminated, info = self._env.step_env(key, state, action, params)
        told = {name: x for name, x in numbers_in(info).items() if name != "discount"}
        return Step(self._seen(obs), state, reward, terminated, self._env.is_truncated(state, params), told)

    def _seen(self, obs: PyTree) -> PyTree:
        return obs if self._choices is None else jax.nn.one_hot(obs, self._choices)


def names() -> list[str]:
    """The names of gymnax and of this library's variants."""
    return [*_VARIANTS, *(name for name in _gymnax.registered_envs if name not in LEFT_OUT)]


def make(name: str) -> GymnaxEnvironment:
    """The environment of a name."""
    base, differing = _VARIANTS.get(name, (name, {}))
    env = GymnaxEnvironment(_gymnax.make(base)[0])
    env.name, env.default_params = name, env.default_params.replace(**differing)
    return env


@once
def adapt(env: Any) -> GymnaxEnvironment:
    """An object for `make_env`, of an instance of gymnax."""
    return GymnaxEnvironment(env)


def plain_number(x: Any) -> Any:
    """A scalar as a Python number: a constant that the compiler can fold."""
    return x.item() if isinstance(x, jax.Array | np.ndarray | np.generic) and np.ndim(x) == 0 else x


def as_space(env_name: str, space: Any) -> Any:
    """A space of gymnax as one of this library; a Dict and a Tuple become a SpaceTree of a dict and a tuple."""

    def convert(space: Any) -> PyTree:
        if isinstance(space, _spaces.Discrete):
            return Discrete(int(space.n))
        if isinstance(space, _spaces.Box):
            return Box(tuple(space.shape), space.low, space.high)
        if isinstance(space, _spaces.Dict):
            return {name: convert(part) for name, part in space.spaces.items()}
        if isinstance(space, _spaces.Tuple):
            return tuple(map(convert, space.spaces))
        raise PPOError(f"{env_name} has the space {space!r}; supported are Discrete, Box, Dict and Tuple")

    return settle_space(f"{env_name}: a space", convert(space))
