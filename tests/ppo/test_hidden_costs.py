"""What no result shows: compilations, leaked tracers, keys used twice, transfers, and outputs that grow."""

import contextlib
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import purejaxppo as pjp
from purejaxppo.envs import vector
from purejaxppo.population import program
from purejaxppo.population.algorithms import make_agent
from purejaxppo.population.jobs import make_jobs
from purejaxppo.population.options import Experiment
from purejaxppo.population.program import member_inputs
from purejaxppo.ppo.shuffle import shuffled_indices
from purejaxppo.utils.devices import quickly_compiled
from purejaxppo.utils.files import to_host

pytestmark = pytest.mark.usefixtures("few_objects")

ENV = pjp.make_env("CartPole-v1")
QUICK = quickly_compiled("cpu")
SIZES = {"num_envs": 4, "num_steps": 64, "total_timesteps": 4 * 64 * 3}  # episodes end in every update
CONFIGS = {
    "ppo": pjp.PPOConfig(
        hidden_sizes=(4,), update_epochs=2, num_minibatches=2, normalize_obs=True, normalize_reward=True, **SIZES
    ),
    "recurrent": pjp.RecurrentConfig(hidden_sizes=(4,), cell_size=4, update_epochs=2, num_minibatches=2, **SIZES),
    "full batch": pjp.FullBatchConfig(hidden_sizes=(4,), policy_iterations=2, value_iterations=2, **SIZES),
}
CALLS = 50
LOWERED = "/jax/core/compile/jaxpr_to_mlir_module_duration"  # once for each program, in the compiler's cache or not


def agent_of(name, gamma=0.99, length=0.5):
    return make_agent(ENV.replace(params=ENV.params.replace(length=length)), CONFIGS[name].replace(gamma=gamma))


def of_update(name, gamma, length, runner):
    return agent_of(name, gamma, length).update(runner)


def of_train(name, gamma, length, key):
    agent = agent_of(name, gamma, length)
    return pjp.update_many(agent, agent.init(key), 2)


def of_act(name, gamma, length, state, obs, key):
    return agent_of(name, gamma, length).act(state, obs, key)


def of_evaluation(name, gamma, length, state, key):
    return pjp.evaluate(agent_of(name, gamma, length), state, key, 2, sampled=True, max_steps=20)


@functools.cache
def compiled(function, name):
    return jax.jit(functools.partial(function, name), compiler_options=QUICK)


@functools.cache
def start(name):
    return jax.jit(agent_of(name).init, compiler_options=QUICK)(jax.random.key(0))


def on_device(*numbers):
    return [jax.device_put(np.float32(x)) for x in numbers]


@contextlib.contextmanager
def lowered():
    """The names of the programs that are lowered meanwhile."""
    names = []

    def note(event, duration, **details):
        if event == LOWERED:
            names.append(details.get("fun_name"))

    jax.monitoring.register_event_duration_secs_listener(note)
    try:
        yield names
    finally:
        jax.monitoring.unregister_event_duration_listener(note)


EVERY_CALL = [(of_update, name) for name in CONFIGS] + [(f, "ppo") for f in (of_train, of_act, of_evaluation)]


def arguments(function, name, i):
    """Those of call `i`: a number of the config, a parameter of the environment, and a state or a key."""
    runner, key = start(name), jax.random.key(i)
    first = on_device(0.9 + 0.001 * i, 0.5 + 0.01 * i)
    if function is of_update:
        return (*first, runner)
    if function is of_train:
        return (*first, key)
    if function is of_act:
        return (*first, runner.train_state, jax.tree.map(lambda x: x[0], runner.obs), key)
    return (*first, runner.train_state, key)


@pytest.mark.parametrize(("function", "name"), EVERY_CALL)
def test_50_calls_with_other_numbers_are_one_compilation(function, name):
    given = [arguments(function, name, i) for i in range(CALLS)]
    call = compiled(function, name)
    call.clear_cache()
    with lowered() as names:
        results = [call(*each) for each in given]
    assert len(names) == 1
    assert len({b"".join(x.tobytes() for x in jax.tree.leaves(to_host(result))) for result in results}) > 1


def test_a_second_compilation_is_counted():
    with lowered() as names:
        for size in (2, 3):
            jax.jit(lambda x: 2 * x)(np.ones(size, np.float32))
    assert len(names) == 2


@pytest.mark.parametrize(("function", "name"), EVERY_CALL)
def test_no_tracer_leaks(function, name):
    given = arguments(function, name, 0)
    with jax.checking_leaks():
        jax.make_jaxpr(functools.partial(function, name))(*given)


def test_a_leaked_tracer_is_caught():
    leaked = []
    with jax.checking_leaks(), pytest.raises(Exception, match="Leaked"):
        jax.make_jaxpr(lambda x: leaked.append(2 * x) or x)(1.0)


@pytest.mark.parametrize(("function", "name"), EVERY_CALL)
def test_no_key_is_used_twice(function, name):
    given = arguments(function, name, 0)
    with jax.debug_key_reuse(True):
        jax.jit(functools.partial(function, name), compiler_options=QUICK)(*given)


def test_no_key_of_a_start_that_is_drawn_when_needed_is_used_twice(monkeypatch):
    monkeypatch.setattr(vector, "AHEAD_BYTES", 0)
    agent = agent_of("ppo")
    with jax.debug_key_reuse(True):
        jax.jit(lambda runner: agent.update(runner), compiler_options=QUICK)(agent.init(jax.random.key(0)))


def test_a_key_that_is_used_twice_is_caught():
    """The noise of the actions drawn with the key that shuffles."""
    agent = agent_of("ppo")

    def update_and_draw(runner):
        _, shuffle_key = jax.random.split(jax.random.fold_in(runner.key, runner.train_state.update))
        return shuffled_indices(shuffle_key, 1, 1, 4), agent.actions.noise(shuffle_key, (4,))

    with jax.debug_key_reuse(True), pytest.raises(jax.errors.KeyReuseError):
        jax.jit(update_and_draw)(start("ppo"))


@pytest.mark.parametrize(("function", "name"), EVERY_CALL)
def test_nothing_is_transferred_by_a_call(function, name):
    given, call = arguments(function, name, 0), compiled(function, name)
    call(*given)
    with jax.transfer_guard("disallow_explicit"):
        result = call(*given)
        if function is of_update:
            call(*given[:2], result[0])
    assert "callback" not in call.lower(*given).as_text()


def test_a_transfer_is_caught():
    add = jax.jit(lambda x: x + 1)
    with jax.transfer_guard("disallow_explicit"):
        for number in (1.0, np.ones(3, np.float32)):
            with pytest.raises(Exception, match="Disallowed host-to-device transfer"):
                add(number)


def test_nothing_is_transferred_within_a_chunk_of_a_population(bare_options):
    (job,) = make_jobs(Experiment(ENV, CONFIGS["ppo"], 2, 0, bare_options("seeds")), [{"gamma": 0.9}, {"gamma": 0.99}])
    population = program.compile_program(job, 4)
    starts, _, numbers = member_inputs(job, (0, 4), 4)
    runners = population.init(*starts)
    shardings = population.advance.input_shardings[0]
    given = jax.device_put((runners, numbers, np.int32(1)), shardings)
    assert "callback" not in population.advance.as_text()
    with jax.transfer_guard("disallow_explicit"):
        for _ in range(2):
            runners, metrics = population.advance(*given)
            given = (runners, *given[1:])
    assert runners.train_state.update.tolist() == [2] * 4
    assert metrics.entropy.shape == (4, max(population.capacity, program.LEAST_ROWS))


@pytest.mark.parametrize("name", CONFIGS)
def test_no_output_grows_with_the_rollout(name):
    """Of a longer rollout all outputs are as large, and of a wider one the metrics."""

    def shapes(num_envs, num_steps):
        sizes = {"num_envs": num_envs, "num_steps": num_steps, "total_timesteps": 10**6}
        agent = make_agent(ENV, CONFIGS[name].replace(**sizes))
        runner, metrics = jax.eval_shape(lambda key: agent.update(agent.init(key)), jax.random.key(0))
        return runner, metrics.replace(batch_size=1)  # which is no output, and is that of the rollout

    assert shapes(4, 16) == shapes(4, 1024)
    assert shapes(4, 16)[1] == shapes(64, 16)[1]
    assert shapes(4, 16)[0] != shapes(64, 16)[0]


def test_debug_nans_stops_at_nothing_that_is_right():
    """As long as an episode ends in every update: a mean over none is NaN by design."""
    with jax.debug_nans(True):
        _, metrics = compiled(of_train, "ppo")(*on_device(0.99, 0.5), jax.random.key(0))
    assert metrics.episodes.min() > 0


class OneArray:
    """An environment whose observation is its state."""

    default_params = ()
    observation_space = pjp.Box((2,), (0.0, 0.0), (1.0, 1.0))
    action_space = pjp.Discrete(2)

    def reset(self, key, params):
        state = jax.random.uniform(key, (2,))
        return state, state

    def step(self, key, state, action, params):
        return state, state, state[0], jnp.bool_(False), jnp.bool_(False)


@pytest.mark.parametrize("name", list(CONFIGS))
def test_a_call_may_be_given_the_buffers_of_what_init_returns(name):
    """No two leaves share one, and the caller's key and parameters keep theirs."""
    parts, given = {}, {"policy": jnp.zeros((2, 2)), "value": jnp.zeros(2)}
    if name == "ppo":  # parameters from elsewhere, and an optimizer that keeps them
        parts["optimizer"] = optax.GradientTransformation(
            lambda params: params, lambda grads, state, params: (grads, state)
        )
        parts["network"] = pjp.Network(lambda key, obs: given, lambda p, obs: (obs @ p["policy"], obs @ p["value"]))
    make = functools.partial(pjp.make_ppo, **parts) if parts else make_agent
    agent, key = make(pjp.make_env(OneArray()), CONFIGS[name]), jax.random.key(0)
    copied = jax.jit(lambda runner: jax.tree.map(jnp.copy, runner), donate_argnums=0)(agent.init(key))
    assert not any(x.is_deleted() for x in [key, *jax.tree.leaves(given)])
    assert jax.tree.structure(copied) == jax.tree.structure(agent.init(key))
