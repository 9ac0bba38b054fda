import dataclasses
import json
import os
import re
import runpy
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pandas
import pytest
from PIL import Image

import purejaxppo as pjp
from purejaxppo.cli import main as cli
from purejaxppo.cli import run_spec
from purejaxppo.cli.arguments import read_options
from purejaxppo.envs.suites import SUITES
from purejaxppo.population.program import EVALUATION_SEED
from purejaxppo.population.store import MemberResult, make_memory_store
from purejaxppo.ppo.types import Metrics
from purejaxppo.report.pictures import film_episodes
from purejaxppo.runs.folder import make_free_folder, make_run_folder, write_metrics
from purejaxppo.runs.presets import PRESETS
from purejaxppo.runs.results import EVALUATION_EPISODES
from purejaxppo.runs.spec import RunSpec, spec_from_json, spec_to_json
from purejaxppo.utils import files as storage
from purejaxppo.utils.files import load_tree, plain, save_tree, to_host, write_json, write_whole

TINY = ["--seeds", "3", "--config.total-timesteps", "5000", "--config.num-envs", "4", "--config.num-steps", "64"]
TINY += ["--config.hidden-sizes", "8"]
CONTROL = re.compile(r"[\x00-\x09\x0b-\x1f\x7f]")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A small run by the command line, in a process without a terminal."""
    folder = tmp_path_factory.mktemp("runs") / "a"
    command = [sys.executable, "-m", "purejaxppo.cli.main", "train", "--out", str(folder), *TINY]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder, done


@pytest.mark.slow
def test_the_run_folder_is_that_of_the_contract(run):
    folder, _ = run
    names = {path.name for path in folder.iterdir()}
    assert names == {
        "config.json",
        "metrics.csv",
        "metrics.npz",
        "summary.json",
        "curves.png",
        "report.html",
        "progress.jsonl",
        "before.gif",
        "after.gif",
        "checkpoints",
    }
    config = json.loads((folder / "config.json").read_text())
    assert config["env"] == "CartPole-v1"
    assert config["config"]["num_steps"] == 64
    assert config["actual_timesteps"] == 4864
    assert {"purejaxppo", "jax", "gymnax", "python"} <= set(config["versions"])
    summary = json.loads((folder / "summary.json").read_text())
    assert len(summary["final_return_per_seed"]) == 3
    assert summary["final_return_iqm_95_low"] <= summary["final_return_iqm"] <= summary["final_return_iqm_95_high"]
    assert summary["env_steps"] == 3 * 4864
    assert summary["peak_memory_bytes"] > 1e8


@pytest.mark.slow
def test_the_metrics_are_the_same_in_both_files(run):
    folder, _ = run
    metrics = pjp.load_run(folder).metrics
    with np.load(folder / "metrics.npz") as arrays:
        assert list(arrays) == metrics.columns()
        assert arrays["timesteps"].dtype == np.int64
        for name in metrics.columns():
            np.testing.assert_array_equal(arrays[name], getattr(metrics, name))
    assert metrics.entropy.shape == (3, 19)
    rows = np.genfromtxt(folder / "metrics.csv", delimiter=",", names=True)
    assert rows.shape == (3 * 19,)
    np.testing.assert_array_equal(rows["seed"], np.repeat(np.arange(3), 19))
    np.testing.assert_array_equal(rows["update"], np.tile(np.arange(1, 20), 3))
    for name in metrics.columns():
        np.testing.assert_allclose(rows[name], np.asarray(getattr(metrics, name)).ravel(), rtol=1e-7)


@pytest.mark.slow
def test_the_same_command_twice_gives_the_same_bits(run, tmp_path):
    """In another process, with the compiler's work done anew."""
    folder, _ = run
    code = """
import sys
from purejaxppo.cli import main
from purejaxppo.report import train_run
train_run.write_pictures = lambda finished, folder: None
sys.exit(main.main(sys.argv[1:]))
"""
    command = [sys.executable, "-c", code, "train", "--quiet", "--out", str(tmp_path / "b"), *TINY]
    subprocess.run(command, check=True, env={**os.environ, "JAX_ENABLE_COMPILATION_CACHE": "0"})
    with np.load(folder / "metrics.npz") as one, np.load(tmp_path / "b" / "metrics.npz") as other:
        assert set(one) == set(other)
        for name in one:
            assert one[name].tobytes() == other[name].tobytes(), name
    states = [to_host(pjp.load_run(place).runners) for place in (folder, tmp_path / "b")]
    jax.tree.map(np.testing.assert_array_equal, *states)
    summaries = [json.loads((place / "summary.json").read_text()) for place in (folder, tmp_path / "b")]
    assert summaries[0]["final_return_per_seed"] == summaries[1]["final_return_per_seed"]


@pytest.mark.slow
def test_the_pictures_are_pictures(run):
    folder, _ = run
    with Image.open(folder / "curves.png") as curves, Image.open(folder / "after.gif") as film:
        assert curves.size[0] > 500
        assert film.n_frames > 2


@pytest.mark.slow
def test_films_show_the_policy_before_during_and_after_training_from_one_start(run):
    loaded = pjp.load_run(run[0])
    agent, last, kept = loaded.agent, loaded.seed(0), loaded.seed(1).train_state
    episodes = film_episodes(loaded, {"after-3": kept})
    first = jax.jit(lambda key: agent.init(key).train_state)(last.key)
    states = {"before": first, "after-3": kept, "after": last.train_state}
    assert list(episodes) == list(states)
    policy = jax.jit(lambda state, obs: jax.nn.softmax(agent.policy(state, (), obs)[0].logits))
    for name, episode in episodes.items():
        np.testing.assert_array_equal(episode.obs[0], episodes["before"].obs[0])
        np.testing.assert_allclose(episode.probabilities[0], policy(states[name], episode.obs[0]), rtol=1e-5)


@pytest.mark.slow
def test_without_a_terminal_there_are_no_control_characters(run):
    _, done = run
    assert not CONTROL.search(done.stdout)
    assert "100%" in done.stdout
    assert "final greedy return, IQM" in done.stdout
    assert "seeds solved" in done.stdout
    assert "4,864 steps (5,000 asked for, in whole rollouts of 256)" in done.stdout.replace("\n", " ")


@pytest.mark.slow
def test_a_run_is_loaded_as_it_was(run):
    """The loaded policies play as the summary says. To the bit they are only on as many devices as the run had."""
    folder, _ = run
    loaded = pjp.load_run(folder)
    np.testing.assert_array_equal(loaded.train_state.update, [19, 19, 19])
    np.testing.assert_array_equal(jax.random.key_data(loaded.runners.key), jax.random.key_data(pjp.seed_keys(0, 3)))
    keys = pjp.seed_keys(EVALUATION_SEED, 3)
    returns, _ = jax.vmap(lambda state, key: pjp.evaluate(loaded.agent, state, key, EVALUATION_EPISODES))(
        loaded.train_state, keys
    )
    np.testing.assert_allclose(returns.mean(axis=1), loaded.summary["final_return_per_seed"], rtol=0.02)
    one = jax.tree.map(lambda x: x[1], loaded.train_state)
    assert int(loaded.agent.act(one, jnp.zeros(4))) in (0, 1)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["train", "--env", "CartPol-v1"], "unknown environment 'CartPol-v1'; did you mean CartPole-v"),
        (["train", "--preset", "fsat"], "unknown preset 'fsat'; did you mean fast"),
        (["train", "--seeds", "0"], "--seeds: 0 is below 1"),
        (["train", "--seeds", "many"], "--seeds: 'many' is not a whole number"),
        (["train", "--lr", "3e-4"], "--lr'; did you mean --learning-rate?"),
        (["train", "--steps=1000"], "--steps'; did you mean --total-timesteps?"),
        (["train", "--preset", "keras", "--lr", "1"], "--policy-learning-rate or --value-learning-rate"),
        (["sweep", "--over", "CLIP_COEF=0.1,0.2"], "'CLIP_COEF'; did you mean clip_eps?"),
        (["train", "--num-seeds", "4"], "--num-seeds'; did you mean --seeds?"),
        (["train", "--sedes", "4"], "unknown option '--sedes'; did you mean --seed"),
        (["train", "--config.learning-rat", "1"], "did you mean --config.learning-rate"),
        (["train", "--config.learning-rate", "-1"], "learning_rate = -1.0 is out of range; give a number at least 0"),
        (["train", "--config.gamma", "nan"], "gamma = nan is out of range; give a number at least 0 and at most 1"),
        (["train", "--config.clip-value", "maybe"], "--config.clip-value: 'maybe' is neither true nor false"),
        (["train", "--config.num-minibatches", "3"], "does not divide into num_minibatches = 3; try 1, 2 or 4"),
        (["train", "--config.total-timesteps", "10"], "total_timesteps = 10 is below one rollout"),
        (["train", "--config.hidden-sizes", "64,x"], "--config.hidden-sizes: 'x' is not a whole number"),
        (["train", "--env-param", "length"], "--env-param: 'length' is not NAME=NUMBER"),
        (["train", "--env-param", "lenght=1"], "unknown parameter of CartPole-v1 'lenght'; did you mean length"),
        (["train", "--preset", "keras", "--env", "Pendulum-v1"], "Pendulum-v1 has the action space"),
        (["trian"], "unknown command 'trian'; did you mean train"),
        ([], "no command is given; take one of train, sweep"),
    ],
)  # fmt: skip
def test_bad_input_is_one_line_and_status_2(arguments, said, refused, tmp_path):
    assert said in refused(arguments)
    assert not list(tmp_path.iterdir())


def test_a_folder_with_files_and_one_that_cannot_be_written_are_refused(tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(pjp.PPOError, match="holds files already"):
        make_run_folder(tmp_path)
    with pytest.raises(pjp.PPOError, match="cannot be written"):
        make_run_folder(tmp_path / "file" / "below")


def test_runs_of_one_second_get_folders_of_their_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(run_spec, "time", SimpleNamespace(strftime=lambda _: "now"))
    folders = [run_spec.started(read_options(["train", *TINY]))[1] for _ in range(3)]
    assert [str(folder) for folder in folders] == [f"runs/CartPole-v1-now{end}" for end in ("", "-2", "-3")]
    assert all(folder.is_dir() for folder in folders)
    Path("file").touch()
    with pytest.raises(pjp.PPOError, match="file/a"):
        make_free_folder(Path("file/a"))


def test_the_package_runs_as_the_command(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["__main__.py", "trian"])
    with pytest.raises(SystemExit) as leaving:
        runpy.run_module("purejaxppo", run_name="__main__")
    assert leaving.value.code == 2
    assert capsys.readouterr().err.startswith("purejaxppo: error: ")


@pytest.mark.parametrize("command", ["eval", "render", "plot", "report"])
def test_a_folder_of_runs_is_refused_with_the_runs_in_it(command, refused, tmp_path):
    for i in range(2):
        (tmp_path / "runs" / f"run-{i}").mkdir(parents=True)
        (tmp_path / "runs" / f"run-{i}" / "config.json").write_text("{}")
        os.utime(tmp_path / "runs" / f"run-{i}" / "config.json", (i, i))
    (tmp_path / "runs" / "notes").mkdir()
    assert refused([command, "runs"]).endswith("newest first: runs/run-1, runs/run-0\n")


def test_envs_lists_every_name(capsys):
    assert cli.main(["envs"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == [*pjp.env_names(), *(f"{suite}/..." for suite in SUITES)]


def test_help_is_there_for_every_config_field(capsys):
    with pytest.raises(SystemExit) as leaving:
        cli.main(["train", "--help"])
    assert leaving.value.code == 0
    text = capsys.readouterr().out
    for name in vars(pjp.PPOConfig()):
        assert f"--config.{name.replace('_', '-')}" in text


@pytest.mark.parametrize(
    ("env", "limits", "solved_at"),
    [
        ("CartPole-v1", [100], None),  # out of reach
        ("CartPole-v1", [475], 475.0),
        ("CartPole-v1", [100, 500], 475.0),  # in one setting of a sweep
        ("CartPole-v1", [], 475.0),
        ("Acrobot-v1", [100], None),  # in reach of every policy
        ("Acrobot-v1", [101], -100.0),
        ("FrozenLake-misc", [20], 0.7),
        ("Catch-bsuite", [20], None),
    ],
)
def test_a_threshold_that_the_time_limit_decides_counts_for_nothing(env, limits, solved_at):
    spec = RunSpec(env, {}, pjp.PPOConfig(), 3, 0, "cleanrl")
    if len(limits) == 1:
        assert dataclasses.replace(spec, env_params={"max_steps_in_episode": limits[0]}).solved_at == solved_at
    points = tuple({"env.max_steps_in_episode": limit} for limit in limits)
    assert dataclasses.replace(spec, sweep=points or None).solved_at == solved_at


def test_every_preset_survives_its_json():
    for name, preset in PRESETS.items():
        infinite = {"max_grad_norm": float("inf")} if isinstance(preset.config, pjp.PPOConfig) else {}
        config = preset.config.replace(**infinite)
        spec = RunSpec(preset.env, {"length": 0.7}, config, 3, 4, name)
        assert spec_from_json(json.loads(json.dumps(spec_to_json(spec), allow_nan=False)), Path("folder")) == spec


def test_a_tree_comes_back_as_it_was(tmp_path):
    tree = {"x": jnp.arange(6.0).reshape(2, 3), "key": jax.random.split(jax.random.key(3), 2), "n": jnp.int32(7)}
    save_tree(tmp_path / "deep" / "a", tree)
    back = load_tree(tmp_path / "deep" / "a", jax.eval_shape(lambda: tree))
    np.testing.assert_array_equal(back["x"], tree["x"])
    np.testing.assert_array_equal(jax.random.key_data(back["key"]), jax.random.key_data(tree["key"]))
    assert back["n"].dtype == jnp.int32
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["a"]


@pytest.mark.parametrize("dtype", ["bfloat16", "float8_e4m3fn", "int4"])
def test_types_that_numpy_lacks_come_back(tmp_path, dtype):
    one = jnp.ones((), dtype)
    tree = {"x": jnp.arange(6.0).reshape(2, 3).astype(dtype), "one": one, "none": jnp.ones((0, 2), dtype)}
    save_tree(tmp_path / "a", tree)
    back = load_tree(tmp_path / "a", tree)
    assert jax.tree.map(lambda x: x.dtype, back) == jax.tree.map(lambda x: x.dtype, tree)
    jax.tree.map(np.testing.assert_array_equal, back, tree)


@pytest.mark.parametrize("generator", ["rbg", "unsafe_rbg"])
def test_a_key_stays_one_of_its_generator(tmp_path, generator):
    keys = jax.random.split(jax.random.key(3, impl=generator), 2)
    save_tree(tmp_path / "a", {"keys": keys})
    assert jnp.all(load_tree(tmp_path / "a", jax.eval_shape(lambda: {"keys": keys}))["keys"] == keys)
    like = jax.eval_shape(lambda: MemberResult(keys[0], (), jnp.zeros(0), ()))
    store = make_memory_store(like, 2)
    store.write(0, to_host(MemberResult(keys, (), jnp.zeros((2, 0)), ())))
    assert jnp.all(store.runners((0, 2)) == keys)


def test_a_state_without_the_leaves_that_came_later_is_read(tmp_path, monkeypatch):
    agent = pjp.make_ppo(pjp.make_env("CartPole-v1"), pjp.PPOConfig(normalize_obs=True, hidden_sizes=()))
    runner = jax.jit(agent.init)(jax.random.key(0))
    named_leaves = storage._named_leaves
    with monkeypatch.context() as earlier:
        earlier.setattr(storage, "_named_leaves", lambda x: [(n, y) for n, y in named_leaves(x) if "_low" not in n])
        save_tree(tmp_path / "a", {"runner": runner})
    assert not any("_low" in name for name in storage.leaf_names(tmp_path / "a"))
    back = load_tree(tmp_path / "a", jax.eval_shape(lambda: {"runner": runner}))["runner"]
    jax.tree.map(np.testing.assert_array_equal, back.replace(key=None), runner.replace(key=None))


def test_a_damaged_or_foreign_checkpoint_is_refused(tmp_path):
    tree = {"x": jnp.arange(64.0), "y": jnp.ones(3)}
    save_tree(tmp_path / "a", tree)
    with pytest.raises(pjp.PPOError, match=r"x.* is float32\[64\], and float32\[65\] is wanted"):
        load_tree(tmp_path / "a", {"x": jnp.zeros(65), "y": jnp.ones(3)})
    with pytest.raises(pjp.PPOError, match="only on one side"):
        load_tree(tmp_path / "a", {"x": jnp.zeros(64)})
    whole = (tmp_path / "a" / "leaves.npz").read_bytes()
    wrong = 0
    for position in range(40, len(whole), 97):
        flipped = bytearray(whole)
        flipped[position] ^= 16
        (tmp_path / "a" / "leaves.npz").write_bytes(flipped)
        try:
            back = load_tree(tmp_path / "a", tree)
        except pjp.PPOError:
            continue
        wrong += not all(np.array_equal(back[name], tree[name]) for name in tree)
    assert wrong == 0
    (tmp_path / "a" / "leaves.npz").write_bytes(whole[:-20])
    with pytest.raises(pjp.PPOError, match="cannot be read"):
        load_tree(tmp_path / "a", tree)
    with pytest.raises(pjp.PPOError, match="cannot be read"):
        load_tree(tmp_path / "b", tree)


def test_a_write_that_fails_leaves_the_old_file(tmp_path):
    write_json(tmp_path / "a.json", {"x": 1.0, "bad": float("nan")})

    def fail(file):
        file.write(b"half")
        raise OSError("disk full")

    with pytest.raises(pjp.PPOError, match=r"a\.json could not be written: disk full; make room"):
        write_whole(tmp_path / "a.json", fail)
    assert json.loads((tmp_path / "a.json").read_text()) == {"x": 1.0, "bad": None}
    assert len(list(tmp_path.iterdir())) == 1


def test_the_csv_is_the_text_that_pandas_writes(tmp_path, monkeypatch):
    monkeypatch.setattr("purejaxppo.runs.folder._BLOCK", 4)  # of six rows
    values = np.array([[np.nan, 1 / 3, 1e10], [-np.inf, 2.5e-7, 0.0]], np.float32)
    columns = {"timesteps": np.array([[1, 2, 3]] * 2) * 2**40, "loss": values, 'a "b", c': values.astype(np.float64)}
    write_metrics(tmp_path, list(columns), columns.__getitem__)
    table = {"seed": [0, 0, 0, 1, 1, 1], "update": [1, 2, 3] * 2} | {name: x.ravel() for name, x in columns.items()}
    expected = pandas.DataFrame(table).to_csv(index=False, float_format="%.9g", na_rep="nan")
    assert (tmp_path / "metrics.csv").read_text() == expected


def test_a_long_csv_has_quantiles_over_seeds(tmp_path, monkeypatch):
    monkeypatch.setattr("purejaxppo.runs.folder.CSV_ROWS", 10)
    values = np.arange(12, dtype=np.float32).reshape(4, 3)
    values[:, 2] = np.nan
    fields = {field.name for field in dataclasses.fields(Metrics)}
    write_metrics(tmp_path, list(fields), lambda name: values)
    rows = np.genfromtxt(tmp_path / "metrics.csv", delimiter=",", names=True)
    assert rows.shape == (3,)
    np.testing.assert_allclose(rows["entropy_q50"], [4.5, 5.5, np.nan])
    np.testing.assert_allclose(rows["entropy_q100"], [9.0, 10.0, np.nan])


def test_load_run_names_what_is_missing(tmp_path):
    with pytest.raises(pjp.PPOError, match=r"config\.json cannot be read"):
        pjp.load_run(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(pjp.PPOError, match="is not JSON"):
        pjp.load_run(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(pjp.PPOError, match="lacks 'env'; it is not the config of a run"):
        pjp.load_run(tmp_path)


@dataclasses.dataclass(frozen=True)
class Normed(pjp.PPOConfig):
    norm: str = "l2"
    bounds: tuple = (0.0, 1.0)


@pytest.mark.parametrize(
    "config",
    [
        pjp.PPOConfig(gamma=np.float32(0.98), learning_rate=jnp.float32(3e-4)),
        Normed(norm="inf", bounds=[0.1, float("inf")]),
        Normed(norm="nan", max_grad_norm=float("inf"), bounds=(np.float32(0.1), None)),
    ],
)
def test_every_value_of_a_config_comes_back(config, tmp_path):
    config = config.replace(num_envs=2, num_steps=4, total_timesteps=16, num_minibatches=2, hidden_sizes=(4,))
    options = {} if type(config) is pjp.PPOConfig else {"make_agent": pjp.make_ppo}
    trained = pjp.train_run("CartPole-v1", config, out=tmp_path / "a", num_seeds=1, quiet=True, **options)
    loaded = pjp.load_run(tmp_path / "a", **options, **({"config": Normed()} if options else {}))
    wanted = {field.name: plain(getattr(config, field.name)) for field in dataclasses.fields(config)}
    assert dataclasses.asdict(loaded.config) == wanted
    assert repr(loaded.summary) == repr(trained.summary)


def test_an_interrupted_run_is_told_how_to_go_on(run, tmp_path):
    shutil.copytree(run[0], tmp_path / "run")
    (tmp_path / "run" / "summary.json").unlink()
    with pytest.raises(pjp.PPOError, match=r"has not finished; go on with --resume .*run, or choose another"):
        make_run_folder(tmp_path / "run")
    with pytest.raises(
        pjp.PPOError, match=r"no finished run; .* go on with purejaxppo train --resume .*load_checkpoint"
    ):
        pjp.load_run(tmp_path / "run")
