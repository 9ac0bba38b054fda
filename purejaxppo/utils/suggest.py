"""Words for people: suggestions for a name that does not exist, and counts."""

from typing import Any

# What other libraries and papers call a hyperparameter or an option of the command line.
OTHER_NAMES = {
    other: name
    for name, others in {
        "learning_rate": "lr alpha step_size",
        "total_timesteps": "steps timesteps total_steps num_timesteps max_steps total_env_steps",
        "num_envs": "n_envs envs num_environments num_workers",
        "num_steps": "n_steps rollout_length rollout_steps unroll_length horizon nsteps",
        "update_epochs": "n_epochs epochs num_epochs ppo_epochs num_sgd_iter num_updates_per_batch",
        "num_minibatches": "n_minibatches minibatches batch_size minibatch_size sgd_minibatch_size",
        "anneal_lr": "lr_decay lr_anneal",
        "adam_eps": "eps adam_epsilon",
        "gamma": "discount discounting discount_factor",
        "gae_lambda": "lam lambda lambda_ gae",
        "clip_eps": "clip clip_range clip_coef clip_param clip_ratio clip_epsilon clipping_epsilon",
        "clip_value": "clip_vloss clip_range_vf vf_clip",
        "vf_coef": "vf value_coef value_loss_coef vf_loss_coeff critic_coef",
        "ent_coef": "ent entropy_coef entropy_coeff entropy_cost entropy_bonus",
        "max_grad_norm": "grad_norm grad_clip max_gradient_norm",
        "normalize_advantage": "norm_adv normalize_advantages",
        "normalize_obs": "norm_obs normalize_observations",
        "normalize_reward": "norm_reward norm_rew normalize_rewards reward_scaling",
        "target_kl": "kl_target",
        "hidden_sizes": "net_arch hidden_size hidden_dims hidden_dim hsize layers",
        "seeds": "num_seeds n_seeds",
        "env": "env_id env_name environment gym_id",
        "out": "output output_dir save_dir log_dir run_dir",
    }.items()
    for other in others.split()
}


def unknown(what: str, name: Any, valid: list[str]) -> str:
    """The line that refuses `name` and suggests the nearest valid ones."""
    import difflib

    plain = {text: text.removeprefix("--").removeprefix("config.").replace("-", "_") for text in [str(name), *valid]}
    meant = OTHER_NAMES.get(plain[str(name)].lower())
    near = [text for text in valid if meant is not None and plain[text].endswith(meant)]
    near = near or difflib.get_close_matches(str(name), valid, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(near)}?" if near else f"take one of {', '.join(valid)}"
    return f"unknown {what} {name!r}; {hint}"


def plural(number: int, what: str) -> str:
    """Counts in words: 3 seeds."""
    return f"{number:,} {what}" + ("" if number == 1 else "s")
