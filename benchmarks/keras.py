"""The Keras example against `--preset keras`: env-steps per second of the two in turn, on one machine.

python benchmarks/keras.py --peer-python VENV/bin/python [--repeats 3] [--epochs 4] [--json OUT]

The peer's interpreter needs `pip install keras tensorflow gymnasium` (or torch, with --backend torch). Nothing else
should be running. Sampling and learning are both timed; compilation is left out of ours, and the first epoch of the
peer's, in which it compiles, of its.
"""

import argparse
import json
import os
import statistics
import subprocess
import tempfile
import time
from pathlib import Path

import purejaxppo as pjp
from purejaxppo.utils.files import versions, write_json

PEER = Path(__file__).parent / "peers" / "keras_example.py"
SEEDS = {1: 30, 64: 4}  # epochs that are timed, by the number of seeds


def time_peer(python: str, backend: str, epochs: int) -> float:
    """Env-steps per second of the example, without its first epoch."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "peer.json"
        command = [python, str(PEER), "--epochs", str(epochs), "--seed", "0", "--json", str(out)]
        subprocess.run(command, check=True, capture_output=True, env={**os.environ, "KERAS_BACKEND": backend})
        report = json.loads(out.read_text())
    return report["env_steps_per_second_steady"]


def time_ours(num_seeds: int) -> float:
    """Env-steps per second over all seeds, compilation left out."""
    config = pjp.FullBatchConfig(total_timesteps=4_000 * SEEDS[num_seeds])
    population = pjp.train_population(pjp.make_env("CartPole-v0"), config, num_seeds=num_seeds)
    return num_seeds * config.actual_timesteps / population.train_seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer-python", required=True, help="an interpreter with keras, its backend and gymnasium")
    parser.add_argument("--backend", default="tensorflow", help="tensorflow (default) or torch")
    parser.add_argument(
        "--epochs", type=int, default=4, help="epochs of the peer in each repeat, the first not counted"
    )
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()

    rows = []
    for _ in range(options.repeats):
        peer = time_peer(options.peer_python, options.backend, options.epochs)
        speeds = {num_seeds: time_ours(num_seeds) for num_seeds in SEEDS}
        rows.append({"peer": peer, **{f"seeds_{n}": speed for n, speed in speeds.items()}})
        ratios = "  ".join(f"{n} seeds {speed:,.0f} ({speed / peer:.0f}x)" for n, speed in speeds.items())
        print(f"example {peer:,.0f} env-steps/s   ours: {ratios}", flush=True)
    for n in SEEDS:
        ratio = [row[f"seeds_{n}"] / row["peer"] for row in rows]
        print(f"{n} seed(s): median ratio {statistics.median(ratio):.0f} (min {min(ratio):.0f}, max {max(ratio):.0f})")
    if options.json:
        write_json(options.json, {"rows": rows, "versions": versions(), "time": time.strftime("%Y-%m-%d")})


if __name__ == "__main__":
    main()
