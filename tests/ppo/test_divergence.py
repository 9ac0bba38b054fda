"""A non-finite update is not applied: its seed stays at its last good state and says so, the others never notice."""

import csv
import functools
import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import struct

import purejaxppo as pjp
from purejaxppo.cli import main as cli
from purejaxppo.population import program
from purejaxppo.population.algorithms import make_agent
from purejaxppo.population.jobs import make_jobs
from purejaxppo.population.options import Experiment
from purejaxppo.population.results import first_standstill
from purejaxppo.ppo.update import all_finite, keep_finite
from purejaxppo.report.pictures import write_pictures
from purejaxppo.runs.results import write_results
from purejaxppo.runs.spec import RunSpec, spec_to_json
from purejaxppo.runs.tables import describe_divergence, table
from purejaxppo.utils.devices import quickly_compiled
from purejaxppo.utils.files import to_host, write_json

SMALL = pjp.PPOConfig(
    num_envs=4, num_steps=8, total_timesteps=4 * 8 * 4, hidden_sizes=(8,), update_epochs=2, num_minibatches=2
)
CARRYING = SMALL.replace(normalize_obs=True, normalize_reward=True, lr_schedule="adaptive")  # all that there is
FULL = pjp.FullBatchConfig(
    num_envs=4,
    num_steps=8,
    total_timesteps=4 * 8 * 4,
    hidden_sizes=(8,),
    policy_iterations=3,
    value_iterations=3,
    bootstrap_time_limits=True,
)
NAN, INFINITE, OBS = 1.0, 2.0, 3.0  # kinds of poison: in the reward, in the reward, in the observation


class Params(struct.PyTreeNode):
    poison: float = 0.0
    share: float = 1.0  # of the episodes that it strikes
    begin: float = 0.0  # the step from which on it does
    length: float = 50.0  # steps of an episode


class Drift:
    """Pays for staying near 0. What it pays and shows may be poisoned."""

    default_params = Params()
    observation_space = pjp.Box((2,), (-100.0, 0.0), (100.0, 1.0))
    action_space = pjp.Discrete(2)

    def reset(self, key, params):
        state = (jax.random.normal(key), jax.random.uniform(jax.random.fold_in(key, 1)), jnp.float32(0))
        return self.observe(state, params), state

    def step(self, key, state, action, params):
        place, luck, time = state
        state = (place + 0.1 * (2.0 * action - 1.0) + 0.1 * jax.random.normal(key), luck, time + 1)
        bad = jnp.where(params.poison == INFINITE, jnp.inf, jnp.nan)
        struck = self.is_struck(state, params) & (params.poison > 0) & (params.poison < OBS)
        reward = jnp.where(struck, bad, -jnp.abs(state[0]))
        return self.observe(state, params), state, reward, False, time + 1 >= params.length

    def observe(self, state, params):
        shown = jnp.where(self.is_struck(state, params) & (params.poison == OBS), jnp.nan, state[0])
        return jnp.stack([shown, state[1]])

    def is_struck(self, state, params):
        return (state[1] < params.share) & (state[2] >= params.begin)


ENV = pjp.make_env(Drift())
QUICK = quickly_compiled("cpu")


def assert_same(one, other):
    jax.tree.map(np.testing.assert_array_equal, to_host(one), to_host(other))


def seed_of(tree, i):
    return jax.tree.map(lambda x: x[i], tree)


def frozen(runners, updates):
    """The runners as they are, but for what says that they have diverged."""
    state = runners.train_state
    return runners.replace(train_state=state.replace(diverged_at=jnp.full_like(state.diverged_at, updates)))


AGENTS = {
    "reward": (CARRYING, NAN),
    "infinite reward": (CARRYING, INFINITE),
    "KL": (SMALL.replace(target_kl=0.1, kl_stop="minibatch"), OBS),
    "recurrent": (
        pjp.RecurrentConfig(
            num_envs=4, num_steps=8, total_timesteps=128, hidden_sizes=(4,), cell_size=4, num_minibatches=2
        ),
        NAN,
    ),
    "full batch": (FULL, NAN),
    "full batch, observation": (FULL, OBS),
}


@pytest.mark.parametrize("name", AGENTS)
def test_the_poisoned_seed_stays_as_it_was_and_the_others_never_notice(name):
    """Seed 1 of 3 is poisoned in the third update alone, and stays where it was before it for good."""
    config, kind = AGENTS[name]

    @functools.partial(jax.jit, compiler_options=QUICK)
    @jax.vmap
    def update(poison, runner):
        return make_agent(ENV.replace(params=ENV.params.replace(poison=poison)), config).update(runner)

    clean, struck = jnp.zeros(3), jnp.zeros(3).at[1].set(kind)
    before = jax.jit(jax.vmap(make_agent(ENV, config).init), compiler_options=QUICK)(pjp.seed_keys(0, 3))
    for _ in range(2):
        before, _ = update(clean, before)
    runners, metrics = update(struck, before)
    later, later_metrics = update(clean, runners)
    expected, expected_metrics = update(clean, before)
    expected_later, _ = update(clean, expected)

    for i in (0, 2):
        assert_same(seed_of((runners, metrics), i), seed_of((expected, expected_metrics), i))
        assert_same(seed_of(later, i), seed_of(expected_later, i))
    assert_same(seed_of(runners, 1), seed_of(frozen(before, 2), 1))
    assert_same(seed_of(later, 1), seed_of(runners, 1))
    assert expected.train_state.diverged_at.tolist() == [-1, -1, -1]
    assert all_finite(later.train_state)
    assert np.isnan(metrics.value_loss).tolist() == [False, True, False]
    assert (metrics.timesteps // config.batch_size).tolist() == [3, 2, 3]
    assert (later_metrics.timesteps // config.batch_size).tolist() == [4, 2, 4]


def test_a_policy_whose_kl_is_nan_is_refused_though_its_parameters_and_critic_are_finite():
    """The first step overflows the logits: the KL of the next pass is NaN, and must not pass for a KL that stops."""
    agent = make_agent(ENV, FULL.replace(policy_learning_rate=3e38, value_learning_rate=0.0))
    before = jax.jit(agent.init, compiler_options=QUICK)(jax.random.key(0))
    after, metrics = jax.jit(agent.update, compiler_options=QUICK)(before)
    assert np.isnan(metrics.kl)
    assert np.isfinite(metrics.value_loss)
    assert_same(after, frozen(before, 0))


@pytest.mark.parametrize("bad", [jnp.nan, jnp.inf, -jnp.inf])
def test_every_float_of_the_train_state_counts_and_nothing_else(bad):
    before = jax.jit(pjp.make_ppo(ENV, CARRYING).init, compiler_options=QUICK)(jax.random.key(0))
    state = before.train_state
    leaves, structure = jax.tree.flatten(state)
    floats = [i for i, x in enumerate(leaves) if jnp.issubdtype(x.dtype, jnp.floating)]
    assert len(floats) > 15
    for i in floats:
        poisoned = structure.unflatten([x.at[(-1,) * x.ndim].set(bad) if i == j else x for j, x in enumerate(leaves)])
        after = before.replace(train_state=poisoned.replace(update=jnp.int32(1)))
        assert_same(keep_finite(before, after), frozen(before, 0))
    acted = before.replace(obs=jnp.full_like(before.obs, bad), train_state=state.replace(update=jnp.int32(1)))
    assert_same(keep_finite(before, acted), acted)
    assert_same(keep_finite(frozen(before, 0), acted), frozen(before, 0))
    assert all_finite({"count": jnp.int32(3), "key": jax.random.key(0), "flag": jnp.bool_(True)})


UPDATES = 4
ONE_ENV = SMALL.replace(num_envs=1, num_steps=8, total_timesteps=8 * UPDATES, num_minibatches=1)


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    """Two settings of 6 seeds, the second one poisoned from step 20 on in the seeds that are out of luck."""
    folder, states = tmp_path_factory.mktemp("divergence") / "a", {}
    env, points = pjp.make_env(Drift(), share=0.5, begin=20.0), [{"env.poison": 0.0}, {"env.poison": NAN}]
    options = {"num_seeds": 6, "sweep": points, "evaluation_episodes": 3, "out": folder}

    def keep(progress):
        states[progress.updates] = to_host(progress.train_states)

    sweep = pjp.train_population(env, ONE_ENV, on_chunk=keep, **options)
    again = pjp.open_population(env, ONE_ENV, **options)
    return sweep, again, states


def test_a_population_counts_the_diverged_and_keeps_their_last_good_state(swept):
    sweep, again, states = swept
    clean, poisoned = sweep
    struck = np.asarray(poisoned.runners.env_state[1][:, 0]) < 0.5
    assert 0 < struck.sum() < 6
    np.testing.assert_array_equal(clean.diverged_at, np.full(6, -1))
    np.testing.assert_array_equal(poisoned.diverged_at, np.where(struck, 2, -1))
    for population, reopened in zip(sweep, again, strict=True):
        np.testing.assert_array_equal(population.train_state.diverged_at, population.diverged_at)
        np.testing.assert_array_equal(reopened.diverged_at, population.diverged_at)
    for i, is_struck in enumerate(struck):
        found = to_host(poisoned.seed(i))
        if is_struck:  # the rows of the second setting follow those of the first
            good = seed_of(states[2], 6 + i)
            assert_same(found.train_state, good.replace(diverged_at=np.int32(2)))
        else:
            assert_same(found, clean.seed(i))
    others = [jax.tree.map(lambda x: x[~struck], population.metrics) for population in sweep]
    assert_same(*others)
    assert poisoned.metrics.timesteps[struck].tolist() == [[8, 16, 16, 16]] * int(struck.sum())
    np.testing.assert_array_equal(poisoned.timesteps, [8, 16, 24, 32])
    assert [row.num_diverged for row in sorted(sweep.table())] == [0, struck.sum()]


def test_a_run_with_diverged_seeds_is_written_whole_and_says_so(swept, tmp_path):
    """Its episodes are poisoned too, so that some seeds have no return; the others are aggregated."""
    population = swept[0][1]
    spec = RunSpec("Drift", {}, ONE_ENV, 6, 0, "cleanrl")
    write_json(tmp_path / "config.json", spec_to_json(spec))
    finished = write_results(spec, population, tmp_path)
    write_pictures(finished, tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {
        *("config.json", "metrics.csv", "metrics.npz", "summary.json", "curves.png", "report.html")
    }
    summary = json.loads((tmp_path / "summary.json").read_text())
    struck = population.diverged_at >= 0
    assert summary["diverged"] == struck.sum()
    assert summary["diverged_at"] == [2 if x else None for x in struck]
    known = [x for x in summary["final_return_per_seed"] if x is not None]
    assert min(known) - 1e-6 <= summary["final_return_iqm"] <= max(known) + 1e-6 if known else True
    assert table(finished, tmp_path)["seeds diverged"] == f"{struck.sum()} of 6  (the first after 2 updates)"
    assert f"{struck.sum()} of 6 runs diverged: seed {struck.argmax()} after 2 updates" in describe_divergence(summary)
    with (tmp_path / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [math.isnan(float(row["value_loss"])) for row in rows] == [
        bool(x) and u >= 2 for x in struck for u in range(4)
    ]
    clean = write_results(spec, swept[0][0], tmp_path)
    assert (clean.summary["diverged"], clean.summary["diverged_at"]) == (0, [None] * 6)
    assert "seeds diverged" not in table(clean, tmp_path)


def test_the_first_standstill_is_where_steps_are_missing():
    timesteps = np.array([[8, 16, 24], [8, 8, 8], [0, 0, 0], [8, 16, 16]])
    assert first_standstill(timesteps, np.array([8, 16, 24])).tolist() == [-1, 1, 0, 2]


@pytest.mark.skipif(jax.local_device_count() < 2, reason="one device agrees with itself")
def test_devices_that_share_a_run_decide_as_one(bare_options):
    """The poison is on one device alone; every device refuses the update, and all have the same state to the bit."""
    config, env = SMALL.replace(normalize_obs=True, normalize_reward=True), pjp.make_env(Drift(), share=0.2, begin=20.0)
    points = [{"env.poison": 0.0}, {"env.poison": NAN}, {"env.poison": OBS}]
    (job,) = make_jobs(Experiment(env, config, 1, 3, bare_options("data")), points)
    compiled = program.compile_program(job, 3)
    starts, _, numbers = program.member_inputs(job, (0, 3), 3)
    before = compiled.init(*starts)
    luck = np.asarray(before.env_state[1])
    of_device = (luck < 0.2).reshape(3, jax.device_count(), -1).any(axis=2)
    assert 0 < of_device[1].sum() < jax.device_count()
    runners = before
    for updates in range(1, 5):
        runners, metrics = compiled.advance(runners, numbers, jnp.int32(1))
        if updates == 2:
            good = to_host(runners)
        for leaf in jax.tree.leaves(runners.train_state):
            first, *others = [np.asarray(shard.data) for shard in leaf.addressable_shards]
            for other in others:
                np.testing.assert_array_equal(other, first)
    assert runners.train_state.diverged_at.tolist() == [-1, 2, 2]
    assert (np.asarray(metrics.timesteps)[:, 0] // config.batch_size).tolist() == [4, 2, 2]
    assert_same(seed_of(to_host(runners), slice(1, 3)), seed_of(to_host(frozen(good, 2)), slice(1, 3)))


def test_a_search_drops_and_replaces_what_has_diverged():
    """Most learning rates of this space diverge."""
    space = {"learning_rate": pjp.log_uniform(1e-4, 1e36)}
    config = SMALL.replace(total_timesteps=4 * 8 * 8, anneal_lr=False)
    search = pjp.make_pbt(pjp.make_env(Drift(), length=8.0), config, space, num_members=6, interval=2, quantile=0.5)
    found = jax.jit(search, compiler_options=QUICK)(jax.random.key(1))
    scores, parents = np.asarray(found.history.scores), np.asarray(found.history.parents)
    replaced = [(g, i) for g, i in np.argwhere(np.isnan(scores[:-1])) if parents[g + 1, i] != i]
    assert replaced
    assert not any(np.isnan(scores[g, parents[g + 1, i]]) for g, i in replaced)
    assert found.runners.train_state.diverged_at[found.best] == -1
    np.testing.assert_array_equal(np.isnan(scores[-1]), found.runners.train_state.diverged_at >= 0)


TINY = ["--seeds", "2", "--quiet", "--config.num-envs", "2", "--config.num-steps", "16", "--config.hidden-sizes", "4"]


def test_strict_leaves_with_status_3_after_all_is_written(tmp_path, capsys):
    folder = tmp_path / "a"
    words = [
        "sweep",
        *TINY,
        "--preset",
        "cleanrl",
        "--config.total-timesteps",
        "64",
        "--over",
        "learning-rate=0.01,1e30",
    ]
    assert cli.main([*words, "--strict", "--out", str(folder)]) == 3
    said = "purejaxppo: 2 of 4 runs diverged: setting 1 seed 0 after 0 updates, setting 1 seed 1 after 0 updates\n"
    assert capsys.readouterr().err == said
    assert {"summary.json", "table.csv", "sweep.png", "curves.png", "settings"} <= {x.name for x in folder.iterdir()}
    with (folder / "table.csv").open() as file:
        assert {row["setting"]: row["diverged"] for row in csv.DictReader(file)} == {"0": "0", "1": "2"}
    summary = json.loads((folder / "summary.json").read_text())
    assert (summary["diverged"], summary["diverged_at"]) == (2, [[None, None], [0, 0]])
    assert cli.main(["sweep", "--resume", str(folder), "--strict", "--quiet"]) == 3
    assert capsys.readouterr().err == said
    assert cli.main(["sweep", "--resume", str(folder), "--quiet"]) == 0
    assert capsys.readouterr().err == ""
