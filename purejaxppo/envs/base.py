"""The environment protocol: two pure functions, two spaces, and parameters that one can trace."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import struct

from purejaxppo.types import PPOError, PyTree


class Discrete(NamedTuple):
    """The integers 0 ... n - 1."""

    n: int


class MultiDiscrete(NamedTuple):
    """k integers at once, the i-th from 0 ... sizes[i] - 1."""

    sizes: tuple[int, ...]


class Box(NamedTuple):
    """Real arrays of one shape. The bounds are flattened; they may be infinite."""

    shape: tuple[int, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]


Space = Discrete | MultiDiscrete | Box


class MaskedObs(struct.PyTreeNode):
    """What is observed where some actions may be illegal."""

    obs: jax.Array  # [...]
    action_mask: jax.Array  # [n] bool, of a Discrete(n); [n_1 + ... + n_k] of a MultiDiscrete; true for a legal action


class Step(NamedTuple):
    """What one step of one environment gives, before any auto-reset."""

    obs: PyTree  # [...], or MaskedObs
    state: PyTree
    reward: jax.Array  # []
    terminated: jax.Array  # [] bool: the task has ended, and what follows is worth 0
    truncated: jax.Array  # [] bool: a time limit has cut the episode, and its value goes on


ResetFunction = Callable[[jax.Array, PyTree], tuple[PyTree, PyTree]]  # (key, params) -> (obs, state)
StepFunction = Callable[[jax.Array, PyTree, PyTree, PyTree], Step]  # (key, state, action, params) -> Step
MaskFunction = Callable[[PyTree, PyTree], jax.Array]  # (state, params) -> action_mask
DrawFunction = Callable[[Any, Any, Any], Any]  # (obs, state, params), all on the host -> a PIL image


class Environment(struct.PyTreeNode):
    """An environment as PPO sees it. `make_env` builds one.

    `params` are leaves of a pytree: vmap over them, and one program serves every value.
    """

    params: PyTree
    reset: ResetFunction = struct.field(pytree_node=False)
    step: StepFunction = struct.field(pytree_node=False)
    observation_space: Space = struct.field(pytree_node=False)
    action_space: Space = struct.field(pytree_node=False)
    name: str = struct.field(pytree_node=False)
    action_mask: MaskFunction | None = struct.field(pytree_node=False, default=None)  # where there is one: MaskedObs
    draw: DrawFunction | None = struct.field(pytree_node=False, default=None)  # a picture of its own, for films


def strong(x: jax.Array) -> jax.Array:
    """x without JAX's weak type: a scan's carry keeps one type from reset to step."""
    x = jnp.asarray(x)
    is_key = jnp.issubdtype(x.dtype, jax.dtypes.extended)
    return x if is_key else jax.lax.convert_element_type(x, x.dtype)


def settle_reset(reset: ResetFunction) -> ResetFunction:
    """`reset` with float32 observations and no weakly typed state."""

    def settled_reset(key: jax.Array, params: PyTree) -> tuple[PyTree, PyTree]:
        obs, state = reset(key, params)
        return jnp.asarray(obs, jnp.float32), jax.tree.map(strong, state)

    return settled_reset


def settle_step(step: StepFunction) -> StepFunction:
    """`step` with float32 observations and rewards, boolean flags, and no weakly typed state."""

    def settled_step(key: jax.Array, state: PyTree, action: PyTree, params: PyTree) -> Step:
        obs, new_state, reward, terminated, truncated = step(key, state, action, params)
        return Step(
            obs=jnp.asarray(obs, jnp.float32),
            state=jax.tree.map(strong, new_state),
            reward=jnp.asarray(reward, jnp.float32).reshape(()),
            terminated=jnp.asarray(terminated, bool).reshape(()),
            truncated=jnp.asarray(truncated, bool).reshape(()),
        )

    return settled_step


def show_mask(
    reset: ResetFunction, step: StepFunction, action_mask: MaskFunction
) -> tuple[ResetFunction, StepFunction]:
    """`reset` and `step` that observe the mask of the state beside the observation, and so wherever it goes."""

    def masked_obs(obs: PyTree, state: PyTree, params: PyTree) -> MaskedObs:
        return MaskedObs(obs, jnp.asarray(action_mask(state, params)))

    def masked_reset(key: jax.Array, params: PyTree) -> tuple[PyTree, PyTree]:
        obs, state = reset(key, params)
        return masked_obs(obs, state, params), state

    def masked_step(key: jax.Array, state: PyTree, action: PyTree, params: PyTree) -> Step:
        after = step(key, state, action, params)
        return after._replace(obs=masked_obs(after.obs, after.state, params))

    return masked_reset, masked_step


def through(convert: Callable[[PyTree], PyTree], env: Environment) -> Environment:
    """The environment as a policy acts in it: whose step takes what `convert` makes an action of the space."""
    return env.replace(step=lambda key, state, action, params: env.step(key, state, convert(action), params))


def check_environment(env: Environment) -> None:
    """Raises PPOError where reset and step disagree with each other or with the spaces. Runs nothing."""
    for what, space in (("observation_space", env.observation_space), ("action_space", env.action_space)):
        check_space(f"{env.name}: {what}", space)
    key = jax.eval_shape(lambda: jax.random.key(0))
    action = jax.eval_shape(lambda: example_action(env.action_space))
    obs, state = traced(f"{env.name}: reset", env.reset, key, env.params)
    after = traced(f"{env.name}: step", env.step, key, state, action, env.params)
    if env.action_mask is not None:
        check_mask(env, obs.action_mask)
    expected = env.observation_space.shape if isinstance(env.observation_space, Box) else ()
    for source, seen in (("reset", obs), ("step", after.obs)):
        shape = (seen if env.action_mask is None else seen.obs).shape
        if shape != expected:
            raise PPOError(
                f"{env.name}: {source} returns an observation of shape {shape}, "
                f"and observation_space says {expected}; make them one"
            )
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


def check_space(what: str, space: Space) -> None:
    """Raises PPOError for a space without elements, or a Box whose bounds are not as many as its numbers."""
    if isinstance(space, Discrete) and not is_size(space.n):
        raise PPOError(f"{what} = Discrete(n={space.n!r}) needs a whole number of at least 1")
    if isinstance(space, MultiDiscrete) and not (
        isinstance(space.sizes, tuple) and space.sizes and all(map(is_size, space.sizes))
    ):
        raise PPOError(f"{what} = MultiDiscrete(sizes={space.sizes!r}) needs a tuple of whole numbers of at least 1")
    if isinstance(space, Box):
        size = math.prod(space.shape)
        if len(space.low) != size or len(space.high) != size:
            raise PPOError(
                f"{what}: a Box of shape {space.shape} needs {size} bounds, flattened, and has "
                f"{len(space.low)} below and {len(space.high)} above"
            )
        for low, high in zip(space.low, space.high, strict=True):
            if not low <= high:
                raise PPOError(f"{what}: a Box with the bounds {low} and {high} is empty; give low <= high")


def is_size(n: object) -> bool:
    """Whether n is a whole number of at least 1."""
    return isinstance(n, int) and not isinstance(n, bool) and n >= 1


def check_mask(env: Environment, mask: Any) -> None:
    """Raises PPOError unless the mask is one bool for each action of a discrete space."""
    if isinstance(env.action_space, Box):
        raise PPOError(f"{env.name} masks the actions of a Box; masks are for Discrete and MultiDiscrete spaces")
    size = env.action_space.n if isinstance(env.action_space, Discrete) else sum(env.action_space.sizes)
    if (mask.shape, mask.dtype) != ((size,), jnp.bool_):
        raise PPOError(f"{env.name}: action_mask is {mask.dtype}{list(mask.shape)}; return bool[{size}]")


def traced(what: str, function: Callable[..., Any], *args: Any) -> Any:
    """The shapes that a function of the caller's returns. Whatever it raises becomes one line that says where."""
    try:
        return jax.eval_shape(function, *args)
    except PPOError:
        raise
    except Exception as error:
        reason = " ".join(str(error).split())[:300]
        raise PPOError(f"{what} cannot be traced: {type(error).__name__}: {reason}") from error


def example_action(space: Space) -> jax.Array:
    """Some action of the space, for its shape and dtype."""
    if isinstance(space, Discrete):
        return jnp.zeros((), jnp.int32)
    if isinstance(space, MultiDiscrete):
        return jnp.zeros(len(space.sizes), jnp.int32)
    return jnp.zeros(space.shape, jnp.float32)
