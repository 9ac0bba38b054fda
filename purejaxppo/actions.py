"""What an action space asks of an agent: a distribution over it, and the way from its actions to the environment's."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from purejaxppo.config import PPOConfig
from purejaxppo.distributions import (
    Categorical,
    DiagGaussian,
    Distribution,
    MultiCategorical,
    SquashedGaussian,
    masked_logits,
)
from purejaxppo.envs.base import Box, Discrete, Environment, MaskedObs, MultiDiscrete
from purejaxppo.networks import Network, SharedStd, as_logits, own_std
from purejaxppo.types import PPOError, PyTree

UNBOUNDED = 1e30  # from this width on, a Box has no bounds to speak of: some say so by the largest float


class Actions(NamedTuple):
    """How a policy acts in a space: chosen once, when the agent is made."""

    parameters: dict[str, int]  # what the network returns for its policy: names, and the size of the last axis
    distribution: Callable[[Any], Distribution]  # of these parameters
    noise: Callable[[jax.Array, tuple[int, ...]], PyTree]  # (key, [...]) -> what a sample of [...] actions consumes
    to_env: Callable[[PyTree], PyTree]  # from the policy's actions [..., d] to the environment's
    num_outputs: int  # of the default network's actor
    head: Callable[[jax.Array], PyTree]  # from them to the parameters


def make_actions(env: Environment, config: PPOConfig) -> Actions:
    """The actions of the environment's space. Raises PPOError where the config's choices do not fit the space."""
    space = env.action_space
    if isinstance(space, Box):
        return {"clipped": clipped_actions, "squashed": squashed_actions}[config.box_policy](space, config.box_std)
    for name, default in (("box_policy", PPOConfig.box_policy), ("box_std", PPOConfig.box_std)):
        if getattr(config, name) != default:
            raise PPOError(
                f"{name} = {getattr(config, name)!r} would do nothing: {env.name} acts in {space}; "
                f"leave it at {default!r}"
            )
    return discrete_actions(space) if isinstance(space, Discrete) else multi_discrete_actions(space)


def discrete_actions(space: Discrete) -> Actions:
    """One of n actions."""
    return Actions(
        parameters={"logits": space.n},
        distribution=Categorical,
        noise=Categorical.noise,
        to_env=unchanged,
        num_outputs=space.n,
        head=as_logits,
    )


def multi_discrete_actions(space: MultiDiscrete) -> Actions:
    """k independent choices, their logits side by side."""
    num_logits = sum(space.sizes)
    return Actions(
        parameters={"logits": num_logits},
        distribution=lambda logits: MultiCategorical(logits, space.sizes),
        noise=lambda key, shape: MultiCategorical.noise(key, (*shape, len(space.sizes))),
        to_env=unchanged,
        num_outputs=num_logits,
        head=as_logits,
    )


def clipped_actions(space: Box, std: str) -> Actions:
    """A Gaussian whose samples are clipped to the bounds on their way; its log-probability is that of the sample."""
    return Actions(
        distribution=lambda parameters: DiagGaussian(*parameters),
        to_env=lambda action: clip_to(space, action),
        **gaussian_parts(space, std),
    )


def squashed_actions(space: Box, std: str) -> Actions:
    """A Gaussian whose samples tanh takes into the bounds. Raises PPOError for a Box without finite bounds."""
    if not all(high - low < UNBOUNDED for low, high in zip(space.low, space.high, strict=True)):
        raise PPOError(
            f"box_policy = 'squashed' needs finite bounds, and the action space has "
            f"{min(space.low)} to {max(space.high)}; take 'clipped'"
        )
    return Actions(
        distribution=lambda parameters: SquashedGaussian(DiagGaussian(*parameters)),
        to_env=lambda action: squash_to(space, action),
        **gaussian_parts(space, std),
    )


def gaussian_parts(space: Box, std: str) -> dict[str, Any]:
    """What both Gaussian policies share: d numbers in a row, each with a mean and a standard deviation."""
    size = math.prod(space.shape)
    num_outputs, head = {"shared": (size, SharedStd()), "state": (2 * size, own_std)}[std]
    return {
        "parameters": {"mean": size, "log_std": size},
        "noise": lambda key, shape: DiagGaussian.noise(key, (*shape, size)),
        "num_outputs": num_outputs,
        "head": head,
    }


def unchanged(action: PyTree) -> PyTree:
    """The environment's action where it is the policy's."""
    return action


def clip_to(space: Box, action: jax.Array) -> jax.Array:
    """min(max(a, low), high). [..., d] -> [..., *shape]"""
    return jnp.clip(in_shape(space, action), *bounds(space))


def squash_to(space: Box, action: jax.Array) -> jax.Array:
    """low + (high - low) (1 + tanh a) / 2. [..., d] -> [..., *shape]"""
    low, high = bounds(space)
    squashed = low + (high - low) * (0.5 * (1.0 + jnp.tanh(in_shape(space, action))))
    return jnp.clip(squashed, low, high)  # low + (high - low) may round to a number beyond high


def in_shape(space: Box, action: jax.Array) -> jax.Array:
    """[..., d] -> [..., *shape]"""
    return action.reshape(*action.shape[:-1], *space.shape)


def bounds(space: Box) -> tuple[np.ndarray, np.ndarray]:
    """low and high, [*shape]"""
    low, high = (np.asarray(bound, np.float32).reshape(space.shape) for bound in (space.low, space.high))
    return low, high


def masked(network: Network) -> Network:
    """A network of plain observations, for `MaskedObs`: an illegal action has the logit -inf."""

    def apply(params: PyTree, obs: MaskedObs) -> tuple[jax.Array, jax.Array]:
        logits, value = network.apply(params, obs.obs)
        return masked_logits(logits, obs.action_mask), value

    return Network(init=lambda key, obs: network.init(key, obs.obs), apply=apply)
