"""Ours and its peers in turn on one machine: env-steps and optimizer samples per second, ratio pair by pair.

python benchmarks/peers.py --envs FOLDER [--checkout PATH] [--peers purejaxrl rejax sb3 sbx] [--seeds 1 16 64]
    [--timesteps 100000] [--num-envs 4] [--num-steps 128] [--num-minibatches 4] [--best] [--json OUT]
    [--rltools PATH [--rltools-flags "..."]]

Whole trainings of CartPole-v1 with the hyperparameters that CleanRL's script has and `PPOConfig` by default;
compilation is left out, and listed. FOLDER holds the virtual environments of benchmarks/peers/make_envs.py, PATH is a
checkout of PureJaxRL. Each script in benchmarks/peers says where its peer's algorithm differs, and what it reports as
the return of a seed. Nothing else should be running.

Stable-Baselines3 and sbx train one seed at a time, so they are timed with one, and over a fifth of the steps. With
--best each peer has the settings that it is fastest with (more environments, and larger minibatches with them), and
ours 64 seeds at the defaults.

With --rltools, a checkout of RLtools, its PPO trains on Pendulum-v1 beside ours with the settings of its own example: 4
environments of 1,024 steps, minibatches of 256, 2 epochs, 303,104 steps. --rltools-flags links it with a BLAS library.

An environment step is a sample of the optimizer once in each epoch. Codes that learn more or less from each step are
compared by these samples.

Not here: CleanRL, whose newest release (1.2.0) asks for Python below 3.11; its algorithm and settings are what the
others run. Brax's PPO: it acts in continuous spaces of environments of Brax's own, and CartPole-v1 is neither.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

import purejaxppo as pjp
from purejaxppo.cli.bench.timing import Spread, in_pairs, spread_of
from purejaxppo.population.executables import forget_programs
from purejaxppo.utils.files import write_json

FOLDER = Path(__file__).parent / "peers"
OURS_AT_BEST = 64  # seeds
SAMPLES = "optimizer_samples_per_second"
RLTOOLS = pjp.PPOConfig(  # of its example, RLtools' Adam included
    num_envs=4,
    num_steps=1_024,
    num_minibatches=16,
    update_epochs=2,
    total_timesteps=74 * 4 * 1_024,
    activation="relu",
    learning_rate=1e-3,
    anneal_lr=False,
    adam_eps=1e-8,
    gamma=0.9,
    ent_coef=0.0,
    clip_value=False,
    normalize_obs=True,
)


class Peer(NamedTuple):
    """One of the others."""

    title: str
    trains_together: bool  # many seeds in one program
    share: float  # of the timesteps, for the slow ones


PEERS = {
    "purejaxrl": Peer("PureJaxRL", True, 1.0),
    "rejax": Peer("rejax", True, 1.0),
    "sb3": Peer("Stable-Baselines3", False, 0.2),
    "sbx": Peer("sbx", False, 0.2),
    "rltools": Peer("RLtools, Pendulum-v1", False, 1.0),  # only with --rltools
}


class Shape(NamedTuple):
    """Of a rollout, and of what is learned from it."""

    num_envs: int = 4
    num_steps: int = 128
    num_minibatches: int = 4


class Match(NamedTuple):
    """A peer's training and ours, to be run in turn."""

    peer: str
    best: bool
    peer_seeds: int
    our_seeds: int
    peer_timesteps: int  # of each seed; so is the next
    our_timesteps: int
    shape: Shape


class Pair(NamedTuple):
    """What one repetition of a match gave."""

    peer: dict[str, Any]
    ours: dict[str, Any]


def make_matches(peers: Sequence[str], seeds: Sequence[int], timesteps: int, best: bool, shape: Shape) -> list[Match]:
    """Every peer with each number of seeds that it can train, or once at its best."""
    matches = []
    for name in peers:
        peer_timesteps = round(timesteps * PEERS[name].share)
        if name == "rltools":
            shape_of = Shape(RLTOOLS.num_envs, RLTOOLS.num_steps, RLTOOLS.num_minibatches)
            matches.append(Match(name, False, 1, 1, RLTOOLS.total_timesteps, RLTOOLS.total_timesteps, shape_of))
        elif best:  # one run with 16 times the environments takes 16 times the steps for as many updates
            matches.append(Match(name, True, 1, OURS_AT_BEST, 16 * peer_timesteps, timesteps, Shape()))
        else:
            fitting = [n for n in seeds if n == 1 or PEERS[name].trains_together]
            matches += [Match(name, False, n, n, peer_timesteps, timesteps, shape) for n in fitting]
    return matches


def peer_command(match: Match, options: argparse.Namespace) -> list[str]:
    """Runs the peer, but for where it writes its report."""
    script = str(FOLDER / f"{match.peer}_ppo.py")
    if match.peer == "rltools":
        flags = options.rltools_flags
        binary = options.envs / "rltools" / f"training-{zlib.crc32(flags.encode()):08x}"
        return [sys.executable, script, "--checkout", str(options.rltools), "--binary", str(binary), f"--flags={flags}"]
    command = [str(options.envs / match.peer / "bin" / "python"), script]
    command += ["--seeds", str(match.peer_seeds), "--timesteps", str(match.peer_timesteps)]
    for name, value in match.shape._asdict().items():
        command += [f"--{name.replace('_', '-')}", str(value)]
    command += ["--best"] if match.best else []
    return [*command, "--checkout", str(options.checkout)] if match.peer == "purejaxrl" else command


def run_peer(match: Match, options: argparse.Namespace) -> dict[str, Any]:
    """What the peer reports. Leaves with what it said where it fails."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "peer.json"
        command = [*peer_command(match, options), "--json", str(out)]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(f"{match.peer} failed:\n{done.stderr}")
        report = json.loads(out.read_text())
        return report | samples_of(report, report["task"]["num_epochs"])


def run_ours(match: Match) -> dict[str, Any]:
    """The same of ours."""
    name, config = "CartPole-v1", pjp.PPOConfig(total_timesteps=match.our_timesteps, **match.shape._asdict())
    if match.peer == "rltools":
        name, config = "Pendulum-v1", RLTOOLS
    forget_programs()  # so that the time to compile is that of a process of its own, as the peer's
    population = pjp.train_population(pjp.make_env(name), config, num_seeds=match.our_seeds)
    report = {
        "env_steps_per_second": population.costs.timesteps / population.train_seconds,
        "compile_seconds": population.compile_seconds,
        "last_return_per_seed": population.final_returns().tolist(),
    }
    return report | samples_of(report, config.update_epochs)


def samples_of(report: dict[str, Any], num_epochs: int) -> dict[str, float]:
    """The optimizer samples per second of a run, for its report."""
    return {SAMPLES: num_epochs * report["env_steps_per_second"]}


def ratio_of(pairs: Sequence[Pair]) -> Spread:
    """Our speed over the peer's, pair by pair."""
    return in_pairs(
        lambda ours, peer: ours / peer, speed_of([x.ours for x in pairs]), speed_of([x.peer for x in pairs])
    )


def speed_of(runs: Sequence[dict[str, Any]], what: str = "env_steps_per_second") -> Spread:
    """Env-steps, or optimizer samples, per second of the repetitions."""
    return spread_of([run[what] for run in runs])


def show_pair(match: Match, pair: Pair) -> str:
    """One line for a pair."""
    runs = ((PEERS[match.peer].title, match.peer_seeds, pair.peer), ("ours", match.our_seeds, pair.ours))
    shown = [
        f"{name}, {seeds} seed{'s' if seeds > 1 else ''}: {run['env_steps_per_second']:,.0f} env-steps/s, "
        f"{run[SAMPLES]:,.0f} samples/s "
        f"(compiled in {run['compile_seconds']:.1f} s, return {mean_return(run):.0f})"
        for name, seeds, run in runs
    ]
    return "   ".join([*shown, f"ratio {ratio_of([pair]).median:.2f}"])


def mean_return(run: dict[str, Any]) -> float:
    """Over the seeds that have one; NaN without any."""
    returns = np.array(run["last_return_per_seed"], np.float64)
    known = returns[~np.isnan(returns)]
    return float(known.mean()) if known.size else float("nan")


def show_summary(match: Match, pairs: Sequence[Pair]) -> str:
    """One line for all pairs of a match: medians, and the ratio with its spread."""
    ours, peer, ratio = speed_of([x.ours for x in pairs]), speed_of([x.peer for x in pairs]), ratio_of(pairs)
    setting = "at its best" if match.best else f"{match.peer_seeds} seed{'s' if match.peer_seeds > 1 else ''}"
    return (
        f"{PEERS[match.peer].title + ', ' + setting:<32}{peer.median:>12,.0f}{ours.median:>12,.0f}"
        f"{ratio.median:>9.2f}  ({ratio.least:.2f} to {ratio.most:.2f})"
    )


def describe(match: Match, pairs: Sequence[Pair]) -> dict[str, Any]:
    """A match for the JSON."""
    return {
        **match._asdict(),
        "shape": match.shape._asdict(),
        "ratio": ratio_of(pairs)._asdict(),
        "our_env_steps_per_second": speed_of([pair.ours for pair in pairs])._asdict(),
        "peer_env_steps_per_second": speed_of([pair.peer for pair in pairs])._asdict(),
        "our_optimizer_samples_per_second": speed_of([pair.ours for pair in pairs], SAMPLES)._asdict(),
        "peer_optimizer_samples_per_second": speed_of([pair.peer for pair in pairs], SAMPLES)._asdict(),
        "pairs": [pair._asdict() for pair in pairs],
    }


def check(options: argparse.Namespace, parser: argparse.ArgumentParser) -> None:
    """Leaves with status 2 where something that is needed is not there."""
    for name in options.peers:
        if name not in PEERS:
            parser.error(f"--peers {name}: take from {', '.join(PEERS)}")
        if name == "rltools":
            if options.rltools is None or not (options.rltools / "include" / "rl_tools").is_dir():
                parser.error(f"--rltools {options.rltools} is not a checkout of RLtools")
        elif not (options.envs / name / "bin" / "python").exists():
            parser.error(f"--envs {options.envs}: no {name}; make it with benchmarks/peers/make_envs.py")
    if "purejaxrl" in options.peers and options.checkout is None:
        parser.error("--checkout is missing; give the folder of PureJaxRL's repository, or leave it out of --peers")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--envs", type=Path, required=True, help="folder of the peers' virtual environments")
    parser.add_argument("--checkout", type=Path, help="a checkout of PureJaxRL")
    parser.add_argument("--rltools", type=Path, help="a checkout of RLtools")
    parser.add_argument("--rltools-flags", default="", help="for g++, such as a BLAS library")
    parser.add_argument("--peers", nargs="+", metavar="PEER", help="default: all")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 16, 64])
    parser.add_argument("--timesteps", type=int, default=100_000, help="of each seed")
    for name, value in Shape()._asdict().items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=int, default=value, help="of each run; not with --best")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--best", action="store_true", help="each at its best settings")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    if options.peers is None:
        options.peers = [name for name in PEERS if name != "rltools" or options.rltools is not None]
    check(options, parser)

    shape = Shape(options.num_envs, options.num_steps, options.num_minibatches)
    matches = make_matches(options.peers, options.seeds, options.timesteps, options.best, shape)
    pairs: dict[Match, list[Pair]] = {match: [] for match in matches}
    for _ in range(options.repeats):
        for match in matches:
            pair = Pair(run_peer(match, options), run_ours(match))
            pairs[match].append(pair)
            print(show_pair(match, pair), flush=True)
    print(f"\n{'median env-steps/s':<32}{'peer':>12}{'ours':>12}{'ratio':>9}")
    for match in matches:
        print(show_summary(match, pairs[match]))
    if options.json:
        report = {
            "matches": [describe(match, pairs[match]) for match in matches],
            "jax": jax.__version__,
            "python": sys.version,
            "time": time.strftime("%Y-%m-%d"),
        }
        write_json(options.json, report)


if __name__ == "__main__":
    main()
