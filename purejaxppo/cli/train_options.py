"""The options of `purejaxppo train` and `purejaxppo sweep`."""

import argparse
import functools

from purejaxppo.cli.compile_cache import add_cache_option
from purejaxppo.cli.hyperparameters import add_config_options
from purejaxppo.cli.option_types import (
    a_name,
    a_path,
    file_to_write,
    read_assignment,
    read_domain,
    read_interval,
    whole_from,
)
from purejaxppo.cli.parser import Parser, option, switch
from purejaxppo.population.logs import NAMES
from purejaxppo.population.memory import parse_bytes
from purejaxppo.population.processes import HEARTBEAT
from purejaxppo.population.program import EVALUATION_SEED
from purejaxppo.population.sharding import AUTO, PLACEMENTS
from purejaxppo.population.spaces import MINIBATCHES
from purejaxppo.runs.presets import PRESETS, Preset
from purejaxppo.utils.validation import MAX_SEED

MAX_SETTINGS = 1_000_000  # that --random draws
TRIALS, BATCH = 64, 16  # of --search


def add_train_options(parser: Parser, preset: Preset) -> None:
    """The options of train."""
    _add_run_options(parser, preset)
    group = parser.add_argument_group("logs, in addition to progress.jsonl in the run folder")
    switch(group, "--tensorboard", "write event files to the run folder")
    about = "log to this project of Weights & Biases; WANDB_MODE=offline needs no network"
    option(group, "--wandb", "PROJECT", a_name, about)
    about = "naming of the logged numbers: sb3 (default) or cleanrl"
    option(group, "--log-names", "NAMES", str, about, choices=NAMES)
    parser.set_defaults(over=None, random=None, random_seed=None, test_seeds=None)
    parser.set_defaults(space=None, search=None, trials=None, batch=None)
    _add_hyperparameters(parser, preset)


def add_sweep_options(parser: Parser, preset: Preset) -> None:
    """The options of sweep."""
    about = (
        "values, or a range to draw from; repeat it for a grid: gamma=0.9,0.99  hidden-sizes=64x64,128  "
        "env.length=0.5,1  vf-coef=uniform:0.1:1  ent-coef=log:1e-4:0.1"
    )
    option(parser, "--over", "NAME=VALUES", read_domain, about, action="append")
    option(parser, "--random", "N", whole_from(1, MAX_SETTINGS), "draw N settings, instead of the whole grid")
    about = "a published space, instead of --over or beside it, which takes precedence"
    option(parser, "--space", "NAME", str, about, choices=MINIBATCHES)
    about = "let a model of the scores propose the settings (needs optuna)"
    option(parser, "--search", "NAME", str, about, choices=["tpe"])
    option(parser, "--trials", "N", whole_from(1, MAX_SETTINGS), f"settings that --search trains (default {TRIALS})")
    option(parser, "--batch", "N", whole_from(2), f"of them at a time; divides them (default {BATCH})")
    option(parser, "--random-seed", "N", whole_from(0, MAX_SEED), "seed of --random or --search (default 0)")
    option(parser, "--tune-seeds", "N", whole_from(1), argparse.SUPPRESS, dest="seeds")  # its name beside the next one
    about = "fresh seeds that test the best setting, which --seeds (or --tune-seeds) chose"
    option(parser, "--test-seeds", "N", whole_from(1), about)
    parser.set_defaults(tensorboard=False, wandb=None, log_names=None)
    _add_run_options(parser, preset)
    _add_hyperparameters(parser, preset)


def _add_run_options(parser: Parser, preset: Preset) -> None:
    add = functools.partial(option, parser)
    add("--config", "FILE", a_path, "read options from a TOML file; those given here take precedence")
    add("--write-config", "FILE", file_to_write(".toml"), "write the options to such a file, instead of training")
    add("--preset", "NAME", str, "settings to start from (default by environment; see purejaxppo presets)")
    add("--env", "NAME", str, "see purejaxppo envs; FILE.py:CLASS for your own (default the preset's)")
    add("--agent", "FILE.py:FUNCTION", str, "train your own agent: a function (env, config) -> agent")
    add("--env-param", "NAME=NUMBER", read_assignment, "a parameter of the environment", action="append")
    add("--seeds", "N", whole_from(1), f"seeds to train together (default {preset.num_seeds})")
    add("--seed", "N", whole_from(0, MAX_SEED - EVALUATION_SEED), "base of all seeds (default 0)")
    add("--out", "FOLDER", a_path, "run folder (default runs/ENV-DATE-TIME)")
    add("--resume", "FOLDER", a_path, "continue an interrupted run; with --total-timesteps N, extend a run to N steps")
    add("--init-from", "RUN", a_path, "start from a finished run's parameters; its settings are the defaults")
    about = "save a checkpoint every N updates, or after a time: 60s, 5m, 1.5h (default never)"
    add("--checkpoint-every", "N", read_interval, about)
    add("--keep", "N", whole_from(1), "newest checkpoints to keep (default 2)", dest="keep_checkpoints")
    switch(parser, "--keep-best", "also keep each seed at its best training return", default=None)
    add_cache_option(parser)
    add("--memory-limit", "SIZE", parse_bytes, "such as 4GiB or 500MB (default 90%% of the free memory)")
    about = "spread over devices: seeds, data (their environments), or auto (default)"
    add("--placement", "NAME", str, about, choices=(AUTO, *PLACEMENTS))
    shown = parser.add_mutually_exclusive_group()
    switch(shown, "--quiet", "print errors only")
    switch(shown, "--json-lines", "print one JSON object per line, for programs")
    switch(parser, "--strict", "exit with status 3 if an update was not finite")
    group = parser.add_argument_group("several processes that share the run folder, on one machine or many")
    switch(group, "--cluster", "take the next three from SLURM, GKE or Cloud TPU")
    option(group, "--coordinator", "HOST:PORT", str, "address of process 0")
    option(group, "--num-processes", "N", whole_from(1), "number of processes")
    option(group, "--process-id", "I", whole_from(0), "number of this process, from 0")
    about = f"time until a lost machine is noticed (default {HEARTBEAT})"
    option(group, "--heartbeat", "SECONDS", whole_from(1), about)


def _add_hyperparameters(parser: Parser, preset: Preset) -> None:
    name = next((f"the preset {name}" for name, entry in PRESETS.items() if entry is preset), "the file of --agent")
    add_config_options(parser, preset.config, f"with the defaults of {name}")
