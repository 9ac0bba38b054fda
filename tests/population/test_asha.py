"""Asynchronous successive halving decides as algorithm 2 of its paper says, and a promotion changes no bit of a run."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from arithmetic import CONFIG, make_agent

import purejaxppo as pjp
from purejaxppo.population import asha
from purejaxppo.population.asha import Ladder
from purejaxppo.population.halving import plan_updates
from purejaxppo.population.search import draw_members, make_agent_of

SPACE = {"learning_rate": pjp.log_uniform(1e-5, 1.0)}
PLAN = {"num_runs": 12, "batch": 3, "eta": 2, "num_rungs": 3}


@pytest.fixture(scope="module")
def env():
    return pjp.make_env("CartPole-v1")


@pytest.fixture(scope="module")
def search(env):
    return pjp.make_asha(env, CONFIG, SPACE, **PLAN, make_agent=make_agent)


@pytest.fixture(scope="module")
def found(search):
    return search(jax.random.key(3))


def simulate(table, updates, eta, budget, workers):
    """Algorithm 2 of Li et al. (2018), with as many workers. table: [members, rungs] -> [(member, rung)] as begun"""
    finished = [[] for _ in updates]  # of each rung, (loss, member)
    promoted = [set() for _ in updates]
    begun, clock, busy, spent = [], 0, {}, 0

    def get_job():
        for k in range(len(updates) - 2, -1, -1):
            candidates = [member for _, member in sorted(finished[k])[: len(finished[k]) // eta]]
            promotable = [member for member in candidates if member not in promoted[k]]
            if promotable and spent + updates[k + 1] <= budget:
                promoted[k].add(promotable[0])
                return promotable[0], k + 1
        return (sum(rung == 0 for _, rung in begun), 0) if spent + updates[0] <= budget else None

    while True:
        while len(busy) < workers and (job := get_job()) is not None:
            worker = min(set(range(workers)) - busy.keys())
            busy[worker] = (clock + updates[job[1]], job)
            spent += updates[job[1]]
            begun.append(job)
        if not busy:
            return begun
        clock = min(end for end, _ in busy.values())
        for worker, (end, (member, rung)) in list(busy.items()):
            if end == clock:
                del busy[worker]
                score = table[member][rung]
                finished[rung].append((np.inf if np.isnan(score) else -score, member))


def follow(ladder, table, workers):
    """Lets `Ladder` assign the jobs to these workers, as `simulate` does. -> [(member, rung)] as begun"""
    begun, busy, clock = [], {}, 0
    while True:
        while len(busy) < workers and (job := ladder.ask()) is not None:
            worker = min(set(range(workers)) - busy.keys())
            busy[worker] = (clock + ladder.updates[job.rung], job)
            begun.append(tuple(job))
        if not busy:
            return begun
        clock = min(end for end, _ in busy.values())
        for worker, (end, job) in list(busy.items()):
            if end == clock:
                del busy[worker]
                ladder.tell(job, table[job.member][job.rung])


@pytest.mark.parametrize(("eta", "num_rungs", "workers", "budget"), [(2, 4, 1, 300), (3, 3, 5, 500), (4, 2, 7, 203)])
def test_promotions_are_those_of_algorithm_2(eta, num_rungs, workers, budget):
    """The table has ties and members without a score."""
    random = np.random.default_rng(eta)
    table = random.integers(0, 6, size=(budget, num_rungs)).astype(float)
    table[random.random(table.shape) < 0.1] = np.nan
    updates = tuple(np.diff([eta**rung for rung in range(num_rungs)], prepend=0).tolist())
    expected = simulate(table, updates, eta, budget, workers)
    assert follow(Ladder(eta, updates, budget), table, workers) == expected
    assert max(rung for _, rung in expected) == num_rungs - 1
    spent = sum(updates[rung] for _, rung in expected)
    assert budget - updates[0] < spent <= budget


def test_a_search_promotes_by_its_scores_and_spends_its_budget(search, found):
    table = np.asarray(found.history.scores).T
    updates = plan_updates(CONFIG, eta=2, num_rungs=3)
    begun = simulate(table, updates, 2, 12 * 4, 3)
    expected = np.full((3, found.scores.size), -1)
    for member, rung in begun:
        expected[rung, member] = member
    np.testing.assert_array_equal(found.history.parents, expected)
    np.testing.assert_array_equal(np.isfinite(found.history.scores), expected >= 0)
    assert found.generations == updates
    assert (expected[2] >= 0).sum() > 1
    reached = (expected >= 0).sum(axis=0)
    assert found.updates.tolist() == np.cumsum(updates)[reached - 1].tolist()
    assert int(found.timesteps.sum()) == 12 * CONFIG.actual_timesteps
    assert int(found.best) == int(np.nanargmax(table[:, 2]))
    np.testing.assert_array_equal(found.scores, table[np.arange(len(table)), reached - 1])


def test_members_are_those_of_the_synchronous_search(env, found):
    agent_of = make_agent_of(env, CONFIG, make_agent)
    members = draw_members(agent_of, SPACE, jax.random.key(3), 8)
    np.testing.assert_allclose(found.hyper["learning_rate"][:8], members.hyper["learning_rate"], rtol=1e-5)
    np.testing.assert_array_equal(*(jax.random.key_data(x.key)[:8] for x in (found.runners, members.runner)))


def test_a_member_that_is_promoted_to_the_top_is_the_run_of_its_setting_alone(env):
    """A real agent, in one program: with one rung, each member trains for all updates at once."""
    config = pjp.PPOConfig(
        num_envs=2, num_steps=8, total_timesteps=64, hidden_sizes=(4,), update_epochs=1, num_minibatches=1
    )
    agent_of = make_agent_of(env, config, pjp.make_ppo)
    programs = asha.Programs(agent_of, SPACE, "episode_return_mean", batch=2)

    def climb(updates):
        def start(i):
            return programs.start(jax.random.key(0), {"learning_rate": jnp.linspace(0.3, 0.7, 6)[i]}, i)

        return asha.climb(programs, Ladder(2, updates, 12), 2, start)

    climbed, alone = climb((1, 1, 2)), climb((4,))
    assert programs.advance._cache_size() == programs.start._cache_size() == 1
    top = [i for i in alone if int(climbed[i].runner.train_state.update) == 4]
    assert len(climbed) > len(alone) == 3
    assert top
    for i in top:
        assert_equal(climbed[i].runner, alone[i].runner)


def test_a_search_that_is_interrupted_anywhere_goes_on_to_the_same_bits(search, found, tmp_path, monkeypatch):
    saved = 0

    def save(*args):
        nonlocal saved
        saved += 1
        if saved % 7 == 0:
            raise KeyboardInterrupt
        asha_save(*args)

    asha_save = asha.save_tree
    monkeypatch.setattr(asha, "save_tree", save)
    result, interruptions = None, 0
    while result is None:
        try:
            result = search(jax.random.key(3), out=tmp_path)
        except KeyboardInterrupt:
            interruptions += 1
    assert interruptions > 3
    assert_equal(result, found)
    before = saved
    assert_equal(search(jax.random.key(3), out=tmp_path), found)
    assert saved == before


def test_a_longer_search_goes_on_with_a_finished_one(env, search, found, tmp_path):
    make = functools.partial(pjp.make_asha, env, CONFIG, SPACE, make_agent=make_agent)
    short = make(**PLAN | {"num_runs": 4})(jax.random.key(3), out=tmp_path)
    assert short.scores.size < found.scores.size
    assert_equal(search(jax.random.key(3), out=tmp_path), found)
    for other, name in (({"batch": 4}, "batch"), ({"eta": 3, "num_rungs": 2}, "rungs")):
        with pytest.raises(pjp.PPOError, match=f"its {name} is"):
            make(**PLAN | other)(jax.random.key(3), out=tmp_path)
    with pytest.raises(pjp.PPOError, match="its key is"):
        search(jax.random.key(4), out=tmp_path)


def test_the_find_is_trained_again(env, found):
    retest = pjp.make_retest(env, CONFIG, num_seeds=2, make_agent=make_agent)
    assert np.isfinite(jax.jit(retest)(jax.random.key(3), found)).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_runs": 2}, "num_runs = 2 "),
        ({"batch": 0}, "batch = 0 "),
        ({"eta": 1}, "eta = 1 "),
        ({"num_rungs": 4}, "num_rungs = 4 .* config.num_updates >= 8"),
        ({"num_rungs": 10**9}, "num_rungs = 1000000000 "),
        ({"score": "mean"}, "score = 'mean'"),
    ],
)
def test_a_search_that_cannot_be_is_refused(env, options, message):
    with pytest.raises(pjp.PPOError, match=message):
        pjp.make_asha(env, CONFIG, SPACE, **{**PLAN, **options}, make_agent=make_agent)


def test_a_traced_key_is_refused(search):
    with pytest.raises(pjp.PPOError, match="key is traced"):
        jax.eval_shape(search, jax.random.key(0))


def assert_equal(a, b):
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
            x, y = jax.random.key_data(x), jax.random.key_data(y)
        np.testing.assert_array_equal(x, y)
