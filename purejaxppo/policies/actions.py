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
from purejaxppo.policies.networks import JointHead, SharedStd, own_std
from purejaxppo.utils.errors import PPOError
from purejaxppo.utils.tree import PyTree, Structure, unchanged

UNBOUNDED = 1e30  # from this width on, a Box has no bounds to speak of: some say so by the largest float


@dataclasses.dataclass(frozen=True)
class Parameters:
    """The network's output for one space: an array, or a tuple of them, [..., size] each."""

    sizes: dict[str, int]  # by name

    def __str__(self) -> str:
        return next(iter(self.sizes)) if len(self.sizes) == 1 else f"({', '.join(self.sizes)})"

    def shown(self, lead: tuple[int, ...]) -> str | tuple[str, ...]:
        """The arrays as text, such as float[2, 64]; for `lead` = (2,)."""
        arrays = tuple(f"float{[*lead, size]}" for size in self.sizes.values())
        return arrays[0] if len(arrays) == 1 else arrays


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
        for name, choice, default in (("box_policy", box_policy, "clipped"), ("box_std", box_std, "shared")):
            if choice != default:
                raise PPOError(
                    f"{name} = {choice!r} would do nothing: {env.name} acts in {space}; leave it at {default!r}"
                )
    actions = [actions_in(part, box_policy, box_std) for part in parts]
    return joint_actions(space.structure, actions) if isinstance(space, SpaceTree) else actions[0]


def actions_in(space: Space, box_policy: str = "clipped", box_std: str = "shared") -> Actions:
    """The actions of one space."""
    if isinstance(space, Box):
        return box_actions(space, box_policy, box_std)
    return discrete_actions(space) if isinstance(space, Discrete) else multi_discrete_actions(space)


def discrete_actions(space: Discrete) -> Actions:
    """One of n actions."""
    return Actions(
        parameters=Parameters({"logits": space.n}),
        distribution=Categorical,
        noise=Categorical.noise,
        to_env=unchanged,
        num_outputs=space.n,
        head=unchanged,
    )


def multi_discrete_actions(space: MultiDiscrete) -> Actions:
    """k independent choices, their logits side by side."""
    num_logits = sum(space.sizes)
    return Actions(
        parameters=Parameters({"logits": num_logits}),
        distribution=lambda logits: MultiCategorical(logits, space.sizes),
        noise=lambda key, shape: MultiCategorical.noise(key, (*shape, len(space.sizes))),
        to_env=unchanged,
        num_outputs=num_logits,
        head=unchanged,
    )


def box_actions(space: Box, policy: str, std: str) -> Actions:
    """A Gaussian whose samples are "clipped" to the bounds on their way, or "squashed" into them by tanh.

    The log-probability of a clipped action is that of the sample. Raises PPOError for a squashed one without bounds.
    """
    is_squashed = policy == "squashed"
    if is_squashed and not all(high - low < UNBOUNDED for low, high in zip(space.low, space.high, strict=True)):
        raise PPOError(
            f"box_policy = 'squashed' needs finite bounds, and the action space has "
            f"{min(space.low)} to {max(space.high)}; take 'clipped'"
        )

    def distribution(parameters: tuple[jax.Array, jax.Array]) -> DiagGaussian | SquashedGaussian:
        gaussian = DiagGaussian(*parameters)
        return SquashedGaussian(gaussian) if is_squashed else gaussian

    size = math.prod(space.shape)
    return Actions(
        parameters=Parameters({"mean": size, "log_std": size}),
        distribution=distribution,
        noise=lambda key, shape: DiagGaussian.noise(key, (*shape, size)),
        to_env=functools.partial(squash_to if is_squashed else clip_to, space),
        num_outputs=size if std == "shared" else 2 * size,
        head=SharedStd() if std == "shared" else own_std,
    )


def joint_actions(structure: Structure, parts: Sequence[Actions]) -> Actions:
    """Independent actions of each part, in a pytree: in the order of its leaves."""

    def distribution(parameters: PyTree) -> Joint:
        own = structure.flatten_up_to(parameters)
        return Joint(tuple(part.distribution(x) for part, x in zip(parts, own, strict=True)), structure)

    def noise(key: jax.Array, shape: tuple[int, ...]) -> PyTree:
        keys = jax.random.split(key, len(parts))
        return structure.unflatten([part.noise(key, shape) for part, key in zip(parts, keys, strict=True)])

    def to_env(action: PyTree) -> PyTree:
        own = structure.flatten_up_to(action)
        return structure.unflatten([part.to_env(x) for part, x in zip(parts, own, strict=True)])

    return Actions(
        parameters=structure.unflatten([part.parameters for part in parts]),
        distribution=distribution,
        noise=noise,
        to_env=to_env,
        num_outputs=sum(part.num_outputs for part in parts),
        head=JointHead(structure, tuple(part.num_outputs for part in parts), tuple(part.head for part in parts)),
    )


def clip_to(space: Box, action: jax.Array) -> jax.Array:
    """min(max(a, low), high). [..., d] -> [..., *shape]"""
    return jnp.clip(action.reshape(*action.shape[:-1], *space.shape), *bounds(space))


def squash_to(space: Box, action: jax.Array) -> jax.Array:
    """low + (high - low) (1 + tanh a) / 2. [..., d] -> [..., *shape]"""
    low, high = bounds(space)
    squashed = low + (high - low) * (0.5 * (1.0 + jnp.tanh(action.reshape(*action.shape[:-1], *space.shape))))
    return jnp.clip(squashed, low, high)  # low + (high - low) may round to a number beyond high


def bounds(space: Box) -> tuple[np.ndarray, np.ndarray]:
    """low and high, [*shape]"""
    low, high = (np.asarray(bound, np.float32).reshape(space.shape) for bound in (space.low, space.high))
    return low, high


def masked_parameters(structure: Structure, parameters: PyTree, action_mask: PyTree) -> PyTree:
    """The parameters, each part's, where an illegal action has the logit -inf; a part without a mask keeps its own."""
    parts = zip(structure.flatten_up_to(parameters), structure.flatten_up_to(action_mask), strict=True)
    return structure.unflatten([own if mask is None else masked_logits(own, mask) for own, mask in parts])
