"""Brax without its wrappers. Its time limit is a truncation, and a fall is a termination."""

import functools
import importlib
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import struct

from purejaxppo.envs.base import Step, numbers_in
from purejaxppo.envs.spaces import Box
from purejaxppo.envs.suites import Adapted
from purejaxppo.utils.errors import PPOError
from purejaxppo.utils.suggest import unknown
from purejaxppo.utils.tree import PyTree
from purejaxppo.utils.validation import standard_promotion

_brax_envs: Any = importlib.import_module("brax.envs")

_BACKENDS = ("generalized", "mjx", "positional", "spring")
_ONE_BACKEND = ("fast", "swimmer")  # a test of Brax without physics, and one that takes a single backend
_WRAPPERS = "brax.envs.wrappers"  # they reset, count or batch by themselves


class BraxParams(struct.PyTreeNode):
    """Parameters that `make_env` sets by keyword."""

    episode_length: int = 1_000  # steps until an episode is truncated: the default of Brax's own training


class BraxState(NamedTuple):
    """Brax's state, and the steps that its EpisodeWrapper would count."""

    brax: PyTree
    time: jax.Array  # [] int32, steps since the reset


class BraxEnvironment(Adapted):
    """One environment of Brax, as an object that `make_env` takes.

    Brax's `done` is a termination. The time limit is a truncation, whose observation is the one before the reset.
    """

    default_params = BraxParams()

    def __init__(self, env: Any, obs_size: int) -> None:
        self.name = f"brax/{type(env.unwrapped).__name__.lower()}"
        self.observation_space = Box((obs_size,), -math.inf, math.inf)
        self.action_space = Box((env.action_size,), -1.0, 1.0)
        self._env = env

    @standard_promotion
    def reset(self, key: jax.Array, params: BraxParams) -> tuple[jax.Array, BraxState]:
        """-> (obs, state) of an independent start"""
        start = self._env.reset(key)
        return start.obs, BraxState(start, jnp.zeros((), jnp.int32))

    @standard_promotion
    def step(self, key: jax.Array, state: BraxState, action: jax.Array, params: BraxParams) -> Step:
        """One step of Brax, which needs no randomness."""
        after, time = self._env.step(state.brax, action), state.time + 1
        ended = (after.done > 0, time >= params.episode_length)
        return Step(after.obs, BraxState(after, time), after.reward, *ended, numbers_in(after.metrics))


def names() -> list[str]:
    """Each environment with its default backend, and with each backend if it has a choice: ant, ant/spring."""
    own = list(_brax_envs._envs)
    return own + [f"{name}/{backend}" for name in own if name not in _ONE_BACKEND for backend in _BACKENDS]


def make(name: str) -> Any:
    """Brax's environment of a name, without a wrapper. Raises PPOError for an unknown one."""
    if name not in names():
        raise PPOError(unknown("environment of Brax", name, names()))
    own, _, backend = name.partition("/")
    return _brax_envs.get_environment(own, **({"backend": backend} if backend else {}))


@functools.lru_cache(maxsize=256)
@standard_promotion
def adapt(env: Any) -> BraxEnvironment:
    """Raises PPOError for a wrapper of Brax's training, and for observations that are not one vector."""
    check_unwrapped(env)
    obs = jax.eval_shape(env.reset, jax.eval_shape(lambda: jax.random.key(0))).obs
    if not hasattr(obs, "shape") or len(obs.shape) != 1:
        raise PPOError(
            f"{type(env).__name__} of Brax observes {jax.tree.map(lambda x: x.shape, obs)}, and one vector is wanted; "
            "give a brax.envs.Wrapper around it that makes one of them"
        )
    return BraxEnvironment(env, obs.shape[0])


def check_unwrapped(env: Any) -> None:
    """Raises PPOError for the wrappers of Brax's training: they would reset or count a second time."""
    layer = env
    while isinstance(layer, _brax_envs.Wrapper):
        if type(layer).__module__.startswith(_WRAPPERS):
            raise PPOError(
                f"{type(layer).__name__} of Brax resets, counts or batches by itself, and so does this library; "
                "give the environment of brax.envs.get_environment(...) as it is"
            )
        layer = layer.env
