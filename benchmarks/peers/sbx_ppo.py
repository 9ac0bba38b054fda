"""sbx's PPO, Stable-Baselines3 with JAX networks, timed as sb3_ppo.py times its.

    python benchmarks/peers/sbx_ppo.py --timesteps 20000 --json OUT

Needs sbx-rl. It has no clipping of the value and an optimizer for each network, and its update of one minibatch is
compiled in the first rollout.
"""
# pyright: reportMissingImports=false

from common import make_parser
from sb3_ppo import time_task
from sbx import PPO


def main() -> None:
    options = make_parser(__doc__).parse_args()
    packages = ("sbx-rl", "stable-baselines3", "jax", "flax", "gymnasium")
    time_task(PPO, options, packages, policy_kwargs={"ortho_init": True})


if __name__ == "__main__":
    main()
