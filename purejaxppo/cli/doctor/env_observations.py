"""Checks of the observations of a trial: numbers within their space, and images as networks take them."""

import math

import numpy as np

from purejaxppo.cli.doctor.findings import Note
from purejaxppo.cli.doctor.trial import Trial
from purejaxppo.envs.base import Environment
from purejaxppo.envs.spaces import Box, Space, parts_of, shape_of, show_space, structure_of
from purejaxppo.policies.actions import bounds
from purejaxppo.utils.errors import PPOError
from purejaxppo.utils.tree import PyTree

IMAGE_SIDE = 8  # entries from which an axis may be the height or the width of an image
CHANNELS = 2  # an axis that is this many times shorter than both others holds the channels
BRIGHT = 100  # an image with larger numbers holds bytes


def check_observations(trial: Trial) -> str:
    """Checks that the observations are finite and within their space."""
    env = trial.env
    seen = [arrays_of(env, obs) for obs in (trial.taken.obs, trial.taken.step.obs, trial.start[0])]
    values = []
    for i, (place, space) in enumerate(parts_of(env.observation_space).items()):
        size = math.prod(shape_of(space))
        values.append(np.concatenate([arrays[i].reshape(-1, size) for arrays in seen]).astype(np.float64))
        check_numbers(f"obs{place}", space, values[-1])
    low, high = min(x.min() for x in values), max(x.max() for x in values)
    return f"{len(values[0]):,} within {show_space(env.observation_space)}, from {low:.4g} to {high:.4g}"


def arrays_of(env: Environment, obs: PyTree) -> list[np.ndarray]:
    """The observations of each part of the space, without the mask."""
    plain = obs if env.action_mask is None else obs.obs
    return [np.asarray(x) for x in structure_of(env.observation_space).flatten_up_to(plain)]


def check_numbers(name: str, space: Space, obs: np.ndarray) -> None:
    """Raises PPOError unless the N observations [N, F] of one space are valid."""
    is_wrong = ~np.isfinite(obs)
    if is_wrong.any():
        place, column = first_where(is_wrong)
        value = obs[:, column][is_wrong[:, column]][0]
        raise PPOError(f"{name}{place} is {value}, in {share(is_wrong)}; find the division or the log")
    low, high = limits(space)
    slack = 1e-5 * np.maximum(1.0, np.abs(obs))
    is_out = (obs < low - slack) | (obs > high + slack)
    if is_out.any():
        place, column = first_where(is_out)
        raise PPOError(
            f"{name}{place} goes from {obs[:, column].min():.6g} to {obs[:, column].max():.6g}, outside of "
            f"{low[column]:.6g} to {high[column]:.6g} in {share(is_out)}; fix observation_space, or the observation"
        )
    if not isinstance(space, Box) and np.any(obs != np.round(obs)):
        raise PPOError(f"{show_space(space)} holds whole numbers, and {name} is {obs[obs != np.round(obs)][0]}")


def limits(space: Space) -> tuple[np.ndarray, np.ndarray]:
    """The least and the most that each number of a space may be, [F] each."""
    if isinstance(space, Box):
        low, high = (bound.reshape(-1).astype(np.float64) for bound in bounds(space))
        return low, high
    sizes = np.asarray(space, np.float64).reshape(-1)  # n, or sizes
    return np.zeros_like(sizes), sizes - 1.0


def first_where(is_wrong: np.ndarray) -> tuple[str, int]:
    """The first wrong number of N observations [N, F]: its index as text, "" if there is only one; and its column."""
    column = int(np.argwhere(is_wrong)[0][1])
    return f"[{column}]" if is_wrong.shape[1] > 1 else "", column


def share(is_wrong: np.ndarray) -> str:
    """In how many of N observations [N, F] something is wrong."""
    return f"{int(np.any(is_wrong, axis=1).sum()):,} of {len(is_wrong):,} observations"


def check_images(trial: Trial) -> str:
    """Checks that images are scaled and have their channels last."""
    found, notes = [], []
    parts = parts_of(trial.env.observation_space).items()
    for (place, space), x in zip(parts, arrays_of(trial.env, trial.taken.obs), strict=True):
        shape = shape_of(space)
        if not (isinstance(space, Box) and len(shape) in (2, 3) and sorted(shape)[-2] >= IMAGE_SIDE):
            continue
        name = f"obs{place} of shape {shape}"
        found.append(name)
        if (max(space.high) == 255 or x.max() > BRIGHT) and x.min() >= 0 and 1 < x.max() <= 255:
            notes.append(
                f"{name} holds bytes, up to {x.max():g}, which are large inputs for a network: divide them by 255 in "
                "reset and step, or train with normalize_obs=True"
            )
        if len(shape) == 3 and min(shape[1:]) >= IMAGE_SIDE and CHANNELS * shape[0] <= min(shape[1:]):
            notes.append(
                f"{name} looks like [channels, height, width], and the default network takes [height, width, "
                "channels]: return jnp.moveaxis(obs, 0, -1)"
            )
    return Note("; ".join(notes)) if notes else ", ".join(found) or "none"
