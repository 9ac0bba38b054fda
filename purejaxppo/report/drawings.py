"""What the environments look like: a picture of one step, from its observation, its state and the parameters."""

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from purejaxppo.envs import Environment, make_env
from purejaxppo.report.canvas import (
    BLUE,
    GREEN,
    GREY,
    INK,
    ORANGE,
    PALE,
    PINK,
    SKY,
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
from purejaxppo.utils.errors import PPOError
from purejaxppo.utils.tree import PyTree

CART = (0.5, 0.3)  # m, width and height
ROD = 0.09  # m, the width of a pole or a link
LEGEND = 0.33  # of a grid's height, beside it

Drawing = Callable[[Any, Any, Any], Image.Image]  # (obs, state, params) of one environment, on the host; of any size


class Picture(NamedTuple):
    """How an environment is filmed."""

    draw: Drawing
    actions: tuple[str, ...] = ()  # names of the discrete actions, or of the numbers in a continuous one
    steps_per_second: float = 20
    every: int = 1  # steps from one frame to the next


class Layer(NamedTuple):
    """What one channel of a grid shows."""

    name: str
    channel: int
    colour: str
    is_round: bool = False


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


def draw_grid(grid: np.ndarray, layers: Sequence[Layer]) -> Image.Image:
    """Layers over each other, the last on top, and beside them what each colour means. grid: [H, W, C], 0 is empty"""
    rows, columns = grid.shape[:2]
    canvas = make_canvas(-0.02 * rows, columns + (0.04 + LEGEND) * rows, -0.02 * rows, 1.02 * rows)
    draw_box(canvas, 0, columns, 0, rows, "#F4F4F4")
    gap = 0.04 if rows <= 12 else 0.0
    for layer in layers:
        for row, column in np.argwhere(grid[..., layer.channel] > 0):
            draw_cell(canvas, rows, row, column, layer.colour, gap, is_round=layer.is_round)
    for i, layer in enumerate(reversed(layers)):
        at = columns + 0.04 * rows, rows * (0.97 - 0.075 * i)
        draw_disc(canvas, (at[0] + 0.02 * rows, at[1]), 0.02 * rows, layer.colour)
        draw_text(canvas, (at[0] + 0.055 * rows, at[1]), layer.name, INK, 11, anchor="lm")
    return finish(canvas)


def draw_cell(
    canvas: Canvas, rows: int, row: int, column: int, colour: str, gap: float = 0.04, *, is_round: bool = False
) -> None:
    """A square or a disc in a cell of a grid of so many rows, of which row 0 is the top one."""
    x, y = float(column), float(rows - 1 - row)
    if is_round:
        draw_disc(canvas, (x + 0.5, y + 0.5), 0.4, colour)
    else:
        draw_box(canvas, x + gap, x + 1 - gap, y + gap, y + 1 - gap, colour)


class LayeredGrid(NamedTuple):
    """A drawing of an observation whose channels say where things are."""

    layers: tuple[Layer, ...]

    def __call__(self, obs: np.ndarray, state: PyTree, params: Any) -> Image.Image:
        """obs: [H, W, C]"""
        del state, params
        return draw_grid(np.asarray(obs), self.layers)


def draw_catch(obs: np.ndarray, state: Any, params: Any) -> Image.Image:
    """The ball falls to the paddle, in the last row. obs: [H, W], where one number stands for both"""
    del params
    grid = np.zeros((*obs.shape, 2))
    grid[int(state.paddle_y), int(state.paddle_x), 0] = 1
    grid[int(state.ball_y), int(state.ball_x), 1] = 1
    return draw_grid(grid, [Layer("paddle", 0, INK), Layer("ball", 1, VERMILLION, is_round=True)])


def draw_deep_sea(obs: np.ndarray, state: Any, params: Any) -> Image.Image:
    """The diver, from the upper left; the treasure lies in the lower right. obs: [N, N], empty after the last row"""
    del params
    size = len(obs)
    grid = np.zeros((size, size, 3))
    grid[..., 0] = np.tri(size)  # what can be reached
    grid[-1, -1, 1] = 1
    grid[min(int(state.row), size - 1), min(int(state.column), size - 1), 2] = 1
    layers = [Layer("sea", 0, "#D6E9F5"), Layer("treasure", 1, ORANGE), Layer("diver", 2, INK, is_round=True)]
    return draw_grid(grid, layers)


def draw_rooms(walls: np.ndarray, pos: Any, goal: Any) -> Image.Image:
    """A walker in a maze. walls: [H, W] bool; pos, goal: row and column"""
    grid = np.zeros((*walls.shape, 3))
    grid[..., 0] = walls
    grid[int(goal[0]), int(goal[1]), 1] = 1
    grid[int(pos[0]), int(pos[1]), 2] = 1
    layers = [Layer("wall", 0, "#6E6E6E"), Layer("goal", 1, GREEN), Layer("walker", 2, VERMILLION, is_round=True)]
    return draw_grid(grid, layers)


def four_rooms_walls() -> np.ndarray:
    """Four rooms with a door in each wall between two. -> [13, 13] bool"""
    walls = np.zeros((13, 13), bool)
    walls[[0, -1]] = walls[:, [0, -1]] = True
    walls[:, 6] = True
    walls[6, :6], walls[7, 7:] = True, True
    for row, column in ((3, 6), (10, 6), (6, 2), (7, 9)):
        walls[row, column] = False
    return walls


def meta_maze_walls(size: int = 9) -> np.ndarray:
    """A frame, and in it a pillar in every second row and column. -> [size + 2, size + 2] bool"""
    place = np.arange(size + 2)
    edge, even = (place == 0) | (place == size + 1), place % 2 == 0
    return edge[:, None] | edge | (even[:, None] & even)


def draw_four_rooms(obs: Any, state: Any, params: Any) -> Image.Image:
    """FourRooms, from its state: its observation may be one of two kinds."""
    del obs, params
    return draw_rooms(four_rooms_walls(), state.pos, state.goal)


def draw_meta_maze(obs: Any, state: Any, params: Any) -> Image.Image:
    """MetaMaze from its state: what is observed is the walls around the walker alone."""
    del obs, params
    return draw_rooms(meta_maze_walls(), state.pos, state.goal)


def draw_frozen_lake(obs: Any, state: Any, params: Any) -> Image.Image:
    """The lake of 4 by 4. obs: 4 row + column, one-hot"""
    del state, params
    place = int(np.argmax(obs))
    grid = np.zeros((4, 4, 4))
    grid[..., 0] = 1
    for row, column in ((1, 1), (1, 3), (2, 3), (3, 0)):
        grid[row, column, 1] = 1
    grid[3, 3, 2] = 1
    grid[place // 4, place % 4, 3] = 1
    layers = [
        Layer("ice", 0, "#D6E9F5"),
        Layer("hole", 1, "#6E6E6E"),
        Layer("goal", 2, GREEN),
        Layer("walker", 3, VERMILLION, is_round=True),
    ]
    return draw_grid(grid, layers)


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


_BREAKOUT = LayeredGrid(
    (
        Layer("trail", 2, "#F3C5A8", is_round=True),
        Layer("brick", 3, BLUE),
        Layer("paddle", 0, INK),
        Layer("ball", 1, VERMILLION, is_round=True),
    )
)
_ASTERIX = LayeredGrid(
    (
        Layer("trail", 2, "#D4D4D4"),
        Layer("gold", 3, ORANGE, is_round=True),
        Layer("enemy", 1, VERMILLION),
        Layer("player", 0, BLUE),
    )
)
_FREEWAY = LayeredGrid(
    (
        *(
            Layer(f"speed {i + 1}", i + 2, shade)
            for i, shade in enumerate(("#6E6E6E", "#8C8C8C", "#A8A8A8", "#C4C4C4", "#DCDCDC"))
        ),
        Layer("car", 1, VERMILLION),
        Layer("chicken", 0, BLUE, is_round=True),
    )
)
_SPACE_INVADERS = LayeredGrid(
    (
        Layer("alien, left", 2, PINK),
        Layer("alien, right", 3, GREEN),
        Layer("alien's shot", 5, VERMILLION, is_round=True),
        Layer("own shot", 4, SKY, is_round=True),
        Layer("cannon", 0, BLUE),
    )
)
_SEAQUEST = LayeredGrid(
    (
        Layer("oxygen", 7, SKY),
        Layer("divers held", 8, GREEN),
        Layer("trail", 3, "#D4D4D4"),
        Layer("diver", 9, GREEN, is_round=True),
        Layer("fish", 5, ORANGE),
        Layer("enemy sub", 6, VERMILLION),
        Layer("enemy shot", 4, VERMILLION, is_round=True),
        Layer("own shot", 2, INK, is_round=True),
        Layer("stern", 1, "#7FB8D8"),
        Layer("submarine", 0, BLUE),
    )
)
_PONG = LayeredGrid(
    (
        Layer("trail", 2, "#F3C5A8"),
        Layer("paddle", 0, INK),
        Layer("ball", 1, VERMILLION),
    )
)

_CARTPOLE = Picture(draw_cartpole, ("left", "right"), steps_per_second=50, every=2)  # its time step is 0.02 s
_WAYS = ("up", "right", "down", "left")
PICTURES: dict[str, Picture] = {
    "CartPole-v0": _CARTPOLE,
    "CartPole-v1": _CARTPOLE,
    "Pendulum-v1": Picture(draw_pendulum, ("torque",)),
    "Acrobot-v1": Picture(draw_acrobot, ("torque -1", "torque 0", "torque +1")),
    "MountainCar-v0": Picture(draw_mountain_car, ("left", "none", "right"), steps_per_second=30),
    "MountainCarContinuous-v0": Picture(draw_mountain_car, ("force",), steps_per_second=40, every=2),
    "Asterix-MinAtar": Picture(_ASTERIX, ("none", "left", "up", "right", "down"), steps_per_second=10),
    "Breakout-MinAtar": Picture(_BREAKOUT, ("none", "left", "right"), steps_per_second=10),
    "Freeway-MinAtar": Picture(_FREEWAY, ("none", "up", "down"), steps_per_second=20, every=2),
    "Seaquest-MinAtar": Picture(_SEAQUEST, ("none", "left", "up", "right", "down", "fire"), steps_per_second=10),
    "SpaceInvaders-MinAtar": Picture(_SPACE_INVADERS, ("none", "left", "right", "fire"), steps_per_second=10),
    "Pong-misc": Picture(_PONG, ("none", "up", "down"), steps_per_second=20),
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
