"""Where the time of one update goes: microseconds per environment step of each phase, seeds together under vmap.

taskset -c 0 python benchmarks/phases.py [--seeds 8]
"""

import argparse
import functools
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

import purejaxppo as pjp
from purejaxppo.ppo import learn, make_batch, sample_action
from purejaxppo.rollout import make_noise, rollout
from purejaxppo.types import Batch, PyTree, RunnerState
from purejaxppo.update import shuffled_indices

REPEATS, CALLS = 5, 20


def time_phase(name: str, phase: Callable[..., Any], *arguments: PyTree) -> Any:
    """Prints the best of a few repetitions, and returns what the phase gives. arguments: [S, ...]"""
    compiled = jax.jit(jax.vmap(phase))
    result = jax.block_until_ready(compiled(*arguments))
    seconds = []
    for _ in range(REPEATS):
        started = time.perf_counter()
        for _ in range(CALLS):
            result = compiled(*arguments)
        jax.block_until_ready(result)
        seconds.append((time.perf_counter() - started) / CALLS)
    num_steps = len(jax.tree.leaves(arguments)[0]) * pjp.PPOConfig().batch_size
    print(f"{name:44}{1e6 * min(seconds) / num_steps:8.3f}", flush=True)
    return result


def step_gradients(agent: pjp.PPO, runner: RunnerState, batch: Batch) -> PyTree:
    """The forward and backward passes of all epochs, each applied plainly so that none can be left out."""
    config = agent.config
    minibatches = jax.tree.map(lambda x: x.reshape(config.num_minibatches, -1, *x.shape[1:]), batch)

    def loss(params: PyTree, minibatch: Batch) -> jax.Array:
        parameters, value = agent.network.apply(params, minibatch.obs)
        return pjp.ppo_loss(
            agent.actions.distribution(parameters),
            value,
            minibatch,
            clip_eps=config.clip_eps,
            vf_coef=config.vf_coef,
            ent_coef=config.ent_coef,
        )[0]

    def descend(params: PyTree, i: jax.Array) -> tuple[PyTree, None]:
        minibatch = jax.tree.map(lambda x: x[i % config.num_minibatches], minibatches)
        gradient = jax.grad(loss)(params, minibatch)
        return jax.tree.map(lambda p, g: p - 1e-4 * g, params, gradient), None

    steps = jnp.arange(config.update_epochs * config.num_minibatches)
    return jax.lax.scan(descend, runner.train_state.params, steps)[0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=8)
    options = parser.parse_args()
    env, config = pjp.make_env("CartPole-v1"), pjp.PPOConfig()
    agent, shape = pjp.make_ppo(env, config), (config.num_steps, config.num_envs)
    runners = jax.jit(jax.vmap(agent.init))(pjp.seed_keys(0, options.seeds))

    print(f"{options.seeds} seeds{'us per step':>48}")
    time_phase("whole update", agent.update, runners)
    noise = time_phase("noise", lambda runner: make_noise(env, agent.actions.noise, runner.key, shape), runners)
    _, transitions, logits, _ = time_phase(
        "rollout",
        lambda runner, noise: rollout(env, functools.partial(sample_action, agent, runner.train_state), runner, noise),
        runners,
        noise,
    )
    batch = time_phase(
        "values, advantages, log-probabilities",
        lambda runner, steps, logits: make_batch(agent, runner.train_state, steps, logits, steps.reward),
        runners,
        transitions,
        logits,
    )
    time_phase(
        "learning",
        lambda runner, batch: learn(agent, jnp.float32(1e-4), runner.train_state, batch, runner.key),
        runners,
        batch,
    )
    time_phase("of which forward and backward", functools.partial(step_gradients, agent), runners, batch)
    time_phase(
        "of which permutations",
        lambda runner: shuffled_indices(runner.key, config.update_epochs, config.num_minibatches, config.batch_size),
        runners,
    )


if __name__ == "__main__":
    main()
