"""Jumanji: its discount tells terminations from truncations, and its action mask goes to the policy."""

import importlib
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from purejaxppo.envs.base import Step, numbers_in
from purejaxppo.envs.spaces import Box, Discrete, MultiDiscrete, Space
from purejaxppo.envs.suites import Adapted, check_layers, once
from purejaxppo.utils.errors import PPOError
from purejaxppo.utils.tree import PyTree, key_shape
from purejaxppo.utils.validation import standard_promotion

_jumanji: Any = importlib.import_module("jumanji")
_wrappers: Any = importlib.import_module("jumanji.wrappers")

LEFT_OUT = {
    "Sokoban-v0": "downloads its levels when constructed; construct it and pass the instance",
    "Connector-v3": "rewards several agents; pass jumanji.wrappers.MultiToSingleWrapper of the instance",
    "LevelBasedForaging-v0": "rewards several agents; pass jumanji.wrappers.MultiToSingleWrapper of the instance",
    "SearchAndRescue-v0": "rewards several agents; pass jumanji.wrappers.MultiToSingleWrapper of the instance",
    "MultiCVRP-v0": "has a mask that is not of its actions' size; pass an instance whose observation has none",
}
_MASK = "action_mask"  # its name in every observation of Jumanji

Observe = Callable[[Any], jax.Array]


class JumanjiState(NamedTuple):
    """Jumanji's state, and the legal actions that came with its observation."""

    jumanji: PyTree
    action_mask: jax.Array | None  # as in `MaskedObs`; None without a mask


class Actions(NamedTuple):
    """The action space of an environment, and how its actions and masks convert."""

    space: Space
    dtype: Any  # of Jumanji's actions
    parts: tuple[int, ...] | None = None  # where one Discrete is an action of several parts: their sizes

    def to_jumanji(self, action: jax.Array) -> jax.Array:
        """An action as Jumanji takes it: a whole action of several parts becomes [k]."""
        action = action if self.parts is None else jnp.stack(jnp.unravel_index(action, self.parts))
        return action.astype(self.dtype)

    def legal(self, mask: jax.Array) -> jax.Array:
        """Jumanji's mask as ours: of parts, [k, n] -> [k n]; of whole actions, [n_1, ..., n_k] -> [n_1 ... n_k]."""
        return some_legal(mask if self.parts is None else mask.ravel()).ravel()


class JumanjiEnvironment(Adapted):
    """One environment of Jumanji, as an object that `make_env` takes.

    An end of discount 0 is a termination, one of another discount a truncation.
    """

    default_params = ()
    action_mask: Callable[..., Any] | None = None

    def __init__(self, env: Any, observe: Observe, actions: Actions, obs_shape: tuple[int, ...]) -> None:
        self.name = f"jumanji/{type(env.unwrapped).__name__}"
        self.observation_space = Box(obs_shape, -math.inf, math.inf)
        self.action_space = actions.space
        self._env, self._observe, self._actions = env, observe, actions

    @standard_promotion
    def reset(self, key: jax.Array, params: PyTree) -> tuple[jax.Array, JumanjiState]:
        """-> (obs, state)"""
        state, start = self._env.reset(key)
        return self._observe(start.observation), JumanjiState(state, self._legal(start.observation))

    @standard_promotion
    def step(self, key: jax.Array, state: JumanjiState, action: jax.Array, params: PyTree) -> Step:
        """One step of Jumanji, which draws from the key in its state."""
        new_state, after = self._env.step(state.jumanji, self._actions.to_jumanji(action))
        return Step(
            obs=self._observe(after.observation),
            state=JumanjiState(new_state, self._legal(after.observation)),
            reward=after.reward,
            terminated=after.last() & (after.discount == 0),
            truncated=after.last() & (after.discount != 0),
            info=numbers_in(after.extras),
        )

    def _legal(self, observation: Any) -> jax.Array | None:
        return self._actions.legal(getattr(observation, _MASK)) if hasattr(observation, _MASK) else None


def mask_of(state: JumanjiState, params: PyTree) -> jax.Array | None:
    """The action mask of an environment. -> one bool for each action"""
    return state.action_mask


def names() -> list[str]:
    """The names of Jumanji's registry, without the environments that cannot be made by name."""
    return [name for name in _jumanji.registered_environments() if name not in LEFT_OUT]


def make(name: str) -> Any:
    """Jumanji's environment of a name."""
    return _jumanji.make(name)


@once
def adapt(env: Any, observe: Observe | None = None) -> JumanjiEnvironment:
    """An object for `make_env`, whose policy sees `observe(observation)`.

    Args:
        env: an environment of Jumanji
        observe: Jumanji's observation -> one array; by default the only array beside the action mask, or several
            flattened one after the other

    Raises:
        PPOError: if the environment resets by itself, rewards several agents, or has actions that are not Discrete,
            MultiDiscrete or Box
    """
    name = type(env).__name__
    batching = (_wrappers.VmapWrapper, _wrappers.AutoResetWrapper, _wrappers.VmapAutoResetWrapper)
    check_layers(env, lambda layer: isinstance(layer, batching), "_env", "give what it wraps")
    if env.reward_spec.shape != ():
        raise PPOError(
            f"{name} of Jumanji rewards {env.reward_spec.shape[0]} agents, and one is wanted; "
            "give jumanji.wrappers.MultiToSingleWrapper of it"
        )
    observe = side_by_side if observe is None else observe
    _, start = jax.eval_shape(env.reset, key_shape())
    mask = getattr(start.observation, _MASK, None)
    actions = make_actions(name, env.action_spec, None if mask is None else mask.shape)
    made = JumanjiEnvironment(env, observe, actions, jax.eval_shape(observe, start.observation).shape)
    made.action_mask = None if mask is None else mask_of
    return made


def side_by_side(observation: Any) -> jax.Array:
    """The only array beside the mask, unchanged; or several, flattened in the order of their names."""
    arrays = [
        jnp.asarray(x, jnp.float32)
        for path, x in jax.tree_util.tree_leaves_with_path(observation)
        if jax.tree_util.keystr(path[:1], simple=True) != _MASK
    ]
    return arrays[0] if len(arrays) == 1 else jnp.concatenate([x.ravel() for x in arrays])


def make_actions(name: str, spec: Any, mask_shape: tuple[int, ...] | None) -> Actions:
    """The action space for Jumanji's actions, with one mask entry for each choice.

    A mask over whole actions of several parts, such as Tetris's over rotation and column, makes them one Discrete.
    Raises PPOError for actions that are neither whole numbers from 0 nor real, and for a mask of another shape.
    """
    low, high = (np.broadcast_to(np.asarray(bound), spec.shape) for bound in (spec.minimum, spec.maximum))
    if np.issubdtype(spec.dtype, np.floating) and mask_shape is None:
        return Actions(Box(spec.shape, low, high), spec.dtype)
    sizes = tuple((high.ravel() + 1).tolist())
    if not np.issubdtype(spec.dtype, np.integer) or len(spec.shape) > 1 or low.any():
        raise PPOError(f"{name} of Jumanji takes {spec!r}; supported are whole numbers from 0, and real ones")
    by_part, by_action = mask_readings(sizes, spec.shape, mask_shape)
    if by_part == by_action:
        raise PPOError(
            f"{name} of Jumanji has a mask of shape {mask_shape} for actions of {sizes}, which can be read in two ways "
            "or in none; give a jumanji.wrappers.Wrapper of it that observes no action_mask"
        )
    if by_action:
        return Actions(Discrete(math.prod(sizes)), spec.dtype, parts=sizes)
    return Actions(Discrete(sizes[0]) if spec.shape == () else MultiDiscrete(sizes), spec.dtype)


def mask_readings(
    sizes: tuple[int, ...], action_shape: tuple[int, ...], mask_shape: tuple[int, ...] | None
) -> tuple[bool, bool]:
    """Says if the mask can be one over the parts of an action, [k, n], and if it can be one over whole actions."""
    if mask_shape is None or action_shape == ():
        return mask_shape in (None, sizes), False
    return mask_shape == (len(sizes), max(sizes)) == (len(sizes), min(sizes)), mask_shape == sizes


def some_legal(mask: jax.Array) -> jax.Array:
    """The mask [..., n]. If nothing is legal, as for a trapped snake, everything is: the environment judges it."""
    return mask | ~mask.any(axis=-1, keepdims=True)
