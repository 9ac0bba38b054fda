"""Named settings: an environment, hyperparameters and a number of seeds, each with what it is for."""

import dataclasses

from purejaxppo.config import PPOConfig, unknown
from purejaxppo.full_batch import FullBatchConfig
from purejaxppo.recurrent import RecurrentConfig
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
    config: PPOConfig | RecurrentConfig | FullBatchConfig
    num_seeds: int


# From `python benchmarks/solve.py search`, then the safest of its best settings on 512 other seeds: all solved it.
_FAST = PPOConfig(
    num_envs=16,
    num_steps=64,
    total_timesteps=80_000,
    num_minibatches=4,
    hidden_sizes=(64,),
    learning_rate=7e-3,
    ent_coef=0.0,
    clip_value=False,
)

_RECURRENT = RecurrentConfig(
    num_envs=16,
    num_steps=64,
    total_timesteps=40_960,
    learning_rate=3e-3,
    clip_value=False,
)

# The example's text ends an episode at 15 degrees; the environment, its own included, does at 12.
_KERAS = FullBatchConfig()

PRESETS = {
    "fast": Preset("fewest seconds to solve CartPole-v1", "CartPole-v1", _FAST, 16),
    "cartpole": Preset("the same settings as fast", "CartPole-v1", _FAST, 16),
    "cleanrl": Preset("CleanRL's and PureJaxRL's CartPole script", "CartPole-v1", PPOConfig(), 16),
    "recurrent": Preset("a GRU policy, for what has to be remembered", "MemoryChain-bsuite", _RECURRENT, 8),
    "keras": Preset("the Keras example: time limits end in value 0", "CartPole-v0", _KERAS, 1),
    "keras-bootstrap": Preset(
        "the Keras example, bootstrapping at time limits",
        "CartPole-v0",
        _KERAS.replace(bootstrap_time_limits=True),
        1,
    ),
    "keras-8": Preset(
        "the Keras example on 8 environments of 500 steps",
        "CartPole-v0",
        _KERAS.replace(num_envs=8, num_steps=500),
        1,
    ),
}


def find_preset(name: str) -> Preset:
    """The preset of a name. Raises PPOError for an unknown one, with the nearest."""
    if name not in PRESETS:
        raise PPOError(unknown("preset", name, list(PRESETS)))
    return PRESETS[name]
