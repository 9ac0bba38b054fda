"""Policies over each kind of action space: densities, bounds, masks, and that an agent learns with them."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.integrate
import scipy.stats

import purejaxppo as pjp
from purejaxppo.policies.actions import make_actions
from purejaxppo.ppo.agent import assess, draw_noise, play, to_batch
from purejaxppo.ppo.shuffle import shuffled_indices

KEY = jax.random.key(0)
SMALL = pjp.PPOConfig(num_envs=4, num_steps=16, total_timesteps=4 * 16 * 4, hidden_sizes=(8,))
DRAWS = 10**6
RARE = 1e-4


def gaussian(seed, *shape):
    rng = np.random.default_rng(seed)
    return rng.normal(size=shape).astype(np.float32), rng.normal(scale=0.5, size=shape).astype(np.float32)


# Gaussians


def test_the_log_density_and_the_entropy_of_a_gaussian_agree_with_scipy():
    mean, log_std = gaussian(0, 50, 3)
    action = np.random.default_rng(1).normal(scale=3.0, size=(50, 3)).astype(np.float32)
    policy, law = pjp.DiagGaussian(mean, log_std), scipy.stats.norm(mean, np.exp(log_std.astype(np.float64)))
    np.testing.assert_allclose(policy.log_prob(action), law.logpdf(action).sum(axis=-1), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(policy.entropy(), law.entropy().sum(axis=-1), rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(policy.mode(), mean)


def test_samples_of_a_gaussian_have_its_law():
    mean, log_std = gaussian(2, 2)
    noise = pjp.DiagGaussian.noise(KEY, (100_000, 2))
    drawn = np.asarray(pjp.DiagGaussian(mean, log_std).sample(noise))
    for i in range(2):
        law = scipy.stats.norm(mean[i], np.exp(log_std[i]))
        assert scipy.stats.kstest(drawn[:, i], law.cdf).pvalue > RARE
    assert abs(np.corrcoef(drawn.T)[0, 1]) < 0.02


def test_the_gradient_of_the_gaussian_is_that_of_the_formula():
    mean, log_std = gaussian(3, 4)
    action = np.asarray([0.3, -2.0, 1.5, 0.0], np.float32)
    by_mean, by_log_std = jax.grad(lambda m, s: pjp.DiagGaussian(m, s).log_prob(action), argnums=(0, 1))(mean, log_std)
    variance = np.exp(2 * log_std.astype(np.float64))
    np.testing.assert_allclose(by_mean, (action - mean) / variance, rtol=1e-4)
    np.testing.assert_allclose(by_log_std, (action - mean) ** 2 / variance - 1, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("mean", "std"), [(0.0, 1.0), (0.7, 0.3), (-1.5, 0.8), (0.2, 2.0)])
def test_the_squashed_density_integrates_to_1_and_is_that_of_its_samples(mean, std):
    policy = pjp.SquashedGaussian(pjp.DiagGaussian(jnp.full(1, mean), jnp.log(jnp.full(1, std))))
    edges = np.linspace(-1.0, 1.0, 41)
    # In u = atanh(a), where the integrand is smooth up to the bounds: da = (1 - tanh^2 u) du.
    u = np.linspace(mean - 9 * std, mean + 9 * std, 20_001)
    density = np.exp(np.asarray(jax.vmap(policy.log_prob)(jnp.asarray(u[:, None], jnp.float32)), np.float64))
    cumulative = scipy.integrate.cumulative_trapezoid(density / np.cosh(u) ** 2, u, initial=0.0)
    assert cumulative[-1] == pytest.approx(1.0, abs=1e-4)
    drawn = np.tanh(np.asarray(policy.sample(policy.noise(KEY, (100_000, 1))), np.float64)[:, 0])
    counts, _ = np.histogram(drawn, edges)
    with np.errstate(divide="ignore"):
        expected = 100_000 * np.diff(np.interp(np.arctanh(edges), u, cumulative))
    seen = expected > 20
    assert scipy.stats.chisquare(counts[seen], expected[seen] * counts[seen].sum() / expected[seen].sum()).pvalue > RARE


@pytest.mark.parametrize(
    ("mean", "std", "error"), [(0.0, 0.1, 1e-5), (0.5, 1.0, 1e-5), (-2.0, 1.0, 1e-5), (1, 3, 3e-3)]
)
def test_the_squashed_entropy_is_the_integral_of_the_density(mean, std, error):
    policy = pjp.SquashedGaussian(pjp.DiagGaussian(jnp.full(1, mean, float), jnp.log(jnp.full(1, std, float))))
    u = np.linspace(mean - 10 * std, mean + 10 * std, 200_001)
    log_density = scipy.stats.norm(mean, std).logpdf(u) + 2 * np.log(np.cosh(u))
    weight = scipy.stats.norm(mean, std).pdf(u)
    assert float(policy.entropy()) == pytest.approx(
        -scipy.integrate.trapezoid(weight * log_density, u), abs=error + 1e-5
    )
    batch = pjp.SquashedGaussian(pjp.DiagGaussian(jnp.full((2, 5, 1), mean, float), jnp.full((2, 5, 1), np.log(std))))
    np.testing.assert_allclose(batch.entropy(), policy.entropy(), rtol=1e-5)
    assert batch.entropy().shape == (2, 5)


@pytest.mark.parametrize("action", [-80.0, -20.0, -9.0, 0.0, 9.0, 20.0, 80.0])
def test_the_squashed_log_density_stays_finite_where_tanh_rounds_to_the_bound(action):
    def log_prob(mean, action):
        return pjp.SquashedGaussian(pjp.DiagGaussian(mean, jnp.zeros(1))).log_prob(action)

    got, slope = jax.value_and_grad(log_prob)(jnp.full(1, action - 0.5), jnp.full(1, action))
    exact = scipy.stats.norm.logpdf(0.5) + 2 * (np.logaddexp(action, -action) - np.log(2))
    assert float(got) == pytest.approx(exact, rel=1e-5, abs=1e-4)
    assert float(slope[0]) == pytest.approx(0.5, rel=1e-4)


# Several choices


def test_several_choices_are_independent_categoricals():
    logits = jnp.asarray(np.random.default_rng(4).normal(size=(6, 9)), jnp.float32)
    policy = pjp.MultiCategorical(logits, (3, 2, 4))
    parts = [pjp.Categorical(logits[:, i:j]) for i, j in ((0, 3), (3, 5), (5, 9))]
    action = jnp.asarray(np.random.default_rng(5).integers(0, [3, 2, 4], (6, 3)), jnp.int32)
    np.testing.assert_allclose(policy.log_prob(action), sum(p.log_prob(action[:, i]) for i, p in enumerate(parts)))
    np.testing.assert_allclose(policy.entropy(), sum(p.entropy() for p in parts))
    np.testing.assert_array_equal(policy.mode(), np.stack([p.mode() for p in parts], axis=1))
    assert policy.mode().dtype == policy.sample(policy.noise(KEY, (6, 3))).dtype == jnp.int32


def test_sampling_frequencies_of_several_choices_are_the_products():
    logits = jnp.asarray([0.5, -0.3, 0.1, 1.0, -0.5])
    policy = pjp.MultiCategorical(logits, (3, 2))
    drawn = np.asarray(policy.sample(policy.noise(KEY, (DRAWS, 2))))
    counts = np.bincount(2 * drawn[:, 0] + drawn[:, 1], minlength=6)
    expected = np.outer(jax.nn.softmax(logits[:3]), jax.nn.softmax(logits[3:])).ravel().astype(np.float64)
    assert scipy.stats.chisquare(counts, DRAWS * expected / expected.sum()).pvalue > RARE


# Agents


class Target:
    """One step: the reward is -|action - target|^2, summed over the action as it arrives, and -1e6 out of bounds."""

    default_params = None
    observation_space = pjp.Box((1,), (-1.0,), (1.0,))

    def __init__(self, action_space):
        self.action_space = action_space

    def reset(self, key, params):
        target = jax.random.uniform(key, (1,), minval=-1.0)
        return target, target

    def step(self, key, state, action, params):
        reward = -jnp.sum(jnp.square(action - state[0]).astype(float))
        return state, state, jnp.where(self.outside(action), -1e6, reward), True, False

    def outside(self, action):
        if isinstance(self.action_space, pjp.MultiDiscrete):
            return jnp.any((action < 0) | (action >= jnp.array(self.action_space.sizes)))
        box = self.action_space
        low, high = (jnp.reshape(jnp.array(bound), box.shape) for bound in (box.low, box.high))
        return jnp.any((action < low) | (action > high))


SPACES = {
    "Box": pjp.Box((2, 3), (-1.0,) * 6, (0.5, 1.0) * 3),
    "Box of one number": pjp.Box((), (-0.5,), (0.5,)),
    "MultiDiscrete": pjp.MultiDiscrete((3, 2, 4)),
}
BOXES = [{}, {"box_policy": "squashed"}, {"box_std": "state"}, {"box_policy": "squashed", "box_std": "state"}]
CASES = [(space, {}) for space in SPACES] + [("Box", BOXES[-1])]
each_case = pytest.mark.parametrize(("space", "changes"), CASES, ids=str)


@functools.cache
def target(space):
    return pjp.make_env(Target(SPACES[space]))


@each_case
def test_every_space_can_be_acted_in_and_learned_from(space, changes):
    env = target(space)
    agent = pjp.make_ppo(env, SMALL.replace(**changes))
    traces = []

    @jax.jit
    def update(runner):
        traces.append(1)
        return agent.update(runner)

    start = jax.jit(agent.init)(KEY)
    runner, metrics = start, None
    for _ in range(2):
        runner, metrics = update(runner)
        assert float(metrics.episode_return_min) > -1000.0
        assert all(bool(jnp.all(jnp.isfinite(x))) for x in jax.tree.leaves((runner.train_state, metrics.entropy)))
    assert len(traces) == 1
    before, after = (jax.tree.leaves(x.train_state.params) for x in (start, runner))
    assert all(bool(jnp.any(x != y)) for x, y in zip(before, after, strict=True))

    state, obs = runner.train_state, runner.obs[0]
    actions = np.asarray(jax.vmap(lambda key: agent.act(state, obs, key))(jax.random.split(KEY, 500)))
    greedy = np.asarray(agent.act(state, obs))
    if isinstance(env.action_space, pjp.Box):
        box = env.action_space
        low, high = (np.asarray(x, np.float32).reshape(box.shape) for x in (box.low, box.high))
        assert greedy.shape == env.action_space.shape
        assert np.all((low <= actions) & (actions <= high))
        assert np.any(actions == low) == ("box_policy" not in changes)
    else:
        assert greedy.shape == (3,)
        assert actions.max(axis=0).tolist() == [2, 1, 3]
        assert actions.min() == 0

    returns, _ = pjp.evaluate(agent, state, KEY, num_episodes=64, sampled=True)
    assert np.all(returns > -1000.0)
    (episode,) = pjp.record_episodes(agent, state, KEY, max_steps=3)
    assert episode.action.shape == (1, *greedy.shape)
    assert episode.probabilities is None


def test_the_first_minibatch_has_ratio_one():
    """Of the most involved policy over a Box; test_space_trees.py has a clipped one."""
    agent = pjp.make_ppo(pjp.make_env("Pendulum-v1"), pjp.PPOConfig(normalize_obs=True, **BOXES[-1]))

    def ratios(key):
        runner, _ = pjp.update_many(agent, agent.init(key), 2)
        state = runner.train_state
        _, transitions, parameters, _ = play(agent, runner, draw_noise(agent, key))
        batch = to_batch(agent, assess(agent, runner, transitions, parameters, key)[1], transitions)
        chosen = shuffled_indices(key, 1, agent.config.num_minibatches, agent.config.batch_size)[0, 0]
        minibatch = jax.tree.map(lambda x: x[chosen], batch)
        distribution = agent.actions.distribution(agent.network.apply(state.params, minibatch.obs)[0])
        return jnp.exp(distribution.log_prob(minibatch.action) - minibatch.log_prob)

    np.testing.assert_allclose(jax.jit(ratios)(KEY), 1.0, atol=2**-20, rtol=0)


def test_a_clipped_action_keeps_the_log_probability_of_its_sample():
    env = target("Box")
    actions = make_actions(env)
    sample = jnp.asarray([-3.0, 0.2, 3.0, 0.4, -0.5, 7.0])
    assert actions.to_env(sample).tolist() == [pytest.approx(row) for row in ([-1.0, 0.2, 0.5], [0.4, -0.5, 1.0])]
    policy = actions.distribution((jnp.zeros(6), jnp.zeros(6)))
    assert float(policy.log_prob(sample)) == pytest.approx(scipy.stats.norm.logpdf(sample).sum(), rel=1e-5)


def test_tanh_takes_the_line_onto_the_bounds():
    actions = make_actions(target("Box of one number"), "squashed")
    got = [float(actions.to_env(jnp.asarray([u]))) for u in (-50.0, 0.0, 0.3, 50.0)]
    assert got == pytest.approx([-0.5, 0.0, 0.5 * np.tanh(0.3), 0.5], abs=1e-6)


def refused(parts, function, *args, **kwargs):
    with pytest.raises(pjp.PPOError) as caught:
        function(*args, **kwargs)
    assert "\n" not in str(caught.value)
    for part in parts:
        assert part in str(caught.value)


def test_choices_that_do_not_fit_the_space_are_refused():
    refused(["box_policy", "'tanh'", "clipped, squashed"], pjp.PPOConfig, box_policy="tanh")
    for name, value in (("box_policy", "squashed"), ("box_std", "state")):
        refused(
            [name, "CartPole", "do nothing"], pjp.make_ppo, pjp.make_env("CartPole-v1"), SMALL.replace(**{name: value})
        )
    for high in (np.inf, 3.4e38):
        env = pjp.make_env(Target(pjp.Box((1,), (-float(high),), (float(high),))))
        refused(["'squashed'", "finite", "'clipped'"], pjp.make_ppo, env, SMALL.replace(box_policy="squashed"))
        pjp.make_ppo(env, SMALL)


def test_a_network_of_ones_own_gives_mean_and_log_std():
    env = pjp.make_env("Pendulum-v1")

    def network(size, parameters):
        return pjp.Network(
            init=lambda key, obs: {"mean": jnp.zeros((3, size)), "value": jnp.zeros(3)},
            apply=lambda params, obs: (parameters(obs @ params["mean"]), obs @ params["value"]),
        )

    agent = pjp.make_ppo(env, SMALL, network=network(1, lambda mean: (mean, jnp.full_like(mean, -1.0))))
    runner, _ = jax.jit(lambda key: agent.update(agent.init(key)))(KEY)
    assert np.any(runner.train_state.params["mean"] != 0)
    wrong = network(1, lambda mean: mean)
    refused(["(mean, log_std)", "('float[1]', 'float[1]')"], pjp.make_ppo, env, SMALL, network=wrong)
    wrong = network(2, lambda mean: (mean, mean))
    refused(["('float[2]', 'float[2]')", "('float[1]', 'float[1]')"], pjp.make_ppo, env, SMALL, network=wrong)


# Masks


class Masked:
    """Three or 3 x 2 choices; which are legal is drawn in each step. An illegal one is counted in the state's flag."""

    default_params = None
    observation_space = pjp.Box((2,), (0.0, 0.0), (1.0, 50.0))

    def __init__(self, action_space):
        self.action_space = action_space
        self.num_logits = action_space.n if isinstance(action_space, pjp.Discrete) else sum(action_space.sizes)

    def reset(self, key, params):
        return jnp.zeros(2), (jax.random.bernoulli(key, 0.5, (self.num_logits,)), 0)

    def action_mask(self, state, params):
        mask = state[0]
        if isinstance(self.action_space, pjp.Discrete):
            return mask.at[1].set(mask[1] | ~jnp.any(mask))
        return mask.at[jnp.array([0, 3])].set(True)

    def step(self, key, state, action, params):
        legal = self.action_mask(state, params)
        chosen = action if isinstance(self.action_space, pjp.Discrete) else action + jnp.array([0, 3])
        draw_key, end_key = jax.random.split(key)
        time = state[1] + 1
        new = (jax.random.bernoulli(draw_key, 0.5, (self.num_logits,)), time)
        reward = jnp.where(jnp.all(legal[chosen]), 1.0, -1000.0)
        return jnp.array([0.5, time]), new, reward, jax.random.bernoulli(end_key, 0.1), time >= 50


@functools.cache
def masked(kind):
    return pjp.make_env(Masked({"one": pjp.Discrete(3), "several": pjp.MultiDiscrete((3, 2))}[kind]))


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "normalize_obs"), [("one", True), ("several", False)])
def test_no_illegal_action_is_ever_taken_in_training_or_evaluation(kind, normalize_obs):
    agent = pjp.make_ppo(masked(kind), SMALL.replace(normalize_obs=normalize_obs))
    runner, metrics = jax.jit(lambda key: pjp.update_many(agent, agent.init(key), 4))(KEY)
    assert isinstance(runner.obs, pjp.MaskedObs)
    assert runner.obs.action_mask.dtype == jnp.bool_
    assert np.nanmin(metrics.episode_return_min) >= 1.0
    assert all(np.all(np.isfinite(x)) for x in jax.tree.leaves((runner.train_state, metrics.policy_loss)))
    np.testing.assert_allclose(metrics.approx_kl[0], 0.0, atol=0.01)
    for sampled in (False, True):
        returns, lengths = pjp.evaluate(agent, runner.train_state, KEY, num_episodes=64, sampled=sampled)
        np.testing.assert_array_equal(returns, lengths)


def test_an_illegal_action_is_not_drawn_in_a_million_and_has_no_gradient():
    network = pjp.Network(
        init=lambda key, obs: jnp.asarray([0.3, 5.0, -0.2]),
        apply=lambda params, obs: (jnp.broadcast_to(params, (*obs.shape[:-1], 3)), jnp.zeros(obs.shape[:-1])),
    )
    agent = pjp.make_ppo(masked("one"), SMALL, network=network)
    state = agent.init(KEY).train_state
    obs = pjp.MaskedObs(jnp.zeros(2), jnp.asarray([True, False, True]))

    policy = agent.distribution(state, obs)
    counts = np.bincount(policy.sample(agent.actions.noise(KEY, (DRAWS,))), minlength=3)
    assert counts[1] == 0
    expected = np.exp([0.3, -0.2]) / np.exp([0.3, -0.2]).sum()
    assert scipy.stats.chisquare(counts[[0, 2]], DRAWS * expected).pvalue > RARE
    assert int(agent.act(state, obs)) == 0
    assert float(policy.entropy()) == pytest.approx(scipy.stats.entropy(expected), rel=1e-5)

    def loss(params):
        policy = agent.distribution(state.replace(params=params), obs)
        return policy.log_prob(jnp.int32(0)) + policy.entropy()

    slope = np.asarray(jax.grad(loss)(state.params))
    assert np.all(np.isfinite(slope))
    assert slope[1] == 0
    assert slope[0] != 0


@pytest.mark.slow
def test_a_mask_that_allows_everything_changes_no_number():
    class Open(Masked):
        def action_mask(self, state, params):
            return jnp.ones(3, bool)

    class Bare(Open):
        action_mask = None

        def step(self, key, state, action, params):
            return Open(self.action_space).step(key, state, action, params)

    results = []
    for env in (Open(pjp.Discrete(3)), Bare(pjp.Discrete(3))):
        agent = pjp.make_ppo(pjp.make_env(env), SMALL)
        results.append(jax.jit(lambda key, agent=agent: pjp.update_many(agent, agent.init(key), 2))(KEY))
    (one, one_metrics), (other, other_metrics) = results
    assert not isinstance(other.obs, pjp.MaskedObs)
    jax.tree.map(np.testing.assert_array_equal, one.train_state.params, other.train_state.params)
    jax.tree.map(np.testing.assert_array_equal, one_metrics, other_metrics)


def test_full_batch_ppo_refuses_what_it_does_not_heed():
    config = pjp.FullBatchConfig(num_steps=8, total_timesteps=8)
    refused(["masks"], pjp.make_full_batch_ppo, masked("one"), config)
    refused(["Discrete spaces"], pjp.make_full_batch_ppo, target("Box"), config)


# Populations, and what they write


@pytest.mark.slow
def test_a_population_with_masks_trains_is_evaluated_and_comes_back(tmp_path):
    """test_gymnasium.py has one over a Box."""
    env = masked("one")
    arguments = {"num_seeds": 2, "evaluation_episodes": 4, "out": tmp_path, "placement": "data"}
    population = pjp.train_population(env, SMALL, **arguments)
    assert np.all(np.isfinite(population.final_returns()))
    one, again = population.seed(1), pjp.train_population(env, SMALL, **arguments).seed(1)
    jax.tree.map(np.testing.assert_array_equal, one.train_state, again.train_state)
    assert jax.tree.structure(one) == jax.tree.structure(again)
    action = population.agent.act(one.train_state, jax.tree.map(lambda x: x[0], one.obs))
    assert action.shape == ()
