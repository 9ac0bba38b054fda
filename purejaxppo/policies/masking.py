"""Networks of plain observations, for `MaskedObs`: an illegal action has the logit -inf."""

import functools
from typing import Any

import jax

from purejaxppo.envs.base import MaskedObs
from purejaxppo.policies.actions import Actions, masked_parameters
from purejaxppo.policies.networks import Network
from purejaxppo.policies.recurrent_networks import RecurrentNetwork
from purejaxppo.utils.tree import PyTree, Structure


def masked(network: Network | RecurrentNetwork, actions: Actions) -> Any:
    """The network for observations with a mask; of the same kind."""
    structure = jax.tree.structure(actions.parameters)
    init, apply = functools.partial(masked_init, network), functools.partial(masked_apply, network, structure)
    if isinstance(network, Network):
        return Network(init, apply)
    return RecurrentNetwork(init, apply, network.start, functools.partial(masked_replay, network, structure))


def masked_init(network: Any, key: jax.Array, *given: Any) -> PyTree:
    """The network's `init` for the plain observation, which is given last."""
    *memory, obs = given
    return network.init(key, *memory, obs.obs)


def masked_apply(network: Any, structure: Structure, params: PyTree, *given: Any) -> tuple[Any, ...]:
    """The network's `apply` at the plain observation, with the mask in its distribution's parameters."""
    *memory, obs = given
    outputs = network.apply(params, *memory, obs.obs)
    after, (parameters, *others) = outputs[: len(memory)], outputs[len(memory) :]
    return *after, masked_parameters(structure, parameters, obs.action_mask), *others


def masked_replay(
    network: RecurrentNetwork, structure: Structure, params: PyTree, memory: PyTree, obs: MaskedObs, reset: jax.Array
) -> tuple[Any, ...]:
    """The network's `replay` at plain observations, with the masks in its distributions' parameters."""
    assert network.replay is not None  # the factory sets it
    parameters, *others = network.replay(params, memory, obs.obs, reset)
    return masked_parameters(structure, parameters, obs.action_mask), *others
