"""Checks of the random steps of a trial."""

import functools
import math
from typing import NamedTuple

import jax
import numpy as np
from jax.errors import KeyReuseError

from purejaxppo.cli.doctor.findings import Finding, fault, note, well
from purejaxppo.cli.doctor.trial import (
    Trial,
    all_same,
    first_difference,
    numbers,
    steps_to_first_end,
)
from purejaxppo.envs.base import Environment, Step
from purejaxppo.envs.spaces import Box, Discrete, MultiDiscrete, Space, parts_of, structure_of
from purejaxppo.utils.tree import PyTree

FEW = 4  # ends of episodes from which something can be told
SLACK = 0.05  # of the range of starts: another start may lie that far outside of those that were seen
COMPARED = 16  # steps that are also taken alone
BY_HAND = 2_000  # operations of a step that are worth the time to run one by one


class Taken(NamedTuple):
    """One step of a trial."""

    key: jax.Array  # []
    state: PyTree
    action: PyTree
    step: Step


class Alone(NamedTuple):
    """The results of reset and step without vmap."""

    start: tuple[PyTree, PyTree]  # obs and state
    steps: list[Step]
    reuses_key: bool


def sample(trial: Trial, number: int) -> list[Taken]:
    """Some steps of a trial, always the same ones: the first, some ends of episodes, and others evenly spaced."""
    lead, ends = trial.done.shape, np.flatnonzero(trial.done)
    chosen = [0, *ends[: number // 2].tolist(), *np.linspace(0, trial.done.size - 1, number).astype(int).tolist()]
    places = [np.unravel_index(i, lead) for i in list(dict.fromkeys(chosen))[:number]]
    steps = Taken(trial.key, trial.state, trial.action, trial.step)
    return [jax.tree.map(lambda x, at=at: x[at], steps) for at in places]


def steps_alone(env: Environment, trial: Trial) -> Alone:
    """Repeats the steps of `sample` and the first start without vmap, and notes if they use a key twice."""
    try:
        with jax.debug_key_reuse(True):
            return Alone(*each_alone(env, trial), reuses_key=False)
    except KeyReuseError:
        return Alone(*each_alone(env, trial), reuses_key=True)


def each_alone(env: Environment, trial: Trial) -> tuple[tuple[PyTree, PyTree], list[Step]]:
    """The first start, and each step."""
    step = jax.jit(env.step)
    start = jax.jit(env.reset)(trial.start_key[0], env.params)
    return start, [step(row.key, row.state, row.action, env.params) for row in sample(trial, COMPARED)]


def check_bits(trial: Trial, again: Trial, alone: Alone) -> Finding:
    """Checks that the same key gives the same steps, and that no key is used twice."""
    if not all_same(trial, again):
        return fault("bits", "the same program with the same key gives different bits; draw from key only")
    if alone.reuses_key:
        return note("bits", "the same key gives the same bits; but reset or step uses a key twice: split it")
    return well("bits", "the same key gives the same bits")


def check_lanes(trial: Trial, alone: Alone) -> Finding:
    """Checks that each lane of a vmapped step gives what the step gives alone."""
    start = jax.tree.map(lambda x: x[0], trial.start)
    difference = first_difference(alone.start, start)
    for row, step in zip(sample(trial, COMPARED), alone.steps, strict=True):
        difference = difference or first_difference(step, row.step)
    if difference:
        return fault("lanes", f"under vmap, reset or step gives something else than alone: {difference}")
    return well("lanes", "under vmap, reset and step give the same as alone")


def check_jit(env: Environment, trial: Trial) -> Finding:
    """Checks that a step without jit gives what the compiled step gives."""
    row = sample(trial, 1)[0]
    given = (row.key, row.state, row.action, env.params)
    operations = len(jax.make_jaxpr(env.step)(*given).eqns)
    if operations > BY_HAND:
        return well("jit", f"not checked: without jit, a step of {operations:,} operations takes too long")
    difference = first_difference(row.step, env.step(*given))
    start = jax.tree.map(lambda x: x[0], trial.start)
    difference = difference or first_difference(start, env.reset(trial.start_key[0], env.params))
    if difference:
        return fault("jit", f"without jit, reset or step gives something else: {difference}")
    return well("jit", "reset and step give the same without jit")


def check_starts(trial: Trial) -> Finding:
    """Checks that different keys give different starts."""
    starts = numbers(trial.start, 1)
    if np.all(starts == starts[0]):
        return note("starts", f"{len(starts)} keys give the same start: reset does not use its key")
    return well("starts", f"{len(np.unique(starts, axis=0))} different ones from {len(starts)} keys")


def check_rewards(trial: Trial) -> Finding:
    """Checks that the rewards are finite and not all 0."""
    reward = np.asarray(trial.step.reward)
    if not np.all(np.isfinite(reward)):
        bad = reward[~np.isfinite(reward)]
        return fault("rewards", f"{bad[0]} in {bad.size:,} of {reward.size:,} steps; find the division or the log")
    if not reward.any():
        return note("rewards", f"0 in all {reward.size:,} random steps: an agent learns nothing until it finds another")
    return well("rewards", f"from {reward.min():.4g} to {reward.max():.4g}")


def check_actions(env: Environment, trial: Trial) -> Finding:
    """Checks that the action makes a difference in some step."""
    space, matters = env.action_space, np.asarray(trial.matters)
    if any(map(is_choice, parts_of(space).values())) and not matters.any():
        return note("actions", f"another action would have changed nothing in any of {matters.size:,} steps")
    tried = ""
    if isinstance(space, Discrete):
        tried = f"; {len(np.unique(np.asarray(trial.action)))} of {space.n} tried"
    return well("actions", f"another action changes {100 * matters.mean():.0f}% of the steps{tried}")


def is_choice(space: Space) -> bool:
    """True if the space has more than one element."""
    return isinstance(space, Box) or math.prod([space.n] if isinstance(space, Discrete) else space.sizes) > 1


def check_masks(env: Environment, trial: Trial) -> Finding:
    """Checks that some action is legal until the episode is over."""
    if env.action_mask is None:
        return well("masks", "none")
    structure, legal = structure_of(env.action_space), []
    seen, first = (structure.flatten_up_to(obs.action_mask) for obs in (trial.obs, trial.start[0]))
    for (place, space), *masks in zip(parts_of(env.action_space).items(), seen, first, strict=True):
        if masks[0] is None:
            continue
        mask = np.concatenate([np.asarray(x).reshape(-1, x.shape[-1]) for x in masks])
        legal.append(mask.mean())
        none = int(has_no_choice(space, mask).sum())
        if none:
            where = f" of action{place}" if place else ""
            return fault(
                "masks", f"no action{where} is legal in {none:,} of {len(mask):,} states; allow one, or end the episode"
            )
    return well("masks", f"there is always a legal action; {100 * np.mean(legal):.0f}% of all are legal")


def has_no_choice(space: Space, mask: np.ndarray) -> np.ndarray:
    """True where one of the choices has no legal action. [N, n] -> [N] bool"""
    sizes = space.sizes if isinstance(space, MultiDiscrete) else (mask.shape[-1],)
    choices = np.split(mask, np.cumsum(sizes)[:-1], axis=-1)
    return np.any([~choice.any(axis=-1) for choice in choices], axis=0)


def check_flags(trial: Trial) -> Finding:
    """Counts how episodes end, and notes steps that are both terminated and truncated."""
    terminated, truncated = np.asarray(trial.step.terminated), np.asarray(trial.step.truncated)
    both = int((terminated & truncated).sum())
    text = f"{int(terminated.sum()):,} steps terminated, {int(truncated.sum()):,} truncated, {both:,} both"
    if both and both == truncated.sum() == terminated.sum():
        return note("flags", f"{text}: all of them. Both count as terminated, so time limits are not bootstrapped")
    return note("flags", f"{text}, which count as terminated") if both else well("flags", text)


def check_final_observation(trial: Trial) -> Finding:
    """Checks that the last step of an episode observes its end, and not the start of the next one."""
    done = trial.done.reshape(-1)
    if done.sum() < FEW or (~done).sum() < FEW:
        return well(
            "final observation", f"{int(done.sum())} ends in {done.size:,} steps: too few to compare with starts"
        )
    text = "looks like a first one: step resets by itself; return the last observation, and do not reset"
    whole = start_likeness(trial.start, (trial.step.obs, trial.step.state), done)
    if is_telling(*whole):
        return fault("final observation", f"that of {100 * whole[0]:.0f}% of {int(done.sum()):,} episodes {text}")
    seen = start_likeness(trial.start[0], trial.step.obs, done)
    if is_telling(*seen):
        return note(
            "final observation",
            f"that of {100 * seen[0]:.0f}% of {int(done.sum()):,} episodes {text} (the state does not look like one)",
        )
    return well("final observation", f"{int(done.sum()):,} episodes do not end where they start")


def start_likeness(starts: PyTree, after: PyTree, done: np.ndarray) -> tuple[float, float]:
    """The shares of the ends of episodes, and of the other steps, that lie within the range of the starts.

    starts: [N, ...], after: [T, B, ...], done: [T B]
    """
    starts, after = numbers(starts, 1), numbers(after, 2)
    low, high = starts.min(axis=0), starts.max(axis=0)
    slack = SLACK * (high - low)
    is_inside = np.all((after >= low - slack) & (after <= high + slack), axis=1)
    return float(is_inside[done].mean()), float(is_inside[~done].mean())


def is_telling(ends: float, others: float) -> bool:
    """True if ends look like starts and other steps do not."""
    return ends > 0.5 and others < 0.5 * ends


def check_episodes(env: Environment, trial: Trial, key: jax.Array, max_steps: int) -> Finding:
    """Checks that episodes end, and notes a time limit that terminates them instead of truncating."""
    lengths = episode_lengths(trial.done)
    num_steps, num_envs = trial.done.shape
    if not lengths.size:
        ends_after = num_steps
        if max_steps > num_steps:
            search = jax.jit(functools.partial(steps_to_first_end, env, num_envs=num_envs, max_steps=max_steps))
            ends_after = int(search(key))
        if ends_after >= max(num_steps, max_steps):
            return fault(
                "episodes",
                f"none of {num_envs} ended in {max(num_steps, max_steps):,} random steps; truncate at a time limit, "
                "or if they are that long, raise max_steps",
            )
        return well("episodes", f"the first of {num_envs} ended after {ends_after:,} random steps")
    text = f"{lengths.size:,} ended, after {lengths.min():,} to {lengths.max():,} random steps"
    only_terminated = not np.asarray(trial.step.truncated).any()
    if lengths.size >= 2 * FEW and lengths.min() == lengths.max() > 1 and only_terminated:
        return note("episodes", f"{text}, all terminated; if that is a time limit, truncate instead")
    return well("episodes", text)


def episode_lengths(done: np.ndarray) -> np.ndarray:
    """Lengths of the finished episodes. Each environment begins one at the first step. [T, B] -> [N]"""
    return np.concatenate([np.diff(np.flatnonzero(column), prepend=-1) for column in done.T])
