"""A whole run with its folder: train a population, evaluate it, write what there is to know; and load it again."""

import dataclasses
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from purejaxppo.config import PPOConfig
from purejaxppo.devices import idle_cores
from purejaxppo.envs import make_env
from purejaxppo.evaluate import Agent, Episode, record_episodes
from purejaxppo.full_batch import FullBatchConfig, FullBatchMetrics
from purejaxppo.population.placement import describe_devices
from purejaxppo.population.statistics import iqm_interval
from purejaxppo.population.train import (
    Population,
    Progress,
    evaluate_population,
    make_agent,
    train_population,
)
from purejaxppo.ppo import seed_keys
from purejaxppo.runs.checkpoint import load_tree, save_tree
from purejaxppo.runs.folder import (
    git_revision,
    peak_memory_bytes,
    read_metrics,
    versions,
    write_json,
    write_metrics,
)
from purejaxppo.runs.presets import SOLVED_AT
from purejaxppo.types import Metrics, PPOError, RunnerState, TrainState

ALGORITHMS = {PPOConfig: "ppo", FullBatchConfig: "full-batch-ppo"}
METRICS = {PPOConfig: Metrics, FullBatchConfig: FullBatchMetrics}
EVALUATION_EPISODES = 100
KEPT_UPDATES: dict[type, tuple[int, ...]] = {FullBatchConfig: (8, 20)}  # the films of the Keras example
EVALUATION_SEED = 1_000_003  # added to the run's: evaluation never plays on the keys of training


@dataclasses.dataclass(frozen=True)
class RunSpec:
    """All that is needed to repeat a run."""

    env: str
    env_params: dict[str, float]
    config: PPOConfig | FullBatchConfig
    num_seeds: int
    seed: int
    preset: str


class FinishedRun(NamedTuple):
    """What a run leaves in memory for its pictures and its table."""

    spec: RunSpec
    population: Population
    returns: np.ndarray  # [S, episodes], of the greedy policy
    kept: dict[str, TrainState]  # of seed 0, after the updates of KEPT_UPDATES
    summary: dict[str, Any]


class LoadedRun(NamedTuple):
    """A run folder, read back."""

    spec: RunSpec
    config: PPOConfig | FullBatchConfig
    agent: Agent
    metrics: Metrics  # [S, U]
    runners: RunnerState  # [S, ...]
    summary: dict[str, Any]

    @property
    def train_state(self) -> TrainState:
        """The train states of all seeds, [S, ...]; jax.tree.map(lambda x: x[i], ...) is that of seed i."""
        return self.runners.train_state


def plan(spec: RunSpec) -> str:
    """For people: what will run where, before it does."""
    config = spec.config
    steps = f"{config.actual_timesteps:,} steps"
    if config.actual_timesteps != config.total_timesteps:
        steps += f" ({config.total_timesteps:,} asked for, in whole rollouts of {config.batch_size:,})"
    idle = idle_cores()
    where = describe_devices(spec.num_seeds, jax.local_devices())
    return f"{spec.env}, preset {spec.preset}: {where}, {steps} each" + (f"\n{idle}" if idle else "")


def train_run(spec: RunSpec, folder: Path, on_chunk: Callable[[Progress], None]) -> FinishedRun:
    """Trains and evaluates the population of `spec`, and writes its folder, which exists and is empty."""
    env = make_env(spec.env, **spec.env_params)
    write_json(folder / "config.json", spec_to_json(spec))
    kept: dict[str, TrainState] = {}

    def keep_and_tell(progress: Progress) -> None:
        if progress.updates in KEPT_UPDATES.get(type(spec.config), ()):
            kept[f"after-{progress.updates}"] = jax.tree.map(lambda x: jnp.copy(x[0]), progress.train_states)
        on_chunk(progress)

    population = train_population(env, spec.config, num_seeds=spec.num_seeds, seed=spec.seed, on_chunk=keep_and_tell)
    save_tree(folder / "checkpoints" / f"update-{spec.config.num_updates}", population.runners)
    write_metrics(folder, population.metrics)
    returns, _ = evaluate_population(
        population.agent,
        population.runners.train_state,
        num_episodes=EVALUATION_EPISODES,
        seed=spec.seed + EVALUATION_SEED,
    )
    summary = summarise(spec, population, returns)
    write_json(folder / "summary.json", summary)
    return FinishedRun(spec, population, returns, kept, summary)


def summarise(spec: RunSpec, population: Population, returns: np.ndarray) -> dict[str, Any]:
    """summary.json: the greedy returns of the final policies, and what the run took. returns: [S, episodes]"""
    final = returns.mean(axis=1)
    interval = iqm_interval(final)
    solved_at = SOLVED_AT.get(spec.env)
    timesteps = spec.config.actual_timesteps * spec.num_seeds
    return {
        "final_return_per_seed": final.tolist(),
        "final_return_iqm": interval.estimate,
        "final_return_iqm_95_low": interval.low,
        "final_return_iqm_95_high": interval.high,
        "evaluation_episodes": returns.shape[1],
        "solved_at": solved_at,
        "seeds_solved": None if solved_at is None else int(np.sum(final >= solved_at)),
        "num_seeds": spec.num_seeds,
        "env_steps": timesteps,
        "env_steps_per_second": timesteps / population.train_seconds,
        "compile_seconds": population.compile_seconds,
        "train_seconds": population.train_seconds,
        "peak_memory_bytes": peak_memory_bytes(),
        "devices": describe_devices(spec.num_seeds, jax.local_devices()),
    }


def table(finished: FinishedRun, folder: Path) -> dict[str, str]:
    """The rows that a run ends with."""
    summary = finished.summary
    low, high = summary["final_return_iqm_95_low"], summary["final_return_iqm_95_high"]
    interval = "" if math.isnan(low) else f"  (95% interval {low:.1f} to {high:.1f})"
    rows = {"final greedy return, IQM": f"{summary['final_return_iqm']:.1f}{interval}"}
    if summary["solved_at"] is not None:
        bar = f"mean of {summary['evaluation_episodes']} episodes >= {summary['solved_at']:g}"
        rows["seeds solved"] = f"{summary['seeds_solved']} of {summary['num_seeds']}  ({bar})"
    return rows | {
        "seconds to compile": f"{summary['compile_seconds']:.1f}",
        "seconds to train": f"{summary['train_seconds']:.1f}",
        "env-steps per second": f"{summary['env_steps_per_second']:,.0f}",
        "run folder": str(folder),
    }


def film_episodes(finished: FinishedRun) -> dict[str, Episode]:
    """Greedy episodes of seed 0, all from one start, by the name of their film: before, after, and in between."""
    agent, runners = finished.population.agent, finished.population.runners
    last = jax.tree.map(lambda x: x[0], runners)
    states = {"before": agent.init(last.key).train_state, **finished.kept, "after": last.train_state}
    stacked = jax.tree.map(lambda *x: jnp.stack(x), *states.values())
    key = seed_keys(finished.spec.seed + EVALUATION_SEED, 1)[0]
    return dict(zip(states, record_episodes(agent, stacked, key), strict=True))


def load_run(path: str | Path) -> LoadedRun:
    """Config, metrics, agent and final states of a finished run. Raises PPOError for a folder that holds none."""
    folder = Path(path)
    spec = spec_from_json(_read_json(folder / "config.json"), folder)
    agent = make_agent(make_env(spec.env, **spec.env_params), spec.config)
    like = jax.eval_shape(jax.vmap(agent.init), seed_keys(spec.seed, spec.num_seeds))
    return LoadedRun(
        spec=spec,
        config=spec.config,
        agent=agent,
        metrics=read_metrics(folder, METRICS[type(spec.config)]),
        runners=load_tree(folder / "checkpoints" / f"update-{spec.config.num_updates}", like),
        summary=_read_json(folder / "summary.json"),
    )


def spec_to_json(spec: RunSpec) -> dict[str, Any]:
    """config.json."""
    fields = dataclasses.fields(spec.config)
    config = {field.name: _json_number(getattr(spec.config, field.name)) for field in fields}
    return {
        "env": spec.env,
        "env_params": spec.env_params,
        "algorithm": ALGORITHMS[type(spec.config)],
        "config": config,
        "num_seeds": spec.num_seeds,
        "seed": spec.seed,
        "preset": spec.preset,
        "actual_timesteps": spec.config.actual_timesteps,
        "versions": versions(),
        "git_revision": git_revision(),
    }


def spec_from_json(content: dict[str, Any], folder: Path) -> RunSpec:
    """The inverse of `spec_to_json`."""
    try:
        config = {name: _python_number(value) for name, value in content["config"].items()}
        names = [field.name for field in dataclasses.fields(RunSpec) if field.name != "config"]
        config_class = {name: cls for cls, name in ALGORITHMS.items()}[content["algorithm"]]
        return RunSpec(config=config_class().replace(**config), **{name: content[name] for name in names})
    except (KeyError, AttributeError) as error:
        raise PPOError(f"{folder / 'config.json'} lacks {error}; it is no run's config") from None


def _read_json(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text())
    except OSError as error:
        raise PPOError(f"{path} cannot be read: {error.strerror}; is {str(path.parent)!r} a finished run?") from None
    except ValueError as error:
        raise PPOError(f"{path} is no JSON: {error}") from None


def _json_number(x: Any) -> Any:
    return str(x) if isinstance(x, float) and not math.isfinite(x) else x


def _python_number(x: Any) -> Any:
    if isinstance(x, list):
        return tuple(x)
    return float(x) if x in ("inf", "-inf", "nan") else x
