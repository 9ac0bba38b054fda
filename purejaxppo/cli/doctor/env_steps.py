"""Checks of the random steps of a trial."""

import functools
import math

import jax
import numpy as np
from jax.errors import KeyReuseError

from purejaxppo.cli.doctor.findings import Note
from purejaxppo.cli.doctor.trial import Trial, first_difference, numbers, same_bits, steps_to_first_end
from purejaxppo.envs.base import Environment
from purejaxppo.envs.spaces import Box, MultiDiscrete, Space, parts_of, structure_of
from purejaxppo.utils.errors import PPOError
from purejaxppo.utils.tree import PyTree

FEW = 4  # ends of episodes from which something can be told
SLACK = 0.05  # of the range of starts: another start may lie that far outside of those that were seen
COMPARED = 16  # steps that are also taken alone
BY_HAND = 2_000  # operations of a step that are worth the time to run one by one


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
    """The share of the ends of episodes that lie within the range of the starts; 0 unless ends do and other steps not.

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
