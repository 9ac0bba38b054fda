"""Pytrees of spaces: the law of several actions at once, and that agents act, learn and mask in them."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from gymnax.environments import environment, spaces
from workshop import Arm, Workshop

import purejaxppo as pjp
from purejaxppo.policies.actions import make_actions
from purejaxppo.ppo.agent import assess, draw_noise, play, to_batch

KEY = jax.random.key(0)
SMALL = pjp.PPOConfig(num_envs=4, num_steps=16, total_timesteps=4 * 16 * 2, hidden_sizes=(8,), normalize_obs=True)
RECURRENT = pjp.RecurrentConfig(
    num_envs=4, num_steps=16, total_timesteps=4 * 16 * 2, hidden_sizes=(8,), cell_size=8, normalize_obs=True
)
STRICT = 2**-20  # of a ratio that is 1 up to rounding
RARE = 1e-4


@pytest.fixture(scope="module")
def env():
    return pjp.make_env(Workshop())


# The law


def test_the_log_density_and_the_entropy_of_a_joint_are_the_sums_of_scipys(env):
    rng = np.random.default_rng(0)
    mean, log_std, grip, switches = (rng.normal(size=(50, n)).astype(np.float32) for n in (2, 2, 3, 5))
    parameters = {"arm": Arm(reach=(mean, log_std), grip=grip), "switches": switches}
    policy = make_actions(env).distribution(parameters)
    reach = rng.normal(size=(50, 2)).astype(np.float32)
    chosen = {name: rng.integers(0, n, 50).astype(np.int32) for name, n in (("grip", 3), ("first", 2), ("second", 3))}
    action = {
        "arm": Arm(reach=reach, grip=chosen["grip"]),
        "switches": np.stack([chosen["first"], chosen["second"]], axis=1),
    }
    laws = [
        scipy.stats.multivariate_normal(mean[i], np.diag(np.exp(2 * log_std[i].astype(np.float64)))) for i in range(50)
    ]
    log_prob = np.array([law.logpdf(x) for law, x in zip(laws, reach, strict=True)])
    entropy = np.array([law.entropy() for law in laws])
    for name, logits in (("grip", grip), ("first", switches[:, :2]), ("second", switches[:, 2:])):
        probability = np.exp(logits.astype(np.float64)) / np.exp(logits.astype(np.float64)).sum(axis=1, keepdims=True)
        log_prob += np.log(probability[np.arange(50), chosen[name]])
        entropy += scipy.stats.entropy(probability, axis=1)
    np.testing.assert_allclose(policy.log_prob(action), log_prob, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(policy.entropy(), entropy, rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(policy.mode()["arm"].reach, mean)
    np.testing.assert_array_equal(policy.mode()["arm"].grip, grip.argmax(axis=1))


def test_the_parts_of_a_sample_are_independent():
    env = pjp.make_env(Choice((pjp.Discrete(3), pjp.Discrete(3), pjp.Box((), (-9.0,), (9.0,)))))
    actions = make_actions(env)
    logits = jnp.array([0.5, -0.3, 0.1])
    policy = actions.distribution((logits, logits, (jnp.zeros(1), jnp.zeros(1))))
    one, other, number = jax.tree.map(np.asarray, policy.sample(actions.noise(KEY, (100_000,))))
    assert one.dtype == other.dtype == np.int32
    assert number.dtype == np.float32
    probability = np.asarray(jax.nn.softmax(logits), np.float64)
    expected = np.multiply.outer(np.multiply.outer(probability, probability), np.full(4, 0.25)).ravel()
    quarter = np.digitize(number[:, 0], scipy.stats.norm.ppf([0.25, 0.5, 0.75]))
    counts = np.bincount(12 * one + 4 * other + quarter, minlength=36)
    assert scipy.stats.chisquare(counts, 100_000 * expected / expected.sum()).pvalue > RARE


class Choice:
    """One step in any action space; observes a vector, or its numbers by name."""

    default_params = None
    observation_space = pjp.Box((3,), (0.0,) * 3, (1.0,) * 3)
    shown = staticmethod(lambda x: x)

    def __init__(self, action_space, **changes):
        self.action_space = action_space
        self.__dict__.update(changes)

    def reset(self, key, params):
        state = jax.random.uniform(key, (3,))
        return self.shown(state), state

    def step(self, key, state, action, params):
        first = jax.tree.leaves(action)[0]
        return self.shown(state), state, jnp.sum(first * state[0]).astype(float), True, False


def test_two_choices_by_name_are_those_side_by_side():
    named = pjp.make_ppo(pjp.make_env(Choice({"a": pjp.Discrete(3), "b": pjp.Discrete(2)})), SMALL)
    beside = pjp.make_ppo(pjp.make_env(Choice(pjp.MultiDiscrete((3, 2)))), SMALL)
    runner = jax.jit(beside.init)(KEY)
    jax.tree.map(np.testing.assert_array_equal, runner.train_state.params, jax.jit(named.init)(KEY).train_state.params)
    one, other = (agent.distribution(runner.train_state, runner.obs) for agent in (named, beside))
    action = jnp.array([[0, 1], [2, 0], [1, 1], [2, 1]])
    by_name = {"a": action[:, 0], "b": action[:, 1]}
    np.testing.assert_array_equal(one.log_prob(by_name), other.log_prob(action))
    np.testing.assert_array_equal(one.entropy(), other.entropy())


def test_observations_by_name_are_those_in_one_vector():
    changes = {
        "observation_space": {"a": pjp.Box((2,), (0.0,) * 2, (1.0,) * 2), "b": pjp.Box((), (0.0,), (1.0,))},
        "shown": staticmethod(lambda x: {"a": x[:2], "b": x[2]}),
    }
    named = pjp.make_ppo(pjp.make_env(Choice(pjp.Discrete(3), **changes)), SMALL)
    beside = pjp.make_ppo(pjp.make_env(Choice(pjp.Discrete(3))), SMALL)
    one, other = (jax.jit(agent.init)(KEY) for agent in (named, beside))
    assert one.obs["a"].shape == (4, 2)
    assert one.train_state.obs_moments["b"].mean.shape == ()
    np.testing.assert_array_equal(jnp.column_stack([one.obs["a"], one.obs["b"]]), other.obs)
    jax.tree.map(np.testing.assert_array_equal, one.train_state.params, other.train_state.params)
    params = jax.tree.map(lambda x: x + 0.3, one.train_state.params)
    jax.tree.map(np.testing.assert_array_equal, named.forward(params, one.obs), beside.forward(params, other.obs))


# Agents


def make_agent(env, name):
    if name == "recurrent":
        return pjp.make_ppo(env, RECURRENT)
    return pjp.make_ppo(env, SMALL.replace(box_policy="squashed", box_std="state"))


@pytest.fixture(scope="module", params=["feed-forward", "recurrent"])
def trained(env, request):
    """An agent, its states before and after two updates, their metrics, and how often it was traced."""
    agent = make_agent(env, request.param)
    traces = []

    @jax.jit
    def update(runner):
        traces.append(1)
        return agent.update(runner)

    start = jax.jit(agent.init)(KEY)
    middle, first = update(start)
    end, second = update(middle)
    return agent, start, end, jax.tree.map(lambda *x: np.stack(x), first, second), len(traces)


def test_every_part_is_learned_in_one_program_and_stays_finite(trained):
    _, start, end, metrics, traces = trained
    assert traces == 1
    assert all(np.all(np.isfinite(x)) for x in jax.tree.leaves((end.train_state, metrics.policy_loss, metrics.entropy)))
    before, after = (jax.tree.leaves(x.train_state.params) for x in (start, end))
    assert all(np.any(x != y) for x, y in zip(before, after, strict=True))


def test_every_action_is_in_its_space_and_legal(trained):
    agent, _, end, metrics, _ = trained
    assert metrics.episode_return_min.min() > -100.0
    returns, _ = pjp.evaluate(agent, end.train_state, KEY, num_episodes=256, sampled=True)
    assert returns.min() > -100.0
    (episode,) = pjp.record_episodes(agent, end.train_state, KEY, max_steps=5)
    assert episode.reward.min() > -100.0
    assert episode.action["arm"].reach.shape == (4, 2)
    assert episode.action["switches"].dtype == episode.action["arm"].grip.dtype == np.int32
    assert episode.obs.obs["target"].shape == (5, 2)
    assert episode.probabilities is None


def test_the_first_minibatch_has_ratio_one(trained):
    agent, _, end, _, _ = trained
    np.testing.assert_allclose(jax.jit(functools.partial(ratios, agent))(end), 1.0, atol=STRICT, rtol=0)


def ratios(agent, runner):
    """Of each sample, or each step of each sequence, of the next rollout, before anything is learned from it."""
    _, transitions, parameters, _ = play(agent, runner, draw_noise(agent, KEY))
    steps = assess(agent, runner, transitions, parameters, KEY)[1]
    return ratio(agent, runner, to_batch(agent, steps, transitions))


def ratio(agent, runner, batch):
    distribution = agent.actions.distribution(agent.forward(runner.train_state.params, batch.obs)[0])
    return jnp.exp(distribution.log_prob(batch.action) - batch.log_prob)


def test_all_parts_are_learned(env):
    """8 is the most there is: the grips, the switches, and the arm on its targets. At random about -2."""
    config = pjp.PPOConfig(
        num_envs=64,
        num_steps=8,
        total_timesteps=64 * 8 * 100,
        learning_rate=3e-3,
        gamma=0.0,  # an action changes nothing but its reward
        hidden_sizes=(32,),
        ent_coef=0.0,
    )
    agent = pjp.make_ppo(env, config)
    runner, metrics = jax.jit(lambda key: pjp.update_many(agent, agent.init(key), config.num_updates))(KEY)
    assert metrics.episode_return_mean[0] < 1.0
    returns, _ = jax.jit(functools.partial(pjp.evaluate, agent, num_episodes=512))(runner.train_state, KEY)
    assert float(jnp.mean(returns)) > 7.8


# Masks


def test_an_illegal_action_of_a_part_is_impossible_and_has_no_gradient(env):
    def apply(params, obs):
        lead = obs["asked"].shape
        return jax.tree.map(lambda x: jnp.broadcast_to(x, (*lead, *x.shape)), params), jnp.zeros(lead)

    def init(key, obs):
        reach = jnp.zeros(2), jnp.zeros(2)
        return {"arm": Arm(reach=reach, grip=jnp.array([0.3, -0.2, 5.0])), "switches": jnp.zeros(5)}

    agent = pjp.make_ppo(env, SMALL, network=pjp.Network(init, apply))
    runner = jax.jit(agent.init)(KEY)
    state, obs = runner.train_state, jax.tree.map(lambda x: x[0], runner.obs)
    drawn = agent.distribution(state, obs).sample(agent.actions.noise(KEY, (100_000,)))
    counts = np.bincount(drawn["arm"].grip, minlength=3)
    expected = np.exp([0.3, -0.2]) / np.exp([0.3, -0.2]).sum()
    assert counts[2] == 0
    assert scipy.stats.chisquare(counts[:2], 100_000 * expected).pvalue > RARE
    assert int(agent.act(state, obs)["arm"].grip) == 0

    def loss(params):
        policy = agent.distribution(state.replace(params=params), obs)
        return policy.log_prob(agent.distribution(state, obs).mode()) + policy.entropy()

    slope = jax.grad(loss)(state.params)
    assert all(np.all(np.isfinite(x)) for x in jax.tree.leaves(slope))
    assert slope["arm"].grip[2] == 0
    assert slope["arm"].grip[0] != 0
    assert slope["switches"][0] != 0


# Populations


@pytest.mark.slow
def test_a_population_trains_and_comes_back(env, tmp_path):
    arguments = {"num_seeds": 2, "evaluation_episodes": 4, "out": tmp_path, "sweep": {"gamma": [0.9, 0.99]}}
    swept = pjp.train_population(env, SMALL, placement="data", **arguments)
    assert np.all(np.isfinite(swept[0].final_returns()))
    again = pjp.open_population(env, SMALL, **arguments)
    jax.tree.map(np.testing.assert_array_equal, swept[1].seed(1).train_state, again[1].seed(1).train_state)


# What is refused


def refused(parts, function, *args, **kwargs):
    with pytest.raises(pjp.PPOError) as caught:
        function(*args, **kwargs)
    assert "\n" not in str(caught.value)
    for part in parts:
        assert part in str(caught.value)


BOX = pjp.Box((2,), (-np.inf,) * 2, (np.inf,) * 2)


@pytest.mark.parametrize(
    ("space", "parts"),
    [
        ({}, ["Choice.action_space", "{}", "not a space"]),
        ((), ["not a space"]),
        ({"a": pjp.Discrete(2), "b": 3}, ["not a space", "3"]),
        ({"a": pjp.Discrete(2), "b": None}, ["not a space", "None"]),
        ({"a": pjp.Discrete(0)}, ["action_space['a']", "Discrete(n=0)"]),
        ((pjp.Discrete(2), pjp.MultiDiscrete(())), ["action_space[1]", "sizes=()"]),
    ],
)
def test_a_pytree_of_something_else_is_refused(space, parts):
    refused(parts, pjp.make_env, Choice(space))


def test_an_observation_of_another_structure_or_shape_is_refused():
    space = {"a": pjp.Box((2,), (0.0,) * 2, (1.0,) * 2), "b": pjp.MultiDiscrete((2, 2))}
    wrong = {"x": 1, "a": lambda x: {"a": x[:2]}, "b": lambda x: {"a": x[:2], "b": x[0]}}
    make = functools.partial(Choice, pjp.Discrete(2), observation_space=space)
    pjp.make_env(make(shown=lambda x: {"a": x[:2], "b": x[:2]}))
    refused(["observation", "{'a': *}", "{'a': *, 'b': *}"], pjp.make_env, make(shown=wrong["a"]))
    refused(["reset", "['b'] of shape ()", "(2,)"], pjp.make_env, make(shown=wrong["b"]))


def test_a_mask_that_does_not_fit_the_parts_is_refused():
    def masking(mask):
        return Choice({"a": pjp.Discrete(3), "b": BOX}, action_mask=lambda state, params: mask)

    refused(["action_mask['b']", "Box", "None"], pjp.make_env, masking({"a": None, "b": jnp.ones(2, bool)}))
    refused(["action_mask['a']", "bool[2]", "bool[3]"], pjp.make_env, masking({"a": jnp.ones(2, bool), "b": None}))
    refused(["action_mask", "{'a': *}", "{'a': *, 'b': *}"], pjp.make_env, masking({"a": jnp.ones(3, bool)}))
    refused(["action_mask is None", "leave action_mask out"], pjp.make_env, masking({"a": None, "b": None}))


@pytest.mark.parametrize("recurrent", [False, True])
def test_a_network_that_does_not_fit_is_refused_by_the_part(recurrent):
    env = pjp.make_env(Choice({"a": pjp.Discrete(3), "b": BOX}))

    def refuse(parts, returned):
        def apply(params, obs):
            return returned(obs[..., :1]), obs[..., 0]

        def remember(params, memory, obs):
            return memory, *apply(params, obs)

        def start():
            return jnp.zeros(1)

        if recurrent:
            network = pjp.RecurrentNetwork(lambda *_: (), remember, start)
            refused(parts, pjp.make_ppo, env, RECURRENT, network=network)
        else:
            refused(parts, pjp.make_ppo, env, SMALL, network=pjp.Network(lambda *_: (), apply))

    def wide(x, n):
        return jnp.repeat(x, n, axis=-1)

    refuse(["'a': 'float[2]'", "'a': 'float[3]'"], lambda x: {"a": wide(x, 2), "b": (wide(x, 2),) * 2})
    refuse(["'b': ('float[3]', 'float[3]')"], lambda x: {"a": wide(x, 3), "b": (wide(x, 3),) * 2})
    refuse(["'b': 'float[2]'", "'b': ('float[2]', 'float[2]')"], lambda x: {"a": wide(x, 3), "b": wide(x, 2)})
    refuse(["({'a': 'float[3]'}, 'float[]')"], lambda x: {"a": wide(x, 3)})


def test_choices_for_a_box_go_with_a_box_among_the_parts():
    discrete = pjp.make_env(Choice({"a": pjp.Discrete(3), "b": pjp.Discrete(2)}))
    refused(["box_std", "do nothing"], pjp.make_ppo, discrete, SMALL.replace(box_std="state"))
    mixed = pjp.make_env(Choice({"a": pjp.Discrete(3), "b": BOX}))
    pjp.make_ppo(mixed, SMALL.replace(box_std="state"))
    refused(["'squashed'", "finite"], pjp.make_ppo, mixed, SMALL.replace(box_policy="squashed"))


def test_full_batch_ppo_refuses_what_it_cannot_take():
    config = pjp.FullBatchConfig(num_steps=8, total_timesteps=8)
    refused(["Discrete spaces"], pjp.make_full_batch_ppo, pjp.make_env(Choice({"a": pjp.Discrete(2)})), config)
    env = pjp.make_env(Choice(pjp.Discrete(2), observation_space=(pjp.Discrete(2),), shown=lambda x: (x[0],)))
    refused(["observation space (Discrete(n=2),)", "vectors"], pjp.make_full_batch_ppo, env, config)


# gymnax


class Gymnax(environment.Environment):
    """A gymnax environment with a Dict and a Tuple, one in the other."""

    @property
    def name(self):
        return "Gymnax"

    @property
    def default_params(self):
        return environment.EnvParams(max_steps_in_episode=1)

    def reset_env(self, key, params):
        state = environment.EnvState(time=0)
        return self.observe(state), state

    def step_env(self, key, state, action, params):
        state = environment.EnvState(time=state.time + 1)
        reward = action["go"].astype(float) + action["how"][1][0]
        return self.observe(state), state, reward, jnp.bool_(False), {}

    def observe(self, state):
        return (jnp.int32(state.time), jnp.zeros((2, 2)))

    def is_truncated(self, state, params):
        return state.time >= params.max_steps_in_episode

    def observation_space(self, params):
        return spaces.Tuple((spaces.Discrete(2), spaces.Box(0.0, 1.0, (2, 2))))

    def action_space(self, params=None):
        how = spaces.Tuple((spaces.Discrete(3), spaces.Box(-1.0, 1.0, (1,))))
        return spaces.Dict({"how": how, "go": spaces.Discrete(2)})


def test_gymnaxs_dicts_and_tuples_are_pytrees():
    env = pjp.make_env(Gymnax())
    assert env.action_space.tree == {"go": pjp.Discrete(2), "how": (pjp.Discrete(3), pjp.Box((1,), (-1.0,), (1.0,)))}
    assert env.observation_space.tree[1].shape == (2, 2)
    agent = pjp.make_ppo(env, SMALL)
    runner = jax.jit(agent.init)(KEY)
    obs = jax.tree.map(lambda x: x[0], runner.obs)
    assert obs[0].dtype == np.float32
    action = agent.act(runner.train_state, obs)
    step = env.step(KEY, jax.tree.map(lambda x: x[0], runner.env_state), action, env.params)
    assert float(step.reward) == pytest.approx(float(action["go"] + action["how"][1][0]))
    assert bool(step.truncated)
