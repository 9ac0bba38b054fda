"""`check_env`: looks at an environment, with a finding for each promise that it has to keep."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from purejaxppo.cli.doctor import env_steps
from purejaxppo.cli.doctor.findings import Check, Finding, fault, run_checks
from purejaxppo.cli.doctor.trial import envs_that_fit, play, traces_alike
from purejaxppo.envs import make_env
from purejaxppo.envs.base import Environment, Step
from purejaxppo.envs.spaces import example_action, show_space
from purejaxppo.utils.devices import quickly_compiled
from purejaxppo.utils.errors import PPOError, in_one_line
from purejaxppo.utils.tree import PyTree, key_shape
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
        return [fault("interface", error)]
    num_envs = envs_that_fit(built, num_steps, num_envs)
    run = functools.partial(play, built, num_steps=num_steps, num_envs=num_envs)
    key = jax.random.key(seed)
    spaces = f"observes {show_space(built.observation_space)} and acts in {show_space(built.action_space)}"
    checks: dict[str, Check] = {  # of reset and step as programs, which are traced and not run
        "interface": lambda: f"{built.name} {spaces}",
        "purity": lambda: check_purity(built),
        "types": lambda: check_types(built),
        "vmap": lambda: check_vmap(built, lambda: jax.eval_shape(run, key)),
        "key": lambda: check_key(built),
    }
    findings = run_checks(checks)
    if any(not finding.is_well for finding in findings if finding.name != "types"):
        return findings
    try:
        program = jax.jit(run, compiler_options=quickly_compiled(jax.default_backend()))
        trial, again = program(key), program(key)
    except Exception as error:  # what only shows when it runs
        return [*findings, fault("run", error)]
    checks = {"bits": lambda: env_steps.check_bits(trial, again)}
    checks |= {name: functools.partial(check, trial) for name, check in env_steps.CHECKS.items()}
    checks |= {"episodes": lambda: env_steps.check_episodes(trial, key, max_steps)}
    return findings + run_checks(checks)


def example_inputs(env: Environment) -> tuple[PyTree, PyTree, PyTree]:
    """Shapes of what `step` takes: key, state, action."""
    key = key_shape()
    _, state = jax.eval_shape(env.reset, key, env.params)
    return key, state, jax.eval_shape(lambda: example_action(env.action_space))


def check_purity(env: Environment) -> str:
    """Checks that reset and step keep nothing outside of the state and do not change their arguments."""
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
        raise PPOError(
            f"reset or step keeps a traced value, as self.x = ... does; return it in the state ({in_one_line(error)})"
        ) from None
    if any(changed):
        raise PPOError("step changes its argument `state`; return a new one")
    return "reset and step keep nothing outside of the state, and do not change their arguments"


def check_types(env: Environment) -> str:
    """Checks that step returns the shapes, dtypes and weak types of reset, a float32 reward and bool flags."""
    key, state, action = example_inputs(env)
    after = jax.eval_shape(env.step, key, state, action, env.params)
    obs = jax.eval_shape(env.reset, key, env.params)[0]
    number, flag = jnp.zeros((), jnp.float32), jnp.zeros((), jnp.bool_)
    wanted = Step(obs, state, number, flag, flag, after.info)
    remedy = "give make_env an object with reset and step, which it converts"
    if jax.tree.structure(after) != jax.tree.structure(wanted):
        raise PPOError(f"step returns a different structure than reset; {remedy}")
    pairs = zip(jax.tree_util.tree_leaves_with_path(after), jax.tree.leaves(wanted), strict=True)
    wrong = [
        f"{jax.tree_util.keystr(path)[1:]} is {show_type(x)} from step, not {show_type(y)}"
        for (path, x), y in pairs
        if show_type(x) != show_type(y)
    ]
    if wrong:
        raise PPOError(f"{'; '.join(wrong)}; {remedy}")
    return "reset and step agree in structure, shape, dtype and weak type"


def show_type(x: jax.ShapeDtypeStruct | jax.Array) -> str:
    """Shape, dtype and weak type."""
    return f"{'weakly typed ' if x.weak_type else ''}{x.dtype}{list(x.shape)}"


def check_vmap(env: Environment, trace_rollout: Callable[[], Any]) -> str:
    """Checks that reset and step can be vmapped, over their parameters too, and looped over with auto-resets."""
    arguments = (*example_inputs(env), jax.eval_shape(lambda: env.params))
    key, state, action, params = jax.tree.map(lambda x: jax.ShapeDtypeStruct((2, *x.shape), x.dtype), arguments)
    jax.eval_shape(jax.vmap(env.reset), key, params)
    jax.eval_shape(jax.vmap(env.step), key, state, action, params)
    trace_rollout()
    return "over keys, states, actions and parameters; a rollout with auto-resets is one program"


def check_key(env: Environment) -> str:
    """Checks that reset and step always trace to the same program. What Python draws or counts would be a constant."""
    key, state, action = example_inputs(env)
    for name, function, args in (("reset", env.reset, (key,)), ("step", env.step, (key, state, action))):
        if not traces_alike(function, *args, env.params):
            raise PPOError(
                f"{name} traces to a different program each time: it draws from Python or NumPy, counts calls, or "
                "reads a clock; draw from key, and keep what changes in the state"
            )
    return "reset and step always trace to the same program"
