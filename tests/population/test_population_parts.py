"""Populations with a loss and schedules of one's own, and configs of one's own."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import purejaxppo as pjp
from purejaxppo.population.jobs import describe_agent
from purejaxppo.population.sweep import make_points, make_programs
from purejaxppo.ppo.config import static
from purejaxppo.utils.errors import PPOError

SMALL = pjp.PPOConfig(
    num_envs=4, num_steps=16, total_timesteps=4 * 16 * 4, hidden_sizes=(8,), normalize_advantage_over="batch"
)
HALVED = {
    "ent_coef": optax.piecewise_constant_schedule(1.0, {2: 0.5}),
    "learning_rate": lambda update: 1.0 / (1 + update),
}


def huber_loss(params, minibatch, context):
    """ppo_loss with Huber's loss for the value."""
    loss, terms = pjp.ppo_loss(params, minibatch, context)
    huber = jnp.mean(optax.huber_loss(context.apply(params, minibatch.obs)[1], minibatch.target))
    return loss + context.vf_coef * (huber - terms["value_loss"]), terms | {"value_loss": huber}


PARTS = {"loss": huber_loss, "schedules": HALVED}


@pytest.fixture(scope="module")
def env():
    return pjp.make_env("CartPole-v1")


@pytest.fixture(scope="module")
def single(env):
    """The runs of two seeds at two entropy coefficients, one by one; [point, seed, ...]."""

    @jax.jit
    @jax.vmap
    def train(ent_coef):
        return jax.vmap(pjp.make_train(env, SMALL.replace(ent_coef=ent_coef), **PARTS))(pjp.seed_keys(3, 2))

    return train(jnp.array([0.0, 0.1]))


@pytest.mark.slow
def test_a_swept_population_is_its_single_runs(env, single, tmp_path):
    """With each run on all devices; test_extension.py has a sweep whose seeds are spread over them."""
    arguments = {"num_seeds": 2, "seed": 3, "sweep": {"ent_coef": [0.0, 0.1]}, "out": tmp_path, "placement": "data"}
    arguments["make_agent"] = functools.partial(pjp.make_ppo, **PARTS)
    sweep = pjp.train_population(env, SMALL, **arguments)
    runners, metrics = single
    for i, population in enumerate(sweep):
        for name in ("policy_loss", "value_loss", "entropy", "learning_rate"):
            np.testing.assert_allclose(
                getattr(population.metrics, name), getattr(metrics, name)[i], rtol=1e-4, atol=1e-5, err_msg=name
            )
        for one, other in zip(
            jax.tree.leaves(population.train_state.params), jax.tree.leaves(runners.train_state.params), strict=True
        ):
            np.testing.assert_allclose(one, other[i], rtol=1e-3, atol=2e-4)
    np.testing.assert_allclose(sweep[0].metrics.learning_rate[0], SMALL.learning_rate / np.arange(1, 5), rtol=1e-6)
    again = pjp.open_population(env, SMALL, **arguments)
    jax.tree.map(np.testing.assert_array_equal, again[1].seed(1).train_state, sweep[1].seed(1).train_state)
    for changes, said in (
        ({"loss": pjp.ppo_loss}, "its own_loss is True, and False is wanted"),
        ({"schedules": None}, r"its own_schedules is \['ent_coef', 'learning_rate'\], and \[\] is wanted"),
        ({"reward": lambda params, steps, context: steps.reward}, "its own_reward is None, and True is wanted"),
    ):
        with pytest.raises(PPOError, match=said):
            pjp.open_population(
                env, SMALL, **arguments | {"make_agent": functools.partial(pjp.make_ppo, **PARTS | changes)}
            )


@pytest.mark.parametrize(
    ("parts", "said"),
    [
        ({"loss": lambda *args: 0.0}, "loss has to return"),
        ({"schedules": {"gamma": lambda update: 1.0}}, "unknown number in schedules 'gamma'"),
        ({"schedules": HALVED, "optimizer": optax.adam(1e-3)}, "would do nothing beside optimizer"),
        ({"schedules": HALVED, "sweep": {"lr_schedule": ["cosine"]}}, "lr_schedule = 'cosine' would do nothing"),
    ],
)
def test_parts_that_do_not_fit_are_refused_in_one_line(env, parts, said):
    options = {name: parts.pop(name) for name in ("sweep",) if name in parts}
    with pytest.raises(PPOError, match=said) as caught:
        pjp.train_population(env, SMALL, num_seeds=1, make_agent=functools.partial(pjp.make_ppo, **parts), **options)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("call", [pjp.train_population, pjp.open_population])
@pytest.mark.parametrize(
    ("config", "given", "said"),
    [
        (SMALL, {"loss": huber_loss}, r"loss=.* make_agent=functools.partial\(pjp.make_ppo, loss=\.\.\.\)"),
        (SMALL, {"reward": None}, r"reward=.* make_agent=functools.partial\(pjp.make_ppo, reward=\.\.\.\)"),
        (pjp.RecurrentConfig(), {"schedules": HALVED}, r"partial\(pjp.make_ppo, schedules=\.\.\.\)"),
        (pjp.FullBatchConfig(), {"loss": huber_loss}, r"loss=\.\.\. does not go with FullBatchConfig"),
        (SMALL, {"checkpoints_every": 3}, "'checkpoints_every'; did you mean checkpoint_every"),
        (SMALL, {"report_at": 3}, "report_at = 3"),
        (SMALL, {"report_at": [0]}, "report_at = 0"),
    ],
)
def test_a_keyword_that_is_no_option_is_refused_with_its_remedy(env, call, config, given, said):
    with pytest.raises(PPOError, match=said):
        call(env, config, num_seeds=1, out="nowhere", **given)


def test_a_folder_tells_which_parts_are_the_callers_own():
    own = functools.partial(functools.partial(pjp.make_ppo, loss=huber_loss), advantage=pjp.gae_advantage)
    assert {name for name, told in describe_agent(own).items() if told} == {"own_loss"}
    assert {name for name, told in describe_agent(make_other).items() if told} == {"own_agent"}
    for factory in (None, pjp.make_ppo):
        assert not any(describe_agent(factory).values())


def make_other(env, config):
    return pjp.make_ppo(env, config)


# Configs of one's own


@dataclasses.dataclass(frozen=True)
class Smoothed(pjp.PPOConfig):
    """Two numbers and a choice that the library does not know."""

    smoothing: float = -0.5
    num_heads: int = static(0)
    mode: str = static("mean")


@dataclasses.dataclass(frozen=True)
class Remembering(pjp.RecurrentConfig):
    """One number more."""

    forgetting: float = 0.1


def test_a_config_of_ones_own_goes_with_the_factory_of_its_class(env):
    config = Smoothed(num_envs=4, num_steps=16, total_timesteps=4 * 16 * 2, hidden_sizes=(8,), mode="max")
    agent = pjp.make_ppo(env, config)
    assert agent.config.mode == "max"
    assert isinstance(config.replace(smoothing=1.0), Smoothed)
    changed = jax.tree.map(lambda x: 2.0 * x, config)
    assert (changed.smoothing, changed.num_heads, changed.gamma) == (-1.0, 0, 2 * config.gamma)
    assert pjp.make_ppo(env, Remembering(total_timesteps=512)).config.forgetting == 0.1
    with pytest.raises(PPOError, match="config must be a PPOConfig, got FullBatchConfig"):
        pjp.make_ppo(env, pjp.FullBatchConfig())
    with pytest.raises(PPOError, match="num_envs = 0 is below 1"):
        config.replace(num_envs=0)


def test_fields_of_ones_own_can_be_swept_and_traced(env):
    config = Smoothed(num_envs=4, num_steps=16, total_timesteps=4 * 16 * 2, hidden_sizes=(8,))
    points = make_points(env, config, {"smoothing": [0.1, 0.2], "mode": ["mean", "max"]})
    programs = make_programs(env, config, points)
    assert [len(program.settings) for program in programs] == [2, 2]
    traced = jax.vmap(lambda smoothing: pjp.make_train(env, config.replace(smoothing=smoothing))(jax.random.key(0)))
    assert jax.eval_shape(traced, jnp.array([0.1, 0.2]))[1].policy_loss.shape == (2, 2)
