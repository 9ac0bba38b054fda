"""The report of a benchmark as a table."""

from typing import Any

from purejaxppo.population.memory import show_bytes
from purejaxppo.population.statistics import with_interval

_STEPPING = {
    "env_only": "environment only, random actions",
    "gymnax_step": "gymnax's own step, one jit",
    "gymnax_step_spread": "the same on all devices",
    "rollout": "rollout with the policy",
}
_HEAD = ("measured", "median", "least", "most", "unit", "")
_PHASE = "us per env-step"


def show_table(report: dict[str, Any]) -> str:
    """The table: names and units are left-aligned, numbers right-aligned."""
    rows = [_HEAD, *limit_rows(report), *stepping_rows(report), *training_rows(report)]
    rows += [*phase_rows(report), *compile_rows(report), *memory_rows(report)]
    widths = [max(len(row[i]) for row in rows) for i in range(len(_HEAD))]
    lines = [
        "  ".join(cell.rjust(width) if i in (1, 2, 3) else cell.ljust(width) for i, (cell, width) in enumerate(cells))
        for cells in (list(zip(row, widths, strict=True)) for row in rows)
    ]
    return "\n".join([title(report), "", *(line.rstrip() for line in lines)])


def title(report: dict[str, Any]) -> str:
    """The machine, the versions and the sizes."""
    machine, config, plan = report["machine"], report["config"], report["plan"]
    return (
        f"{machine['num_devices']} x {machine['device']} ({machine['platform']}, {machine['cores']} cores), "
        f"jax {machine['versions']['jax']}; CartPole-v1, {config['num_envs']} x {config['num_steps']} steps, "
        f"{config['update_epochs']} epochs x {config['num_minibatches']} minibatches, "
        f"{config['total_timesteps']:,} steps a seed; {plan['repeats']} repetitions"
    )


def limit_rows(report: dict[str, Any]) -> list[tuple[str, ...]]:
    """The limits of the machine, and the limit of training that follows."""
    limits, work = report["limits"], report["work_per_env_step"]
    needs = f"at {work['flop'] / 1e3:,.0f} kFLOP and {work['tanh']:,} tanh per env-step"
    return [
        spread_row("large matrix products", limits["sgemm_flop_per_second"], "GFLOP/s", scale=1e-9),
        spread_row("tanh in cache", limits["tanh_per_second"], "G/s", scale=1e-9),
        spread_row("limit of training", limits["env_steps_per_second"], "env-steps/s", needs),
    ]


def stepping_rows(report: dict[str, Any]) -> list[tuple[str, ...]]:
    """Speeds without learning."""
    speeds = report["env_steps_per_second"]
    rows = [spread_row(name, speeds[key], "env-steps/s") for key, name in _STEPPING.items()]
    rows.insert(3, spread_row("ours over gymnax's, one jit", speeds["env_only_over_gymnax_step"], "times"))
    rows.insert(4, spread_row("ours over gymnax's, all devices", speeds["env_only_over_gymnax_step_spread"], "times"))
    return rows


def training_rows(report: dict[str, Any]) -> list[tuple[str, ...]]:
    """Whole trainings."""
    return [
        spread_row(
            f"train, {show_seeds(entry['seeds'])}", entry["env_steps_per_second"], "env-steps/s", show_outcome(entry)
        )
        for entry in report["training"]
    ]


def show_outcome(entry: dict[str, Any]) -> str:
    """The share of the machine that a training used, and what it learned."""
    share, rate, iqm = (entry[key] for key in ("share_of_limit", "flop_per_second", "final_return_iqm"))
    learned = "no episode at the end"
    if iqm is not None:
        learned = f"final training return, IQM {with_interval(**iqm)}"
    return f"{share['median']:.0%} of the limit, {show_number(rate['median'] / 1e9)} GFLOP/s; {learned}"


def phase_rows(report: dict[str, Any]) -> list[tuple[str, ...]]:
    """One update in its parts."""
    phases = report["phases_microseconds_per_env_step"]
    names = {name: name.replace("_", " ").replace("gae", "GAE") for name in phases}
    return [
        spread_row(f"- of which {shown.partition('.')[2]}" if "." in shown else f"phase: {shown}", phases[name], _PHASE)
        for name, shown in names.items()
    ]


def compile_rows(report: dict[str, Any]) -> list[tuple[str, ...]]:
    """Cold and warm."""
    return [
        spread_row(f"compile, {show_seeds(int(num_seeds))}, {name} cache", spread, "s")
        for num_seeds, both in report["compile_seconds"].items()
        for name, spread in both.items()
    ]


def memory_rows(report: dict[str, Any]) -> list[tuple[str, ...]]:
    """Peak memory, measured and planned."""
    peak = report["peak_memory_bytes"]
    planned = max(entry["planned_bytes"] for entry in report["training"])
    shown = "unknown" if peak is None else show_bytes(peak)
    return [("peak memory", shown, "", "", "", f"{show_bytes(planned)} planned for the largest population")]


def spread_row(name: str, spread: dict[str, Any], unit: str, remark: str = "", scale: float = 1.0) -> tuple[str, ...]:
    """A measurement in its unit."""
    return (name, *(show_number(scale * spread[key]) for key in ("median", "least", "most")), unit, remark)


def show_seeds(count: int) -> str:
    """1 seed, 16 seeds"""
    return f"{count} seed{'s' if count > 1 else ''}"


def show_number(x: float) -> str:
    """Three digits, or a whole number with commas."""
    return f"{x:,.0f}" if x >= 100 else f"{x:.3g}"
