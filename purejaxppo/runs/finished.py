"""Evaluating finished runs again, here or in Gymnasium, and comparing them."""

import contextlib
import functools
import importlib
import math
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from purejaxppo.population.statistics import (
    aggregate,
    probability_of_improvement,
    show_return,
    with_interval,
)
from purejaxppo.ppo.evaluate import MAX_STEPS, Agent, play_episodes
from purejaxppo.ppo.factory import seed_keys
from purejaxppo.ppo.memory import start_memories
from purejaxppo.ppo.types import TrainState
from purejaxppo.runs.results import LoadedRun, aggregate_entries
from purejaxppo.runs.tables import cut_rows
from purejaxppo.utils.errors import PPOError
from purejaxppo.utils.tree import PyTree

BLOCK = 256  # seeds that play at the same time
NOTE_LETTERS = 18  # of the name of a run in a note


class Played(NamedTuple):
    """The episodes that the seeds of a run have played."""

    returns: np.ndarray  # [S, E]
    is_cut: np.ndarray  # [S, E] bool, had not ended after MAX_STEPS


def evaluate_run(run: LoadedRun, num_seeds: int, num_episodes: int, *, seed: int, sampled: bool) -> Played:
    """Plays new episodes with the first seeds, in the environment that they were trained in."""

    def play(state: TrainState, key: jax.Array) -> tuple[jax.Array, jax.Array]:
        end = play_episodes(run.agent, state, key, num_episodes, sampled=sampled)
        return end.episode_return, end.running

    play_all, keys, blocks = jax.jit(jax.vmap(play)), seed_keys(seed, num_seeds), []
    for first in range(0, num_seeds, BLOCK):
        last = min(first + BLOCK, num_seeds)
        blocks.append(play_all(run.population.store.runners((first, last)).train_state, keys[first:last]))
    return Played(*(np.concatenate(parts) for parts in zip(*blocks, strict=True)))


def evaluate_in_gymnasium(run: LoadedRun, num_seeds: int, num_episodes: int, *, seed: int, sampled: bool) -> Played:
    """Plays new episodes in Gymnasium's environment of that name, which shares no code with the one in training.

    Raises PPOError if Gymnasium is not installed, or does not have the environment with these parameters.
    """
    if run.spec.env_params:
        raise PPOError(
            f"the run changed {', '.join(run.spec.env_params)} of {run.spec.env}, which Gymnasium's does not know; "
            "leave out --backend gymnasium"
        )
    act = jax.jit(functools.partial(act_for_each, run.agent, sampled=sampled))
    try:
        gymnasium = importlib.import_module("gymnasium")
    except ImportError:
        raise PPOError('Gymnasium is not installed; pip install "purejaxppo[gymnasium]"') from None
    try:
        envs = gymnasium.make_vec(run.spec.env, num_envs=num_episodes, vectorization_mode="sync")
    except gymnasium.error.Error as error:
        reason = " ".join(str(error).split())
        raise PPOError(f"Gymnasium does not make {run.spec.env}: {reason}; leave out --backend gymnasium") from None
    memory = start_memories(run.agent.start_memory, (num_episodes,))
    with contextlib.closing(envs):
        played = [
            play_in_gymnasium(
                envs, functools.partial(act, run.seed(i).train_state), seed=seed + i * num_episodes, memory=memory
            )
            for i in range(num_seeds)
        ]
    return Played(*(np.stack(rows) for rows in zip(*played, strict=True)))


def play_in_gymnasium(
    envs: Any, act: Callable[..., tuple[PyTree, PyTree]], *, seed: int, memory: PyTree = ()
) -> tuple[np.ndarray, np.ndarray]:
    """Plays one episode in each environment, of at most MAX_STEPS. -> (return [E], True if it was cut there [E])

    act: (obs, key, memory) -> (actions, memory), [E, ...] each; memory: at the start of the episodes
    """
    key = jax.random.key(seed)
    obs, _ = envs.reset(seed=seed)
    episode_return, running, step = np.zeros(len(obs)), np.ones(len(obs), bool), 0
    while running.any() and step < MAX_STEPS:
        action, memory = act(jnp.asarray(obs, jnp.float32), jax.random.fold_in(key, step), memory)
        obs, reward, terminated, truncated, _ = envs.step(np.asarray(action))
        episode_return += np.where(running, reward, 0.0)
        running &= ~(terminated | truncated)
        step += 1
    return episode_return, running


def act_for_each(
    agent: Agent, train_state: TrainState, obs: jax.Array, key: jax.Array, memory: PyTree, *, sampled: bool
) -> tuple[PyTree, PyTree]:
    """An action for each of E observations, and the memory after them. [E, ...] -> [E, ...]"""
    distribution, memory = agent.policy(train_state, memory, obs)
    action = distribution.sample(agent.actions.noise(key, (len(obs),))) if sampled else distribution.mode()
    return agent.actions.to_env(action), memory


def summarise_evaluation(solved_at: float | None, played: Played) -> dict[str, Any]:
    """The content of the file that `purejaxppo eval --json` writes."""
    mean = played.returns.mean(axis=1)
    return {
        "eval/mean_reward": float(mean.mean()),
        "return_per_seed": mean.tolist(),
        **aggregate_entries(aggregate(mean, target=solved_at)),
        "episodes": played.returns.shape[1],
        "episodes_cut": int(played.is_cut.sum()),
        "solved_at": solved_at,
        "seeds_solved": None if solved_at is None else int(np.sum(mean >= solved_at)),
    }


def evaluation_table(summary: Mapping[str, Any]) -> dict[str, str]:
    """The table of an evaluation."""
    mean = np.asarray(summary["return_per_seed"])
    what, num_seeds = f"{'sampled' if summary['sampled'] else 'greedy'} return", len(mean)
    ends = ", ".join(f"{show_return(mean[i])} ({i})" for i in (mean.argmin(), mean.argmax()))
    iqm = with_interval(*(summary[f"final_return_iqm{part}"] for part in ("", "_95_low", "_95_high")))
    rows = {
        f"{what}, IQM of {num_seeds} seed{'' if num_seeds == 1 else 's'}": iqm,
        f"{what}, mean and median": f"{show_return(mean.mean())}, {show_return(float(np.median(mean)))}",
        f"{what}, worst and best seed": ends,
        "episodes of each seed": str(summary["episodes"]),
        **cut_rows(summary["episodes_cut"], summary["episodes"] * num_seeds),
    }
    if summary["solved_at"] is not None:
        rows["seeds solved"] = f"{summary['seeds_solved']} of {num_seeds}  (mean >= {summary['solved_at']:g})"
    return rows


def labels_of(folders: Sequence[Path]) -> list[str]:
    """Short names for run folders: their paths below the folder that they share."""
    paths = [os.path.abspath(folder) for folder in folders]
    shared = os.path.commonpath([os.path.dirname(path) for path in paths])
    return [os.path.relpath(path, shared) for path in paths]


def shorten(text: str, most: int) -> str:
    """A text with at most `most` letters. Its middle is left out, because names of runs differ at their ends."""
    kept = most - 1
    return text if len(text) <= most else f"{text[: kept // 2]}…{text[len(text) - kept + kept // 2 :]}"


def describe_wins(returns: Mapping[str, np.ndarray]) -> str:
    """P(b > a) = 0.94 [0.81, 1.00]: the probability that a seed of the second run beats one of the first."""
    (first, before), (second, after) = returns.items()
    found = probability_of_improvement(after, before)
    a, b = shorten(first, NOTE_LETTERS), shorten(second, NOTE_LETTERS)
    what = f"P({b} > {a})" if a != b else "P(second > first)"
    interval = "" if math.isnan(found.low) else f" [{found.low:.2f}, {found.high:.2f}]"
    return f"{what} = {found.estimate:.2f}{interval}"
