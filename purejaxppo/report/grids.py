"""Drawings of environments on a grid: layers of cells, and a legend of their colours."""

from __future__ import annotations  # Pillow is imported where it is used

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from purejaxppo.report.canvas import BLUE, GREEN, INK, ORANGE, PINK, SKY, VERMILLION, Canvas

if TYPE_CHECKING:
    from PIL import Image

LEGEND = 0.33  # of a grid's height, beside it
STONE, WATER, TRAIL, FADED = "#6E6E6E", "#D6E9F5", "#F3C5A8", "#D4D4D4"


class Layer(NamedTuple):
    """One channel of a grid: its name in the legend, and its colour."""

    name: str
    channel: int
    colour: str
    is_round: bool = False


def draw_grid(grid: np.ndarray, layers: Sequence[Layer]) -> Image.Image:
    """Draws layers over each other, the last on top, and a legend beside them. grid: [H, W, C], 0 is empty"""
    rows, columns = grid.shape[:2]
    canvas = Canvas(-0.02 * rows, columns + (0.04 + LEGEND) * rows, -0.02 * rows, 1.02 * rows)
    canvas.box(0, columns, 0, rows, "#F4F4F4")
    gap = 0.04 if rows <= 12 else 0.0
    for layer in layers:
        for row, x in np.argwhere(grid[..., layer.channel] > 0).tolist():
            y = rows - 1 - row
            if layer.is_round:
                canvas.disc((x + 0.5, y + 0.5), 0.4, layer.colour)
            else:
                canvas.box(x + gap, x + 1 - gap, y + gap, y + 1 - gap, layer.colour)
    for i, layer in enumerate(reversed(layers)):
        x, y = columns + 0.04 * rows, rows * (0.97 - 0.075 * i)
        canvas.disc((x + 0.02 * rows, y), 0.02 * rows, layer.colour)
        canvas.text((x + 0.055 * rows, y), layer.name, INK, 11, anchor="lm")
    return canvas.finish()


def layered(*layers: Layer) -> Callable[..., Image.Image]:
    """A drawing of observations [H, W, C] whose channels say where things are."""
    return lambda obs, state, params: draw_grid(np.asarray(obs), layers)


def draw_things(ground: np.ndarray, layers: Sequence[Layer], *places: tuple[Any, Any]) -> Image.Image:
    """Draws the ground, which is the first layer, and one thing of each further layer. places: (row, column)"""
    grid = np.stack([ground, *np.zeros((len(places), *ground.shape))], axis=-1)
    for i, (row, column) in enumerate(places):
        grid[int(row), int(column), 1 + i] = 1
    return draw_grid(grid, layers)


def draw_catch(obs: np.ndarray, state: Any, params: Any) -> Image.Image:
    """The ball falls to the paddle, in the last row. obs: [H, W], where one number stands for both"""
    grid = np.zeros((*obs.shape, 2))
    grid[int(state.paddle_y), int(state.paddle_x), 0] = grid[int(state.ball_y), int(state.ball_x), 1] = 1
    return draw_grid(grid, [Layer("paddle", 0, INK), Layer("ball", 1, VERMILLION, is_round=True)])


def draw_deep_sea(obs: np.ndarray, state: Any, params: Any) -> Image.Image:
    """The diver, from the upper left; the treasure lies in the lower right. obs: [N, N], empty after the last row"""
    last = len(obs) - 1
    layers = [Layer("sea", 0, WATER), Layer("treasure", 1, ORANGE), Layer("diver", 2, INK, is_round=True)]
    return draw_things(np.tri(len(obs)), layers, (-1, -1), (min(state.row, last), min(state.column, last)))


def four_rooms_walls() -> np.ndarray:
    """Four rooms with a door in each wall between two. -> [13, 13] bool"""
    walls = np.zeros((13, 13), bool)
    walls[[0, -1]] = walls[:, [0, -1]] = True
    walls[:, 6] = True
    walls[6, :6], walls[7, 7:] = True, True
    walls[[3, 10, 6, 7], [6, 6, 2, 9]] = False
    return walls


def draw_four_rooms(obs: Any, state: Any, params: Any) -> Image.Image:
    """FourRooms, from its state: its observation may be one of two kinds."""
    layers = [Layer("wall", 0, STONE), Layer("goal", 1, GREEN), Layer("walker", 2, VERMILLION, is_round=True)]
    return draw_things(four_rooms_walls(), layers, state.goal, state.pos)


def draw_frozen_lake(obs: Any, state: Any, params: Any) -> Image.Image:
    """The lake of 4 by 4. obs: 4 row + column, one-hot"""
    holes = np.zeros((4, 4))
    holes[[1, 1, 2, 3], [1, 3, 3, 0]] = 1
    layers = [Layer("hole", 0, STONE), Layer("goal", 1, GREEN), Layer("walker", 2, VERMILLION, is_round=True)]
    return draw_things(holes, layers, (3, 3), divmod(int(np.argmax(obs)), 4))


BREAKOUT = layered(
    Layer("trail", 2, TRAIL, is_round=True),
    Layer("brick", 3, BLUE),
    Layer("paddle", 0, INK),
    Layer("ball", 1, VERMILLION, is_round=True),
)
ASTERIX = layered(
    Layer("trail", 2, FADED),
    Layer("gold", 3, ORANGE, is_round=True),
    Layer("enemy", 1, VERMILLION),
    Layer("player", 0, BLUE),
)
FREEWAY = layered(
    *(Layer(f"speed {i}", i + 1, "#" + 3 * grey) for i, grey in enumerate(("6E", "8C", "A8", "C4", "DC"), start=1)),
    Layer("car", 1, VERMILLION),
    Layer("chicken", 0, BLUE, is_round=True),
)
SPACE_INVADERS = layered(
    Layer("alien, left", 2, PINK),
    Layer("alien, right", 3, GREEN),
    Layer("alien's shot", 5, VERMILLION, is_round=True),
    Layer("own shot", 4, SKY, is_round=True),
    Layer("cannon", 0, BLUE),
)
SEAQUEST = layered(
    Layer("oxygen", 7, SKY),
    Layer("divers held", 8, GREEN),
    Layer("trail", 3, FADED),
    Layer("diver", 9, GREEN, is_round=True),
    Layer("fish", 5, ORANGE),
    Layer("enemy sub", 6, VERMILLION),
    Layer("enemy shot", 4, VERMILLION, is_round=True),
    Layer("own shot", 2, INK, is_round=True),
    Layer("stern", 1, "#7FB8D8"),
    Layer("submarine", 0, BLUE),
)
PONG = layered(Layer("trail", 2, TRAIL), Layer("paddle", 0, INK), Layer("ball", 1, VERMILLION))
