"""Tests if a field of the config changes what is learned, by comparing many seeds with and without it.

python benchmarks/parity.py --field compute_dtype bfloat16 [--envs CartPole-v1 Acrobot-v1 Pendulum-v1] [--seeds 64]
    [--timesteps 100352] [--seed 0] [--json OUT]

Two populations of each environment, of other seeds: one with the defaults of `CONFIGS`, one with the field changed. The
table has their median final return and the p values of the Kolmogorov-Smirnov test between them, for the final return
(of the episodes in the last tenth of training) and for the area under the curve (the mean over all updates). They train
from the base seeds `--seed` and the next one.
"""

import argparse
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from scipy import stats

import purejaxppo as pjp
from purejaxppo.cli.option_types import read_value
from purejaxppo.runs.console import print_rows
from purejaxppo.runs.presets import PRESETS
from purejaxppo.utils.files import versions, write_json

CONFIGS = {
    "CartPole-v1": PRESETS["fast"].config.replace(hidden_sizes=(64, 64), learning_rate=2e-3),
    "Acrobot-v1": PRESETS["acrobot"].config,
    "Pendulum-v1": PRESETS["pendulum"].config,
}
MEASURES = ("final", "area")


def learned(env: str, config: pjp.Config, num_seeds: int, seed: int) -> dict[str, np.ndarray]:
    """Each seed's final return and area under the curve, [S] each."""
    population = pjp.train_population(pjp.make_env(env), config, num_seeds=num_seeds, seed=seed, evaluation_episodes=0)
    curve = population.column("episode_return_mean")  # [S, U], NaN where no episode ended
    last = max(1, curve.shape[1] // 10)
    return {"final": np.nanmean(curve[:, -last:], axis=1), "area": np.nanmean(curve, axis=1)}


def compare(env: str, fields: dict[str, Any], num_seeds: int, timesteps: int, seed: int) -> dict[str, Any]:
    """The measures of both populations, and the p value of each."""
    config = CONFIGS[env].replace(total_timesteps=timesteps)
    without = learned(env, config, num_seeds, seed)
    changed = learned(env, config.replace(**fields), num_seeds, seed + 1)
    tests: dict[str, Any] = {name: stats.ks_2samp(without[name], changed[name]) for name in MEASURES}
    p = {name: float(test.pvalue) for name, test in tests.items()}
    lists = {"without": without, "changed": changed}
    return {"p": p} | {name: {m: x.tolist() for m, x in one.items()} for name, one in lists.items()}


def table(found: dict[str, dict[str, Any]]) -> list[list[str]]:
    """A row for each environment, the head first."""
    head = ["environment", *(f"{name}, median {of}" for name in MEASURES for of in ("without", "changed"))]
    rows = [
        [env, *(f"{np.median(one[of][name]):.1f}" for name in MEASURES for of in ("without", "changed"))]
        + [f"{one['p'][name]:.2f}" for name in MEASURES]
        for env, one in found.items()
    ]
    return [[*head, *(f"p, {name}" for name in MEASURES)], *rows]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--field", nargs=2, metavar=("NAME", "VALUE"), required=True)
    parser.add_argument("--envs", nargs="+", choices=CONFIGS, default=list(CONFIGS))
    parser.add_argument("--seeds", type=int, default=64)
    parser.add_argument("--timesteps", type=int, default=100_352, help="of each seed")
    parser.add_argument("--seed", type=int, default=0, help="the base seed without the change; the next one is with it")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()

    pjp.use_all_cores()
    fields = {options.field[0].replace("-", "_"): read_value(options.field[1])}
    found = {env: compare(env, fields, options.seeds, options.timesteps, options.seed) for env in options.envs}
    print_rows(Console(width=160), table(found))
    if options.json:
        settings = {"fields": fields, "seeds": options.seeds, "timesteps": options.timesteps, "seed": options.seed}
        write_json(options.json, {"parity": found, **settings, "versions": versions()})


if __name__ == "__main__":
    main()
