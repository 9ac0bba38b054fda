"""A trained policy in a file that acts without this library: of NumPy, of jax, or of ONNX."""

import importlib.util
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from purejaxppo.envs.base import MaskedObs
from purejaxppo.ppo.checks import check_one_state
from purejaxppo.ppo.evaluate import Agent
from purejaxppo.ppo.types import TrainState
from purejaxppo.runs.export_numpy import write_module
from purejaxppo.runs.export_onnx import write_model
from purejaxppo.runs.export_program import Program, make_program, path_name
from purejaxppo.utils.devices import traced_for_all_platforms
from purejaxppo.utils.errors import PPOError
from purejaxppo.utils.files import write_whole
from purejaxppo.utils.tree import PyTree

FORMATS = ("npz", "jax", "onnx")
PLATFORMS = ("cpu", "cuda", "tpu")  # that a file of format jax runs on
RESET, KEY = "reset", "key"  # inputs beside the observation and the memory
OPENING = "The greedy policy"  # of the module beside an .npz: another file is not overwritten

Arrays = dict[str, Any]  # by name


@traced_for_all_platforms()
def export_policy(agent: Agent, train_state: TrainState, path: str | Path, *, sampled: bool = False) -> list[Path]:
    """Writes the policy, with its observation statistics and action bounds, to a file that acts without this library.

    The policy is a function from arrays by name to arrays by name. Each array has a leading axis of N environments.

    The inputs are `obs`, or `obs_NAME` for each part of a tree; `action_mask` if the environment masks actions; and for
    a recurrent policy `memory_NAME` and `reset`, [N] bool, true where an episode begins and the memory before it does
    not count. The outputs are `action` (or `action_NAME`), as the environment takes it, and `next_memory_NAME`.

    Args:
        agent: the agent.
        train_state: of one seed.
        path: its suffix chooses the format: .npz, with a NumPy module of the same name beside it; .jax, which
            `jax.export.deserialize` reads; or .onnx.
        sampled: sample actions with the input `key`, [2] uint32 (`jax.random.key_data`), instead of taking the most
            probable ones. Only for .jax.

    Returns:
        The paths of the files.

    Raises:
        PPOError: if the suffix is another one, a package is missing, the format cannot hold the policy, or
            `train_state` is of several seeds.
    """
    path = Path(path)
    kind = format_of(path, sampled=sampled)
    check_one_state(train_state)
    (size,) = jax.export.symbolic_shape("N")
    obs = jax.eval_shape(lambda: agent.env.reset(jax.random.key(0), agent.env.params)[0])
    inputs = input_shapes(agent, obs, size, sampled=sampled)
    function = policy_function(agent, obs)
    if kind == "jax":
        if importlib.util.find_spec("flatbuffers") is None:
            raise PPOError('format jax needs flatbuffers, which is not installed; pip install "purejaxppo[export]"')
        jitted = jax.jit(lambda arrays: function(train_state, arrays))
        exported = jax.export.export(jitted, platforms=PLATFORMS)(inputs)
        write_whole(path, lambda file: file.write(exported.serialize()))
        return [path]
    program = make_program(function, train_state, inputs)
    about = describe(agent.env.name, program)
    if kind == "onnx":
        write_model(program, path, about)
        return [path]
    module = path.with_suffix(".py")
    if module.exists() and not module.read_text().startswith(f'"""{OPENING}'):
        raise PPOError(f"{str(module)!r} is there already, and no export wrote it; give --out another name")
    source = write_module(program, about)
    write_whole(path, lambda file: np.savez(file, allow_pickle=False, **program.constants))
    write_whole(module, lambda file: file.write(source.encode()))
    return [path, module]


def format_of(path: Path, *, sampled: bool) -> str:
    """The format that a file's suffix names. Raises PPOError for another suffix, and for one without samples."""
    kind = path.suffix.removeprefix(".")
    if kind not in FORMATS:
        raise PPOError(f"path = {str(path)!r} ends in none of .{', .'.join(FORMATS)}; give one of these")
    if sampled and kind != "jax":
        raise PPOError(f"sampled actions need format jax, not {kind}; leave out --sampled, or take it")
    return kind


def policy_function(agent: Agent, shapes: PyTree) -> Callable[[TrainState, Arrays], Arrays]:
    """(train state, inputs) -> outputs, by name; [N, ...] each. shapes: of one observation"""
    start = jax.tree.map(jnp.asarray, agent.start_memory)

    def act(train_state: TrainState, arrays: Arrays) -> Arrays:
        obs = from_names(shapes, name_observation(shapes), arrays)
        memory = from_names(start, named("memory", start), arrays)
        if jax.tree.leaves(start):
            memory = jax.tree.map(lambda first, x: where_first(arrays[RESET], first, x), start, memory)
        distribution, memory = agent.policy(train_state, memory, obs)
        if KEY in arrays:
            lead = jax.tree.leaves(obs)[0].shape[:1]
            noise = agent.actions.noise(jax.random.wrap_key_data(arrays[KEY]), lead)
            action = distribution.sample(noise)
        else:
            action = distribution.mode()
        return named("action", agent.actions.to_env(action)) | named("next_memory", memory)

    return act


def where_first(reset: jax.Array, first: jax.Array, x: jax.Array) -> jax.Array:
    """`first` in the environments that begin an episode. reset: [N], first: [...], x: [N, ...]"""
    return jnp.where(reset.reshape(-1, *[1] * first.ndim), first, x)


def input_shapes(agent: Agent, obs: PyTree, size: Any, *, sampled: bool) -> Arrays:
    """The shapes and dtypes of the inputs, for `size` environments. obs: the shapes of one observation"""
    memory = jax.eval_shape(lambda: jax.tree.map(jnp.asarray, agent.start_memory))
    inputs = name_observation(obs) | named("memory", memory)
    shapes = {name: jax.ShapeDtypeStruct((size, *x.shape), x.dtype) for name, x in inputs.items()}
    if jax.tree.leaves(memory):
        shapes[RESET] = jax.ShapeDtypeStruct((size,), jnp.bool_)
    if sampled:
        shapes[KEY] = jax.eval_shape(lambda: jax.random.key_data(jax.random.key(0)))
    return shapes


def name_observation(obs: PyTree) -> Arrays:
    """The arrays of an observation by name."""
    if isinstance(obs, MaskedObs):
        return named("obs", obs.obs) | named("action_mask", obs.action_mask)
    return named("obs", obs)


def named(name: str, tree: PyTree) -> Arrays:
    """The arrays of a pytree by name: `name` itself, or name_PATH for each of several. Raises PPOError for a clash."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    arrays = {f"{name}_{path_name(path)}" if path else name: x for path, x in leaves}
    if len(arrays) < len(leaves):
        raise PPOError(f"two parts of the {name} have the same letters and digits in their names; rename one")
    return arrays


def from_names(like: PyTree, names: Mapping[str, Any], arrays: Arrays) -> PyTree:
    """Rebuilds a pytree from the arrays with these names, given in the order of its leaves."""
    return jax.tree.unflatten(jax.tree.structure(like), [arrays[name] for name in names])


def describe(env: str, program: Program) -> str:
    """A text for people: the arrays that the policy takes and gives."""
    given, gives = (
        ", ".join(f"{name} [{', '.join(map(str, x.shape))}] {x.dtype.name}" for name, x in values.items())
        for values in ({x.name: x for x in program.inputs}, program.outputs)
    )
    is_recurrent = any(x.name == RESET for x in program.inputs)
    note = "\n\nreset is true where an episode begins: the memory before it does not count." if is_recurrent else ""
    return f"{OPENING} of {env}, for N environments at a time.\n\n    {given}\n    -> {gives}{note}"
