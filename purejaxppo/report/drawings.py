"""Pictures of one step of the environments, drawn from its observation, its state and the parameters."""

from __future__ import annotations  # Pillow is imported where it is used

import itertools
import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from purejaxppo.envs import Environment, make_env
from purejaxppo.report.canvas import (
    BLUE,
    GREEN,
    GREY,
    INK,
    PALE,
    VERMILLION,
    Canvas,
    draw_box,
    draw_disc,
    draw_path,
    draw_polygon,
    draw_rod,
    draw_text,
    finish,
    make_canvas,
)
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
    draw_meta_maze,
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
    del state
    x, limit, length = float(obs[0]), float(params.x_threshold), 2 * float(params.length)
    canvas = make_canvas(-limit - 0.5, limit + 0.5, -0.5, CART[1] + max(length, 1.0) + 0.2)
    for end in (-limit, limit):
        draw_path(canvas, [(end, -0.12), (end, 0.12)], GREY, 1.5)
        draw_text(canvas, (end, -0.3), f"{end:+g} m", GREY)
    draw_path(canvas, [(-limit, 0), (limit, 0)], GREY, 1.5)
    draw_box(canvas, x - CART[0] / 2, x + CART[0] / 2, 0, CART[1], INK, 0.04)
    hinge = np.array([x, CART[1]])
    draw_rod(canvas, hinge, hinge + length * np.array([math.sin(obs[2]), math.cos(obs[2])]), ROD, VERMILLION)
    draw_disc(canvas, hinge, 0.07, PALE)
    return finish(canvas)


def draw_pendulum(obs: np.ndarray, state: PyTree, params: Any) -> Image.Image:
    """Pendulum to scale; a positive torque turns to the left. obs: cos, sin of the angle from upright, speed"""
    del state
    length = float(params.l)
    canvas = make_canvas(*(1.25 * length * np.array([-1, 1, -1, 1])))
    ring = [length * np.array([math.cos(t), math.sin(t)]) for t in np.linspace(0, 2 * math.pi, 90)]
    draw_path(canvas, ring, PALE, 1)
    draw_path(canvas, [(0, 1.1 * length), (0, 1.2 * length)], GREY, 1.5)  # upright, where it should stand
    draw_rod(canvas, (0, 0), length * np.array([-float(obs[1]), float(obs[0])]), 0.16 * length, VERMILLION)
    draw_disc(canvas, (0, 0), 0.05 * length, INK)
    return finish(canvas)


def draw_acrobot(obs: np.ndarray, state: PyTree, params: Any) -> Image.Image:
    """Acrobot to scale, with the height to reach. obs: cos, sin of the first angle, from hanging; second; speeds"""
    del state
    first, second = math.atan2(obs[1], obs[0]), math.atan2(obs[3], obs[2])
    lengths = float(params.link_length_1), float(params.link_length_2)
    reach = sum(lengths)
    elbow = lengths[0] * np.array([math.sin(first), -math.cos(first)])
    tip = elbow + lengths[1] * np.array([math.sin(first + second), -math.cos(first + second)])
    canvas = make_canvas(-1.1 * reach, 1.1 * reach, -1.1 * reach, 1.1 * reach)
    draw_path(canvas, [(-reach, 1), (reach, 1)], GREY, 1.5)  # the task: -cos(first) - cos(first + second) > 1
    draw_text(canvas, (reach, 1.02), "goal", GREY, anchor="rb")
    draw_rod(canvas, (0, 0), elbow, 1.6 * ROD, BLUE)
    draw_rod(canvas, elbow, tip, 1.6 * ROD, VERMILLION)
    for joint in (np.zeros(2), elbow):
        draw_disc(canvas, joint, 0.06, PALE)
    return finish(canvas)


def draw_mountain_car(obs: np.ndarray, state: PyTree, params: Any) -> Image.Image:
    """The car on its hill, with the flag of the goal. obs: position, velocity"""
    del state
    low, high, goal = float(params.min_position), float(params.max_position), float(params.goal_position)
    canvas = make_canvas(low - 0.05, high + 0.05, -0.05, 1.25)
    track = np.linspace(low, high, 80)
    draw_path(canvas, [(x, hill(x)) for x in track], GREY, 2)
    ground = hill(goal)
    draw_path(canvas, [(goal, ground), (goal, ground + 0.2)], INK, 1.5)
    flag = [(goal, ground + 0.2), (goal + 0.09, ground + 0.165), (goal, ground + 0.13)]
    draw_polygon(canvas, flag, GREEN)
    draw_car(canvas, float(obs[0]))
    return finish(canvas)


def hill(x: float) -> float:
    """The height of MountainCar's track."""
    return 0.45 * math.sin(3 * x) + 0.55


def draw_car(canvas: Canvas, x: float) -> None:
    """A car that stands on the track, along its slope."""
    slope = math.atan(1.35 * math.cos(3 * x))
    along, up = np.array([math.cos(slope), math.sin(slope)]), np.array([-math.sin(slope), math.cos(slope)])
    ground = np.array([x, hill(x)])
    draw_rod(canvas, ground - 0.04 * along + 0.06 * up, ground + 0.04 * along + 0.06 * up, 0.06, VERMILLION)
    for side in (-0.045, 0.045):
        draw_disc(canvas, ground + side * along + 0.025 * up, 0.022, INK)


def draw_point_robot(obs: Any, state: Any, params: Any) -> Image.Image:
    """The robot, the half circle on which the goal is, and the goal, which is not observed."""
    del obs
    radius = float(params.circle_radius)
    canvas = make_canvas(-1.45 * radius, 1.45 * radius, -0.6 * radius, 1.45 * radius)
    arc = [radius * np.array([math.cos(t), math.sin(t)]) for t in np.linspace(0, math.pi, 60)]
    draw_path(canvas, arc, GREY, 1.5)
    draw_disc(canvas, state.goal, float(params.goal_radius), "#A8DCCB")
    draw_disc(canvas, state.goal, 0.03 * radius, GREEN)
    draw_disc(canvas, state.pos, 0.06 * radius, VERMILLION)
    return finish(canvas)


def draw_reacher(obs: Any, state: Any, params: Any) -> Image.Image:
    """The arm, each link 1 long at an angle of its own from the x-axis, and the point to reach."""
    del obs, params
    angles = np.asarray(state.angles, float)
    steps = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    joints = np.concatenate([np.zeros((1, 2)), np.cumsum(steps, axis=0)])
    reach = 1.15 * len(angles)
    canvas = make_canvas(-reach, reach, -reach, reach)
    for start, end in itertools.pairwise(joints):
        draw_rod(canvas, start, end, 0.14, BLUE)
    for joint in joints[:-1]:
        draw_disc(canvas, joint, 0.055, PALE)
    draw_disc(canvas, state.goal_xy, 0.1, GREEN)
    draw_disc(canvas, joints[-1], 0.09, VERMILLION)
    return finish(canvas)


def draw_swimmer(obs: Any, state: Any, params: Any) -> Image.Image:
    """The swimmer among urchins, and the point to reach. It may leave the picture."""
    del obs, params
    canvas = make_canvas(-1.3, 1.3, -1.3, 1.3)
    draw_box(canvas, -1.3, 1.3, -1.3, 1.3, "#EAF4FA")
    for urchin in np.asarray(state.urchin_xys):
        draw_disc(canvas, urchin, 0.12, GREY)
    draw_disc(canvas, state.goal_xy, 0.08, GREEN)
    draw_disc(canvas, state.xy, 0.07, VERMILLION)
    return finish(canvas)


_CARTPOLE = Picture(draw_cartpole, ("left", "right"), steps_per_second=50, every=2)  # its time step is 0.02 s
_WAYS = ("up", "right", "down", "left")
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
    "FourRooms-misc": Picture(draw_four_rooms, _WAYS, steps_per_second=8),
    "MetaMaze-misc": Picture(draw_meta_maze, _WAYS, steps_per_second=8),
    "FrozenLake-misc": Picture(draw_frozen_lake, ("left", "down", "right", "up"), steps_per_second=4),
    "PointRobot-misc": Picture(draw_point_robot, ("force x", "force y")),
    "Reacher-misc": Picture(draw_reacher, ("torque 1", "torque 2")),
    "Swimmer-misc": Picture(draw_swimmer, ("force x", "force y")),
}
_OF_ONE_MAP = ("MetaMaze-misc", "FrozenLake-misc")  # neither state nor parameters hold it


def find_picture(env: Environment) -> Picture | None:
    """How an environment is filmed: by its own `draw`, or as we draw those of that name; None where neither is."""
    if env.draw is not None:
        return Picture(env.draw)
    if env.name in _OF_ONE_MAP and env.step != make_env(env.name).step:
        return None
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
