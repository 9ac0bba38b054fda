"""rejax's PPO, timed: whole trainings of vmapped seeds, compilation and evaluation left out.

    python benchmarks/peers/rejax_ppo.py --seeds 16 --timesteps 100000 --json OUT

Needs rejax and gymnax 0.0.9, whose step returns the five values that it unpacks. What differs and cannot be set: Adam's
epsilon is 1e-8, gradients are clipped element by element, actor and critic have an optimizer each, layers start from
flax's defaults instead of orthogonal ones, and a time limit is a termination. The return of a seed is the mean of 128
sampled episodes after training.
"""
# pyright: reportMissingImports=false

from typing import Any

import jax
import numpy as np
import optax
from common import Task, make_parser, make_task, timed, write_report
from rejax import PPO
from rejax.evaluate import evaluate

BEST_NUM_ENVS = 64  # its own default


def make_agent(task: Task) -> Any:
    """The algorithm without evaluations on the way."""
    num_steps = task.num_updates * task.num_epochs * task.num_minibatches
    agent = PPO.create(
        env="CartPole-v1",
        agent_kwargs={"activation": "tanh", "hidden_layer_sizes": (64, 64)},
        total_timesteps=task.num_updates * task.batch_size,
        eval_freq=task.num_updates * task.batch_size,
        skip_initial_evaluation=True,
        num_envs=task.num_envs,
        num_steps=task.num_steps,
        num_epochs=task.num_epochs,
        num_minibatches=task.num_minibatches,
        learning_rate=optax.linear_schedule(task.learning_rate, 0.0, num_steps),
        max_grad_norm=task.max_grad_norm,
        gamma=task.gamma,
        gae_lambda=task.gae_lambda,
        clip_eps=task.clip_eps,
        vf_coef=task.vf_coef,
        ent_coef=task.ent_coef,
    )
    return agent.replace(eval_callback=lambda agent, state, key: ())


def main() -> None:
    options = make_parser(__doc__).parse_args()
    task = make_task(options, BEST_NUM_ENVS)
    agent = make_agent(task)
    train = jax.jit(jax.vmap(lambda key: agent.train(key)[0]))
    keys = jax.random.split(jax.random.PRNGKey(0), task.seeds)
    compiled, compile_seconds = timed(lambda: train.lower(keys).compile())
    states, seconds = timed(lambda: jax.block_until_ready(compiled(keys)))
    play = jax.jit(jax.vmap(lambda state, key: evaluate(agent.make_act(state), key, agent.env, agent.env_params)[1]))
    returns = np.asarray(play(states, keys)).mean(axis=1)
    packages = ("rejax", "jax", "gymnax", "flax")
    write_report(
        options.json,
        task,
        seconds=seconds,
        compile_seconds=compile_seconds,
        returns=returns.tolist(),
        packages=packages,
    )


if __name__ == "__main__":
    main()
