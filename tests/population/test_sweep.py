"""Settings beside each other: points, the programs that serve them, and what comes out."""

import dataclasses
import json
import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from arithmetic import make_agent
from flax import struct
from scipy import stats

import purejaxppo as pjp
from purejaxppo.population import program as programs
from purejaxppo.population.results import Ranked, rank, sort_ranked
from purejaxppo.population.statistics import Interval, last_returns
from purejaxppo.population.sweep import (
    at_point,
    describe_programs,
    make_points,
    make_programs,
    show_point,
    with_numbers,
)
from purejaxppo.runs.tables import best_rows

SMALL = pjp.PPOConfig(num_envs=4, num_steps=16, total_timesteps=4 * 16 * 4, hidden_sizes=(8,))


@pytest.fixture(scope="module")
def env():
    return pjp.make_env("CartPole-v1")


def test_a_grid_is_every_combination_in_order(env):
    points = make_points(env, SMALL, {"learning_rate": [1e-4, 3e-4], "length": np.array([0.5, 1.0])})
    assert points == [
        {"learning_rate": 1e-4, "env.length": 0.5},
        {"learning_rate": 1e-4, "env.length": 1.0},
        {"learning_rate": 3e-4, "env.length": 0.5},
        {"learning_rate": 3e-4, "env.length": 1.0},
    ]
    json.dumps(points)


def test_points_are_taken_as_they_are(env):
    points = make_points(env, SMALL, [{"gamma": 0.9}, {"env.gravity": 5, "hidden_sizes": [8, 8]}])
    assert points == [{"gamma": 0.9}, {"env.gravity": 5, "hidden_sizes": (8, 8)}]


class Payments(struct.PyTreeNode):
    table: jax.Array = struct.field(default_factory=lambda: jnp.zeros(2))


class Paying:
    """Each action pays what the table says."""

    default_params = Payments()
    observation_space = pjp.Box((1,), 0.0, 1.0)
    action_space = pjp.Discrete(2)

    def reset(self, key, params):
        return jnp.zeros(1), 0

    def step(self, key, state, action, params):
        return jnp.zeros(1), state + 1, params.table[action], False, state >= 3


@dataclasses.dataclass(frozen=True)
class Weighted(pjp.PPOConfig):
    weights: jax.Array = dataclasses.field(default_factory=lambda: jnp.ones(2))


@pytest.mark.parametrize("make", [list, tuple, np.array, jnp.array])
def test_arrays_are_swept_in_whatever_form_they_are_given(make):
    env, config = pjp.make_env(Paying()), Weighted()
    points = make_points(env, config, [{"table": make([3.0, 0.5]), "weights": make([0.5, 2.0])}, {"weights": (1, 2)}])
    assert points == [{"env.table": (3.0, 0.5), "weights": (0.5, 2.0)}, {"weights": (1, 2)}]
    assert len(make_programs(env, config, points)) == 1
    changed, config = at_point(env, config, points[0])
    pay = jax.jit(lambda action: changed.step(jax.random.key(0), 0, action, changed.params).reward)
    assert pay(jnp.int32(0)) == 3.0
    assert config.weights.dtype == jnp.float32
    assert show_point(points[0]) == "table 3x0.5, weights 0.5x2"


@dataclasses.dataclass(frozen=True)
class Named(pjp.PPOConfig):
    bonus: str | None = None  # no text, so not static
    kind: str = "plain"


def test_a_field_of_text_is_swept_where_it_is_static():
    env, config = pjp.make_env(Paying()), Named()
    assert len(make_programs(env, config, make_points(env, config, {"kind": ["plain", "other"]}))) == 2
    with pytest.raises(pjp.PPOError, match=r"^bonus = 'none' .*pjp\.static"):
        make_programs(env, config, make_points(env, config, {"bonus": ["none", "visits"]}))


def test_drawn_points_have_the_distributions_that_were_asked_for():
    space = {
        "learning_rate": pjp.log_uniform(1e-5, 1e-2),
        "gamma": pjp.uniform(0.9, 1.0),
        "num_envs": [4, 8],
    }
    points = pjp.draw_points(2_000, space, seed=3)
    rates = np.log([point["learning_rate"] for point in points])
    low, high = np.log([1e-5, 1e-2])
    assert stats.kstest(rates, stats.uniform(low, high - low).cdf).pvalue > 0.01
    assert stats.kstest([point["gamma"] for point in points], stats.uniform(0.9, 0.1).cdf).pvalue > 0.01
    assert 900 < sum(point["num_envs"] == 4 for point in points) < 1100
    assert abs(stats.spearmanr(rates, [point["gamma"] for point in points]).statistic) < 0.1


def test_a_name_more_leaves_the_draws_of_the_others():
    few = pjp.draw_points(5, {"gamma": pjp.uniform(0.9, 1.0)})
    more = pjp.draw_points(5, {"gae_lambda": pjp.uniform(0.9, 1.0), "gamma": pjp.uniform(0.9, 1.0)})
    assert [point["gamma"] for point in few] == [point["gamma"] for point in more]
    assert [point["gae_lambda"] for point in more] != [point["gamma"] for point in more]
    assert few != pjp.draw_points(5, {"gamma": pjp.uniform(0.9, 1.0)}, seed=1)


def test_numbers_share_a_program_and_structure_does_not(env):
    points = make_points(env, SMALL, {"learning_rate": [1e-4, 3e-4], "num_envs": [4, 8], "target_kl": [None, 0.01]})
    found = make_programs(env, SMALL, points)
    assert sorted(program.settings for program in found) == [(0, 4), (1, 5), (2, 6), (3, 7)]
    for program in found:
        (values,) = program.numbers.values()  # what is the same in all stays a constant
        np.testing.assert_allclose(values, [1e-4, 3e-4])
    text = describe_programs(env, SMALL, points, 3)
    assert text == "8 settings of learning_rate, num_envs, target_kl, 3 seeds each, in 4 compilations"
    assert describe_programs(env, SMALL, [{}], 1) == "1 setting, 1 seed each, in one compilation"


def test_a_member_has_the_numbers_of_its_point(env):
    points = make_points(env, SMALL, {"learning_rate": [1e-4, 3e-4], "env.length": [0.5, 1.0]})
    (program,) = make_programs(env, SMALL, points)
    for i, point in enumerate(points):
        got = with_numbers(program, {leaf: values[i] for leaf, values in program.numbers.items()})
        expected = at_point(env, SMALL, point)
        jax.tree.map(np.testing.assert_allclose, got, expected)
    # A longer pole is a heavier lever: what follows of a parameter follows it here as well.
    assert with_numbers(program, {leaf: values[3] for leaf, values in program.numbers.items()})[
        0
    ].params.polemass_length == pytest.approx(0.1)


@pytest.fixture(scope="module")
def swept(env):
    values = {"learning_rate": [1e-4, 3e-3], "env.length": [0.5, 1.0]}
    compiled = []
    real = programs.compile_program
    programs.compile_program = lambda *arguments: compiled.append(arguments) or real(*arguments)
    try:
        sweep = pjp.train_population(env, SMALL, num_seeds=3, seed=5, sweep=values, evaluation_episodes=4)
    finally:
        programs.compile_program = real
    return sweep, compiled


def test_a_sweep_of_numbers_is_one_compilation(swept):
    assert len(swept[1]) == 1


@pytest.mark.slow
def test_each_setting_is_the_population_of_that_setting(env, swept):
    sweep, _ = swept
    assert len(sweep) == 4
    one, config = at_point(env, SMALL, sweep.points[3])
    alone = pjp.train_population(one, config, num_seeds=3, seed=5, evaluation_episodes=4)
    for name in ("policy_loss", "value_loss", "entropy", "learning_rate", "episode_return_mean"):
        mine, theirs = getattr(sweep[3].metrics, name), getattr(alone.metrics, name)
        np.testing.assert_allclose(mine[:, :2], theirs[:, :2], atol=1e-5, err_msg=name)
    assert sweep[3].agent.config.learning_rate == config.learning_rate


def test_settings_differ_from_each_other_on_the_same_keys(swept):
    sweep, _ = swept
    keys = [jax.random.key_data(population.runners.key) for population in sweep]
    for key in keys:
        np.testing.assert_array_equal(key, jax.random.key_data(pjp.seed_keys(5, 3)))
    assert sweep.metrics.policy_loss.shape == (4, 3, 4)
    losses = np.asarray(sweep.metrics.value_loss)[:, :, 1:]
    assert np.all(losses[0] != losses[2])  # learning rate
    assert np.all(losses[0] != losses[1])  # length of the pole


def test_the_table_has_the_best_setting_first(swept):
    sweep, _ = swept
    table = sweep.table()
    top = max(table, key=lambda row: row.iqm.estimate)
    assert top.ties or top is table[0]
    assert sweep.best() == table[0].setting
    assert table[0].point == sweep.points[table[0].setting]
    scores = sweep.final_returns()
    assert scores.shape == (4, 3)
    assert table[0].iqm.estimate == pytest.approx(stats.trim_mean(scores[table[0].setting], 0.25))
    assert table[0].iqm.low <= table[0].iqm.estimate <= table[0].iqm.high


def test_settings_whose_intervals_overlap_that_of_the_greatest_iqm_tie_and_are_ordered_by_area():
    intervals = [(5.0, 4.0, 6.0), (7.0, 5.9, 8.0), (7.5, 6.0, 8.0), (1.0, 0.5, 1.5), (2.0, 1.0, 3.0)]
    areas = [4.0, math.nan, 3.0, 9.0, 0.0]
    rows = [
        Ranked(i, {}, Interval(*interval), 3, area=area)
        for i, (interval, area) in enumerate(zip(intervals, areas, strict=True))
    ]
    found = sort_ranked(rows)
    assert [row.setting for row in found] == [0, 2, 1, 4, 3]
    assert [row.ties for row in found] == [True, True, True, False, False]
    alone = sort_ranked([row for row in rows if row.setting in (2, 3)])
    assert [(row.setting, row.ties) for row in alone] == [(2, False), (3, False)]


def test_settings_of_one_seed_tie_where_their_returns_are_the_same():
    ranked = rank([{}] * 3, np.array([[1.0], [2.0], [2.0]]))
    rows = [row._replace(area=area) for row, area in zip(ranked, (9.0, 1.0, 5.0), strict=True)]
    assert [(row.setting, row.ties) for row in sort_ranked(rows)] == [(2, True), (1, True), (0, False)]


@pytest.mark.parametrize(
    ("areas", "is_larger"),
    [((2.0, 1.0), True), ((1.0, math.nan), True), ((1.0, 1.0), False), ((math.nan, math.nan), False)],
)
def test_the_larger_area_is_named_only_where_there_is_one(areas, is_larger):
    rows = sort_ranked([Ranked(i, {}, Interval(1.0, 0.0, 2.0), 3, area=area) for i, area in enumerate(areas)])
    assert ("the largest area" in best_rows(rows)["it ties with"]) == is_larger


def test_settings_without_a_score_are_last():
    points = [{"gamma": 0.1}, {"gamma": 0.2}, {"gamma": 0.3}]
    scores = np.array([[np.nan, np.nan], [1.0, np.nan], [3.0, 5.0]])
    rows = sort_ranked(rank(points, scores))
    assert [row.setting for row in rows] == [2, 1, 0]
    assert [row.num_seeds for row in rows] == [2, 1, 0]


def test_the_dataframe_has_a_row_for_each_setting_seed_and_update(swept):
    sweep, _ = swept
    frame = sweep.to_dataframe()
    assert len(frame) == 4 * 3 * 4
    row = frame[(frame.setting == 2) & (frame.seed == 1) & (frame["update"] == 3)].iloc[0]
    assert row["learning_rate"] == sweep[2].metrics.learning_rate[1, 2]  # the rate of the update, not of the setting
    assert row["setting.learning_rate"] == 3e-3
    assert row["setting.env.length"] == 0.5
    assert row["value_loss"] == sweep[2].metrics.value_loss[1, 2]


def test_populations_and_sweeps_print_in_a_line(env):
    agent, points = pjp.make_ppo(env, SMALL), ({"learning_rate": 3e-4, "env.length": 0.5}, {"learning_rate": 0.5})
    populations = tuple(pjp.Population(agent, point, store=None, rows=(4, 8), costs=None) for point in points)
    assert str(populations[0]) == "Population(env=CartPole-v1, seeds=4, updates=4, learning_rate=3e-4, env.length=0.5)"
    assert repr(pjp.Population(agent, {}, None, (0, 1), None)) == "Population(env=CartPole-v1, seeds=1, updates=4)"
    sweep = pjp.Sweep(points, populations)
    assert repr(sweep) == "Sweep(env=CartPole-v1, settings=2, seeds=4, over=[learning_rate, env.length])"


def test_static_fields_are_swept_by_a_program_each(env):
    points = [{"num_envs": 4}, {"num_envs": 8, "gamma": 0.5}]
    sweep = pjp.train_population(env, SMALL, num_seeds=2, sweep=points, make_agent=make_agent)
    assert [population.metrics.entropy.shape for population in sweep] == [(2, 4), (2, 2)]
    assert sweep[1].agent.config.gamma == 0.5
    with pytest.raises(pjp.PPOError, match=r"2 to 4 updates, which do not fit one array; read the metrics of each"):
        sweep.metrics  # noqa: B018


@pytest.mark.parametrize(
    ("sweep", "said"),
    [
        ({"learning_rat": [1]}, "unknown name in a sweep 'learning_rat'; did you mean learning_rate"),
        ({"env.lenght": [1]}, "unknown name in a sweep 'env.lenght'; did you mean env.length"),
        ({"learning_rate": []}, "sweep of learning_rate is empty"),
        ({"learning_rate": 3e-4}, "0.0003 is not a list of values"),
        ({"learning_rate": pjp.uniform(0.0, 1.0)}, "draw_points(...) draws at random"),
        ({"activation": "tanh"}, "'tanh' is not a list of values"),
        ({"gamma": [0.9, 1.5]}, "gamma = 1.5 is out of range"),
        ({"num_minibatches": [4, 3]}, "does not divide into num_minibatches = 3; try"),
        ({"env.length": [float("nan")]}, "length is NaN"),
        ({"max_grad_norm": [1, 2**40]}, "max_grad_norm = 1099511627776 overflows int32; give a float"),
        ([], "sweep has no points"),
        ([3e-4], "sweep holds 0.0003, which is not a dict"),
    ],
)
def test_a_wrong_sweep_is_refused(env, sweep, said):
    with pytest.raises(pjp.PPOError, match=re.escape(said)):
        pjp.train_population(env, SMALL, num_seeds=2, sweep=sweep)


@pytest.mark.parametrize(
    ("make", "low", "high"),
    [(pjp.uniform, 1.0, 1.0), (pjp.log_uniform, 0.0, 1.0), (pjp.uniform, float("nan"), 1), (pjp.uniform, 0, "1")],
)
def test_a_wrong_range_is_refused(make, low, high):
    with pytest.raises(pjp.PPOError, match="low < high"):
        make(low, high)


@pytest.mark.parametrize("number", [0, 1.5, True])
def test_a_wrong_number_of_points_is_refused(number):
    with pytest.raises(pjp.PPOError, match="num_points = "):
        pjp.draw_points(number, {"gamma": pjp.uniform(0.0, 1.0)})


def test_last_returns_weigh_episodes_alike():
    returns = np.full((3, 20), np.nan, np.float32)
    episodes = np.zeros((3, 20), np.int32)
    returns[0, 0], episodes[0, 0] = 9.0, 5  # before the last tenth
    returns[1, 18:], episodes[1, 18:] = [1.0, 4.0], [1, 2]
    returns[2, 19], episodes[2, 19] = 7.0, 3
    np.testing.assert_allclose(last_returns(returns, episodes), [np.nan, 3.0, 7.0])
