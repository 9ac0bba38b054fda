"""Brax without its wrappers. Its time limit is a truncation, and a fall is a termination."""

import importlib
import math
from typing import Any, NamedTuple

import jax

from purejaxppo.envs.adapters.timed import TimedEnvironment
from purejaxppo.envs.spaces import Box
from purejaxppo.envs.suites import check_layers, once
from purejaxppo.utils.errors import PPOError
from purejaxppo.utils.tree import PyTree, key_shape

_brax_envs: Any = importlib.import_module("brax.envs")

_BACKENDS = ("generalized", "mjx", "positional", "spring")
_ONE_BACKEND = ("fast", "swimmer")  # a test of Brax without physics, and one that takes a single backend
_WRAPPERS = "brax.envs.wrappers"  # they reset, count or batch by themselves


class BraxState(NamedTuple):
    """Brax's state, and the steps of the episode."""

    brax: PyTree
    time: jax.Array  # [] int32, steps since the reset


class BraxEnvironment(TimedEnvironment):
    """One environment of Brax."""

    make_state = BraxState


def names() -> list[str]:
    """Each environment with its default backend, and with each backend if it has a choice: ant, ant/spring."""
    own = list(_brax_envs._envs)
    return own + [f"{name}/{backend}" for name in own if name not in _ONE_BACKEND for backend in _BACKENDS]


def make(name: str) -> Any:
    """Brax's environment of a name, without a wrapper."""
    own, _, backend = name.partition("/")
    return _brax_envs.get_environment(own, **({"backend": backend} if backend else {}))


@once
def adapt(env: Any) -> BraxEnvironment:
    """Raises PPOError for a wrapper of Brax's training, and for observations that are not one vector."""
    remedy = "give the environment of brax.envs.get_environment(...) as it is"
    check_layers(env, lambda layer: type(layer).__module__.startswith(_WRAPPERS), "env", remedy)
    obs = jax.eval_shape(env.reset, key_shape()).obs
    if not hasattr(obs, "shape") or len(obs.shape) != 1:
        raise PPOError(
            f"{type(env).__name__} of Brax observes {jax.tree.map(lambda x: x.shape, obs)}, and one vector is wanted; "
            "give a brax.envs.Wrapper around it that makes one of them"
        )
    return BraxEnvironment(env, f"brax/{type(env.unwrapped).__name__.lower()}", Box(obs.shape, -math.inf, math.inf))
