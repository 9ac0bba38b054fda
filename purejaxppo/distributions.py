"""Action distributions. Noise is separate from sampling, so that a rollout's noise is drawn in one call."""

import jax
import jax.numpy as jnp
from flax import struct


class Categorical(struct.PyTreeNode):
    """One of n actions, with probability softmax(logits)."""

    logits: jax.Array  # [..., n]

    @staticmethod
    def noise(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
        """What `sample` consumes for actions of shape `shape`: one uniform number in [0, 1) each."""
        return jax.random.uniform(key, shape)

    def sample(self, noise: jax.Array) -> jax.Array:
        """The smallest a with noise < P(action <= a), by inversion. noise: [...] -> action: [...] int32.

        An action of probability 0 is never drawn. Probabilities are resolved to 2^-23, the step of the noise.
        """
        weight = jnp.exp(self.logits - jnp.max(self.logits, axis=-1, keepdims=True))
        cumulative = jnp.cumsum(weight, axis=-1)
        # Scaled by the rounded total of the weights, the noise stays strictly below it.
        passed = noise[..., None] * cumulative[..., -1:] >= cumulative
        return jnp.sum(passed, axis=-1, dtype=jnp.int32)

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
