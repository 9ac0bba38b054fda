"""--write-config: writes what a command would run to a TOML file, which --config reads."""

import argparse
from typing import Any

import tomli_w

from purejaxppo.cli.run_spec import load_source, make_spec
from purejaxppo.runs.run_file import dashed, toml_value
from purejaxppo.runs.spec import RunSpec
from purejaxppo.runs.train import check_checkpoints
from purejaxppo.utils.errors import PPOError
from purejaxppo.utils.files import write_whole


def write_config(options: argparse.Namespace) -> int:
    """Writes the file. -> exit status"""
    if options.resume is not None:
        raise PPOError(f"{options.resume / 'config.json'} has what the run is; leave out --write-config")
    source = load_source(options)
    check_checkpoints(spec := make_spec(options, source))
    text = tomli_w.dumps(run_table(options, spec))
    write_whole(options.write_config, lambda file: file.write(text.encode()))
    print(f"written; run it with purejaxppo {options.command} --config {options.write_config}")
    return 0


def run_table(options: argparse.Namespace, spec: RunSpec) -> dict[str, Any]:
    """The run under the names of its options, with every hyperparameter."""
    plain = {
        "preset": spec.preset,
        "env": spec.env,
        "agent": spec.agent,
        "seeds": spec.num_seeds,
        "seed": spec.seed,
        "out": None if options.out is None else str(options.out),
        "placement": options.placement,
        "checkpoint_every": spec.checkpoint_every,
        "keep": options.keep_checkpoints,
        "keep_best": options.keep_best,
        "log_names": options.log_names,
        "init_from": spec.init_from,
        "random": options.random,
        "random_seed": options.random_seed,
        **{name: getattr(options, name) for name in ("test_seeds", "space", "search", "trials", "batch")},
    }
    tables = {"config": vars(spec.config), "env-param": spec.env_params, "over": dict(options.over or {})}
    return {dashed(name): value for name, value in plain.items() if value is not None} | {
        table: {dashed(name): toml_value(value) for name, value in content.items() if value is not None}
        for table, content in tables.items()
        if content
    }
