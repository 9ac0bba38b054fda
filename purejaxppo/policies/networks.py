"""Actor-critic networks: `init(key, obs) -> params` and `apply(params, obs) -> (distribution parameters, value)`."""

import functools
import itertools
from collections.abc import Callable
from typing import Any, NamedTuple, cast

import flax.linen as nn
import jax
import jax.numpy as jnp

from purejaxppo.policies.products import PRODUCTS, product_of_output
from purejaxppo.utils.errors import PPOError
from purejaxppo.utils.tree import PyTree, Structure, unchanged
from purejaxppo.utils.validation import shown

# MuJoCo Playground's names for what the default network's actor sees of an observation, and for what its critic sees:
# a simulator tells the critic what a robot cannot measure (Pinto et al. 2018).
ACTOR_SEES, CRITIC_SEES = "state", "privileged_state"


class Network(NamedTuple):
    """A pair of pure functions. `apply` takes any leading axes.

    Its first output is the parameters of the distribution: logits [..., n], or (mean, log_std) [..., d] each; for a
    pytree of spaces a pytree of these. After the value it may return auxiliary outputs, any pytree, for a loss.
    """

    init: Callable[[jax.Array, PyTree], PyTree]
    apply: Callable[[PyTree, PyTree], tuple[Any, ...]]

    def start(self) -> PyTree:
        """Initial memory. Empty, because the network is feed-forward."""
        return ()

    def params(self, key: jax.Array, obs: PyTree) -> PyTree:
        """The parameters, for one observation."""
        return self.init(key, obs)

    def step(self, params: PyTree, memory: PyTree, obs: PyTree) -> tuple[Any, ...]:
        """The network as one with a memory. -> (memory, distribution parameters, value), and auxiliary outputs"""
        return memory, *self.apply(params, obs)


def as_network(what: str, given: Any) -> Network:
    """A pair (init, apply), or an object with these two, as a `Network`. Raises PPOError for anything else."""
    if isinstance(given, type) and issubclass(given, nn.Module):
        raise PPOError(f"{what} is the class {given.__name__}; give an instance of it")
    if isinstance(given, nn.Module):
        return Network(given.init, functools.partial(apply_module, given))
    if hasattr(given, "init") and hasattr(given, "apply"):
        return Network(given.init, given.apply)
    if isinstance(given, tuple) and len(given) == 2 and all(map(callable, given)):
        return Network(*given)
    kind = given if isinstance(given, type) else type(given)
    if any(base.__module__.startswith("flax.nnx.") for base in kind.__mro__):
        name = kind.__name__
        raise PPOError(
            f"{what} is the flax.nnx module {name}, which holds its parameters; split them from its graph: "
            f"graph, _ = nnx.split({name}(nnx.Rngs(0))); network = pjp.Network(init=lambda key, obs: "
            f"nnx.state({name}(nnx.Rngs(key))), apply=lambda params, obs: nnx.merge(graph, params)(obs))"
        )
    raise PPOError(f"{what} = {shown(given)} lacks init and apply; give pjp.Network(init, apply)")


def apply_module(module: nn.Module, variables: PyTree, *args: Any, **kwargs: Any) -> Any:
    """A flax.linen module at its variables, of which only the parameters are learned: statistics stay as they are."""
    fixed = {name: jax.lax.stop_gradient(x) for name, x in variables.items() if name != "params"}
    return module.apply({**variables, **fixed}, *args, **kwargs)


def orthogonal(scale: float) -> Callable[..., jax.Array]:
    """Initializer: a matrix with orthonormal columns (rows, if it is wide), uniform in Haar measure, times `scale`.

    Gram-Schmidt on Gaussian columns; the second pass removes what rounding left of the first
    (Giraud, Langou, Rozloznik 2005: "twice is enough"). No LAPACK call: the batched QR inside
    `jax.nn.initializers.orthogonal` can block for good under vmap on two cores (jaxlib 0.10).
    """

    def init(key: jax.Array, shape: tuple[int, ...], dtype: jnp.dtype = jnp.float32) -> jax.Array:
        if len(shape) != 2:
            raise PPOError(f"orthogonal initialises matrices, not shape {shape}")
        tall = (max(shape), min(shape))
        columns = orthonormal_columns(jax.random.normal(key, tall, dtype))
        return scale * (columns if shape == tall else columns.T)

    return init


@jax.jit  # flax traces every initializer again in each `apply`; under jit, this is traced once for each shape
def orthonormal_columns(matrix: jax.Array) -> jax.Array:
    """The Q of matrix = Q R with a positive diagonal of R, by Gram-Schmidt. [m, n], m >= n -> [m, n]"""

    def orthogonalise(k: jax.Array, basis: jax.Array) -> jax.Array:
        column = matrix[:, k]
        column = column - basis @ (basis.T @ column)
        column = column - basis @ (basis.T @ column)
        return basis.at[:, k].set(column / jnp.linalg.norm(column))

    return jax.lax.fori_loop(0, matrix.shape[1], orthogonalise, jnp.zeros_like(matrix))


class MLP(nn.Module):
    """Dense layers with an activation between them; biases start at 0."""

    hidden_sizes: tuple[int, ...]
    output_size: int
    activation: str
    hidden_init: Callable[..., jax.Array]  # initializers of the kernels
    output_init: Callable[..., jax.Array]
    dot_general: Callable[..., jax.Array] | None = None  # of the hidden layers: one of `PRODUCTS`

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[..., features] -> [..., output_size]"""
        x = hidden_layers(x, self.hidden_sizes, self.activation, self.hidden_init, self.dot_general)
        return nn.Dense(self.output_size, kernel_init=self.output_init, dot_general=product_of_output)(x)


def hidden_layers(
    x: jax.Array,
    sizes: tuple[int, ...],
    activation: str,
    kernel_init: Callable[..., jax.Array],
    dot_general: Callable[..., jax.Array] | None = None,
) -> jax.Array:
    """Adds the hidden layers to the calling flax module. [..., features] -> [..., sizes[-1]]"""
    for size in sizes:
        x = getattr(nn, activation)(nn.Dense(size, kernel_init=kernel_init, dot_general=dot_general)(x))
    return x


class CNN(MLP):
    """A convolution with 16 kernels of 3 x 3, its output flattened into an MLP: Young and Tian (2019) for MinAtar."""

    @nn.compact
    def __call__(self, image: jax.Array) -> jax.Array:
        """[..., height, width, channels] -> [..., output_size]"""
        x = convolved(image, self.activation, self.hidden_init, self.dot_general)
        inits = (self.hidden_init, self.output_init)
        return MLP(self.hidden_sizes, self.output_size, self.activation, *inits, self.dot_general, name="dense")(x)


def convolved(
    image: jax.Array,
    activation: str,
    kernel_init: Callable[..., jax.Array],
    dot_general: Callable[..., jax.Array] | None = None,
) -> jax.Array:
    """Adds the convolution to the calling flax module. [..., h, w, c] -> [..., 16 (h - 2) (w - 2)]"""
    x = nn.Dense(16, kernel_init=kernel_init, dot_general=dot_general, name="convolution")(patches(image))
    x = getattr(nn, activation)(x)
    return x.reshape(*x.shape[:-3], -1)


def patches(image: jax.Array) -> jax.Array:
    """The 3 x 3 neighbourhood of each inner pixel: times a matrix, a convolution without padding.

    Under vmap over seeds this stays a batched matrix product, where XLA has no fast kernel for CPUs for convolutions
    whose kernels differ. [..., h, w, c] -> [..., h - 2, w - 2, 9 c]
    """
    height, width = image.shape[-3] - 2, image.shape[-2] - 2
    shifted = [image[..., i : i + height, j : j + width, :] for i in range(3) for j in range(3)]
    return jnp.concatenate(shifted, axis=-1)


class SharedStd(nn.Module):
    """The head of a Gaussian policy whose standard deviation is the same in every state; it starts at 1."""

    @nn.compact
    def __call__(self, mean: jax.Array) -> tuple[jax.Array, jax.Array]:
        """mean [..., d] -> mean, log_std [..., d]"""
        log_std = self.param("log_std", nn.initializers.zeros, mean.shape[-1:])
        return mean, jnp.broadcast_to(log_std, mean.shape)


def own_std(outputs: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The head of a Gaussian policy whose standard deviation depends on the state. [..., 2 d] -> mean, log_std"""
    mean, log_std = jnp.split(outputs, 2, axis=-1)
    return mean, log_std


class JointHead(nn.Module):
    """The head of a policy over a pytree of spaces: each has its own, on its piece of the outputs."""

    structure: Structure
    sizes: tuple[int, ...]  # of the pieces
    heads: tuple[Callable[[jax.Array], PyTree], ...]

    @nn.compact
    def __call__(self, outputs: jax.Array) -> PyTree:
        """[..., n_1 + ... + n_k] -> the parameters of each part"""
        ends = list(itertools.accumulate(self.sizes))
        pieces = jnp.split(outputs, ends[:-1], axis=-1)
        return self.structure.unflatten([head(piece) for head, piece in zip(self.heads, pieces, strict=True)])


class ActorCritic(nn.Module):
    """Two separate towers, orthogonal with gain sqrt(2), and 0.01 and 1 at the outputs.

    Acting uses the actor alone: the compiler removes the critic from the rollout.
    """

    tower: Callable[..., nn.Module]  # (output_size, output_init=, name=) -> module
    num_outputs: int  # of the actor
    head: Callable[[jax.Array], PyTree]  # from them to the distribution's parameters

    @nn.compact
    def __call__(self, obs: jax.Array | tuple[jax.Array, jax.Array]) -> tuple[PyTree, jax.Array]:
        """[..., *obs_shape] as the tower takes it -> distribution parameters [..., n], value [...]

        obs: or a pair of them, the actor's and the critic's
        """
        actor_obs, critic_obs = for_each_tower(obs)
        outputs = self.tower(self.num_outputs, output_init=orthogonal(0.01), name="actor")(actor_obs)
        value = self.tower(1, output_init=orthogonal(1.0), name="critic")(critic_obs)
        return self.head(outputs), value[..., 0]


class SharedActorCritic(ActorCritic):
    """One tower for both: the last of its outputs is the value. The gains are those of `ActorCritic`."""

    @nn.compact
    def __call__(self, obs: Any) -> tuple[PyTree, jax.Array]:
        """[..., *obs_shape] as the tower takes it -> distribution parameters [..., n], value [...]"""
        outputs = self.tower(self.num_outputs + 1, output_init=shared_output, name="trunk")(obs)
        return self.head(outputs[..., :-1]), outputs[..., -1]


def shared_output(key: jax.Array, shape: tuple[int, ...], dtype: jnp.dtype = jnp.float32) -> jax.Array:
    """Initializer of the last layer of a shared tower: the actor's columns have gain 0.01, and the critic's has 1."""
    actor_key, critic_key = jax.random.split(key)
    actor = orthogonal(0.01)(actor_key, (shape[0], shape[1] - 1), dtype)
    return jnp.concatenate([actor, orthogonal(1.0)(critic_key, (shape[0], 1), dtype)], axis=1)


def make_actor_critic(
    config: Any, num_outputs: int, obs_shape: PyTree, head: Callable[[jax.Array], PyTree] = unchanged
) -> Network:
    """The default network: convolutional towers for an image, else MLP towers over the flattened observation.

    Of an observation with the parts `state` and `privileged_state`, the actor sees the first and the critic the second.

    config: with hidden_sizes, activation, share_trunk and compute_dtype; obs_shape: of each array of the observation
    """
    tower = functools.partial(
        CNN if is_image(obs_shape) else MLP,
        config.hidden_sizes,
        activation=config.activation,
        hidden_init=orthogonal(2**0.5),
        dot_general=PRODUCTS[config.compute_dtype],
    )
    module = (SharedActorCritic if config.share_trunk else ActorCritic)(tower, num_outputs, head)
    return Network(
        init=lambda key, obs: module.init(key, tower_input(obs, obs_shape)),
        apply=lambda params, obs: cast(Any, module.apply(params, tower_input(obs, obs_shape))),
    )


def is_asymmetric(obs_shape: PyTree) -> bool:
    """True for the shapes of an observation in two parts, one for the actor and one for the critic."""
    return isinstance(obs_shape, dict) and obs_shape.keys() == {ACTOR_SEES, CRITIC_SEES}


def for_each_tower(obs: jax.Array | tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
    """The observations of actor and critic: a pair as it is, or one array for both."""
    return obs if isinstance(obs, tuple) else (obs, obs)


def tower_input(obs: PyTree, obs_shape: PyTree) -> jax.Array | tuple[jax.Array, jax.Array]:
    """An image unchanged, any other observation flattened; a pair, for actor and critic, if it `is_asymmetric`."""
    if is_image(obs_shape):
        return obs
    if is_asymmetric(obs_shape):
        return flat(obs[ACTOR_SEES], obs_shape[ACTOR_SEES]), flat(obs[CRITIC_SEES], obs_shape[CRITIC_SEES])
    return flat(obs, obs_shape)


def flat(obs: PyTree, obs_shape: PyTree) -> jax.Array:
    """The arrays of an observation, side by side. [..., *obs_shape] each -> [..., features]"""
    arrays, structure = jax.tree.flatten(obs)
    shapes = structure.flatten_up_to(obs_shape)
    rows = [x.reshape(*x.shape[: x.ndim - len(shape)], -1) for x, shape in zip(arrays, shapes, strict=True)]
    return rows[0] if len(rows) == 1 else jnp.concatenate(rows, axis=-1)


def is_image(obs_shape: PyTree) -> bool:
    """True for the shape of one image, where a convolution has several places: at 3 x 3 it is a narrow dense layer."""
    is_one = isinstance(obs_shape, tuple) and all(isinstance(size, int) for size in obs_shape)
    return is_one and len(obs_shape) == 3 and min(obs_shape[:2]) > 3
