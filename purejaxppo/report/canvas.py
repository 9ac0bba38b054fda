"""Vector drawing in the units of a world, with smooth edges: what the pictures of the environments are made of."""

from __future__ import annotations  # Pillow is imported where it is used

import functools
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from PIL import Image, ImageDraw, ImageFont

# Okabe and Ito's colours, which the colour-blind can tell apart.
BLUE, ORANGE, GREEN, PINK = "#0072B2", "#E69F00", "#009E73", "#CC79A7"
SKY, VERMILLION = "#56B4E9", "#D55E00"
INK, GREY, PALE = "#262626", "#8C8C8C", "#E4E4E4"

SCENE = (340, 270)  # pixels, of the world in a film
SUPERSAMPLE = 3  # Pillow draws without anti-aliasing: draw larger, and average

Point = Sequence[float] | np.ndarray  # x to the right, y up


class Canvas(NamedTuple):
    """A picture under way, SUPERSAMPLE times as large as it will be."""

    image: Image.Image
    pen: ImageDraw.ImageDraw
    scale: float  # large pixels of a unit
    origin: tuple[float, float]  # large pixel of the point (0, 0)


def make_canvas(left: float, right: float, bottom: float, top: float, size: tuple[int, int] = SCENE) -> Canvas:
    """An empty canvas on which the given part of the world is as large as it fits, in the middle. size: pixels"""
    from PIL import Image, ImageDraw

    width, height = (SUPERSAMPLE * side for side in size)
    image = Image.new("RGB", (width, height), "white")
    scale = min(width / (right - left), height / (top - bottom))
    origin = (width / 2 - scale * (left + right) / 2, height / 2 + scale * (bottom + top) / 2)
    return Canvas(image, ImageDraw.Draw(image), scale, origin)


def finish(canvas: Canvas) -> Image.Image:
    """The picture in its own size."""
    return canvas.image.reduce(SUPERSAMPLE)


def pixel(canvas: Canvas, point: Point) -> tuple[float, float]:
    """Where a point is in the large picture."""
    x, y = point
    return canvas.origin[0] + canvas.scale * float(x), canvas.origin[1] - canvas.scale * float(y)


def draw_path(canvas: Canvas, points: Sequence[Point], colour: str, pixels: float) -> None:
    """A line through the points, `pixels` wide in the finished picture."""
    width = max(1, round(SUPERSAMPLE * pixels))
    canvas.pen.line([pixel(canvas, point) for point in points], fill=colour, width=width, joint="curve")


def draw_rod(canvas: Canvas, start: Point, end: Point, width: float, colour: str) -> None:
    """A rod from one point to another, round at both."""
    start, end = np.asarray(start, float), np.asarray(end, float)
    along = (end - start) / max(float(np.linalg.norm(end - start)), 1e-9)
    across = np.array([along[1], -along[0]]) * width / 2
    draw_polygon(canvas, [start - across, end - across, end + across, start + across], colour)
    for point in (start, end):
        draw_disc(canvas, point, width / 2, colour)


def draw_polygon(canvas: Canvas, corners: Sequence[Point], colour: str) -> None:
    """A filled polygon."""
    canvas.pen.polygon([pixel(canvas, corner) for corner in corners], fill=colour)


def draw_disc(canvas: Canvas, centre: Point, radius: float, colour: str) -> None:
    """A disc."""
    canvas.pen.circle(pixel(canvas, centre), radius * canvas.scale, fill=colour)


def draw_box(
    canvas: Canvas, left: float, right: float, bottom: float, top: float, colour: str, round_by: float = 0.0
) -> None:
    """An upright rectangle, its corners rounded by a radius."""
    corners = (*pixel(canvas, (left, top)), *pixel(canvas, (right, bottom)))
    canvas.pen.rounded_rectangle(corners, radius=round_by * canvas.scale, fill=colour)


def draw_text(canvas: Canvas, point: Point, text: str, colour: str, pixels: float = 12, anchor: str = "mm") -> None:
    """Text at a point, `pixels` high in the finished picture. anchor: Pillow's"""
    canvas.pen.text(pixel(canvas, point), text, fill=colour, font=font(round(SUPERSAMPLE * pixels)), anchor=anchor)


@functools.cache
def font(pixels: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """Pillow's own font."""
    from PIL import ImageFont

    return ImageFont.load_default(pixels)
