"""A run's description, `RunSpec`, and config.json, which holds it."""

import dataclasses
import hashlib
import math
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

from purejaxppo.envs import make_env
from purejaxppo.envs.user_code import module_name
from purejaxppo.population.algorithms import ALGORITHMS, Algorithm, algorithm_of
from purejaxppo.population.checkpoints import KEPT as KEPT_CHECKPOINTS
from purejaxppo.population.jobs import POPULATION
from purejaxppo.population.logs import NAMES
from purejaxppo.population.options import MakeAgent
from purejaxppo.population.program import EVALUATION_SEED
from purejaxppo.population.sharding import PLACEMENTS
from purejaxppo.population.sweep import ENV, LogUniform, Point, check_whole, log_uniform, uniform
from purejaxppo.population.tpe import SearchPlan, settle_plan
from purejaxppo.ppo.config import Config
from purejaxppo.runs.folder import git_revision
from purejaxppo.runs.own_agent import agent_in_python, agent_of_run
from purejaxppo.runs.presets import solved_at
from purejaxppo.utils.errors import PPOError
from purejaxppo.utils.files import plain, read_json, versions
from purejaxppo.utils.validation import MAX_SEED, check_choice, check_seed, shown

NOT_FINITE = ("inf", "-inf", "nan")  # numbers that config.json holds as text
EARLIER = "earlier_timesteps"  # in config.json: total_timesteps before each extension of the run
OWN = "own"  # the algorithm of a config whose class is the user's own
MOST_NAMED = 8  # run folders that an error names


@dataclasses.dataclass(frozen=True)
class RunSpec:
    """Everything that is needed to repeat a run."""

    env: str
    env_params: dict[str, float]
    config: Config
    num_seeds: int
    seed: int
    preset: str
    sweep: tuple[Point, ...] | None = None
    test_seeds: int = 0  # that train the best setting of a sweep once more
    search: SearchPlan | None = None  # that asks for the settings of `sweep`; they are () until it is finished
    placement: str = "seeds"
    checkpoint_every: int | str | None = None  # this and the next three do not change the results
    keep_checkpoints: int = KEPT_CHECKPOINTS
    keep_best: bool = False
    log_names: str = "sb3"
    init_from: str | None = None  # the run whose parameters it starts from; they lie in START of its own folder
    agent: str | None = None  # FILE.py:NAME or module:NAME of an agent of the user's own
    make_agent: MakeAgent | None = dataclasses.field(default=None, repr=False, compare=False)  # the agent itself

    @property
    def algorithm(self) -> Algorithm:
        """How its agent is made and shown. An agent of the user's own is shown like PPO."""
        return algorithm_of(self.config) if self.make_agent is None else Algorithm(OWN, self.make_agent)

    @property
    def num_members(self) -> int:
        """The number of runs: seeds of all settings."""
        return self.num_seeds * (len(self.sweep or [{}]) if self.search is None else self.search.num_trials)

    @property
    def solved_at(self) -> float | None:
        """The return at which a seed has solved its task, in the first setting that has one. None if unknown."""
        found = [
            solved_at(self.env, self.env_params | {name.removeprefix(ENV): value for name, value in point.items()})
            for point in self.sweep or [{}]
        ]
        return next((threshold for threshold in found if threshold is not None), None)


# The entries of config.json that a run is repeated from, and their types.
_KINDS: dict[str, Any] = {field.name: field.type for field in fields(RunSpec) if field.compare} | {
    "algorithm": str,
    "env_params": dict,
    "config": dict,
    "sweep": list | None,
    "search": dict | None,
}


def load_spec(folder: Path, make_agent: MakeAgent | None = None, config: Config | None = None) -> RunSpec:
    """The run that config.json describes. Raises PPOError if it is missing or invalid.

    make_agent, config: as in `load_run`
    """
    if not (folder / "config.json").exists():
        if (folder / POPULATION).exists():
            raise PPOError(
                f"{str(folder)!r} was written by train_population(out=...), and is not a run folder; "
                "read it with open_population(env, config, num_seeds=..., out=...)"
            )
        below = sorted(folder.glob("*/config.json"), key=lambda path: (-path.stat().st_mtime, path))
        if below:
            named = ", ".join(str(path.parent) for path in below[:MOST_NAMED])
            raise PPOError(
                f"{str(folder)!r} is not a run folder, and holds {len(below)}; give one of them, the newest first: "
                f"{named}{', ...' if len(below) > MOST_NAMED else ''}"
            )
    spec = spec_from_json(read_json(folder / "config.json"), folder, make_agent, config)
    try:
        check_whole("num_seeds", spec.num_seeds)
        check_whole("test_seeds", spec.test_seeds, least=0)
        check_seed("seed", spec.seed, most=MAX_SEED - EVALUATION_SEED)
        make_env(spec.env, **spec.env_params)
    except PPOError as error:
        raise PPOError(f"{folder / 'config.json'}: {error}") from None
    return spec


def spec_to_json(spec: RunSpec) -> dict[str, Any]:
    """The content of config.json. Raises PPOError for a hyperparameter of the user's own that JSON cannot hold."""
    content = {field.name: getattr(spec, field.name) for field in fields(RunSpec) if field.compare} | {
        "algorithm": ALGORITHMS[type(spec.config)].name if type(spec.config) in ALGORITHMS else OWN,
        "config": to_json({field.name: getattr(spec.config, field.name) for field in fields(spec.config)}),
        "sweep": None if spec.sweep is None else [to_json(point, "sweep: ") for point in spec.sweep],
        "search": None if spec.search is None else search_to_json(spec.search),
    }
    about = {"actual_timesteps": spec.config.actual_timesteps, "versions": versions(), "git_revision": git_revision()}
    return content | about | {"code": own_code(spec)}


def own_code(spec: RunSpec) -> dict[str, str]:
    """The SHA-256 of the files that the user's environment and agent were imported from, by their names."""
    found = {}
    for text in (spec.env, spec.agent or ""):
        module = sys.modules.get(module_name(text.rpartition(":")[0]))
        source = Path(getattr(module, "__file__", None) or "")
        if source.is_file():
            found[text] = hashlib.sha256(source.read_bytes()).hexdigest()
    return found


def spec_from_json(
    content: dict[str, Any], folder: Path, make_agent: MakeAgent | None = None, config: Config | None = None
) -> RunSpec:
    """The inverse of `spec_to_json`. Raises PPOError for content that it never writes."""
    path, not_of_a_run = folder / "config.json", "it is not the config of a run"
    content = {"test_seeds": 0, "search": None} | content  # folders of earlier versions lack them
    for name, kind in _KINDS.items():
        if name not in content:
            raise PPOError(f"{path} lacks '{name}'; {not_of_a_run}")
        if not isinstance(content[name], kind) or (isinstance(content[name], bool) and kind is not bool):
            raise PPOError(f"{path}: {name} = {shown(content[name])} cannot be; {not_of_a_run}")
    points = content["sweep"]
    if points is not None and not all(isinstance(point, dict) for point in points):
        raise PPOError(f"{path}: sweep = {shown(points)} is not a list of names and values; {not_of_a_run}")
    own = None
    if content["agent"] is not None:
        own = agent_of_run(content["agent"], folder) if make_agent is None else agent_in_python(make_agent, config)
    elif make_agent is not None:
        raise PPOError(f"{folder} was trained by the agent of its config; leave out make_agent")
    try:
        check_choice("placement", content["placement"], PLACEMENTS)
        check_choice("log_names", content["log_names"], tuple(NAMES))
        config_class = find_config_class(content["algorithm"], config if own is None else own.config)
        read = config_class().replace(**from_json(content["config"]))
        search = None if content["search"] is None else search_from_json(content, read)
    except PPOError as error:
        raise PPOError(f"{path}: {error}") from None
    return RunSpec(
        config=read,
        sweep=None if points is None else tuple(map(from_json, points)),
        search=search,
        make_agent=None if own is None else own.make_agent,
        **{name: content[name] for name in _KINDS if name not in ("algorithm", "config", "sweep", "search")},
    )


def search_to_json(plan: SearchPlan) -> dict[str, Any]:
    """The search of config.json."""
    kinds = {name: "log" if isinstance(domain, LogUniform) else "uniform" for name, domain in plan.space.items()}
    return {"method": "tpe", **plan._asdict(), "space": {name: [kinds[name], *plan.space[name]] for name in kinds}}


def search_from_json(content: dict[str, Any], config: Config) -> SearchPlan:
    """The inverse of `search_to_json`. Raises PPOError for what it never writes."""
    found, makers = content["search"], {"log": log_uniform, "uniform": uniform}
    if content["sweep"] is None:
        raise PPOError(f"search = {shown(found)} cannot be without a sweep")
    try:
        check_choice("search.method", found["method"], ("tpe",))
        space = {name: makers[kind](low, high) for name, (kind, low, high) in found["space"].items()}
        plan = SearchPlan(space, *(found[name] for name in SearchPlan._fields[1:]))
    except (AttributeError, KeyError, TypeError, ValueError):
        raise PPOError(f"search = {shown(found)} cannot be") from None
    return settle_plan(make_env(content["env"], **content["env_params"]), config, plan)


def find_config_class(algorithm: str, own: Config | None) -> type[Config]:
    """The class of a run's config. Raises PPOError for an unknown algorithm, and if its class is not given."""
    known = {entry.name: config_class for config_class, entry in ALGORITHMS.items()}
    check_choice("algorithm", algorithm, (*known, OWN))
    if algorithm != OWN:
        return known[algorithm]
    if own is None:
        raise PPOError(
            "the config is of a class of your own; define `config` beside the function of --agent, or in Python give "
            "load_run(path, config=...)"
        )
    return type(own)


def to_json(values: dict[str, Any], place: str = "config.") -> dict[str, Any]:
    """Hyperparameters as JSON holds them. Raises PPOError for one that it cannot hold. place: for the message"""
    content = {}
    for name, x in values.items():
        value = plain(x)
        parts = value if isinstance(value, tuple) else [value]
        if not all(part is None or isinstance(part, int | float | str) for part in parts):
            raise PPOError(
                f"{place}{name} = {shown(x)} cannot be kept in config.json; make it a number, text or a tuple"
            )
        content[name] = [part_to_json(part) for part in parts] if isinstance(value, tuple) else part_to_json(value)
    return content


def from_json(content: dict[str, Any]) -> dict[str, Any]:
    """The inverse of `to_json`: lists are tuples again, and numbers that are not finite are numbers."""
    return {
        name: tuple(map(part_from_json, x)) if isinstance(x, list) else part_from_json(x) for name, x in content.items()
    }


def part_to_json(part: Any) -> Any:
    """A number that is not finite becomes text, and a text that says the same {"text": it}."""
    if isinstance(part, float) and not math.isfinite(part):
        return str(part)
    return {"text": part} if isinstance(part, str) and part in NOT_FINITE else part


def part_from_json(part: Any) -> Any:
    """The inverse of `part_to_json`."""
    if isinstance(part, dict) and part.keys() == {"text"}:
        return part["text"]
    return float(part) if part in NOT_FINITE else part
