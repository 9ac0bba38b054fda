"""Actor-critic networks with a memory: an argument before the observation, and the first value returned."""

import functools
from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from purejaxppo.policies.networks import (
    convolved,
    for_each_tower,
    hidden_layers,
    is_image,
    orthogonal,
    shared_output,
    tower_input,
)
from purejaxppo.policies.products import PRODUCTS, bfloat16_matmul, product_of_output
from purejaxppo.utils.devices import traces_for_cpu
from purejaxppo.utils.tree import PyTree, unchanged

Product = Callable[[jax.Array, jax.Array], jax.Array]  # ([..., n], [n, m]) -> [..., m]


class RecurrentNetwork(NamedTuple):
    """Pure functions of a policy that remembers. `apply` takes any leading axes, alike for memory and observation.

    `replay` is `apply` over time, for learning; without it `apply` runs in a scan. It is faster if it computes outside
    of the scan whatever does not depend on the memory. Both may return auxiliary outputs after the value, any pytree,
    for a loss.
    """

    init: Callable[[jax.Array, PyTree, PyTree], PyTree]  # (key, memory, obs) -> params
    apply: Callable[[PyTree, PyTree, PyTree], tuple[Any, ...]]  # -> (memory, parameters, value)
    start: Callable[[], PyTree]  # the memory that an episode starts with, of one environment
    # (params, memory [B, ...], obs [T, B, ...], reset [T, B]) -> (parameters [T, B, ...], value [T, B])
    replay: Callable[[PyTree, PyTree, PyTree, jax.Array], tuple[Any, ...]] | None = None

    def params(self, key: jax.Array, obs: PyTree) -> PyTree:
        """The parameters, for one observation at the start of an episode."""
        return self.init(key, self.start(), obs)

    def step(self, params: PyTree, memory: PyTree, obs: PyTree) -> tuple[Any, ...]:
        """As `apply`: (memory, distribution parameters, value), and auxiliary outputs"""
        return self.apply(params, memory, obs)


class Encoder(nn.Module):
    """Dense layers between the observation and the cell of a recurrent tower, for an image after a convolution."""

    hidden_sizes: tuple[int, ...]
    activation: str
    hidden_init: Callable[..., jax.Array]
    is_image: bool
    dot_general: Callable[..., jax.Array] | None = None  # one of `PRODUCTS`

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[..., features], or [..., height, width, channels] -> [..., hidden_sizes[-1]]"""
        x = convolved(x, self.activation, self.hidden_init, self.dot_general) if self.is_image else x
        return hidden_layers(x, self.hidden_sizes, self.activation, self.hidden_init, self.dot_general)


class Cell(NamedTuple):
    """A recurrent cell. The input's part of its gates, W x + b, is computed before it, for all steps at once."""

    num_gates: int
    start: Callable[[int], PyTree]  # size -> the memory of an episode's start
    init: Callable[[jax.Array, int], PyTree]  # (key, size) -> the parameters of `step`
    input_bias: Callable[..., jax.Array]  # (key, size, num_steps) -> b, for memories that last up to num_steps
    step: Callable[..., PyTree]  # (params, memory, W x + b [..., gates size][, times]) -> memory
    output: Callable[[PyTree], jax.Array]  # memory -> [..., size]


def gru_step(params: PyTree, hidden: jax.Array, inputs: jax.Array, times: Product = jnp.matmul) -> jax.Array:
    """A step of the gated recurrent unit (Cho et al. 2014), in the form of cuDNN, PyTorch and flax.

        r = sigmoid(x_r + U_r h)
        z = sigmoid(x_z + U_z h)
        n = tanh(x_n + r (U_n h + c))
        h' = (1 - z) n + z h

    params: kernel U [size, 3 size], bias c [size]; inputs x: [..., 3 size]. [..., size] -> [..., size]
    """
    x_r, x_z, x_n = jnp.split(inputs, 3, axis=-1)
    u_r, u_z, u_n = jnp.split(times(hidden, params["kernel"]), 3, axis=-1)
    r, z = nn.sigmoid(x_r + u_r), nn.sigmoid(x_z + u_z)
    n = jnp.tanh(x_n + r * (u_n + params["bias"]))
    return (1.0 - z) * n + z * hidden


def lstm_step(
    params: PyTree, memory: tuple[jax.Array, jax.Array], inputs: jax.Array, times: Product = jnp.matmul
) -> tuple[jax.Array, jax.Array]:
    """A step of long short-term memory (Hochreiter and Schmidhuber 1997), with the forget gate of Gers et al. (2000).

        i, f, o = sigmoid(x_i + U_i h), sigmoid(x_f + U_f h), sigmoid(x_o + U_o h)
        c' = f c + i tanh(x_g + U_g h)
        h' = o tanh(c')

    params: kernel U [size, 4 size]; inputs x: [..., 4 size], in the order i, f, g, o. (c, h) -> (c', h'), [..., size]
    """
    cell, hidden = memory
    i, f, g, o = jnp.split(inputs + times(hidden, params["kernel"]), 4, axis=-1)
    cell = nn.sigmoid(f) * cell + nn.sigmoid(i) * jnp.tanh(g)
    return cell, nn.sigmoid(o) * jnp.tanh(cell)


def by_gate(num_gates: int) -> Callable[..., jax.Array]:
    """Initializer: an orthogonal matrix for each gate, side by side."""

    def init(key: jax.Array, shape: tuple[int, ...], dtype: jnp.dtype = jnp.float32) -> jax.Array:
        one = (shape[0], shape[1] // num_gates)
        gates = jax.vmap(lambda key: orthogonal(1.0)(key, one, dtype))(jax.random.split(key, num_gates))
        return jnp.moveaxis(gates, 0, 1).reshape(shape)

    return init


def log_time_scales(key: jax.Array, size: int, num_steps: int) -> jax.Array:
    """log u, u ~ U(1, T - 1): a gate of this bias keeps its number for about u steps (Tallec and Ollivier 2018).

    -> [size]
    """
    return jnp.log(jax.random.uniform(key, (size,), minval=1.0, maxval=max(num_steps - 1.0, 1.0)))


def gru_bias(key: jax.Array, size: int, num_steps: int) -> jax.Array:
    """The time scales for z, 0 for r and n. -> [3 size]"""
    scales, zeros = log_time_scales(key, size, num_steps), jnp.zeros(size)
    return jnp.concatenate([zeros, scales, zeros])


def lstm_bias(key: jax.Array, size: int, num_steps: int) -> jax.Array:
    """The time scales for f, their negative for i, 0 for g and o. -> [4 size]"""
    scales, zeros = log_time_scales(key, size, num_steps), jnp.zeros(size)
    return jnp.concatenate([-scales, scales, zeros, zeros])


GRU = Cell(
    num_gates=3,
    start=jnp.zeros,
    init=lambda key, size: {"kernel": by_gate(3)(key, (size, 3 * size)), "bias": jnp.zeros(size)},
    input_bias=gru_bias,
    step=gru_step,
    output=unchanged,
)
LSTM = Cell(
    num_gates=4,
    start=lambda size: (jnp.zeros(size), jnp.zeros(size)),
    init=lambda key, size: {"kernel": by_gate(4)(key, (size, 4 * size))},
    input_bias=lstm_bias,
    step=lstm_step,
    output=lambda memory: memory[1],
)
CELLS = {"gru": GRU, "lstm": LSTM}


class RecurrentTower(nn.Module):
    """Encoder, cell, linear output; the parts before and after the cell's step, and its parameters."""

    encoder: Callable[[], nn.Module]
    cell: Cell
    cell_size: int
    num_steps: int  # the longest time scale of the initial cells
    output_size: int
    output_init: Callable[..., jax.Array]
    dot_general: Callable[..., jax.Array] | None = None  # of the gates' inputs: one of `PRODUCTS`

    def setup(self) -> None:
        """The parameters."""
        self.encode = self.encoder()
        num_gates, size = self.cell.num_gates, self.cell_size
        self.gates = nn.Dense(
            num_gates * size,
            kernel_init=by_gate(num_gates),
            bias_init=lambda key, shape, dtype: self.cell.input_bias(key, size, self.num_steps),
            dot_general=self.dot_general,
        )
        self.recurrent = self.param("recurrent", self.cell.init, size)
        self.output = nn.Dense(self.output_size, kernel_init=self.output_init, dot_general=product_of_output)

    def inputs(self, obs: jax.Array) -> jax.Array:
        """The input's part of the gates. [..., *obs_shape] -> [..., gates size]"""
        return self.gates(self.encode(obs))


class RecurrentActorCritic(nn.Module):
    """Two separate recurrent towers, each with a memory of its own; the gains are those of `ActorCritic`."""

    memories: ClassVar[tuple[str, ...]] = ("actor", "critic")

    tower: Callable[..., RecurrentTower]  # (output_size=, output_init=) -> module
    cell: Cell
    num_outputs: int  # of the actor
    head: Callable[[jax.Array], PyTree]  # from them to the distribution's parameters

    def setup(self) -> None:
        """The towers."""
        self.actor = self.tower(output_size=self.num_outputs, output_init=orthogonal(0.01))
        self.critic = self.tower(output_size=1, output_init=orthogonal(1.0))

    def __call__(self, memory: PyTree, obs: jax.Array) -> tuple[PyTree, PyTree, jax.Array]:
        """One step. [..., *obs_shape] -> memory, distribution parameters [..., n], value [...]"""
        memory, outputs = step_each(self.cell, self.recurrent(), memory, self.inputs(obs))
        return memory, *self.read(outputs)

    def replay(self, memory: PyTree, obs: jax.Array, reset: jax.Array) -> tuple[PyTree, jax.Array]:
        """T steps; `reset` marks those that begin an episode, where the memory before them is 0.

        memory: [B, ...], obs: [T, B, *obs_shape], reset: [T, B] -> distribution parameters [T, B, n], value [T, B]
        """
        cell, recurrent, inputs = self.cell, self.recurrent(), self.inputs(obs)
        together = not traces_for_cpu()  # half as many kernels on a GPU; slower on a CPU
        if together:
            cell = cell._replace(step=jax.vmap(cell.step))
            recurrent, memory, inputs = self.stacked(recurrent), self.stacked(memory), self.stacked(inputs, axis=1)

        def remember(memory: PyTree, step: tuple[PyTree, jax.Array]) -> tuple[PyTree, PyTree]:
            inputs, reset = step
            memory = jax.tree.map(lambda x: jnp.where(reset[:, None], 0.0, x), memory)
            return step_each(cell, recurrent, memory, inputs)

        outputs = jax.lax.scan(remember, memory, (inputs, reset))[1]
        return self.read({name: outputs["all"][:, i] for i, name in enumerate(self.memories)} if together else outputs)

    def stacked(self, by_tower: PyTree, axis: int = 0) -> PyTree:
        """The arrays of all towers as those of one, with an axis of towers."""
        return {"all": jax.tree.map(lambda *x: jnp.stack(x, axis), *(by_tower[name] for name in self.memories))}

    def inputs(self, obs: jax.Array) -> PyTree:
        """The input's part of each tower's gates."""
        actor_obs, critic_obs = for_each_tower(obs)
        seen = {"critic": critic_obs}
        return {name: getattr(self, name).inputs(seen.get(name, actor_obs)) for name in self.memories}

    def recurrent(self) -> PyTree:
        """The parameters of each tower's cell."""
        return {name: getattr(self, name).recurrent for name in self.memories}

    def read(self, outputs: PyTree) -> tuple[PyTree, jax.Array]:
        """The heads on the cells' outputs. -> distribution parameters [..., n], value [...]"""
        return self.head(self.actor.output(outputs["actor"])), self.critic.output(outputs["critic"])[..., 0]


class SharedRecurrentActorCritic(RecurrentActorCritic):
    """One recurrent tower for both, with one memory: the last of its outputs is the value."""

    memories = ("trunk",)

    def setup(self) -> None:
        """The tower."""
        self.trunk = self.tower(output_size=self.num_outputs + 1, output_init=shared_output)

    def read(self, outputs: PyTree) -> tuple[PyTree, jax.Array]:
        """The heads on the cell's output. -> distribution parameters [..., n], value [...]"""
        said = self.trunk.output(outputs["trunk"])
        return self.head(said[..., :-1]), said[..., -1]


def step_each(cell: Cell, params: PyTree, memory: PyTree, inputs: PyTree) -> tuple[PyTree, PyTree]:
    """The step of each tower's cell. -> (memory, outputs)"""
    memory = {name: cell.step(params[name], memory[name], inputs[name]) for name in memory}
    return memory, {name: cell.output(memory[name]) for name in memory}


def make_recurrent_actor_critic(
    config: Any, num_outputs: int, obs_shape: PyTree, head: Callable[[jax.Array], PyTree] = unchanged
) -> RecurrentNetwork:
    """The default network with a memory: recurrent towers over the image or over the flattened observation.

    config: as in `make_actor_critic`, with cell, cell_size and steps_of_a_sequence; the cells start with time scales up
    to such a sequence
    """
    cell, dot_general = CELLS[config.cell], PRODUCTS[config.compute_dtype]
    if config.compute_dtype == "bfloat16":
        cell = cell._replace(step=functools.partial(cell.step, times=bfloat16_matmul))
    layers = (config.hidden_sizes, config.activation, orthogonal(2**0.5), is_image(obs_shape), dot_general)
    size, num_steps = config.cell_size, config.steps_of_a_sequence
    tower = functools.partial(
        RecurrentTower, functools.partial(Encoder, *layers), cell, size, num_steps, dot_general=dot_general
    )
    towers = SharedRecurrentActorCritic if config.share_trunk else RecurrentActorCritic
    module = towers(tower, cell, num_outputs, head)

    def run(params: PyTree, memory: PyTree, obs: PyTree, *reset: jax.Array, method: str = "__call__") -> Any:
        return module.apply(params, memory, tower_input(obs, obs_shape), *reset, method=method)

    return RecurrentNetwork(
        init=lambda key, memory, obs: module.init(key, memory, tower_input(obs, obs_shape)),
        apply=run,
        start=lambda: {name: cell.start(size) for name in towers.memories},
        replay=functools.partial(run, method="replay"),
    )
