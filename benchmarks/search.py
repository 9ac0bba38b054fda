"""Successive halving and population-based training against random search, at equal environment steps.

python benchmarks/search.py [--first-seed 0] [--repetitions 8] [--json OUT]

The task: CartPole-v1, 98,304 steps a run (192 updates of 4 environments x 128 steps), and six hyperparameters over
ranges so wide that most draws fail. Each search may take the steps of 10 whole runs: random search draws 10;
successive halving draws 64, of which 16 and then 4 go on; population-based training has 10 members and 48 generations.
In repetition s all three take the same key, so population-based training starts from the very draws of random search.

A search hands over the run that it ranks first by its training episodes. What is compared is the greedy return of that
policy over 100 fresh episodes, the same for the three.

The task, its budget, the ranges and the sizes of the searches were chosen in runs on seeds 100 to 115 and 200 to 215,
before seeds 0 to 7 were looked at. On Acrobot-v1 with narrower ranges random search succeeded too often to tell.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
from scipy import stats

import purejaxppo as pjp
from purejaxppo.population.halving import make_successive_halving
from purejaxppo.population.pbt import make_pbt
from purejaxppo.population.search import SearchResult, Space
from purejaxppo.population.sweep import log_uniform, uniform

TASK = "CartPole-v1"
CONFIG = pjp.PPOConfig(total_timesteps=192 * 512)
SPACE: Space = {
    "learning_rate": log_uniform(1e-7, 1.0),
    "ent_coef": log_uniform(1e-4, 1.0),
    "gamma": uniform(0.0, 1.0),
    "gae_lambda": uniform(0.0, 1.0),
    "clip_eps": log_uniform(0.01, 1.0),
    "vf_coef": log_uniform(0.05, 5.0),
}
BUDGET = 10 * CONFIG.actual_timesteps
EPISODES = 100

Search = Callable[[jax.Array], SearchResult]


def make_searches() -> dict[str, Search]:
    """The searches by name."""
    env = pjp.make_env(TASK)
    return {
        "random search": make_successive_halving(env, CONFIG, SPACE, num_members=10, num_rungs=1),
        "successive halving": make_successive_halving(env, CONFIG, SPACE, num_members=64, eta=4, num_rungs=3),
        "population-based training": make_pbt(env, CONFIG, SPACE, num_members=10, interval=4),
    }


def make_trial(search: Search) -> Callable[[jax.Array], tuple[jax.Array, jax.Array, jax.Array]]:
    """key -> (greedy return [100] of the policy that is found, its score in the search, steps of each member [N])"""
    agent = pjp.make_ppo(pjp.make_env(TASK), CONFIG)

    def try_search(key: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        found = search(jax.random.fold_in(key, 0))
        best = jax.tree.map(lambda x: x[found.best], found.runners.train_state)
        returns, _ = pjp.evaluate(agent, best, jax.random.fold_in(key, 1), EPISODES)
        return returns, found.scores[found.best], found.timesteps

    return jax.jit(try_search)


def run_trials(search: Search, seeds: range) -> dict[str, list[float]]:
    """The mean greedy return, the score and the steps of each repetition, and the seconds of all."""
    trial = make_trial(search)
    started = time.perf_counter()
    rows = [jax.device_get(trial(jax.random.key(seed))) for seed in seeds]
    return {
        "greedy_return": [float(np.mean(returns)) for returns, _, _ in rows],
        "training_score": [float(score) for _, score, _ in rows],
        "timesteps": [int(np.sum(steps, dtype=np.int64)) for _, _, steps in rows],
        "seconds_with_compilation": [time.perf_counter() - started],
    }


def print_table(trials: dict[str, dict[str, list[float]]], seeds: range) -> None:
    """A row for each search, a column for each repetition."""
    print(f"{'greedy return, seed':28}" + "".join(f"{seed:>8}" for seed in seeds) + f"{'mean':>9}{'p':>8}")
    base = trials["random search"]["greedy_return"]
    for name, trial in trials.items():
        returns = trial["greedy_return"]
        p = "" if returns == base else f"{one_sided_p(returns, base):.3f}"
        print(f"{name:28}" + "".join(f"{x:8.1f}" for x in returns) + f"{np.mean(returns):9.1f}{p:>8}")


def one_sided_p(returns: list[float], base: list[float]) -> float:
    """Wilcoxon's signed-rank p that the returns are no better than the base, paired by repetition."""
    result: Any = stats.wilcoxon(returns, base, alternative="greater")  # its attributes are made at run time
    return float(result.pvalue)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--repetitions", type=int, default=8)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    seeds = range(options.first_seed, options.first_seed + options.repetitions)

    trials = {name: run_trials(search, seeds) for name, search in make_searches().items()}
    if any(steps != BUDGET for trial in trials.values() for steps in trial["timesteps"]):
        raise SystemExit(f"a search took other than {BUDGET:,} environment steps")
    print(f"{TASK}, {BUDGET:,} environment steps for each search, {EPISODES} greedy episodes for each policy")
    print_table(trials, seeds)
    for name, trial in trials.items():
        print(f"{name}: {trial['seconds_with_compilation'][0]:.0f} s for all repetitions, compilation included")
    if options.json:
        base = trials["random search"]["greedy_return"]
        report = {
            "task": TASK,
            "total_timesteps": CONFIG.actual_timesteps,
            "budget": BUDGET,
            "space": {name: [type(domain).__name__, *domain] for name, domain in SPACE.items()},
            "seeds": list(seeds),
            "trials": trials,
            "p": {name: one_sided_p(t["greedy_return"], base) for name, t in trials.items() if name != "random search"},
            "jax": jax.__version__,
            "python": sys.version,
            "time": time.strftime("%Y-%m-%d"),
        }
        options.json.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
