"""`make_env`: environments by name, from gymnax or another suite, or from your own object."""

import dataclasses
import functools
import importlib
import sys
import types
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from purejaxppo.envs.base import (
    SUITE_LIMITS,
    TIME_LIMITS,
    Environment,
    Step,
    check_environment,
    numbers_in,
    settled_reset,
    settled_step,
    show_mask,
)
from purejaxppo.envs.spaces import Box, Discrete, Space, SpaceTree, settle_space, structure_of
from purejaxppo.envs.suites import adapted, find_adapter, suite_names, suite_of
from purejaxppo.utils.devices import use_all_cores
from purejaxppo.utils.errors import PPOError
from purejaxppo.utils.suggest import unknown
from purejaxppo.utils.tree import PyTree, Structure
from purejaxppo.utils.validation import MAX_COUNT, check_float32, is_traced, standard_promotion

# Environments of this library: a name of gymnax, and the parameters that differ.
_VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {"CartPole-v0": ("CartPole-v1", {"max_steps_in_episode": 200})}
_FOR_PICTURES = ("matplotlib.pyplot", "seaborn")  # seaborn brings scipy.stats and pandas
_NEEDS_NETWORK = ("MNISTBandit-bsuite",)  # downloads its images when constructed
_OWN_PROTOCOL = ("reset", "step", "default_params", "observation_space", "action_space")


class PutOff(types.ModuleType):
    """Stands for a module, which is imported when one of its attributes is first used."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        if sys.modules.get(self.__name__) is self:
            del sys.modules[self.__name__]
        return getattr(importlib.import_module(self.__name__), name)


@functools.cache
def _gymnax() -> Any:
    """Imports gymnax on first use, without what only its pictures need. It starts JAX."""
    use_all_cores()
    later = {name: PutOff(name) for name in _FOR_PICTURES if name not in sys.modules}
    sys.modules.update(later)
    try:
        return importlib.import_module("gymnax")
    finally:
        for name, module in later.items():
            if sys.modules.get(name) is module:
                del sys.modules[name]


_REGISTERED: dict[str, Environment] = {}  # by register_env, in this process


def env_names(suite: str | None = None) -> list[str]:
    """Lists the names that `make_env` takes.

    Args:
        suite: such as "brax"; by default the names of gymnax, of this library and of `register_env`

    Raises:
        PPOError: if the suite is unknown or not installed
    """
    return suite_names(suite) if suite is not None else sorted([*_named_here(), *_REGISTERED])


def _named_here() -> list[str]:
    return [*_VARIANTS, *(name for name in _gymnax().registered_envs if name not in _NEEDS_NETWORK)]


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
    if name in (*_named_here(), *_NEEDS_NETWORK) or ("/" in name and not names_own_code(name)):
        raise PPOError(f"name = {name!r} is that of another environment, or has a slash as a suite's; give another")
    _REGISTERED[name] = make_env(env)


def make_env(env: Any, **params: Any) -> Environment:
    """Makes an Environment from a name, an instance of gymnax or of another suite, or your own object.

    A name with a slash is of another suite, if that is installed: brax/ant, brax/ant/spring, jumanji/Snake-v1,
    craftax/Craftax-Symbolic-v1, xminigrid/MiniGrid-DoorKey-5x5, navix/Navix-DoorKey-5x5-v0.

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
    built = _with_params(_built(env), params)
    try:
        check_environment(built)
    except PPOError:
        if isinstance(env, str | Environment):
            raise
        # JAX keeps the shapes that a function returned first. An attribute of the object may have changed since.
        _own_functions.cache_clear()
        built = _with_params(_built(env), params)
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
    if isinstance(env, _gymnax().environments.environment.Environment):
        return _from_gymnax(env)
    return _from_object(env)


def _with_params(built: Environment, params: dict[str, Any]) -> Environment:
    return built.replace(params=_set_params(built, params))


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
    if name in _NEEDS_NETWORK:
        raise PPOError(f"{name} downloads data when it is constructed; construct it and pass the instance")
    if name not in env_names():
        raise PPOError(unknown("environment", name, env_names()))
    base, differing = _VARIANTS.get(name, (name, {}))
    built = _from_gymnax(_gymnax().make(base)[0])
    return built.replace(params=built.params.replace(**differing), name=name)


@functools.cache
@standard_promotion
def _from_gymnax(env: Any) -> Environment:
    with jax.ensure_compile_time_eval():  # concrete also inside the caller's jit
        params = jax.tree.map(_plain_number, env.default_params)
        shown = _settled_space(env.name, env.observation_space(params))
        observation_space = one_hot_space(shown)
        action_space = _settled_space(env.name, env.action_space(params))
        action_mask = getattr(env, "action_mask", None)
        reset, step = _own_functions(
            functools.partial(_gymnax_reset, env, shown),
            functools.partial(_gymnax_step, env, shown),
            action_mask,
            structure_of(observation_space),
            structure_of(action_space),
        )
        return Environment(
            params=params,
            reset=reset,
            step=step,
            observation_space=observation_space,
            action_space=action_space,
            name=env.name,
            action_mask=action_mask,
            draw=getattr(env, "draw", None),
        )


@standard_promotion
def _gymnax_reset(env: Any, shown: Space | SpaceTree, key: jax.Array, params: PyTree) -> tuple[PyTree, PyTree]:
    obs, state = env.reset_env(key, params)
    return one_hot(shown, obs), state


@standard_promotion
def _gymnax_step(
    env: Any, shown: Space | SpaceTree, key: jax.Array, state: PyTree, action: PyTree, params: PyTree
) -> Step:
    # gymnax's own `step` resets by itself and draws a new start in every step.
    obs, state, reward, terminated, info = env.step_env(key, state, action, params)
    told = {name: x for name, x in numbers_in(info).items() if name != "discount"}  # which `terminated` says too
    return Step(one_hot(shown, obs), state, reward, terminated, env.is_truncated(state, params), told)


def one_hot_space(space: Space | SpaceTree) -> Space | SpaceTree:
    """The space of observations after `one_hot`: a Box of n numbers for a Discrete(n)."""
    return Box((space.n,), 0.0, 1.0) if isinstance(space, Discrete) else space


def one_hot(space: Space | SpaceTree, obs: PyTree) -> PyTree:
    """An observation out of n as n numbers, one of them 1: a network would take a single number for a quantity."""
    return jax.nn.one_hot(obs, space.n) if isinstance(space, Discrete) else obs


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
    for name, function in {"reset": env.reset, "step": env.step, "action_mask": action_mask}.items():
        if function is not None and not callable(function):
            raise PPOError(f"{type(env).__name__}.{name} = {function!r} is not callable; see make_env")
    for path, leaf in jax.tree_util.tree_leaves_with_path(env.default_params):
        if not isinstance(leaf, jax.Array | np.ndarray | np.generic | bool | int | float | complex):
            place = jax.tree_util.keystr(path)
            raise PPOError(
                f"{type(env).__name__}.default_params{place} = {leaf!r} is not a number; "
                "give a pytree of numbers, and keep the rest in the object"
            )
    parts = (env.reset, env.step, action_mask, structure_of(observation_space), structure_of(action_space))
    try:
        reset, step = _own_functions(*parts)
    except TypeError:  # a function that has no hash, such as an object with arrays
        reset, step = _own_functions.__wrapped__(*parts)
    return Environment(
        params=env.default_params,
        reset=reset,
        step=step,
        observation_space=observation_space,
        action_space=action_space,
        name=getattr(env, "name", type(env).__name__),
        action_mask=action_mask,
        draw=getattr(env, "draw", None),
        takes_turns=getattr(env, "takes_turns", False),
    )


@functools.lru_cache(maxsize=256)
def _own_functions(
    reset: Callable[..., Any],
    step: Callable[..., Any],
    action_mask: Callable[..., Any] | None,
    observation: Structure,
    action: Structure,
) -> tuple[Any, Any]:
    """`reset` and `step`, wrapped once: two environments of one object share their compiled programs."""
    reset = functools.partial(settled_reset, reset, observation)
    step = functools.partial(settled_step, step, observation)
    return (reset, step) if action_mask is None else show_mask(reset, step, action_mask, action)


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
    params = params.replace(**changes)
    if hasattr(params, "polemass_length") and changes.keys() & {"masscart", "masspole", "length"}:
        derived = {"total_mass": params.masscart + params.masspole, "polemass_length": params.masspole * params.length}
        params = params.replace(**{name: value for name, value in derived.items() if name not in changes})
    return params


def _check_parameter(env_name: str, name: str, value: Any, default: Any) -> None:
    if not _is_real(value, default):
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


def _is_real(value: Any, default: Any) -> bool:
    """True for one or more numbers, and for a bool if the default is one."""
    if is_traced(value):
        return True
    try:
        found = np.asarray(value).dtype
    except ValueError:  # lists of different lengths
        return False
    kinds = "iufb" if isinstance(default, bool | np.bool_) else "iuf"
    return found.kind in kinds or jnp.issubdtype(found, jnp.floating)


def _plain_number(x: Any) -> Any:
    """A scalar as a Python number: a constant that the compiler can fold."""
    return x.item() if isinstance(x, jax.Array | np.ndarray | np.generic) and np.ndim(x) == 0 else x


def _settled_space(env_name: str, space: Any) -> Space | SpaceTree:
    return settle_space(f"{env_name}: a space", _space(env_name, space))


def _space(env_name: str, space: Any) -> PyTree:
    """A space of gymnax as one of this library; a Dict becomes a dict, and a Tuple a tuple."""
    gymnax_spaces = _gymnax().environments.spaces
    if isinstance(space, gymnax_spaces.Discrete):
        return Discrete(int(space.n))
    if isinstance(space, gymnax_spaces.Box):
        shape = tuple(space.shape)
        return Box(shape, space.low, space.high)
    if isinstance(space, gymnax_spaces.Dict):
        return {name: _space(env_name, part) for name, part in space.spaces.items()}
    if isinstance(space, gymnax_spaces.Tuple):
        return tuple(_space(env_name, part) for part in space.spaces)
    raise PPOError(f"{env_name} has the space {space!r}; supported are Discrete, Box, Dict and Tuple")
