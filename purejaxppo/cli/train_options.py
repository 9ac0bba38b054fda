"""The options of `purejaxppo train` and `purejaxppo sweep`."""

from purejaxppo.cli.compile_cache import add_cache_option
from purejaxppo.cli.hyperparameters import add_config_options
from purejaxppo.cli.option_types import (
    a_name,
    a_path,
    file_to_write,
    one_of,
    read_assignment,
    read_bytes,
    read_domain,
    read_interval,
    whole_from,
)
from purejaxppo.cli.parser import Parser
from purejaxppo.population.logs import NAMES
from purejaxppo.population.processes import HEARTBEAT
from purejaxppo.population.program import EVALUATION_SEED
from purejaxppo.population.sharding import PLACEMENTS
from purejaxppo.runs.presets import PRESETS, Preset
from purejaxppo.utils.validation import MAX_SEED

MAX_SETTINGS = 1_000_000  # that --random draws


def add_train_options(parser: Parser, preset: Preset) -> None:
    """The options of train."""
    _add_run_options(parser, preset)
    _add_log_options(parser)
    _add_hyperparameters(parser, preset)


def add_sweep_options(parser: Parser, preset: Preset) -> None:
    """The options of sweep."""
    parser.add_argument(
        "--over",
        metavar="NAME=VALUES",
        action="append",
        type=read_domain,
        help="values of a hyperparameter or environment parameter: gamma=0.9,0.99  hidden-sizes=64x64,128  "
        "env.length=0.5,1; with --random also a range: gamma=uniform:0.9:0.999  ent-coef=log:1e-4:0.1. "
        "Repeat it for a grid",
    )
    parser.add_argument(
        "--random", metavar="N", type=whole_from(1, MAX_SETTINGS), help="draw N settings, instead of the whole grid"
    )
    parser.add_argument("--random-seed", metavar="N", type=whole_from(0, MAX_SEED), help="seed of the draw (default 0)")
    _add_run_options(parser, preset)
    _add_hyperparameters(parser, preset)


def _add_run_options(parser: Parser, preset: Preset) -> None:
    add = parser.add_argument
    add("--config", metavar="FILE", type=a_path, help="read options from a TOML file; those given here take precedence")
    add(
        "--write-config",
        metavar="FILE",
        type=file_to_write(".toml"),
        help="write the options to a TOML file for --config, instead of training",
    )
    add("--preset", metavar="NAME", help="settings to start from (default by environment; see purejaxppo presets)")
    add("--env", metavar="NAME", help="see purejaxppo envs; FILE.py:CLASS for your own (default the preset's)")
    add("--agent", metavar="FILE.py:FUNCTION", help="train your own agent: a function (env, config) -> agent")
    add(
        "--env-param",
        metavar="NAME=NUMBER",
        action="append",
        type=read_assignment,
        help="a parameter of the environment",
    )
    add("--seeds", metavar="N", type=whole_from(1), help=f"seeds to train together (default {preset.num_seeds})")
    add("--seed", metavar="N", type=whole_from(0, MAX_SEED - EVALUATION_SEED), help="base of all seeds (default 0)")
    add("--out", metavar="FOLDER", type=a_path, help="run folder (default runs/ENV-DATE-TIME)")
    add(
        "--resume",
        metavar="FOLDER",
        type=a_path,
        help="continue an interrupted run; with --total-timesteps N, train any run up to N steps",
    )
    add(
        "--init-from",
        metavar="RUN",
        type=a_path,
        help="start from a finished run's parameters, seed by seed; its settings are the defaults",
    )
    add(
        "--checkpoint-every",
        metavar="N",
        type=read_interval,
        help="save a checkpoint every N updates, or after a time: 60s, 5m, 1.5h (default never)",
    )
    add(
        "--keep",
        dest="keep_checkpoints",
        metavar="N",
        type=whole_from(1),
        help="newest checkpoints to keep (default 2)",
    )
    add("--keep-best", action="store_true", default=None, help="also keep each seed at its best training return")
    add_cache_option(parser)
    add(
        "--memory-limit",
        metavar="SIZE",
        type=read_bytes,
        help="such as 4GiB or 500MB (default 90%% of the free memory)",
    )
    add(
        "--placement",
        metavar="NAME",
        type=one_of(PLACEMENTS),
        help="spread over devices: seeds (default), or data (the environments of each seed)",
    )
    shown = parser.add_mutually_exclusive_group()
    shown.add_argument("--quiet", action="store_true", help="print errors only")
    shown.add_argument("--json-lines", action="store_true", help="print one JSON object per line, for programs")
    add("--strict", action="store_true", help="exit with status 3 if an update was not finite")
    group = parser.add_argument_group("several processes that share the run folder, on one machine or many")
    group.add_argument("--cluster", action="store_true", help="take the next three from SLURM, GKE or Cloud TPU")
    group.add_argument("--coordinator", metavar="HOST:PORT", help="address of process 0")
    group.add_argument("--num-processes", metavar="N", type=whole_from(1), help="number of processes")
    group.add_argument("--process-id", metavar="I", type=whole_from(0), help="number of this process, from 0")
    group.add_argument(
        "--heartbeat",
        metavar="SECONDS",
        type=whole_from(1),
        help=f"time until a lost machine is noticed (default {HEARTBEAT})",
    )


def _add_log_options(parser: Parser) -> None:
    group = parser.add_argument_group("logs, in addition to progress.jsonl in the run folder")
    group.add_argument("--tensorboard", action="store_true", help="write event files to the run folder")
    group.add_argument(
        "--wandb",
        metavar="PROJECT",
        type=a_name,
        help="log to this project of Weights & Biases; WANDB_MODE=offline needs no network",
    )
    group.add_argument(
        "--log-names",
        metavar="NAMES",
        type=one_of(list(NAMES)),
        help="naming of the logged numbers: sb3 (default) or cleanrl",
    )


def _add_hyperparameters(parser: Parser, preset: Preset) -> None:
    name = next((f"the preset {name}" for name, entry in PRESETS.items() if entry is preset), "the file of --agent")
    add_config_options(parser, preset.config, f"with the defaults of {name}")
