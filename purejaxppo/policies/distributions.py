"""Action distributions. Noise is separate from sampling, so that a rollout's noise is drawn in one call."""

import functools
import itertools
import math
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from purejaxppo.utils.tree import Structure

# Gauss-Hermite: E f(x) for x ~ N(0, 1) is the sum of WEIGHTS f(NODES). The rule is numpy's, for exp(-x^2).
_POINTS, _POINT_WEIGHTS = np.polynomial.hermite.hermgauss(32)
NODES = np.asarray(math.sqrt(2.0) * _POINTS, np.float32)
WEIGHTS = np.asarray(_POINT_WEIGHTS / math.sqrt(math.pi), np.float32)

UNROLLED = 16  # actions, up to which sampling has no reductions; XLA adds more in blocks, with other last bits


class Distribution(Protocol):
    """A distribution of one action, or of a batch of them [...]. `Actions.noise` draws the noise for `sample`."""

    def sample(self, noise: Any) -> Any:
        """An action, a function of the noise."""
        ...

    def mode(self) -> Any:
        """The action that a greedy policy takes."""
        ...

    def log_prob(self, action: Any) -> jax.Array:
        """The log-probability of each action, in nats. -> [...]"""
        ...

    def entropy(self) -> jax.Array:
        """The entropy, in nats. -> [...]"""
        ...


class Categorical(struct.PyTreeNode):
    """One of n actions, with probability softmax(logits)."""

    logits: jax.Array  # [..., n]

    @staticmethod
    def noise(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
        """Noise for `sample`, one uniform number in [0, 1) for each action. -> [*shape]"""
        return jax.random.uniform(key, shape)

    def sample(self, noise: jax.Array) -> jax.Array:
        """The smallest a with noise < P(action <= a), by inversion. noise: [...] -> action: [...] int32.

        An action of probability 0 is never drawn. Probabilities are resolved to 2^-23, the step of the noise.
        """
        return (invert_unrolled if self.logits.shape[-1] <= UNROLLED else invert)(self.logits, noise)

    def mode(self) -> jax.Array:
        """The most probable action. -> [...] int32"""
        return jnp.argmax(self.logits, axis=-1).astype(jnp.int32)

    def log_prob(self, action: jax.Array) -> jax.Array:
        """log softmax(logits)[action], in nats. action: [...] int -> [...]"""
        # A one-hot product instead of a gather: its gradient is a product too, not a scatter.
        chosen = jax.nn.one_hot(action, self.logits.shape[-1], dtype=bool)
        return jnp.sum(jnp.where(chosen, jax.nn.log_softmax(self.logits), 0.0), axis=-1)

    def entropy(self) -> jax.Array:
        """-sum_a p(a) log p(a), in nats; 0 log 0 is 0. -> [...]"""
        log_prob = jax.nn.log_softmax(self.logits)
        probability = jnp.exp(log_prob)
        # The inner where keeps 0 * -inf out of the gradient as well.
        return -jnp.sum(probability * jnp.where(probability > 0, log_prob, 0.0), axis=-1)


def invert(logits: jax.Array, noise: jax.Array) -> jax.Array:
    """The action of `Categorical.sample`. logits: [..., n], noise: [...] -> [...] int32"""
    weight = jnp.exp(logits - jnp.max(logits, axis=-1, keepdims=True))
    cumulative = jnp.cumsum(weight, axis=-1)
    # XLA adds in blocks, so rounding may let the sums fall from one action to the next, also at one of weight 0.
    # Of the actions of positive weight, the first whose sum is above the noise; the last where none is.
    index = jnp.arange(weight.shape[-1], dtype=jnp.int32)
    above = cumulative > noise[..., None] * cumulative[..., -1:]
    first = jnp.min(jnp.where(above & (weight > 0), index, index.size), axis=-1)
    last = jnp.max(jnp.where(weight > 0, index, 0), axis=-1)
    return jnp.minimum(first, last)


def invert_unrolled(logits: jax.Array, noise: jax.Array) -> jax.Array:
    """As `invert`, action by action: without a reduction it is part of the kernel that steps the environments."""
    columns = [logits[..., a] for a in range(logits.shape[-1])]
    highest = functools.reduce(jnp.maximum, columns)
    weights = [jnp.exp(x - highest) for x in columns]
    cumulative = list(itertools.accumulate(weights))
    action = jnp.zeros(noise.shape, jnp.int32)
    for a, weight in enumerate(weights):
        action = jnp.where(weight > 0, a, action)
    for a, weight in reversed(list(enumerate(weights))):
        action = jnp.where((cumulative[a] > noise * cumulative[-1]) & (weight > 0), a, action)
    return action


class MultiCategorical(struct.PyTreeNode):
    """k independent choices, of n_1, ..., n_k actions. An action is [..., k] int32."""

    logits: jax.Array  # [..., n_1 + ... + n_k]
    sizes: tuple[int, ...] = struct.field(pytree_node=False)  # n_1, ..., n_k

    noise = staticmethod(Categorical.noise)  # one uniform number for each choice; shape: (..., k)

    def sample(self, noise: jax.Array) -> jax.Array:
        """Each choice by inversion. [..., k] -> [..., k] int32"""
        return jnp.stack([part.sample(noise[..., i]) for i, part in enumerate(self.parts())], axis=-1)

    def mode(self) -> jax.Array:
        """The most probable action of each choice. -> [..., k] int32"""
        return jnp.stack([part.mode() for part in self.parts()], axis=-1)

    def log_prob(self, action: jax.Array) -> jax.Array:
        """sum_i log P_i(action_i), in nats. [..., k] -> [...]"""
        return functools.reduce(jnp.add, [part.log_prob(action[..., i]) for i, part in enumerate(self.parts())])

    def entropy(self) -> jax.Array:
        """sum_i H_i, in nats. -> [...]"""
        return functools.reduce(jnp.add, [part.entropy() for part in self.parts()])

    def parts(self) -> list[Categorical]:
        """The k choices."""
        ends = list(itertools.accumulate(self.sizes))
        return [Categorical(self.logits[..., end - n : end]) for n, end in zip(self.sizes, ends, strict=True)]


class DiagGaussian(struct.PyTreeNode):
    """d independent normal numbers. An action is [..., d]."""

    mean: jax.Array  # [..., d]
    log_std: jax.Array  # [..., d]

    @staticmethod
    def noise(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
        """One standard normal number for each of the action's; shape: (..., d)."""
        return jax.random.normal(key, shape)

    def sample(self, noise: jax.Array) -> jax.Array:
        """mean + std noise. [..., d] -> [..., d]"""
        return self.mean + jnp.exp(self.log_std) * noise

    def mode(self) -> jax.Array:
        """The mean. -> [..., d]"""
        return self.mean

    def log_prob(self, action: jax.Array) -> jax.Array:
        """-sum_i ((a_i - mean_i)^2 / std_i^2 + log 2 pi) / 2 + log std_i, in nats. [..., d] -> [...]"""
        deviation = (action - self.mean) * jnp.exp(-self.log_std)
        return -jnp.sum(0.5 * jnp.square(deviation) + self.log_std + 0.5 * math.log(2.0 * math.pi), axis=-1)

    def entropy(self) -> jax.Array:
        """sum_i log std_i + (log 2 pi + 1) / 2, in nats. -> [...]"""
        return jnp.sum(self.log_std + 0.5 * (math.log(2.0 * math.pi) + 1.0), axis=-1)


class SquashedGaussian(struct.PyTreeNode):
    """tanh of d independent normal numbers: a density on (-1, 1)^d.

    An action is [..., d] *before* the tanh, so that nothing has to invert it: near the bounds that is lost in rounding.
    """

    gaussian: DiagGaussian

    noise = staticmethod(DiagGaussian.noise)

    def sample(self, noise: jax.Array) -> jax.Array:
        """Before the tanh. [..., d] -> [..., d]"""
        return self.gaussian.sample(noise)

    def mode(self) -> jax.Array:
        """The mean before the tanh, which makes it the median: the density itself may be highest at both bounds."""
        return self.gaussian.mode()

    def log_prob(self, action: jax.Array) -> jax.Array:
        """log N(u) - sum_i log(1 - tanh^2 u_i): the density of tanh(u) at the action u, in nats. [..., d] -> [...]

        Haarnoja et al. 2018, "Soft Actor-Critic Algorithms and Applications", appendix C.
        """
        return self.gaussian.log_prob(action) - jnp.sum(log_slope_of_tanh(action), axis=-1)

    def entropy(self) -> jax.Array:
        """H(N) + sum_i E log(1 - tanh^2 u_i), in nats. -> [...]

        The expectation has no closed form. Gauss-Hermite quadrature with 32 nodes is within 1e-6 of it up to a
        standard deviation of 1, 0.003 up to 3, and 0.03 up to 5.
        """
        u = self.gaussian.sample(jnp.reshape(NODES, (-1, *[1] * self.gaussian.mean.ndim)))  # [nodes, ..., d]
        return self.gaussian.entropy() + jnp.sum(jnp.tensordot(WEIGHTS, log_slope_of_tanh(u), axes=1), axis=-1)


class Joint(struct.PyTreeNode):
    """Independent distributions. An action is a pytree of their actions."""

    parts: tuple[Distribution, ...]  # in the order of the leaves
    structure: Structure = struct.field(pytree_node=False)

    def sample(self, noise: Any) -> Any:
        """An action of each part, from its own noise."""
        own = self.structure.flatten_up_to(noise)
        return self.structure.unflatten([part.sample(x) for part, x in zip(self.parts, own, strict=True)])

    def mode(self) -> Any:
        """The mode of each part."""
        return self.structure.unflatten([part.mode() for part in self.parts])

    def log_prob(self, action: Any) -> jax.Array:
        """sum_i log P_i(action_i), in nats. -> [...]"""
        own = self.structure.flatten_up_to(action)
        return functools.reduce(jnp.add, [part.log_prob(x) for part, x in zip(self.parts, own, strict=True)])

    def entropy(self) -> jax.Array:
        """sum_i H_i, in nats. -> [...]"""
        return functools.reduce(jnp.add, [part.entropy() for part in self.parts])


def log_slope_of_tanh(u: jax.Array) -> jax.Array:
    """log(1 - tanh^2 u) = 2 (log 2 - u - log(1 + exp(-2 u))), which stays finite for every u. [...] -> [...]"""
    return 2.0 * (math.log(2.0) - u - jax.nn.softplus(-2.0 * u))


def masked_logits(logits: jax.Array, mask: jax.Array) -> jax.Array:
    """The logits where the mask is true and -inf elsewhere: no probability, and no gradient. [..., n], [..., n] bool"""
    return jnp.where(mask, logits, -jnp.inf)
