"""What every peer's script shares: its options, and the report that it writes."""

import argparse
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeVar

Result = TypeVar("Result")


@dataclass
class Task:
    """An environment with the hyperparameters of CleanRL's script, and how much of it."""

    seeds: int
    timesteps: int  # of each seed
    env: str = "CartPole-v1"  # for those that step Gymnasium's
    num_envs: int = 4
    num_steps: int = 128
    num_epochs: int = 4
    num_minibatches: int = 4
    learning_rate: float = 2.5e-4  # down to 0 in a line
    adam_eps: float = 1e-5
    gamma: float = 0.99
    gae_lambda: float = 0.95
    clip_eps: float = 0.2  # of the ratio and of the value
    ent_coef: float = 0.01
    vf_coef: float = 0.5  # of half the squared error
    max_grad_norm: float = 0.5

    @property
    def batch_size(self) -> int:
        """Steps of a rollout, over all environments."""
        return self.num_envs * self.num_steps

    @property
    def num_updates(self) -> int:
        """Rollouts of a seed."""
        return self.timesteps // self.batch_size

    @property
    def total_steps(self) -> int:
        """That are taken by all seeds."""
        return self.seeds * self.num_updates * self.batch_size


def make_parser(description: str | None) -> argparse.ArgumentParser:
    """The options of every peer."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--timesteps", type=int, default=100_000, help="environment steps of each seed")
    parser.add_argument("--env", default=Task.env, help="of Gymnasium; for Stable-Baselines3 and sbx alone")
    parser.add_argument("--num-envs", type=int, default=Task.num_envs)
    parser.add_argument("--num-steps", type=int, default=Task.num_steps, help="of each environment in a rollout")
    parser.add_argument("--num-minibatches", type=int, default=Task.num_minibatches)
    parser.add_argument("--best", action="store_true", help="with as many environments as the peer is fastest with")
    parser.add_argument("--json", type=Path, required=True, help="where to write speed, compile time and returns")
    return parser


def make_task(options: argparse.Namespace, best_num_envs: int) -> Task:
    """What the options ask for. Leaves with status 2 where there is not even one rollout of it."""
    task = Task(
        options.seeds,
        options.timesteps,
        options.env,
        num_envs=best_num_envs if options.best else options.num_envs,
        num_steps=options.num_steps,
        num_minibatches=options.num_minibatches,
    )
    if task.num_updates < 1:
        raise SystemExit(f"--timesteps {task.timesteps} is below one rollout of {task.batch_size}")
    return task


def timed(call: Callable[[], Result]) -> tuple[Result, float]:
    """What a call returns, and its seconds."""
    started = time.perf_counter()
    result = call()
    return result, time.perf_counter() - started


def write_report(
    path: Path, task: Task, *, seconds: float, compile_seconds: float, returns: Sequence[float], packages: Sequence[str]
) -> None:
    """seconds: of training without compiling; returns: how good each seed was at the end."""
    report: dict[str, Any] = {
        "env_steps_per_second": task.total_steps / seconds,
        "compile_seconds": compile_seconds,
        "last_return_per_seed": list(returns),
        "task": vars(task),
        "versions": {name: version(name) for name in packages},
    }
    path.write_text(json.dumps(report, indent=2) + "\n")
