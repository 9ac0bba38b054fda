"""Searches by a model, test seeds, and one setting for several environments, with an agent that only computes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from arithmetic import CONFIG, Arithmetic, make_agent
from scipy import stats

import purejaxppo as pjp
from purejaxppo.population import executables
from purejaxppo.population.results import rank
from purejaxppo.population.statistics import select
from purejaxppo.population.tpe import SearchPlan, Study

SPACE = {"learning_rate": pjp.log_uniform(1e-5, 1.0), "gamma": pjp.uniform(0.9, 1.0)}
PLAN = {"num_trials": 24, "batch": 8, "tune_seeds": 2, "make_agent": make_agent}
GRID = {"learning_rate": [1e-4, 1e-3, 1e-2]}


@pytest.fixture(scope="module")
def env():
    return pjp.make_env("CartPole-v1")


@pytest.fixture(scope="module")
def searched(env):
    """A search in memory, and the programs that it has compiled."""
    executables.forget_programs()
    return pjp.search_tpe(env, CONFIG, SPACE, **PLAN, test_seeds=3), list(executables._kept)


def test_a_search_compiles_one_program_for_all_batches(searched):
    sweep, programs = searched
    assert len(programs) == 2 * 3  # the search and its test: init, advance and play of each
    assert len(sweep) == len({tuple(point.values()) for point in sweep.points}) == 24


def test_the_model_asks_for_what_has_scored_well():
    study, asked = Study(SearchPlan(SPACE, 60, 6, seed=0)), []
    for _ in range(10):
        points = study.ask(6)
        distances = [abs(np.log10(point["learning_rate"]) + 2.5) for point in points]
        study.tell([-distance for distance in distances])
        asked += distances
    assert np.mean(asked[30:]) < 0.6 < np.mean(asked[:12])  # 1.25 is expected of random draws


def test_test_seeds_follow_the_tuning_seeds_and_never_overlap(searched):
    sweep, _ = searched
    every = jax.random.key_data(pjp.seed_keys(0, 5))
    for population, keys in ((sweep[0], every[:2]), (sweep[sweep.best()], every[:2]), (sweep.tested, every[2:])):
        np.testing.assert_array_equal(jax.random.key_data(population.runners.key), keys)
    assert len(np.unique(every, axis=0)) == 5
    assert sweep.tested.point == sweep.points[sweep.best()]


def test_a_search_that_is_interrupted_anywhere_ends_the_same(env, searched, tmp_path):
    """It stops in the first chunk of the first batch, then of the second, ..., and at last of the test."""
    calls, found = 0, None

    def should_stop():
        nonlocal calls
        calls += 1
        return calls % 3 == 1

    stops = 0
    while found is None:
        try:
            found = pjp.search_tpe(
                env, CONFIG, SPACE, **PLAN, test_seeds=3, out=tmp_path, should_stop=should_stop, on_begin=lambda _: None
            )
        except pjp.Interrupted:
            stops += 1
    assert stops > 3
    assert found.points == searched[0].points
    np.testing.assert_array_equal(found.final_returns(), searched[0].final_returns())
    np.testing.assert_array_equal(found.tested.final_returns(), searched[0].tested.final_returns())
    assert found.selection() == searched[0].selection()


def test_another_space_does_not_go_on_with_a_search(env, tmp_path):
    small = {**PLAN, "num_trials": 2, "batch": 2, "out": tmp_path}
    pjp.search_tpe(env, CONFIG, SPACE, **small)
    with pytest.raises(pjp.PPOError, match="holds another population: its settings"):
        pjp.search_tpe(env, CONFIG, {"gamma": SPACE["gamma"]}, **small)


def test_settings_without_a_score_count_as_the_worst():
    study = Study(SearchPlan({"gamma": pjp.uniform(0.0, 1.0)}, 8, 4, 0))
    study.ask(4)
    study.tell([np.nan, 1.0, -2.0, np.nan])
    assert [trial.value for trial in study._study.trials] == [-2.0, 1.0, -2.0, -2.0]
    study.ask(2)
    study.tell([np.nan, 3.0])
    assert [trial.value for trial in study._study.trials][4:] == [-2.0, 3.0]
    alone = Study(SearchPlan({"gamma": pjp.uniform(0.0, 1.0)}, 8, 4, 0))
    alone.ask(1)
    alone.tell([np.nan])
    assert alone._study.trials[0].value is None


@pytest.mark.parametrize(
    ("space", "options", "message"),
    [
        (SPACE, {"num_trials": 10}, "num_trials = 10 .* batch = 8; give 8"),
        (SPACE, {"batch": 1}, "batch = 1"),
        (SPACE, {"tune_seeds": 0}, "tune_seeds = 0"),
        (SPACE, {"search_seed": -1}, "search_seed = -1"),
        (SPACE, {"test_seeds": -1}, "test_seeds = -1"),
        ({"num_envs": pjp.uniform(1, 8)}, {}, "num_envs is a part of the program"),
        ({"gamma": [0.9, 0.99]}, {}, "gamma = .* is not a domain"),
    ],
)
def test_a_search_that_cannot_be_is_refused(env, space, options, message):
    with pytest.raises(pjp.PPOError, match=message):
        pjp.search_tpe(env, CONFIG, space, **{**PLAN, **options})


def test_a_search_without_optuna_says_how_to_install_it(env, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "optuna", None)
    with pytest.raises(pjp.PPOError, match=r'pip install "purejaxppo\[optuna\]"'):
        pjp.search_tpe(env, CONFIG, SPACE, **PLAN)


def test_the_winner_of_equal_settings_is_flattered_by_its_tuning_seeds():
    """Twenty settings of the same distribution: the bias of the chosen one is that of the greatest of twenty means."""
    random = np.random.default_rng(0)
    biases = []
    for _ in range(50):
        scores = random.normal(size=(20, 8))
        best = int(np.argmax(stats.trim_mean(scores, 0.25, axis=1)))
        test = random.normal(size=16)
        found = select(best, scores[best], test)
        assert found.tuning.estimate == pytest.approx(stats.trim_mean(scores[best], 0.25))
        assert found.tuning == rank([{}], scores[best][None])[0].iqm  # as in the table of the settings
        assert found.test.estimate == pytest.approx(stats.trim_mean(test, 0.25))
        assert found.bias.estimate == pytest.approx(found.tuning.estimate - found.test.estimate)
        assert found.bias.low < found.bias.estimate < found.bias.high
        biases.append(found.bias.estimate)
    assert 0.4 < np.mean(biases) < 1.0  # 1.87 standard errors of an IQM of 8, about 0.37 each


def test_a_sweep_is_tested_and_read_back(env, tmp_path):
    call = {"num_seeds": 3, "sweep": GRID, "make_agent": make_agent, "test_seeds": 4, "out": tmp_path}
    sweep = pjp.train_population(env, CONFIG, **call)
    assert sweep.selection().setting == sweep.best()
    assert (sweep.selection().tune_seeds, sweep.selection().test_seeds) == (3, 4)
    assert pjp.open_population(env, CONFIG, **call).selection() == sweep.selection()
    assert pjp.open_population(env, CONFIG, **{**call, "test_seeds": 0}).selection() is None
    with pytest.raises(pjp.PPOError, match="test_seeds = 4"):
        pjp.train_population(env, CONFIG, num_seeds=3, make_agent=make_agent, test_seeds=4)


class Endless(Arithmetic):
    """Its episodes never end."""

    def update(self, runner):
        runner, metrics = super().update(runner)
        return runner, metrics.replace(episode_return_mean=jnp.full((), jnp.nan), episodes=jnp.int32(0))


def test_a_sweep_without_a_finished_episode_is_kept_and_not_tested(env, tmp_path):
    call = {"num_seeds": 2, "sweep": GRID, "make_agent": Endless, "test_seeds": 4, "out": tmp_path}
    with pytest.warns(UserWarning, match="test_seeds = 4"):
        sweep = pjp.train_population(env, CONFIG, **call)
    assert len(sweep) == 3
    assert sweep.tested is None
    assert pjp.open_population(env, CONFIG, **call).selection() is None


def test_the_best_setting_over_several_environments(env, tmp_path):
    """Acrobot's returns are those of CartPole here, so only the bounds tell the environments apart."""
    envs, bounds = ["CartPole-v1", "Acrobot-v1"], {"CartPole-v1": (-4.0, 0.0), "Acrobot-v1": (-8.0, 0.0)}
    call = {"sweep": GRID, "tune_seeds": 4, "make_agent": make_agent}
    cross = pjp.sweep_environments(envs, CONFIG, **call, bounds=bounds, test_seeds=2, out=tmp_path)
    returns = cross.sweeps["Acrobot-v1"].final_returns()
    np.testing.assert_allclose(cross.scores(), np.stack([(returns + 4) / 4, (returns + 8) / 8], axis=-1), rtol=1e-6)
    rows = cross.table()
    pooled = [stats.trim_mean(scores.ravel(), 0.25) for scores in cross.scores()]
    assert [row.setting for row in rows] == np.argsort(pooled)[::-1].tolist()
    assert rows[0].score.estimate == pytest.approx(max(pooled))
    assert rows[0].score.low < rows[0].score.estimate < rows[0].score.high
    assert {name: len(x.final_returns()) for name, x in cross.tested.items()} == dict.fromkeys(envs, 2)
    assert cross.tested["Acrobot-v1"].point == cross.points[cross.best()]
    assert cross.test_score().estimate == pytest.approx(rows[0].score.estimate, abs=0.2)
    own = pjp.sweep_environments(envs, CONFIG, **call)
    medians = stats.trim_mean(returns, 0.25, axis=1)
    assert own.bounds["CartPole-v1"] == pytest.approx((medians.min(), medians.max()))
    assert not own.are_given
    for wrong, message in (({"CartPole-v1": (0, 1)}, "bounds"), ({**bounds, "Acrobot-v1": (1, 1)}, "Acrobot-v1")):
        with pytest.raises(pjp.PPOError, match=message):
            pjp.sweep_environments(envs, CONFIG, **call, bounds=wrong)
    with pytest.raises(pjp.PPOError, match="envs"):
        pjp.sweep_environments("CartPole-v1", CONFIG, **call)
    with pytest.raises(pjp.PPOError, match=r"test_seeds = 0\.5"):
        pjp.sweep_environments(envs, CONFIG, **call, test_seeds=0.5, on_chunk=lambda _: pytest.fail("it has trained"))


def test_published_spaces_draw_settings_that_train(env):
    config = pjp.PPOConfig()  # a rollout of 512
    space = pjp.named_space("arlbench-ppo-cc", config)
    assert space["num_minibatches"] == [4, 2, 1]
    assert pjp.named_space("arlbench-ppo-mujoco", config)["num_minibatches"] == [16, 8, 4]
    assert pjp.named_space("arlbench-ppo-cc", CONFIG)["num_minibatches"] == [1, 1, 1]
    for point in pjp.draw_points(50, space):
        config.replace(**point)
    numbers = pjp.named_space("arlbench-ppo-cc", config, numbers_only=True)
    assert space.keys() - numbers.keys() == {"num_minibatches", "normalize_advantage"}
    assert len(pjp.search_tpe(env, CONFIG, numbers, **{**PLAN, "num_trials": 8})) == 8
    with pytest.raises(pjp.PPOError, match="arlbench"):
        pjp.named_space("arlbench", config)
