# %% [markdown]
# # Evolving a loss
#
# A loss is a function that you pass, and it may have parameters of its own: here the two clip bounds, the weight of
# the entropy, and a temperature for the advantages. An evolution strategy (Salimans et al. 2017) moves them towards
# values with which short trainings end well. Every member of a generation is a whole training under `vmap`, and the
# search is one compiled program.

# %%
import jax
import jax.numpy as jnp
import numpy as np
from scipy import stats

import purejaxppo as pjp

GENERATIONS, PAIRS, UPDATES, FRESH = 8, 8, 16, 48

env = pjp.make_env("CartPole-v1")
config = pjp.PPOConfig(
    num_envs=8,
    num_steps=64,
    total_timesteps=8 * 64 * UPDATES,
    learning_rate=1e-3,
    anneal_lr=False,
    clip_value=False,
    hidden_sizes=(32,),
)

# %% [markdown]
# `theta = 0` is PPO's clipped objective with its usual numbers. The search is over factors on these numbers.


# %%
def make_loss(theta):
    """PPO's loss with its own bounds below and above, entropy weight and temperature. theta: [4], of logarithms"""
    low, high, entropy_weight, temperature = jnp.array([0.2, 0.2, 0.01, 1.0]) * jnp.exp(theta)

    def loss(params, minibatch, context):
        parameters, value = context.apply(params, minibatch.obs)
        distribution = context.distribution(parameters)
        log_ratio = distribution.log_prob(minibatch.action) - minibatch.log_prob
        ratio, advantage = jnp.exp(log_ratio), minibatch.advantage
        weight = jnp.sign(advantage) * jnp.abs(advantage / (advantage.std() + 1e-8)) ** temperature
        clipped = jnp.clip(ratio, 1.0 - jnp.minimum(low, 0.9), 1.0 + high)
        policy_loss = -jnp.mean(jnp.minimum(ratio * weight, clipped * weight))
        value_loss = 0.5 * jnp.mean((value - minibatch.target) ** 2)
        entropy = jnp.mean(distribution.entropy())
        terms = {"policy_loss": policy_loss, "value_loss": value_loss, "entropy": entropy}
        return policy_loss + context.vf_coef * value_loss - entropy_weight * entropy, terms

    return loss


def fitness(theta, key):
    """The mean return of a short training's last quarter; an update in which no episode ends does not count."""
    agent = pjp.make_ppo(env, config, loss=make_loss(theta))
    _, metrics = pjp.update_many(agent, agent.init(key), UPDATES)
    return jnp.nanmean(metrics.episode_return_mean[-UPDATES // 4 :])


# %% [markdown]
# One generation draws mirrored perturbations, trains both members of each pair with the same key, and moves the centre
# along the perturbations that won.


# %%
def generation(theta, key):
    """One step of the strategy. -> (theta, mean fitness of the generation)"""
    noise_key, training_key = jax.random.split(key)
    noise = jax.random.normal(noise_key, (PAIRS, 4))
    keys = jax.random.split(training_key, PAIRS)
    members = theta + 0.4 * jnp.concatenate([noise, -noise])
    scores = jax.vmap(fitness)(members, jnp.concatenate([keys, keys]))
    won = jnp.sign(scores[:PAIRS] - scores[PAIRS:])
    return theta + 0.4 * jnp.mean(won[:, None] * noise, axis=0), scores.mean()


search = jax.jit(lambda key: jax.lax.scan(generation, jnp.zeros(4), jax.random.split(key, GENERATIONS)))
theta, course = search(jax.random.key(0))
print("mean return by generation", np.round(course, 1))
low, high, entropy_weight, temperature = np.array([0.2, 0.2, 0.01, 1.0]) * np.exp(theta)
print(f"clip {low:.3f} below, {high:.3f} above; entropy {entropy_weight:.4f}; temperature {temperature:.2f}")

# %% [markdown]
# The evolved loss has to do well with keys that it has not seen. We compare it with PPO's own loss on the same keys.

# %%
fresh = pjp.seed_keys(99, FRESH)
compare = jax.jit(jax.vmap(fitness, in_axes=(None, 0)))
own, evolved = np.asarray(compare(jnp.zeros(4), fresh)), np.asarray(compare(theta, fresh))
p = stats.wilcoxon(evolved, own, alternative="greater").pvalue
print(f"on {FRESH} fresh keys: PPO's loss {own.mean():.1f}, the evolved one {evolved.mean():.1f} (p = {p:.2g})")
assert evolved.mean() > own.mean()
assert p < 0.05
