"""How a policy acts in an action space: its distribution, and the map from its actions to the environment's."""

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from purejaxppo.envs.base import Environment
from purejaxppo.envs.spaces import Box, Discrete, MultiDiscrete, Space, SpaceTree, parts_of
from purejaxppo.policies.distributions import (
    Categorical,
    DiagGaussian,
    Distribution,
    Joint,
    MultiCategorical,
    SquashedGaussian,
    masked_logits,
)
from purejaxppo.policies.networks import JointHead, SharedStd, as_logits, own_std
from purejaxppo.utils.errors import PPOError
from purejaxppo.utils.tree import PyTree, Structure, unchanged

UNBOUNDED = 1e30  # from this width on, a Box has no bounds to speak of: some say so by the largest float


@dataclasses.dataclass(frozen=True)
class Parameters:
    """The network's output for one space: an array, or a tuple of them, [..., size] each."""

    sizes: dict[str, int]  # by name


class Actions(NamedTuple):
    """How a policy acts in a space: chosen once, when the agent is made."""

    parameters: PyTree  # the network's output for the policy: Parameters, or a pytree of them
    distribution: Callable[[Any], Distribution]  # of these parameters
    noise: Callable[[jax.Array, tuple[int, ...]], PyTree]  # (key, shape) -> noise for a sample of [*shape] actions
    to_env: Callable[[PyTree], PyTree]  # from the policy's actions [..., d] to the environment's
    num_outputs: int  # of the default network's actor
    head: Callable[[jax.Array], PyTree]  # from them to the parameters


def make_actions(env: Environment, box_policy: str = "clipped", box_std: str = "shared") -> Actions:
    """The actions of the environment's space. Raises PPOError if the choices for a Box do not fit the space."""
    space = env.action_space
    parts = list(parts_of(space).values())
    if not any(isinstance(part, Box) for part in parts):
        _refuse_box_choices(env, box_policy=box_policy, box_std=box_std)
    actions = [actions_in(part, box_policy, box_std) for part in parts]
    return joint_actions(space.structure, actions) if isinstance(space, SpaceTree) else actions[0]


def _refuse_box_choices(env: Environment, **choices: str) -> None:
    for name, default in (("box_policy", "clipped"), ("box_std", "shared")):
        if choices[name] != default:
            raise PPOError(
                f"{name} = {choices[name]!r} would do nothing: {env.name} acts in {env.action_space}; "
                f"leave it at {default!r}"
            )


def actions_in(space: Space, box_policy: str = "clipped", box_std: str = "shared") -> Actions:
    """The actions of one space."""
    if isinstance(space, Box):
        return {"clipped": clipped_actions, "squashed": squashed_actions}[box_policy](space, box_std)
    return discrete_actions(space) if isinstance(space, Discrete) else multi_discrete_actions(space)


def discrete_actions(space: Discrete) -> Actions:
    """One of n actions."""
    return Actions(
        parameters=Parameters({"logits": space.n}),
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
        parameters=Parameters({"logits": num_logits}),
        distribution=functools.partial(MultiCategorical, sizes=space.sizes),
        noise=functools.partial(noise_of, MultiCategorical, len(space.sizes)),
        to_env=unchanged,
        num_outputs=num_logits,
        head=as_logits,
    )


def clipped_actions(space: Box, std: str) -> Actions:
    """A Gaussian whose samples are clipped to the bounds on their way; its log-probability is that of the sample."""
    return Actions(
        distribution=gaussian,
        to_env=functools.partial(clip_to, space),
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
        distribution=squashed_gaussian,
        to_env=functools.partial(squash_to, space),
        **gaussian_parts(space, std),
    )


def gaussian_parts(space: Box, std: str) -> dict[str, Any]:
    """The parts that both Gaussian policies share: d numbers, each with a mean and a standard deviation."""
    size = math.prod(space.shape)
    num_outputs, head = {"shared": (size, SharedStd()), "state": (2 * size, own_std)}[std]
    return {
        "parameters": Parameters({"mean": size, "log_std": size}),
        "noise": functools.partial(noise_of, DiagGaussian, size),
        "num_outputs": num_outputs,
        "head": head,
    }


def noise_of(
    distribution: type[MultiCategorical | DiagGaussian], size: int, key: jax.Array, shape: tuple[int, ...]
) -> jax.Array:
    """Noise for samples of [...] actions of `size` numbers. -> [..., size]"""
    return distribution.noise(key, (*shape, size))


def gaussian(parameters: tuple[jax.Array, jax.Array]) -> DiagGaussian:
    """Of (mean, log_std)."""
    return DiagGaussian(*parameters)


def squashed_gaussian(parameters: tuple[jax.Array, jax.Array]) -> SquashedGaussian:
    """Of (mean, log_std), before the tanh."""
    return SquashedGaussian(gaussian(parameters))


def joint_actions(structure: Structure, parts: Sequence[Actions]) -> Actions:
    """Independent actions of each part, in a pytree: in the order of its leaves."""
    return Actions(
        parameters=structure.unflatten([part.parameters for part in parts]),
        distribution=functools.partial(joint_distribution, structure, parts),
        noise=functools.partial(joint_noise, structure, parts),
        to_env=functools.partial(joint_to_env, structure, parts),
        num_outputs=sum(part.num_outputs for part in parts),
        head=JointHead(structure, tuple(part.num_outputs for part in parts), tuple(part.head for part in parts)),
    )


def joint_distribution(structure: Structure, parts: Sequence[Actions], parameters: PyTree) -> Joint:
    """The distribution of each part."""
    own = structure.flatten_up_to(parameters)
    return Joint(tuple(part.distribution(x) for part, x in zip(parts, own, strict=True)), structure)


def joint_noise(structure: Structure, parts: Sequence[Actions], key: jax.Array, shape: tuple[int, ...]) -> PyTree:
    """The noise of each part, from a key of its own."""
    keys = jax.random.split(key, len(parts))
    return structure.unflatten([part.noise(key, shape) for part, key in zip(parts, keys, strict=True)])


def joint_to_env(structure: Structure, parts: Sequence[Actions], action: PyTree) -> PyTree:
    """The environment's action of each part."""
    own = structure.flatten_up_to(action)
    return structure.unflatten([part.to_env(x) for part, x in zip(parts, own, strict=True)])


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


def masked_parameters(structure: Structure, parameters: PyTree, action_mask: PyTree) -> PyTree:
    """The parameters, each part's, where an illegal action has the logit -inf; a part without a mask keeps its own."""
    parts = zip(structure.flatten_up_to(parameters), structure.flatten_up_to(action_mask), strict=True)
    return structure.unflatten([own if mask is None else masked_logits(own, mask) for own, mask in parts])
