"""PPO for policies with a memory: the sequence version of rollout and update, from the same pieces as `ppo`.

A memory is what the policy itself writes into its next observation. So the rollout is that of an environment which
observes the memory beside what it shows: a new episode starts with an empty one, and the observation before an
auto-reset keeps the one that the episode has left, which is where the critic bootstraps from.
"""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import optax
from flax import struct

from purejaxppo.envs.base import Environment, MaskedObs, Step, through, traced
from purejaxppo.envs.spaces import shapes_of
from purejaxppo.envs.vector import reset_batch, where_env
from purejaxppo.policies.actions import Actions, make_actions, masked_parameters
from purejaxppo.policies.distributions import Distribution
from purejaxppo.policies.networks import NetworkLike, apply_own, init_beside
from purejaxppo.policies.recurrent_networks import (
    CELLS,
    RecurrentActorCritic,
    RecurrentNetwork,
    SharedRecurrentActorCritic,
    make_recurrent_actor_critic,
)
from purejaxppo.ppo.agent import (
    Learner,
    Minibatches,
    Reward,
    as_modules,
    assess,
    check_own_functions,
    check_update,
    init_train_state,
    learn,
    learned_state,
    learner_parts,
    make_metrics,
    plain_obs,
    warn_if_over,
)
from purejaxppo.ppo.checks import (
    check_act,
    check_optimizer_steps,
    check_outputs,
    check_params,
    check_parts,
    check_runner,
    in_own_state,
    merged,
    shape_list,
)
from purejaxppo.ppo.config import PPOConfig, check_effects, check_fields, check_total, static
from purejaxppo.ppo.gae import Advantage, gae_advantage
from purejaxppo.ppo.losses import Loss, ppo_loss
from purejaxppo.ppo.normalize import normalize_obs
from purejaxppo.ppo.rollout import empty_episodes, make_noise, rollout
from purejaxppo.ppo.schedules import Schedule
from purejaxppo.ppo.types import Batch, Metrics, RunnerState, TrainState, Transition
from purejaxppo.ppo.update import keep_finite, own_buffers
from purejaxppo.utils.errors import PPOError
from purejaxppo.utils.tree import PyTree, Structure
from purejaxppo.utils.validation import check_choice, check_divisions, check_key, check_size

TOWERS = {False: RecurrentActorCritic, True: SharedRecurrentActorCritic}  # by share_trunk


@dataclasses.dataclass(frozen=True)
class RecurrentConfig(PPOConfig):
    """Hyperparameters of PPO, and those of the memory. A minibatch is made of whole sequences."""

    factory: ClassVar[str] = "make_recurrent_ppo"

    hidden_sizes: tuple[int, ...] = static((64,))  # of each tower, before its cell
    cell: str = static("gru")  # or "lstm"
    cell_size: int = static(64)  # numbers that a cell shows of its memory
    sequence_length: int | None = static(None)  # steps that a gradient goes back, divides num_steps; None: num_steps

    def __post_init__(self) -> None:
        check_fields(self, RecurrentConfig)
        check_choice("cell", self.cell, tuple(CELLS))
        check_total(self)
        if self.sequence_length is not None:
            check_size("sequence_length", self.sequence_length)
            check_divisions("num_steps", self.num_steps, "sequences of sequence_length", self.sequence_length)
        sequences = "num_envs * num_steps / sequence_length" if self.sequence_length else "num_envs"
        check_divisions(sequences, self.num_sequences, "num_minibatches", self.num_minibatches)
        check_effects(self)

    @property
    def steps_of_a_sequence(self) -> int:
        """L."""
        return int(self.sequence_length or self.num_steps)

    @property
    def num_sequences(self) -> int:
        """Of one rollout, N = T * B / L."""
        return self.batch_size // self.steps_of_a_sequence


class ObsAndMemory(struct.PyTreeNode):
    """What a policy with a memory acts on."""

    obs: PyTree  # [...], raw or as the network sees it
    memory: PyTree  # [...], before the observation


class ActionAndMemory(struct.PyTreeNode):
    """What it gives."""

    action: PyTree  # [...]
    memory: PyTree  # [...], after the observation


class Sequences(struct.PyTreeNode):
    """The observations of N sequences of L steps, and what their replay needs beside."""

    obs: PyTree  # [N, L, ...], as the network sees it
    reset: jax.Array  # [N, L] bool, whether an episode ended in the step before; False in a rollout's first step
    memory: PyTree  # [N, ...], of the rollout, before the first step


@dataclasses.dataclass(frozen=True)
class RecurrentPPO(Learner):
    """An agent like `PPO`, whose policy remembers. What it learns from are sequences."""

    config: RecurrentConfig
    network: RecurrentNetwork

    def init(self, key: jax.Array) -> RunnerState:
        """The state before the first update, a function of the key. Raises PPOError for a raw or batched key."""
        check_key(key)
        return own_buffers(init(self, key))

    def update(self, runner: RunnerState) -> tuple[RunnerState, Metrics]:
        """One rollout and the learning from it. Raises PPOError for a runner of another agent.

        Warns, where it is not traced, if a schedule that has ended leaves a learning rate of 0.
        """
        check_runner(runner, self.config.num_envs)
        warn_if_over(self, runner.train_state)
        return update(self, runner)

    def act(
        self, train_state: TrainState, obs: PyTree, key: jax.Array | None = None, memory: PyTree = None
    ) -> tuple[PyTree, PyTree]:
        """The environment's action for one observation, the mode or with a key a sample, and the memory after it.

        memory: after the observation before, None at the start of an episode.

        With leading axes [N] of `obs` and `memory`, N actions, each drawn on its own.

        Raises PPOError if `train_state`, `obs`, `key` or `memory` has the wrong type or shape.
        """
        lead = check_act(self.env, train_state, obs, key)
        if memory is None:
            memory = starts(self.network, lead)
        else:
            check_memory(self.network, memory, lead)
        distribution, memory = in_own_state(self.policy, train_state, memory, obs)
        action = distribution.mode() if key is None else distribution.sample(self.actions.noise(key, lead))
        return self.actions.to_env(action), memory

    @property
    def start_memory(self) -> PyTree:
        """The memory of one environment at the start of an episode."""
        return self.network.start()

    def policy(self, train_state: TrainState, memory: PyTree, obs: PyTree) -> tuple[Distribution, PyTree]:
        """The policy at raw observations [..., *obs_shape] and the memory [..., *memory_shape] after them."""
        memory, parameters = self.step(train_state, ObsAndMemory(obs, memory))[:2]
        return self.actions.distribution(parameters), memory

    def step(self, train_state: TrainState, obs: ObsAndMemory) -> tuple[Any, ...]:
        """The network at raw observations. -> memory, distribution parameters and value, [...] each"""
        return self.network.apply(train_state.params, obs.memory, self.seen(train_state, obs))

    def seen(self, train_state: TrainState, obs: ObsAndMemory) -> PyTree:
        """The raw observations [..., *obs_shape] as the network sees them, without the memory."""
        return normalize_obs(train_state.obs_moments, obs.obs)

    def value(self, train_state: TrainState, obs: ObsAndMemory) -> jax.Array:
        """The critic at raw observations. -> [...]"""
        return self.step(train_state, obs)[2]

    def forward(self, params: PyTree, obs: Sequences) -> tuple[Any, ...]:
        """The network along M sequences.

        -> (distribution parameters [M, L, ...], value [M, L]), and whatever else the network returns
        """
        assert self.network.replay is not None
        by_time = jax.tree.map(lambda x: jnp.swapaxes(x, 0, 1), (obs.obs, obs.reset))
        return jax.tree.map(lambda x: jnp.swapaxes(x, 0, 1), self.network.replay(params, obs.memory, *by_time))


def make_recurrent_ppo(
    env: Environment,
    config: RecurrentConfig,
    *,
    network: NetworkLike | None = None,
    modules: Mapping[str, Any] | None = None,
    optimizer: optax.GradientTransformation | None = None,
    loss: Loss = ppo_loss,
    reward: Reward | None = None,
    advantage: Advantage = gae_advantage,
    minibatches: Minibatches | None = None,
    schedules: Mapping[str, Schedule] | None = None,
) -> RecurrentPPO:
    """The agent for an environment, with a memory.

    network: a `RecurrentNetwork`; what it returns for the policy is what `make_ppo` asks of a network.
    modules, optimizer, loss, reward, advantage, minibatches, schedules: as in `make_ppo`. The samples are sequences: a
        loss sees distributions and values [M, L], and a minibatch has whole ones.

    Raises PPOError for a config out of range, and for an environment or a part that does not fit.
    """
    check_parts(env, config, RecurrentConfig, optimizer, schedules)
    if network is not None and not isinstance(network, RecurrentNetwork):
        kind = type(network).__name__
        raise PPOError(f"network is a {kind}, which has no memory; give pjp.RecurrentNetwork(init, apply, start)")
    own = {"loss": loss, "reward": reward, "advantage": advantage, "minibatches": minibatches}
    check_own_functions(own)
    beside = as_modules(modules)
    actions = make_actions(env, config.box_policy, config.box_std)
    of_obs = network or make_recurrent_actor_critic(
        actions.num_outputs,
        shapes_of(env.observation_space),
        config.hidden_sizes,
        config.activation,
        config.cell,
        config.cell_size,
        config.steps_of_a_sequence,
        actions.head,
        TOWERS[config.share_trunk],
    )
    if of_obs.replay is None:
        of_obs = of_obs._replace(replay=functools.partial(replay, of_obs))
    if beside:
        assert of_obs.replay is not None
        of_obs = of_obs._replace(
            init=functools.partial(init_beside, of_obs.init, beside),
            apply=functools.partial(apply_own, of_obs.apply, "policy"),
            replay=functools.partial(apply_own, of_obs.replay, "policy"),
        )
    params = _check_network(env, actions, of_obs)
    agent = RecurrentPPO(
        network=of_obs if env.action_mask is None else masked(of_obs, actions),
        **learner_parts(env, actions, config, optimizer, schedules, beside),
        **own,
    )
    check_optimizer_steps(agent.optimizer, params)
    check_update(agent)
    return agent


def replay(network: RecurrentNetwork, params: PyTree, memory: PyTree, obs: PyTree, reset: jax.Array) -> tuple[Any, ...]:
    """A network's `apply` along T steps, from its `start` where an episode begins.

    memory: [B, ...], obs: [T, B, ...], reset: [T, B] -> distribution parameters [T, B, ...], value [T, B]
    """

    def remember(memory: PyTree, step: tuple[PyTree, jax.Array]) -> tuple[PyTree, tuple[Any, ...]]:
        obs, reset = step
        memory = jax.tree.map(functools.partial(where_env, reset), starts(network, reset.shape), memory)
        memory, *outputs = network.apply(params, memory, obs)
        return memory, tuple(outputs)

    return jax.lax.scan(remember, memory, (obs, reset))[1]


def starts(network: RecurrentNetwork, shape: tuple[int, ...]) -> PyTree:
    """The memory that an episode starts with, [*shape, ...]."""
    return jax.tree.map(lambda x: jnp.broadcast_to(x, (*shape, *jnp.shape(x))), network.start())


def check_memory(network: RecurrentNetwork, memory: PyTree, lead: tuple[int, ...]) -> None:
    """Raises PPOError unless `memory` is one of the network, with the leading axes of the observation."""
    start = jax.eval_shape(functools.partial(starts, network, lead))
    if jax.tree.structure(memory) != jax.tree.structure(start):
        raise PPOError(f"memory = {memory!r} is none of this network; give the one that the last act returned")
    shapes = [[jnp.shape(x) for x in jax.tree.leaves(tree)] for tree in (memory, start)]
    if shapes[0] != shapes[1]:
        raise PPOError(
            f"memory has the shapes {shape_list(shapes[0])}, and {shape_list(shapes[1])} go with obs; "
            "give the one that the last act returned for these environments"
        )


def masked(network: RecurrentNetwork, actions: Actions) -> RecurrentNetwork:
    """A network of plain observations, for `MaskedObs`: an illegal action has the logit -inf."""
    structure = jax.tree.structure(actions.parameters)
    return RecurrentNetwork(
        init=functools.partial(masked_init, network),
        apply=functools.partial(masked_apply, network, structure),
        start=network.start,
        replay=functools.partial(masked_replay, network, structure),
    )


def masked_init(network: RecurrentNetwork, key: jax.Array, memory: PyTree, obs: MaskedObs) -> PyTree:
    """The network's `init` for the plain observation."""
    return network.init(key, memory, obs.obs)


def masked_apply(
    network: RecurrentNetwork, structure: Structure, params: PyTree, memory: PyTree, obs: MaskedObs
) -> tuple[Any, ...]:
    """The network's `apply` at the plain observation, with the mask in its distribution's parameters."""
    memory, parameters, *others = network.apply(params, memory, obs.obs)
    return memory, masked_parameters(structure, parameters, obs.action_mask), *others


def masked_replay(
    network: RecurrentNetwork, structure: Structure, params: PyTree, memory: PyTree, obs: MaskedObs, reset: jax.Array
) -> tuple[Any, ...]:
    """The network's `replay` at plain observations, with the masks in its distributions' parameters."""
    assert network.replay is not None
    parameters, *others = network.replay(params, memory, obs.obs, reset)
    return masked_parameters(structure, parameters, obs.action_mask), *others


def init(agent: RecurrentPPO, key: jax.Array) -> RunnerState:
    """The state before the first update."""
    params_key, reset_key = jax.random.split(jax.random.fold_in(key, 2**32 - 1))  # no update has this index
    obs, env_state = reset_batch(agent.env, reset_key, agent.config.num_envs)
    params = agent.network.init(params_key, agent.start_memory, jax.tree.map(lambda x: x[0], obs))
    return RunnerState(
        train_state=init_train_state(agent, params, obs),
        env_state=env_state,
        obs=obs,
        episode=empty_episodes(agent.config.num_envs),
        key=key,
        memory=starts(agent.network, (agent.config.num_envs,)),
    )


def update(agent: RecurrentPPO, runner: RunnerState) -> tuple[RunnerState, Metrics]:
    """As `ppo.update`, from sequences in place of single steps."""
    config, state = agent.config, runner.train_state
    update_key = jax.random.fold_in(runner.key, state.update)
    noise_key, shuffle_key = jax.random.split(update_key)

    env = with_memory(through(agent.actions.to_env, agent.env), agent.network)
    noise = make_noise(env, agent.actions.noise, noise_key, (config.num_steps, config.num_envs))
    policy = functools.partial(sample_action, agent, state)
    acted, transitions, parameters, episodes = rollout(env, policy, observing_memory(runner), noise)
    acted = acted.replace(obs=acted.obs.obs, memory=acted.obs.memory)
    transitions = transitions.replace(action=transitions.action.action)

    acted, steps, told = assess(agent, acted, transitions, parameters, update_key)
    batch = to_sequences(steps, transitions, config.steps_of_a_sequence)
    rate = agent.rate_rule.rate(state)
    learned, terms = learn(agent, rate, state, batch, shuffle_key)

    state = learned_state(agent, acted.train_state, learned, terms, transitions.obs.obs)
    runner = keep_finite(runner, acted.replace(train_state=state))
    return runner, make_metrics(agent, runner.train_state, episodes, merged(terms, told), batch, rate)


def with_memory(env: Environment, network: RecurrentNetwork) -> Environment:
    """The environment that observes the memory, and takes it with the action: `ObsAndMemory`, `ActionAndMemory`."""

    def reset(key: jax.Array, params: PyTree) -> tuple[ObsAndMemory, PyTree]:
        obs, state = env.reset(key, params)
        return ObsAndMemory(obs, network.start()), state

    def step(key: jax.Array, state: PyTree, action: ActionAndMemory, params: PyTree) -> Step:
        after = env.step(key, state, action.action, params)
        return after._replace(obs=ObsAndMemory(after.obs, action.memory))

    return env.replace(reset=reset, step=step)


def observing_memory(runner: RunnerState) -> RunnerState:
    """The runner in the environment `with_memory`."""
    return runner.replace(obs=ObsAndMemory(runner.obs, runner.memory))


def sample_action(
    agent: RecurrentPPO, state: TrainState, obs: ObsAndMemory, noise: PyTree
) -> tuple[ActionAndMemory, PyTree]:
    """The behaviour policy: action and memory for each environment, and its distribution's parameters."""
    memory, parameters = agent.step(state, obs)[:2]
    return ActionAndMemory(agent.actions.distribution(parameters).sample(noise), memory), parameters


def to_sequences(steps: Batch, transitions: Transition, length: int) -> Batch:
    """The steps of a rollout, cut into sequences; each has the memory that the rollout had before it.

    [T, B, ...] -> [N, L, ...], with `Sequences` for obs
    """
    done = transitions.terminated | transitions.truncated
    reset = jnp.concatenate([jnp.zeros_like(done[:1]), done[:-1]])  # the first memory is that of its episode already
    cut = functools.partial(cut_in_sequences, length)
    first_memory = jax.tree.map(lambda x: cut(x)[:, 0], transitions.obs.memory)
    batch = jax.tree.map(cut, steps)
    return batch.replace(obs=Sequences(obs=batch.obs, reset=cut(reset), memory=first_memory))


def cut_in_sequences(length: int, x: jax.Array) -> jax.Array:
    """Pieces of L consecutive steps of one environment each. [T, B, ...] -> [T / L * B, L, ...]"""
    pieces = x.reshape(-1, length, *x.shape[1:])  # [T / L, L, B, ...]
    return jnp.moveaxis(pieces, 2, 1).reshape(-1, length, *x.shape[2:])


def _check_network(env: Environment, actions: Actions, network: RecurrentNetwork) -> PyTree:
    """Raises PPOError unless `apply` and `replay` give what they have to, in the right shapes.

    -> its parameters' shapes
    """
    obs = plain_obs(env)
    start = traced("network.start", network.start)
    params = traced("network.init", network.init, jax.eval_shape(lambda: jax.random.key(0)), start, obs)
    check_params(params)
    for lead in ((), (2,), (2, 3)):
        batched, memory = _with_lead(lead, obs), _with_lead(lead, start)
        outputs = traced("network.apply", network.apply, params, memory, batched)
        if not isinstance(outputs, tuple) or len(outputs) not in (3, 4):  # the fourth: auxiliary outputs
            raise PPOError("network.apply has to return (memory, the distribution's parameters, value)")
        _check_memory(memory, outputs[0])
        check_outputs("network.apply", actions, batched, lead, outputs[1:])
    assert network.replay is not None
    steps, reset = _with_lead((5, 2), obs), jax.ShapeDtypeStruct((5, 2), bool)
    outputs = traced("network.replay", network.replay, params, _with_lead((2,), start), steps, reset)
    check_outputs("network.replay", actions, steps, (5, 2), outputs)
    return params


def _check_memory(given: PyTree, returned: PyTree) -> None:
    """Raises PPOError unless the memory keeps its structure, shapes and dtypes."""
    shapes = [jax.tree.map(lambda x: f"{x.dtype}{list(x.shape)}", memory) for memory in (given, returned)]
    if shapes[0] != shapes[1]:
        raise PPOError(f"network.apply makes the memory {shapes[0]} one of {shapes[1]}; it has to stay as it starts")


def _with_lead(lead: tuple[int, ...], one: PyTree) -> PyTree:
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct((*lead, *x.shape), x.dtype), one)
