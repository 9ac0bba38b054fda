"""The programs that are timed in addition to whole trainings: machine limits, stepping, and the phases of an update.

Each program runs on every device at once, each device with its own rows.
"""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from purejaxppo.cli.bench.timing import Timed
from purejaxppo.population.program import seeds_together
from purejaxppo.population.sharding import make_spread, seed_shardings
from purejaxppo.ppo.agent import PPO, assess, draw_noise, learn, make_context, play
from purejaxppo.ppo.factory import make_ppo, seed_keys
from purejaxppo.ppo.losses import ppo_loss
from purejaxppo.ppo.memory import to_samples
from purejaxppo.ppo.rollout import make_noise, rollout
from purejaxppo.ppo.shuffle import shuffled_indices
from purejaxppo.ppo.types import Batch, RunnerState
from purejaxppo.utils.devices import compiler_options
from purejaxppo.utils.tree import PyTree


class Sizes(NamedTuple):
    """The sizes of the programs, per device."""

    matrix: int  # n of the products n x n x n
    products: int  # one after the other in a call
    tanh: int  # numbers, few enough for the cache
    tanh_chain: int  # applied to a number that stays in a register
    tanh_rounds: int  # over all numbers in a call
    envs: int  # stepped at once without a policy
    steps: int  # of each of them in a call
    seeds: int  # of which the phases of an update are timed


def sizes_for(platform: str, quick: bool) -> Sizes:
    """Sizes that keep a device busy. On a CPU core a chain of tanh has to wait for itself; GPU threads hide that."""
    if quick:
        return Sizes(matrix=256, products=1, tanh=4096, tanh_chain=1, tanh_rounds=64, envs=64, steps=16, seeds=2)
    if platform == "cpu":
        return Sizes(matrix=2048, products=1, tanh=4096, tanh_chain=1, tanh_rounds=4096, envs=1024, steps=128, seeds=32)
    return Sizes(matrix=2048, products=64, tanh=2**22, tanh_chain=32, tanh_rounds=32, envs=2**16, steps=128, seeds=2048)


def on_devices(
    fn: Callable[..., Any], devices: Sequence[Any], *arguments: PyTree, together: int | None = None
) -> Callable[[], Any]:
    """Compiles `fn` of one row for rows [S, ...] of the arguments, which are spread over the devices beforehand."""
    spread = make_spread(fn, devices, together=together)
    compiled = jax.jit(spread, compiler_options=compiler_options(devices[0].platform))
    placed = jax.device_put(arguments, seed_shardings(devices)[0])
    return lambda: compiled(*placed)


def limit_programs(sizes: Sizes, devices: Sequence[Any]) -> dict[str, Timed]:
    """Large matrix products and tanh in cache. Amounts: 10^9 FLOP and 10^9 tanh, over all devices."""

    def multiply(a: jax.Array) -> jax.Array:
        return jax.lax.fori_loop(0, sizes.products, lambda _, x: a @ x, a)

    def apply_tanh(x: jax.Array) -> jax.Array:
        chain = functools.reduce(lambda f, g: lambda x: f(g(x)), [jnp.tanh] * sizes.tanh_chain)
        return jax.lax.fori_loop(0, sizes.tanh_rounds, lambda _, x: chain(x), x)

    count, n = len(devices), sizes.matrix
    matrices = jax.random.normal(jax.random.key(0), (count, n, n)) / math.sqrt(n)  # so that products stay in range
    numbers = jnp.broadcast_to(jnp.linspace(-1.0, 1.0, sizes.tanh), (count, sizes.tanh))
    num_tanh = sizes.tanh * sizes.tanh_chain * sizes.tanh_rounds
    run = functools.partial(on_devices, together=1)
    return {
        "large matrix products": Timed(run(multiply, devices, matrices), 2e-9 * n**3 * sizes.products * count),
        "tanh in cache": Timed(run(apply_tanh, devices, numbers), 1e-9 * num_tanh * count),
    }


def stepping_programs(agent: PPO, sizes: Sizes, devices: Sequence[Any]) -> dict[str, Timed]:
    """Steps with random actions, auto-reset included: ours on all devices, gymnax's in one jit. Amounts: env-steps."""
    per_device = sizes.envs * sizes.steps
    shape = {"num_envs": sizes.envs, "num_steps": sizes.steps, "num_minibatches": 1, "total_timesteps": per_device}
    wide = make_ppo(agent.env, agent.config.replace(**shape))

    def draw_actions(key: jax.Array, shape: tuple[int, int]) -> jax.Array:
        return jax.random.randint(key, shape, 0, wide.actions.num_outputs)

    def random_rollout(runner: RunnerState) -> tuple[PyTree, PyTree]:
        noise = make_noise(wide.env, draw_actions, runner.key, (sizes.steps, sizes.envs))
        runner, _, _, episodes = rollout(wide.env, lambda obs, action: (action, ()), runner, noise)
        return runner.obs, episodes

    runners, one = init_runners(wide, len(devices), devices), devices[:1]
    gymnax_steps = on_devices(make_gymnax_steps(sizes), one, seed_keys(0, 1), together=1)
    return {
        "environment only, random actions": Timed(
            on_devices(random_rollout, devices, runners), per_device * len(devices)
        ),
        "gymnax's own step, one jit": Timed(gymnax_steps, per_device),
    }


def init_runners(agent: PPO, num_seeds: int, devices: Sequence[Any]) -> RunnerState:
    """The initial states of the seeds, [S, ...]."""
    return on_devices(agent.init, devices, seed_keys(0, num_seeds))()


def make_gymnax_steps(sizes: Sizes) -> Callable[[jax.Array], tuple[PyTree, jax.Array]]:
    """gymnax's own step with its auto-reset, vmapped in a scan: key -> (last observations, sum of rewards)"""
    import gymnax

    env, params = gymnax.make("CartPole-v1")
    reset = jax.vmap(env.reset, in_axes=(0, None))
    step = jax.vmap(env.step, in_axes=(0, 0, 0, None))

    def step_randomly(carry: tuple, key: jax.Array) -> tuple[tuple, jax.Array]:
        action_key, step_key = jax.random.split(key)
        action = jax.random.randint(action_key, (sizes.envs,), 0, 2)
        obs, state, reward = step(jax.random.split(step_key, sizes.envs), carry[1], action, params)[:3]
        return (obs, state), jnp.sum(reward)

    def steps(key: jax.Array) -> tuple[PyTree, jax.Array]:
        start = reset(jax.random.split(key, sizes.envs), params)
        (obs, _), rewards = jax.lax.scan(step_randomly, tuple(start), jax.random.split(key, sizes.steps))
        return obs, jnp.sum(rewards)

    return steps


def phase_programs(agent: PPO, sizes: Sizes, devices: Sequence[Any]) -> dict[str, Timed]:
    """One update of a population, whole and in parts. Amounts: env-steps.

    The parts are compiled separately, so they need not add up to the whole.
    """
    num_seeds, config = sizes.seeds * len(devices), agent.config
    runners, together = init_runners(agent, num_seeds, devices), seeds_together(config, num_seeds, devices)

    def compiled(fn: Callable[..., Any], *more: PyTree) -> Callable[[], Any]:
        return on_devices(fn, devices, runners, *more, together=together)

    noise = compiled(lambda runner: draw_noise(agent, runner.key))
    act = compiled(lambda runner, noise: play(agent, runner, noise)[:3], noise())
    judge = compiled(
        lambda runner, steps, logits: to_samples(assess(agent, runner, steps, logits, runner.key)[1]), *act()[1:]
    )
    batch, rate = judge(), jnp.float32(1e-4)
    calls = {
        "update": compiled(agent.update),
        "noise": noise,
        "rollout": act,
        "values and GAE": judge,
        "learning": compiled(lambda runner, batch: learn(agent, rate, runner.train_state, batch, runner.key), batch),
        "- of which gradients": compiled(functools.partial(descend_plainly, agent), batch),
        "- of which permutations": compiled(
            lambda runner: shuffled_indices(runner.key, config.update_epochs, config.num_minibatches, config.batch_size)
        ),
    }
    return {name: Timed(call, num_seeds * config.batch_size) for name, call in calls.items()}


def descend_plainly(agent: PPO, runner: RunnerState, batch: Batch) -> PyTree:
    """Forward and backward passes of all epochs, without shuffling and Adam. All gradients are used, so computed."""
    config = agent.config
    minibatches = jax.tree.map(lambda x: x.reshape(config.num_minibatches, -1, *x.shape[1:]), batch)
    context = make_context(agent, runner.train_state, runner.key)

    def loss(params: PyTree, minibatch: Batch) -> jax.Array:
        return ppo_loss(params, minibatch, context)[0]

    def descend(params: PyTree, i: jax.Array) -> tuple[PyTree, None]:
        minibatch = jax.tree.map(lambda x: x[i % config.num_minibatches], minibatches)
        gradient = jax.grad(loss)(params, minibatch)
        return jax.tree.map(lambda p, g: p - 1e-4 * g, params, gradient), None

    steps = jnp.arange(config.update_epochs * config.num_minibatches)
    return jax.lax.scan(descend, runner.train_state.params, steps)[0]
