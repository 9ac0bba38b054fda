"""report.html: everything there is to see of a run or a sweep, in one file that needs no network."""

import base64
import dataclasses
import json
import math
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from purejaxppo.population.results import Population
from purejaxppo.population.sweep import ENV, is_number, show_value
from purejaxppo.ppo.config import option_text
from purejaxppo.report.charts import (
    SEED_LINES,
    View,
    best_settings,
    distribution_views,
    last_values,
    own_metrics,
    own_views,
    returns_of,
    run_views,
    view_rows,
)
from purejaxppo.runs.load import load_finished
from purejaxppo.runs.presets import PRESETS, shown_preset
from purejaxppo.runs.results import Finished, FinishedSweep, LoadedRun
from purejaxppo.runs.spec import EARLIER, RunSpec, spec_to_json
from purejaxppo.runs.tables import distribution_rows, return_name, sweep_rows, table
from purejaxppo.utils.files import finite, read_json, write_whole
from purejaxppo.utils.suggest import plural

PAGE = "report.html"
SETTINGS = 64  # of a sweep in its table
# Parts of a page that a comparison does not have, and one that only it has.
OPTIONAL = ("curves", "films", "picture", "setup", "made_with", "command", "earlier", "config", "summary", "more")
FILM_BYTES, FILMS_BYTES = 4_000_000, 12_000_000  # of a film, and of all of them


class Members(NamedTuple):
    """The table of seeds or settings."""

    title: str
    notes: list[str]
    rows: list[list[str]]  # the head, then one for each
    diverged: list[int]  # the rows below the head that are marked as diverged


class Film(NamedTuple):
    """A film on the page, or the file name of one that is too large for it."""

    name: str
    uri: str  # "" for one that is too large
    megabytes: str


def rewrite_page(folder: Path, out: Path | None = None) -> Path:
    """Writes the page of a finished run or sweep anew, by default into its folder. Returns its path.

    Raises PPOError for a folder that holds neither.
    """
    finished = load_finished(folder)
    return write_page(finished, folder, views_of(finished), out)


def views_of(finished: Finished) -> list[View]:
    """The charts of a page, that of the return first."""
    solved_at, what = finished.spec.solved_at, return_name(finished.summary)
    if isinstance(finished, FinishedSweep):
        best = best_settings(finished.sweep)
        return [returns_of(best, solved_at), *own_views(best), *distribution_views(best, solved_at, what)]
    seeds = {f"{finished.spec.num_seeds} seeds": finished.population}
    return run_views(finished.population, solved_at) + distribution_views(seeds, solved_at, what)


def write_page(finished: Finished, folder: Path, views: Sequence[View], out: Path | None = None) -> Path:
    """Renders page.html with the files of the folder, by default into it. Whole or not at all. Returns its path.

    A population that was trained in memory has no config.json, and its page does not say how to repeat it.
    """
    is_run = (folder / "config.json").exists()
    config = read_json(folder / "config.json") if is_run else spec_to_json(finished.spec)
    summary = finite(finished.summary)
    env_params = {f"{ENV}{name}": value for name, value in config["env_params"].items()}
    path = out or folder / PAGE
    lines = len(views[0]["series"])
    parts = sweep_parts(finished, lines) if isinstance(finished, FinishedSweep) else run_parts(finished)
    numbers = table(finished, folder) | distribution_rows(summary)
    about: dict[str, Any] = {
        "numbers": {name: text for name, text in numbers.items() if not name.endswith("folder")},  # it may be sent away
        "views": views,
        "curves": data_uri(folder / "curves.png"),
        "films": films(folder),
        "picture": data_uri(folder / "sweep.png"),
        "setup": setup_texts(config["config"] | env_params, config["sweep"] or []),
        "made_with": made_with(config, summary),
        "config": json.dumps(config, indent=2) if is_run else "",
        "earlier": ", then ".join(f"{timesteps:,}" for timesteps in config.get(EARLIER, [])),
        "summary": flat(summary),
    }
    render_page(path, about | parts)
    return path


def render_page(path: Path, parts: Mapping[str, Any]) -> None:
    """Renders page.html, whole or not at all. A part of the page that `parts` does not have is left out."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    here = Path(__file__)
    loader = FileSystemLoader(here.parent)
    page = Environment(loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=StrictUndefined)
    page.policies["json.dumps_kwargs"] = {"sort_keys": True, "allow_nan": False}  # a browser reads no NaN
    text = page.get_template("page.html").render(
        css=Markup(here.with_suffix(".css").read_text()),
        script=Markup(here.with_suffix(".js").read_text()),
        curve_rows=view_rows(parts["views"]),
        **{**dict.fromkeys(OPTIONAL, ""), **parts},
    )
    write_whole(path, lambda file: file.write(text.encode()))


def run_parts(finished: LoadedRun) -> dict[str, Any]:
    """The parts of a page that are those of a run."""
    spec, note = finished.spec, "One seed."
    if spec.num_seeds > 1:
        shown = f"the first {SEED_LINES}" if spec.num_seeds > SEED_LINES else "all"
        note = (
            f"The bold line is the interquartile mean over {spec.num_seeds:,} seeds, the thin ones are {shown} of them."
        )
    return {
        "title": spec.env,
        "lead": f"{plural(spec.num_seeds, 'seed')} of {describe(spec)}",
        "curves_note": f"{note} A seed keeps its last return until its next episode ends.",
        "members": seed_table(finished.population, finished.summary),
        "command": shlex.join(command(spec)),
    }


def sweep_parts(finished: FinishedSweep, num_shown: int) -> dict[str, Any]:
    """The parts of a page that are those of a sweep. num_shown: settings in its charts"""
    spec, sweep = finished.spec, finished.sweep
    return {
        "title": f"{spec.env}, a sweep",
        "lead": f"{plural(len(sweep), 'setting')} with {plural(spec.num_seeds, 'seed')} each, of {describe(spec)}",
        "curves_note": f"The {plural(num_shown, 'best setting')}: by the interquartile mean of the greedy returns, "
        "and among those that tie with the best, by the area under these curves.",
        "members": settings_table(finished),
        "command": None,
    }


def setup_texts(base: Mapping[str, Any], points: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """The value of each hyperparameter, or the values that the settings of a sweep have of it."""
    swept = {name for point in points for name in point}
    texts = {name: option_text(value) for name, value in base.items()}
    return texts | {name: swept_text([point.get(name, base.get(name)) for point in points]) for name in sorted(swept)}


def swept_text(values: Sequence[Any], most: int = 8) -> str:
    """Lists a few swept values: "swept: 3e-4, 0.003". Of many it gives the number, and the range if they have one."""
    distinct = {show_value(tuple(x) if isinstance(x, list) else x): x for x in values}
    if len(distinct) <= most:
        return f"swept: {', '.join(distinct)}"
    if not all(map(is_number, distinct.values())):
        return f"swept: {len(distinct)} values"
    least, *_, greatest = sorted(distinct, key=distinct.__getitem__)
    return f"swept: {len(distinct)} values, {least} to {greatest}"


def films(folder: Path) -> list[Film]:
    """The films of a run folder, in the order of the training, as long as the page has room for them."""
    found, total = [], 0
    for *_, name, path in sorted((*film_place(path.stem), path) for path in folder.glob("*.gif")):
        size = path.stat().st_size
        fits = size <= FILM_BYTES and total + size <= FILMS_BYTES
        total += size if fits else 0
        found.append(Film(name if fits else path.name, data_uri(path) if fits else "", f"{size / 1e6:.1f}"))
    return found


def film_place(stem: str) -> tuple[int, int, str]:
    """Where a film comes: before training, in the course of it, after it, or after these; and its caption."""
    kind, _, text = stem.partition("-")
    number = int(text) if text.isdecimal() else None
    if kind == "after" and number is not None:
        return 1, number, f"seed 0, after {number} updates"
    if kind == "seed" and number is not None:
        return 3, number, f"seed {number}, after training"
    if stem in ("before", "after"):
        return (0 if stem == "before" else 2), 0, f"seed 0, {stem} training"
    return 4, 0, stem


def data_uri(path: Path) -> str:
    """A picture as an address that holds its bytes; "" without a file."""
    if not path.exists():
        return ""
    return f"data:image/{path.suffix[1:]};base64,{base64.b64encode(path.read_bytes()).decode()}"


def seed_table(population: Population, summary: Mapping[str, Any]) -> Members:
    """The final greedy return and own metrics of each seed, the best first, and where a seed diverged."""
    final = population.final_returns()
    diverged = summary.get("diverged_at") or [None] * len(final)
    order = np.argsort(np.where(np.isnan(final), np.inf, -final), kind="stable")[:SEED_LINES].tolist()
    numbers = {return_name(summary): final}
    numbers |= {f"last {name}": last_values(population, name) for name in own_metrics(population)}
    columns = {"seed": [str(i) for i in order]}
    columns |= {name: [number_text(float(x[i])) for i in order] for name, x in numbers.items()}
    lost, notes = sum(update is not None for update in diverged), []
    if lost:
        notes.append(f"{plural(lost, 'seed')} of {len(final)} diverged.")
        columns["diverged in update"] = ["" if diverged[i] is None else str(diverged[i]) for i in order]
    if len(final) > SEED_LINES:
        notes.append(f"The best {SEED_LINES} of {len(final):,}; metrics.npz and summary.json have all.")
    marked = [row for row, i in enumerate(order) if diverged[i] is not None]
    return Members("Seeds", notes, [list(columns), *map(list, zip(*columns.values(), strict=True))], marked)


def settings_table(finished: FinishedSweep) -> Members:
    """The table of a sweep, with the median over seeds of the last value of each own metric."""
    sweep, (head, *rows) = finished.sweep, sweep_rows(finished, most=SETTINGS)
    ranked = [sweep[row.setting] for row in sweep.table()[:SETTINGS]]
    for name in {name: None for population in ranked for name in own_metrics(population)}:
        head = [*head, f"last {name}"]
        for row, population in zip(rows, ranked, strict=True):
            values = last_values(population, name) if name in own_metrics(population) else np.empty(0)
            known = values[~np.isnan(values)]
            row.append(number_text(float(np.median(known)) if known.size else math.nan))
    notes = [f"The best {SETTINGS} of {len(sweep):,}; table.csv has all."] if len(sweep) > SETTINGS else []
    return Members("Settings", notes, [head, *rows], [])


def command(spec: RunSpec) -> list[str]:
    """The words that start a run anew: its preset and all that differs from it."""
    known = spec.preset in PRESETS
    words = ["purejaxppo", "train", *(["--preset", spec.preset] if known else []), "--env", spec.env]
    words += [] if spec.agent is None else ["--agent", spec.agent if ":" in spec.agent else "FILE.py:FUNCTION"]
    for name, value in spec.env_params.items():
        words += ["--env-param", f"{name}={value!r}"]
    words += ["--seeds", str(spec.num_seeds), "--seed", str(spec.seed)]
    if spec.placement != "seeds" or spec.num_members < jax.device_count():  # else "auto" chooses it
        words += ["--placement", spec.placement]
    base = PRESETS[spec.preset].config if known and spec.agent is None else None  # an agent may bring its own
    for field in dataclasses.fields(spec.config):
        value = getattr(spec.config, field.name)
        if value is not None and (base is None or getattr(base, field.name, None) != value):
            words += [f"--config.{field.name.replace('_', '-')}", option_text(value)]
    return words


def made_with(config: Mapping[str, Any], summary: Mapping[str, Any]) -> dict[str, str]:
    """The devices, the memory, the git revision and the versions of a run."""
    memory = summary.get("peak_memory_bytes")
    return {
        "devices": summary.get("devices") or "unknown",
        "peak memory": "unknown" if memory is None else f"{memory / 2**30:.2f} GiB",
        "git revision": config.get("git_revision") or "none: not in a repository",
        **config["versions"],
    }


def describe(spec: RunSpec) -> str:
    """One line about the environment, the preset and the length of a run."""
    changed = "".join(f", {name} = {value:g}" for name, value in spec.env_params.items())
    preset = f"{shown_preset(spec.preset, spec.config)}, " if spec.preset else ""
    agent = "" if spec.agent is None else f"agent {spec.agent}, "
    return f"{spec.env}{changed}; {agent}{preset}{spec.config.actual_timesteps:,} environment steps a seed"


def flat(summary: Mapping[str, Any]) -> dict[str, str]:
    """The numbers of a summary, exactly; of a list, the first SEED_LINES."""
    return {
        name: json.dumps(value[:SEED_LINES] if isinstance(value, list) else value) for name, value in summary.items()
    }


def number_text(value: float) -> str:
    """A number in up to six digits, or "none" for NaN."""
    return "none" if math.isnan(value) else f"{value:.6g}"
