"""A program that was compiled before in this process is not compiled again."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import purejaxppo as pjp
from purejaxppo.population import executables
from purejaxppo.population.executables import compile_once, forget_programs

CONFIG = pjp.PPOConfig(num_envs=2, num_steps=4, total_timesteps=16, hidden_sizes=(2,), num_minibatches=1)


@pytest.fixture(autouse=True)
def nothing_kept():
    forget_programs()
    yield
    forget_programs()


@pytest.fixture
def compilations():
    """The programs that are compiled, also those that a cache on the disk then gives."""
    seen = []

    def note(event, seconds, **_):
        if event == "/jax/core/compile/backend_compile_duration":
            seen.append(event)

    jax.monitoring.register_event_duration_secs_listener(note)
    yield seen
    jax.monitoring.unregister_event_duration_listener(note)


class Paid:
    """Pays what a table holds, which no leaf of the environment shows."""

    default_params = None
    observation_space = pjp.Box((1,), (0.0,), (1.0,))
    action_space = pjp.Discrete(2)

    def __init__(self, table):
        self.table = np.asarray(table, np.float32)

    def reset(self, key, params):
        return jnp.zeros(1), ()

    def step(self, key, state, action, params):
        return jnp.zeros(1), (), jnp.asarray(self.table)[action], jnp.bool_(True), jnp.bool_(False)


def test_a_second_population_compiles_nothing_unless_a_captured_table_differs(compilations):
    def train(pay, seed=0):
        before = len(compilations)
        population = pjp.train_population(pjp.make_env(Paid([pay] * 2)), CONFIG, num_seeds=2, seed=seed)
        return population, len(compilations) - before

    first, _ = train(1.0)
    others, num_others = train(1.0, seed=5)  # other seeds, and an environment made anew
    assert num_others == 0
    assert np.all(others.metrics.value_loss != first.metrics.value_loss)
    better, num_better = train(7.0)
    assert num_better == 1  # the updates alone see the table
    np.testing.assert_array_equal(first.metrics.episode_return_mean, 1.0)
    np.testing.assert_array_equal(better.metrics.episode_return_mean, 7.0)


def kept(fn, *arguments, options=None, **keywords):
    """Calls `fn` by its compiled program."""
    jitted, arguments = jax.jit(fn, compiler_options=options or {}, **keywords), jax.tree.map(jnp.copy, arguments)
    program = compile_once(jitted.lower(*arguments), jax.local_devices()[:1], options or {})
    return program, program(*arguments)


class Named(NamedTuple):
    x: jax.Array


X, Y = jnp.float32(3.0), jnp.float32(4.0)
TABLES = [np.arange(50_000, dtype=np.float32), np.full(50_000, 2.0, np.float32)]
DIFFERENT = {
    "a constant": [functools.partial(kept, lambda x, scale=scale: scale * x, X) for scale in (1.0, 2.0)],
    "a table": [functools.partial(kept, lambda i, t=t: jnp.asarray(t)[i], jnp.int32(7)) for t in TABLES],
    "a callback": [functools.partial(kept, lambda x, n=n: jax.pure_callback(lambda y: y + n, X, x), X) for n in (X, Y)],
    "the argument that is used": [functools.partial(kept, fn, X, Y) for fn in (lambda x, y: x + 1, lambda x, y: y + 1)],
    "the tree that goes in": [functools.partial(kept, lambda t: t[0] + 1, x) for x in ((X,), Named(X))],
    "the tree that comes out": [functools.partial(kept, lambda x, t=t: t(x + 1), X) for t in (Named, lambda x: (x,))],
    "a weak type": [functools.partial(kept, lambda x: x + 1, x) for x in (X, jnp.asarray(3.0))],
    "donation": [functools.partial(kept, lambda x: x + 1, X, donate_argnums=i) for i in ((), 0)],
    "an option": [
        functools.partial(kept, lambda x: x + 1, X, options={"xla_backend_optimization_level": i}) for i in (0, 1)
    ],
}


@pytest.mark.parametrize("hides_tables", [False, True])
@pytest.mark.parametrize("calls", DIFFERENT.values(), ids=DIFFERENT)
def test_programs_that_differ_are_kept_apart(calls, hides_tables):
    before = jax.config.jax_use_simplified_jaxpr_constants
    try:
        jax.config.update("jax_use_simplified_jaxpr_constants", hides_tables)  # then tables are hidden arguments
        results = [call() for call in calls]
        assert results[0][0] is not results[1][0]
    finally:
        jax.config.update("jax_use_simplified_jaxpr_constants", before)


def test_an_equal_program_is_returned_and_the_least_recently_used_one_leaves(monkeypatch):
    monkeypatch.setattr(executables, "MOST_PROGRAMS", 2)
    make = lambda scale: kept(lambda x: scale * x, X)[0]  # noqa: E731
    one, two = make(1.0), make(2.0)
    assert make(1.0) is one
    make(3.0)
    assert make(1.0) is one
    assert make(2.0) is not two


def test_a_program_with_many_constants_is_not_kept(monkeypatch):
    monkeypatch.setattr(executables, "MOST_BYTES", 100)
    fn = lambda x: x + jnp.asarray(TABLES[0])  # noqa: E731
    assert kept(fn, X)[0] is not kept(fn, X)[0]


def test_another_setting_of_jax_is_another_program():
    fn = lambda x: x @ x  # noqa: E731
    one = kept(fn, jnp.ones((2, 2)))[0]
    with jax.debug_nans(True):
        assert kept(fn, jnp.ones((2, 2)))[0] is not one
