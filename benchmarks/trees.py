"""Two checkouts of this repository in turn: is the second one faster at training?

git worktree add --detach /tmp/old COMMIT
python benchmarks/trees.py /tmp/old . [--env CartPole-v1] [--seeds 1] [--devices 1] [--updates 100] [--rounds 11]
    [--config num_envs=2048 num_steps=32 num_minibatches=32]

Each checkout has a process, which compiles one program of so many updates and runs it in turn with the other: a slow
minute of the machine meets both. It prints the microseconds per environment step, and how many times as fast the second
checkout is, pair by pair: medians, least and most. The mean value loss shows whether both compute the same. A process
sees all cores; after `taskset -c 0` it sees one, and with --devices D the seeds are dealt out over D of JAX's CPU
devices. Nothing else should be running.
"""

import argparse
import ast
import os
import subprocess
import sys
from pathlib import Path
from typing import IO, Any, cast

from purejaxppo.cli.bench.timing import Spread, in_pairs, measure_in_turn

UPDATES = """
import ast, sys, time
import jax, numpy as np
place, options = sys.argv[1], ast.literal_eval(sys.argv[2])
jax.config.update("jax_num_cpu_devices", options["devices"])
import purejaxppo as pjp
from purejaxppo.utils.devices import compiler_options
assert pjp.__file__.startswith(place), f"{pjp.__file__} is not in {place}"
env, fields = pjp.make_env(options["env"]), options["config"]
config = (pjp.RecurrentConfig if "cell" in fields else pjp.PPOConfig)(**fields)
config = config.replace(total_timesteps=config.batch_size * options["updates"])
agent, keys = pjp.make_ppo(env, config), pjp.seed_keys(0, options["seeds"])
step = lambda runners, _: jax.vmap(agent.update)(runners)
train = lambda runners: jax.lax.scan(step, runners, length=options["updates"])[1].value_loss
mesh = jax.make_mesh((options["devices"],), ("seeds",))
seeds = jax.sharding.PartitionSpec("seeds")
runners = jax.jit(jax.vmap(agent.init), out_shardings=jax.NamedSharding(mesh, seeds))(keys)
spread = jax.shard_map(train, mesh=mesh, in_specs=seeds, out_specs=jax.sharding.PartitionSpec(None, "seeds"))
program = jax.jit(spread, compiler_options=compiler_options(jax.default_backend())).lower(runners).compile()
jax.block_until_ready(program(runners))
print("ready", flush=True)
for _ in sys.stdin:
    started = time.perf_counter()
    loss = jax.block_until_ready(program(runners))
    seconds = time.perf_counter() - started
    print(seconds * 1e6 / options["seeds"] / config.total_timesteps, float(np.mean(loss)), flush=True)
"""


class Training:
    """A process that trains with one checkout."""

    def __init__(self, tree: Path, options: dict[str, Any]) -> None:
        """Waits until its program is compiled. Raises SystemExit if that fails."""
        self.process = subprocess.Popen(
            [sys.executable, "-c", UPDATES, str(tree), str(options)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=tree,
            env=os.environ | {"PYTHONPATH": str(tree)},
        )
        self.tree, self.loss = tree, "unknown"
        self.hear()

    def hear(self) -> list[str]:
        """The words of the next line that it says. Raises SystemExit if it says no more."""
        words = cast(IO[str], self.process.stdout).readline().split()
        if not words:
            raise SystemExit(f"the program of {self.tree} has failed")
        return words

    def run(self, _: int) -> float:
        """Runs the program once. -> microseconds per environment step"""
        print("run", file=self.process.stdin, flush=True)
        microseconds, self.loss = self.hear()
        return float(microseconds)


def value_of(text: str) -> Any:
    """A number, tuple or bool as Python writes it, and anything else as a string."""
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def show(name: str, spread: Spread) -> str:
    """A line of the output: median, least and most."""
    return f"{name:40} {spread.median:.3f}  ({spread.least:.3f} to {spread.most:.3f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("trees", type=lambda text: Path(text).resolve(), nargs=2, metavar="TREE")
    parser.add_argument("--env", default="CartPole-v1")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--devices", type=int, default=1)
    parser.add_argument("--updates", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--config", nargs="*", default=[], metavar="FIELD=VALUE")
    options = vars(parser.parse_args())
    options["config"] = {name: value_of(text) for name, _, text in (x.partition("=") for x in options["config"])}
    trees, rounds = options.pop("trees"), options.pop("rounds")
    if options["seeds"] % options["devices"]:
        parser.error(f"{options['seeds']} seeds are no multiple of {options['devices']} devices")

    trainings = {f"{i}: {tree}": Training(tree, options) for i, tree in enumerate(trees)}
    times = measure_in_turn({name: training.run for name, training in trainings.items()}, rounds, say=lambda _: None)
    print("us per environment step")
    for name, training in trainings.items():
        print(show(name, times[name]), f" value loss {training.loss}")
    print(show("times as fast", in_pairs(lambda first, second: first / second, *times.values())))


if __name__ == "__main__":
    main()
