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


OverSeeds = Callable[..., Any]  # (fn, num_replicated) -> fn of [S, ...] seeds and num_replicated shared arguments


def together(fn: Callable[..., Any], num_replicated: int) -> Callable[..., Any]:
    """All seeds in step, by vmap: one program of S times the width."""

    def all_at_once(*args: Any) -> Any:
        num_mapped = len(args) - num_replicated
        return jax.vmap(fn, in_axes=(0,) * num_mapped + (None,) * num_replicated)(*args)

    return all_at_once


def in_turn(fn: Callable[..., Any], num_replicated: int) -> Callable[..., Any]:
    """One seed after another: for seeds that keep a core busy on their own, and need not wait for each other."""

    def one_by_one(*args: Any) -> Any:
        num_mapped = len(args) - num_replicated
        return jax.lax.map(lambda mapped: fn(*mapped, *args[num_mapped:]), args[:num_mapped])

    return one_by_one


def make_spread(
    fn: Callable[..., Any], devices: Sequence[Any], *, num_replicated: int = 0, over_seeds: OverSeeds = together
) -> Callable[..., Any]:
    """`fn` of one seed, for [S, ...] of them: dealt out evenly over the devices, and on each of them `over_seeds`.

    The last `num_replicated` arguments are the same for every seed. S has to divide by the number of devices.
    """
    mesh = Mesh(np.array(devices), ("seeds",))
    by_seed, everywhere = PartitionSpec("seeds"), PartitionSpec()

    def spread(*args: Any) -> Any:
        in_specs = (by_seed,) * (len(args) - num_replicated) + (everywhere,) * num_replicated
        # No collective runs inside, so there is no replication to check.
        on_each = jax.shard_map(
            over_seeds(fn, num_replicated), mesh=mesh, in_specs=in_specs, out_specs=by_seed, check_vma=False
        )
        return on_each(*args)

    return spread


def pad_seeds(x: PyTree, multiple: int) -> PyTree:
    """Repeats the last seed until the leading axis divides by `multiple`. [S, ...] -> [S', ...]"""

    def pad(leaf: jax.Array) -> jax.Array:
        missing = -leaf.shape[0] % multiple
        return jnp.concatenate([leaf, jnp.repeat(leaf[-1:], missing, axis=0)]) if missing else leaf

    return jax.tree.map(pad, x)
