"""The work of training per environment step, and the speed that the limits of a machine allow."""

import itertools
from typing import NamedTuple

from purejaxppo.ppo.config import PPOConfig


class Work(NamedTuple):
    """Work per environment step of training."""

    flop: float  # in matrix products; a multiplication and an addition are two
    tanh: float


def work_per_step(config: PPOConfig, obs_size: int, num_actions: int) -> Work:
    """The least work of PPO with two plain towers: a forward pass in the rollout, then forward and backward per epoch.

    A product [n, k] x [k, m] is 2 n k m FLOP. The backward pass costs as much as the forward pass for the weights, and
    as much again for the inputs of all layers but the first. Not counted: the optimizer, the environment, and the
    critic's values of the next observations, since all but the last of these are known already.
    """
    towers = [(obs_size, *config.hidden_sizes, num_outputs) for num_outputs in (num_actions, 1)]
    kernels = [[n * m for n, m in itertools.pairwise(sizes)] for sizes in towers]
    forward = 2 * sum(map(sum, kernels))
    backward = forward + 2 * sum(sum(kernel[1:]) for kernel in kernels)
    tanh = len(towers) * sum(config.hidden_sizes) if config.activation == "tanh" else 0
    return Work(
        flop=forward + config.update_epochs * (forward + backward),
        tanh=(1 + config.update_epochs) * tanh,
    )


def step_limit(work: Work, gflop_rate: float, gtanh_rate: float) -> float:
    """Env-steps per second of a machine with these rates, in 10^9 per second: 1 / (FLOP / rate + tanh / rate)."""
    return 1e9 / (work.flop / gflop_rate + work.tanh / gtanh_rate)
