"""Navix without its auto-reset. Its step type tells terminations from truncations."""

import functools
import importlib
import math
from collections.abc import Callable
from typing import Any

import jax
from flax import struct

from purejaxppo.envs.base import Step
from purejaxppo.envs.spaces import Box, Discrete
from purejaxppo.envs.suites import Adapted, as_picture, as_planes, once
from purejaxppo.utils.tree import PyTree, key_shape, unchanged
from purejaxppo.utils.validation import standard_promotion

_navix: Any = importlib.import_module("navix")

_SYMBOLIC = ("symbolic", "symbolic_first_person")
_PIXELS = ("rgb", "rgb_first_person")
_CODES = (11, 6, 4)  # entities, colours and states in a symbolic observation
_draw_grid = jax.jit(_navix.observations.rgb)


class NavixParams(struct.PyTreeNode):
    """Parameters that `make_env` sets by keyword."""

    max_steps: int  # until an episode is truncated
    penalty_coeff: float  # a terminating reward loses this times the share of max_steps that is used up


class NavixEnvironment(Adapted):
    """One environment of Navix, as an object that `make_env` takes.

    A symbolic observation is shown as planes of zeros and ones, for each cell's entity, colour and state, and pixels
    are scaled to [0, 1].
    """

    def __init__(self, env: Any, observe: Callable[[jax.Array], jax.Array], space: Box) -> None:
        self.name = f"navix/{type(env).__name__}"
        self.default_params = NavixParams(env.max_steps, env.penalty_coeff)
        self.observation_space = space
        self.action_space = Discrete(len(env.action_set))
        self._env, self._observe = env, observe

    @standard_promotion
    def reset(self, key: jax.Array, params: NavixParams) -> tuple[jax.Array, PyTree]:
        """-> (obs, Navix's timestep)"""
        start = self._env.reset(key)
        return self._observe(start.observation), start

    @standard_promotion
    def step(self, key: jax.Array, state: PyTree, action: jax.Array, params: NavixParams) -> Step:
        """One step of Navix, which draws from the key in its state. Success is an end with a reward."""
        env = self._env.replace(max_steps=params.max_steps, penalty_coeff=params.penalty_coeff)
        after = env.step(state, action)
        terminated = after.is_termination()
        info = {"success": terminated & (after.reward > 0)}
        return Step(self._observe(after.observation), after, after.reward, terminated, after.is_truncation(), info)

    def draw(self, obs: Any, state: Any, params: Any) -> Any:
        """The whole grid, as Navix draws it."""
        return as_picture(_draw_grid(state.state))


def names() -> list[str]:
    """The names of Navix's registry."""
    return list(_navix.registry())


def make(name: str) -> Any:
    """Navix's environment of a name."""
    return _navix.make(name)


@once
def adapt(env: Any) -> NavixEnvironment:
    """An environment of Navix, with its auto-reset switched off."""
    env = env.replace(disable_autoreset=True)
    observe, high = reading(env.observation_fn)
    obs = jax.eval_shape(lambda key: observe(env.reset(key).observation), key_shape())
    return NavixEnvironment(env, observe, Box(obs.shape, 0.0 if high == 1.0 else -math.inf, high))


def reading(observation_fn: Callable[[Any], jax.Array]) -> tuple[Callable[[jax.Array], jax.Array], float]:
    """How the policy sees what a function of `navix.observations` or another one returns, and the largest value."""
    known = {name: getattr(_navix.observations, name) for name in (*_SYMBOLIC, *_PIXELS)}
    if observation_fn in [known[name] for name in _SYMBOLIC]:
        return functools.partial(as_planes, sizes=_CODES), 1.0
    if observation_fn in [known[name] for name in _PIXELS]:
        return scaled, 1.0
    return unchanged, math.inf


def scaled(pixels: jax.Array) -> jax.Array:
    """Bytes in [0, 1]."""
    return pixels / 255.0
