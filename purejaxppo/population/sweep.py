"""Settings to compare: points of hyperparameters and environment parameters, and the programs that train them."""

import dataclasses
import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from purejaxppo.envs import Environment, make_env
from purejaxppo.ppo.config import Config, field_names
from purejaxppo.utils.errors import PPOError
from purejaxppo.utils.suggest import plural, unknown
from purejaxppo.utils.tree import PyTree, like_array
from purejaxppo.utils.validation import MAX_COUNT, check_seed, shown

Point = dict[str, Any]  # name -> value; "env.length" is the environment's parameter `length`
ENV = "env."


class Uniform(NamedTuple):
    """A domain of numbers, drawn evenly between two bounds."""

    low: float
    high: float


class LogUniform(NamedTuple):
    """A domain of numbers, drawn evenly in their logarithm between two bounds."""

    low: float
    high: float


Domain = Uniform | LogUniform | Sequence[Any]  # a sequence: its values are drawn evenly


class Program(NamedTuple):
    """Settings that one compilation serves, because they differ in numbers alone."""

    settings: tuple[int, ...]  # their indices in the sweep
    env: Environment  # of the first of them
    config: Config  # of the first of them
    numbers: dict[int, np.ndarray]  # leaf of (env, config) -> [settings], the values that differ


def uniform(low: float, high: float) -> Uniform:
    """Numbers drawn uniformly from [low, high). Raises PPOError unless low < high."""
    if not (is_number(low) and is_number(high) and low < high):
        raise PPOError(f"uniform({low!r}, {high!r}): give numbers with low < high")
    return Uniform(float(low), float(high))


def log_uniform(low: float, high: float) -> LogUniform:
    """Numbers from [low, high) whose logarithm is drawn uniformly. Raises PPOError unless 0 < low < high."""
    if not (is_number(low) and is_number(high) and 0 < low < high):
        raise PPOError(f"log_uniform({low!r}, {high!r}): give numbers with 0 < low < high")
    return LogUniform(float(low), float(high))


def grid(values: Mapping[str, Sequence[Any]]) -> list[Point]:
    """Every combination of the values, the last name varying fastest."""
    if not values:
        raise PPOError("sweep has no names; give at least one, or leave it out")
    for name, choices in values.items():
        if not is_list(choices):
            raise PPOError(f"sweep of {name}: {choices!r} is not a list of values; draw_points(...) draws at random")
        if len(choices) == 0:
            raise PPOError(f"sweep of {name} is empty; give at least one value")
    return [dict(zip(values, combination, strict=True)) for combination in itertools.product(*values.values())]


def is_list(values: Any) -> bool:
    """True for a list, tuple or array of values; False for a string, a number or a domain."""
    if isinstance(values, str | Uniform | LogUniform):
        return False
    return isinstance(values, Sequence) or (isinstance(values, np.ndarray | jax.Array) and values.ndim > 0)


def draw_points(num_points: int, space: Mapping[str, Domain], seed: int = 0) -> list[Point]:
    """Draws independent random points.

    Each name has its own random stream, so adding or removing a name does not change the values of the others.

    Args:
        num_points: how many points to draw.
        space: name -> `uniform(low, high)`, `log_uniform(low, high)`, or a list of values that are equally likely.
        seed: the random seed.

    Returns:
        The points, for `train_population(..., sweep=points)`.

    Raises:
        PPOError: if an argument has the wrong type or is out of range.
    """
    check_whole("num_points", num_points)
    check_seed("seed", seed)
    check_space(space)
    for name, domain in space.items():
        if not isinstance(domain, Uniform | LogUniform) and not (is_list(domain) and len(domain)):
            raise PPOError(
                f"space: {name} = {domain!r} is not a domain; give uniform(low, high), log_uniform or a list"
            )
    columns = [draw_values(x, num_points, np.random.default_rng([seed, *name.encode()])) for name, x in space.items()]
    return [dict(zip(space, values, strict=True)) for values in zip(*columns, strict=True)]


def check_space(space: Any) -> None:
    """Raises PPOError unless `space` is a dict with at least one name."""
    if not isinstance(space, Mapping) or not space:
        raise PPOError(f'space = {shown(space)} has no names; give a dict such as {{"gamma": uniform(0.9, 1.0)}}')
    for name in space:
        if not isinstance(name, str):
            raise PPOError(f"space has the name {name!r}, which is not a string; give one such as 'gamma'")


def draw_values(domain: Domain, size: int, generator: np.random.Generator) -> list[Any]:
    """Draws `size` values of one name."""
    match domain:
        case Uniform(low, high):
            return generator.uniform(low, high, size).tolist()
        case LogUniform(low, high):
            return np.exp(generator.uniform(math.log(low), math.log(high), size)).tolist()
        case _:
            return [domain[i] for i in generator.integers(len(domain), size=size)]


def make_points(env: Environment, config: Config, sweep: Mapping[str, Sequence[Any]] | Sequence[Point]) -> list[Point]:
    """The points of a sweep: those of a grid if it is a mapping, else the points that it lists.

    A name is a field of the config, or a parameter of the environment with or without "env." before it; the points
    returned have the "env.". Raises PPOError for a sweep without points, and for an unknown name.
    """
    if isinstance(sweep, str) or not isinstance(sweep, Iterable):
        raise PPOError(f"sweep = {sweep!r} is neither a dict of lists nor a list of dicts; give one of them")
    points = grid(sweep) if isinstance(sweep, Mapping) else list(sweep)
    if not points:
        raise PPOError("sweep has no points; give at least one, or leave it out")
    named, static = [], field_names(config, static=True)
    for point in points:
        if not isinstance(point, Mapping):
            raise PPOError(f"sweep holds {point!r}, which is not a dict of names and values")
        named.append({full_name(env, config, name): plain(value) for name, value in point.items()})
        if len(named[-1]) < len(point):
            raise PPOError(f"the names {', '.join(point)} are not all of different parameters; leave one out")
        for name, value in named[-1].items():
            if name not in static and isinstance(value, int) and abs(value) > MAX_COUNT:
                raise PPOError(f"{name} = {value!r} overflows int32; give a float")
    return named


def full_name(env: Environment, config: Config, name: str) -> str:
    """The name, with "env." before a parameter of the environment. Raises PPOError if it is unknown."""
    fields = [field.name for field in dataclasses.fields(config)]
    params: Any = env.params
    parameters = [ENV + field.name for field in dataclasses.fields(params)] if dataclasses.is_dataclass(params) else []
    for known in (name, f"{ENV}{name}"):
        if known in fields or known in parameters:
            return known
    raise PPOError(unknown("name in a sweep", name, fields + parameters))


def at_point(env: Environment, config: Config, point: Point) -> tuple[Environment, Config]:
    """The environment and config of one setting; values may be tracers. Raises PPOError for a bad value."""
    params = {name.removeprefix(ENV): value for name, value in point.items() if name.startswith(ENV)}
    changes = {name: value for name, value in point.items() if not name.startswith(ENV)}
    changes = {name: like_array(value, getattr(config, name, None)) for name, value in changes.items()}
    return make_env(env, **params), config.replace(**changes)


def make_programs(env: Environment, config: Config, points: Sequence[Point]) -> list[Program]:
    """Groups the points by the program that serves them. Those of one program differ in numbers alone."""
    settings = [at_point(env, config, point) for point in points]
    alike: dict[Any, list[int]] = {}
    for i, setting in enumerate(settings):
        alike.setdefault(jax.tree.structure(setting), []).append(i)
    return [
        Program(tuple(chosen), *settings[chosen[0]], numbers=differing([settings[i] for i in chosen]))
        for chosen in alike.values()
    ]


def describe_programs(env: Environment, config: Config, points: Sequence[Point], num_seeds: int) -> str:
    """A line for people: how many settings and seeds there are, and how many compilations they take."""
    programs = make_programs(env, config, points)
    names = sorted({name for point in points for name in point if len({repr(other.get(name)) for other in points}) > 1})
    swept = f" of {', '.join(names)}" if names else ""
    compilations = "one compilation" if len(programs) == 1 else f"{len(programs)} compilations"
    return f"{plural(len(points), 'setting')}{swept}, {plural(num_seeds, 'seed')} each, in {compilations}"


def differing(trees: Sequence[PyTree]) -> dict[int, np.ndarray]:
    """The leaves that differ between the trees. -> {index of the leaf: its values [trees, ...]}

    The others stay constants, which the compiler can fold. Raises PPOError for leaves that are not numbers.
    """
    narrow = {np.dtype(np.float64): np.float32, np.dtype(np.int64): np.int32}
    found = {}
    paths = [path for path, _ in jax.tree_util.tree_leaves_with_path(trees[0])]
    for i, column in enumerate(zip(*map(jax.tree.leaves, trees), strict=True)):
        values = np.stack([np.asarray(value) for value in column])
        if np.any(values != values[:1]):
            if values.dtype.kind not in "biuf":
                name = jax.tree_util.keystr(paths[i][1:]).lstrip(".")
                raise PPOError(f"{name} = {column[0]!r} is not a number; give its field pjp.static(...) as the default")
            found[i] = values.astype(narrow.get(values.dtype, values.dtype))
    return found


def with_numbers(program: Program, numbers: Mapping[int, Any]) -> tuple[Environment, Config]:
    """The environment and config of a member, whose own leaves are `numbers`."""
    leaves, structure = jax.tree.flatten((program.env, program.config))
    for i, value in numbers.items():
        leaves[i] = value
    return jax.tree.unflatten(structure, leaves)


def check_whole(name: str, value: Any, *, least: int = 1) -> None:
    """Raises PPOError unless `value` is a whole number from `least` to the greatest int32."""
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise PPOError(f"{name} = {shown(value)} is not a whole number of at least {least}")
    if value > MAX_COUNT:
        raise PPOError(f"{name} = {shown(value)} is too many; give a whole number of at most {MAX_COUNT}")


def plain(value: Any) -> Any:
    """Turns arrays of NumPy and JAX into Python numbers and tuples of them, and lists into tuples.

    Points are compared, and written to JSON.
    """
    value = value.tolist() if isinstance(value, np.generic | np.ndarray | jax.Array) else value
    return tuple(map(plain, value)) if isinstance(value, list) else value


def is_number(value: Any) -> bool:
    """True for a finite int or float; a bool does not count."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def show_point(point: Mapping[str, Any]) -> str:
    """The point of a setting for people: learning_rate 1e-3, num_envs 4"""
    values = [f"{name.removeprefix(ENV)} {show_value(value)}" for name, value in point.items()]
    return ", ".join(values) or "the base setting"


def show_value(value: Any) -> str:
    """A value of a setting, short, in the form that the command line accepts: 3e-4, 64x64, True"""
    if isinstance(value, tuple):
        return "x".join(map(show_value, value)) or "()"
    if not is_number(value):
        return str(value)
    if value == 0 or 1e-3 <= abs(value) < 1e5:
        return f"{value:.4g}" if isinstance(value, float) else str(value)
    mantissa, exponent = f"{value:.3e}".split("e")
    return f"{float(mantissa):g}e{int(exponent)}"
