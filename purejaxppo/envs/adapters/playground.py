"""MuJoCo Playground without its wrappers. Its time limit is a truncation, and its `done` a termination.

Observations may be a dict of `state`, which the default network's actor sees, and `privileged_state`, which its critic
sees.
"""

import atexit
import ctypes.util
import functools
import importlib
import math
import os
import subprocess
import sys
import threading
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import struct

from purejaxppo.envs.base import Step, numbers_in
from purejaxppo.envs.spaces import Box
from purejaxppo.envs.suites import Adapted, as_picture
from purejaxppo.utils.errors import PPOError, in_one_line
from purejaxppo.utils.suggest import unknown
from purejaxppo.utils.tree import PyTree, unchanged
from purejaxppo.utils.validation import standard_promotion

_has_display = sys.platform != "linux" or bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))
if not _has_display and "mujoco" not in sys.modules and ctypes.util.find_library("EGL"):
    os.environ.setdefault("MUJOCO_GL", "egl")  # which MuJoCo reads when it is imported

_playground: Any = importlib.import_module("mujoco_playground")

_PHYSICS = ("jax", "warp")  # MJX in JAX, the default here, and in Warp, which is fast on NVIDIA's GPUs alone
_BATCHED = ("BraxAutoResetWrapper", "BraxDomainRandomizationVmapWrapper")  # of Playground
_BRAX = "brax.envs.wrappers"


class PlaygroundParams(struct.PyTreeNode):
    """Parameters that `make_env` sets by keyword."""

    episode_length: int = 1_000  # steps until an episode is truncated; an environment's own config says how many


class PlaygroundState(NamedTuple):
    """Playground's state, and the steps that Brax's EpisodeWrapper would count."""

    playground: PyTree
    time: jax.Array  # [] int32, steps since the reset


class PlaygroundEnvironment(Adapted):
    """One environment of MuJoCo Playground, as an object that `make_env` takes."""

    def __init__(self, env: Any, obs_shape: PyTree) -> None:
        self.name = f"playground/{type(env.unwrapped).__name__}"
        self.default_params = PlaygroundParams(int(env.unwrapped._config.episode_length))
        self.observation_space = jax.tree.map(lambda x: Box(x.shape, -math.inf, math.inf), obs_shape)
        self.action_space = Box((env.action_size,), -1.0, 1.0)
        self.draw = Camera(env) if _has_display or os.environ.get("MUJOCO_GL") in ("egl", "osmesa") else None
        self._env = env

    @standard_promotion
    def reset(self, key: jax.Array, params: PlaygroundParams) -> tuple[PyTree, PlaygroundState]:
        """-> (obs, state) of an independent start"""
        start = self._env.reset(key)
        return start.obs, PlaygroundState(start, jnp.zeros((), jnp.int32))

    @standard_promotion
    def step(self, key: jax.Array, state: PlaygroundState, action: jax.Array, params: PlaygroundParams) -> Step:
        """One step of Playground, which draws from the key in its state."""
        before = jax.tree.map(unchanged, state.playground)  # its own dicts: Playground writes into those it is given
        after, time = self._env.step(before, action), state.time + 1
        ended = (after.done > 0, time >= params.episode_length)
        return Step(after.obs, PlaygroundState(after, time), after.reward, *ended, numbers_in(after.metrics))


class Camera:
    """Draws a step with MuJoCo's renderer, in real time; without a display through EGL or OSMesa."""

    def __init__(self, env: Any) -> None:
        self._env = env

    @property
    def steps_per_second(self) -> float:
        """Steps in a second of the simulation."""
        return 1 / self._env.dt

    def __call__(self, obs: PyTree, state: PlaygroundState, params: PlaygroundParams) -> Any:
        """-> a PIL image"""
        scene, data = renderer(self._env, threading.get_ident())
        for name in ("qpos", "qvel", "mocap_pos", "mocap_quat"):
            getattr(data, name)[:] = getattr(state.playground.data, name)
        importlib.import_module("mujoco").mj_forward(self._env.mj_model, data)
        scene.update_scene(data)
        return as_picture(scene.render())


@functools.lru_cache(maxsize=4)
def renderer(env: Any, thread: int) -> tuple[Any, Any]:
    """MuJoCo's renderer for one thread, which its context of OpenGL belongs to, and the data that it shows."""
    mujoco = importlib.import_module("mujoco")
    made = mujoco.Renderer(env.mj_model, height=270, width=360)
    atexit.register(made.close)
    return made, mujoco.MjData(env.mj_model)


def names() -> list[str]:
    """Each environment of Playground's registry, and each with its physics: CartpoleBalance, CartpoleBalance/warp."""
    own = list(_playground.registry.ALL_ENVS)
    return own + [f"{name}/{physics}" for name in own for physics in _PHYSICS]


def make(name: str) -> Any:
    """Playground's environment of a name. Raises PPOError for an unknown one, and if the robot cannot be downloaded."""
    if name not in names():
        raise PPOError(unknown("environment of MuJoCo Playground", name, names()))
    own, _, physics = name.partition("/")
    registry = _playground.registry
    chosen = {"impl": physics or _PHYSICS[0]} if "impl" in registry.get_default_config(own) else {}
    try:
        return registry.load(own, config_overrides=chosen)
    except (OSError, subprocess.CalledProcessError) as error:  # robots are cloned from a repository on first use
        raise PPOError(
            f"playground/{name} needs the robots of MuJoCo Menagerie, which could not be downloaded: "
            f"{in_one_line(error)}"
        ) from error


@functools.lru_cache(maxsize=256)
@standard_promotion
def adapt(env: Any) -> PlaygroundEnvironment:
    """Raises PPOError for a wrapper of training, which resets, counts or batches by itself."""
    layer = env
    while layer is not env.unwrapped:
        kind = type(layer)
        if kind.__name__ in _BATCHED or kind.__module__.startswith(_BRAX):
            raise PPOError(
                f"{kind.__name__} resets, counts or batches by itself, and so does this library; "
                "give the environment of mujoco_playground.registry.load(...) as it is"
            )
        layer = layer.env
    return PlaygroundEnvironment(env, jax.eval_shape(env.reset, jax.eval_shape(lambda: jax.random.key(0))).obs)
