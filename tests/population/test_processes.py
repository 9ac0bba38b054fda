"""Real processes over loopback: what they exchange, and how they end when one of them is killed."""

import contextlib
import os
import re
import socket
import subprocess
import sys
import time

import numpy as np
import pytest

from purejaxppo.population.processes import barrier, gather_rows, join, leave
from purejaxppo.utils.devices import share_of_cores
from purejaxppo.utils.errors import PPOError

pytestmark = pytest.mark.slow

HEARTBEAT = 2  # seconds
MARGIN = 5
PREFACE = f"""
import sys, time
import numpy as np
from purejaxppo.population.processes import barrier, gather_rows, join, leave
port, count, index = (int(word) for word in sys.argv[1:4])
def join_all(**options):
    join(f"127.0.0.1:{{port}}", count, index, heartbeat_seconds={HEARTBEAT}, **options)
    print("joined", flush=True)
"""


@contextlib.contextmanager
def started(code, count=2, indices=None, **environment):
    """The processes that run `code`; they are dead afterwards."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "PYTHONPATH": os.pathsep.join(sys.path), **environment}
    processes = []
    try:
        for i in range(count) if indices is None else indices:
            command = [sys.executable, "-c", PREFACE + code, str(port), str(count), str(i)]
            pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
            processes.append(subprocess.Popen(command, env=environment, text=True, **pipes))
        yield processes
    finally:
        for process in processes:
            process.kill()
            process.communicate(timeout=10)


def await_line(process, text):
    """Reads until the line `text`, which comes or the process ends."""
    for line in process.stdout:
        if line.strip() == text:
            return
    raise AssertionError(process.stderr.read())


def ends(processes, timeout=60):
    """The status, stdout and stderr of each process."""
    results = []
    for process in processes:
        out, err = process.communicate(timeout=timeout)
        results.append((process.returncode, out, err))
    return results


def assert_all_end_well(results):
    assert [status for status, _, _ in results] == [0] * len(results), results
    assert all(err == "" for _, _, err in results), results


OF_JAX = r"([EF]\d{4} (.*\n)*)?"  # its lines begin with an error of its own; a source trace may follow


def assert_survivor_says(process, gone, since):
    (result,) = ends([process], timeout=HEARTBEAT + MARGIN)
    assert time.monotonic() - since < HEARTBEAT + MARGIN
    status, _, err = result
    assert status == 1, result
    # The service of JAX ends with process 0, and its other ends may be quicker to say so than we are.
    before = OF_JAX if gone == 0 else ""
    assert "Traceback" not in err
    assert re.fullmatch(rf"{before}purejaxppo: error: process {gone} of \d is gone; start all again\n", err), err


def test_three_processes_exchange_unequal_rows_and_part_in_order():
    code = """
join_all()
rows = {"a": np.full((index + 1, 2), index, np.int32), "b": np.ones((index + 1,), np.float32)}
barrier("before")
out = gather_rows(rows)
assert out["a"].dtype == np.int32 and out["a"][:, 0].tolist() == [0, 1, 1, 2, 2, 2], out
assert out["b"].shape == (6,) and out["b"].dtype == np.float32 and out["b"].all()
big = gather_rows(np.full((3_000_000 + index,), index, np.uint8))
assert np.bincount(big).tolist() == [3_000_000, 3_000_001, 3_000_002]
time.sleep(index / 2)
reached = time.time()
barrier("after")
print("passed", reached, time.time())
leave()
leave()
time.sleep(1 - index / 2)
print("left")
"""
    with started(code, count=3) as processes:
        results = ends(processes)
    assert_all_end_well(results)
    assert all(out.endswith("left\n") for _, out, _ in results)
    times = [re.search(r"passed (\S+) (\S+)", out).groups() for _, out, _ in results]
    assert min(float(passed) for _, passed in times) >= max(float(reached) for reached, _ in times)


def test_a_machine_is_divided_and_a_computation_spans_the_devices_of_all():
    code = """
join_all()
import jax
from purejaxppo.utils.devices import cpu_cores, idle_cores, use_all_cores
use_all_cores()
assert jax.local_device_count() == max(1, cpu_cores() // 2), jax.local_devices()
assert idle_cores() is None
from jax.sharding import Mesh, NamedSharding, PartitionSpec
assert (jax.process_index(), jax.process_count()) == (index, 2)
mesh = Mesh(np.array(jax.devices()), ("d",))
shards = NamedSharding(mesh, PartitionSpec("d"))
values = np.arange(4.0 * len(jax.devices()))
x = jax.make_array_from_callback(values.shape, shards, lambda i: values[i])
total = jax.jit(lambda x: x.sum(), out_shardings=NamedSharding(mesh, PartitionSpec()))(x)
assert float(total) == values.sum()
leave()
"""
    with started(code) as processes:
        assert_all_end_well(ends(processes))


@pytest.mark.parametrize(("count", "victim"), [(2, 0), (3, 1)])
def test_a_killed_process_ends_every_other(count, victim):
    code = """
import jax, jax.numpy as jnp
join_all(remedy="start all again")
spin = jax.jit(lambda n: jax.lax.fori_loop(0, n, lambda i, x: jnp.sin(x + i), 0.0))
spin(3)
print("ready", flush=True)
if index == 2:
    barrier("never")
spin(2**31 - 1).block_until_ready()
time.sleep(60)
"""
    with started(code, count) as processes:
        for process in processes:
            await_line(process, "ready")
        processes[victim].kill()
        since = time.monotonic()
        for survivor in range(count):
            if survivor != victim:
                assert_survivor_says(processes[survivor], victim, since)


def test_a_process_that_ends_without_leave_is_gone():
    code = "join_all(remedy='start all again')\nif index == 1: raise SystemExit(0)\ntime.sleep(60)"
    with started(code) as processes:
        await_line(processes[0], "joined")
        assert ends([processes[1]])[0][0] == 1
        assert_survivor_says(processes[0], 1, time.monotonic())


def test_a_busy_process_is_not_gone():
    code = f"""
import ctypes
import jax, jax.numpy as jnp
join_all()
spin = jax.jit(lambda n: jax.lax.fori_loop(0, n, lambda i, x: jnp.sin(x + i), 0.0))
def deep(x):
    for i in range(40):
        x = jnp.sin(x) @ jnp.cos(x.T + i)
    return x
for busy in range(2):
    if index == busy:
        ctypes.PyDLL(None).sleep({HEARTBEAT + 1})  # holds the GIL
        jax.jit(deep).lower(jnp.ones((4, 4))).compile()
    else:
        until = time.monotonic() + {HEARTBEAT + 1}
        while time.monotonic() < until:
            spin(10**6).block_until_ready()
    barrier(str(busy))
leave()
"""
    with started(code) as processes:
        assert_all_end_well(ends(processes))


def test_share_of_cores():
    assert share_of_cores([0, 1, 2, 3], [[0, 1, 2, 3]]) == 4
    assert share_of_cores([0, 1, 2, 3], [[0, 1, 2, 3], [0, 1, 2, 3]]) == 2
    assert share_of_cores([0, 1], [[0, 1], [2, 3]]) == 2  # pinned by SLURM
    assert share_of_cores([0, 1, 2], [[0, 1, 2], [2, 3]]) == 2
    assert share_of_cores([0], [[0]] * 3) == 1
    assert share_of_cores(range(6), [range(6)] * 3) == 2


def test_jax_detects_slurm():
    code = """
import os
os.environ.update(SLURM_PROCID=str(index), SLURM_LOCALID=str(index), SLURM_JOB_ID=str(port))
os.environ["JAX_COORDINATOR_PORT"] = str(port)
join(timeout_seconds=30)
import jax
assert (jax.process_index(), jax.process_count()) == (index, 2)
leave()
"""
    with started(code, SLURM_NTASKS="2", SLURM_STEP_NODELIST="localhost") as processes:
        assert_all_end_well(ends(processes))


def test_a_process_without_the_first_gives_up():
    with started("join_all(timeout_seconds=2)", indices=[1]) as processes:
        ((status, _, err),) = ends(processes)
    assert status == 1
    assert "PPOError: process 0 does not answer at" in err


def test_one_process_needs_no_other():
    code = """
join_all()
assert gather_rows(np.arange(3)).tolist() == [0, 1, 2]
barrier("x")
leave()
"""
    with started(code, count=1) as processes:
        assert_all_end_well(ends(processes))


def test_join_comes_before_jax():
    with started("import jax\njax.devices()\njoin_all()", count=1) as processes:
        ((status, _, err),) = ends(processes)
    assert status == 1
    assert "join before JAX starts" in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"coordinator": "h:1"}, "num_processes and process_id missing; give all of"),
        ({"num_processes": 2, "process_id": 0}, "coordinator missing; give all of"),
        ({"coordinator": "h", "num_processes": 2, "process_id": 0}, "coordinator = 'h' is not an address"),
        ({"coordinator": "h:99999", "num_processes": 2, "process_id": 0}, "coordinator = 'h:99999'"),
        ({"coordinator": "h:1", "num_processes": 0, "process_id": 0}, "num_processes = 0 is below 1"),
        ({"coordinator": "h:1", "num_processes": 2, "process_id": 2}, "process_id = 2 is not among 2; give 0 to 1"),
    ],
)
def test_wrong_arguments_are_refused(arguments, message):
    with pytest.raises(PPOError, match=re.escape(message)):
        join(**arguments)


def test_alone_a_process_has_nobody_to_wait_for():
    barrier("alone")
    assert gather_rows({"a": np.array([1, 2])})["a"].tolist() == [1, 2]
    leave()
