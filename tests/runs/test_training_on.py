"""Runs that go on: longer than they were begun, or anew from trained parameters."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import purejaxppo as pjp
from purejaxppo.cli import main as cli
from purejaxppo.ppo import agent as core
from purejaxppo.runs.spec import load_spec
from purejaxppo.utils.files import to_host

pytestmark = pytest.mark.slow

SMALL = pjp.PPOConfig(
    num_envs=4, num_steps=16, total_timesteps=4 * 16 * 3, hidden_sizes=(8,), normalize_obs=True, normalize_reward=True
)
LONG = SMALL.replace(total_timesteps=4 * 16 * 7, anneal_lr=False)
KEY = jax.random.key(7)


@pytest.fixture(scope="module")
def env():
    return pjp.make_env("CartPole-v1")


@pytest.fixture(scope="module")
def trained(env):
    """Three seeds of SMALL."""
    return pjp.train_population(env, SMALL, num_seeds=3)


@pytest.fixture(scope="module")
def long(env):
    """Three seeds of LONG, never stopped or extended."""
    return pjp.train_population(env, LONG, num_seeds=3)


def seed(tree, i):
    return jax.tree.map(lambda x: jnp.asarray(x[i]), tree)


def assert_same(one, other):
    jax.tree.map(np.testing.assert_array_equal, to_host(one), to_host(other))


def assert_same_population(one, other):
    assert_same(one.metrics, other.metrics)
    assert_same(one.runners, other.runners)
    np.testing.assert_array_equal(one.final_returns(), other.final_returns())


def test_a_new_run_takes_over_what_was_learned_and_begins_the_rest_anew(env, trained):
    agent = pjp.make_ppo(env, SMALL.replace(num_envs=2, num_minibatches=2, learning_rate=1e-3))
    old, fresh = seed(trained.train_state, 1), agent.init(KEY)
    new = agent.continue_from(old, KEY)
    for name in ("params", "obs_moments", "reward_moments"):
        assert_same(getattr(new.train_state, name), getattr(old, name))
    assert (int(old.update), int(new.train_state.update), new.episode.episode_return.shape) == (3, 0, (2,))
    assert_same(new.train_state.opt_state, fresh.train_state.opt_state)
    assert_same(new.replace(train_state=None), fresh.replace(train_state=None))
    several = jax.jit(jax.vmap(agent.continue_from))(trained.train_state, jax.random.split(KEY, 3))
    assert_same(several.train_state.params, trained.train_state.params)


def test_a_new_run_gives_the_optimizer_the_parameters_and_its_caller_keeps_the_trained_ones(env, trained):
    averaging = optax.GradientTransformation(lambda params: params, lambda updates, state, params: (updates, state))
    agent, old = pjp.make_ppo(env, SMALL, optimizer=averaging), seed(trained.train_state, 0)
    new = agent.continue_from(old, KEY)
    assert_same(new.train_state.opt_state, old.params)
    jax.jit(lambda runner: runner, donate_argnums=0)(new)
    assert not any(x.is_deleted() for x in jax.tree.leaves(old))


@pytest.mark.parametrize(
    ("changes", "named"),
    [({"hidden_sizes": (9,)}, r"Dense_0.*\[8\].*\[9\]"), ({"normalize_obs": False}, "obs_moments.*missing")],
)
def test_a_train_state_of_another_network_is_refused(env, trained, changes, named):
    agent = pjp.make_ppo(env, SMALL.replace(**changes))
    with pytest.raises(pjp.PPOError, match=named):
        agent.continue_from(seed(trained.train_state, 0), KEY)
    with pytest.raises(pjp.PPOError, match=named):
        pjp.train_population(env, agent.config, num_seeds=3, init_from=trained.train_state)


def test_stacked_train_states_are_refused_by_an_agent_and_too_few_by_a_population(env, trained):
    with pytest.raises(pjp.PPOError, match=r"float32\[3, 8\].*one seed"):
        pjp.make_ppo(env, SMALL).continue_from(trained.train_state, KEY)
    with pytest.raises(pjp.PPOError, match="3 seeds, and num_seeds = 4"):
        pjp.train_population(env, SMALL, num_seeds=4, init_from=trained.train_state)


@pytest.mark.parametrize(
    ("make", "config"),
    [
        (pjp.make_ppo, pjp.RecurrentConfig(num_envs=4, num_steps=8, total_timesteps=64, cell_size=4)),
        (pjp.make_full_batch_ppo, pjp.FullBatchConfig(num_steps=16, total_timesteps=64, hidden_sizes=(4,))),
    ],
)
def test_the_other_agents_continue_too(env, make, config):
    agent = make(env, config)
    old = agent.init(jax.random.key(1)).train_state.replace(update=jnp.int32(5))
    new = agent.continue_from(old, KEY).train_state
    assert_same(new.params, old.params)
    assert int(new.update) == 0


def test_a_population_starts_each_seed_from_the_one_of_its_number(env, trained):
    config = SMALL.replace(num_envs=8, learning_rate=0.0)
    population = pjp.train_population(env, config, num_seeds=2, init_from=trained.train_state)
    for i in range(2):
        assert_same(population.seed(i).train_state.params, seed(trained.train_state.params, i))
    assert population.metrics.updates.tolist() == [[1]] * 2


def test_an_update_beyond_the_schedule_warns_and_a_constant_one_does_not(env, trained, monkeypatch):
    agent = pjp.make_ppo(env, SMALL)
    start = jax.jit(agent.init)(KEY)
    monkeypatch.setattr(core, "update", lambda agent, runner: (runner, ()))  # nothing to compile
    with pytest.warns(UserWarning, match="learning rate is 0.*continue_from"):
        agent.update(trained.seed(0))
    with pytest.warns(UserWarning, match="update 3 learns nothing"):
        pjp.update_many(agent, start, 4)  # the last of them
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        jax.eval_shape(agent.update, trained.seed(0))  # traced: nothing to say
        jax.eval_shape(lambda runner: pjp.update_many(agent, runner, 2), trained.seed(0))
        pjp.make_ppo(env, LONG).update(trained.seed(0))


def test_a_population_that_is_extended_is_the_long_one_to_the_bit(env, long, tmp_path):
    short, options = LONG.replace(total_timesteps=4 * 16 * 3), {"num_seeds": 3}
    pjp.train_population(env, short, out=tmp_path / "a", checkpoint_every=2, keep_best=True, **options)
    with pytest.raises(pjp.PPOError, match=r"config\.total_timesteps"):
        pjp.train_population(env, LONG, out=tmp_path / "a", **options)
    told = []
    extended = pjp.train_population(env, LONG, out=tmp_path / "a", extend=True, on_begin=told.append, **options)
    assert told == ["goes on after 3 of 7 updates"]
    assert_same_population(extended, long)
    with pytest.raises(pjp.PPOError, match="done 7 updates, and total_timesteps gives 3"):
        pjp.train_population(env, short, out=tmp_path / "a", extend=True, **options)
    assert_same_population(pjp.open_population(env, LONG, out=tmp_path / "a", **options), extended)


def test_a_run_with_fewer_updates_than_reports_is_extended_to_the_bit_too(env, tmp_path):
    """The calls of the long one have room for the metrics of several updates, those of the short one for one."""
    long = pjp.PPOConfig(
        num_envs=4, num_steps=8, total_timesteps=4 * 8 * 33, hidden_sizes=(8,), learning_rate=7e-3, anneal_lr=False
    )
    options = {"num_seeds": 8}  # together, where fewer than 8 devices are there
    pjp.train_population(env, long.replace(total_timesteps=4 * 8 * 20), out=tmp_path / "a", **options)
    extended = pjp.train_population(env, long, out=tmp_path / "a", extend=True, **options)
    assert_same_population(extended, pjp.train_population(env, long, **options))


def test_an_unfinished_population_is_extended_too(env, long, tmp_path):
    asked, options = iter(range(100)), {"num_seeds": 3, "out": tmp_path / "a"}
    short = LONG.replace(total_timesteps=4 * 16 * 3)
    with pytest.raises(pjp.Interrupted, match="after 2 of 3"):
        pjp.train_population(env, short, should_stop=lambda: next(asked) == 1, **options)
    assert_same_population(pjp.train_population(env, LONG, extend=True, **options), long)


def test_an_extension_that_breaks_off_goes_on(env, long, tmp_path, monkeypatch):
    """It dies after the parts of the short run have become checkpoints, and before their results are gone."""
    short, options = LONG.replace(total_timesteps=4 * 16 * 3), {"num_seeds": 3, "out": tmp_path / "a"}
    pjp.train_population(env, short, **options)

    def die(folder):
        raise KeyboardInterrupt

    monkeypatch.setattr("purejaxppo.population.checkpoints.discard", die)
    with pytest.raises(KeyboardInterrupt):
        pjp.train_population(env, LONG, extend=True, **options)
    monkeypatch.undo()
    with pytest.raises(pjp.PPOError, match="3 of 7 updates"):
        pjp.open_population(env, LONG, **options).metrics  # noqa: B018
    assert_same_population(pjp.train_population(env, LONG, extend=True, **options), long)


TINY = ["--preset", "cleanrl", "--seeds", "2", "--config.num-envs", "4", "--config.num-steps", "16", "--quiet"]
TINY += ["--config.hidden-sizes", "8", "--config.anneal-lr", "false"]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A run of 192 steps that was extended to 448, and one of 448."""
    folder = tmp_path_factory.mktemp("runs")
    assert cli.main(["train", *TINY, "--config.total-timesteps", "192", "--out", str(folder / "a")]) == 0
    (folder / "a" / "curves.png").write_bytes(b"as it was")
    assert cli.main(["train", "--quiet", "--resume", str(folder / "a"), "--config.total-timesteps", "448"]) == 0
    assert cli.main(["train", *TINY, "--config.total-timesteps", "448", "--out", str(folder / "b")]) == 0
    return folder


def test_a_finished_run_is_extended_to_the_long_one_to_the_bit(runs):
    extended, long = pjp.load_run(runs / "a"), pjp.load_run(runs / "b")
    assert_same_population(extended.population, long.population)
    files = [{**run.summary["files"], "summary.json": None} for run in (extended, long)]  # which holds seconds
    assert (extended.config, files[0]) == (long.config, files[1])
    assert extended.summary["final_return_per_seed"] == long.summary["final_return_per_seed"]
    assert (runs / "a" / "curves.png").read_bytes() == (runs / "b" / "curves.png").read_bytes()


def test_the_report_says_that_the_run_was_extended(runs):
    said = ["The run was planned with 192 and then made longer" in (runs / x / "report.html").read_text() for x in "ab"]
    assert said == [True, False]


@pytest.mark.parametrize("total", ["448", "320", "500"])
def test_a_run_is_not_extended_to_what_it_has_done(runs, refused, total):
    said = refused(["train", "--resume", str(runs / "a"), "--config.total-timesteps", total])
    assert f"total_timesteps = {total}" in said
    assert "448" in said
    assert pjp.load_run(runs / "a").config.num_updates == 7


def test_a_run_starts_from_the_parameters_of_another(runs, tmp_path, refused):
    source, words = pjp.load_run(runs / "b"), ["train", "--quiet", "--init-from", str(runs / "b")]
    out = tmp_path / "c"
    sizes = ["--config.num-envs", "8", "--config.total-timesteps", "256", "--config.learning-rate", "0"]
    assert cli.main([*words, *sizes, "--out", str(out)]) == 0
    run = pjp.load_run(out)
    assert_same(run.train_state.params, source.train_state.params)
    assert run.config == source.config.replace(num_envs=8, total_timesteps=256, learning_rate=0.0)
    assert (load_spec(out).init_from, run.spec.num_seeds) == (str(runs / "b"), 2)
    (out / "summary.json").unlink()
    assert cli.main(["train", "--quiet", "--resume", str(out)]) == 0
    said = refused([*words, "--seeds", "3"])
    assert "2 seeds" in said
    assert "num_seeds = 3" in said
    assert "Dense_0" in refused([*words, "--config.hidden-sizes", "9"])
