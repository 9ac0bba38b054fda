"""Search spaces that others have published, by name."""

from purejaxppo.population.sweep import Domain, log_uniform, uniform
from purejaxppo.ppo.config import PPOConfig
from purejaxppo.utils.validation import check_choice

# Samples of a minibatch in the PPO spaces of ARLBench (Becktepe et al. 2024), which agree in everything else:
# github.com/automl/arlbench, examples/configs/search_space/ppo_*.yaml.
MINIBATCHES = {
    "arlbench-ppo-cc": (128, 256, 512),
    "arlbench-ppo-atari": (128, 256, 512),
    "arlbench-ppo-minigrid": (32, 64, 128),
    "arlbench-ppo-mujoco": (32, 64, 128),
}
LEAST = 1e-4  # in place of a lower bound of 0, at which nothing is learned and which PPOConfig refuses


def named_space(name: str, config: PPOConfig, *, numbers_only: bool = False) -> dict[str, Domain]:
    """A published search space under this library's names: ARLBench's space for PPO, for one group of environments.

    The minibatch_size of ARLBench becomes num_minibatches here, so it depends on the rollout of `config`. As in
    ARLBench, a minibatch larger than the rollout is the whole rollout. `clip_eps` and `max_grad_norm` begin at 1e-4
    instead of 0. ARLBench's vf_clip_eps has no counterpart: here the value is clipped by `clip_eps`, or with
    clip_value=False not at all.

    Args:
        name: "arlbench-ppo-cc" (classic control), "arlbench-ppo-atari", "arlbench-ppo-minigrid" or
            "arlbench-ppo-mujoco" (the last two have smaller minibatches).
        config: the config that the points of the space change.
        numbers_only: leave out num_minibatches and normalize_advantage, which change the compiled program. The searches
            need this, because they train all members in one program.

    Returns:
        The space, for `draw_points`; with `numbers_only`, for a search.

    Raises:
        PPOError: if the name is unknown.
    """
    check_choice("space", name, tuple(MINIBATCHES))
    numbers: dict[str, Domain] = {
        "learning_rate": log_uniform(1e-6, 0.1),
        "ent_coef": uniform(0.0, 0.5),
        "gae_lambda": uniform(0.8, 0.9999),
        "clip_eps": uniform(LEAST, 0.5),
        "vf_coef": uniform(0.0, 1.0),
        "max_grad_norm": uniform(LEAST, 1.0),
    }
    counts = [max(1, config.batch_size // size) for size in MINIBATCHES[name]]
    return numbers if numbers_only else {**numbers, "num_minibatches": counts, "normalize_advantage": [True, False]}
