# %% [markdown]
# # Quickstart
#
# This notebook trains thirty-two seeds of CartPole in one compiled program, scores them with a confidence interval,
# and takes one policy out.
#
# The file is a notebook in jupytext's percent format, and also a plain Python script. `jupytext --to ipynb
# quickstart.py` converts it to a notebook.

# %%
import tempfile
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

import purejaxppo as pjp
from purejaxppo.report import plot_curves

NUM_SEEDS, UPDATES = 32, 78

# %% [markdown]
# A training is a pure function of a key, and `vmap` trains many seeds.

# %%
env = pjp.make_env("CartPole-v1")
config = pjp.PPOConfig(
    num_envs=16,
    num_steps=64,
    total_timesteps=16 * 64 * UPDATES,
    learning_rate=7e-3,
    ent_coef=0.0,
    clip_value=False,
    hidden_sizes=(64,),
)
train = jax.jit(jax.vmap(pjp.make_train(env, config)))
runners, metrics = train(pjp.seed_keys(0, NUM_SEEDS))
print(metrics.episode_return_mean.shape, "seeds, updates")

# %% [markdown]
# To score the seeds, play greedy episodes with every seed's final policy. The interquartile mean comes with its
# bootstrap interval.

# %%
agent = pjp.make_ppo(env, config)
evaluate = jax.jit(jax.vmap(lambda runner, key: pjp.evaluate(agent, runner.train_state, key, num_episodes=16)))
returns, lengths = evaluate(runners, pjp.seed_keys(1, NUM_SEEDS))
scores = np.asarray(returns.mean(axis=1))
found = pjp.aggregate(scores, target=475.0)
print(f"IQM {found.iqm.estimate:.1f} (95% interval {found.iqm.low:.1f} to {found.iqm.high:.1f})")
print(f"solved: {np.sum(scores >= 475)} of {NUM_SEEDS}")
assert found.iqm.low > 400

# %%
folder = Path(tempfile.mkdtemp())
steps = np.asarray(metrics.timesteps[0])
plot_curves(steps, np.asarray(metrics.episode_return_mean), folder / "curves.png", title="CartPole-v1", solved_at=475.0)
print((folder / "curves.png").stat().st_size, "bytes of learning curves")

# %% [markdown]
# To take one policy out of the population, index the pytree.

# %%
best = int(scores.argmax())
one = jax.tree.map(lambda x: x[best], runners)
obs = jnp.array([0.0, 0.0, 0.15, 1.0])  # the pole falls to the right
action = agent.act(one.train_state, obs)
print("seed", best, "pushes", ("left", "right")[int(action)])
assert int(action) == 1

# %% [markdown]
# `train_population` does all of this on all cores, in chunks that fit in memory, and writes results to disk as it
# goes. If it is interrupted, the same call again continues where it stopped.

# %%
population = pjp.train_population(
    env, config.replace(total_timesteps=16 * 64 * 10), num_seeds=4, evaluation_episodes=20, out=folder / "population"
)
print(population.final_returns())
print(population.seed(population.best()).train_state.update)
