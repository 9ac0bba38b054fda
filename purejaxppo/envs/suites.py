"""Other suites of environments, each an optional extra with an adapter in a module of its name."""

import functools
import importlib
import importlib.util
from collections.abc import Callable
from typing import Any, Protocol, cast

import jax
import jax.numpy as jnp
import numpy as np

from purejaxppo.utils.devices import use_all_cores
from purejaxppo.utils.errors import PPOError
from purejaxppo.utils.suggest import unknown

SUITES = {  # by name, the package that each is imported from
    "brax": "brax",
    "jumanji": "jumanji",
    "craftax": "craftax",
    "xminigrid": "xminigrid",
    "navix": "navix",
    "pgx": "pgx",
    "playground": "mujoco_playground",
}
MOST_ADAPTED = 256  # environments given as instances that are kept


class Adapter(Protocol):
    """The interface of a suite's module in `adapters/`.

    It may have LEFT_OUT: the names that `make` does not take, and what to say of each.
    """

    def names(self) -> list[str]:
        """The names that `make` takes."""
        ...

    def make(self, name: str) -> Any:
        """The suite's own environment of one of the names, or that one adapted."""
        ...

    def adapt(self, env: Any) -> Any:
        """An object that `make_env` takes; always the same one for one environment of the suite.

        Raises PPOError for an environment that resets by itself, or does not fit the interface.
        """
        ...


class Adapted:
    """Base of the adapters. An environment made by name is pickled as that name: many of Brax's cannot be pickled."""

    made_as: str | None = None  # the name, such as brax/ant

    def __getstate__(self) -> Any:
        return self.made_as or self.__dict__

    def __setstate__(self, state: Any) -> None:
        self.__dict__.update(adapted(state).__dict__ if isinstance(state, str) else state)


def once(adapt: Callable[..., Any]) -> Callable[..., Any]:
    """Decorates an `adapt`, which runs other people's code: caches it, and is concrete also inside the caller's jit.

    It compares arguments by identity, a tuple by its parts, so they need not be hashable.
    """
    results: dict[Any, tuple[Any, Any]] = {}

    @functools.wraps(adapt)
    def cached(*given: Any, **named: Any) -> Any:
        arguments = {**dict(enumerate(given)), **named}
        parts = {name: x if isinstance(x, tuple) else (x,) for name, x in arguments.items()}
        identity = tuple((name, *map(id, part)) for name, part in parts.items())
        if identity not in results:
            if len(results) == MOST_ADAPTED:
                results.pop(next(iter(results)))
            with jax.ensure_compile_time_eval(), jax.numpy_dtype_promotion("standard"):
                made = adapt(*given, **named)
            results[identity] = arguments, made  # held, so that no other object gets their identity
        return results[identity][1]

    return cached


def check_layers(env: Any, is_refused: Callable[[Any], bool], inner: str, remedy: str) -> None:
    """Raises PPOError for a wrapper, or an environment, that resets, counts or batches by itself, in any layer.

    inner: the attribute of a wrapper that holds the layer below
    """
    layer = env
    while layer is not None:
        if is_refused(layer):
            raise PPOError(
                f"{type(layer).__name__} resets, counts or batches by itself, and so does this library; {remedy}"
            )
        layer = getattr(layer, "__dict__", {}).get(inner)


def as_planes(codes: jax.Array, sizes: tuple[int, ...]) -> jax.Array:
    """Codes [..., k], the i-th of them out of sizes[i], as planes of zeros and ones. -> [..., sum(sizes)]"""
    return jnp.concatenate([jax.nn.one_hot(codes[..., i], size) for i, size in enumerate(sizes)], axis=-1)


def as_picture(pixels: Any) -> Any:
    """Bytes [height, width, 3] as a PIL image, with small ones enlarged so that their pixels stay sharp."""
    from PIL import Image, ImageOps

    picture = Image.fromarray(np.asarray(pixels).astype(np.uint8))
    return ImageOps.scale(picture, max(1, 256 // max(picture.size)), Image.Resampling.NEAREST)


def is_installed(suite: str) -> bool:
    """True if the suite can be imported. Does not import it."""
    return importlib.util.find_spec(SUITES[suite]) is not None


def find_adapter(suite: str) -> Adapter:
    """The adapter of a suite, imported with it. Raises PPOError for an unknown suite, and for one not installed."""
    if suite not in SUITES:
        raise PPOError(unknown("suite", suite, list(SUITES)))
    if not is_installed(suite):
        raise PPOError(f'{suite} is not installed; pip install "purejaxppo[{suite}]"')
    use_all_cores()  # before the suite computes on import, which starts JAX
    return cast(Adapter, importlib.import_module(f"purejaxppo.envs.adapters.{suite}"))


def suite_of(env: object) -> str | None:
    """The suite that an environment's class comes from, directly or by inheritance, or None."""
    packages = [base.__module__.partition(".")[0] for base in type(env).__mro__]
    return next((suite for suite, package in SUITES.items() if package in packages), None)


def adapted(name: str) -> Any:
    """The environment of a name such as brax/ant, as an object that `make_env` takes.

    Raises PPOError for a name that is unknown or left out, and for a suite that is not installed.
    """
    suite, _, own_name = name.partition("/")
    adapter = find_adapter(suite)
    left_out = getattr(adapter, "LEFT_OUT", {})
    if own_name in left_out:
        raise PPOError(f"{name} {left_out[own_name]}")
    if own_name not in adapter.names():
        raise PPOError(unknown(f"environment of {suite}", own_name, adapter.names()))
    with jax.ensure_compile_time_eval():  # concrete also inside the caller's jit
        made = adapter.make(own_name)
        env = made if isinstance(made, Adapted) else adapter.adapt(made)
    env.made_as = name
    return env
