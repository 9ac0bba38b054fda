"""The command `purejaxppo`: runs one command, and turns what goes wrong into one line and an exit status."""

import atexit
import gc
import os
import sys
from collections.abc import Sequence

import jax

from purejaxppo.cli.arguments import COMMANDS, read_options
from purejaxppo.cli.compile_cache import use_cache
from purejaxppo.population.processes import end_with
from purejaxppo.utils.errors import PPOError

RUN = {name: command.run for name, command in COMMANDS.items()}
PIPE_CLOSED = 141  # the exit status of a program that SIGPIPE has ended


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command. -> exit status

    0: done; 1: a check failed, or another process is gone; 2: bad input; 3: a run diverged under --strict;
    128 + n: ended by signal n, such as 130 for Ctrl-C and 141 where the reader of the output has left.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        return end_with(run_command(words))
    except PPOError as error:
        print(f"purejaxppo: error: {error}", file=sys.stderr)
        return end_with(2)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # takes what is left to write
        return end_with(PIPE_CLOSED)
    except (RuntimeError, AssertionError) as error:  # also an assertion: JAX_PLATFORMS=cuda without a GPU
        fault = fault_of_jax(error)
        if fault is None:
            raise
        print(f"purejaxppo: error: {fault}", file=sys.stderr)
        return end_with(2)
    except KeyboardInterrupt:
        print("purejaxppo: interrupted", file=sys.stderr)
        return end_with(130)


def run_command(words: Sequence[str]) -> int:
    """Runs the command that the words name. -> exit status. Raises BrokenPipeError if its reader has left."""
    atexit.register(gc.freeze)  # else Python looks through all objects once more before it ends
    gc.set_threshold(50_000, 20, 100)  # tracing makes many objects: the default looks through them all too often
    try:
        options = read_options(words)
        if "cache" in options:
            use_cache(options.cache)
        return RUN[options.command](options)
    finally:
        if sys.stdout is not None:  # None if a shell has closed it
            sys.stdout.flush()  # so that a short output meets a closed pipe here, not when Python exits


def fault_of_jax(error: Exception) -> str | None:
    """The message for an error of JAX that the user can mend: too little memory, or no such device. None for others."""
    if "RESOURCE_EXHAUSTED" in str(error):
        reason = str(error).splitlines()[0]
        return f"the memory is too small: {reason}; take fewer seeds, episodes or steps, or a smaller --config.num-envs"
    try:
        jax.devices()
    except (RuntimeError, AssertionError) as reason:
        lines = str(reason).splitlines() or ["it finds no such device"]
        return f"JAX cannot start: {lines[0].split(' (set ')[0]}; unset JAX_PLATFORMS, or set it to cpu"
    return None


if __name__ == "__main__":
    sys.exit(main())
