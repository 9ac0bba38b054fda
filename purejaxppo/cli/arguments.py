"""The options of each command, and what is said of them."""

import argparse
import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from purejaxppo import __version__
from purejaxppo.cli.options import (
    a_name,
    a_path,
    file_to_write,
    one_of,
    read_assignment,
    read_bytes,
    read_domain,
    read_interval,
    reader_of,
    whole_from,
)
from purejaxppo.envs import env_names
from purejaxppo.population.logs import NAMES
from purejaxppo.population.processes import HEARTBEAT
from purejaxppo.population.program import EVALUATION_SEED
from purejaxppo.population.sharding import PLACEMENTS
from purejaxppo.ppo.config import Config, PPOConfig, option_text
from purejaxppo.runs.presets import PRESETS, Preset, default_preset, find_preset
from purejaxppo.runs.run_file import read_words
from purejaxppo.utils.files import read_json
from purejaxppo.utils.suggest import unknown
from purejaxppo.utils.validation import MAX_SEED, MAX_STEPS

MAX_SETTINGS = 1_000_000  # that --random draws
MAX_FILMED = 1_000_000  # steps of the episode that `render` plays: each of them is held in memory
SHELLS = ("bash", "zsh", "tcsh")
BACKENDS = ("gymnax", "gymnasium")
_EXAMPLES = """examples:
  purejaxppo train                                   16 seeds of CartPole-v1, in seconds
  purejaxppo train --env Acrobot-v1 --seeds 64       with the preset of that environment
  purejaxppo eval runs/a --episodes 1000             new episodes of its policies
  purejaxppo COMMAND --help                          all options of a command"""
_TRAIN_EXAMPLES = """examples:
  purejaxppo train --env Pendulum-v1 --seeds 64 --out runs/a --checkpoint-every 5m
  purejaxppo train --resume runs/a
  purejaxppo train --resume runs/a --config.total-timesteps 2e6
  purejaxppo train --preset cleanrl --config.learning-rate 1e-3 --env-param length=0.7"""
_SWEEP_EXAMPLES = """examples:
  purejaxppo sweep --over learning-rate=1e-4,3e-4,1e-3 --over hidden-sizes=64x64,128 --seeds 16
  purejaxppo sweep --over learning-rate=log:1e-5:1e-2 --over gamma=uniform:0.9:0.999 --random 32"""
# What the other commands do, and examples.
_ABOUT = {
    "eval": (
        "Plays new episodes with the final policies of a run: IQM of the greedy returns, and how many solve the task.",
        """  purejaxppo eval runs/a --episodes 1000
  purejaxppo eval runs/a --backend gymnasium         in an environment that shares no code with what trained them
  purejaxppo eval runs/a --sampled --json eval.json""",
    ),
    "render": (
        "Films an episode of a final policy, where the environment can be drawn.",
        """  purejaxppo render runs/a                           the best seed by greedy return, as a GIF
  purejaxppo render runs/a --seed 3 --out film.mp4""",
    ),
    "plot": (
        "Draws the training returns of runs of one environment, and compares their final greedy returns.",
        """  purejaxppo plot runs/a
  purejaxppo plot runs/a runs/b --out comparison.pdf""",
    ),
    "report": (
        "Writes report.html of a finished run or sweep anew: one file that needs no network.",
        """  purejaxppo report runs/a
  purejaxppo report runs/a --out a.html""",
    ),
    "doctor": (
        "Looks at JAX, the devices, the memory and the disk, and says what to mend; status 1 where something is.",
        """  purejaxppo doctor
  purejaxppo doctor --env my_envs.py:make_env --network my_nets.py:make_network""",
    ),
    "bench": (
        "Measures the speed of training on this machine, and how far it is from the machine's limits.",
        """  purejaxppo bench --quick
  purejaxppo bench --seeds 16 256 --out bench.json""",
    ),
    "envs": (
        "Lists the environments, with the kinds of their actions and observations.",
        """  purejaxppo envs
  purejaxppo envs brax                               those of a suite that is installed beside it""",
    ),
    "presets": (
        "Lists the presets: their environments, sizes, and where their settings come from.",
        """  purejaxppo presets
  purejaxppo train --preset fast                     trains with one of them""",
    ),
    "completion": (
        "Prints what completes the commands, their options and the names of environments in a shell.",
        """  eval "$(purejaxppo completion bash)"               in this shell; in ~/.bashrc, in all
  purejaxppo completion zsh > ~/.zfunc/_purejaxppo""",
    ),
}
# What each option of --config.* means; the defaults are the preset's.
_CONFIG_HELP = {
    "num_envs": "environments stepped in parallel, for each seed",
    "num_steps": "steps of each environment in one rollout",
    "total_timesteps": "environment steps of each seed, over all its environments",
    "update_epochs": "passes over a rollout",
    "num_minibatches": "minibatches of one pass",
    "learning_rate": "of Adam, in the first update",
    "anneal_lr": "true or false: the learning rate follows lr-schedule",
    "lr_schedule": "linear or cosine, to 0; constant; or adaptive, which follows the KL",
    "desired_kl": "nats; the mean KL of an update that the adaptive rate aims at",
    "adam_eps": "Adam's epsilon",
    "gamma": "discount per step, 0 to 1",
    "gae_lambda": "lambda of the advantages, 0 to 1",
    "clip_eps": "the ratio stays within 1 +- this",
    "clip_eps_schedule": "constant; linear or cosine, to 0 at the end",
    "clip_value": "true or false: clip the value like the ratio",
    "vf_coef": "weight of the value loss",
    "ent_coef": "weight of the entropy bonus",
    "ent_coef_schedule": "constant; linear or cosine, to 0 at the end",
    "max_grad_norm": "global norm; inf does not clip",
    "normalize_advantage": "true or false: to mean 0 and standard deviation 1",
    "normalize_advantage_over": "each minibatch, or the whole batch",
    "target_kl": "nats; an update's passes over the data end beyond it",
    "kl_stop": "epoch or minibatch: whose KL is compared",
    "kl_estimator": "approx_kl, or log_ratio as in the Keras example",
    "activation": "tanh, relu, gelu, silu or elu",
    "hidden_sizes": "of each tower, as 64,64",
    "share_trunk": "true or false: actor and critic share all layers but the last",
    "cell": "gru or lstm: what remembers",
    "cell_size": "numbers in the memory of each tower",
    "sequence_length": "steps that a gradient goes back; all of a rollout by default",
    "box_policy": "clipped or squashed: how a Gaussian keeps to its bounds",
    "box_std": "shared: one standard deviation for all states; state: a function of it",
    "policy_iterations": "full-batch steps of the policy in an update, at most",
    "value_iterations": "full-batch steps of the value in an update",
    "policy_learning_rate": "of the policy's Adam",
    "value_learning_rate": "of the value's Adam",
    "bootstrap_time_limits": "true or false: a time limit is worth V, not 0",
    "normalize_obs": "true or false: by running mean and standard deviation",
    "normalize_reward": "true or false: by the running scale of the return",
}


class Parser(argparse.ArgumentParser):
    """argparse, with one line for an error, and the nearest option for an unknown one."""

    def __init__(self, **options: Any) -> None:
        super().__init__(allow_abbrev=False, **options)
        self.source = ""  # "FILE: " while words come from a file

    def error(self, message: str) -> NoReturn:
        """Leaves with status 2."""
        self.exit(2, f"{self.prog}: error: {self.source}{' '.join(message.splitlines())}\n")

    def refuse(self, word: str) -> NoReturn:
        """Leaves with status 2 because of a word that is no option of this command."""
        option = word.split("=")[0]
        if not option.startswith("-"):
            self.error(f"{word!r} is one word too many; leave it out, or see {self.prog} --help")
        options = [name for action in self._actions for name in action.option_strings]
        presets = [] if "--preset" not in options else presets_with(option)
        if presets:
            self.error(f"the preset has no {option}; take --preset {presets[0]}, which has it")
        self.error(unknown("option", option, options))

    def check_switch(self, option: str) -> None:
        """Leaves with status 2 unless the option is one that takes no value, and so can be false."""
        if option not in self._option_string_actions:
            self.refuse(option)
        if self._option_string_actions[option].nargs != 0:
            self.error(f"argument {option}: false is no value of it; give another, or leave it out")


def presets_with(option: str) -> list[str]:
    """The presets whose hyperparameters the option is one of."""
    options = {
        preset: [config_option(field.name) for field in dataclasses.fields(PRESETS[preset].config)]
        for preset in PRESETS
    }
    return [preset for preset, names in options.items() if option in names]


def config_option(name: str) -> str:
    """The option of a hyperparameter."""
    return f"--config.{name.replace('_', '-')}"


def read_options(words: Sequence[str]) -> argparse.Namespace:
    """What the words say; and where they name a file with --config, what that says and the words do not."""
    path = chosen_file(words)
    of_file, switched_off = ([], []) if path is None else read_words(path)
    parser, commands = make_parser(chosen_preset([*words[:1], *of_file, *words[1:]]))
    find_command(commands, parser, words)
    if path is None:
        return parse(parser, commands, words)
    commands[words[0]].source = f"{path}: "
    for option in switched_off:
        commands[words[0]].check_switch(option)
    base = parse(parser, commands, [words[0], *of_file])
    commands[words[0]].source = ""
    return merged(commands[words[0]], base, parse(parser, commands, words))


def parse(parser: Parser, commands: dict[str, Parser], words: Sequence[str]) -> argparse.Namespace:
    """The options of one command; leaves with status 2 for a word that is none."""
    known, rest = parser.parse_known_args(words)
    if rest:
        commands[known.command].refuse(rest[0])
    return known


def merged(command: Parser, base: argparse.Namespace, given: argparse.Namespace) -> argparse.Namespace:
    """The options given, and for the others those of `base`; of lists of names and values, name by name."""
    options = vars(given).copy()
    for name, value in vars(base).items():
        if options[name] == command.get_default(name):
            options[name] = value
        elif isinstance(value, list):
            again = {name for name, _ in options[name]}
            options[name] = [pair for pair in value if pair[0] not in again] + options[name]
    return argparse.Namespace(**options)


def chosen_file(words: Sequence[str]) -> Path | None:
    """The file that the words of a training name."""
    parser = Parser(add_help=False)
    parser.add_argument("--config", type=a_path, nargs="?")
    return parser.parse_known_args(words)[0].config if words[:1] in (["train"], ["sweep"]) else None


def find_command(commands: dict[str, Parser], parser: Parser, words: Sequence[str]) -> None:
    """Leaves with status 2 without a command, and where the first word is none."""
    if not words:
        parser.error(f"no command is given; take one of {', '.join(commands)}, or --help")
    for word in words:
        if not word.startswith("-"):
            if word not in commands:
                parser.error(unknown("command", word, list(commands)))
            return
        if word not in ("-h", "--help", "--version"):
            parser.refuse(word)


def chosen_preset(words: Sequence[str]) -> Preset:
    """The preset that the words name: its algorithm decides which hyperparameters there are."""
    parser = Parser(add_help=False)
    parser.add_argument("--preset", nargs="?")
    parser.add_argument("--env", nargs="?")
    parser.add_argument("--init-from", nargs="?")
    known, _ = parser.parse_known_args(words)
    if known.preset is None and known.init_from:
        known.preset = read_json(Path(known.init_from) / "config.json").get("preset")
    return find_preset(default_preset(known.env) if known.preset is None else known.preset)


def make_parser(preset: Preset) -> tuple[Parser, dict[str, Parser]]:
    """The parser, and that of each command."""
    parser = Parser(
        prog="purejaxppo",
        usage="purejaxppo COMMAND [OPTION ...]",
        description="PPO in JAX: thousands of seeds in one compiled program.",
        epilog=_EXAMPLES,
        formatter_class=_wide,
    )
    parser.add_argument("--version", action="version", version=f"purejaxppo {__version__}")
    add = parser.add_subparsers(
        dest="command", required=True, metavar="COMMAND", parser_class=Parser, prog=parser.prog
    ).add_parser
    commands = {
        "train": add(
            "train",
            usage="purejaxppo train [OPTION ...]",
            help="train a population of seeds, and write its run folder",
            epilog=_TRAIN_EXAMPLES,
            formatter_class=_wide,
        ),
        "sweep": add(
            "sweep",
            usage="purejaxppo sweep --over NAME=VALUES [OPTION ...]",
            help="train settings beside each other, each with seeds",
            epilog=_SWEEP_EXAMPLES,
            formatter_class=_wide,
        ),
        "eval": add("eval", help="play new episodes with the policies of a run", formatter_class=_wide),
        "render": add("render", help="film an episode of a run", formatter_class=_wide),
        "plot": add("plot", help="draw one run, or several beside each other", formatter_class=_wide),
        "report": add("report", help="write the page of a run or a sweep anew", formatter_class=_wide),
        "doctor": add("doctor", help="look at this machine, and an environment of your own", formatter_class=_wide),
        "bench": add(
            "bench", help="measure speed, and how far it is from this machine's limits", formatter_class=_wide
        ),
        "envs": add("envs", help="list the environments"),
        "presets": add("presets", help="list the presets"),
        "completion": add("completion", help="print what completes these commands in a shell", formatter_class=_wide),
    }
    commands["bench"].usage = "purejaxppo bench [OPTION ...]"
    for name, (description, examples) in _ABOUT.items():
        commands[name].description, commands[name].epilog = description, "examples:\n" + examples
        commands[name].formatter_class = _wide
    commands["envs"].add_argument("suite", metavar="SUITE", nargs="?", help="list those of brax or jumanji")
    commands["completion"].add_argument(
        "shell", metavar="SHELL", type=one_of(SHELLS), help='bash, zsh or tcsh: eval "$(purejaxppo completion bash)"'
    )
    _add_eval_options(commands["eval"])
    _add_render_options(commands["render"])
    _add_plot_options(commands["plot"])
    _add_report_options(commands["report"])
    _add_doctor_options(commands["doctor"])
    _add_bench_options(commands["bench"])
    _add_sweep_options(commands["sweep"])
    for name in ("train", "sweep"):
        _add_run_options(commands[name], preset)
    _add_log_options(commands["train"])
    return parser, commands


def completion_script(shell: str) -> str:
    """What completes the commands, their options, and the names of environments and presets in a shell."""
    import shtab

    parser, commands = make_parser(find_preset("cleanrl"))
    names = {"--env": env_names(), "--preset": list(PRESETS), "--placement": PLACEMENTS, "--log-names": list(NAMES)}
    names |= {"--backend": BACKENDS}
    for command in commands.values():
        for action in command._actions:
            option = (action.option_strings or [""])[-1]
            if option in names:
                action.choices = names[option]
            elif action.metavar in ("RUN", "FOLDER"):
                action.complete = shtab.DIRECTORY  # pyright: ignore[reportAttributeAccessIssue]
            elif action.metavar == "FILE":
                action.complete = shtab.FILE  # pyright: ignore[reportAttributeAccessIssue]
    commands["completion"]._actions[-1].choices = SHELLS
    return shtab.complete(parser, shell)


def _wide(prog: str) -> argparse.HelpFormatter:
    return argparse.RawDescriptionHelpFormatter(prog, max_help_position=38, width=120)


def _add_own_env_option(parser: Parser) -> None:
    parser.add_argument(
        "--env", metavar="FILE.py:CLASS", help="where the run is of an environment of yours: as it was trained with"
    )


def _add_eval_options(parser: Parser) -> None:
    parser.add_argument("folder", metavar="RUN", type=a_path, help="run folder")
    _add_own_env_option(parser)
    parser.add_argument("--episodes", metavar="N", type=whole_from(1), default=100, help="of each seed (default 100)")
    parser.add_argument("--seeds", metavar="N", type=whole_from(1), help="the first N seeds only (default all)")
    parser.add_argument(
        "--seed", metavar="N", type=whole_from(0, MAX_SEED), default=1, help="of the episodes (default 1)"
    )
    parser.add_argument("--sampled", action="store_true", help="draw actions as in training, not the most probable")
    parser.add_argument(
        "--backend",
        metavar="NAME",
        type=one_of(BACKENDS),
        default="gymnax",
        help="gymnax: as trained (default); gymnasium: Gymnasium's own environment of that name",
    )
    parser.add_argument("--json", metavar="FILE", type=file_to_write(".json"), help="write the numbers there too")


def _add_render_options(parser: Parser) -> None:
    parser.add_argument("folder", metavar="RUN", type=a_path, help="run folder")
    _add_own_env_option(parser)
    parser.add_argument(
        "--seed",
        metavar="I",
        type=whole_from(0),
        help="which seed's policy (default the one with the best final greedy return)",
    )
    parser.add_argument(
        "--start", metavar="N", type=whole_from(0, MAX_SEED), default=0, help="seed of the episode (default 0)"
    )
    parser.add_argument(
        "--max-steps", metavar="N", type=whole_from(1, MAX_FILMED), default=1_000, help="of the episode (default 1000)"
    )
    parser.add_argument(
        "--out",
        metavar="FILE",
        type=file_to_write(".gif", ".mp4"),
        help="the film, .gif or .mp4 (default RUN/seed-I.gif)",
    )


def _add_plot_options(parser: Parser) -> None:
    parser.add_argument(
        "folders", metavar="RUN", type=a_path, nargs="+", help="run folders, up to 8 of one environment"
    )
    _add_own_env_option(parser)
    parser.add_argument(
        "--out",
        metavar="FILE",
        type=file_to_write(".png", ".pdf", ".svg"),
        default=Path("comparison.png"),
        help="the picture, .png, .pdf or .svg (default comparison.png)",
    )


def _add_report_options(parser: Parser) -> None:
    parser.add_argument("folder", metavar="RUN", type=Path, help="run folder")
    _add_own_env_option(parser)
    parser.add_argument("--out", metavar="FILE", type=file_to_write(".html"), help="the page (default RUN/report.html)")


def _add_sweep_options(parser: Parser) -> None:
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
    name = next(name for name, entry in PRESETS.items() if entry is preset)
    _add_config_options(parser, preset.config, f"hyperparameters, with the defaults of the preset {name}")


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


def _add_doctor_options(parser: Parser) -> None:
    parser.add_argument(
        "--env",
        metavar="MODULE:FACTORY",
        help="look at this environment too, what the factory returns; or FILE.py:FACTORY, or a name",
    )
    parser.add_argument(
        "--network",
        metavar="MODULE:FACTORY",
        help="and at this network in it, in place of the default ones; the factory may take the Environment",
    )


def _add_bench_options(parser: Parser) -> None:
    parser.add_argument("--quick", action="store_true", help="tiny sizes, for a first look: the numbers mean little")
    parser.add_argument(
        "--seeds",
        metavar="N",
        nargs="+",
        type=whole_from(1),
        help="populations to train, one after the other (default 1 16 64 256 on a CPU, 1 64 1024 2048 8192 elsewhere)",
    )
    parser.add_argument(
        "--timesteps",
        metavar="N",
        type=whole_from(1, MAX_STEPS),
        help="environment steps of each seed (default 100,000 on a CPU, 500,000 elsewhere)",
    )
    parser.add_argument(
        "--repeats",
        metavar="N",
        type=whole_from(1),
        help="of each measurement, in turn; the median is shown (default 5)",
    )
    parser.add_argument("--out", metavar="FILE", type=file_to_write(".json"), help="write all that was measured there")
    _add_config_options(parser, PPOConfig(), "hyperparameters, PPOConfig's by default", without=("total_timesteps",))


def _add_config_options(parser: Parser, config: Config, title: str, without: Sequence[str] = ()) -> None:
    group = parser.add_argument_group(title)
    for field in dataclasses.fields(config):
        if field.name in without:
            continue
        group.add_argument(
            config_option(field.name),
            dest=f"config.{field.name}",
            metavar=_METAVARS.get(field.type, "X"),
            type=reader_of(field.name, field.type),
            help=f"{_CONFIG_HELP[field.name]} ({option_text(getattr(config, field.name))})",
        )


_METAVARS: dict[Any, str] = {int: "N", int | None: "N", bool: "BOOL", str: "NAME", tuple[int, ...]: "N,N"}
