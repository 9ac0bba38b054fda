"""Checks of the agents that a user's own functions make: their members, and what their functions return."""

import contextlib
from collections.abc import Iterable, Iterator
from typing import Any

import jax
import jax.numpy as jnp

from purejaxppo.envs.base import traced
from purejaxppo.ppo.checks import RESERVED
from purejaxppo.ppo.config import Config
from purejaxppo.ppo.types import Metrics, RunnerState, TrainState
from purejaxppo.utils.errors import PPOError, in_one_line
from purejaxppo.utils.tree import PyTree, difference, key_shape

MEMBERS = ("env", "config", "actions", "init", "update", "policy", "start_memory")  # of every agent


def check_members(named: str, agent: Any, config: Config) -> None:
    """Raises PPOError if the object lacks a member of an agent, or is one of another length than the config's."""
    missing = [name for name in MEMBERS if not hasattr(agent, name)]
    if missing:
        raise PPOError(
            f"{named} returns a {type(agent).__name__}, which lacks {', '.join(missing)}; "
            "return an agent such as pjp.make_ppo(env, config)"
        )
    for name in ("batch_size", "num_updates"):
        if (own := getattr(agent.config, name)) != (wanted := getattr(config, name)):
            raise PPOError(
                f"{named} returns an agent whose config.{name} is {own}, and {wanted} is wanted; "
                "change num_envs, num_steps and total_timesteps in the config that it is given"
            )


def check_functions(named: str, agent: Any) -> None:
    """Traces one update and the policy, and runs nothing. Raises PPOError if one fails or returns something else."""
    before = traced(f"{named}: init", agent.init, key_shape())
    if not isinstance(before, RunnerState) or not isinstance(before.train_state, TrainState):
        raise PPOError(f"{named}: init must return a pjp.RunnerState with a pjp.TrainState")
    updated = traced(f"{named}: update", agent.update, before)
    if not (isinstance(updated, tuple) and len(updated) == 2 and isinstance(updated[1], Metrics)):
        raise PPOError(f"{named}: update must return (runner, pjp.Metrics)")
    runner, metrics = updated
    check_like_init(f"{named}: update", before, runner)
    for name in metrics.columns():
        shape = jnp.shape(metrics.updates if name == "timesteps" else metrics.column(name))
        if shape != ():
            raise PPOError(f"{named}: the metric {name} has the shape {shape}; give one number, such as a mean")
    taken = sorted(RESERVED & metrics.extra.keys())
    if taken:
        raise PPOError(f"{named}: metrics.extra has {taken[0]!r}, which is another column; give it another name")
    obs = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), before.obs)
    traced(f"{named}: policy", lambda state, obs: memory_after(named, agent, state, obs), before.train_state, obs)


def check_like_init(named: str, begun: RunnerState, returned: Any) -> None:
    """Raises PPOError for a return value whose structure, shapes or dtypes are not those of what `init` returns."""
    if differs := difference(begun, returned):
        place, wanted, found = differs
        raise PPOError(f"{named} must return a runner like that of init: {place} is {found}, not {wanted}")


@contextlib.contextmanager
def numbers_traced(names: Iterable[str]) -> Iterator[None]:
    """Turns the error of an agent that reads a traced number as a Python value into one that names the remedy."""
    try:
        yield
    except Exception as error:
        cause = error.__cause__ if isinstance(error, PPOError) else error
        if not isinstance(cause, jax.errors.JAXTypeError):
            raise
        raise PPOError(
            f"one program for all values of {', '.join(sorted(names))}: {in_one_line(cause)}; declare a number that "
            "Python reads with pjp.static(default): then a sweep makes a program for each of its values"
        ) from error


def memory_after(named: str, agent: Any, state: TrainState, obs: PyTree) -> PyTree:
    """The memory after one observation. Raises PPOError unless `policy` returns it beside a distribution."""
    returned = agent.policy(state, agent.start_memory, obs)
    if not (isinstance(returned, tuple) and len(returned) == 2 and hasattr(returned[0], "mode")):
        raise PPOError(f"{named}: policy must return (distribution, memory)")
    return returned[1]
