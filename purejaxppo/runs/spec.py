"""A run's description, `RunSpec`, and config.json, which holds it."""

import dataclasses
import math
from pathlib import Path
from typing import Any

from purejaxppo.envs import make_env
from purejaxppo.population.algorithms import ALGORITHMS, algorithm_of
from purejaxppo.population.checkpoints import KEPT as KEPT_CHECKPOINTS
from purejaxppo.population.logs import NAMES
from purejaxppo.population.program import EVALUATION_SEED
from purejaxppo.population.sharding import PLACEMENTS
from purejaxppo.population.store import POPULATION
from purejaxppo.population.sweep import ENV, Point, check_whole
from purejaxppo.ppo.config import Config
from purejaxppo.runs.folder import git_revision, versions
from purejaxppo.runs.presets import solved_at
from purejaxppo.utils.errors import PPOError
from purejaxppo.utils.files import read_json
from purejaxppo.utils.validation import MAX_SEED, check_choice, check_seed, shown

# The entries of config.json that a run is repeated from, and their types.
_KINDS: dict[str, Any] = {
    "env": str,
    "env_params": dict,
    "algorithm": str,
    "config": dict,
    "num_seeds": int,
    "seed": int,
    "preset": str,
    "sweep": list | None,
    "placement": str,
    "checkpoint_every": int | str | None,
    "keep_checkpoints": int,
    "keep_best": bool,
    "log_names": str,
    "init_from": str | None,
}
_CAME_LATER: dict[str, Any] = {"init_from": None}  # entries that earlier versions did not write, and their defaults
MOST_NAMED = 8  # run folders that an error names


@dataclasses.dataclass(frozen=True)
class RunSpec:
    """All that is needed to repeat a run."""

    env: str
    env_params: dict[str, float]
    config: Config
    num_seeds: int
    seed: int
    preset: str
    sweep: tuple[Point, ...] | None = None
    placement: str = "seeds"
    checkpoint_every: int | str | None = None  # these four change no result
    keep_checkpoints: int = KEPT_CHECKPOINTS
    keep_best: bool = False
    log_names: str = "sb3"
    init_from: str | None = None  # the run whose parameters it starts from; they lie in START of its own folder

    @property
    def num_members(self) -> int:
        """Seeds of all settings."""
        return self.num_seeds * len(self.sweep or [{}])

    @property
    def solved_at(self) -> float | None:
        """The return from which a seed has solved its task; of a sweep, in any of its settings. None without one."""
        changed = [
            {name.removeprefix(ENV): value for name, value in point.items() if name.startswith(ENV)}
            for point in self.sweep or [{}]
        ]
        found = [solved_at(self.env, self.env_params | params) for params in changed]
        return next((threshold for threshold in found if threshold is not None), None)


def load_spec(folder: Path) -> RunSpec:
    """What a run folder says that its run is. Raises PPOError for a folder that says none that can be."""
    if (folder / POPULATION).exists() and not (folder / "config.json").exists():
        raise PPOError(
            f"{str(folder)!r} was written by train_population(out=...), and is no run folder; "
            "read it with open_population(env, config, num_seeds=..., out=...)"
        )
    if not (folder / "config.json").exists() and (below := runs_below(folder)):
        more = ", ..." if len(below) > MOST_NAMED else ""
        raise PPOError(
            f"{str(folder)!r} is no run folder, and holds {len(below)}; give one of them, the newest first: "
            f"{', '.join(map(str, below[:MOST_NAMED]))}{more}"
        )
    spec = spec_from_json(read_json(folder / "config.json"), folder)
    try:
        check_whole("num_seeds", spec.num_seeds)
        check_seed("seed", spec.seed, most=MAX_SEED - EVALUATION_SEED)
        make_env(spec.env, **spec.env_params)
    except PPOError as error:
        raise PPOError(f"{folder / 'config.json'}: {error}") from None
    return spec


def runs_below(folder: Path) -> list[Path]:
    """The run folders right below a folder, the newest first."""
    found = {path.parent: path.stat().st_mtime for path in folder.glob("*/config.json")}
    return sorted(found, key=lambda path: (-found[path], path))


def spec_to_json(spec: RunSpec) -> dict[str, Any]:
    """config.json."""
    fields = dataclasses.fields(spec.config)
    config = {field.name: _json_number(getattr(spec.config, field.name)) for field in fields}
    return {
        "env": spec.env,
        "env_params": spec.env_params,
        "algorithm": algorithm_of(spec.config).name,
        "config": config,
        "num_seeds": spec.num_seeds,
        "seed": spec.seed,
        "preset": spec.preset,
        "sweep": None if spec.sweep is None else [_json_point(point) for point in spec.sweep],
        "placement": spec.placement,
        "checkpoint_every": spec.checkpoint_every,
        "keep_checkpoints": spec.keep_checkpoints,
        "keep_best": spec.keep_best,
        "log_names": spec.log_names,
        "init_from": spec.init_from,
        "actual_timesteps": spec.config.actual_timesteps,
        "versions": versions(),
        "git_revision": git_revision(),
    }


def spec_from_json(content: dict[str, Any], folder: Path) -> RunSpec:
    """The inverse of `spec_to_json`. Raises PPOError for what that never writes."""
    path, content = folder / "config.json", _CAME_LATER | content
    for name, kind in _KINDS.items():
        if name not in content:
            raise PPOError(f"{path} lacks '{name}'; it is no run's config")
        if not isinstance(content[name], kind) or (isinstance(content[name], bool) and kind is not bool):
            raise PPOError(f"{path}: {name} = {shown(content[name])} cannot be; it is no run's config")
    points = content["sweep"]
    if points is not None and not all(isinstance(point, dict) for point in points):
        raise PPOError(f"{path}: sweep = {shown(points)} is no list of names and values; it is no run's config")
    try:
        check_choice("algorithm", content["algorithm"], tuple(algorithm.name for algorithm in ALGORITHMS.values()))
        check_choice("placement", content["placement"], PLACEMENTS)
        check_choice("log_names", content["log_names"], tuple(NAMES))
        config_class = {algorithm.name: cls for cls, algorithm in ALGORITHMS.items()}[content["algorithm"]]
        config = config_class().replace(**_python_point(content["config"]))
    except PPOError as error:
        raise PPOError(f"{path}: {error}") from None
    names = [field.name for field in dataclasses.fields(RunSpec) if field.name not in ("config", "sweep")]
    return RunSpec(
        config=config,
        sweep=None if points is None else tuple(map(_python_point, points)),
        **{name: content[name] for name in names},
    )


def _json_number(x: Any) -> Any:
    return str(x) if isinstance(x, float) and not math.isfinite(x) else x


def _json_point(point: Point) -> dict[str, Any]:
    return {name: _json_number(value) for name, value in point.items()}


def _python_point(point: dict[str, Any]) -> Point:
    return {name: _python_value(value) for name, value in point.items()}


def _python_value(x: Any) -> Any:
    if isinstance(x, list):
        return tuple(x)
    return float(x) if isinstance(x, str) and x in ("inf", "-inf", "nan") else x
