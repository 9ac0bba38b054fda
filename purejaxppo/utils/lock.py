"""One process at a time in a folder, by a lock that the kernel releases when the process ends, however it ends.

Handwritten because filelock empties the holder's file before it has the lock (up to 3.20), so a refusal cannot name the
process; it also leaves the file behind, and where a disk has no locks it takes one that outlives its process.
"""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from purejaxppo.utils.errors import PPOError

LOCK = ".lock"  # in the folder; it holds the process id


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keeps other processes, and other calls in this one, out of an existing folder.

    Goes on without a lock on a system or a disk that has none. Raises PPOError if another process or call has the lock.
    """
    handle = take(folder / LOCK)
    try:
        yield
    finally:
        if handle is not None:
            give_back(handle, folder / LOCK)


def take(path: Path) -> int | None:
    """Takes the lock and returns its open file, or None where there are no locks. Raises PPOError as `locked` does."""
    try:
        import fcntl
    except ImportError:  # Windows has none
        return None
    while True:
        try:
            handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        except OSError:  # writing to the folder will fail with a better message
            return None
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            number = os.read(handle, 32).decode(errors="replace").strip()  # empty if it has only just begun
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
    """Removes the file, then releases the lock."""
    with contextlib.suppress(OSError):
        if is_at(handle, path):
            path.unlink()
    os.close(handle)


def is_at(handle: int, path: Path) -> bool:
    """True if an open file is still the one at `path`."""
    try:
        return os.path.samestat(os.fstat(handle), path.stat())
    except FileNotFoundError:
        return False
