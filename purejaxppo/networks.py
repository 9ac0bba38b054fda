"""Actor-critic networks: `init(key, obs) -> params` and `apply(params, obs) -> (distribution parameters, value)`."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol, cast

import flax.linen as nn
import jax
import jax.numpy as jnp

from purejaxppo.types import PPOError, PyTree


class Network(NamedTuple):
    """A pair of pure functions. `apply` takes any leading axes; what it returns first are logits [..., n]."""

    init: Callable[[jax.Array, PyTree], PyTree]
    apply: Callable[[PyTree, PyTree], tuple[jax.Array, jax.Array]]


class NetworkLike(Protocol):
    """What `make_ppo(network=...)` takes: anything with these two, a flax.linen module included."""

    init: Callable[..., PyTree]
    apply: Callable[..., Any]


def orthogonal(scale: float) -> Callable[..., jax.Array]:
    """Initializer: a matrix with orthonormal columns (rows, if it is wide), uniform in Haar measure, times `scale`.

    Gram-Schmidt on Gaussian columns; the second pass removes what rounding left of the first
    (Giraud, Langou, Rozloznik 2005: "twice is enough"). No LAPACK call: the batched QR inside
    `jax.nn.initializers.orthogonal` can block for good under vmap on two cores (jaxlib 0.10).
    """

    def init(key: jax.Array, shape: tuple[int, ...], dtype: jnp.dtype = jnp.float32) -> jax.Array:
        if len(shape) != 2:
            raise PPOError(f"orthogonal initialises matrices, not shape {shape}")
        tall = (max(shape), min(shape))
        columns = orthonormal_columns(jax.random.normal(key, tall, dtype))
        return scale * (columns if shape == tall else columns.T)

    return init


def orthonormal_columns(matrix: jax.Array) -> jax.Array:
    """The Q of matrix = Q R with a positive diagonal of R, by Gram-Schmidt. [m, n], m >= n -> [m, n]"""

    def orthogonalise(k: jax.Array, basis: jax.Array) -> jax.Array:
        column = matrix[:, k]
        column = column - basis @ (basis.T @ column)
        column = column - basis @ (basis.T @ column)
        return basis.at[:, k].set(column / jnp.linalg.norm(column))

    return jax.lax.fori_loop(0, matrix.shape[1], orthogonalise, jnp.zeros_like(matrix))


class MLP(nn.Module):
    """Dense layers with an activation between them; biases start at 0."""

    hidden_sizes: tuple[int, ...]
    output_size: int
    activation: str
    hidden_init: Callable[..., jax.Array]  # initializers of the kernels
    output_init: Callable[..., jax.Array]

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[..., features] -> [..., output_size]"""
        for size in self.hidden_sizes:
            x = getattr(nn, self.activation)(nn.Dense(size, kernel_init=self.hidden_init)(x))
        return nn.Dense(self.output_size, kernel_init=self.output_init)(x)


class ActorCritic(nn.Module):
    """Two separate towers, orthogonal with gain sqrt(2), and 0.01 and 1 at the outputs.

    Acting uses the actor alone: the compiler removes the critic from the rollout.
    """

    num_actions: int
    hidden_sizes: tuple[int, ...]
    activation: str

    @nn.compact
    def __call__(self, obs: jax.Array) -> tuple[jax.Array, jax.Array]:
        """[..., *obs_shape], flattened by the caller to [..., features] -> logits [..., n], value [...]"""
        tower = functools.partial(MLP, self.hidden_sizes, activation=self.activation, hidden_init=orthogonal(2**0.5))
        logits = tower(self.num_actions, output_init=orthogonal(0.01), name="actor")(obs)
        value = tower(1, output_init=orthogonal(1.0), name="critic")(obs)
        return logits, value[..., 0]


def make_actor_critic(
    num_actions: int, obs_shape: tuple[int, ...], hidden_sizes: tuple[int, ...], activation: str
) -> Network:
    """The default network: two MLP towers over the flattened observation."""
    module = ActorCritic(num_actions, hidden_sizes, activation)

    def flat(obs: jax.Array) -> jax.Array:
        return obs.reshape(*obs.shape[: obs.ndim - len(obs_shape)], -1)

    return Network(
        init=lambda key, obs: module.init(key, flat(obs)),
        apply=lambda params, obs: cast(Any, module.apply(params, flat(obs))),
    )
