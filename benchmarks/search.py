"""Random search, successive halving, ASHA, population-based training and TPE at equal environment steps.

python benchmarks/search.py [--task CartPole-v1] [--search random tpe] [--setup short] [--repetitions 8] [--json OUT]

Six hyperparameters, over ranges so wide that most draws fail. With --setup short (the default) each search may take the
steps of 20 whole runs of 32 updates (16 environments x 64 steps): random search draws 20; successive halving draws 128,
of which 32 and then 8 go on; asynchronous halving (ASHA) has the same rungs and trains 16 members at a time;
population-based training has 20 members and 8 generations; TPE asks for 20 settings, two at a time, the first 10 at
random. --setup minatar, the default for that game, differs in the policy and the epochs: one trunk with relu and 3
epochs of 8 minibatches, as in the preset `minatar`, take half the time of two towers and 4 epochs. With --setup long
each may take 10 runs of 192 updates (4 x 128 steps): 10 draws; 64, of which 16 and then 4 go on; ASHA with 8 at a time;
10 members and 48 generations; and TPE is left out, as its first 10 settings are random. In repetition s all but TPE
take the same key, so population-based training starts from the very draws of random search.

A search hands over the run that it ranks first by its training episodes. What is compared is the greedy return of that
policy over 100 fresh episodes, the same for all: its IQM over the repetitions with a 95% bootstrap interval. The score
by which the run was chosen stands beside it. With --json the results are added to those that the file holds already, so
tasks and searches may run one by one.
"""

import argparse
import functools
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
from scipy import stats

import purejaxppo as pjp
from purejaxppo.population.search import Space
from purejaxppo.population.statistics import iqm_interval, with_interval
from purejaxppo.utils.files import read_json, versions, write_json

TASKS = {"CartPole-v1": "short", "Acrobot-v1": "short", "Breakout-MinAtar": "minatar"}  # each with its default setup
SPACE: Space = {
    "learning_rate": pjp.log_uniform(1e-7, 1.0),
    "ent_coef": pjp.log_uniform(1e-4, 1.0),
    "gamma": pjp.uniform(0.0, 1.0),
    "gae_lambda": pjp.uniform(0.0, 1.0),
    "clip_eps": pjp.log_uniform(0.01, 1.0),
    "vf_coef": pjp.log_uniform(0.05, 5.0),
}
EPISODES = 100


class Setup(NamedTuple):
    """The budget of every search."""

    config: pjp.PPOConfig
    runs: int  # whole ones
    halving_members: int  # so many that successive halving takes the steps of these runs
    asha_batch: int  # members of ASHA that train together
    searches: tuple[str, ...]


SHORT = Setup(
    pjp.PPOConfig(num_envs=16, num_steps=64, total_timesteps=32 * 1024, hidden_sizes=(64,)),
    runs=20,
    halving_members=128,
    asha_batch=16,
    searches=("random", "halving", "asha", "pbt", "tpe"),
)
ONE_TRUNK = SHORT.config.replace(share_trunk=True, activation="relu", update_epochs=3, num_minibatches=8)
SETUPS = {
    "short": SHORT,
    "minatar": SHORT._replace(config=ONE_TRUNK),
    "long": Setup(pjp.PPOConfig(total_timesteps=192 * 512), 10, 64, 8, ("random", "halving", "asha", "pbt")),
}

Find = tuple[pjp.TrainState, float, int]  # the policy that is found, its score in the search, steps of all members
Search = Callable[[int], Find]  # of a repetition


def make_search(name: str, env: pjp.Environment, setup: Setup) -> Search:
    """A search by its name."""
    config, runs, members, batch, _ = setup
    match name:
        case "random":
            return by_key(jax.jit(pjp.make_successive_halving(env, config, SPACE, num_members=runs, num_rungs=1)))
        case "halving":
            halving = pjp.make_successive_halving(env, config, SPACE, num_members=members, eta=4, num_rungs=3)
            return by_key(jax.jit(halving))
        case "asha":
            return by_key(pjp.make_asha(env, config, SPACE, num_runs=runs, batch=batch, eta=4, num_rungs=3))
        case "pbt":
            return by_key(jax.jit(pjp.make_pbt(env, config, SPACE, num_members=runs, interval=4)))
        case _:
            return functools.partial(search_by_model, env, setup)


def by_key(search: Callable[[jax.Array], pjp.SearchResult]) -> Search:
    """A search that takes a key, as a function of the repetition."""

    def find(seed: int) -> Find:
        found = search(jax.random.fold_in(jax.random.key(seed), 0))
        best = jax.tree.map(lambda x: x[found.best], found.runners.train_state)
        return best, float(found.scores[found.best]), int(np.sum(found.timesteps, dtype=np.int64))

    return find


def search_by_model(env: pjp.Environment, setup: Setup, seed: int) -> Find:
    """TPE over populations of two settings."""
    config, runs, *_ = setup
    sweep = pjp.search_tpe(env, config, SPACE, num_trials=runs, batch=2, tune_seeds=1, seed=seed, search_seed=seed)
    best = sweep[sweep.best()]
    return best.seed(0).train_state, float(best.final_returns()[0]), len(sweep) * config.actual_timesteps


def run_trials(task: str, name: str, setup: Setup, seeds: range) -> dict[str, list[float]]:
    """The mean greedy return, the score and the steps of each repetition, and the seconds of all."""
    env = pjp.make_env(task)
    agent = pjp.make_ppo(env, setup.config)
    play = jax.jit(lambda state, key: pjp.evaluate(agent, state, key, EPISODES)[0])
    started = time.perf_counter()
    search, rows = make_search(name, env, setup), []
    for seed in seeds:
        state, score, steps = search(seed)
        rows.append((float(np.mean(play(state, jax.random.fold_in(jax.random.key(seed), 1)))), score, steps))
    greedy, scores, steps = map(list, zip(*rows, strict=True))
    seconds = [time.perf_counter() - started]
    return {"greedy_return": greedy, "training_score": scores, "timesteps": steps, "seconds_with_compilation": seconds}


def print_table(trials: dict[str, dict[str, list[float]]]) -> None:
    """A row for each search: the IQM of its greedy returns and of its scores, p against random search, all returns."""
    base = trials.get("random", {}).get("greedy_return")
    for name, trial in trials.items():
        returns = trial["greedy_return"]
        chosen = iqm_interval(np.array(trial["training_score"])).estimate
        p = "" if name == "random" or base is None else f"  p {one_sided_p(returns, base):.3f}"
        every = ", ".join(f"{x:.3g}" for x in returns)
        print(f"{name:8} {with_interval(*iqm_interval(np.array(returns)))}  chosen by {chosen:.1f}{p}  [{every}]")


def one_sided_p(returns: list[float], base: list[float]) -> float:
    """Wilcoxon's signed-rank p that the returns are no better than the base, paired by repetition."""
    return float(stats.wilcoxon(returns, base, alternative="greater").pvalue)  # pyright: ignore


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", nargs="+", choices=TASKS, default=list(TASKS))
    parser.add_argument("--search", nargs="+", choices=SHORT.searches)
    parser.add_argument("--setup", choices=SETUPS, help="default: short, and minatar for Breakout-MinAtar")
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--repetitions", type=int, default=8)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    seeds = range(options.first_seed, options.first_seed + options.repetitions)

    held = read_json(options.json) if options.json and options.json.exists() else {"tasks": {}}
    for task in options.task:
        setup = SETUPS[options.setup or TASKS[task]]
        budget = setup.runs * setup.config.actual_timesteps
        trials = held["tasks"].setdefault(task, {})
        for name in options.search or setup.searches:
            trials[name] = run_trials(task, name, setup, seeds)
            if any(steps != budget for steps in trials[name]["timesteps"]):
                raise SystemExit(f"{name} took other than {budget:,} environment steps")
            seconds = trials[name]["seconds_with_compilation"][0]
            print(f"{task}, {name}: {seconds:.0f} s for all repetitions, compilation included", flush=True)
            if options.json:
                about = {
                    "total_timesteps": setup.config.actual_timesteps,
                    "budget": budget,
                    "space": {name: [type(domain).__name__, *domain] for name, domain in SPACE.items()},
                    "seeds": list(seeds),
                    "versions": versions(),
                    "time": time.strftime("%Y-%m-%d"),
                }
                write_json(options.json, held | about)
        print(f"{task}, {budget:,} environment steps for each search, {EPISODES} greedy episodes for each policy")
        print_table(trials)


if __name__ == "__main__":
    main()
