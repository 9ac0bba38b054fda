"""Seconds to solve CartPole-v1: the search for the preset `fast`, and its settings against others on fresh seeds.

python benchmarks/solve.py search [--settings 60] [--seeds 16] [--first-seed 1000] [--json OUT]
python benchmarks/solve.py check [--presets fast cleanrl] [--seeds 64] [--first-seed 0] [--repeats 3] [--json OUT]

A seed has solved the task when its greedy policy has a mean return of at least 475 over 100 fresh episodes at the end
of its training; the learning rate goes down to 0 there, so the length of the training is one of the settings. `search`
draws settings at random, trains each on seeds that are not reported elsewhere, and lists them by how many seeds solved
it, then by seconds. `check` trains whole presets and lists the seconds with compilation, each in a process of its own
without any cache. Nothing else should be running.
"""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np

import purejaxppo as pjp
from purejaxppo.ppo.config import Config
from purejaxppo.runs.presets import PRESETS, SOLVED_AT
from purejaxppo.utils.files import write_json

TASK = "CartPole-v1"
EPISODES = 100
SPACE: dict[str, Any] = {
    "shape": [(8, 32, 1), (8, 32, 2), (8, 64, 2), (16, 32, 2), (16, 32, 4), (16, 64, 4), (32, 32, 4), (32, 32, 8)],
    "hidden_sizes": [(64, 64), (32, 32), (64, 32), (64,)],
    "update_epochs": [4, 6, 8, 10],
    "total_timesteps": [40_000, 50_000, 60_000, 80_000],
    "learning_rate": pjp.log_uniform(1e-3, 1e-2),
    "gamma": [0.98, 0.99],
    "gae_lambda": [0.8, 0.9, 0.95],
    "clip_eps": [0.2, 0.3],
    "max_grad_norm": [0.5, 1.0],
}
FIXED = {"ent_coef": 0.0, "clip_value": False}


def make_config(point: dict[str, Any]) -> pjp.PPOConfig:
    """The config of a drawn setting; its shape is (num_envs, num_steps, num_minibatches)."""
    num_envs, num_steps, num_minibatches = point["shape"]
    rest = {name: value for name, value in point.items() if name != "shape"}
    return pjp.PPOConfig(num_envs=num_envs, num_steps=num_steps, num_minibatches=num_minibatches, **rest, **FIXED)


def try_setting(config: Config, num_seeds: int, first_seed: int) -> dict[str, Any]:
    """How many seeds solve the task with it, and in how many seconds of training."""
    population = pjp.train_population(
        pjp.make_env(TASK), config, num_seeds=num_seeds, seed=first_seed, evaluation_episodes=EPISODES
    )
    returns = population.final_returns()
    return {
        "solved": int(np.sum(returns >= SOLVED_AT[TASK])),
        "least": float(returns.min()),
        "train_seconds": population.train_seconds,
        "compile_seconds": population.compile_seconds,
    }


def search(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Random settings, best first."""
    rows = []
    for i, point in enumerate(pjp.draw_points(options.settings, SPACE, options.first_seed)):
        rows.append({**point, **try_setting(make_config(point), options.seeds, options.first_seed)})
        print(f"{i + 1:>4}  {show(rows[-1])}", flush=True)
    rows.sort(key=lambda row: (-row["solved"], row["train_seconds"]))
    print("\nby seeds solved, then by seconds")
    for row in rows[:10]:
        print(f"      {show(row)}")
    return rows


def check(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Whole presets in turn."""
    rows = []
    for repetition in range(options.repeats):
        for name in options.presets:
            command = [sys.executable, __file__, "one", "--presets", name, "--seeds", str(options.seeds)]
            command += ["--first-seed", str(options.first_seed + repetition)]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            rows.append({"preset": name, **json.loads(done.stdout.splitlines()[-1])})
            print(show(rows[-1]), flush=True)
    return rows


def one(options: argparse.Namespace) -> list[dict[str, Any]]:
    """One preset, in this process: seconds from here on, with the start of JAX and compilation."""
    started = time.perf_counter()
    row = try_setting(PRESETS[options.presets[0]].config, options.seeds, options.first_seed)
    row |= {"seeds": options.seeds, "all_seconds": time.perf_counter() - started}
    print(json.dumps(row))
    return [row]


def show(row: dict[str, Any]) -> str:
    """One line."""
    return "  ".join(f"{name} {f'{x:.3g}' if isinstance(x, float) else x}" for name, x in row.items())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["search", "check", "one"])
    parser.add_argument("--settings", type=int, default=60, help="that the search draws")
    parser.add_argument("--presets", nargs="+", default=["fast", "cleanrl"])
    parser.add_argument("--seeds", type=int, help="of each setting: 16 to search, 64 to check")
    parser.add_argument("--first-seed", type=int, help="1000 to search, 0 to check")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    searching = options.what == "search"
    options.seeds = options.seeds or (16 if searching else 64)
    options.first_seed = (1000 if searching else 0) if options.first_seed is None else options.first_seed
    rows = {"search": search, "check": check, "one": one}[options.what](options)
    if options.json:
        write_json(options.json, {"rows": rows, "jax": jax.__version__, "python": sys.version})


if __name__ == "__main__":
    main()
