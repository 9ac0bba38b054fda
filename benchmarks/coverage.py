"""How often each 95% interval holds the truth: four distributions of runs, 8, 16 and 64 seeds.

    python benchmarks/coverage.py                 the table of docs/statistics.md, about 4 minutes on one core
    python benchmarks/coverage.py --repeats 200   in a tenth of the time

A share of 0.95 that is estimated from 2,000 repeats scatters by 0.005.
"""

import argparse
import math
from collections.abc import Callable

import numpy as np
from scipy import stats

from purejaxppo.population.run_distribution import percentile_of_runs, performance_profile, threshold_times
from purejaxppo.population.statistics import Interval, aggregate, probability_of_improvement

SEEDS = (8, 16, 64)
TRUTH_RUNS = 1_000_000  # for the truths that have no formula
NUM_RESAMPLES = 1_000
TASKS = 3  # of the IQM over several environments

Draw = Callable[[np.random.Generator, int], np.ndarray]
# Returns of runs: two like those of environments, one with failures as of CartPole, and one that is even.
DISTRIBUTIONS: dict[str, Draw] = {
    "normal": lambda random, n: random.normal(size=n),
    "lognormal": lambda random, n: random.lognormal(size=n),
    "bimodal": lambda random, n: np.where(
        random.random(n) < 0.75, random.normal(480, 10, n), random.normal(150, 40, n)
    ),
    "uniform": lambda random, n: random.random(n),
}


def percentile_of_mean(scores: np.ndarray) -> Interval:
    """The percentile-bootstrap interval of the mean, as rliable has it."""
    random = np.random.default_rng(0)
    means = scores[random.integers(len(scores), size=(NUM_RESAMPLES, len(scores)))].mean(axis=1)
    return Interval(float(scores.mean()), *np.quantile(means, [0.025, 0.975]).tolist())


def profile_at(scores: np.ndarray, tau: float) -> Interval:
    """The share of runs above tau."""
    found = performance_profile(scores, [tau])
    return Interval(float(found.share[0]), float(found.low[0]), float(found.high[0]))


def coverage(draw: Draw, num_runs: int, repeats: int) -> dict[str, float]:
    """The share of the repeats in which each interval holds the truth."""
    many = draw(np.random.default_rng(10**6), TRUTH_RUNS)
    quarter, half, most = np.quantile(many, [0.25, 0.5, 0.9])
    shift = 0.5 * float(many.std())  # of the second method of a comparison, and of each further task
    shifted = np.searchsorted(np.sort(many[: TRUTH_RUNS // 2]), many[TRUTH_RUNS // 2 :] + shift, "right")
    middle = stats.trim_mean(np.concatenate([many + k * shift for k in range(TASKS)]), 0.25)
    truths = {
        "IQM": stats.trim_mean(many, 0.25),
        f"IQM of {TASKS} environments": middle,
        "mean, BCa": many.mean(),
        "mean, percentile": many.mean(),
        "median, percentile": half,
        "25th percentile": quarter,
        "profile at the median": 0.5,
        "profile at the 90th percentile": 0.1,
        "P(improvement)": shifted.mean() / (TRUTH_RUNS // 2),
        "median time, some censored": half,
    }
    held, random = dict.fromkeys(truths, 0), np.random.default_rng(num_runs)
    censor_at = np.quantile(many, [0.5, 0.95])  # runs end anywhere between these
    for _ in range(repeats):
        scores, other = draw(random, num_runs), draw(random, num_runs) + shift
        tasks = np.stack([draw(random, num_runs) + k * shift for k in range(TASKS)], axis=1)
        alone = aggregate(scores, num_resamples=NUM_RESAMPLES)
        ends = random.uniform(*censor_at, size=num_runs)
        found = {
            "IQM": alone.iqm,
            f"IQM of {TASKS} environments": aggregate(tasks, num_resamples=NUM_RESAMPLES).iqm,
            "mean, BCa": alone.mean,
            "mean, percentile": percentile_of_mean(scores),
            "median, percentile": alone.median,
            "25th percentile": percentile_of_runs(scores, 25),
            "profile at the median": profile_at(scores, half),
            "profile at the 90th percentile": profile_at(scores, most),
            "P(improvement)": probability_of_improvement(other, scores, num_resamples=NUM_RESAMPLES),
            "median time, some censored": threshold_times(np.minimum(scores, ends), scores <= ends).median,
        }
        for name, interval in found.items():
            held[name] += interval.low <= truths[name] <= interval.high
    return {name: count / repeats for name, count in held.items()}


def main() -> None:
    """Prints a table in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=2_000)
    repeats = parser.parse_args().repeats
    columns = [
        (f"{name}, {num_runs}", coverage(draw, num_runs, repeats))
        for name, draw in DISTRIBUTIONS.items()
        for num_runs in SEEDS
    ]
    print(f"| 95% interval of | {' | '.join(name for name, _ in columns)} |")
    print(f"|---|{'---|' * len(columns)}")
    for name in columns[0][1]:
        shares = [column[name] for _, column in columns]
        print(f"| {name} | {' | '.join('' if math.isnan(x) else f'{x:.2f}' for x in shares)} |")


if __name__ == "__main__":
    main()
