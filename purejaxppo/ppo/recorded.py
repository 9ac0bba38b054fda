"""Steps that were made elsewhere, such as in a simulator on the host, as the rollout that an update learns from."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from purejaxppo.envs.vector import where_env
from purejaxppo.ppo.memory import ObsAndMemory, start_memories
from purejaxppo.ppo.rollout import count_step, end_episodes, episode_stats
from purejaxppo.ppo.types import EpisodeState, EpisodeStats, RunnerState, Transition
from purejaxppo.utils.errors import PPOError
from purejaxppo.utils.tree import PyTree


def replay_steps(
    step: Callable[[PyTree, PyTree], tuple[Any, ...]], start: PyTree, runner: RunnerState, transitions: Transition
) -> tuple[RunnerState, Transition, PyTree, EpisodeStats]:
    """The policy along steps [T, B, ...] that it has acted in, as `agent.play` returns its own.

    step: (obs, memory) -> (memory, distribution parameters, ...); start: the memory where an episode begins.
    -> (runner, transitions whose observations are `ObsAndMemory`, distribution parameters, episodes)
    """

    def follow(carry: tuple[PyTree, EpisodeState], transition: Transition) -> tuple[tuple, tuple]:
        memory, episode = carry
        after, parameters = step(transition.obs, memory)[:2]
        counted = count_step(episode, transition.reward)
        done = transition.terminated | transition.truncated
        kept = jax.tree.map(functools.partial(where_env, done), start_memories(start, done.shape), after)
        seen = transition.replace(
            obs=ObsAndMemory(transition.obs, memory), next_obs=ObsAndMemory(transition.next_obs, after)
        )
        return (kept, end_episodes(counted, done)), (seen, parameters, counted)

    carry = (runner.memory, runner.episode)
    (memory, episode), (seen, parameters, counted) = jax.lax.scan(follow, carry, transitions)
    done = transitions.terminated | transitions.truncated
    return runner.replace(memory=memory, episode=episode), seen, parameters, episode_stats(counted, done, seen.info)


def settled_transitions(obs: PyTree, transitions: Transition, shape: tuple[int, int]) -> Transition:
    """Transitions as float32 and bool arrays. Raises PPOError unless their shape is (T, B), and that of obs fits.

    obs: [B, ...], of the runner
    """
    lead = jax.tree.map(lambda x: (shape[0], *x.shape), obs)
    for name in ("obs", "next_obs"):
        given = jax.tree.map(jnp.shape, getattr(transitions, name))
        if given != lead:
            raise PPOError(f"transitions.{name} has the shape {given}, and {lead} goes with this agent")
    floats = functools.partial(jax.tree.map, functools.partial(jnp.asarray, dtype=jnp.float32))
    settled = transitions.replace(
        obs=floats(transitions.obs),
        next_obs=floats(transitions.next_obs),
        action=jax.tree.map(jnp.asarray, transitions.action),
        reward=jnp.asarray(transitions.reward, jnp.float32),
        terminated=jnp.asarray(transitions.terminated, bool),
        truncated=jnp.asarray(transitions.truncated, bool),
        info=floats(transitions.info),
    )
    for name in ("action", "reward", "terminated", "truncated", "info"):
        for x in jax.tree.leaves(getattr(settled, name)):
            if x.shape[:2] != shape or (name != "action" and x.ndim != 2):
                raise PPOError(f"transitions.{name} has the shape {x.shape}; it has to begin with {shape}, for T and B")
    return settled
