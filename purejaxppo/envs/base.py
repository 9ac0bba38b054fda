"""The environment interface: two pure functions, two spaces, and parameters that can be traced."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import struct

from purejaxppo.envs.spaces import (
    Box,
    Discrete,
    Space,
    SpaceTree,
    check_space,
    example_action,
    in_parts,
    parts_of,
    shape_of,
    show_space,
    structure_of,
)
from purejaxppo.utils.errors import PPOError, in_one_line
from purejaxppo.utils.tree import PyTree, Structure, difference, key_shape
from purejaxppo.utils.validation import is_numeric, shown_shape


class MaskedObs(struct.PyTreeNode):
    """An observation, and which actions are legal.

    action_mask: [n] bool for a Discrete(n), [n_1 + ... + n_k] for a MultiDiscrete, true for a legal action. For a
        `SpaceTree` a pytree of these, with None for a Box and for any other part whose actions are all legal.
    """

    obs: PyTree  # [...]
    action_mask: PyTree


class Step(NamedTuple):
    """The result of one step of one environment, before any auto-reset."""

    obs: PyTree  # [...] float32 in the structure of the observation space; or MaskedObs
    state: PyTree
    reward: jax.Array  # []
    terminated: jax.Array  # [] bool: the task has ended, and the value of what follows is 0
    truncated: jax.Array  # [] bool: a time limit has cut the episode, and what follows keeps its value
    info: dict[str, Any] = {}  # numbers to report by name, [] each: success, distance, ...


TIME_LIMITS = ("max_steps_in_episode", "episode_length")  # parameters of that meaning, in gymnax and Brax
SUITE_LIMITS = ("max_steps", "max_timesteps")  # and in suites whose environments have a slash in their names
STEP_VALUES = Step._fields[:-1]  # those that a step has to return

ResetFunction = Callable[[jax.Array, PyTree], tuple[PyTree, PyTree]]  # (key, params) -> (obs, state)
StepFunction = Callable[[jax.Array, PyTree, PyTree, PyTree], Step]  # (key, state, action, params) -> Step
MaskFunction = Callable[[PyTree, PyTree], PyTree]  # (state, params) -> action_mask
DrawFunction = Callable[[Any, Any, Any], Any]  # (obs, state, params), all on the host -> a PIL image


class Environment(struct.PyTreeNode):
    """An environment as PPO sees it. `make_env` builds one.

    `params` are leaves of a pytree: vmap over them, and one program serves every value. An environment can be pickled
    if the object that it was made from can. If you put in your own `reset` or `step` by `replace`, both have to return
    the same dtype for each array of the state.
    """

    params: PyTree
    reset: ResetFunction = struct.field(pytree_node=False)
    step: StepFunction = struct.field(pytree_node=False)
    observation_space: Space | SpaceTree = struct.field(pytree_node=False)
    action_space: Space | SpaceTree = struct.field(pytree_node=False)
    name: str = struct.field(pytree_node=False)
    action_mask: MaskFunction | None = struct.field(pytree_node=False, default=None)  # observations are MaskedObs
    draw: DrawFunction | None = struct.field(pytree_node=False, default=None)  # draws one step, for films
    takes_turns: bool = struct.field(pytree_node=False, default=False)  # two players share the policy: see SelfPlay

    def __repr__(self) -> str:
        limits = {name: getattr(self.params, name, None) for name in (*TIME_LIMITS, *SUITE_LIMITS)}
        shown_limits = "".join(f", {name}={limit}" for name, limit in limits.items() if isinstance(limit, int))
        spaces = f"{show_space(self.observation_space)} -> {show_space(self.action_space)}"
        return f"Environment({self.name}: {spaces}{shown_limits})"


@dataclasses.dataclass(frozen=True, eq=False)
class Settled:
    """Wraps the functions of an environment's object: their outputs get the types and structures an agent relies on.

    Observations, rewards and info become float32, flags bool, and no state stays weakly typed: a scan's carry keeps one
    type from reset to step. With an `action_mask`, observations are `MaskedObs`.
    """

    reset_object: Callable[..., Any]
    step_object: Callable[..., Any]
    action_mask: MaskFunction | None
    observation: Structure  # of the observation space
    action: Structure  # of the action space

    def reset(self, key: jax.Array, params: PyTree) -> tuple[PyTree, PyTree]:
        """-> (obs, state)"""
        obs, state = several("reset", self.reset_object(key, params), ("obs", "state"))
        state = jax.tree.map(strong, state)
        return self.seen(obs, state, params), state

    def step(self, key: jax.Array, state: PyTree, action: PyTree, params: PyTree) -> Step:
        """One step, whose sixth value `info` may be missing."""
        returned, info = self.step_object(key, state, action, params), {}
        if isinstance(returned, tuple) and len(returned) == len(Step._fields):
            returned, info = returned[:-1], returned[-1]
        obs, after, reward, terminated, truncated = several("step", returned, STEP_VALUES)
        after = jax.tree.map(strong, after)
        return Step(
            obs=self.seen(obs, after, params),
            state=after,
            reward=one("reward", reward, jnp.number).astype(jnp.float32),
            terminated=one("terminated", terminated, jnp.bool_),
            truncated=one("truncated", truncated, jnp.bool_),
            info=settled_info(info),
        )

    def seen(self, obs: PyTree, state: PyTree, params: PyTree) -> PyTree:
        """The observation, and with it the mask of the state."""
        arrays = in_parts("an observation", self.observation, obs)
        obs = self.observation.unflatten([jnp.asarray(x, jnp.float32) for x in arrays])
        if self.action_mask is None:
            return obs
        masks = in_parts("action_mask", self.action, self.action_mask(state, params))
        return MaskedObs(obs, self.action.unflatten([None if mask is None else jnp.asarray(mask) for mask in masks]))


def strong(x: jax.Array) -> jax.Array:
    """x without JAX's weak type."""
    x = jnp.asarray(x)
    is_key = jnp.issubdtype(x.dtype, jax.dtypes.extended)
    return x if is_key else jax.lax.convert_element_type(x, x.dtype)


def settled_info(info: Any) -> dict[str, jax.Array]:
    """The numbers that `step` reports, as float32. Raises PPOError for anything else."""
    if not isinstance(info, dict):
        raise PPOError(f"step returns info as a {type(info).__name__}; return a dict of numbers by name")
    for name in info:
        check_column("info", name)
    return {name: one(f"info[{name!r}]", x, jnp.number).astype(jnp.float32) for name, x in info.items()}


def numbers_in(info: Any) -> dict[str, Any]:
    """The numbers, [] each, among what another suite reports by name."""
    if not isinstance(info, dict):
        return {}
    return {name: jnp.asarray(x) for name, x in info.items() if is_numeric(x) and jnp.shape(x) == ()}


def check_column(what: str, name: Any) -> None:
    """Raises PPOError for a name that cannot head a column of metrics.csv."""
    if not isinstance(name, str) or not name.isprintable() or not name.strip() or any(c in name for c in ',"\\'):
        raise PPOError(f"{what} has a number by the name {name!r}; give a printable name without , and quotes")


def several(what: str, returned: Any, names: tuple[str, ...]) -> tuple[Any, ...]:
    """Passes on what a user's function returned. Raises PPOError unless it is a tuple with one value for each name."""
    if not isinstance(returned, tuple) or len(returned) != len(names):
        found = f"{len(returned)} values" if isinstance(returned, tuple) else f"a {type(returned).__name__}"
        raise PPOError(f"{what} returns {found}; return ({', '.join(names)})")
    return returned


def one(name: str, value: Any, kind: type) -> jax.Array:
    """A value that `step` returned, as []. Raises PPOError unless it is one number, or for a flag one bool."""
    wanted = "bool" if kind is jnp.bool_ else "real number"
    fits = is_numeric(value) and jnp.size(value) == 1
    if not fits or (kind is jnp.bool_ and jnp.result_type(value) != jnp.bool_):
        found = shown_shape(jnp.asarray(value) if is_numeric(value) else value)
        raise PPOError(f"step returns {name} as {found}; return one {wanted}, in ({', '.join(STEP_VALUES)})")
    return jnp.asarray(value).reshape(())


def through(convert: Callable[[PyTree], PyTree], env: Environment) -> Environment:
    """The environment with a step that takes the policy's actions: `convert` maps them into the action space."""
    return env.replace(step=lambda key, state, action, params: env.step(key, state, convert(action), params))


def check_environment(env: Environment) -> None:
    """Raises PPOError if reset and step disagree with each other or with the spaces. Traces them, runs nothing."""
    for what, space in (("observation_space", env.observation_space), ("action_space", env.action_space)):
        for place, part in parts_of(space).items():
            check_space(f"{env.name}: {what}{place}", part)
    key = key_shape()
    action = jax.eval_shape(lambda: example_action(env.action_space))
    obs, state = traced(f"{env.name}: reset", env.reset, key, env.params)
    after = traced(f"{env.name}: step", env.step, key, state, action, env.params)
    if env.action_mask is not None:
        check_mask(env, obs.action_mask)
    for source, seen in (("reset", obs), ("step", after.obs)):
        check_obs(f"{env.name}: {source}", env.observation_space, seen if env.action_mask is None else seen.obs)
    if differs := difference(state, after.state):
        place, before, later = differs
        raise PPOError(f"{env.name}: state{place} is {before} from reset and {later} from step; make them one")


def check_obs(source: str, space: Space | SpaceTree, obs: PyTree) -> None:
    """Raises PPOError unless an observation has the structure and the shapes of its space."""
    seen = in_parts(f"{source}: an observation", structure_of(space), obs)
    for (place, part), x in zip(parts_of(space).items(), seen, strict=True):
        if x.shape != shape_of(part):
            raise PPOError(
                f"{source} returns an observation{place} of shape {x.shape}, "
                f"and observation_space{place} says {shape_of(part)}; make them one"
            )


def check_mask(env: Environment, action_mask: PyTree) -> None:
    """Raises PPOError unless there is a mask, and each mask has one bool for each action of its discrete space."""
    masks = in_parts(f"{env.name}: action_mask", structure_of(env.action_space), action_mask)
    if all(mask is None for mask in masks):
        raise PPOError(f"{env.name}: action_mask is None; return one bool for each action, or leave action_mask out")
    for (place, part), mask in zip(parts_of(env.action_space).items(), masks, strict=True):
        if mask is None:
            continue
        if isinstance(part, Box):
            raise PPOError(
                f"{env.name}: action_mask{place} masks the actions of a Box; masks are for Discrete and MultiDiscrete "
                "spaces, and None for a Box among them"
            )
        size = part.n if isinstance(part, Discrete) else sum(part.sizes)
        if (mask.shape, mask.dtype) != ((size,), jnp.bool_):
            raise PPOError(f"{env.name}: action_mask{place} is {shown_shape(mask)}; return bool[{size}]")


def traced(what: str, function: Callable[..., Any], *args: Any) -> Any:
    """The shapes that a user's function returns. Any error in it becomes a PPOError that says where."""
    return called(what, jax.eval_shape, function, *args)


def called(what: str, function: Callable[..., Any], *args: Any) -> Any:
    """Calls a function that the user passed. An error in it becomes one line that says where."""
    try:
        return function(*args)
    except PPOError:
        raise
    except Exception as error:
        raise PPOError(f"{what} cannot be traced: {in_one_line(error)}") from error
