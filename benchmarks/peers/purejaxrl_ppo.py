"""PureJaxRL's PPO, from a checkout of it, timed: whole trainings of vmapped seeds, compilation left out.

    python benchmarks/peers/purejaxrl_ppo.py --checkout PATH --seeds 16 --timesteps 100000 --json OUT

Needs jax, flax, optax, distrax and gymnax 0.0.9, whose step returns the five values that it unpacks. A time limit is a
termination to it. The return of a seed is that of its environments' last episodes in training.
"""
# pyright: reportMissingImports=false

import sys
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import jax
import numpy as np
from common import Task, make_parser, make_task, timed, write_report

BEST_NUM_ENVS = 64  # of one run; 512 and 2048 were slower on two cores


def make_config(task: Task) -> dict[str, Any]:
    """In its names. Adam's epsilon is fixed in its code, at 1e-5."""
    return {
        "LR": task.learning_rate,
        "NUM_ENVS": task.num_envs,
        "NUM_STEPS": task.num_steps,
        "TOTAL_TIMESTEPS": float(task.timesteps),
        "UPDATE_EPOCHS": task.num_epochs,
        "NUM_MINIBATCHES": task.num_minibatches,
        "GAMMA": task.gamma,
        "GAE_LAMBDA": task.gae_lambda,
        "CLIP_EPS": task.clip_eps,
        "ENT_COEF": task.ent_coef,
        "VF_COEF": task.vf_coef,
        "MAX_GRAD_NORM": task.max_grad_norm,
        "ACTIVATION": "tanh",
        "ENV_NAME": "CartPole-v1",
        "ANNEAL_LR": True,
        "DEBUG": False,
    }


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--checkout", type=Path, required=True, help="folder of the repository")
    options = parser.parse_args()
    task = make_task(options, BEST_NUM_ENVS)
    sys.path.insert(0, str(options.checkout / "purejaxrl"))
    for name in ("brax", "brax.envs", "brax.envs.wrappers", "brax.envs.wrappers.training", "navix"):
        sys.modules.setdefault(name, MagicMock())  # wrappers.py imports them; ppo.py never uses them
    from ppo import make_train

    train = jax.jit(jax.vmap(make_train(make_config(task))))
    keys = jax.random.split(jax.random.PRNGKey(0), task.seeds)
    compiled, compile_seconds = timed(lambda: train.lower(keys).compile())
    metrics, seconds = timed(lambda: jax.block_until_ready(compiled(keys))["metrics"])
    last = np.asarray(metrics["returned_episode_returns"])[:, -1].mean(axis=(1, 2))  # [S]
    packages = ("jax", "gymnax", "flax", "distrax")
    write_report(
        options.json,
        task,
        seconds=seconds,
        compile_seconds=compile_seconds,
        returns=last.tolist(),
        packages=packages,
    )


if __name__ == "__main__":
    main()
