"""The whole of PPO in one file, to copy and hack: network, rollout, advantages, loss, minibatches, optimizer, metrics.

It implements the defaults of `pjp.PPOConfig` for an environment with discrete actions and a flat observation. At the
sizes of its test it gives the same bits as `pjp.make_ppo`; elsewhere XLA may round the last bit differently. The
environment, the action distribution and the shuffle come from the library. Not included: the other options of the
config, other action spaces, and the check that stops a run when its parameters become NaN or infinite.

To run it: python -m purejaxppo.examples.single_file

Axes: T steps, B environments, N = T * B samples, M samples of a minibatch. Time comes first.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple, cast

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

import purejaxppo as pjp


def orthogonal(scale: float) -> Callable[..., jax.Array]:
    """An initializer: orthonormal columns, or rows of a wide matrix, by Gram-Schmidt, times `scale`.

    Unlike `nn.initializers.orthogonal` it calls no LAPACK, which is slow under vmap over many seeds.
    """

    def init(key: jax.Array, shape: tuple[int, int], dtype: Any = jnp.float32) -> jax.Array:
        tall = (max(shape), min(shape))
        columns = orthonormal_columns(jax.random.normal(key, tall, dtype))
        return scale * (columns if shape == tall else columns.T)

    return init


@jax.jit
def orthonormal_columns(matrix: jax.Array) -> jax.Array:
    """Makes the columns orthonormal, one after the other. [m, n], m >= n -> [m, n]"""

    def orthogonalise(k: jax.Array, basis: jax.Array) -> jax.Array:
        column = matrix[:, k]
        column = column - basis @ (basis.T @ column)
        column = column - basis @ (basis.T @ column)  # removes the rounding error of the line above
        return basis.at[:, k].set(column / jnp.linalg.norm(column))

    return jax.lax.fori_loop(0, matrix.shape[1], orthogonalise, jnp.zeros_like(matrix))


def column_by_column(x: jax.Array, kernel: jax.Array, *_: Any, **__: Any) -> jax.Array:
    """[..., n] times [n, m], where m is small: on a CPU XLA takes half as long for the gradients of these products."""
    return jnp.stack([x @ column for column in kernel.T], axis=-1)


class MLP(nn.Module):
    """Dense layers with tanh between them."""

    hidden_sizes: tuple[int, ...]
    output_size: int
    output_scale: float

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[..., features] -> [..., output_size]"""
        for size in self.hidden_sizes:
            x = nn.tanh(nn.Dense(size, kernel_init=orthogonal(2**0.5))(x))
        init = orthogonal(self.output_scale)
        return nn.Dense(self.output_size, kernel_init=init, dot_general=column_by_column)(x)


class ActorCritic(nn.Module):
    """Two towers: one for the policy and one for the value."""

    hidden_sizes: tuple[int, ...]
    num_actions: int

    @nn.compact
    def __call__(self, obs: jax.Array) -> tuple[jax.Array, jax.Array]:
        """obs [..., features] -> logits [..., num_actions], value [...]"""
        logits = MLP(self.hidden_sizes, self.num_actions, 0.01, name="actor")(obs)
        value = MLP(self.hidden_sizes, 1, 1.0, name="critic")(obs)
        return logits, value[..., 0]


class Steps(NamedTuple):
    """A rollout, [T, B, ...]."""

    obs: jax.Array
    logits: jax.Array  # of the policy that acted
    action: jax.Array
    reward: jax.Array
    next_obs: jax.Array  # before an ended episode starts anew
    terminated: jax.Array
    truncated: jax.Array
    episode_return: jax.Array  # of the running episode, with this step
    episode_length: jax.Array


class Batch(NamedTuple):
    """The fields that the loss reads, [N, ...]."""

    obs: jax.Array
    action: jax.Array
    log_prob: jax.Array
    value: jax.Array
    advantage: jax.Array
    target: jax.Array


class Actors(NamedTuple):
    """The environments between two steps, [B, ...]."""

    obs: jax.Array
    env_state: Any
    episode_return: jax.Array
    episode_length: jax.Array


class Runner(NamedTuple):
    """Everything that goes from one update to the next."""

    params: Any
    opt_state: Any
    actors: Actors
    update_index: jax.Array
    key: jax.Array  # never changes: update k draws from fold_in(key, k)


def rollout(
    env: pjp.Environment, apply: Callable[..., Any], params: Any, actors: Actors, key: jax.Array, shape: tuple[int, int]
) -> tuple[Actors, Steps]:
    """Acts for T steps in B environments. An environment whose episode ends starts a new one. shape: (T, B)"""
    action_key, step_key, start_key = jax.random.split(key, 3)
    action_noise = pjp.Categorical.noise(action_key, shape)
    noise = (action_noise, jax.random.split(step_key, shape), jax.random.split(start_key, shape))
    reset = jax.vmap(env.reset, in_axes=(0, None))
    step = jax.vmap(env.step, in_axes=(0, 0, 0, None))

    def act(actors: Actors, noise: tuple[jax.Array, jax.Array, jax.Array]) -> tuple[Actors, Steps]:
        action_noise, step_keys, start_keys = noise
        logits, _ = apply(params, actors.obs)
        action = pjp.Categorical(logits).sample(action_noise)
        after = step(step_keys, actors.env_state, action, env.params)
        done = after.terminated | after.truncated
        episode_return = actors.episode_return + after.reward
        episode_length = actors.episode_length + 1
        flags = (after.terminated, after.truncated)
        steps = Steps(actors.obs, logits, action, after.reward, after.obs, *flags, episode_return, episode_length)

        def choose(start: jax.Array, running: jax.Array) -> jax.Array:
            return jnp.where(done.reshape(done.shape + (1,) * (start.ndim - 1)), start, running)

        obs, env_state = jax.tree.map(choose, reset(start_keys, env.params), (after.obs, after.state))
        return Actors(obs, env_state, jnp.where(done, 0.0, episode_return), jnp.where(done, 0, episode_length)), steps

    return jax.lax.scan(act, actors, noise)


def gae(steps: Steps, value: jax.Array, next_value: jax.Array, gamma: Any, gae_lambda: Any) -> jax.Array:
    """Generalised advantage estimation (Schulman et al. 2016, equation 16). [T, B]

    A terminated episode is worth 0 from then on. A truncated one is worth the critic's value. Both cut the sum.
    """
    delta = steps.reward + gamma * jnp.where(steps.terminated, 0.0, next_value) - value
    trace = jnp.where(steps.terminated | steps.truncated, 0.0, gamma * gae_lambda)

    def accumulate(advantage: jax.Array, step: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        delta, trace = step
        advantage = delta + trace * advantage
        return advantage, advantage

    return jax.lax.scan(accumulate, jnp.zeros_like(delta[0]), (delta, trace), reverse=True, unroll=8)[1]


def normalized(advantage: jax.Array) -> jax.Array:
    """The advantages of a minibatch with mean 0 and standard deviation 1."""
    centred = advantage - jnp.mean(advantage)
    centred = centred - jnp.mean(centred)  # removes the rounding error of the first mean
    return centred / (jnp.sqrt(jnp.mean(jnp.square(centred))) + 1e-8)


def ppo_loss(
    config: pjp.PPOConfig, apply: Callable[..., Any], params: Any, minibatch: Batch
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Clipped policy loss + vf_coef clipped value loss - ent_coef entropy (Schulman et al. 2017, equation 9)."""
    logits, value = apply(params, minibatch.obs)
    policy = pjp.Categorical(logits)
    log_ratio = policy.log_prob(minibatch.action) - minibatch.log_prob
    ratio = jnp.exp(log_ratio)
    eps = config.clip_eps

    advantage = normalized(minibatch.advantage)
    clipped_ratio = jnp.clip(ratio, 1.0 - eps, 1.0 + eps)
    policy_loss = -jnp.mean(jnp.minimum(ratio * advantage, clipped_ratio * advantage))

    clipped_value = minibatch.value + jnp.clip(value - minibatch.value, -eps, eps)
    errors = (jnp.square(value - minibatch.target), jnp.square(clipped_value - minibatch.target))
    value_loss = 0.5 * jnp.mean(jnp.maximum(*errors))

    entropy = jnp.mean(policy.entropy())
    loss = policy_loss + config.vf_coef * value_loss - config.ent_coef * entropy
    return loss, {
        "policy_loss": policy_loss,
        "value_loss": value_loss,
        "entropy": entropy,
        "approx_kl": jnp.mean(jnp.expm1(log_ratio) - log_ratio),
        "clip_fraction": jnp.mean(jnp.abs(ratio - 1.0) > eps),
    }


def make_train(env: pjp.Environment, config: pjp.PPOConfig) -> Callable[[jax.Array], tuple[Runner, dict[str, Any]]]:
    """A whole run as one function: key -> (runner, metrics [num_updates] by name). jit and vmap it as you like."""
    assert isinstance(env.action_space, pjp.Discrete)
    network = ActorCritic(config.hidden_sizes, env.action_space.n)
    apply = cast(Any, network.apply)  # flax's own type is wider
    optimizer = optax.flatten(  # one vector of parameters: fewer and larger operations
        optax.chain(optax.clip_by_global_norm(config.max_grad_norm), optax.scale_by_adam(eps=config.adam_eps))
    )

    def init(key: jax.Array) -> Runner:
        params_key, reset_key = jax.random.split(jax.random.fold_in(key, 2**32 - 1))
        reset_keys = jax.random.split(reset_key, config.num_envs)
        obs, env_state = jax.vmap(env.reset, in_axes=(0, None))(reset_keys, env.params)
        params = network.init(params_key, obs[0])
        nothing = jnp.zeros(config.num_envs)
        actors = Actors(obs, env_state, nothing, nothing.astype(jnp.int32))
        return Runner(params, optimizer.init(params), actors, jnp.int32(0), key)

    def gradient_step(batch: Batch, rate: jax.Array, learned: tuple, indices: jax.Array) -> tuple[tuple, dict]:
        params, opt_state = learned
        minibatch = jax.tree.map(lambda x: x[indices], batch)
        loss = functools.partial(ppo_loss, config, apply)
        (_, terms), gradient = jax.value_and_grad(loss, has_aux=True)(params, minibatch)
        direction, opt_state = optimizer.update(gradient, opt_state, params)
        params = optax.apply_updates(params, jax.tree.map(lambda x: -rate * x, direction))
        return (params, opt_state), terms

    def update(runner: Runner, _: None) -> tuple[Runner, dict[str, Any]]:
        params, shape = runner.params, (config.num_steps, config.num_envs)
        noise_key, shuffle_key = jax.random.split(jax.random.fold_in(runner.key, runner.update_index))
        actors, steps = rollout(env, apply, params, runner.actors, noise_key, shape)

        value, next_value = apply(params, steps.obs)[1], apply(params, steps.next_obs)[1]
        advantage = gae(steps, value, next_value, config.gamma, config.gae_lambda)
        log_prob = pjp.Categorical(steps.logits).log_prob(steps.action)
        batch = Batch(steps.obs, steps.action, log_prob, value, advantage, advantage + value)
        batch = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), batch)

        # An independent permutation for each epoch: [epochs, minibatches, M]
        indices = pjp.shuffled_indices(shuffle_key, config.update_epochs, config.num_minibatches, config.batch_size)
        rate = config.learning_rate * jnp.maximum(1.0 - runner.update_index / config.num_updates, 0.0)
        epoch = functools.partial(jax.lax.scan, functools.partial(gradient_step, batch, rate))
        (params, opt_state), terms = jax.lax.scan(epoch, (params, runner.opt_state), indices)

        runner = Runner(params, opt_state, actors, runner.update_index + 1, runner.key)
        return runner, make_metrics(runner, steps, batch, rate, jax.tree.map(jnp.mean, terms))

    def make_metrics(
        runner: Runner, steps: Steps, batch: Batch, rate: jax.Array, terms: dict[str, jax.Array]
    ) -> dict[str, jax.Array]:
        done = steps.terminated | steps.truncated
        episodes = jnp.sum(done)
        smallest = jnp.min(steps.episode_return, where=done, initial=jnp.inf)
        largest = jnp.max(steps.episode_return, where=done, initial=-jnp.inf)
        return terms | {
            "episode_return_mean": jnp.sum(steps.episode_return, where=done) / episodes,  # NaN without an episode
            "episode_return_min": jnp.where(episodes == 0, jnp.nan, smallest),
            "episode_return_max": jnp.where(episodes == 0, jnp.nan, largest),
            "episode_length_mean": jnp.sum(steps.episode_length, where=done) / episodes,
            "episodes": episodes,
            "explained_variance": 1.0 - jnp.var(batch.target - batch.value) / jnp.var(batch.target),
            "learning_rate": rate,
            "updates": runner.update_index,
        }

    return lambda key: jax.lax.scan(update, init(key), length=config.num_updates)


def main() -> None:
    """Trains four seeds of CartPole, and prints the return as it grows."""
    config = pjp.PPOConfig(num_envs=16, total_timesteps=204_800, learning_rate=2.5e-3)
    train = make_train(pjp.make_env("CartPole-v1"), config)
    _, metrics = jax.jit(jax.vmap(train))(pjp.seed_keys(0, 4))
    for k in range(9, config.num_updates, 10):
        returns = ", ".join(f"{x:5.1f}" for x in metrics["episode_return_mean"][:, k])
        print(f"{(k + 1) * config.batch_size:7,} steps: returns of the four seeds {returns}")


if __name__ == "__main__":
    main()
