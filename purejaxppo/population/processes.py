"""Several processes that train one population: they join by `jax.distributed`, exchange rows, and end together.

JAX's service notices that a process has died, and aborts the others with a stack trace. So each process also holds a
connection to process 0 on which nothing is said until it leaves: the kernel closes it with the process, which the other
side reads at once, and ends with one line. A process that is only busy keeps its connection.
"""

import atexit
import contextlib
import itertools
import os
import re
import selectors
import socket
import struct
import sys
import threading
import time
from typing import Any, NamedTuple, NoReturn

import jax
import numpy as np
from jax._src.distributed import global_state  # the key-value store of JAX's service has no public name
from jax.experimental import multihost_utils

from purejaxppo.utils.devices import core_ids, share_of_cores, use_all_cores
from purejaxppo.utils.errors import PPOError
from purejaxppo.utils.tree import PyTree
from purejaxppo.utils.validation import check_size

_WORD = struct.Struct("!i")
_LEFT = -1  # instead of the number of a process that is gone
_STOP, _RESTING = "purejaxppo/stop", "purejaxppo/resting"  # what the processes tell each other
_LAST_WORDS = 5.0  # seconds that process 0, which holds the store, waits for the others to part
HEARTBEAT = 100  # seconds until a machine that is lost is noticed
_WEEK = 7 * 86_400_000  # milliseconds: processes wait for each other as long as they live


class Session(NamedTuple):
    """What a process holds of the others: process 0 a connection to each, they one to process 0."""

    process_id: int
    num_processes: int
    remedy: str
    watched: dict[int, socket.socket]  # by process


_sessions: list[Session] = []  # one while joined
_watches: list[threading.Thread] = []  # of the session
_parting = threading.Event()  # from then on it is nothing to see others end
_barriers = itertools.count()  # the service takes each name once


def join(
    coordinator: str | None = None,
    num_processes: int | None = None,
    process_id: int | None = None,
    *,
    heartbeat_seconds: int = HEARTBEAT,
    timeout_seconds: int = 300,
    remedy: str = "start all processes again",
) -> None:
    """Joins the other processes. Each calls it once, before JAX starts, and `leave` at its end.

    `coordinator` is "host:port" of process 0, with a port that is free there. Without the first three arguments JAX
    detects the cluster: SLURM, GKE, Cloud TPU, MPI. The CPU cores of a machine are divided among its processes.

    From then on a process that ends without `leave` ends the others: at once with one line on stderr that says which
    is gone and what to do; or after `heartbeat_seconds` by JAX, where the machine or the network was lost.

    Raises PPOError for arguments that are missing or wrong, when JAX has started, and when process 0 does not answer
    within `timeout_seconds`.
    """
    check_address(coordinator, num_processes, process_id)
    if coordinator is not None and process_id != 0:
        await_answer(coordinator, time.monotonic() + timeout_seconds)
    settings: Any = jax.config
    settings.update("jax_enable_preemption_service", False)  # it would catch SIGTERM, and not end the process
    try:
        jax.distributed.initialize(
            coordinator,
            num_processes,
            process_id,
            initialization_timeout=timeout_seconds,
            heartbeat_timeout_seconds=heartbeat_seconds,
        )
    except (RuntimeError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise PPOError(
            f"jax.distributed cannot start: {reason}; join before JAX starts, in a cluster that it detects, "
            "or give coordinator, num_processes and process_id"
        ) from None
    index, count = int(global_state.process_id or 0), int(global_state.num_processes or 1)
    use_all_cores(divided_cores(index, count))
    _sessions.append(Session(index, count, remedy, connect_watch(index, count)))
    atexit.register(abandon)  # before JAX's own, which would wait for the others
    _watches.append(threading.Thread(target=watch, args=(_sessions[0],), daemon=True))
    _watches[0].start()
    jax.devices()  # every process waits here for all; later another might wait in a barrier


def barrier(name: str) -> None:
    """Returns when all processes have called it with this name; at once where none has joined."""
    if _sessions:
        store().wait_at_barrier(f"purejaxppo/{next(_barriers)}/{name}", _WEEK)


def gather_rows(tree: PyTree) -> PyTree:
    """The rows of all processes as NumPy arrays, in the order of the processes; in every process.

    The arrays of `tree` [rows, ...] differ between processes in their first axis alone.
    """
    if not _sessions:
        return jax.tree.map(np.asarray, tree)
    barrier("gather")  # the collective itself would not wait
    num_rows = len(jax.tree.leaves(tree)[0])
    counts = multihost_utils.process_allgather(np.int32(num_rows))
    padded = jax.tree.map(lambda x: np.concatenate([x, np.zeros((max(counts) - len(x), *x.shape[1:]), x.dtype)]), tree)
    everyone = multihost_utils.process_allgather(padded)  # [processes, rows, ...]
    return jax.tree.map(lambda x: np.concatenate([part[:n] for part, n in zip(x, counts, strict=True)]), everyone)


def leave() -> None:
    """Waits for all processes, and parts from them: each may then end when it likes. Nothing where none has joined."""
    if not _sessions:
        return
    barrier("leave")
    for connection in _sessions[0].watched.values():
        with contextlib.suppress(OSError):
            connection.sendall(_WORD.pack(_LEFT))
    jax.distributed.shutdown()
    atexit.unregister(abandon)
    _sessions.clear()
    _watches.clear()


def ask_to_stop(number: int) -> None:
    """Tells all processes that a signal has come to this one."""
    if _sessions:
        store().key_value_set(f"{_STOP}/{_sessions[0].process_id}", str(number), allow_overwrite=True)


def asked_to_stop() -> int | None:
    """The number of a signal that has come to one of the processes; None where none has."""
    asked = store().key_value_dir_get(_STOP) if _sessions else []
    return int(asked[0][1]) if asked else None


def rest(is_resting: bool = True) -> None:
    """Tells the others that nothing of this process is lost if all end now; or that it works again."""
    if not _sessions:
        return
    key = f"{_RESTING}/{_sessions[0].process_id}"
    if is_resting:
        store().key_value_set(key, "", allow_overwrite=True)
    else:
        store().key_value_delete(key)


def part(status: int) -> None:
    """Ends this process with `status` when all others rest or part too. Nothing where none has joined."""
    if not _sessions:
        return
    rest()
    _parting.set()
    with contextlib.suppress(jax.errors.JaxRuntimeError):  # process 0 has parted already
        while len(store().key_value_dir_get(_RESTING)) < _sessions[0].num_processes:
            time.sleep(0.1)
    if _sessions[0].process_id == 0:
        _watches[0].join(_LAST_WORDS)
    abandon(status)


def end_with(status: int) -> int:
    """The status with which this process is to end. Where it has joined others and not left them, it ends now."""
    if _sessions:
        abandon(status)
    return status


def check_address(coordinator: str | None, num_processes: int | None, process_id: int | None) -> None:
    """Raises PPOError unless all three are given and fit each other, or none is."""
    given = {"coordinator": coordinator, "num_processes": num_processes, "process_id": process_id}
    missing = [name for name, value in given.items() if value is None]
    if len(missing) == len(given):
        return
    if missing or coordinator is None or num_processes is None or process_id is None:
        raise PPOError(f"{' and '.join(missing)} missing; give all of {', '.join(given)}, or none in a cluster")
    host, _, port = coordinator.rpartition(":") if isinstance(coordinator, str) else ("", "", "")
    if not host or not re.fullmatch("[0-9]{1,5}", port) or not 0 < int(port) < 65536:
        raise PPOError(f"coordinator = {coordinator!r} is no address; give host:port of process 0")
    check_size("num_processes", num_processes)
    if not isinstance(process_id, int) or not 0 <= process_id < num_processes:
        raise PPOError(f"process_id = {process_id} is not among {num_processes}; give 0 to {num_processes - 1}")


def await_answer(address: str, deadline: float) -> None:
    """Returns when something listens at `address`. Raises PPOError where nothing does until the deadline."""
    host, _, port = address.rpartition(":")
    while True:
        try:
            socket.create_connection((host.strip("[]"), int(port)), 1.0).close()
            return
        except OSError as error:
            if time.monotonic() > deadline:
                raise PPOError(f"process 0 does not answer at {address} ({error}); start it, or check it") from None
            time.sleep(0.2)


def store() -> Any:
    """The key-value store that all processes share."""
    return global_state.client


def divided_cores(index: int, count: int) -> int:
    """The cores that fall to this process among those of its machine."""
    here = [socket.gethostname(), *map(str, core_ids())]
    store().key_value_set(f"purejaxppo/cores/{index}", " ".join(here))
    others = [store().blocking_key_value_get(f"purejaxppo/cores/{i}", _WEEK).split(" ") for i in range(count)]
    return share_of_cores(core_ids(), [[int(core) for core in cores] for host, *cores in others if host == here[0]])


def connect_watch(index: int, count: int) -> dict[int, socket.socket]:
    """The connections that tell of the others."""
    key = "purejaxppo/watch"
    if index > 0:
        host = str(global_state.coordinator_address).rpartition(":")[0].strip("[]")
        connection = socket.create_connection((host, int(store().blocking_key_value_get(key, _WEEK))))
        connection.sendall(_WORD.pack(index))
        return {0: connection}
    family = socket.AF_INET6 if socket.has_dualstack_ipv6() else socket.AF_INET
    with socket.create_server(
        ("", 0), family=family, dualstack_ipv6=family == socket.AF_INET6, backlog=count
    ) as server:
        store().key_value_set(key, str(server.getsockname()[1]))
        connections = [server.accept()[0] for _ in range(1, count)]
    return {read_word(connection): connection for connection in connections}


def watch(session: Session) -> None:
    """Ends this process when one that it is connected to is gone; returns when all have left."""
    with selectors.DefaultSelector() as selector:
        for process, connection in session.watched.items():
            selector.register(connection, selectors.EVENT_READ, process)
        while selector.get_map():
            for ready, _ in selector.select():
                connection: Any = ready.fileobj
                try:
                    word = read_word(connection)
                except OSError:
                    word = ready.data
                if word != _LEFT and not _parting.is_set():
                    end(session, word)
                selector.unregister(connection)


def end(session: Session, process: int) -> NoReturn:
    """Tells the others that `process` is gone, says so, and ends this process."""
    for connection in session.watched.values():
        with contextlib.suppress(OSError):
            connection.sendall(_WORD.pack(process))
    line = f"purejaxppo: error: process {process} of {session.num_processes} is gone; {session.remedy}\n"
    stderr = os.dup(2)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # JAX's service notices it too, and speaks: ours is the last word
    os.write(stderr, line.encode())  # the main thread may hold the lock of sys.stderr
    os._exit(1)


def abandon(status: int = 1) -> NoReturn:
    """Ends this process without waiting for the others, which are ended by it."""
    with contextlib.suppress(OSError, ValueError):  # a broken pipe, or closed
        sys.stdout.flush()
    with contextlib.suppress(OSError, ValueError):
        sys.stderr.flush()
    os._exit(status)


def read_word(connection: socket.socket) -> int:
    """The next number. Raises OSError where the other side has closed."""
    data = connection.recv(_WORD.size, socket.MSG_WAITALL)
    if len(data) < _WORD.size:
        raise ConnectionResetError
    return _WORD.unpack(data)[0]
