"""PPO in JAX as pure functions over vectorised environments."""

from purejaxppo.config import PPOConfig
from purejaxppo.distributions import Categorical
from purejaxppo.envs import Box, Discrete, Environment, Step, env_names, make_env
from purejaxppo.gae import gae
from purejaxppo.losses import ppo_loss
from purejaxppo.networks import Network
from purejaxppo.ppo import PPO, make_ppo, make_train, seed_keys, update_many
from purejaxppo.rollout import rollout
from purejaxppo.types import (
    Batch,
    EpisodeState,
    EpisodeStats,
    LossTerms,
    Metrics,
    PPOError,
    RunnerState,
    TrainState,
    Transition,
)

__version__ = "0.1.0"

__all__ = [
    "PPO",
    "Batch",
    "Box",
    "Categorical",
    "Discrete",
    "Environment",
    "EpisodeState",
    "EpisodeStats",
    "LossTerms",
    "Metrics",
    "Network",
    "PPOConfig",
    "PPOError",
    "RunnerState",
    "Step",
    "TrainState",
    "Transition",
    "env_names",
    "gae",
    "make_env",
    "make_ppo",
    "make_train",
    "ppo_loss",
    "rollout",
    "seed_keys",
    "update_many",
]
