"""What the presets learn: each trains its environment, and one table says how well.

python benchmarks/scores.py [--presets acrobot minatar-breakout ...] [--seeds 16] [--seed 0] [--json OUT]
python benchmarks/scores.py --from A.json B.json ... [--markdown]

A score is the greedy return of a seed's final policy, the mean of 100 episodes. The presets were chosen in runs on
seed 100 (`--seed 100`, 8 seeds at most); the default here is seed 0, whose members share no key with those.

A row of the table is a preset in its own environment, or one of ROWS: in another environment of its family, with
other parameters, or with the counterpart of its policy, which has a memory where the preset's has none, and none where
it has one. The MinAtar games take minutes a seed on a CPU, and are not among the defaults; `--timesteps` trains less.

The second form trains nothing: it prints the table of what was measured before, and with `--markdown` as docs/scores.md
has it, beside what others have published (`published.py`).
"""

import argparse
import dataclasses
import sys
import time
from collections.abc import Iterable, Mapping
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
from purejaxppo.runs.presets import PRESETS, SOLVED_AT, find_preset
from purejaxppo.utils.files import read_json, write_json

EPISODES = 100


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
    **{
        f"minatar-{game.lower()}": Row("minatar", f"{game}-MinAtar")
        for game in ("Asterix", "Breakout", "Freeway", "Seaquest", "SpaceInvaders")
    },
    "recurrent": Row("recurrent"),
    "recurrent-20": Row("recurrent", env_params={"memory_length": 20}),
    "recurrent-20-feed-forward": Row("recurrent", env_params={"memory_length": 20}, counterpart=True),
    "umbrellachain-recurrent": Row("umbrellachain", counterpart=True),
}
DEFAULT = [name for name, row in ROWS.items() if row.preset != "minatar"]


def find_row(name: str) -> Row:
    """A row by its name, or a preset in its own environment. Raises PPOError for neither."""
    if name in ROWS:
        return ROWS[name]
    find_preset(name)
    return Row(name)


def counterpart(config: Any) -> pjp.PPOConfig:
    """The same hyperparameters for the other kind of policy: with a memory, or without."""
    other = pjp.PPOConfig if isinstance(config, pjp.RecurrentConfig) else pjp.RecurrentConfig
    return other(**{field.name: getattr(config, field.name) for field in dataclasses.fields(pjp.PPOConfig)})


def config_of(row: Row, timesteps: int | None) -> Any:
    """What a row is trained with; `timesteps` in place of the preset's where given."""
    config = find_preset(row.preset).config
    config = counterpart(config) if row.counterpart else config
    return config if timesteps is None else config.replace(total_timesteps=timesteps)


def score(row: Row, num_seeds: int, seed: int, timesteps: int | None = None) -> dict[str, Any]:
    """Trains a row with that many seeds."""
    config, name = config_of(row, timesteps), row.env or find_preset(row.preset).env
    population = pjp.train_population(
        pjp.make_env(name, **row.env_params), config, num_seeds=num_seeds, seed=seed, evaluation_episodes=EPISODES
    )
    returns = population.final_returns()
    solved_at = SOLVED_AT.get(name)
    return {
        "env": name,
        "env_params": dict(row.env_params),
        "preset": row.preset,
        "policy": config.cell.upper() if isinstance(config, pjp.PPOConfig) and config.cell else "feed-forward",
        "timesteps": config.actual_timesteps,
        "iqm": population.aggregate().iqm._asdict(),
        "returns": returns.tolist(),
        "solved_at": solved_at,
        "seeds_solved": None if solved_at is None else int(np.sum(returns >= solved_at)),
        "train_seconds": population.train_seconds,
        "compile_seconds": population.compile_seconds,
    }


def read_scores(paths: Iterable[Path]) -> dict[str, dict[str, Any]]:
    """The scores of files that `--json` wrote, by row, in the order of ROWS; of a row in two, the last."""
    found = {name: scores for path in paths for name, scores in read_json(path)["scores"].items()}
    return {name: found[name] for name in [*ROWS, *found] if name in found}


def table(scores: Mapping[str, Mapping[str, Any]]) -> list[list[str]]:
    """A line for each row, the head first."""
    head = ["environment", "preset", "policy", "seeds", "steps a seed", "IQM", "95% interval", "worst seed", "solved"]
    return [head, *(measured_cells(found) for found in scores.values())]


def markdown(scores: Mapping[str, Mapping[str, Any]]) -> str:
    """The same as a table in Markdown, with what others have published beside it."""
    head, *lines = table(scores)
    published = [published_cell(found["env"]) if not found["env_params"] else "" for found in scores.values()]
    rows = [[*head, "published (steps)"], ["---"] * (len(head) + 1)]
    rows += [[*line, cell] for line, cell in zip(lines, published, strict=True)]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


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
        f"{min(found['returns']):.{digits}f}",
        "no threshold" if found["solved_at"] is None else f"{found['seeds_solved']} of {num_seeds}",
    ]


def published_cell(env: str) -> str:
    """What others have published for an environment."""
    return "; ".join(f"{one.source} {one.score} ({one.steps})" for one in PUBLISHED.get(env, ()))


def measure(options: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """Trains the rows that were asked for, in turn; `--json` is written after each."""
    scores = {}
    for name in options.presets:
        scores[name] = score(find_row(name), options.seeds, options.seed, options.timesteps)
        print(f"{name}: IQM {scores[name]['iqm']['estimate']:.2f}", file=sys.stderr, flush=True)
        if options.json:
            report = {
                "scores": scores,
                "num_seeds": options.seeds,
                "seed": options.seed,
                "episodes": EPISODES,
                "devices": describe_devices(options.seeds, jax.devices()),
                "jax": jax.__version__,
                "python": sys.version,
                "time": time.strftime("%Y-%m-%d"),
            }
            write_json(options.json, report)
    return scores


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--presets", nargs="+", default=DEFAULT, help=f"rows; default: {' '.join(DEFAULT)}")
    parser.add_argument("--seeds", type=int, default=16)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--timesteps", type=int, help="environment steps of a seed; default: the preset's")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--from", dest="files", type=Path, nargs="+", help="print what these files hold")
    parser.add_argument("--markdown", action="store_true")
    options = parser.parse_args()

    pjp.use_all_cores()
    scores = read_scores(options.files) if options.files else measure(options)
    if options.markdown:
        print(markdown(scores))
    else:
        print_rows(Console(width=160), table(scores))


if __name__ == "__main__":
    main()
