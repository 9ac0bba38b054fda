"""Craftax and Craftax-Classic. Death and victory are terminations, and the limit of time is a truncation."""

import functools
import importlib
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from purejaxppo.envs.base import Step, numbers_in
from purejaxppo.envs.spaces import Box, Discrete
from purejaxppo.envs.suites import Adapted, as_picture, check_layers, once
from purejaxppo.utils.tree import PyTree
from purejaxppo.utils.validation import MAX_COUNT, standard_promotion

_NAMES = ("Craftax-Classic-Symbolic-v1", "Craftax-Classic-Pixels-v1", "Craftax-Symbolic-v1", "Craftax-Pixels-v1")
_AUTO_RESET = "EnvironmentAutoReset"  # the base class of environments that reset by themselves


class CraftaxEnvironment(Adapted):
    """One environment of Craftax, as an object that `make_env` takes. Its parameters are Craftax's `EnvParams`.

    The info at an episode's end is Craftax's own: 100 for each achievement that was unlocked, and 0 for the others.
    """

    def __init__(self, env: Any) -> None:
        self.name = f"craftax/{env.name.replace('-NoAutoReset', '')}"
        self.default_params = env.default_params
        self.observation_space = Box(tuple(env.observation_space(env.default_params).shape), 0.0, 1.0)
        self.action_space = Discrete(int(env.num_actions))
        self._env = env

    @standard_promotion
    def reset(self, key: jax.Array, params: PyTree) -> tuple[jax.Array, PyTree]:
        """-> (obs, state) of a new world"""
        return self._env.reset_env(key, params)

    @standard_promotion
    def step(self, key: jax.Array, state: PyTree, action: jax.Array, params: PyTree) -> Step:
        """One step of Craftax, whose `done` is both kinds of end: the limit is told from the others by lifting it."""
        obs, after, reward, _, info = self._env.step_env(key, state, action, params)
        terminated = self._env.is_terminal(after, params.replace(max_timesteps=MAX_COUNT))
        told = {name: x for name, x in numbers_in(info).items() if name != "discount"}  # which `terminated` says too
        return Step(obs, after, reward, terminated, after.timestep >= params.max_timesteps, told)

    def draw(self, obs: Any, state: Any, params: Any) -> Any:
        """The player's view in Craftax's textures, which it prepares once for its installation."""
        return as_picture(renderer("craftax_classic" in type(self._env).__module__)(state))


@functools.cache
def renderer(is_classic: bool) -> Callable[[PyTree], np.ndarray]:
    """Craftax's pixel renderer, compiled: state -> [height, width, 3]"""
    package = f"craftax.{'craftax_classic' if is_classic else 'craftax'}"
    size = importlib.import_module(f"{package}.constants").BLOCK_PIXEL_SIZE_IMG
    return jax.jit(importlib.import_module(f"{package}.renderer").make_craftax_pixel_renderer(size))


def names() -> list[str]:
    """Craftax's own names."""
    return list(_NAMES)


def make(name: str) -> Any:
    """Craftax's environment of a name, without auto-reset."""
    return importlib.import_module("craftax.craftax_env").make_craftax_env_from_name(name, auto_reset=False)


@once
def adapt(env: Any) -> CraftaxEnvironment:
    """Raises PPOError for an environment that resets by itself."""

    def is_resetting(layer: Any) -> bool:
        return any(base.__name__ == _AUTO_RESET for base in type(layer).__mro__)

    check_layers(env, is_resetting, "_env", "give make_craftax_env_from_name(name, auto_reset=False)")
    return CraftaxEnvironment(env)
