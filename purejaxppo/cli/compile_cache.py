"""--cache: compiled programs are kept for the next command, in JAX's persistent compilation cache."""

import os
import warnings
from pathlib import Path
from typing import Any

import jax

from purejaxppo.cli.option_types import a_path
from purejaxppo.cli.parser import Parser
from purejaxppo.utils.errors import PPOError

VARIABLE = "PUREJAXPPO_CACHE"
OFF = "off"
QUIET = (0, 10)  # older releases of jax print an error for each program that they read from a cache on a CPU
SETTINGS = {
    "jax_compilation_cache_max_size": 2 * 2**30,  # bytes; the programs that were used longest ago make room
    "jax_persistent_cache_min_compile_time_secs": 0.2,  # what compiles faster is not kept
}


def add_cache_option(parser: Parser) -> None:
    """Adds --cache."""
    parser.add_argument(
        "--cache",
        metavar="FOLDER",
        type=a_path,
        help="folder of compiled programs, or off (default ~/.cache/purejaxppo, at most 2 GiB)",
    )


def use_cache(option: Path | None) -> None:
    """Sets up the cache for this process.

    The value of --cache counts first, then JAX's own setting (JAX_COMPILATION_CACHE_DIR), then PUREJAXPPO_CACHE, then
    the user's cache folder, unless jax is older than QUIET. If no folder is writable, nothing is cached. JAX recompiles
    an entry that it cannot read, such as one left half written by a killed process, so its warnings are not shown.

    Raises PPOError if --cache names a folder that cannot be written to.
    """
    settings: Any = jax.config  # its attributes are made at run time
    if option is None and settings.jax_compilation_cache_dir:
        return
    chosen = os.environ.get(VARIABLE) if option is None else str(option)
    chosen = chosen or (OFF if jax.__version_info__ < QUIET else None)
    folder = None if chosen == OFF else Path(chosen).absolute() if chosen else default_folder()
    if folder is not None and not is_made(folder):
        if option is not None:
            raise PPOError(f"--cache {option} is not a folder that you can write to; give another, or off")
        folder = None
    jax.config.update("jax_compilation_cache_dir", None if folder is None else str(folder))
    for name, value in SETTINGS.items():
        if name.upper() not in os.environ:
            jax.config.update(name, value)
    warnings.filterwarnings("ignore", "Error (reading|writing) persistent compilation cache entry")


def default_folder() -> Path | None:
    """$XDG_CACHE_HOME/purejaxppo or ~/.cache/purejaxppo. None for a user without a home."""
    given = Path(os.environ.get("XDG_CACHE_HOME", ""))
    try:
        return (given if given.is_absolute() else Path.home() / ".cache") / "purejaxppo"
    except RuntimeError:  # the user has no home directory
        return None


def is_made(folder: Path) -> bool:
    """Makes the folder, for this user alone. -> False if that fails, or if it cannot be written to"""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError:
        return False
    return os.access(folder, os.W_OK | os.X_OK)
