"""Stable-Baselines3's PPO, timed: whole trainings, one seed after the other.

    python benchmarks/peers/sb3_ppo.py --timesteps 20000 [--env CartPole-v1] --json OUT

Needs stable-baselines3. Its environments are Gymnasium's, stepped in turn in one process, and torch has one thread:
products as small as these are slower with more. Its value loss is the whole squared error, so the weight is halved, and
it clips the value without taking the larger of the two losses. The return of a seed is the mean of its last 100
episodes in training. What the first rollout and its update take is reported as compiling.
"""
# pyright: reportMissingImports=false

import argparse
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from common import Task, make_parser, make_task, write_report
from stable_baselines3.common.env_util import make_vec_env

BEST_NUM_ENVS = 64


def make_agent(algorithm: type, task: Task, seed: int, **differing: Any) -> Any:
    """The algorithm on its environments, with the learning rate down to 0 in a line."""
    return algorithm(
        "MlpPolicy",
        make_vec_env(task.env, n_envs=task.num_envs, seed=seed),
        learning_rate=lambda remaining: task.learning_rate * remaining,
        n_steps=task.num_steps,
        batch_size=task.batch_size // task.num_minibatches,
        n_epochs=task.num_epochs,
        gamma=task.gamma,
        gae_lambda=task.gae_lambda,
        clip_range=task.clip_eps,
        ent_coef=task.ent_coef,
        vf_coef=task.vf_coef / 2,
        max_grad_norm=task.max_grad_norm,
        seed=seed,
        device="cpu",
        **differing,
    )


def time_seed(agent: Any, task: Task) -> tuple[float, float, float]:
    """-> (seconds of the first rollout and update, seconds of all that follows, mean return at the end)"""
    started = time.perf_counter()
    agent.learn(task.batch_size)
    first = time.perf_counter() - started
    started = time.perf_counter()
    agent.learn(task.num_updates * task.batch_size, reset_num_timesteps=False)
    seconds = time.perf_counter() - started
    returns = [episode["r"] for episode in agent.ep_info_buffer]
    return first, seconds, float(np.mean(returns)) if returns else float("nan")


def time_task(algorithm: type, options: argparse.Namespace, packages: Sequence[str], **differing: Any) -> None:
    """Trains every seed and writes the report."""
    torch.set_num_threads(1)
    task = make_task(options, BEST_NUM_ENVS)
    times = [time_seed(make_agent(algorithm, task, seed, **differing), task) for seed in range(task.seeds)]
    first, seconds, returns = zip(*times, strict=True)
    write_report(
        options.json, task, seconds=sum(seconds), compile_seconds=sum(first), returns=returns, packages=packages
    )


def main() -> None:
    from stable_baselines3 import PPO

    options = make_parser(__doc__).parse_args()
    time_task(PPO, options, ("stable-baselines3", "torch", "gymnasium"), clip_range_vf=Task.clip_eps)


if __name__ == "__main__":
    main()
