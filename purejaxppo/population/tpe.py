"""A model-based search over whole populations: TPE proposes a batch of settings, and one program trains them all."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Unpack

from purejaxppo.envs.base import Environment
from purejaxppo.population.chunks import NOTHING_SPENT
from purejaxppo.population.options import Experiment, MakeAgent, PopulationOptions
from purejaxppo.population.results import Population, Sweep
from purejaxppo.population.search import Space, settle_space
from purejaxppo.population.statistics import iqm
from purejaxppo.population.sweep import LogUniform, Point, check_whole
from purejaxppo.population.train import settle, train_settings, warn_of_idle_cores, with_test
from purejaxppo.ppo.config import Config
from purejaxppo.utils.errors import PPOError
from purejaxppo.utils.validation import check_seed

BATCH = "batch-{:04d}"  # the folder of a batch
RANDOM_TRIALS = 10  # at least so many settings are drawn at random before there is a model


class SearchPlan(NamedTuple):
    """Everything that decides which settings a search asks for, beside the scores that it is told."""

    space: Space
    num_trials: int
    batch: int  # settings that train together; divides num_trials
    seed: int  # of the draws


def search_tpe(
    env: Environment,
    config: Config,
    space: Mapping[str, Any],
    *,
    num_trials: int,
    batch: int,
    tune_seeds: int,
    seed: int = 0,
    search_seed: int = 0,
    make_agent: MakeAgent | None = None,
    **options: Unpack[PopulationOptions],
) -> Sweep:
    """Searches for hyperparameters with the tree-structured Parzen estimator of Optuna (`pip install optuna`).

    Bergstra et al. (2011), in Optuna's multivariate form, which models all names jointly. In each round the model
    proposes `batch` settings, one compiled program trains them as a population, each on all tuning seeds, and the model
    receives the IQM of each setting's final returns. Within a batch, settings without a score count as bad ones
    (constant liar), so that the proposals differ. The first batch, and at least the first 10 settings, are drawn at
    random. The program is compiled once for all batches.

    With `out`, each batch has its own subfolder. An interrupted search continues where it stopped and proposes the same
    settings again, because the proposals depend only on `search_seed` and the scores.

    Args:
        env: the environment.
        config: the hyperparameters that the space does not name.
        space: name -> `uniform(low, high)` or `log_uniform(low, high)`. A name is a numeric field of the config, or
            "env.<parameter>". Fields that change the compiled program, such as num_envs or hidden_sizes, cannot be
            searched; compare their values with a sweep.
        num_trials: how many settings to train.
        batch: how many settings train together, at least 2; must divide `num_trials`.
        tune_seeds: how many seeds each setting trains on.
        seed: the base seed of training; seed i trains on `fold_in(key(seed), i)`.
        search_seed: the random seed of the proposals.
        make_agent, **options: as in `train_population`. With `test_seeds`, the best setting is trained again on fresh
            seeds.

    Returns:
        A `Sweep` of all settings, in the order in which they were proposed.

    Raises:
        PPOError: if an argument is invalid, or if Optuna is not installed.
    """
    warn_of_idle_cores()
    load_optuna()
    check_whole("tune_seeds", tune_seeds)
    experiment = settle(env, config, tune_seeds, seed, make_agent, options)
    return train_search(experiment, settle_plan(env, config, SearchPlan(space, num_trials, batch, search_seed)))


def settle_plan(env: Environment, config: Config, plan: SearchPlan) -> SearchPlan:
    """The plan with full names. Raises PPOError if it cannot be."""
    space = settle_space(env, config, plan.space)
    check_whole("num_trials", plan.num_trials)
    check_whole("batch", plan.batch, least=2)
    check_seed("search_seed", plan.seed)
    if plan.num_trials % plan.batch:
        fits = max(1, round(plan.num_trials / plan.batch)) * plan.batch
        raise PPOError(
            f"num_trials = {plan.num_trials} does not divide into batches of batch = {plan.batch}; give {fits}"
        )
    return plan._replace(space=space)


def load_optuna() -> Any:
    """The package. Raises PPOError if it is not installed."""
    try:
        import optuna
    except ImportError:
        raise PPOError(
            'a search by TPE needs optuna, which is not installed; pip install "purejaxppo[optuna]"'
        ) from None
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna


class Study:
    """The model of the scores: asks for settings, and is told their scores."""

    def __init__(self, plan: SearchPlan) -> None:
        optuna = load_optuna()
        first = max(RANDOM_TRIALS, plan.batch)
        sampler = optuna.samplers.TPESampler(
            n_startup_trials=first, multivariate=True, constant_liar=True, seed=plan.seed
        )
        self._study = optuna.create_study(direction="maximize", sampler=sampler)
        self._failed = optuna.trial.TrialState.FAIL
        self._domains = {
            name: optuna.distributions.FloatDistribution(domain.low, domain.high, log=isinstance(domain, LogUniform))
            for name, domain in plan.space.items()
        }
        self._asked: list[Any] = []

    def ask(self, batch: int) -> list[Point]:
        """The next settings to train."""
        self._asked = [self._study.ask(self._domains) for _ in range(batch)]
        return [{name: trial.params[name] for name in self._domains} for trial in self._asked]

    def tell(self, scores: Sequence[float]) -> None:
        """Tells the scores of the settings asked for last. NaN, of a setting without a return, counts as the worst."""
        known = [x for x in scores if not math.isnan(x)]
        known += [trial.value for trial in self._study.trials if trial.value is not None]
        for trial, score in zip(self._asked, scores, strict=True):
            if not known:
                self._study.tell(trial, state=self._failed)
            else:
                self._study.tell(trial, min(known) if math.isnan(score) else score)


def train_search(experiment: Experiment, plan: SearchPlan) -> Sweep:
    """Runs a search, or goes on with the one in `out`. Each batch has a folder of its own there."""
    study, spent = Study(plan), NOTHING_SPENT
    sweep = Sweep((), ())
    for i in range(plan.num_trials // plan.batch):
        asked = study.ask(plan.batch)
        left = plan.num_trials - (i + 1) * plan.batch
        ahead = (left * experiment.num_seeds + experiment.options.test_seeds) * experiment.config.actual_timesteps
        found, spent = train_settings(experiment.within(BATCH.format(i)), asked, spent, ahead)
        study.tell([iqm(population.final_returns()) for population in found])
        sweep = Sweep((*sweep.points, *asked), (*sweep.populations, *found))
    return with_test(experiment, sweep, spent)


def open_search(experiment: Experiment, points: Sequence[Point], batch: int) -> Sweep:
    """Reads the settings that a search has trained. points: those of whole batches"""
    populations: list[Population] = []
    for i in range(len(points) // batch):
        populations += train_settings(experiment.within(BATCH.format(i)), points[i * batch : (i + 1) * batch])[0]
    return with_test(experiment, Sweep(tuple(points), tuple(populations)))
