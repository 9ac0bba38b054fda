import dataclasses
import math
import re
from decimal import Decimal

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import purejaxppo as pjp
from purejaxppo.ppo.config import CHOICES, PPOConfig
from purejaxppo.utils.errors import PPOError
from purejaxppo.utils.suggest import OTHER_NAMES

SIZES = ("num_envs", "num_steps", "total_timesteps", "update_epochs", "num_minibatches")
SWITCHES = ("anneal_lr", "clip_value", "normalize_advantage", "normalize_obs", "normalize_reward", "share_trunk")
FROM_0 = ("learning_rate", "gamma", "gae_lambda", "vf_coef", "ent_coef")
ABOVE_0 = ("adam_eps", "clip_eps", "max_grad_norm", "target_kl", "desired_kl")
NEEDS = {
    "desired_kl": {"lr_schedule": "adaptive"},
    "cell_size": {"cell": "gru"},
    "sequence_length": {"cell": "gru"},
}  # without which a field would do nothing
ACTIVATIONS = CHOICES["activation"]
NUMBERS = FROM_0 + ABOVE_0
MEMORY = ("cell", "cell_size", "sequence_length")
WRONG_TYPES = ("3", "", 1j, (), {}, [], b"1", {1: 2, "a": 3}, (0.5, "x"))
HUGE = 10**400  # no float holds it

BAD = [
    *[(n, x) for n in SIZES for x in (0, -1, -(2**70), 0.5, 4.0, math.nan, math.inf, True, False, None, *WRONG_TYPES)],
    *[(n, x) for n in SWITCHES for x in (0, 1, 1.0, -1, math.nan, math.inf, None, "True", *WRONG_TYPES)],
    *[(n, x) for n in NUMBERS for x in (-1e-9, -1, math.nan, -math.inf, True, False, HUGE, -HUGE, *WRONG_TYPES)],
    *[(n, x) for n in ABOVE_0 for x in (0, 0.0, -0.0)],
    *[(n, None) for n in NUMBERS if n != "target_kl"],
    *[(n, math.inf) for n in NUMBERS if n != "max_grad_norm"],
    *[(n, x) for n in ("gamma", "gae_lambda") for x in (1.0000001, 2, 99)],
    *[
        ("activation", x)
        for x in (
            "Tanh",
            "",
            "softmax",
            None,
            1,
            True,
            math.nan,
            jnp.tanh,
            ("tanh",),
            ["tanh"],
            np.asarray(["tanh", "relu"]),
        )
    ],
    *[(n, x) for n in CHOICES if n != "activation" for x in ("tanh", "", None, 1, True, math.nan, ["epoch"])],
    *[("cell", x) for x in ("GRU", "", 1, True, ("gru",), math.nan)],
    *[("cell_size", x) for x in (0, -1, 1.5, "8", None, True)],
    *[("sequence_length", x) for x in (0, -1, 1.5, "8", True)],
    *[("hidden_sizes", x) for x in (None, 64, "64", [64, 64], {64}, math.nan, True, range(2))],
    *[("hidden_sizes", (64, x)) for x in (0, -1, 1.5, math.nan, "64", None, True, (64,))],
]
GOOD = [
    *[(n, x) for n in NUMBERS for x in (0.5, 1, 1e-30, np.float32(0.5), np.float64(0.5), np.int32(1))],
    *[(n, 0) for n in FROM_0],
    ("max_grad_norm", math.inf),
    ("target_kl", None),
    *[(n, x) for n in SWITCHES for x in (True, False, np.True_)],
    *[("activation", x) for x in ACTIVATIONS],
    *[("hidden_sizes", x) for x in ((), (1,), (64, 64, 64), (np.int64(8),))],
    *[("num_envs", x) for x in (1, 8, np.int32(8))],
    *[("cell", x) for x in ("gru", "lstm", None)],
    ("cell_size", 8),
    *[("sequence_length", x) for x in (None, 1, 64, np.int32(8))],
]


def name_of(case):
    name, value = case
    text = re.sub(r" at 0x\w+", "", repr(value))
    return f"{name}={text if len(text) < 40 else 'HUGE' if value > 0 else '-HUGE'}"


def refusal(**fields):
    with pytest.raises(PPOError) as caught:
        PPOConfig(**fields)
    message = str(caught.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize(("name", "value"), BAD, ids=map(name_of, BAD))
def test_a_bad_value_is_refused_by_name_and_value(name, value):
    message = refusal(**{name: value}, **(NEEDS.get(name, {}) if name in MEMORY else {}))
    wrong = value[1] if name == "hidden_sizes" and isinstance(value, tuple) else value
    assert f"{name} = {wrong!r}" in message or value in (HUGE, -HUGE)
    assert name in message


@pytest.mark.parametrize(("name", "value"), GOOD, ids=map(name_of, GOOD))
def test_a_good_value_is_kept(name, value):
    assert getattr(PPOConfig(**{name: value}, **NEEDS.get(name, {})), name) == value


def test_the_defaults_are_those_of_the_cartpole_scripts():
    assert dataclasses.asdict(PPOConfig()) == {
        "num_envs": 4, "num_steps": 128, "total_timesteps": 500_000, "update_epochs": 4, "num_minibatches": 4,
        "learning_rate": 2.5e-4, "anneal_lr": True, "lr_schedule": "linear", "desired_kl": 0.01, "adam_eps": 1e-5,
        "gamma": 0.99, "gae_lambda": 0.95, "clip_eps": 0.2, "clip_eps_schedule": "constant", "clip_value": True,
        "vf_coef": 0.5, "ent_coef": 0.01, "ent_coef_schedule": "constant", "max_grad_norm": 0.5,
        "normalize_advantage": True, "normalize_advantage_over": "minibatch",
        "target_kl": None, "kl_stop": "epoch", "kl_estimator": "approx_kl",
        "activation": "tanh", "hidden_sizes": (64, 64), "share_trunk": False, "compute_dtype": "float32",
        "box_policy": "clipped", "box_std": "shared", "normalize_obs": False, "normalize_reward": False,
        "cell": None, "cell_size": 64, "sequence_length": None,
    }  # fmt: skip


def test_the_tables_above_name_every_field():
    fields = {field.name for field in dataclasses.fields(PPOConfig)}
    assert fields == {*SIZES, *SWITCHES, *NUMBERS, *CHOICES, *MEMORY, "hidden_sizes"}


def test_an_unknown_activation_is_answered_with_the_known_ones():
    message = refusal(activation="softmax")
    assert all(name in message for name in ACTIVATIONS)


@pytest.mark.parametrize(
    ("num_envs", "num_steps", "num_minibatches", "nearest"),
    [(4, 125, 3, {2, 4}), (4, 4, 3, {2, 4}), (1, 7, 3, {1, 7}), (6, 6, 5, {4, 6}), (1, 1, 2, {1}), (3, 3, 2, {1, 3})],
)
def test_sizes_that_do_not_divide_name_those_that_do(num_envs, num_steps, num_minibatches, nearest):
    batch = num_envs * num_steps
    message = refusal(num_envs=num_envs, num_steps=num_steps, num_minibatches=num_minibatches)
    start = f"num_envs * num_steps = {batch} does not divide into num_minibatches = {num_minibatches}; try "
    assert message.startswith(start)
    tried = [int(x) for x in re.findall(r"\d+", message.removeprefix(start))]
    assert tried == sorted(set(tried))
    assert nearest <= set(tried)
    assert all(batch % x == 0 for x in tried)


def test_sizes_that_do_not_divide_are_answered_in_one_sentence():
    assert refusal(num_envs=4, num_steps=125, num_minibatches=3) == (
        "num_envs * num_steps = 500 does not divide into num_minibatches = 3; try 2, 4 or 5"
    )


@pytest.mark.timeout(20)
def test_a_huge_batch_is_refused_at_once():
    refusal(num_envs=10**12, num_steps=10**12, num_minibatches=7)
    refusal(num_minibatches=7, num_steps=HUGE)


@pytest.mark.parametrize("name", [name for name in SIZES if name != "update_epochs"])
def test_a_size_that_no_run_can_have_is_refused(name):
    assert name in refusal(**{name: HUGE})


def test_numpy_sizes_do_not_overflow():
    config = PPOConfig(num_envs=np.int8(16), num_steps=np.int8(16), num_minibatches=np.int8(4))
    assert (config.batch_size, config.num_updates) == (256, 1953)


def test_less_than_one_rollout_is_refused():
    message = refusal(num_envs=8, num_steps=16, total_timesteps=127)
    assert "total_timesteps = 127" in message
    assert "num_envs * num_steps = 128" in message
    assert PPOConfig(num_envs=8, num_steps=16, total_timesteps=128).num_updates == 1


def test_a_run_may_have_more_timesteps_than_int32_counts():
    config = PPOConfig(total_timesteps=5_000_000_000)
    assert (config.num_updates, config.actual_timesteps) == (9_765_625, 5_000_000_000)


def test_what_a_program_counts_fits_int32():
    most = 512 * (2**31 - 1)  # updates
    assert PPOConfig(total_timesteps=most).num_updates == 2**31 - 1
    assert f"total_timesteps = {most + 1}" in refusal(total_timesteps=most + 1)
    assert f"total_timesteps = {2**53 + 1}" in refusal(total_timesteps=2**53 + 1, num_envs=2**23)
    assert "num_envs * num_steps" in refusal(num_envs=2**24, total_timesteps=2**40)
    assert f"update_epochs = {2**31}" in refusal(update_epochs=2**31)


@pytest.mark.parametrize("total", [1e6, np.float64(1e6), np.float32(2**20)])
def test_a_whole_float_is_a_number_of_timesteps(total):
    config = PPOConfig(total_timesteps=total)
    assert type(config.total_timesteps) is int
    assert config == PPOConfig().replace(total_timesteps=int(total))
    assert "total_timesteps = 1000000.5" in refusal(total_timesteps=1_000_000.5)


@pytest.mark.parametrize(
    ("total", "updates", "actual"), [(500_000, 976, 499_712), (512, 1, 512), (1023, 1, 512), (1024, 2, 1024)]
)
def test_timesteps_are_rounded_down_to_whole_rollouts(total, updates, actual):
    config = PPOConfig(total_timesteps=total)
    assert (config.batch_size, config.num_updates, config.actual_timesteps) == (512, updates, actual)


@given(num_envs=st.integers(1, 64), num_steps=st.integers(1, 64), total=st.integers(4096, 10**6))
def test_the_run_is_as_long_as_whole_rollouts_allow(num_envs, num_steps, total):
    sizes = {"num_envs": num_envs, "num_steps": num_steps, "num_minibatches": 1, "total_timesteps": total}
    config = PPOConfig(**sizes, normalize_advantage=False)
    assert config.actual_timesteps == config.num_updates * num_envs * num_steps
    assert 0 <= total - config.actual_timesteps < num_envs * num_steps


@pytest.mark.parametrize(
    ("wrong", "right"),
    [("learning_rat", "learning_rate"), ("gama", "gamma"), ("lambda", "gae_lambda"), ("n_envs", "num_envs"),
     ("clip_epsilon", "clip_eps"), ("hidden_size", "hidden_sizes"), ("normalise_obs", "normalize_obs")],
)  # fmt: skip
def test_an_unknown_field_is_answered_with_the_nearest(wrong, right):
    with pytest.raises(PPOError, match=f"unknown PPOConfig field '{wrong}'; did you mean .*{right}") as caught:
        PPOConfig().replace(**{wrong: 1})
    assert "\n" not in str(caught.value)


def test_an_unknown_field_like_no_other_is_answered_with_all():
    with pytest.raises(PPOError, match=r"take one of num_envs, .*, normalize_reward"):
        PPOConfig().replace(zzzzzz=1)


def test_replace_changes_what_is_named_and_validates():
    old = PPOConfig()
    new = old.replace(gamma=0.9, num_envs=8)
    assert dataclasses.asdict(new) == dataclasses.asdict(old) | {"gamma": 0.9, "num_envs": 8}
    assert (old.gamma, old.num_envs) == (0.99, 4)
    with pytest.raises(PPOError, match=r"gamma = 1\.5"):
        old.replace(gamma=1.5)


def test_numbers_are_leaves_and_the_rest_is_static():
    config = PPOConfig(target_kl=0.02, cell="gru")
    leaves = {name: float(i) for i, name in enumerate(NUMBERS, 1)}
    assert len(jax.tree.leaves(config)) == len(NUMBERS)
    assert len(jax.tree.leaves(PPOConfig())) == len(NUMBERS) - 1  # None is no leaf
    named = {jax.tree_util.keystr(path, simple=True): x for path, x in jax.tree_util.tree_leaves_with_path(config)}
    assert named == {name: getattr(config, name) for name in leaves}
    structure = jax.tree.structure(config)
    assert structure == jax.tree.structure(config.replace(gamma=0.5, learning_rate=1.0))
    others = {
        "num_envs": 8, "num_steps": 64, "total_timesteps": 10**6, "update_epochs": 1, "num_minibatches": 2,
        "activation": "relu", "hidden_sizes": (8,), "anneal_lr": False, "clip_value": False,
        "normalize_advantage": False, "normalize_obs": True, "normalize_reward": True,
        "kl_stop": "minibatch", "kl_estimator": "log_ratio", "lr_schedule": "cosine", "clip_eps_schedule": "cosine",
        "ent_coef_schedule": "linear", "normalize_advantage_over": "batch",
        "box_policy": "squashed", "box_std": "state", "share_trunk": True, "cell": "lstm", "cell_size": 8,
        "sequence_length": 8, "compute_dtype": "bfloat16",
    }  # fmt: skip
    assert {*others, *NUMBERS} == {field.name for field in dataclasses.fields(PPOConfig)}
    for name, value in others.items():
        assert structure != jax.tree.structure(config.replace(**{name: value})), name


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"anneal_lr": False, "lr_schedule": "cosine"}, "lr_schedule = 'cosine' would do nothing beside anneal_lr"),
        ({"anneal_lr": False, "lr_schedule": "adaptive"}, "lr_schedule = 'adaptive' would do nothing"),
        ({"kl_stop": "minibatch"}, "kl_stop = 'minibatch' would do nothing beside target_kl = None"),
        ({"kl_estimator": "log_ratio"}, "kl_estimator = 'log_ratio' would do nothing beside target_kl = None"),
        ({"desired_kl": 0.02}, "desired_kl = 0.02 would do nothing beside lr_schedule = 'linear'"),
        ({"desired_kl": np.array([0.01, 0.02])}, "desired_kl = array"),
        (
            {"normalize_advantage": False, "normalize_advantage_over": "batch"},
            "normalize_advantage_over = 'batch' would do nothing beside normalize_advantage = False",
        ),
    ],
)
def test_a_field_that_would_do_nothing_is_refused(fields, said):
    assert said in refusal(**fields)


@pytest.mark.parametrize(
    ("config_class", "fields"),
    [
        (PPOConfig, {"num_steps": 1, "num_minibatches": 4}),
        (PPOConfig, {"num_envs": 1, "num_steps": 1, "num_minibatches": 1, "normalize_advantage_over": "batch"}),
        (pjp.RecurrentConfig, {"num_steps": 1, "num_minibatches": 4}),
        (pjp.RecurrentConfig, {"sequence_length": 1, "num_minibatches": 4 * 128}),
    ],
)
def test_one_sample_has_no_normalised_advantage(config_class, fields):
    with pytest.raises(PPOError) as error:
        config_class(**fields)
    assert "normalize_advantage = True" in str(error.value)
    assert f"num_minibatches = {fields['num_minibatches']}" in str(error.value)
    whole = {"normalize_advantage_over": "minibatch", "normalize_advantage": False}
    assert not config_class(**fields | whole).normalize_advantage


def test_one_sample_of_many_in_a_minibatch_may_be_normalised_over_the_batch():
    assert PPOConfig(num_steps=1, normalize_advantage_over="batch").batch_size == 4


def test_a_full_batch_of_one_sample_is_refused():
    with pytest.raises(PPOError, match="num_envs \\* num_steps = 1 "):
        pjp.FullBatchConfig(num_steps=1)


def test_a_config_survives_flattening():
    config = PPOConfig(gamma=0.9, hidden_sizes=(8,), target_kl=0.01)
    leaves, structure = jax.tree.flatten(config)
    assert jax.tree.unflatten(structure, leaves) == config


def test_numbers_share_one_program_and_static_fields_do_not():
    traces = []

    @jax.jit
    def double(config):
        traces.append(config.num_envs)
        return 2 * config.learning_rate

    for rate in (0.0, 1e-4, 2.5e-4, 1e-3, 1.0):
        np.testing.assert_allclose(double(PPOConfig(learning_rate=rate)), 2 * rate, rtol=1e-6)
    assert traces == [4]
    double(PPOConfig(gamma=0.5, ent_coef=0.0, max_grad_norm=math.inf))
    assert traces == [4]
    double(PPOConfig(num_envs=8))
    assert traces == [4, 8]


def test_tracers_pass_and_known_values_beside_them_are_checked():
    @jax.jit
    def rate_of(rate):
        config = PPOConfig(learning_rate=rate, gamma=0.5)
        with pytest.raises(PPOError, match="gamma = 2"):
            PPOConfig(learning_rate=rate, gamma=2.0)
        with pytest.raises(PPOError, match="num_envs = 0"):
            config.replace(num_envs=0)
        return config.learning_rate

    assert float(rate_of(3.0)) == 3.0
    assert float(rate_of(-3.0)) == -3.0  # unknown while tracing


def test_a_vmapped_config_has_a_setting_for_each_run():
    configs = jax.tree.map(lambda *x: jnp.stack(x), *[PPOConfig(learning_rate=r, gamma=0.5) for r in (0.1, 0.2, 0.3)])
    assert configs.replace(vf_coef=1.0).gamma is configs.gamma
    np.testing.assert_allclose(jax.vmap(lambda c: c.learning_rate * c.gamma)(configs), [0.05, 0.1, 0.15], rtol=1e-6)


def test_vmap_may_map_one_field_alone():
    # in_axes is a config of None and 0, which are no hyperparameters: unflattening checks nothing.
    axes = jax.tree_util.tree_map_with_path(
        lambda path, _: 0 if path[0].name == "learning_rate" else None, PPOConfig(vf_coef=0.5)
    )
    configs = PPOConfig(vf_coef=0.5).replace(learning_rate=jnp.asarray([0.1, 0.2]))
    got = jax.vmap(lambda config: config.learning_rate * config.vf_coef, (axes,))(configs)
    np.testing.assert_allclose(got, [0.05, 0.1], rtol=1e-6)


def test_grad_gives_the_slope_in_every_number():
    slope = jax.grad(lambda config: config.learning_rate * config.gamma - config.clip_eps)(PPOConfig(gamma=0.5))
    assert (float(slope.learning_rate), float(slope.clip_eps), float(slope.adam_eps)) == (0.5, -1.0, 0.0)


@pytest.mark.parametrize("array", [np.asarray, jnp.asarray])
@pytest.mark.parametrize(("name", "value"), [("gamma", 1.5), ("learning_rate", -1.0), ("clip_eps", [0.2, 0.0])])
def test_arrays_are_validated(array, name, value):
    with pytest.raises(PPOError, match=name) as caught:
        PPOConfig().replace(**{name: array(value)})
    assert "\n" not in str(caught.value)


scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(10**6), 10**6)
    | st.floats()
    | st.text(max_size=5)
    | st.binary(max_size=3)
    | st.complex_numbers()
    | st.fractions()
    | st.sampled_from(
        [
            Decimal(1), Decimal("NaN"), object(), int, jnp.tanh, np.float32(0.5), np.float32(np.nan), np.int64(3),
            np.complex64(1), np.str_("a"), np.bool_(True), np.datetime64(0, "s"), ..., range(3), *ACTIVATIONS,
        ]
    )
    | st.sampled_from([(), (0,), (2, 3), (2, 0)]).map(np.ones)
    | st.sampled_from([np.asarray("a"), np.asarray(["a", "b"]), np.asarray([None]), np.asarray([True])])
)  # fmt: skip
junk = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(st.text(max_size=2) | st.integers(0, 3), inner, max_size=3)
    ),
    max_leaves=4,
)
# Numbers alone may be huge: a huge size is a test of its own.
huge = st.sampled_from([2**31, 2**63, 2**64, HUGE, -HUGE])
every_field = {name: junk | huge if name in NUMBERS else junk for name in (*SIZES, *SWITCHES, *NUMBERS)}
every_field |= dict.fromkeys(("hidden_sizes", *CHOICES), junk)


def complaint(fields):
    """The message of the PPOError, if there is one; any other exception is the test's failure."""
    try:
        PPOConfig(**fields)
    except PPOError as error:
        return str(error)
    return None


@settings(max_examples=300, deadline=None)
@given(st.fixed_dictionaries({}, optional=every_field))
def test_junk_raises_nothing_but_ppo_error_of_one_line(fields):
    message = complaint(fields)
    assert message is None or "\n" not in message


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(sorted(every_field)).flatmap(lambda name: st.tuples(st.just(name), every_field[name])))
def test_one_field_of_junk_is_named(field):
    name, value = field
    message = complaint({name: value})
    assert message is None or name in message


@pytest.mark.parametrize(
    ("name", "field"),
    [
        ("lr", "learning_rate"),
        ("LR", "learning_rate"),
        ("n_steps", "num_steps"),
        ("clip_range", "clip_eps"),
        ("steps", "total_timesteps"),
        ("n_epochs", "update_epochs"),
    ],
)
def test_a_name_that_others_give_a_field_is_answered_with_ours(name, field):
    with pytest.raises(PPOError, match=f"'{name}'; did you mean {field}\\?$"):
        PPOConfig(**{name: 1})


def test_every_name_of_others_is_of_something_that_there_is():
    options = {"seeds", "env", "out"}
    assert set(OTHER_NAMES.values()) - options <= {field.name for field in dataclasses.fields(PPOConfig)}
    assert not set(OTHER_NAMES) & {field.name for field in dataclasses.fields(PPOConfig)}


def test_a_config_prints_what_differs_from_its_defaults():
    @dataclasses.dataclass(frozen=True)
    class OwnConfig(PPOConfig):
        bonus: float = 1.0

    config = PPOConfig(num_envs=16, hidden_sizes=(8,), learning_rate=1e-3, activation="relu")
    assert repr(PPOConfig()) == "PPOConfig()"
    assert eval(repr(config), {"PPOConfig": PPOConfig}) == config
    assert len(repr(config)) < 120
    assert repr(OwnConfig(bonus=2.0)) == "OwnConfig(bonus=2.0)"
    printed = []
    jax.eval_shape(lambda gamma: printed.append(repr(PPOConfig(gamma=gamma))), 0.9)
    assert "gamma=" in printed[0]
