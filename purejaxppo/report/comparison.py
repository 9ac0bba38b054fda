"""Methods side by side: their charts, and a page of all charts and tables."""

from pathlib import Path

from purejaxppo.report.charts import View, percentile_view, profile_view, returns_of, time_view
from purejaxppo.report.page import Members, plural, render_page
from purejaxppo.report.plots import check_number
from purejaxppo.runs.comparison import Comparison, course_rows, method_rows

SHOWN = ("returns", "percentiles", "profile", "times")  # charts of a comparison
ABOUT_COURSE = (
    "The mean training return is the area under the learning curve, per environment step. Seeds that do not reach the "
    "target are censored (Kaplan and Meier); a bound that the data do not tell is not known."
)


def make_views(comparison: Comparison) -> dict[str, list[View]]:
    """The charts by their name in SHOWN: one for each environment, and one profile over all of them."""
    check_number(len(comparison.methods), "methods")
    views: dict[str, list[View]] = {name: [] for name in SHOWN}
    for i, env in enumerate(comparison.envs):
        runs = {label: each[i] for label, each in comparison.methods.items()}
        populations = {label: run.population for label, run in runs.items()}
        target = next((run.spec.solved_at for run in runs.values() if run.spec.solved_at is not None), None)
        found = {"returns": returns_of(populations, target), "percentiles": percentile_view(populations)}
        if target is not None:
            found["times"] = time_view(populations, target)
        for name, view in found.items():
            views[name].append(view | {"name": f"{env}: {view['name']}" if len(comparison.envs) > 1 else view["name"]})
    views["profile"].append(profile_view(comparison.scores, comparison.score_name))
    return views


def write_comparison(comparison: Comparison, path: Path) -> None:
    """Writes a page about several methods: their charts, aggregates with intervals, and times. Whole or not at all."""
    runs = {f"{label}, {run.spec.env}": run for label, each in comparison.methods.items() for run in each}
    views = [view for of_name in make_views(comparison).values() for view in of_name]
    where = ", ".join(comparison.envs)
    parts = {
        "title": f"{plural(len(comparison.methods), 'method')} on {where}",
        "lead": f"{plural(len(runs), 'run')}. A band is a pointwise 95% interval, unless its chart says otherwise.",
        "views": views,
        "curves_note": "Learning curves show the interquartile mean over seeds; a seed keeps its last return until its "
        "next episode ends. A band of percentiles holds nine seeds of ten.",
        "members": Members("Final returns", [about_scores(comparison)], method_rows(comparison), []),
        "more": [Members("In the course of training", [ABOUT_COURSE], course_rows(runs), [])],
        "numbers": first_rows(comparison),
    }
    render_page(path, parts)


def about_scores(comparison: Comparison) -> str:
    """The scores and intervals of a comparison, in words."""
    scaled = f" Each environment is scaled to 0 and 1 by --scale, and all {len(comparison.envs)} count alike."
    return (
        "IQM with percentile-bootstrap intervals, means with BCa ones; seeds are resampled within each environment."
        + (scaled if comparison.is_scaled else "")
    )


def first_rows(comparison: Comparison) -> dict[str, str]:
    """The IQM of each method, for the top of the page."""
    head, *rows = method_rows(comparison)
    return {f"{row[0]}: {head[2]}": f"{row[2]}  (95% interval {row[3]})" if row[3] else row[2] for row in rows}
