"""The leaderboard: what each preset learns in its environments, row by row, in benchmarks/results/leaderboard.json.

python benchmarks/leaderboard.py --run ROW ... [--seeds 16] [--seed 0] [--timesteps N] [--untimed]
python benchmarks/leaderboard.py --check ROW ...
python benchmarks/leaderboard.py [--page]

`--run` trains rows and writes them into the file. `--check` trains rows of the file again, as they were, and says for
each whether it came out the same to the bit, agrees (the 95% intervals of the IQM overlap), or does not; then the exit
status is 1. Without either it prints the table, and with `--page` writes it into docs/leaderboard.md, beside what
others have published (`published.py`).

A score is the greedy return of a seed's final policy, the mean of 100 episodes. The presets were chosen in runs on
seed 100 (`--seed 100`, 8 seeds at most); the default here is seed 0, whose members share no key with those.

A row is a preset in its own environment, or one of ROWS: in another environment of its family, with other parameters,
or with the counterpart of its policy, which has a memory where the preset's has none, and none where it has one.
"""

import argparse
import dataclasses
import math
import re
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from published import PUBLISHED
from rich.console import Console

import purejaxppo as pjp
from purejaxppo.population.sharding import describe_devices
from purejaxppo.population.statistics import interval_text
from purejaxppo.runs.console import print_rows
from purejaxppo.runs.presets import PRESETS, find_preset, solved_at
from purejaxppo.utils.errors import PPOError
from purejaxppo.utils.files import read_json, versions, write_json
from purejaxppo.utils.suggest import unknown

EPISODES = 100
ROOT = Path(__file__).parents[1]
FILE, PAGE = ROOT / "benchmarks" / "results" / "leaderboard.json", ROOT / "docs" / "leaderboard.md"
TABLE = re.compile(r"(<!-- table: (\w+) -->\n\n).*?(\n\n<!-- end -->)", re.DOTALL)  # of the page


@dataclasses.dataclass(frozen=True)
class Row:
    """A line of the table: what is trained, and where."""

    preset: str
    env: str | None = None  # None: the preset's own
    env_params: Mapping[str, float] = dataclasses.field(default_factory=dict)
    counterpart: bool = False  # the policy has a memory where the preset's has none, and none where it has one


# In the order of the table.
ROWS = {
    **{
        name: Row(name)
        for name, preset in PRESETS.items()
        if preset.family and name not in ("minatar", "recurrent") and "/" not in preset.env  # of another suite
    },
    "cleanrl": Row("cleanrl"),
    **{
        f"minatar-{game.lower()}": Row("minatar", f"{game}-MinAtar")
        for game in ("Asterix", "Breakout", "Freeway", "Seaquest", "SpaceInvaders")
    },
    "recurrent": Row("recurrent"),
    "recurrent-20": Row("recurrent", env_params={"memory_length": 20}),
    "recurrent-20-feed-forward": Row("recurrent", env_params={"memory_length": 20}, counterpart=True),
    "umbrellachain-recurrent": Row("umbrellachain", counterpart=True),
    **{name: Row(name) for name, preset in PRESETS.items() if preset.family and "/" in preset.env},
}


def find_row(name: str) -> Row:
    """A row by its name, or a preset in its own environment. Raises PPOError for neither."""
    if name in ROWS:
        return ROWS[name]
    find_preset(name)
    return Row(name)


def counterpart(config: Any) -> pjp.PPOConfig:
    """The hyperparameters of a policy without a memory given one, or the reverse."""
    other = pjp.PPOConfig if isinstance(config, pjp.RecurrentConfig) else pjp.RecurrentConfig
    names = [field.name for field in dataclasses.fields(pjp.PPOConfig) if field.name != "cell"]
    return other(**{name: getattr(config, name) for name in names})


def config_of(row: Row, timesteps: int | None) -> Any:
    """The hyperparameters of a row. `timesteps`, if given, replaces the preset's."""
    config = find_preset(row.preset).config
    config = counterpart(config) if row.counterpart else config
    return config if timesteps is None else config.replace(total_timesteps=timesteps)


def score(row: Row, num_seeds: int, seed: int, timesteps: int | None = None) -> dict[str, Any]:
    """Trains a row with that many seeds, and measures it."""
    config, name = config_of(row, timesteps), row.env or find_preset(row.preset).env
    population = pjp.train_population(
        pjp.make_env(name, **row.env_params), config, num_seeds=num_seeds, seed=seed, evaluation_episodes=EPISODES
    )
    returns = population.final_returns()
    threshold = solved_at(name, row.env_params)
    area = population.area()
    return {
        "env": name,
        "env_params": dict(row.env_params),
        "preset": row.preset,
        "policy": config.cell.upper() if isinstance(config, pjp.PPOConfig) and config.cell else "feed-forward",
        "seed": seed,
        "timesteps": config.actual_timesteps,
        "episodes": EPISODES,
        "iqm": population.aggregate().iqm._asdict(),
        "auc": area if math.isfinite(area) else None,
        "returns": returns.tolist(),
        "solved_at": threshold,
        "seeds_solved": None if threshold is None else int(np.sum(returns >= threshold)),
        "seconds": population.train_seconds,
    }


def run_rows(options: argparse.Namespace) -> None:
    """Trains rows in turn, and writes each into the file as it ends."""
    for name in options.run:
        found = score(find_row(name), options.seeds, options.seed, options.timesteps)
        timesteps = "" if options.timesteps is None else f" --timesteps {options.timesteps}"
        about = {
            "seconds": None if options.untimed else found["seconds"],
            "device": describe_devices(options.seeds, jax.devices()),
            "command": f"python benchmarks/leaderboard.py --run {name} --seeds {options.seeds} --seed {options.seed}"
            + timesteps,
            "commit": commit(),
            "jax": jax.__version__,
            "python": versions()["python"],
            "date": time.strftime("%Y-%m-%d"),
        }
        write_json(FILE, in_order(read_rows() | {name: found | about}))
        print(f"{name}: IQM {found['iqm']['estimate']:.2f}, {found['seconds']:.0f} s", file=sys.stderr, flush=True)


def check_rows(names: Sequence[str]) -> int:
    """Trains rows of the file again, and prints how each compares. -> exit status"""
    rows, verdicts = read_rows(), []
    for name in names:
        if name not in rows:
            raise PPOError(unknown("row", name, list(rows)))
        before = rows[name]
        after = score(find_row(name), len(before["returns"]), before["seed"], before["timesteps"])
        verdicts.append(agreement(before, after))
        low_high = [interval_text(one["iqm"]["low"], one["iqm"]["high"], 2) for one in (before, after)]
        print(f"{name}: {verdicts[-1]} (IQM {low_high[0]} in the file, {low_high[1]} now)", flush=True)
    return int("does not agree" in verdicts)


def agreement(before: Mapping[str, Any], after: Mapping[str, Any]) -> str:
    """How two measurements of a row compare."""
    if before["returns"] == after["returns"]:
        return "the same to the bit"
    (first, second) = before["iqm"], after["iqm"]
    overlap = first["low"] <= second["high"] and second["low"] <= first["high"]
    return "agrees" if overlap else "does not agree"


def commit() -> str:
    """The git revision, with "-dirty" if the package has changes that are not committed."""
    revision = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=True)
    changed = subprocess.run(["git", "diff", "--quiet", "HEAD", "--", "purejaxppo"], cwd=ROOT, check=False)
    return revision.stdout.strip() + ("-dirty" if changed.returncode else "")


def read_rows() -> dict[str, dict[str, Any]]:
    """The rows that were measured."""
    return read_json(FILE) if FILE.exists() else {}


def in_order(rows: Mapping[str, Any]) -> dict[str, Any]:
    """The rows in the order of ROWS, others behind."""
    return {name: rows[name] for name in [*ROWS, *rows] if name in rows}


def table(rows: Mapping[str, Mapping[str, Any]]) -> list[list[str]]:
    """A line for each row, the head first."""
    head = ["environment", "preset", "policy", "seeds", "steps a seed", "IQM", "95% interval", "AUC", "worst seed"]
    return [[*head, "solved"], *(measured_cells(found) for found in rows.values())]


def origin(rows: Mapping[str, Mapping[str, Any]]) -> list[list[str]]:
    """How each row was made, the head first."""
    head = ["row", "command", "seconds", "device", "jax", "commit", "date"]
    return [head, *(origin_cells(name, found) for name, found in rows.items())]


def origin_cells(name: str, found: Mapping[str, Any]) -> list[str]:
    """One line of the second table."""
    seconds = "" if found["seconds"] is None else f"{found['seconds']:.0f}"
    revision, dash, dirty = found["commit"].partition("-")
    return [
        name,
        f"`{found['command']}`",
        seconds,
        found["device"],
        found["jax"],
        revision[:7] + dash + dirty,
        found["date"],
    ]


def page(text: str, rows: Mapping[str, Mapping[str, Any]]) -> str:
    """The text of the page with the tables of these rows."""
    published = [published_cell(found["env"]) if not found["env_params"] else "" for found in rows.values()]
    head, *lines = table(rows)
    results = [[*head, "published (steps)"]]
    results += [[*line, cell] for line, cell in zip(lines, published, strict=True)]
    tables = {"results": markdown(results), "origin": markdown(origin(rows))}
    return TABLE.sub(lambda match: match[1] + tables[match[2]] + match[3], text)


def markdown(rows: Sequence[Sequence[str]]) -> str:
    """A table in Markdown; the first row is its head."""
    head, *lines = rows
    return "\n".join(f"| {' | '.join(row)} |" for row in [head, ["---"] * len(head), *lines])


def measured_cells(found: Mapping[str, Any]) -> list[str]:
    """One line of the table."""
    parameters = "".join(f", {name} {value:g}" for name, value in found["env_params"].items())
    iqm, num_seeds = found["iqm"], len(found["returns"])
    digits = 1 if abs(iqm["estimate"]) >= 10 else 2
    return [
        found["env"] + parameters,
        found["preset"],
        found["policy"],
        str(num_seeds),
        f"{found['timesteps']:,}",
        f"{iqm['estimate']:.{digits}f}",
        interval_text(iqm["low"], iqm["high"], digits),
        "" if found["auc"] is None else f"{found['auc']:.{digits}f}",
        f"{min(found['returns']):.{digits}f}",
        "no threshold" if found["solved_at"] is None else f"{found['seeds_solved']} of {num_seeds}",
    ]


def published_cell(env: str) -> str:
    """Published results for an environment."""
    return "; ".join(f"{one.source} {one.score} ({one.steps})" for one in PUBLISHED.get(env, ()))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", nargs="+", metavar="ROW", help=f"rows to train: {' '.join(ROWS)}, or a preset")
    parser.add_argument("--check", nargs="+", metavar="ROW", help="rows of the file to train again and compare")
    parser.add_argument("--page", action="store_true", help="write the table into docs/leaderboard.md")
    parser.add_argument("--seeds", type=int, default=16)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--timesteps", type=int, help="environment steps of a seed; default: the preset's")
    parser.add_argument("--untimed", action="store_true", help="leave the seconds out, when other programs run as well")
    options = parser.parse_args()

    if options.page:
        PAGE.write_text(page(PAGE.read_text(), read_rows()))
        return 0
    if not (options.run or options.check):
        print_rows(Console(width=160), table(read_rows()))
        return 0
    pjp.use_all_cores()
    if options.check:
        return check_rows(options.check)
    run_rows(options)
    return 0


if __name__ == "__main__":
    sys.exit(main())
