"""Drawings of environments on a grid: layers of cells, and a legend of their colours."""

from __future__ import annotations  # Pillow is imported where it is used

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from purejaxppo.report.canvas import (
    BLUE,
    GREEN,
    INK,
    ORANGE,
    PINK,
    SKY,
    VERMILLION,
    Canvas,
    draw_box,
    draw_disc,
    draw_text,
    finish,
    make_canvas,
)
from purejaxppo.utils.tree import PyTree

if TYPE_CHECKING:
    from PIL import Image

LEGEND = 0.33  # of a grid's height, beside it


class Layer(NamedTuple):
    """One channel of a grid: its name in the legend, and its colour."""

    name: str
    channel: int
    colour: str
    is_round: bool = False


def draw_grid(grid: np.ndarray, layers: Sequence[Layer]) -> Image.Image:
    """Draws layers over each other, the last on top, and a legend beside them. grid: [H, W, C], 0 is empty"""
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
    """MetaMaze from its state: the observation shows only the walls around the walker."""
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


BREAKOUT = LayeredGrid(
    (
        Layer("trail", 2, "#F3C5A8", is_round=True),
        Layer("brick", 3, BLUE),
        Layer("paddle", 0, INK),
        Layer("ball", 1, VERMILLION, is_round=True),
    )
)
ASTERIX = LayeredGrid(
    (
        Layer("trail", 2, "#D4D4D4"),
        Layer("gold", 3, ORANGE, is_round=True),
        Layer("enemy", 1, VERMILLION),
        Layer("player", 0, BLUE),
    )
)
FREEWAY = LayeredGrid(
    (
        *(
            Layer(f"speed {i + 1}", i + 2, shade)
            for i, shade in enumerate(("#6E6E6E", "#8C8C8C", "#A8A8A8", "#C4C4C4", "#DCDCDC"))
        ),
        Layer("car", 1, VERMILLION),
        Layer("chicken", 0, BLUE, is_round=True),
    )
)
SPACE_INVADERS = LayeredGrid(
    (
        Layer("alien, left", 2, PINK),
        Layer("alien, right", 3, GREEN),
        Layer("alien's shot", 5, VERMILLION, is_round=True),
        Layer("own shot", 4, SKY, is_round=True),
        Layer("cannon", 0, BLUE),
    )
)
SEAQUEST = LayeredGrid(
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
PONG = LayeredGrid(
    (
        Layer("trail", 2, "#F3C5A8"),
        Layer("paddle", 0, INK),
        Layer("ball", 1, VERMILLION),
    )
)
