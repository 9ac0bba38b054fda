"""Populations of seeds against PureJaxRL's, vmapped: env-steps per second of the two in turn, on one machine.

python benchmarks/populations.py --peer-python VENV/bin/python --checkout PATH [--seeds 16 64] [--json OUT]

Whole trainings of CartPole-v1 with the same hyperparameters, `--timesteps` of each seed; compilation is left out, and
listed. The peer's interpreter needs what benchmarks/peers/purejaxrl_ppo.py says, PATH is a checkout of PureJaxRL.
Nothing else should be running.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np

import purejaxppo as pjp

PEER = Path(__file__).parent / "peers" / "purejaxrl_ppo.py"


def run_peer(python: str, checkout: Path, num_seeds: int, timesteps: int) -> dict[str, Any]:
    """What the peer reports of one population."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "peer.json"
        sizes = ["--seeds", str(num_seeds), "--timesteps", str(timesteps)]
        command = [python, str(PEER), "--checkout", str(checkout), *sizes, "--json", str(out)]
        subprocess.run(command, check=True, capture_output=True)
        return json.loads(out.read_text())


def run_ours(num_seeds: int, timesteps: int) -> dict[str, Any]:
    """The same of ours."""
    config = pjp.PPOConfig(total_timesteps=timesteps)
    population = pjp.train_population(pjp.make_env("CartPole-v1"), config, num_seeds=num_seeds)
    return {
        "env_steps_per_second": population.costs.timesteps / population.train_seconds,
        "compile_seconds": population.compile_seconds,
        "last_return_per_seed": population.final_returns().tolist(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer-python", required=True, help="an interpreter with jax, distrax and gymnax 0.0.9")
    parser.add_argument("--checkout", type=Path, required=True, help="a checkout of PureJaxRL")
    parser.add_argument("--seeds", type=int, nargs="+", default=[16, 64])
    parser.add_argument("--timesteps", type=int, default=100_000, help="of each seed")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()

    rows = []
    for num_seeds in options.seeds:
        for _ in range(options.repeats):
            peer = run_peer(options.peer_python, options.checkout, num_seeds, options.timesteps)
            ours = run_ours(num_seeds, options.timesteps)
            ratio = ours["env_steps_per_second"] / peer["env_steps_per_second"]
            rows.append({"seeds": num_seeds, "peer": peer, "ours": ours, "ratio": ratio})
            speeds = "  ".join(
                f"{name} {run['env_steps_per_second']:>9,.0f} env-steps/s (compiled in {run['compile_seconds']:.1f} s, "
                f"last return {np.nanmean(run['last_return_per_seed']):.0f})"
                for name, run in (("PureJaxRL", peer), ("ours", ours))
            )
            print(f"{num_seeds:>4} seeds  {speeds}  ratio {ratio:.2f}", flush=True)
        ratios = [row["ratio"] for row in rows if row["seeds"] == num_seeds]
        print(
            f"{num_seeds:>4} seeds  median ratio {statistics.median(ratios):.2f} ({min(ratios):.2f}-{max(ratios):.2f})"
        )
    if options.json:
        report = {"rows": rows, "jax": jax.__version__, "python": sys.version, "time": time.strftime("%Y-%m-%d")}
        options.json.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
