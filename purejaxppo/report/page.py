"""report.html: all that there is to see of a run or a sweep, in one file that needs no network."""

import base64
import dataclasses
import html
import json
import math
import shlex
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from purejaxppo.population.results import Population, Sweep
from purejaxppo.population.sweep import ENV, is_number, show_point, show_value
from purejaxppo.ppo.config import option_text
from purejaxppo.report.curves import Curve, make_curve, thin
from purejaxppo.runs.load import load_run, load_sweep
from purejaxppo.runs.presets import PRESETS
from purejaxppo.runs.results import FinishedRun, FinishedSweep
from purejaxppo.runs.spec import RunSpec, load_spec
from purejaxppo.runs.summary import SUMMARY, read_summary, with_nans
from purejaxppo.runs.tables import sweep_rows, sweep_table, table
from purejaxppo.utils.files import read_json, write_whole

PAGE = "report.html"
SEED_LINES = 64  # more could not be told apart, and would make the page large
COMPARED = 6  # settings of a sweep in its curves
SETTINGS = 64  # of a sweep in its table
FILM_BYTES, FILMS_BYTES = 4_000_000, 12_000_000  # of a film, and of all of them
HINT = "Point at the chart, or focus it and use the arrow keys, to read it."

# What the chart can show beside the return: the median over seeds and the middle half of them.
DIAGNOSTICS = {
    "episode_length_mean": "length of training episodes, steps",
    "entropy": "entropy of the policy, nats",
    "approx_kl": "KL of an update, nats",
    "clip_fraction": "clipped share of the ratios",
    "explained_variance": "explained variance of the value",
    "value_loss": "value loss",
    "policy_loss": "policy loss",
    "learning_rate": "learning rate",
}


class Parts(NamedTuple):
    """What a page is made of: texts of HTML, escaped, but for `title` and `views`."""

    title: str
    lead: str
    numbers: str
    curves_note: str
    views: list[dict[str, Any]]
    pictures: str
    members: str
    repeat: str


def write_report(folder: Path, out: Path | None = None) -> Path:
    """Writes the page of a finished run or sweep anew, by default into its folder. -> where it is

    Raises PPOError for a folder that holds neither.
    """
    spec = load_spec(folder)
    if spec.sweep is None:
        run = load_run(folder)
        finished = FinishedRun(spec, run.population, {}, with_nans(run.summary))
        return write_run_page(finished, find_curve(finished.population), folder, out)
    sweep = load_sweep(folder)
    finished = FinishedSweep(spec, sweep, read_summary(folder, spec.num_seeds, len(sweep)))
    return write_sweep_page(finished, best_curves(finished.sweep), folder, out)


def write_run_page(finished: FinishedRun, curve: Curve, folder: Path, out: Path | None = None) -> Path:
    """Writes the page of a run. curve: of its training returns, as in its picture. -> where it is"""
    spec, population, summary = finished.spec, finished.population, finished.summary
    parts = Parts(
        title=spec.env,
        lead=f"{plural(spec.num_seeds, 'seed')} of {esc(describe(spec))}",
        numbers=two_columns(without_folder(table(finished, folder))),
        curves_note=f"{esc(seeds_note(spec.num_seeds))} A seed keeps its last return until its next episode ends.",
        views=[return_view(curve, spec.solved_at, x_name(population)), *diagnostic_views(population)],
        pictures=films(folder),
        members=seed_table(population.final_returns(), summary),
        repeat=how_to_repeat(spec),
    )
    return write_page(parts, folder, out)


def write_sweep_page(
    finished: FinishedSweep, curves: Sequence[tuple[str, Curve]], folder: Path, out: Path | None = None
) -> Path:
    """Writes the page of a sweep. curves: of its best settings, as in their picture. -> where it is"""
    spec, sweep = finished.spec, finished.sweep
    rows = sweep_rows(finished, most=SETTINGS)
    parts = Parts(
        title=f"{spec.env}, a sweep",
        lead=f"{plural(len(sweep), 'setting')} with {plural(spec.num_seeds, 'seed')} each, of {esc(describe(spec))}",
        numbers=two_columns(without_folder(sweep_table(finished, folder))),
        curves_note=f"The {plural(len(curves), 'best setting')}: by the interquartile mean of the greedy returns, "
        "and among those that tie with the best, by the area under these curves.",
        views=[settings_view(curves, spec.solved_at, x_name(sweep[0]))],
        pictures=still(folder / "sweep.png", "The final greedy returns by setting"),
        members=section("Settings", f'<div class="scroll">{rows_table(rows)}</div>{settings_note(len(sweep))}'),
        repeat=how_to_repeat(spec),
    )
    return write_page(parts, folder, out)


def write_page(parts: Parts, folder: Path, out: Path | None) -> Path:
    """Puts the parts together. Whole or not at all. -> where it is"""
    path = out or folder / PAGE
    text = page(parts, read_json(folder / "config.json"), read_json(folder / SUMMARY), folder)
    write_whole(path, lambda file: file.write(text.encode()))
    return path


def page(parts: Parts, config: Mapping[str, Any], summary: Mapping[str, Any], folder: Path) -> str:
    """The whole page. config, summary: config.json and summary.json."""
    here = Path(__file__)
    css, script = (here.with_suffix(suffix).read_text() for suffix in (".css", ".js"))
    env_params = {f"{ENV}{name}": value for name, value in config["env_params"].items()}
    setup = setup_texts(config["config"] | env_params, config["sweep"] or [])
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy"
 content="default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'">
<title>{esc(parts.title)}</title>
<style>
{css}</style>
</head>
<body>
<main>
<h1>{esc(parts.title)}</h1>
<p class="soft">{parts.lead}</p>
{parts.numbers}
{section("Curves", chart(parts, folder))}
{parts.pictures}
{parts.members}
{section("Hyperparameters", f'<div class="columns">{two_columns(setup)}</div>')}
{section("What the run was made with", two_columns(made_with(config, summary)))}
{section("How to repeat it", parts.repeat + as_it_is(config))}
{section("All numbers of summary.json", folded("Show them", two_columns(flat(summary))))}
</main>
<script type="application/json" id="data">{script_json({"views": parts.views})}</script>
<script>
{script}</script>
</body>
</html>
"""


def setup_texts(base: Mapping[str, Any], points: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """The value of each hyperparameter, or the values that the settings of a sweep have of it."""
    swept = {name for point in points for name in point}
    texts = {name: option_text(value) for name, value in base.items()}
    return texts | {name: swept_text([point.get(name, base.get(name)) for point in points]) for name in sorted(swept)}


def swept_text(values: Sequence[Any], most: int = 8) -> str:
    """swept: 3e-4, 0.003, 0.01; of many values how many, and of numbers from where to where."""
    distinct = list({show_value(tuple(x) if isinstance(x, list) else x): x for x in values}.items())
    if len(distinct) <= most:
        return f"swept: {', '.join(text for text, _ in distinct)}"
    if not all(is_number(value) for _, value in distinct):
        return f"swept: {len(distinct)} values"
    ordered = sorted(distinct, key=lambda pair: pair[1])
    return f"swept: {len(distinct)} values, {ordered[0][0]} to {ordered[-1][0]}"


def chart(parts: Parts, folder: Path) -> str:
    """The interactive chart, its controls, and its numbers for those who do not see it."""
    name = parts.views[0]["name"]
    return f"""<div class="controls">
<label>Show <select id="view"></select></label>
<label><input type="checkbox" id="bands" checked> <span id="band-name"></span></label>
<label class="of-seeds"><input type="checkbox" id="seeds" checked> single seeds</label>
</div>
<fieldset id="series"><legend class="soft">Lines</legend><div class="controls" id="legend"></div></fieldset>
<svg id="chart" role="img" tabindex="0" aria-label="Line chart: {esc(name)}. The table below has its numbers."
 aria-describedby="readout"></svg>
<output id="readout" for="chart">{HINT}</output>
<noscript>{embedded(folder / "curves.png", "The learning curves")}</noscript>
<details class="of-seeds"><summary>Choose the seeds</summary>
<p><button type="button" data-seeds="all">All</button> <button type="button" data-seeds="none">None</button></p>
<div class="seeds" id="chips"></div></details>
<p class="soft">{parts.curves_note}</p>
{folded("The curves as a table", f'<div class="scroll">{curve_table(parts.views[0])}</div>')}"""


def return_view(curve: Curve, solved_at: float | None, across: str) -> dict[str, Any]:
    """The training returns of a run: the IQM in its interval, and the first seeds."""
    num_seeds = len(curve.returns)
    label = f"IQM of {num_seeds} seeds" if num_seeds > 1 else "the seed"
    return returns_view([curve_series(label, curve)], solved_at, across) | {
        "lines": [{"label": f"seed {i}", "y": numbers(seed)} for i, seed in enumerate(curve.returns[:SEED_LINES])]
        if num_seeds > 1
        else []
    }


def settings_view(curves: Sequence[tuple[str, Curve]], solved_at: float | None, across: str) -> dict[str, Any]:
    """The training returns of several settings."""
    return returns_view([curve_series(label, curve) for label, curve in curves], solved_at, across)


def returns_view(series: list[dict[str, Any]], solved_at: float | None, across: str) -> dict[str, Any]:
    """A view of the chart, without the lines of seeds."""
    return {
        "name": "return of training episodes",
        "x_name": across,
        "band_name": "95% interval",
        "target": solved_at,
        "target_name": "solved:",
        "series": series,
        "lines": [],
    }


def curve_series(label: str, curve: Curve) -> dict[str, Any]:
    """The IQM and its interval."""
    band = curve.band
    return {
        "label": label,
        "x": curve.timesteps.tolist(),
        **{name: numbers(values) for name, values in zip(("mid", "low", "high"), band, strict=True)},
    }


def diagnostic_views(population: Population) -> list[dict[str, Any]]:
    """A view for each of DIAGNOSTICS that the run has values of."""
    metrics, num_seeds = population.metrics, population.num_seeds
    shown = thin(np.shape(metrics.updates)[1])
    across = np.asarray(metrics.timesteps)[0, shown]
    label = f"median of {num_seeds} seeds" if num_seeds > 1 else "the seed"
    views = []
    for field, name in DIAGNOSTICS.items():
        low, mid, high = nan_quartiles(np.asarray(getattr(metrics, field), np.float64)[:, shown])
        if np.isnan(mid).all():
            continue
        series = {"label": label, "x": across.tolist(), "mid": numbers(mid), "low": numbers(low), "high": numbers(high)}
        views.append(
            {
                "name": name,
                "x_name": "environment steps",
                "band_name": "middle half of the seeds",
                "target": None,
                "target_name": "",
                "series": [series],
                "lines": [],
            }
        )
    return views


def nan_quartiles(values: np.ndarray) -> np.ndarray:
    """The quartiles over the seeds that have a value; NaN without one. [S, U] -> [3, U]"""
    quartiles = np.full((3, values.shape[1]), np.nan)
    some = ~np.isnan(values).all(axis=0)
    quartiles[:, some] = np.nanquantile(values[:, some], [0.25, 0.5, 0.75], axis=0)
    return quartiles


def find_curve(population: Population) -> Curve:
    """The training returns of a population, as its picture shows them."""
    metrics = population.metrics
    x, y = metrics.curve
    returns = np.asarray(metrics.column(y))
    return make_curve(population.timesteps if x == "timesteps" else np.arange(1, returns.shape[1] + 1), returns)


def best_curves(sweep: Sweep) -> list[tuple[str, Curve]]:
    """The best settings of a sweep by what they differ in, the best first."""
    return [(show_point(row.point), find_curve(sweep[row.setting])) for row in sweep.table()[:COMPARED]]


def x_name(population: Population) -> str:
    """What the x-axis of `find_curve` counts."""
    return "environment steps" if population.metrics.curve[0] == "timesteps" else population.metrics.curve[0]


def curve_table(view: Mapping[str, Any], most: int = 11) -> str:
    """Some of the numbers of the chart's first view, for those who do not see it."""
    head = [view["x_name"]]
    for one in view["series"]:
        head += [one["label"], "95% interval"]
    first = view["series"][0]
    places = np.unique(np.linspace(0, len(first["x"]) - 1, min(most, len(first["x"]))).round().astype(int))
    rows = [
        [f"{first['x'][i]:,}", *(cell for one in view["series"] for cell in curve_cells(one, first["x"][i]))]
        for i in places.tolist()
    ]
    return rows_table([head, *rows])


def curve_cells(series: Mapping[str, Any], step: float) -> list[str]:
    """The value and the interval of a series at the step that is nearest to one."""
    i = int(np.argmin(np.abs(np.array(series["x"]) - step)))
    mid, low, high = (series[name][i] for name in ("mid", "low", "high"))
    return ["" if mid is None else f"{mid:g}", "" if low is None else f"{low:g} to {high:g}"]


def films(folder: Path) -> str:
    """The films of a run folder, each with a button that stops it."""
    paths = sorted(folder.glob("*.gif"), key=film_order)
    figures, total = [], 0
    for path in paths:
        size = path.stat().st_size
        if size > FILM_BYTES or total + size > FILMS_BYTES:
            figures.append(f"<p>{esc(path.name)} is too large for this page ({size / 1e6:.1f} MB): see the folder.</p>")
            continue
        total += size
        name = film_name(path.stem)
        figures.append(
            f"<figure>{embedded(path, f'A film of an episode: {name}', f'film-{len(figures)}')}"
            f"<figcaption>{esc(name)} "
            f'<button type="button" data-film="film-{len(figures)}">Stop</button></figcaption></figure>'
        )
    return section("Films", f'<div class="films">{"".join(figures)}</div>') if figures else ""


def film_order(path: Path) -> tuple[int, int, str]:
    """Before training, then in the course of it, then after it, then all others."""
    kind, _, number = path.stem.partition("-")
    place = {"before": 0, "after": 1 if number else 2}.get(kind, 3)
    return place, int(number) if number.isdecimal() else 0, path.name


def film_name(stem: str) -> str:
    """What a film of this name shows."""
    names = {"before": "seed 0, before training", "after": "seed 0, after training"}
    kind, _, number = stem.partition("-")
    if number.isdecimal() and kind in ("after", "seed"):
        return f"seed 0, after {number} updates" if kind == "after" else f"seed {number}, after training"
    return names.get(stem, stem)


def still(path: Path, text: str) -> str:
    """A picture of the folder, where it is there."""
    return section(text, f'<figure class="picture">{embedded(path, text)}</figure>') if path.exists() else ""


def embedded(path: Path, text: str, name: str = "") -> str:
    """A picture within the page; "" where there is none. text: what it shows, for those who do not see it"""
    if not path.exists():
        return ""
    content = base64.b64encode(path.read_bytes()).decode()
    identity = f' id="{name}"' if name else ""
    return f'<img{identity} alt="{esc(text)}" src="data:image/{path.suffix[1:]};base64,{content}">'


def seed_table(final: np.ndarray, summary: Mapping[str, Any]) -> str:
    """The final greedy return of each seed, the best first, and where a seed diverged."""
    diverged = summary.get("diverged_at") or [None] * len(final)
    order = np.argsort(np.where(np.isnan(final), np.inf, -final), kind="stable")[:SEED_LINES]
    rows = "".join(
        f'<tr{"" if diverged[i] is None else " class=diverged"}><td class="number">{i}</td>'
        f'<td class="number">{number_text(float(final[i]))}</td><td>{divergence_text(diverged[i])}</td></tr>'
        for i in order.tolist()
    )
    head = '<tr><th class="number">seed</th><th class="number">final greedy return</th><th></th></tr>'
    lost = sum(update is not None for update in diverged)
    notes = f"<p>{plural(lost, 'seed')} of {len(final)} diverged.</p>" if lost else ""
    if len(final) > SEED_LINES:
        notes += f"<p class='soft'>The best {SEED_LINES} of {len(final):,}; metrics.npz and summary.json have all.</p>"
    return section("Seeds", notes + folded("The final greedy return of each", f"<table>{head}{rows}</table>"))


def divergence_text(update: int | None) -> str:
    """Where a seed diverged, if it did."""
    return "" if update is None else f"diverged in update {update}"


def how_to_repeat(spec: RunSpec) -> str:
    """The command of a run, or how a sweep is begun anew."""
    if spec.sweep is not None:
        return ""
    return f"<pre>{esc(shlex.join(command(spec)))}</pre>"


def command(spec: RunSpec) -> list[str]:
    """The words that start a run anew: its preset and all that differs from it."""
    known = spec.preset in PRESETS
    words = ["purejaxppo", "train", *(["--preset", spec.preset] if known else []), "--env", spec.env]
    for name, value in spec.env_params.items():
        words += ["--env-param", f"{name}={value!r}"]
    words += ["--seeds", str(spec.num_seeds), "--seed", str(spec.seed)]
    if spec.placement != "seeds":
        words += ["--placement", spec.placement]
    base = PRESETS[spec.preset].config if known else None
    for field in dataclasses.fields(spec.config):
        value = getattr(spec.config, field.name)
        if value is not None and (base is None or getattr(base, field.name, None) != value):
            words += [f"--config.{field.name.replace('_', '-')}", option_text(value)]
    return words


def as_it_is(config: Mapping[str, Any]) -> str:
    """How to begin anew from config.json, whatever it says."""
    verb, start = ("train", "Or save") if config["sweep"] is None else ("sweep", "Save")
    return (
        f"<p>{start} what follows as <code>again/config.json</code>, in an empty folder, and go on with it:</p>"
        f"<pre>{esc(f'purejaxppo {verb} --resume again')}</pre>"
        + folded("config.json", f"<pre>{esc(json.dumps(config, indent=2))}</pre>")
    )


def made_with(config: Mapping[str, Any], summary: Mapping[str, Any]) -> dict[str, str]:
    """Where, and with which versions."""
    memory = summary.get("peak_memory_bytes")
    return {
        "devices": summary.get("devices") or "unknown",
        "peak memory": "unknown" if memory is None else f"{memory / 2**30:.2f} GiB",
        "git revision": config.get("git_revision") or "none: not in a repository",
        **config["versions"],
    }


def describe(spec: RunSpec) -> str:
    """One line on what was trained."""
    changed = "".join(f", {name} = {value:g}" for name, value in spec.env_params.items())
    return f"{spec.env}{changed}; preset {spec.preset}, {spec.config.actual_timesteps:,} environment steps a seed"


def seeds_note(num_seeds: int) -> str:
    """Which seeds the chart shows."""
    if num_seeds == 1:
        return "One seed."
    shown = f"the first {SEED_LINES}" if num_seeds > SEED_LINES else "all"
    return f"The bold line is the interquartile mean over {num_seeds:,} seeds, the thin ones are {shown} of them."


def settings_note(number: int) -> str:
    """What a sweep's table leaves out."""
    return f'<p class="soft">The best {SETTINGS} of {number:,}; table.csv has all.</p>' if number > SETTINGS else ""


def without_folder(rows: Mapping[str, str]) -> dict[str, str]:
    """The rows of a table without where the run lies: a page may be sent elsewhere."""
    return {name: value for name, value in rows.items() if not name.endswith("folder")}


def flat(summary: Mapping[str, Any]) -> dict[str, str]:
    """The numbers of a summary, exactly; of a list, the first SEED_LINES."""
    return {
        name: json.dumps(value[:SEED_LINES] if isinstance(value, list) else value) for name, value in summary.items()
    }


def numbers(values: np.ndarray) -> list[float | None]:
    """Six digits of each, which a screen cannot tell from all; None for NaN."""
    return [float(f"{value:.6g}") if math.isfinite(value) else None for value in values.tolist()]


def number_text(value: float) -> str:
    """A return, or none."""
    return "none" if math.isnan(value) else f"{value:.6g}"


def plural(number: int, what: str) -> str:
    """3 seeds"""
    return f"{number:,} {what}" + ("" if number == 1 else "s")


def section(title: str, content: str) -> str:
    """A part of the page under its heading."""
    return f"<section><h2>{esc(title)}</h2>{content}</section>"


def folded(title: str, content: str) -> str:
    """What is shown on request."""
    return f"<details><summary>{esc(title)}</summary>{content}</details>"


def two_columns(rows: Mapping[str, Any]) -> str:
    """A table of names and values."""
    body = "".join(f'<tr><th scope="row">{esc(name)}</th><td>{esc(value)}</td></tr>' for name, value in rows.items())
    return f"<table>{body}</table>"


def rows_table(rows: Sequence[Sequence[str]]) -> str:
    """A table whose first row is its head."""
    head = "".join(f'<th scope="col">{esc(name)}</th>' for name in rows[0])
    body = "".join(f"<tr>{cells(row)}</tr>" for row in rows[1:])
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def cells(row: Iterable[str]) -> str:
    """The cells of a row."""
    return "".join(f"<td>{esc(cell)}</td>" for cell in row)


def esc(text: Any) -> str:
    """Text that HTML shows as it is, in an element or in an attribute."""
    return html.escape(str(text))


def script_json(content: Any) -> str:
    """JSON that cannot end its script element."""
    return json.dumps(content, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")
