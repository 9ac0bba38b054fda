"""What an action space asks of an agent: a distribution over it, and the way from its actions to the environment's."""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from purejaxppo.config import PPOConfig
from purejaxppo.distributions import (
    Categorical,
    DiagGaussian,
    Distribution,
    Joint,
    MultiCategorical,
    SquashedGaussian,
    masked_logits,
)
from purejaxppo.envs.base import (
    Box,
    Discrete,
    Environment,
    MaskedObs,
    MultiDiscrete,
    Space,
    SpaceTree,
    parts_of,
)
from purejaxppo.networks import JointHead, Network, SharedStd, as_logits, own_std
from purejaxppo.types import PPOError, PyTree, Structure

UNBOUNDED = 1e30  # from this width on, a Box has no bounds to speak of: some say so by the largest float


@dataclasses.dataclass(frozen=True)
class Parameters:
    """What a network returns for one space: an array, or a tuple of them, [..., size] each."""

    sizes: dict[str, int]  # by name


class Actions(NamedTuple):
    """How a policy acts in a space: chosen once, when the agent is made."""

    parameters: PyTree  # what the network returns for its policy: Parameters, or a pytree of them
    distribution: Callable[[Any], Distribution]  # of these parameters
    noise: Callable[[jax.Array, tuple[int, ...]], PyTree]  # (key, [...]) -> what a sample of [...] actions consumes
    to_env: Callable[[PyTree], PyTree]  # from the policy's actions [..., d] to the environment's
    num_outputs: int  # of the default network's actor
    head: Callable[[jax.Array], PyTree]  # from them to the parameters


def make_actions(env: Environment, config: PPOConfig) -> Actions:
    """The actions of the environment's space. Raises PPOError where the config's choices do not fit the space."""
    space = env.action_space
    parts = list(parts_of(space).values())
    if not any(isinstance(part, Box) for part in parts):
        _refuse_box_choices(env, config)
    actions = [actions_in(part, config) for part in parts]
    return joint_actions(space.structure, actions) if isinstance(space, SpaceTree) else actions[0]


def _refuse_box_choices(env: Environment, config: PPOConfig) -> None:
    for name, default in (("box_policy", PPOConfig.box_policy), ("box_std", PPOConfig.box_std)):
        if getattr(config, name) != default:
            raise PPOError(
                f"{name} = {getattr(config, name)!r} would do nothing: {env.name} acts in {env.action_space}; "
                f"leave it at {default!r}"
            )


def actions_in(space: Space, config: PPOConfig) -> Actions:
    """Those of one space, a Box as the config says."""
    if isinstance(space, Box):
        return {"clipped": clipped_actions, "squashed": squashed_actions}[config.box_policy](space, config.box_std)
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
        "parameters": Parameters({"mean": size, "log_std": size}),
        "noise": lambda key, shape: DiagGaussian.noise(key, (*shape, size)),
        "num_outputs": num_outputs,
        "head": head,
    }


def joint_actions(structure: Structure, parts: Sequence[Actions]) -> Actions:
    """Independent actions of each part, in a pytree: in the order of its leaves."""

    def each(function: Callable[[Actions, Any], Any], tree: PyTree) -> list[Any]:
        return [function(part, own) for part, own in zip(parts, structure.flatten_up_to(tree), strict=True)]

    return Actions(
        parameters=structure.unflatten([part.parameters for part in parts]),
        distribution=lambda parameters: Joint(
            tuple(each(lambda part, own: part.distribution(own), parameters)), structure
        ),
        noise=lambda key, shape: structure.unflatten(
            [part.noise(own, shape) for part, own in zip(parts, jax.random.split(key, len(parts)), strict=True)]
        ),
        to_env=lambda action: structure.unflatten(each(lambda part, own: part.to_env(own), action)),
        num_outputs=sum(part.num_outputs for part in parts),
        head=JointHead(structure, tuple(part.num_outputs for part in parts), tuple(part.head for part in parts)),
    )


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


def masked_parameters(structure: Structure, parameters: PyTree, action_mask: PyTree) -> PyTree:
    """The parameters, each part's, where an illegal action has the logit -inf; a part without a mask keeps its own."""
    parts = zip(structure.flatten_up_to(parameters), structure.flatten_up_to(action_mask), strict=True)
    return structure.unflatten([own if mask is None else masked_logits(own, mask) for own, mask in parts])


def masked(network: Network, actions: Actions) -> Network:
    """A network of plain observations, for `MaskedObs`: an illegal action has the logit -inf."""
    structure = jax.tree.structure(actions.parameters)

    def apply(params: PyTree, obs: MaskedObs) -> tuple[PyTree, jax.Array]:
        parameters, value = network.apply(params, obs.obs)
        return masked_parameters(structure, parameters, obs.action_mask), value

    return Network(init=lambda key, obs: network.init(key, obs.obs), apply=apply)
