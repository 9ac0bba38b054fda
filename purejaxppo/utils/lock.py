"""One process at a time in a folder: a lock that the kernel takes back with the process, however that ends."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from purejaxppo.utils.errors import PPOError

LOCK = ".lock"  # in the folder; it holds the number of the process


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keeps other processes, and other calls in this one, out of a folder that is there.

    Raises PPOError where another has it. Goes on without a lock on a system or a disk that has none to give.
    """
    handle = take(folder / LOCK)
    try:
        yield
    finally:
        if handle is not None:
            give_back(handle, folder / LOCK)


def take(path: Path) -> int | None:
    """The open file of a lock that is now ours; None where there are no locks. Raises PPOError as `locked` does."""
    try:
        import fcntl
    except ImportError:  # Windows has none
        return None
    while True:
        try:
            handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        except OSError:  # what is to be written there says more
            return None
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            number = os.read(handle, 32).decode(errors="replace").strip()  # none yet, where it has just begun
            os.close(handle)
            raise PPOError(
                f"{str(path.parent)!r} is in use by {f'process {number}' if number else 'another process'}; "
                "wait for its end or stop it, or take another folder"
            ) from None
        except OSError:  # a disk without locks
            give_back(handle, path)
            return None
        if is_at(handle, path):
            os.truncate(handle, 0)
            os.write(handle, f"{os.getpid()}\n".encode())
            return handle
        os.close(handle)  # the one that held it has removed the file since it was opened


def give_back(handle: int, path: Path) -> None:
    """Removes the file before another process can have it."""
    with contextlib.suppress(OSError):
        if is_at(handle, path):
            path.unlink()
    os.close(handle)


def is_at(handle: int, path: Path) -> bool:
    """Whether an open file is still the one at `path`."""
    try:
        return os.path.samestat(os.fstat(handle), path.stat())
    except FileNotFoundError:
        return False
