"""Reading a run folder: a finished run or sweep, and its checkpoints. Damaged files are written anew."""

from pathlib import Path

from purejaxppo.envs import make_env
from purejaxppo.population.checkpoints import KeptStates
from purejaxppo.population.options import MakeAgent, PopulationOptions
from purejaxppo.population.results import Population, Sweep
from purejaxppo.population.store import DiskStore, missing_rows, part_name
from purejaxppo.population.tpe import open_search
from purejaxppo.population.train import open_population, settle
from purejaxppo.ppo.config import Config
from purejaxppo.runs.folder import RESULTS
from purejaxppo.runs.results import (
    EVALUATION_EPISODES,
    Finished,
    FinishedSweep,
    LoadedRun,
    as_finished,
    files_of,
    populations_of,
    settings_of,
    write_results,
)
from purejaxppo.runs.spec import RunSpec, load_spec
from purejaxppo.runs.summary import FILES, SUMMARY, digests, read_summary
from purejaxppo.utils.errors import PPOError
from purejaxppo.utils.files import as_path, check_tree
from purejaxppo.utils.validation import is_index, shown


def load_run(path: str | Path, *, make_agent: MakeAgent | None = None, config: Config | None = None) -> LoadedRun:
    """Reads the folder of a finished run. Nothing in it is executed.

    Args:
        path: the run folder.
        make_agent: the function (env, config) -> agent that the run was trained with, if there was one.
        config: a config of the class that the run was trained with, if that class is your own; by default `config` in
            the module of `make_agent`. Its values do not matter.

    Returns:
        The run, with an `agent` and a `train_state` that are ready to act and to be evaluated.

    Raises:
        PPOError: if the folder holds no finished run, if it holds a sweep, or if the `make_agent` that it needs is
            missing.
    """
    found = load_finished(as_path("path", path), make_agent, config)
    if isinstance(found, FinishedSweep):
        raise PPOError(f"{str(path)!r} is a sweep; purejaxppo report takes it, and load_sweep reads it")
    return found


def load_sweep(path: str | Path, *, make_agent: MakeAgent | None = None, config: Config | None = None) -> Sweep:
    """Reads the folder of a finished sweep.

    Args:
        path: the run folder.
        make_agent, config: as in `load_run`.

    Returns:
        The sweep.

    Raises:
        PPOError: if the folder holds no finished sweep, or a run of one setting; and as `load_run` does.
    """
    _, sweep = open_run(as_path("path", path), make_agent, config)
    if isinstance(sweep, Population):
        raise PPOError(f"{str(path)!r} is a run of one setting; read it with load_run")
    return sweep


def load_checkpoint(
    path: str | Path,
    which: str | int = "newest",
    *,
    setting: int = 0,
    make_agent: MakeAgent | None = None,
    config: Config | None = None,
) -> KeptStates:
    """Reads the states that a run has saved. The run may be unfinished.

    Args:
        path: the run folder.
        which: "newest", each seed's "best", or a number of updates.
        setting: the index of the setting in a sweep, as in `load_sweep`.
        make_agent, config: as in `load_run`.

    Returns:
        The `KeptStates` of the seeds that have such a state.

    Raises:
        PPOError: if there are no such states; and as `load_run` does.
    """
    settings = settings_of(open_run(as_path("path", path), make_agent, config)[1])
    if not is_index(setting, len(settings)):
        raise PPOError(
            f"setting = {shown(setting)} is not among the {len(settings)} of {str(path)!r}; "
            f"take 0 to {len(settings) - 1}"
        )
    return settings[setting].checkpoint(which)


def load_finished(folder: Path, make_agent: MakeAgent | None = None, config: Config | None = None) -> Finished:
    """The run or sweep in a folder. Raises PPOError as `load_run`."""
    spec, results = open_run(folder, make_agent, config)
    return as_finished(spec, results, read_summary(folder))


def mend_finished(spec: RunSpec, folder: Path) -> tuple[Finished, list[str]]:
    """Reads a finished run or sweep, and writes damaged files anew. Returns it and the names of these files.

    Raises PPOError if a result is missing or damaged, because the files are written from the results.
    """
    results = open_results(spec, folder)
    stores = {id(population.store): population.store for population in populations_of(results).values()}
    for store in stores.values():
        if isinstance(store, DiskStore):
            check_results(store, folder)
    try:
        summary = read_summary(folder)
        known, held = summary.get(FILES, {}), digests(folder, files_of(results))
        damaged = [name for name, now in held.items() if now is None or known.get(name) != now]
    except PPOError:
        summary, damaged = None, [SUMMARY]
    if damaged:
        return write_results(spec, results, folder, summary), damaged
    return as_finished(spec, results, summary), []


def check_results(store: DiskStore, folder: Path) -> None:
    """Raises PPOError if results of a finished run are missing or damaged."""
    for first, last in missing_rows(store):
        raise PPOError(
            f"{folder} is finished, and {store.folder} lacks members {first} to {last - 1}; "
            f"remove {folder / SUMMARY} to train them anew with --resume"
        )
    for part in map(part_name, store.parts()):
        for place in (store.folder / name / part for name in ("runners", "metrics", "best")):
            try:
                if place.exists() or place.parent.name != "best":
                    check_tree(place)
            except PPOError as error:
                where = store.folder / "runners" / part
                raise PPOError(
                    f"{error}; to train these members again, remove {where} and {folder / SUMMARY}"
                ) from None


def open_run(
    folder: Path, make_agent: MakeAgent | None = None, config: Config | None = None
) -> tuple[RunSpec, Population | Sweep]:
    """The spec and the results of a run folder, finished or not. Raises PPOError if it holds none."""
    spec = load_spec(folder, make_agent, config)
    return spec, open_results(spec, folder)


def open_results(spec: RunSpec, folder: Path) -> Population | Sweep:
    """The results in the folder of a run, finished or not. Raises PPOError if there are none, or another run's."""
    env = make_env(spec.env, **spec.env_params)
    options: PopulationOptions = {
        "test_seeds": spec.test_seeds,
        "evaluation_episodes": EVALUATION_EPISODES,
        "out": folder / RESULTS,
    }
    if spec.search is not None:
        if not spec.sweep:
            raise PPOError(f"{folder} is a search that has not finished; go on with purejaxppo sweep --resume {folder}")
        experiment = settle(env, spec.config, spec.num_seeds, spec.seed, spec.make_agent, options, reads=True)
        return open_search(experiment, spec.sweep, spec.search.batch)
    return open_population(
        env,
        spec.config,
        num_seeds=spec.num_seeds,
        seed=spec.seed,
        sweep=spec.sweep,
        make_agent=spec.make_agent,
        **options,
    )
