"""The options of the hyperparameters: `--config.learning-rate`, and what each of them means."""

import argparse
import dataclasses
from collections.abc import Sequence
from typing import Any

from purejaxppo.cli.option_types import reader_of
from purejaxppo.cli.parser import Parser, config_option
from purejaxppo.ppo.config import Config, option_text

# The defaults are the preset's.
MEANINGS = {
    "num_envs": "environments stepped in parallel, for each seed",
    "num_steps": "steps of each environment in one rollout",
    "total_timesteps": "environment steps of each seed, over all its environments",
    "update_epochs": "passes over a rollout",
    "num_minibatches": "minibatches of one pass",
    "learning_rate": "of Adam, in the first update",
    "anneal_lr": "true or false: the learning rate follows lr-schedule",
    "lr_schedule": "linear or cosine, to 0; constant; or adaptive, which follows the KL",
    "desired_kl": "nats; the mean KL of an update that the adaptive rate aims at",
    "adam_eps": "Adam's epsilon",
    "gamma": "discount per step, 0 to 1",
    "gae_lambda": "lambda of the advantages, 0 to 1",
    "clip_eps": "the ratio stays within 1 +- this",
    "clip_eps_schedule": "constant; linear or cosine, to 0 at the end",
    "clip_value": "true or false: clip the value like the ratio",
    "vf_coef": "weight of the value loss",
    "ent_coef": "weight of the entropy bonus",
    "ent_coef_schedule": "constant; linear or cosine, to 0 at the end",
    "max_grad_norm": "global norm; inf does not clip",
    "normalize_advantage": "true or false: to mean 0 and standard deviation 1",
    "normalize_advantage_over": "each minibatch, or the whole batch",
    "target_kl": "nats; an update's passes over the data end beyond it",
    "kl_stop": "epoch or minibatch: whose KL is compared",
    "kl_estimator": "approx_kl, or log_ratio as in the Keras example",
    "activation": "tanh, relu, gelu, silu or elu",
    "hidden_sizes": "of each tower, as 64,64",
    "share_trunk": "true or false: actor and critic share all layers but the last",
    "cell": "gru or lstm: what remembers",
    "cell_size": "numbers in the memory of each tower",
    "sequence_length": "steps that a gradient goes back; all of a rollout by default",
    "box_policy": "clipped or squashed: how a Gaussian keeps to its bounds",
    "box_std": "shared: one standard deviation for all states; state: a function of it",
    "policy_iterations": "full-batch steps of the policy in an update, at most",
    "value_iterations": "full-batch steps of the value in an update",
    "policy_learning_rate": "of the policy's Adam",
    "value_learning_rate": "of the value's Adam",
    "bootstrap_time_limits": "true or false: a time limit is worth V, not 0",
    "normalize_obs": "true or false: by running mean and standard deviation",
    "normalize_reward": "true or false: by the running scale of the return",
}
_METAVARS: dict[Any, str] = {int: "N", int | None: "N", bool: "BOOL", str: "NAME", tuple[int, ...]: "N,N"}


def add_config_options(parser: Parser, config: Config, title: str, without: Sequence[str] = ()) -> None:
    """Adds an option for each hyperparameter of `config`, whose values are shown as defaults."""
    group = parser.add_argument_group(title)
    for field in dataclasses.fields(config):
        if field.name in without:
            continue
        group.add_argument(
            config_option(field.name),
            dest=f"config.{field.name}",
            metavar=_METAVARS.get(field.type, "X"),
            type=reader_of(field.name, field.type),
            help=f"{MEANINGS.get(field.name, 'of your config')} ({option_text(getattr(config, field.name))})",
        )


def given_fields(options: argparse.Namespace, config: Config) -> dict[str, Any]:
    """The hyperparameters that the options set, by name."""
    chosen = {field.name: getattr(options, f"config.{field.name}", None) for field in dataclasses.fields(config)}
    return {name: value for name, value in chosen.items() if value is not None}
