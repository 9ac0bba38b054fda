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


OverSeeds = Callable[..., Any]  # (fn, num_replicated) -> fn of [S, ...] seeds and num_replicated shared arguments


def together(fn: Callable[..., Any], num_replicated: int) -> Callable[..., Any]:
    """Runs all seeds in step, by vmap: one program of S times the width."""
    return lambda *args: jax.vmap(fn, (0,) * (len(args) - num_replicated) + (None,) * num_replicated)(*args)


def in_turn(fn: Callable[..., Any], num_replicated: int) -> Callable[..., Any]:
    """Runs one seed after another: for seeds that each keep a core busy, and then need not wait for each other."""

    def one_by_one(*args: Any) -> Any:
        num_mapped = len(args) - num_replicated
        return jax.lax.map(lambda mapped: fn(*mapped, *args[num_mapped:]), args[:num_mapped])

    return one_by_one


def in_blocks(size: int) -> OverSeeds:
    """Runs at most `size` seeds in step, and such blocks one after the other: a small block stays in the cache.

    The blocks are of one width. The last seed is repeated until they are full.
    """

    def over_seeds(fn: Callable[..., Any], num_replicated: int) -> Callable[..., Any]:
        def block_by_block(*args: Any) -> Any:
            mapped, shared = args[: len(args) - num_replicated], args[len(args) - num_replicated :]
            num_seeds = len(jax.tree.leaves(mapped)[0])
            if num_seeds <= size:
                return together(fn, num_replicated)(*args)
            block = -(-num_seeds // -(-num_seeds // size))
            results = jax.lax.map(lambda own: fn(*own, *shared), pad_seeds(mapped, block), batch_size=block)
            return jax.tree.map(lambda x: x[:num_seeds], results)

        return block_by_block

    return over_seeds if size > 1 else in_turn


def seed_shardings(devices: Sequence[Any]) -> tuple[NamedSharding, NamedSharding]:
    """The shardings of arrays [S, ...] that are dealt out over the devices, and of those that each device has whole."""
    mesh = Mesh(np.array(devices), (_SEEDS,))
    return NamedSharding(mesh, PartitionSpec(_SEEDS)), NamedSharding(mesh, PartitionSpec())


def make_spread(
    fn: Callable[..., Any], devices: Sequence[Any], *, num_replicated: int = 0, over_seeds: OverSeeds = together
) -> Callable[..., Any]:
    """Turns `fn` of one seed into a function of [S, ...] seeds, dealt out evenly over the devices.

    `over_seeds` runs the seeds of one device. The last `num_replicated` arguments are the same for every seed. The
    number of devices has to divide S.
    """
    by_seed, everywhere = seed_shardings(devices)

    def spread(*args: Any) -> Any:
        in_specs = (by_seed.spec,) * (len(args) - num_replicated) + (everywhere.spec,) * num_replicated
        own = keep_constants(over_seeds(fn, num_replicated))
        # No collective runs inside, so there is no replication to check.
        on_each = map_shards(own, mesh=by_seed.mesh, in_specs=in_specs, out_specs=by_seed.spec, check_vma=False)
        return on_each(*args)

    return spread


def map_shards(fn: Callable[..., Any], **how: Any) -> Callable[..., Any]:
    """`jax.shard_map`, through which an array of size 0 goes with length 1 in its empty axes.

    jaxlib 0.11 crashes while it compiles an argument of size 0, such as those in a state of MJX. how: its keywords
    """

    def mapped(*args: Any) -> Any:
        given, structure = jax.tree.flatten(args)
        returned: list[Any] = []

        def on_shard(*own: Any) -> Any:
            whole = map(emptied, jax.tree.leaves(own), given)
            result = fn(*jax.tree.unflatten(structure, list(whole)))
            returned[:] = [jax.ShapeDtypeStruct(x.shape, x.dtype) for x in jax.tree.leaves(result)]
            return jax.tree.map(filled, result)

        results, structure_of_results = jax.tree.flatten(jax.shard_map(on_shard, **how)(*jax.tree.map(filled, args)))
        return jax.tree.unflatten(structure_of_results, list(map(emptied, results, returned)))

    return mapped


def filled(x: jax.Array) -> jax.Array:
    """An array of size 0 as one of zeros that has length 1 where it is empty; another as it is."""
    return x if jnp.size(x) else jnp.zeros([max(1, length) for length in x.shape], x.dtype)


def emptied(x: jax.Array, like: Any) -> jax.Array:
    """The inverse of `filled`; `like` has the axes of length 0 that x had."""
    shape = jnp.shape(like)
    return x[tuple(slice(None if length else 0) for length in shape)] if 0 in shape else x


def keep_constants(fn: Callable[..., Any]) -> Callable[..., Any]:
    """Keeps the constants of `fn` inside it: `shard_map` turns those of a loop into arguments.

    jaxlib 0.11 crashes while it compiles an argument of size 0, such as the index in `x.at[:].set(y)`.
    """
    return jax.jit(fn)


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
    specs = jax.tree.map(lambda sharding: sharding.spec, shardings)
    return map_shards(
        keep_constants(fn),
        mesh=jax.tree.leaves(shardings)[0].mesh,
        in_specs=(specs, *[PartitionSpec()] * num_replicated),
        out_specs=(specs, PartitionSpec()),
        check_vma=False,  # it cannot tell that results of `from_all` are the same everywhere
    )


def runner_shardings(devices: Sequence[Any], runners: RunnerState) -> RunnerState:
    """The shardings of S runs: environments [S, B, ...] divided over the devices, everything else on each device."""
    mesh = Mesh(np.array(devices), (DATA,))
    by_env, everywhere = NamedSharding(mesh, PartitionSpec(None, DATA)), NamedSharding(mesh, PartitionSpec())
    shardings = jax.tree.map(lambda _: everywhere, runners)
    return shardings.replace(**{name: jax.tree.map(lambda _: by_env, getattr(runners, name)) for name in ENV_FIELDS})
