"""Exported policies act like `act`, and without this library."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from workshop import Workshop

import purejaxppo as pjp
from purejaxppo.envs.base import MaskedObs
from purejaxppo.runs.export import input_shapes, name_observation, named, policy_function
from purejaxppo.runs.export_numpy import write_module
from purejaxppo.runs.export_onnx import write_model
from purejaxppo.runs.export_program import make_program

onnxruntime = pytest.importorskip("onnxruntime")
pytestmark = pytest.mark.slow

N = 5
SMALL = {"num_envs": 2, "num_steps": 8, "num_minibatches": 1, "total_timesteps": 16, "hidden_sizes": (8,)}


class Seen:
    """An environment that only has an observation, in a space, and a box to act in."""

    default_params = None
    action_space = pjp.Box((2,), (-1.0, -0.1), (0.2, 1.0))

    def __init__(self, space):
        self.observation_space = space

    def reset(self, key, params):
        is_box = lambda x: isinstance(x, pjp.Box)  # noqa: E731
        return jax.tree.map(lambda space: jnp.zeros(space.shape), self.observation_space, is_leaf=is_box), ()

    def step(self, key, state, action, params):
        return *self.reset(key, params), 0.0, False, False


def box(*shape):
    size = int(np.prod(shape))
    return pjp.Box(shape, (-1.0,) * size, (1.0,) * size)


ASYMMETRIC = {"state": box(3), "privileged_state": box(4)}
KINDS = {
    "categorical": ("CartPole-v1", pjp.PPOConfig(**SMALL, normalize_obs=True)),
    "clipped": (Seen(box(3)), pjp.PPOConfig(**SMALL, activation="relu")),
    "squashed": (Seen(ASYMMETRIC), pjp.PPOConfig(**SMALL, box_policy="squashed", box_std="state", normalize_obs=True)),
    "tree": (Workshop(), pjp.PPOConfig(**SMALL, share_trunk=True)),
    "image": (Seen(box(5, 6, 2)), pjp.PPOConfig(**SMALL)),
    "gru": (Workshop(), pjp.RecurrentConfig(**SMALL, cell_size=4, normalize_obs=True)),
    "lstm": ("CartPole-v1", pjp.RecurrentConfig(**SMALL, cell="lstm", cell_size=4, share_trunk=True)),
}


def make(kind):
    """An agent, and a train state of random parameters and observation statistics: each of them changes actions."""
    env, config = KINDS[kind]
    agent, rng = pjp.make_ppo(pjp.make_env(env), config), np.random.default_rng(0)
    state = jax.eval_shape(agent.init, jax.random.key(0)).train_state
    params = jax.tree.map(lambda x: rng.normal(size=x.shape).astype(np.float32), state.params)
    moments = jax.tree.map(lambda x: (1 + rng.uniform(size=x.shape)).astype(np.float32), state.obs_moments)
    state = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), state)
    return agent, jax.tree.map(jnp.asarray, state.replace(params=params, obs_moments=moments))


@pytest.fixture(scope="module", params=KINDS)
def kind(request, tmp_path_factory):
    return *make(request.param), tmp_path_factory.mktemp(request.param)


def random_obs(agent, key):
    like = jax.eval_shape(lambda: agent.env.reset(jax.random.key(0), agent.env.params)[0])
    keys = iter(jax.random.split(key, 20))
    obs = jax.tree.map(lambda x: jax.random.normal(next(keys), (N, *x.shape)), like)
    if isinstance(obs, MaskedObs):
        masks = jax.tree.map(lambda x: (x > 0).at[:, 0].set(True), obs.action_mask)
        obs = obs.replace(action_mask=masks)
    return obs


def player(path):
    """The function of an exported file: arrays by name to arrays by name."""
    if path.suffix == ".npz":
        space = {"__file__": str(path.with_suffix(".py"))}
        exec(path.with_suffix(".py").read_text(), space)
        return space["act"]
    if path.suffix == ".jax":
        return jax.export.deserialize(path.read_bytes()).call
    session = onnxruntime.InferenceSession(path)
    names = [x.name for x in session.get_outputs()]
    return lambda inputs: dict(zip(names, session.run(names, inputs), strict=True))


@pytest.mark.parametrize("suffix", ["npz", "jax", "onnx"])
def test_an_exported_policy_acts_like_act(kind, suffix):
    agent, state, folder = kind
    files = pjp.export_policy(agent, state, folder / f"policy.{suffix}")
    act, is_recurrent = player(files[0]), bool(jax.tree.leaves(agent.start_memory))
    start = jax.tree.map(lambda x: jnp.broadcast_to(x, (N, *x.shape)), agent.start_memory)
    memory, given = start, {name: np.full(x.shape, 9.0, np.float32) for name, x in named("memory", start).items()}
    act_of_agent = jax.jit(agent.act)
    for step in range(3):
        obs, reset = random_obs(agent, jax.random.key(step)), np.arange(N) % 3 == step
        reset |= step == 0
        memory = jax.tree.map(lambda first, x: jnp.where(reset[:, None], first, x), start, memory)  # noqa: B023
        wanted = act_of_agent(state, obs, None, memory)
        action, memory = wanted if is_recurrent else (wanted, ())
        arrays = {name: np.asarray(x) for name, x in name_observation(obs).items()} | given
        found = act(arrays | {"reset": reset} if is_recurrent else arrays)
        expected = named("action", action) | named("next_memory", memory)
        assert found.keys() == expected.keys()
        for name, x in expected.items():
            assert (found[name].shape, found[name].dtype) == (x.shape, x.dtype)
            np.testing.assert_allclose(found[name], x, rtol=2e-5, atol=2e-6)
        given = {name: np.asarray(found[f"next_{name}"]) for name in given}


def test_sampled_actions_are_those_of_act_with_the_key(tmp_path):
    agent, state = make("categorical")
    (path,) = pjp.export_policy(agent, state, tmp_path / "a.jax", sampled=True)
    obs, key = random_obs(agent, jax.random.key(2)), jax.random.key(3)
    found = player(path)({"obs": obs, "key": jax.random.key_data(key)})["action"]
    assert np.array_equal(found, jax.jit(agent.act)(state, obs, key))


def test_a_key_of_another_generator_samples_too(tmp_path):
    agent, state = make("categorical")
    with jax.default_prng_impl("rbg"):
        shapes = input_shapes(agent, jax.ShapeDtypeStruct((4,), jnp.float32), N, sampled=True)
        outputs = jax.eval_shape(policy_function(agent, shapes["obs"]), state, shapes)
    assert (shapes["key"].shape, outputs["action"].shape) == ((4,), (N,))


def test_a_module_says_which_arrays_it_takes_and_gives(tmp_path):
    _, module = pjp.export_policy(*make("lstm"), tmp_path / "policy.npz")
    for part in ("obs [N, 4] float32", "memory_trunk_0 [N, 4] float32", "reset [N] bool", "action [N] int32"):
        assert part in module.read_text()


def many_operations(weights, inputs):
    """Operations that own networks use."""
    x, image = inputs["x"], inputs["image"]
    kernel = weights["kernel"]
    y = jax.lax.conv_general_dilated(image, kernel, (2, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
    z = jax.nn.gelu(x) + jax.nn.silu(x) + jax.nn.elu(x) + jax.nn.softplus(x)
    z = jax.nn.softmax(z) * jax.nn.log_softmax(x) + jax.nn.standardize(x) + jax.nn.leaky_relu(x, 0.1)
    attention = jnp.einsum("nd,nqd->nq", x, jnp.stack([x, z, x * z], 1))
    one_hot = jax.nn.one_hot(jnp.argmin(z, -1), 4)
    cut = jnp.pad(jax.lax.slice_in_dim(z, 1, 4, 2, axis=1), ((0, 0), (1, 0)), constant_values=0.5)
    return {
        "y": jnp.mean(y, (1, 2)),
        "z": jnp.concatenate([z, attention, one_hot, cut, jnp.clip(x, -0.5, weights["most"]), x**-2], -1) ** 3,
        "any": jnp.any(x > 1.0, -1) | ~jnp.all(x < 0.5, -1),
        "n": jnp.sum(x > 0, -1).astype(jnp.int32) + jnp.max(jnp.floor(x).astype(jnp.int32), -1),
    }


def test_operations_of_own_networks_are_those_of_jax(tmp_path):
    draw = lambda i, *shape: np.asarray(jax.random.normal(jax.random.key(i), shape))  # noqa: E731
    weights = {"kernel": draw(0, 3, 2, 2, 3), "most": np.float32(0.7)}
    inputs = {"x": draw(1, N, 4), "image": draw(2, N, 6, 5, 2)}
    (size,) = jax.export.symbolic_shape("N")
    shapes = {name: jax.ShapeDtypeStruct((size, *x.shape[1:]), x.dtype) for name, x in inputs.items()}
    program, path = make_program(many_operations, weights, shapes), tmp_path / "a.npz"
    np.savez(path, **program.constants)
    path.with_suffix(".py").write_text(write_module(program, "a test"))
    write_model(program, path.with_suffix(".onnx"), "a test")
    expected = many_operations(weights, inputs)
    for file in (path, path.with_suffix(".onnx")):
        found = player(file)(inputs)
        for name, x in expected.items():
            np.testing.assert_allclose(found[name], x, rtol=2e-4, atol=2e-5, err_msg=f"{file.suffix} {name}")


def test_an_operation_that_a_format_lacks_is_named(tmp_path):
    shapes = {"x": jax.ShapeDtypeStruct((N, 4), jnp.float32)}
    program = make_program(lambda _, x: {"a": jnp.sort(x["x"])}, {}, shapes)
    for write in (write_module, lambda program, about: write_model(program, tmp_path / "a.onnx", about)):
        with pytest.raises(pjp.PPOError, match=r"'sort'.*jax"):
            write(program, "a test")


def test_a_type_that_numpy_lacks_is_named():
    shapes = {"x": jax.ShapeDtypeStruct((N, 4), jnp.float32)}
    with pytest.raises(pjp.PPOError, match=r"'bfloat16'.*jax"):
        make_program(lambda w, x: {"a": (x["x"] @ w).astype(jnp.float32)}, jnp.ones((4, 2), jnp.bfloat16), shapes)


def test_the_arrays_have_the_names_and_shapes_of_the_parameters(tmp_path):
    agent, state = make("categorical")
    pjp.export_policy(agent, state, tmp_path / "policy.npz")
    layers = {"Dense_0": (4, 8), "Dense_1": (8, 2)}
    wanted = {f"params_params_actor_{layer}_kernel": shape for layer, shape in layers.items()}
    wanted |= {f"params_params_actor_{layer}_bias_2": (1, shape[1]) for layer, shape in layers.items()}
    with np.load(tmp_path / "policy.npz") as arrays:
        kept = {name: arrays[name].shape for name in arrays if name.startswith("params")}
    assert kept == wanted
