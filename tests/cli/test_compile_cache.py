"""The cache of compiled programs that the command line sets up."""

import os
import subprocess
import sys
import warnings
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest
from jax.experimental.compilation_cache import compilation_cache

import purejaxppo as pjp
from purejaxppo.cli import compile_cache
from purejaxppo.cli.arguments import read_options
from purejaxppo.cli.compile_cache import use_cache
from purejaxppo.cli.main import RUN, main

events = []
jax.monitoring.register_event_listener(lambda event, **_: events.append(event.rpartition("/")[2]))
NAMES = ("jax_compilation_cache_dir", *compile_cache.SETTINGS)
TINY = ["--seeds", "1", "--total-timesteps", "128", "--num-envs", "4", "--num-steps", "16", "--quiet"]
TINY += ["--hidden-sizes", "8"]


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A process that has no cache yet, and whose user has this home."""
    before = {name: getattr(jax.config, name) for name in NAMES}
    jax.config.update("jax_compilation_cache_dir", None)
    compilation_cache.reset_cache()
    monkeypatch.setattr(compile_cache, "QUIET", (0,))
    monkeypatch.setitem(compile_cache.SETTINGS, "jax_persistent_cache_min_compile_time_secs", 0.0)
    settings = ("JAX_COMPILATION_CACHE_DIR", "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS")
    for name in ("PUREJAXPPO_CACHE", "XDG_CACHE_HOME", *settings):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    yield tmp_path
    for name, value in before.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()


def chosen():
    return jax.config.jax_compilation_cache_dir


def hits(function):
    """For each program of a call that JAX looks for in the cache, whether it is there."""
    events.clear()
    jax.jit(function)(jnp.arange(3.0))
    return [event for event in events if event in ("cache_hits", "cache_misses")]


def make_program():
    return lambda x: jnp.sin(x) * 3 + 0.125


def test_programs_are_kept_in_the_users_cache_folder(home):
    use_cache(None)
    assert chosen() == str(home / ".cache" / "purejaxppo")
    assert "cache_hits" not in hits(make_program())
    kept = sorted(path.name for path in Path(chosen()).glob("*-cache"))
    assert kept
    assert Path(chosen()).stat().st_mode & 0o077 == 0
    assert jax.config.jax_compilation_cache_max_size == 2 * 2**30
    assert hits(make_program())[-1] == "cache_hits"
    assert sorted(path.name for path in Path(chosen()).glob("*-cache")) == kept


@pytest.mark.parametrize("left", [0, 100])
def test_a_torn_entry_is_compiled_anew_without_a_word(left, home):
    use_cache(None)
    hits(make_program())
    for path in Path(chosen()).glob("*-cache"):
        path.write_bytes(path.read_bytes()[:left])
    with warnings.catch_warnings(record=True) as caught:
        use_cache(Path(chosen()))  # sets the filter within this block
        assert float(jax.jit(make_program())(jnp.float32(0.0))) == 0.125
        assert "cache_hits" not in hits(make_program())
    assert not caught


@pytest.mark.parametrize("place", ["/proc/nowhere", "file"])
def test_without_a_folder_to_write_to_there_is_no_cache(place, home, monkeypatch):
    (home / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(home / place))
    use_cache(None)
    assert chosen() is None
    assert hits(make_program()) == []


def test_a_user_without_a_home_has_no_cache(home, monkeypatch):
    def homeless():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", homeless)
    use_cache(None)
    assert chosen() is None


def test_a_release_that_prints_errors_has_a_cache_only_where_it_is_asked_for(home, monkeypatch):
    monkeypatch.setattr(compile_cache, "QUIET", (99,))
    use_cache(None)
    assert chosen() is None
    monkeypatch.setenv("PUREJAXPPO_CACHE", str(home / "a"))
    use_cache(None)
    assert chosen() == str(home / "a")


def test_the_option_counts_before_jaxs_own_setting_and_that_before_the_variable(home, monkeypatch):
    monkeypatch.setenv("PUREJAXPPO_CACHE", str(home / "variable"))
    use_cache(None)
    assert chosen() == str(home / "variable")
    jax.config.update("jax_compilation_cache_dir", str(home / "jax"))
    use_cache(None)
    assert chosen() == str(home / "jax")
    use_cache(home / "option")
    assert chosen() == str(home / "option")
    use_cache(Path("off"))
    assert chosen() is None
    monkeypatch.setenv("PUREJAXPPO_CACHE", "off")
    use_cache(None)
    assert chosen() is None
    assert not (home / ".cache").exists()


def test_jaxs_own_limits_are_respected(home, monkeypatch):
    monkeypatch.setenv("JAX_COMPILATION_CACHE_MAX_SIZE", "-1")
    before = jax.config.jax_compilation_cache_max_size
    use_cache(None)
    assert jax.config.jax_compilation_cache_max_size == before


def test_a_folder_that_cannot_be_written_to_is_refused(home, capsys):
    (home / "file").write_text("")
    assert main(["report", "nowhere", "--cache", str(home / "file")]) == 2
    error = capsys.readouterr().err
    assert "--cache" in error
    assert str(home / "file") in error
    with pytest.raises(pjp.PPOError, match="--cache"):
        use_cache(Path("/proc/nowhere"))


def test_every_command_that_compiles_has_the_option():
    needed = {"train": [], "sweep": [], "eval": ["a"], "render": ["a"], "plot": ["a"], "report": ["a"]}
    needed |= {"export": ["a"], "reproduce": ["a"]}
    for command, words in (needed | {"doctor": []}).items():
        assert read_options([command, *words, "--cache", "off"]).cache == Path("off")
    assert RUN.keys() - needed.keys() == {"doctor", "bench", "envs", "presets", "completion"}


@pytest.mark.slow
@pytest.mark.skipif(jax.__version_info__ < compile_cache.QUIET, reason="no cache by default")
def test_a_second_training_compiles_nothing_new(tmp_path):
    names = ("PUREJAXPPO_CACHE", "JAX_COMPILATION_CACHE_DIR")
    environment = {name: value for name, value in os.environ.items() if name not in names}
    environment |= {"XDG_CACHE_HOME": str(tmp_path / "cache"), "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
    kept, used = [], []
    for name in "ab":
        words = ["train", *TINY, "--out", str(tmp_path / name)]
        done = subprocess.run(
            [sys.executable, "-m", "purejaxppo", *words], env=environment, capture_output=True, text=True
        )
        assert (done.returncode, done.stderr) == (0, "")
        folder = tmp_path / "cache" / "purejaxppo"
        kept.append({path.name: path.stat().st_mtime_ns for path in folder.glob("*-cache")})
        used.append({path.name: path.stat().st_mtime_ns for path in folder.glob("*-atime")})
    assert kept[0] == kept[1]
    assert len(kept[0]) >= 1
    assert used[0].keys() == used[1].keys()
    assert all(used[1][name] > used[0][name] for name in used[0])  # every program was read
    assert (tmp_path / "a" / "metrics.csv").read_bytes() == (tmp_path / "b" / "metrics.csv").read_bytes()
