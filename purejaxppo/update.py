"""Epochs of shuffled minibatches: what turns a batch into new parameters."""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from purejaxppo.config import PPOConfig, standard_promotion
from purejaxppo.types import Batch, PyTree, RunnerState, Terms

Learned = tuple[PyTree, PyTree]  # (params, optimizer state)
# (params, minibatch, key of the minibatch) -> (loss, its terms)
LossFunction = Callable[[PyTree, Batch, jax.Array], tuple[jax.Array, Terms]]
Step = Callable[[Learned, Batch, jax.Array], tuple[Learned, Terms]]  # a gradient step on a minibatch, with its key

SHORT = 512  # samples that `short_permutation` takes, at most
NARROW = 16  # rows of a table that `long_permutation` takes, at least
ROUNDS = 4  # of `long_permutation`


class Order(NamedTuple):
    """The minibatches of an update: their samples, and what is random in their losses."""

    indices: jax.Array  # [epochs, minibatches, M] int32
    key: jax.Array  # [epochs, minibatches]


def make_optimizer(config: PPOConfig) -> optax.GradientTransformationExtraArgs:
    """Clipping by global norm, then Adam (Kingma and Ba 2015). `update` takes the `learning_rate` of the moment.

    All parameters are one vector in it: a few large operations in place of many small ones.
    """
    numbers = (config.max_grad_norm, config.adam_eps)
    return optax.GradientTransformationExtraArgs(
        functools.partial(init_steps, *numbers), functools.partial(update_steps, *numbers)
    )


def make_steps(max_grad_norm: float, adam_eps: float) -> optax.GradientTransformationExtraArgs:
    """The transformation of `make_optimizer`. optax makes it of local functions, which cannot be pickled."""
    return optax.flatten(
        optax.chain(clip_by_global_norm(max_grad_norm), scale_by_adam(adam_eps), scale_by_given_rate())
    )


def init_steps(max_grad_norm: float, adam_eps: float, params: PyTree) -> PyTree:
    """The state of `make_steps` for these parameters."""
    return make_steps(max_grad_norm, adam_eps).init(params)


@standard_promotion
def update_steps(max_grad_norm: float, adam_eps: float, *args: Any, **arguments: Any) -> tuple[PyTree, PyTree]:
    """The update of `make_steps`."""
    return make_steps(max_grad_norm, adam_eps).update(*args, **arguments)


def clip_by_global_norm(max_norm: float | jax.Array) -> optax.GradientTransformation:
    """`optax.clip_by_global_norm`, whose derivative is NaN for a norm of 0 or a max_norm of infinity; not so here."""

    def clip(updates: PyTree, state: Any, params: Any = None) -> tuple[PyTree, Any]:
        del params
        return clipped(updates, 1.0 * max_norm), state  # an int would have no derivative

    return optax.GradientTransformation(lambda params: optax.EmptyState(), clip)


@jax.custom_jvp
def clipped(gradient: PyTree, max_norm: jax.Array) -> PyTree:
    """The gradient, scaled to a global norm of max_norm where its norm is larger."""
    return optax.clip_by_global_norm(max_norm).update(gradient, optax.EmptyState())[0]


@clipped.defjvp
def _clipped_jvp(primals: tuple, tangents: tuple) -> tuple[PyTree, PyTree]:
    def scaled(gradient: PyTree, max_norm: jax.Array) -> PyTree:
        square = sum(jnp.sum(jnp.square(x)) for x in jax.tree.leaves(gradient))
        is_short = jnp.sqrt(jax.lax.stop_gradient(square)) < max_norm
        norm, most = jnp.sqrt(jnp.where(is_short, 1.0, square)), jnp.where(is_short, 1.0, max_norm)
        return jax.tree.map(lambda x: x / norm * most, gradient)

    return clipped(*primals), jax.jvp(scaled, primals, tangents)[1]


def scale_by_adam(eps: float | jax.Array) -> optax.GradientTransformation:
    """`optax.scale_by_adam`, whose derivative is NaN where a parameter's gradients have all been 0; not so here."""
    adam = optax.scale_by_adam()

    def step(updates: PyTree, state: Any, params: Any = None) -> tuple[PyTree, Any]:
        _, state = adam.update(updates, state, params)
        mean = optax.tree_utils.tree_bias_correction(state.mu, 0.9, state.count)
        square = optax.tree_utils.tree_bias_correction(state.nu, 0.999, state.count)
        return jax.tree.map(lambda m, v: adam_step(m, v, 1.0 * eps), mean, square), state

    return optax.GradientTransformation(adam.init, step)


@jax.custom_jvp
def adam_step(m: jax.Array, v: jax.Array, eps: jax.Array) -> jax.Array:
    """m / (sqrt(v) + eps). The derivative of the root counts as 0 at v = 0, where it is infinite."""
    return m / (jnp.sqrt(v) + eps)


@adam_step.defjvp
def _adam_step_jvp(primals: tuple, tangents: tuple) -> tuple[jax.Array, jax.Array]:
    (m, v, eps), (dm, dv, deps) = primals, tangents
    step = adam_step(m, v, eps)
    droot = jnp.where(v == 0, 0.0, dv / (2.0 * jnp.sqrt(jnp.where(v == 0, 1.0, v))))
    return step, (dm - step * (droot + deps)) / (jnp.sqrt(v) + eps)  # without the square of a small eps


def scale_by_given_rate() -> optax.GradientTransformationExtraArgs:
    """update -> -learning_rate * update, where the rate is an argument of each call and no state."""

    def scale(updates: PyTree, state: Any, params: Any = None, **arguments: Any) -> Any:
        del params
        return jax.tree.map(lambda x: -arguments["learning_rate"] * x, updates), state

    return optax.GradientTransformationExtraArgs(lambda params: optax.EmptyState(), scale)


def shuffled_indices(key: jax.Array, num_epochs: int, num_minibatches: int, num_samples: int) -> jax.Array:
    """An independent permutation of the samples for each epoch. -> [epochs, minibatches, M] int32"""
    permute = short_permutation if num_samples <= SHORT else long_permutation
    permuted = jax.vmap(lambda key: permute(key, num_samples))(jax.random.split(key, num_epochs))
    return permuted.reshape(num_epochs, num_minibatches, -1)


def short_permutation(key: jax.Array, n: int) -> jax.Array:
    """A uniform permutation of n <= SHORT numbers by one sort of words: random bits above, a number below. -> [n] int32

    `jax.random.permutation` sorts pairs instead, in two to three times the time. Numbers whose random bits tie are in
    the order of number ^ mask, a fair one for a random mask. So all that departs from uniform is in the permutations
    with two tied pairs or more: of n = 512 numbers with 23 random bits each, one in 8000.
    """
    bits = (n - 1).bit_length()
    below = 2**bits - 1
    words = jax.random.bits(key, (n + 1,))
    mask = words[n] & below
    number = jnp.arange(n, dtype=jnp.uint32) ^ mask
    ordered = jax.lax.sort((words[:n] & ~jnp.uint32(below)) | number)
    return ((ordered & below) ^ mask).astype(jnp.int32)


def long_permutation(key: jax.Array, n: int) -> jax.Array:
    """A permutation of n numbers without a sort: a Feistel network with random round functions. -> [n] int32

    The numbers fill a table of a rows and b columns. A round rotates each column by a random amount, then each row:
    x <- x + f(y) mod a, then y <- y + g(x) mod b, with tables f and g of random words (Black and Rogaway 2002, "Ciphers
    with Arbitrary Finite Domains", section 5). Every number goes to every place as often, up to the rounding of words
    mod a and b; numbers meet in a minibatch as by chance, as far as tests tell. Where n has no divisor near its root
    it is `jax.random.permutation`, which sorts twice, in 10 to 30 times the time.
    """
    rows = max(a for a in range(1, math.isqrt(n) + 1) if n % a == 0)
    if rows < NARROW:
        return jax.random.permutation(key, n)
    columns = n // rows
    words = jax.random.bits(key, (ROUNDS, rows + columns))
    number = jnp.arange(n, dtype=jnp.uint32)
    x, y = number // columns, number % columns
    for word in words:
        x = (x + word[:columns][y] % rows) % rows
        y = (y + word[columns:][x] % columns) % columns
    return (x * columns + y).astype(jnp.int32)


def update_minibatch(
    loss: LossFunction,
    optimizer: optax.GradientTransformationExtraArgs,
    rate: jax.Array,
    learned: Learned,
    minibatch: Batch,
    key: jax.Array,
) -> tuple[Learned, Terms]:
    """One gradient step."""
    (_, terms), gradient = jax.value_and_grad(loss, has_aux=True)(learned[0], minibatch, key)
    return apply_gradient(optimizer, rate, learned, gradient), terms


def apply_gradient(
    optimizer: optax.GradientTransformationExtraArgs, rate: jax.Array, learned: Learned, gradient: PyTree
) -> Learned:
    """What the optimizer makes of a gradient, applied."""
    params, opt_state = learned
    updates, opt_state = optimizer.update(gradient, opt_state, params, learning_rate=rate)
    return optax.apply_updates(params, updates), opt_state


def update_epoch(step: Step, batch: Batch, learned: Learned, order: Order) -> tuple[Learned, Terms]:
    """One pass over the batch, in an order of [minibatches]. -> (learned, terms [minibatches])"""

    def step_on(learned: Learned, order: Order) -> tuple[Learned, Terms]:
        return step(learned, jax.tree.map(lambda x: x[order.indices], batch), order.key)

    return jax.lax.scan(step_on, learned, order)


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
    step: Step, is_within: Callable[[Terms], jax.Array], learned: Learned, batch: Batch, order: Order
) -> tuple[Learned, Terms]:
    """Steps over all minibatches of all epochs, until the terms of one exceed the KL: neither it nor a later one is
    applied.

    -> (learned, terms, mean over the minibatches that were applied)
    """

    def step_if_near(carry: tuple[Learned, jax.Array], order: Order) -> tuple[tuple, tuple]:
        learned, near = carry
        new, terms = step(learned, jax.tree.map(lambda x: x[order.indices], batch), order.key)
        near = near & is_within(terms)
        return (where(near, new, learned), near), (terms, near)

    flat = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), order)
    (learned, _), (terms, applied) = jax.lax.scan(step_if_near, (learned, jnp.bool_(True)), flat)
    return learned, mean_where(applied, terms)


def kl_is_within(terms: Terms, target_kl: float | jax.Array, estimator: str) -> jax.Array:
    """Whether the KL of `terms`, by the estimator of the config, is not above the target. -> [] bool

    NaN is not: its step is applied, so that `keep_finite` sees it, and no run goes on learning nothing.
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
    """`after` an update whose train state is finite; else `before` it, with the update in `diverged_at`, for good.

    The update of a state that has diverged acts and learns as it did then, and none of it is kept. `before` and `after`
    have one train state on all devices that share a run, and so one decision.
    """
    state = before.train_state
    is_kept = (state.diverged_at < 0) & all_finite(after.train_state)
    return where(is_kept, after, before.replace(train_state=state.replace(diverged_at=state.update)))


def all_finite(tree: PyTree) -> jax.Array:
    """Whether no float of the tree is NaN or infinite. -> [] bool"""
    floats = [x for x in jax.tree.leaves(tree) if jnp.issubdtype(x.dtype, jnp.inexact)]
    return jnp.all(jnp.array([jnp.all(jnp.isfinite(x)) for x in floats], bool))


def where(condition: jax.Array, x: PyTree, y: PyTree) -> PyTree:
    """x if condition [] holds and y if not, exactly, leaf by leaf."""
    # A leaf that both share is that leaf: a key counts as used where something is chosen by it.
    return jax.tree.map(lambda x, y: x if x is y else jnp.where(condition, x, y), x, y)


def mean_where(applied: jax.Array, terms: Terms) -> Terms:
    """The mean over the minibatches that were applied; NaN if none was. applied and each term: one shape"""
    count = jnp.sum(applied).astype(jnp.float32)
    return jax.tree.map(lambda x: jnp.sum(x, where=applied) / count, terms)
