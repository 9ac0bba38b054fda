"""Results that stay: chunks on disk, populations that were interrupted, and those that do not fit together."""

import functools
import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from arithmetic import make_agent

import purejaxppo as pjp
from purejaxppo.population import chunks, program
from purejaxppo.population.chunks import over_processes
from purejaxppo.population.jobs import POPULATION, describe_population, own_rows
from purejaxppo.population.options import Experiment, Options
from purejaxppo.population.results import Costs
from purejaxppo.population.store import complement
from purejaxppo.utils.files import ADDED, make_manifest, read_json, write_json

SMALL = pjp.PPOConfig(num_envs=4, num_steps=16, total_timesteps=4 * 16 * 3, hidden_sizes=(8,))


class Stopped(Exception):
    """What stops a population in these tests."""


@pytest.fixture(scope="module")
def env():
    return pjp.make_env("CartPole-v1")


@pytest.fixture(autouse=True)
def chunks_of_two_on_each_device(monkeypatch):
    monkeypatch.setattr(program, "CPU_WIDTH", 2)


def train(env, out, config=SMALL, **options):
    return pjp.train_population(env, config, num_seeds=10, evaluation_episodes=3, out=out, **options)


@pytest.fixture(scope="module")
def kept(env, tmp_path_factory):
    """A population in three chunks of 4, 4 and 2 members."""
    folder = tmp_path_factory.mktemp("kept") / "a"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(program, "CPU_WIDTH", 2)
        return folder, train(env, folder)


def assert_same(one, other):
    jax.tree.map(np.testing.assert_array_equal, one.metrics, other.metrics)
    jax.tree.map(np.testing.assert_array_equal, one.runners.train_state, other.runners.train_state)
    np.testing.assert_array_equal(jax.random.key_data(one.runners.key), jax.random.key_data(other.runners.key))
    np.testing.assert_array_equal(one.final_returns(), other.final_returns())


def parts(folder):
    return sorted(path.name for path in (folder / "program-0" / "runners").iterdir())


def test_results_are_read_to_the_host_without_a_program_for_each_array(kept):
    runner = kept[1].seed(9)
    assert not any(isinstance(x, jax.Array) for x in jax.tree.leaves(runner.replace(key=())))
    assert runner.key.shape == ()  # a typed key


def test_the_rows_that_are_missing():
    assert complement([], (0, 5)) == [(0, 5)]
    assert complement([(0, 5)], (0, 5)) == []
    assert complement([(3, 4), (0, 2)], (0, 6)) == [(2, 3), (4, 6)]
    assert complement([(0, 4), (2, 6)], (0, 8)) == [(6, 8)]
    assert complement([(0, 4), (6, 9)], (3, 8)) == [(4, 6)]


@pytest.mark.parametrize("rows", [[(0, 10)], [(2, 3), (7, 9), (11, 20)], [(0, 1)], []])
@pytest.mark.parametrize("count", [1, 2, 3, 7])
def test_processes_divide_the_rows(rows, count):
    members = [i for first, last in rows for i in range(first, last)]
    shares = [[i for first, last in own_rows(rows, p, count) for i in range(first, last)] for p in range(count)]
    assert sum(shares, []) == members  # noqa: RUF017
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_results_on_disk_are_those_in_memory(env, kept):
    folder, on_disk = kept
    in_memory = train(env, None)
    assert_same(on_disk, in_memory)
    assert on_disk.episodes_cut.tolist() == in_memory.episodes_cut.tolist() == [0] * 10
    assert on_disk.column("timesteps").tolist() == [[64, 128, 192]] * 10
    assert parts(folder) == ["00000000-00000004", "00000004-00000008", "00000008-00000010"]
    one = on_disk.seed(9)
    jax.tree.map(np.testing.assert_array_equal, one.train_state, in_memory.seed(9).train_state)
    assert int(on_disk.agent.act(one.train_state, one.obs[0])) in (0, 1)
    np.testing.assert_array_equal(on_disk.column("entropy"), in_memory.metrics.entropy)


def test_what_is_there_is_not_trained_again(env, kept):
    folder, first = kept
    called = []
    again = train(env, folder, on_chunk=called.append, on_plan=called.append)
    assert called == []
    assert again.costs.plan is None
    assert_same(again, first)
    opened = pjp.open_population(env, SMALL, num_seeds=10, evaluation_episodes=3, out=folder)
    assert_same(opened, first)


@pytest.mark.parametrize("after", [0, 4, 8])
def test_an_interrupted_population_goes_on(env, kept, tmp_path, after):
    """It stops in the chunk that begins with member `after`, and trains this one and the later ones."""

    def stop(progress):
        if progress.members[0] == after and progress.updates == 2:
            raise Stopped

    with pytest.raises(Stopped):
        train(env, tmp_path, on_chunk=stop)
    begun = set()
    resumed = train(env, tmp_path, on_chunk=lambda progress: begun.add(progress.members[0]))
    assert begun == {first for first in (0, 4, 8) if first >= after}
    assert_same(resumed, kept[1])


def test_a_chunk_that_is_lost_is_trained_again(env, kept, tmp_path):
    shutil.copytree(kept[0], tmp_path / "a")
    shutil.rmtree(tmp_path / "a" / "program-0" / "runners" / "00000004-00000008")
    with pytest.raises(pjp.PPOError, match="lacks member 4; start the population again"):
        pjp.open_population(env, SMALL, num_seeds=10, evaluation_episodes=3, out=tmp_path / "a").runners  # noqa: B018
    chunks = []
    again = train(env, tmp_path / "a", on_chunk=lambda progress: chunks.append(progress.members))
    assert set(chunks) == {(4, 8)}
    assert_same(again, kept[1])


def test_a_damaged_chunk_is_refused(env, kept, tmp_path):
    shutil.copytree(kept[0], tmp_path / "a")
    path = tmp_path / "a" / "program-0" / "metrics" / "00000000-00000004" / "leaves.npz"
    content = bytearray(path.read_bytes())
    for position in range(60, len(content) - 900, 211):  # the directory at its end names no data
        damaged = content.copy()
        damaged[position] ^= 4
        path.write_bytes(damaged)
        population = train(env, tmp_path / "a")
        try:
            np.testing.assert_array_equal(population.metrics.value_loss, kept[1].metrics.value_loss)
            jax.tree.map(np.testing.assert_array_equal, population.metrics, kept[1].metrics)
        except pjp.PPOError as error:
            assert "00000000-00000004" in str(error)  # noqa: PT017


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"config": SMALL.replace(gamma=0.9)}, "its config.gamma is 0.99, and 0.9 is wanted"),
        ({"seed": 1}, "its seed is 0, and 1 is wanted"),
        ({"sweep": {"gamma": [0.9]}}, "its settings is"),
        ({"make_agent": "adam"}, "its own_optimizer is False, and True is wanted"),
    ],
)
def test_another_population_does_not_go_on_in_the_folder(env, kept, changes, said):
    import optax

    if "make_agent" in changes:
        changes = {"make_agent": functools.partial(pjp.make_ppo, optimizer=optax.adam(1e-3))}
    with pytest.raises(pjp.PPOError, match="holds another population: " + said):
        train(env, kept[0], **changes)


@pytest.mark.parametrize("make", [np.array, jnp.array, lambda x: {"table": np.array(x)}])
def test_every_number_of_a_long_array_tells_populations_apart(env, make):
    def describe(table):
        env_of = env.replace(params=make(table))
        return describe_population(Experiment(env_of, SMALL, 1, 0, Options()), [{"env.table": make(table)}])

    table = np.zeros(2_000, np.float32)
    first = describe(table)
    assert describe(table.copy()) == first
    table[1_000] = 1.0
    other = describe(table)
    assert {name for name in first if first[name] != other[name]} == {"env_params", "settings"}


def test_a_folder_without_a_population_is_not_opened(env, tmp_path):
    with pytest.raises(pjp.PPOError, match="holds no population; train it with"):
        pjp.open_population(env, SMALL, num_seeds=10, out=tmp_path / "a")
    assert not (tmp_path / "a").exists()


def test_a_sweep_on_disk_goes_on_too(env, tmp_path):
    sweep = {"gamma": [0.9, 0.99], "num_envs": [4, 8]}

    def stop(progress):
        if progress.timesteps > 1_500:
            raise Stopped

    def run(out, **options):
        return pjp.train_population(env, SMALL, num_seeds=3, sweep=sweep, make_agent=make_agent, out=out, **options)

    with pytest.raises(Stopped):
        run(tmp_path / "a", on_chunk=stop)
    assert (tmp_path / "a" / "program-0").exists()
    resumed, whole = run(tmp_path / "a"), run(None)
    for one, other in zip(resumed, whole, strict=True):
        assert_same(one, other)


def without_leaves(folder, ends):
    """Writes a pytree on disk anew as a version without these leaves would have."""
    manifest = json.loads((folder / "manifest.json").read_text())
    with np.load(folder / "leaves.npz") as file:
        leaves = {name: file[name] for name in file.files if not name.endswith(ends)}
    np.savez(folder / "leaves.npz", **leaves)
    (folder / "manifest.json").write_text(json.dumps(make_manifest(leaves, manifest["about"])))


def test_results_of_a_version_without_the_return_by_environment_are_read(env, kept, tmp_path):
    folder, population = tmp_path / "a", kept[1]
    shutil.copytree(kept[0], folder)
    for part in (folder / "program-0").glob("*/*-*"):
        without_leaves(part, tuple(ADDED))
    older = train(env, folder)
    assert np.isfinite(population.column("last_return_mean")[:, -1]).all()
    for returns in (older.column("last_return_mean"), older.metrics.last_return_mean):
        assert returns.shape == (10, 3)
        assert np.isnan(returns).all()
    np.testing.assert_array_equal(older.metrics.episodes, population.metrics.episodes)
    assert not older.runners.episode.has_finished.any()
    assert older.time_to(10.0)[1:3] == population.time_to(10.0, "episode_return_mean")[1:3] == (10, 10)


def test_a_population_has_the_distribution_of_its_seeds(kept):
    population = kept[1]
    assert population.percentiles((0, 100)).shape == (2, 3)
    greatest = population.percentiles((100,))[0]
    np.testing.assert_array_equal(greatest[-1], population.column("episode_return_mean")[:, -1].max())
    np.testing.assert_array_equal(population.profile([-1.0, 501.0]).share, [1, 0])
    np.testing.assert_array_equal(
        population.final_returns("last_return_mean"), population.column("last_return_mean")[:, -1]
    )
    assert population.areas().shape == (10,)
    assert np.median(population.areas()) == pytest.approx(population.area(), rel=0.2)


def test_a_seed_that_is_not_there_is_refused(kept):
    for wrong in (-1, 10):
        with pytest.raises(pjp.PPOError, match=f"seed {wrong} is not among the 10 of this population; take 0 to 9"):
            kept[1].seed(wrong)


def test_results_of_a_chunk_are_gone_from_the_device(env):
    """What a population holds while it trains does not grow with its chunks."""
    arrays = []
    train(env, None, on_chunk=lambda progress: arrays.append(len(jax.live_arrays())))
    assert arrays[-1] <= arrays[2] + 2


def test_the_steps_of_all_processes_add_up_exactly(monkeypatch):
    mine, theirs = Costs(2.0, 3.0, 5_000_000_001, None), np.array([[1.0, 4.0, 7_000_000_003.0]])
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr(chunks, "gather_rows", lambda rows: np.vstack([rows, theirs.view(np.int32)]))
    assert over_processes(mine) == Costs(2.0, 4.0, 12_000_000_004, None)


class Scaled:
    """Three steps that pay what the object says."""

    default_params = None
    observation_space = pjp.Box((1,), -9.0, 9.0)
    action_space = pjp.Discrete(2)

    def __init__(self, scale):
        self.scale, self.sizes, self.reward = scale, [1, 2], lambda: scale

    def reset(self, key, params):
        return jnp.zeros(1), 0

    def step(self, key, state, action, params):
        return jnp.ones(1), state + 1, self.scale, False, state >= 2


class Beside(Scaled):
    """Another object around it."""

    def __init__(self, env):
        self.env, self.scale = env, 1.0


@pytest.mark.parametrize("make", [pjp.make_env, lambda env: pjp.make_env(Beside(pjp.make_env(env)))])
def test_the_object_of_an_environment_tells_populations_apart(make, tmp_path):
    options = {"num_seeds": 1, "out": tmp_path / "a"}
    config = SMALL.replace(num_steps=8, total_timesteps=64)
    first = pjp.train_population(make(Scaled(1.0)), config, **options)
    again = pjp.train_population(make(Scaled(1.0)), config, **options)
    assert_same(first, again)
    with pytest.raises(pjp.PPOError, match=r"its env_object\.(env\.)?scale is 1\.0, and 2\.0 is wanted"):
        pjp.train_population(make(Scaled(2.0)), config, **options)


def test_what_only_one_of_two_objects_has_tells_no_populations_apart(tmp_path):
    options = {"num_seeds": 1, "out": tmp_path / "a"}
    config, used = SMALL.replace(num_steps=8, total_timesteps=64), Scaled(1.0)
    pjp.train_population(pjp.make_env(Scaled(1.0)), config, **options)
    used.frames = 3
    pjp.train_population(pjp.make_env(used), config, **options)
    content = read_json(tmp_path / "a" / POPULATION)
    del content["env_object"]  # as in an older folder
    write_json(tmp_path / "a" / POPULATION, content)
    pjp.train_population(pjp.make_env(used), config, **options)


def test_the_description_of_an_array_does_not_depend_on_print_options(env):
    env = env.replace(params=np.array([0.12341, 1.0], np.float32))
    wanted = describe_population(Experiment(env, SMALL, 1, 0, Options()), [{}])
    with np.printoptions(precision=3, threshold=1):
        assert describe_population(Experiment(env, SMALL, 1, 0, Options()), [{}]) == wanted
    assert wanted["env_params"] == ["[0.12341 1.     ]"]
