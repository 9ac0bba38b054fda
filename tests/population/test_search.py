import collections
import dataclasses

import arithmetic
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import purejaxppo as pjp
from purejaxppo.population import halving, pbt, search
from purejaxppo.population.halving import halving_timesteps, make_successive_halving
from purejaxppo.population.pbt import make_pbt, pbt_timesteps
from purejaxppo.population.search import Member, draw
from purejaxppo.population.sweep import log_uniform, uniform

pytestmark = pytest.mark.slow

SMALL = pjp.PPOConfig(
    num_envs=2,
    num_steps=16,
    total_timesteps=2 * 16 * 6,
    update_epochs=1,
    num_minibatches=1,
    hidden_sizes=(8,),
    normalize_obs=True,
)
SPACE = {"learning_rate": log_uniform(1e-4, 1e-1), "gamma": uniform(0.9, 0.99), "length": uniform(0.4, 0.6)}


@pytest.fixture(scope="module")
def env():
    return pjp.make_env("CartPole-v1")


@pytest.fixture(scope="module")
def recorded(env):
    """Both searches of SMALL, and of every update that ran: (member's key, its index) -> its metrics."""
    updates = collections.defaultdict(list)

    def note(key, index, metrics):
        updates[(*key.tolist(), int(index))].append(metrics)

    class Recording(pjp.PPO):
        def update(self, runner):
            after, metrics = super().update(runner)
            jax.debug.callback(note, jax.random.key_data(runner.key), runner.train_state.update, metrics)
            return after, metrics

    def make_recording(*args, **parts):
        agent = pjp.make_ppo(*args, **parts)
        names = [field.name for field in dataclasses.fields(agent) if field.init]
        return Recording(**{name: getattr(agent, name) for name in names})

    def run(make, **options):
        updates.clear()
        result = jax.block_until_ready(jax.jit(make(env, SMALL, SPACE, **options))(jax.random.key(3)))
        jax.effects_barrier()
        return result, dict(updates)

    halved = run(make_successive_halving, num_members=9, eta=3, num_rungs=2, make_agent=make_recording)
    trained = run(make_pbt, num_members=5, interval=2, quantile=0.4, make_agent=make_recording)
    return {"halving": halved, "pbt": trained}


def keys_of(result):
    return np.asarray(jax.random.key_data(result.runners.key)).tolist()


def test_every_update_runs_once_and_the_dropped_run_none(recorded):
    result, updates = recorded["halving"]
    expected = {
        (*key, k): 1
        for i, key in enumerate(keys_of(result))
        for k in range(6 if result.history.parents[1, i] >= 0 else 2)
    }
    assert {name: len(metrics) for name, metrics in updates.items()} == expected
    assert len(expected) * SMALL.batch_size == halving_timesteps(SMALL, num_members=9, eta=3, num_rungs=2)
    assert len(expected) * SMALL.batch_size == int(result.timesteps.sum())

    result, updates = recorded["pbt"]
    assert set(updates) == {(*key, k) for key in keys_of(result) for k in range(6)}
    assert 5 * 6 * SMALL.batch_size == pbt_timesteps(SMALL, num_members=5) == int(result.timesteps.sum())


@pytest.mark.parametrize("name", ["halving", "pbt"])
def test_the_rate_anneals_over_the_whole_run(recorded, name):
    result, updates = recorded[name]
    rates = np.asarray(result.history.hyper["learning_rate"])
    for i, key in enumerate(keys_of(result)):
        for g, k in generations(result, name, i):
            assert updates[(*key, k)][0].learning_rate == pytest.approx(rates[g, i] * (1 - k / 6), rel=1e-5)


@pytest.mark.parametrize("name", ["halving", "pbt"])
def test_the_score_is_the_mean_of_the_episodes_in_the_latter_half(recorded, name):
    result, updates = recorded[name]
    scored = 0
    for i, key in enumerate(keys_of(result)):
        for g in {g for g, _ in generations(result, name, i)}:
            indices = [k for h, k in generations(result, name, i) if h == g]
            metrics = [updates[(*key, k)][0] for k in indices[len(indices) // 2 :]]
            episodes = sum(int(row.episodes) for row in metrics)
            total = sum(float(row.episode_return_mean) * int(row.episodes) for row in metrics if row.episodes)
            if episodes:
                scored += 1
                assert float(result.history.scores[g, i]) == pytest.approx(total / episodes, rel=1e-5)
    assert scored > 10


@pytest.mark.parametrize(("score", "expected"), [("episode_return_mean", (9 + 3 * 1) / 4), ("last_return_mean", 7.0)])
def test_a_member_is_scored_by_episode_or_by_environment(score, expected):
    """The latter two of four updates count; the first of them has 1 episode, and the other 3."""

    class Told:
        def update(self, runner):
            i = runner.train_state.update
            columns = {"episode_return_mean": [0.0, 0.0, 9.0, 1.0], "last_return_mean": [0.0, 0.0, 8.0, 6.0]}
            columns |= {"episodes": [5, 5, 1, 3], "episode_return_min": [0.0] * 4, "episode_return_max": [0.0] * 4}
            columns |= {"episode_length_mean": [1.0] * 4, "updates": [1, 2, 3, 4]}
            metrics = pjp.Metrics(**{name: jnp.array(values)[i] for name, values in columns.items()}, batch_size=1)
            return runner.replace(train_state=runner.train_state.replace(update=i + 1)), metrics

    state = pjp.TrainState(None, None, None, None, update=jnp.int32(0), diverged_at=jnp.int32(-1))
    member = Member(pjp.RunnerState(state, None, None, None, None), {}, jnp.float32(jnp.nan))
    trained = search.train_member(lambda hyper: Told(), member, jnp.int32(4), score=score)
    assert float(trained.score) == expected


@pytest.mark.parametrize("make", [make_successive_halving, make_pbt])
def test_a_score_that_is_unknown_is_refused(env, make):
    with pytest.raises(pjp.PPOError, match=r"score = 'mean' is unknown.*last_return_mean"):
        make(env, SMALL, SPACE, num_members=2, score="mean", **({"interval": 2} if make is make_pbt else {}))


def generations(result, name, i):
    """(generation, update) of each update of member i."""
    if name == "pbt":
        return [(k // 2, k) for k in range(6)]
    return [(0, 0), (0, 1)] + [(1, k) for k in range(2, 6) if result.history.parents[1, i] >= 0]


def test_the_best_go_on_from_where_they_were(env, recorded):
    """Each member is the run of its hyperparameters and key alone, as long as it was alive."""
    result, _ = recorded["halving"]
    first, last = np.asarray(result.history.scores)
    survivors = np.flatnonzero(result.history.parents[1] >= 0)
    assert set(survivors) == set(np.lexsort((np.arange(9), -first))[:3])
    assert np.isnan(last[np.setdiff1d(np.arange(9), survivors)]).all()
    assert result.best == survivors[np.argmax(last[survivors])]

    agent_of = search.make_agent_of(env, SMALL, pjp.make_ppo)
    train = jax.jit(jax.vmap(lambda member, n: search.train_member(agent_of, member, n), in_axes=(0, None)))
    init = jax.jit(jax.vmap(lambda hyper, key: agent_of(hyper).init(key)))
    fresh = init(result.hyper, result.runners.key)
    start = Member(runner=fresh, hyper=result.hyper, score=jnp.full(9, jnp.nan))
    after_two, after_six = train(start, 2), train(start, 6)
    in_parts = train(after_two, 4)
    assert_equal(in_parts.runner, after_six.runner)
    alone = halving.put(after_two, survivors, halving.take(in_parts, survivors))
    for a, b in zip(jax.tree.leaves(result.runners), jax.tree.leaves(alone.runner), strict=True):
        if not jnp.issubdtype(a.dtype, jax.dtypes.prng_key):
            np.testing.assert_allclose(a, b, atol=1e-4)
    np.testing.assert_allclose(result.scores, alone.score, rtol=1e-5)


def test_one_update_serves_all_rungs(env):
    def products(num_rungs):
        find = make_successive_halving(env, SMALL, SPACE, num_members=8, eta=2, num_rungs=num_rungs)
        return jax.jit(find).lower(jax.random.key(0)).as_text().count("stablehlo.dot_general")

    assert products(3) == products(2) > 0


def test_one_member_is_a_run(env):
    space, config = {"learning_rate": SPACE["learning_rate"]}, arithmetic.CONFIG
    options = {"num_members": 1, "make_agent": arithmetic.make_agent}
    halved = make_successive_halving(env, config, space, num_rungs=1, **options)(jax.random.key(1))
    trained = make_pbt(env, config, space, interval=2, **options)(jax.random.key(1))
    assert halved.timesteps.tolist() == trained.timesteps.tolist() == [config.actual_timesteps]
    assert (int(halved.best), int(trained.best)) == (0, 0)
    assert trained.history.parents.tolist() == [[0], [0]]
    np.testing.assert_array_equal(halved.hyper["learning_rate"], trained.hyper["learning_rate"])
    np.testing.assert_array_equal(halved.runners.train_state.update, trained.runners.train_state.update)
    np.testing.assert_allclose(halved.runners.env_state, trained.runners.env_state, rtol=1e-5)


def test_the_history_of_a_population_is_a_lineage(recorded):
    result, _ = recorded["pbt"]
    scores, parents = np.asarray(result.history.scores), np.asarray(result.history.parents)
    assert scores.shape == parents.shape == (3, 5)
    assert parents[0].tolist() == [0, 1, 2, 3, 4]
    copied = 0
    for g in (1, 2):
        before = np.where(np.isnan(scores[g - 1]), -np.inf, scores[g - 1])
        ranked = np.lexsort((np.arange(5), -before))
        for i, parent in enumerate(parents[g]):
            if parent != i:
                copied += 1
                assert i in ranked[-2:]
                assert parent in ranked[:2]
                assert np.isfinite(before[parent])
            else:
                for values in result.history.hyper.values():
                    assert values[g, i] == values[g - 1, i]
    assert copied
    np.testing.assert_array_equal(result.scores, scores[-1])
    assert int(result.best) == int(np.nanargmax(scores[-1]))
    assert len({tuple(key) for key in keys_of(result)}) == 5


def test_draws_cover_their_domain():
    space = {"a": uniform(-1.0, 3.0), "b": log_uniform(1e-5, 1e-1)}
    hyper = draw(space, jax.random.key(0), 4000)
    assert float(hyper["a"].mean()) == pytest.approx(1.0, abs=0.1)
    assert float(jnp.log10(hyper["b"]).mean()) == pytest.approx(-3.0, abs=0.1)
    for name, (low, high) in space.items():
        assert np.float32(low) <= hyper[name].min() < hyper[name].max() <= np.float32(high)
    alone = draw({"b": space["b"]}, jax.random.key(0), 4000)
    np.testing.assert_array_equal(alone["b"], hyper["b"])
    assert abs(np.corrcoef(hyper["a"], hyper["b"])[0, 1]) < 0.1


def test_the_rank_is_by_score_with_ties_and_nan():
    scores = jnp.array([3.0, jnp.nan, 5.0, 3.0, -jnp.inf, 5.0])
    rank = search.rank
    assert rank(scores, jnp.arange(6), 6).tolist() == [2, 5, 0, 3, 4, 1]
    assert rank(scores, jnp.array([5, 3, 2, 0, 4, 1]), 6).tolist() == [5, 2, 3, 0, 4, 1]
    assert rank(scores, jnp.array([1, 4, 0, 5, 3, 2]), 3).tolist() == [0, 4, 1, 5, 3, 2]


def test_members_are_dealt_out_best_first():
    order = jnp.array([6, 5, 4, 3, 2, 1, 0])
    assert halving.deal(order, 2, 1).tolist() == [[[6], [4], [2], [0]], [[5], [3], [1], [7]]]
    assert halving.deal(order, 2, 2).tolist() == [[[6, 5], [2, 1]], [[4, 3], [0, 7]]]
    values = jnp.arange(7.0)
    seats = halving.deal(order, 2, 2)
    np.testing.assert_array_equal(halving.put(values, seats, 10 * halving.take(values, seats)), 10 * values)


@pytest.mark.parametrize(
    ("diverged_at", "previous", "return_sum", "count", "expected"),
    [(-1, 7.0, 30.0, 4, 7.5), (-1, 7.0, 0.0, 0, 7.0), (-1, np.nan, 0.0, 0, np.nan), (3, 7.0, 30.0, 4, np.nan)],
)
def test_scores_of_members_without_an_episode_or_that_have_diverged(diverged_at, previous, return_sum, count, expected):
    state = pjp.TrainState(None, None, None, None, update=jnp.int32(0), diverged_at=jnp.int32(diverged_at))
    member = Member(pjp.RunnerState(state, None, None, None, None), {}, jnp.float32(previous))
    tally = search.Tally(return_sum=jnp.float32(return_sum), count=jnp.int32(count), done=jnp.int32(0))
    np.testing.assert_equal(float(search.scored(member, tally).score), expected)


def test_the_worst_go_on_from_the_best():
    scores = jnp.array([1.0, 9.0, jnp.nan, 5.0, 8.0, 4.0])
    drawn = np.array([pbt.exploit(key, scores, 2) for key in jax.random.split(jax.random.key(0), 64)])
    np.testing.assert_array_equal(drawn[:, [1, 3, 4, 5]], np.tile([1, 3, 4, 5], (64, 1)))
    assert set(drawn[:, 0]) == set(drawn[:, 2]) == {1, 4}
    assert pbt.exploit(jax.random.key(0), jnp.full(4, 2.0), 2).tolist()[:2] == [0, 1]
    assert set(pbt.exploit(jax.random.key(0), jnp.full(4, 2.0), 2).tolist()[2:]) <= {0, 1}
    assert pbt.exploit(jax.random.key(0), jnp.full(4, jnp.nan), 2).tolist() == [0, 1, 2, 3]
    assert pbt.exploit(jax.random.key(0), jnp.array([2.0]), 1).tolist() == [0]


def test_a_copy_is_all_but_the_key_and_the_environments(env):
    agent = pjp.make_ppo(env, SMALL)
    runners = jax.jit(jax.vmap(agent.init))(pjp.seed_keys(0, 3))
    state = runners.train_state
    own = jax.tree.map(lambda x: x + jnp.arange(3).reshape(-1, *[1] * (x.ndim - 1)).astype(x.dtype), state)
    members = Member(runner=runners.replace(train_state=own), hyper={"a": jnp.arange(3.0)}, score=jnp.arange(3.0))
    after = pbt.adopt(members, jnp.array([0, 2, 2]))
    assert_equal(take(after.runner.train_state, 1), take(own, 2))
    assert_equal(take(after.runner.train_state, 0), take(own, 0))
    assert after.hyper["a"].tolist() == after.score.tolist() == [0.0, 2.0, 2.0]
    for name in ("key", "env_state", "obs", "episode"):
        assert_equal(getattr(after.runner, name), getattr(runners, name))


def injected(env, config):
    """Adam with the config's rate in its state."""
    rate, plain = config.learning_rate, config.replace(learning_rate=pjp.PPOConfig.learning_rate)
    return pjp.make_ppo(env, plain, optimizer=optax.inject_hyperparams(optax.adam)(learning_rate=rate))


def adaptive(env, config):
    return pjp.make_ppo(env, config.replace(lr_schedule="adaptive"))


def carried_rate(train_state):
    opt_state = train_state.opt_state
    return opt_state.hyperparams["learning_rate"] if hasattr(opt_state, "hyperparams") else train_state.learning_rate


@pytest.mark.parametrize(
    ("make_agent", "name"), [(adaptive, "learning_rate"), (adaptive, "gamma"), (injected, "learning_rate")]
)
def test_a_new_rate_is_that_of_the_next_update_and_any_other_is_copied(env, make_agent, name):
    space = {name: SPACE[name]}
    agent_of = search.make_agent_of(env, SMALL, make_agent)

    @jax.jit
    def evolved(key):
        members = search.draw_members(agent_of, space, key, 4)
        state = members.runner.train_state
        # As if all had been adapted since.
        double = jax.tree_util.tree_map_with_path(
            lambda path, x: 2 * x if "learning_rate" in jax.tree_util.keystr(path) else x, state
        )
        members = members.replace(runner=members.runner.replace(train_state=double), score=jnp.arange(4.0))
        return members, *pbt.evolve(agent_of, space, 1, 0.0, key, members)

    before, after, parents = evolved(jax.random.key(0))
    assert parents.tolist() == [3, 1, 2, 3]
    rates, copied = carried_rate(after.runner.train_state), carried_rate(before.runner.train_state)[parents]
    assert after.hyper[name][0] != before.hyper[name][3]
    np.testing.assert_array_equal(rates[1:], copied[1:])
    np.testing.assert_array_equal(rates[0], after.hyper[name][0] if name == "learning_rate" else copied[0])


def test_a_number_that_no_update_reads_is_refused(env):
    """One for the network's `init` alone can be searched over from the start, and not changed on the way."""

    def fixed(env, config):
        return pjp.make_ppo(env, config.replace(learning_rate=2.5e-4), optimizer=optax.adam(1e-3))

    def starting(env, config):
        network = pjp.Network(
            lambda key, obs: {"policy": jnp.full((4, 2), config.vf_coef), "value": jnp.zeros(4)},
            lambda params, obs: (obs @ params["policy"], obs @ params["value"]),
        )
        return pjp.make_ppo(env, config.replace(vf_coef=0.5), network=network)

    rates, starts = {"learning_rate": log_uniform(1e-4, 1e-2)}, {"gamma": SPACE["gamma"], "vf_coef": uniform(0.1, 1.0)}
    for make, options in ((make_pbt, {"interval": 2}), (make_successive_halving, {"num_rungs": 1})):
        with pytest.raises(pjp.PPOError, match="learning_rate"):
            make(env, SMALL, rates, num_members=4, make_agent=fixed, **options)
    with pytest.raises(pjp.PPOError, match="vf_coef"):
        make_pbt(env, SMALL, starts, num_members=4, interval=2, make_agent=starting)
    make_successive_halving(env, SMALL, starts, num_members=4, num_rungs=1, make_agent=starting)


def test_a_perturbation_stays_in_its_domain():
    space = {"a": uniform(0.9, 1.0), "b": log_uniform(1e-4, 1.0)}
    hyper = {"a": jnp.full(500, 0.94), "b": jnp.full(500, 0.01)}
    near = pbt.explore(space, jax.random.key(0), hyper, 0.0)
    np.testing.assert_allclose(np.unique(near["a"]), [0.932, 0.95], rtol=1e-5)
    np.testing.assert_allclose(np.unique(near["b"]), [0.008, 0.0125], rtol=1e-5)
    assert len({(float(a), float(b)) for a, b in zip(near["a"], near["b"], strict=True)}) == 4
    edge = pbt.explore(space, jax.random.key(0), {"a": jnp.full(500, 1.0), "b": jnp.full(500, 1e-4)}, 0.0)
    np.testing.assert_allclose(np.unique(edge["a"]), [0.98, 1.0], rtol=1e-5)
    np.testing.assert_allclose(np.unique(edge["b"]), [1e-4, 1.25e-4], rtol=1e-5)
    fresh = pbt.explore(space, jax.random.key(0), hyper, 1.0)
    assert len(np.unique(fresh["b"])) > 450
    some = pbt.explore(space, jax.random.key(0), hyper, 0.3)
    kept = np.isin(np.asarray(some["b"]), np.asarray(near["b"])).mean()
    assert kept == pytest.approx(0.7, abs=0.08)


def test_the_rungs_add_up():
    config = SMALL.replace(total_timesteps=SMALL.batch_size * 20)
    rungs = halving.plan_rungs(config, num_members=27, eta=3, num_rungs=3)
    assert rungs == ((27, 9, 3), (2, 4, 14))
    assert halving_timesteps(config, num_members=27, eta=3, num_rungs=3) == (27 * 2 + 9 * 4 + 3 * 14) * 32
    assert halving_timesteps(config, num_members=7, num_rungs=1) == pbt_timesteps(config, num_members=7)


@pytest.mark.parametrize(
    ("make", "options", "message"),
    [
        (
            make_successive_halving,
            {"num_members": 8, "num_rungs": 2},
            "num_members = 8 does not divide .* = 3; give 6",
        ),
        (make_successive_halving, {"num_members": 0}, "num_members = 0"),
        (make_successive_halving, {"num_members": 9, "eta": 1}, "eta = 1"),
        (make_successive_halving, {"num_members": 9, "num_rungs": 1.5}, "num_rungs = 1.5"),
        (make_successive_halving, {"num_members": 16, "eta": 2, "num_rungs": 4}, "total_timesteps >= 256"),
        (make_pbt, {"num_members": 4, "interval": 4}, r"interval = 4; give total_timesteps = \d+"),
        (make_pbt, {"num_members": 4, "interval": 7}, "interval = 7; give total_timesteps = 224"),
        (make_pbt, {"num_members": True, "interval": 2}, "num_members = True"),
        (make_pbt, {"num_members": 4, "interval": 2, "quantile": 0.6}, "quantile = 0.6"),
        (make_pbt, {"num_members": 4, "interval": 2, "quantile": 0.0}, "quantile = 0.0"),
        (make_pbt, {"num_members": 4, "interval": 2, "resample": 1.5}, "resample = 1.5"),
    ],
)
def test_numbers_that_do_not_fit_are_refused(env, make, options, message):
    with pytest.raises(pjp.PPOError, match=message):
        make(env, SMALL, SPACE, **options)


@pytest.mark.parametrize(
    ("space", "message"),
    [
        ({}, "space = {}"),
        ({"num_envs": uniform(1, 8)}, "num_envs is a part of the program.*sweep"),
        ({"anneal_lr": uniform(0, 1)}, "anneal_lr is a part of the program"),
        ({"learning_rat": uniform(0, 1)}, "learning_rat.*learning_rate"),
        ({"gamma": [0.9, 0.99]}, r"gamma = \[0.9, 0.99\] is not a domain"),
        ({"gamma": uniform(0.9, 1.5)}, "gamma = 1.5"),
        ({"env.masspole": uniform(0.1, 0.2), "env.lenght": uniform(0.1, 0.2)}, "env.length"),
    ],
)
def test_a_space_that_does_not_fit_is_refused(env, space, message):
    with pytest.raises(pjp.PPOError, match=message):
        make_pbt(env, SMALL, space, num_members=4, interval=2)


def test_what_makes_no_agent_is_refused(env):
    with pytest.raises(pjp.PPOError, match="make_agent = 3 is not callable"):
        make_pbt(env, SMALL, SPACE, num_members=2, interval=3, make_agent=3)


@pytest.mark.parametrize(
    "config",
    [
        pjp.RecurrentConfig(num_envs=2, num_steps=16, total_timesteps=2 * 16 * 4, num_minibatches=1, cell_size=8),
        pjp.FullBatchConfig(num_steps=64, total_timesteps=64 * 4, hidden_sizes=(8,)),
    ],
    ids=["recurrent", "full-batch"],
)
def test_other_algorithms_are_searched_over_too(env, config):
    name = "learning_rate" if isinstance(config, pjp.PPOConfig) else "policy_learning_rate"
    space = {name: log_uniform(1e-4, 1e-2)}
    search = make_pbt(env, config, space, num_members=4, interval=2)
    assert jax.eval_shape(search, jax.random.key(0)).history.parents.shape == (2, 4)


def test_several_keys_are_refused(env):
    with pytest.raises(pjp.PPOError, match="give one key"):
        jax.eval_shape(make_pbt(env, SMALL, SPACE, num_members=2, interval=3), pjp.seed_keys(0, 2))


def take(tree, i):
    return jax.tree.map(lambda x: x[i], tree)


def assert_equal(a, b):
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
            x, y = jax.random.key_data(x), jax.random.key_data(y)
        np.testing.assert_array_equal(x, y)
