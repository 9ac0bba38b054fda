"""On a CPU XLA wakes another thread if more than nine kernels are ready: one runs, and more than eight wait.

No loop with matrix products reaches that.
"""

import os
import re
import subprocess
import sys

import pytest

MOST_WAITING = 8  # `kSplitThreshold` of XLA's ThunkExecutor
UPDATE = """
import jax, purejaxppo as pjp
from purejaxppo.utils.devices import compiler_options
agent = pjp.make_ppo(pjp.make_env("{env}"), pjp.PPOConfig())
runners = jax.eval_shape(jax.vmap(agent.init), pjp.seed_keys(0, {seeds}))
jax.jit(jax.vmap(agent.update), compiler_options=compiler_options("cpu")).lower(runners).compile()
"""


def graphs(log):
    """Parses the log of the executor. -> (kinds of kernels, for each kernel those that it waits for), part by part"""
    for part in log.split("ThunkExecutor: #thunks=")[1:]:
        kernels = re.findall(r"thunk #\d+: op_name=(.*), kind=([a-z-]+), dependencies=\[(.*)\], source", part)
        number = {name: i for i, (name, _, _) in enumerate(kernels)}
        waits_for = [{number[x] for x in names.split(", ") if x} for _, _, names in kernels]
        yield {kind for _, kind, _ in kernels}, waits_for


def most_waiting(waits_for):
    """The longest queue that the first thread of the executor leaves behind: it takes the oldest of the ready ones."""
    left, queue, most = [set(x) for x in waits_for], [i for i, x in enumerate(waits_for) if not x], 0
    while queue:
        done = queue.pop(0)
        most = max(most, len(queue))
        ready = [i for i, x in enumerate(left) if x == {done}]
        for x in left:
            x.discard(done)
        queue += ready
    return most


@pytest.mark.slow
@pytest.mark.parametrize(("env", "seeds"), [("CartPole-v1", 1), ("CartPole-v1", 8), ("Pendulum-v1", 8)])
def test_no_loop_with_products_wakes_a_thread(env, seeds):
    logging = {"TF_CPP_MIN_LOG_LEVEL": "0", "TF_CPP_VMODULE": "thunk_executor=6", "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-c", UPDATE.format(env=env, seeds=seeds)]
    log = subprocess.run(command, env=os.environ | logging, check=True, capture_output=True, text=True).stderr
    loops = [most_waiting(waits_for) for kinds, waits_for in graphs(log) if kinds & {"dot", "ynn-fusion"}]
    assert len(loops) >= 3, "the rollout, the critic at the ends of episodes, and the minibatches"
    assert max(loops) <= MOST_WAITING


def test_the_queue_is_counted_as_the_executor_runs_it():
    assert most_waiting([set(), {0}, {1}]) == 0  # a chain
    assert most_waiting([set(), {0}, {0}, {0}, {1, 2, 3}]) == 2  # after 0, while 1 runs, 2 and 3 wait
    assert most_waiting([set()] * 10) == 9
