"""The hyperparameters: static where they change the program, traced where they change a number."""

import dataclasses
import math
from collections.abc import Iterable
from typing import Any, Self

import jax
import numpy as np

from purejaxppo.utils.errors import PPOError
from purejaxppo.utils.suggest import unknown
from purejaxppo.utils.validation import (
    MAX_COUNT,
    MAX_STEPS,
    check_choice,
    check_divisions,
    check_size,
    check_switch,
    is_number,
    is_traced,
    shown,
    whole,
)

CHOICES = {
    "activation": ("tanh", "relu", "gelu", "silu", "elu"),
    "kl_stop": ("epoch", "minibatch"),
    "kl_estimator": ("approx_kl", "log_ratio"),
    "compute_dtype": ("float32", "bfloat16"),
    "box_policy": ("clipped", "squashed"),
    "box_std": ("shared", "state"),
    "lr_schedule": ("linear", "cosine", "constant", "adaptive"),
    "clip_eps_schedule": ("constant", "linear", "cosine"),
    "ent_coef_schedule": ("constant", "linear", "cosine"),
    "normalize_advantage_over": ("minibatch", "batch"),
}
CELLS = ("gru", "lstm")

# Inclusive lower bound, inclusive upper bound, and True if the lower bound itself is out.
_FROM_0, _ABOVE_0, _SHARE = (0.0, math.inf, False), (0.0, math.inf, True), (0.0, 1.0, False)
_RANGES: dict[str, tuple[float, float, bool]] = {
    **dict.fromkeys(("learning_rate", "policy_learning_rate", "value_learning_rate", "vf_coef", "ent_coef"), _FROM_0),
    **dict.fromkeys(("adam_eps", "clip_eps", "max_grad_norm", "target_kl", "desired_kl"), _ABOVE_0),
    **dict.fromkeys(("gamma", "gae_lambda"), _SHARE),
}
_FLOAT32 = np.finfo(np.float32)
_SIZES = ("num_envs", "num_steps", "total_timesteps")  # which `check_total` bounds together


def static(default: Any) -> Any:
    """Declares a static field of a config: it is part of the compiled program, not a leaf of the pytree."""
    return dataclasses.field(default=default, metadata={"static": True})


def field_names(config: Any, *, static: bool) -> tuple[str, ...]:
    """The names of the static fields, or of the others. A field whose default is a bool or a string is static."""
    return tuple(
        field.name
        for field in dataclasses.fields(config)
        if (field.metadata.get("static", False) or isinstance(field.default, bool | str)) == static
    )


@dataclasses.dataclass(frozen=True)
class Config:
    """A frozen dataclass that is a pytree: static fields are structure, the others leaves.

    Every subclass has the sizes of a run, and the properties computed from them. A config is checked when it is made,
    but not when it is unflattened, because its leaves need not be numbers then.
    """

    num_envs: int = static(1)  # B
    num_steps: int = static(1)  # T, of one rollout
    total_timesteps: int = static(1)  # of the whole run; a whole float such as 1e6 is taken as an int

    def __new__(cls, *values: Any, **fields: Any) -> Self:
        """Raises PPOError for a field that there is not, with the nearest ones."""
        names = [field.name for field in dataclasses.fields(cls)]
        for name in fields:
            if name not in names:
                raise PPOError(unknown(f"{cls.__name__} field", name, names))
        return super().__new__(cls)

    def __repr__(self) -> str:
        """The fields that differ from their defaults, as the constructor takes them."""
        values = {field: getattr(self, field.name) for field in dataclasses.fields(self)}
        differ = {field: x for field, x in values.items() if is_traced(x) or not np.array_equal(x, field.default)}
        changed = [f"{field.name}={value!r}" for field, value in differ.items()]
        return f"{type(self).__name__}({', '.join(changed)})"

    def __init_subclass__(cls) -> None:
        if "__repr__" not in vars(cls):
            cls.__repr__ = Config.__repr__  # or the decorator of a dataclass writes one with every field

        def flatten(config: Config) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
            leaves = (
                (jax.tree_util.GetAttrKey(name), getattr(config, name)) for name in field_names(cls, static=False)
            )
            return tuple(leaves), tuple(getattr(config, name) for name in field_names(cls, static=True))

        def unflatten(structure: tuple[Any, ...], leaves: Iterable[Any]) -> Config:
            config = object.__new__(cls)
            names = field_names(cls, static=True) + field_names(cls, static=False)
            vars(config).update(zip(names, (*structure, *leaves), strict=True))
            return config

        jax.tree_util.register_pytree_with_keys(cls, flatten, unflatten)

    def replace(self, **changes: Any) -> Self:
        """A copy with `changes`. Raises PPOError for an unknown name, with the nearest ones, and for a bad value."""
        return dataclasses.replace(self, **changes)

    @property
    def batch_size(self) -> int:
        """Samples of one rollout, T * B."""
        return int(self.num_envs) * int(self.num_steps)

    @property
    def num_updates(self) -> int:
        """Rollouts of the whole run, K."""
        return int(self.total_timesteps) // self.batch_size

    @property
    def actual_timesteps(self) -> int:
        """Environment steps that the run takes: `total_timesteps`, rounded down to whole rollouts."""
        return self.num_updates * self.batch_size


@dataclasses.dataclass(frozen=True)
class PPOConfig(Config):
    """Hyperparameters of PPO. The defaults are those of CleanRL's and PureJaxRL's CartPole script.

    The numbers (`float`) are leaves of a pytree: pass a config through `jit`, `vmap` or `grad`, and one
    program serves every value. The other fields are static: each combination is its own program.

    A frozen dataclass of your own may inherit from it and add fields for your own parts. Those with a bool or a
    string as their default are static, and so are those with `static(default)`.
    """

    num_envs: int = static(4)  # B, environments stepped in parallel
    num_steps: int = static(128)  # T, steps of each environment in one rollout
    total_timesteps: int = static(500_000)  # environment steps of the whole run, over all environments
    update_epochs: int = static(4)  # passes over a rollout
    num_minibatches: int = static(4)  # minibatches of one pass
    learning_rate: float = 2.5e-4  # of Adam, in the first update
    anneal_lr: bool = static(True)  # the rate follows lr_schedule; by default, update k of K has lr * (1 - k / K)
    lr_schedule: str = static("linear")  # to 0; or "cosine", to 0; "constant"; "adaptive", which follows the KL
    desired_kl: float = 0.01  # nats; where the "adaptive" rate holds the mean KL of an update
    adam_eps: float = 1e-5
    gamma: float = 0.99  # discount per step
    gae_lambda: float = 0.95
    clip_eps: float = 0.2  # the ratio stays within 1 +- clip_eps; with clip_value the value within +- clip_eps
    clip_eps_schedule: str = static("constant")  # or "linear" or "cosine", to 0
    clip_value: bool = static(True)
    vf_coef: float = 0.5  # weight of the value loss
    ent_coef: float = 0.01  # weight of the entropy bonus
    ent_coef_schedule: str = static("constant")  # or "linear" or "cosine", to 0
    max_grad_norm: float = 0.5  # global norm; inf does not clip
    normalize_advantage: bool = static(True)  # to mean 0 and standard deviation 1, of 2 samples at least
    normalize_advantage_over: str = static("minibatch")  # each "minibatch", or the whole "batch" of a rollout
    target_kl: float | None = None  # nats; an update ends early once its KL exceeds this
    kl_stop: str = static("epoch")  # the KL is that of an "epoch", or of each "minibatch" before its step is applied
    kl_estimator: str = static("approx_kl")  # or "log_ratio", the mean of log pi_old - log pi, which can be negative
    activation: str = static("tanh")
    hidden_sizes: tuple[int, ...] = static((64, 64))  # of each tower
    share_trunk: bool = static(False)  # actor and critic are one tower, and differ in its last layer alone
    compute_dtype: str = static("float32")  # of the default network's hidden products; "bfloat16" sums in float32
    box_policy: str = static("clipped")  # in a Box: a Gaussian "clipped" to the bounds, or "squashed" into them by tanh
    box_std: str = static("shared")  # of the default network: one for all states, or a function of the "state"
    normalize_obs: bool = static(False)  # by running mean and standard deviation
    normalize_reward: bool = static(False)  # by the running standard deviation of the discounted return
    cell: str | None = static(None)  # "gru" or "lstm" after the hidden layers: a policy with a memory; None: without
    cell_size: int = static(64)  # features of a cell
    sequence_length: int | None = static(None)  # steps that a gradient goes back, divides num_steps; None: num_steps

    def __post_init__(self) -> None:
        check_fields(self, PPOConfig)
        check_total(self)
        if self.cell is None:
            check_divisions("num_envs * num_steps", self.batch_size, "num_minibatches", int(self.num_minibatches))
        else:
            check_sequences(self)
        check_effects(self)

    @property
    def steps_of_a_sequence(self) -> int:
        """Consecutive steps L that a policy with a memory learns from together."""
        return int(self.sequence_length or self.num_steps)

    @property
    def num_samples(self) -> int:
        """Entries of the batch of one rollout: steps, T * B, or for a policy with a memory sequences, T * B / L."""
        return self.batch_size // (1 if self.cell is None else self.steps_of_a_sequence)


@dataclasses.dataclass(frozen=True)
class RecurrentConfig(PPOConfig):
    """A `PPOConfig` with a GRU, and one hidden layer before it. A minibatch is made of whole sequences."""

    hidden_sizes: tuple[int, ...] = static((64,))  # of each tower, before its cell
    cell: str | None = static("gru")


def check_fields(config: Any, config_class: type[Config]) -> None:
    """Raises PPOError for the first field whose value is known and not of its type, or out of range. Tracers pass.

    Fields that a subclass adds to the class are its own to check.
    """
    for field in dataclasses.fields(config_class):
        name, value = field.name, getattr(config, field.name)
        if name in _RANGES:
            check_number(name, value, optional=field.default is None)
        elif name in CHOICES:
            check_choice(name, value, CHOICES[name])
        elif isinstance(field.default, bool):
            check_switch(name, value)
        elif isinstance(field.default, int):
            size = whole(value) if name == "total_timesteps" else value  # people write 1e6
            check_size(name, size, most=None if name in _SIZES else MAX_COUNT)
    if not isinstance(config.hidden_sizes, tuple):
        raise PPOError(f"hidden_sizes = {shown(config.hidden_sizes)} is not a tuple; give one such as (64, 64)")
    for size in config.hidden_sizes:
        check_size("an entry of hidden_sizes", size)


def check_sequences(config: PPOConfig) -> None:
    """Raises PPOError unless a rollout divides into sequences, and these into minibatches."""
    check_choice("cell", config.cell, CELLS)
    if config.sequence_length is not None:
        check_size("sequence_length", config.sequence_length)
        check_divisions("num_steps", config.num_steps, "sequences of sequence_length", config.sequence_length)
    sequences = "num_envs * num_steps / sequence_length" if config.sequence_length else "num_envs"
    check_divisions(sequences, config.num_samples, "num_minibatches", config.num_minibatches)


def option_text(value: Any) -> str:
    """A hyperparameter as the command line takes it: true; 64,64; 0.001"""
    if value is None or isinstance(value, bool):
        return str(value).lower()
    return ",".join(map(str, value)) if isinstance(value, tuple | list) else str(value)


def check_number(name: str, value: Any, *, optional: bool = False) -> None:
    """Raises PPOError unless `value` is a number, or several, in the range of that field, or a tracer."""
    if is_traced(value) or (value is None and optional):
        return
    low, high, open_below = _RANGES[name]
    valid = f"{'above' if open_below else 'at least'} {low:g}" + (f" and at most {high:g}" if high < math.inf else "")
    if not is_number(value):
        raise PPOError(f"{name} = {shown(value)} is not a number; give one {valid}")
    try:
        numbers = np.asarray(value, np.float64)
    except OverflowError:  # an int that no float can hold
        numbers = np.asarray(np.nan)
    must_be_finite = name != "max_grad_norm"  # infinity does not clip
    faults = {
        "empty": not numbers.size,
        "out of range": ~((numbers > low if open_below else numbers >= low) & (numbers <= high)),
        "not finite": must_be_finite & ~np.isfinite(numbers),
        "infinite in float32": must_be_finite & (numbers > _FLOAT32.max),
        "0 in float32": (numbers != 0) & (np.abs(numbers) < _FLOAT32.tiny),  # XLA takes subnormals as 0
    }
    for fault, is_wrong in faults.items():
        if np.any(is_wrong):
            can_hold = " that it can hold" if "float32" in fault else ""
            raise PPOError(f"{name} = {shown(value)} is {fault}; give a number {valid}{can_hold}")


def check_effects(config: PPOConfig) -> None:
    """Raises PPOError for a field that would do nothing beside another, or leave the actor nothing to learn."""
    over = config.normalize_advantage_over
    idle = {
        ("lr_schedule", "anneal_lr"): not config.anneal_lr and config.lr_schedule not in ("linear", "constant"),
        ("desired_kl", "lr_schedule"): config.lr_schedule != "adaptive" and is_changed(config, "desired_kl"),
        ("cell_size", "cell"): config.cell is None and is_changed(config, "cell_size"),
        ("sequence_length", "cell"): config.cell is None and is_changed(config, "sequence_length"),
        ("kl_stop", "target_kl"): config.target_kl is None and is_changed(config, "kl_stop"),
        ("kl_estimator", "target_kl"): config.target_kl is None and is_changed(config, "kl_estimator"),
        ("normalize_advantage_over", "normalize_advantage"): not config.normalize_advantage and over != "minibatch",
    }
    for (name, beside), is_idle in idle.items():
        if is_idle:
            raise PPOError(
                f"{name} = {shown(getattr(config, name))} would do nothing beside {beside} = "
                f"{getattr(config, beside)!r}; change that, or leave {name} at {getattr(PPOConfig, name)!r}"
            )
    samples = config.batch_size // (int(config.num_minibatches) if over == "minibatch" else 1)
    if config.normalize_advantage and samples == 1:
        raise PPOError(
            f"normalize_advantage = True over a {over} of 1 sample (num_envs * num_steps = {config.batch_size}, "
            f"num_minibatches = {config.num_minibatches}) makes every advantage 0, and the actor learns nothing; "
            "take fewer minibatches, more samples or normalize_advantage=False"
        )


def is_changed(config: PPOConfig, name: str) -> bool:
    """True if a field is known to differ from its default; False for a tracer."""
    value = getattr(config, name)
    return not is_traced(value) and bool(np.any(np.asarray(value) != getattr(PPOConfig, name)))


def check_total(config: Config) -> None:
    """Raises PPOError for a run shorter than one rollout, or with more steps or updates than can be counted."""
    total, batch_size = whole(config.total_timesteps), config.batch_size
    said = f"total_timesteps = {shown(config.total_timesteps)}"
    if total < batch_size:
        size = f"num_envs * num_steps = {shown(batch_size)}"
        raise PPOError(f"{said} is below one rollout of {size}; give at least that")
    if batch_size > MAX_COUNT:
        raise PPOError(f"num_envs * num_steps = {shown(batch_size)} overflows int32; give at most {MAX_COUNT}")
    most = min(MAX_STEPS, MAX_COUNT * batch_size)
    if total > most:
        raise PPOError(f"{said} is too many; give at most {most} with num_envs * num_steps = {batch_size}")
    object.__setattr__(config, "total_timesteps", total)
