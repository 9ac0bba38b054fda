"""A model-based search over whole populations: TPE proposes a batch of settings, and one program trains them all."""

import math
import warnings
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Unpack

import numpy as np

from purejaxppo.envs.base import Environment
from purejaxppo.population.options import MakeAgent, Options, PopulationOptions, settle_options
from purejaxppo.population.results import Population, Sweep
from purejaxppo.population.search import Space, settle_space
from purejaxppo.population.statistics import iqm
from purejaxppo.population.sweep import LogUniform, Point, check_whole
from purejaxppo.population.train import check_setting, open_best, open_settings, train_best, train_settings
from purejaxppo.ppo.config import Config
from purejaxppo.utils.devices import idle_cores
from purejaxppo.utils.errors import PPOError
from purejaxppo.utils.validation import check_seed

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

    Bergstra et al. (2011), in Optuna's form over all names together. It proposes `batch` settings; one compiled program
    trains them as a population, each with all tuning seeds, and the model is told the IQM of the final returns of each.
    Within a batch, settings without a score count as bad ones (constant liar), so that the proposals differ. The first
    batch, and at least 10 settings, are drawn at random. The program is compiled once for all batches.

    With `out` each batch has a folder there. A search that was interrupted goes on where it stopped, and asks for the
    same settings again, because proposals depend on `search_seed` and the scores alone.

    Args:
        env: the environment.
        config: the hyperparameters that the space does not name.
        space: name -> `uniform(low, high)` or `log_uniform(low, high)`, for numbers of the config and
            "env.<parameter>". Fields that make another program, such as num_envs or hidden_sizes, are compared by a
            sweep.
        num_trials: how many settings to train.
        batch: settings that train together; divides `num_trials`.
        tune_seeds: seeds of each setting.
        seed: the base seed of training; seed i trains on `fold_in(key(seed), i)`.
        search_seed: of the proposals.
        make_agent, **options: as in `train_population`. `test_seeds` trains the best setting on fresh seeds.

    Returns:
        A `Sweep` of all settings, in the order in which they were asked for.

    Raises:
        PPOError: for arguments that do not fit, and without Optuna.
    """
    message = idle_cores()
    if message:
        warnings.warn(message, stacklevel=2)
    load_optuna()
    check_whole("tune_seeds", tune_seeds)
    check_setting(env, config, tune_seeds, seed)
    plan = settle_plan(env, config, SearchPlan(space, num_trials, batch, search_seed))
    settled = settle_options(config, tune_seeds, make_agent, options)
    return train_search((env, config), plan, tune_seeds, seed, settled)


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


def train_search(
    base: tuple[Environment, Config], plan: SearchPlan, tune_seeds: int, seed: int, options: Options
) -> Sweep:
    """Runs a search, or goes on with the one in `options.out`."""
    study, spent = Study(plan), None
    points: list[Point] = []
    populations: list[Population] = []
    while len(points) < plan.num_trials:
        asked = study.ask(plan.batch)
        left = plan.num_trials - len(points) - plan.batch
        ahead = (left * tune_seeds + options.test_seeds) * base[1].actual_timesteps
        of_batch = at_batch(options, len(points) // plan.batch)
        found, spent = train_settings(base, asked, tune_seeds, seed, of_batch, spent, ahead)
        study.tell([score_of(population) for population in found])
        points, populations = [*points, *asked], [*populations, *found]
    sweep = Sweep(tuple(points), tuple(populations))
    return train_best(base, sweep, seed, options, spent) if options.test_seeds else sweep


def open_search(
    base: tuple[Environment, Config], points: Sequence[Point], batch: int, num_seeds: int, seed: int, options: Options
) -> Sweep:
    """Reads the settings that a search has trained. points: those of whole batches"""
    populations: list[Population] = []
    for i in range(0, len(points), batch):
        populations += open_settings(base, points[i : i + batch], num_seeds, seed, at_batch(options, i // batch))
    sweep = Sweep(tuple(points), tuple(populations))
    return open_best(base, sweep, seed, options) if options.test_seeds else sweep


def at_batch(options: Options, index: int) -> Options:
    """The options of one batch, which has a folder of its own."""
    return options if options.out is None else options._replace(out=options.out / f"batch-{index:04d}")


def score_of(population: Population) -> float:
    """The IQM of the final returns that are finite; NaN without one."""
    returns = population.final_returns()
    known = returns[np.isfinite(returns)]
    return iqm(known) if known.size else math.nan
