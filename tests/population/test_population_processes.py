"""Two real processes over loopback train one population, by the command line and by Python."""

import functools
import json
import os
import signal
import socket
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

import purejaxppo as pjp

pytestmark = pytest.mark.slow

SHORT = 50  # steps of an episode: evaluations would take longer than trainings
SIZES = ["--config.num-steps", "32", "--config.num-envs", "4", "--preset", "cleanrl", "--quiet"]
SIZES += ["--config.hidden-sizes", "8", "--env-param", f"max_steps_in_episode={SHORT}"]


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


def start(words, count=2):
    """The processes of a command, of one device each."""
    port = free_port()
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": "1"}
    return [
        subprocess.Popen(
            [
                *(sys.executable, "-m", "purejaxppo.cli.main", *words),
                *("--coordinator", f"127.0.0.1:{port}", "--num-processes", str(count), "--process-id", str(i)),
            ],
            env=environment,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        for i in range(count)
    ]


def finish(processes, timeout=240):
    """The status and stderr of each; they are dead afterwards."""
    try:
        return [(process.communicate(timeout=timeout)[1], process.returncode)[::-1] for process in processes]
    finally:
        for process in processes:
            process.kill()


def parts_of(folder):
    return sorted(path.name for path in folder.glob("checkpoints/program-0/runners/0*"))


@functools.cache
def alone(seeds, timesteps):
    """The same population in this process, not evaluated."""
    config = pjp.PPOConfig(num_envs=4, num_steps=32, total_timesteps=timesteps, hidden_sizes=(8,))
    env = pjp.make_env("CartPole-v1", max_steps_in_episode=SHORT)
    return pjp.train_population(env, config, num_seeds=seeds, evaluation_episodes=0)


def check_same(params, key, value_loss, episodes, expected):
    """Checks that several processes trained the same population as this one, up to rounding."""
    np.testing.assert_allclose(value_loss, expected.metrics.value_loss, rtol=1e-4)
    np.testing.assert_array_equal(episodes[:, 0], expected.metrics.episodes[:, 0])
    np.testing.assert_array_equal(key, jax.random.key_data(expected.runners.key))
    for one, other in zip(params, jax.tree.leaves(expected.train_state.params), strict=True):
        np.testing.assert_allclose(one, other, atol=2e-4)


def test_two_processes_that_share_each_run_give_what_one_gives(tmp_path):
    folder = tmp_path / "run"
    words = ["train", *SIZES, "--seeds", "5", "--config.total-timesteps", "256", "--placement", "data"]
    assert finish(start([*words, "--out", str(folder)])) == [(0, ""), (0, "")]
    run = pjp.load_run(folder)
    params, key = jax.tree.leaves(run.train_state.params), jax.random.key_data(run.runners.key)
    check_same(params, key, run.metrics.value_loss, run.metrics.episodes, alone(5, 256))
    assert parts_of(folder) == ["00000000-00000005"]
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["num_seeds"] == len(summary["final_return_per_seed"]) == 5
    assert summary["env_steps_per_second"] == pytest.approx(5 * 256 / summary["train_seconds"], rel=1e-3)


def test_two_processes_give_what_one_gives(tmp_path):
    """Five seeds are three of one process and two of the other."""
    code = """
import sys
import jax, numpy as np, purejaxppo as pjp
pjp.join(f"127.0.0.1:{sys.argv[1]}", 2, int(sys.argv[2]))
config = pjp.PPOConfig(num_envs=4, num_steps=32, total_timesteps=256, hidden_sizes=(8,))
env = pjp.make_env("CartPole-v1", max_steps_in_episode=50)
population = pjp.train_population(env, config, num_seeds=5, evaluation_episodes=2)
runners = population.runners
params = jax.tree.leaves(runners.train_state.params)
more = {"key": jax.random.key_data(runners.key), "episodes": population.metrics.episodes}
np.savez(sys.argv[3], *params, **more, value_loss=population.metrics.value_loss, returns=population.final_returns())
pjp.leave()
"""
    port, environment = str(free_port()), {**os.environ, "JAX_NUM_CPU_DEVICES": "1"}
    places = [tmp_path / f"{i}.npz" for i in range(2)]
    processes = [
        subprocess.Popen([sys.executable, "-c", code, port, str(i), str(place)], env=environment)
        for i, place in enumerate(places)
    ]
    assert [process.wait(timeout=120) for process in processes] == [0, 0]
    one, other = map(np.load, places)
    for name in one:
        np.testing.assert_array_equal(one[name], other[name])
    assert np.isfinite(one["returns"]).all()
    assert one["returns"].shape == (5,)
    expected = alone(5, 256)
    params = [one[f"arr_{i}"] for i in range(len(jax.tree.leaves(expected.train_state.params)))]
    check_same(params, one["key"], one["value_loss"], one["episodes"], expected)


def test_a_killed_process_ends_the_other_and_a_restart_finishes(tmp_path):
    """70 seeds are two chunks for each process; one is killed when some are there."""
    folder = tmp_path / "run"
    words = ["train", *SIZES, "--config.total-timesteps", "5120", "--seeds", "70"]
    processes = start([*words, "--out", str(folder)])
    deadline = time.monotonic() + 200
    while len(parts_of(folder)) < 2 and time.monotonic() < deadline:
        time.sleep(0.05)
    processes[1].send_signal(signal.SIGKILL)
    killed = time.monotonic()
    (status, said), _ = finish(processes)
    assert time.monotonic() - killed < 15
    assert status == 1
    assert said == (
        f"purejaxppo: error: process 1 of 2 is gone; what is finished is kept; "
        f"go on with --resume {folder} in all processes\n"
    )
    before = {name: os.stat(folder / "checkpoints/program-0/runners" / name).st_mtime_ns for name in parts_of(folder)}
    assert 2 <= len(before) < 4
    assert not (folder / "summary.json").exists()

    assert finish(start(["train", "--resume", str(folder), "--quiet"])) == [(0, ""), (0, "")]
    after = {name: os.stat(folder / "checkpoints/program-0/runners" / name).st_mtime_ns for name in parts_of(folder)}
    assert before.items() <= after.items()  # kept, and not written again
    assert (folder / "report.html").exists()
    losses, expected = pjp.load_run(folder).metrics.value_loss, alone(8, 5120)
    assert losses.shape == (70, 40)
    assert np.isfinite(losses).all()
    np.testing.assert_allclose(losses[:8, :2], expected.metrics.value_loss[:, :2], rtol=1e-4)


def test_a_signal_to_one_process_stops_both_and_their_states_are_kept(tmp_path):
    """They share each run, so that they have to stop after the same update."""
    folder = tmp_path / "run"
    words = ["train", *SIZES, "--config.total-timesteps", "1280000", "--seeds", "4", "--placement", "data"]
    processes = start([*words, "--checkpoint-every", "100", "--keep", "1", "--out", str(folder)])
    unfinished = folder / "checkpoints/program-0/unfinished"
    deadline = time.monotonic() + 200
    while not list(unfinished.glob("*/0*")) and time.monotonic() < deadline:
        time.sleep(0.05)
    processes[1].send_signal(signal.SIGTERM)
    results = finish(processes)
    assert [status for status, _ in results] == [128 + signal.SIGTERM] * 2, results
    for _, said in results:
        assert said.splitlines()[-1].endswith(f"its state is kept; go on with --resume {folder}")
    (kept,) = unfinished.glob("*/0*")
    assert {int(said.splitlines()[-1].split()[3]) for _, said in results} == {int(kept.name)}


def test_processes_without_a_common_folder_are_refused(capsys):
    from purejaxppo.cli import main as cli

    assert cli.main(["train", "--coordinator", "127.0.0.1:1", "--num-processes", "2", "--process-id", "0"]) == 2
    assert "several processes need one run folder" in capsys.readouterr().err
    assert cli.main(["train", "--out", "x", "--coordinator", "127.0.0.1:1", "--process-id", "0"]) == 2
    assert "num_processes missing; give all of" in capsys.readouterr().err
