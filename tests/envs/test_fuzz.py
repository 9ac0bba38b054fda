"""Configs, command lines and run folders of any content raise PPOError and nothing else, in one line.

FUZZ_EXAMPLES=5000 draws that many examples of each test, other ones each time.
"""

import dataclasses
import json
import os
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import purejaxppo as pjp
from purejaxppo.cli import main as cli
from purejaxppo.cli import run_spec
from purejaxppo.cli import train as train_command
from purejaxppo.cli.bench import run as bench_run
from purejaxppo.ppo.config import _RANGES, CHOICES
from purejaxppo.runs.presets import PRESETS
from purejaxppo.runs.spec import RunSpec, load_spec, spec_to_json
from purejaxppo.utils.files import load_tree, save_tree, write_json

EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "0"))
CONFIGS = (pjp.PPOConfig, pjp.RecurrentConfig, pjp.FullBatchConfig)
MAKE = {
    pjp.PPOConfig: pjp.make_ppo,
    pjp.RecurrentConfig: pjp.make_ppo,
    pjp.FullBatchConfig: pjp.make_full_batch_ppo,
}


def examples(number):
    """The same few in every run of the suite, and as many new ones as are asked for."""
    return settings(
        max_examples=EXAMPLES or number,
        derandomize=not EXAMPLES,
        deadline=None,
        suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    )


def complaint(call):
    """The message of the PPOError, if there is one; any other exception is the test's failure."""
    try:
        call()
    except pjp.PPOError as error:
        return str(error)
    return ""


class Own:
    """An environment that is traced quickly."""

    default_params = None
    observation_space = pjp.Box((2,), (-1.0, -1.0), (1.0, 1.0))
    action_space = pjp.Discrete(2)

    def reset(self, key, params):
        return jnp.zeros(2), jnp.int32(0)

    def step(self, key, state, action, params):
        return jnp.zeros(2), state + 1, 1.0, state > 3, False


ENV = pjp.make_env(Own())

junk = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=5)
    | st.binary(max_size=3)
    | st.complex_numbers()
    | st.sampled_from([(), (0,), (2, 3)]).map(np.ones)
    | st.sampled_from([2**31, 2**64, 10**5000, -(10**400), object(), int, jnp.tanh, np.int64(3), np.float32(0.5), ...])
    | st.lists(st.integers(-1, 9), max_size=3)
    | st.lists(st.integers(-1, 9) | st.text(max_size=1), max_size=3).map(tuple)
    | st.dictionaries(st.text(max_size=1), st.integers(), max_size=1)
)


def likely(field):
    """Values of a field that are mostly right."""
    if field.name in CHOICES:
        return st.sampled_from(CHOICES[field.name])
    if field.name == "hidden_sizes":
        return st.lists(st.integers(1, 9), max_size=2).map(tuple)
    if isinstance(field.default, bool):
        return st.booleans()
    if field.name in _RANGES:
        return st.floats(0.0, 1.0) | st.sampled_from([jnp.float32(0.5), np.float64(0.5), np.inf])
    if field.name == "cell":
        return st.sampled_from(["gru", "lstm"])
    return st.sampled_from([1, 2, 4, 8, 16]) | st.sampled_from([3, 10**4, np.int32(4)])


def changes_of(config_class):
    """Some fields of a config, with likely values and with any."""
    fields = {field.name: likely(field) | likely(field) | junk for field in dataclasses.fields(config_class)}
    return st.fixed_dictionaries({}, optional=fields) | st.dictionaries(st.text(max_size=8), junk, max_size=1)


@pytest.mark.parametrize("config_class", CONFIGS)
@examples(40)
@given(data=st.data())
def test_a_config_of_anything_is_an_agent_or_refused(config_class, data):
    changes = {"total_timesteps": 10**6} | data.draw(changes_of(config_class))
    assert "\n" not in complaint(lambda: MAKE[config_class](ENV, config_class(**changes)))


OPTIONS = sorted(
    {
        *(f"--config.{field.name.replace('_', '-')}" for cls in CONFIGS for field in dataclasses.fields(cls)),
        "--preset", "--env", "--env-param", "--seeds", "--seed", "--out", "--resume", "--checkpoint-every",
        "--memory-limit", "--placement", "--heartbeat", "--quiet", "--over", "--random", "--random-seed", "--episodes",
        "--sampled", "--backend", "--json", "--start", "--max-steps", "--quick", "--timesteps", "--repeats", "--help",
    }
)  # fmt: skip
NAMES = [
    "gamma",
    "learning-rate",
    "num-envs",
    "hidden-sizes",
    "anneal-lr",
    "activation",
    "length",
    "env.length",
    "gama",
]
words = st.sampled_from(OPTIONS) | st.sampled_from([name[:-1] for name in OPTIONS]) | st.text(max_size=6)
values = (
    st.text(max_size=6)
    | st.integers().map(str)
    | st.floats().map(str)
    | st.sampled_from(
        [*PRESETS, *pjp.env_names(), "true", "64,64", "4GiB", "seeds", "data", "nothing", "x.json", "a.gif"]
    )
    | st.builds(
        "{}={}".format,
        st.sampled_from(NAMES),
        st.sampled_from(
            ["1", "0.5", "nan", "1e999", "1,2", "8x8", "log:1e-4:1e-2", "uniform:0:1", "log:0:1", "tanh,", ""]
        )
        | st.text(max_size=4),
    )
)
pairs = st.tuples(words, values).map(list) | words.map(lambda word: [word])
command_lines = st.tuples(
    st.sampled_from([*cli.RUN, "train", "sweep", "sweep", "trian", ""]), st.lists(pairs, max_size=4)
).map(lambda parts: [parts[0], *(word for pair in parts[1] for word in pair)])


class Reached(Exception):
    """The command line is one that can be run."""


def reach(*_, **__):
    raise Reached


@examples(150)
@given(arguments=command_lines)
def test_a_command_line_of_anything_runs_or_is_refused_in_one_line(arguments, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(train_command, "train_watched", reach)
    monkeypatch.setattr(run_spec, "make_run_folder", lambda folder: None)
    monkeypatch.setattr(bench_run, "run_bench", reach)
    for name in ("doctor", "envs", "presets", "completion"):
        monkeypatch.setitem(cli.RUN, name, reach)
    capsys.readouterr()
    try:
        status = cli.main(arguments)
    except Reached:
        return
    except SystemExit as leaving:
        status = leaving.code
    error = capsys.readouterr().err
    if {"--help", "-h", "--version"} & set(arguments) and status == 0:
        return
    assert status == 2
    assert error.count("\n") == 1
    assert error.startswith("purejaxppo")


@pytest.fixture(scope="module")
def config_text(tmp_path_factory):
    """config.json of a run, and of a sweep."""
    config = pjp.PPOConfig(num_envs=4, num_steps=16, total_timesteps=128, max_grad_norm=np.inf)
    spec = RunSpec(env="CartPole-v1", env_params={"length": 1.0}, config=config, num_seeds=2, seed=0, preset="cleanrl")
    texts = []
    for each in (spec, dataclasses.replace(spec, sweep=({"gamma": 0.5}, {"env.length": 2.0}))):
        path = tmp_path_factory.mktemp("spec") / "config.json"
        write_json(path, spec_to_json(each))
        texts.append(path.read_bytes())
    return texts


edits = st.lists(st.tuples(st.floats(0.0, 1.0), st.integers(0, 3), st.binary(max_size=3)), min_size=1, max_size=3)


def edited(content, changes):
    """The bytes with some of them taken out and others put in, at places from 0 to 1."""
    for place, removed, added in changes:
        at = int(place * len(content))
        content = content[:at] + added + content[at + removed :]
    return content


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 2**33) | st.floats(allow_nan=False) | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=4), inner, max_size=2),
    max_leaves=3,
)


def with_value(content, names, value):
    """The JSON with another value at one of its names, or one within it."""
    name, inner = names
    if isinstance(content[name], dict) and content[name]:
        content[name][sorted(content[name])[inner % len(content[name])]] = value
    else:
        content[name] = value
    return content


def check_spec(folder, content):
    (folder / "config.json").write_bytes(content)
    assert "\n" not in complaint(lambda: load_spec(folder))


@examples(100)
@given(changes=edits, which=st.integers(0, 1))
def test_a_config_file_with_other_bytes_is_read_or_refused(config_text, tmp_path, changes, which):
    check_spec(tmp_path, edited(config_text[which], changes))


@examples(150)
@given(data=st.data(), value=json_values, which=st.integers(0, 1))
def test_a_config_file_with_other_values_is_read_or_refused(config_text, tmp_path, data, value, which):
    content = json.loads(config_text[which])
    names = data.draw(st.tuples(st.sampled_from(sorted(content)), st.integers(0, 40)))
    check_spec(tmp_path, json.dumps(with_value(content, names, value)).encode())


@examples(40)
@given(content=st.binary(max_size=30) | json_values.map(lambda value: json.dumps(value).encode()))
def test_a_run_folder_whose_config_is_anything_is_refused(tmp_path, content):
    (tmp_path / "config.json").write_bytes(content)
    with pytest.raises(pjp.PPOError):
        pjp.load_run(tmp_path)


TREE = {"a": np.arange(6.0, dtype=np.float32).reshape(2, 3), "b": (np.int32(3), np.zeros(0, np.float32))}


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tree") / "saved"
    save_tree(folder, TREE)
    return folder


@pytest.mark.parametrize("name", ["manifest.json", "leaves.npz"])
@examples(100)
@given(changes=edits)
def test_a_checkpoint_with_other_bytes_is_the_same_or_refused(name, saved, tmp_path, changes):
    folder = tmp_path / "copy"
    shutil.copytree(saved, folder, dirs_exist_ok=True)
    (folder / name).write_bytes(edited((saved / name).read_bytes(), changes))
    message = complaint(lambda: jax.tree.map(np.testing.assert_array_equal, load_tree(folder, TREE), TREE))
    assert "\n" not in message


@examples(60)
@given(value=json_values)
def test_a_manifest_of_anything_is_refused(saved, tmp_path, value):
    folder = tmp_path / "copy"
    shutil.copytree(saved, folder, dirs_exist_ok=True)
    (folder / "manifest.json").write_text(json.dumps(value))
    with pytest.raises(pjp.PPOError):
        load_tree(folder, TREE)
