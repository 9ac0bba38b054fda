"""Vector drawing in the units of a world, with smooth edges: what the pictures of the environments are made of."""

from __future__ import annotations  # Pillow is imported where it is used

import functools
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from PIL import Image, ImageFont

# Okabe and Ito's colours, which the colour-blind can tell apart.
BLUE, ORANGE, GREEN, PINK = "#0072B2", "#E69F00", "#009E73", "#CC79A7"
SKY, VERMILLION = "#56B4E9", "#D55E00"
INK, GREY, PALE = "#262626", "#8C8C8C", "#E4E4E4"

SCENE = (340, 270)  # pixels, of the world in a film
SUPERSAMPLE = 3  # Pillow draws without anti-aliasing: draw larger, and average

Point = Sequence[float] | np.ndarray  # x to the right, y up


class Canvas:
    """A picture of a part of the world, as large as it fits, in the middle."""

    def __init__(self, left: float, right: float, bottom: float, top: float) -> None:
        from PIL import Image, ImageDraw

        width, height = (SUPERSAMPLE * side for side in SCENE)
        self.image = Image.new("RGB", (width, height), "white")
        self.pen = ImageDraw.Draw(self.image)
        self.scale = min(width / (right - left), height / (top - bottom))  # large pixels of a unit
        self.origin = (width - self.scale * (left + right)) / 2, (height + self.scale * (bottom + top)) / 2

    def finish(self) -> Image.Image:
        """The picture in its own size."""
        return self.image.reduce(SUPERSAMPLE)

    def pixel(self, point: Point) -> tuple[float, float]:
        """Where a point is in the large picture."""
        x, y = point
        return self.origin[0] + self.scale * float(x), self.origin[1] - self.scale * float(y)

    def path(self, points: Sequence[Point], colour: str, pixels: float) -> None:
        """A line through the points, `pixels` wide in the finished picture."""
        width = max(1, round(SUPERSAMPLE * pixels))
        self.pen.line([self.pixel(point) for point in points], fill=colour, width=width, joint="curve")

    def rod(self, start: Point, end: Point, width: float, colour: str) -> None:
        """A rod from one point to another, round at both."""
        start, end = np.asarray(start, float), np.asarray(end, float)
        along = (end - start) / max(float(np.linalg.norm(end - start)), 1e-9)
        across = np.array([along[1], -along[0]]) * width / 2
        self.polygon([start - across, end - across, end + across, start + across], colour)
        for point in (start, end):
            self.disc(point, width / 2, colour)

    def polygon(self, corners: Sequence[Point], colour: str) -> None:
        """A filled polygon."""
        self.pen.polygon([self.pixel(corner) for corner in corners], fill=colour)

    def disc(self, centre: Point, radius: float, colour: str) -> None:
        """A disc."""
        self.pen.circle(self.pixel(centre), radius * self.scale, fill=colour)

    def box(self, left: float, right: float, bottom: float, top: float, colour: str, round_by: float = 0.0) -> None:
        """An upright rectangle, its corners rounded by a radius."""
        corners = (*self.pixel((left, top)), *self.pixel((right, bottom)))
        self.pen.rounded_rectangle(corners, radius=round_by * self.scale, fill=colour)

    def text(self, point: Point, text: str, colour: str, pixels: float = 12, anchor: str = "mm") -> None:
        """Text at a point, `pixels` high in the finished picture. anchor: Pillow's"""
        self.pen.text(self.pixel(point), text, fill=colour, font=font(round(SUPERSAMPLE * pixels)), anchor=anchor)


@functools.cache
def font(pixels: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """Pillow's own font."""
    from PIL import ImageFont

    return ImageFont.load_default(pixels)
