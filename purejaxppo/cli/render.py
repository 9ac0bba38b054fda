"""purejaxppo render: a film of an episode."""

import argparse

import jax
import jax.numpy as jnp
import numpy as np

from purejaxppo.cli.finished_run import add_run_argument
from purejaxppo.cli.option_types import file_to_write, whole_from
from purejaxppo.cli.parser import Command, Parser
from purejaxppo.envs.user_code import bring_env
from purejaxppo.ppo.evaluate import record_episodes
from purejaxppo.ppo.factory import seed_keys
from purejaxppo.runs.load import load_run
from purejaxppo.runs.presets import Preset
from purejaxppo.utils.validation import MAX_SEED

MAX_FILMED = 1_000_000  # steps of an episode: each of them is held in memory


def add_options(parser: Parser, _: Preset) -> None:
    """The run, the episode, and the file of the film."""
    add_run_argument(parser)
    parser.add_argument(
        "--seed",
        metavar="I",
        type=whole_from(0),
        help="seed whose policy is filmed (default the one with the best final greedy return)",
    )
    parser.add_argument(
        "--start", metavar="N", type=whole_from(0, MAX_SEED), default=0, help="seed of the episode (default 0)"
    )
    parser.add_argument(
        "--max-steps",
        metavar="N",
        type=whole_from(1, MAX_FILMED),
        default=1_000,
        help="steps after which the episode is cut (default 1000)",
    )
    parser.add_argument(
        "--out",
        metavar="FILE",
        type=file_to_write(".gif", ".mp4"),
        help="file to write, .gif or .mp4 (default RUN/seed-I.gif)",
    )


def render(options: argparse.Namespace) -> int:
    """Plays the episode and writes the film."""
    from purejaxppo.report import check_film, check_picture, film_episode

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


RENDER = Command(
    about="Films an episode of a policy.",
    examples="""  purejaxppo render runs/a                           the seed with the best greedy return, as a GIF
  purejaxppo render runs/a --seed 3 --out film.mp4""",
    add_options=add_options,
    run=render,
)
