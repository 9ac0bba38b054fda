"""Named settings: an environment, hyperparameters, and a number of seeds."""

import dataclasses
import fnmatch
from collections.abc import Mapping
from typing import Any

from purejaxppo.ppo.config import Config, PPOConfig, RecurrentConfig
from purejaxppo.utils.errors import PPOError
from purejaxppo.utils.suggest import unknown

# The mean greedy return at which an environment counts as solved: Gymnasium's reward thresholds.
SOLVED_AT = {
    "CartPole-v0": 195.0,
    "CartPole-v1": 475.0,
    "Acrobot-v1": -100.0,
    "MountainCar-v0": -110.0,
    "MountainCarContinuous-v0": 90.0,
    "FrozenLake-misc": 0.7,
}

# The reward of every step but the one that reaches the goal.
_STEP_REWARD = {"CartPole-v0": 1.0, "CartPole-v1": 1.0, "Acrobot-v1": -1.0, "MountainCar-v0": -1.0}


def solved_at(env: str, env_params: Mapping[str, Any]) -> float | None:
    """The return at which an environment with these parameters counts as solved; None if that is not known.

    It is also None if each step pays the same and the time limit puts that return out of reach, or gives it to every
    policy.
    """
    threshold, limit = SOLVED_AT.get(env), env_params.get("max_steps_in_episode")
    if threshold is None or limit is None or env not in _STEP_REWARD:
        return threshold
    at_limit = limit * _STEP_REWARD[env]  # the return of an episode that lasts until the limit
    tells = at_limit >= threshold if _STEP_REWARD[env] > 0 else at_limit < threshold
    return threshold if tells else None


@dataclasses.dataclass(frozen=True)
class Preset:
    """The settings that `purejaxppo train --preset NAME` starts from."""

    summary: str
    env: str
    config: Config
    num_seeds: int
    family: str | None = None  # pattern of the environments that it is the default for


_SMALL = PPOConfig(num_envs=16, num_steps=64)
# Close to the best of `python benchmarks/solve.py search`; the safest of eight such settings: on 512 other seeds, as
# `solve.py check --seeds 512 --first-seed 2000` trains them, all solved it.
_FAST = _SMALL.replace(
    total_timesteps=80_000, num_minibatches=4, hidden_sizes=(64,), learning_rate=7e-3, ent_coef=0.0, clip_value=False
)
_RECURRENT = RecurrentConfig(num_envs=16, num_steps=64, total_timesteps=40_960, learning_rate=3e-3, clip_value=False)
# Four epochs of eight minibatches on 2,048 steps, with observations normalised; the next five share them.
_NORMALISED = PPOConfig(
    num_envs=16, num_steps=128, update_epochs=4, num_minibatches=8, learning_rate=1e-3, ent_coef=0.0, normalize_obs=True
)
_ACROBOT = _NORMALISED.replace(total_timesteps=400_000)
# -1 in every step until the goal: lambda near 1 carries the goal's news far, and the scale of the return is unknown.
_MOUNTAIN_CAR = _NORMALISED.replace(total_timesteps=600_000, gae_lambda=0.98, normalize_reward=True)
# Pushing costs and only the goal pays: 32 environments find it by chance, and a long horizon makes it worth its price.
_MOUNTAIN_CAR_CONTINUOUS = _NORMALISED.replace(num_envs=32, total_timesteps=400_000, gamma=0.999, normalize_reward=True)
_PENDULUM = _NORMALISED.replace(
    total_timesteps=400_000, update_epochs=10, num_minibatches=16, gamma=0.95, normalize_reward=True
)
# Goals lie where the arm or the swimmer is soon: a short horizon.
_REACHER = _NORMALISED.replace(total_timesteps=400_000, gamma=0.95)
_CATCH = PPOConfig(num_envs=16, num_steps=32, total_timesteps=100_000, learning_rate=2e-3)
# One path of 2^8 pays: with 64 environments almost every seed meets it by chance.
_DEEP_SEA = _CATCH.replace(num_envs=64, total_timesteps=300_000)
# The first action decides what the last step pays, and the steps between pay at random: nothing is discounted.
_UMBRELLA_CHAIN = _SMALL.replace(total_timesteps=51_200, learning_rate=3e-3, gamma=1.0)
_DISCOUNTING_CHAIN = _SMALL.replace(num_steps=100, total_timesteps=80_000, learning_rate=2e-3)
_FOUR_ROOMS = _SMALL.replace(total_timesteps=100_000, learning_rate=2e-3)
# The ice takes two thirds of the steps elsewhere; only the goal pays, whenever it is reached: nothing is discounted.
_FROZEN_LAKE = _SMALL.replace(total_timesteps=150_000, learning_rate=3e-3, gamma=1.0, gae_lambda=0.98, ent_coef=0.02)
# Small enough for a CPU: a million steps, and one trunk of a convolution and a hidden layer.
_MINATAR = PPOConfig(num_envs=32, num_steps=32, total_timesteps=1_000_000, update_epochs=3, num_minibatches=8).replace(
    learning_rate=2e-3, activation="relu", share_trunk=True, hidden_sizes=(64,)
)

# Small enough for a CPU: most tasks of Brax and Playground pay in each of 1,000 steps.
_PHYSICS = _NORMALISED.replace(
    num_envs=64, num_steps=32, total_timesteps=500_000, update_epochs=8, num_minibatches=16, normalize_reward=True
)

# The size of the rewards differs from puzzle to puzzle, and so does that of the observed numbers.
_PUZZLES = _NORMALISED.replace(num_envs=32, num_steps=64, total_timesteps=1_000_000, normalize_reward=True)

# Enough for DoorKey of 5 x 5 on a CPU.
_MINIGRID = _SMALL.replace(
    total_timesteps=200_000, learning_rate=2e-3, activation="relu", share_trunk=True, hidden_sizes=(64,)
)

# The PPO of the authors' baselines (github.com/MichaelTMatthews/Craftax_Baselines, ppo.py), with the rollouts of their
# runs of a million steps. A billion steps take their 1,024 environments and 64 steps.
_CRAFTAX = PPOConfig(
    num_envs=256,
    num_steps=16,
    total_timesteps=1_000_000,
    num_minibatches=8,
    learning_rate=2e-4,
    gae_lambda=0.8,
    max_grad_norm=1.0,
    hidden_sizes=(512, 512, 512),
)

_BY_ENV = {
    "acrobot": ("Acrobot-v1", _ACROBOT),
    "mountaincar": ("MountainCar-v0", _MOUNTAIN_CAR),
    "mountaincar-continuous": ("MountainCarContinuous-v0", _MOUNTAIN_CAR_CONTINUOUS),
    "pendulum": ("Pendulum-v1", _PENDULUM),
    "catch": ("Catch-bsuite", _CATCH),
    "deepsea": ("DeepSea-bsuite", _DEEP_SEA),
    "umbrellachain": ("UmbrellaChain-bsuite", _UMBRELLA_CHAIN),
    "discountingchain": ("DiscountingChain-bsuite", _DISCOUNTING_CHAIN),
    "reacher": ("Reacher-misc", _REACHER),
    "fourrooms": ("FourRooms-misc", _FOUR_ROOMS),
    "frozenlake": ("FrozenLake-misc", _FROZEN_LAKE),
}

PRESETS = {
    "fast": Preset("fewest seconds to solve CartPole-v1", "CartPole-v1", _FAST, 16, "CartPole-*"),
    "cartpole": Preset("the same settings as fast", "CartPole-v1", _FAST, 16),
    "cleanrl": Preset("CleanRL's and PureJaxRL's CartPole script", "CartPole-v1", PPOConfig(), 16),
    **{name: Preset(env, env, config, 16, f"{env.split('-')[0]}-*") for name, (env, config) in _BY_ENV.items()},
    "minatar": Preset("the MinAtar games", "Breakout-MinAtar", _MINATAR, 4, "*-MinAtar"),
    "pgx-minatar": Preset("Pgx's MinAtar games", "pgx/minatar-breakout", _MINATAR, 4, "pgx/minatar-*"),
    "brax": Preset("Brax, on a CPU", "brax/inverted_pendulum", _PHYSICS, 4, "brax/*"),
    "playground": Preset("MuJoCo Playground, on a CPU", "playground/CartpoleBalance", _PHYSICS, 1, "playground/*"),
    "jumanji": Preset("the puzzles of Jumanji", "jumanji/Game2048-v1", _PUZZLES, 4, "jumanji/*"),
    "navix": Preset("the MiniGrid tasks of Navix", "navix/Navix-DoorKey-5x5-v0", _MINIGRID, 4, "navix/*"),
    "xminigrid": Preset("the tasks of XLand-MiniGrid", "xminigrid/MiniGrid-DoorKey-5x5", _MINIGRID, 4, "xminigrid/*"),
    "craftax": Preset(
        "Craftax, as in its authors' baselines", "craftax/Craftax-Classic-Symbolic-v1", _CRAFTAX, 4, "craftax/*"
    ),
    "recurrent": Preset(
        "a GRU policy, for what has to be remembered", "MemoryChain-bsuite", _RECURRENT, 8, "MemoryChain-*"
    ),
}


def find_preset(name: str) -> Preset:
    """The preset of this name. Raises PPOError for an unknown name, and gives the nearest."""
    if name not in PRESETS:
        raise PPOError(unknown("preset", name, list(PRESETS)))
    return PRESETS[name]


def default_preset(env: str | None) -> str:
    """The default preset of an environment: that of its family, or `cleanrl`; without an environment `fast`."""
    if env is None:
        return "fast"
    fitting = (name for name, preset in PRESETS.items() if preset.family and fnmatch.fnmatchcase(env, preset.family))
    return next(fitting, "cleanrl")


def shown_preset(name: str, config: Config) -> str:
    """The name of a preset for people, and whether the config differs from it in more than its length."""
    base = PRESETS[name].config if name in PRESETS else None
    length = {"total_timesteps": config.total_timesteps}
    is_same = type(base) is type(config) and vars(base) | length == vars(config)
    return f"preset {name}" if is_same else f"preset {name}, changed"
