"""Learning curves and films: the numbers behind the pictures, and what the pictures show."""

import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image, ImageColor
from scipy import stats

from purejaxppo.evaluate import Episode
from purejaxppo.report import curves, film
from purejaxppo.types import PPOError

NAN = math.nan
GIF_SIZE = (480, 270)


def normal(*shape: int) -> np.ndarray:
    return np.random.default_rng(7).normal(size=shape)


def near(image: Image.Image, colour: str, tolerance: int = 12) -> np.ndarray:
    """Where the picture has this colour. -> [height, width] bool"""
    difference = np.asarray(image.convert("RGB"), int) - np.array(ImageColor.getrgb(colour))
    return np.abs(difference).max(axis=-1) <= tolerance


def columns(mask: np.ndarray) -> np.ndarray:
    """The x of every pixel in the mask."""
    return np.nonzero(mask)[1]


def cartpole(x: float = 0.0, theta: float = 0.0, probability: tuple[float, float] | None = (0.5, 0.5)) -> Image.Image:
    chances = None if probability is None else np.array(probability)
    return film.draw_cartpole(np.array([x, 0.0, theta, 0.0]), step=3, episode_return=3.0, probability=chances)


def make_episode(length: int) -> Episode:
    obs = np.zeros((length + 1, 4), np.float32)
    obs[:, 0] = np.linspace(-2, 2, length + 1)
    share = np.linspace(0, 1, length)
    return Episode(obs, np.zeros(length, int), np.arange(1.0, length + 1), np.stack([share, 1 - share], axis=1))


def durations(path: Path) -> list[int]:
    """Milliseconds of each frame of a GIF."""
    with Image.open(path) as gif:
        found = []
        for i in range(getattr(gif, "n_frames", 1)):
            gif.seek(i)
            found.append(gif.info["duration"])
        return found


# The numbers of the curves


@pytest.mark.parametrize("num_seeds", [1, 2, 3, 4, 5, 8, 15, 16, 101])
def test_iqm_is_scipys_trimmed_mean(num_seeds):
    returns = normal(num_seeds, 6)
    np.testing.assert_allclose(curves.iqm_band(returns).iqm, stats.trim_mean(returns, 0.25, axis=0), rtol=1e-12)


def test_seeds_without_an_episode_do_not_count():
    returns = np.array([[NAN, NAN, 1.0], [NAN, 5.0, 2.0], [NAN, NAN, 30.0], [NAN, NAN, NAN]])
    band = curves.iqm_band(returns)
    np.testing.assert_allclose(band.iqm, [NAN, 5.0, 11.0])
    np.testing.assert_array_equal(np.isnan(band.low), [True, True, False])
    np.testing.assert_array_equal(np.isnan(band.high), [True, True, False])


@pytest.mark.parametrize("num_seeds", [2, 5, 16, 100])
def test_band_holds_the_iqm(num_seeds):
    band = curves.iqm_band(normal(num_seeds, 50))
    assert (band.low < band.iqm).all()
    assert (band.iqm < band.high).all()


@pytest.mark.parametrize("num_seeds", [5, 16])
def test_band_is_that_of_a_bootstrap_written_out(num_seeds, monkeypatch):
    monkeypatch.setattr(curves, "NUM_RESAMPLES", 20_000)
    returns = np.random.default_rng(1).exponential(size=(num_seeds, 20))
    picks = np.random.default_rng(2).integers(num_seeds, size=(20_000, num_seeds))
    expected = np.quantile(stats.trim_mean(returns[picks], 0.25, axis=1), [0.025, 0.975], axis=0)
    band = curves.iqm_band(returns)
    width = expected[1] - expected[0]
    # The ends of so many resamples scatter little; an interval of 90% or 99% would be off by a sixth of the width.
    assert np.abs((band.low - expected[0]) / width).mean() < 0.02
    assert np.abs((band.high - expected[1]) / width).mean() < 0.02


def test_band_is_the_same_each_time():
    returns = normal(9, 4)
    np.testing.assert_array_equal(curves.iqm_band(returns).low, curves.iqm_band(returns).low)


def test_equal_seeds_have_a_band_without_width():
    band = curves.iqm_band(np.full((16, 3), 500.0))
    np.testing.assert_allclose([band.low, band.iqm, band.high], 500.0, rtol=1e-12)


def test_carry_forward_fills_from_the_past_alone():
    returns = np.array([[NAN, NAN, 3.0, NAN, NAN, 4.0], [1.0, NAN, 2.0, NAN, 0.0, NAN], [NAN] * 6])
    expected = np.array([[NAN, NAN, 3.0, 3.0, 3.0, 4.0], [1.0, 1.0, 2.0, 2.0, 0.0, 0.0], [NAN] * 6])
    np.testing.assert_array_equal(curves.carry_forward(returns), expected)


@pytest.mark.parametrize("num_updates", [1, 2, 199, 200, 201, 976, 100_000])
def test_thinning_keeps_both_ends(num_updates):
    shown = curves.thin(num_updates)
    assert len(shown) == min(num_updates, 200)
    assert shown[0] == 0
    assert shown[-1] == num_updates - 1
    steps = np.diff(shown)
    assert num_updates == 1 or steps.min() >= max(1, steps.max() - 1)  # evenly


# The picture of the curves


def plot(path: Path, returns: np.ndarray, solved_at: float | None = None) -> Image.Image:
    timesteps = 512 * np.arange(1, returns.shape[1] + 1)
    curves.plot_curves(timesteps, returns, path, title="CartPole-v1", solved_at=solved_at)
    with Image.open(path) as image:
        assert image.format == "PNG"
        return image.convert("RGB")


def test_plot_has_the_size_of_a_column(tmp_path):
    assert plot(tmp_path / "curves.png", normal(4, 30)).size == (700, 500)


def count_band(image: Image.Image) -> int:
    return near(image, "#A6CBE3").sum()  # BLUE at alpha 0.35 on white


def test_several_seeds_have_a_band_and_one_has_none(tmp_path):
    many, one = plot(tmp_path / "many.png", normal(5, 30)), plot(tmp_path / "one.png", normal(1, 30))
    assert count_band(many) > 5_000
    assert count_band(one) < 1_000  # smoothed edges of the line
    assert near(many, curves.BLUE).sum() > 1_000
    assert near(one, curves.BLUE).sum() > 1_000


def test_solved_line_is_drawn_on_request(tmp_path):
    without, with_line = (plot(tmp_path / "a.png", normal(3, 30), solved_at) for solved_at in (None, 1.0))
    assert not near(without, curves.VERMILLION).any()
    rows = np.nonzero(near(with_line, curves.VERMILLION).sum(axis=1) > 200)[0]
    assert 1 <= len(rows) <= 4  # one thin line across


@pytest.mark.parametrize("num_seeds", [1, 3])
def test_single_update_shows(tmp_path, num_seeds):
    image = plot(tmp_path / "a.png", np.arange(20.0, 20 + num_seeds)[:, None])
    assert near(image, curves.BLUE).sum(axis=1).max() > 400  # a line over most of the width


def test_no_finished_episode_is_no_error(tmp_path):
    image = plot(tmp_path / "a.png", np.full((3, 5), NAN))
    assert near(image, "#000000").sum() > near(plot(tmp_path / "b.png", np.zeros((3, 5))), "#000000").sum()


def test_first_seeds_stand_for_thousands(tmp_path):
    plot(tmp_path / "a.png", normal(2_000, 300))
    figure = Figure()
    axes = figure.add_subplot()
    curves.draw_seeds(axes, np.arange(3), normal(2_000, 3))
    (lines,) = axes.collections
    assert len(lines.get_paths()) == curves.MAX_SEED_LINES
    assert lines.get_label() == f"first {curves.MAX_SEED_LINES} seeds"


def test_axes_say_what_they_show():
    figure = Figure()
    canvas = FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.plot([0, 499_712], [0, 1], label="line")
    curves.style_axes(axes, 499_712, "CartPole-v1")
    canvas.draw()
    labels = [tick.label1.get_text() for tick in axes.xaxis.get_major_ticks() if tick.get_loc() <= axes.get_xlim()[1]]
    assert labels == ["0", "100k", "200k", "300k", "400k", "500k"]
    assert axes.get_xlabel() == "environment steps"
    assert axes.get_ylabel() == "return of training episodes"
    assert axes.get_title(loc="left") == "CartPole-v1"
    assert [side for side, spine in axes.spines.items() if spine.get_visible()] == ["left", "bottom"]


@pytest.mark.parametrize(("timesteps", "returns"), [((3,), (2, 4)), ((3,), (3,)), ((0,), (2, 0)), ((3,), (0, 3))])
def test_shapes_that_disagree_are_refused(tmp_path, timesteps, returns):
    with pytest.raises(PPOError, match="have to be"):
        curves.plot_curves(np.zeros(timesteps), np.zeros(returns), tmp_path / "a.png", title="")
    assert not list(tmp_path.iterdir())


def test_plotting_leaves_matplotlibs_global_state_alone(tmp_path):
    program = f"""
import sys
import numpy as np
import matplotlib
from purejaxppo.report import plot_curves

def settings():  # to read the backend would import pyplot
    return {{name: matplotlib.rcParams[name] for name in matplotlib.rcParams if name != "backend"}}

before = settings()
plot_curves(np.arange(3), np.ones((2, 3)), {str(tmp_path / "a.png")!r}, title="")
assert settings() == before
print("matplotlib.pyplot" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.strip() == "False"
    assert (tmp_path / "a.png").exists()


def test_importing_the_report_does_not_load_matplotlib():
    program = "import sys, purejaxppo.report; print('matplotlib' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.strip() == "False"


# Files


def half_written(*args, **_):
    """A writer that fails on the way, wherever it is given the file."""
    file = next(arg for arg in args if hasattr(arg, "write"))
    file.write(b"half")
    raise OSError("disk full")


def test_failing_plot_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "curves.png"
    path.write_bytes(b"old")
    monkeypatch.setattr(FigureCanvasAgg, "print_png", half_written)
    with pytest.raises(OSError, match="disk full"):
        plot(path, normal(2, 3))
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_failing_film_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "after.gif"
    path.write_bytes(b"old")
    monkeypatch.setattr(Image.Image, "save", half_written)
    with pytest.raises(OSError, match="disk full"):
        film.write_film([cartpole()], path)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_pictures_replace_old_ones_and_leave_nothing_beside_them(tmp_path):
    png, gif = tmp_path / "curves.png", tmp_path / "after.gif"
    for path in (png, gif):
        path.write_bytes(b"old")
    plot(png, normal(2, 3))
    film.film_episode("CartPole-v1", make_episode(3), gif)
    assert png.read_bytes().startswith(b"\x89PNG")
    assert gif.read_bytes().startswith(b"GIF89a")
    assert sorted(tmp_path.iterdir()) == [gif, png]


# Films


def test_film_loops_at_its_rate_and_rests_on_the_last_frame(tmp_path):
    path = tmp_path / "a.gif"
    film.write_film([cartpole(x=0.1 * i) for i in range(12)], path, fps=25, rest=1.0)
    assert durations(path) == [40] * 11 + [1000]
    with Image.open(path) as gif:
        assert gif.size == GIF_SIZE
        assert gif.info["loop"] == 0  # for ever


def test_film_of_one_frame(tmp_path):
    film.write_film([cartpole()], tmp_path / "a.gif", rest=1.0)
    with Image.open(tmp_path / "a.gif") as gif:
        assert gif.size == GIF_SIZE


def test_film_without_frames_is_refused(tmp_path):
    with pytest.raises(PPOError, match="at least one frame"):
        film.write_film([], tmp_path / "a.gif")


@pytest.mark.parametrize(("fps", "milliseconds"), [(50, 20), (25, 40), (30, 30), (10, 100), (60, 20), (1_000, 20)])
def test_frame_duration_is_one_that_a_gif_can_hold(fps, milliseconds):
    assert film.frame_duration(fps) == milliseconds


def test_film_shows_the_frames_as_they_were_drawn(tmp_path):
    frames = [cartpole(x=0.1 * i, theta=0.02 * i, probability=(i / 20, 1 - i / 20)) for i in range(20)]
    film.write_film(frames, tmp_path / "a.gif")
    seen: set[tuple[int, ...]] = set()
    with Image.open(tmp_path / "a.gif") as gif:
        for i, frame in enumerate(frames):
            gif.seek(i)
            shown = np.asarray(gif.convert("RGB"), int)
            assert np.abs(shown - np.asarray(frame, int)).max() < 40  # shades of smoothed edges
            seen |= set(map(tuple, shown.reshape(-1, 3).tolist()))
    assert len(seen) <= film.NUM_COLOURS


@pytest.mark.parametrize(
    ("length", "every", "max_frames", "steps"),
    [(7, 2, 600, [0, 2, 4, 6, 7]), (4, 2, 600, [0, 2, 4]), (3, 1, 600, [0, 1, 2, 3]), (9, 3, 2, [0, 3])],
)
def test_film_takes_every_few_steps_and_the_end(tmp_path, monkeypatch, length, every, max_frames, steps):
    drawn = []

    def draw(obs, **shown):
        drawn.append((obs, shown))
        return film.draw_cartpole(obs, **shown)

    monkeypatch.setitem(film.DRAWINGS, "CartPole-v1", draw)
    episode, path = make_episode(length), tmp_path / "a.gif"
    film.film_episode("CartPole-v1", episode, path, every=every, max_frames=max_frames)
    assert [shown["step"] for _, shown in drawn] == steps
    assert [shown["episode_return"] for _, shown in drawn] == [sum(range(1, step + 1)) for step in steps]
    for (obs, shown), step in zip(drawn, steps, strict=True):
        np.testing.assert_array_equal(obs, episode.obs[step])
        if step < length:
            np.testing.assert_array_equal(shown["probability"], episode.probabilities[step])
        else:
            assert shown["probability"] is None
    assert durations(path) == [20 * every] * (len(steps) - 1) + [1000]


def test_environment_without_a_drawing_is_refused(tmp_path):
    assert film.has_drawing("CartPole-v0")
    assert film.has_drawing("CartPole-v1")
    assert not film.has_drawing("MyMaze")
    with pytest.raises(PPOError, match=r"MyMaze has no drawing.*CartPole-v0, CartPole-v1"):
        film.film_episode("MyMaze", make_episode(3), tmp_path / "a.gif")
    assert not list(tmp_path.iterdir())


# The drawing of CartPole


def cart_centre(image: Image.Image) -> float:
    """The middle of the cart in pixels, from its row of darkest pixels."""
    dark = near(image, film.INK)
    row = dark[image.height // 3 :].sum(axis=1).argmax() + image.height // 3
    return float(np.nonzero(dark[row])[0].mean())


@pytest.mark.parametrize("x", [-2.4, -1.0, 0.0, 0.7, 2.4])
def test_cart_stands_at_x(x):
    assert cart_centre(cartpole(x)) == pytest.approx(240 + x * 480 / (2 * film.X_SHOWN), abs=1)


def test_track_ends_at_the_limits():
    track = columns(near(cartpole(), film.GREY, tolerance=30)[150:215])
    scale = 480 / (2 * film.X_SHOWN)
    assert track.min() == pytest.approx(240 - 2.4 * scale, abs=2)
    assert track.max() == pytest.approx(240 + 2.4 * scale, abs=2)


def pole_area(image: Image.Image) -> float:
    """Pixels, the smoothed edges in part: of all that is drawn, the pole alone has more red than blue."""
    pixels = np.asarray(image, int)
    red, _, blue = ImageColor.getrgb(film.VERMILLION)[:3]
    return float(np.clip(pixels[..., 0] - pixels[..., 2], 0, None).sum() / (red - blue))


@pytest.mark.parametrize("theta", [-1.2, -0.2, -0.05, 0.0, 0.05, 0.2, 1.2])
@pytest.mark.parametrize("x", [-1.0, 0.5])
def test_pole_leans_to_the_right_at_a_positive_angle(x, theta):
    image = cartpole(x, theta)
    y, pole = np.nonzero(near(image, film.VERMILLION))
    top = y.min()
    tip = pole[y == top].mean()
    # The principal axis of the pole's pixels is its direction.
    eigenvectors = np.linalg.eigh(np.cov(pole, -y))[1]
    across, up = eigenvectors[:, 1] * np.sign(eigenvectors[1, 1])
    assert math.atan2(across, up) == pytest.approx(theta, abs=0.01)
    assert np.sign(round(tip - cart_centre(image))) == np.sign(theta)
    expected = film.POLE[0] * film.POLE[1] * (480 / (2 * film.X_SHOWN)) ** 2
    assert pole_area(image) == pytest.approx(expected, rel=0.06)  # turned, not skewed


def bar(image: Image.Image) -> tuple[int, int]:
    """Blue pixels to the left and to the right of the bar's middle."""
    blue = columns(near(image, film.BLUE, tolerance=3)[22:23])
    middle = 0.8 * image.width
    return int((blue < middle).sum()), int((blue > middle).sum())


@pytest.mark.parametrize("probability", [(1.0, 0.0), (0.75, 0.25), (0.5, 0.5), (0.1, 0.9), (0.0, 1.0)])
def test_bar_shows_the_probability_of_each_push(probability):
    assert bar(cartpole(probability=probability)) == pytest.approx([72 * share for share in probability], abs=2)


def test_bar_is_empty_after_the_last_action():
    assert bar(cartpole(probability=None)) == (0, 0)


def test_text_follows_step_and_return():
    obs, chances = np.zeros(4), np.array([0.5, 0.5])
    one, two, three = (
        np.asarray(film.draw_cartpole(obs, step=step, episode_return=total, probability=chances))
        for step, total in ((1, 1.0), (2, 1.0), (1, 2.0))
    )
    step_columns = np.nonzero((one != two).any(axis=(0, 2)))[0]
    return_columns = np.nonzero((one != three).any(axis=(0, 2)))[0]
    assert 24 < step_columns.min() <= step_columns.max() < 120 < return_columns.min() <= return_columns.max() < 300


def test_drawing_is_pure():
    first = cartpole(x=1.0, theta=0.1)
    cartpole(x=-1.0, theta=-0.1)
    assert first == cartpole(x=1.0, theta=0.1)


def test_edges_are_smooth():
    row = np.asarray(cartpole(theta=0.1), int)[120]  # across the pole alone
    red, green, _ = ImageColor.getrgb(film.VERMILLION)[:3]
    assert (row[:, 1] == green).any()
    assert ((row[:, 1] > green + 10) & (row[:, 1] < 245) & (row[:, 0] > red - 1)).any()


@pytest.mark.parametrize("size", [(240, 135), (960, 540), (300, 300)])
def test_drawing_scales(size):
    image = film.draw_cartpole(
        np.array([1.0, 0, 0.1, 0]), step=1, episode_return=1.0, probability=np.array([0.2, 0.8]), size=size
    )
    assert image.size == size
    assert cart_centre(image) == pytest.approx(size[0] / 2 + size[0] / (2 * film.X_SHOWN), abs=1.5)
