import os
import subprocess
import sys
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
import scipy.stats

import purejaxppo
from purejaxppo.policies.networks import (
    CNN,
    MLP,
    SharedStd,
    is_image,
    make_actor_critic,
    orthogonal,
    orthonormal_columns,
    own_std,
    patches,
)
from purejaxppo.ppo.config import CHOICES
from purejaxppo.utils.errors import PPOError
from purejaxppo.utils.tree import unchanged

SHAPES = [(4, 64), (64, 64), (64, 2), (64, 1), (1, 64), (256, 256), (1, 1)]
SEEDS = 2000
INIT_256 = """
import jax, jax.numpy as jnp
from purejaxppo import PPOConfig
from purejaxppo.policies.networks import make_actor_critic
net = make_actor_critic(PPOConfig(), 2, (4,))
init = jax.jit(jax.vmap(lambda key: net.init(key, jnp.zeros(4))))
params = jax.block_until_ready(init(jax.random.split(jax.random.key(0), 256)))
kernel = params["params"]["actor"]["Dense_1"]["kernel"]
gram = jnp.einsum("sij,sik->sjk", kernel, kernel)
assert jnp.abs(gram - 2 * jnp.eye(64)).max() < 1e-4
print("initialised", len(kernel))
"""


def make_net(num_outputs=2, obs_shape=(4,), head=unchanged, **fields):
    return make_actor_critic(purejaxppo.PPOConfig(**fields), num_outputs, obs_shape, head)


def random_params(net, obs_shape=(4,)):
    """Parameters of the right shapes, biases included, without compiling an init."""
    rng = np.random.default_rng(0)
    shapes = jax.eval_shape(net.init, jax.random.key(0), jnp.zeros(obs_shape))
    return jax.tree.map(lambda x: jnp.asarray(rng.normal(scale=0.3, size=x.shape), x.dtype), shapes)


def layers(params, tower):
    return [params["params"][tower][f"Dense_{i}"] for i in range(3)]


@pytest.fixture(scope="module")
def cartpole_params():
    return jax.jit(make_net().init)(jax.random.key(0), jnp.zeros(4))


@pytest.fixture(scope="module")
def haar():
    """[SEEDS, 8, 8], drawn by the initializer itself."""
    keys = jax.random.split(jax.random.key(0), SEEDS)
    return np.asarray(jax.jit(jax.vmap(lambda key: orthogonal(1.0)(key, (8, 8))))(keys), np.float64)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_the_short_side_is_orthonormal(shape):
    keys = jax.random.split(jax.random.key(0), 3)
    for matrix in np.asarray(jax.vmap(lambda key: orthogonal(1.0)(key, shape))(keys), np.float64):
        assert matrix.shape == shape
        gram = matrix.T @ matrix if shape[0] >= shape[1] else matrix @ matrix.T
        np.testing.assert_allclose(gram, np.eye(min(shape)), atol=1e-5)


def test_columns_that_nearly_agree_are_orthonormal():
    # One pass of Gram-Schmidt leaves 1e-2 here; "twice is enough".
    rng = np.random.default_rng(0)
    matrix = rng.normal(size=(64, 1)) + 1e-4 * rng.normal(size=(64, 8))
    columns = np.asarray(orthonormal_columns(jnp.asarray(matrix, jnp.float32)), np.float64)
    np.testing.assert_allclose(columns.T @ columns, np.eye(8), atol=1e-5)


@pytest.mark.parametrize("shape", [(64, 2), (64, 1), (64, 32), (256, 64), (8, 8)], ids=str)
def test_columns_agree_with_the_q_of_numpy(shape):
    matrix = np.random.default_rng(1).normal(size=shape).astype(np.float32)
    q, r = np.linalg.qr(matrix.astype(np.float64))
    q = q * np.sign(np.diag(r))
    # Q moves by about cond(matrix) times the rounding of float32.
    bound = 16 * np.linalg.cond(matrix.astype(np.float64)) * 2.0**-24
    assert bound < 1e-4
    np.testing.assert_allclose(orthonormal_columns(jnp.asarray(matrix)), q, atol=bound)


def test_the_scale_multiplies():
    key = jax.random.key(3)
    np.testing.assert_allclose(orthogonal(0.01)(key, (64, 2)), 0.01 * orthogonal(1.0)(key, (64, 2)), rtol=1e-6)


def test_keys_give_different_matrices_and_one_key_the_same():
    init = jax.jit(lambda key: orthogonal(1.0)(key, (8, 4)))
    first, again, other = (init(jax.random.key(k)) for k in (0, 0, 1))
    assert bool(jnp.all(first == again))
    assert float(jnp.abs(first - other).max()) > 0.1


@pytest.mark.parametrize("shape", [(8,), (2, 3, 4), ()], ids=str)
def test_what_is_no_matrix_is_refused(shape):
    with pytest.raises(PPOError, match="matrices"):
        orthogonal(1.0)(jax.random.key(0), shape)


@pytest.mark.parametrize(("row", "column"), [(0, 0), (7, 0), (0, 7), (7, 7), (3, 4)])
def test_entries_have_the_law_of_haar_measure(haar, row, column):
    # The square of an entry of a uniform unit vector in R^8 is Beta(1/2, 7/2), and its sign is fair.
    entries = haar[:, row, column]
    law = scipy.stats.beta(0.5, 3.5)
    assert scipy.stats.kstest(entries, lambda x: 0.5 + 0.5 * np.sign(x) * law.cdf(x**2)).pvalue > 0.01


def test_products_with_a_fixed_rotation_have_the_same_law(haar):
    rotation = scipy.stats.ortho_group.rvs(8, random_state=0)
    for moved in (rotation @ haar, haar @ rotation):
        assert (
            scipy.stats.ks_2samp(
                np.trace(haar[: SEEDS // 2], axis1=1, axis2=2), np.trace(moved[SEEDS // 2 :], axis1=1, axis2=2)
            ).pvalue
            > 0.01
        )


def test_half_of_the_square_matrices_are_reflections(haar):
    determinants = np.linalg.det(haar)
    np.testing.assert_allclose(np.abs(determinants), 1.0, atol=1e-5)
    assert scipy.stats.binomtest(int((determinants > 0).sum()), SEEDS).pvalue > 0.01


def test_a_population_of_256_initialises_within_a_minute():
    root = str(Path(purejaxppo.__file__).parents[1])
    path = os.pathsep.join([root, *filter(None, [os.environ.get("PYTHONPATH")])])
    done = subprocess.run(
        [sys.executable, "-c", INIT_256],
        env=os.environ | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.stdout == "initialised 256\n", done.stderr


def test_a_vmapped_init_calls_no_lapack():
    keys = jax.random.split(jax.random.key(0), 4)
    net = make_net()
    text = jax.jit(jax.vmap(lambda key: net.init(key, jnp.zeros(4)))).lower(keys).as_text().lower()
    assert not any(word in text for word in ("lapack", "custom_call", "geqrf", "householder"))
    # What would be seen otherwise:
    by_qr = jax.jit(jax.vmap(lambda key: nn.initializers.orthogonal()(key, (8, 8)))).lower(keys).as_text().lower()
    assert "custom_call" in by_qr


@pytest.mark.parametrize(
    ("tower", "scales", "sizes"),
    [
        ("actor", (2**0.5, 2**0.5, 0.01), (4, 64, 64, 2)),
        ("critic", (2**0.5, 2**0.5, 1.0), (4, 64, 64, 1)),
    ],
)
def test_scales_shapes_and_biases_of_the_default_network(cartpole_params, tower, scales, sizes):
    params = cartpole_params
    assert set(params["params"]) == {"actor", "critic"}
    assert len(params["params"][tower]) == 3
    for layer, scale, n_in, n_out in zip(layers(params, tower), scales, sizes, sizes[1:], strict=False):
        kernel = np.asarray(layer["kernel"], np.float64)
        assert kernel.shape == (n_in, n_out)
        np.testing.assert_allclose(np.linalg.svd(kernel, compute_uv=False), scale, rtol=1e-5)
        assert layer["bias"].tolist() == [0.0] * n_out


@pytest.mark.parametrize(
    ("num_actions", "obs_shape", "hidden_sizes", "count"),
    [
        (2, (4,), (64, 64), 9155),  # 320 + 4160 + 130, and 320 + 4160 + 65
        (18, (3, 5), (8,), 427),  # 128 + 162, and 128 + 9
        (3, (6,), (), 28),  # 21, and 7
    ],
)
def test_the_number_of_parameters(num_actions, obs_shape, hidden_sizes, count):
    net = make_net(num_outputs=num_actions, obs_shape=obs_shape, hidden_sizes=hidden_sizes)
    shapes = jax.eval_shape(net.init, jax.random.key(0), jnp.zeros(obs_shape))
    assert sum(x.size for x in jax.tree.leaves(shapes)) == count


def test_towers_share_nothing(cartpole_params):
    actor, critic = (layers(cartpole_params, tower)[:2] for tower in ("actor", "critic"))
    for one, other in zip(actor, critic, strict=True):
        assert float(jnp.abs(one["kernel"] - other["kernel"]).max()) > 0.1


NUMPY_ACTIVATIONS = {
    "tanh": np.tanh,
    "relu": lambda x: np.maximum(x, 0),
    "gelu": lambda x: 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3))),
    "silu": lambda x: x * scipy.special.expit(x),
    "elu": lambda x: np.where(x > 0, x, np.expm1(x)),
}


@pytest.mark.parametrize("activation", CHOICES["activation"])
def test_the_forward_pass_agrees_with_numpy(activation):
    net = make_net(activation=activation, hidden_sizes=(16, 8))
    params = random_params(net)
    obs = np.random.default_rng(1).normal(size=(10, 4)).astype(np.float32)
    expected = []
    for tower in ("actor", "critic"):
        x = obs.astype(np.float64)
        for i, layer in enumerate(layers(params, tower)):
            x = x @ np.asarray(layer["kernel"], np.float64) + np.asarray(layer["bias"], np.float64)
            x = NUMPY_ACTIVATIONS[activation](x) if i < 2 else x
        expected.append(x)
    logits, value = jax.jit(net.apply)(params, jnp.asarray(obs))
    np.testing.assert_allclose(logits, expected[0], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(value, expected[1][:, 0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("obs_shape", [(), (4,), (3, 2)], ids=str)
@pytest.mark.parametrize("axes", [(), (5,), (3, 2)], ids=str)
def test_any_leading_axes_are_taken(obs_shape, axes):
    net = make_net(obs_shape=obs_shape, num_outputs=3, hidden_sizes=(8,))
    params = random_params(net, obs_shape)
    obs = jax.random.normal(jax.random.key(1), (*axes, *obs_shape))
    apply = jax.jit(net.apply)
    logits, value = apply(params, obs)
    assert (logits.shape, value.shape) == ((*axes, 3), axes)
    flat = obs.reshape(-1, *obs_shape)
    one_by_one = [apply(params, x) for x in flat]
    np.testing.assert_allclose(logits.reshape(-1, 3), np.stack([x for x, _ in one_by_one]), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(value.ravel(), np.stack([x for _, x in one_by_one]), rtol=1e-5, atol=1e-6)


def test_acting_computes_no_critic():
    net = make_net()
    params, obs = random_params(net), jnp.zeros((32, 4))

    def flops(function):
        return jax.jit(function).lower(params, obs).compile().cost_analysis()["flops"]

    products = 2 * 32 * (4 * 64 + 64 * 64 + 64 * 2)
    acting, both = flops(lambda p, o: net.apply(p, o)[0]), flops(net.apply)
    assert products <= acting < 1.1 * products
    assert 1.9 < both / acting < 2.1


def test_logits_have_no_gradient_in_the_critic_nor_the_value_in_the_actor():
    net = make_net()
    params, obs = random_params(net), jnp.ones((3, 4))
    for output, own, other in ((0, "actor", "critic"), (1, "critic", "actor")):
        slope = jax.jit(jax.grad(lambda p, i=output: net.apply(p, obs)[i].ravel()[0]))(params)["params"]
        assert all(float(jnp.abs(x).max()) == 0 for x in jax.tree.leaves(slope[other]))
        assert all(float(jnp.abs(x).max()) > 0 for x in jax.tree.leaves(slope[own]))


def test_patches_times_a_matrix_is_the_convolution_of_flax():
    image = jax.random.normal(jax.random.key(0), (2, 5, 10, 7, 4))
    kernel = jax.random.normal(jax.random.key(1), (3, 3, 4, 16))
    params = {"params": {"kernel": kernel, "bias": jnp.zeros(16)}}
    expected = nn.Conv(16, (3, 3), padding="VALID").apply(params, image)
    np.testing.assert_allclose(patches(image) @ kernel.reshape(36, 16), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("image", [False, True])
def test_a_shared_trunk_is_one_tower_with_the_value_as_its_last_output(image):
    shape = (10, 10, 4) if image else (4,)
    env = purejaxppo.make_env("Breakout-MinAtar" if image else "CartPole-v1")
    config = purejaxppo.PPOConfig(hidden_sizes=(8,), share_trunk=True)
    agent = purejaxppo.make_ppo(env, config)
    state = jax.jit(agent.init)(jax.random.key(0)).train_state
    assert set(state.params["params"]) == {"trunk"}
    trunk = state.params["params"]["trunk"]
    last = (trunk["dense"] if image else trunk)["Dense_1"]["kernel"]
    assert last.shape == (8, env.action_space.n + 1)
    np.testing.assert_allclose(np.linalg.svd(last[:, :-1], compute_uv=False), 0.01, rtol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(last[:, -1]), 1.0, rtol=1e-5)
    obs = jax.random.normal(jax.random.key(1), (5, *shape))
    logits, value = agent.network.apply(state.params, obs)
    alone = (CNN if image else MLP)((8,), env.action_space.n + 1, "tanh", orthogonal(1.0), orthogonal(1.0))
    np.testing.assert_allclose(
        alone.apply({"params": trunk}, obs), jnp.concatenate([logits, value[:, None]], axis=-1), rtol=1e-5, atol=1e-6
    )
    slope = jax.grad(lambda params: agent.network.apply(params, obs)[1].sum())(state.params)
    assert all(float(jnp.abs(x).max()) > 0 for x in jax.tree.leaves(slope))


def test_the_network_of_images_has_orthogonal_kernels_and_takes_any_leading_axes():
    net = make_net(3, (10, 10, 4), hidden_sizes=(8,), activation="relu")
    params = jax.jit(net.init)(jax.random.key(0), jnp.zeros((10, 10, 4)))
    for name, scale in (("actor", 0.01), ("critic", 1.0)):
        tower = params["params"][name]
        kernels = [tower["convolution"]["kernel"], *(tower["dense"][f"Dense_{i}"]["kernel"] for i in range(2))]
        assert [kernel.shape for kernel in kernels[:2]] == [(36, 16), (8 * 8 * 16, 8)]
        for kernel, gain in zip(kernels, (2**0.5, 2**0.5, scale), strict=True):
            np.testing.assert_allclose(np.linalg.svd(kernel, compute_uv=False), gain, rtol=1e-5)
    images = jax.random.normal(jax.random.key(1), (2, 3, 10, 10, 4))
    logits, value = net.apply(params, images)
    assert (logits.shape, value.shape) == ((2, 3, 3), (2, 3))
    np.testing.assert_allclose(net.apply(params, images[1, 2])[0], logits[1, 2], rtol=1e-4, atol=1e-6)
    moved = net.apply(params, jnp.roll(images, 1, axis=-2))[0]
    assert float(jnp.abs(moved - logits).max()) > 1e-4


def test_the_default_network_of_images_is_convolutional():
    for name, kind in (("Breakout-MinAtar", "convolution"), ("Catch-bsuite", "Dense_0")):
        env = purejaxppo.make_env(name)
        agent = purejaxppo.make_ppo(env, purejaxppo.PPOConfig(hidden_sizes=(8,)))
        params = jax.eval_shape(agent.init, jax.random.key(0)).train_state.params
        assert kind in params["params"]["actor"]


def test_a_board_of_three_by_three_has_no_room_for_a_convolution():
    assert [is_image(shape) for shape in ((3, 3, 2), (3, 9, 2), (4, 4, 2))] == [False, False, True]


def test_the_standard_deviation_is_a_parameter_or_an_output():
    shared = make_net(head=SharedStd(), hidden_sizes=(8,))
    params = shared.init(jax.random.key(0), jnp.zeros(4))
    assert params["params"]["head"]["log_std"].tolist() == [0.0, 0.0]
    obs = jax.random.normal(jax.random.key(1), (5, 3, 4))
    (mean, log_std), value = shared.apply(params, obs)
    assert mean.shape == log_std.shape == (5, 3, 2)
    assert value.shape == (5, 3)
    assert not np.any(log_std)
    own = make_net(4, head=own_std, hidden_sizes=(8,))
    (mean, log_std), _ = own.apply(own.init(jax.random.key(0), jnp.zeros(4)), obs)
    assert mean.shape == log_std.shape == (5, 3, 2)
    assert len(np.unique(log_std)) == 30


class WithStatistics(nn.Module):
    """Parameters beside a constant and the averages of a BatchNorm."""

    @nn.compact
    def __call__(self, obs):
        scale = self.variable("fixed", "scale", lambda: jnp.float32(3.0))
        hidden = nn.BatchNorm(use_running_average=True)(nn.Dense(8)(obs) * scale.value)
        return nn.Dense(2)(hidden), nn.Dense(1)(hidden)[..., 0]


def test_only_the_parameters_of_a_flax_module_are_learned():
    config = purejaxppo.PPOConfig(num_envs=4, num_steps=8, total_timesteps=64, num_minibatches=2, learning_rate=1e-2)
    agent = purejaxppo.make_ppo(purejaxppo.make_env("CartPole-v1"), config, network=WithStatistics())
    before = agent.init(jax.random.key(0))
    after = jax.jit(agent.update)(before)[0].train_state.params
    before = before.train_state.params
    assert before.keys() == {"params", "fixed", "batch_stats"}
    for name in before:
        same = [np.array_equal(*pair) for pair in zip(*map(jax.tree.leaves, (before[name], after[name])), strict=True)]
        assert not any(same) if name == "params" else all(same), name
