"""Makes agents and whole trainings. What a user passes is checked here, once; the core trusts it."""

import functools
from collections.abc import Callable, Mapping
from typing import Any, cast

import jax
import jax.numpy as jnp
import optax

from purejaxppo.envs.base import Environment, called, traced
from purejaxppo.envs.spaces import shapes_of
from purejaxppo.policies.actions import Actions, make_actions
from purejaxppo.policies.masking import masked
from purejaxppo.policies.networks import Network, as_network, is_asymmetric, make_actor_critic
from purejaxppo.policies.recurrent_networks import RecurrentNetwork, make_recurrent_actor_critic
from purejaxppo.ppo.agent import PPO
from purejaxppo.ppo.checks import check_memory, check_optimizer_steps, check_outputs, check_params, check_parts
from purejaxppo.ppo.config import PPOConfig, is_changed
from purejaxppo.ppo.continuing import warn_if_over
from purejaxppo.ppo.gae import gae_advantage
from purejaxppo.ppo.losses import Advantage, Loss, Minibatches, Reward, ppo_loss
from purejaxppo.ppo.memory import replay
from purejaxppo.ppo.optimizer import make_optimizer
from purejaxppo.ppo.schedules import Schedule, make_rate_rule, make_schedules
from purejaxppo.ppo.types import Metrics, RunnerState
from purejaxppo.utils.errors import PPOError
from purejaxppo.utils.tree import NOT_SPLIT, PyTree, key_shape
from purejaxppo.utils.validation import MAX_COUNT, check_function, check_seed, check_size, shown

DEFAULTS = {"loss": ppo_loss, "reward": None, "advantage": gae_advantage, "minibatches": None}
CALLED_LIKE = {
    "loss": "give (params, minibatch, context) -> (loss, {name: number}), such as pjp.ppo_loss",
    "reward": "give (params, steps, context) -> reward [T, B]",
    "advantage": "give (steps, context) -> advantage [T, B], such as pjp.gae_advantage",
    "minibatches": "give (key, batch) -> indices [epochs, minibatches, M]",
}


def make_ppo(
    env: Environment,
    config: PPOConfig,
    *,
    network: Any = None,
    modules: Mapping[str, Any] | None = None,
    optimizer: optax.GradientTransformation | None = None,
    loss: Loss = ppo_loss,
    reward: Reward | None = None,
    advantage: Advantage = gae_advantage,
    minibatches: Minibatches | None = None,
    schedules: Mapping[str, Schedule] | None = None,
) -> PPO:
    """The agent for an environment. With `config.cell` its policy has a memory.

    Args:
        env: As `make_env` makes it.
        config: A `PPOConfig`, or your own subclass of it.
        network: Any pair `init(key, obs) -> params`, `apply(params, obs) -> (parameters, value)`; a flax.linen module
            is one. The parameters are those of the action space's distribution: logits [..., n] (of a MultiDiscrete
            side by side), or for a Box of d numbers the pair (mean, log_std), [..., d] each; of a pytree of spaces a
            pytree of these. `apply` may return a third value, any pytree of auxiliary outputs, which a loss finds in
            what `context.apply` returns. With `config.cell` a `RecurrentNetwork`. `hidden_sizes`, `activation`,
            `share_trunk`, `box_std` and `cell_size` shape the default network only; `compute_dtype` is refused.
        modules: Learned parts beside the policy, such as {"model": (init, apply)}, with `init(key, obs) -> params` for
            one observation, without its mask; a flax.linen module is such a pair. The parameters of a module are
            params[name], and those of the network then params["policy"]; the optimizer trains all of them. In a loss, a
            reward and an advantage, `context.modules[name](params, ...)` calls `apply` with its own parameters.
        optimizer: Any optax transformation, which then has its own learning rate, schedule and clipping:
            `learning_rate`, `anneal_lr`, `lr_schedule`, `adam_eps` and `max_grad_norm` must stay at their defaults.
        loss: (params, minibatch, context) -> (loss, {name: number}), such as `ppo_loss`, which your own can add to.
            The minibatch is a `Batch`, the context a `LossContext`. policy_loss, value_loss, entropy, approx_kl and
            clip_fraction fill the fields of `Metrics`; any other name arrives in `Metrics.extra`. The numbers are
            averaged over the minibatches that were applied. With `config.cell` a minibatch has whole sequences, and
            distributions and values are [M, L].
        reward: (params, steps, context) -> reward [T, B], or (reward, {name: number}): replaces `steps.reward` in
            learning, before `normalize_reward`. The steps are `Steps`. Episode returns stay the environment's.
        advantage: (steps, context) -> advantage [T, B], or (advantage, target), or (advantage, target, {name:
            number}), such as `gae_advantage`. The target of the value is advantage + value unless you return one.
            An array [T, B, ...] in place of a number, here or in a reward, is in `minibatch.info` for the loss, and
            its mean is reported.
        minibatches: (key, batch) -> indices [epochs, minibatches, M] of the samples, or sequences, in the `Batch`.
            An index out of range is an error, or makes the update not finite if it is traced.
        schedules: For "learning_rate", "clip_eps" and "ent_coef", a function of the update's index, from 0, to the
            factor on the config's number: an optax schedule, such as
            `optax.cosine_decay_schedule(1.0, config.num_updates)`.

    Returns:
        The agent.

    Raises:
        PPOError: If a config is out of range, or an environment or a part does not fit.
    """
    check_parts(env, config, optimizer, schedules)
    own = {"loss": loss, "reward": reward, "advantage": advantage, "minibatches": minibatches}
    for name, function in own.items():
        if function is not None:
            check_function(name, function, CALLED_LIKE[name])
    modules, schedules = copied(modules), copied(schedules)
    parts = {"network": network, "modules": modules, "optimizer": optimizer, "schedules": schedules, **own}
    if env.takes_turns and advantage is gae_advantage:
        raise PPOError(
            f"{env.name} has two players who take turns, and gae_advantage takes them for one; give advantage=..., or "
            "the make_agent of purejaxppo.examples.self_play"
        )
    beside = as_modules(modules)
    actions = make_actions(env, config.box_policy, config.box_std)
    plain = with_modules(make_network(env, actions, config, network), beside)
    params = check_network(env, actions, plain)
    factors = make_schedules(config, schedules)
    agent = PPO(
        env=env,
        actions=actions,
        config=config,
        network=plain if env.action_mask is None else masked(plain, actions),
        optimizer=optax.with_extra_args_support(optimizer or make_optimizer(config)),
        modules={
            name: of_own_params(f"context.modules[{name!r}]", module.apply, name) for name, module in beside.items()
        },
        schedules=factors,
        rate_rule=make_rate_rule(config, factors.learning_rate),
        reports_rate=optimizer is None,
        **own,
    )
    check_optimizer_steps(agent.optimizer, params)
    if any(getattr(agent, name) is not default for name, default in DEFAULTS.items()):
        # Traces one update, and runs nothing: a function that does not fit is refused here.
        traced("update", lambda key: agent.update(agent.init(key)), key_shape())
    return agent.made_by(functools.partial(make_ppo, env, config, **parts))


def copied(given: Any) -> Any:
    """A dict of the caller's, which may change later, as it is now; anything else unchanged."""
    return dict(given) if isinstance(given, Mapping) else given


def make_train(env: Environment, config: PPOConfig, **parts: Any) -> Callable[[jax.Array], tuple[RunnerState, Metrics]]:
    """A whole run as one function: key -> (RunnerState, Metrics [num_updates]). `jit` and `vmap` are the caller's.

    parts: keywords of `make_ppo`
    """
    agent = make_ppo(env, config, **parts)

    def train(key: jax.Array) -> tuple[RunnerState, Metrics]:
        return update_many(agent, agent.init(key), config.num_updates)

    return train


def update_many(agent: Any, runner: RunnerState, num_updates: int) -> tuple[RunnerState, Metrics]:
    """`num_updates` updates of any agent in one scan. -> (runner, metrics [num_updates])

    Warns as `PPO.update` does, of the last of them.
    """
    check_size("num_updates", num_updates, most=MAX_COUNT)
    trained = jax.lax.scan(lambda runner, _: agent.update(runner), runner, length=num_updates)
    if isinstance(agent, PPO):
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


def as_modules(modules: Mapping[str, Any] | None) -> dict[str, Network]:
    """The learned parts beside the policy, by name. Raises PPOError for one that has no init and apply."""
    if not isinstance(modules or {}, Mapping):
        raise PPOError(f'modules must be a dict such as {{"model": (init, apply)}}, got {shown(modules)}')
    if "policy" in (modules or {}):
        raise PPOError("modules['policy'] has the name of the network's parameters; give it another name")
    return {name: as_network(f"modules[{name!r}]", module) for name, module in (modules or {}).items()}


def make_network(env: Environment, actions: Actions, config: PPOConfig, given: Any) -> Network | RecurrentNetwork:
    """The network of plain observations: the given one, or else the default. Raises PPOError if it does not fit."""
    remembers = isinstance(given, RecurrentNetwork)
    if given is None:
        network = make_default_network(env, actions, config)
    elif is_changed(config, "compute_dtype"):
        raise PPOError(
            f"compute_dtype = {config.compute_dtype!r} would do nothing beside network=..., which chooses its own "
            f"types; leave it at {PPOConfig.compute_dtype!r}"
        )
    elif remembers and config.cell is None:
        raise PPOError("network has a memory; give a config with a cell, such as pjp.RecurrentConfig()")
    elif not remembers and config.cell is not None:
        kind = type(given).__name__
        raise PPOError(f"network is a {kind}, which has no memory; give pjp.RecurrentNetwork(init, apply, start)")
    else:
        network = given if remembers else as_network("network", given)
    if isinstance(network, RecurrentNetwork) and network.replay is None:
        return network._replace(replay=functools.partial(replay, network))
    return network


def make_default_network(env: Environment, actions: Actions, config: PPOConfig) -> Network | RecurrentNetwork:
    """Towers over the observation; with a cell after their hidden layers where the config names one."""
    obs_shape = shapes_of(env.observation_space)
    if config.share_trunk and is_asymmetric(obs_shape):
        raise PPOError(
            f"share_trunk = True would show the actor what only the critic may see in {env.name}: leave it False"
        )
    make = make_actor_critic if config.cell is None else make_recurrent_actor_critic
    return make(config, actions.num_outputs, obs_shape, actions.head)


def with_modules(network: Network | RecurrentNetwork, modules: Mapping[str, Network]) -> Any:
    """The network whose parameters are params["policy"] beside those of the modules; as it is without modules."""
    if not modules:
        return network

    def init(key: jax.Array, *given: PyTree) -> dict[str, PyTree]:
        params = {"policy": network.init(key, *given)}  # from the key itself
        for i, (name, module) in enumerate(sorted(modules.items())):
            module_key = jax.random.fold_in(key, NOT_SPLIT - i)
            params[name] = called(f"modules[{name!r}].init", module.init, module_key, given[-1])
        return params

    changes = {"init": init, "apply": of_own_params("context.apply", network.apply, "policy")}
    if isinstance(network, RecurrentNetwork):
        changes["replay"] = of_own_params("context.apply", cast(Any, network.replay), "policy")
    return network._replace(**changes)


def of_own_params(what: str, apply: Callable[..., Any], name: str) -> Callable[..., Any]:
    """`apply` with the parameters that lie under the name. Raises PPOError unless it is given those of all."""

    def call(params: PyTree, *given: Any) -> Any:
        if not isinstance(params, Mapping) or name not in params:
            raise PPOError(f"{what} takes all of params, not a part of them, and then its own inputs")
        return apply(params[name], *given)

    return call


def check_network(env: Environment, actions: Actions, network: Network | RecurrentNetwork) -> PyTree:
    """Raises PPOError unless the network returns distribution parameters and values in the right shapes.

    -> the shapes of its parameters
    """
    obs, _ = jax.eval_shape(env.reset, key_shape(), env.params)
    obs, start = obs if env.action_mask is None else obs.obs, traced("network.start", network.start)
    params = traced("network.init", network.params, key_shape(), obs)
    check_params(params)
    for lead in ((), (2,), (2, 3)):
        seen, memory = with_lead(lead, obs), with_lead(lead, start)
        if isinstance(network, Network):
            outputs = traced("network.apply", network.apply, params, seen)
        else:
            outputs = traced("network.apply", network.apply, params, memory, seen)
            if not isinstance(outputs, tuple) or len(outputs) not in (3, 4):  # the fourth: auxiliary outputs
                raise PPOError("network.apply has to return (memory, the distribution's parameters, value)")
            check_memory("the memory of network.apply", outputs[0], memory)
            outputs = outputs[1:]
        check_outputs("network.apply", actions, lead, outputs)
    if isinstance(network, RecurrentNetwork):
        steps, reset = with_lead((5, 2), obs), jax.ShapeDtypeStruct((5, 2), bool)
        outputs = traced("network.replay", cast(Any, network.replay), params, with_lead((2,), start), steps, reset)
        check_outputs("network.replay", actions, (5, 2), outputs)
    return params


def with_lead(lead: tuple[int, ...], one: PyTree) -> PyTree:
    """The shapes with leading axes."""
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct((*lead, *x.shape), x.dtype), one)
