"""--cache: compiled programs are kept for the next command, in JAX's persistent compilation cache."""

import os
import warnings
from pathlib import Path
from typing import Any

import jax

from purejaxppo.cli.option_types import a_path
from purejaxppo.cli.parser import Parser, option
from purejaxppo.utils.errors import PPOError

VARIABLE = "PUREJAXPPO_CACHE"
OFF = "off"
QUIET = (0, 10)  # older releases of jax print an error for each program that they read from a cache on a CPU
SETTINGS = {
    "jax_compilation_cache_max_size": 2 * 2**30,  # bytes; the programs that were used longest ago make room
    "jax_persistent_cache_min_compile_time_secs": 0.02,  # reading is faster; each entry slows the writing of others
}


def add_cache_option(parser: Parser) -> None:
    """Adds --cache."""
    about = "folder of compiled programs, or off (default ~/.cache/purejaxppo, at most 2 GiB)"
    option(parser, "--cache", "FOLDER", a_path, about)


def use_cache(given: Path | None) -> None:
    """Sets up the cache for this process.

    The value of --cache counts first, then JAX's own setting (JAX_COMPILATION_CACHE_DIR), then PUREJAXPPO_CACHE, then
    the user's cache folder, unless jax is older than QUIET. If no folder is writable, nothing is cached. JAX recompiles
    an entry that it cannot read, such as one left half written by a killed process, so its warnings are not shown.

    Raises PPOError if --cache names a folder that cannot be written to.
    """
    settings: Any = jax.config  # its attributes are made at run time
    if given is None and settings.jax_compilation_cache_dir:
        return
    chosen = str(given or os.environ.get(VARIABLE) or (OFF if jax.__version_info__ < QUIET else default_folder()))
    folder = None if chosen == OFF else made(Path(chosen).absolute())
    if folder is None and given is not None and chosen != OFF:
        raise PPOError(f"--cache {given} is not a folder that you can write to; give another, or off")
    jax.config.update("jax_compilation_cache_dir", folder and str(folder))
    for name, value in SETTINGS.items():
        if name.upper() not in os.environ:
            jax.config.update(name, value)
    warnings.filterwarnings("ignore", "Error (reading|writing) persistent compilation cache entry")


def default_folder() -> Path | str:
    """$XDG_CACHE_HOME/purejaxppo or ~/.cache/purejaxppo; OFF for a user without a home."""
    given = Path(os.environ.get("XDG_CACHE_HOME", ""))
    try:
        return (given if given.is_absolute() else Path.home() / ".cache") / "purejaxppo"
    except RuntimeError:  # the user has no home directory
        return OFF


def made(folder: Path) -> Path | None:
    """Makes the folder, for this user alone. None if that fails, or if it cannot be written to."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError:
        return None
    return folder if os.access(folder, os.W_OK | os.X_OK) else None
