"""Epochs of shuffled minibatches, which turn a batch into new parameters."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from purejaxppo.ppo.types import Batch, RunnerState
from purejaxppo.utils.packed import Packed, pack, unpack
from purejaxppo.utils.tree import PyTree, Terms

SMALL_PARAMETERS = 1024  # elements; weights of 64 x 64 are faster as an array of their own

Learned = tuple[Packed, PyTree]  # (params, of which arrays up to SMALL_PARAMETERS are packed; optimizer state)
# (params, minibatch, key of the minibatch) -> (loss, its terms)
LossFunction = Callable[[PyTree, Batch, jax.Array], tuple[jax.Array, Terms]]
Take = Callable[[Batch, jax.Array], Batch]  # (batch, indices [M]) -> minibatch
Step = Callable[[Learned, Batch, jax.Array], tuple[Learned, Terms]]  # a gradient step on a minibatch, with its key


class Order(NamedTuple):
    """The minibatches of an update: their samples, and the keys of their losses."""

    indices: jax.Array  # [epochs, minibatches, M] int32
    key: jax.Array  # [epochs, minibatches]


def take_samples(batch: Batch, indices: jax.Array) -> Batch:
    """The samples at the indices."""
    return jax.tree.map(lambda x: x[indices], batch)


def update_minibatch(
    loss: LossFunction,
    optimizer: optax.GradientTransformationExtraArgs,
    rate: jax.Array,
    learned: Learned,
    minibatch: Batch,
    key: jax.Array,
) -> tuple[Learned, Terms]:
    """One gradient step."""
    (_, terms), gradient = jax.value_and_grad(loss, has_aux=True)(unpack(learned[0]), minibatch, key)
    return apply_gradient(optimizer, rate, learned, gradient), terms


def apply_gradient(
    optimizer: optax.GradientTransformationExtraArgs, rate: jax.Array, learned: Learned, gradient: PyTree
) -> Learned:
    """Adds the optimizer's update for a gradient to the parameters; `make_ppo` has checked that it has their dtypes."""
    packed, opt_state = learned
    updates, opt_state = optimizer.update(gradient, opt_state, unpack(packed), learning_rate=rate)
    return jax.tree.map(jnp.add, packed, pack(updates, packed.max_size)), opt_state


def update_epoch(
    step: Step, batch: Batch, learned: Learned, order: Order, take: Take = take_samples
) -> tuple[Learned, Terms]:
    """One pass over the batch, in an order of [minibatches]. -> (learned, terms [minibatches])"""

    def step_on(learned: Learned, order: Order) -> tuple[Learned, Packed]:
        learned, terms = step(learned, take(batch, order.indices), order.key)
        return learned, pack(terms)

    learned, terms = jax.lax.scan(step_on, learned, order)
    return learned, unpack(terms)


def update_epochs(
    epoch: Callable[[Learned, Order], tuple[Learned, Terms]], learned: Learned, order: Order
) -> tuple[Learned, Terms]:
    """Every epoch in turn, in an order of [epochs, minibatches]. -> (learned, mean terms)"""
    learned, terms = jax.lax.scan(epoch, learned, order)
    return learned, jax.tree.map(jnp.mean, terms)


def epochs_within_kl(
    epoch: Callable[[Learned, Order], tuple[Learned, Terms]],
    is_within: Callable[[Terms], jax.Array],
    learned: Learned,
    order: Order,
) -> tuple[Learned, Terms]:
    """As `update_epochs`, until the mean terms of an epoch exceed the KL; that one counts, later ones change nothing.

    -> (learned, terms, mean over the minibatches that were applied)
    """

    def epoch_if_near(carry: tuple[Learned, jax.Array], order: Order) -> tuple[tuple, tuple]:
        learned, near = carry
        new, terms = epoch(learned, order)
        still_near = near & is_within(jax.tree.map(jnp.mean, terms))
        return (where(near, new, learned), still_near), (terms, jnp.broadcast_to(near, order.key.shape))

    (learned, _), (terms, applied) = jax.lax.scan(epoch_if_near, (learned, jnp.bool_(True)), order)
    return learned, mean_where(applied, terms)


def minibatches_within_kl(
    step: Step,
    is_within: Callable[[Terms], jax.Array],
    learned: Learned,
    batch: Batch,
    order: Order,
    take: Take = take_samples,
) -> tuple[Learned, Terms]:
    """Steps over all minibatches of all epochs, until the terms of one exceed the KL: neither it nor a later one is
    applied.

    -> (learned, terms, mean over the minibatches that were applied)
    """

    def step_if_near(carry: tuple[Learned, jax.Array], order: Order) -> tuple[tuple, Packed]:
        learned, near = carry
        new, terms = step(learned, take(batch, order.indices), order.key)
        near = near & is_within(terms)
        return (where(near, new, learned), near), pack((terms, near))

    flat = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), order)
    (learned, _), packed = jax.lax.scan(step_if_near, (learned, jnp.bool_(True)), flat)
    terms, applied = unpack(packed)
    return learned, mean_where(applied, terms)


def kl_is_within(terms: Terms, target_kl: float | jax.Array, estimator: str) -> jax.Array:
    """True unless the KL of `terms`, by the estimator of the config, is above the target. -> [] bool

    For NaN it is True: its step is applied, so that `keep_finite` sees it, and no run goes on learning nothing.
    """
    kl = terms["approx_kl"] if estimator == "approx_kl" else -terms["mean_log_ratio"]
    return ~(kl > target_kl)


def own_buffers(runner: RunnerState) -> RunnerState:
    """Copies every leaf, so that a call may donate the runner.

    Without jit, two leaves may be one array: the observation and the state of an environment, or parameters and the
    optimizer's average of them. Others are the caller's: the key, and parameters that a network's `init` only returns.
    """
    return jax.tree.map(jnp.copy, runner)


def keep_finite(before: RunnerState, after: RunnerState) -> RunnerState:
    """Returns `after` if its train state is finite; otherwise `before`, with this update in `diverged_at` from then on.

    Later updates of a state that has diverged change nothing: they act and learn again, and none of it is kept. The
    devices that share a run hold the same train state, and so decide alike.
    """
    state = before.train_state
    is_kept = (state.diverged_at < 0) & all_finite(after.train_state)
    return where(is_kept, after, before.replace(train_state=state.replace(diverged_at=state.update)))


def all_finite(tree: PyTree) -> jax.Array:
    """True if no float of the tree is NaN or infinite. -> [] bool"""
    # One vector for each dtype: a look at each leaf on its own would be a kernel for each to compile and to launch.
    floats = [x for x in jax.tree.leaves(tree) if jnp.issubdtype(x.dtype, jnp.inexact)]
    dtypes = dict.fromkeys(x.dtype for x in floats)
    vectors = [jnp.concatenate([x.ravel() for x in floats if x.dtype == dtype]) for dtype in dtypes]
    return jnp.all(jnp.array([jnp.all(jnp.isfinite(x)) for x in vectors], bool))


def nan_unless(condition: jax.Array, tree: PyTree) -> PyTree:
    """The tree, with NaN in every float unless condition [] holds."""
    is_float = lambda x: jnp.issubdtype(x.dtype, jnp.floating)  # noqa: E731
    return jax.tree.map(lambda x: jnp.where(condition, x, jnp.nan) if is_float(x) else x, tree)


def where(condition: jax.Array, x: PyTree, y: PyTree) -> PyTree:
    """x if condition [] holds and y if not, exactly, leaf by leaf."""
    # A leaf that both share is that leaf: a key counts as used where something is chosen by it.
    return jax.tree.map(lambda x, y: x if x is y else jnp.where(condition, x, y), x, y)


def mean_where(applied: jax.Array, terms: Terms) -> Terms:
    """The mean over the minibatches that were applied; NaN if none was. applied and each term: one shape"""
    count = jnp.sum(applied).astype(jnp.float32)
    return jax.tree.map(lambda x: jnp.sum(x, where=applied) / count, terms)
