"""What is checked when an agent is made, whatever its kind."""

from collections.abc import Mapping
from typing import Any

import jax
import optax

from purejaxppo.actions import Actions, Parameters
from purejaxppo.config import PPOConfig, check_float32, is_changed
from purejaxppo.envs.base import Environment, in_parts
from purejaxppo.schedules import Schedule
from purejaxppo.types import PPOError, PyTree


def check_parts(
    env: Environment,
    config: PPOConfig,
    config_class: type[PPOConfig],
    optimizer: optax.GradientTransformation | None,
    schedules: Mapping[str, Schedule] | None,
) -> None:
    """Raises PPOError for an environment, config or optimizer that is none, or does not go with the others."""
    check_float32()
    if getattr(config, "factory", None) != config_class.factory:
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
    places, structure = jax.tree_util.tree_flatten_with_path(actions.parameters)
    if not isinstance(outputs, tuple) or len(outputs) != 2:
        raise PPOError(f"{what} has to return ({jax.tree.map(_names, actions.parameters)}, value)")
    parameters, value = outputs
    values = _shapes((value,))
    for (path, wanted), own in zip(places, in_parts(f"{what}, parameters", structure, parameters), strict=True):
        shapes = _shapes((own,) if len(wanted.sizes) == 1 else own)
        expected = [(*lead, size) for size in wanted.sizes.values()]
        if shapes != expected or values != [lead]:
            seen = shape_list(_shapes(tuple(jax.tree.leaves(obs))))
            place = f" of {jax.tree_util.keystr(path)}" if path else ""
            raise PPOError(
                f"for observations {seen} the network returns {_names(wanted)}{place} {shape_list(shapes)} "
                f"and values {shape_list(values)}; they have to be {shape_list(expected)} and {lead}"
            )


def _names(wanted: Parameters) -> str:
    return next(iter(wanted.sizes)) if len(wanted.sizes) == 1 else f"({', '.join(wanted.sizes)})"


def _shapes(arrays: PyTree) -> list[tuple[int, ...]]:
    """Those of a tuple of arrays, and none of anything else."""
    is_flat = isinstance(arrays, tuple) and all(hasattr(x, "shape") for x in arrays)
    return [x.shape for x in arrays] if is_flat else []


def shape_list(shapes: list[tuple[int, ...]]) -> str:
    """Shapes, for people."""
    return " ".join(map(str, shapes)) or "of another structure"
