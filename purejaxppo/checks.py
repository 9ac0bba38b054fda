"""What is checked when an agent is made, whatever its kind."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

from purejaxppo.actions import Actions
from purejaxppo.config import PPOConfig, check_float32, is_changed
from purejaxppo.envs.base import Environment
from purejaxppo.schedules import Schedule
from purejaxppo.types import PPOError, PyTree


def check_parts(
    env: Environment,
    config: PPOConfig,
    config_class: type,
    optimizer: optax.GradientTransformation | None,
    schedules: Mapping[str, Schedule] | None,
) -> None:
    """Raises PPOError for an environment, config or optimizer that is none, or does not go with the others."""
    check_float32()
    if type(config) is not config_class:
        name = config_class.__name__
        raise PPOError(f"config = {config!r} is no {name}; give {name}(...), or take the factory of its own class")
    if not isinstance(env, Environment):
        raise PPOError(f"env = {env!r} is no Environment; give make_env({env!r})")
    if optimizer is not None:
        _check_optimizer(optimizer, config, schedules)


def _check_optimizer(
    optimizer: optax.GradientTransformation, config: PPOConfig, schedules: Mapping[str, Schedule] | None
) -> None:
    if not isinstance(optimizer, optax.GradientTransformation):
        raise PPOError(f"optimizer = {optimizer!r} is no optax transformation; give one such as optax.adam(1e-3)")
    if "learning_rate" in (schedules or {}):
        raise PPOError('schedules["learning_rate"] would do nothing beside optimizer=...; set it in the optimizer')
    for name in ("learning_rate", "anneal_lr", "lr_schedule", "adam_eps", "max_grad_norm"):
        if is_changed(config, name):
            raise PPOError(
                f"{name} = {getattr(config, name)} would do nothing beside optimizer=...; set it in the optimizer, "
                f"and leave the config's at {getattr(PPOConfig, name)}"
            )


def check_outputs(what: str, actions: Actions, obs: PyTree, lead: tuple[int, ...], outputs: Any) -> None:
    """Raises PPOError unless `outputs` are the distribution's parameters [*lead, ...] and values [*lead]."""
    names, sizes = list(actions.parameters), list(actions.parameters.values())
    wanted = names[0] if len(names) == 1 else f"({', '.join(names)})"
    if not isinstance(outputs, tuple) or len(outputs) != 2:
        raise PPOError(f"{what} has to return ({wanted}, value)")
    parameters, value = outputs
    parameters = (parameters,) if len(names) == 1 else parameters
    shapes = [jnp.shape(x) for x in parameters] if isinstance(parameters, tuple) else []
    expected = [(*lead, size) for size in sizes]
    if shapes != expected or value.shape != lead:
        raise PPOError(
            f"for observations {jax.tree.leaves(obs)[0].shape} the network returns {wanted} "
            f"{shape_list(shapes)} and values {value.shape}; they have to be {shape_list(expected)} and {lead}"
        )


def shape_list(shapes: list[tuple[int, ...]]) -> str:
    """Shapes, for people."""
    return " ".join(map(str, shapes)) or "of another structure"
