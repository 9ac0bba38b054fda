"""purejaxppo plot: the learning curves of runs, beside each other."""

import argparse
from pathlib import Path

from purejaxppo.cli.finished_run import add_run_options
from purejaxppo.cli.option_types import a_path, each_once, file_to_write
from purejaxppo.cli.parser import Command, Parser
from purejaxppo.envs.user_code import bring_env
from purejaxppo.runs.finished import comparison_rows, describe_wins, labels_of
from purejaxppo.runs.load import load_run
from purejaxppo.runs.presets import Preset
from purejaxppo.utils.errors import PPOError


def add_options(parser: Parser, _: Preset) -> None:
    """The runs and the file of the picture."""
    parser.add_argument(
        "folders", metavar="RUN", type=a_path, nargs="+", help="folders of finished runs on one environment, 8 at most"
    )
    add_run_options(parser)
    parser.add_argument(
        "--out",
        metavar="FILE",
        type=file_to_write(".png", ".pdf", ".svg"),
        default=Path("comparison.png"),
        help="file to write, .png, .pdf or .svg (default comparison.png)",
    )


def plot(options: argparse.Namespace) -> int:
    """Draws the curves and prints a table of the final returns."""
    from rich.console import Console

    from purejaxppo.report import plot_comparison
    from purejaxppo.runs.console import print_rows

    bring_env(options.env)
    each_once("plot", [(str(folder), folder) for folder in options.folders])
    labels = labels_of(options.folders)
    runs = {label: load_run(folder) for label, folder in zip(labels, options.folders, strict=True)}
    named = {run.spec.env for run in runs.values()}
    if len(named) > 1:
        raise PPOError(f"the runs are of {', '.join(sorted(named))}, whose returns do not compare; plot them apart")
    curves = [
        (label, run.population.timesteps, run.population.column("episode_return_mean")) for label, run in runs.items()
    ]
    returns = {label: run.population.final_returns() for label, run in runs.items()}
    env, note = named.pop(), describe_wins(returns) if len(runs) == 2 else None
    targets = [run.spec.solved_at for run in runs.values() if run.spec.solved_at is not None]
    plot_comparison(curves, options.out, title=env, solved_at=next(iter(targets), None), note=note)
    print_rows(Console(), comparison_rows(returns))
    print(f"drawn in {options.out}")
    return 0


PLOT = Command(
    about="Plots the learning curves of runs and compares their final returns.",
    examples="""  purejaxppo plot runs/a
  purejaxppo plot runs/a runs/b --out comparison.pdf""",
    add_options=add_options,
    run=plot,
)
