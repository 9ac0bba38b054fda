"""Learning curves and films: the numbers behind the pictures, and what the pictures show."""

import math
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image, ImageColor
from scipy import stats

import purejaxppo as pjp
from purejaxppo.envs.spaces import settle_space
from purejaxppo.population.statistics import iqm
from purejaxppo.ppo.evaluate import Episode
from purejaxppo.report import canvas, charts, curves, drawings, film, grids, plots
from purejaxppo.report.drawings import PICTURES, find_picture
from purejaxppo.utils.errors import NotWritten, PPOError

NAN = math.nan
GIF_SIZE = (480, 270)
CARTPOLE = SimpleNamespace(x_threshold=2.4, length=0.5)
SCALE = 340 / 5.8  # pixels of a metre of CartPole


def normal(*shape: int) -> np.ndarray:
    return np.random.default_rng(7).normal(size=shape)


def near(image: Image.Image, colour: str, tolerance: int = 12) -> np.ndarray:
    """Where the picture has this colour. -> [height, width] bool"""
    difference = np.asarray(image.convert("RGB"), int) - np.array(ImageColor.getrgb(colour))
    return np.abs(difference).max(axis=-1) <= tolerance


def columns(mask: np.ndarray) -> np.ndarray:
    """The x of every pixel in the mask."""
    return np.nonzero(mask)[1]


def cartpole(x: float = 0.0, theta: float = 0.0, params=CARTPOLE) -> Image.Image:
    return drawings.draw_cartpole(np.array([x, 0.0, theta, 0.0]), None, params)


def frame(x: float = 0.0, theta: float = 0.0, chances=(0.5, 0.5), step: int = 3, total: float = 3.0) -> Image.Image:
    episode = Episode(np.zeros((2, 4)), np.zeros(1, int), np.ones(1), np.array([chances or (0.5, 0.5)]))
    rows = film.action_rows(pjp.Discrete(2), ("left", "right"), episode, 1 if chances is None else 0)
    return film.compose(cartpole(x, theta), step, total, rows)


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
    assert iqm(returns[:, 0]) == stats.trim_mean(returns[:, 0], 0.25)
    assert np.isnan(iqm(np.array([])))


def test_seeds_without_an_episode_do_not_count():
    returns = np.array([[NAN, NAN, 1.0], [NAN, 5.0, 2.0], [NAN, NAN, 30.0], [NAN, NAN, NAN]])
    band = curves.iqm_band(returns)
    np.testing.assert_allclose(band.iqm, [NAN, 5.0, 11.0])
    np.testing.assert_array_equal(np.isnan(band.low), [True, True, False])
    np.testing.assert_array_equal(np.isnan(band.high), [True, True, False])


@pytest.mark.parametrize("num_seeds", [5, 16])
def test_band_is_that_of_a_bootstrap_written_out(num_seeds, monkeypatch):
    monkeypatch.setattr(curves, "NUM_RESAMPLES", 20_000)
    returns = np.random.default_rng(1).exponential(size=(num_seeds, 20))
    picks = np.random.default_rng(2).integers(num_seeds, size=(20_000, num_seeds))
    expected = np.quantile(stats.trim_mean(returns[picks], 0.25, axis=1), [0.025, 0.975], axis=0)
    band = curves.iqm_band(returns)
    assert (band.low < band.iqm).all()
    assert (band.iqm < band.high).all()
    width = expected[1] - expected[0]
    # The ends of so many resamples scatter little; an interval of 90% or 99% would be off by a sixth of the width.
    assert np.abs((band.low - expected[0]) / width).mean() < 0.02
    assert np.abs((band.high - expected[1]) / width).mean() < 0.02


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
    plots.plot_curves(timesteps, returns, path, title="CartPole-v1", solved_at=solved_at)
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
    assert near(many, canvas.BLUE).sum() > 1_000
    assert near(one, canvas.BLUE).sum() > 1_000


def test_solved_line_is_drawn_on_request(tmp_path):
    without, with_line = (plot(tmp_path / "a.png", normal(3, 30), solved_at) for solved_at in (None, 1.0))
    assert not near(without, canvas.VERMILLION).any()
    rows = np.nonzero(near(with_line, canvas.VERMILLION).sum(axis=1) > 200)[0]
    assert 1 <= len(rows) <= 4  # one thin line across


@pytest.mark.parametrize("num_seeds", [1, 3])
def test_single_update_shows(tmp_path, num_seeds):
    image = plot(tmp_path / "a.png", np.arange(20.0, 20 + num_seeds)[:, None])
    assert near(image, canvas.BLUE).sum(axis=1).max() > 400  # a line over most of the width


@pytest.fixture
def draw(monkeypatch):
    """Draws a chart of one setting, and gives its axes."""
    figures = []
    monkeypatch.setattr(plots, "write_figure", lambda figure, path: figures.append(figure))

    def call(returns):
        timesteps = 512 * np.arange(1, returns.shape[1] + 1)
        plots.plot_curves(timesteps, returns, "a.png", title="CartPole-v1")
        FigureCanvasAgg(figures[-1]).draw()
        return figures[-1].axes[0]

    return call


def test_first_seeds_stand_for_thousands(draw):
    axes = draw(normal(2_000, 300))
    lines = next(each for each in axes.collections if each.get_label() == f"first {plots.MAX_SEED_LINES} seeds")
    assert len(lines.get_paths()) == plots.MAX_SEED_LINES
    view = charts.returns_view([("", curves.make_curve(np.arange(300), normal(2_000, 300)))], None)
    assert len(view["lines"]) == charts.SEED_LINES


def test_no_finished_episode_is_no_error(draw):
    assert [text.get_text() for text in draw(np.full((3, 5), NAN)).texts] == ["no episode has finished"]
    assert not draw(np.zeros((3, 5))).texts


def test_axes_say_what_they_show(draw):
    axes = draw(normal(3, 976))
    labels = [tick.label1.get_text() for tick in axes.xaxis.get_major_ticks() if tick.get_loc() <= axes.get_xlim()[1]]
    assert labels == ["0", "100k", "200k", "300k", "400k", "500k"]
    assert axes.get_xlabel() == "environment steps"
    assert axes.get_ylabel() == "return of training episodes"
    assert axes.get_title(loc="left") == "CartPole-v1"
    assert [side for side, spine in axes.spines.items() if spine.get_visible()] == ["left", "bottom"]
    legend = [text.get_text() for text in axes.get_legend().get_texts()]
    assert legend == ["IQM of 3 seeds", "95% interval", "single seeds"]


@pytest.mark.parametrize(("timesteps", "returns"), [((3,), (2, 4)), ((3,), (3,)), ((0,), (2, 0)), ((3,), (0, 3))])
def test_shapes_that_disagree_are_refused(tmp_path, timesteps, returns):
    with pytest.raises(PPOError, match="have to be"):
        plots.plot_curves(np.zeros(timesteps), np.zeros(returns), tmp_path / "a.png", title="")
    assert not list(tmp_path.iterdir())


def test_importing_loads_no_matplotlib_and_plotting_leaves_its_global_state_alone(tmp_path):
    program = f"""
import sys
import numpy as np
from purejaxppo.report import plot_curves, plot_sweep
print("matplotlib" in sys.modules)
import matplotlib

def settings():  # to read the backend would import pyplot
    return {{name: matplotlib.rcParams[name] for name in matplotlib.rcParams if name != "backend"}}

before = settings()
plot_curves(np.arange(3), np.ones((2, 3)), {str(tmp_path / "a.png")!r}, title="")
plot_sweep([{{"a": 1, "b": 1}}, {{"a": 2, "b": 3}}], [[1.0], [2.0]], {str(tmp_path / "b.png")!r}, title="")
assert settings() == before
print("matplotlib.pyplot" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.split() == ["False", "False"]


# Files


def half_written(*args, **_):
    """A writer that fails on the way, wherever it is given the file."""
    file = next(arg for arg in args if hasattr(arg, "write"))
    file.write(b"half")
    raise OSError("disk full")


def test_failing_plot_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "curves.png"
    path.write_bytes(b"old")
    monkeypatch.setattr(Figure, "savefig", half_written)
    with pytest.raises(NotWritten, match="disk full"):
        plot(path, normal(2, 3))
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_failing_film_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "after.gif"
    path.write_bytes(b"old")
    monkeypatch.setattr(Image.Image, "save", half_written)
    with pytest.raises(NotWritten, match="disk full"):
        film.write_film([frame()], path)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_pictures_replace_old_ones_and_leave_nothing_beside_them(tmp_path):
    png, gif = tmp_path / "curves.png", tmp_path / "after.gif"
    for path in (png, gif):
        path.write_bytes(b"old")
    plot(png, normal(2, 3))
    film.film_episode(pjp.make_env("CartPole-v1"), make_episode(3), gif)
    assert png.read_bytes().startswith(b"\x89PNG")
    assert gif.read_bytes().startswith(b"GIF89a")
    assert sorted(tmp_path.iterdir()) == [gif, png]


# Films


def test_film_loops_at_its_rate_and_rests_on_the_last_frame(tmp_path):
    path = tmp_path / "a.gif"
    film.write_film([frame(x=0.1 * i) for i in range(12)], path, fps=25, rest=1.0)
    assert durations(path) == [40] * 11 + [1000]
    with Image.open(path) as gif:
        assert gif.size == GIF_SIZE
        assert gif.info["loop"] == 0  # for ever


def test_film_without_frames_is_refused(tmp_path):
    with pytest.raises(PPOError, match="at least one frame"):
        film.write_film([], tmp_path / "a.gif")


@pytest.mark.parametrize("name", ["a.webm", "a", "a.GIF"])
def test_film_of_another_kind_is_refused(tmp_path, name):
    with pytest.raises(PPOError, match=r"\.gif or \.mp4"):
        film.write_film([frame()], tmp_path / name)


def test_mp4_without_its_encoder_names_the_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "av", None)  # import av fails
    with pytest.raises(PPOError, match=r"purejaxppo\[video\]"):
        film.write_film([frame()], tmp_path / "a.mp4")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("draw", "said"),
    [
        (lambda *_: [][0], r"CartPole-v1: draw raises IndexError: .* \(test_report.py, line"),
        (lambda *_: "a cart", "CartPole-v1: draw returns a str; return a PIL image"),
    ],
)
def test_a_drawing_that_fails_is_told_in_one_line(tmp_path, draw, said):
    env, zeros = pjp.make_env("CartPole-v1").replace(draw=draw), np.zeros((2, 4))
    episode = Episode(zeros, np.zeros(1, int), np.ones(1), None, state=zeros)
    with pytest.raises(PPOError, match=said):
        film.film_episode(env, episode, tmp_path / "a.gif")
    assert not list(tmp_path.iterdir())


def test_bounds_too_wide_for_a_float_have_no_bar():
    (row,) = film.value_rows(pjp.Box((1,), -1e308, 1e308), np.ones(1, np.float32))
    assert (row.bar, row.text) == (None, "1")


def test_mp4_shows_the_frames_in_order(tmp_path):
    av = pytest.importorskip("av")
    frames = [frame(x=0.2 * i - 1) for i in range(10)]
    film.write_film(frames, tmp_path / "a.mp4", fps=25, rest=0.2)
    with av.open(str(tmp_path / "a.mp4")) as container:
        stream = container.streams.video[0]
        assert (stream.codec_context.name, stream.average_rate, stream.codec_context.pix_fmt) == ("h264", 25, "yuv420p")
        shown = [picture.to_image() for picture in container.decode(stream)]
    assert len(shown) == 10 + 4  # the last one stays for 0.2 s
    for seen, drawn in zip(shown, [*frames, *[frames[-1]] * 4], strict=True):
        assert np.abs(np.asarray(seen, int) - np.asarray(drawn, int)).mean() < 2
        assert cart_centre(seen.crop((0, 0, *canvas.SCENE))) == pytest.approx(cart_centre(drawn), abs=1.5)


@pytest.mark.parametrize(("fps", "milliseconds"), [(50, 20), (25, 40), (30, 30), (10, 100), (60, 20), (1_000, 20)])
def test_frame_duration_is_one_that_a_gif_can_hold(fps, milliseconds):
    assert film.frame_duration(fps) == milliseconds


def test_film_shows_the_frames_as_they_were_drawn(tmp_path):
    frames = [frame(x=0.1 * i, theta=0.02 * i, chances=(i / 20, 1 - i / 20)) for i in range(20)]
    film.write_film(frames, tmp_path / "a.gif")
    seen: set[tuple[int, ...]] = set()
    with Image.open(tmp_path / "a.gif") as gif:
        for i, drawn in enumerate(frames):
            gif.seek(i)
            shown = np.asarray(gif.convert("RGB"), int)
            assert np.abs(shown - np.asarray(drawn, int)).max() < 40  # shades of smoothed edges
            seen |= set(map(tuple, shown.reshape(-1, 3).tolist()))
    assert len(seen) <= film.NUM_COLOURS


@pytest.mark.parametrize("ground", [(255, 255, 255), (240, 240, 240)])
def test_white_stays_white_and_what_is_not_white_is_not_made_so(tmp_path, ground):
    random = np.random.default_rng(0)
    noise = random.integers(228, 254, size=(270, 100, 3), dtype=np.uint8)  # of which a palette makes means
    drawn = np.full((270, 480, 3), ground, np.uint8)
    if ground == (255, 255, 255):
        drawn[:, :100] = noise
    film.write_film([Image.fromarray(drawn)] * 2, tmp_path / "a.gif")
    with Image.open(tmp_path / "a.gif") as gif:
        shown = np.asarray(gif.convert("RGB"))
    assert (shown[:, 100:] == 255).all() == (ground == (255, 255, 255))


@pytest.mark.parametrize("name", ["Catch-bsuite", "FourRooms-misc"])
def test_the_films_of_grids_have_the_ground_of_a_page(tmp_path, name):
    env = pjp.make_env(name)
    obs, state = jax.device_get(env.reset(jax.random.key(0), env.params))
    scene = PICTURES[name].draw(obs, state, env.params)
    film.write_film([film.compose(scene, i, 0.0, []) for i in range(3)], tmp_path / "a.gif")
    with Image.open(tmp_path / "a.gif") as gif:
        shown = np.asarray(gif.convert("RGB"))
    white = (np.asarray(film.compose(scene, 0, 0.0, [])) == 255).all(axis=2)
    assert (shown[white] == 255).all()


@pytest.mark.parametrize(
    ("length", "every", "max_frames", "steps"),
    [(7, 2, 600, [0, 2, 4, 6, 7]), (4, 2, 600, [0, 2, 4]), (3, 1, 600, [0, 1, 2, 3]), (9, 3, 2, [0, 3])],
)
def test_film_takes_every_few_steps_and_the_end(tmp_path, monkeypatch, length, every, max_frames, steps):
    drawn, composed = {}, {}
    compose = film.compose

    def draw(obs, state, params):
        assert params is env.params
        drawn[int(state)] = obs
        return cartpole()

    def keep(scene, step, total, rows):
        composed[step] = total, [row.text for row in rows]
        return compose(scene, step, total, rows)

    monkeypatch.setattr(film, "compose", keep)
    env = pjp.make_env("CartPole-v1").replace(draw=draw)
    episode, path = make_episode(length)._replace(state=np.arange(length + 1)), tmp_path / "a.gif"
    film.film_episode(env, episode, path, every=every, max_frames=max_frames)
    assert sorted(drawn) == sorted(composed) == steps
    for step in steps:
        np.testing.assert_array_equal(drawn[step], episode.obs[step])
        chances = ["", ""] if step == length else [f"{share:.0%}" for share in episode.probabilities[step]]
        assert composed[step] == (sum(range(1, step + 1)), chances)
    assert durations(path) == [50 * every] * (len(steps) - 1) + [1000]


# The panel


def bars(image: Image.Image) -> list[int]:
    """Blue pixels of each bar, from the top."""
    blue = near(image, canvas.BLUE, tolerance=3)[:, film.PANEL[0] :].sum(axis=1)
    return [int(blue[68 + i * 32 + 19]) for i in range(2)]


@pytest.mark.parametrize("chances", [(1.0, 0.0), (0.75, 0.25), (0.5, 0.5), (0.1, 0.9), (0.0, 1.0)])
def test_bars_show_the_probability_of_each_action(chances):
    assert bars(frame(chances=chances)) == pytest.approx([122 * share for share in chances], abs=2)


def test_bars_are_empty_after_the_last_action():
    assert bars(frame(chances=None)) == [0, 0]


def test_panel_names_the_numbers_of_a_continuous_action():
    space = pjp.Box((2,), (-2.0, -math.inf), (2.0, math.inf))
    episode = Episode(np.zeros((2, 1)), np.array([[1.0, -3.0]]), np.ones(1), None)
    torque, other = film.action_rows(space, ("torque",), episode, 0)
    assert torque == film.Row("torque", (0.5, 0.75), "1.00", True)
    assert other == film.Row("action 1", None, "-3", True)
    assert [row.text for row in film.action_rows(space, (), episode, 1)] == ["", ""]


def test_panel_shows_what_several_discrete_actions_are():
    episode = Episode(np.zeros((2, 1)), np.array([[1, 4]]), np.ones(1), None)
    rows = film.action_rows(pjp.MultiDiscrete((3, 5)), (), episode, 0)
    assert rows == [film.Row("action 0", (0.0, 0.5), "1", True), film.Row("action 1", (0.0, 1.0), "4", True)]


def test_the_parts_of_an_action_have_their_rows_by_name():
    space = settle_space("action_space", {"turn": pjp.Discrete(2), "push": pjp.Box((1,), (-1.0,), (1.0,))})
    action = {"turn": np.array([1]), "push": np.array([[0.5]], np.float32)}
    episode = Episode(np.zeros((2, 1)), action, np.ones(1), None)
    rows = film.action_rows(space, (), episode, 0)
    assert [row.name for row in rows] == ["action['push'] 0", "action['turn'] 0", "action['turn'] 1"]
    assert [row.text for row in rows] == ["0.50", "", ""]
    assert [row.is_taken for row in rows] == [True, False, True]
    assert not any(row.is_taken for row in film.action_rows(space, (), episode, 1))


def test_panel_has_room_for_so_many_actions():
    episode = Episode(np.zeros((2, 1)), np.zeros(1, int), np.ones(1), np.full((1, 30), 1 / 30))
    rows = film.action_rows(pjp.Discrete(30), (), episode, 0)
    assert len(rows) == film.MAX_ROWS
    image = film.compose(cartpole(), 0, 0.0, rows)
    assert near(image, "white")[-3:].all()


def test_text_follows_step_and_return():
    one, two, three = (np.asarray(frame(step=step, total=total)) for step, total in ((1, 1.0), (2, 1.0), (1, 2.0)))
    step_rows, return_rows = (np.nonzero((one != other).any(axis=(1, 2)))[0] for other in (two, three))
    assert 10 < step_rows.min() <= step_rows.max() < 32 < return_rows.min() <= return_rows.max() < 56


# The drawing of CartPole


def cart_centre(image: Image.Image) -> float:
    """The middle of the cart in pixels, from its row of darkest pixels."""
    dark = near(image, canvas.INK, tolerance=40)[:, : canvas.SCENE[0]]
    row = dark[image.height // 3 :].sum(axis=1).argmax() + image.height // 3
    return float(np.nonzero(dark[row])[0].mean())


@pytest.mark.parametrize("x", [-2.4, -1.0, 0.0, 0.7, 2.4])
def test_cart_stands_at_x(x):
    assert cart_centre(cartpole(x)) == pytest.approx(170 + x * SCALE, abs=1)


def test_track_ends_at_the_limits():
    wide = cartpole(params=SimpleNamespace(x_threshold=4.0, length=0.5))
    for image, limit, scale in ((cartpole(), 2.4, SCALE), (wide, 4.0, 340 / 9)):
        line = near(image, canvas.GREY, tolerance=30)
        track = np.nonzero(line[line.sum(axis=1).argmax()])[0]
        assert track.min() == pytest.approx(170 - limit * scale, abs=2)
        assert track.max() == pytest.approx(170 + limit * scale, abs=2)


def pole_area(image: Image.Image) -> float:
    """Pixels, the smoothed edges in part: of all that is drawn, the pole alone has more red than blue."""
    pixels = np.asarray(image, int)
    red, _, blue = ImageColor.getrgb(canvas.VERMILLION)[:3]
    return float(np.clip(pixels[..., 0] - pixels[..., 2], 0, None).sum() / (red - blue))


@pytest.mark.parametrize("theta", [-1.2, -0.2, -0.05, 0.0, 0.05, 0.2, 1.2])
@pytest.mark.parametrize(("x", "length"), [(-1.0, 0.5), (0.5, 0.5), (0.5, 0.7)])
def test_pole_leans_to_the_right_at_a_positive_angle(x, length, theta):
    image = cartpole(x, theta, SimpleNamespace(x_threshold=2.4, length=length))
    y, pole = np.nonzero(near(image, canvas.VERMILLION))
    top = y.min()
    tip = pole[y == top].mean()
    # The principal axis of the pole's pixels is its direction.
    eigenvectors = np.linalg.eigh(np.cov(pole, -y))[1]
    across, up = eigenvectors[:, 1] * np.sign(eigenvectors[1, 1])
    assert math.atan2(across, up) == pytest.approx(theta, abs=0.03)
    assert np.sign(round(tip - cart_centre(image))) == np.sign(theta)
    expected = 2 * length * drawings.ROD * SCALE**2
    assert pole_area(image) == pytest.approx(expected, rel=0.08)  # turned, not skewed


def test_edges_are_smooth():
    pixels = np.asarray(cartpole(theta=0.3), int)
    red, green, _ = ImageColor.getrgb(canvas.VERMILLION)[:3]
    assert (pixels[..., 1] == green).any()
    assert ((pixels[..., 1] > green + 10) & (pixels[..., 1] < 245) & (pixels[..., 0] > red - 1)).any()


# The other drawings


def discs(image: Image.Image, colour: str) -> np.ndarray:
    """The middle of all that has this colour, in pixels: x, y."""
    y, x = np.nonzero(near(image, colour)[:, : canvas.SCENE[0]])
    return np.array([x.mean(), y.mean()])


@pytest.mark.parametrize("angle", [0.0, 1.0, -2.0, 3.1])
def test_pendulum_is_where_its_angle_says(angle):
    image = drawings.draw_pendulum(np.array([math.cos(angle), math.sin(angle), 0.0]), None, SimpleNamespace(l=1.0))
    x, y = discs(image, canvas.VERMILLION) - (170, 135)  # the rod's middle, from the hinge; left is positive
    assert math.atan2(-x, -y) == pytest.approx(angle, abs=0.05)


def test_acrobot_reaches_the_goal_line_exactly_when_it_has_solved_its_task():
    params = SimpleNamespace(link_length_1=1.0, link_length_2=1.0)
    for first, second in ((0.0, 0.0), (math.pi, 0.0), (math.pi / 2, math.pi / 2 + 0.6), (2.0, 0.6)):
        obs = np.array([math.cos(first), math.sin(first), math.cos(second), math.sin(second), 0, 0])
        image = drawings.draw_acrobot(obs, None, params)
        highest = np.nonzero(near(image, canvas.VERMILLION))[0].min()
        line = near(image, canvas.GREY).sum(axis=1).argmax()
        solved = -math.cos(first) - math.cos(first + second) > 1
        assert (highest < line) == solved


def test_mountain_car_stands_on_its_hill():
    params = SimpleNamespace(min_position=-1.2, max_position=0.6, goal_position=0.5)
    low, high, end = (
        discs(drawings.draw_mountain_car(np.array([x, 0.0]), None, params), canvas.VERMILLION)
        for x in (-math.pi / 6, -1.1, 0.5)
    )
    assert high[0] < low[0] < end[0]
    assert end[1] < high[1] < low[1]  # rows count from the top


def test_a_grid_has_each_thing_in_its_cell():
    grid = np.zeros((4, 4, 2))
    grid[0, 0, 0] = grid[3, 2, 1] = 1
    layers = [grids.Layer("a", 0, canvas.BLUE), grids.Layer("b", 1, canvas.VERMILLION, is_round=True)]
    image = grids.draw_grid(grid, layers).crop((0, 0, 256, 270))
    side = 340 / (4 * (1 + 0.33 + 0.06))
    corner = np.array([0.02 * 4 * side, 135 - 2 * side])
    np.testing.assert_allclose(discs(image, canvas.BLUE), corner + 0.5 * side, atol=2)
    np.testing.assert_allclose(discs(image, canvas.VERMILLION), corner + np.array([2.5, 3.5]) * side, atol=2)


def test_walls_are_those_of_the_environments():
    from gymnax.environments.misc import rooms

    np.testing.assert_array_equal(grids.four_rooms_walls(), ~np.asarray(rooms.FourRooms().env_map, bool))


def test_every_picture_can_be_drawn():
    for name, picture in PICTURES.items():
        env = pjp.make_env(name)
        obs, state = jax.device_get(env.reset(jax.random.key(0), env.params))
        image = picture.draw(obs, state, env.params)
        assert image.size == canvas.SCENE
        assert np.asarray(image.convert("L")).std() > 3, name
        wanted = env.action_space.n if isinstance(env.action_space, pjp.Discrete) else env.action_space.shape[0]
        assert len(picture.actions) in (0, wanted)
        assert find_picture(env) == picture


def test_a_map_that_we_do_not_know_is_not_drawn():
    from gymnax.environments.misc.frozen_lake import FrozenLake

    assert find_picture(pjp.make_env(FrozenLake(map_name="8x8"))) is None


class Maze:
    """An environment of one's own, with a drawing."""

    default_params = 0.0
    observation_space = pjp.Box((2,), (0.0, 0.0), (1.0, 1.0))
    action_space = pjp.Discrete(2)

    def reset(self, key, params):
        return np.zeros(2, np.float32), {"at": jax.numpy.zeros(()), "key": key}

    def step(self, key, state, action, params):
        at = state["at"] + 1
        return at * np.ones(2, np.float32), {"at": at, "key": key}, 1.0, at >= 3, False

    def draw(self, obs, state, params):
        return Image.new("RGB", (100, 50), (int(60 * state["at"]), 0, 0))


def test_an_environment_of_ones_own_is_filmed_by_its_own_drawing(tmp_path):
    env = pjp.make_env(Maze())
    agent = pjp.make_ppo(env, pjp.PPOConfig(num_envs=2, num_steps=4, total_timesteps=8, num_minibatches=2))
    state = agent.init(jax.random.key(0)).train_state
    (episode,) = pjp.record_episodes(agent, state, jax.random.key(1), max_steps=9)
    assert episode.state["at"].tolist() == [0.0, 1.0, 2.0, 3.0]
    film.film_episode(agent.env, episode, tmp_path / "maze.gif")
    with Image.open(tmp_path / "maze.gif") as gif:
        for i in range(4):
            gif.seek(i)
            shown = np.asarray(gif.convert("RGB"))
            assert shown[135, 170].tolist() == pytest.approx([60 * i, 0, 0], abs=8)
            assert (shown[[40, 230], 170] > 245).all()  # 340 by 170 in the middle


def test_environment_without_a_drawing_is_refused(tmp_path):
    env = pjp.make_env("CartPole-v1").replace(name="MyMaze")
    assert find_picture(env) is None
    with pytest.raises(PPOError, match=r"MyMaze has no drawing.*CartPole-v0, CartPole-v1"):
        film.film_episode(env, make_episode(3), tmp_path / "a.gif")
    assert not list(tmp_path.iterdir())


# PDF and SVG


@pytest.mark.parametrize(("suffix", "start"), [("pdf", b"%PDF"), ("svg", b"<?xml"), ("png", b"\x89PNG")])
def test_pictures_for_papers(tmp_path, suffix, start):
    found = []
    for name in ("a", "b"):
        path = tmp_path / f"{name}.{suffix}"
        plots.plot_curves(np.arange(1, 9), normal(3, 8), path, title="CartPole-v1")
        found.append(path.read_bytes())
    assert found[0] == found[1]  # the same file each time
    assert found[0].startswith(start)
    assert b"/Type3" not in found[0]  # publishers refuse it


def test_picture_of_another_kind_is_refused(tmp_path):
    with pytest.raises(PPOError, match=r"\.png or \.pdf or \.svg"):
        plots.plot_curves(np.arange(1, 9), normal(3, 8), tmp_path / "a.jpg", title="")
