"""A2C from a config and a loss: each rollout gives one gradient step along the policy gradient.

To run it: python -m purejaxppo.examples.a2c
"""

import jax
import jax.numpy as jnp
import optax

import purejaxppo as pjp

CONFIG = pjp.PPOConfig(
    num_envs=32,
    num_steps=16,
    total_timesteps=153_600,
    update_epochs=1,
    num_minibatches=1,
    normalize_advantage=False,
)


def a2c_loss(params: dict, minibatch: pjp.Batch, context: pjp.LossContext) -> tuple[jax.Array, dict[str, jax.Array]]:
    """-mean log pi(a) A + vf_coef mean (V - R)^2 / 2 - ent_coef H (Mnih et al. 2016)"""
    parameters, value = context.apply(params, minibatch.obs)
    policy = context.distribution(parameters)
    policy_loss = -jnp.mean(policy.log_prob(minibatch.action) * minibatch.advantage)
    value_loss = 0.5 * jnp.mean(jnp.square(value - minibatch.target))
    entropy = jnp.mean(policy.entropy())
    loss = policy_loss + context.vf_coef * value_loss - context.ent_coef * entropy
    return loss, {"policy_loss": policy_loss, "value_loss": value_loss, "entropy": entropy}


def make_agent(env: pjp.Environment, config: pjp.PPOConfig) -> pjp.PPO:
    """A2C with RMSProp, as in the paper. The optimizer has its own learning rate."""
    return pjp.make_ppo(env, config, loss=a2c_loss, optimizer=optax.rmsprop(1e-3))


def main() -> None:
    """Trains four seeds of CartPole, and prints the return as it grows."""
    population = pjp.train_population(pjp.make_env("CartPole-v1"), CONFIG, num_seeds=4, make_agent=make_agent)
    print("mean returns:", jnp.nanmean(population.column("episode_return_mean"), axis=0)[::30].round(1))


if __name__ == "__main__":
    main()
