"""Steps that were made elsewhere, such as in a simulator on the host, as the rollout that an update learns from."""

import functools
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp

from purejaxppo.envs.vector import where_env
from purejaxppo.ppo.memory import ObsAndMemory, start_memories
from purejaxppo.ppo.rollout import count_step, end_episodes, finish_rollout
from purejaxppo.ppo.types import EpisodeState, EpisodeStats, RunnerState, Transition
from purejaxppo.utils.errors import PPOError
from purejaxppo.utils.tree import PyTree

if TYPE_CHECKING:
    from purejaxppo.ppo.agent import PPO


def replayed(
    agent: "PPO", runner: RunnerState, transitions: Transition
) -> tuple[RunnerState, Transition, PyTree, EpisodeStats]:
    """The policy along steps [T, B, ...] that it has acted in, as `agent.play` returns its own.

    -> (runner, transitions whose observations are `ObsAndMemory`, distribution parameters, episodes)
    """
    state, transitions = runner.train_state, settled_transitions(agent, runner, transitions)

    def follow(carry: tuple[PyTree, EpisodeState], transition: Transition) -> tuple[tuple, tuple]:
        memory, episode = carry
        after, parameters = agent.step(state, transition.obs, memory)[:2]
        counted = count_step(episode, transition.reward)
        done = transition.terminated | transition.truncated
        start = start_memories(agent.start_memory, done.shape)
        kept = jax.tree.map(functools.partial(where_env, done), start, after)
        seen = transition.replace(
            obs=ObsAndMemory(transition.obs, memory), next_obs=ObsAndMemory(transition.next_obs, after)
        )
        return (kept, end_episodes(counted, done)), (seen, parameters, counted)

    carry = (runner.memory, runner.episode)
    (memory, episode), (seen, parameters, counted) = jax.lax.scan(follow, carry, transitions)
    episode, episodes = finish_rollout(episode, counted, seen)
    return runner.replace(memory=memory, episode=episode), seen, parameters, episodes


def settled_transitions(agent: "PPO", runner: RunnerState, transitions: Transition) -> Transition:
    """Transitions in the dtypes of a rollout. Raises PPOError unless they have its shapes."""
    numbers = jax.ShapeDtypeStruct(runner.episode.episode_return.shape, jnp.float32)  # [B]
    flags = jax.ShapeDtypeStruct(numbers.shape, bool)
    wanted: dict[str, Any] = {
        "obs": runner.obs,
        "action": jax.eval_shape(functools.partial(sampled, agent), runner),
        "reward": numbers,
        "terminated": flags,
        "truncated": flags,
        "next_obs": runner.obs,
        "info": dict.fromkeys(transitions.info, numbers),
    }
    settle = functools.partial(settled, agent.config.num_steps)
    return Transition(**{name: settle(name, getattr(transitions, name), like) for name, like in wanted.items()})


def sampled(agent: "PPO", runner: RunnerState) -> PyTree:
    """An action of the policy in each environment. -> [B, ...]"""
    distribution = agent.distribution(runner.train_state, runner.obs, runner.memory)
    return distribution.sample(agent.actions.noise(runner.key, runner.episode.episode_return.shape))


def settled(num_steps: int, name: str, given: PyTree, wanted: PyTree) -> PyTree:
    """A field of the transitions in its dtype. Raises PPOError unless it has T times the shapes wanted, [B, ...]."""
    shapes = jax.tree.map(lambda x: (num_steps, *x.shape), wanted)
    if jax.tree.map(jnp.shape, given) != shapes:
        raise PPOError(
            f"transitions.{name} has the shape {jax.tree.map(jnp.shape, given)}, and {shapes} goes with this agent"
        )
    return jax.tree.map(functools.partial(settled_array, name), given, wanted)


def settled_array(name: str, given: Any, wanted: Any) -> jax.Array:
    """One array in its dtype. Raises PPOError for floats where integers are wanted, such as an action's index."""
    found = jnp.asarray(given)
    if jnp.issubdtype(wanted.dtype, jnp.integer) and not jnp.issubdtype(found.dtype, jnp.integer):
        raise PPOError(f"transitions.{name} is {found.dtype}; give integers")
    return found.astype(wanted.dtype)
