"""`check_agent`: checks that an agent learns from what its policy did, and that its network is a pure function."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from purejaxppo.cli.doctor.findings import Finding, Note, fault, run_checks
from purejaxppo.cli.doctor.trial import traces_alike
from purejaxppo.envs.base import Environment, Step
from purejaxppo.ppo.agent import PPO
from purejaxppo.ppo.losses import LossContext
from purejaxppo.ppo.memory import start_memories
from purejaxppo.ppo.types import Batch, Metrics, RunnerState, TrainState
from purejaxppo.utils.devices import quickly_compiled
from purejaxppo.utils.errors import PPOError
from purejaxppo.utils.tree import PyTree, Terms, key_shape

ENDS = 1 / 8  # probability that a step ends the episode, where ends are made to happen
ROUNDING = 1e-4  # of a log-probability, or of a value relative to the largest, computed in another shape, at most


def check_agent(agent: Any, *, seed: int = 0) -> list[Finding]:
    """Checks the first two updates of an agent in its environment, with its own config.

    One step in eight ends the episode, whatever the environment, so that the checks cover the ends of episodes.

    Args:
        agent: What `make_ppo` returns.
        seed: Seed of the updates.

    Returns:
        A finding for each check, as from `check_env`.

    Raises:
        PPOError: If `agent` is not a PPO.
    """
    if not isinstance(agent, PPO):
        raise PPOError(f"agent must come from make_ppo, got {type(agent).__name__}")
    findings = run_checks({"network": lambda: check_network(agent)})
    if not findings[0].is_well:
        return findings
    try:
        with jax.default_matmul_precision("highest"):
            options = quickly_compiled(jax.default_backend())
            learn = jax.jit(functools.partial(learn_twice, agent), compiler_options=options)
            before, after, compared = learn(jax.random.key(seed))
    except Exception as error:  # user code may raise anything
        return [*findings, fault("update", error)]
    first, remedy = "first minibatch", "the output for an observation must not depend on the others in the batch"
    if jax.tree.leaves(agent.start_memory):
        first, remedy = "replay", "replay must be apply along time, from start where an episode begins"
    checks = {first: lambda: check_ratio(compared, remedy), "update": lambda: check_update(before, after)}
    return findings + run_checks(checks)


def learn_twice(agent: PPO, key: jax.Array) -> tuple[TrainState, TrainState, Metrics]:
    """An update as it is, and one whose first pass over all of its rollout is compared with the rollout.

    -> (initial state, state after the first update, metrics of the second: see `compare`)
    """
    agent = dataclasses.replace(agent, env=with_ends(agent.env))
    config = agent.config.replace(update_epochs=1, num_minibatches=1, target_kl=None)
    before = agent.init(key)
    after, _ = agent.update(before)
    _, compared = dataclasses.replace(agent, config=config, loss=compare).update(after)
    return before.train_state, after.train_state, compared


def with_ends(env: Environment) -> Environment:
    """The environment, cut short now and then."""

    def step(key: jax.Array, state: PyTree, action: PyTree, params: PyTree) -> Step:
        key, end_key = jax.random.split(key)
        after = env.step(key, state, action, params)
        return after._replace(truncated=after.truncated | jax.random.bernoulli(end_key, ENDS))

    return env.replace(step=step)


def compare(params: PyTree, minibatch: Batch, context: LossContext) -> tuple[jax.Array, Terms]:
    """A loss that teaches nothing: its terms are the largest |log ratio| and the largest relative change of a value."""
    parameters, value = context.apply(params, minibatch.obs)[:2]
    log_ratio = context.distribution(parameters).log_prob(minibatch.action) - minibatch.log_prob
    scale = jnp.maximum(1.0, jnp.max(jnp.abs(minibatch.value)))
    terms = {
        "policy_loss": jnp.max(jnp.abs(log_ratio)),
        "value_loss": jnp.max(jnp.abs(value - minibatch.value)) / scale,
        "approx_kl": jnp.zeros(()),  # an adaptive learning rate asks for it
    }
    return 0.0 * jnp.sum(value), terms


def check_network(agent: PPO) -> str:
    """Checks that the network is a function of its inputs alone. Runs nothing."""
    runner = jax.eval_shape(agent.init, key := key_shape())
    memory = jax.eval_shape(lambda: start_memories(agent.start_memory, (agent.config.num_envs,)))

    def outputs(runner: RunnerState, memory: PyTree) -> PyTree:
        distribution, after = agent.policy(runner.train_state, memory, runner.obs)
        return distribution.mode(), after, agent.value(runner.train_state, runner.obs, memory)

    if not traces_alike(agent.init, key):
        raise PPOError("init traces to a different program each time; draw from key only")
    if not traces_alike(outputs, runner, memory):
        raise PPOError("apply traces to a different program each time: it draws or counts in Python")
    size = sum(x.size for x in jax.tree.leaves(runner.train_state.params))
    return f"{size:,} parameters; init and apply always trace to the same program"


def check_ratio(compared: Metrics, remedy: str) -> str:
    """Checks that learning starts from the policy that acted: ratio 1, and the same values."""
    log_ratio, change = float(compared.policy_loss), float(compared.value_loss)
    if not (log_ratio <= ROUNDING and change <= ROUNDING):
        raise PPOError(
            f"the policy that learns did not act: log ratio {log_ratio:.2g}, values {change:.2g} off; {remedy}"
        )
    ended = f"{int(compared.episodes):,} episodes ended"
    return f"log ratio 0 within {log_ratio:.0e} nats, values within {change:.0e}, {ended}"


def check_update(before: TrainState, after: TrainState) -> str:
    """Checks that everything stays finite and that every parameter changes."""
    for what, state in (("init", before.params), ("the first update", (after.params, after.opt_state))):
        for path, x in jax.tree_util.tree_leaves_with_path(state):
            if not np.all(np.isfinite(x)):
                name = jax.tree_util.keystr(path)
                raise PPOError(f"{name} is not finite after {what}; check the network and the rewards")
    pairs = zip(jax.tree_util.tree_leaves_with_path(before.params), jax.tree.leaves(after.params), strict=True)
    still = [jax.tree_util.keystr(path) for (path, x), y in pairs if np.array_equal(x, y)]
    if still:
        return Note(f"the first update did not change {', '.join(still[:4])}; does the loss depend on it?")
    return "finite, and every parameter changed"
