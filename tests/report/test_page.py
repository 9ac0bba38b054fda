"""report.html: what it says, that it needs nothing but itself, and that its chart works in a browser."""

import dataclasses
import functools
import html.parser
import itertools
import json
import math
import os
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

import purejaxppo as pjp
from purejaxppo.cli import main as cli
from purejaxppo.cli.arguments import chosen_preset, make_parser
from purejaxppo.cli.run_spec import make_spec
from purejaxppo.examples import success_rate
from purejaxppo.population.cross import CrossSweep
from purejaxppo.population.sharding import PLACEMENTS
from purejaxppo.population.statistics import iqm, with_interval
from purejaxppo.population.sweep import show_point
from purejaxppo.report import charts, page, plots, rewrite_page
from purejaxppo.report.curves import make_curve
from purejaxppo.runs.results import FinishedSweep
from purejaxppo.runs.spec import RunSpec, load_spec
from purejaxppo.runs.summary import write_summary

TINY = ["--config.total-timesteps", "4096", "--config.num-envs", "4", "--config.num-steps", "64", "--quiet"]
TINY += ["--config.hidden-sizes", "8"]
VOID = {"meta", "img", "input", "br", "link"}
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A run of three seeds and a sweep of two settings, both of Catch: small, and with films."""
    folder = tmp_path_factory.mktemp("pages")
    catch = ["--env", "Catch-bsuite", "--seeds", "3", *TINY]
    assert cli.main(["train", "--out", str(folder / "run"), *catch]) == 0
    assert cli.main(["sweep", "--over", "learning-rate=1e-3,1e-4", "--out", str(folder / "sweep"), *catch]) == 0
    return folder


class Reader(html.parser.HTMLParser):
    """The elements of a page; fails where one is not closed in its place."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] not in ("style", "script"):
            self.texts.append(data)


def read(path):
    reader = Reader()
    reader.feed(path.read_text())
    reader.close()
    assert not reader.open
    return reader


def data_of(path):
    (text,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', path.read_text(), re.DOTALL)
    return json.loads(text)


@pytest.mark.parametrize("name", ["run", "sweep"])
def test_page_is_well_formed_and_needs_nothing_else(folder, name):
    reader = read(folder / name / "report.html")
    for tag, attributes in reader.elements:
        for key in ("src", "href", "srcset", "action", "data"):
            assert (attributes.get(key) or "data:").startswith("data:"), (tag, attributes)
        assert not [key for key in attributes if key.startswith("on")]
        assert tag not in ("link", "iframe", "object", "base")
    style = (folder / name / "report.html").read_text()
    assert "@import" not in style
    assert "url(" not in style
    assert "fetch(" not in style
    images = [attributes for tag, attributes in reader.elements if tag == "img"]
    assert images
    assert all(attributes["alt"] for attributes in images)
    identities = [attributes["id"] for _, attributes in reader.elements if "id" in attributes]
    assert len(identities) == len(set(identities))


def test_numbers_are_those_of_the_run(folder):
    place = folder / "run"
    summary, texts = json.loads((place / "summary.json").read_text()), read(place / "report.html").texts
    for name, value in summary.items():
        assert texts[texts.index(name) + 1] == (value if isinstance(value, str) else json.dumps(value))
    view = data_of(place / "report.html")["views"][0]
    with np.load(place / "metrics.npz") as metrics:
        curve = make_curve(metrics["timesteps"][0], metrics["episode_return_mean"])
    (series,) = view["series"]
    assert series["x"] == curve.timesteps.tolist()
    as_numbers = [[math.nan if x is None else x for x in series[name]] for name in ("mid", "low", "high")]
    np.testing.assert_allclose(as_numbers, curve.band, rtol=1e-5)
    lines = [[math.nan if x is None else x for x in line["y"]] for line in view["lines"]]
    np.testing.assert_allclose(lines, curve.returns, rtol=1e-5)
    assert [line["label"] for line in view["lines"]] == ["seed 0", "seed 1", "seed 2"]
    assert "3 seeds of Catch-bsuite; preset catch, changed, 4,096 environment steps a seed" in texts


def test_page_of_a_sweep_has_its_table(folder):
    texts = read(folder / "sweep" / "report.html").texts
    best = pjp.load_sweep(folder / "sweep").table()[0]
    assert with_interval(*best.iqm).split()[0] in texts
    labels = [one["label"] for one in data_of(folder / "sweep" / "report.html")["views"][0]["series"]]
    assert sorted(labels) == ["learning_rate 0.001", "learning_rate 1e-4"]

    assert texts[texts.index("learning_rate", texts.index("Hyperparameters")) + 1] == "swept: 0.001, 1e-4"
    assert texts[texts.index("best setting") + 1] == show_point(best.point)
    assert texts[texts.index("its final greedy return, IQM") + 1] == with_interval(*best.iqm)
    assert ("it ties with" in texts) == best.ties
    assert "final greedy return, IQM" in texts


def test_a_sweep_over_environments_has_a_page(own_sweep, tmp_path):
    bounds = {"Short": (0.0, 7.0), "Long": (-1.0, 3.0)}
    cross = CrossSweep(dict.fromkeys(bounds, own_sweep), bounds, are_given=True)
    place = pjp.write_report(cross, tmp_path)
    texts = read(place).texts
    best = cross.table()[0]
    assert place == tmp_path / "report.html"
    assert texts[texts.index("best setting") + 1] == show_point(best.point)
    assert texts[texts.index("its score, IQM") + 1] == with_interval(*best.score, digits=3)
    assert texts[texts.index("score 0 and 1 in Long") + 1] == "-1 and 3"
    views = data_of(place)["views"]
    assert [view["name"] for view in views[1:]] == [f"{name}: return of training episodes" for name in bounds]
    assert [len(view["series"]) for view in views] == [2, 2, 2]
    returns = own_sweep[best.setting].final_returns()
    assert texts[texts.index("return in Short, IQM") :].count(f"{iqm(returns[np.isfinite(returns)]):.1f}") >= 2
    tested = dataclasses.replace(cross, are_given=False, tested=dict.fromkeys(bounds, own_sweep[best.setting]))
    texts = read(pjp.write_report(tested, tmp_path)).texts
    assert texts[texts.index("its score, IQM") + 1].endswith(" on the 2 tuning seeds")
    assert texts[texts.index("the same on fresh seeds") + 1].endswith(" on 2 test seeds")
    assert texts[texts.index("selection bias") + 1] == "0.000, tuning minus test"  # the test seeds are the tuning seeds
    assert "the least and the greatest IQM" in texts[texts.index("score 0 and 1 in Long") + 1]
    with pytest.raises(pjp.PPOError, match="population = 3"):
        pjp.write_report(3, tmp_path)


def test_steps_of_a_chart_that_are_not_whole_have_four_digits_in_its_table():
    _, first, second, *_ = charts.view_rows([charts.profile_view({"a": np.array([0.0, 1 / 3])}, "score")])
    assert (first[0], second[0]) == ("0.0", "0.03333")


def test_a_chart_of_shares_reaches_from_0_to_1(own_sweep):
    """So too if no seed has reached the threshold."""
    for view in charts.distribution_views({"a": own_sweep[0]}, 1e6, "return")[1:]:
        assert view["y_range"] == [0.0, 1.0]
    figures = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plots, "write_figure", lambda figure, _: figures.append(figure))
        plots.plot_view(view, "a.png", title="")
    low, high = figures[0].axes[0].get_ylim()
    assert -0.2 < low <= 0 < 1 <= high < 1.2


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ([3e-4, 3e-4, 0.01], "swept: 3e-4, 0.01"),
        ([[64, 64], [8]], "swept: 64x64, 8"),
        ([0.01 * i for i in range(9, 0, -1)], "swept: 9 values, 0.01 to 0.09"),
        ([[i] for i in range(9)], "swept: 9 values"),
    ],
)
def test_swept_values_are_said(values, text):
    assert page.swept_text(values) == text
    base = {"x": 1.0, "y": 2.0}
    assert page.setup_texts(base, [{"x": value} for value in values]) == {"x": text, "y": "2.0"}


def xyz(colour):
    """CIE XYZ of a colour of sRGB."""
    srgb = np.array([int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)])
    linear = np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)
    return np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]) @ linear


def lab(colour):
    """CIE L*a*b*, D65."""
    x, y, z = np.cbrt(xyz(colour) / [0.9505, 1.0, 1.089])
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


def test_the_colours_of_settings_can_be_told_apart_in_light_and_in_dark():
    css = Path(page.__file__).with_suffix(".css").read_text()
    for part in css.split("prefers-color-scheme: dark"):
        (ground,) = re.findall(r"--ground: (#\w{6})", part)
        colours = re.findall(r"--c\d: (#\w{6})", part)
        assert len(colours) == 8
        for one, other in itertools.combinations(colours[: charts.COMPARED], 2):
            assert np.linalg.norm(lab(one) - lab(other)) > 30, (one, other)
        for colour in colours:
            low, high = sorted((xyz(ground)[1], xyz(colour)[1]))
            assert (high + 0.05) / (low + 0.05) > 3, colour


@needs_chromium
def test_the_lines_of_settings_differ_in_their_dashes_too(folder):
    dumped = dump(folder / "sweep" / "report.html")
    for what in ("path", "line"):
        dashes = re.findall(rf"<{what}[^>]*stroke-dasharray: ([^\";]*)", dumped)
        assert dashes == ["none", "8 3"]


def test_diagnostics_are_the_quartiles_over_seeds(folder):
    views = {view["name"]: view for view in data_of(folder / "run" / "report.html")["views"]}
    with np.load(folder / "run" / "metrics.npz") as metrics:
        entropy = metrics["entropy"]
    series = views["entropy of the policy, nats"]["series"][0]
    np.testing.assert_allclose(series["mid"], np.median(entropy, axis=0), rtol=1e-5)
    np.testing.assert_allclose(series["high"], np.quantile(entropy, 0.75, axis=0), rtol=1e-5)


@pytest.fixture(scope="module")
def own_sweep():
    """Two settings of two seeds whose environment and loss report numbers of their own."""

    def loss(params, minibatch, context):
        loss, terms = pjp.ppo_loss(params, minibatch, context)
        return loss, terms | {"rate <b>": 10 * context.config.learning_rate}

    config = pjp.PPOConfig(num_envs=2, num_steps=16, total_timesteps=96, hidden_sizes=(4,), num_minibatches=1)
    make_agent = functools.partial(pjp.make_ppo, loss=loss)
    env, sweep = pjp.make_env(success_rate.Walk()), {"learning_rate": [0.125, 0.25]}
    return pjp.train_population(env, config, num_seeds=2, sweep=sweep, make_agent=make_agent)


def test_own_metrics_are_charts_of_a_run(own_sweep):
    population = own_sweep[0]
    views = charts.run_views(population, None)
    by_name = {view["name"]: view for view in views}
    assert {"rate <b>", "episode/success", "episode/distance"} < set(by_name)
    (series,) = by_name["rate <b>"]["series"]
    assert series["x"] == [32, 64, 96]
    assert series["low"] == series["mid"] == series["high"] == [1.25] * 3
    (series,) = by_name["episode/distance"]["series"]
    expected = np.nanmedian(population.column("episode/distance"), axis=0)
    np.testing.assert_allclose([math.nan if x is None else x for x in series["mid"]], expected, rtol=1e-5)
    head, *rows = charts.view_rows(views)
    assert rows[-1][head.index("rate <b>, median of 2 seeds")] == "1.25"
    members = page.seed_table(population, {})
    assert [row[members.rows[0].index("last rate <b>")] for row in members.rows[1:]] == ["1.25", "1.25"]


def test_own_metrics_are_charts_of_a_sweep_and_columns_of_its_table(own_sweep):
    views = charts.own_views(charts.best_settings(own_sweep))
    view = next(view for view in views if view["name"] == "rate <b>")
    labels = [row.point["learning_rate"] for row in own_sweep.table()]
    assert [series["mid"][-1] for series in view["series"]] == [10 * rate for rate in labels]
    members = page.settings_table(FinishedSweep(None, own_sweep, {}))
    column = [row[members.rows[0].index("last rate <b>")] for row in members.rows[1:]]
    assert column == [f"{10 * rate:g}" for rate in labels]
    assert "last episode/success" in members.rows[0]


def test_the_page_written_anew_is_the_same(folder, tmp_path, capsys):
    for name in ("run", "sweep"):
        out = tmp_path / f"{name}.html"
        assert cli.main(["report", str(folder / name), "--out", str(out)]) == 0
        assert str(out) in capsys.readouterr().out
        assert out.read_text() == (folder / name / "report.html").read_text()


@pytest.mark.parametrize(
    ("arguments", "named"),
    [(["report", "nowhere"], "nowhere"), (["report", "x", "--out", "page.txt"], ".html"), (["report"], "RUN")],
)
def test_bad_input_is_refused_with_one_line(refused, arguments, named):
    assert named in refused(arguments)


def spec_of(words):
    parser, _ = make_parser(chosen_preset(words))
    return make_spec(parser.parse_args(words))


@pytest.mark.parametrize(
    "words",
    [
        ["--seeds", "3", "--seed", "5"],
        ["--preset", "keras", "--config.hidden-sizes", "32,16", "--config.bootstrap-time-limits", "true"],
        ["--env", "CartPole-v1", "--env-param", "length=0.7", "--env-param", "max_steps_in_episode=99"],
        ["--preset", "recurrent", "--config.sequence-length", "8", "--config.learning-rate", "3.1e-5"],
        ["--config.max-grad-norm", "inf", "--config.anneal-lr", "false", "--placement", "data"],
        ["--seeds", "1", "--config.num-envs", "64", "--config.num-minibatches", "1"],  # "auto" shares it out
        ["--seeds", "1", "--config.num-envs", "64", "--config.num-minibatches", "1", "--placement", "seeds"],
    ],
)
def test_the_command_repeats_the_run(words):
    spec = spec_of(["train", *words])
    assert spec.placement in PLACEMENTS
    assert spec_of(page.command(spec)[1:]) == spec


def test_a_preset_that_is_no_more_is_written_out():
    spec = spec_of(["train", "--seeds", "2"])
    old = RunSpec(**{**vars(spec), "preset": "long gone"})
    again = spec_of(page.command(old)[1:])
    assert again.config == spec.config
    assert "--preset" not in page.command(old)


def test_config_alone_begins_the_run_anew(folder, tmp_path):
    shutil.copy(folder / "sweep" / "config.json", tmp_path)
    assert load_spec(tmp_path) == load_spec(folder / "sweep")
    assert "purejaxppo sweep --resume again" in read(folder / "sweep" / "report.html").texts


EVIL = "</script><script>document.title = 'run over'</script><b>&\"'"


@pytest.fixture
def evil(folder, tmp_path):
    """A run whose texts try to be more than text."""
    shutil.copytree(folder / "run", tmp_path / "evil")
    place = tmp_path / "evil"
    config, summary = (json.loads((place / f"{name}.json").read_text()) for name in ("config", "summary"))
    (place / "config.json").write_text(json.dumps(config | {"preset": EVIL, "git_revision": EVIL}))
    changed = summary | {"devices": EVIL, EVIL: EVIL, "diverged": 1, "diverged_at": [None, 7, None]}
    write_summary(place, changed, ["metrics.npz"])
    (place / "after.gif").rename(place / f"{EVIL.replace('/', '')}.gif")
    return rewrite_page(place)


def test_texts_stay_texts(evil):
    reader = read(evil)
    assert sum(tag == "script" for tag, _ in reader.elements) == 2
    assert not [tag for tag, _ in reader.elements if tag == "b"]
    assert EVIL in reader.texts  # the git revision, as it is


def test_diverged_seeds_are_told(evil):
    texts = read(evil).texts
    assert "1 seed of 3 diverged." in texts
    assert "diverged in update" in texts
    assert re.search(r'<tr class="diverged"><td>1</td>.*<td>7</td></tr>', evil.read_text())


def test_size_is_bounded():
    returns = np.random.default_rng(0).normal(size=(1_000, 5_000))
    view = charts.returns_view([("", make_curve(np.arange(5_000), returns))], 1.0)
    assert len(view["lines"]) == charts.SEED_LINES
    assert {len(line["y"]) for line in view["lines"]} == {200}
    assert len(json.dumps(view)) < 200_000
    assert len(page.flat({"final_return_per_seed": list(range(10_000))})["final_return_per_seed"]) < 300


def test_large_films_are_left_out(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(page, "FILM_BYTES", 10)
    films = page.films(folder / "run")
    assert [film.name for film in films] == ["before.gif", "after.gif"]
    assert not any(film.uri for film in films)
    texts = read(rewrite_page(folder / "run", tmp_path / "small.html")).texts
    assert sum("too large" in text for text in texts) == 2


def test_films_come_in_the_order_of_the_training(tmp_path):
    for name in ("seed-3", "after", "after-20", "after-8", "before"):
        (tmp_path / f"{name}.gif").write_bytes(b"GIF89a")
    shown = [film.name for film in page.films(tmp_path)]
    ways = ["before training", "after 8 updates", "after 20 updates", "after training"]
    assert shown == [*(f"seed 0, {way}" for way in ways), "seed 3, after training"]


def test_a_seed_without_a_return_is_no_error():
    nothing = make_curve(np.arange(4), np.full((2, 4), math.nan))
    (series,) = charts.returns_view([("", nothing)], None)["series"]
    assert series["mid"] == [None] * 4
    assert page.number_text(math.nan) == "none"


# In a browser

ACT = """
<script>
const chart = document.getElementById("chart"), readout = document.getElementById("readout");
const count = (what) => chart.querySelectorAll(what).length;
const box = () => chart.getBoundingClientRect();
const point = (x, y) => chart.dispatchEvent(new PointerEvent("pointermove", {clientX: x, clientY: y}));
const press = (key) => chart.dispatchEvent(new KeyboardEvent("keydown", {key, cancelable: true}));
const flip = (input) => { input.checked = !input.checked; input.dispatchEvent(new Event("change")); };
const seen = {hint: readout.textContent, lines: [count(".seed"), count(".band"), count(".mid")]};
point(box().right - 14, box().top + 5);
seen.hovered = readout.textContent;
seen.cursors = count(".cursor");
const end = chart.querySelector(".seed").getPointAtLength(1e9);
point(box().left + end.x, box().top + end.y);
seen.near = [count(".near"), readout.textContent];
press("Home"); seen.first = readout.textContent;
press("ArrowRight"); seen.second = readout.textContent;
press("Escape"); seen.left = readout.textContent;
const chips = document.querySelectorAll("#chips input");
flip(chips[0]); seen.withoutOne = count(".seed");
document.querySelector("[data-seeds=none]").click(); seen.withoutAll = count(".seed");
document.querySelector("[data-seeds=all]").click(); seen.withAll = count(".seed");
flip(document.getElementById("seeds")); seen.seedsOff = count(".seed");
flip(document.getElementById("bands")); seen.bandsOff = count(".band");
const view = document.getElementById("view");
view.value = "3"; view.dispatchEvent(new Event("change"));
seen.view = [view.selectedOptions[0].textContent, chart.textContent.includes("entropy"), count(".mid")];
const film = document.querySelector(".films img"), before = film.src.slice(0, 15);
film.decode().then(() => {
  document.querySelector("[data-film]").click();
  seen.film = [before, film.src.slice(0, 14)];
  document.body.replaceChildren(JSON.stringify(seen));
});
</script></body>"""


def dump(path, *options):
    """The page as a browser has it, after its scripts have run."""
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--window-size=1000,800", *options]
    found = subprocess.run(
        [*command, "--virtual-time-budget=2000", "--dump-dom", path.as_uri()],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
        env=os.environ | {"HOME": str(path.parent)},
    )
    return found.stdout


@needs_chromium
def test_the_chart_answers_in_a_browser(folder, tmp_path):
    place = folder / "run"
    copy = tmp_path / "acted.html"
    copy.write_text((place / "report.html").read_text().replace("</body>", ACT))
    seen = json.loads(html.unescape(re.search(r"<body>(.*)</body>", dump(copy), re.DOTALL)[1]))
    view = data_of(place / "report.html")["views"][0]
    (series,) = view["series"]
    x, mid, low, high = (series[name] for name in ("x", "mid", "low", "high"))
    (hint,) = re.findall(r'<output id="readout" for="chart">(.*)</output>', copy.read_text())
    assert seen["hint"] == hint
    assert seen["lines"] == [3, 1, 1]
    last = f"{series['label']}: {mid[-1]:g} (95% interval {low[-1]:g} to {high[-1]:g})"
    assert seen["hovered"].startswith(f"environment steps {x[-1]}. ")
    assert [float(n) for n in re.findall(r"-?\d+\.?\d*", seen["hovered"])] == pytest.approx(
        [float(n) for n in re.findall(r"-?\d+\.?\d*", f"{x[-1]} {last}")], rel=1e-4
    )
    assert seen["cursors"] == 1
    assert seen["near"][0] == 1
    assert re.search(r"; seed \d: ", seen["near"][1])
    assert seen["first"].startswith(f"environment steps {x[0]}. ")
    assert seen["second"].startswith(f"environment steps {x[1]}. ")
    assert seen["left"] == hint
    assert [seen[name] for name in ("withoutOne", "withoutAll", "withAll", "seedsOff", "bandsOff")] == [2, 0, 3, 0, 0]
    assert seen["view"] == ["entropy of the policy, nats", True, 1]
    assert seen["film"] == ["data:image/gif;", "data:image/png"]


NARROW = """
<script>
document.body.style.width = "400px";
for (const part of document.querySelectorAll("details")) part.open = true;
const lines = (cell) => {
  const range = document.createRange();
  range.selectNodeContents(cell);
  return new Set([...range.getClientRects()].map((box) => Math.round(box.top))).size;
};
const names = [...document.querySelectorAll("th")].filter((cell) => !/[ -]/.test(cell.textContent));
const whole = [...names, ...document.querySelectorAll(".scroll td")];
const seen = {cells: whole.length, cut: whole.filter((cell) => lines(cell) > 1).map((cell) => cell.textContent)};
seen.wide = [...document.querySelectorAll("table")].filter((x) => !x.closest(".scroll") && x.offsetWidth > 400).length;
document.body.replaceChildren(JSON.stringify(seen));
</script></body>"""


@needs_chromium
def test_names_and_intervals_stay_whole_on_a_narrow_screen(folder, tmp_path):
    copy = tmp_path / "narrow.html"
    copy.write_text((folder / "sweep" / "report.html").read_text().replace("</body>", NARROW))
    seen = json.loads(html.unescape(re.search(r"<body[^>]*>(.*)</body>", dump(copy), re.DOTALL)[1]))
    assert seen["cells"] > 80
    assert (seen["cut"], seen["wide"]) == ([], 0)


@needs_chromium
def test_no_text_becomes_a_script_in_a_browser(evil):
    dumped = dump(evil)
    assert "<title>Catch-bsuite</title>" in dumped
    assert 'class="mid"' in dumped  # its own script has run
