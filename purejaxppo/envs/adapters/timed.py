"""Environments with the interface of Brax and MuJoCo Playground. `done` is a termination, their limit a truncation."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from purejaxppo.envs.base import Step, numbers_in
from purejaxppo.envs.spaces import Box
from purejaxppo.envs.suites import Adapted
from purejaxppo.utils.tree import PyTree, unchanged
from purejaxppo.utils.validation import standard_promotion


class TimedParams(struct.PyTreeNode):
    """Parameters that `make_env` sets by keyword."""

    episode_length: int = 1_000  # steps until an episode is truncated: the default of Brax's own training


class TimedEnvironment(Adapted):
    """One environment without its wrappers, as an object that `make_env` takes."""

    make_state: Any  # (the suite's state, steps since the reset [] int32) -> the state of this environment

    def __init__(self, env: Any, name: str, observation_space: PyTree, episode_length: int = 1_000) -> None:
        self.name = name
        self.default_params = TimedParams(episode_length)
        self.observation_space = observation_space
        self.action_space = Box((env.action_size,), -1.0, 1.0)
        self.draw: Callable[..., Any] | None = None
        self._env = env

    @standard_promotion
    def reset(self, key: jax.Array, params: TimedParams) -> tuple[PyTree, PyTree]:
        """-> (obs, state) of an independent start"""
        start = self._env.reset(key)
        return start.obs, self.make_state(start, jnp.zeros((), jnp.int32))

    @standard_promotion
    def step(self, key: jax.Array, state: PyTree, action: jax.Array, params: TimedParams) -> Step:
        """One step of the suite, which draws from the key in its state, if it draws."""
        before, time = jax.tree.map(unchanged, state)  # its own dicts: Playground writes into those it is given
        after, time = self._env.step(before, action), time + 1
        ended = (after.done > 0, time >= params.episode_length)
        return Step(after.obs, self.make_state(after, time), after.reward, *ended, numbers_in(after.metrics))
