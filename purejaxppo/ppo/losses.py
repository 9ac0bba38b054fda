"""The terms of PPO's objective, one function each, and their sum; and the signatures of your own functions."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from purejaxppo.policies.distributions import Distribution
from purejaxppo.ppo.config import PPOConfig
from purejaxppo.ppo.types import Batch, Steps
from purejaxppo.utils.tree import PyTree


def policy_loss(ratio: jax.Array, advantage: jax.Array, clip_eps: float | jax.Array) -> jax.Array:
    """-mean min(ratio A, clip(ratio, 1 - eps, 1 + eps) A) (Schulman et al. 2017, equation 7). [M], [M] -> []"""
    clipped = jnp.clip(ratio, 1.0 - clip_eps, 1.0 + clip_eps)
    return -jnp.mean(jnp.minimum(ratio * advantage, clipped * advantage))


def value_loss(value: jax.Array, target: jax.Array) -> jax.Array:
    """mean (V - target)^2 / 2. [M], [M] -> []"""
    return 0.5 * jnp.mean(jnp.square(value - target))


def clipped_value_loss(
    value: jax.Array, old_value: jax.Array, target: jax.Array, clip_eps: float | jax.Array
) -> jax.Array:
    """mean max((V - target)^2, (V_old + clip(V - V_old, -eps, eps) - target)^2) / 2. [M], [M], [M] -> []

    The clipping of OpenAI Baselines' ppo2; not in the paper (Engstrom et al. 2020, section 3).
    """
    clipped = old_value + jnp.clip(value - old_value, -clip_eps, clip_eps)
    return 0.5 * jnp.mean(jnp.maximum(jnp.square(value - target), jnp.square(clipped - target)))


def approx_kl(log_ratio: jax.Array) -> jax.Array:
    """mean (ratio - 1) - log ratio: KL(old || new) from samples of the old policy, never negative. [M] -> [], nats

    Schulman 2020, "Approximating KL Divergence", estimator k3.
    """
    return jnp.mean(jnp.expm1(log_ratio) - log_ratio)


def clip_fraction(ratio: jax.Array, clip_eps: float | jax.Array) -> jax.Array:
    """The share of samples whose ratio is outside 1 +- eps. [M] -> []"""
    return jnp.mean(jnp.abs(ratio - 1.0) > clip_eps)


def are_equal(x: jax.Array) -> jax.Array:
    """True if numbers differ by rounding alone: by less than 1e-6 of the largest, or 1e-15. [M] -> [] bool

    False where one is NaN or infinite. The extremes decide, which are exact: the variance of equal numbers need not be
    0, because their mean is rounded.
    """
    low, high = jnp.min(x), jnp.max(x)
    return high - low < jnp.maximum(1e-6 * jnp.maximum(high, -low), 1e-15)


def normalized_advantage(advantage: jax.Array) -> jax.Array:
    """(A - mean A) / (std A + 1e-8), 0 for equal advantages, and NaN where the variance overflows. [M] -> [M]"""
    centred = advantage - jnp.mean(advantage)
    centred = centred - jnp.mean(centred)  # of the rounding of the first mean
    equal = are_equal(advantage)
    # The inner where keeps the infinite slope of the root at 0 out of the gradient.
    variance = jnp.where(equal, 1.0, jnp.mean(jnp.square(centred)))
    # Over an infinite variance all would be 0: the update would go through and teach nothing.
    variance = jnp.where(variance < jnp.inf, variance, jnp.nan)
    return jnp.where(equal, 0.0, centred / (jnp.sqrt(variance) + 1e-8))


def advantage_over(samples: str, config: PPOConfig, advantage: jax.Array) -> jax.Array:
    """The advantages, normalised if the config asks for it over these samples: "minibatch" or "batch"."""
    normalizes = config.normalize_advantage and config.normalize_advantage_over == samples
    return normalized_advantage(advantage) if normalizes else advantage


def explained_variance(value: jax.Array, target: jax.Array) -> jax.Array:
    """1 - Var(target - value) / Var(target); NaN when the targets do not vary. -> []"""
    equal = are_equal(target)
    return jnp.where(equal, jnp.nan, 1.0 - jnp.var(target - value) / jnp.where(equal, 1.0, jnp.var(target)))


class LossContext(NamedTuple):
    """The surroundings of a loss, a reward or an advantage: network, policy, config, and the numbers of this update.

    In a loss, `apply(params, minibatch.obs)` gives [M, ...] each; for a recurrent policy it runs along M sequences and
    gives [M, L, ...]. In a reward or an advantage it takes `steps.obs`, of a feed-forward policy only.
    `modules[name](params, ...)` calls a learned part of `make_ppo(modules=...)`.
    """

    config: PPOConfig  # of the agent: your own class of it, with your own fields
    apply: Callable[[PyTree, PyTree], tuple[Any, ...]]  # (params, obs) -> (distribution parameters, value[, auxiliary])
    distribution: Callable[[PyTree], Distribution]  # distribution parameters -> policy
    params: PyTree  # before the update: those of the policy that acted
    modules: Mapping[str, Callable[..., Any]]  # name -> (params, ...) -> output
    key: jax.Array  # [] typed key, another one for each minibatch, for the reward, and for the advantage
    update: jax.Array  # [] int32, index of the update, from 0
    clip_eps: float | jax.Array  # [], of this update: the config's number times its schedule
    vf_coef: float | jax.Array  # []
    ent_coef: float | jax.Array  # [], of this update


# The signatures of the functions that `make_ppo` takes.
# (params, minibatch, context) -> (the number to minimise over params, numbers to report by name); as `ppo_loss`
Loss = Callable[[PyTree, Batch, LossContext], tuple[jax.Array, Mapping[str, Any]]]
# (params, steps, context) -> reward [T, B], or (reward, {name: number or array [T, B, ...]})
Reward = Callable[[PyTree, Steps, LossContext], Any]
# (steps, context) -> advantage [T, B], or (advantage, target), or (advantage, target, {name: number or array})
Advantage = Callable[[Steps, LossContext], Any]
# (key, batch) -> indices [epochs, minibatches, M] of its samples
Minibatches = Callable[[jax.Array, Batch], jax.Array]


def ppo_loss(params: PyTree, minibatch: Batch, context: LossContext) -> tuple[jax.Array, dict[str, jax.Array]]:
    """policy_loss + vf_coef value_loss - ent_coef entropy (Schulman et al. 2017, equation 9, as a minimisation).

    Args:
        params: Parameters of the agent, which the gradient is taken in.
        minibatch: M samples.
        context: The network, the config, and the coefficients of this update.

    Returns:
        The loss [], and its terms by name, [] each: policy_loss, value_loss, entropy, approx_kl, clip_fraction, and
        mean_log_ratio, whose negative estimates the KL for `kl_estimator="log_ratio"`.
    """
    config = context.config
    parameters, value = context.apply(params, minibatch.obs)[:2]
    distribution = context.distribution(parameters)
    log_ratio = distribution.log_prob(minibatch.action) - minibatch.log_prob
    ratio = jnp.exp(log_ratio)
    advantage = advantage_over("minibatch", config, minibatch.advantage)
    terms = {
        "policy_loss": policy_loss(ratio, advantage, context.clip_eps),
        "value_loss": clipped_value_loss(value, minibatch.value, minibatch.target, context.clip_eps)
        if config.clip_value
        else value_loss(value, minibatch.target),
        "entropy": jnp.mean(distribution.entropy()),
        "approx_kl": approx_kl(log_ratio),
        "mean_log_ratio": jnp.mean(log_ratio),
        "clip_fraction": clip_fraction(ratio, context.clip_eps),
    }
    loss = terms["policy_loss"] + context.vf_coef * terms["value_loss"] - context.ent_coef * terms["entropy"]
    return loss, terms
