"""PureJaxRL's PPO, from a checkout of it, timed: whole trainings of vmapped seeds, compilation left out.

    python benchmarks/peers/purejaxrl_ppo.py --checkout PATH --seeds 16 --timesteps 100000 --json OUT

Needs jax, flax, optax, distrax and gymnax 0.0.9, whose step returns the five values that it unpacks.
"""
# pyright: reportMissingImports=false

import argparse
import json
import sys
import time
from importlib.metadata import version
from pathlib import Path
from unittest.mock import MagicMock

import jax
import numpy as np

CONFIG = {
    "LR": 2.5e-4,
    "NUM_ENVS": 4,
    "NUM_STEPS": 128,
    "UPDATE_EPOCHS": 4,
    "NUM_MINIBATCHES": 4,
    "GAMMA": 0.99,
    "GAE_LAMBDA": 0.95,
    "CLIP_EPS": 0.2,
    "ENT_COEF": 0.01,
    "VF_COEF": 0.5,
    "MAX_GRAD_NORM": 0.5,
    "ACTIVATION": "tanh",
    "ENV_NAME": "CartPole-v1",
    "ANNEAL_LR": True,
    "DEBUG": False,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkout", type=Path, required=True, help="folder of the repository")
    parser.add_argument("--seeds", type=int, default=16)
    parser.add_argument("--timesteps", type=int, default=100_000, help="of each seed")
    parser.add_argument("--json", type=Path, required=True)
    options = parser.parse_args()
    sys.path.insert(0, str(options.checkout / "purejaxrl"))
    for name in ("brax", "brax.envs", "brax.envs.wrappers", "brax.envs.wrappers.training", "navix"):
        sys.modules.setdefault(name, MagicMock())  # wrappers.py imports them; ppo.py never uses them
    from ppo import make_train

    train = jax.jit(jax.vmap(make_train(CONFIG | {"TOTAL_TIMESTEPS": float(options.timesteps)})))
    keys = jax.random.split(jax.random.PRNGKey(0), options.seeds)
    started = time.perf_counter()
    train = train.lower(keys).compile()
    compile_seconds = time.perf_counter() - started
    started = time.perf_counter()
    metrics = jax.block_until_ready(train(keys))["metrics"]
    seconds = time.perf_counter() - started
    timesteps = options.seeds * (options.timesteps // 512) * 512
    last = np.asarray(metrics["returned_episode_returns"])[:, -1].mean(axis=(1, 2))  # [S]
    report = {
        "env_steps_per_second": timesteps / seconds,
        "compile_seconds": compile_seconds,
        "last_return_per_seed": last.tolist(),
        "versions": {name: version(name) for name in ("jax", "gymnax", "flax", "distrax")},
    }
    options.json.write_text(json.dumps(report))


if __name__ == "__main__":
    main()
