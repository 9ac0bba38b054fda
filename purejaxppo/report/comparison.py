"""Methods side by side: a picture of one chart, and a page of all charts and tables."""

from pathlib import Path

from purejaxppo.report.charts import View, find_curve, returns_view, x_axis
from purejaxppo.report.curves import CURVE_COLOURS, INCHES, LEGEND, LEGEND_INCHES, draw_solved, fit_labels, make_axes
from purejaxppo.report.distribution_views import percentile_view, profile_view, time_view
from purejaxppo.report.files import write_figure
from purejaxppo.report.page import Members, plural, render_page
from purejaxppo.runs.comparison import Comparison, course_rows, method_rows
from purejaxppo.utils.errors import PPOError

SHOWN = ("returns", "percentiles", "profile", "times")  # charts of a comparison
ABOUT_COURSE = (
    "The mean training return is the area under the learning curve, per environment step. Seeds that do not reach the "
    "target are censored (Kaplan and Meier); a bound that the data do not tell is not known."
)


def make_views(comparison: Comparison) -> dict[str, list[View]]:
    """The charts by their name in SHOWN: one for each environment, and one profile over all of them."""
    check_number(len(comparison.methods))
    views: dict[str, list[View]] = {name: [] for name in SHOWN}
    for i, env in enumerate(comparison.envs):
        runs = {label: each[i] for label, each in comparison.methods.items()}
        populations = {label: run.population for label, run in runs.items()}
        curves = [(label, find_curve(population)) for label, population in populations.items()]
        target = next((run.spec.solved_at for run in runs.values() if run.spec.solved_at is not None), None)
        across = x_axis(next(iter(populations.values())))[0]
        found = {"returns": returns_view(curves, target, across), "percentiles": percentile_view(populations)}
        if target is not None:
            found["times"] = time_view(populations, target)
        for name, view in found.items():
            views[name].append(view | {"name": f"{env}: {view['name']}" if len(comparison.envs) > 1 else view["name"]})
    views["profile"].append(profile_view(comparison.scores, comparison.score_name))
    return views


def check_number(num_methods: int) -> None:
    """Raises PPOError for more methods than colours tell apart."""
    if num_methods > len(CURVE_COLOURS):
        raise PPOError(f"{num_methods} methods; give 1 to {len(CURVE_COLOURS)}, more cannot be told apart by colour")


def plot_view(view: View, path: Path, *, title: str, note: str | None = None) -> None:
    """Writes one chart as a picture: each line in its band. note: a line above the legend. Whole or not at all."""
    from matplotlib.ticker import EngFormatter, MaxNLocator

    series = view["series"]
    num_rows = len(series) + (note is not None) + (view["target"] is not None)
    figure, axes = make_axes(title, height=INCHES[1] + LEGEND_INCHES * num_rows)
    for colour, label, one in zip(CURVE_COLOURS, fit_labels([one["label"] for one in series]), series, strict=False):
        mid, low, high = ([float("nan") if x is None else x for x in one[name]] for name in ("mid", "low", "high"))
        axes.plot(one["x"], mid, color=colour, linewidth=1.3, label=label)
        axes.fill_between(one["x"], low, high, color=colour, alpha=0.2, linewidth=0)
    axes.update_datalim([(series[0]["x"][0], y) for y in view["y_range"]])
    axes.autoscale_view()
    draw_solved(axes, view["target"])
    axes.set_xlabel(view["x_name"], fontsize=8)
    name = view["name"].replace(", ", ",\n")
    axes.set_ylabel(f"{name}\nband: {view['band_name']}", fontsize=8)
    axes.xaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
    if view["x_name"] == "environment steps":
        axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    handles = [line for line in axes.get_lines() if not str(line.get_label()).startswith("_")]
    figure.legend(handles=handles, loc="outside lower center", title=note, title_fontsize=LEGEND["fontsize"], **LEGEND)
    write_figure(figure, path)


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
