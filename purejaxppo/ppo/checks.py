"""Checks of an agent's parts, of the states and observations that it is given, and of what user functions return."""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar, cast

import jax
import jax.numpy as jnp
import numpy as np
import optax

from purejaxppo.envs.base import Environment, MaskedObs, check_column, traced
from purejaxppo.envs.spaces import in_parts, parts_of, shape_of, structure_of
from purejaxppo.policies.actions import Actions
from purejaxppo.ppo.config import Config, PPOConfig, is_changed
from purejaxppo.ppo.schedules import Schedule
from purejaxppo.ppo.types import LOSS_TERMS, Metrics, RunnerState, Steps, TrainState
from purejaxppo.utils.errors import PPOError
from purejaxppo.utils.tree import PyTree, Terms, difference, key_shape
from purejaxppo.utils.validation import check_float32, check_key, is_numeric, is_traced, shown, shown_shape

# Columns of the metrics and of the tables that they are in.
RESERVED = {*(field.name for field in dataclasses.fields(Metrics)), "timesteps", "seed", "update", "setting"}
RESERVED |= {"mean_log_ratio"}  # of a loss, for kl_estimator; it is not reported

Function = TypeVar("Function", bound=Callable[..., Any])  # whose type a decorator keeps


def check_parts(
    env: Environment,
    config: PPOConfig,
    optimizer: optax.GradientTransformation | None,
    schedules: Mapping[str, Schedule] | None,
) -> None:
    """Raises PPOError if an environment, config or optimizer has the wrong type, or does not go with the others."""
    check_float32()
    check_config(config, PPOConfig)
    check_env(env)
    if schedules is not None and not isinstance(schedules, Mapping):
        raise PPOError(f'schedules = {schedules!r} is not a dict; give one such as {{"clip_eps": lambda update: 1.0}}')
    if optimizer is None:
        return
    if not isinstance(optimizer, optax.GradientTransformation):
        accumulates = hasattr(optimizer, "gradient_transformation")  # optax.MultiSteps
        remedy = "its .gradient_transformation()" if accumulates else "one such as optax.adam(1e-3)"
        raise PPOError(f"optimizer = {optimizer!r} is not an optax transformation; give {remedy}")
    if "learning_rate" in (schedules or {}):
        raise PPOError('schedules["learning_rate"] would do nothing beside optimizer=...; set it in the optimizer')
    for name in ("learning_rate", "anneal_lr", "lr_schedule", "adam_eps", "max_grad_norm"):
        if is_changed(config, name):
            raise PPOError(
                f"{name} = {getattr(config, name)} would do nothing beside optimizer=...; set it in the optimizer, "
                f"and leave the config's at {getattr(PPOConfig, name)}"
            )


def check_env(env: Any) -> None:
    """Raises PPOError unless `env` is an Environment."""
    if not isinstance(env, Environment):
        raise PPOError(f"env = {env!r} is not an Environment; give make_env({env!r})")


def check_config(config: Any, config_class: type[Config]) -> None:
    """Raises PPOError unless `config` is of that class, with one number in each field for a number."""
    if not isinstance(config, config_class):
        name = config_class.__name__
        remedy = (
            "take the factory of its own class" if isinstance(config, Config) else f"give (env, {name}(gamma=0.99))"
        )
        raise PPOError(f"config must be a {name}, got {shown(config)}; {remedy}")
    own = {field.name for field in dataclasses.fields(config_class)}
    for path, number in jax.tree_util.tree_leaves_with_path(config):
        name = jax.tree_util.keystr(path, simple=True)
        if name in own and jnp.shape(number) != ():
            raise PPOError(
                f"{name} has shape {jnp.shape(number)}; give one number, and vmap over a function that makes the agent"
            )


def check_optimizer_steps(optimizer: optax.GradientTransformationExtraArgs, params: PyTree) -> None:
    """Raises PPOError unless the optimizer returns updates shaped like the parameters, and a state shaped as before."""

    def step(params: PyTree, state: PyTree, rate: jax.Array) -> tuple[PyTree, PyTree]:
        return optimizer.update(params, state, params, learning_rate=rate)

    state = traced("optimizer.init", optimizer.init, params)
    rate = jax.ShapeDtypeStruct((), jnp.float32)
    updates, new_state = traced("optimizer.update", step, params, state, rate)
    for what, before, after in (("updates", params, updates), ("the state", state, new_state)):
        if differs := difference(before, after):
            place, wanted, found = differs
            raise PPOError(
                f"optimizer.update returns {what}{place} as {found}, and was given {wanted}; "
                "give an optax transformation such as optax.adam(1e-3), and keep the parameters float32"
            )


def settled_reward(steps: Steps, returned: Any) -> tuple[jax.Array, Terms, Terms]:
    """Reward [T, B] of a reward function, its numbers, its arrays for `info`. Raises PPOError for anything else."""
    reward, numbers = returned if isinstance(returned, tuple) and len(returned) == 2 else (returned, {})
    return each_step("reward", steps, reward), *settled_named("reward", steps, numbers)


def settled_advantage(steps: Steps, returned: Any) -> tuple[jax.Array, jax.Array, Terms, Terms]:
    """Advantage and target [T, B] of an estimator, its numbers, its arrays for `info`. Raises PPOError otherwise."""
    advantage, *others = returned if isinstance(returned, tuple) and len(returned) in (2, 3) else (returned,)
    advantage = each_step("advantage", steps, advantage)
    has_numbers = len(others) == 2 or (others and isinstance(others[0], Mapping))
    numbers = others.pop() if has_numbers else {}
    target = each_step("advantage, target", steps, others[0]) if others else advantage + steps.value
    return advantage, target, *settled_named("advantage", steps, numbers)


def settled_named(what: str, steps: Steps, named: Any) -> tuple[Terms, Terms]:
    """The numbers that a reward or an advantage returns by name, and its arrays [T, B, ...], whose means are reported.

    Raises PPOError for anything else, and for an array with a name that `steps.info` has already.
    """
    if not isinstance(named, Mapping):
        return settled_numbers(what, named), {}
    shape = steps.reward.shape
    arrays = {name: jnp.asarray(x) for name, x in named.items() if is_numeric(x) and jnp.shape(x)[:2] == shape}
    for name in arrays.keys() & steps.info.keys():
        raise PPOError(f"{what} returns {name!r} for each step, and steps.info has that already; rename one")
    return settled_numbers(what, {**named, **{name: jnp.mean(x) for name, x in arrays.items()}}), arrays


def each_step(what: str, steps: Steps, x: Any) -> jax.Array:
    """x, one number for each step. Raises PPOError otherwise."""
    shape = steps.reward.shape
    if not is_numeric(x) or not jnp.issubdtype(jnp.result_type(x), jnp.floating) or jnp.shape(x) != shape:
        raise PPOError(
            f"{what} returns {jax.tree.map(shown_shape, x)}; it has to be floats {list(shape)}, one for each step"
        )
    return jnp.asarray(x)


def settled_indices(config: PPOConfig, returned: Any, num_samples: int) -> tuple[jax.Array, jax.Array]:
    """Indices that a minibatches function returns, and True [] if all of them are in range. Raises PPOError otherwise.

    Traced indices are not known yet, so that only the second output says whether they are in range.
    """
    if not is_numeric(returned) or jnp.ndim(returned) != 3 or not jnp.issubdtype(returned.dtype, jnp.integer):
        raise PPOError(f"minibatches returns {shown_shape(returned)}; it has to be ints [epochs, minibatches, M]")
    is_normalized = config.normalize_advantage and config.normalize_advantage_over == "minibatch"
    if is_normalized and config.cell is None and returned.shape[2] == 1:
        raise PPOError(
            "minibatches returns minibatches of 1 sample, which normalize_advantage = True gives an advantage of 0; "
            'give larger ones, normalize_advantage_over="batch" or normalize_advantage=False'
        )
    returned = returned.astype(jnp.promote_types(returned.dtype, jnp.int32))  # unsigned ones compare with no -1
    namespace = jnp if is_traced(returned) else np
    in_range = namespace.all((returned >= -num_samples) & (returned < num_samples))
    if not is_traced(in_range) and not in_range:
        low, high = int(np.min(returned)), int(np.max(returned))
        raise PPOError(
            f"minibatches returns indices from {low} to {high}; the batch has {num_samples} samples, "
            f"so give indices from 0 to {num_samples - 1}"
        )
    return jnp.asarray(returned), jnp.asarray(in_range)


def merged(*numbers: Terms) -> Terms:
    """Numbers to report, of several sources. Raises PPOError for a name that two of them give."""
    every: Terms = {}
    for some in numbers:
        for name in some.keys() & every.keys():
            raise PPOError(f"two of loss, reward, advantage and step report a number by the name {name!r}; rename one")
        every |= some
    return every


def settled_loss(config: PPOConfig, returned: Any) -> tuple[jax.Array, Terms]:
    """The loss and its terms that a loss function has returned. Raises PPOError for anything else."""
    if not (isinstance(returned, tuple) and len(returned) == 2 and isinstance(returned[1], Mapping)):
        raise PPOError("loss has to return (loss, {name: number}), as pjp.ppo_loss does")
    loss, terms = returned
    if jnp.shape(loss) != () or not jnp.issubdtype(jnp.result_type(loss), jnp.floating):
        raise PPOError(f"loss returns {shown_shape(loss)} to minimise; it has to be one float, such as a mean")
    terms = settled_numbers("loss", terms, known=(*LOSS_TERMS, "mean_log_ratio"))
    needed = {}
    if config.target_kl is not None:
        needed["target_kl"] = {"approx_kl": "approx_kl", "log_ratio": "mean_log_ratio"}[config.kl_estimator]
    if config.anneal_lr and config.lr_schedule == "adaptive":
        needed["lr_schedule = 'adaptive'"] = "approx_kl"
    for field, name in needed.items():
        if name not in terms:
            raise PPOError(f"{field} goes by the {name} of the loss, which does not return it; return it by that name")
    return loss, terms


def settled_numbers(what: str, numbers: Any, known: Sequence[str] = ()) -> Terms:
    """Numbers to report, by name, as float32. Raises PPOError if a name is taken or a value is not a number.

    known: names with a meaning that the caller may give
    """
    if not isinstance(numbers, Mapping):
        raise PPOError(f"{what} returns {shown_shape(numbers)} for its numbers; it has to be a dict of them by name")
    for name, x in numbers.items():
        check_column(what, name)
        if name in RESERVED and name not in known:
            raise PPOError(f"{what} returns a number by the name {name!r}, which is another column; give another name")
        if not is_numeric(x) or jnp.shape(x) != ():
            steps = "" if what == "loss" else ", or an array [T, B, ...]"
            raise PPOError(f"{what} returns {name} as {shown_shape(x)}; it has to be one number, such as a mean{steps}")
    return {name: jnp.asarray(x, jnp.float32) for name, x in numbers.items()}


def check_params(params: PyTree) -> None:
    """Raises PPOError for parameters that have no gradient."""
    for path, x in jax.tree_util.tree_leaves_with_path(params):
        if not jnp.issubdtype(x.dtype, jnp.floating):
            raise PPOError(
                f"network.init returns params{jax.tree_util.keystr(path)} as {x.dtype}{list(x.shape)}, "
                "which has no gradient; give floats, and keep the rest in the functions"
            )


def check_state(state: Any, state_class: type, remedy: str) -> None:
    """Raises PPOError unless `state` is a TrainState, or a RunnerState, as the class says."""
    if not isinstance(state, state_class):
        raise PPOError(f"a {state_class.__name__} is wanted, got a {type(state).__name__}; give {remedy}")


def check_start(train_state: Any, fresh: TrainState) -> None:
    """Raises PPOError unless a run may start from the parameters and observation statistics of `train_state`.

    fresh: a train state of the agent that is to go on from it
    """
    check_state(train_state, TrainState, "the train_state of a trained run")
    for name in ("params", "obs_moments"):
        if differs := difference(getattr(train_state, name), getattr(fresh, name)):
            place, given, wanted = differs
            raise PPOError(
                f"train_state.{name}{place} is {given}, and this agent's is {wanted}; give the train state of one "
                "seed, with the same network, observations and normalize_obs"
            )


def check_runner(runner: Any, num_envs: int) -> None:
    """Raises PPOError unless `runner` is a RunnerState of so many environments."""
    check_state(runner, RunnerState, "what agent.init(key) returns")
    shape = jnp.shape(runner.episode.episode_return)
    if shape != (num_envs,):
        raise PPOError(
            f"the runner's environments are {list(shape)}, and config.num_envs is {num_envs}; "
            "give what init of this agent returns, and vmap over more"
        )


def check_act(env: Environment, train_state: Any, obs: Any, key: Any) -> tuple[int, ...]:
    """Raises PPOError if `train_state`, `obs` or `key` is wrong. -> the leading axes of `obs`"""
    check_one_state(train_state)
    lead = check_obs(env, obs)
    if key is not None:
        check_key(key)
    return lead


def check_one_state(train_state: Any) -> None:
    """Raises PPOError unless `train_state` is one TrainState. A network may broadcast over several, silently."""
    check_state(train_state, TrainState, "runner.train_state")
    shape = np.shape(train_state.update)
    if shape:
        raise PPOError(
            f"train_state is a stack of the states of {list(shape)} runs; for an agent it has to be one of its own "
            "(vmap over several): jax.tree.map(lambda x: x[0], train_state) is the first"
        )


def check_obs(env: Environment, obs: Any) -> tuple[int, ...]:
    """Raises PPOError unless `obs` is an observation of the environment, or several. -> its leading axes"""
    leads, action_mask = {}, None
    if env.action_mask is not None:
        if not isinstance(obs, MaskedObs):
            raise PPOError(f"obs is a {type(obs).__name__}, and {env.name} masks actions; give pjp.MaskedObs")
        obs, action_mask = obs.obs, obs.action_mask
    arrays = in_parts("obs", structure_of(env.observation_space), obs)
    for (place, space), x in zip(parts_of(env.observation_space).items(), arrays, strict=True):
        shape = shape_of(space)
        if not isinstance(x, jax.Array | np.ndarray | np.generic) or not jnp.issubdtype(x.dtype, jnp.number):
            kind = type(x).__name__
            raise PPOError(f"obs{place} must be an array of numbers, got a {kind}; give jnp.asarray(obs, jnp.float32)")
        if x.shape[x.ndim - len(shape) :] != shape or x.ndim < len(shape):
            raise PPOError(f"obs{place} has shape {x.shape}, and the observations of {env.name} have {shape}")
        leads[f"obs{place}"] = x.shape[: x.ndim - len(shape)]
    for path, mask in jax.tree_util.tree_leaves_with_path(action_mask):
        leads[f"obs.action_mask{jax.tree_util.keystr(path)}"] = jnp.shape(mask)[:-1]
    (first, lead), *others = leads.items()
    for place, other in others:
        if other != lead:
            raise PPOError(f"{first} has the leading axes {lead}, and {place} has {other}; give them alike")
    return lead


def of_own_state(function: Function) -> Function:
    """Decorates f(agent, runner or train state, ...): what fails because the state is another agent's is a PPOError."""

    @functools.wraps(function)
    def checked(agent: Any, state: Any, *args: Any, **kwargs: Any) -> Any:
        try:
            return function(agent, state, *args, **kwargs)
        except Exception as error:
            if not isinstance(error, PPOError) or error.__cause__ is not None:  # not one of the checks at the boundary
                train_state = state.train_state if isinstance(state, RunnerState) else state
                check_start(train_state, jax.eval_shape(agent.init, key_shape()).train_state)
            raise

    return cast(Function, checked)


def check_outputs(what: str, actions: Actions, lead: tuple[int, ...], outputs: Any) -> None:
    """Raises PPOError unless `outputs` are the distribution's parameters [*lead, ...] and values [*lead], of floats."""
    names = jax.tree.map(str, actions.parameters)
    if not isinstance(outputs, tuple) or len(outputs) not in (2, 3):  # the third: auxiliary outputs
        raise PPOError(f"{what} has to return ({names}, value)")
    found = jax.tree.map(shown_floats, outputs[:2])
    wanted = (jax.tree.map(lambda own: own.shown(lead), actions.parameters), f"float{list(lead)}")
    if jax.tree.flatten(found) != jax.tree.flatten(wanted):
        raise PPOError(f"{what} returns ({names}, value) as {found}; they have to be {wanted}")


def shown_floats(x: Any) -> str:
    """The shape of an array, and its dtype unless that is one of floats."""
    return f"float{list(x.shape)}" if jnp.issubdtype(x.dtype, jnp.floating) else shown_shape(x)


def check_memory(what: str, memory: PyTree, start: PyTree) -> None:
    """Raises PPOError unless a memory has the structure, shapes and dtypes of that at the start of an episode."""
    if differs := difference(memory, start):
        place, found, wanted = differs
        raise PPOError(f"{what}{place} is {found}, and {wanted} goes with this network and observation")
