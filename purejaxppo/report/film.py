"""Films of episodes as GIF or MP4: the environment, the step, the return, and what the policy does."""

from __future__ import annotations  # Pillow is imported where it is used

import importlib
import itertools
import math
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple

import jax
import numpy as np

from purejaxppo.envs.base import Environment
from purejaxppo.envs.spaces import Box, Discrete, MultiDiscrete, Space, SpaceTree, parts_of, structure_of
from purejaxppo.ppo.evaluate import Episode
from purejaxppo.report.canvas import BLUE, GREY, INK, PALE, SCENE, font
from purejaxppo.report.drawings import Picture, check_picture
from purejaxppo.report.files import FILMS, check_suffix
from purejaxppo.utils.errors import PPOError, in_one_line
from purejaxppo.utils.files import write_whole

if TYPE_CHECKING:
    from PIL import Image, ImageDraw

SIZE = (480, 270)  # pixels: the scene, and the panel on its right
PANEL = (SCENE[0] + 4, SIZE[0] - 14)  # pixels, left and right
MAX_ROWS = 9  # actions in the panel
NUM_COLOURS = 64
NEAR_WHITE = 12  # levels, over the three channels


class Row(NamedTuple):
    """An action in the panel."""

    name: str
    bar: tuple[float, float] | None  # its ends, 0 at the left and 1 at the right; None for no bar
    text: str
    is_taken: bool


def draw_frame(env: Environment, picture: Picture, episode: Episode, step: int) -> Image.Image:
    """One frame: the scene at a step, and the panel."""
    obs, state = jax.tree.map(lambda x: x[step], (episode.obs, episode.state))
    rows = action_rows(env.action_space, picture.actions, episode, step)
    episode_return = float(np.sum(episode.reward[:step], dtype=np.float64))
    return compose(draw_scene(env, picture, obs, state), step, episode_return, rows)


def draw_scene(env: Environment, picture: Picture, obs: Any, state: Any) -> Image.Image:
    """The picture of one step. Raises PPOError if the environment's own `draw` raises, or returns something else."""
    from PIL import Image

    try:
        scene = picture.draw(obs, state, env.params)
    except Exception as error:  # the user's code may raise anything
        raise PPOError(f"{env.name}: draw raises {in_one_line(error)}") from error
    if not isinstance(scene, Image.Image):
        raise PPOError(f"{env.name}: draw returns a {type(scene).__name__}; return a PIL image")
    return scene


def film_episode(
    env: Environment, episode: Episode, path: str | os.PathLike[str], every: int | None = None, max_frames: int = 600
) -> int:
    """Writes an episode as a GIF or an MP4, by the suffix, that rests on its last frame. -> the last step that it shows

    every: steps from one frame to the next, by default what suits the environment. An episode of more than
    `max_frames` frames is cut. Raises PPOError for an environment without a drawing, and as `write_film` does.
    """
    picture = check_picture(env)
    every = picture.every if every is None else every
    length = len(episode.reward)
    steps = [*range(0, length, every), length][:max_frames]
    frames = [draw_frame(env, picture, episode, step) for step in steps]
    write_film(frames, path, fps=picture.steps_per_second / every, rest=1.0)
    return steps[-1]


def write_film(frames: Sequence[Image.Image], path: str | os.PathLike[str], fps: float = 50, rest: float = 0.0) -> None:
    """Writes an endless GIF of at most 64 colours, or an MP4, by the suffix. Whole or not at all.

    fps: a GIF's is rounded to what it can do; rest: seconds for which the last frame stays on.
    Raises PPOError without frames, for another suffix, and for an MP4 where what it needs is not installed.
    """
    check_film(path)
    if not frames:
        raise PPOError("a film needs at least one frame, got 0")
    write = write_mp4 if Path(path).suffix == ".mp4" else write_gif
    write_whole(Path(path), lambda file: write(frames, file, fps, rest))


def check_film(path: str | os.PathLike[str]) -> None:
    """Raises PPOError if a film cannot be written: its suffix is wrong, or its encoder is not installed."""
    check_suffix(Path(path), FILMS, "film")
    if Path(path).suffix == ".mp4":
        try:
            importlib.import_module("av")
        except ImportError:
            raise PPOError(
                'an MP4 needs the extra "video": pip install "purejaxppo[video]"; or write a GIF, which needs nothing'
            ) from None


def write_gif(frames: Sequence[Image.Image], file: BinaryIO, fps: float, rest: float) -> None:
    """Writes an endless GIF whose frames share one palette."""
    first, *others = quantize_frames(frames)
    duration = frame_duration(fps)
    durations = [duration] * len(others) + [max(duration, round(1000 * rest))]
    first.save(file, format="GIF", save_all=True, append_images=others, duration=durations, loop=0, optimize=True)


def frame_duration(fps: float) -> int:
    """Milliseconds of one frame: a multiple of 10, and at least 20, below which players slow a film down."""
    return max(20, 10 * round(100 / fps))


def quantize_frames(frames: Sequence[Image.Image]) -> list[Image.Image]:
    """The frames in one palette, made for a sample of them: separate palettes would flicker.

    White stays white: the nearest colour of the palette would look grey on a white page.
    """
    from PIL import Image

    sample = frames[:: math.ceil(len(frames) / 8)]
    width, height = sample[0].size
    sheet = Image.new("RGB", (width, height * len(sample)))
    for i, frame in enumerate(sample):
        sheet.paste(frame, (0, i * height))
    palette = sheet.quantize(NUM_COLOURS, method=Image.Quantize.MAXCOVERAGE)
    if (np.asarray(sheet) == 255).all(axis=2).any():
        colours = np.array(palette.getpalette()).reshape(-1, 3)
        away = 3 * 255 - colours.sum(axis=1)
        colours[away <= max(NEAR_WHITE, away.min())] = 255
        palette.putpalette(colours.ravel().tolist())
    return [frame.quantize(palette=palette, dither=Image.Dither.NONE) for frame in frames]


def write_mp4(frames: Sequence[Image.Image], file: BinaryIO, fps: float, rest: float) -> None:
    """Writes H.264 that every browser plays, one frame at a time."""
    av: Any = importlib.import_module("av")
    width, height = (2 * (side // 2) for side in frames[0].size)  # its colours have half the resolution
    with av.open(file, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=round(fps), options={"crf": "20"})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for frame in itertools.chain(frames, [frames[-1]] * (round(rest * fps) - 1)):
            picture = av.VideoFrame.from_image(frame.crop((0, 0, width, height)))
            container.mux(stream.encode(picture))
        container.mux(stream.encode())


def action_rows(space: Space | SpaceTree, names: Sequence[str], episode: Episode, step: int) -> list[Row]:
    """The policy at a step: the probability or the number of each action. The rows are empty after the last one."""
    parts, is_over = parts_of(space), step >= len(episode.reward)
    actions = [None] * len(parts)
    if not is_over:
        actions = [np.ravel(x[step]) for x in structure_of(space).flatten_up_to(episode.action)]
    chances = None if is_over or episode.probabilities is None else episode.probabilities[step]
    rows = []
    for (place, part), action in zip(parts.items(), actions, strict=True):
        made = chance_rows(part, chances, action) if isinstance(part, Discrete) else value_rows(part, action)
        rows += [
            row._replace(name=names[i] if i < len(names) else f"action{place} {i}")
            for i, row in enumerate(itertools.islice(made, MAX_ROWS))
        ]
    return rows[:MAX_ROWS]


def chance_rows(space: Discrete, chances: np.ndarray | None, action: np.ndarray | None) -> Iterator[Row]:
    """The probability of each action, or if it is taken, for a policy without probabilities."""
    for i in range(space.n):
        is_taken = action is not None and int(action[0]) == i
        chance, text = (float(is_taken), "") if chances is None else (float(chances[i]), f"{chances[i]:.0%}")
        yield Row("", (0.0, chance), text, is_taken)


def value_rows(space: Box | MultiDiscrete, action: np.ndarray | None) -> Iterator[Row]:
    """Each number of an action from its zero, or its nearest bound; without a bar where it has no bounds."""
    bounds = zip(space.low, space.high, strict=True) if isinstance(space, Box) else [(0, n - 1) for n in space.sizes]
    for i, (low, high) in enumerate(bounds):
        value, bar, digits = (None if action is None else action[i].item()), None, ".3g"
        if low < high and math.isfinite(high - low):
            digits = "d" if isinstance(value, int) else f".{max(0, 2 - math.floor(math.log10(high - low)))}f"
            zero, end = (min(max((x - low) / (high - low), 0.0), 1.0) for x in (0.0, value or 0.0))
            bar = zero, end
        yield Row("", bar, "" if value is None else f"{value:{digits}}", is_taken=value is not None)


def compose(scene: Image.Image, step: int, episode_return: float, rows: Sequence[Row]) -> Image.Image:
    """One frame: the scene, as large as it fits, and the panel."""
    from PIL import Image, ImageDraw, ImageOps

    image = Image.new("RGB", SIZE, "white")
    scene = ImageOps.contain(scene.convert("RGB"), SCENE)
    image.paste(scene, ((SCENE[0] - scene.width) // 2, (SCENE[1] - scene.height) // 2))
    pen = ImageDraw.Draw(image)
    pen.text((PANEL[0], 12), f"step {step}", fill=INK, font=font(16))
    pen.text((PANEL[0], 34), f"return {round(episode_return, 3) + 0.0:.6g}", fill=INK, font=font(16))
    pitch = min(32, 194 // max(len(rows), 1))
    for i, row in enumerate(rows):
        draw_row(pen, 68 + i * pitch, row)
    return image


def draw_row(pen: ImageDraw.ImageDraw, top: int, row: Row) -> None:
    """An action: its name and number, dark where it is taken, and its bar below them. top: pixels"""
    left, right = PANEL
    colour = INK if row.is_taken else GREY
    pen.text((left, top), row.name, fill=colour, font=font(12))
    pen.text((right, top), row.text, fill=colour, font=font(12), anchor="ra")
    if row.bar is None:
        return
    pen.rectangle((left, top + 17, right, top + 21), fill=PALE)
    start, end = (left + share * (right - left) for share in sorted(row.bar))
    if end - start >= 0.5:
        pen.rectangle((start, top + 17, end, top + 21), fill=BLUE)
