"""Training on from trained parameters, and beyond the end of a schedule."""

import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING

from jax.core import Tracer

from purejaxppo.ppo.checks import check_start
from purejaxppo.ppo.types import RunnerState, TrainState
from purejaxppo.ppo.update import own_buffers
from purejaxppo.utils.tree import PyTree

if TYPE_CHECKING:
    from purejaxppo.ppo.agent import PPO


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


def warn_if_over(agent: "PPO", state: TrainState) -> None:
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
