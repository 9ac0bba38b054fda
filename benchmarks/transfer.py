"""Whether what is learned here is worth as much in Gymnasium's own environment, which shares no code with gymnax's.

python benchmarks/transfer.py [--presets cartpole acrobot pendulum] [--seeds 8] [--seed 0] [--episodes 100] [--json OUT]

Each preset trains its environment; each seed's final policy plays greedily, in new episodes, here and there. The table
has the IQM over the seeds with its 95% bootstrap interval in both, says whether the two intervals overlap and whether
Gymnasium's IQM lies within the one measured here, and the largest difference of a seed's two means, in standard errors.
"""

import argparse
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

import purejaxppo as pjp
from purejaxppo.cli import main as cli
from purejaxppo.population.statistics import iqm_interval, with_interval
from purejaxppo.runs.console import print_rows
from purejaxppo.runs.finished import evaluate_in_gymnasium, evaluate_run
from purejaxppo.runs.presets import SOLVED_AT
from purejaxppo.utils.files import versions, write_json

EVALUATION_SEED = 1  # of the episodes, as in `purejaxppo eval`


def transfer(preset: str, num_seeds: int, seed: int, num_episodes: int, folder: Path) -> dict[str, Any]:
    """Trains a preset's environment with that many seeds, and plays it in both."""
    words = ["train", "--preset", preset, "--seeds", str(num_seeds), "--seed", str(seed), "--out", str(folder)]
    if cli.main([*words, "--quiet"]) != 0:
        raise SystemExit(f"the training of {preset} failed")
    run = pjp.load_run(folder)
    played = {
        where: play(run, num_seeds, num_episodes, seed=EVALUATION_SEED, sampled=False).returns
        for where, play in (("here", evaluate_run), ("gymnasium", evaluate_in_gymnasium))
    }
    means = {where: returns.mean(axis=1) for where, returns in played.items()}
    solved_at = SOLVED_AT.get(run.spec.env)
    return {
        "env": run.spec.env,
        "iqm": {where: iqm_interval(mean)._asdict() for where, mean in means.items()},
        "mean_per_seed": {where: mean.tolist() for where, mean in means.items()},
        "solved_at": solved_at,
        "solved": {where: None if solved_at is None else int(np.sum(x >= solved_at)) for where, x in means.items()},
        "standard_errors_apart": standard_errors_apart(played["here"], played["gymnasium"]).tolist(),
    }


def standard_errors_apart(here: np.ndarray, there: np.ndarray) -> np.ndarray:
    """Each seed's difference in mean return over its standard error; 0 where neither varies. [S, E], [S, F] -> [S]"""
    difference = np.abs(here.mean(axis=1) - there.mean(axis=1))
    error = np.sqrt(here.var(axis=1) / here.shape[1] + there.var(axis=1) / there.shape[1])
    return np.where(difference == 0, 0.0, difference / np.where(error == 0, np.finfo(float).tiny, error))


def table(found: dict[str, dict[str, Any]]) -> list[list[str]]:
    """A row for each preset, the head first."""
    head = ["environment", "preset", "here, IQM", "Gymnasium, IQM", "overlap", "within", "solved there", "apart"]
    return [head, *(row(preset, one) for preset, one in found.items())]


def row(preset: str, one: dict[str, Any]) -> list[str]:
    """The cells of one preset."""
    here, there = one["iqm"]["here"], one["iqm"]["gymnasium"]
    overlap = here["low"] <= there["high"] and there["low"] <= here["high"]
    within = here["low"] <= there["estimate"] <= here["high"]
    seeds = len(one["mean_per_seed"]["here"])
    return [
        one["env"],
        preset,
        *(with_interval(*(x[name] for name in ("estimate", "low", "high"))) for x in (here, there)),
        "yes" if overlap else "no",
        "yes" if within else "no",
        "no threshold" if one["solved_at"] is None else f"{one['solved']['gymnasium']} of {seeds}",
        f"{max(one['standard_errors_apart']):.1f}",
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--presets", nargs="+", default=["cartpole", "acrobot", "pendulum"])
    parser.add_argument("--seeds", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--episodes", type=int, default=100, help="of each seed, in both")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()

    pjp.use_all_cores()
    with tempfile.TemporaryDirectory() as folder:
        found = {
            preset: transfer(preset, options.seeds, options.seed, options.episodes, Path(folder) / preset)
            for preset in options.presets
        }
    print_rows(Console(width=160), table(found))
    if options.json:
        settings = {"seeds": options.seeds, "seed": options.seed, "episodes": options.episodes}
        write_json(options.json, {"transfer": found, **settings, "versions": versions()})


if __name__ == "__main__":
    main()
