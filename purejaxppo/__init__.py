"""PPO in JAX as pure functions over vectorised environments."""

# ruff: noqa: E402
import gc
import importlib
from typing import TYPE_CHECKING, Any

_THRESHOLDS = gc.get_threshold()
gc.set_threshold(1_000_000)  # what imports make stays: looking for garbage in it takes 0.07 s of 0.9

from purejaxppo.envs import (
    Box,
    Discrete,
    Environment,
    MaskedObs,
    MultiDiscrete,
    SpaceTree,
    Step,
    env_names,
    make_env,
    register_env,
)
from purejaxppo.examples.keras import FullBatchConfig, FullBatchMetrics, FullBatchPPO, make_full_batch_ppo
from purejaxppo.examples.keras_display import register_keras as _register_keras
from purejaxppo.policies.actions import Actions
from purejaxppo.policies.distributions import (
    Categorical,
    DiagGaussian,
    Distribution,
    Joint,
    MultiCategorical,
    SquashedGaussian,
)
from purejaxppo.policies.networks import Network
from purejaxppo.policies.recurrent_networks import RecurrentNetwork
from purejaxppo.population.asha import make_asha
from purejaxppo.population.checkpoints import KeptStates
from purejaxppo.population.cross import CrossSweep, sweep_environments
from purejaxppo.population.halving import halving_timesteps, make_successive_halving
from purejaxppo.population.logs import LogProgress
from purejaxppo.population.options import PopulationOptions, Progress
from purejaxppo.population.pbt import make_pbt, make_retest, pbt_timesteps
from purejaxppo.population.processes import join, leave
from purejaxppo.population.results import Population, Sweep
from purejaxppo.population.run_distribution import (
    first_passages,
    normalized_scores,
    percentile_curves,
    percentile_of_runs,
    performance_profile,
    threshold_times,
)
from purejaxppo.population.search import SearchResult
from purejaxppo.population.spaces import named_space
from purejaxppo.population.statistics import Selection, aggregate, probability_of_improvement
from purejaxppo.population.sweep import draw_points, log_uniform, uniform
from purejaxppo.population.tpe import search_tpe
from purejaxppo.population.train import open_population, train_population
from purejaxppo.ppo.agent import PPO
from purejaxppo.ppo.config import Config, PPOConfig, RecurrentConfig, static
from purejaxppo.ppo.evaluate import Episode, evaluate, record_episodes
from purejaxppo.ppo.factory import make_ppo, make_train, seed_keys, update_many
from purejaxppo.ppo.gae import gae, gae_advantage, reward_to_go
from purejaxppo.ppo.losses import LossContext, ppo_loss
from purejaxppo.ppo.rollout import make_noise, rollout
from purejaxppo.ppo.shuffle import shuffled_indices
from purejaxppo.ppo.types import Batch, EpisodeState, EpisodeStats, Metrics, RunnerState, Steps, TrainState, Transition
from purejaxppo.utils.devices import use_all_cores
from purejaxppo.utils.errors import Interrupted, PPOError

if TYPE_CHECKING:  # imported when they are first used, by `__getattr__`
    from purejaxppo.cli.doctor import Finding, check_agent, check_env
    from purejaxppo.report.pictures import write_report
    from purejaxppo.report.train_run import RunOptions, train_run
    from purejaxppo.runs.export import export_policy
    from purejaxppo.runs.load import LoadedRun, load_checkpoint, load_run, load_sweep

gc.set_threshold(*_THRESHOLDS)
_register_keras()
__version__ = "0.1.0"
_LATER = {
    "purejaxppo.cli.doctor": ("Finding", "check_agent", "check_env"),
    "purejaxppo.report.pictures": ("write_report",),
    "purejaxppo.report.train_run": ("RunOptions", "train_run"),
    "purejaxppo.runs.export": ("export_policy",),
    "purejaxppo.runs.load": ("LoadedRun", "load_checkpoint", "load_run", "load_sweep"),
}


def __getattr__(name: str) -> Any:
    for module, names in _LATER.items():
        if name in names:
            return getattr(importlib.import_module(module), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


__all__ = [
    "PPO",
    "Actions",
    "Batch",
    "Box",
    "Categorical",
    "Config",
    "CrossSweep",
    "DiagGaussian",
    "Discrete",
    "Distribution",
    "Environment",
    "Episode",
    "EpisodeState",
    "EpisodeStats",
    "Finding",
    "FullBatchConfig",
    "FullBatchMetrics",
    "FullBatchPPO",
    "Interrupted",
    "Joint",
    "KeptStates",
    "LoadedRun",
    "LogProgress",
    "LossContext",
    "MaskedObs",
    "Metrics",
    "MultiCategorical",
    "MultiDiscrete",
    "Network",
    "PPOConfig",
    "PPOError",
    "Population",
    "PopulationOptions",
    "Progress",
    "RecurrentConfig",
    "RecurrentNetwork",
    "RunOptions",
    "RunnerState",
    "SearchResult",
    "Selection",
    "SpaceTree",
    "SquashedGaussian",
    "Step",
    "Steps",
    "Sweep",
    "TrainState",
    "Transition",
    "aggregate",
    "check_agent",
    "check_env",
    "draw_points",
    "env_names",
    "evaluate",
    "export_policy",
    "first_passages",
    "gae",
    "gae_advantage",
    "halving_timesteps",
    "join",
    "leave",
    "load_checkpoint",
    "load_run",
    "load_sweep",
    "log_uniform",
    "make_asha",
    "make_env",
    "make_full_batch_ppo",
    "make_noise",
    "make_pbt",
    "make_ppo",
    "make_retest",
    "make_successive_halving",
    "make_train",
    "named_space",
    "normalized_scores",
    "open_population",
    "pbt_timesteps",
    "percentile_curves",
    "percentile_of_runs",
    "performance_profile",
    "ppo_loss",
    "probability_of_improvement",
    "record_episodes",
    "register_env",
    "reward_to_go",
    "rollout",
    "search_tpe",
    "seed_keys",
    "shuffled_indices",
    "static",
    "sweep_environments",
    "threshold_times",
    "train_population",
    "train_run",
    "uniform",
    "update_many",
    "use_all_cores",
    "write_report",
]
