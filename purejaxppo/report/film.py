"""Films of episodes: our own drawings of the environments, as an animated GIF."""

import functools
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from purejaxppo.evaluate import Episode
from purejaxppo.report.curves import BLUE, GREY, VERMILLION
from purejaxppo.storage import write_whole
from purejaxppo.types import PPOError

INK, PALE = "#262626", "#E4E4E4"
NUM_COLOURS = 64
SUPERSAMPLE = 3  # Pillow draws without anti-aliasing: draw larger, and average
STEPS_PER_SECOND = 50  # CartPole's time step is 0.02 s

X_LIMIT = 2.4  # m, where CartPole ends
X_SHOWN = 2.9  # m, half the picture's width
CART = (0.5, 0.3)  # m, width and height
POLE = (1.0, 0.09)  # m, length and width


class Drawing(Protocol):
    """A picture of one step of an environment."""

    def __call__(
        self, obs: np.ndarray, *, step: int, episode_return: float, probability: np.ndarray | None
    ) -> Image.Image:
        """obs: [...], raw; episode_return: up to this step; probability: [n] of each action, None after the last."""
        ...


def draw_cartpole(
    obs: np.ndarray,
    *,
    step: int,
    episode_return: float,
    probability: np.ndarray | None,
    size: tuple[int, int] = (480, 270),
) -> Image.Image:
    """CartPole to scale, with the probability of each push. A positive angle leans to the right.

    obs: [4] x (m), x_dot (m/s), theta (rad), theta_dot (rad/s); probability: [2] of left and right; size: pixels.
    """
    width, height = size
    large = _empty_track((SUPERSAMPLE * width, SUPERSAMPLE * height)).copy()
    _draw_cart(large, x=float(obs[0]), theta=float(obs[2]))
    _draw_pushes(large, probability)
    image = large.reduce(SUPERSAMPLE)
    _write_labels(image, step, episode_return, probability)
    return image


DRAWINGS: dict[str, Drawing] = {"CartPole-v0": draw_cartpole, "CartPole-v1": draw_cartpole}


def has_drawing(name: str) -> bool:
    """Whether an environment of this name can be filmed."""
    return name in DRAWINGS


def check_drawing(name: str) -> None:
    """Raises PPOError for an environment that cannot be filmed."""
    if not has_drawing(name):
        raise PPOError(f"{name} has no drawing, so there is no film of it; these have one: {', '.join(DRAWINGS)}")


def film_episode(
    name: str, episode: Episode, path: str | os.PathLike[str], every: int = 2, max_frames: int = 600
) -> None:
    """Writes every `every`-th step of an episode, and its end, as a GIF in real time that rests on its last frame.

    An episode of more than `max_frames` frames is cut. Raises PPOError for an environment without a drawing.
    """
    check_drawing(name)
    draw = DRAWINGS[name]
    length = len(episode.reward)
    returns = np.concatenate([[0.0], np.cumsum(episode.reward)])
    steps = [*range(0, length, every), length][:max_frames]
    frames = [
        draw(
            episode.obs[step],
            step=step,
            episode_return=float(returns[step]),
            probability=None if episode.probabilities is None or step == length else episode.probabilities[step],
        )
        for step in steps
    ]
    write_film(frames, path, fps=STEPS_PER_SECOND / every, rest=1.0)


def write_film(frames: Sequence[Image.Image], path: str | os.PathLike[str], fps: float = 50, rest: float = 0.0) -> None:
    """Writes an endless GIF of at most 64 colours. Whole or not at all.

    fps: rounded to what a GIF can do; rest: seconds for which the last frame stays on.
    Raises PPOError without frames.
    """
    if not frames:
        raise PPOError("a film needs at least one frame, and there is none")
    first, *others = quantize_frames(frames)
    duration = frame_duration(fps)
    durations = [duration] * len(others) + [max(duration, round(1000 * rest))]
    write_whole(
        Path(path),
        lambda file: first.save(
            file, format="GIF", save_all=True, append_images=others, duration=durations, loop=0, optimize=True
        ),
    )


def frame_duration(fps: float) -> int:
    """Milliseconds of one frame: a multiple of 10, and at least 20, below which players slow a film down."""
    return max(20, 10 * round(100 / fps))


def quantize_frames(frames: Sequence[Image.Image]) -> list[Image.Image]:
    """The frames in one palette, made for a sample of them: a palette of its own for each would flicker."""
    sample = frames[:: math.ceil(len(frames) / 8)]
    width, height = frames[0].size
    sheet = Image.new("RGB", (width, height * len(sample)))
    for i, frame in enumerate(sample):
        sheet.paste(frame, (0, i * height))
    palette = sheet.quantize(NUM_COLOURS, method=Image.Quantize.MAXCOVERAGE)
    return [frame.quantize(palette=palette, dither=Image.Dither.NONE) for frame in frames]


@functools.cache
def _empty_track(size: tuple[int, int]) -> Image.Image:
    """All that never moves. size: pixels"""
    image = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(image)
    line = round(0.02 * _scale(size))
    for x in (-X_LIMIT, X_LIMIT):
        draw.line([_pixel(size, x, -0.1), _pixel(size, x, 0.1)], fill=GREY, width=line)
    draw.line([_pixel(size, -X_LIMIT, 0), _pixel(size, X_LIMIT, 0)], fill=GREY, width=line)
    return image


def _draw_cart(image: Image.Image, x: float, theta: float) -> None:
    """The cart on its track, and the pole on a hinge at its top."""
    draw = ImageDraw.Draw(image)
    width, height = CART
    hinge = np.array([x, height])
    along = np.array([math.sin(theta), math.cos(theta)])
    across = np.array([math.cos(theta), -math.sin(theta)]) * POLE[1] / 2
    tip = hinge + POLE[0] * along
    corners = [_pixel(image.size, *point) for point in (hinge - across, tip - across, tip + across, hinge + across)]
    left, bottom = _pixel(image.size, x - width / 2, 0)
    right, top = _pixel(image.size, x + width / 2, height)
    draw.rounded_rectangle((left, top, right, bottom), radius=0.04 * _scale(image.size), fill=INK)
    draw.polygon(corners, fill=VERMILLION)
    draw.circle(_pixel(image.size, *tip), POLE[1] / 2 * _scale(image.size), fill=VERMILLION)
    draw.circle(_pixel(image.size, *hinge), 0.07 * _scale(image.size), fill=PALE)


def _draw_pushes(image: Image.Image, probability: np.ndarray | None) -> None:
    """The probabilities of a push to the left and to the right, as bars that grow from the middle of a frame."""
    draw = ImageDraw.Draw(image)
    middle, top, bottom = 0.8 * image.width, 0.06 * image.height, 0.1 * image.height
    longest = 0.15 * image.width
    draw.rectangle((middle - longest, top, middle + longest, bottom), fill=PALE)
    if probability is not None:
        left, right = (longest * float(share) for share in probability)
        draw.rectangle((middle - left, top, middle + right, bottom), fill=BLUE)
    notch = 0.02 * image.height
    draw.line([(middle, top - notch), (middle, bottom + notch)], fill=INK, width=round(0.003 * image.width))


def _write_labels(image: Image.Image, step: int, episode_return: float, probability: np.ndarray | None) -> None:
    """All text; on the final picture, as Pillow's text is smooth already."""
    draw = ImageDraw.Draw(image)
    width, height = image.size
    font, small = _font(round(0.06 * height)), _font(round(0.048 * height))
    draw.text((0.05 * width, 0.05 * height), f"step {step}", fill=INK, font=font)
    draw.text((0.25 * width, 0.05 * height), f"return {episode_return:g}", fill=INK, font=font)
    left, right = ("", "") if probability is None else (f" {share:.0%}" for share in probability)
    draw.text((0.65 * width, 0.13 * height), f"left{left}", fill=INK, font=small)
    draw.text((0.95 * width, 0.13 * height), f"right{right}", fill=INK, font=small, anchor="ra")
    for x in (-X_LIMIT, X_LIMIT):
        draw.text(_pixel(image.size, x, -0.16), f"{x:+g} m", fill=GREY, font=small, anchor="ma")


def _pixel(size: tuple[int, int], x: float, height: float) -> tuple[float, float]:
    """The pixel of a point `height` metres above the track, in a picture of `size` pixels."""
    scale = _scale(size)
    return size[0] / 2 + x * scale, 0.77 * size[1] - height * scale


def _scale(size: tuple[int, int]) -> float:
    """Pixels of a metre."""
    return size[0] / (2 * X_SHOWN)


@functools.cache
def _font(pixels: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(pixels)
