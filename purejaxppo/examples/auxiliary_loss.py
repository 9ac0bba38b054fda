"""An auxiliary loss: the network also predicts the next observation, which shapes its features.

The network returns the prediction as a third value, and the loss adds its error. Every number that a loss returns by
name is a column of the metrics, the data frame and the report.

To run it: python -m purejaxppo.examples.auxiliary_loss
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

import purejaxppo as pjp


class PredictiveNetwork(nn.Module):
    """One trunk with three heads: logits, value, and a prediction of the next observation for each action."""

    num_actions: int

    @nn.compact
    def __call__(self, obs: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        """obs [..., d] -> logits [..., n], value [...], predicted next observations [..., n, d]"""
        features = nn.tanh(nn.Dense(64)(nn.tanh(nn.Dense(64)(obs))))
        logits = nn.Dense(self.num_actions, kernel_init=nn.initializers.normal(0.01))(features)
        change = nn.DenseGeneral((self.num_actions, obs.shape[-1]))(features)
        return logits, nn.Dense(1)(features)[..., 0], obs[..., None, :] + change


def predictive_loss(
    params: dict, minibatch: pjp.Batch, context: pjp.LossContext
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """`ppo_loss` and the squared error of the prediction for the action that was taken."""
    loss, terms = pjp.ppo_loss(params, minibatch, context)
    _, _, predictions = context.apply(params, minibatch.obs)
    prediction = jnp.take_along_axis(predictions, minibatch.action[:, None, None], axis=1)[:, 0]
    error = jnp.mean(jnp.square(prediction - minibatch.next_obs))
    return loss + 0.5 * error, terms | {"prediction_error": error}


def make_agent(env: pjp.Environment, config: pjp.PPOConfig) -> pjp.PPO:
    """PPO with the network and the loss above, for a flat observation and discrete actions."""
    assert isinstance(env.action_space, pjp.Discrete)
    return pjp.make_ppo(env, config, network=PredictiveNetwork(env.action_space.n), loss=predictive_loss)


def main() -> None:
    """Trains four seeds of CartPole, and prints how the error falls while the return grows."""
    env, config = pjp.make_env("CartPole-v1"), pjp.PPOConfig(num_envs=16, total_timesteps=102_400, learning_rate=2.5e-3)
    population = pjp.train_population(env, config, num_seeds=4, make_agent=make_agent)
    for name in ("episode_return_mean", "prediction_error"):
        print(name, jnp.nanmean(population.column(name), axis=0)[::5].round(4))


if __name__ == "__main__":
    main()
