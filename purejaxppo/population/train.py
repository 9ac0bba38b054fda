"""Training a population: compiled chunks of updates over all seeds at once, with the host in between."""

import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from purejaxppo.config import PPOConfig
from purejaxppo.envs.base import Environment
from purejaxppo.evaluate import Agent, evaluate
from purejaxppo.full_batch import FullBatchConfig, make_full_batch_ppo
from purejaxppo.networks import NetworkLike
from purejaxppo.population.placement import OverSeeds, in_turn, make_spread, pad_seeds, together
from purejaxppo.ppo import make_ppo, seed_keys
from purejaxppo.types import Metrics, PPOError, RunnerState, TrainState

CHUNKS = 64  # of a run: how often the host sees its metrics


class Progress(NamedTuple):
    """What the host sees after a chunk of updates."""

    updates: int  # done so far, of each seed
    num_updates: int  # of the whole run
    timesteps: int  # environment steps so far, over all seeds
    seconds: float  # of training so far, compilation left out
    metrics: Metrics  # of this chunk, [S, updates of the chunk]
    train_states: TrainState  # [S or more, ...]: padding may follow the seeds; valid during the call only


class Population(NamedTuple):
    """A trained population."""

    agent: Agent
    runners: RunnerState  # [S, ...]; jax.tree.map(lambda x: x[i], runners) is seed i
    metrics: Metrics  # [S, U], on the host
    compile_seconds: float
    train_seconds: float  # compilation left out


def train_population(
    env: Environment,
    config: PPOConfig | FullBatchConfig,
    *,
    num_seeds: int,
    seed: int = 0,
    network: NetworkLike | None = None,
    optimizer: optax.GradientTransformation | None = None,
    on_chunk: Callable[[Progress], None] | None = None,
) -> Population:
    """Trains seeds 0 ... num_seeds - 1 (`seed_keys(seed, num_seeds)`) together, on every device of this process.

    `on_chunk` is called on the host after every chunk of updates, about 64 times in the course of the run.
    """
    if isinstance(num_seeds, bool) or not isinstance(num_seeds, int) or num_seeds < 1:
        raise PPOError(f"num_seeds = {num_seeds!r} is not a whole number of at least 1")
    agent = make_agent(env, config, network=network, optimizer=optimizer)
    devices = jax.local_devices()[: max(1, num_seeds)]
    keys = pad_seeds(seed_keys(seed, num_seeds), len(devices))
    capacity = max(1, config.num_updates // CHUNKS)

    started = time.perf_counter()
    init = jax.jit(make_spread(agent.init, devices)).lower(keys).compile()
    runners = init(keys)
    advance = jax.jit(
        make_spread(
            lambda runner, count: update_up_to(agent, runner, count, capacity),
            devices,
            num_replicated=1,
            over_seeds=over_seeds(config, num_seeds, devices),
        ),
        donate_argnums=0,
    )
    advance = advance.lower(runners, jnp.int32(0)).compile()
    compile_seconds = time.perf_counter() - started

    chunks: list[Metrics] = []
    started = time.perf_counter()
    for first in range(0, config.num_updates, capacity):
        count = min(capacity, config.num_updates - first)
        runners, metrics = advance(runners, jnp.int32(count))
        chunks.append(jax.tree.map(lambda x, count=count: np.asarray(x)[:num_seeds, :count], metrics))
        if on_chunk is not None:
            on_chunk(
                Progress(
                    updates=first + count,
                    num_updates=config.num_updates,
                    timesteps=(first + count) * config.batch_size * num_seeds,
                    seconds=time.perf_counter() - started,
                    metrics=chunks[-1],
                    train_states=runners.train_state,
                )
            )
    return Population(
        agent=agent,
        runners=jax.tree.map(lambda x: x[:num_seeds], runners),
        metrics=jax.tree.map(lambda *parts: np.concatenate(parts, axis=1), *chunks),
        compile_seconds=compile_seconds,
        train_seconds=time.perf_counter() - started,
    )


def make_agent(env: Environment, config: PPOConfig | FullBatchConfig, **parts: Any) -> Agent:
    """The agent that a config is for. `parts` are `network` and `optimizer`, which only PPOConfig's takes."""
    if isinstance(config, PPOConfig):
        return make_ppo(env, config, **parts)
    given = [name for name, part in parts.items() if part is not None]
    if given:
        raise PPOError(f"{given[0]}=... does not go with FullBatchConfig, which has its own; leave it out")
    return make_full_batch_ppo(env, config)


def over_seeds(config: PPOConfig | FullBatchConfig, num_seeds: int, devices: Sequence[Any]) -> OverSeeds:
    """How the seeds of one device run: together, but on a CPU in turn if they are full-batch, or only one each.

    A batch of one matrix product is slower there than the product itself.
    """
    alone = num_seeds <= len(devices) or isinstance(config, FullBatchConfig)
    return in_turn if alone and devices[0].platform == "cpu" else together


def update_up_to(agent: Agent, runner: RunnerState, count: jax.Array, capacity: int) -> tuple[RunnerState, Metrics]:
    """`count` updates, at most `capacity`: one program for every count. -> (runner, metrics [capacity])

    The rows of the metrics from `count` on are 0.
    """
    blank = jax.eval_shape(agent.update, runner)[1]
    metrics = jax.tree.map(lambda x: jnp.zeros((capacity, *x.shape), x.dtype), blank)

    def update_and_note(i: jax.Array, carry: tuple[RunnerState, Metrics]) -> tuple[RunnerState, Metrics]:
        runner, metrics = carry
        runner, row = agent.update(runner)
        return runner, jax.tree.map(lambda all_rows, x: all_rows.at[i].set(x), metrics, row)

    return jax.lax.fori_loop(0, count, update_and_note, (runner, metrics))


def evaluate_population(
    agent: Agent, train_states: TrainState, *, num_episodes: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Greedy episodes of every member, on all devices. train_states: [S, ...] -> returns, lengths [S, num_episodes]"""
    num_seeds = train_states.update.shape[0]
    devices = jax.local_devices()[:num_seeds]
    keys = seed_keys(seed, num_seeds)
    play = jax.jit(make_spread(lambda state, key: evaluate(agent, state, key, num_episodes), devices))
    returns, lengths = play(*pad_seeds((train_states, keys), len(devices)))
    return np.asarray(returns)[:num_seeds], np.asarray(lengths)[:num_seeds]
