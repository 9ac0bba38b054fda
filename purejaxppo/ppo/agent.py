"""PPO, composed of rollout, gae, losses and update: `init` and `update` of one run, and `make_train` of a whole one."""

import abc
import dataclasses
import functools
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.core import Tracer

from purejaxppo.envs.base import Environment, through, traced
from purejaxppo.envs.spaces import shapes_of
from purejaxppo.envs.vector import reset_batch
from purejaxppo.policies.actions import Actions, make_actions, masked, unchanged
from purejaxppo.policies.distributions import Distribution
from purejaxppo.policies.networks import (
    ActorCritic,
    Network,
    NetworkLike,
    SharedActorCritic,
    apply_own,
    as_network,
    init_beside,
    is_image,
    make_actor_critic,
    make_cnn_actor_critic,
)
from purejaxppo.ppo.checks import (
    called,
    check_act,
    check_optimizer_steps,
    check_outputs,
    check_params,
    check_parts,
    check_runner,
    check_start,
    in_own_state,
    merged,
    settled_advantage,
    settled_indices,
    settled_loss,
    settled_reward,
)
from purejaxppo.ppo.config import PPOConfig
from purejaxppo.ppo.gae import Advantage, gae_advantage
from purejaxppo.ppo.losses import Loss, LossContext, explained_variance, normalized_advantage, ppo_loss
from purejaxppo.ppo.normalize import init_moments, init_obs_moments, normalize_obs, scale_reward, update_obs_moments
from purejaxppo.ppo.optimizer import make_optimizer
from purejaxppo.ppo.rollout import empty_episodes, make_noise, rollout
from purejaxppo.ppo.schedules import RateRule, Schedule, Schedules, make_rate_rule, make_schedules
from purejaxppo.ppo.shuffle import shuffled_indices
from purejaxppo.ppo.types import LOSS_TERMS, Batch, EpisodeStats, Metrics, RunnerState, Steps, TrainState, Transition
from purejaxppo.ppo.update import (
    Learned,
    Order,
    epochs_within_kl,
    keep_finite,
    kl_is_within,
    minibatches_within_kl,
    own_buffers,
    update_epoch,
    update_epochs,
    update_minibatch,
)
from purejaxppo.utils.errors import PPOError
from purejaxppo.utils.tree import PyTree, Terms
from purejaxppo.utils.validation import MAX_COUNT, check_function, check_key, check_seed, check_size, shown

# (params, steps, context) -> reward [T, B], or (reward, {name: number})
Reward = Callable[[PyTree, Steps, LossContext], Any]
# (key, batch) -> indices [epochs, minibatches, M] of its samples
Minibatches = Callable[[jax.Array, Batch], jax.Array]

TOWERS = {False: ActorCritic, True: SharedActorCritic}  # by share_trunk
CACHED_ROWS = 512  # observations that the critic looks at together
NO_EPOCH = 2**32 - 1  # folded into the key of the shuffle, which has another key for each epoch
DEFAULTS = {"loss": ppo_loss, "reward": None, "advantage": gae_advantage, "minibatches": None}
CALLED_LIKE = {
    "loss": "give (params, minibatch, context) -> (loss, {name: number}), such as pjp.ppo_loss",
    "reward": "give (params, steps, context) -> reward [T, B]",
    "advantage": "give (steps, context) -> advantage [T, B], such as pjp.gae_advantage",
    "minibatches": "give (key, batch) -> indices [epochs, minibatches, M]",
}


@dataclasses.dataclass(frozen=True)
class Learner(abc.ABC):
    """What learning from a rollout asks of an agent: `PPO`, and `RecurrentPPO`."""

    env: Environment
    actions: Actions
    config: PPOConfig
    optimizer: optax.GradientTransformationExtraArgs
    loss: Loss
    reward: Reward | None  # None: the environment's
    advantage: Advantage
    minibatches: Minibatches | None  # None: shuffled
    modules: Mapping[str, Callable[..., Any]]  # (params, ...) -> output, by name
    schedules: Schedules
    rate_rule: RateRule
    reports_rate: bool  # whether the optimizer follows config.learning_rate

    @abc.abstractmethod
    def init(self, key: jax.Array) -> RunnerState:
        """The state before the first update, a function of the key."""

    def continue_from(self, train_state: TrainState, key: jax.Array) -> RunnerState:
        """The state before the first update of a new run that goes on from trained parameters.

        The parameters and the statistics of the observations come from `train_state`, and those of the reward where
        both runs normalise it. The environments, the optimizer's state, the schedules and the count of updates begin
        anew, so that this agent may have other `num_envs`, and other hyperparameters, than the one that trained them.

        Args:
            train_state: that of one seed of an agent with the same network; vmap over more.
            key: one typed key, from which the new run draws all its randomness.

        Raises PPOError for a train state of another network, and for a raw or batched key.
        """
        return restarted(self.init(key), train_state, self.optimizer.init)

    @abc.abstractmethod
    def update(self, runner: RunnerState) -> tuple[RunnerState, Metrics]:
        """One rollout and the learning from it."""

    @abc.abstractmethod
    def seen(self, train_state: TrainState, obs: PyTree) -> PyTree:
        """The observations [..., *obs_shape] of a rollout as the network sees them."""

    @abc.abstractmethod
    def value(self, train_state: TrainState, obs: PyTree) -> jax.Array:
        """The critic at raw observations [..., *obs_shape]. -> [...]"""

    @abc.abstractmethod
    def forward(self, params: PyTree, obs: PyTree) -> tuple[Any, ...]:
        """The network at the observations of a minibatch.

        -> (distribution parameters [M, ...], value [M, ...]), and whatever else the network returns
        """


@dataclasses.dataclass(frozen=True)
class PPO(Learner):
    """An agent: the pure functions `init`, `update` and `act`, and what they are made of."""

    network: Network

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

    def act(self, train_state: TrainState, obs: PyTree, key: jax.Array | None = None) -> PyTree:
        """The environment's action for one observation: the mode of the policy, or with a key a sample.

        With leading axes [N] of `obs`, N actions, each drawn on its own.

        Raises PPOError if `train_state`, `obs` or `key` has the wrong type or shape.
        """
        lead = check_act(self.env, train_state, obs, key)
        distribution = in_own_state(self.distribution, train_state, obs)
        action = distribution.mode() if key is None else distribution.sample(self.actions.noise(key, lead))
        return self.actions.to_env(action)

    def distribution(self, train_state: TrainState, obs: PyTree) -> Distribution:
        """The policy at raw observations [..., *obs_shape]; `actions.to_env` makes its actions the environment's."""
        return self.actions.distribution(self.parameters(train_state, obs))

    @property
    def start_memory(self) -> PyTree:
        """None: what it does depends on what it sees."""
        return ()

    def policy(self, train_state: TrainState, memory: PyTree, obs: PyTree) -> tuple[Distribution, PyTree]:
        """The policy at raw observations, and the memory as it was."""
        return self.distribution(train_state, obs), memory

    def parameters(self, train_state: TrainState, obs: PyTree) -> PyTree:
        """Those of the policy's distribution at raw observations [..., *obs_shape]."""
        return self.network.apply(train_state.params, self.seen(train_state, obs))[0]

    def seen(self, train_state: TrainState, obs: PyTree) -> PyTree:
        """What the network sees of raw observations [..., *obs_shape]."""
        return normalize_obs(train_state.obs_moments, obs)

    def value(self, train_state: TrainState, obs: PyTree) -> jax.Array:
        """The critic at raw observations [..., *obs_shape]. -> [...]"""
        return self.network.apply(train_state.params, self.seen(train_state, obs))[1]

    def forward(self, params: PyTree, obs: PyTree) -> tuple[Any, ...]:
        """The network at M observations as it sees them.

        -> (distribution parameters [M, ...], value [M]), and whatever else the network returns
        """
        return self.network.apply(params, obs)


def make_ppo(
    env: Environment,
    config: PPOConfig,
    *,
    network: NetworkLike | None = None,
    modules: Mapping[str, Any] | None = None,
    optimizer: optax.GradientTransformation | None = None,
    loss: Loss = ppo_loss,
    reward: Reward | None = None,
    advantage: Advantage = gae_advantage,
    minibatches: Minibatches | None = None,
    schedules: Mapping[str, Schedule] | None = None,
) -> PPO:
    """The agent for an environment.

    network: any pair `init(key, obs) -> params`, `apply(params, obs) -> (parameters, value)`; a flax.linen module is
        one. The parameters are those of the action space's distribution: logits [..., n] (of a MultiDiscrete side by
        side), or for a Box of d numbers the pair (mean, log_std), [..., d] each; of a pytree of spaces a pytree of
        these. `apply` may return a third value, any pytree of auxiliary outputs, which a loss finds in what
        `context.apply` returns. `hidden_sizes`, `activation`, `share_trunk` and `box_std` are of the default network
        alone.
    modules: learned parts beside the policy, such as {"model": (init, apply)}, with `init(key, obs) -> params` for one
        observation; a flax.linen module is such a pair. The parameters of a module are params[name], and those of the
        network then params["policy"]; the optimizer trains all of them. In a loss and a reward,
        `context.modules[name](params, ...)` calls `apply` with its own parameters.
    optimizer: any optax transformation, which then has its own learning rate, schedule and clipping:
        `learning_rate`, `anneal_lr`, `lr_schedule`, `adam_eps` and `max_grad_norm` must be left at their defaults.
    loss: (params, minibatch, context) -> (loss, {name: number}), such as `ppo_loss`, which your own can add to. The
        minibatch is a `Batch`, the context a `LossContext`. policy_loss, value_loss, entropy, approx_kl and
        clip_fraction fill the fields of `Metrics`; any other name arrives in `Metrics.extra`. The numbers are averaged
        over the minibatches that were applied.
    reward: (params, steps, context) -> reward [T, B], or (reward, {name: number}): what to learn from in place of
        `steps.reward`, before `normalize_reward`. The steps are `Steps`. Episode returns stay the environment's.
    advantage: (steps, context) -> advantage [T, B], or (advantage, target), or (advantage, target, {name: number}),
        such as `gae_advantage`. The target of the value is advantage + value unless you return one.
    minibatches: (key, batch) -> indices [epochs, minibatches, M] of the samples, or of the sequences, in the `Batch`.
    schedules: for "learning_rate", "clip_eps" and "ent_coef", a function of the update's index, from 0, to the factor
        on the config's number: an optax schedule, such as `optax.cosine_decay_schedule(1.0, config.num_updates)`.

    Raises PPOError for a config out of range, and for an environment or a part that does not fit.
    """
    check_parts(env, config, PPOConfig, optimizer, schedules)
    own = {"loss": loss, "reward": reward, "advantage": advantage, "minibatches": minibatches}
    check_own_functions(own)
    beside = as_modules(modules)
    actions = make_actions(env, config.box_policy, config.box_std)
    of_obs = _default_network(env, actions, config) if network is None else as_network("network", network)
    if beside:
        of_obs = Network(
            functools.partial(init_beside, of_obs.init, beside), functools.partial(apply_own, of_obs.apply, "policy")
        )
    params = _check_network(env, actions, of_obs)
    agent = PPO(
        network=of_obs if env.action_mask is None else masked(of_obs, actions),
        **learner_parts(env, actions, config, optimizer, schedules, beside),
        **own,
    )
    check_optimizer_steps(agent.optimizer, params)
    check_update(agent)
    return agent


def as_modules(modules: Mapping[str, Any] | None) -> dict[str, Network]:
    """The learned parts beside the policy, by name. Raises PPOError for one that has no init and apply."""
    if not isinstance(modules or {}, Mapping):
        raise PPOError(f'modules = {shown(modules)} is no dict; give one such as {{"model": (init, apply)}}')
    if "policy" in (modules or {}):
        raise PPOError("modules['policy'] has the name of the network's parameters; give it another name")
    return {name: as_network(f"modules[{name!r}]", module) for name, module in (modules or {}).items()}


def learner_parts(
    env: Environment,
    actions: Actions,
    config: PPOConfig,
    optimizer: optax.GradientTransformation | None,
    schedules: Mapping[str, Schedule] | None,
    modules: Mapping[str, Network],
) -> dict[str, Any]:
    """The fields of a `Learner` that its factory does not pass on as they are."""
    factors = make_schedules(config, schedules)
    return {
        "env": env,
        "actions": actions,
        "config": config,
        "optimizer": optax.with_extra_args_support(optimizer or make_optimizer(config)),
        "modules": {name: functools.partial(apply_own, module.apply, name) for name, module in modules.items()},
        "schedules": factors,
        "rate_rule": make_rate_rule(config, factors.learning_rate),
        "reports_rate": optimizer is None,
    }


def make_train(env: Environment, config: PPOConfig, **parts: Any) -> Callable[[jax.Array], tuple[RunnerState, Metrics]]:
    """A whole run as one function: key -> (RunnerState, Metrics [num_updates]). `jit` and `vmap` are the caller's.

    parts: keywords of `make_ppo`
    """
    agent = make_ppo(env, config, **parts)

    def train(key: jax.Array) -> tuple[RunnerState, Metrics]:
        return update_many(agent, agent.init(key), config.num_updates)

    return train


def update_many(agent: Learner, runner: RunnerState, num_updates: int) -> tuple[RunnerState, Metrics]:
    """`num_updates` updates in one scan. -> (runner, metrics [num_updates])

    Warns as `PPO.update` does, of the last of them.
    """
    check_size("num_updates", num_updates, most=MAX_COUNT)
    trained = jax.lax.scan(lambda runner, _: agent.update(runner), runner, length=num_updates)
    if isinstance(agent, Learner):
        state = runner.train_state
        warn_if_over(agent, state.replace(update=state.update + (num_updates - 1)))
    return trained


def seed_keys(seed: int, num_seeds: int) -> jax.Array:
    """Key i is fold_in(key(seed), i): more seeds leave the earlier ones as they are. -> [num_seeds] typed keys

    Raises PPOError for a seed that is not one from 0 to 2**32 - 1.
    """
    check_seed("seed", seed)
    check_size("num_seeds", num_seeds, most=MAX_COUNT)
    return jax.vmap(functools.partial(jax.random.fold_in, jax.random.key(seed)))(jnp.arange(num_seeds))


def init(agent: PPO, key: jax.Array) -> RunnerState:
    """The state before the first update."""
    params_key, reset_key = jax.random.split(jax.random.fold_in(key, 2**32 - 1))  # no update has this index
    obs, env_state = reset_batch(agent.env, reset_key, agent.config.num_envs)
    params = agent.network.init(params_key, jax.tree.map(lambda x: x[0], obs))
    return RunnerState(
        train_state=init_train_state(agent, params, obs),
        env_state=env_state,
        obs=obs,
        episode=empty_episodes(agent.config.num_envs),
        key=key,
    )


def restarted(fresh: RunnerState, train_state: TrainState, init_optimizer: Callable[[PyTree], PyTree]) -> RunnerState:
    """`fresh` with the parameters and the moments of a trained run. Raises PPOError where they do not fit."""
    check_start(train_state, fresh.train_state)
    params = train_state.params
    state = fresh.train_state.replace(
        params=params, opt_state=init_optimizer(params), obs_moments=train_state.obs_moments
    )
    if state.reward_moments is not None and train_state.reward_moments is not None:
        state = state.replace(reward_moments=train_state.reward_moments)
    return own_buffers(fresh.replace(train_state=state))


def warn_if_over(agent: Learner, state: TrainState) -> None:
    """Warns if the next update has a learning rate of 0 because its schedule has ended. A traced state passes."""
    if not agent.reports_rate or isinstance(state.update, Tracer) or int(state.update) < agent.config.num_updates:
        return
    rate, whole_rate = agent.rate_rule.rate(state), agent.config.learning_rate
    if isinstance(rate, Tracer) or float(rate) != 0.0 or float(whole_rate) == 0.0:
        return
    warnings.warn(
        f"the learning rate is 0 from update {agent.config.num_updates} on, where its schedule ends: update "
        f"{int(state.update)} learns nothing; give a larger total_timesteps, or begin a new run with "
        "agent.continue_from(train_state, key)",
        stacklevel=3,
    )


def init_train_state(agent: Learner, params: PyTree, obs: PyTree) -> TrainState:
    """These parameters before the first update. obs: [B, ...], raw"""
    return TrainState(
        params=params,
        opt_state=agent.optimizer.init(params),
        obs_moments=init_obs_moments(obs) if agent.config.normalize_obs else None,
        reward_moments=init_moments(()) if agent.config.normalize_reward else None,
        update=jnp.int32(0),
        diverged_at=jnp.int32(-1),
        learning_rate=agent.rate_rule.init(),
    )


def update(agent: PPO, runner: RunnerState) -> tuple[RunnerState, Metrics]:
    """Algorithm 1 of Schulman et al. (2017): act for T steps, estimate advantages, and learn from them in epochs."""
    config, state = agent.config, runner.train_state
    update_key = jax.random.fold_in(runner.key, state.update)
    noise_key, shuffle_key = jax.random.split(update_key)

    noise = make_noise(agent.env, agent.actions.noise, noise_key, (config.num_steps, config.num_envs))
    policy = functools.partial(sample_action, agent, state)
    acted, transitions, parameters, episodes = rollout(through(agent.actions.to_env, agent.env), policy, runner, noise)

    acted, steps, told = assess(agent, acted, transitions, parameters, update_key)
    batch = flattened(steps)
    rate = agent.rate_rule.rate(state)
    learned, terms = learn(agent, rate, state, batch, shuffle_key)

    state = learned_state(agent, acted.train_state, learned, terms, transitions.obs)
    runner = keep_finite(runner, acted.replace(train_state=state))
    return runner, make_metrics(agent, runner.train_state, episodes, merged(terms, told), batch, rate)


def sample_action(agent: PPO, state: TrainState, obs: PyTree, noise: PyTree) -> tuple[PyTree, PyTree]:
    """The behaviour policy: its action for each environment, and the distribution's parameters it was drawn from."""
    parameters = agent.parameters(state, obs)
    return agent.actions.distribution(parameters).sample(noise), parameters


def flattened(steps: Batch) -> Batch:
    """The steps of a rollout as N = T * B samples. [T, B, ...] -> [N, ...]"""
    return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), steps)


def assess(
    agent: Learner,
    acted: RunnerState,
    transitions: Transition,
    parameters: PyTree,
    key: jax.Array,
    scale: Callable[..., tuple[RunnerState, jax.Array]] = scale_reward,
) -> tuple[RunnerState, Batch, Terms]:
    """Rewards, values, advantages and targets of a rollout, computed for all its steps at once.

    acted: the runner after it; transitions, parameters of the distributions that acted: [T, B, ...]; key: of the
    update. -> (the runner with its statistics of rewards, batch [T, B, ...], numbers to report)
    """
    state = acted.train_state
    reward_key, advantage_key = (jax.random.fold_in(key, i) for i in (2, 3))  # split gives those of 0 and 1
    steps = make_steps(agent, state, transitions, parameters)
    told: Terms = {}
    if agent.reward is not None:
        paid = called("reward", agent.reward, state.params, steps, make_context(agent, state, reward_key))
        reward, told = settled_reward(steps, paid)
        steps = steps.replace(reward=reward)
    acted, reward = scale(acted, steps, agent.config.gamma)
    steps = steps.replace(reward=reward)
    estimated = called("advantage", agent.advantage, steps, make_context(agent, state, advantage_key))
    advantage, target, more = settled_advantage(steps, estimated)
    batch = Batch(
        obs=steps.obs,
        action=steps.action,
        log_prob=steps.log_prob,
        value=steps.value,
        advantage=advantage_scale(agent.config, "batch")(advantage),
        target=target,
        next_obs=steps.next_obs,
        reward=steps.reward,
        terminated=steps.terminated,
        truncated=steps.truncated,
        info=steps.info,
    )
    return acted, batch, merged(told, more)


def make_steps(agent: Learner, state: TrainState, transitions: Transition, parameters: PyTree) -> Steps:
    """A rollout with the values and log-probabilities of the agent that acted. [T, B, ...]"""
    return Steps(
        obs=agent.seen(state, transitions.obs),
        action=transitions.action,
        parameters=parameters,
        log_prob=agent.actions.distribution(parameters).log_prob(transitions.action),
        reward=transitions.reward,
        value=values(agent, state, transitions.obs),
        next_obs=agent.seen(state, transitions.next_obs),
        next_value=values(agent, state, transitions.next_obs),
        terminated=transitions.terminated,
        truncated=transitions.truncated,
        info=transitions.info,
    )


def advantage_scale(config: PPOConfig, over: str) -> Callable[[jax.Array], jax.Array]:
    """What the advantages of each "minibatch", or of the whole "batch", go through: [M] -> [M]"""
    chosen = config.normalize_advantage and config.normalize_advantage_over == over
    return normalized_advantage if chosen else unchanged


def values(agent: Learner, state: TrainState, obs: PyTree) -> jax.Array:
    """The critic at the steps of a rollout, some at a time: what lies between its layers stays in the cache.

    obs: [T, B, ...]. -> [T, B]
    """
    steps = max(1, CACHED_ROWS // agent.config.num_envs)
    return jax.lax.map(functools.partial(agent.value, state), obs, batch_size=steps)


def learn(
    agent: Learner,
    rate: jax.Array,
    state: TrainState,
    batch: Batch,
    key: jax.Array,
    descend: Callable[..., tuple[Learned, Terms]] = update_minibatch,
) -> tuple[Learned, Terms]:
    """The epochs of one update, each gradient step by `descend`. batch: N samples, or N sequences.

    -> ((params, optimizer state), mean loss terms)
    """
    config = agent.config
    loss = functools.partial(minibatch_loss, agent, state)
    step = functools.partial(descend, loss, agent.optimizer, rate)
    epoch = functools.partial(update_epoch, step, batch)
    learned = (state.params, state.opt_state)
    if agent.minibatches is None:
        indices = shuffled_indices(key, config.update_epochs, config.num_minibatches, len(batch.value))
    else:
        indices = settled_indices(called("minibatches", agent.minibatches, key, batch))
    order = Order(indices, jax.random.split(jax.random.fold_in(key, NO_EPOCH), indices.shape[:2]))
    if config.target_kl is None:
        return update_epochs(epoch, learned, order)
    is_within = functools.partial(kl_is_within, target_kl=config.target_kl, estimator=config.kl_estimator)
    if config.kl_stop == "epoch":
        return epochs_within_kl(epoch, is_within, learned, order)
    return minibatches_within_kl(step, is_within, learned, batch, order)


def minibatch_loss(
    agent: Learner, state: TrainState, params: PyTree, minibatch: Batch, key: jax.Array
) -> tuple[jax.Array, Terms]:
    """The loss of parameters on a minibatch, in an update that begins from `state`. -> ([], its terms)"""
    context = make_context(agent, state, key)
    return settled_loss(agent.config, called("loss", agent.loss, params, minibatch, context))


def make_context(agent: Learner, state: TrainState, key: jax.Array) -> LossContext:
    """The context of a loss, a reward or an advantage, in an update that begins from `state`."""
    config, schedules = agent.config, agent.schedules
    return LossContext(
        config=config,
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


def learned_state(agent: Learner, state: TrainState, learned: Learned, terms: Terms, obs: PyTree) -> TrainState:
    """The state after an update. obs: [T, B, ...], raw, what its rollout has seen"""
    params, opt_state = learned
    return state.replace(
        params=params,
        opt_state=opt_state,
        obs_moments=update_obs_moments(state.obs_moments, obs),
        update=state.update + 1,
        learning_rate=agent.rate_rule.adapt(state, terms),
    )


def make_metrics(
    agent: Learner, state: TrainState, episodes: EpisodeStats, terms: Terms, batch: Batch, rate: jax.Array
) -> Metrics:
    """The report of one update; `state` is that after it."""
    none, count, nothing = episodes.count == 0, episodes.count.astype(jnp.float32), jnp.full((), jnp.nan)
    return Metrics(
        episode_return_mean=episodes.return_sum / count,
        episode_return_min=jnp.where(none, jnp.nan, episodes.return_min),
        episode_return_max=jnp.where(none, jnp.nan, episodes.return_max),
        episode_length_mean=episodes.length_sum / count,
        episodes=episodes.count,
        **{name: terms.get(name, nothing) for name in LOSS_TERMS},
        explained_variance=explained_variance(batch.value, batch.target),
        learning_rate=rate if agent.reports_rate else jnp.full_like(rate, jnp.nan),
        updates=state.update,
        batch_size=agent.config.batch_size,
        extra={name: x for name, x in terms.items() if name not in (*LOSS_TERMS, "mean_log_ratio")}
        | {f"episode/{name}": x / count for name, x in episodes.info_sum.items()},
    )


def _default_network(env: Environment, actions: Actions, config: PPOConfig) -> Network:
    """Convolutional towers for an image, MLP towers for everything else."""
    obs_shape = shapes_of(env.observation_space)
    parts = (config.hidden_sizes, config.activation, actions.head, TOWERS[config.share_trunk])
    if is_image(obs_shape):
        return make_cnn_actor_critic(actions.num_outputs, *parts)
    return make_actor_critic(actions.num_outputs, obs_shape, *parts)


def plain_obs(env: Environment) -> PyTree:
    """The shapes of one observation, without its mask."""
    obs, _ = jax.eval_shape(env.reset, jax.eval_shape(lambda: jax.random.key(0)), env.params)
    return obs if env.action_mask is None else obs.obs


def _check_network(env: Environment, actions: Actions, network: Network) -> PyTree:
    """Raises PPOError unless the network gives distribution parameters [..., n] and values [...].

    -> its parameters' shapes
    """
    obs = plain_obs(env)
    params = traced("network.init", network.init, jax.eval_shape(lambda: jax.random.key(0)), obs)
    check_params(params)
    for lead in ((), (2,), (2, 3)):
        batched = jax.tree.map(lambda x, lead=lead: jax.ShapeDtypeStruct(lead + x.shape, x.dtype), obs)
        outputs = traced("network.apply", network.apply, params, batched)
        check_outputs("network.apply", actions, batched, lead, outputs)
    return params


def check_own_functions(own: Mapping[str, Any]) -> None:
    """Raises PPOError for a part of the caller's own that is no function."""
    for name, function in own.items():
        if function is not None:
            check_function(name, function, CALLED_LIKE[name])


def check_update(agent: Learner) -> None:
    """Raises PPOError where a function of the caller's own does not fit. Traces one update, and runs nothing."""
    if any(getattr(agent, name) is not default for name, default in DEFAULTS.items()):
        traced("update", lambda key: agent.update(agent.init(key)), jax.eval_shape(lambda: jax.random.key(0)))
