"""Checks of the observations of a trial: numbers within their space, and images as networks take them."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from purejaxppo.cli.doctor.env_program import raw_functions
from purejaxppo.cli.doctor.findings import Finding, fault, note, well
from purejaxppo.cli.doctor.trial import (
    Trial,
    numbers,
)
from purejaxppo.envs.base import Environment
from purejaxppo.envs.spaces import Box, Discrete, Space, SpaceTree, parts_of, structure_of
from purejaxppo.policies.actions import bounds
from purejaxppo.utils.tree import PyTree

IMAGE_SIDE = 8  # entries from which an axis may be the height or the width of an image
CHANNELS = 2  # an axis that is this many times shorter than both others holds the channels
BRIGHT = 100  # an image with larger numbers holds bytes


def check_observations(env: Environment, trial: Trial) -> Finding:
    """Checks that the observations are finite and within their space."""
    seen = [(trial.obs, 2), (trial.step.obs, 2), (trial.start[0], 1)]
    seen = [(structure_of(env.observation_space).flatten_up_to(plain(env, obs)), lead) for obs, lead in seen]
    values = []
    for i, (place, space) in enumerate(parts_of(env.observation_space).items()):
        values.append(np.concatenate([numbers(arrays[i], lead) for arrays, lead in seen]))
        mistake = mistake_in(f"obs{place}", space, values[-1])
        if mistake is not None:
            return fault("observations", mistake)
    low, high = min(x.min() for x in values), max(x.max() for x in values)
    space = show_space(env.observation_space)
    return well("observations", f"{len(values[0]):,} within {space}, from {low:.4g} to {high:.4g}")


def check_images(given: Any, env: Environment, trial: Trial) -> Finding:
    """Checks that images are scaled and have their channels last."""
    arrays = structure_of(env.observation_space).flatten_up_to(plain(env, trial.obs))
    found, notes = [], []
    for i, (place, space) in enumerate(parts_of(env.observation_space).items()):
        if not (isinstance(space, Box) and is_image(space.shape)):
            continue
        name, x = f"obs{place} of shape {space.shape}", np.asarray(arrays[i])
        found.append(name)
        is_byte = raw_dtype(given, env, i) == jnp.uint8 or max(space.high) == 255 or x.max() > BRIGHT
        if is_byte and x.min() >= 0 and 1 < x.max() <= 255:
            notes.append(
                f"{name} holds bytes, up to {x.max():g}, which are large inputs for a network: divide them by 255 in "
                "reset and step, or train with normalize_obs=True"
            )
        if has_channels_first(space.shape):
            notes.append(
                f"{name} looks like [channels, height, width], and the default network takes [height, width, "
                "channels]: return jnp.moveaxis(obs, 0, -1)"
            )
    return note("images", "; ".join(notes)) if notes else well("images", ", ".join(found) or "none")


def show_space(space: Space | SpaceTree) -> str:
    """A space, without the bounds of each of its numbers."""
    if isinstance(space, SpaceTree):
        return ", ".join(f"{place} {show_space(part)}" for place, part in parts_of(space).items())
    return f"Box{list(space.shape)}" if isinstance(space, Box) else str(space)


def is_image(shape: tuple[int, ...]) -> bool:
    """True if an array of this shape has a height and a width, and maybe channels."""
    return len(shape) in (2, 3) and sorted(shape)[-2] >= IMAGE_SIDE


def has_channels_first(shape: tuple[int, ...]) -> bool:
    """True if the first axis holds the channels: it is far shorter than the others."""
    return len(shape) == 3 and min(shape[1:]) >= IMAGE_SIDE and CHANNELS * shape[0] <= min(shape[1:])


def raw_dtype(given: Any, env: Environment, part: int) -> Any:
    """The dtype in which the caller's reset observes one part of the space; None where that is not known."""
    functions = raw_functions(given)
    if functions is None:
        return None
    obs, _ = jax.eval_shape(functions[0], jax.eval_shape(lambda: jax.random.key(0)), env.params)
    return jax.tree.leaves(obs)[part].dtype


def plain(env: Environment, obs: PyTree) -> PyTree:
    """An observation without its mask."""
    return obs if env.action_mask is None else obs.obs


def mistake_in(name: str, space: Space, obs: np.ndarray) -> str | None:
    """Describes the fault in N observations of one space, [N, F], or returns None if they are valid."""
    if not np.all(np.isfinite(obs)):
        at, value = first_where(~np.isfinite(obs), obs)
        return f"{name}{at} is {value}, in {share(~np.isfinite(obs))}; find the division or the log"
    low, high = limits(space, obs.shape[1])
    slack = 1e-5 * np.maximum(1.0, np.abs(obs))
    is_out = (obs < low - slack) | (obs > high + slack)
    if is_out.any():
        at, _ = first_where(is_out, obs)
        i = int(np.argwhere(is_out)[0][1])
        return (
            f"{name}{at} goes from {obs[:, i].min():.6g} to {obs[:, i].max():.6g}, outside of {low[i]:.6g} to "
            f"{high[i]:.6g} in {share(is_out)}; fix observation_space, or the observation"
        )
    if not isinstance(space, Box) and np.any(obs != np.round(obs)):
        return f"{show_space(space)} holds whole numbers, and {name} is {obs[obs != np.round(obs)][0]}"
    return None


def limits(space: Space, size: int) -> tuple[np.ndarray, np.ndarray]:
    """The least and the most that each of `size` numbers of a space may be, [F] each."""
    if isinstance(space, Box):
        low, high = (bound.reshape(-1).astype(np.float64) for bound in bounds(space))
        return low, high
    sizes = (space.n,) if isinstance(space, Discrete) else space.sizes
    return np.zeros(size), np.asarray(sizes, np.float64) - 1.0


def first_where(condition: np.ndarray, x: np.ndarray) -> tuple[str, float]:
    """The index in an observation and the value of the first of x [N, F] for which the condition holds."""
    row, column = np.argwhere(condition)[0]
    return f"[{column}]" if x.shape[1] > 1 else "", float(x[row, column])


def share(condition: np.ndarray) -> str:
    """In how many of N rows [N, F] the condition holds somewhere."""
    return f"{int(np.any(condition, axis=1).sum()):,} of {len(condition):,} observations"
