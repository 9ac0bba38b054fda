"""The pictures of sweeps and comparisons: which kind is drawn, and what its lines, cells and labels say."""

import math

import arithmetic
import numpy as np
import pytest
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from PIL import Image
from scipy import stats

import purejaxppo as pjp
from purejaxppo.population.results import Sweep
from purejaxppo.population.statistics import iqm_interval
from purejaxppo.population.sweep import show_value
from purejaxppo.report import curves, plot_comparison, plot_sweep, plots, sweep
from purejaxppo.report.pictures import distinct_settings
from purejaxppo.utils.errors import PPOError

NAN = math.nan
RATES = [1e-4, 1e-3, 1e-2]


def runs(*shape: int) -> np.ndarray:
    return np.random.default_rng(7).normal(100.0, 30.0, size=shape)


def grid(rates=RATES, sizes=(4, 8)) -> list[dict]:
    return [{"learning_rate": rate, "num_envs": size, "gamma": 0.99} for rate in rates for size in sizes]


@pytest.fixture
def draw(tmp_path, monkeypatch):
    """Plots into tmp_path / "a.png" and gives the figure."""
    figures = []
    savefig = Figure.savefig

    def keep(figure, file, **options):
        figures.append(figure)
        savefig(figure, file, **options)

    monkeypatch.setattr(Figure, "savefig", keep)

    def call(plot, *args, **options):
        plot(*args, tmp_path / "a.png", title="CartPole-v1", **options)
        with Image.open(tmp_path / "a.png") as image:
            assert image.format == "PNG"
            assert image.size == tuple((figures[-1].get_size_inches() * plots.DPI).round())
            assert image.width == 3.5 * plots.DPI  # one column of a paper
        assert list(tmp_path.iterdir()) == [tmp_path / "a.png"]
        assert figures[-1].axes[0].get_title(loc="left") == "CartPole-v1"
        return figures[-1]

    return call


def kind(figure) -> str:
    return "heat map" if figure.axes[0].images else " and ".join(axes.get_xlabel() for axes in figure.axes)


def tick_labels(axis) -> list[str]:
    return [label.get_text() for label in axis.get_ticklabels()]


def legend_labels(legend) -> list[str]:
    return [text.get_text() for text in legend.get_texts()]


# Which picture


@pytest.mark.parametrize(
    ("points", "expected"),
    [
        ([{"a": 1, "b": 2}], "a"),
        ([{"a": 1, "b": 2}, {"a": 3, "b": 2}], "a"),
        (grid(), "heat map"),
        (grid()[::-1], "heat map"),
        (grid()[:-1], "learning_rate and num_envs"),  # a corner of the grid is missing
        ([{"a": a, "b": b, "c": c} for a in (1, 2) for b in (1, 2) for c in (1, 2)], "a and b and c"),
    ],
)
def test_picture_follows_the_names_that_vary(draw, points, expected):
    assert kind(draw(plot_sweep, points, runs(len(points), 4))) == expected


@pytest.mark.parametrize(
    ("values", "scale"),
    [
        ([1e-4, 1e-2], "even"),
        (2.0 ** np.arange(9), "log"),
        ([*range(4, 12), 81], "log"),
        ([*range(4, 12), 80], "linear"),  # a factor of 20 and no more
        ([0.0, *range(9), 100.0], "linear"),
        ([True, False], "category"),
        (["relu", "tanh"], "category"),
        ([(64, 64), (256,)], "category"),
        ([None, 0.01, 1.0], "category"),
        ([math.inf, 1.0], "category"),
    ],
)
def test_scale_follows_the_values(values, scale):
    assert sweep.make_axis("a", values).scale == scale


@pytest.mark.parametrize(
    ("values", "ordered"),
    [
        ([3, 1, 2, 1], [1, 2, 3]),
        ([(256,), (64, 64), (64,)], [(64,), (64, 64), (256,)]),
        (["tanh", None, 0.5, (3,)], [0.5, (3,), None, "tanh"]),
        ([True, False], [False, True]),
    ],
)
def test_values_are_distinct_and_sorted(values, ordered):
    assert sweep.make_axis("a", values).values == ordered


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (1e-4, "1e-4"),
        (2.5e-4, "2.5e-4"),
        (0.001, "0.001"),
        (0.99, "0.99"),
        (0, "0"),
        (-3.5, "-3.5"),
        (4096, "4096"),
        (1_000_000, "1e6"),
        ((64, 64), "64x64"),
        ((), "()"),
        (True, "True"),
        (None, "None"),
        ("tanh", "tanh"),
    ],
)
def test_values_are_said_shortly(value, text):
    assert show_value(value) == text


# One axis


def test_line_has_the_iqm_and_its_interval_at_each_value(draw):
    scores = runs(3, 9)
    figure = draw(plot_sweep, [{"learning_rate": rate} for rate in (1e-2, 1e-4, 1e-3)], scores)
    axes = figure.axes[0]
    places, iqms = axes.lines[0].get_data()
    np.testing.assert_allclose(places, [0, 1, 2])
    np.testing.assert_allclose(iqms, stats.trim_mean(scores, 0.25, axis=1)[[1, 2, 0]])
    (bars,) = axes.collections
    for segment, place, runs_there in zip(bars.get_segments(), (2, 0, 1), scores, strict=True):
        np.testing.assert_allclose(segment[:, 0], place)
        np.testing.assert_allclose(segment[:, 1], iqm_interval(runs_there)[1:])
    assert axes.lines[0].get_linestyle() == "-"
    assert tick_labels(axes.xaxis) == ["1e-4", "0.001", "0.01"]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("learning_rate", "final return")
    assert legend_labels(axes.get_legend()) == ["IQM", "95% interval"]


def test_categories_are_not_joined(draw):
    axes = draw(plot_sweep, [{"hidden_sizes": [256]}, {"hidden_sizes": (64, 64)}], runs(2, 5)).axes[0]
    assert axes.lines[0].get_linestyle() == "None"
    assert tick_labels(axes.xaxis) == ["64x64", "256"]
    np.testing.assert_array_equal(axes.lines[0].get_xdata(), [0, 1])


def test_numbers_of_numpy_are_numbers(draw):
    axes = draw(plot_sweep, [{"num_envs": n} for n in 2 ** np.arange(9)], runs(9, 3)).axes[0]
    assert axes.get_xscale() == "log"


def test_diverged_runs_do_not_count_and_a_setting_of_them_is_missing(draw):
    scores = [np.array([1.0, NAN, 3.0]), np.array([NAN, NAN]), np.array([5.0])]
    axes = draw(plot_sweep, [{"a": a} for a in (1, 2, 3)], scores, solved_at=4.0).axes[0]
    np.testing.assert_array_equal(axes.lines[0].get_ydata(), [2, NAN, 5])
    np.testing.assert_array_equal(axes.lines[1].get_xdata(), [1])
    assert legend_labels(axes.get_legend()) == ["IQM", "all runs diverged", "95% interval", "solved: 4"]


def test_single_runs_have_no_interval(draw):
    axes = draw(plot_sweep, [{"a": a} for a in (1, 2, 3)], runs(3, 1)).axes[0]
    assert legend_labels(axes.get_legend()) == ["IQM"]


def test_many_numbers_leave_the_ticks_to_matplotlib(draw):
    axes = draw(plot_sweep, [{"a": 1.37 * a} for a in range(30)], runs(30, 3)).axes[0]
    assert len(axes.get_xticks()) < 12
    assert "1.37" not in tick_labels(axes.xaxis)


# Two axes


def test_cells_have_the_iqm_of_their_setting(draw):
    points, scores = grid(), runs(6, 8)
    figure = draw(plot_sweep, points, scores)
    axes, bar = figure.axes
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("num_envs", "learning_rate")  # more rows than columns
    assert tick_labels(axes.xaxis) == ["4", "8"]
    assert tick_labels(axes.yaxis) == ["1e-4", "0.001", "0.01"]
    expected = stats.trim_mean(scores, 0.25, axis=1).reshape(3, 2)
    np.testing.assert_allclose(axes.images[0].get_array(), expected)
    assert axes.images[0].origin == "lower"
    assert [text.get_text() for text in axes.texts] == [f"{value:.3g}" for value in expected.ravel()]
    assert [text.get_position() for text in axes.texts] == [(j, i) for i in range(3) for j in range(2)]
    assert bar.get_ylabel() == "final return, IQM"
    assert bar.get_ylim() == (expected.min(), expected.max())


def test_numbers_contrast_with_their_cell(draw):
    scores = np.linspace(0, 500, 20)[:, None]
    axes = draw(plot_sweep, grid(np.linspace(1, 2, 5), range(4)), scores).axes[0]
    image = axes.images[0]
    for text, value in zip(axes.texts, np.asarray(image.get_array()).ravel(), strict=True):
        channels = np.array(image.cmap(image.norm(value))[:3])
        linear = np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)
        luminance = linear @ [0.2126, 0.7152, 0.0722]
        ink = {"white": 1.0, "black": 0.0}[text.get_color()]
        high, low = max(luminance, ink) + 0.05, min(luminance, ink) + 0.05
        assert high / low > 4.5  # WCAG 2.1, AA
    assert {text.get_color() for text in axes.texts} == {"white", "black"}


def test_missing_cell_is_grey_with_a_dash(draw):
    scores = runs(6, 3)
    scores[0] = NAN
    axes = draw(plot_sweep, grid(), scores).axes[0]
    assert axes.texts[0].get_text() == "-"
    assert axes.texts[0].get_color() == "black"
    assert to_hex(axes.images[0].to_rgba(np.array([NAN]))[0]).upper() == sweep.MISSING


def test_solved_cells_are_framed(draw):
    scores = np.array([10.0, 50.0, 20.0, 40.0, 30.0, 0.0])[:, None]
    figure = draw(plot_sweep, grid(), scores, solved_at=40.0)
    frames = [patch for patch in figure.axes[0].patches if isinstance(patch, Rectangle)]
    centres = [(frame.get_x() + frame.get_width() / 2, frame.get_y() + frame.get_height() / 2) for frame in frames]
    np.testing.assert_allclose(centres, [(1, 0), (1, 1)])
    assert figure.axes[1].get_ylabel() == "final return, IQM (solved: 40)"


def test_large_grid_grows_and_drops_numbers_that_could_not_be_read(draw):
    points = grid(range(1, 26), range(1, 21))
    figure = draw(plot_sweep, points, runs(500, 2))
    assert figure.get_figheight() > 5
    assert not figure.axes[0].texts
    assert len(tick_labels(figure.axes[0].xaxis)) <= 10


@pytest.mark.parametrize("score", [NAN, 500.0])
@pytest.mark.parametrize("points", [grid(), grid()[:-1], [{"a": 1}, {"a": 2}]])
def test_nothing_finished_or_all_equal_is_no_error(draw, points, score):
    draw(plot_sweep, points, np.full((len(points), 3), score), solved_at=475.0)


def test_equal_settings_have_the_middle_colour(draw):
    bar = draw(plot_sweep, grid(), np.full((6, 3), 500.0)).axes[1]
    assert bar.get_ylim() == (499.5, 500.5)


# More axes


def test_each_name_has_a_panel_with_every_setting(draw):
    points = [{"a": a, "b": b, "c": c} for a in (1.0, 2.0) for b in ("x", "y") for c in range(9)]
    scores = runs(36, 3)
    panels = draw(plot_sweep, points, scores, solved_at=100.0).axes
    for panel, name, places in zip(panels, "abc", ((0, 1), (0, 1), range(9)), strict=True):
        assert panel.get_xlabel() == name
        x, y = panel.lines[0].get_data()
        assert sorted(set(x)) == list(places)
        np.testing.assert_allclose(sorted(y), sorted(stats.trim_mean(scores, 0.25, axis=1)))
        assert panel.lines[0].get_linestyle() == "None"
        assert panel.lines[1].get_ydata() == [100.0, 100.0]
    assert tick_labels(panels[1].xaxis) == ["x", "y"]


# Comparisons


def test_each_curve_is_its_iqm_in_a_band_of_its_colour(draw):
    timesteps = 512 * np.arange(1, 31)
    returns = runs(3, 5, 30)
    returns[1, 2, 7] = NAN
    figure = draw(plot_comparison, [(f"setting {i}", timesteps, returns[i]) for i in range(3)], solved_at=120.0)
    axes = figure.axes[0]
    for i, (line, area) in enumerate(zip(axes.lines[:3], axes.collections, strict=True)):
        band = curves.iqm_band(curves.carry_forward(returns[i]))
        np.testing.assert_array_equal(line.get_xdata(), timesteps)
        np.testing.assert_allclose(line.get_ydata(), band.iqm, rtol=1e-5)
        assert to_hex(line.get_color()).upper() == to_hex(plots.CURVE_COLOURS[i]).upper()
        assert to_hex(area.get_facecolor()[0]) == to_hex(line.get_color())
        heights = area.get_paths()[0].vertices[:, 1]
        assert heights.min() == pytest.approx(band.low.min(), rel=1e-5)
        assert heights.max() == pytest.approx(band.high.max(), rel=1e-5)
    (legend,) = figure.legends
    assert legend_labels(legend) == ["setting 0", "setting 1", "setting 2", "solved: 120"]
    assert axes.get_legend() is None
    assert "95% interval" in axes.get_ylabel()


def test_curves_of_other_lengths_share_the_axis(draw):
    figure = draw(plot_comparison, [("long", np.arange(1, 2_001), runs(2, 2_000)), ("one", np.array([9]), runs(2, 1))])
    long, one = figure.axes[0].lines
    assert len(long.get_xdata()) == curves.MAX_POINTS
    np.testing.assert_array_equal(one.get_xdata(), [0, 9])
    assert figure.axes[0].get_xlim()[1] == pytest.approx(2_040)


def test_colours_are_okabe_and_itos():
    published = ["#000000", "#E69F00", "#56B4E9", "#009E73", "#F0E442", "#0072B2", "#D55E00", "#CC79A7"]
    assert sorted(plots.CURVE_COLOURS) == sorted(published)


def test_legend_makes_the_picture_higher_and_not_the_curves_lower(draw):
    def panel_inches(count, label):
        figure = draw(plot_comparison, [(f"{label} {i}", np.arange(3), runs(2, 3)) for i in range(count)])
        return figure.axes[0].get_position().height * figure.get_figheight()

    assert panel_inches(8, "s") == pytest.approx(panel_inches(1, "s"), abs=0.1)
    assert panel_inches(8, "a label of more than 26 letters") == pytest.approx(panel_inches(1, "s"), abs=0.1)


@pytest.mark.parametrize("letter", ["i", "W", "a"])
def test_a_legend_fits_and_its_names_stay_different(draw, letter):
    long = letter * 90
    labels = ["_old", f"1{long}1", f"2{long}2", f"{long}1{long}", f"{long}2{long}"]
    note = "P(b > a) = 0.94 [0.81, 1.00]"
    figure = draw(plot_comparison, [(label, np.arange(3), runs(2, 3)) for label in labels], solved_at=1.0, note=note)
    (legend,) = figure.legends
    shown = legend_labels(legend)
    assert len(set(shown)) == len(shown) == len(labels) + 1
    assert legend.get_title().get_text() == note
    box = legend.get_window_extent()
    assert box.x0 >= 0
    assert box.x1 <= figure.bbox.width


def test_a_sweep_whose_settings_come_again_or_differ_in_their_names_is_reported(tmp_path):
    env, points = pjp.make_env("CartPole-v1"), [{}, {"learning_rate": 1e-2}, {"env.length": 0.7}, {"env.length": 0.7}]
    trained = pjp.train_population(
        env, arithmetic.CONFIG, num_seeds=2, sweep=points, make_agent=arithmetic.make_agent, evaluation_episodes=0
    )
    told, returns = distinct_settings(trained)
    assert [tuple(point.values()) for point in told] == [(2.5e-4, 0.5), (1e-2, 0.5), (2.5e-4, 0.7)]
    np.testing.assert_array_equal(returns, trained.final_returns()[:3])
    assert pjp.write_report(trained, tmp_path / "report").exists()
    assert distinct_settings(Sweep(({},), trained.populations[:1]))[0] == [{"setting": 0}]


# Refusals


@pytest.mark.parametrize("count", [0, 9])
def test_more_curves_than_colours_are_refused(tmp_path, count):
    with pytest.raises(PPOError, match=f"{count} curves; give 1 to 8"):
        plot_comparison([("a", np.arange(3), runs(2, 3))] * count, tmp_path / "a.png", title="")
    assert not list(tmp_path.iterdir())


def test_a_curve_whose_shapes_disagree_is_named(tmp_path):
    with pytest.raises(PPOError, match=r"bad: timesteps .* have to be"):
        plot_comparison([("bad", np.zeros(3), np.zeros((2, 4)))], tmp_path / "a.png", title="")
    assert not list(tmp_path.iterdir())
