"""The agent, and one update of it: rollout, advantages and epochs of minibatches, composed of the modules beside it.

One update serves every policy and every number of devices. A feed-forward policy has the memory `()` and learns from
single steps, a recurrent one from sequences; devices that share a run work together through a `Collective`.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

from purejaxppo.envs.base import Environment, called, through
from purejaxppo.envs.vector import reset_batch
from purejaxppo.policies.actions import Actions
from purejaxppo.policies.distributions import Distribution
from purejaxppo.policies.networks import Network
from purejaxppo.policies.recurrent_networks import RecurrentNetwork
from purejaxppo.ppo import checks
from purejaxppo.ppo.collective import ONE_DEVICE, Collected, Collective
from purejaxppo.ppo.config import PPOConfig
from purejaxppo.ppo.continuing import restarted, warn_if_over
from purejaxppo.ppo.losses import Advantage, Loss, LossContext, Minibatches, Reward, advantage_over, explained_variance
from purejaxppo.ppo.memory import (
    ActionAndMemory,
    ObsAndMemory,
    along_sequences,
    hiding_memory,
    showing_memory,
    start_memories,
    to_samples,
    to_sequences,
    with_memory,
)
from purejaxppo.ppo.normalize import init_moments, init_obs_moments, normalize_obs, update_obs_moments
from purejaxppo.ppo.recorded import replayed
from purejaxppo.ppo.rollout import RolloutNoise, empty_episodes, make_noise, rollout
from purejaxppo.ppo.schedules import RateRule, Schedules
from purejaxppo.ppo.shuffle import shuffled_indices
from purejaxppo.ppo.types import LOSS_TERMS, Batch, EpisodeStats, Metrics, RunnerState, Steps, TrainState, Transition
from purejaxppo.ppo.update import (
    SMALL_PARAMETERS,
    Learned,
    Order,
    epochs_within_kl,
    keep_finite,
    kl_is_within,
    minibatches_within_kl,
    nan_unless,
    own_buffers,
    update_epoch,
    update_epochs,
)
from purejaxppo.ppo.values import next_values, values
from purejaxppo.utils.packed import pack, unpack
from purejaxppo.utils.remade import Remade
from purejaxppo.utils.tree import NOT_SPLIT, PyTree, Terms
from purejaxppo.utils.validation import check_key


@dataclasses.dataclass(frozen=True)
class PPO(Remade):
    """An agent: the pure functions `init`, `update` and `act`, and the parts that they are made of."""

    env: Environment
    actions: Actions
    config: PPOConfig
    network: Network | RecurrentNetwork
    optimizer: optax.GradientTransformationExtraArgs
    loss: Loss
    reward: Reward | None  # None: the environment's
    advantage: Advantage
    minibatches: Minibatches | None  # None: shuffled
    modules: Mapping[str, Callable[..., Any]]  # (params, ...) -> output, by name
    schedules: Schedules
    rate_rule: RateRule
    reports_rate: bool  # True if the optimizer follows config.learning_rate
    collective: Collective = ONE_DEVICE

    def __repr__(self) -> str:
        return f"PPO({self.env.name}, {type(self.config).__name__}, {self.config.num_updates} updates)"

    def init(self, key: jax.Array) -> RunnerState:
        """The state before the first update, a function of the key. Raises PPOError for a raw or batched key."""
        check_key(key)
        return own_buffers(init(self, key))

    def continue_from(self, train_state: TrainState, key: jax.Array) -> RunnerState:
        """The state before the first update of a new run that goes on from trained parameters.

        The parameters and the statistics of the observations come from `train_state`, and those of the reward if
        both runs normalise it. The environments, the optimizer's state, the schedules and the count of updates begin
        anew, so that this agent may have other `num_envs`, and other hyperparameters, than the one that trained them.

        train_state: of one seed of an agent with the same network; vmap over more. key: one typed key, from which the
        new run draws. Raises PPOError for a state of another network, and a raw or batched key.
        """
        return restarted(self.init(key), train_state, self.optimizer.init)

    @checks.of_own_state
    def update(self, runner: RunnerState) -> tuple[RunnerState, Metrics]:
        """One rollout and the learning from it. Raises PPOError for a runner of another agent.

        Warns, if it is not traced, when a schedule that has ended leaves a learning rate of 0.
        """
        checks.check_runner(runner, self.config.num_envs // self.collective.num_devices)
        warn_if_over(self, runner.train_state)
        return update(self, runner)

    @checks.of_own_state
    def learn_from(self, runner: RunnerState, transitions: Transition) -> tuple[RunnerState, Metrics]:
        """The learning of one `update`, from steps that were made elsewhere: in a simulator that is not JAX.

        The policy of `runner.train_state` drew the actions. Its `obs` and `env_state` stay as they are. Each step
        starts from the `next_obs` of the step before it, unless that ended an episode.

        transitions: [T, B, ...], also as arrays of NumPy. Raises PPOError for other shapes, or another agent's runner.
        """
        checks.check_runner(runner, self.config.num_envs // self.collective.num_devices)
        return learn_from(self, runner, *replayed(self, runner, transitions))

    @checks.of_own_state
    def act(self, train_state: TrainState, obs: PyTree, key: jax.Array | None = None, memory: PyTree = None) -> PyTree:
        """The environment's action for one observation: the mode of the policy, or with a key a sample.

        With leading axes [N] of `obs` (and `memory`), N actions, each drawn on its own.

        Args:
            train_state: The state of one seed; vmap over more.
            obs: As the environment gives it.
            key: One typed key to sample with; None takes the mode.
            memory: Of a recurrent policy, as the last call returned it; None at the start of an episode.

        Returns:
            The action; of a recurrent policy (action, memory).

        Raises:
            PPOError: If `train_state`, `obs`, `key` or `memory` has the wrong type or shape.
        """
        lead = checks.check_act(self.env, train_state, obs, key)
        if memory is None:
            memory = start_memories(self.start_memory, lead)
        else:
            checks.check_memory("memory", memory, jax.eval_shape(lambda: start_memories(self.start_memory, lead)))
        distribution, memory = self.policy(train_state, memory, obs)
        action = distribution.mode() if key is None else distribution.sample(self.actions.noise(key, lead))
        action = self.actions.to_env(action)
        return (action, memory) if isinstance(self.network, RecurrentNetwork) else action

    @property
    def start_memory(self) -> PyTree:
        """The memory of one environment at the start of an episode; () for a feed-forward policy."""
        return self.network.start()

    def policy(self, train_state: TrainState, memory: PyTree, obs: PyTree) -> tuple[Distribution, PyTree]:
        """The policy at raw observations [..., *obs_shape], and the memory after them."""
        memory, parameters = self.step(train_state, obs, memory)[:2]
        return self.actions.distribution(parameters), memory

    def distribution(self, train_state: TrainState, obs: PyTree, memory: PyTree = ()) -> Distribution:
        """The policy at raw observations [..., *obs_shape]; `actions.to_env` makes its actions the environment's."""
        return self.policy(train_state, memory, obs)[0]

    def value(self, train_state: TrainState, obs: PyTree, memory: PyTree = ()) -> jax.Array:
        """The critic at raw observations [..., *obs_shape]. -> [...]"""
        return self.step(train_state, obs, memory)[2]

    def step(self, train_state: TrainState, obs: PyTree, memory: PyTree = ()) -> tuple[Any, ...]:
        """The network at raw observations. -> memory, distribution parameters and value, [...] each"""
        return self.network.step(train_state.params, memory, self.seen(train_state, obs))

    def seen(self, train_state: TrainState, obs: PyTree) -> PyTree:
        """Raw observations [..., *obs_shape], also of integers such as pixels, as the network sees them."""
        floats = jax.tree.map(lambda x: x if x.dtype == jnp.bool_ else jnp.asarray(x, jnp.float32), obs)
        return normalize_obs(train_state.obs_moments, floats)

    def forward(self, params: PyTree, obs: PyTree) -> tuple[Any, ...]:
        """The network at the observations of a minibatch: samples [M, ...], or `Sequences` of a recurrent policy.

        -> (distribution parameters, value), and auxiliary outputs if the network has any: [M, ...], or [M, L, ...]
        """
        if isinstance(self.network, RecurrentNetwork):
            return along_sequences(self.network, params, obs)
        return self.network.apply(params, obs)


def init(agent: PPO, key: jax.Array) -> RunnerState:
    """The state before the first update."""
    config = agent.config
    params_key, reset_key = jax.random.split(jax.random.fold_in(key, NOT_SPLIT))
    obs, env_state = reset_batch(agent.env, reset_key, config.num_envs)
    params = agent.network.params(params_key, jax.tree.map(lambda x: x[0], obs))
    return RunnerState(
        train_state=TrainState(
            params=params,
            opt_state=agent.optimizer.init(params),
            obs_moments=init_obs_moments(obs) if config.normalize_obs else None,
            reward_moments=init_moments(()) if config.normalize_reward else None,
            update=jnp.int32(0),
            diverged_at=jnp.int32(-1),
            learning_rate=agent.rate_rule.init(),
        ),
        env_state=env_state,
        obs=obs,
        episode=empty_episodes(config.num_envs),
        key=key,
        memory=start_memories(agent.start_memory, (config.num_envs,)),
    )


def update(agent: PPO, runner: RunnerState) -> tuple[RunnerState, Metrics]:
    """Algorithm 1 of Schulman et al. (2017): act for T steps, estimate advantages, and learn from them in epochs."""
    _, noise_key, _ = update_keys(runner)
    noise = agent.collective.own_envs(draw_noise(agent, noise_key))
    return learn_from(agent, runner, *play(agent, runner, noise))


def update_keys(runner: RunnerState) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The keys of the next update, of its rollout and of its shuffle: functions of (key, update index)."""
    key = jax.random.fold_in(runner.key, runner.train_state.update)
    rollout_key, shuffle_key = jax.random.split(key)
    return key, rollout_key, shuffle_key


def learn_from(
    agent: PPO,
    runner: RunnerState,
    acted: RunnerState,
    transitions: Transition,
    parameters: PyTree,
    episodes: EpisodeStats,
) -> tuple[RunnerState, Metrics]:
    """The advantages of a rollout, and the epochs of learning from it. runner, acted: before it and after it"""
    state, (key, _, shuffle_key) = runner.train_state, update_keys(runner)
    acted, collected = collect(agent, acted, transitions, parameters, episodes, key)
    rate = agent.rate_rule.rate(state)
    (packed, opt_state), terms = learn(agent, rate, state, collected.batch, shuffle_key)

    state = acted.train_state
    state = state.replace(
        params=unpack(packed),
        opt_state=opt_state,
        obs_moments=update_obs_moments(state.obs_moments, collected.obs),
        update=state.update + 1,
        learning_rate=agent.rate_rule.adapt(state, terms),
    )
    runner = keep_finite(runner, acted.replace(train_state=state))
    return runner, make_metrics(agent, runner.train_state, collected, terms, rate)


def collect(
    agent: PPO, acted: RunnerState, transitions: Transition, parameters: PyTree, episodes: EpisodeStats, key: jax.Array
) -> tuple[RunnerState, Collected]:
    """The rollouts of all devices with their advantages, as samples. The arguments are those of `assess`."""
    acted, steps, numbers = assess(agent, acted, transitions, parameters, key)
    obs = transitions.obs.obs if agent.config.normalize_obs else None
    collected = agent.collective.gather(Collected(to_batch(agent, steps, transitions), numbers, episodes, obs))
    scaled = advantage_over("batch", agent.config, collected.batch.advantage)
    return acted, collected._replace(batch=collected.batch.replace(advantage=scaled))


def draw_noise(agent: PPO, key: jax.Array) -> RolloutNoise:
    """Draws all that is random in a rollout of T steps of B environments."""
    shape = (agent.config.num_steps, agent.config.num_envs)
    return make_noise(with_memory(agent.env, agent.network), agent.actions.noise, key, shape)


def play(agent: PPO, runner: RunnerState, noise: RolloutNoise) -> tuple[RunnerState, Transition, PyTree, EpisodeStats]:
    """T steps of every environment under the policy: `rollout`, with the policy's memory.

    -> (runner, transitions [T, B, ...] whose observations are `ObsAndMemory`, distribution parameters, episodes)
    """
    env = with_memory(through(agent.actions.to_env, agent.env), agent.network)
    policy = functools.partial(sample_action, agent, runner.train_state)
    acted, transitions, parameters, episodes = rollout(env, policy, showing_memory(runner), noise)
    return hiding_memory(acted), transitions.replace(action=transitions.action.action), parameters, episodes


def sample_action(agent: PPO, state: TrainState, obs: ObsAndMemory, noise: PyTree) -> tuple[ActionAndMemory, PyTree]:
    """The behaviour policy: action and memory for each environment, and its distribution's parameters."""
    memory, parameters = agent.step(state, obs.obs, obs.memory)[:2]
    return ActionAndMemory(agent.actions.distribution(parameters).sample(noise), memory), parameters


def assess(
    agent: PPO, acted: RunnerState, transitions: Transition, parameters: PyTree, key: jax.Array
) -> tuple[RunnerState, Batch, Terms]:
    """Rewards, values, advantages and targets of a rollout, computed for all its steps at once.

    acted: the runner after the rollout; transitions, parameters: [T, B, ...]; key: that of the update.
    -> (the runner with its statistics of rewards, batch [T, B, ...], numbers to report)
    """
    state = acted.train_state
    own_key = agent.collective.own_key
    reward_key, advantage_key = (own_key(jax.random.fold_in(key, i)) for i in (2, 3))  # split has used up 0 and 1
    steps, told = make_steps(agent, state, transitions, parameters), Terms()
    if agent.reward is not None:
        paid = called("reward", agent.reward, state.params, steps, make_context(agent, state, reward_key))
        reward, told, arrays = checks.settled_reward(steps, paid)
        steps = steps.replace(reward=reward, info=steps.info | arrays)
    acted, reward = agent.collective.scale_reward(acted, steps, agent.config.gamma)
    steps = steps.replace(reward=reward)
    estimated = called("advantage", agent.advantage, steps, make_context(agent, state, advantage_key))
    advantage, target, more, arrays = checks.settled_advantage(steps, estimated)
    steps = steps.replace(info=steps.info | arrays)
    same = ("obs", "action", "log_prob", "value", "next_obs", "reward", "terminated", "truncated", "info")
    batch = Batch(advantage=advantage, target=target, **{name: getattr(steps, name) for name in same})
    return acted, batch, checks.merged(told, more)


def make_steps(agent: PPO, state: TrainState, transitions: Transition, parameters: PyTree) -> Steps:
    """A rollout with the values and log-probabilities of the agent that acted. [T, B, ...]"""
    value = values(agent.network, state, transitions.obs)
    return Steps(
        obs=agent.seen(state, transitions.obs.obs),
        action=transitions.action,
        parameters=parameters,
        log_prob=agent.actions.distribution(parameters).log_prob(transitions.action),
        reward=transitions.reward,
        value=value,
        next_obs=agent.seen(state, transitions.next_obs.obs),
        next_value=next_values(agent.network, state, transitions, value),
        terminated=transitions.terminated,
        truncated=transitions.truncated,
        info=transitions.info,
        raw_obs=transitions.obs.obs,
        raw_next_obs=transitions.next_obs.obs,
    )


def to_batch(agent: PPO, steps: Batch, transitions: Transition) -> Batch:
    """The steps of a rollout [T, B, ...] as N samples, or as N sequences of a recurrent policy."""
    if isinstance(agent.network, RecurrentNetwork):
        return to_sequences(steps, transitions, agent.config.steps_of_a_sequence)
    return to_samples(steps)


def learn(agent: PPO, rate: jax.Array, state: TrainState, batch: Batch, key: jax.Array) -> tuple[Learned, Terms]:
    """The epochs of one update. batch: N samples, or N sequences. -> (learned, mean loss terms)"""
    config = agent.config
    loss = functools.partial(minibatch_loss, agent, state)
    step = functools.partial(agent.collective.descend, loss, agent.optimizer, rate)
    learned = (pack(state.params, SMALL_PARAMETERS), state.opt_state)
    if agent.minibatches is None:
        indices = shuffled_indices(key, config.update_epochs, config.num_minibatches, len(batch.value))
    else:
        chosen = called("minibatches", agent.minibatches, key, batch)
        indices, in_range = checks.settled_indices(config, chosen, len(batch.value))
        batch = nan_unless(in_range, batch)
    epoch = functools.partial(update_epoch, step, batch, take=agent.collective.take)
    order = Order(indices, jax.random.split(jax.random.fold_in(key, NOT_SPLIT), indices.shape[:2]))
    if config.target_kl is None:
        return update_epochs(epoch, learned, order)
    is_within = functools.partial(kl_is_within, target_kl=config.target_kl, estimator=config.kl_estimator)
    if config.kl_stop == "epoch":
        return epochs_within_kl(epoch, is_within, learned, order)
    return minibatches_within_kl(step, is_within, learned, batch, order, agent.collective.take)


def minibatch_loss(
    agent: PPO, state: TrainState, params: PyTree, minibatch: Batch, key: jax.Array
) -> tuple[jax.Array, Terms]:
    """The loss of parameters on a minibatch, in an update that begins from `state`. -> ([], its terms)"""
    context = make_context(agent, state, key)
    return checks.settled_loss(agent.config, called("loss", agent.loss, params, minibatch, context))


def make_context(agent: PPO, state: TrainState, key: jax.Array) -> LossContext:
    """The context of a loss, a reward or an advantage, in an update that begins from `state`."""
    config, schedules = agent.config, agent.schedules
    return LossContext(
        config=agent.collective.seen_config(config),
        apply=agent.forward,
        distribution=agent.actions.distribution,
        params=state.params,
        modules=agent.modules,
        key=key,
        update=state.update,
        clip_eps=config.clip_eps * schedules.clip_eps(state.update),
        vf_coef=config.vf_coef,
        ent_coef=config.ent_coef * schedules.ent_coef(state.update),
    )


def make_metrics(agent: PPO, state: TrainState, collected: Collected, terms: Terms, rate: jax.Array) -> Metrics:
    """The report of one update; `state` is that after it."""
    episodes, numbers, nothing = collected.episodes, checks.merged(terms, collected.numbers), jnp.full((), jnp.nan)
    extra = {name: x for name, x in numbers.items() if name not in (*LOSS_TERMS, "mean_log_ratio")}
    return Metrics(
        **episodes.means(),
        **{name: numbers.get(name, nothing) for name in LOSS_TERMS},
        explained_variance=explained_variance(collected.batch.value, collected.batch.target),
        learning_rate=rate if agent.reports_rate else jnp.full_like(rate, jnp.nan),
        updates=state.update,
        batch_size=agent.config.batch_size,
        extra=checks.merged(extra, episodes.info_means()),
    )
