"""Where the seeds of a population run: spread evenly over every device of this process."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, PartitionSpec

from purejaxppo.types import PyTree


def describe_devices(num_seeds: int, devices: Sequence[Any]) -> str:
    """For people: how many seeds run where."""
    used = min(num_seeds, len(devices))
    kind = devices[0].device_kind if devices[0].platform != "cpu" else "CPU device"
    seeds = f"{num_seeds} seed{'s' if num_seeds > 1 else ''}"
    if used == 1:
        return f"{seeds} on 1 {kind}"
    at_most = "up to " if num_seeds % used else ""
    return f"{seeds}, {at_most}{-(-num_seeds // used)} on each of {used} {kind}s"


def make_spread(fn: Callable[..., Any], devices: Sequence[Any], num_replicated: int = 0) -> Callable[..., Any]:
    """`fn` of one seed, for [S, ...] of them: vmapped on each device, the seeds dealt out evenly over the devices.

    The last `num_replicated` arguments are the same for every seed. S has to divide by the number of devices.
    """
    mesh = Mesh(np.array(devices), ("seeds",))
    over_seeds, everywhere = PartitionSpec("seeds"), PartitionSpec()

    def on_one_device(*args: Any) -> Any:
        seeds = len(args) - num_replicated
        return jax.vmap(fn, in_axes=(0,) * seeds + (None,) * num_replicated)(*args)

    def spread(*args: Any) -> Any:
        seeds = len(args) - num_replicated
        in_specs = (over_seeds,) * seeds + (everywhere,) * num_replicated
        # No collective runs inside, so there is no replication to check.
        return jax.shard_map(on_one_device, mesh=mesh, in_specs=in_specs, out_specs=over_seeds, check_vma=False)(*args)

    return spread


def pad_seeds(x: PyTree, multiple: int) -> PyTree:
    """Repeats the last seed until the leading axis divides by `multiple`. [S, ...] -> [S', ...]"""

    def pad(leaf: jax.Array) -> jax.Array:
        missing = -leaf.shape[0] % multiple
        return jnp.concatenate([leaf, jnp.repeat(leaf[-1:], missing, axis=0)]) if missing else leaf

    return jax.tree.map(pad, x)
