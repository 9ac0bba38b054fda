"""`check_env`: looks at an environment, with a finding for each promise that it has to keep."""

import functools
from collections.abc import Callable
from typing import Any

import jax

from purejaxppo.cli.doctor.env_observations import check_images, check_observations, show_space
from purejaxppo.cli.doctor.env_program import check_key, check_purity, check_scan, check_types, check_vmap
from purejaxppo.cli.doctor.env_steps import (
    check_actions,
    check_bits,
    check_episodes,
    check_final_observation,
    check_flags,
    check_jit,
    check_lanes,
    check_masks,
    check_rewards,
    check_starts,
    steps_alone,
)
from purejaxppo.cli.doctor.findings import Finding, attempted, fault, well
from purejaxppo.cli.doctor.trial import (
    envs_that_fit,
    play,
)
from purejaxppo.envs import make_env
from purejaxppo.envs.base import Environment
from purejaxppo.utils.devices import quickly_compiled
from purejaxppo.utils.errors import in_one_line
from purejaxppo.utils.validation import check_size


def check_env(
    env: Any, *, num_steps: int = 1_000, num_envs: int = 16, max_steps: int = 10_000, seed: int = 0
) -> list[Finding]:
    """Checks an environment by its programs and by random steps in it.

    An exception of the environment is a finding too; checks that it makes impossible are left out. In your own test:
    `assert all(finding.is_well for finding in pjp.check_env(env))`.

    Args:
        env: Anything that `make_env` takes.
        num_steps: Random steps in each environment.
        num_envs: Environments stepped side by side.
        max_steps: Random steps within which one episode has to end.
        seed: Seed of the resets, steps and actions.

    Returns:
        A finding for each check, with a `name`, `is_well`, and a `text` with the remedy. `is_note` marks what is
        allowed but worth a look.

    Raises:
        PPOError: A size is below 1.
    """
    for name, value in (("num_steps", num_steps), ("num_envs", num_envs), ("max_steps", max_steps)):
        check_size(name, value)
    try:
        built = make_env(env)
    except Exception as error:  # user code may raise anything
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
    """One line about the environment: its name, observations and actions."""
    return f"{env.name} observes {show_space(env.observation_space)} and acts in {show_space(env.action_space)}"
