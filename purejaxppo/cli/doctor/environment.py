"""`check_env`: whether an environment keeps its promises, with a finding for each of them."""

import functools
import itertools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.errors import KeyReuseError

from purejaxppo.cli.doctor.findings import Finding, attempted, fault, note, well
from purejaxppo.cli.doctor.trial import (
    Trial,
    all_same,
    envs_that_fit,
    example_inputs,
    first_difference,
    numbers,
    play,
    steps_to_first_end,
    traces_alike,
)
from purejaxppo.envs import make_env
from purejaxppo.envs.base import Environment, Step
from purejaxppo.envs.spaces import Box, Discrete, MultiDiscrete, Space, SpaceTree, parts_of, structure_of
from purejaxppo.policies.actions import bounds
from purejaxppo.utils.devices import quickly_compiled
from purejaxppo.utils.errors import in_one_line
from purejaxppo.utils.tree import PyTree
from purejaxppo.utils.validation import check_size, standard_promotion

FEW = 4  # ends of episodes from which something can be told
SLACK = 0.05  # of the range of starts: another start may lie that far outside of those that were seen
COMPARED = 16  # steps that are also taken alone
IMAGE_SIDE = 8  # entries from which an axis may be the height or the width of an image
CHANNELS = 2  # an axis that is this many times shorter than both others holds the channels
BRIGHT = 100  # numbers of an image beyond it are bytes
BY_HAND = 2_000  # operations of a step that are worth the time to run one by one


class Taken(NamedTuple):
    """One step of a trial."""

    key: jax.Array  # []
    state: PyTree
    action: PyTree
    step: Step


class Alone(NamedTuple):
    """What reset and step give without vmap."""

    start: tuple[PyTree, PyTree]  # obs and state
    steps: list[Step]
    reuses_key: bool


def check_env(
    env: Any, *, num_steps: int = 1_000, num_envs: int = 16, max_steps: int = 10_000, seed: int = 0
) -> list[Finding]:
    """Looks at anything that `make_env` takes, and at `num_steps` random steps in `num_envs` of it. -> a finding each

    Each has a `name`, `is_well`, and a `text` with the remedy; `is_note` marks what is allowed, and worth a look. In a
    test of one's own: `assert all(finding.is_well for finding in pjp.check_env(env))`. What the environment raises is a
    finding too, and what cannot be looked at after it is left out.

    max_steps: random steps until one episode has to end. Raises PPOError for sizes below 1.
    """
    for name, value in (("num_steps", num_steps), ("num_envs", num_envs), ("max_steps", max_steps)):
        check_size(name, value)
    try:
        built = make_env(env)
    except Exception as error:  # code of the caller's own, which may raise anything
        return [fault("interface", in_one_line(error))]
    num_envs = envs_that_fit(built, num_steps, num_envs)
    run = functools.partial(play, built, num_steps=num_steps, num_envs=num_envs)
    key = jax.random.key(seed)
    before: dict[str, Callable[[], Finding]] = {
        "interface": lambda: well("interface", describe(built)),
        "purity": lambda: check_purity(built),
        "types": lambda: check_types(env, built),
        "vmap": lambda: check_vmap(built),
        "scan": lambda: check_scan(run, key),
        "key": lambda: check_key(built),
    }
    findings = [attempted(name, check) for name, check in before.items()]
    if any(not finding.is_well for finding in findings if finding.name != "types"):
        return findings
    try:
        program = jax.jit(run, compiler_options=quickly_compiled(jax.default_backend()))
        trial, again = program(key), program(key)
        alone = steps_alone(built, trial)
    except Exception as error:  # what only shows when it runs
        return [*findings, fault("run", in_one_line(error))]
    after: dict[str, Callable[[], Finding]] = {
        "bits": lambda: check_bits(trial, again, alone),
        "lanes": lambda: check_lanes(trial, alone),
        "jit": lambda: check_jit(built, trial),
        "starts": lambda: check_starts(trial),
        "observations": lambda: check_observations(built, trial),
        "images": lambda: check_images(env, built, trial),
        "rewards": lambda: check_rewards(trial),
        "actions": lambda: check_actions(built, trial),
        "masks": lambda: check_masks(built, trial),
        "flags": lambda: check_flags(trial),
        "final observation": lambda: check_final_observation(trial),
        "episodes": lambda: check_episodes(built, trial, key, max_steps),
    }
    return findings + [attempted(name, check) for name, check in after.items()]


def describe(env: Environment) -> str:
    """The environment, for people."""
    return f"{env.name} observes {show_space(env.observation_space)} and acts in {show_space(env.action_space)}"


def show_space(space: Space | SpaceTree) -> str:
    """A space, without the bounds of each of its numbers."""
    if isinstance(space, SpaceTree):
        return ", ".join(f"{place} {show_space(part)}" for place, part in parts_of(space).items())
    return f"Box{list(space.shape)}" if isinstance(space, Box) else str(space)


def sample(trial: Trial, number: int) -> list[Taken]:
    """Some steps of a trial: the first, some ends of episodes, and others evenly spaced; always the same ones."""
    lead, ends = trial.done.shape, np.flatnonzero(trial.done)
    chosen = [0, *ends[: number // 2].tolist(), *np.linspace(0, trial.done.size - 1, number).astype(int).tolist()]
    places = [np.unravel_index(i, lead) for i in list(dict.fromkeys(chosen))[:number]]
    steps = Taken(trial.key, trial.state, trial.action, trial.step)
    return [jax.tree.map(lambda x, at=at: x[at], steps) for at in places]


def steps_alone(env: Environment, trial: Trial) -> Alone:
    """The steps of `sample` and the first start again, without vmap; and whether a key was used twice in them."""
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


def check_purity(env: Environment) -> Finding:
    """Whether reset and step keep nothing, and leave what they are given as it is."""
    key, state, action = example_inputs(env)
    changed = []

    def step(key: jax.Array, state: PyTree, action: PyTree) -> Step:
        given = [id(x) for x in jax.tree.leaves(state)]
        after = env.step(key, state, action, env.params)
        changed.append(given != [id(x) for x in jax.tree.leaves(state)])
        return after

    try:
        with jax.checking_leaks():
            jax.make_jaxpr(lambda key: env.reset(key, env.params))(key)
            jax.make_jaxpr(step)(key, state, action)
    except Exception as error:  # a leak, or what an earlier one has led to
        if "leak" not in str(error).lower():
            raise
        return fault(
            "purity",
            f"reset or step keeps a traced value, as self.x = ... does; return it in the state ({in_one_line(error)})",
        )
    if any(changed):
        return fault("purity", "step changes the state that it is given; return a new one")
    return well("purity", "nothing is kept but in the state, and the state that is given stays as it is")


def check_types(given: Any, env: Environment) -> Finding:
    """Whether reset and step agree in shape, dtype and weak type; and what `make_env` has to settle for that."""
    wrong = type_changes(env.reset, env.step, env)
    if wrong:
        return fault("types", f"{'; '.join(wrong)}; give make_env an object with reset and step, and it settles this")
    raw = raw_functions(given)
    settled = type_changes(*raw, env, flags=False) if raw else []
    if settled:
        return note("types", f"settled by make_env, and not in loops of your own: {'; '.join(settled)}")
    return well("types", "reset and step agree in structure, shape, dtype and weak type")


def raw_functions(given: Any) -> tuple[Callable[..., Any], Callable[..., Any]] | None:
    """What the caller wrote, before `make_env` settled it; None where that is the same."""
    if hasattr(given, "reset_env") and hasattr(given, "step_env"):  # gymnax's protocol
        return standard_promotion(given.reset_env), standard_promotion(given.step_env)
    return None if isinstance(given, str | Environment) else (given.reset, given.step)


def type_changes(
    reset: Callable[..., Any], step: Callable[..., Any], env: Environment, flags: bool = True
) -> list[str]:
    """Each part of (obs, state) that is of another type from step than from reset, or from the next step; in words."""
    key, _, action = example_inputs(env)
    obs, state = jax.eval_shape(reset, key, env.params)
    after = tuple(jax.eval_shape(step, key, state, action, env.params))
    later = tuple(jax.eval_shape(step, key, after[1], action, env.params))
    changes = []
    returned = (("reset", (obs, state)), ("step", after[:2]), ("the step after", later[:2]))
    for (source, x), (target, y) in itertools.pairwise(returned):
        if jax.tree.structure(x) != jax.tree.structure(y):
            return [f"{target} returns another structure than {source}"]
        changes += [
            f"{('obs', 'state')[path[0].idx]}{jax.tree_util.keystr(path[1:])} is {show_type(a)} from {source} "
            f"and {show_type(b)} from {target}"
            for (path, a), b in zip(jax.tree_util.tree_leaves_with_path(x), jax.tree.leaves(y), strict=True)
            if show_type(a) != show_type(b)
        ]
    return changes + (wrong_types(after) if flags else [])


def wrong_types(after: tuple) -> list[str]:
    """What of a Step is of another type than the library computes with, in words."""
    numbers_of_obs = [x for x in jax.tree.leaves(after[0]) if x.dtype != jnp.bool_]
    expected = [("obs", x, jnp.float32) for x in numbers_of_obs]
    expected += [
        ("reward", after[2], jnp.float32),
        ("terminated", after[3], jnp.bool_),
        ("truncated", after[4], jnp.bool_),
    ]
    return [f"{name} is {x.dtype} and not {dtype.dtype}" for name, x, dtype in expected if x.dtype != dtype]


def show_type(x: jax.ShapeDtypeStruct) -> str:
    """Shape, dtype and weak type."""
    return f"{'weakly typed ' if x.weak_type else ''}{x.dtype}{list(x.shape)}"


def check_vmap(env: Environment) -> Finding:
    """Whether reset and step can be vmapped, over their parameters too. Runs nothing."""
    key, state, action = example_inputs(env)
    params = jax.tree.map(lambda x: jax.ShapeDtypeStruct(jnp.shape(x), jnp.result_type(x)), env.params)
    two = functools.partial(jax.tree.map, lambda x: jax.ShapeDtypeStruct((2, *x.shape), x.dtype))
    try:
        jax.eval_shape(jax.vmap(env.reset), two(key), two(params))
        jax.eval_shape(jax.vmap(env.step), two(key), two(state), two(action), two(params))
    except Exception as error:  # code of the caller's own, which may raise anything
        return fault("vmap", f"reset or step cannot be vmapped: {in_one_line(error)}")
    return well("vmap", "over keys, states, actions and parameters")


def check_scan(run: Callable[[jax.Array], Trial], key: jax.Array) -> Finding:
    """Whether a scan over steps, with auto-resets, can be traced. Runs nothing."""
    try:
        jax.eval_shape(run, key)
    except Exception as error:  # code of the caller's own, which may raise anything
        return fault("scan", f"a scan over steps cannot be traced: {in_one_line(error)}")
    return well("scan", "a rollout with auto-resets is one program")


def check_key(env: Environment) -> Finding:
    """Whether reset and step are one program each. What Python draws or counts is a constant of a program."""
    key, state, action = example_inputs(env)
    for name, function, args in (("reset", env.reset, (key,)), ("step", env.step, (key, state, action))):
        if not traces_alike(function, *args, env.params):
            return fault(
                "key",
                f"{name} is another program each time it is traced: it draws from Python or NumPy, counts calls, or "
                "reads a clock; take what is random from key, and put what changes in the state",
            )
    return well("key", "reset and step are the same program each time they are traced")


def check_bits(trial: Trial, again: Trial, alone: Alone) -> Finding:
    """Whether the same key gives the same steps; and whether none is used twice."""
    if not all_same(trial, again):
        return fault("bits", "the same program with the same key gives other bits; take what is random from key")
    if alone.reuses_key:
        return note("bits", "the same from the same key, which is used more than once in reset or step; split it")
    return well("bits", "the same from the same key")


def check_lanes(trial: Trial, alone: Alone) -> Finding:
    """Whether each lane of a vmapped step is the step alone."""
    start = jax.tree.map(lambda x: x[0], trial.start)
    difference = first_difference(alone.start, start)
    for row, step in zip(sample(trial, COMPARED), alone.steps, strict=True):
        difference = difference or first_difference(step, row.step)
    if difference:
        return fault("lanes", f"a lane of vmap is not what reset or step gives alone: {difference}")
    return well("lanes", "each lane of vmap is what reset and step give alone")


def check_jit(env: Environment, trial: Trial) -> Finding:
    """Whether a step without jit is the compiled one."""
    row = sample(trial, 1)[0]
    given = (row.key, row.state, row.action, env.params)
    operations = len(jax.make_jaxpr(env.step)(*given).eqns)
    if operations > BY_HAND:
        return well("jit", f"not compared: a step of {operations:,} operations takes long without jit")
    difference = first_difference(row.step, env.step(*given))
    start = jax.tree.map(lambda x: x[0], trial.start)
    difference = difference or first_difference(start, env.reset(trial.start_key[0], env.params))
    if difference:
        return fault("jit", f"without jit, reset or step gives something else: {difference}")
    return well("jit", "the same without jit")


def check_starts(trial: Trial) -> Finding:
    """Whether different keys give different starts."""
    starts = numbers(trial.start, 1)
    if np.all(starts == starts[0]):
        return note("starts", f"{len(starts)} keys give one start: reset draws nothing from its key")
    return well("starts", f"{len(np.unique(starts, axis=0))} of {len(starts)} keys")


def check_observations(env: Environment, trial: Trial) -> Finding:
    """Whether the observations are finite and in their space."""
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
    """What is wrong with N observations of one space, [N, F]; None where nothing is."""
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
            f"{high[i]:.6g} in {share(is_out)}; mend observation_space, or the observation"
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


def check_rewards(trial: Trial) -> Finding:
    """Whether the rewards are finite; and whether there were any."""
    reward = np.asarray(trial.step.reward)
    if not np.all(np.isfinite(reward)):
        bad = reward[~np.isfinite(reward)]
        return fault("rewards", f"{bad[0]} in {bad.size:,} of {reward.size:,} steps; find the division or the log")
    if not reward.any():
        return note(
            "rewards", f"0 in all of {reward.size:,} random steps: there is nothing to learn from until one is not"
        )
    return well("rewards", f"from {reward.min():.4g} to {reward.max():.4g}")


def check_actions(env: Environment, trial: Trial) -> Finding:
    """Whether the action makes a difference anywhere."""
    space, matters = env.action_space, np.asarray(trial.matters)
    if any(map(is_choice, parts_of(space).values())) and not matters.any():
        return note("actions", f"in none of {matters.size:,} steps would another action have changed anything")
    tried = ""
    if isinstance(space, Discrete):
        tried = f"; {len(np.unique(np.asarray(trial.action)))} of {space.n} tried"
    return well("actions", f"another one changes {100 * matters.mean():.0f}% of the steps{tried}")


def is_choice(space: Space) -> bool:
    """Whether a space has more than one element."""
    return isinstance(space, Box) or math.prod([space.n] if isinstance(space, Discrete) else space.sizes) > 1


def check_masks(env: Environment, trial: Trial) -> Finding:
    """Whether an action is legal until the episode is over."""
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
                "masks", f"no action{where} is legal in {none:,} of {len(mask):,} states; leave one, or end the episode"
            )
    return well("masks", f"always a legal action; {100 * np.mean(legal):.0f}% are")


def has_no_choice(space: Space, mask: np.ndarray) -> np.ndarray:
    """Whether a choice has no legal action. [N, n] -> [N] bool"""
    sizes = space.sizes if isinstance(space, MultiDiscrete) else (mask.shape[-1],)
    choices = np.split(mask, np.cumsum(sizes)[:-1], axis=-1)
    return np.any([~choice.any(axis=-1) for choice in choices], axis=0)


def check_flags(trial: Trial) -> Finding:
    """How episodes end."""
    terminated, truncated = np.asarray(trial.step.terminated), np.asarray(trial.step.truncated)
    both = int((terminated & truncated).sum())
    text = f"{int(terminated.sum()):,} steps terminated, {int(truncated.sum()):,} truncated, {both:,} both"
    if both and both == truncated.sum() == terminated.sum():
        return note("flags", f"{text}: all of them. Both count as a termination, so that no time limit is bootstrapped")
    return note("flags", f"{text}, which count as terminated") if both else well("flags", text)


def check_final_observation(trial: Trial) -> Finding:
    """Whether the step that ends an episode observes its end, and not already the start of another."""
    done = trial.done.reshape(-1)
    if done.sum() < FEW or (~done).sum() < FEW:
        return well("final observation", f"{int(done.sum())} ends in {done.size:,} steps: too few to tell from starts")
    text = "looks like a first one: step resets by itself; return the last observation, and leave the reset to us"
    whole = start_likeness(trial.start, (trial.step.obs, trial.step.state), done)
    if is_telling(*whole):
        return fault("final observation", f"that of {100 * whole[0]:.0f}% of {int(done.sum()):,} episodes {text}")
    seen = start_likeness(trial.start[0], trial.step.obs, done)
    if is_telling(*seen):
        return note(
            "final observation",
            f"that of {100 * seen[0]:.0f}% of {int(done.sum()):,} episodes {text} (the state does not look like one)",
        )
    return well("final observation", f"{int(done.sum()):,} episodes end elsewhere than they start")


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
    """Whether ends look like starts, and other steps do not."""
    return ends > 0.5 and others < 0.5 * ends


def check_episodes(env: Environment, trial: Trial, key: jax.Array, max_steps: int) -> Finding:
    """Whether episodes end, and not all of them as by a clock that is called a termination."""
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
                f"none of {num_envs} ended in {max(num_steps, max_steps):,} random steps; give them a time limit, "
                "which truncates, or where they are that long raise max_steps",
            )
        return well("episodes", f"the first of {num_envs} ended after {ends_after:,} random steps")
    text = f"{lengths.size:,} ended, after {lengths.min():,} to {lengths.max():,} random steps"
    only_terminated = not np.asarray(trial.step.truncated).any()
    if lengths.size >= 2 * FEW and lengths.min() == lengths.max() > 1 and only_terminated:
        return note("episodes", f"{text}, each by a termination; a time limit is to be truncated, not terminated")
    return well("episodes", text)


def episode_lengths(done: np.ndarray) -> np.ndarray:
    """Those of the episodes that ended, each environment beginning one at the first step. [T, B] -> [N]"""
    return np.concatenate([np.diff(np.flatnonzero(column), prepend=-1) for column in done.T])
