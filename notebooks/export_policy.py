# %% [markdown]
# # Exporting a policy
#
# This notebook saves a trained policy, including its normalisation of observations, as one file of portable bytes
# (`jax.export`, StableHLO). It works for any batch size, on CPU, CUDA and TPU, and does not need this library where it
# acts.

# %%
import subprocess
import sys
import tempfile
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

import purejaxppo as pjp

env = pjp.make_env("CartPole-v1")
config = pjp.PPOConfig(num_envs=8, num_steps=64, total_timesteps=8 * 64 * 20, normalize_obs=True, hidden_sizes=(32,))
runner, _ = jax.jit(pjp.make_train(env, config))(jax.random.key(0))
agent = pjp.make_ppo(env, config)

# %% [markdown]
# `agent.act` acts on one observation here. `vmap` makes that a batch, and a symbolic dimension a batch of any size.


# %%
def policy(obs):
    """Greedy actions. [b, 4] -> [b]"""
    return jax.vmap(lambda one: agent.act(runner.train_state, one))(obs)


batch = jax.ShapeDtypeStruct((*jax.export.symbolic_shape("b"), 4), jnp.float32)
exported = jax.export.export(jax.jit(policy), platforms=("cpu", "cuda", "tpu"))(batch)
place = Path(tempfile.mkdtemp()) / "policy.stablehlo"
place.write_bytes(exported.serialize())
print(exported.platforms, exported.in_avals, place.stat().st_size, "bytes")

# %% [markdown]
# A process that imports jax, and neither this library nor flax, loads the policy and acts:

# %%
program = """
import sys, pathlib, numpy as np
from jax import export
policy = export.deserialize(pathlib.Path(sys.argv[1]).read_bytes())
obs = np.load(sys.argv[2])
np.save(sys.argv[3], np.asarray(policy.call(obs)))
assert "purejaxppo" not in sys.modules and "flax" not in sys.modules
"""
obs = np.random.default_rng(0).normal(size=(1_000, 4)).astype(np.float32)
np.save(place.with_name("obs.npy"), obs)
files = [str(place), str(place.with_name("obs.npy")), str(place.with_name("action.npy"))]
subprocess.run([sys.executable, "-c", program, *files], check=True)

action = np.load(place.with_name("action.npy"))
np.testing.assert_array_equal(action, jax.jit(policy)(obs))
print("the same", len(action), "actions:", np.bincount(action), "to the left and to the right")
assert len(set(action.tolist())) == 2
