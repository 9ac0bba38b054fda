"""Parts of the caller's own that add to PPO: losses, rewards, advantages, modules, and the numbers that they report."""

import dataclasses
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import purejaxppo as pjp
from purejaxppo.population.logs import LogProgress
from purejaxppo.ppo.checks import settled_advantage
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
    agent = pjp.make_ppo(env, config, **parts)
    start = jax.jit(jax.vmap(agent.init))(pjp.seed_keys(0, 2))  # a program of many tests
    return jax.jit(jax.vmap(lambda runner: pjp.update_many(agent, runner, config.num_updates)))(start)


@functools.cache
def train_plainly(config):
    return train(pjp.make_env("CartPole-v1"), config)


@pytest.mark.parametrize("config", [SMALL, REMEMBERING], ids=["ppo", "recurrent"])
def test_numbers_of_a_loss_arrive_by_name(env, config):
    _, plain = train_plainly(config)
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
    logged, arguments = [], {"num_seeds": 2, "out": tmp_path / "population"}
    arguments["make_agent"] = functools.partial(pjp.make_ppo, loss=telling_loss)
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


@pytest.mark.slow
def test_parts_of_ones_own_on_several_devices_are_those_on_one(env):
    make_agent = functools.partial(pjp.make_ppo, loss=telling_loss, reward=curious_reward, modules=MODULES)
    one, several = (
        pjp.train_population(env, SMALL, num_seeds=1, make_agent=make_agent, placement=placement)
        for placement in ("seeds", "data")
    )
    for name in ("ahead", "bonus", "ended", "penalty", "reward", "value_loss", "policy_loss"):
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
def test_a_loss_sees_the_arrays_of_a_reward_and_an_advantage_by_step(config):
    agent = pjp.make_ppo(
        pjp.make_env(Corridor()),
        config.replace(total_timesteps=64, update_epochs=1),
        reward=lambda params, steps, context: (steps.reward, {"paid": steps.reward, "one": jnp.float32(1)}),
        advantage=lambda steps, context: (steps.info["paid"], steps.value, {"two": jnp.stack([steps.value] * 2, -1)}),
        loss=by_step_loss,
    )
    _, metrics = jax.jit(lambda key: agent.update(agent.init(key)))(jax.random.key(0))
    assert sorted(metrics.extra) == ["difference", "episode/place", "episode/success", "one", "paid", "two"]
    assert metrics.extra["difference"] == 0.0
    assert metrics.extra["one"] == 1.0
    assert metrics.extra["paid"] > 0.5  # the mean of what the corridor pays


def by_step_loss(params, minibatch, context):
    """ppo_loss, and the distance of the arrays of `info` from what they were made of."""
    info, two = minibatch.info, jnp.stack([minibatch.value] * 2, -1)
    paid = jnp.abs(info["paid"] - minibatch.reward) + jnp.abs(info["place"] + 0.5 - minibatch.reward)
    loss, terms = pjp.ppo_loss(params, minibatch, context)
    return loss, terms | {"difference": jnp.max(paid) + jnp.max(jnp.abs(info["two"] - two))}


def test_an_array_by_step_with_the_name_of_an_info_is_refused():
    def reward(params, steps, context):
        return steps.reward, {"place": steps.reward}

    with pytest.raises(pjp.PPOError, match="'place'"):
        pjp.make_ppo(pjp.make_env(Corridor()), SMALL, reward=reward)


def test_a_distribution_of_your_own_takes_the_place_of_the_default_one():
    def init(key, obs):
        return jax.random.normal(key, (1, 3))

    def agent(scale, **changes):
        network = pjp.Network(init, lambda params, obs: (scale * _heads(obs @ params)[0], _heads(obs @ params)[1]))
        made = pjp.make_ppo(pjp.make_env(Corridor()), SMALL, network=network)
        return dataclasses.replace(made, **{name: change(made) for name, change in changes.items()})

    def sharper(made):
        return made.actions._replace(distribution=lambda logits: pjp.Categorical(2.0 * logits))

    results = []
    for each in (agent(2.0), agent(1.0, actions=sharper)):
        runner, _ = jax.jit(lambda key, each=each: each.update(each.init(key)))(jax.random.key(0))
        acted = each.act(runner.train_state, runner.obs, key=jax.random.key(1))
        results.append((runner.train_state.params, each.policy(runner.train_state, (), runner.obs)[0], acted))
    jax.tree.map(np.testing.assert_array_equal, *results)


def test_an_advantage_cannot_run_a_recurrent_policy():
    def advantage(steps, context):
        return context.apply(context.params, steps.obs)[1]

    with pytest.raises(pjp.PPOError, match=r"^context\.apply .*steps\.value"):
        pjp.make_ppo(pjp.make_env(Corridor()), REMEMBERING, advantage=advantage)


def test_an_index_out_of_range_refuses_the_update():
    agent = pjp.make_ppo(
        pjp.make_env(Corridor()),
        SMALL.replace(total_timesteps=64),
        loss=lambda params, minibatch, context: (jnp.mean(context.apply(params, minibatch.obs)[1]), {}),
        minibatches=lambda key, batch: 1 + jnp.arange(64).reshape(1, 2, 32),
    )
    runner, _ = jax.jit(lambda key: agent.update(agent.init(key)))(jax.random.key(0))
    assert runner.train_state.diverged_at == 0


def test_the_info_of_the_last_steps_is_averaged_over_the_episodes():
    # The return of an episode tells how it ended: with n steps to the right it is 0.5 + ... + (n + 0.5), the last place
    # counted twice after a failure, and 1.5 + 2.5 + 3.5 after a success.
    def loss(params, minibatch, context):
        total, terms = pjp.ppo_loss(params, minibatch, context)
        return total, terms | {"successes": jnp.sum(minibatch.info["success"])}

    _, metrics = train(pjp.make_env(Corridor()), SMALL, loss=loss)
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


def test_an_advantage_may_return_numbers_without_a_target():
    zeros = jnp.zeros((3, 2))
    flags = {"terminated": zeros > 0, "truncated": zeros > 0}
    unread = dict.fromkeys(("obs", "action", "parameters", "log_prob", "next_obs", "next_value"))
    steps = pjp.Steps(reward=zeros, value=zeros + 0.5, **flags, **unread)
    advantage, target, numbers, arrays = settled_advantage(steps, (zeros + 1.0, {"mine": 2.0}))
    np.testing.assert_array_equal(target, advantage + 0.5)
    assert (numbers, arrays) == ({"mine": 2.0}, {})


@pytest.mark.slow
@pytest.mark.parametrize("config", [SMALL, REMEMBERING], ids=["ppo", "recurrent"])
def test_parts_that_do_what_the_default_does_change_no_bit(env, config):
    def advantage(steps, context):
        estimate = pjp.gae_advantage(steps, context)
        log_prob = context.distribution(steps.parameters).log_prob(steps.action)
        return estimate, estimate + steps.value, {"gap": jnp.max(jnp.abs(steps.log_prob - log_prob))}

    def minibatches(key, batch):
        return pjp.shuffled_indices(key, config.update_epochs, config.num_minibatches, len(batch.value))

    def reward(params, steps, context):
        return steps.reward, {"paid": steps.reward.mean()}

    config = config.replace(normalize_reward=config is SMALL)
    plain = train_plainly(config)
    runners, metrics = train(env, config, reward=reward, advantage=advantage, minibatches=minibatches)
    np.testing.assert_array_equal(metrics.extra["gap"], 0.0)
    np.testing.assert_array_equal(metrics.extra["paid"], 1.0)  # before normalize_reward
    own = (runners.replace(key=None), metrics.replace(extra={}))
    jax.tree.map(np.testing.assert_array_equal, own, (plain[0].replace(key=None), plain[1]))


def test_a_doubled_reward_is_that_of_an_environment_that_pays_double():
    def doubled(params, steps, context):
        return 2.0 * steps.reward

    config = SMALL.replace(normalize_advantage=False)
    runners, metrics = train(pjp.make_env(Corridor()), config, reward=doubled)
    twice, paid = train(pjp.make_env(Corridor(2.0)), config)
    jax.tree.map(
        lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-6),
        runners.train_state.params,
        twice.train_state.params,
    )
    # What is reported is what the environment pays.
    np.testing.assert_allclose(2.0 * metrics.episode_return_mean, paid.episode_return_mean, rtol=1e-6)


MODULES = {"predictor": nn.Dense(8), "target": (nn.Dense(8).init, nn.Dense(8).apply)}  # random network distillation


def surprise(params, obs, context):
    """How far the predictor is from a fixed random network, of each observation. [..., 4] -> [...]"""
    target = jax.lax.stop_gradient(context.modules["target"](params, obs))
    return jnp.mean((context.modules["predictor"](params, obs) - target) ** 2, axis=-1)


def curious_reward(params, steps, context):
    bonus = surprise(params, steps.next_obs, context)
    return steps.reward + bonus, {"bonus": bonus.mean()}


def curious_loss(params, minibatch, context):
    total, terms = pjp.ppo_loss(params, minibatch, context)
    error = jnp.mean(surprise(params, minibatch.next_obs, context))
    return total + error, terms | {"error": error}


CURIOUS = {"modules": MODULES, "reward": curious_reward, "loss": curious_loss}


@pytest.mark.slow
def test_modules_are_trained_beside_the_policy(env):
    config = REMEMBERING.replace(learning_rate=0.03, total_timesteps=64 * 12)
    key = pjp.seed_keys(0, 1)[0]
    before = jax.jit(pjp.make_ppo(env, config, modules=MODULES).init)(key).train_state.params
    plain = jax.jit(pjp.make_ppo(env, config).init)(key).train_state.params
    jax.tree.map(np.testing.assert_array_equal, before["policy"], plain)
    runners, metrics = train(env, config, **CURIOUS)
    after = jax.tree.map(lambda x: x[0], runners.train_state.params)
    assert set(after) == {"policy", "predictor", "target"}
    jax.tree.map(np.testing.assert_array_equal, after["target"], before["target"])
    moved = jax.tree.map(lambda x, y: np.abs(x - y).max(), after["predictor"], before["predictor"])
    assert min(jax.tree.leaves(moved)) > 1e-3
    assert (metrics.extra["error"][:, -1] < 0.5 * metrics.extra["error"][:, 0]).all()
    assert (metrics.extra["bonus"] > 0).all()


@pytest.mark.parametrize(
    ("parts", "said"),
    [
        ({"reward": 3}, "reward = 3 is not callable"),
        ({"reward": lambda *args: jnp.zeros(3)}, r"reward returns float32\[3\]; it has to be floats \[16, 4\]"),
        ({"reward": lambda p, s, c: (s.reward, {"mean": s.reward[0]})}, r"reward returns mean as float32\[4\]"),
        ({"reward": lambda p, s, c: (s.reward, {"entropy": 0.0})}, "'entropy', which is another column"),
        ({"advantage": pjp.gae}, "advantage cannot be traced.*missing"),
        ({"advantage": lambda s, c: (s.reward, jnp.zeros(2))}, r"advantage, target returns float32\[2\]"),
        ({"minibatches": lambda key, batch: batch.reward}, r"minibatches returns float32\[64\]"),
        ({"minibatches": lambda key, batch: 1 + np.arange(64).reshape(1, 2, 32)}, "from 1 to 64.*64 samples"),
        ({"optimizer": optax.MultiSteps(optax.sgd(1.0), 2)}, r"optimizer = .*\.gradient_transformation\(\)"),
        ({"modules": {"policy": nn.Dense(1)}}, "'policy'"),
        ({"modules": {"model": nn.Dense}}, r"modules\['model'\] is the class Dense; give an instance"),
        ({"modules": {"model": (lambda key, obs: 1 / 0, max)}}, r"modules\['model'\]\.init cannot be traced"),
        (
            {
                "modules": {"model": nn.Dense(1)},
                "loss": lambda p, m, c: (jnp.sum(c.modules["model"](p["model"], m.obs)), {}),
            },
            r"context\.modules\['model'\] takes all of params",
        ),
        ({"modules": {"model": 3}}, r"modules\['model'\] = 3 lacks init and apply"),
        ({"modules": [nn.Dense(1)]}, "modules must be a dict"),
        (
            {"reward": lambda p, s, c: (s.reward, {"bonus": 0.0}), "advantage": lambda s, c: _told(s, "bonus")},
            "'bonus'",
        ),
    ],
)
def test_parts_that_do_not_fit_are_refused_in_one_line(env, parts, said):
    with pytest.raises(pjp.PPOError, match=said) as caught:
        pjp.make_ppo(env, SMALL, **parts)
    assert "\n" not in str(caught.value)


def _told(steps, name):
    return steps.reward, steps.reward, {name: 0.0}


@pytest.mark.slow
def test_a_population_trains_what_make_agent_makes(env, tmp_path):
    arguments = {"num_seeds": 2, "sweep": {"learning_rate": [0.01, 0.03]}, "out": tmp_path / "population"}
    arguments["make_agent"] = functools.partial(pjp.make_ppo, **CURIOUS)
    sweep = pjp.train_population(env, SMALL, **arguments)
    agent = arguments["make_agent"](env, SMALL.replace(learning_rate=0.03))
    start = jax.jit(agent.init)(pjp.seed_keys(0, 2)[1])
    runner, metrics = jax.jit(lambda runner: pjp.update_many(agent, runner, 3))(start)
    np.testing.assert_allclose(sweep[1].metrics.extra["error"][1], metrics.extra["error"], rtol=1e-3)
    jax.tree.map(
        lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-2, atol=1e-3),
        sweep[1].seed(1).train_state.params,
        runner.train_state.params,
    )
    assert {"bonus", "error"} <= set(sweep.to_dataframe().columns)
    again = pjp.open_population(env, SMALL, **arguments)
    np.testing.assert_array_equal(again[0].column("bonus"), sweep[0].column("bonus"))
    with pytest.raises(pjp.PPOError, match="own_"):
        pjp.open_population(env, SMALL, **arguments | {"make_agent": None})


@dataclasses.dataclass(frozen=True)
class Weighted(pjp.PPOConfig):
    """One number more."""

    weight: float = 1.0


def test_fields_of_ones_own_config_reach_the_loss_and_are_swept(env):
    def loss(params, minibatch, context):
        total, terms = pjp.ppo_loss(params, minibatch, context)
        size = jnp.mean(context.apply(params, minibatch.obs)[1] ** 2)
        return total + context.config.weight * size, terms | {"weight": context.config.weight, "size": size}

    config = Weighted(num_envs=4, num_steps=16, total_timesteps=4 * 16 * 3, hidden_sizes=(8,), learning_rate=0.03)
    make_agent = functools.partial(pjp.make_ppo, loss=loss)
    sweep = pjp.train_population(env, config, num_seeds=1, sweep={"weight": [0.0, 10.0]}, make_agent=make_agent)
    assert [np.unique(population.column("weight")).tolist() for population in sweep] == [[0.0], [10.0]]
    assert sweep[1].column("size")[0, -1] < sweep[0].column("size")[0, -1]


class Still:
    """An agent of one's own, that acts with PPO's policy and never learns."""

    def __init__(self, env, config):
        agent = pjp.make_ppo(env, config)
        self.env, self.config, self.actions, self.start_memory = env, config, agent.actions, ()
        self.init, self.policy, self._update = agent.init, agent.policy, agent.update

    def update(self, runner):
        after, metrics = self._update(runner)
        state = after.train_state.replace(params=runner.train_state.params)
        return after.replace(train_state=state), metrics.replace(extra={"own": jnp.float32(7.0)})


def test_any_object_that_inits_and_updates_is_an_agent(env):
    population = pjp.train_population(env, SMALL, num_seeds=2, make_agent=Still, evaluation_episodes=2)
    np.testing.assert_array_equal(population.column("own"), 7.0)
    assert population.final_returns().shape == (2,)
    first = jax.jit(pjp.make_ppo(env, SMALL).init)(pjp.seed_keys(0, 2)[1]).train_state.params
    jax.tree.map(
        lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-6),
        population.seed(1).train_state.params,
        first,
    )


@pytest.mark.parametrize(
    ("make_agent", "said"),
    [
        (3, "make_agent = 3 is not callable"),
        (lambda env, config: config, "PPOConfig, which lacks env, config, actions, init"),
    ],
)
def test_what_makes_no_agent_is_refused(env, make_agent, said):
    with pytest.raises(pjp.PPOError, match=said):
        pjp.train_population(env, SMALL, num_seeds=1, make_agent=make_agent)


def test_a_reward_sees_the_observations_of_the_environment_beside_those_of_the_network():
    def reward(params, steps, context):
        seen, raw = steps.obs, steps.raw_obs
        follows = jnp.all(steps.raw_next_obs[:-1] == raw[1:], axis=-1)
        numbers = {"widest": jnp.max(jnp.abs(raw)), "follows": jnp.mean(follows), "moved": jnp.mean(seen != raw)}
        return steps.reward, numbers

    config = pjp.PPOConfig(num_envs=2, num_steps=64, total_timesteps=256, hidden_sizes=(4,), normalize_obs=True)
    train = pjp.make_train(pjp.make_env("CartPole-v1"), config, reward=reward)
    _, metrics = jax.jit(train)(jax.random.key(0))
    assert 0.1 < metrics.extra["widest"][-1] < 5.0
    done = metrics.episodes / config.batch_size
    np.testing.assert_allclose(metrics.extra["follows"], 1.0 - done, atol=2 / 63)
    assert metrics.extra["moved"][-1] > 0.9


@pytest.mark.parametrize("dtype", [jnp.uint8, jnp.int8, jnp.uint16, jnp.uint32])
def test_indices_of_every_type_of_integers_are_taken(env, dtype):
    def chosen(dtype, key, batch):
        return jax.random.permutation(key, 64).reshape(1, 2, 32).astype(dtype)

    (_, wanted), (_, found) = (
        train(env, SMALL, minibatches=functools.partial(chosen, each)) for each in (jnp.int32, dtype)
    )
    np.testing.assert_array_equal(found.updates, [[1, 2, 3]] * 2)
    np.testing.assert_array_equal(found.value_loss, wanted.value_loss)


def test_minibatches_of_one_sample_are_refused_where_their_advantage_is_normalised(env):
    def single(key, batch):
        return jax.random.permutation(key, 64).reshape(1, 64, 1)

    with pytest.raises(pjp.PPOError, match=r"minibatches of 1 sample.* normalize_advantage=False"):
        pjp.make_ppo(env, SMALL, minibatches=single)
    pjp.make_ppo(env, SMALL.replace(normalize_advantage=False), minibatches=single)
    pjp.make_ppo(env, SMALL.replace(normalize_advantage_over="batch"), minibatches=single)


def test_a_number_by_the_name_of_one_of_the_environments_is_refused():
    def loss(params, minibatch, context):
        loss, terms = pjp.ppo_loss(params, minibatch, context)
        return loss, terms | {"episode/success": loss}

    with pytest.raises(pjp.PPOError, match="step report a number by the name 'episode/success'; rename one"):
        pjp.make_ppo(pjp.make_env(Corridor()), SMALL, loss=loss)
