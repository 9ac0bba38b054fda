"""purejaxppo export: the policy of a run in a file that acts without this library."""

import argparse

from purejaxppo.cli.finished import add_run
from purejaxppo.cli.option_types import file_to_write, one_of, whole_from
from purejaxppo.cli.parser import Command, Parser, option, switch
from purejaxppo.envs.user_code import bring_env
from purejaxppo.runs.export import FORMATS, export_policy, format_of
from purejaxppo.runs.load import load_run
from purejaxppo.runs.presets import Preset
from purejaxppo.utils.errors import PPOError


def add_export(parser: Parser, _: Preset) -> None:
    """The run, the seed, and the file."""
    add_run(parser)
    about = "npz: NumPy alone; jax: jax alone; onnx: onnxruntime (default npz, or the suffix of --out)"
    option(parser, "--format", "NAME", one_of(FORMATS), about)
    about = "seed whose policy is exported (default the one with the best final greedy return)"
    option(parser, "--seed", "I", whole_from(0), about)
    about = "file to write, .npz, .jax or .onnx (default RUN/policy.FORMAT)"
    option(parser, "--out", "FILE", file_to_write(*(f".{kind}" for kind in FORMATS)), about)
    switch(parser, "--sampled", "sample actions, with a key as one more input; only for --format jax")


def export(options: argparse.Namespace) -> int:
    """Writes the policy."""
    bring_env(options.env)
    of_file = None if options.out is None else options.out.suffix.removeprefix(".")
    kind = options.format or of_file or "npz"
    if of_file not in (None, kind):
        raise PPOError(f"--out {options.out} is not of --format {kind}; give .{kind}")
    out = options.out or options.folder / f"policy.{kind}"
    format_of(out, sampled=options.sampled)
    run = load_run(options.folder)
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
