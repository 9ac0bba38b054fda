"""purejaxppo bench: the speed of training on this machine."""

import argparse
import os

import jax

from purejaxppo.cli.hyperparameters import add_config_options, given_fields
from purejaxppo.cli.option_types import file_to_write, whole_from
from purejaxppo.cli.parser import Command, Parser, option, switch
from purejaxppo.ppo.config import PPOConfig
from purejaxppo.runs.presets import Preset
from purejaxppo.utils.devices import use_all_cores
from purejaxppo.utils.errors import PPOError
from purejaxppo.utils.files import write_json
from purejaxppo.utils.validation import MAX_STEPS


def add_options(parser: Parser, _: Preset) -> None:
    """The sizes, and the hyperparameters of the training that is measured."""
    switch(parser, "--quick", "measure tiny sizes, for a first look: the numbers mean little")
    switch(parser, "--gpu", "measure a GPU: populations, large runs, compiler switches, and the time by kernel")
    about = "seeds of each population to train (default 1 16 64 256 on a CPU, 1 64 1024 2048 8192 elsewhere)"
    option(parser, "--seeds", "N", whole_from(1), about, nargs="+")
    about = "environment steps per seed (default 100,000 on a CPU, 500,000 elsewhere)"
    option(parser, "--timesteps", "N", whole_from(1, MAX_STEPS), about)
    option(parser, "--repeats", "N", whole_from(1), "repetitions of each measurement (default 5)")
    option(parser, "--out", "FILE", file_to_write(".json"), "write all measurements to a file")
    add_config_options(parser, PPOConfig(), "with the defaults of PPOConfig", without=("total_timesteps",))


def bench(options: argparse.Namespace) -> int:
    """Measures, and prints a table."""
    from rich.console import Console

    from purejaxppo.cli.bench.gpu import run_gpu_bench
    from purejaxppo.cli.bench.run import make_plan, run_bench, show_table

    config = PPOConfig(**given_fields(options, PPOConfig()))
    if options.gpu:
        check_gpu()
        kind, measure = "gpu", run_gpu_bench
    else:
        use_all_cores()
        kind, measure = "cpu" if jax.default_backend() == "cpu" else "accelerator", run_bench
    given = {name: getattr(options, name) for name in ("seeds", "timesteps", "repeats")}
    plan = make_plan("quick" if options.quick else kind, config, given)
    with Console(stderr=True).status("starting") as status:  # shows nothing when stderr is redirected
        report = measure(config, plan, say=status.update)
    print(show_table(report))
    if options.out is not None:
        write_json(options.out, report)
    return 0


def check_gpu() -> None:
    """Raises PPOError without a GPU. Leaves its memory to the processes that measure."""
    os.environ["XLA_PYTHON_CLIENT_PREALLOCATE"] = "false"
    if jax.default_backend() == "cpu":
        raise PPOError('--gpu needs a GPU, and JAX finds none; on a machine with one: pip install "jax[cuda12]"')


BENCH = Command(
    about="Measures the speed of training, and how close it is to the limits of this machine.",
    examples="""  purejaxppo bench --quick
  purejaxppo bench --seeds 16 256 --out bench.json
  purejaxppo bench --gpu --out gpu.json""",
    add_options=add_options,
    run=bench,
    usage="purejaxppo bench [OPTION ...]",
)
