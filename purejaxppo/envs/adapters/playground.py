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

from purejaxppo.envs.adapters.timed import TimedEnvironment, TimedParams
from purejaxppo.envs.spaces import Box
from purejaxppo.envs.suites import as_picture, check_layers, once
from purejaxppo.utils.errors import PPOError, in_one_line
from purejaxppo.utils.tree import PyTree, key_shape

_has_display = sys.platform != "linux" or bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))
if not _has_display and "mujoco" not in sys.modules and ctypes.util.find_library("EGL"):
    os.environ.setdefault("MUJOCO_GL", "egl")  # which MuJoCo reads when it is imported

_playground: Any = importlib.import_module("mujoco_playground")

_PHYSICS = ("jax", "warp")  # MJX in JAX, the default here, and in Warp, which is fast on NVIDIA's GPUs alone
_BATCHED = ("BraxAutoResetWrapper", "BraxDomainRandomizationVmapWrapper")  # of Playground
_BRAX = "brax.envs.wrappers"


class PlaygroundState(NamedTuple):
    """Playground's state, and the steps of the episode."""

    playground: PyTree
    time: jax.Array  # [] int32, steps since the reset


class PlaygroundEnvironment(TimedEnvironment):
    """One environment of Playground."""

    make_state = PlaygroundState


class Camera:
    """Draws a step with MuJoCo's renderer, in real time; without a display through EGL or OSMesa."""

    def __init__(self, env: Any) -> None:
        self._env = env

    @property
    def steps_per_second(self) -> float:
        """Steps in a second of the simulation."""
        return 1 / self._env.dt

    def __call__(self, obs: PyTree, state: PlaygroundState, params: TimedParams) -> Any:
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
    """Playground's environment of a name. Raises PPOError if the robot cannot be downloaded."""
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


@once
def adapt(env: Any) -> PlaygroundEnvironment:
    """Raises PPOError for a wrapper of training, which resets, counts or batches by itself."""
    remedy = "give the environment of mujoco_playground.registry.load(...) as it is"
    check_layers(env, is_of_training, "env", remedy)
    obs = jax.eval_shape(env.reset, key_shape()).obs
    space = jax.tree.map(lambda x: Box(x.shape, -math.inf, math.inf), obs)
    own = env.unwrapped
    name, limit = f"playground/{type(own).__name__}", int(own._config.episode_length)
    adapted = PlaygroundEnvironment(env, name, space, limit)
    if _has_display or os.environ.get("MUJOCO_GL") in ("egl", "osmesa"):
        adapted.draw = Camera(env)
    return adapted


def is_of_training(layer: Any) -> bool:
    """True for a wrapper of Playground's training, or of Brax's."""
    return type(layer).__name__ in _BATCHED or type(layer).__module__.startswith(_BRAX)
