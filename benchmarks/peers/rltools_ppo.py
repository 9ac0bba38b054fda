"""RLtools' PPO on Pendulum-v1, timed: the whole training of its own example, one seed.

    python benchmarks/peers/rltools_ppo.py --checkout PATH --binary FILE [--flags "..."] --json OUT

PATH is a checkout of rl-tools/rl-tools. Its example is compiled to FILE by g++ if that file is not there, as its README
says, in its benchmark mode, which does not evaluate while it trains. --flags names a BLAS library, for example
"-DRL_TOOLS_BACKEND_ENABLE_OPENBLAS -lopenblas"; without one its products are plain loops. The seconds are those that
the example prints for the training alone. The return is the mean of its 1,000 episodes at the end.
"""

import argparse
import json
import os
import re
import subprocess
import time
from pathlib import Path

EXAMPLE = "src/rl/environments/pendulum/ppo/cpu"
STEPS = 4 * 1_024  # of a rollout; the example trains on the first whole number of rollouts above TOTAL
TOTAL = 300_000


def build(checkout: Path, binary: Path, flags: str) -> float:
    """Compiles the example. -> seconds. Leaves with the compiler's message where that fails."""
    binary.parent.mkdir(parents=True, exist_ok=True)
    command = ["g++", "-std=c++17", "-Ofast", "-march=native", "-DBENCHMARK", "-DRL_TOOLS_DISABLE_TENSORBOARD"]
    command += ["-I", str(checkout / "include"), str(checkout / EXAMPLE / "training.cpp"), "-o", str(binary)]
    started = time.perf_counter()
    done = subprocess.run([*command, *flags.split()], capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(done.stderr)
    return time.perf_counter() - started


def read_output(text: str) -> tuple[float, float]:
    """The seconds of training and the mean return at the end, from what the example prints."""
    seconds, mean = re.search(r"Time: ([0-9.]+)s", text), re.search(r"Mean return: (\S+)", text)
    if seconds is None or mean is None:
        raise SystemExit(f"RLtools' example printed something else:\n{text}")
    return float(seconds[1]), float(mean[1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkout", type=Path, required=True)
    parser.add_argument("--binary", type=Path, required=True)
    parser.add_argument("--flags", default="", help="for g++, at the end of its command")
    parser.add_argument("--json", type=Path, required=True, help="where to write speed, compile time and return")
    options = parser.parse_args()
    compile_seconds = 0.0 if options.binary.exists() else build(options.checkout, options.binary, options.flags)
    environment = {"OPENBLAS_NUM_THREADS": "1", **os.environ}  # products as small as these are slower with more
    done = subprocess.run([str(options.binary)], capture_output=True, text=True, check=True, env=environment)
    seconds, mean = read_output(done.stdout)
    report = {
        "env_steps_per_second": (TOTAL // STEPS + 1) * STEPS / seconds,
        "compile_seconds": compile_seconds,
        "last_return_per_seed": [mean],
        "task": {"num_epochs": 2, "flags": options.flags},
    }
    options.json.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
