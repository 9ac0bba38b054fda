"""Every core is a device from the start, whichever test comes first; and a program is compiled once in a session.

The cache of the session is JAX's own setting, which the command line leaves as it is.
"""

import gc
import os
import tempfile
from ctypes.util import find_library

import jax
import pytest

import purejaxppo as pjp
from purejaxppo.population.options import Options

gc.set_threshold(50_000, 20, 100)  # tracing makes many objects: the default looks through them all too often
pjp.use_all_cores()
if find_library("EGL"):
    os.environ.setdefault("MUJOCO_GL", "egl")  # MuJoCo reads it on import, and a machine for tests has no display
os.environ["COLUMNS"] = "80"
os.environ["PUREJAXPPO_CACHE"] = "off"  # no process of a test writes to the home of its user
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:  # where it is set, it is kept for the next session
    _CACHE = tempfile.TemporaryDirectory(prefix="purejaxppo-tests-")
    os.environ["JAX_COMPILATION_CACHE_DIR"] = _CACHE.name  # the workers of a session and their processes share it
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.2"
jax.config.update("jax_compilation_cache_dir", os.environ["JAX_COMPILATION_CACHE_DIR"])
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)

# Most programs here compile for seconds and run for milliseconds: they, and those of the processes that tests start, do
# without LLVM's optimizations. These modules train for long, time something, or check the bits that users get.
COMPILED_FULLY = {"test_distributions", "test_keras", "test_gae", "test_gymnasium", "test_checkpoints"}
COMPILED_FULLY |= {"test_population", "test_population_proofs", "test_learning", "test_losses"}
COMPILED_FULLY |= {"test_pace", "test_optimizer", "test_rollout", "test_shuffle", "test_update"}

# Nothing in these modules looks at the pictures of the runs that they train.
WITHOUT_PICTURES = {"test_suites", "test_own_agents", "test_logs", "test_gymnasium", "test_lock", "test_cli_finished"}
WITHOUT_PICTURES |= {"test_finished_runs"}

# The longest modules begin first, so that at the end no worker waits long for another (--no-loadscope-reorder).
LONGEST = ["test_docs", "test_population_processes", "test_ppo", "test_keras", "test_more_suites", "test_recurrent"]
LONGEST += ["test_survival", "test_extension", "test_notebooks", "test_population_proofs", "test_doctor", "test_envs"]


def pytest_collection_modifyitems(items):
    order = {name: number for number, name in enumerate(LONGEST)}
    items.sort(key=lambda item: order.get(item.path.stem, len(LONGEST)))


def compile_quickly(quickly):
    jax.config.update("jax_disable_most_optimizations", quickly)
    os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = str(int(quickly))


compile_quickly(True)


@pytest.fixture(autouse=True, scope="module")
def compiled_fully(request):
    """Gives the modules that are named above programs of their own."""
    if request.path.stem not in COMPILED_FULLY:
        yield
        return
    jax.clear_caches()
    compile_quickly(False)
    yield
    compile_quickly(True)
    jax.clear_caches()


@pytest.fixture(autouse=True, scope="module")
def pictures_where_they_are_seen(request):
    """Leaves the films and curves out of the runs of the modules that are named above."""
    with pytest.MonkeyPatch.context() as patch:
        if request.path.stem in WITHOUT_PICTURES:
            patch.setattr("purejaxppo.report.train_run.write_pictures", lambda finished, folder: None)
        yield


@pytest.fixture(scope="module")
def few_objects():
    """A leaked tracer is searched for among all objects of Python: leaves out those of before the module."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture(scope="session")
def bare_options():
    """The default options of a population, with the given placement."""

    return lambda placement: Options(placement=placement)


@pytest.fixture
def refused(capsys, tmp_path, monkeypatch):
    """A command that is refused, in an empty folder: status 2 and one line on stderr, which is returned."""
    from purejaxppo.cli import main as cli

    def run(arguments):
        monkeypatch.chdir(tmp_path)
        try:
            status = cli.main(arguments)
        except SystemExit as leaving:
            status = leaving.code
        error = capsys.readouterr().err
        assert status == 2
        assert error.count("\n") == 1
        assert "Traceback" not in error
        return error

    return run
