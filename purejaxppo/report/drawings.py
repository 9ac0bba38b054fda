"""Pictures of one step of the environments, drawn from its observation, its state and the parameters."""

from __future__ import annotations  # Pillow is imported where it is used

import itertools
import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from purejaxppo.envs import Environment, make_env
from purejaxppo.report.canvas import BLUE, GREEN, GREY, INK, PALE, VERMILLION, Canvas
from purejaxppo.report.grids import (
    ASTERIX,
    BREAKOUT,
    FREEWAY,
    PONG,
    SEAQUEST,
    SPACE_INVADERS,
    draw_catch,
    draw_deep_sea,
    draw_four_rooms,
    draw_frozen_lake,
)
from purejaxppo.utils.errors import PPOError
from purejaxppo.utils.tree import PyTree

if TYPE_CHECKING:
    from PIL import Image

CART = (0.5, 0.3)  # m, width and height
ROD = 0.09  # m, the width of a pole or a link

Drawing = Callable[[Any, Any, Any], "Image.Image"]  # (obs, state, params) of one environment, on the host; of any size


class Picture(NamedTuple):
    """How an environment is filmed."""

    draw: Drawing
    actions: tuple[str, ...] = ()  # names of the discrete actions, or of the numbers in a continuous one
    steps_per_second: float = 20
    every: int = 1  # steps from one frame to the next


def draw_cartpole(obs: np.ndarray, state: PyTree, params: Any) -> Image.Image:
    """CartPole to scale. A positive angle leans to the right. obs: x (m), x_dot, theta (rad), theta_dot"""
    x, limit, length = float(obs[0]), float(params.x_threshold), 2 * float(params.length)
    canvas = Canvas(-limit - 0.5, limit + 0.5, -0.5, CART[1] + max(length, 1.0) + 0.2)
    for end in (-limit, limit):
        canvas.path([(end, -0.12), (end, 0.12)], GREY, 1.5)
        canvas.text((end, -0.3), f"{end:+g} m", GREY)
    canvas.path([(-limit, 0), (limit, 0)], GREY, 1.5)
    canvas.box(x - CART[0] / 2, x + CART[0] / 2, 0, CART[1], INK, 0.04)
    hinge = np.array([x, CART[1]])
    canvas.rod(hinge, hinge + length * np.array([math.sin(obs[2]), math.cos(obs[2])]), ROD, VERMILLION)
    canvas.disc(hinge, 0.07, PALE)
    return canvas.finish()


def draw_pendulum(obs: np.ndarray, state: PyTree, params: Any) -> Image.Image:
    """Pendulum to scale; a positive torque turns to the left. obs: cos, sin of the angle from upright, speed"""
    length = float(params.l)
    canvas = Canvas(*(1.25 * length * np.array([-1, 1, -1, 1])))
    canvas.disc((0, 0), length, PALE)
    canvas.disc((0, 0), 0.99 * length, "white")
    canvas.path([(0, 1.1 * length), (0, 1.2 * length)], GREY, 1.5)  # upright, where it should stand
    canvas.rod((0, 0), length * np.array([-float(obs[1]), float(obs[0])]), 0.16 * length, VERMILLION)
    canvas.disc((0, 0), 0.05 * length, INK)
    return canvas.finish()


def draw_acrobot(obs: np.ndarray, state: PyTree, params: Any) -> Image.Image:
    """Acrobot to scale, with the height to reach. obs: cos, sin of the first angle, from hanging; second; speeds"""
    first, second = math.atan2(obs[1], obs[0]), math.atan2(obs[3], obs[2])
    lengths = float(params.link_length_1), float(params.link_length_2)
    reach = sum(lengths)
    elbow = lengths[0] * np.array([math.sin(first), -math.cos(first)])
    tip = elbow + lengths[1] * np.array([math.sin(first + second), -math.cos(first + second)])
    canvas = Canvas(-1.1 * reach, 1.1 * reach, -1.1 * reach, 1.1 * reach)
    canvas.path([(-reach, 1), (reach, 1)], GREY, 1.5)  # the task: -cos(first) - cos(first + second) > 1
    canvas.text((reach, 1.02), "goal", GREY, anchor="rb")
    canvas.rod((0, 0), elbow, 1.6 * ROD, BLUE)
    canvas.rod(elbow, tip, 1.6 * ROD, VERMILLION)
    for joint in (np.zeros(2), elbow):
        canvas.disc(joint, 0.06, PALE)
    return canvas.finish()


def draw_mountain_car(obs: np.ndarray, state: PyTree, params: Any) -> Image.Image:
    """The car on its hill, with the flag of the goal. obs: position, velocity"""
    low, high, goal = float(params.min_position), float(params.max_position), float(params.goal_position)
    canvas = Canvas(low - 0.05, high + 0.05, -0.05, 1.25)
    canvas.path([(x, hill(x)) for x in np.linspace(low, high, 80)], GREY, 2)
    ground = hill(goal)
    canvas.path([(goal, ground), (goal, ground + 0.2)], INK, 1.5)
    canvas.polygon([(goal, ground + 0.2), (goal + 0.09, ground + 0.165), (goal, ground + 0.13)], GREEN)
    x = float(obs[0])
    slope = math.atan(1.35 * math.cos(3 * x))
    along, up = np.array([math.cos(slope), math.sin(slope)]), np.array([-math.sin(slope), math.cos(slope)])
    wheels = np.array([x, hill(x)])
    canvas.rod(wheels - 0.04 * along + 0.06 * up, wheels + 0.04 * along + 0.06 * up, 0.06, VERMILLION)
    for side in (-0.045, 0.045):
        canvas.disc(wheels + side * along + 0.025 * up, 0.022, INK)
    return canvas.finish()


def hill(x: float) -> float:
    """The height of MountainCar's track."""
    return 0.45 * math.sin(3 * x) + 0.55


def draw_reacher(obs: Any, state: Any, params: Any) -> Image.Image:
    """The arm, each link 1 long at an angle of its own from the x-axis, and the point to reach."""
    angles = np.asarray(state.angles, float)
    steps = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    joints = np.concatenate([np.zeros((1, 2)), np.cumsum(steps, axis=0)])
    reach = 1.15 * len(angles)
    canvas = Canvas(-reach, reach, -reach, reach)
    for start, end in itertools.pairwise(joints):
        canvas.rod(start, end, 0.14, BLUE)
    for joint in joints[:-1]:
        canvas.disc(joint, 0.055, PALE)
    canvas.disc(state.goal_xy, 0.1, GREEN)
    canvas.disc(joints[-1], 0.09, VERMILLION)
    return canvas.finish()


_CARTPOLE = Picture(draw_cartpole, ("left", "right"), steps_per_second=50, every=2)  # its time step is 0.02 s
PICTURES: dict[str, Picture] = {
    "CartPole-v0": _CARTPOLE,
    "CartPole-v1": _CARTPOLE,
    "Pendulum-v1": Picture(draw_pendulum, ("torque",)),
    "Acrobot-v1": Picture(draw_acrobot, ("torque -1", "torque 0", "torque +1")),
    "MountainCar-v0": Picture(draw_mountain_car, ("left", "none", "right"), steps_per_second=30),
    "MountainCarContinuous-v0": Picture(draw_mountain_car, ("force",), steps_per_second=40, every=2),
    "Asterix-MinAtar": Picture(ASTERIX, ("none", "left", "up", "right", "down"), steps_per_second=10),
    "Breakout-MinAtar": Picture(BREAKOUT, ("none", "left", "right"), steps_per_second=10),
    "Freeway-MinAtar": Picture(FREEWAY, ("none", "up", "down"), steps_per_second=20, every=2),
    "Seaquest-MinAtar": Picture(SEAQUEST, ("none", "left", "up", "right", "down", "fire"), steps_per_second=10),
    "SpaceInvaders-MinAtar": Picture(SPACE_INVADERS, ("none", "left", "right", "fire"), steps_per_second=10),
    "Pong-misc": Picture(PONG, ("none", "up", "down"), steps_per_second=20),
    "Catch-bsuite": Picture(draw_catch, ("left", "none", "right"), steps_per_second=5),
    "DeepSea-bsuite": Picture(draw_deep_sea, steps_per_second=4),  # which action goes right differs from cell to cell
    "FourRooms-misc": Picture(draw_four_rooms, ("up", "right", "down", "left"), steps_per_second=8),
    "FrozenLake-misc": Picture(draw_frozen_lake, ("left", "down", "right", "up"), steps_per_second=4),
    "Reacher-misc": Picture(draw_reacher, ("torque 1", "torque 2")),
}


def find_picture(env: Environment) -> Picture | None:
    """How an environment is filmed: by its own `draw`, else by our drawing for its name; None without either.

    A `draw` may have the attribute `steps_per_second`, which sets its pace.
    """
    if env.draw is not None:
        pace = getattr(env.draw, "steps_per_second", 20)
        return Picture(env.draw, steps_per_second=pace, every=max(1, round(pace / 20)))
    if env.name == "FrozenLake-misc" and env.step != make_env(env.name).step:
        return None  # it may have another map, which neither its state nor its parameters hold
    return PICTURES.get(env.name)


def check_picture(env: Environment) -> Picture:
    """How an environment is filmed. Raises PPOError for one that cannot be."""
    found = find_picture(env)
    if found is None:
        raise PPOError(
            f"{env.name} has no drawing, so there is no film of it; give the environment a function "
            f"draw(obs, state, params) that returns a PIL image, or take one of {', '.join(PICTURES)}"
        )
    return found
