"""`make_env`: environments by name, from gymnax or another suite, or from your own object."""

import dataclasses
import functools
import importlib
from typing import Any

import jax
import numpy as np

from purejaxppo.envs.base import SUITE_LIMITS, TIME_LIMITS, Environment, Settled, check_environment
from purejaxppo.envs.spaces import settle_space, structure_of
from purejaxppo.envs.suites import adapted, find_adapter, suite_of
from purejaxppo.utils.devices import use_all_cores
from purejaxppo.utils.errors import PPOError
from purejaxppo.utils.suggest import unknown
from purejaxppo.utils.tree import PyTree, leaf_shapes, like_array
from purejaxppo.utils.validation import (
    MAX_COUNT,
    check_float32,
    is_number,
    is_numeric,
    is_traced,
    standard_promotion,
)

_OWN_PROTOCOL = ("reset", "step", "default_params", "observation_space", "action_space")
_settled = functools.lru_cache(maxsize=256)(Settled)  # once: two environments of one object share compiled programs
_REGISTERED: dict[str, Environment] = {}  # by register_env, in this process


def env_names(suite: str | None = None) -> list[str]:
    """Lists the names that `make_env` takes.

    Args:
        suite: such as "brax"; by default the names of gymnax, of this library and of `register_env`

    Raises:
        PPOError: if the suite is unknown or not installed
    """
    if suite is None:
        return sorted([*_gymnax().names(), *_REGISTERED])
    return sorted(f"{suite}/{name}" for name in find_adapter(suite).names())


@functools.cache
def _gymnax() -> Any:
    """The adapter of gymnax, imported with it on first use. It starts JAX."""
    use_all_cores()
    return importlib.import_module("purejaxppo.envs.adapters.gymnax")


def names_own_code(name: str) -> bool:
    """True for a name of the user's code, such as `FILE.py:CLASS` or `MODULE:FACTORY`."""
    return ":" in name


def register_env(name: str, env: Any) -> None:
    """Makes `make_env(name)` return this environment, in this process. A run folder names its environment like that.

    Args:
        name: replaces an environment that was registered under it before
        env: anything that `make_env` takes

    Raises:
        PPOError: if the name is that of a built-in environment or has a slash; and as `make_env` does
    """
    if not isinstance(name, str) or not name.strip():
        raise PPOError(f"name = {name!r} is not a name; give a string")
    if name in (*_gymnax().names(), *_gymnax().LEFT_OUT) or ("/" in name and not names_own_code(name)):
        raise PPOError(f"name = {name!r} is that of another environment, or has a slash as a suite's; give another")
    _REGISTERED[name] = make_env(env)


def make_env(env: Any, **params: Any) -> Environment:
    """Makes an Environment from a name, an instance of gymnax or of another suite, or your own object.

    A name with a slash is of another suite, if that is installed: brax/ant, brax/ant/spring, jumanji/Snake-v1,
    craftax/Craftax-Symbolic-v1, xminigrid/MiniGrid-DoorKey-5x5, navix/Navix-DoorKey-5x5-v0, pgx/tic_tac_toe,
    playground/CartpoleBalance.

    Your own object has `reset(key, params) -> (obs, state)`,
    `step(key, state, action, params) -> (obs, state, reward, terminated, truncated)` without auto-reset,
    and the attributes `default_params`, `observation_space` and `action_space` (`Discrete`, `MultiDiscrete` or `Box`,
    or a pytree of these, such as a dict: observations and actions are then pytrees of that structure).
    `step` may return a sixth value, a dict of numbers: the mean of each over the last steps of episodes is
    `Metrics.extra["episode/NAME"]`.
    If it also has `action_mask(state, params)`, one bool for each action and at least one of them true until the
    episode is over, the Environment's observations are `MaskedObs`, and an agent takes legal actions only.
    If it has `draw(obs, state, params)`, a PIL image of one step, it can be filmed, at `draw.steps_per_second` if that
    is given.
    If its `takes_turns` is True, the policy plays both sides of a game of two, and needs an advantage of its own.

    Before JAX has started, this makes each core of the machine a CPU device: see `use_all_cores`.

    Args:
        env: a name of `env_names`, an instance, or an Environment
        params: environment parameters by name, which may be traced. CartPole's `total_mass` and `polemass_length`
            follow `masscart`, `masspole` and `length` unless they are given.

    Raises:
        PPOError: if a name or a parameter is unknown (with the nearest ones) or a parameter is NaN, and if the
            environment's functions and spaces disagree
    """
    check_float32()
    try:
        return _checked(env, params)
    except PPOError:
        if isinstance(env, str | Environment):
            raise
        # JAX keeps the shapes that a function returned first. An attribute of the object may have changed since.
        _settled.cache_clear()
        return _checked(env, params)


def _checked(env: Any, params: dict[str, Any]) -> Environment:
    built = _built(env)
    built = built.replace(params=_set_params(built, params))
    check_environment(built)
    return built


def _built(env: Any) -> Environment:
    """The environment with its default parameters, not checked yet."""
    if isinstance(env, str):
        return _REGISTERED[env] if env in _REGISTERED else _named(env)
    if isinstance(env, Environment):
        return env.replace(
            observation_space=settle_space(f"{env.name}.observation_space", env.observation_space),
            action_space=settle_space(f"{env.name}.action_space", env.action_space),
        )
    if (suite := suite_of(env)) is not None:
        return _from_object(find_adapter(suite).adapt(env))
    return _from_object(_gymnax().adapt(env) if isinstance(env, _gymnax().BASE) else env)


@functools.cache
@standard_promotion
def _named(name: str) -> Environment:
    """The environment of a name. One instance for each name, so that equal environments share compiled programs."""
    if names_own_code(name) or name.endswith(".py"):
        raise PPOError(
            f"{name!r} names code of your own, which is imported only where you name it: "
            f"give --env {name} to the command, or in Python register_env({name!r}, ...) first"
        )
    if "/" in name:
        return _from_object(adapted(name)).replace(name=name)
    gymnax = _gymnax()
    if name in gymnax.LEFT_OUT:
        raise PPOError(f"{name} {gymnax.LEFT_OUT[name]}")
    if name not in gymnax.names():
        raise PPOError(unknown("environment", name, env_names()))
    with jax.ensure_compile_time_eval():  # concrete also inside the caller's jit
        return _from_object(gymnax.make(name))


def _from_object(env: Any) -> Environment:
    missing = [name for name in _OWN_PROTOCOL if not hasattr(env, name)]
    if isinstance(env, type):
        raise PPOError(f"{env.__name__} is a class; give an instance, {env.__name__}()")
    if missing:
        raise PPOError(
            f"{type(env).__name__} is not an environment: it lacks {', '.join(missing)}; "
            "give a name, a gymnax environment, or an object with " + ", ".join(_OWN_PROTOCOL)
        )
    observation_space, action_space = (
        settle_space(f"{type(env).__name__}.{name}", getattr(env, name))
        for name in ("observation_space", "action_space")
    )
    action_mask = getattr(env, "action_mask", None)
    for path, leaf in jax.tree_util.tree_leaves_with_path(env.default_params):
        if not isinstance(leaf, jax.Array | np.ndarray | np.generic | bool | int | float | complex):
            place = jax.tree_util.keystr(path)
            raise PPOError(
                f"{type(env).__name__}.default_params{place} = {leaf!r} is not a number; "
                "give a pytree of numbers, and keep the rest in the object"
            )
    functions = (env.reset, env.step, action_mask, structure_of(observation_space), structure_of(action_space))
    try:
        settled = _settled(*functions)
    except TypeError:  # a function that has no hash, such as an object with arrays
        settled = Settled(*functions)
    return Environment(
        params=env.default_params,
        reset=settled.reset,
        step=settled.step,
        observation_space=observation_space,
        action_space=action_space,
        name=getattr(env, "name", type(env).__name__),
        action_mask=action_mask,
        draw=getattr(env, "draw", None),
        takes_turns=getattr(env, "takes_turns", False),
    )


def _set_params(env: Environment, changes: dict[str, Any]) -> PyTree:
    if not changes:
        return env.params
    params: Any = env.params
    if not hasattr(params, "replace"):
        kind = "None" if params is None else f"a {type(params).__name__}"
        raise PPOError(
            f"{env.name} has no parameters by name, and {', '.join(changes)} was given: default_params is {kind}; "
            "make it a flax.struct.PyTreeNode"
        )
    names = [field.name for field in dataclasses.fields(params)]
    for name, value in changes.items():
        if name not in names:
            raise PPOError(unknown(f"parameter of {env.name}", name, names))
        _check_parameter(env.name, name, value, getattr(params, name))
    params = params.replace(**{name: _like(value, getattr(params, name)) for name, value in changes.items()})
    if hasattr(params, "polemass_length") and changes.keys() & {"masscart", "masspole", "length"}:
        derived = {"total_mass": params.masscart + params.masspole, "polemass_length": params.masspole * params.length}
        params = params.replace(**{name: value for name, value in derived.items() if name not in changes})
    return params


def _like(value: Any, default: Any) -> Any:
    """`like_array`, for each leaf of a pytree."""
    same = jax.tree.structure(value) == jax.tree.structure(default)
    return jax.tree.map(like_array, value, default) if same else like_array(value, default)


def _check_parameter(env_name: str, name: str, value: Any, default: Any) -> None:
    """Raises PPOError unless the value fits in the place of the default; of a pytree, each leaf of it."""
    is_pytree = not jax.tree_util.all_leaves([default])
    if is_pytree and jax.tree.structure(value) == jax.tree.structure(default):
        own = jax.tree.leaves(default)
        for (path, leaf), each in zip(jax.tree_util.tree_leaves_with_path(value), own, strict=True):
            _check_parameter(env_name, name + jax.tree_util.keystr(path), leaf, each)
        return
    if is_pytree and not isinstance(default, list | tuple | None):
        differs = sorted(leaf_shapes(value).keys() ^ leaf_shapes(default).keys())[:3] or [f" ({type(value).__name__})"]
        places = ", ".join(name + place for place in differs)
        raise PPOError(f"{env_name}: {name} is not a pytree like the default: they differ in {places}")
    may_be_bool = isinstance(default, bool | np.bool_)
    number = np.asarray(value) if np.ndim(default) and type(value) in (list, tuple) else value
    if not (is_traced(value) or is_number(number) or (may_be_bool and is_numeric(value))):
        raise PPOError(f"{env_name}: {name} = {value!r} is not a number")
    if np.shape(value) != np.shape(default):
        raise PPOError(
            f"{env_name}: {name} has shape {np.shape(value)}, and {np.shape(default)} is wanted; "
            "for several values, vmap over a function that calls make_env with one"
        )
    if is_traced(value):
        return
    if np.isnan(value).any():
        raise PPOError(f"{env_name}: {name} is NaN; give a number")
    limits = (*TIME_LIMITS, *SUITE_LIMITS) if "/" in env_name else TIME_LIMITS
    if name in limits and not (1 <= value <= MAX_COUNT and value == int(value)):
        raise PPOError(f"{env_name}: {name} = {value!r} is not a whole number from 1 to {MAX_COUNT}")
    if isinstance(value, int) and abs(value) > MAX_COUNT:
        raise PPOError(f"{env_name}: {name} = {value!r} overflows int32; give a float")
