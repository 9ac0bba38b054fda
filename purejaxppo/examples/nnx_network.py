"""A flax.nnx network, trained by optax.adamw with a warmup.

An nnx module holds its own parameters. `nnx.split` separates them from the graph, which is constant, and `nnx.merge`
puts the two together again.

To run it: python -m purejaxppo.examples.nnx_network
"""

import jax
import jax.numpy as jnp
import optax
from flax import nnx

import purejaxppo as pjp


class Policy(nnx.Module):
    """One hidden layer, with a head for the logits and one for the value."""

    def __init__(self, num_inputs: int, num_actions: int, rngs: nnx.Rngs):
        self.hidden = nnx.Linear(num_inputs, 64, rngs=rngs)
        self.logits = nnx.Linear(64, num_actions, rngs=rngs)
        self.value = nnx.Linear(64, 1, rngs=rngs)

    def __call__(self, obs: jax.Array) -> tuple[jax.Array, jax.Array]:
        """obs [..., num_inputs] -> logits [..., num_actions], value [...]"""
        x = nnx.tanh(self.hidden(obs))
        return self.logits(x), self.value(x)[..., 0]


def make_agent(env: pjp.Environment, config: pjp.PPOConfig) -> pjp.PPO:
    """PPO with the network above, for a flat observation and discrete actions."""
    assert isinstance(env.observation_space, pjp.Box)
    assert isinstance(env.action_space, pjp.Discrete)
    sizes = (env.observation_space.shape[0], env.action_space.n)
    graph, _ = nnx.split(nnx.eval_shape(lambda: Policy(*sizes, nnx.Rngs(0))))
    network = pjp.Network(
        init=lambda key, obs: nnx.state(Policy(*sizes, nnx.Rngs(key))),
        apply=lambda params, obs: nnx.merge(graph, params)(obs),
    )
    gradient_steps = config.num_updates * config.update_epochs * config.num_minibatches
    rate = optax.warmup_cosine_decay_schedule(0.0, 3e-3, warmup_steps=gradient_steps // 10, decay_steps=gradient_steps)
    optimizer = optax.chain(optax.clip_by_global_norm(0.5), optax.adamw(rate, weight_decay=1e-4))
    return pjp.make_ppo(env, config, network=network, optimizer=optimizer)


def main() -> None:
    """Trains four seeds of CartPole, and prints the return as it grows."""
    env, config = pjp.make_env("CartPole-v1"), pjp.PPOConfig(num_envs=16, total_timesteps=102_400)
    population = pjp.train_population(env, config, num_seeds=4, make_agent=make_agent)
    print("mean returns:", jnp.nanmean(population.column("episode_return_mean"), axis=0)[::5].round(1))


if __name__ == "__main__":
    main()
