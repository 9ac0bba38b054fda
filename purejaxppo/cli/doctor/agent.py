"""`check_agent`: checks that an agent learns from what its policy did, and that its network is a pure function."""

import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from purejaxppo.cli.doctor.findings import Finding, attempted, fault, note, well
from purejaxppo.cli.doctor.trial import first_difference, traces_alike
from purejaxppo.envs.base import Environment, Step
from purejaxppo.ppo.agent import PPO
from purejaxppo.ppo.losses import LossContext
from purejaxppo.ppo.memory import start_memories
from purejaxppo.ppo.types import Batch, Metrics, RunnerState
from purejaxppo.utils.devices import quickly_compiled
from purejaxppo.utils.errors import PPOError, in_one_line
from purejaxppo.utils.tree import PyTree, Terms

ENDS = 1 / 8  # probability that a step ends the episode, where ends are made to happen
ROUNDING = 1e-4  # of a log-probability or value that is computed in another shape, at most


class Lesson(NamedTuple):
    """Two updates of an agent; in the second the loss only looks."""

    before: RunnerState
    after: RunnerState  # the first update
    looked: Metrics  # of the second: policy_loss and value_loss are the largest changes, see `look`
    batched: PyTree  # what the network gives for B observations at once
    alone: PyTree  # and for each of them alone


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
    findings = [attempted("network", lambda: check_network(agent))]
    if not findings[0].is_well:
        return findings
    try:
        with jax.default_matmul_precision("highest"):
            options = quickly_compiled(jax.default_backend())
            lesson = jax.jit(functools.partial(learn_twice, agent), compiler_options=options)(jax.random.key(seed))
    except Exception as error:  # user code may raise anything
        return [*findings, fault("update", in_one_line(error))]
    first = "replay" if jax.tree.leaves(agent.start_memory) else "first minibatch"
    checks = {
        "rows": lambda: check_rows(lesson),
        first: lambda: check_ratio(first, lesson),
        "update": lambda: check_update(lesson),
    }
    return findings + [attempted(name, check) for name, check in checks.items()]


def learn_twice(agent: PPO, key: jax.Array) -> Lesson:
    """An update as it is, and one whose first pass over all of its rollout is looked at."""
    agent = dataclasses.replace(agent, env=with_ends(agent.env))
    config = agent.config.replace(update_epochs=1, num_minibatches=1, target_kl=None)
    looking = dataclasses.replace(agent, config=config, loss=look)
    before = agent.init(key)
    after, _ = agent.update(before)
    _, looked = looking.update(after)
    memory = start_memories(agent.start_memory, (agent.config.num_envs,))
    give = functools.partial(outputs, agent, before)
    given = (before.obs, memory)
    return Lesson(before, after, looked, batched=give(given), alone=jax.lax.map(give, given))


def with_ends(env: Environment) -> Environment:
    """The environment, cut short now and then."""

    def step(key: jax.Array, state: PyTree, action: PyTree, params: PyTree) -> Step:
        key, end_key = jax.random.split(key)
        after = env.step(key, state, action, params)
        return after._replace(truncated=after.truncated | jax.random.bernoulli(end_key, ENDS))

    return env.replace(step=step)


def look(params: PyTree, minibatch: Batch, context: LossContext) -> tuple[jax.Array, Terms]:
    """A loss that teaches nothing: its terms are the largest |log ratio| and the largest change of a value."""
    parameters, value = context.apply(params, minibatch.obs)[:2]
    log_ratio = context.distribution(parameters).log_prob(minibatch.action) - minibatch.log_prob
    terms = {
        "policy_loss": jnp.max(jnp.abs(log_ratio)),
        "value_loss": jnp.max(jnp.abs(value - minibatch.value)),
        "approx_kl": jnp.zeros(()),  # an adaptive learning rate asks for it
    }
    return 0.0 * jnp.sum(value), terms


def outputs(agent: PPO, runner: RunnerState, given: tuple[PyTree, PyTree]) -> PyTree:
    """Log-probability of the mode, value, and memory, at observations and memories [..., ...]."""
    obs, memory = given
    distribution, after = agent.policy(runner.train_state, memory, obs)
    return {
        "log_prob": distribution.log_prob(distribution.mode()),
        "value": agent.value(runner.train_state, obs, memory),
        "memory": after,
    }


def check_network(agent: PPO) -> Finding:
    """Checks that the network is a function of its inputs alone. Runs nothing."""
    runner = jax.eval_shape(agent.init, key := jax.eval_shape(lambda: jax.random.key(0)))
    memory = jax.eval_shape(lambda: start_memories(agent.start_memory, (agent.config.num_envs,)))
    if not traces_alike(agent.init, key):
        return fault("network", "init traces to a different program each time; draw from key only")
    if not traces_alike(lambda runner, given: outputs(agent, runner, given), runner, (runner.obs, memory)):
        return fault("network", "apply traces to a different program each time: it draws or counts in Python")
    size = sum(x.size for x in jax.tree.leaves(runner.train_state.params))
    return well("network", f"{size:,} parameters; init and apply always trace to the same program")


def check_rows(lesson: Lesson) -> Finding:
    """Checks that the outputs for one observation do not depend on the others in the batch."""
    difference = first_difference(lesson.alone, lesson.batched)
    if difference:
        return fault(
            "rows",
            f"the outputs of a row depend on other rows of its batch: {difference}; do not average over leading axes",
        )
    return well("rows", "the outputs of each observation depend on it alone")


def check_ratio(name: str, lesson: Lesson) -> Finding:
    """Checks that learning starts from the policy that acted: ratio 1, and the same values."""
    log_ratio, change = float(lesson.looked.policy_loss), float(lesson.looked.value_loss)
    ended = int(lesson.looked.episodes)
    if not (log_ratio <= ROUNDING and change <= ROUNDING * max(1.0, value_scale(lesson))):
        remedy = (
            "replay must be apply along time, from start where an episode begins" if name == "replay" else "see rows"
        )
        return fault(
            name,
            f"the policy that learns did not act: log ratio {log_ratio:.2g}, values {change:.2g} off; {remedy}",
        )
    return well(name, f"log ratio 0 within {log_ratio:.0e} nats, values within {change:.0e}, {ended:,} episodes ended")


def value_scale(lesson: Lesson) -> float:
    """The largest value, which rounding grows with."""
    return float(np.max(np.abs(np.asarray(lesson.batched["value"]))))


def check_update(lesson: Lesson) -> Finding:
    """Checks that everything stays finite and that every parameter changes."""
    before, after = lesson.before.train_state, lesson.after.train_state
    for what, state in (("init", before.params), ("the first update", (after.params, after.opt_state))):
        for path, x in jax.tree_util.tree_leaves_with_path(state):
            if not np.all(np.isfinite(np.asarray(x))):
                return fault(
                    "update",
                    f"{jax.tree_util.keystr(path)} is not finite after {what}; check the network and the rewards",
                )
    pairs = zip(jax.tree_util.tree_leaves_with_path(before.params), jax.tree.leaves(after.params), strict=True)
    still = [jax.tree_util.keystr(path) for (path, x), y in pairs if np.array_equal(np.asarray(x), np.asarray(y))]
    if still:
        return note("update", f"the first update did not change {', '.join(still[:4])}; does the loss depend on it?")
    return well("update", "finite, and every parameter changed")
