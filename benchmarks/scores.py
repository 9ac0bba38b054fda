"""What the presets learn: each trains its environment, and one table says how well and in how many seconds.

python benchmarks/scores.py [--presets acrobot pendulum ...] [--seeds 16] [--seed 0] [--json OUT]

A score is the greedy return of a seed's final policy, the mean of 100 episodes. The presets were chosen in runs on
seed 100 (`--seed 100`, 8 seeds); the default here is seed 0, whose members share no key with those. `minatar` takes
hours on a CPU and is not among the defaults.
"""

import argparse
import sys
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np
from rich.console import Console

import purejaxppo as pjp
from purejaxppo.population.placement import describe_devices
from purejaxppo.runs.console import print_rows
from purejaxppo.runs.finished import interval_text
from purejaxppo.runs.presets import PRESETS, SOLVED_AT, Preset, find_preset
from purejaxppo.storage import write_json

DEFAULT = [name for name, preset in PRESETS.items() if preset.family and name != "minatar"]
EPISODES = 100


def score(preset: Preset, num_seeds: int, seed: int) -> dict[str, Any]:
    """Trains a preset's environment with that many seeds."""
    population = pjp.train_population(
        pjp.make_env(preset.env), preset.config, num_seeds=num_seeds, seed=seed, evaluation_episodes=EPISODES
    )
    returns = population.final_returns()
    solved_at = SOLVED_AT.get(preset.env)
    return {
        "env": preset.env,
        "timesteps": preset.config.actual_timesteps,
        "iqm": population.aggregate().iqm._asdict(),
        "returns": returns.tolist(),
        "solved_at": solved_at,
        "seeds_solved": None if solved_at is None else int(np.sum(returns >= solved_at)),
        "train_seconds": population.train_seconds,
        "compile_seconds": population.compile_seconds,
    }


def table(scores: dict[str, dict[str, Any]], num_seeds: int) -> list[list[str]]:
    """A row for each preset, the head first."""
    head = [
        "environment",
        "preset",
        "steps a seed",
        "IQM",
        "95% interval",
        "worst seed",
        "solved",
        "train s",
        "compile s",
    ]
    rows = [
        [
            found["env"],
            name,
            f"{found['timesteps']:,}",
            f"{found['iqm']['estimate']:.1f}",
            interval_text(found["iqm"]["low"], found["iqm"]["high"]),
            f"{min(found['returns']):.1f}",
            "no threshold" if found["solved_at"] is None else f"{found['seeds_solved']} of {num_seeds}",
            f"{found['train_seconds']:.1f}",
            f"{found['compile_seconds']:.1f}",
        ]
        for name, found in scores.items()
    ]
    return [head, *rows]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--presets", nargs="+", default=DEFAULT, help=f"default: {' '.join(DEFAULT)}")
    parser.add_argument("--seeds", type=int, default=16)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()

    pjp.use_all_cores()
    scores = {}
    for name in options.presets:
        scores[name] = score(find_preset(name), options.seeds, options.seed)
        print(f"{name}: IQM {scores[name]['iqm']['estimate']:.1f}", file=sys.stderr, flush=True)
    print_rows(Console(width=140), table(scores, options.seeds))
    if options.json:
        report = {
            "scores": scores,
            "num_seeds": options.seeds,
            "seed": options.seed,
            "episodes": EPISODES,
            "devices": describe_devices(options.seeds, jax.devices()),
            "jax": jax.__version__,
            "python": sys.version,
            "time": time.strftime("%Y-%m-%d"),
        }
        write_json(options.json, report)


if __name__ == "__main__":
    main()
