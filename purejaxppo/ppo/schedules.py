"""Numbers that change over a run: factors on those of the config, and a learning rate that follows the KL."""

import functools
from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp

from purejaxppo.envs.base import traced
from purejaxppo.ppo.config import PPOConfig, is_changed
from purejaxppo.ppo.types import TrainState
from purejaxppo.utils.errors import PPOError
from purejaxppo.utils.suggest import unknown
from purejaxppo.utils.tree import PyTree, Terms
from purejaxppo.utils.validation import check_function, standard_promotion

# Index of the update, from 0, [] int32 -> factor on the config's number, [].
Schedule = Callable[[jax.Array], jax.Array | float]

MIN_RATE, MAX_RATE = 1e-6, 1e-2  # of a rate that follows the KL


class Schedules(NamedTuple):
    """The factor on each number that may change over a run."""

    learning_rate: Schedule
    clip_eps: Schedule
    ent_coef: Schedule


class RateRule(NamedTuple):
    """Where the learning rate of an update comes from. What it carries is `TrainState.learning_rate`."""

    init: Callable[[], PyTree]  # -> its state before the first update
    rate: Callable[[TrainState], jax.Array]  # state before an update -> its learning rate []
    adapt: Callable[[TrainState, Terms], PyTree]  # that state, and the update's terms -> its next state


def linear(update: jax.Array, num_updates: int) -> jax.Array:
    """1 - k / K in update k of K, counted from 0, and 0 beyond. [] -> []"""
    return jnp.maximum(1.0 - update / num_updates, 0.0)


def cosine(update: jax.Array, num_updates: int) -> jax.Array:
    """(1 + cos(pi k / K)) / 2 in update k of K, and 0 beyond (Loshchilov and Hutter 2017, equation 5). [] -> []"""
    return 0.5 * (1.0 + jnp.cos(jnp.pi * jnp.minimum(update / num_updates, 1.0)))


SHAPES = {"constant": lambda update, num_updates: 1.0, "linear": linear, "cosine": cosine}


def make_schedules(config: PPOConfig, own: Mapping[str, Schedule] | None) -> Schedules:
    """The schedules that the config names, replaced by the user's where given.

    Raises PPOError for one of an unknown number, one that is not a function from an index to a factor, and one where
    the config names another.
    """
    named = {
        "learning_rate": config.lr_schedule if config.anneal_lr and config.lr_schedule in SHAPES else "constant",
        "clip_eps": config.clip_eps_schedule,
        "ent_coef": config.ent_coef_schedule,
    }
    chosen = {name: functools.partial(SHAPES[shape], num_updates=config.num_updates) for name, shape in named.items()}
    return Schedules(**chosen | {name: _own_schedule(config, name, schedule) for name, schedule in (own or {}).items()})


def adapted_rate(rate: jax.Array, kl: jax.Array, desired_kl: float | jax.Array) -> jax.Array:
    """rate / 1.5 where KL > 2 desired_kl, 1.5 rate where KL < desired_kl / 2, within 1e-6 to 1e-2; else the rate.

    The rule of rl_games (`AdaptiveScheduler`) and RSL-RL, as Heess et al. (2017, algorithm 1) adapt the weight of a KL
    penalty; here with the mean KL of an update, for the next one. A KL that is NaN changes nothing. [], [] -> []
    """
    lower, higher = jnp.maximum(rate / 1.5, MIN_RATE), jnp.minimum(rate * 1.5, MAX_RATE)
    return jnp.where(kl > 2.0 * desired_kl, lower, jnp.where(kl < 0.5 * desired_kl, higher, rate))


def make_rate_rule(config: PPOConfig, schedule: Schedule) -> RateRule:
    """The rule that `lr_schedule` names: the config's number times its factor, or a rate that is carried."""
    if config.anneal_lr and config.lr_schedule == "adaptive":
        return RateRule(
            init=lambda: jnp.asarray(config.learning_rate, jnp.float32),
            rate=lambda state: state.learning_rate,
            adapt=lambda state, terms: adapted_rate(state.learning_rate, terms["approx_kl"], config.desired_kl),
        )
    return RateRule(
        init=lambda: None,
        rate=lambda state: jnp.asarray(config.learning_rate * schedule(state.update), jnp.float32),
        adapt=lambda state, terms: None,
    )


def _own_schedule(config: PPOConfig, name: str, schedule: Schedule) -> Schedule:
    """A schedule of the user, whose code may rely on the standard promotion of dtypes."""
    if name not in Schedules._fields:
        raise PPOError(unknown("number in schedules", name, list(Schedules._fields)))
    for field in {"learning_rate": ("anneal_lr", "lr_schedule")}.get(name, (f"{name}_schedule",)):
        if is_changed(config, field):
            raise PPOError(
                f"{field} = {getattr(config, field)!r} would do nothing beside schedules[{name!r}]; "
                f"leave it at {getattr(PPOConfig, field)!r}"
            )
    check_function(f"schedules[{name!r}]", schedule, "give a function of the update's index, such as an optax schedule")
    factor = standard_promotion(lambda update: jnp.asarray(schedule(update), jnp.float32))
    shape = traced(f"schedules[{name!r}]", factor, jax.ShapeDtypeStruct((), jnp.int32)).shape
    if shape != ():
        raise PPOError(f"schedules[{name!r}] returns shape {shape}; return one factor on the config's {name}")
    return factor
