"""Networks of plain observations, for `MaskedObs`: an illegal action has the logit -inf."""

from typing import Any, cast

import jax

from purejaxppo.policies.actions import Actions, masked_parameters
from purejaxppo.policies.networks import Network
from purejaxppo.policies.recurrent_networks import RecurrentNetwork
from purejaxppo.utils.tree import PyTree


def masked(network: Network | RecurrentNetwork, actions: Actions) -> Any:
    """The network for observations with a mask; of the same kind. Memory comes before the observation."""
    structure = jax.tree.structure(actions.parameters)

    def hide(obs: PyTree, parameters: PyTree, *others: Any) -> tuple[Any, ...]:
        return masked_parameters(structure, parameters, obs.action_mask), *others

    if isinstance(network, Network):
        return Network(
            init=lambda key, obs: network.init(key, obs.obs),
            apply=lambda params, obs: hide(obs, *network.apply(params, obs.obs)),
        )
    plain_replay = cast(Any, network.replay)  # the factory sets it

    def apply(params: PyTree, memory: PyTree, obs: PyTree) -> tuple[Any, ...]:
        memory, *outputs = network.apply(params, memory, obs.obs)
        return memory, *hide(obs, *outputs)

    return RecurrentNetwork(
        init=lambda key, memory, obs: network.init(key, memory, obs.obs),
        apply=apply,
        start=network.start,
        replay=lambda params, memory, obs, reset: hide(obs, *plain_replay(params, memory, obs.obs, reset)),
    )
