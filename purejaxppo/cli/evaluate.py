"""purejaxppo eval: new episodes with the policies of a run."""

import argparse

from purejaxppo.cli.finished_run import add_run_argument
from purejaxppo.cli.option_types import file_to_write, one_of, whole_from
from purejaxppo.cli.parser import Command, Parser
from purejaxppo.envs.user_code import bring_env
from purejaxppo.runs.finished import evaluate_in_gymnasium, evaluate_run, evaluation_table, summarise_evaluation
from purejaxppo.runs.load import load_run
from purejaxppo.runs.presets import Preset
from purejaxppo.utils.files import write_json
from purejaxppo.utils.validation import MAX_SEED

BACKENDS = ("gymnax", "gymnasium")


def add_options(parser: Parser, _: Preset) -> None:
    """The run, the episodes, and where to play them."""
    add_run_argument(parser)
    parser.add_argument(
        "--episodes", metavar="N", type=whole_from(1), default=100, help="episodes per seed (default 100)"
    )
    parser.add_argument("--seeds", metavar="N", type=whole_from(1), help="play only the first N seeds (default all)")
    parser.add_argument(
        "--seed", metavar="N", type=whole_from(0, MAX_SEED), default=1, help="seed of the episodes (default 1)"
    )
    parser.add_argument(
        "--sampled", action="store_true", help="sample actions as in training (default: the most probable ones)"
    )
    parser.add_argument(
        "--backend",
        metavar="NAME",
        type=one_of(BACKENDS),
        default="gymnax",
        help="gymnax (default): as in training; gymnasium: Gymnasium's environment of that name",
    )
    parser.add_argument(
        "--json", metavar="FILE", type=file_to_write(".json"), help="write the results to a file as well"
    )


def evaluate(options: argparse.Namespace) -> int:
    """Plays the episodes and prints a table."""
    from rich.console import Console

    from purejaxppo.runs.console import print_table

    bring_env(options.env)
    play = {"gymnax": evaluate_run, "gymnasium": evaluate_in_gymnasium}[options.backend]
    run = load_run(options.folder)
    num_seeds = run.spec.num_seeds if options.seeds is None else min(options.seeds, run.spec.num_seeds)
    played = play(run, num_seeds, options.episodes, seed=options.seed, sampled=options.sampled)
    summary = summarise_evaluation(run.spec.solved_at, played) | {
        "backend": options.backend,
        "sampled": options.sampled,
    }
    if options.json is not None:
        write_json(options.json, summary)
    print_table(Console(), evaluation_table(summary))
    return 0


EVALUATE = Command(
    about="Plays new episodes with the policies of a run.",
    examples="""  purejaxppo eval runs/a --episodes 1000
  purejaxppo eval runs/a --backend gymnasium         in an environment that shares no code with the training
  purejaxppo eval runs/a --sampled --json eval.json""",
    add_options=add_options,
    run=evaluate,
)
