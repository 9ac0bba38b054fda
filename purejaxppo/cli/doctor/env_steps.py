"""Checks of the random steps of a trial, and of the observations in them."""

import functools
import math

import jax
import numpy as np
from jax.errors import KeyReuseError

from purejaxppo.cli.doctor.findings import Note
from purejaxppo.cli.doctor.trial import Trial, first_difference, numbers, same_bits, steps_to_first_end
from purejaxppo.envs.base import Environment
from purejaxppo.envs.spaces import Box, MultiDiscrete, Space, parts_of, shape_of, show_space, structure_of
from purejaxppo.policies.actions import bounds
from purejaxppo.utils.errors import PPOError
from purejaxppo.utils.tree import PyTree

FEW = 4  # ends of episodes from which something can be told
SLACK = 0.05  # of the range of starts: another start may lie that far outside of those that were seen
COMPARED = 16  # steps that are also taken alone
BY_HAND = 2_000  # operations of a step that are worth the time to run one by one
IMAGE_SIDE = 8  # entries from which an axis may be the height or the width of an image
CHANNELS = 2  # an axis that is this many times shorter than both others holds the channels
BRIGHT = 100  # an image with larger numbers holds bytes


def change_alone(env: Environment, trial: Trial, number: int) -> str | None:
    """Repeats the first start and some steps of a trial without vmap, and describes the first number that differs.

    The steps are always the same ones: the first, some ends of episodes, and others evenly spaced.
    """
    ends = np.flatnonzero(trial.done)[: number // 2].tolist()
    chosen = [0, *ends, *np.linspace(0, trial.done.size - 1, number).astype(int).tolist()]
    start = jax.tree.map(lambda x: x[0], trial.start)
    change = first_difference(env.reset(trial.start_key[0], env.params), start)
    for i in list(dict.fromkeys(chosen))[:number]:
        at = np.unravel_index(i, trial.done.shape)
        row = jax.tree.map(lambda x, at=at: x[at], trial.taken)
        change = change or first_difference(env.step(row.key, row.state, row.action, env.params), row.step)
    return change


def compiled(env: Environment) -> Environment:
    """The environment with its two functions compiled."""
    return env.replace(reset=jax.jit(env.reset), step=jax.jit(env.step))


def check_bits(trial: Trial, again: Trial) -> str:
    """Checks that the same key gives the same steps, and that no key is used twice."""
    if not same_bits(trial, again):
        raise PPOError("the same program with the same key gives different bits; draw from key only")
    try:
        with jax.debug_key_reuse(True):
            change_alone(compiled(trial.env), trial, 1)
    except KeyReuseError:
        return Note("the same key gives the same bits; but reset or step uses a key twice: split it")
    return "the same key gives the same bits"


def check_lanes(trial: Trial) -> str:
    """Checks that each lane of a vmapped step gives what the step gives alone."""
    change = change_alone(compiled(trial.env), trial, COMPARED)
    if change:
        raise PPOError(f"under vmap, reset or step gives something else than alone: {change}")
    return "under vmap, reset and step give the same as alone"


def check_jit(trial: Trial) -> str:
    """Checks that a step without jit gives what the compiled step gives."""
    row = jax.tree.map(lambda x: x[0, 0], trial.taken)
    operations = len(jax.make_jaxpr(trial.env.step)(row.key, row.state, row.action, trial.env.params).eqns)
    if operations > BY_HAND:
        return f"not checked: without jit, a step of {operations:,} operations takes too long"
    change = change_alone(trial.env, trial, 1)
    if change:
        raise PPOError(f"without jit, reset or step gives something else: {change}")
    return "reset and step give the same without jit"


def check_starts(trial: Trial) -> str:
    """Checks that different keys give different starts."""
    starts = numbers(trial.start, 1)
    if np.all(starts == starts[0]):
        return Note(f"{len(starts)} keys give the same start: reset does not use its key")
    return f"{len(np.unique(starts, axis=0))} different ones from {len(starts)} keys"


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
    low, high = limits(space)
    is_finite, slack = np.isfinite(obs), 1e-5 * np.maximum(1.0, np.abs(obs))
    is_wrong = (obs < low - slack) | (obs > high + slack) if is_finite.all() else ~is_finite
    if is_wrong.any():
        column = int(np.argwhere(is_wrong)[0][1])
        place, seen = f"[{column}]" if obs.shape[1] > 1 else "", obs[:, column]
        where = f"in {np.any(is_wrong, axis=1).sum():,} of {len(obs):,} observations"
        if not is_finite.all():
            value = seen[is_wrong[:, column]][0]
            raise PPOError(f"{name}{place} is {value}, {where}; find the division or the log")
        raise PPOError(
            f"{name}{place} goes from {seen.min():.6g} to {seen.max():.6g}, outside of {low[column]:.6g} to "
            f"{high[column]:.6g} {where}; fix observation_space, or the observation"
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


def check_rewards(trial: Trial) -> str:
    """Checks that the rewards are finite and not all 0."""
    reward = np.asarray(trial.taken.step.reward)
    bad = reward[~np.isfinite(reward)]
    if bad.size:
        raise PPOError(f"{bad[0]} in {bad.size:,} of {reward.size:,} steps; find the division or the log")
    if not reward.any():
        return Note(f"0 in all {reward.size:,} random steps: an agent learns nothing until it finds another")
    return f"from {reward.min():.4g} to {reward.max():.4g}"


def check_actions(trial: Trial) -> str:
    """Checks that the action makes a difference in some step."""
    matters = np.asarray(trial.taken.matters)
    if any(map(is_choice, parts_of(trial.env.action_space).values())) and not matters.any():
        return Note(f"another action would have changed nothing in any of {matters.size:,} steps")
    return f"another action changes {100 * matters.mean():.0f}% of the steps"


def is_choice(space: Space) -> bool:
    """True if the space has more than one element."""
    return isinstance(space, Box) or math.prod(np.ravel(space)) > 1  # n, or sizes


def check_masks(trial: Trial) -> str:
    """Checks that some action is legal until the episode is over."""
    env = trial.env
    if env.action_mask is None:
        return "none"
    structure, legal = structure_of(env.action_space), []
    seen, first = (structure.flatten_up_to(obs.action_mask) for obs in (trial.taken.obs, trial.start[0]))
    for (place, space), *masks in zip(parts_of(env.action_space).items(), seen, first, strict=True):
        if masks[0] is None:
            continue
        mask = np.concatenate([np.asarray(x).reshape(-1, x.shape[-1]) for x in masks])
        legal.append(mask.mean())
        ends = np.cumsum(space.sizes)[:-1] if isinstance(space, MultiDiscrete) else []
        stuck = np.any([~choice.any(axis=-1) for choice in np.split(mask, ends, axis=-1)], axis=0)
        if stuck.any():
            where = f" of action{place}" if place else ""
            raise PPOError(
                f"no action{where} is legal in {stuck.sum():,} of {stuck.size:,} states; allow one, or end the episode"
            )
    return f"there is always a legal action; {100 * np.mean(legal):.0f}% of all are legal"


def check_flags(trial: Trial) -> str:
    """Counts how episodes end, and notes steps that are both terminated and truncated."""
    terminated, truncated = np.asarray(trial.taken.step.terminated), np.asarray(trial.taken.step.truncated)
    both = int((terminated & truncated).sum())
    text = f"{terminated.sum():,} steps terminated, {truncated.sum():,} truncated, {both:,} both"
    if both and both == truncated.sum() == terminated.sum():
        return Note(f"{text}: all of them. Both count as terminated, so time limits are not bootstrapped")
    return Note(f"{text}, which count as terminated") if both else text


def check_final_observation(trial: Trial) -> str:
    """Checks that the last step of an episode observes its end, and not the start of the next one."""
    done = trial.done.reshape(-1)
    if done.sum() < FEW or (~done).sum() < FEW:
        return f"{done.sum()} ends in {done.size:,} steps: too few to compare with starts"
    text = "looks like a first one: step resets by itself; return the last observation, and do not reset"
    after = trial.taken.step
    whole = share_like_starts(trial.start, (after.obs, after.state), done)
    if whole:
        raise PPOError(f"that of {whole:.0%} of {done.sum():,} episodes {text}")
    seen = share_like_starts(trial.start[0], after.obs, done)
    if seen:
        return Note(f"that of {seen:.0%} of {done.sum():,} episodes {text} (the state does not look like one)")
    return f"{done.sum():,} episodes do not end where they start"


def share_like_starts(starts: PyTree, after: PyTree, done: np.ndarray) -> float:
    """The share of episode ends within the range of the starts; 0 unless most of them are, and few other steps.

    starts: [N, ...], after: [T, B, ...], done: [T B]
    """
    starts, after = numbers(starts, 1), numbers(after, 2)
    low, high = starts.min(axis=0), starts.max(axis=0)
    slack = SLACK * (high - low)
    is_inside = np.all((after >= low - slack) & (after <= high + slack), axis=1)
    ends, others = float(is_inside[done].mean()), float(is_inside[~done].mean())
    return ends if ends > 0.5 and others < 0.5 * ends else 0.0


def check_episodes(trial: Trial, key: jax.Array, max_steps: int) -> str:
    """Checks that episodes end, and notes a time limit that terminates them instead of truncating."""
    num_steps, num_envs = trial.done.shape
    # Each environment begins an episode at the first step.
    lengths = np.concatenate([np.diff(np.flatnonzero(column), prepend=-1) for column in trial.done.T])
    if not lengths.size:
        max_steps = max(num_steps, max_steps)
        search = jax.jit(functools.partial(steps_to_first_end, trial.env, num_envs=num_envs, max_steps=max_steps))
        ends_after = int(search(key)) if max_steps > num_steps else num_steps
        if ends_after >= max_steps:
            raise PPOError(
                f"none of {num_envs} ended in {max_steps:,} random steps; truncate at a time limit, "
                "or if they are that long, raise max_steps"
            )
        return f"the first of {num_envs} ended after {ends_after:,} random steps"
    text = f"{lengths.size:,} ended, after {lengths.min():,} to {lengths.max():,} random steps"
    only_terminated = not np.asarray(trial.taken.step.truncated).any()
    if lengths.size >= 2 * FEW and lengths.min() == lengths.max() > 1 and only_terminated:
        return Note(f"{text}, all terminated; if that is a time limit, truncate instead")
    return text


CHECKS = {  # of a trial, by the name of the finding
    "lanes": check_lanes,
    "jit": check_jit,
    "starts": check_starts,
    "observations": check_observations,
    "images": check_images,
    "rewards": check_rewards,
    "actions": check_actions,
    "masks": check_masks,
    "flags": check_flags,
    "final observation": check_final_observation,
}
