"""purejaxppo eval, render, plot and report: the commands that read finished runs."""

import argparse
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from rich.console import Console

from purejaxppo.cli.compile_cache import add_cache_option
from purejaxppo.cli.option_types import a_path, each_once, file_to_write, one_of, read_scale, whole_from
from purejaxppo.cli.parser import Command, Parser, option, switch
from purejaxppo.envs.user_code import bring_env
from purejaxppo.ppo.evaluate import record_episodes
from purejaxppo.ppo.factory import seed_keys
from purejaxppo.report import check_film, check_picture, film_episode, plot_comparison, rewrite_page
from purejaxppo.report.comparison import SHOWN, make_views, write_comparison
from purejaxppo.report.plots import plot_view
from purejaxppo.runs.comparison import compare, comparison_rows, course_rows, method_rows
from purejaxppo.runs.finished import (
    describe_wins,
    evaluate_in_gymnasium,
    evaluate_run,
    evaluation_table,
    labels_of,
    summarise_evaluation,
)
from purejaxppo.runs.load import LoadedRun, load_run
from purejaxppo.runs.presets import Preset
from purejaxppo.utils.errors import PPOError
from purejaxppo.utils.files import write_json
from purejaxppo.utils.validation import MAX_SEED

BACKENDS = ("gymnax", "gymnasium")
MAX_FILMED = 1_000_000  # steps of an episode: each of them is held in memory


def add_run_options(parser: Parser) -> None:
    """Adds --env and --agent, which name the files of the user's own environment and agent, and --cache."""
    option(parser, "--env", "FILE.py:CLASS", str, "your own environment, if it was given in training")
    option(parser, "--agent", "FILE.py:FUNCTION", str, "your own agent, if it was given in training")
    add_cache_option(parser)


def add_run(parser: Parser) -> None:
    """Adds the folder of a run, and the options that go with it."""
    option(parser, "folder", "RUN", a_path, "folder of a finished run")
    add_run_options(parser)


def add_evaluation(parser: Parser, _: Preset) -> None:
    """The run, the episodes, and where to play them."""
    add_run(parser)
    option(parser, "--episodes", "N", whole_from(1), "episodes per seed (default 100)", default=100)
    option(parser, "--seeds", "N", whole_from(1), "play only the first N seeds (default all)")
    option(parser, "--seed", "N", whole_from(0, MAX_SEED), "seed of the episodes (default 1)", default=1)
    switch(parser, "--sampled", "sample actions as in training (default: the most probable ones)")
    about = "gymnax (default): as in training; gymnasium: Gymnasium's environment of that name"
    option(parser, "--backend", "NAME", one_of(BACKENDS), about, default="gymnax")
    option(parser, "--json", "FILE", file_to_write(".json"), "write the results to a file as well")


def evaluate(options: argparse.Namespace) -> int:
    """Plays the episodes and prints a table."""
    from purejaxppo.runs.console import print_table  # which loads more of rich

    bring_env(options.env)
    play = evaluate_run if options.backend == "gymnax" else evaluate_in_gymnasium
    run = load_run(options.folder)
    num_seeds = min(options.seeds or run.spec.num_seeds, run.spec.num_seeds)
    played = play(run, num_seeds, options.episodes, seed=options.seed, sampled=options.sampled)
    summary = summarise_evaluation(run.spec.solved_at, played)
    summary |= {"backend": options.backend, "sampled": options.sampled}
    if options.json is not None:
        write_json(options.json, summary)
    print_table(Console(), evaluation_table(summary))
    return 0


def add_film(parser: Parser, _: Preset) -> None:
    """The run, the episode, and the file of the film."""
    add_run(parser)
    about = "seed whose policy is filmed (default the one with the best final greedy return)"
    option(parser, "--seed", "I", whole_from(0), about)
    option(parser, "--start", "N", whole_from(0, MAX_SEED), "seed of the episode (default 0)", default=0)
    about = "steps after which the episode is cut (default 1000)"
    option(parser, "--max-steps", "N", whole_from(1, MAX_FILMED), about, default=1_000)
    option(
        parser, "--out", "FILE", file_to_write(".gif", ".mp4"), "file to write, .gif or .mp4 (default RUN/seed-I.gif)"
    )


def render(options: argparse.Namespace) -> int:
    """Plays the episode and writes the film."""
    bring_env(options.env)
    run = load_run(options.folder)
    check_picture(run.agent.env)
    seed = run.population.best() if options.seed is None else options.seed
    out = options.out or options.folder / f"seed-{seed}.gif"
    check_film(out)
    state = jax.tree.map(lambda x: jnp.asarray(x)[None], run.seed(seed).train_state)
    episode = record_episodes(run.agent, state, seed_keys(options.start, 1)[0], max_steps=options.max_steps)[0]
    last, length = film_episode(run.agent.env, episode, out), len(episode.reward)
    cut = f", cut by --max-steps {options.max_steps}: the episode had not ended" if episode.is_cut else ""
    part = f"; the film shows the first {last}" if last < length else ""
    print(f"seed {seed}: {length} steps, greedy return {np.sum(episode.reward):g}{cut}, in {out}{part}")
    return 0


def add_plot(parser: Parser, _: Preset) -> None:
    """The runs and the file of the picture."""
    about = "folders of finished runs, 8 at most; on several environments the i-th runs of each are one method"
    option(parser, "folders", "RUN", a_path, about, nargs="+")
    add_run_options(parser)
    about = (
        "learning curves (default), percentiles of the seeds over training, the share of seeds above each final return "
        f"(profile), or the share that has solved it (times): {', '.join(SHOWN)}; with --scale: profile alone"
    )
    option(parser, "--show", "NAME", one_of(SHOWN), about)
    add_scale(parser)
    about = "file to write, .png, .pdf or .svg (default comparison.png)"
    option(parser, "--out", "FILE", file_to_write(".png", ".pdf", ".svg"), about, default=Path("comparison.png"))


def plot(options: argparse.Namespace) -> int:
    """Draws the curves and prints a table of the final returns."""
    from purejaxppo.runs.console import print_rows  # which loads more of rich

    runs, scales = read_runs("plot", options), each_once("--scale", options.scale or [])
    comparison = compare(runs, scales)
    shown = options.show or ("profile" if scales else "returns")
    if scales and shown != "profile":
        raise PPOError(f"--show {shown} has the returns of one environment; leave out --scale")
    if shown != "returns":
        views, title = make_views(comparison)[shown], ", ".join(comparison.envs)
        if not views:
            raise PPOError(f"--show {shown}: {title} has no return that counts as solved; take another")
        plot_view(views[0], options.out, title=title)
        print_rows(Console(), method_rows(comparison))
        print(f"drawn in {options.out}")
        return 0
    curves = [
        (label, run.population.timesteps, run.population.column("episode_return_mean")) for label, run in runs.items()
    ]
    returns = {label: run.population.final_returns() for label, run in runs.items()}
    note = describe_wins(returns) if len(runs) == 2 else None
    target = next((run.spec.solved_at for run in runs.values() if run.spec.solved_at is not None), None)
    plot_comparison(curves, options.out, title=comparison.envs[0], solved_at=target, note=note)
    print_rows(Console(), comparison_rows(returns))
    print()
    print_rows(Console(), course_rows(runs))
    print(f"drawn in {options.out}")
    return 0


def add_page(parser: Parser, _: Preset) -> None:
    """The runs and the file of the page."""
    about = "folder of a finished run or sweep; of several runs, which may be on several environments, as plot has them"
    option(parser, "folders", "RUN", a_path, about, nargs="+")
    add_run_options(parser)
    add_scale(parser)
    about = "file to write (default RUN/report.html, of several runs comparison.html)"
    option(parser, "--out", "FILE", file_to_write(".html"), about)


def report(options: argparse.Namespace) -> int:
    """Writes the page of a run or sweep, or one that compares several runs."""
    if len(options.folders) == 1 and not options.scale:
        bring_env(options.env)
        print(f"written to {rewrite_page(options.folders[0], options.out)}")
        return 0
    out = options.out or Path("comparison.html")
    write_comparison(compare(read_runs("report", options), each_once("--scale", options.scale or [])), out)
    print(f"written to {out}")
    return 0


def add_scale(parser: Parser) -> None:
    """Adds --scale, which makes the returns of several environments comparable."""
    about = "returns of an environment that count as 0 and 1; needed for each of several environments"
    option(parser, "--scale", "ENV=LOW:HIGH", read_scale, about, action="append")


def read_runs(command: str, options: argparse.Namespace) -> dict[str, LoadedRun]:
    """The runs by their labels. Raises PPOError if one is named twice."""
    bring_env(options.env)
    each_once(command, [(str(folder), folder) for folder in options.folders])
    return {label: load_run(folder) for label, folder in zip(labels_of(options.folders), options.folders, strict=True)}


EVALUATE = Command(
    about="Plays new episodes with the policies of a run.",
    examples="""  purejaxppo eval runs/a --episodes 1000
  purejaxppo eval runs/a --backend gymnasium         in an environment that shares no code with the training
  purejaxppo eval runs/a --sampled --json eval.json""",
    add_options=add_evaluation,
    run=evaluate,
)
RENDER = Command(
    about="Films an episode of a policy.",
    examples="""  purejaxppo render runs/a                           the seed with the best greedy return, as a GIF
  purejaxppo render runs/a --seed 3 --out film.mp4""",
    add_options=add_film,
    run=render,
)
PLOT = Command(
    about="Plots the learning curves of runs and compares their final returns.",
    examples="""  purejaxppo plot runs/a
  purejaxppo plot runs/a runs/b --out comparison.pdf
  purejaxppo plot runs/a runs/b --show percentiles   which share of the seeds a band holds
  purejaxppo plot a/cartpole b/cartpole a/acrobot b/acrobot --scale CartPole-v1=20:500 --scale Acrobot-v1=-500:-70""",
    add_options=add_plot,
    run=plot,
)
REPORT = Command(
    about="Writes report.html of a run or sweep again, or a page that compares runs.",
    examples="""  purejaxppo report runs/a
  purejaxppo report runs/a --out a.html
  purejaxppo report runs/a runs/b --out comparison.html""",
    add_options=add_page,
    run=report,
)
