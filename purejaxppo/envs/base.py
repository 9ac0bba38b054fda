"""The environment protocol: two pure functions, two spaces, and parameters that one can trace."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import struct

from purejaxppo.types import PPOError, PyTree


class Discrete(NamedTuple):
    """The integers 0 ... n - 1."""

    n: int


class Box(NamedTuple):
    """Real arrays of one shape. The bounds are flattened; they may be infinite."""

    shape: tuple[int, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]


Space = Discrete | Box


class Step(NamedTuple):
    """What one step of one environment gives, before any auto-reset."""

    obs: jax.Array  # [...]
    state: PyTree
    reward: jax.Array  # []
    terminated: jax.Array  # [] bool: the task has ended, and what follows is worth 0
    truncated: jax.Array  # [] bool: a time limit has cut the episode, and its value goes on


ResetFunction = Callable[[jax.Array, PyTree], tuple[jax.Array, PyTree]]  # (key, params) -> (obs, state)
StepFunction = Callable[[jax.Array, PyTree, PyTree, PyTree], Step]  # (key, state, action, params) -> Step


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


def strong(x: jax.Array) -> jax.Array:
    """x without JAX's weak type: a scan's carry keeps one type from reset to step."""
    x = jnp.asarray(x)
    is_key = jnp.issubdtype(x.dtype, jax.dtypes.extended)
    return x if is_key else jax.lax.convert_element_type(x, x.dtype)


def settle_reset(reset: ResetFunction) -> ResetFunction:
    """`reset` with float32 observations and no weakly typed state."""

    def settled_reset(key: jax.Array, params: PyTree) -> tuple[jax.Array, PyTree]:
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


def check_environment(env: Environment) -> None:
    """Raises PPOError where reset and step disagree with each other or with the spaces. Runs nothing."""
    check_discrete(env.name, env.action_space)
    key = jax.eval_shape(lambda: jax.random.key(0))
    action = jax.eval_shape(lambda: example_action(env.action_space))
    obs, state = traced(f"{env.name}: reset", env.reset, key, env.params)
    after = traced(f"{env.name}: step", env.step, key, state, action, env.params)
    expected = env.observation_space.shape if isinstance(env.observation_space, Box) else ()
    for source, shape in (("reset", obs.shape), ("step", after.obs.shape)):
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


def check_discrete(name: str, space: Space) -> None:
    """Raises PPOError for a Discrete space without elements."""
    if isinstance(space, Discrete) and (isinstance(space.n, bool) or not isinstance(space.n, int) or space.n < 1):
        raise PPOError(f"{name}: Discrete(n={space.n!r}) needs a whole number of at least 1")


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
    return jnp.zeros(space.shape, jnp.float32)
