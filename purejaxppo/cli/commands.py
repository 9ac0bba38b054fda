"""All commands by name."""

from purejaxppo.cli.bench.command import BENCH
from purejaxppo.cli.completion import COMPLETION
from purejaxppo.cli.doctor.command import DOCTOR
from purejaxppo.cli.evaluate import EVALUATE
from purejaxppo.cli.lists import ENVS, LIST_PRESETS
from purejaxppo.cli.parser import Command
from purejaxppo.cli.plot import PLOT
from purejaxppo.cli.render import RENDER
from purejaxppo.cli.report import REPORT
from purejaxppo.cli.train import SWEEP, TRAIN

COMMANDS: dict[str, Command] = {
    "train": TRAIN,
    "sweep": SWEEP,
    "eval": EVALUATE,
    "render": RENDER,
    "plot": PLOT,
    "report": REPORT,
    "doctor": DOCTOR,
    "bench": BENCH,
    "envs": ENVS,
    "presets": LIST_PRESETS,
    "completion": COMPLETION,
}
