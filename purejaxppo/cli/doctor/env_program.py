"""Checks of reset and step as programs: they are traced, and nothing runs."""

import functools
import itertools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from purejaxppo.cli.doctor.findings import Finding, fault, note, well
from purejaxppo.cli.doctor.trial import (
    Trial,
    example_inputs,
    traces_alike,
)
from purejaxppo.envs.base import (
    Environment,
    Step,
)
from purejaxppo.utils.errors import in_one_line
from purejaxppo.utils.tree import PyTree
from purejaxppo.utils.validation import standard_promotion


def check_purity(env: Environment) -> Finding:
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
        return fault(
            "purity",
            f"reset or step keeps a traced value, as self.x = ... does; return it in the state ({in_one_line(error)})",
        )
    if any(changed):
        return fault("purity", "step changes its argument `state`; return a new one")
    return well("purity", "reset and step keep nothing outside of the state, and do not change their arguments")


def check_types(given: Any, env: Environment) -> Finding:
    """Checks that reset and step agree in shape, dtype and weak type, or notes what `make_env` converts for that."""
    wrong = type_changes(env.reset, env.step, env)
    if wrong:
        return fault("types", f"{'; '.join(wrong)}; give make_env an object with reset and step, which it converts")
    raw = raw_functions(given)
    settled = type_changes(*raw, env, flags=False) if raw else []
    if settled:
        return note("types", f"make_env converts this; your own loops have to do it themselves: {'; '.join(settled)}")
    return well("types", "reset and step agree in structure, shape, dtype and weak type")


def raw_functions(given: Any) -> tuple[Callable[..., Any], Callable[..., Any]] | None:
    """reset and step as the caller wrote them, before `make_env` converted them. None if it converts nothing."""
    if hasattr(given, "reset_env") and hasattr(given, "step_env"):  # gymnax's protocol
        return standard_promotion(given.reset_env), standard_promotion(given.step_env)
    return None if isinstance(given, str | Environment) else (given.reset, given.step)


def type_changes(
    reset: Callable[..., Any], step: Callable[..., Any], env: Environment, flags: bool = True
) -> list[str]:
    """Describes each part of (obs, state) whose type differs between reset, a step and the next step."""
    key, _, action = example_inputs(env)
    obs, state = jax.eval_shape(reset, key, env.params)
    after = tuple(jax.eval_shape(step, key, state, action, env.params))
    later = tuple(jax.eval_shape(step, key, after[1], action, env.params))
    changes = []
    returned = (("reset", (obs, state)), ("step", after[:2]), ("the step after", later[:2]))
    for (source, x), (target, y) in itertools.pairwise(returned):
        if jax.tree.structure(x) != jax.tree.structure(y):
            return [f"{target} returns a different structure than {source}"]
        changes += [
            f"{('obs', 'state')[path[0].idx]}{jax.tree_util.keystr(path[1:])} is {show_type(a)} from {source} "
            f"and {show_type(b)} from {target}"
            for (path, a), b in zip(jax.tree_util.tree_leaves_with_path(x), jax.tree.leaves(y), strict=True)
            if show_type(a) != show_type(b)
        ]
    return changes + (wrong_types(after) if flags else [])


def wrong_types(after: tuple) -> list[str]:
    """Describes each part of a Step that has another type than the library computes with."""
    numbers_of_obs = [x for x in jax.tree.leaves(after[0]) if x.dtype != jnp.bool_]
    expected = [("obs", x, jnp.float32) for x in numbers_of_obs]
    expected += [
        ("reward", after[2], jnp.float32),
        ("terminated", after[3], jnp.bool_),
        ("truncated", after[4], jnp.bool_),
    ]
    return [f"{name} is {x.dtype}, not {dtype.dtype}" for name, x, dtype in expected if x.dtype != dtype]


def show_type(x: jax.ShapeDtypeStruct) -> str:
    """Shape, dtype and weak type."""
    return f"{'weakly typed ' if x.weak_type else ''}{x.dtype}{list(x.shape)}"


def check_vmap(env: Environment) -> Finding:
    """Checks that reset and step can be vmapped, over their parameters too. Runs nothing."""
    key, state, action = example_inputs(env)
    params = jax.tree.map(lambda x: jax.ShapeDtypeStruct(jnp.shape(x), jnp.result_type(x)), env.params)
    two = functools.partial(jax.tree.map, lambda x: jax.ShapeDtypeStruct((2, *x.shape), x.dtype))
    try:
        jax.eval_shape(jax.vmap(env.reset), two(key), two(params))
        jax.eval_shape(jax.vmap(env.step), two(key), two(state), two(action), two(params))
    except Exception as error:  # user code may raise anything
        return fault("vmap", f"reset or step cannot be vmapped: {in_one_line(error)}")
    return well("vmap", "over keys, states, actions and parameters")


def check_scan(run: Callable[[jax.Array], Trial], key: jax.Array) -> Finding:
    """Checks that a scan over steps with auto-resets can be traced. Runs nothing."""
    try:
        jax.eval_shape(run, key)
    except Exception as error:  # user code may raise anything
        return fault("scan", f"a scan over steps cannot be traced: {in_one_line(error)}")
    return well("scan", "a rollout with auto-resets is one program")


def check_key(env: Environment) -> Finding:
    """Checks that reset and step always trace to the same program. What Python draws or counts would be a constant."""
    key, state, action = example_inputs(env)
    for name, function, args in (("reset", env.reset, (key,)), ("step", env.step, (key, state, action))):
        if not traces_alike(function, *args, env.params):
            return fault(
                "key",
                f"{name} traces to a different program each time: it draws from Python or NumPy, counts calls, or "
                "reads a clock; draw from key, and keep what changes in the state",
            )
    return well("key", "reset and step always trace to the same program")
