import dataclasses
import functools
import json

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import purejaxppo as pjp
from purejaxppo.cli import main as cli
from purejaxppo.policies.recurrent_networks import CELLS, gru_step, log_time_scales, lstm_bias, lstm_step
from purejaxppo.population.jobs import make_jobs
from purejaxppo.population.options import Experiment
from purejaxppo.ppo.agent import assess, draw_noise, play
from purejaxppo.ppo.memory import cut_in_sequences, replay, to_sequences

SMALL = pjp.RecurrentConfig(
    num_envs=4, num_steps=16, total_timesteps=4 * 16 * 8, hidden_sizes=(8,), cell_size=8, num_minibatches=2
)


class Recall:
    """A cue at the first step, one of two; 20 steps later the action that matches it pays 1, the other -1."""

    default_params = None
    observation_space = pjp.Box((2,), (-1.0,) * 2, (1.0,) * 2)
    action_space = pjp.Discrete(2)
    last = 20

    def reset(self, key, params):
        cue = jax.random.bernoulli(key).astype(jnp.int32)
        return self.observe(cue, 0), (cue, jnp.int32(0))

    def step(self, key, state, action, params):
        cue, time = state
        ends = time == self.last
        reward = jnp.where(ends, jnp.where(action == cue, 1.0, -1.0), 0.0)
        return self.observe(cue, time + 1), (cue, time + 1), reward, ends, False

    def observe(self, cue, time):
        return jnp.stack([jnp.where(time == 0, 2.0 * cue - 1.0, 0.0), jnp.where(time == self.last, 1.0, 0.0)])


class Clock:
    """Nothing to see and nothing to gain, in episodes that are cut after 3 steps."""

    default_params = None
    observation_space = pjp.Box((1,), (0.0,), (0.0,))
    action_space = pjp.Discrete(2)

    def reset(self, key, params):
        return jnp.zeros(1), jnp.int32(0)

    def step(self, key, state, action, params):
        return jnp.zeros(1), state + 1, 0.0, False, state + 1 == 3


def count_apply(params, count, obs):
    """Remembers how many observations it has seen, and values them at that."""
    count = count + 1.0
    return count, params["logits"] + jnp.zeros((*count.shape, 2)), count + params["offset"]


COUNTER = pjp.RecurrentNetwork(
    init=lambda key, memory, obs: {"logits": jnp.zeros(2), "offset": jnp.zeros(())},
    apply=count_apply,
    start=lambda: jnp.zeros(()),
)


@pytest.fixture(scope="module")
def env():
    return pjp.make_env("CartPole-v1")


def collect(agent, runner):
    """One rollout, its steps and its sequences, as `update` makes them."""
    return jax.jit(functools.partial(_collect, agent))(runner)


def _collect(agent, runner):
    noise_key, _ = jax.random.split(jax.random.fold_in(runner.key, runner.train_state.update))
    runner, transitions, parameters, _ = play(agent, runner, draw_noise(agent, noise_key))
    _, steps, _ = assess(agent, runner, transitions, parameters, runner.key)
    return transitions, steps, to_sequences(steps, transitions, agent.config.steps_of_a_sequence)


def train_and_collect(agent, num_updates):
    """The runner after `num_updates`, and what `collect` makes of it, in one program."""

    @jax.jit
    def train(key):
        runner, _ = pjp.update_many(agent, agent.init(key), num_updates)
        return runner, _collect(agent, runner)

    return train(jax.random.key(0))


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def test_the_gru_is_its_equations_in_float64():
    rng = np.random.default_rng(0)
    kernel, bias = rng.normal(size=(5, 15)), rng.normal(size=5)
    hidden, inputs = rng.normal(size=(7, 5)), rng.normal(size=(4, 7, 15))
    ours = jnp.asarray(hidden, jnp.float32)
    for x in inputs:
        u = hidden @ kernel
        r, z = sigmoid(x[:, :5] + u[:, :5]), sigmoid(x[:, 5:10] + u[:, 5:10])
        hidden = (1 - z) * np.tanh(x[:, 10:] + r * (u[:, 10:] + bias)) + z * hidden
        ours = gru_step({"kernel": jnp.float32(kernel), "bias": jnp.float32(bias)}, ours, jnp.float32(x))
    np.testing.assert_allclose(ours, hidden, atol=1e-5)


def test_the_gru_is_that_of_flax():
    cell = nn.GRUCell(5, bias_init=nn.initializers.normal(1.0))
    hidden, x = jax.random.normal(jax.random.key(0), (2, 7, 5))
    params = cell.init(jax.random.key(1), hidden, x)
    p = params["params"]
    inputs = jnp.concatenate([x @ p[f"i{gate}"]["kernel"] + p[f"i{gate}"]["bias"] for gate in "rzn"], axis=-1)
    kernel = jnp.concatenate([p[f"h{gate}"]["kernel"] for gate in "rzn"], axis=-1)
    ours = gru_step({"kernel": kernel, "bias": p["hn"]["bias"]}, hidden, inputs)
    np.testing.assert_allclose(ours, cell.apply(params, hidden, x)[0], atol=1e-6)


def test_the_lstm_is_its_equations_in_float64():
    rng = np.random.default_rng(0)
    kernel, inputs = rng.normal(size=(5, 20)), rng.normal(size=(4, 7, 20))
    cell, hidden = rng.normal(size=(2, 7, 5))
    ours = jnp.asarray(cell, jnp.float32), jnp.asarray(hidden, jnp.float32)
    for x in inputs:
        i, f, g, o = np.split(x + hidden @ kernel, 4, axis=-1)
        cell = sigmoid(f) * cell + sigmoid(i) * np.tanh(g)
        hidden = sigmoid(o) * np.tanh(cell)
        ours = lstm_step({"kernel": jnp.float32(kernel)}, ours, jnp.float32(x))
    np.testing.assert_allclose(ours[0], cell, atol=1e-5)
    np.testing.assert_allclose(ours[1], hidden, atol=1e-5)


def test_a_cell_starts_with_orthogonal_gates_and_time_scales_up_to_a_sequence():
    for cell in CELLS.values():
        kernel = cell.init(jax.random.key(0), 16)["kernel"]
        for gate in np.split(kernel, cell.num_gates, axis=1):
            np.testing.assert_allclose(gate @ gate.T, np.eye(16), atol=1e-5)
    scales = np.exp(log_time_scales(jax.random.key(1), 10_000, 64))
    assert scales.min() >= 1
    assert scales.max() <= 63
    assert abs(scales.mean() - 32) < 1
    i, f, g, o = np.split(np.asarray(lstm_bias(jax.random.key(2), 16, 64)), 4)
    np.testing.assert_array_equal(i, -f)
    assert f.max() > 1
    assert not g.any()
    assert not o.any()
    np.testing.assert_array_equal(log_time_scales(jax.random.key(1), 4, 1), 0.0)


@pytest.mark.parametrize("platform", ["cpu", "gpu"])
@pytest.mark.parametrize("compute_dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(("cell", "share_trunk"), [("gru", False), ("lstm", False), ("gru", True), ("lstm", True)])
def test_the_replay_is_the_steps_one_after_another(env, cell, share_trunk, compute_dtype, platform, monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: platform)  # the program for it runs on a CPU too
    agent = pjp.make_ppo(env, SMALL.replace(cell=cell, share_trunk=share_trunk, compute_dtype=compute_dtype))
    runner = agent.init(jax.random.key(0))
    obs = jax.random.normal(jax.random.key(1), (16, 4, 4))
    reset = jax.random.bernoulli(jax.random.key(2), 0.2, (16, 4))
    memory = jax.tree.map(lambda x: x + 0.5, runner.memory)

    def loss(replayed, params):
        logits, value = replayed(params, memory, obs, reset)
        return jnp.sum(logits**2) + jnp.sum(value**2), (logits, value)

    def both(replayed):
        return jax.jit(jax.grad(functools.partial(loss, replayed), has_aux=True))(runner.train_state.params)

    (ours, outputs), (theirs, stepped) = both(agent.network.replay), both(functools.partial(replay, agent.network))
    for a, b in zip(outputs, stepped, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)
    tolerance = {"float32": 1e-5, "bfloat16": 2e-2}[compute_dtype]  # of sums up to 8
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=tolerance)


@pytest.mark.parametrize("cell", ["gru", "lstm"])
def test_nothing_passes_a_reset_in_the_replay(env, cell):
    agent = pjp.make_ppo(env, SMALL.replace(cell=cell))
    runner = agent.init(jax.random.key(0))
    obs = jax.random.normal(jax.random.key(1), (10, 4, 4))
    reset = jnp.zeros((10, 4), bool).at[6, 0].set(True)  # environment 0 alone begins anew

    def outputs(obs, memory=runner.memory):
        logits, value = agent.network.replay(runner.train_state.params, memory, obs, reset)
        return np.concatenate([logits, value[..., None]], axis=-1)

    base, before, after = outputs(obs), outputs(obs.at[4].add(1.0)), outputs(obs.at[7].add(1.0))
    assert not np.any(base[4:6, 0] == before[4:6, 0])
    np.testing.assert_array_equal(base[6:, 0], before[6:, 0])
    assert not np.any(base[6:, 1:] == before[6:, 1:])
    assert not np.any(base[7:] == after[7:])
    first = outputs(obs, jax.tree.map(lambda x: x + 1.0, runner.memory))
    assert not np.any(base[:6] == first[:6])
    np.testing.assert_array_equal(base[6:, 0], first[6:, 0])


def test_replaying_the_rollout_reproduces_it(env):
    """Up to rounding: W x of one step and of a whole sequence are products of different shapes."""
    config = SMALL.replace(
        cell="lstm",
        sequence_length=8,
        num_steps=64,
        total_timesteps=10_000,
        learning_rate=3e-3,
        normalize_obs=True,
        normalize_reward=True,
    )
    agent = pjp.make_ppo(env, config)
    runner, (transitions, _, batch) = train_and_collect(agent, 4)
    assert np.sum(transitions.terminated) > 3
    parameters, value = agent.forward(runner.train_state.params, batch.obs)
    ratio = jnp.exp(pjp.Categorical(parameters).log_prob(batch.action) - batch.log_prob)
    assert value.shape == (config.num_samples, config.steps_of_a_sequence)
    np.testing.assert_allclose(ratio, 1.0, atol=2e-6, rtol=0)
    np.testing.assert_allclose(value, batch.value, atol=1e-5)


@pytest.mark.parametrize("fields", [{}, {"compute_dtype": "bfloat16", "cell": "lstm"}], ids=str)
def test_the_first_minibatch_of_an_update_has_ratio_one(env, fields):
    config = SMALL.replace(update_epochs=1, num_minibatches=1, learning_rate=3e-3, anneal_lr=False, **fields)
    agent = pjp.make_ppo(env, config)
    assert set(agent.network.start()) == {"actor", "critic"}
    assert set(pjp.make_ppo(env, config.replace(share_trunk=True)).network.start()) == {"trunk"}
    _, metrics = jax.jit(lambda key: pjp.update_many(agent, agent.init(key), 4))(jax.random.key(0))
    assert np.all((metrics.approx_kl >= 0) & (metrics.approx_kl < 1e-10))
    assert not metrics.clip_fraction.any()


@pytest.fixture(scope="module")
def collected(env):
    """An agent that has learned a little, and its next rollout."""
    agent = pjp.make_ppo(env, SMALL.replace(num_steps=64, total_timesteps=1_000))
    return agent, *train_and_collect(agent, 3)


def test_chunks_with_their_stored_memories_are_the_whole_sequence(env, collected):
    """A rollout cut in 4, and whole: the same outputs, before anything is learned."""
    whole, runner, (transitions, steps, batch) = collected
    chunked = pjp.make_ppo(env, whole.config.replace(sequence_length=16))
    chunks = to_sequences(steps, transitions, 16)
    assert chunks.value.shape == (16, 16)
    assert chunks.obs.memory["actor"].shape == (16, 8)
    np.testing.assert_array_equal(chunks.value.reshape(4, 4, 16)[2, 1], batch.value[1, 32:48])
    for one, other in zip(
        whole.forward(runner.train_state.params, batch.obs),
        chunked.forward(runner.train_state.params, chunks.obs),
        strict=True,
    ):
        joined = jnp.moveaxis(other.reshape(4, 4, *other.shape[1:]), 0, 1).reshape(one.shape)
        np.testing.assert_allclose(one, joined, atol=2e-6)


def test_a_sequence_is_consecutive_steps_of_one_environment():
    x = jnp.arange(12)[:, None] + 100 * jnp.arange(3)  # [T, B]
    pieces = cut_in_sequences(4, x)
    np.testing.assert_array_equal(pieces[:4], [[0, 1, 2, 3], [100, 101, 102, 103], [200, 201, 202, 203], [4, 5, 6, 7]])
    assert pieces.shape == (9, 4)


def test_a_time_limit_is_bootstrapped_from_the_memory_that_the_episode_left():
    """The counter values the final observation at 4; with the memory of the next episode it would be 1."""
    config = pjp.RecurrentConfig(num_envs=2, num_steps=8, total_timesteps=16, num_minibatches=1, gae_lambda=0.0)
    agent = pjp.make_ppo(pjp.make_env(Clock()), config, network=COUNTER)
    runner = agent.init(jax.random.key(0))
    transitions, steps, batch = collect(agent, runner)
    np.testing.assert_array_equal(transitions.truncated[:, 0], [0, 0, 1, 0, 0, 1, 0, 0])
    np.testing.assert_array_equal(steps.value[:, 0], [1, 2, 3, 1, 2, 3, 1, 2])
    np.testing.assert_allclose(steps.target[:, 0], 0.99 * np.array([2, 3, 4, 2, 3, 4, 2, 3]), rtol=1e-6)
    np.testing.assert_array_equal(batch.obs.reset[0], [0, 0, 0, 1, 0, 0, 1, 0])
    _, value = agent.forward(runner.train_state.params, batch.obs)
    np.testing.assert_array_equal(value, batch.value)


def test_the_memory_goes_on_from_one_update_to_the_next():
    config = pjp.RecurrentConfig(num_envs=2, num_steps=4, total_timesteps=400, num_minibatches=1, learning_rate=0.0)
    agent = pjp.make_ppo(pjp.make_env(Clock()), config, network=COUNTER)
    runner, counts = agent.init(jax.random.key(0)), []
    for _ in range(4):
        counts.append(runner.memory.tolist())
        runner, metrics = jax.jit(agent.update)(runner)
        assert metrics.approx_kl == 0
    assert counts == [[0, 0], [1, 1], [2, 2], [0, 0]]


def test_acting_carries_the_memory(collected):
    agent, runner, (transitions, _, _) = collected
    done = np.asarray(transitions.terminated | transitions.truncated)
    memory = jax.tree.map(lambda x: x[0], runner.memory)
    act = jax.jit(agent.act)
    for t in range(8):
        seen = jax.tree.map(lambda x, t=t: x[t, 0], transitions.obs)
        for one, other in zip(jax.tree.leaves(memory), jax.tree.leaves(seen.memory), strict=True):
            np.testing.assert_allclose(one, other, atol=1e-6)
        action, memory = act(runner.train_state, seen.obs, jax.random.key(t), memory)
        memory = None if done[t, 0] else memory
        assert action.shape == ()
        if memory is None:
            break
    greedy, after = agent.act(runner.train_state, runner.obs[0])
    same, _ = agent.act(runner.train_state, runner.obs[0], memory=agent.start_memory)
    assert greedy == same
    assert all(np.any(x != 0) for x in jax.tree.leaves(after))


def test_evaluation_and_films_start_with_an_empty_memory_and_keep_it():
    """The counter's logits are what it was; an agent that answers by its count shows each step's count."""

    def apply(params, count, obs):
        count = count + 1.0
        return count, jnp.stack([count - 2.5, jnp.zeros_like(count)], axis=-1) + params, count

    network = pjp.RecurrentNetwork(lambda key, memory, obs: jnp.zeros(2), apply, lambda: jnp.zeros(()))
    config = pjp.RecurrentConfig(num_envs=2, num_steps=8, total_timesteps=16, num_minibatches=1)
    agent = pjp.make_ppo(pjp.make_env(Clock()), config, network=network)
    state = agent.init(jax.random.key(0)).train_state
    (episode,) = pjp.record_episodes(agent, state, jax.random.key(1), max_steps=10)
    np.testing.assert_array_equal(episode.action, [1, 1, 0])
    _, lengths = pjp.evaluate(agent, state, jax.random.key(2), num_episodes=5)
    np.testing.assert_array_equal(lengths, 3)


def test_evaluation_carries_the_memory():
    """A policy that repeats the cue after 20 steps gets 1 in each episode, and one that forgets it does not."""

    def apply(params, cue, obs):
        cue = jnp.where(obs[..., 0] == 0, params * cue, obs[..., 0])
        return cue, jnp.stack([-cue, cue], axis=-1), cue

    network = pjp.RecurrentNetwork(lambda key, memory, obs: jnp.ones(()), apply, lambda: jnp.zeros(()))
    agent = pjp.make_ppo(pjp.make_env(Recall()), SMALL, network=network)
    state = agent.init(jax.random.key(0)).train_state
    play = functools.partial(pjp.evaluate, agent, num_episodes=32)
    np.testing.assert_array_equal(play(state, jax.random.key(1))[0], 1.0)
    assert set(np.asarray(play(state.replace(params=jnp.zeros(())), jax.random.key(1))[0])) == {-1.0, 1.0}


class MaskedCorridor:
    """Three actions of which the first is never legal; an image of 4 x 4 to see."""

    default_params = None
    observation_space = pjp.Box((4, 4, 1), (0.0,) * 16, (1.0,) * 16)
    action_space = pjp.Discrete(3)

    def reset(self, key, params):
        return jnp.ones((4, 4, 1)), jnp.int32(0)

    def action_mask(self, state, params):
        return jnp.array([False, True, True])

    def step(self, key, state, action, params):
        return jnp.ones((4, 4, 1)), state + 1, jnp.where(action == 0, -1.0, 1.0), False, state == 9


@pytest.mark.slow
@pytest.mark.parametrize("own", [False, True])
def test_masks_and_images_go_with_a_memory(own):
    network = UNMASKED if own else None
    agent = pjp.make_ppo(pjp.make_env(MaskedCorridor()), SMALL.replace(normalize_obs=True), network=network)
    runner, metrics = jax.jit(lambda key: pjp.update_many(agent, agent.init(key), 2))(jax.random.key(0))
    assert metrics.episode_return_min[-1] == 10
    assert np.isfinite(metrics.policy_loss).all()
    assert int(agent.act(runner.train_state, jax.tree.map(lambda x: x[0], runner.obs))[0]) > 0


def mean_apply(params, memory, obs):
    memory = 0.5 * memory + jnp.mean(obs, axis=(-3, -2, -1))
    return memory, params * jnp.stack([memory + 9.0, memory, -memory], axis=-1), memory


UNMASKED = pjp.RecurrentNetwork(lambda key, memory, obs: jnp.ones(()), mean_apply, lambda: jnp.zeros(()))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"cell": "rnn"}, "cell = 'rnn' is unknown; take one of gru, lstm"),
        ({"cell_size": 0}, "cell_size = 0 is below 1"),
        ({"sequence_length": 0}, "sequence_length = 0 is below 1"),
        ({"sequence_length": 4.0}, "sequence_length = 4.0 is not a whole number"),
        (
            {"sequence_length": 5},
            "num_steps = 16 does not divide into sequences of sequence_length = 5; try 2, 4 or 8",
        ),
        ({"num_minibatches": 3}, "num_envs = 4 does not divide into num_minibatches = 3; try 1, 2 or 4"),
        (
            {"sequence_length": 8, "num_minibatches": 16},
            "num_envs * num_steps / sequence_length = 8 does not divide into num_minibatches = 16; try 2, 4 or 8",
        ),
        ({"total_timesteps": 10}, "total_timesteps = 10 is below one rollout"),
    ],
)
def test_a_config_out_of_range_is_refused_in_one_line(changes, said):
    with pytest.raises(pjp.PPOError) as caught:
        SMALL.replace(**changes)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("network", "said"),
    [
        (nn.Dense(3), "network is a Dense, which has no memory; give pjp.RecurrentNetwork"),
        (COUNTER._replace(apply=lambda params, memory, obs: memory), "has to return (memory"),
        (
            COUNTER._replace(apply=lambda params, memory, obs: (memory, jnp.zeros(3), memory)),
            "returns (logits, value) as ('float[3]', 'float[]')",
        ),
        (
            COUNTER._replace(apply=lambda *a: (count_apply(*a)[0][..., None], *count_apply(*a)[1:])),
            "the memory of network.apply is float32[1], and float32[] goes with",
        ),
        (COUNTER._replace(replay=lambda params, memory, obs, reset: (reset, reset)), "network.replay returns (logits"),
        (COUNTER._replace(start=lambda: jnp.missing), "network.start cannot be traced"),
    ],
)
def test_a_network_that_does_not_fit_is_refused_in_one_line(env, network, said):
    with pytest.raises(pjp.PPOError) as caught:
        pjp.make_ppo(env, SMALL, network=network)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_cell_in_the_config_makes_a_policy_with_a_memory(env):
    fields = {field.name: getattr(SMALL, field.name) for field in dataclasses.fields(SMALL)}
    ours, same = (pjp.make_ppo(env, config).init(jax.random.key(0)) for config in (SMALL, pjp.PPOConfig(**fields)))
    jax.tree.map(np.testing.assert_array_equal, ours.replace(key=None), same.replace(key=None))
    assert jax.tree.leaves(ours.memory)


@pytest.mark.parametrize("field", ["cell_size", "sequence_length"])
def test_a_field_of_the_memory_is_refused_without_a_cell(field):
    with pytest.raises(pjp.PPOError, match=f"{field} = 8 would do nothing beside cell = None"):
        pjp.PPOConfig(**{field: 8})


def test_a_network_with_a_memory_goes_with_a_cell(env):
    with pytest.raises(pjp.PPOError, match="network has a memory"):
        pjp.make_ppo(env, pjp.PPOConfig(), network=COUNTER)


@pytest.mark.slow
def test_the_command_line_trains_films_and_evaluates_a_recurrent_run(tmp_path, capsys):
    options = ["--config.cell", "lstm", "--config.num-steps", "16", "--config.sequence-length", "8", "--quiet"]
    options += ["--config.hidden-sizes", "8", "--config.cell-size", "8", "--env", "CartPole-v1"]
    sizes = ["--config.num-envs", "4", "--config.total-timesteps", "256", "--seeds", "2"]
    assert cli.main(["train", "--preset", "recurrent", "--out", str(tmp_path / "a"), *options, *sizes]) == 0
    written = json.loads((tmp_path / "a" / "config.json").read_text())
    assert written["algorithm"] == "recurrent-ppo"
    run = pjp.load_run(tmp_path / "a")
    assert isinstance(run.agent, pjp.PPO)
    assert run.config.sequence_length == 8
    assert (tmp_path / "a" / "after.gif").exists()
    assert cli.main(["eval", str(tmp_path / "a"), "--episodes", "3"]) == 0


def test_a_sweep_over_cells_takes_a_program_for_each(env, bare_options):
    jobs = make_jobs(Experiment(env, SMALL, 2, 0, bare_options("seeds")), [{"cell": "gru"}, {"cell": "lstm"}])
    agents = [pjp.make_ppo(job.program.env, job.program.config) for job in jobs]
    assert [isinstance(agent.start_memory["actor"], tuple) for agent in agents] == [False, True]


@pytest.mark.slow
def test_a_cue_is_recalled_after_20_steps_on_every_seed():
    sizes = {"num_envs": 16, "num_steps": 64, "total_timesteps": 16 * 64 * 30}
    config = pjp.RecurrentConfig(learning_rate=3e-3, clip_value=False, **sizes)
    population = pjp.train_population(pjp.make_env(Recall()), config, num_seeds=4, evaluation_episodes=64)
    assert np.all(population.final_returns() >= 0.95)
