"""`purejaxppo doctor` and `check_env`: planted faults are found, each by the check that is there for it."""

import re
import tomllib
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import struct
from packaging.specifiers import SpecifierSet

import purejaxppo as pjp
from purejaxppo.cli import doctor
from purejaxppo.cli import main as cli
from purejaxppo.cli.doctor import command, machine
from purejaxppo.cli.doctor.command import make_own_agent
from purejaxppo.cli.doctor.env_steps import check_images
from purejaxppo.cli.doctor.environment import check_types
from purejaxppo.cli.doctor.findings import Note

ROOT = Path(__file__).parents[2]
SHORT = {"num_steps": 64, "num_envs": 8, "max_steps": 256}
SMALL = {"num_envs": 4, "num_steps": 16, "total_timesteps": 4 * 16 * 8, "num_minibatches": 2}


class Params(struct.PyTreeNode):
    pay: float = 1.0
    limit: int = 12


class State(NamedTuple):
    place: jax.Array
    time: jax.Array


class Corridor:
    """Nine places in a row; the last one pays and ends the episode, and a clock cuts it. Nothing is wrong with it."""

    default_params = Params()
    observation_space = pjp.Box((2,), (0.0, 0.0), (1.0, 1.0))
    action_space = pjp.Discrete(3)

    def reset(self, key, params):
        state = State(jax.random.randint(key, (), 0, 3), jnp.int32(0))
        return self.observe(state, params), state

    def step(self, key, state, action, params):
        place = jnp.clip(state.place + action - 1, 0, 8)
        state = State(place, state.time + 1)
        reward = jnp.where(place == 8, params.pay, 0.0) - 0.01
        return self.observe(state, params), state, reward, place == 8, state.time >= params.limit

    def observe(self, state, params):
        return jnp.stack([state.place / 8, state.time / params.limit])


class Slide(Corridor):
    """Its steps are of any size up to one place."""

    action_space = pjp.Box((1,), (-1.0,), (1.0,))

    def reset(self, key, params):
        state = State(jax.random.uniform(key, maxval=2.0), jnp.int32(0))
        return self.observe(state, params), state

    def step(self, key, state, action, params):
        place = jnp.clip(state.place + action[0], 0.0, 8.0)
        state = State(place, state.time + 1)
        return self.observe(state, params), state, place / 8, place > 7.5, state.time >= params.limit


class Walled(Corridor):
    """One cannot walk into the walls."""

    def action_mask(self, state, params):
        return jnp.stack([state.place > 0, True, state.place < 8])


class Named(Walled):
    """Places and times by name; one walks, and says something that nobody hears."""

    observation_space = {"place": pjp.Discrete(9), "time": pjp.Box((1,), (0.0,), (1.0,))}
    action_space = {"walk": pjp.Discrete(3), "say": pjp.Box((2,), (-1.0,) * 2, (1.0,) * 2)}

    def action_mask(self, state, params):
        return {"walk": super().action_mask(state, params), "say": None}

    def step(self, key, state, action, params):
        return super().step(key, state, action["walk"], params)

    def observe(self, state, params):
        return {"place": state.place, "time": state.time[None] / params.limit}


class LateName(Named):
    """Its clock goes on beyond its space."""

    def observe(self, state, params):
        return super().observe(state, params) | {"time": (state.time[None] + 1) / params.limit}


class MuteName(Named):
    """At the far end nothing is legal, and the episode goes on."""

    def action_mask(self, state, params):
        walk = jnp.stack([state.place > 0, True, True]) & (state.place < 5)
        return {"walk": walk, "say": None}


def look_at(env):
    """-> findings by name"""
    return {finding.name: finding for finding in pjp.check_env(env, **SHORT)}


def faults(findings):
    return {name: finding.text for name, finding in findings.items() if not finding.is_well}


@pytest.mark.parametrize("env", [Slide(), Named(), "CartPole-v1"])
def test_nothing_is_found_wrong_with_a_healthy_environment(env):
    findings = look_at(env)
    assert not faults(findings)
    assert list(findings) == [
        *("interface", "purity", "types", "vmap", "key", "bits", "lanes", "jit"),
        *("starts", "observations", "images", "rewards", "actions", "masks", "flags", "final observation", "episodes"),
    ]
    assert {name for name, finding in findings.items() if finding.is_note} <= {"flags"}
    assert all("\n" not in finding.text for finding in findings.values())


# Faults that are seen without running anything


class WrongShape(Corridor):
    observation_space = pjp.Box((3,), (0.0,) * 3, (1.0,) * 3)


class OtherState(Corridor):
    def step(self, key, state, action, params):
        obs, state, *rest = super().step(key, state, action, params)
        return obs, State(state.place.astype(jnp.float32), state.time), *rest


class FourValues(Corridor):
    def step(self, key, state, action, params):
        return super().step(key, state, action, params)[:4]


class StaticParams(Corridor):
    def step(self, key, state, action, params):
        if params.pay > 0.5:
            return super().step(key, state, action, params)
        raise ValueError("no pay")


class Remembers(Corridor):
    last = None

    def step(self, key, state, action, params):
        self.last = state.place + 1
        return super().step(key, state, action, params)


class OneByOne(Corridor):
    def step(self, key, state, action, params):
        obs, state, reward, *flags = super().step(key, state, action, params)
        reward = jax.pure_callback(lambda x: np.float32(x), jax.ShapeDtypeStruct((), jnp.float32), reward)
        return obs, state, reward, *flags


class WritesInPlace(Corridor):
    def reset(self, key, params):
        obs, state = super().reset(key, params)
        return obs, {"place": state.place, "time": state.time}

    def step(self, key, state, action, params):
        obs, after, *rest = super().step(key, State(**state), action, params)
        state["place"], state["time"] = after
        return obs, dict(state), *rest


@pytest.mark.usefixtures("few_objects")
@pytest.mark.parametrize(
    ("env", "name", "said"),
    [
        (WrongShape(), "interface", "observation_space says (3,); make them one"),
        (OtherState(), "interface", "state.place is int32[] from reset and float32[] from step"),
        (FourValues(), "interface", "step returns 4 values; return (obs, state, reward"),
        (StaticParams(), "interface", "step cannot be traced: TracerBoolConversionError"),
        (object(), "interface", "object is not an environment: it lacks reset"),
        (Remembers(), "purity", "keeps a traced value, as self.x = ... does; return it in the state"),
        (WritesInPlace(), "purity", "step changes its argument `state`"),
        (OneByOne(), "vmap", "vmap"),
    ],
)
def test_a_fault_that_tracing_shows_is_found(env, name, said):
    found = faults(look_at(env))
    assert list(found) == [name]
    assert said in found[name]
    assert "\n" not in found[name]


def by_hand(**changes):
    """An Environment that was not made by `make_env`, and so is not settled."""
    corridor = pjp.make_env(Corridor())
    return corridor.replace(**changes)


def weak_reset(key, params):
    obs, state = Corridor().reset(key, params)
    return obs, state._replace(time=0)


def step_with_numbers(key, state, action, params):
    step = pjp.Step(*Corridor().step(key, state, action, params))
    return step._replace(terminated=step.terminated.astype(jnp.int32))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"reset": weak_reset}, "state.time is int32[] from step, not weakly typed int32[]"),
        ({"step": step_with_numbers}, "terminated is int32[] from step, not bool[]"),
    ],
)
def test_types_that_nobody_settled_are_found(changes, said):
    with pytest.raises(pjp.PPOError) as caught:
        check_types(by_hand(**changes))
    assert said in str(caught.value)


# Faults that show in random steps


def changed(**attributes):
    return type("Changed", (Corridor,), attributes)()


def step_of(change):
    """Corridor's step with its outcome changed: change(obs, state, reward, terminated, truncated, key, params)"""

    def step(self, key, state, action, params):
        return change(*Corridor().step(key, state, action, params), key, params)

    return step


def resets_by_itself(obs, state, reward, terminated, truncated, key, params):
    start, done = Corridor().reset(key, params), terminated | truncated
    obs, state = jax.tree.map(lambda new, old: jnp.where(done, new, old), start, (obs, state))
    return obs, state, reward, terminated, truncated


def log_of_zero(obs, state, reward, terminated, truncated, key, params):
    return obs, state, jnp.log(reward + 0.01), terminated, truncated


def half_blind(obs, state, reward, terminated, truncated, key, params):
    return obs / (state.place - 1), state, reward, terminated, truncated


def python_noise(obs, state, reward, terminated, truncated, key, params):
    return obs * np.random.default_rng().uniform(size=2).astype(np.float32), state, reward, terminated, truncated


def inner_noise(obs, state, reward, terminated, truncated, key, params):
    return obs, state, jax.jit(lambda reward: reward + np.random.default_rng().uniform())(reward), terminated, truncated


def host_noise(obs, state, reward, terminated, truncated, key, params):
    shape = jax.ShapeDtypeStruct((), jnp.float32)
    draw = jax.pure_callback(
        lambda x: np.random.default_rng().uniform(size=np.shape(x)).astype(np.float32),
        shape,
        reward,
        vmap_method="expand_dims",
    )
    return obs, state, draw, terminated, truncated


def sum_of_lanes(obs, state, reward, terminated, truncated, key, params):
    shape = jax.ShapeDtypeStruct((), jnp.float32)
    total = jax.pure_callback(lambda x: np.zeros_like(x) + x.sum(), shape, reward, vmap_method="expand_dims")
    return obs, state, total, terminated, truncated


def other_when_traced(obs, state, reward, terminated, truncated, key, params):
    return obs, state, reward + isinstance(reward, jax.core.Tracer), terminated, truncated


def endless(obs, state, reward, terminated, truncated, key, params):
    return obs.at[1].set(0.0), state, reward, False, False


def no_choice_left(self, state, params):
    return jnp.full(3, state.place < 2)


@pytest.mark.parametrize(
    ("env", "name", "said"),
    [
        (
            changed(observation_space=pjp.Box((2,), (0.0, 0.0), (0.5, 1.0))),
            "observations",
            "obs[0] goes from 0 to 1, outside of 0 to 0.5 in",
        ),
        (changed(step=step_of(half_blind)), "observations", "find the division or the log"),
        (changed(step=step_of(log_of_zero)), "rewards", "find the division or the log"),
        (changed(step=step_of(python_noise)), "key", "step traces to a different program each time"),
        (changed(step=step_of(inner_noise)), "key", "step traces to a different program each time"),
        (changed(step=step_of(host_noise)), "bits", "the same program with the same key gives different bits"),
        (
            changed(step=step_of(sum_of_lanes)),
            "lanes",
            "under vmap, reset or step gives something else than alone: .reward",
        ),
        (changed(step=step_of(other_when_traced)), "jit", "without jit, reset or step gives something else: .reward"),
        (changed(step=step_of(resets_by_itself)), "final observation", "of 100% of"),
        (changed(step=step_of(endless)), "episodes", "none of 8 ended in 256 random steps"),
        (LateName(), "observations", "obs['time'] goes from 0.0833333 to 1.08333, outside of 0 to 1 in"),
        (MuteName(), "masks", "no action of action['walk'] is legal in"),
        (changed(action_mask=no_choice_left), "masks", "no action is legal in"),
    ],
)
def test_a_fault_that_shows_in_random_steps_is_found(env, name, said):
    found = faults(look_at(env))
    assert said in found[name]
    assert "\n" not in found[name]
    assert next(iter(found)) == name
    assert set(found) <= {name, *(("lanes", "jit") if name in ("bits", "lanes") else ())}


class Camera(Corridor):
    """Sees itself in a picture, whose shape and dtype are its own."""

    def __init__(self, shape, dtype, top, high=np.inf):
        self.observation_space = pjp.Box(shape, 0.0, high)
        self.shape, self.dtype, self.top = shape, dtype, top

    def observe(self, state, params):
        return jnp.full(self.shape, self.top * (1 - state.place / 16)).astype(self.dtype)


SCALE, MOVE = "divide them by 255", "jnp.moveaxis(obs, 0, -1)"


@pytest.mark.parametrize(
    ("camera", "said"),
    [
        (Camera((12, 12, 3), jnp.uint8, 255), [SCALE]),
        (Camera((12, 12), jnp.float32, 255), [SCALE]),
        (Camera((12, 12, 3), jnp.float32, 40, high=255), [SCALE]),
        (Camera((3, 12, 12), jnp.float32, 1), [MOVE]),
        (Camera((1, 8, 8), jnp.uint8, 200), [SCALE, MOVE]),
        (Camera((12, 12, 3), jnp.float32, 1), []),
        (Camera((8, 8, 4), jnp.uint8, 1), []),
        (Camera((4, 10, 10), jnp.float32, 9), [MOVE]),
        (Camera((300,), jnp.uint8, 255), []),
    ],
)  # fmt: skip
def test_images_of_bytes_or_with_channels_first_are_noted(camera, said):
    env = pjp.make_env(camera)
    obs = jax.vmap(lambda place: camera.observe(State(place, 0), None))(jnp.arange(3))
    found = check_images(SimpleNamespace(env=env, taken=SimpleNamespace(obs=obs)))
    assert isinstance(found, Note) == bool(said)
    assert [text for text in (SCALE, MOVE) if text in found] == said
    assert f"obs of shape {camera.shape}" in found or found == "none"


def ends_doubly(obs, state, reward, terminated, truncated, key, params):
    return obs, state, reward, terminated | truncated, terminated | truncated


def clock_terminates(obs, state, reward, terminated, truncated, key, params):
    return obs, state, 0.0, truncated, False


def test_what_is_allowed_and_worth_a_look_is_a_note():
    def one_start(self, key, params):
        return Corridor().reset(jax.random.key(0), params)

    def key_twice(self, key, params):
        state = State(jax.random.randint(key, (), 0, 3) + jax.random.randint(key, (), 0, 2), jnp.int32(0))
        return self.observe(state, params), state

    def deaf(self, key, state, action, params):
        return step_of(ends_doubly)(self, key, state, jax.random.randint(key, (), 0, 3), params)

    first = look_at(changed(step=deaf, reset=one_start))
    second = look_at(changed(step=step_of(clock_terminates), reset=key_twice))
    for findings, name, said in (
        (first, "flags", "Both count as terminated"),
        (first, "starts", "256 keys give the same start"),
        (first, "actions", "another action would have changed nothing"),
        (second, "episodes", "if that is a time limit, truncate instead"),
        (second, "rewards", "0 in all 512"),
        (second, "bits", "uses a key twice"),
    ):
        assert not faults(findings)
        assert findings[name].is_note
        assert said in findings[name].text


def test_sizes_are_refused():
    with pytest.raises(pjp.PPOError, match="num_steps = 0 is below 1"):
        pjp.check_env(Corridor(), num_steps=0)
    with pytest.raises(pjp.PPOError, match=r"agent must come from make_ppo.*got str"):
        pjp.check_agent("agent")


# The agent


def first_init(key, obs):
    return {"kernel": 0.1 * jax.random.normal(key, (2, 4)), "bias": jnp.zeros(4)}


def first_apply(params, obs):
    outputs = obs @ params["kernel"] + params["bias"]
    return outputs[..., :3], outputs[..., 3]


LINEAR = pjp.Network(first_init, first_apply)
MEMORY = pjp.RecurrentNetwork(
    init=lambda key, memory, obs: first_init(key, obs),
    apply=lambda params, memory, obs: (0.5 * memory + obs, *first_apply(params, memory + obs)),
    start=lambda: jnp.zeros(2),
)


def forgetful_replay(params, memory, obs, reset):
    """Without the resets."""

    def remember(memory, obs):
        memory, *given = MEMORY.apply(params, memory, obs)
        return memory, tuple(given)

    return jax.lax.scan(remember, memory, obs)[1]


def centred_apply(params, obs):
    return first_apply(params, obs - jnp.mean(obs))


def dropout_apply(params, obs):
    return first_apply(params, obs * np.random.default_rng().integers(1, 1_000))


def python_init(key, obs):
    return {"kernel": jnp.full((2, 4), np.random.default_rng().normal()), "bias": jnp.zeros(4)}


def nan_init(key, obs):
    return first_init(key, obs) | {"bias": jnp.array([0.0, 0.0, 0.0, jnp.nan])}


def idle_init(key, obs):
    return first_init(key, obs) | {"idle": jnp.ones(3)}


@pytest.fixture(scope="module")
def corridor():
    return pjp.make_env(Corridor())


def look_at_agent(env, network):
    config = pjp.RecurrentConfig if isinstance(network, pjp.RecurrentNetwork) else pjp.PPOConfig
    agent = pjp.make_ppo(env, config(**SMALL), network=network)
    return {finding.name: finding for finding in pjp.check_agent(agent)}


@pytest.mark.parametrize(("network", "first"), [(LINEAR, "first minibatch"), (MEMORY, "replay")])
def test_nothing_is_found_wrong_with_a_healthy_agent(corridor, network, first):
    findings = look_at_agent(corridor, network)
    assert list(findings) == ["network", first, "update"]
    assert not faults(findings)
    assert not any(finding.is_note for finding in findings.values())


@pytest.mark.parametrize(
    ("network", "names", "said"),
    [
        (
            LINEAR._replace(init=idle_init, apply=centred_apply),
            ["first minibatch"],
            "must not depend on the others in the batch",
        ),
        (LINEAR._replace(apply=dropout_apply), ["network"], "apply traces to a different program each time"),
        (LINEAR._replace(init=python_init), ["network"], "init traces to a different program each time"),
        (LINEAR._replace(init=nan_init), ["first minibatch", "update"], "log ratio"),
        (MEMORY._replace(replay=forgetful_replay), ["replay"], "apply along time, from start where an episode begins"),
    ],
)
def test_a_fault_of_a_network_is_found(corridor, network, names, said):
    findings = look_at_agent(corridor, network)
    found = faults(findings)
    assert list(found) == names
    assert said in found[names[0]]
    if network.init is idle_init:  # allowed, and worth a look
        assert findings["update"].is_note
        assert "idle" in findings["update"].text


# The command


OWN = """
import jax.numpy as jnp
import purejaxppo as pjp
from test_doctor import LINEAR, Corridor, Slide, changed, log_of_zero, step_of

corridor = Corridor()

def broken():
    return changed(step=step_of(log_of_zero))

def refused():
    return pjp.make_env(changed(observation_space=pjp.Discrete(0)))

def raises():
    return 1 / 0

def network(env):
    assert env.name == "Corridor"
    return LINEAR

def of_nothing():
    return LINEAR
"""


@pytest.fixture
def own(tmp_path, monkeypatch):
    """A folder with a file of someone's own, and a machine on which nothing is found."""
    (tmp_path / "own_env.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    monkeypatch.setattr(doctor, "examine", lambda folder: [])
    return tmp_path


def said_of(capsys):
    return " ".join(capsys.readouterr().out.split())


def test_the_command_looks_at_an_environment_and_a_network(own, capsys):
    assert cli.main(["doctor", "--env", "own_env:Corridor", "--network", f"{own / 'own_env.py'}:network"]) == 0
    said = said_of(capsys)
    assert "NOT OK" not in said
    assert "ok network: first minibatch" in said


@pytest.mark.slow
def test_without_a_network_both_kinds_of_agent_are_looked_at(own, capsys, monkeypatch):
    monkeypatch.setattr(doctor, "check_env", lambda env: [])
    monkeypatch.setattr(command, "SIZES", SMALL | {"hidden_sizes": (4,)})
    assert cli.main(["doctor", "--env", "own_env.py:corridor"]) == 0
    said = said_of(capsys)
    assert "ok policy: first minibatch" in said
    assert "ok recurrent policy: replay" in said


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("broken", "NOT OK rewards -inf in"),
        ("refused", "NOT OK interface Changed: observation_space = Discrete(n=0) needs"),
        ("raises", "NOT OK interface raises() raises ZeroDivisionError: division by zero (own_env.py, line"),
    ],
)
def test_the_command_leaves_with_status_1_for_a_fault(own, capsys, monkeypatch, name, said):
    monkeypatch.setattr(command, "examine_agent", lambda kind, make: [])
    assert cli.main(["doctor", "--env", f"own_env:{name}"]) == 1
    assert said in said_of(capsys)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--env", "own_env:brokn"], "unknown env in own_env 'brokn'; did you mean broken?"),
        (["--env", "no_such_module:make"], "env: 'no_such_module' cannot be imported: ModuleNotFoundError"),
        (["--env", "nowhere.py:make"], "env: there is no file 'nowhere.py'"),
        (["--env", "CartPole-v7"], "unknown environment 'CartPole-v7'; did you mean CartPole-v1"),
        (["--env", "CartPole-v1", "--network", "linear"], "network 'linear' has no colon"),
        (["--network", "own_env:network"], "give --env as well"),
    ],
)
def test_what_is_not_there_is_refused_with_status_2(own, refused, words, said):
    assert said in refused(["doctor", *words])


def test_a_factory_takes_the_environment_or_nothing(corridor):
    for network in (LINEAR, lambda: LINEAR, lambda env: LINEAR, lambda env=None: LINEAR):
        assert make_own_agent(corridor, network).network.apply is first_apply
    assert make_own_agent(corridor, lambda: MEMORY).config.cell


# The machine


def test_this_machine_is_found_well(tmp_path):
    findings = {finding.name: finding for finding in doctor.examine(tmp_path)}
    assert not faults(findings)
    assert jax.__version__ in findings["versions"].text
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("check", "changes"),
    [
        (machine.check_devices, {"idle_cores": lambda: "63 idle"}),
        (machine.check_devices, {"shutil.which": lambda name: "/usr/bin/" + name}),
        (machine.check_memory, {"memory_limit_bytes": lambda given, devices: 2**20}),
        (lambda: machine.check_folder(Path(__file__)), {}),
        (machine.check_sums, {"layer_error": lambda: 2.2}),
        (machine.check_gradients, {"gradient_error": lambda: 2.2}),
        (machine.check_gradients, {"jnp.tanh": lambda x: 0.999 * jnp.sin(x)}),
        (machine.check_scans, {"seconds_per_step": lambda length: length}),
    ],
)
def test_a_fault_of_the_machine_is_seen(check, changes, monkeypatch):
    for name, value in changes.items():
        monkeypatch.setattr(f"purejaxppo.cli.doctor.machine.{name}", value)
    with pytest.raises(pjp.PPOError):
        check()


def test_what_is_worth_knowing_of_the_machine_is_a_note(monkeypatch):
    monkeypatch.setattr(machine, "layer_error", lambda: 3e-5)
    assert "JAX_DEFAULT_MATMUL_PRECISION" in machine.check_sums()
    monkeypatch.setattr(machine, "row_sum_error", lambda: 2.2)
    assert "row @ matrix" in machine.check_sums()
    assert isinstance(machine.check_sums(), Note)
    monkeypatch.setattr(machine.jax, "jit", lambda fn: lambda x: fn(x).at[0, 3].add(1))
    assert "xla#49176" in machine.check_shifts()
    monkeypatch.setattr(machine.jax, "jit", lambda fn: fn)  # operation by operation nothing is wrong
    assert not isinstance(machine.check_shifts(), Note)
    before = jax.config.jax_compilation_cache_dir
    try:
        jax.config.update("jax_compilation_cache_dir", None)
        assert "each process compiles anew" in machine.show_cache()
    finally:
        jax.config.update("jax_compilation_cache_dir", before)


def test_double_precision_is_seen():
    with jax.enable_x64(True), pytest.raises(pjp.PPOError, match="jax_enable_x64"):
        machine.check_training()


def test_a_product_of_fewer_bits_is_seen():
    """As a GPU may round it; a CPU does not, unless the numbers are of half precision."""
    x = np.random.default_rng(0).uniform(1.0, 2.0, 1_000)
    assert machine.relative_error(jnp.asarray(x, jnp.bfloat16), x) > 1e-3
    assert machine.relative_error(jnp.asarray(x, jnp.float32), x) < 1e-7


def test_the_releases_that_are_wrong_are_left_out_of_the_installation():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    (pin,) = (text.removeprefix("jax") for text in project["dependencies"] if text.startswith("jax>"))
    changelog = (ROOT / "CHANGELOG.md").read_text()
    for version, fault in machine.WRONG_RELEASES.items():
        assert not SpecifierSet(pin).contains(version)
        assert version in changelog
        with pytest.raises(pjp.PPOError) as caught:
            machine.check_release(version)
        assert fault in str(caught.value)
    assert machine.check_release("0.11.2").startswith("0.11.2 has none")
    assert SpecifierSet(pin).contains("0.11.2")


def test_the_command_leaves_with_status_1_where_something_is_wrong_with_the_machine(monkeypatch, capsys):
    monkeypatch.setattr(doctor, "examine", lambda folder: [doctor.Finding("disk", False, "full")])
    assert cli.main(["doctor"]) == 1
    assert "NOT OK" in capsys.readouterr().out


# The page


def test_the_page_names_every_finding_and_its_example_is_what_it_says():
    page = (ROOT / "docs" / "doctor.md").read_text()
    (snippet,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    names = {"__name__": "snippet"}
    exec(compile(snippet, "doctor.md", "exec"), names)
    findings = look_at(names["Walk"]())
    assert list(faults(findings)) == ["observations"]
    in_tables = set(re.findall(r"`([a-z ]+)`", "\n".join(re.findall(r"^\| (`.*?) \|", page, re.MULTILINE))))
    assert in_tables == {*findings, "network", "first minibatch", "replay", "update"}
