"""Named settings: an environment, hyperparameters and a number of seeds, each with what it is for."""

import dataclasses

from purejaxppo.config import PPOConfig, unknown
from purejaxppo.types import PPOError

# Mean greedy return from which an environment counts as solved: Gymnasium's reward thresholds.
SOLVED_AT = {
    "CartPole-v0": 195.0,
    "CartPole-v1": 475.0,
    "Acrobot-v1": -100.0,
    "MountainCar-v0": -110.0,
    "MountainCarContinuous-v0": 90.0,
}


@dataclasses.dataclass(frozen=True)
class Preset:
    """What `purejaxppo train --preset NAME` starts from."""

    summary: str
    env: str
    config: PPOConfig
    num_seeds: int


_FAST = PPOConfig(
    num_envs=16,
    num_steps=128,
    total_timesteps=204_800,
    learning_rate=1e-3,
    gae_lambda=0.95,
    clip_value=False,
)

PRESETS = {
    "fast": Preset("fewest seconds to solve CartPole-v1", "CartPole-v1", _FAST, 16),
    "cartpole": Preset("the same settings as fast", "CartPole-v1", _FAST, 16),
    "cleanrl": Preset("CleanRL's and PureJaxRL's CartPole script", "CartPole-v1", PPOConfig(), 16),
}


def find_preset(name: str) -> Preset:
    """The preset of a name. Raises PPOError for an unknown one, with the nearest."""
    if name not in PRESETS:
        raise PPOError(unknown("preset", name, list(PRESETS)))
    return PRESETS[name]
