"""The find of a search trains again as it did, on keys that no member had."""

import functools

import arithmetic
import jax
import numpy as np
import pytest

import purejaxppo as pjp

SPACE = {"learning_rate": pjp.log_uniform(1e-4, 1e-1)}
SEARCHES = {
    "halving": functools.partial(pjp.make_successive_halving, num_members=4, eta=2, num_rungs=2),
    "pbt": functools.partial(pjp.make_pbt, num_members=4, interval=1),
}


@pytest.mark.parametrize("name", SEARCHES)
def test_the_find_is_trained_again_with_its_own_schedule(name):
    env, config, key = pjp.make_env("CartPole-v1"), arithmetic.CONFIG, jax.random.key(5)
    found = jax.jit(SEARCHES[name](env, config, SPACE, make_agent=arithmetic.make_agent))(key)
    retest = pjp.make_retest(env, config, num_seeds=3, make_agent=arithmetic.make_agent)
    scores = jax.jit(retest)(key, found)

    member, rates = int(found.best), []
    for updates, hyper, parents in reversed(
        list(zip(found.generations, found.history.hyper["learning_rate"], found.history.parents, strict=True))
    ):
        rates[:0] = [float(hyper[member])] * updates
        member = int(parents[member])
    assert sum(found.generations) == len(rates) == 4
    counted = found.generations[-1] - found.generations[-1] // 2  # the latter half of the last generation
    for i, score in enumerate(np.asarray(scores)):
        own, last, returns = jax.random.fold_in(jax.random.fold_in(key, 1), 4 + i), 0.0, []
        for update, rate in enumerate(rates):
            noise = float(jax.random.normal(jax.random.fold_in(own, update)))
            last = 0.3 * noise - (np.log10(rate) + 2.5) ** 2 + last / 2
            returns.append(last)
        assert score == pytest.approx(np.mean(returns[-counted:]), rel=1e-4, abs=1e-5)
        assert jax.random.key_data(own).tolist() not in jax.random.key_data(found.runners.key).tolist()


@pytest.mark.parametrize(
    "make", [SEARCHES["pbt"], functools.partial(pjp.make_asha, num_runs=4, batch=2, eta=2, num_rungs=2)]
)
def test_the_score_is_the_one_that_the_search_ranked_by(make):
    class Lagging(arithmetic.Arithmetic):
        def update(self, runner):
            runner, metrics = super().update(runner)
            return runner, metrics.replace(last_return_mean=metrics.episode_return_mean + 100.0)

    env, config, key = pjp.make_env("CartPole-v1"), arithmetic.CONFIG, jax.random.key(5)
    found = make(env, config, SPACE, make_agent=Lagging, score="last_return_mean")(key)
    assert found.scores[found.best] > 50
    assert np.all(pjp.make_retest(env, config, num_seeds=2, make_agent=Lagging)(key, found) > 50)


def test_a_number_of_seeds_that_cannot_be_is_refused():
    with pytest.raises(pjp.PPOError, match="num_seeds = 0"):
        pjp.make_retest(pjp.make_env("CartPole-v1"), arithmetic.CONFIG, num_seeds=0)
