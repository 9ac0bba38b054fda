"""A simulator on the host: examples/gymnasium_host.py and Stable-Baselines3 in turn, in whole trainings.

python benchmarks/host.py --sb3 FOLDER/sb3/bin/python [--env CartPole-v1] [--num-envs 8] [--timesteps 102400]
    [--repeats 3] [--json OUT]

FOLDER holds the virtual environments of benchmarks/peers/make_envs.py. The environments are Gymnasium's, stepped one
after the other in one process; the hyperparameters are the defaults of `PPOConfig`. The seconds are those of a whole
training, compilation included. Nothing else should be running.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

import purejaxppo as pjp
from purejaxppo.examples import gymnasium_host
from purejaxppo.utils.files import write_json

PEER = Path(__file__).parent / "peers" / "sb3_ppo.py"


def run_ours(options: argparse.Namespace, seed: int) -> dict[str, float]:
    """-> seconds, and the return at the end; in a process of its own, which compiles everything"""
    command = [sys.executable, __file__, "--env", options.env, "--num-envs", str(options.num_envs)]
    command += ["--timesteps", str(options.timesteps), "--only-ours", str(seed)]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def train_ours(options: argparse.Namespace, seed: int) -> dict[str, float]:
    """One training in this process."""
    config = pjp.PPOConfig(num_envs=options.num_envs, total_timesteps=options.timesteps)
    started = time.perf_counter()
    _, metrics = gymnasium_host.train(options.env, config, seed)
    seconds = time.perf_counter() - started
    known = metrics.episode_return_mean[~np.isnan(metrics.episode_return_mean)]
    return {"seconds": seconds, "return": float(known[-1])}


def run_sb3(options: argparse.Namespace) -> dict[str, float]:
    """As `run_ours`, with Stable-Baselines3."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "peer.json"
        command = [str(options.sb3), str(PEER), "--json", str(out), "--env", options.env]
        command += ["--num-envs", str(options.num_envs), "--timesteps", str(options.timesteps)]
        subprocess.run(command, check=True)
        report = json.loads(out.read_text())
    steps = options.timesteps // (options.num_envs * 128) * options.num_envs * 128
    seconds = steps / report["env_steps_per_second"] + report["compile_seconds"]
    return {"seconds": seconds, "return": report["last_return_per_seed"][0]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sb3", type=Path, help="the interpreter of Stable-Baselines3's environment")
    parser.add_argument("--env", default="CartPole-v1", help="of Gymnasium (default: %(default)s)")
    parser.add_argument("--num-envs", type=int, default=8)
    parser.add_argument("--timesteps", type=int, default=102_400)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--only-ours", type=int, metavar="SEED", help="train ours alone, and print what came of it")
    options = parser.parse_args()
    if options.only_ours is not None:
        print(json.dumps(train_ours(options, options.only_ours)))
        return
    if options.sb3 is None:
        parser.error("--sb3 is missing; give the interpreter of an environment with Stable-Baselines3")

    pairs = []
    for seed in range(options.repeats):
        ours, peer = run_ours(options, seed), run_sb3(options)
        pairs.append({"ours": ours, "peer": peer, "ratio": peer["seconds"] / ours["seconds"]})
        print(
            f"{options.env}: ours {ours['seconds']:.1f} s, return {ours['return']:.0f}   Stable-Baselines3 "
            f"{peer['seconds']:.1f} s, return {peer['return']:.0f}   ratio {pairs[-1]['ratio']:.2f}",
            flush=True,
        )
    ratios = [pair["ratio"] for pair in pairs]
    print(f"median ratio {np.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})")
    if options.json:
        write_json(options.json, {"env": options.env, "timesteps": options.timesteps, "pairs": pairs})


if __name__ == "__main__":
    main()
