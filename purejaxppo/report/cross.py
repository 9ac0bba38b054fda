"""The page of a sweep over several environments: how its settings score over all of them, and in each."""

import math
from pathlib import Path

from purejaxppo.population.cross import CrossSweep
from purejaxppo.population.statistics import interval_text, iqm, with_interval
from purejaxppo.population.sweep import show_point, show_value
from purejaxppo.report.charts import COMPARED, profile_view, returns_of
from purejaxppo.report.page import SETTINGS, Members, plural, render_page
from purejaxppo.runs.presets import solved_at

DECIMALS = 3  # of a score, which is 1 at the upper bound


def write_cross(cross: CrossSweep, path: Path) -> None:
    """Writes the page of a sweep over several environments. Whole or not at all."""
    shown = {show_point(row.point): row.setting for row in cross.table()[:COMPARED]}
    scores = cross.scores()
    views = [profile_view({label: scores[i] for label, i in shown.items()}, "score")]
    for name, sweep in cross.sweeps.items():
        view = returns_of({label: sweep[i] for label, i in shown.items()}, solved_at(name, {}))
        views.append(view | {"name": f"{name}: {view['name']}"})
    num_steps = next(iter(cross.sweeps.values()))[0].agent.config.actual_timesteps
    parts = {
        "title": f"{', '.join(cross.sweeps)}: a sweep",
        "lead": f"{plural(len(cross.points), 'setting')} with {plural(scores.shape[1], 'seed')} each in each "
        f"environment; {num_steps:,} environment steps a seed",
        "numbers": first_rows(cross),
        "views": views,
        "curves_note": f"The {plural(len(shown), 'best setting')} over all environments together. A curve is the "
        "interquartile mean over seeds; a seed keeps its last return until its next episode ends.",
        "members": settings_table(cross),
    }
    render_page(path, parts)


def first_rows(cross: CrossSweep) -> dict[str, str]:
    """The best setting, its scores on tuning and on test seeds, and the scale of each environment."""
    best, tested = cross.table()[0], cross.test_score()
    rows = {"best setting": show_point(best.point)}
    if cross.tested is None or tested is None:
        rows["its score, IQM"] = with_interval(*best.score, digits=DECIMALS)
    else:
        counts = cross.scores().shape[1], next(iter(cross.tested.values())).num_seeds
        rows["its score, IQM"] = f"{with_interval(*best.score, digits=DECIMALS)} on the {counts[0]} tuning seeds"
        rows["the same on fresh seeds"] = f"{with_interval(*tested, digits=DECIMALS)} on {counts[1]} test seeds"
        rows["selection bias"] = f"{best.score.estimate - tested.estimate:z.{DECIMALS}f}, tuning minus test"
    origin = "" if cross.are_given else ", the least and the greatest IQM of these settings"
    return rows | {
        f"score 0 and 1 in {name}": f"{low:g} and {high:g}{origin}" for name, (low, high) in cross.bounds.items()
    }


def settings_table(cross: CrossSweep) -> Members:
    """The table of the settings, the best first: their scores over all environments, and their returns in each."""
    rows, names = cross.table(), list(dict.fromkeys(name for point in cross.points for name in point))
    lines = [[*names, "score, IQM", "95% interval", *(f"return in {name}, IQM" for name in cross.sweeps)]]
    for row in rows[:SETTINGS]:
        returns = [iqm(sweep[row.setting].final_returns()) for sweep in cross.sweeps.values()]
        lines.append(
            [
                *(show_value(row.point.get(name)) for name in names),
                f"{row.score.estimate:z.{DECIMALS}f}",
                interval_text(row.score.low, row.score.high, DECIMALS),
                *("none" if math.isnan(x) else f"{x:.1f}" for x in returns),
            ]
        )
    notes = ["A score is (return - low) / (high - low), pooled over seeds and environments."]
    notes += [f"The best {SETTINGS} of {len(rows):,}."] if len(rows) > SETTINGS else []
    return Members("Settings", notes, lines, [])
