"""Parts of the caller's own that add to PPO: losses, and the numbers that they report."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import purejaxppo as pjp
from purejaxppo.population.logs import LogProgress
from purejaxppo.runs.folder import write_metrics

SMALL = pjp.PPOConfig(num_envs=4, num_steps=16, total_timesteps=4 * 16 * 3, hidden_sizes=(8,), num_minibatches=2)
REMEMBERING = pjp.RecurrentConfig(
    num_envs=4, num_steps=16, total_timesteps=4 * 16 * 3, hidden_sizes=(8,), cell_size=4, num_minibatches=2
)


@pytest.fixture(scope="module")
def env():
    return pjp.make_env("CartPole-v1")


class Corridor:
    """Three steps to the right are a success; every step to the left ends the episode as a failure."""

    default_params = ()
    observation_space = pjp.Box((1,), 0.0, 3.0)
    action_space = pjp.Discrete(2)

    def __init__(self, scale=1.0):
        self.scale = scale

    def reset(self, key, params):
        return jnp.zeros(1), jnp.int32(0)

    def step(self, key, state, action, params):
        place = state + action
        fails, succeeds = action == 0, place == 3
        reward = self.scale * (place + 0.5)
        info = {"success": succeeds, "place": place}
        return place[None].astype(float), place, reward, fails | succeeds, False, info


def telling_loss(params, minibatch, context):
    """ppo_loss and a penalty, with numbers of the minibatch by name."""
    loss, terms = pjp.ppo_loss(params, minibatch, context)
    draw = jax.random.uniform(context.key)
    numbers = {"reward": jnp.mean(minibatch.reward), "ended": jnp.sum(minibatch.terminated)}
    numbers |= {"draw": draw, "square": draw**2, "ahead": jnp.mean(minibatch.next_obs), "index": context.update}
    penalty = jnp.mean(context.apply(params, minibatch.obs)[1] ** 2)
    return loss + 0.1 * penalty, terms | numbers | {"penalty": penalty}


def train(env, config, **parts):
    make = pjp.make_recurrent_ppo if isinstance(config, pjp.RecurrentConfig) else pjp.make_ppo
    agent = make(env, config, **parts)
    return jax.jit(jax.vmap(lambda key: pjp.update_many(agent, agent.init(key), config.num_updates)))(
        pjp.seed_keys(0, 2)
    )


@pytest.mark.parametrize("config", [SMALL, REMEMBERING], ids=["ppo", "recurrent"])
def test_numbers_of_a_loss_arrive_by_name(env, config):
    _, plain = train(env, config)
    _, metrics = train(env, config, loss=telling_loss)
    assert plain.extra == {}
    assert metrics.columns() == [*plain.columns(), "ahead", "draw", "ended", "index", "penalty", "reward", "square"]
    np.testing.assert_array_equal(metrics.extra["reward"], np.ones((2, 3)))  # of CartPole
    np.testing.assert_allclose(2 * metrics.extra["ended"], metrics.episodes)  # the mean of two minibatches
    np.testing.assert_array_equal(metrics.extra["index"], [[0, 1, 2]] * 2)
    draws = metrics.extra["draw"]
    assert len(np.unique(draws)) == 6  # another in each update and seed
    assert (metrics.extra["square"] - draws**2 > 1e-3).all()  # and in each minibatch
    for name in ("episode_return_mean", "episodes"):  # the first rollout, before anything is learned
        np.testing.assert_array_equal(getattr(metrics, name)[:, 0], getattr(plain, name)[:, 0])
    assert not np.allclose(metrics.value_loss[:, -1], plain.value_loss[:, -1])


def test_a_population_writes_the_numbers_of_a_loss_wherever_it_writes(env, tmp_path):
    logged, arguments = [], {"num_seeds": 2, "out": tmp_path / "population", "loss": telling_loss}
    log = LogProgress(lambda numbers, step: logged.append(numbers))
    population = pjp.train_population(env, SMALL, on_chunk=log, **arguments)
    expected = population.metrics.extra["penalty"]
    assert expected.shape == (2, 3)
    np.testing.assert_array_equal(population.column("penalty"), expected)
    np.testing.assert_array_equal(pjp.open_population(env, SMALL, **arguments).column("penalty"), expected)
    np.testing.assert_array_equal(population.to_dataframe()["penalty"], expected.ravel())
    np.testing.assert_allclose([numbers["train/penalty"] for numbers in logged], expected.mean(axis=0), rtol=1e-6)
    write_metrics(tmp_path, population.metrics.columns(), population.column)
    with np.load(tmp_path / "metrics.npz") as arrays:
        np.testing.assert_array_equal(arrays["penalty"], expected)
    table = np.genfromtxt(tmp_path / "metrics.csv", delimiter=",", names=True)
    np.testing.assert_allclose(table["penalty"], expected.ravel(), rtol=1e-7)


def test_a_loss_of_ones_own_on_several_devices_is_that_on_one(env):
    one, several = (
        pjp.train_population(env, SMALL, num_seeds=1, loss=telling_loss, placement=placement)
        for placement in ("seeds", "data")
    )
    for name in ("ahead", "ended", "penalty", "reward", "value_loss", "policy_loss"):
        scale = {"ended": 0.5}.get(name, 1.0)  # a sum, and so the mean of those of two parts
        np.testing.assert_allclose(scale * one.column(name), several.column(name), rtol=1e-3, atol=1e-5, err_msg=name)


def test_a_loss_sees_what_else_the_network_returns(env):
    network = pjp.Network(
        init=lambda key, obs: {"out": 0.1 * jax.random.normal(key, (4, 3)), "guess": jnp.zeros((4, 4))},
        apply=lambda params, obs: (*_heads(obs @ params["out"]), obs @ params["guess"]),
    )

    def loss(params, minibatch, context):
        total, terms = pjp.ppo_loss(params, minibatch, context)
        guess = context.apply(params, minibatch.obs)[2]
        error = jnp.mean((minibatch.next_obs - guess) ** 2)
        return total + error, terms | {"error": error}

    runners, metrics = train(env, SMALL, network=network, loss=loss)
    assert np.abs(runners.train_state.params["guess"]).min() > 1e-5
    assert (metrics.extra["error"] > 0).all()


@pytest.mark.parametrize("config", [SMALL, REMEMBERING], ids=["ppo", "recurrent"])
def test_the_info_of_the_last_steps_is_averaged_over_the_episodes(config):
    # The return of an episode tells how it ended: with n steps to the right it is 0.5 + ... + (n + 0.5), the last place
    # counted twice after a failure, and 1.5 + 2.5 + 3.5 after a success.
    def loss(params, minibatch, context):
        total, terms = pjp.ppo_loss(params, minibatch, context)
        return total, terms | {"successes": jnp.sum(minibatch.info["success"])}

    _, metrics = train(pjp.make_env(Corridor()), config, loss=loss)
    share, place = metrics.extra["episode/success"], metrics.extra["episode/place"]
    assert ((share > 0) & (share < 1)).any()
    np.testing.assert_allclose(2 * metrics.extra["successes"], share * metrics.episodes, rtol=1e-5)
    paid = {0: 0.5, 1: 3.0, 2: 6.5, 3: 7.5}  # by the last place
    assert np.all(metrics.episode_return_max <= paid[3])
    assert np.all(place >= 3 * share - 1e-6)
    np.testing.assert_array_equal(np.asarray(metrics.episode_return_max) == paid[3], share > 0)


def test_the_mean_info_of_no_episode_is_nan(env):
    class Endless(Corridor):
        def step(self, key, state, action, params):
            obs, place, reward, _, _, info = super().step(key, state, action, params)
            return obs, place, reward, False, False, info

    _, metrics = train(pjp.make_env(Endless()), SMALL)
    assert np.isnan(metrics.extra["episode/success"]).all()


@pytest.mark.parametrize(
    ("info", "said"),
    [
        (lambda place: {"success": place[None] * jnp.ones(2)}, r"info\['success'\] as float32\[2\]"),
        (lambda place: [place], "info as a list"),
        (lambda place: {"a,b": place}, "'a,b'"),
        (lambda place: {"text": "won"}, r"info\['text'\] as a str"),
    ],
)
def test_an_info_that_is_no_dict_of_numbers_is_refused(info, said):
    class Telling(Corridor):
        def step(self, key, state, action, params):
            return *super().step(key, state, action, params)[:5], info(state)

    with pytest.raises(pjp.PPOError, match=said):
        pjp.make_env(Telling())


def _heads(out):
    return out[..., :2], out[..., 2]


def test_a_term_that_the_loss_does_not_return_is_nan(env):
    def loss(params, minibatch, context):
        total, terms = pjp.ppo_loss(params, minibatch, context)
        return total, {"entropy": terms["entropy"]}

    _, metrics = train(env, SMALL, loss=loss)
    assert np.isnan(metrics.approx_kl).all()
    assert np.isfinite(metrics.entropy).all()
    for changes in ({"target_kl": 0.1}, {"lr_schedule": "adaptive"}):
        with pytest.raises(pjp.PPOError, match=f"{next(iter(changes))}.*approx_kl"):
            pjp.make_ppo(env, SMALL.replace(**changes), loss=loss)
    with pytest.raises(pjp.PPOError, match=r"target_kl.*mean_log_ratio"):
        pjp.make_ppo(env, SMALL.replace(target_kl=0.1, kl_estimator="log_ratio"), loss=loss)
