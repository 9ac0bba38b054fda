"""Several processes that train one population: they join by `jax.distributed`, exchange rows, and end together.

JAX's service notices that a process has died, and aborts the others with a stack trace. So each process also holds a
connection to process 0, which stays silent until the process leaves. If a process dies, the kernel closes the
connection; the other side reads that at once, and ends with one line. A process that is only busy keeps its connection.
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
_LEFT = -1  # sent in place of the number of a dead process
_STOP, _RESTING = "purejaxppo/stop", "purejaxppo/resting"  # keys in the store that the processes share
_LAST_WORDS = 5.0  # seconds that process 0, which holds the store, waits for the others to leave
HEARTBEAT = 100  # seconds until a lost machine is noticed
_WEEK = 7 * 86_400_000  # milliseconds: processes wait for each other as long as they live


class Session(NamedTuple):
    """The connections of a process to the others: process 0 has one to each, they have one to process 0."""

    process_id: int
    num_processes: int
    remedy: str
    watched: dict[int, socket.socket]  # by process


_sessions: list[Session] = []  # holds one while joined
_watches: list[threading.Thread] = []  # of the session
_parting = threading.Event()  # once set, the end of other processes is expected
_barriers = itertools.count()  # numbers, as the service takes each name once


def join(
    coordinator: str | None = None,
    num_processes: int | None = None,
    process_id: int | None = None,
    *,
    heartbeat_seconds: int = HEARTBEAT,
    timeout_seconds: int = 300,
    remedy: str = "start all processes again",
) -> None:
    """Joins the other processes. Each process calls it once, before JAX starts, and calls `leave` at its end.

    Without the first three arguments, JAX detects the cluster: SLURM, GKE, Cloud TPU or MPI. The CPU cores of a machine
    are divided among its processes.

    From then on, a process that ends without `leave` ends the others too: at once, with one line on stderr that names
    it and says what to do; or, if the machine or the network is lost, through JAX after `heartbeat_seconds`.

    Args:
        coordinator: "host:port" of process 0, where the port must be free.
        num_processes: how many processes there are.
        process_id: the number of this process, from 0.
        heartbeat_seconds: seconds until a lost machine is noticed.
        timeout_seconds: seconds to wait for process 0.
        remedy: the advice in the line on stderr.

    Raises:
        PPOError: if an argument is missing or wrong, if JAX has already started, or if process 0 does not answer in
            time.
    """
    check_address(coordinator, num_processes, process_id)
    if coordinator is not None and process_id != 0:
        await_answer(coordinator, time.monotonic() + timeout_seconds)
    settings: Any = jax.config
    settings.update("jax_enable_preemption_service", False)  # it would catch SIGTERM and keep the process running
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
    jax.devices()  # every process waits for all others here, rather than later in a barrier


def barrier(name: str) -> None:
    """Waits until all processes have called it with this name. Returns at once if this one has not joined others."""
    if _sessions:
        store().wait_at_barrier(f"purejaxppo/{next(_barriers)}/{name}", _WEEK)


def gather_rows(tree: PyTree) -> PyTree:
    """Gives every process the rows of all processes, as NumPy arrays, in the order of the processes.

    The arrays of `tree` [rows, ...] may differ between processes in their first axis alone.
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
    """Waits until all processes call it, then disconnects them, so that each may end at any time.

    Does nothing if the process has not joined others.
    """
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
    """Tells all processes that this one has got a signal."""
    if _sessions:
        store().key_value_set(f"{_STOP}/{_sessions[0].process_id}", str(number), allow_overwrite=True)


def asked_to_stop() -> int | None:
    """The number of the signal that one of the processes has got, or None."""
    asked = store().key_value_dir_get(_STOP) if _sessions else []
    return int(asked[0][1]) if asked else None


def rest(is_resting: bool = True) -> None:
    """Tells the others that this process loses nothing if all end now; or, with False, that it works again."""
    if _sessions:
        key = f"{_RESTING}/{_sessions[0].process_id}"
        store().key_value_set(key, "", allow_overwrite=True) if is_resting else store().key_value_delete(key)


def part(status: int) -> None:
    """Ends this process with `status` once all others rest or part too. Does nothing unless joined."""
    if not _sessions:
        return
    rest()
    _parting.set()
    with contextlib.suppress(jax.errors.JaxRuntimeError):  # process 0 has ended already
        while len(store().key_value_dir_get(_RESTING)) < _sessions[0].num_processes:
            time.sleep(0.1)
    if _sessions[0].process_id == 0:
        _watches[0].join(_LAST_WORDS)
    abandon(status)


def end_with(status: int) -> int:
    """Returns the exit status; but ends the process with it now if it has joined others and not left them."""
    return abandon(status) if _sessions else status


def check_address(coordinator: str | None, num_processes: int | None, process_id: int | None) -> None:
    """Raises PPOError unless all three are given and fit each other, or none is given."""
    given = {"coordinator": coordinator, "num_processes": num_processes, "process_id": process_id}
    missing = [name for name, value in given.items() if value is None]
    if len(missing) == len(given):
        return
    if coordinator is None or num_processes is None or process_id is None:
        raise PPOError(f"{' and '.join(missing)} missing; give all of {', '.join(given)}, or none in a cluster")
    found = re.fullmatch(".+:([0-9]{1,5})", coordinator) if isinstance(coordinator, str) else None
    if not found or not 0 < int(found[1]) < 65536:
        raise PPOError(f"coordinator = {coordinator!r} is not an address; give host:port of process 0")
    check_size("num_processes", num_processes)
    if not isinstance(process_id, int) or not 0 <= process_id < num_processes:
        raise PPOError(f"process_id = {process_id} is not among {num_processes}; give 0 to {num_processes - 1}")


def await_answer(address: str, deadline: float) -> None:
    """Waits until something listens at `address`. Raises PPOError at the deadline."""
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
    """The number of CPU cores for this process, among the processes of its machine."""
    here = [socket.gethostname(), *map(str, core_ids())]
    store().key_value_set(f"purejaxppo/cores/{index}", " ".join(here))
    others = [store().blocking_key_value_get(f"purejaxppo/cores/{i}", _WEEK).split(" ") for i in range(count)]
    return share_of_cores(core_ids(), [[int(core) for core in cores] for host, *cores in others if host == here[0]])


def connect_watch(index: int, count: int) -> dict[int, socket.socket]:
    """Connects this process with process 0, or process 0 with all others. -> connections by process"""
    key = "purejaxppo/watch"
    if index > 0:
        host = str(global_state.coordinator_address).rpartition(":")[0].strip("[]")
        connection = socket.create_connection((host, int(store().blocking_key_value_get(key, _WEEK))))
        connection.sendall(_WORD.pack(index))
        return {0: connection}
    is_dual = socket.has_dualstack_ipv6()
    family = socket.AF_INET6 if is_dual else socket.AF_INET
    with socket.create_server(("", 0), family=family, dualstack_ipv6=is_dual, backlog=count) as server:
        store().key_value_set(key, str(server.getsockname()[1]))
        connections = [server.accept()[0] for _ in range(1, count)]
    return {read_word(connection): connection for connection in connections}


def watch(session: Session) -> None:
    """Ends this process when one that it is connected to dies; returns when all have left."""
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
    """Tells the others and stderr that `process` is gone, and ends this process."""
    for connection in session.watched.values():
        with contextlib.suppress(OSError):
            connection.sendall(_WORD.pack(process))
    line = f"purejaxppo: error: process {process} of {session.num_processes} is gone; {session.remedy}\n"
    stderr = os.dup(2)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # JAX's service writes about it too: ours is the last line
    os.write(stderr, line.encode())  # the main thread may hold the lock of sys.stderr
    os._exit(1)


def abandon(status: int = 1) -> NoReturn:
    """Ends this process without waiting for the others, which end because of it."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):  # a broken pipe, or closed
            stream.flush()
    os._exit(status)


def read_word(connection: socket.socket) -> int:
    """Reads the next number. Raises OSError if the other side has closed."""
    data = connection.recv(_WORD.size, socket.MSG_WAITALL)
    if len(data) < _WORD.size:
        raise ConnectionResetError
    return _WORD.unpack(data)[0]
