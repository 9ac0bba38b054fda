"""The options of the hyperparameters and what they mean: `--config.learning-rate`, or short `--learning-rate`."""

import argparse
import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

from purejaxppo.cli.option_types import read_number, read_sizes, read_switch, read_value, whole_from
from purejaxppo.cli.parser import PREFIX, Parser, option
from purejaxppo.ppo.config import Config, option_text
from purejaxppo.utils.validation import MAX_STEPS

# They also describe, in the reference of the docs, the fields without a comment of their own.
MEANINGS = {
    "num_envs": "environments stepped in parallel by each seed",
    "num_steps": "steps per environment in one rollout",
    "total_timesteps": "environment steps per seed, over all its environments",
    "update_epochs": "passes over each rollout",
    "num_minibatches": "minibatches per pass",
    "learning_rate": "learning rate of Adam in the first update",
    "anneal_lr": "true: the learning rate follows lr-schedule; false: it is constant",
    "lr_schedule": "linear or cosine, down to 0; constant; or adaptive, which follows the KL",
    "desired_kl": "mean KL per update that the adaptive learning rate aims at, in nats",
    "adam_eps": "epsilon of Adam",
    "gamma": "discount per step, from 0 to 1",
    "gae_lambda": "lambda of the advantage estimate (GAE), from 0 to 1",
    "clip_eps": "clip the probability ratio to 1 +- this",
    "clip_eps_schedule": "constant; or linear or cosine, down to 0",
    "clip_value": "true: clip the value like the ratio",
    "vf_coef": "weight of the value loss",
    "ent_coef": "weight of the entropy bonus",
    "ent_coef_schedule": "constant; or linear or cosine, down to 0",
    "max_grad_norm": "clip the gradient to this global norm; inf: do not clip",
    "normalize_advantage": "true: scale the advantages to mean 0 and standard deviation 1",
    "normalize_advantage_over": "scale over each minibatch, or over the whole batch",
    "target_kl": "end the passes of an update when the KL exceeds this, in nats",
    "kl_stop": "compare the KL of each epoch or of each minibatch with target-kl",
    "kl_estimator": "approx_kl, or log_ratio as in the Keras example",
    "activation": "tanh, relu, gelu, silu or elu",
    "hidden_sizes": "units of each hidden layer, such as 64,64",
    "share_trunk": "true: actor and critic share all layers but the last",
    "compute_dtype": "float32; or bfloat16, in which a GPU multiplies hidden layers faster",
    "cell": "recurrent cell: gru or lstm",
    "cell_size": "size of the recurrent state of each tower",
    "sequence_length": "steps of backpropagation through time; none: the whole rollout",
    "box_policy": "clipped or squashed: how a Gaussian stays within its bounds",
    "box_std": "shared: one standard deviation for all states; state: a function of it",
    "policy_iterations": "full-batch steps of the policy per update, at most",
    "value_iterations": "full-batch steps of the value per update",
    "policy_learning_rate": "learning rate of the policy's Adam",
    "value_learning_rate": "learning rate of the value's Adam",
    "bootstrap_time_limits": "true: bootstrap from V at a time limit; false: from 0",
    "normalize_obs": "true: normalize observations by their running mean and standard deviation",
    "normalize_reward": "true: divide rewards by the running scale of the return",
}
_READERS: dict[Any, tuple[str, Callable[[str], Any]]] = {  # metavar and reader, by the type of the field
    int: ("N", whole_from(1)),
    int | None: ("N", whole_from(1)),
    float: ("X", read_number),
    float | None: ("X", read_number),
    bool: ("BOOL", read_switch),
    str: ("NAME", str),
    tuple[int, ...]: ("N,N", read_sizes),
}


def add_config_options(parser: Parser, config: Config, title: str, without: Sequence[str] = ()) -> None:
    """Adds an option for each hyperparameter of `config`, whose values are shown as defaults.

    Call it after the command's other options are added: they keep their names where a short one is the same.
    """
    group = parser.add_argument_group(f"hyperparameters (--learning-rate is short for --config.learning-rate), {title}")
    for field in dataclasses.fields(config):
        if field.name in without:
            continue
        metavar, read = _READERS.get(field.type, ("X", read_value))  # a field of the user's own may have any type
        if field.name == "total_timesteps":
            read = whole_from(1, MAX_STEPS)
        about = f"{MEANINGS.get(field.name, 'of your config')} ({option_text(getattr(config, field.name))})"
        name = PREFIX + field.name.replace("_", "-")
        parser.add_short(option(group, name, metavar, read, about, dest=f"config.{field.name}"))


def given_fields(options: argparse.Namespace, config: Config) -> dict[str, Any]:
    """The hyperparameters that the options set, by name."""
    chosen = {field.name: getattr(options, f"config.{field.name}", None) for field in dataclasses.fields(config)}
    return {name: value for name, value in chosen.items() if value is not None}
