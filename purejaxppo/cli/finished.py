"""The commands that read finished runs: eval, render, plot, report, export and reproduce."""

import argparse
import contextlib
import dataclasses
import tempfile
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from rich.console import Console

from purejaxppo.cli.compile_cache import add_cache_option
from purejaxppo.cli.option_types import a_path, each_once, file_to_write, read_scale, whole_from
from purejaxppo.cli.parser import Command, Parser, option, switch
from purejaxppo.envs.user_code import bring_env
from purejaxppo.population.memory import parse_bytes
from purejaxppo.ppo.evaluate import record_episodes
from purejaxppo.ppo.factory import seed_keys
from purejaxppo.report import check_film, check_picture, film_episode, plot_comparison, rewrite_page
from purejaxppo.report.comparison import SHOWN, make_views, write_comparison
from purejaxppo.report.plots import plot_view
from purejaxppo.runs.comparison import compare, comparison_rows, course_rows, method_rows
from purejaxppo.runs.export import FORMATS, export_policy, format_of
from purejaxppo.runs.finished import (
    describe_wins,
    evaluate_in_gymnasium,
    evaluate_run,
    evaluation_table,
    labels_of,
    summarise_evaluation,
)
from purejaxppo.runs.folder import make_run_folder
from purejaxppo.runs.load import LoadedRun, load_run
from purejaxppo.runs.presets import Preset
from purejaxppo.runs.reproduce import check_repeatable, describe, repeat
from purejaxppo.runs.spec import load_spec, spec_to_json
from purejaxppo.runs.train import plan
from purejaxppo.utils.errors import PPOError
from purejaxppo.utils.files import write_json
from purejaxppo.utils.lock import locked
from purejaxppo.utils.validation import MAX_SEED

MAX_FILMED = 1_000_000  # steps of an episode: each of them is held in memory
A_POLICY = "(default the one with the best final greedy return)"


def add_run_options(parser: Parser) -> None:
    """Adds --env and --agent, which name the files of the user's own environment and agent, and --cache."""
    option(parser, "--env", "FILE.py:CLASS", str, "your own environment, if it was given in training")
    option(parser, "--agent", "FILE.py:FUNCTION", str, "your own agent, if it was given in training")
    add_cache_option(parser)


def add_run(parser: Parser) -> None:
    """Adds the folder of a run, and the options that go with it."""
    option(parser, "folder", "RUN", a_path, "folder of a finished run")
    add_run_options(parser)


def add_scale(parser: Parser) -> None:
    """Adds --scale, which makes the returns of several environments comparable."""
    about = "returns of an environment that count as 0 and 1; needed for each of several environments"
    option(parser, "--scale", "ENV=LOW:HIGH", read_scale, about, action="append")


def bring_own(options: argparse.Namespace, *folders: Path) -> None:
    """Imports the user's environment. Raises PPOError for an --env or --agent that no run in these folders has."""
    bring_env(options.env)
    specs, runs = [load_spec(folder) for folder in folders], ", ".join(map(str, folders))
    envs = sorted({spec.env for spec in specs})
    if options.env not in (None, *envs):
        raise PPOError(
            f"{runs}: trained in {', '.join(envs)}, not in {options.env}; leave out --env, or play the policies "
            "there with pjp.evaluate, in Python"
        )
    if options.agent is not None and all(spec.agent is None for spec in specs):
        raise PPOError(f"{runs}: trained by the agent of its config; leave out --agent {options.agent}")


def open_run(options: argparse.Namespace) -> LoadedRun:
    """The run of a command that takes one."""
    bring_own(options, options.folder)
    return load_run(options.folder)


def open_runs(options: argparse.Namespace) -> dict[str, LoadedRun]:
    """The runs of a command that takes several, by their labels. Raises PPOError if one is named twice."""
    bring_own(options, *options.folders)
    each_once(options.command, [(str(folder), folder) for folder in options.folders])
    return {label: load_run(folder) for label, folder in zip(labels_of(options.folders), options.folders, strict=True)}


def add_evaluation(parser: Parser, _: Preset) -> None:
    """The run, the episodes, and where to play them."""
    add_run(parser)
    option(parser, "--episodes", "N", whole_from(1), "episodes per seed (default 100)", default=100)
    option(parser, "--seeds", "N", whole_from(1), "play only the first N seeds (default all)")
    option(parser, "--seed", "N", whole_from(0, MAX_SEED), "seed of the episodes (default 1)", default=1)
    switch(parser, "--sampled", "sample actions as in training (default: the most probable ones)")
    about = "gymnax (default): as in training; gymnasium: Gymnasium's environment of that name"
    option(parser, "--backend", "NAME", str, about, choices=("gymnax", "gymnasium"), default="gymnax")
    option(parser, "--json", "FILE", file_to_write(".json"), "write the results to a file as well")


def evaluate(options: argparse.Namespace) -> int:
    """Plays the episodes and prints a table."""
    from purejaxppo.runs.console import print_table  # which loads more of rich

    run = open_run(options)
    play = evaluate_run if options.backend == "gymnax" else evaluate_in_gymnasium
    num_seeds = min(options.seeds or run.spec.num_seeds, run.spec.num_seeds)
    played = play(run, num_seeds, options.episodes, seed=options.seed, sampled=options.sampled)
    summary = summarise_evaluation(run.spec.solved_at, played)
    summary |= {"backend": options.backend, "sampled": options.sampled}
    if options.json is not None:
        write_json(options.json, summary)
    print_table(Console(), evaluation_table(summary))
    return 0


EVALUATE = Command(
    about="Plays new episodes with the policies of a run.",
    examples="""  purejaxppo eval runs/a --episodes 1000
  purejaxppo eval runs/a --backend gymnasium         in an environment that shares no code with the training
  purejaxppo eval runs/a --sampled --json eval.json""",
    add_options=add_evaluation,
    run=evaluate,
)


def add_film(parser: Parser, _: Preset) -> None:
    """The run, the episode, and the file of the film."""
    add_run(parser)
    option(parser, "--seed", "I", whole_from(0), f"seed whose policy plays {A_POLICY}")
    option(parser, "--start", "N", whole_from(0, MAX_SEED), "seed of the episode (default 0)", default=0)
    about = "steps after which the episode is cut (default 1000)"
    option(parser, "--max-steps", "N", whole_from(1, MAX_FILMED), about, default=1_000)
    about = "file to write, .gif or .mp4 (default RUN/seed-I.gif)"
    option(parser, "--out", "FILE", file_to_write(".gif", ".mp4"), about)


def render(options: argparse.Namespace) -> int:
    """Plays the episode and writes the film."""
    run = open_run(options)
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


RENDER = Command(
    about="Makes a clip of an episode of a policy.",
    examples="""  purejaxppo render runs/a                           the seed with the best greedy return, as a GIF
  purejaxppo render runs/a --seed 3 --out film.mp4""",
    add_options=add_film,
    run=render,
)


def add_plot(parser: Parser, _: Preset) -> None:
    """The runs and the file of the picture."""
    about = "folders of finished runs, 8 at most; on several environments the i-th runs of each are one method"
    option(parser, "folders", "RUN", a_path, about, nargs="+")
    add_run_options(parser)
    about = (
        "learning curves (default), percentiles of the seeds over training, the share of seeds above each final return "
        f"(profile), or the share that has solved it (times): {', '.join(SHOWN)}; with --scale only profile"
    )
    option(parser, "--show", "NAME", str, about, choices=SHOWN)
    add_scale(parser)
    about = "file to write, .png, .pdf or .svg (default comparison.png)"
    option(parser, "--out", "FILE", file_to_write(".png", ".pdf", ".svg"), about, default=Path("comparison.png"))


def plot(options: argparse.Namespace) -> int:
    """Draws the curves and prints a table of the final returns."""
    from purejaxppo.runs.console import print_rows  # which loads more of rich

    runs, scales = open_runs(options), each_once("--scale", options.scale or [])
    comparison = compare(runs, scales)
    shown = options.show or ("profile" if scales else "returns")
    if scales and shown != "profile":
        raise PPOError(f"--show {shown} has the returns of one environment; leave out --scale")
    title = ", ".join(comparison.envs)
    if shown == "returns":
        populations = {label: run.population for label, run in runs.items()}
        returns = {label: population.final_returns() for label, population in populations.items()}
        curves = [(label, x.timesteps, x.column("episode_return_mean")) for label, x in populations.items()]
        note = describe_wins(returns) if len(runs) == 2 else None
        target = next((run.spec.solved_at for run in runs.values() if run.spec.solved_at is not None), None)
        plot_comparison(curves, options.out, title=title, solved_at=target, note=note)
        print_rows(Console(), comparison_rows(returns))
        print()
        print_rows(Console(), course_rows(runs))
    else:
        views = make_views(comparison)[shown]
        if not views:
            raise PPOError(f"--show {shown}: {title} has no return that counts as solved; take another")
        plot_view(views[0], options.out, title=title)
        print_rows(Console(), course_rows(runs) if shown == "times" else method_rows(comparison))
    print(f"drawn in {options.out}")
    return 0


PLOT = Command(
    about="Plots the learning curves of runs and compares their final returns.",
    examples="""  purejaxppo plot runs/a
  purejaxppo plot runs/a runs/b --out comparison.pdf
  purejaxppo plot runs/a runs/b --show percentiles   which share of the seeds a band holds
  purejaxppo plot a/cartpole b/cartpole a/acrobot b/acrobot --scale CartPole-v1=20:500 --scale Acrobot-v1=-500:-70""",
    add_options=add_plot,
    run=plot,
)


def add_page(parser: Parser, _: Preset) -> None:
    """The runs and the file of the page."""
    about = "folder of a finished run or sweep, or folders of several runs to compare, as for purejaxppo plot"
    option(parser, "folders", "RUN", a_path, about, nargs="+")
    add_run_options(parser)
    add_scale(parser)
    about = "file to write (default RUN/report.html, of several runs comparison.html)"
    option(parser, "--out", "FILE", file_to_write(".html"), about)


def report(options: argparse.Namespace) -> int:
    """Writes the page of a run or sweep, or one that compares several runs."""
    if len(options.folders) == 1 and not options.scale:
        bring_own(options, *options.folders)
        out = rewrite_page(options.folders[0], options.out)
    else:
        out = options.out or Path("comparison.html")
        write_comparison(compare(open_runs(options), each_once("--scale", options.scale or [])), out)
    print(f"written to {out}")
    return 0


REPORT = Command(
    about="Writes report.html of a run or sweep again, or a page that compares runs.",
    examples="""  purejaxppo report runs/a
  purejaxppo report runs/a --out a.html
  purejaxppo report runs/a runs/b --out comparison.html""",
    add_options=add_page,
    run=report,
)


def add_export(parser: Parser, _: Preset) -> None:
    """The run, the seed, and the file."""
    add_run(parser)
    about = "npz: NumPy alone; jax: jax alone; onnx: onnxruntime (default npz, or the suffix of --out)"
    option(parser, "--format", "NAME", str, about, choices=FORMATS)
    option(parser, "--seed", "I", whole_from(0), f"seed whose policy is exported {A_POLICY}")
    about = "file to write, .npz, .jax or .onnx (default RUN/policy.FORMAT)"
    option(parser, "--out", "FILE", file_to_write(*(f".{kind}" for kind in FORMATS)), about)
    switch(parser, "--sampled", "sample actions, with a key as one more input; only for --format jax")


def export(options: argparse.Namespace) -> int:
    """Writes the policy."""
    of_file = None if options.out is None else options.out.suffix.removeprefix(".")
    kind = options.format or of_file or "npz"
    if of_file not in (None, kind):
        raise PPOError(f"--out {options.out} is not of --format {kind}; give .{kind}")
    out = options.out or options.folder / f"policy.{kind}"
    format_of(out, sampled=options.sampled)
    run = open_run(options)
    seed = run.population.best() if options.seed is None else options.seed
    files = export_policy(run.agent, run.seed(seed).train_state, out, sampled=options.sampled)
    print(f"policy of seed {seed} in {' and '.join(map(str, files))}")
    return 0


EXPORT = Command(
    about="Exports a trained policy, to act without this library.",
    examples="""  purejaxppo export runs/a                           RUN/policy.npz, and a module of NumPy that reads it
  purejaxppo export runs/a --format onnx --seed 3
  purejaxppo export runs/a --out policy.jax --sampled""",
    add_options=add_export,
    run=export,
)


def add_reproduce(parser: Parser, _: Preset) -> None:
    """The run, and the folder of its repetition."""
    add_run(parser)
    option(parser, "--out", "FOLDER", a_path, "keep the repetition in a new run folder (default: it is removed)")
    about = "such as 4GiB or 500MB (default 90%% of the free memory)"
    option(parser, "--memory-limit", "SIZE", parse_bytes, about)
    switch(parser, "--quiet", "print the comparison only")


def reproduce(options: argparse.Namespace) -> int:
    """Repeats the run and prints the comparison. -> 0 if it came out the same, at least within rounding; otherwise 1"""
    from purejaxppo.runs.console import make_view  # which loads more of rich

    bring_own(options, options.folder)
    spec = check_repeatable(options.folder)
    spec = dataclasses.replace(spec, checkpoint_every=None, keep_best=False)  # which change no result
    view = make_view(Console(quiet=options.quiet), spec)
    with contextlib.ExitStack() as stack:
        out = options.out or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="purejaxppo-")))
        make_run_folder(out)
        stack.enter_context(locked(out))
        view.begin(plan(spec), spec_to_json(spec))
        comparison = repeat(spec, options.folder, out, view, options.memory_limit)
    print(*describe(comparison), sep="\n")
    return 0 if comparison.is_same else 1


REPRODUCE = Command(
    about="Repeats a run from its folder, and says whether it came out the same.",
    examples="""  purejaxppo reproduce runs/a
  purejaxppo reproduce runs/a --out runs/a-again""",
    add_options=add_reproduce,
    run=reproduce,
)
