"""Whole episodes under a trained policy: their returns, or everything that a film needs."""

from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from purejaxppo.envs.base import Environment, through, traced
from purejaxppo.envs.vector import reset_batch
from purejaxppo.policies.actions import Actions
from purejaxppo.policies.distributions import Categorical, Distribution
from purejaxppo.ppo.checks import check_one_state, check_state, of_own_state
from purejaxppo.ppo.memory import start_memories
from purejaxppo.ppo.types import Metrics, RunnerState, TrainState
from purejaxppo.utils.errors import PPOError
from purejaxppo.utils.files import to_host
from purejaxppo.utils.sums import add
from purejaxppo.utils.tree import PyTree
from purejaxppo.utils.validation import MAX_COUNT, check_key, check_size, check_switch


class Agent(Protocol):
    """The interface of an agent: `PPO`, `FullBatchPPO`, or your own."""

    @property
    def env(self) -> Environment:
        """The environment that it acts in."""
        ...

    @property
    def actions(self) -> Actions:
        """Its action distribution, and the map to the environment's actions."""
        ...

    @property
    def config(self) -> Any:
        """Its hyperparameters, with `num_updates`, `batch_size` and `actual_timesteps`."""
        ...

    def init(self, key: jax.Array) -> RunnerState:
        """The state before the first update."""
        ...

    def continue_from(self, train_state: TrainState, key: jax.Array) -> RunnerState:
        """The state before the first update of a new run from trained parameters. Only `init_from` needs it."""
        ...

    def update(self, runner: RunnerState) -> tuple[RunnerState, Metrics]:
        """One rollout and the learning from it."""
        ...

    def act(self, train_state: TrainState, obs: PyTree, key: jax.Array | None = None) -> PyTree:
        """The environment's action for one observation: the mode of the policy, or with a key a sample.

        A policy with a memory takes `memory` as well, and gives the pair of action and memory.
        """
        ...

    @property
    def start_memory(self) -> PyTree:
        """The memory at the start of an episode; () without a memory."""
        ...

    def policy(self, train_state: TrainState, memory: PyTree, obs: PyTree) -> tuple[Distribution, PyTree]:
        """The policy at raw observations, and its memory after them; any leading axes."""
        ...


MAX_STEPS = 10_000  # of an episode of an evaluation, unless the caller says otherwise


class Episode(NamedTuple):
    """One episode on the host, cut to its length T."""

    obs: PyTree  # [T + 1, ...], raw; the last one follows the last action
    action: PyTree  # [T, ...], as the environment takes it
    reward: np.ndarray  # [T]
    probabilities: np.ndarray | None  # [T, n], of each action; None unless the action is one of n
    state: PyTree = None  # [T + 1, ...], of the environment, one for each observation
    is_cut: bool = False  # True if it was cut before its end, by the limit of steps


class Evaluation(struct.PyTreeNode):
    """E episodes under way, one in each environment. A finished one no longer changes."""

    obs: PyTree  # [E, ...]
    env_state: PyTree  # [E, ...]
    memory: PyTree  # [E, ...]
    episode_return: jax.Array  # [E]
    return_low: jax.Array  # [E], what `episode_return` lacks by rounding
    episode_length: jax.Array  # [E] int32
    running: jax.Array  # [E] bool; after the last step: cut before its end
    step: jax.Array  # [] int32


def evaluate(
    agent: Agent,
    train_state: TrainState,
    key: jax.Array,
    num_episodes: int = 128,
    *,
    sampled: bool = False,
    max_steps: int = MAX_STEPS,
) -> tuple[jax.Array, jax.Array]:
    """Undiscounted returns and lengths of independent episodes, under the greedy or the sampled policy.

    The normalisation of observations is frozen. The function is pure: vmap it over the train states of a population.

    Args:
        agent: the agent that plays.
        train_state: of one run.
        key: a typed key.
        num_episodes: E.
        sampled: draw actions from the policy; by default take its mode.
        max_steps: an episode that has not ended after this many steps is cut there, and counts as it is.

    Returns:
        Returns [E], and lengths [E] int32 in steps.

    Raises:
        PPOError: if `train_state` is of another agent or of several runs, if `key` is raw or batched, or if a count is
            below 1 or does not fit an int32.
    """
    end = play_episodes(agent, train_state, key, num_episodes, sampled=sampled, max_steps=max_steps)
    return end.episode_return, end.episode_length


def play_episodes(
    agent: Agent,
    train_state: TrainState,
    key: jax.Array,
    num_episodes: int,
    *,
    sampled: bool = False,
    max_steps: int = MAX_STEPS,
) -> Evaluation:
    """The episodes of `evaluate` after their last step. One that is still `running` was cut by `max_steps`."""
    check_play(agent, train_state, key, num_episodes, max_steps)
    check_switch("sampled", sampled)
    env = through(agent.actions.to_env, agent.env)
    reset_key, play_key = jax.random.split(key)
    obs, env_state = reset_batch(env, reset_key, num_episodes)
    start = Evaluation(
        obs=obs,
        env_state=env_state,
        memory=start_memories(agent.start_memory, (num_episodes,)),
        episode_return=jnp.zeros(num_episodes),
        return_low=jnp.zeros(num_episodes),
        episode_length=jnp.zeros(num_episodes, jnp.int32),
        running=jnp.ones(num_episodes, bool),
        step=jnp.int32(0),
    )

    def play_step(state: Evaluation) -> Evaluation:
        action_key, step_key = jax.random.split(jax.random.fold_in(play_key, state.step))
        distribution, memory = agent.policy(train_state, state.memory, state.obs)
        noise = agent.actions.noise(action_key, (num_episodes,))
        action = distribution.sample(noise) if sampled else distribution.mode()
        keys = jax.random.split(step_key, num_episodes)
        step = jax.vmap(env.step, in_axes=(0, 0, 0, None))(keys, state.env_state, action, env.params)
        reward = jnp.where(state.running, step.reward, 0.0)
        episode_return, low = add(state.episode_return, state.return_low, reward)
        return Evaluation(
            obs=step.obs,
            env_state=step.state,
            memory=memory,
            episode_return=episode_return,
            return_low=low,
            episode_length=state.episode_length + state.running.astype(jnp.int32),
            running=state.running & ~(step.terminated | step.truncated),
            step=state.step + 1,
        )

    return jax.lax.while_loop(lambda state: jnp.any(state.running) & (state.step < max_steps), play_step, start)


@of_own_state
def check_play(agent: Agent, train_state: TrainState, key: jax.Array, num_episodes: int, max_steps: int) -> None:
    """Raises PPOError unless the agent can act in this state. Runs nothing."""
    check_one_state(train_state)
    check_key(key)
    check_size("max_steps", max_steps, most=MAX_COUNT)
    check_size("num_episodes", num_episodes, most=MAX_COUNT)
    obs, _ = jax.eval_shape(agent.env.reset, key, agent.env.params)
    traced("the agent's policy", lambda state, obs: agent.policy(state, agent.start_memory, obs)[1], train_state, obs)


def record_episodes(
    agent: Agent, train_state: TrainState, key: jax.Array, num_episodes: int = 1, *, max_steps: int = 1_000
) -> list[Episode]:
    """Plays greedy episodes and keeps every step, for clips and for a closer look.

    Compiles and runs at once, and brings the episodes to the host: it cannot be used inside jit.

    Args:
        agent: the agent that plays
        train_state: of one run, or of several with a leading axis [N]; each run plays from the same starts
        key: a typed key; further episodes of a run start from keys that are folded in
        num_episodes: for each run
        max_steps: an episode that has not ended after so many steps is cut there

    Returns:
        The episodes of the run, or of the first run, then of the second, and so on.

    Raises:
        PPOError: as `evaluate` does; and if the arrays of `train_state` do not share one leading axis
    """
    check_state(train_state, TrainState, "runner.train_state")
    lead = np.shape(train_state.update)  # () for the state of one run, (N,) for several
    if len(lead) > 1 or (lead and any(np.shape(x)[:1] != lead for x in jax.tree.leaves(train_state))):
        raise PPOError(
            f"train_state.update has shape {list(lead)}; give the state of one run, or of several with one leading "
            "axis in all of its arrays"
        )
    one = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[len(lead) :], x.dtype), train_state)
    check_play(agent, one, key, num_episodes, max_steps)

    def play_run(state: TrainState, key: jax.Array) -> tuple:
        more = jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, jnp.arange(1, num_episodes))
        keys = jnp.concatenate([key[None], more])
        return jax.vmap(lambda key: play(agent, state, key, max_steps))(keys)

    on_host = to_host(jax.jit(jax.vmap(play_run, (0, None)) if lead else play_run)(train_state, key))
    places = np.ndindex(*lead, num_episodes)
    return [cut(*jax.tree.map(lambda x, place=place: x[place], on_host)) for place in places]


def play(agent: Agent, train_state: TrainState, key: jax.Array, num_steps: int) -> tuple[PyTree, tuple, jax.Array]:
    """`num_steps` greedy steps without reset.

    -> (first (obs, state), (next (obs, state) [T, ...], action [T, ...], reward [T], probabilities [T, n] or None),
    done [T])
    """
    reset_key, play_key = jax.random.split(key)
    obs, env_state = agent.env.reset(reset_key, agent.env.params)

    def play_step(carry: tuple, key: jax.Array) -> tuple[tuple, tuple]:
        obs, env_state, memory = carry
        distribution, memory = agent.policy(train_state, memory, obs)
        action = agent.actions.to_env(distribution.mode())
        step = agent.env.step(key, env_state, action, agent.env.params)
        probabilities = jax.nn.softmax(distribution.logits) if isinstance(distribution, Categorical) else None
        played = ((step.obs, step.state), action, step.reward, probabilities)
        return (step.obs, step.state, memory), (played, step.terminated | step.truncated)

    _, (played, done) = jax.lax.scan(
        play_step, (obs, env_state, agent.start_memory), jax.random.split(play_key, num_steps)
    )
    return (obs, env_state), played, done


def cut(first: PyTree, played: tuple, done: np.ndarray) -> Episode:
    """Cuts what `play` recorded at the end of the episode. All arrays are on the host."""
    is_cut = not done.any()
    length = len(done) if is_cut else int(np.argmax(done)) + 1
    seen, action, reward, probabilities = jax.tree.map(lambda x: x[:length], played)
    obs, state = jax.tree.map(lambda x, y: np.concatenate([x[None], y]), first, seen)
    return Episode(obs, action, reward, probabilities, state, is_cut)
