"""Trained states that the members of a population start from (`init_from`)."""

import hashlib
from typing import NamedTuple

import jax
import numpy as np

from purejaxppo.ppo.checks import check_state
from purejaxppo.ppo.evaluate import Agent
from purejaxppo.ppo.types import TrainState
from purejaxppo.utils.errors import PPOError
from purejaxppo.utils.files import to_host


class Start(NamedTuple):
    """The train states to start from; both are None for a start from scratch."""

    train_states: TrainState | None = None  # [S, ...], as `carried` leaves them
    digest: str | None = None  # of the states; kept in the population's folder


def make_start(train_states: TrainState | None, num_seeds: int) -> Start:
    """The start of each seed. Raises PPOError unless there is a train state for each. train_states: [S, ...]"""
    if train_states is None:
        return Start()
    check_state(train_states, TrainState, "the train_state of a population")
    shape = np.shape(train_states.update)
    if len(shape) != 1:
        raise PPOError(f"init_from holds train states {list(shape)}; give those of a population, [S, ...]")
    if shape[0] < num_seeds:
        raise PPOError(f"init_from holds {shape[0]} seeds, and num_seeds = {num_seeds}; give at most {shape[0]}")
    states = to_host(jax.tree.map(lambda x: x[:num_seeds], carried(train_states)))
    digest = hashlib.sha256()
    for leaf in jax.tree.leaves(states):
        digest.update(np.ascontiguousarray(leaf).data)
    return Start(states, digest.hexdigest())


def carried(train_states: TrainState) -> TrainState:
    """The states without the optimizer's state and the learning rate, which a new run does not take over."""
    return train_states.replace(opt_state=(), learning_rate=None)


def check_start_of(agent: Agent, start: Start) -> None:
    """Raises PPOError unless the agent can start from the states, if there are any. Runs nothing."""
    if start.train_states is not None:
        one = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), start.train_states)
        if not hasattr(agent, "continue_from"):
            raise PPOError(f"{type(agent).__name__} has no continue_from, which init_from needs; leave out init_from")
        jax.eval_shape(agent.continue_from, one, jax.random.key(0))
