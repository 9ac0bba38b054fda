"""The space of a search: domains of numbers by name, and draws from them as JAX arrays."""

import dataclasses
import math
import zlib
from collections.abc import Mapping

import jax
import jax.numpy as jnp

from purejaxppo.envs.base import Environment
from purejaxppo.population.sweep import LogUniform, Uniform, at_point, check_space, full_name
from purejaxppo.ppo.config import Config
from purejaxppo.utils.errors import PPOError

Space = Mapping[str, Uniform | LogUniform]  # name -> the domain of its values
Hyper = dict[str, jax.Array]  # name -> values, [] of one member and [N] of all


def settle_space(env: Environment, config: Config, space: Space) -> Space:
    """The space with full names. Raises PPOError unless it holds domains of numbers that one program can take."""
    check_space(space)
    space = {full_name(env, config, name): domain for name, domain in space.items()}
    static = [field.name for field in dataclasses.fields(config) if field.metadata.get("static", False)]
    for name, domain in space.items():
        if name in static:
            raise PPOError(
                f"{name} is a part of the program, and a search has one program for all its members; "
                "take it out of the space, and compare its values by a sweep"
            )
        if not isinstance(domain, Uniform | LogUniform):
            raise PPOError(f"{name} = {domain!r} is not a domain; give uniform(low, high) or log_uniform(low, high)")
        for bound in domain:
            at_point(env, config, {name: bound})
    return space


def draw(space: Space, key: jax.Array, num_members: int) -> Hyper:
    """Independent values of every name. Each name has its own stream: another name leaves its values as they are."""
    return {
        name: from_unit(domain, jax.random.uniform(key_of(name, key), (num_members,))) for name, domain in space.items()
    }


def from_unit(domain: Uniform | LogUniform, position: jax.Array) -> jax.Array:
    """The value at a position in [0, 1] of the domain; in a LogUniform, of its logarithm."""
    if isinstance(domain, LogUniform):
        return clip(domain, jnp.exp(math.log(domain.low) + position * (math.log(domain.high) - math.log(domain.low))))
    return clip(domain, domain.low + position * (domain.high - domain.low))


def clip(domain: Uniform | LogUniform, value: jax.Array) -> jax.Array:
    """The nearest value within the domain."""
    return jnp.clip(value, domain.low, domain.high)


def key_of(name: str, key: jax.Array) -> jax.Array:
    """The key for one hyperparameter."""
    return jax.random.fold_in(key, zlib.crc32(name.encode()))
