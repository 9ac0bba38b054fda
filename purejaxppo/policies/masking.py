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

    def init(key: jax.Array, *given: Any) -> PyTree:
        *memory, obs = given
        return cast(Any, network).init(key, *memory, obs.obs)

    def apply(params: PyTree, *given: Any) -> tuple[Any, ...]:
        *memory, obs = given
        outputs = cast(Any, network).apply(params, *memory, obs.obs)
        after, (parameters, *others) = outputs[: len(memory)], outputs[len(memory) :]
        return *after, masked_parameters(structure, parameters, obs.action_mask), *others

    if isinstance(network, Network):
        return Network(init, apply)
    plain_replay = network.replay
    assert plain_replay is not None  # the factory sets it

    def replay(params: PyTree, memory: PyTree, obs: PyTree, reset: jax.Array) -> tuple[Any, ...]:
        parameters, *others = plain_replay(params, memory, obs.obs, reset)
        return masked_parameters(structure, parameters, obs.action_mask), *others

    return RecurrentNetwork(init, apply, network.start, replay)
