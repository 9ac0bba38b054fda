"""Placement on devices: members spread over the devices of a process, or each run spread over all devices."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from purejaxppo.population.data_parallel import DATA
from purejaxppo.ppo.agent import PPO
from purejaxppo.ppo.factory import DEFAULTS
from purejaxppo.ppo.types import RunnerState
from purejaxppo.utils.errors import PPOError
from purejaxppo.utils.tree import PyTree
from purejaxppo.utils.validation import check_choice

PLACEMENTS = ("seeds", "data")
AUTO = "auto"  # one of them, by `choose_placement`
LEAST_PART = 256  # samples of a minibatch for each CPU device, from which one run is faster over all of them
ENV_FIELDS = ("env_state", "obs", "episode", "memory")  # of a RunnerState: those with an axis of environments
_SEEDS = "seeds"  # the axis of the mesh that members are dealt out over


def choose_placement(placement: str, agents: Sequence[Any], num_seeds: int) -> str:
    """The placement that "auto" stands for; any other stays.

    It is "data" where "seeds" would leave cores idle and the minibatches are large, so that the cores wait little for
    each other. Only for the parts that `make_ppo` has by default: a loss of your own may not be a mean over samples.

    agents: of every setting; num_seeds: of each. Raises PPOError for an unknown placement.
    """
    check_choice("placement", placement, (AUTO, *PLACEMENTS))
    if placement != AUTO:
        return placement
    devices = jax.devices()
    is_idle = devices[0].platform == "cpu" and jax.process_count() == 1 and len(agents) * num_seeds < len(devices)
    return "data" if is_idle and all(divides_well(agent, len(devices)) for agent in agents) else "seeds"


def divides_well(agent: Any, num_devices: int) -> bool:
    """True for a feed-forward PPO with the default parts and at least LEAST_PART samples for each device."""
    if not isinstance(agent, PPO) or agent.config.cell is not None:
        return False
    if any(getattr(agent, name) is not part for name, part in DEFAULTS.items()):
        return False
    part, rest = divmod(agent.config.num_samples // agent.config.num_minibatches, num_devices)
    return part >= LEAST_PART and rest == 0 and agent.config.num_envs % num_devices == 0


def describe_devices(num_members: int, devices: Sequence[Any], what: str = "seed", placement: str = "seeds") -> str:
    """A line for people: how many seeds, or runs, are on which devices."""
    used = min(num_members, len(devices))
    members = f"{num_members} {what}{'s' if num_members > 1 else ''}"
    if placement == "data":
        return f"{members}, the environments of each over {len(devices)} {device_kind(devices)}s"
    if used == 1:
        return f"{members} on 1 {device_kind(devices)}"
    at_most = "up to " if num_members % used else ""
    return f"{members}, {at_most}{-(-num_members // used)} on each of {used} {device_kind(devices)}s"


def device_kind(devices: Sequence[Any]) -> str:
    """The name of such a device for people."""
    return devices[0].device_kind if devices[0].platform != "cpu" else "CPU device"


def seed_shardings(devices: Sequence[Any]) -> tuple[NamedSharding, NamedSharding]:
    """The shardings of arrays [S, ...] that are dealt out over the devices, and of those that each device has whole."""
    mesh = Mesh(np.array(devices), (_SEEDS,))
    return NamedSharding(mesh, PartitionSpec(_SEEDS)), NamedSharding(mesh, PartitionSpec())


def make_spread(
    fn: Callable[..., Any], devices: Sequence[Any], *, num_replicated: int = 0, together: int | None = None
) -> Callable[..., Any]:
    """Turns `fn` of one seed into a function of [S, ...] seeds, dealt out evenly over the devices.

    Of the seeds of a device, `together` run in step, or with None all. The others wait: a small block of seeds stays in
    the cache, and seeds that each keep a core busy run best in turn. Blocks are of one width; the last seed is repeated
    until they are full. The last `num_replicated` arguments are the same for every seed. The number of devices has to
    divide S.
    """
    by_seed, everywhere = seed_shardings(devices)

    def on_device(*args: Any) -> Any:
        seeds, shared = args[: len(args) - num_replicated], args[len(args) - num_replicated :]
        num_seeds, on_one = len(jax.tree.leaves(seeds)[0]), lambda own: fn(*own, *shared)
        if together == 1:
            return jax.lax.map(on_one, seeds)
        if together is None or num_seeds <= together:
            return jax.vmap(on_one)(seeds)
        block = -(-num_seeds // -(-num_seeds // together))
        results = jax.lax.map(on_one, pad_seeds(seeds, block), batch_size=block)
        return jax.tree.map(lambda x: x[:num_seeds], results)

    def spread(*args: Any) -> Any:
        in_specs = (by_seed.spec,) * (len(args) - num_replicated) + (everywhere.spec,) * num_replicated
        return map_shards(on_device, by_seed.mesh, in_specs, by_seed.spec)(*args)

    return spread


def map_shards(fn: Callable[..., Any], mesh: Any, in_specs: Any, out_specs: Any) -> Callable[..., Any]:
    """`jax.shard_map` without arguments of size 0, on which jaxlib 0.11 crashes while it compiles.

    Empty arrays, such as those in a state of MJX, pass through it with length 1 in their empty axes. The `jit` keeps
    the constants of a loop, such as the index in `x.at[:].set(y)`, from becoming arguments.
    """
    compiled = jax.jit(fn)

    def mapped(*args: Any) -> Any:
        given, structure = jax.tree.flatten(args)
        returned: list[Any] = []

        def on_shard(*own: Any) -> Any:
            whole = map(emptied, jax.tree.leaves(own), given)
            result = compiled(*jax.tree.unflatten(structure, list(whole)))
            returned[:] = [jax.ShapeDtypeStruct(x.shape, x.dtype) for x in jax.tree.leaves(result)]
            return jax.tree.map(filled, result)

        # The check of what is equal on all devices is off: JAX cannot infer it for gathered results.
        on_shards = jax.shard_map(on_shard, mesh=mesh, in_specs=in_specs, out_specs=out_specs, check_vma=False)
        results, structure_of_results = jax.tree.flatten(on_shards(*jax.tree.map(filled, args)))
        return jax.tree.unflatten(structure_of_results, list(map(emptied, results, returned)))

    return mapped


def filled(x: jax.Array) -> jax.Array:
    """An array of size 0 as one of zeros that has length 1 where it is empty; another as it is."""
    return x if jnp.size(x) else jnp.zeros([max(1, length) for length in x.shape], x.dtype)


def emptied(x: jax.Array, like: Any) -> jax.Array:
    """The inverse of `filled`; `like` has the axes of length 0 that x had."""
    shape = jnp.shape(like)
    return x[tuple(slice(None if length else 0) for length in shape)] if 0 in shape else x


def pad_seeds(x: PyTree, multiple: int) -> PyTree:
    """Repeats the last seed until `multiple` divides the leading axis. [S, ...] -> [S', ...]"""

    def pad(leaf: jax.Array) -> jax.Array:
        missing = -leaf.shape[0] % multiple
        return jnp.concatenate([leaf, jnp.repeat(leaf[-1:], missing, axis=0)]) if missing else leaf

    return jax.tree.map(pad, x)


def check_data_placement(agent: Any, num_devices: int) -> None:
    """Raises PPOError for an agent whose runs do not divide over the devices."""
    if not isinstance(agent, PPO):
        raise PPOError(f'placement = "data" shares the minibatches of a PPO; for a {type(agent).__name__} leave it out')
    config = agent.config
    what = "num_envs * num_steps" if config.cell is None else "the number of sequences"
    minibatch = config.num_samples // config.num_minibatches
    sizes = {"num_envs": config.num_envs, f"the minibatch, {what} / num_minibatches": minibatch}
    for name, size in sizes.items():
        if size % num_devices:
            raise PPOError(
                f'placement = "data": {name} = {size} does not divide over {num_devices} devices; '
                f"give a multiple of {num_devices}"
            )


def make_shared(
    fn: Callable[..., Any], shardings: RunnerState, num_replicated: int
) -> Callable[..., tuple[RunnerState, Any]]:
    """Runs `fn`, (runners, replicated arguments) -> (runners, replicated result), on each device's part of the runners.

    shardings: of the runners, by `runner_shardings`
    """
    specs, mesh = jax.tree.map(lambda sharding: sharding.spec, shardings), jax.tree.leaves(shardings)[0].mesh
    return map_shards(fn, mesh, (specs, *[PartitionSpec()] * num_replicated), (specs, PartitionSpec()))


def runner_shardings(devices: Sequence[Any], runners: RunnerState) -> RunnerState:
    """The shardings of S runs: environments [S, B, ...] divided over the devices, everything else on each device."""
    mesh = Mesh(np.array(devices), (DATA,))
    by_env, everywhere = NamedSharding(mesh, PartitionSpec(None, DATA)), NamedSharding(mesh, PartitionSpec())
    shardings = jax.tree.map(lambda _: everywhere, runners)
    return shardings.replace(**{name: jax.tree.map(lambda _: by_env, getattr(runners, name)) for name in ENV_FIELDS})
