"""The environment interface: two pure functions, two spaces, and parameters that can be traced."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import struct

from purejaxppo.envs.spaces import (
    ARRAY,
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
from purejaxppo.utils.tree import PyTree, Structure
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
    if the object that it was made from can.
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


def strong(x: jax.Array) -> jax.Array:
    """x without JAX's weak type: a scan's carry keeps one type from reset to step."""
    x = jnp.asarray(x)
    is_key = jnp.issubdtype(x.dtype, jax.dtypes.extended)
    return x if is_key else jax.lax.convert_element_type(x, x.dtype)


def settle_obs(structure: Structure, obs: PyTree) -> PyTree:
    """float32 arrays in the structure of the observation space."""
    return structure.unflatten([jnp.asarray(x, jnp.float32) for x in in_parts("an observation", structure, obs)])


def settled_reset(reset: ResetFunction, structure: Structure, key: jax.Array, params: PyTree) -> tuple[PyTree, PyTree]:
    """Calls `reset`: its observation becomes float32 in a structure, and no state stays weakly typed."""
    obs, state = several("reset", reset(key, params), ("obs", "state"))
    return settle_obs(structure, obs), jax.tree.map(strong, state)


def settled_step(
    step: StepFunction, structure: Structure, key: jax.Array, state: PyTree, action: PyTree, params: PyTree
) -> Step:
    """Calls `step`: observation, reward and info become float32, flags bool, and no state stays weakly typed."""
    returned = step(key, state, action, params)
    info = {}
    if isinstance(returned, tuple) and len(returned) == len(Step._fields):
        returned, info = returned[:-1], returned[-1]
    obs, new_state, reward, terminated, truncated = several("step", returned, STEP_VALUES)
    return Step(
        obs=settle_obs(structure, obs),
        state=jax.tree.map(strong, new_state),
        reward=one("reward", reward, jnp.number).astype(jnp.float32),
        terminated=one("terminated", terminated, jnp.bool_),
        truncated=one("truncated", truncated, jnp.bool_),
        info=settled_info(info),
    )


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
    """The values that a user's function returned. Raises PPOError unless they are a tuple, one for each name."""
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


def show_mask(
    reset: ResetFunction, step: StepFunction, action_mask: MaskFunction, structure: Structure = ARRAY
) -> tuple[ResetFunction, StepFunction]:
    """`reset` and `step` whose observations carry the action mask of the state.

    structure: of the action space
    """
    show = functools.partial(masked_obs, action_mask, structure)
    return functools.partial(masked_reset, reset, show), functools.partial(masked_step, step, show)


def masked_obs(
    action_mask: MaskFunction, structure: Structure, obs: PyTree, state: PyTree, params: PyTree
) -> MaskedObs:
    """An observation with the mask of the state."""
    masks = in_parts("action_mask", structure, action_mask(state, params))
    return MaskedObs(obs, structure.unflatten([None if mask is None else jnp.asarray(mask) for mask in masks]))


def masked_reset(
    reset: ResetFunction, show: Callable[..., MaskedObs], key: jax.Array, params: PyTree
) -> tuple[PyTree, PyTree]:
    """`reset` with the mask in its observation."""
    obs, state = reset(key, params)
    return show(obs, state, params), state


def masked_step(
    step: StepFunction, show: Callable[..., MaskedObs], key: jax.Array, state: PyTree, action: PyTree, params: PyTree
) -> Step:
    """`step` with the mask in its observation."""
    after = step(key, state, action, params)
    return after._replace(obs=show(after.obs, after.state, params))


def through(convert: Callable[[PyTree], PyTree], env: Environment) -> Environment:
    """The environment with a step that takes the policy's actions: `convert` maps them into the action space."""
    return env.replace(step=lambda key, state, action, params: env.step(key, state, convert(action), params))


def check_environment(env: Environment) -> None:
    """Raises PPOError if reset and step disagree with each other or with the spaces. Traces them, runs nothing."""
    for what, space in (("observation_space", env.observation_space), ("action_space", env.action_space)):
        for place, part in parts_of(space).items():
            check_space(f"{env.name}: {what}{place}", part)
    key = jax.eval_shape(lambda: jax.random.key(0))
    action = jax.eval_shape(lambda: example_action(env.action_space))
    obs, state = traced(f"{env.name}: reset", env.reset, key, env.params)
    after = traced(f"{env.name}: step", env.step, key, state, action, env.params)
    if env.action_mask is not None:
        check_mask(env, obs.action_mask)
    for source, seen in (("reset", obs), ("step", after.obs)):
        check_obs(f"{env.name}: {source}", env.observation_space, seen if env.action_mask is None else seen.obs)
    if jax.tree.structure(state) != jax.tree.structure(after.state):
        raise PPOError(
            f"{env.name}: reset returns the state {jax.tree.structure(state)}, "
            f"and step {jax.tree.structure(after.state)}; return one structure"
        )
    before = jax.tree_util.tree_leaves_with_path(state)
    for (path, x), y in zip(before, jax.tree.leaves(after.state), strict=True):
        if (x.shape, x.dtype) != (y.shape, y.dtype):
            raise PPOError(
                f"{env.name}: state{jax.tree_util.keystr(path)} is {x.dtype}{x.shape} from reset "
                f"and {y.dtype}{y.shape} from step; return one shape and dtype"
            )


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
        if mask is not None:
            check_part_mask(env.name, place, part, mask)


def check_part_mask(name: str, place: str, space: Space, mask: Any) -> None:
    """Raises PPOError unless the mask has one bool for each action of a discrete space."""
    if isinstance(space, Box):
        raise PPOError(
            f"{name}: action_mask{place} masks the actions of a Box; masks are for Discrete and MultiDiscrete spaces, "
            "and None for a Box among them"
        )
    size = space.n if isinstance(space, Discrete) else sum(space.sizes)
    if (mask.shape, mask.dtype) != ((size,), jnp.bool_):
        raise PPOError(f"{name}: action_mask{place} is {mask.dtype}{list(mask.shape)}; return bool[{size}]")


def traced(what: str, function: Callable[..., Any], *args: Any) -> Any:
    """The shapes that a user's function returns. Any error in it becomes a PPOError that says where."""
    try:
        return jax.eval_shape(function, *args)
    except PPOError:
        raise
    except Exception as error:
        raise PPOError(f"{what} cannot be traced: {in_one_line(error)}") from error
