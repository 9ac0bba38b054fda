"""The PPO of the Keras example and OpenAI Spinning Up: two optimizers and full-batch iterations.

Composed of the same pieces as `ppo`: one optimizer for each tower, policy iterations that the KL divergence stops, and
a value that is regressed on the discounted reward-to-go.
"""

import dataclasses
import functools
from typing import Any, ClassVar, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from purejaxppo.envs.base import Environment
from purejaxppo.envs.spaces import Box, Discrete
from purejaxppo.envs.vector import reset_batch
from purejaxppo.policies.actions import Actions, discrete_actions
from purejaxppo.policies.distributions import Categorical
from purejaxppo.policies.networks import MLP
from purejaxppo.ppo.checks import check_act, check_config, check_env, check_runner, of_own_state
from purejaxppo.ppo.config import Config, check_fields, check_total, static
from purejaxppo.ppo.continuing import restarted
from purejaxppo.ppo.gae import gae, reward_to_go
from purejaxppo.ppo.losses import approx_kl, are_equal, clip_fraction, explained_variance, policy_loss
from purejaxppo.ppo.memory import to_samples
from purejaxppo.ppo.optimizer import adam_step
from purejaxppo.ppo.rollout import empty_episodes, end_episodes, make_noise, rollout
from purejaxppo.ppo.types import Batch, EpisodeStats, Metrics, RunnerState, TrainState, Transition
from purejaxppo.ppo.update import keep_finite, own_buffers
from purejaxppo.utils.errors import PPOError
from purejaxppo.utils.remade import Remade
from purejaxppo.utils.sums import precise_sum
from purejaxppo.utils.tree import NOT_SPLIT, PyTree
from purejaxppo.utils.validation import check_float32, check_key


@dataclasses.dataclass(frozen=True)
class FullBatchConfig(Config):
    """Hyperparameters of the full-batch PPO. The defaults are those of the Keras example."""

    num_envs: int = static(1)  # B
    num_steps: int = static(4_000)  # T; an update is an "epoch" of the example
    total_timesteps: int = static(120_000)  # environment steps of the whole run: 30 epochs
    policy_iterations: int = static(80)  # at most, of each update
    value_iterations: int = static(80)  # of each update
    policy_learning_rate: float = 3e-4
    value_learning_rate: float = 1e-3
    adam_eps: float = 1e-7
    gamma: float = 0.99  # discount per step
    gae_lambda: float = 0.97
    clip_eps: float = 0.2  # the ratio stays within 1 +- clip_eps
    target_kl: float = 0.01  # nats; the policy's iterations end beyond 1.5 times this
    bootstrap_time_limits: bool = static(False)  # False: a time limit is worth 0, as in the example
    activation: str = static("tanh")
    hidden_sizes: tuple[int, ...] = static((64, 64))  # of each tower

    def __post_init__(self) -> None:
        check_fields(self, FullBatchConfig)
        check_total(self)
        if self.batch_size == 1:
            raise PPOError(
                "num_envs * num_steps = 1 makes every advantage 0, for they are normalised over the batch; "
                "take at least 2 samples"
            )


class FullBatchMetrics(Metrics, kw_only=True):
    """Metrics with the numbers that the Keras example prints. The losses are those of the last iteration."""

    curve: ClassVar[tuple[str, str]] = ("epoch", "epoch_return_mean")
    value_loss_factor: ClassVar[float] = 1.0

    epoch_return_mean: jax.Array  # [], over the update's episodes, those cut by its end included
    epoch_length_mean: jax.Array  # [], steps
    policy_iterations: jax.Array  # [] int32, applied
    kl: jax.Array  # [], nats; mean log-ratio after the last iteration: the stopping rule's, which can be negative


class PolicyFit(NamedTuple):
    """The policy during or after its iterations."""

    params: PyTree
    opt_state: PyTree
    iterations: jax.Array  # [] int32, applied
    kl: jax.Array  # [], nats, of `params`
    near: jax.Array  # [] bool, whether the KL is within its bound


@dataclasses.dataclass(frozen=True, repr=False)
class FullBatchPPO(Remade):
    """An agent like `PPO`; its params and optimizer state are dicts of "actor" and "critic"."""

    env: Environment
    actions: Actions
    config: FullBatchConfig
    actor: nn.Module  # obs -> logits
    critic: nn.Module  # obs -> [..., 1]
    actor_optimizer: optax.GradientTransformation
    critic_optimizer: optax.GradientTransformation

    def __repr__(self) -> str:
        return f"FullBatchPPO({self.env.name}, {type(self.config).__name__}, {self.config.num_updates} updates)"

    def init(self, key: jax.Array) -> RunnerState:
        """The state before the first update. Raises PPOError for a raw or batched key."""
        check_key(key)
        actor_key, critic_key, reset_key = jax.random.split(jax.random.fold_in(key, NOT_SPLIT), 3)
        obs, env_state = reset_batch(self.env, reset_key, self.config.num_envs)
        params = {"actor": self.actor.init(actor_key, obs), "critic": self.critic.init(critic_key, obs)}
        state = TrainState(
            params=params,
            opt_state=self.init_optimizers(params),
            obs_moments=None,
            reward_moments=None,
            update=jnp.int32(0),
            diverged_at=jnp.int32(-1),
        )
        episode = empty_episodes(self.config.num_envs)
        return own_buffers(RunnerState(train_state=state, env_state=env_state, obs=obs, episode=episode, key=key))

    def continue_from(self, train_state: TrainState, key: jax.Array) -> RunnerState:
        """The state before the first update of a new run from trained parameters, like `PPO.continue_from`."""
        return restarted(self.init(key), train_state, self.init_optimizers)

    @of_own_state
    def update(self, runner: RunnerState) -> tuple[RunnerState, FullBatchMetrics]:
        """One epoch of the example: a rollout from fresh starts, the policy's iterations, the value's iterations.

        Raises PPOError for a runner of another agent.
        """
        check_runner(runner, self.config.num_envs)
        config, state = self.config, runner.train_state
        reset_key, noise_key = jax.random.split(jax.random.fold_in(runner.key, state.update))
        obs, env_state = reset_batch(self.env, reset_key, config.num_envs)
        abandoned = end_episodes(runner.episode, jnp.ones(config.num_envs, bool))
        fresh = runner.replace(obs=obs, env_state=env_state, episode=abandoned)
        noise = make_noise(self.env, Categorical.noise, noise_key, (config.num_steps, config.num_envs))

        def policy(obs: PyTree, noise: PyTree) -> tuple[jax.Array, jax.Array]:
            distribution = self.distribution(state, obs)
            return distribution.sample(noise), distribution.logits

        acted, transitions, logits, episodes = rollout(self.env, policy, fresh, noise)
        transitions = transitions if config.bootstrap_time_limits else close_at_time_limits(transitions)
        batch = make_batch(self, state.params["critic"], transitions, logits)
        fit = fit_policy(self, state.params["actor"], state.opt_state["actor"], batch)
        critic, critic_opt_state, value_loss = fit_value(self, state.params["critic"], state.opt_state["critic"], batch)
        state = state.replace(
            params={"actor": fit.params, "critic": critic},
            opt_state={"actor": fit.opt_state, "critic": critic_opt_state},
            update=state.update + 1,
        )
        runner = keep_finite(runner, acted.replace(train_state=state))
        return runner, make_metrics(self, runner.train_state, episodes, transitions, batch, fit, value_loss)

    @of_own_state
    def act(self, train_state: TrainState, obs: jax.Array, key: jax.Array | None = None) -> jax.Array:
        """The most probable action for one observation or [N], or with a key a sample of each. Raises as `PPO.act`."""
        lead = check_act(self.env, train_state, obs, key)
        distribution = self.distribution(train_state, obs)
        return distribution.mode() if key is None else distribution.sample(self.actions.noise(key, lead))

    def init_optimizers(self, params: PyTree) -> PyTree:
        """The state of both optimizers before their first step."""
        return {name: getattr(self, f"{name}_optimizer").init(x) for name, x in params.items()}

    @property
    def start_memory(self) -> PyTree:
        """Initial memory. Empty, because this policy is feed-forward."""
        return ()

    def policy(self, train_state: TrainState, memory: PyTree, obs: jax.Array) -> tuple[Categorical, PyTree]:
        """The policy at observations, and the memory unchanged."""
        return self.distribution(train_state, obs), memory

    def distribution(self, train_state: TrainState, obs: jax.Array) -> Categorical:
        """The policy at observations [..., features]."""
        return Categorical(logits=self.logits(train_state.params["actor"], obs))

    def logits(self, params: PyTree, obs: jax.Array) -> jax.Array:
        """The actor. [..., features] -> [..., n]"""
        return jnp.asarray(self.actor.apply(params, obs))

    def value(self, params: PyTree, obs: jax.Array) -> jax.Array:
        """The critic. [..., features] -> [...]"""
        return jnp.asarray(self.critic.apply(params, obs))[..., 0]


def make_full_batch_ppo(env: Environment, config: FullBatchConfig) -> FullBatchPPO:
    """The agent for discrete actions and vector observations: two separate towers, Glorot-uniform."""
    check_float32()
    check_config(config, FullBatchConfig)
    check_env(env)
    if not isinstance(env.action_space, Discrete):
        raise PPOError(f"{env.name} has the action space {env.action_space}; full-batch PPO acts in Discrete spaces")
    if not isinstance(env.observation_space, Box) or len(env.observation_space.shape) != 1:
        raise PPOError(
            f"{env.name} has the observation space {env.observation_space}; full-batch PPO takes vectors, "
            "a Box of one axis; take make_ppo"
        )
    if env.action_mask is not None:
        raise PPOError(f"{env.name} masks actions, which full-batch PPO does not heed; take make_ppo")
    glorot = nn.initializers.glorot_uniform()
    tower = functools.partial(
        MLP, config.hidden_sizes, activation=config.activation, hidden_init=glorot, output_init=glorot
    )
    return FullBatchPPO(
        env=env,
        actions=discrete_actions(env.action_space),
        config=config,
        actor=tower(env.action_space.n),
        critic=tower(1),
        actor_optimizer=keras_adam(config.policy_learning_rate, config.adam_eps),
        critic_optimizer=keras_adam(config.value_learning_rate, config.adam_eps),
    ).made_by(functools.partial(make_full_batch_ppo, env, config))


def keras_adam(learning_rate: float | jax.Array, eps: float | jax.Array) -> optax.GradientTransformation:
    """Adam with epsilon outside the bias correction (Kingma and Ba 2015, end of section 2), as Keras has it.

    theta -= lr sqrt(1 - 0.999^t) / (1 - 0.9^t) m / (sqrt(v) + eps)
    """

    def step(updates: PyTree, state: Any, params: Any = None) -> tuple[PyTree, Any]:
        del params
        count = state.count + 1
        steps = count.astype(jnp.float32)
        mu = jax.tree.map(lambda m, g: 0.9 * m + 0.1 * g, state.mu, updates)
        nu = jax.tree.map(lambda v, g: 0.999 * v + 0.001 * jnp.square(g), state.nu, updates)
        rate = learning_rate * jnp.sqrt(1.0 - 0.999**steps) / (1.0 - 0.9**steps)
        updates = jax.tree.map(lambda m, v: adam_step(-rate * m, v, 1.0 * eps), mu, nu)
        return updates, optax.ScaleByAdamState(count=count, mu=mu, nu=nu)

    return optax.GradientTransformation(optax.scale_by_adam().init, step)


def close_at_time_limits(transitions: Transition) -> Transition:
    """The example's time limit: a termination, so that what follows is worth 0."""
    return transitions.replace(
        terminated=transitions.terminated | transitions.truncated, truncated=jnp.zeros_like(transitions.truncated)
    )


def make_batch(agent: FullBatchPPO, critic: PyTree, transitions: Transition, logits: jax.Array) -> Batch:
    """Advantages, normalised over the whole batch, and rewards-to-go; flattened to N = T * B."""
    value, next_value = agent.value(critic, transitions.obs), agent.value(critic, transitions.next_obs)
    reward, flags, config = transitions.reward, (transitions.terminated, transitions.truncated), agent.config
    advantage = gae(reward, value, next_value, *flags, gamma=config.gamma, gae_lambda=config.gae_lambda)
    batch = Batch(
        obs=transitions.obs,
        action=transitions.action,
        log_prob=Categorical(logits=logits).log_prob(transitions.action),
        value=value,
        advantage=standardized(advantage),
        target=reward_to_go(reward, next_value, *flags, gamma=config.gamma),
    )
    return to_samples(batch)


def standardized(advantage: jax.Array) -> jax.Array:
    """(A - mean A) / std A, and 0 for equal advantages. [T, B] -> [T, B]"""
    return jnp.where(are_equal(advantage), 0.0, (advantage - jnp.mean(advantage)) / jnp.std(advantage))


def fit_policy(agent: FullBatchPPO, params: PyTree, opt_state: PyTree, batch: Batch) -> PolicyFit:
    """Full-batch steps on the clipped objective, until the mean log-ratio exceeds 1.5 target_kl or none is left.

    The KL after a step comes from the forward pass of the next one, whose step is then not applied: one forward pass
    in seven is saved, and the result is the same. Under vmap a policy that has stopped stays exactly as it is.
    """
    limit, most = 1.5 * agent.config.target_kl, agent.config.policy_iterations

    def loss(params: PyTree) -> tuple[jax.Array, jax.Array]:
        log_ratio = Categorical(logits=agent.logits(params, batch.obs)).log_prob(batch.action) - batch.log_prob
        return policy_loss(jnp.exp(log_ratio), batch.advantage, agent.config.clip_eps), -jnp.mean(log_ratio)

    def step_if_near(fit: PolicyFit) -> PolicyFit:
        gradient, kl = jax.grad(loss, has_aux=True)(fit.params)
        updates, opt_state = agent.actor_optimizer.update(gradient, fit.opt_state)
        stepped = (optax.apply_updates(fit.params, updates), opt_state)
        near = ~(kl > limit)  # NaN goes on, into the parameters, for `keep_finite` to see
        before = (fit.params, fit.opt_state)
        params, opt_state = jax.tree.map(lambda new, old: jnp.where(near, new, old), stepped, before)
        return PolicyFit(params, opt_state, fit.iterations + near.astype(jnp.int32), kl, near)

    start = PolicyFit(params, opt_state, jnp.int32(0), jnp.float32(0.0), jnp.bool_(True))
    fit = jax.lax.while_loop(lambda fit: fit.near & (fit.iterations < most), step_if_near, start)
    return fit._replace(kl=loss(fit.params)[1])


def fit_value(agent: FullBatchPPO, params: PyTree, opt_state: PyTree, batch: Batch) -> tuple[PyTree, PyTree, jax.Array]:
    """Full-batch steps on mean (V - R)^2. -> (params, optimizer state, the loss at the last step)"""

    def loss(params: PyTree) -> jax.Array:
        return jnp.mean(jnp.square(agent.value(params, batch.obs) - batch.target))

    def step(carry: tuple[PyTree, PyTree], _: None) -> tuple[tuple[PyTree, PyTree], jax.Array]:
        params, opt_state = carry
        error, gradient = jax.value_and_grad(loss)(params)
        updates, opt_state = agent.critic_optimizer.update(gradient, opt_state)
        return (optax.apply_updates(params, updates), opt_state), error

    (params, opt_state), errors = jax.lax.scan(step, (params, opt_state), length=agent.config.value_iterations)
    return params, opt_state, errors[-1]


def make_metrics(
    agent: FullBatchPPO,
    state: TrainState,
    episodes: EpisodeStats,
    transitions: Transition,
    batch: Batch,
    fit: PolicyFit,
    value_loss: jax.Array,
) -> FullBatchMetrics:
    """The metrics of one update; `state` is the one after it."""
    config = agent.config
    distribution = Categorical(logits=agent.logits(fit.params, batch.obs))
    log_ratio = distribution.log_prob(batch.action) - batch.log_prob
    ended_last = transitions.terminated[-1] | transitions.truncated[-1]
    with_cut = (episodes.count + jnp.sum(~ended_last)).astype(jnp.float32)
    return FullBatchMetrics(
        **episodes.means(),
        policy_loss=policy_loss(jnp.exp(log_ratio), batch.advantage, config.clip_eps),
        value_loss=value_loss,
        entropy=jnp.mean(distribution.entropy()),
        approx_kl=approx_kl(log_ratio),
        clip_fraction=clip_fraction(jnp.exp(log_ratio), config.clip_eps),
        explained_variance=explained_variance(batch.value, batch.target),
        learning_rate=jnp.asarray(config.policy_learning_rate, jnp.float32),
        updates=state.update,
        batch_size=config.batch_size,
        epoch_return_mean=precise_sum(transitions.reward) / with_cut,
        epoch_length_mean=config.batch_size / with_cut,
        policy_iterations=fit.iterations,
        kl=fit.kl,
        extra=episodes.info_means(),
    )
