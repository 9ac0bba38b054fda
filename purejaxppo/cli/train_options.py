"""The options of `purejaxppo train` and `purejaxppo sweep`."""

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
        help="values of a hyperparameter or environment parameter: learning-rate=1e-4,3e-4  hidden-sizes=64x64,128  "
        "env.length=0.5,1; or a range for --random: learning-rate=log:1e-5:1e-2  gamma=uniform:0.9:0.999. "
        "Several make a grid",
    )
    parser.add_argument(
        "--random", metavar="N", type=whole_from(1, MAX_SETTINGS), help="draw N settings instead of the whole grid"
    )
    parser.add_argument("--random-seed", metavar="N", type=whole_from(0, MAX_SEED), help="of the draw (default 0)")
    _add_run_options(parser, preset)
    _add_hyperparameters(parser, preset)


def _add_run_options(parser: Parser, preset: Preset) -> None:
    add = parser.add_argument
    add("--config", metavar="FILE", type=a_path, help="a TOML file with these options; those given here go first")
    add("--write-config", metavar="FILE", type=file_to_write(".toml"), help="write what would run to a file, and end")
    add("--preset", metavar="NAME", help="settings to start from (default by environment; see purejaxppo presets)")
    add(
        "--env",
        metavar="NAME",
        help="environment (default the preset's), or yours: FILE.py:CLASS (see purejaxppo envs)",
    )
    add("--agent", metavar="FILE.py:FUNCTION", help="train an agent of yours: a function (env, config) -> agent")
    add("--env-param", metavar="NAME=NUMBER", action="append", type=read_assignment, help="one of its parameters")
    add("--seeds", metavar="N", type=whole_from(1), help=f"seeds, trained together (default {preset.num_seeds})")
    add("--seed", metavar="N", type=whole_from(0, MAX_SEED - EVALUATION_SEED), help="the seed of them all (default 0)")
    add("--out", metavar="FOLDER", type=a_path, help="run folder (default runs/ENV-DATE-TIME, or the next free name)")
    add(
        "--resume",
        metavar="FOLDER",
        type=a_path,
        help="go on with an interrupted run; with --config.total-timesteps N extend it, or one that is finished, to N",
    )
    add(
        "--init-from",
        metavar="RUN",
        type=a_path,
        help="begin a new run with the parameters of a finished one, seed by seed; its settings are the defaults",
    )
    add(
        "--checkpoint-every",
        metavar="N",
        type=read_interval,
        help="updates between checkpoints, or the time: 60s, 5m, 1.5h (default none)",
    )
    add("--keep", dest="keep_checkpoints", metavar="N", type=whole_from(1), help="newest checkpoints kept (default 2)")
    add("--keep-best", action="store_true", default=None, help="keep each seed at its best training return, for good")
    add("--memory-limit", metavar="SIZE", type=read_bytes, help="4GiB, 500MB, ... (default 90%% of what is free)")
    add(
        "--placement",
        metavar="NAME",
        type=one_of(PLACEMENTS),
        help="spread over devices: seeds (default), or data, the environments of each run",
    )
    shown = parser.add_mutually_exclusive_group()
    shown.add_argument("--quiet", action="store_true", help="print errors only")
    shown.add_argument("--json-lines", action="store_true", help="print JSON objects, one a line, for programs")
    add("--strict", action="store_true", help="leave with status 3 where an update was not finite")
    group = parser.add_argument_group("several processes, on one machine or many, that share the run folder")
    group.add_argument("--cluster", action="store_true", help="as SLURM, GKE or Cloud TPU has started them")
    group.add_argument("--coordinator", metavar="HOST:PORT", help="of process 0; with the next two, for any others")
    group.add_argument("--num-processes", metavar="N", type=whole_from(1), help="how many there are")
    group.add_argument("--process-id", metavar="I", type=whole_from(0), help="which this one is, from 0")
    group.add_argument(
        "--heartbeat", metavar="SECONDS", type=whole_from(1), help=f"until a lost machine is noticed ({HEARTBEAT})"
    )


def _add_log_options(parser: Parser) -> None:
    group = parser.add_argument_group("logs, beside progress.jsonl in the run folder")
    group.add_argument("--tensorboard", action="store_true", help="event files in the run folder")
    group.add_argument(
        "--wandb", metavar="PROJECT", type=a_name, help="Weights & Biases; WANDB_MODE=offline needs no network"
    )
    group.add_argument(
        "--log-names",
        metavar="NAMES",
        type=one_of(list(NAMES)),
        help="whose names the numbers have: sb3 (default) or cleanrl",
    )


def _add_hyperparameters(parser: Parser, preset: Preset) -> None:
    name = next((f"the preset {name}" for name, entry in PRESETS.items() if entry is preset), "the file of --agent")
    add_config_options(parser, preset.config, f"hyperparameters, with the defaults of {name}")
