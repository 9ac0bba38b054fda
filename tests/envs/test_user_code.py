"""An environment of one's own by name: on the command line, in run folders, and only where it is named."""

import json
import math
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import purejaxppo as pjp
from purejaxppo.cli import main as cli
from purejaxppo.envs import registry
from purejaxppo.envs.user_code import bring_env, find_own, module_name
from purejaxppo.ppo.evaluate import play_episodes
from purejaxppo.utils.errors import in_one_line

SOURCE = """
import jax.numpy as jnp
import purejaxppo as pjp
from flax import struct
from PIL import Image

class Params(struct.PyTreeNode):
    pay: float = 1.0

class Hop:
    default_params = Params()
    observation_space = pjp.Box((1,), (0.0,), (8.0,))
    action_space = pjp.Discrete(2)

    def reset(self, key, params):
        return jnp.zeros(1), 0

    def step(self, key, state, action, params):
        return jnp.full(1, state + 1.0), state + 1, params.pay * action, jnp.bool_(False), state >= 7

    def draw(self, obs, state, params):
        return Image.new("RGB", (32, 32), (30 * int(state), 0, 0))

def broken():
    return 1 / 0

class Other(Hop):
    pass
"""
ENDLESS = """
class Endless(Hop):
    def step(self, key, state, action, params):
        return jnp.ones(1), state, 1.0, jnp.bool_(False), False
"""
HOP = "hop_of_test.py:Hop"
SIZES = ["--seeds", "2", "--config.total-timesteps", "1024", "--quiet"]


@pytest.fixture
def alone(monkeypatch, tmp_path):
    """In a folder with the file, where nothing has been named yet; forgets what is imported and named after it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(registry, "_REGISTERED", {})
    (tmp_path / "hop_of_test.py").write_text(SOURCE)
    yield tmp_path
    sys.modules.pop("hop_of_test", None)


def forget():
    registry._REGISTERED.clear()
    sys.modules.pop("hop_of_test", None)


@pytest.mark.slow
def test_a_run_of_it_has_all_that_a_run_has(alone, capsys):
    assert cli.main(["train", "--env", HOP, "--env-param", "pay=2", "--out", "run", *SIZES]) == 0
    assert {"report.html", "curves.png", "before.gif", "after.gif"} <= {path.name for path in (alone / "run").iterdir()}
    other = "hop_of_test.py:Other"
    for env, said in ((other, f"run is a run of {HOP}; leave out --env {other}"), ("CartPole-v1", "leave out --env")):
        capsys.readouterr()
        assert cli.main(["train", "--resume", "run", "--env", env]) == 2
        assert said in capsys.readouterr().err
    for command in (
        ["eval", "run"],
        ["render", "run"],
        ["plot", "run"],
        ["report", "run"],
        ["train", "--resume", "run"],
    ):
        forget()
        capsys.readouterr()
        assert cli.main(command) == 2
        assert f"give --env {HOP} to the command, or in Python register_env" in capsys.readouterr().err
        assert "hop_of_test" not in sys.modules  # what a folder names is not imported
        assert cli.main([*command, "--env", HOP]) == 0
    forget()
    with pytest.raises(pjp.PPOError, match="code of your own"):
        pjp.load_run("run")
    pjp.register_env(HOP, find_own("env", HOP)())
    assert pjp.load_run("run").agent.env.params.pay == 2.0


@pytest.mark.slow
def test_episodes_that_an_evaluation_has_cut_are_counted_wherever_it_is_shown(alone, capsys):
    (alone / "hop_of_test.py").write_text(SOURCE + ENDLESS)
    sizes = ["--seeds", "2", "--config.num-steps", "8", "--config.total-timesteps", "32"]
    own = ["--env", "hop_of_test.py:Endless"]
    assert cli.main(["train", *own, "--out", "run", *sizes]) == 0
    assert "200 of 200" in line_of("episodes cut", capsys.readouterr().out)
    assert "<td>200 of 200" in (alone / "run" / "report.html").read_text()
    summary = json.loads((alone / "run" / "summary.json").read_text())
    assert summary["evaluation_episodes_cut"] == 200
    assert cli.main(["eval", "run", *own, "--episodes", "3", "--json", "eval.json"]) == 0
    assert "6 of 6" in line_of("episodes cut", capsys.readouterr().out)
    assert json.loads((alone / "eval.json").read_text())["episodes_cut"] == 6
    assert cli.main(["render", "run", *own, "--max-steps", "7"]) == 0
    assert "cut by --max-steps 7" in capsys.readouterr().out


def line_of(name, text):
    return next(line for line in text.splitlines() if line.startswith(name))


def test_an_episode_that_ends_with_its_last_step_is_not_cut(alone):
    agent = pjp.make_ppo(pjp.make_env(find_own("env", HOP)()), pjp.PPOConfig(hidden_sizes=(4,)))
    state = agent.init(jax.random.key(0)).train_state
    for max_steps, is_cut in ((7, True), (8, False), (9, False)):
        end = play_episodes(agent, state, jax.random.key(1), 2, max_steps=max_steps)
        assert end.running.tolist() == [is_cut] * 2
        (episode,) = pjp.record_episodes(agent, state, jax.random.key(1), max_steps=max_steps)
        assert episode.is_cut == is_cut


def test_the_default_folder_has_no_colon(alone):
    assert cli.main(["train", "--env", HOP, *SIZES]) == 0
    (folder,) = (alone / "runs").iterdir()
    assert folder.name.startswith("hop_of_test.py-Hop-")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("hop_of_test.py:Hops", "unknown env in hop_of_test.py 'Hops'; did you mean Hop?"),
        ("nowhere.py:Hop", "there is no file 'nowhere.py'"),
        ("nowhere:Hop", "'nowhere' cannot be imported"),
        (
            "broken_of_test.py:Hop",
            "cannot be imported: ZeroDivisionError: division by zero (broken_of_test.py, line 2)",
        ),
        ("leaving_of_test.py:Hop", "cannot be imported: SystemExit: 0 (leaving_of_test.py, line 2)"),
        ("hop_of_test.py:Image", "module is not an environment: it lacks reset"),
        ("./hop_of_test.py", "'./hop_of_test.py' is a file; name what is in it as ./hop_of_test.py:NAME, such as "),
        ("hop_of_test.py", "hop_of_test.py:Params or hop_of_test.py:Hop or hop_of_test.py:broken"),
        ("nowhere.py", "'nowhere.py' cannot be read"),
        ("hop_of_test.py:broken", "error: broken() raises ZeroDivisionError: division by zero (hop_of_test.py, line "),
    ],
)
def test_what_cannot_be_found_is_refused_in_one_line(alone, text, said, capsys):
    (alone / "broken_of_test.py").write_text("x = 1\nx / 0\n")
    (alone / "leaving_of_test.py").write_text("import sys\nsys.exit(0)\n")
    assert cli.main(["train", "--env", text]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1


def test_each_file_is_imported_whatever_other_modules_are_called(alone, monkeypatch):
    for name in ("a/hop_of_test.py", "b/hop_of_test.py", "b/queue.py", "b/hop.v2.py"):
        (alone / name).parent.mkdir(exist_ok=True)
        (alone / name).write_text(f"name = {name!r}\n")
        assert find_own("env", f"{name}:name") == name
    monkeypatch.chdir(alone / "a")
    assert find_own("env", "./hop_of_test.py:name") == "a/hop_of_test.py"
    assert sys.modules[module_name("../b/queue.py")].name == "b/queue.py"
    assert sys.modules["hop_of_test"].name == "a/hop_of_test.py"  # other files import the first one by its own name


def test_a_file_is_asked_for_a_name_in_it_wherever_one_is_given(alone, capsys):
    for command in (["eval", "run"], ["doctor"], ["doctor", "--env", "CartPole-v1", "--network"]):
        words = [*command, *([] if command[-1] == "--network" else ["--env"]), "./hop_of_test.py"]
        assert cli.main(words) == 2
        assert "./hop_of_test.py:Hop" in capsys.readouterr().err
    with pytest.raises(pjp.PPOError, match=r"hop_of_test\.py' names code of your own"):
        pjp.make_env("./hop_of_test.py")
    assert "hop_of_test" not in sys.modules


def test_a_name_without_a_colon_imports_nothing(alone):
    bring_env("CartPole-v1")
    bring_env(None)
    assert not registry._REGISTERED


class Still:
    """Nothing happens in it."""

    default_params = None
    observation_space = pjp.Box((1,), (0.0,), (1.0,))
    action_space = pjp.Discrete(2)

    def reset(self, key, params):
        return jnp.zeros(1), 0

    def step(self, key, state, action, params):
        return jnp.zeros(1), state + 1, 0.0, jnp.bool_(False), state >= 3


def test_a_registered_environment_is_made_by_its_name(alone):
    pjp.register_env("Still", Still())
    assert pjp.make_env("Still").name == "Still"
    assert "Still" in pjp.env_names()
    pjp.register_env("Still", "CartPole-v1")
    assert pjp.make_env("Still", length=0.7).params.length == 0.7


@pytest.mark.parametrize("name", ["CartPole-v1", "MNISTBandit-bsuite", "brax/ant", "", " ", 3])
def test_names_that_are_taken_or_none_are_refused(alone, name):
    with pytest.raises(pjp.PPOError, match=r"give (another|a string)"):
        pjp.register_env(name, Still())
    assert not registry._REGISTERED


def test_what_raises_is_told_with_the_line_of_the_caller():
    class Joins(Still):
        def step(self, key, state, action, params):
            return jnp.concatenate([jnp.zeros(1), action]), state, 0.0, False, False

    line = Joins.step.__code__.co_firstlineno + 1
    with pytest.raises(pjp.PPOError, match=rf"step cannot be traced: .* \(test_user_code.py, line {line}\)$"):
        pjp.make_env(Joins())
    assert in_one_line(ValueError("of nobody")) == "ValueError: of nobody"


def test_an_error_within_jax_is_told_with_the_line_that_called_it():
    def called():
        return jax.jit(lambda x: jnp.sin(x) + "a")(1.0)

    with pytest.raises(TypeError) as caught:
        called()
    assert in_one_line(caught.value).endswith(f"(test_user_code.py, line {called.__code__.co_firstlineno + 1})")


def test_the_folder_of_a_population_is_no_run_folder_and_it_is_said_what_reads_it(tmp_path):
    config = pjp.PPOConfig(num_envs=4, num_steps=8, total_timesteps=64, num_minibatches=2)
    pjp.train_population(pjp.make_env("CartPole-v1"), config, num_seeds=2, out=tmp_path / "p")
    with pytest.raises(pjp.PPOError, match=r"read it with open_population\(env, config, num_seeds"):
        pjp.load_run(tmp_path / "p")


@pytest.mark.parametrize(
    ("function", "said"),
    [
        (lambda x: x if x > 0 else -x, "take jnp.where for if"),
        (lambda x: [1.0, 2.0][x.astype(int)], "index an array of jnp"),
        (np.sin, "take jnp for np"),
        (math.sin, "take jnp for math"),
    ],
)
def test_code_that_needs_a_value_too_early_is_told_what_to_take(function, said):
    def reset(self, key, params):
        return jnp.zeros(1) + function(jax.random.uniform(key)), 0

    env = type("Early", (Still,), {"reset": reset})
    with pytest.raises(pjp.PPOError, match=rf"known only when the compiled program runs; {said}.* \(test_user_code.py"):
        pjp.make_env(env())


def test_a_long_error_is_cut_between_words():
    def reset(self, key, params):
        raise ValueError("word " * 200)

    with pytest.raises(pjp.PPOError, match=r"ValueError: (word )+\.\.\. \(test_user_code.py, line \d+\)$"):
        pjp.make_env(type("Long", (Still,), {"reset": reset})())
