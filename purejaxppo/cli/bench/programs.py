"""The programs that are timed in addition to whole trainings: machine limits, stepping, and the phases of an update.

All of them run on every device at once, each device with its own rows.
"""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from purejaxppo.cli.bench.timing import Timed
from purejaxppo.population.sharding import OverSeeds, in_turn, make_spread, seed_shardings, together
from purejaxppo.ppo.agent import PPO, assess, draw_noise, learn, make_context, play
from purejaxppo.ppo.factory import make_ppo, seed_keys
from purejaxppo.ppo.losses import ppo_loss
from purejaxppo.ppo.memory import to_samples
from purejaxppo.ppo.rollout import RolloutNoise, make_noise, rollout
from purejaxppo.ppo.shuffle import shuffled_indices
from purejaxppo.ppo.types import Batch, RunnerState, Transition
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
    seeds: int  # of which a rollout and the phases of an update are timed


def sizes_for(platform: str, quick: bool) -> Sizes:
    """Sizes that keep a device busy. On a CPU core a chain of tanh has to wait for itself; GPU threads hide that."""
    if quick:
        return Sizes(matrix=256, products=1, tanh=4096, tanh_chain=1, tanh_rounds=64, envs=64, steps=16, seeds=2)
    if platform == "cpu":
        return Sizes(matrix=2048, products=1, tanh=4096, tanh_chain=1, tanh_rounds=4096, envs=1024, steps=128, seeds=32)
    return Sizes(matrix=2048, products=64, tanh=2**22, tanh_chain=32, tanh_rounds=32, envs=2**16, steps=128, seeds=2048)


def on_devices(
    fn: Callable[..., Any], devices: Sequence[Any], *arguments: PyTree, over_seeds: OverSeeds = together
) -> Callable[[], Any]:
    """Compiles `fn` of one row for rows [S, ...] of the arguments, which are spread over the devices beforehand."""
    spread = make_spread(fn, devices, over_seeds=over_seeds)
    compiled = jax.jit(spread, compiler_options=compiler_options(devices[0].platform))
    placed = jax.device_put(arguments, seed_shardings(devices)[0])
    return lambda: compiled(*placed)


def limit_programs(sizes: Sizes, devices: Sequence[Any]) -> dict[str, Timed]:
    """Large matrix products and tanh in cache. Amounts: FLOP and tanh, over all devices."""

    def multiply(a: jax.Array) -> jax.Array:
        return jax.lax.fori_loop(0, sizes.products, lambda _, x: a @ x, a)

    def apply_tanh(x: jax.Array) -> jax.Array:
        chain = functools.reduce(lambda f, g: lambda x: f(g(x)), [jnp.tanh] * sizes.tanh_chain)
        return jax.lax.fori_loop(0, sizes.tanh_rounds, lambda _, x: chain(x), x)

    count, n = len(devices), sizes.matrix
    matrices = jax.random.normal(jax.random.key(0), (count, n, n)) / math.sqrt(n)  # so that products stay in range
    numbers = jnp.broadcast_to(jnp.linspace(-1.0, 1.0, sizes.tanh), (count, sizes.tanh))
    return {
        "sgemm": Timed(
            on_devices(multiply, devices, matrices, over_seeds=in_turn), 2.0 * n**3 * sizes.products * count
        ),
        "tanh": Timed(
            on_devices(apply_tanh, devices, numbers, over_seeds=in_turn),
            float(sizes.tanh * sizes.tanh_chain * sizes.tanh_rounds * count),
        ),
    }


def stepping_programs(agent: PPO, sizes: Sizes, devices: Sequence[Any]) -> dict[str, Timed]:
    """Steps with random actions, in our environment and in gymnax's, and with the policy. Amounts: env-steps."""
    per_device = sizes.envs * sizes.steps
    shape = {"num_envs": sizes.envs, "num_steps": sizes.steps, "num_minibatches": 1, "total_timesteps": per_device}
    wide = make_ppo(agent.env, agent.config.replace(**shape))
    keys, count = seed_keys(0, len(devices)), len(devices)
    acting = init_runners(agent, sizes.seeds * count, devices)
    gymnax_steps = make_gymnax_steps(sizes)
    return {
        "env_only": Timed(
            on_devices(functools.partial(random_rollout, wide), devices, init_runners(wide, count, devices)),
            per_device * count,
        ),
        "gymnax_step": Timed(on_devices(gymnax_steps, devices[:1], keys[:1], over_seeds=in_turn), per_device),
        "gymnax_step_spread": Timed(on_devices(gymnax_steps, devices, keys, over_seeds=in_turn), per_device * count),
        "rollout": Timed(
            on_devices(functools.partial(policy_rollout, agent), devices, acting),
            sizes.seeds * count * agent.config.batch_size,
        ),
    }


def init_runners(agent: PPO, num_seeds: int, devices: Sequence[Any]) -> RunnerState:
    """The initial states of the seeds, [S, ...]."""
    return on_devices(agent.init, devices, seed_keys(0, num_seeds))()


def random_rollout(agent: PPO, runner: RunnerState) -> tuple[PyTree, PyTree]:
    """One rollout with random actions, auto-reset included. -> (last observations, episode statistics)"""

    def draw_actions(key: jax.Array, shape: tuple[int, int]) -> jax.Array:
        return jax.random.randint(key, shape, 0, agent.actions.num_outputs)

    noise = make_noise(agent.env, draw_actions, runner.key, (agent.config.num_steps, agent.config.num_envs))
    runner, _, _, episodes = rollout(agent.env, lambda obs, action: (action, ()), runner, noise)
    return runner.obs, episodes


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


def policy_rollout(agent: PPO, runner: RunnerState) -> tuple[RunnerState, Transition, jax.Array]:
    """One rollout with the policy, its noise included. -> (runner, transitions [T, B, ...], logits [T, B, n])"""
    return act_on(agent, runner, noise_of(agent, runner))


def noise_of(agent: PPO, runner: RunnerState) -> RolloutNoise:
    """The noise of a rollout."""
    return draw_noise(agent, runner.key)


def act_on(agent: PPO, runner: RunnerState, noise: RolloutNoise) -> tuple[RunnerState, Transition, jax.Array]:
    """The rollout with this noise."""
    return play(agent, runner, noise)[:3]


def phase_programs(agent: PPO, sizes: Sizes, devices: Sequence[Any]) -> dict[str, Timed]:
    """One update of a population, whole and in parts. Amounts: env-steps.

    The parts are compiled separately, so they need not add up to the whole.
    """
    num_seeds, config = sizes.seeds * len(devices), agent.config
    runners = init_runners(agent, num_seeds, devices)
    noise = on_devices(functools.partial(noise_of, agent), devices, runners)
    act = on_devices(functools.partial(act_on, agent), devices, runners, noise())
    _, transitions, logits = act()
    judge = on_devices(functools.partial(judge_steps, agent), devices, runners, transitions, logits)
    batch = judge()
    calls = {
        "update": on_devices(agent.update, devices, runners),
        "noise": noise,
        "rollout": act,
        "values_and_gae": judge,
        "learning": on_devices(functools.partial(learn_from, agent), devices, runners, batch),
        "learning.gradients": on_devices(functools.partial(descend_plainly, agent), devices, runners, batch),
        "learning.permutations": on_devices(functools.partial(draw_permutations, agent), devices, runners),
    }
    return {f"phase.{name}": Timed(call, num_seeds * config.batch_size) for name, call in calls.items()}


def judge_steps(agent: PPO, runner: RunnerState, transitions: Transition, logits: jax.Array) -> Batch:
    """Values, advantages and log-probabilities of a rollout."""
    return to_samples(assess(agent, runner, transitions, logits, runner.key)[1])


def learn_from(agent: PPO, runner: RunnerState, batch: Batch) -> PyTree:
    """All epochs on a batch."""
    return learn(agent, jnp.float32(1e-4), runner.train_state, batch, runner.key)


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


def draw_permutations(agent: PPO, runner: RunnerState) -> jax.Array:
    """The order of the samples in each epoch."""
    config = agent.config
    return shuffled_indices(runner.key, config.update_epochs, config.num_minibatches, config.batch_size)
