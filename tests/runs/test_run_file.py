"""A run described by a file is the run that its options describe; what cannot be is refused under the file's name."""

import dataclasses
import os
import re
from pathlib import Path

import jax
import pytest
import tomli_w
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import purejaxppo as pjp
from purejaxppo.cli import main as cli
from purejaxppo.cli.arguments import read_options
from purejaxppo.cli.run_spec import make_spec
from purejaxppo.envs.suites import SUITES, is_installed
from purejaxppo.runs.presets import PRESETS

compilations = []
jax.monitoring.register_event_duration_secs_listener(
    lambda event, _, **__: compilations.append(event) if event.endswith("backend_compile_duration") else None
)


def write(path, text):
    path.write_text(text)
    return str(path)


def spec_of(words):
    return make_spec(read_options(words))


def written(words, path):
    assert cli.main([*words, "--write-config", str(path)]) == 0
    return [words[0], "--config", str(path)]


@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_survives_its_file(preset, tmp_path):
    suite = PRESETS[preset].env.partition("/")[0]
    if suite in SUITES and not is_installed(suite):
        pytest.skip(f'{suite} is not installed; pip install "purejaxppo[{suite}]"')
    words = ["train", "--preset", preset, "--seeds", "3", "--seed", "4", "--checkpoint-every", "5m", "--keep-best"]
    assert spec_of(written(words, tmp_path / "run.toml")) == spec_of(words)


@pytest.mark.parametrize(
    "words",
    [
        ["--over", "learning-rate=1e-4,3e-4", "--over", "hidden-sizes=64x64,128", "--over", "env.length=0.5,1"],
        ["--over", "gamma=uniform:0.9:0.99", "--over", "ent-coef=log:1e-4:0.1", "--random", "5", "--random-seed", "2"],
        ["--over", "anneal-lr=true,false", "--over", "activation=tanh,relu", "--env-param", "length=0.7"],
    ],
)
def test_a_sweep_survives_its_file(words, tmp_path):
    words = ["sweep", "--config.max-grad-norm", "inf", "--checkpoint-every", "2", "--keep", "3", *words]
    assert spec_of(written(words, tmp_path / "run.toml")) == spec_of(words)


def test_the_options_go_first_then_the_file_then_the_preset(tmp_path):
    text = """
        preset = "cleanrl"
        seeds = 5
        keep_best = true
        strict = false
        [config]
        learning-rate = 0.5
        hidden_sizes = [8, 8]
        anneal_lr = false
        [env-param]
        length = 0.7
        masscart = 2
    """
    options = ["--seeds", "6", "--config.learning-rate", "0.25", "--env-param", "length=0.8"]
    spec = spec_of(["train", "--config", write(tmp_path / "run.toml", text), *options])
    config = dataclasses.replace(PRESETS["cleanrl"].config, learning_rate=0.25, hidden_sizes=(8, 8), anneal_lr=False)
    assert (spec.num_seeds, spec.keep_best, spec.config) == (6, True, config)
    assert spec.env_params == {"length": 0.8, "masscart": 2}


def test_the_files_of_the_page_are_read(tmp_path):
    page = (Path(__file__).parents[2] / "docs" / "commandline.md").read_text()
    run, sweep = re.findall(r"```toml\n(.*?)```", page, flags=re.DOTALL)
    assert spec_of(["train", "--config", write(tmp_path / "run.toml", run)]).config.hidden_sizes == (64, 64)
    points = spec_of(["sweep", "--config", write(tmp_path / "run.toml", sweep)]).sweep
    assert len(points) == 12
    assert {point["hidden_sizes"] for point in points} == {(64, 64), (128,)}
    assert {point["env.length"] for point in points} == {0.5, 1.0}
    narrowed = spec_of(["sweep", "--config", str(tmp_path / "run.toml"), "--over", "env.length=2,3,4"]).sweep
    assert len(narrowed) == 18


def test_the_preset_of_the_file_says_which_hyperparameters_there_are(tmp_path):
    path = write(tmp_path / "run.toml", 'preset = "recurrent"\n[config]\ncell = "lstm"\n')
    assert spec_of(["train", "--config", path]).config.cell == "lstm"
    assert spec_of(["train", "--config", path, "--config.cell", "gru"]).config.cell == "gru"


def test_nothing_is_trained_or_made_where_a_file_is_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    written(["train", "--seeds", "2"], tmp_path / "run.toml")
    assert os.listdir(tmp_path) == ["run.toml"]


REFUSED = {
    "sedes = 3": "run.toml: unknown option '--sedes'; did you mean --seeds",
    "seeds = 0": "run.toml: argument --seeds: 0 is below 1; give a whole number",
    "seeds = 1.5": "run.toml: argument --seeds: '1.5' is not a whole number",
    "seeds = true": "run.toml: argument --seeds: expected one argument",
    "preset = true": "run.toml: argument --preset: expected one argument",
    "foo = false": "run.toml: unknown option '--foo'",
    "kepe-best = false": "run.toml: unknown option '--kepe-best'; did you mean --keep-best",
    "seeds = false": "run.toml: argument --seeds: false is not a value of it; give another, or leave it out",
    "wandb = false": "run.toml: argument --wandb: false is not a value of it",
    "seeds = []": "run.toml: 'seeds' = [] cannot be; give a number, a text",
    "seeds = 1979-05-27": "run.toml: 'seeds' = datetime.date(1979, 5, 27) cannot be",
    "seeds =": "run.toml is not valid TOML: Invalid value",
    "seeds = 1\nseeds = 2": "run.toml is not valid TOML: Cannot overwrite a value",
    "keep-best = true\nkeep_best = true": "run.toml names 'keep-best' twice, with - and with _",
    "resume = 'runs/a'": "run.toml: resume belongs on the command line; leave it out",
    "[confg]\ngamma = 0.9": "run.toml: ['confg'] is not a table of a run; take one of config, env-param, over",
    "[config]\ngama = 0.9": "run.toml: unknown option '--config.gama'; did you mean --config.gamma",
    "preset = 'keras'\n[config]\ncell = 'gru'": "run.toml: the preset has no --config.cell; take --preset fast, which",
    "[config]\ngamma = 'x'": "run.toml: argument --config.gamma: 'x' is not a number",
    "[config]\ngamma = 2": "gamma = 2.0 is out of range; give a number at least 0 and at most 1",
    "preset = 'fats'": "unknown preset 'fats'; did you mean fast",
    "[env-param]\nlenght = 1": "unknown parameter of CartPole-v1 'lenght'; did you mean length",
    "[over]\ngamma = [0.9]": "run.toml: unknown option '--over'",
    "seeds = 1 # \udcff": "run.toml is not valid TOML",
}


@pytest.mark.parametrize("text", REFUSED)
def test_a_file_that_cannot_be_is_refused_before_anything_compiles(text, refused, tmp_path):
    pjp.make_env("CartPole-v1")  # whichever test comes first, the environment is there
    before = len(compilations)
    (tmp_path / "run.toml").write_bytes(text.encode(errors="surrogateescape"))
    assert REFUSED[text] in refused(["train", "--config", "run.toml"])
    assert len(compilations) == before
    assert os.listdir(tmp_path) == ["run.toml"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["train", "--config"], "argument --config: expected one argument"),
        (["train", "--config", "no.toml"], "no.toml cannot be read: No such file or directory; give --config"),
        (["eval", "run", "--config", "no.toml"], "unknown option '--config'"),
        (["train", "--write-config", "a.json"], "'a.json' does not end in .toml"),
        (["train", "--resume", "runs/a", "--write-config", "a.toml"], "config.json has what the run is; leave out"),
        (["train", "--resume", "a", "--config", "run.toml"], "goes on with the run as it is; leave out --config"),
    ],
)
def test_options_that_cannot_be_are_refused(words, said, refused, tmp_path):
    write(tmp_path / "run.toml", "seeds = 2\n")
    assert said in refused(words)


def complaint_of(words, capsys):
    """What is said where the words are refused, without the end of the line."""
    try:
        spec_of(words)
    except pjp.PPOError as error:
        return str(error)
    except SystemExit as leaving:
        return capsys.readouterr().err.removesuffix("\n") if leaving.code == 2 else "\n"
    return ""


VALUES = st.recursive(
    st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=5),
    lambda x: st.lists(x, max_size=3) | st.dictionaries(st.text(max_size=5), x, max_size=3),
    max_leaves=4,
)
NAMES = st.sampled_from(["seeds", "seed", "preset", "env", "config", "over", "keep", "env-param", "gamma"])


@settings(max_examples=100, derandomize=True, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    content=st.dictionaries(NAMES | st.text(max_size=5), VALUES, max_size=4).map(tomli_w.dumps) | st.text(max_size=30)
)
def test_whatever_a_file_holds_there_are_only_errors_of_our_own(content, tmp_path, capsys):
    path = tmp_path / "run.toml"
    path.write_text(content, errors="replace")
    said = complaint_of(["train", "--config", str(path)], capsys)
    assert "\n" not in said
