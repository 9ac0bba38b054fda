# %% [markdown]
# # Gradients through updates
#
# The whole of PPO is one differentiable function: the critic's loss after K updates has a gradient with respect to the
# learning rate of these updates. This notebook checks that gradient against finite differences, and then follows it.
#
# What this gradient is: all noise is fixed by the key, so an action of a Gaussian policy is a differentiable function
# of the policy, and so is everything that a smooth environment returns. The gradient goes through the rollouts as
# well. It is the derivative of the whole computation, which is what finite differences measure.
#
# What it is not: with discrete actions a sample either jumps or stays, and the gradient misses how a change of the
# policy changes the data. Meta-gradients as in Xu et al. (2018) leave this out on purpose; Foerster et al. (2018) have
# an estimator that includes it. The gradient also does not go through gymnax's environments, whose `step` stops the
# gradient of state and observation; hence the environment below.

# %%
import jax
import jax.numpy as jnp
import numpy as np

import purejaxppo as pjp

UPDATES, META_STEPS = 4, 15


class PointMass:
    """A mass on a line, pushed towards 0 for 40 steps."""

    default_params = None
    observation_space = pjp.Box((2,), (-np.inf,) * 2, (np.inf,) * 2)
    action_space = pjp.Box((1,), (-10.0,), (10.0,))

    def reset(self, key, params):
        state = jax.random.uniform(key, (2,), minval=-1.0, maxval=1.0)
        return state, (state, 0)

    def step(self, key, state, action, params):
        (position, velocity), time = state
        velocity = velocity + 0.1 * action[0]
        position = position + 0.1 * velocity
        reward = -(position**2) - 0.1 * velocity**2 - 0.01 * action[0] ** 2
        after = jnp.stack([position, velocity])
        return after, (after, time + 1), reward, False, time + 1 >= 40


env = pjp.make_env(PointMass())
config = pjp.PPOConfig(
    num_envs=8,
    num_steps=32,
    total_timesteps=8 * 32 * 64,
    update_epochs=2,
    num_minibatches=2,
    learning_rate=1e-3,
    clip_value=False,
    hidden_sizes=(32,),
    normalize_reward=True,
)
start = jax.jit(pjp.make_ppo(env, config).init)(jax.random.key(0))

# %% [markdown]
# Numbers of the config may be tracers, so the gradient is a plain `jax.grad`. We use the logarithm of the learning
# rate, because that is the scale on which one would like to learn it.


# %%
def final_loss(log_rate, gae_lambda, runner=start):
    """The critic's loss in the last of K updates, whose data the policy of the K - 1 before has gathered."""
    agent = pjp.make_ppo(env, config.replace(learning_rate=jnp.exp(log_rate), gae_lambda=gae_lambda))
    _, metrics = pjp.update_many(agent, runner, UPDATES)
    return metrics.value_loss[-1]


loss, step = jax.jit(final_loss), jax.jit(jax.value_and_grad(final_loss, argnums=(0, 1)))
here = (jnp.log(1e-3), jnp.float32(0.95))
value, gradient = step(*here)
print("final loss", value, "gradient", gradient)

# %% [markdown]
# We compare with central differences over a range of step sizes: a step that is too small is lost in the rounding of
# float32, and one that is too large in the curvature. The best of them has to agree, for both numbers.


# %%
def central_difference(argument, size):
    ahead, behind = (
        loss(*(x + sign * size if i == argument else x for i, x in enumerate(here))) for sign in (1.0, -1.0)
    )
    return (float(ahead) - float(behind)) / (2 * size)


for argument, name in enumerate(("log learning rate", "lambda")):
    exact = float(gradient[argument])
    errors = {}
    for size in (1e-1, 3e-2, 1e-2, 3e-3, 1e-3):
        errors[size] = abs(central_difference(argument, size) - exact) / abs(exact)
        print(f"{name}: step {size:g}, relative difference {errors[size]:.2%}")
    assert min(errors.values()) < 0.02, (name, exact, errors)

# %% [markdown]
# Now we follow the gradient: plain gradient descent on the logarithm of the learning rate, through K updates each
# time. The keys are the same each time, so this finds the best rate for these data. The second number shows whether
# that rate is better with other keys too.

# %%
log_rate, course = here[0], []
for _ in range(META_STEPS):
    value, (direction, _) = step(log_rate, here[1])
    course.append(float(value))
    log_rate = log_rate - 0.3 * jnp.sign(direction)  # the sign alone: the slope changes by orders of magnitude
print("final loss", np.round(course, 4), "learning rate", float(jnp.exp(log_rate)))
assert min(course) < 0.8 * course[0]

others = jax.jit(jax.vmap(pjp.make_ppo(env, config).init))(pjp.seed_keys(7, 8))
on_others = jax.jit(jax.vmap(final_loss, in_axes=(None, None, 0)))

before, after = on_others(*here, others), on_others(log_rate, here[1], others)
print(f"on 8 other keys: {before.mean():.4f} with the first rate, {after.mean():.4f} with the learned one")
assert after.mean() < before.mean()
