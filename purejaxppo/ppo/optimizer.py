"""Adam behind clipping by global norm, differentiable at its extremes."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from purejaxppo.ppo.config import PPOConfig
from purejaxppo.utils.tree import PyTree
from purejaxppo.utils.validation import standard_promotion


def make_optimizer(config: PPOConfig) -> optax.GradientTransformationExtraArgs:
    """Clipping by global norm, then Adam (Kingma and Ba 2015). `update` takes the `learning_rate` of the moment.

    All parameters are one vector in it: a few large operations in place of many small ones.
    """
    steps = optax.flatten(
        optax.chain(clip_by_global_norm(config.max_grad_norm), scale_by_adam(config.adam_eps), scale_by_given_rate())
    )
    return optax.GradientTransformationExtraArgs(steps.init, standard_promotion(steps.update))


def clip_by_global_norm(max_norm: float | jax.Array) -> optax.GradientTransformation:
    """`optax.clip_by_global_norm`, whose derivative is NaN for a norm of 0 or a max_norm of infinity; not so here."""

    def clip(updates: PyTree, state: Any, params: Any = None) -> tuple[PyTree, Any]:
        del params
        return clipped(updates, 1.0 * max_norm), state  # an int would have no derivative

    return optax.GradientTransformation(lambda params: optax.EmptyState(), clip)


@jax.custom_jvp
def clipped(gradient: PyTree, max_norm: jax.Array) -> PyTree:
    """The gradient, scaled to a global norm of max_norm where its norm is larger; NaN where the norm overflows.

    By an infinite norm optax would scale to 0: the update would go through and teach nothing.
    """
    max_norm = jnp.where(squared_norm(gradient) < jnp.inf, max_norm, jnp.nan)
    return optax.clip_by_global_norm(max_norm).update(gradient, optax.EmptyState())[0]


@clipped.defjvp
def _clipped_jvp(primals: tuple, tangents: tuple) -> tuple[PyTree, PyTree]:
    def scaled(gradient: PyTree, max_norm: jax.Array) -> PyTree:
        square = squared_norm(gradient)
        is_short = jnp.sqrt(jax.lax.stop_gradient(square)) < max_norm
        norm, most = jnp.sqrt(jnp.where(is_short, 1.0, square)), jnp.where(is_short, 1.0, max_norm)
        return jax.tree.map(lambda x: x / norm * most, gradient)

    return clipped(*primals), jax.jvp(scaled, primals, tangents)[1]


def squared_norm(tree: PyTree) -> jax.Array:
    """The sum of the squares of all numbers. -> []"""
    return sum((jnp.sum(jnp.square(x)) for x in jax.tree.leaves(tree)), start=jnp.float32(0.0))


def scale_by_adam(eps: float | jax.Array) -> optax.GradientTransformation:
    """`optax.scale_by_adam`, whose derivative is NaN where a parameter's gradients have all been 0; not so here."""
    adam = optax.scale_by_adam()

    def step(updates: PyTree, state: Any, params: Any = None) -> tuple[PyTree, Any]:
        _, state = adam.update(updates, state, params)
        mean = optax.tree_utils.tree_bias_correction(state.mu, 0.9, state.count)
        square = optax.tree_utils.tree_bias_correction(state.nu, 0.999, state.count)
        return jax.tree.map(lambda m, v: adam_step(m, v, 1.0 * eps), mean, square), state

    return optax.GradientTransformation(adam.init, step)


@jax.custom_jvp
def adam_step(m: jax.Array, v: jax.Array, eps: jax.Array) -> jax.Array:
    """m / (sqrt(v) + eps). The derivative of the root counts as 0 at v = 0, where it is infinite."""
    return m / (jnp.sqrt(v) + eps)


@adam_step.defjvp
def _adam_step_jvp(primals: tuple, tangents: tuple) -> tuple[jax.Array, jax.Array]:
    (m, v, eps), (dm, dv, deps) = primals, tangents
    step = adam_step(m, v, eps)
    droot = jnp.where(v == 0, 0.0, dv / (2.0 * jnp.sqrt(jnp.where(v == 0, 1.0, v))))
    return step, (dm - step * (droot + deps)) / (jnp.sqrt(v) + eps)  # without the square of a small eps


def scale_by_given_rate() -> optax.GradientTransformationExtraArgs:
    """update -> -learning_rate * update, where the rate is an argument of each call and no state."""

    def scale(updates: PyTree, state: Any, params: Any = None, **arguments: Any) -> Any:
        del params
        return jax.tree.map(lambda x: -arguments["learning_rate"] * x, updates), state

    return optax.GradientTransformationExtraArgs(lambda params: optax.EmptyState(), scale)
