"""What cannot work is refused in one line that names it and says what to do: in Python and on the command line."""

import gc
import json
import os
import re
import shutil
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import purejaxppo as pjp
from purejaxppo.cli import finished as finished_commands
from purejaxppo.cli import main as cli
from purejaxppo.population import train as population_train
from purejaxppo.population.processes import check_address
from purejaxppo.population.store import key_data
from purejaxppo.runs.folder import RESULTS
from purejaxppo.runs.results import EVALUATION_EPISODES, summarise
from purejaxppo.runs.spec import RunSpec, spec_to_json
from purejaxppo.utils.files import write_json

BACKEND_COMPILE = "/jax/core/compile/backend_compile_duration"
SECONDS = 1.0  # of this thread, without the collector: a busy machine and a long session change nothing
compilations = []
jax.monitoring.register_event_duration_secs_listener(
    lambda event, seconds, **_: compilations.append(seconds) if event == BACKEND_COMPILE else None
)

CONFIG = pjp.PPOConfig(num_envs=4, num_steps=16, total_timesteps=128)
RECURRENT = pjp.RecurrentConfig(num_envs=4, num_steps=16, total_timesteps=128)
FULL_BATCH = pjp.FullBatchConfig(num_steps=64, total_timesteps=128)
GAMMAS = {"gamma": pjp.uniform(0.9, 0.99)}


class Own:
    """An environment that is one."""

    default_params = None
    observation_space = pjp.Box((2,), (-1.0, -1.0), (1.0, 1.0))
    action_space = pjp.Discrete(2)

    def reset(self, key, params):
        return jnp.zeros(2), jnp.int32(0)

    def step(self, key, state, action, params):
        return jnp.zeros(2), state + 1, 1.0, state > 3, False


def own(**parts):
    """One with other parts, made an Environment."""
    return pjp.make_env(type("Own", (Own,), parts)())


def stepping(*values):
    """One whose step returns these in the place of (obs, state, reward, terminated, truncated)."""
    return own(step=lambda self, key, state, action, params: values)


def resetting(returned):
    return own(reset=lambda self, key, params: returned)


def forward(dtype=jnp.float32, logits=2):
    return lambda params, obs: (jnp.zeros((*obs.shape[:-1], logits), dtype), jnp.zeros(obs.shape[:-1], dtype))


def network(apply, params=0.0):
    given = pjp.Network(lambda key, obs: jax.tree.map(jnp.asarray, params), apply)
    return pjp.make_ppo(CARTPOLE, CONFIG, network=given)


def optimizer(init, update):
    return pjp.make_ppo(CARTPOLE, CONFIG, optimizer=optax.GradientTransformation(init, update))


def loss(function):
    return pjp.make_ppo(CARTPOLE, CONFIG, loss=function)


def schedules(given):
    return pjp.make_ppo(CARTPOLE, CONFIG, schedules=given)


def population(**changes):
    return pjp.train_population(**{"env": CARTPOLE, "config": CONFIG, "num_seeds": 1} | changes)


def pbt(**changes):
    return pjp.make_pbt(CARTPOLE, CONFIG, **{"space": GAMMAS, "num_members": 4, "interval": 1} | changes)


def halving(**changes):
    return pjp.make_successive_halving(CARTPOLE, CONFIG, GAMMAS, **{"num_members": 9} | changes)


def record(state=None, key=None, **changes):
    return pjp.record_episodes(AGENT, state or RUNNER.train_state, jax.random.key(0) if key is None else key, **changes)


def evaluate(state=None, key=None, **options):
    key = jax.random.key(0) if key is None else key
    return pjp.evaluate(AGENT, RUNNER.train_state if state is None else state, key, **{"num_episodes": 2} | options)


def act(obs, **options):
    return AGENT.act(RUNNER.train_state, obs, **options)


def gae(**changes):
    steps = {"reward": STEPS, "value": STEPS, "next_value": STEPS, "terminated": FLAGS, "truncated": FLAGS}
    return pjp.gae(**steps | {"gamma": 0.9, "gae_lambda": 0.9} | changes)


def stacked(state):
    return jax.tree.map(lambda x: jnp.stack([x, x]), state)


CARTPOLE, PENDULUM, ASTERIX = map(pjp.make_env, ("CartPole-v1", "Pendulum-v1", "Asterix-MinAtar"))
AGENT = pjp.make_ppo(CARTPOLE, CONFIG)
RUNNER = jax.jit(AGENT.init)(jax.random.key(0))
OTHER = jax.jit(pjp.make_ppo(CARTPOLE, CONFIG.replace(hidden_sizes=(8,), num_envs=8)).init)(jax.random.key(0))
MEMORY = pjp.make_ppo(CARTPOLE, RECURRENT)
REMEMBERING = jax.jit(MEMORY.init)(jax.random.key(0))
SEARCH = pbt()  # tracing it takes longer than a refusal may
RAW_KEY, KEYS = jax.random.PRNGKey(0), jax.random.split(jax.random.key(0), 2)
RUNNERS = stacked(RUNNER)
OBS, FLAGS, STEPS = np.zeros(4, np.float32), np.zeros((3, 2), bool), np.zeros((3, 2), np.float32)

ENVIRONMENTS = {
    "env-nearest": (lambda: pjp.make_env("Cartpole-v1"), r"environment 'Cartpole-v1'; did you mean CartPole-v1"),
    "env-far": (lambda: pjp.make_env("zzz"), r"environment 'zzz'; take one of Acrobot-v1, .*Pendulum-v1"),
    "env-empty": (lambda: pjp.make_env(""), r"environment ''; take one of"),
    "env-none": (lambda: pjp.make_env(None), r"NoneType is not an environment: it lacks reset.*give a name"),
    "env-number": (lambda: pjp.make_env(3), r"int is not an environment.*give a name"),
    "env-list": (lambda: pjp.make_env(["CartPole-v1"]), r"list is not an environment.*give a name"),
    "env-class": (lambda: pjp.make_env(Own), r"Own is a class; give an instance, Own\(\)"),
    "env-download": (lambda: pjp.make_env("MNISTBandit-bsuite"), r"downloads data.*pass the instance"),
    "param-nearest": (lambda: pjp.make_env("CartPole-v1", lenght=1.0), r"CartPole-v1 'lenght'; did you mean length"),
    "param-text": (lambda: pjp.make_env("CartPole-v1", length="a"), r"length = 'a' is not a number"),
    "param-none": (lambda: pjp.make_env("CartPole-v1", length=None), r"length = None is not a number"),
    "param-nan": (lambda: pjp.make_env("CartPole-v1", length=np.nan), r"length is NaN; give a number"),
    "param-complex": (lambda: pjp.make_env("CartPole-v1", length=1j), r"length = 1j is not a number"),
    "param-ragged": (lambda: pjp.make_env("CartPole-v1", length=[[1], [2, 3]]), r"length = \[\[1\].*is not a number"),
    "param-several": (lambda: pjp.make_env("CartPole-v1", length=[1.0, 2.0]), r"length = \[1.0, 2.0\] is not a number"),
    "param-huge": (lambda: pjp.make_env("CartPole-v1", length=2**40), r"length = \d+ overflows int32; give a float"),
    "limit-zero": (
        lambda: pjp.make_env("CartPole-v1", max_steps_in_episode=0),
        r"max_steps_in_episode = 0 .*from 1 to",
    ),
    "limit-inf": (
        lambda: pjp.make_env("CartPole-v1", max_steps_in_episode=np.inf),
        r"max_steps_in_episode = inf .*from",
    ),
    "limit-part": (lambda: pjp.make_env("CartPole-v1", max_steps_in_episode=2.5), r"max_steps_in_episode = 2.5 .*from"),
    "limit-huge": (
        lambda: pjp.make_env("CartPole-v1", max_steps_in_episode=2**40),
        r"max_steps_in_episode = \d+ .*to 21",
    ),
    "switch-text": (lambda: pjp.make_env(ASTERIX, ramping="no"), r"ramping = 'no' is not a number"),
    "space-number": (lambda: own(action_space=3), r"Own.action_space = 3 is not a space; give pjp.Discrete"),
    "space-class": (lambda: own(action_space=pjp.Box), r"Own.action_space = <class.*is not a space; give"),
    "discrete-zero": (lambda: own(action_space=pjp.Discrete(0)), r"Discrete\(n=0\) needs a whole number of at least 1"),
    "discrete-float": (lambda: own(action_space=pjp.Discrete(2.5)), r"action_space = Discrete\(n=2.5\) needs a whole"),
    "discrete-numpy": (lambda: own(action_space=pjp.Discrete(np.int64(2))), r"Discrete\(n=.*2.*needs .*a Python int"),
    "discrete-huge": (lambda: own(action_space=pjp.Discrete(10**30)), r"Discrete\(n=10+\) needs a whole number"),
    "multi-empty": (lambda: own(action_space=pjp.MultiDiscrete(())), r"MultiDiscrete\(sizes=\(\)\) needs a tuple"),
    "multi-list": (lambda: own(action_space=pjp.MultiDiscrete([2])), r"MultiDiscrete\(sizes=\[2\]\) needs a tuple"),
    "box-shape": (
        lambda: own(observation_space=pjp.Box(2, (0.0,), (1.0,))),
        r"a Box of shape 2 needs a",
    ),
    "box-negative": (lambda: own(action_space=pjp.Box((-2,), (), ())), r"a Box of shape \(-2,\) needs a"),
    "box-text": (lambda: own(action_space=pjp.Box((3,), "0", 1.0)), r"Box .* has the bound '0'; give"),
    "box-texts": (lambda: own(action_space=pjp.Box((1,), ("a",), ("b",))), r"Box .* bound \('a',\); give"),
    "box-arrays": (
        lambda: own(action_space=pjp.Box((2, 3), np.zeros((3, 2)), 1.0)),
        r"a Box of shape \(2, 3\) has the bound array.* each of its 6$",
    ),
    "box-short": (
        lambda: own(action_space=pjp.Box((2,), (0.0,), (1.0,))),
        r"bound \(0.0,\); give one number, or one for each of its 2",
    ),
    "box-swapped": (lambda: own(action_space=pjp.Box((1,), (1.0,), (0.0,))), r"bounds 1.0 and 0.0 is empty; give low"),
    "box-nan": (lambda: own(action_space=pjp.Box((1,), (np.nan,), (0.0,))), r"bounds nan and 0.0 is empty; give low"),
    "box-infinite": (lambda: own(action_space=pjp.Box((1,), (np.inf,), (np.inf,))), r"bounds inf and inf is empty"),
    "reset-number": (lambda: own(reset=3), r"reset cannot be traced: TypeError: 'int' object is not callable"),
    "mask-number": (lambda: own(action_mask=3), r"reset cannot be traced: TypeError: 'int' object is not callable"),
    "params-text": (lambda: own(default_params="a"), r"Own.default_params = 'a' is not a number; give a pytree"),
    "params-object": (lambda: own(default_params={"x": object()}), r"default_params\['x'\] = <object.*is not a number"),
    "reset-alone": (lambda: resetting(np.zeros(2)), r"reset returns a .*; return \(obs, state\)"),
    "reset-three": (lambda: resetting((1, 2, 3)), r"reset returns 3 values; return \(obs, state\)"),
    "reset-shape": (
        lambda: resetting((np.zeros(3), np.int32(0))),
        r"an observation of shape \(3,\), and observation_space says \(2,\)",
    ),
    "reset-state": (lambda: resetting((np.zeros(2), "a")), r"Own: reset cannot be traced: .*'a'"),
    "step-four": (
        lambda: stepping(np.zeros(2), 0, 1.0, False),
        r"step returns 4 values; return \(obs, state, reward, term.*trunc",
    ),
    "step-none": (lambda: stepping(), r"step returns 0 values; return \(obs"),
    "step-reward": (
        lambda: stepping(np.zeros(2), np.int32(0), np.zeros(2), False, False),
        r"returns reward as float32\[2\]; return one",
    ),
    "step-float-flag": (
        lambda: stepping(np.zeros(2), np.int32(0), 1.0, 0.5, False),
        r"returns terminated as float32\[\]; return one bool",
    ),
    "step-info": (
        lambda: stepping(np.zeros(2), np.int32(0), 1.0, False, {}), r"returns truncated as a dict; return one bool"
    ),
    "step-flags": (
        lambda: stepping(np.zeros(2), np.int32(0), 1.0, np.zeros(2, bool), False),
        r"terminated as bool\[2\]; return one",
    ),
    "step-dtype": (
        lambda: stepping(np.zeros(2), np.float32(0), 1.0, False, False),
        r"state is int32\[\] from reset and float32\[\]",
    ),
    "step-shape": (
        lambda: stepping(np.zeros(3), np.int32(0), 1.0, False, False), r"step returns an observation of shape \(3,\)"
    ),
    "mask-shape": (
        lambda: own(action_mask=lambda self, state, params: jnp.ones(3, bool)),
        r"bool\[3\]; return bool\[2\]",
    ),
}  # fmt: skip
CONFIGS = {
    "field-unknown": (
        lambda: pjp.PPOConfig(learning_rat=1e-3),
        r"PPOConfig field 'learning_rat'; did you mean learning_rate",
    ),
    "field-of-another": (
        lambda: pjp.FullBatchConfig(num_minibatches=4),
        r"unknown FullBatchConfig field 'num_minibatches'",
    ),
    "field-replaced": (lambda: RECURRENT.replace(cel="gru"), r"unknown RecurrentConfig field 'cel'; did you mean cell"),
    "size-zero": (lambda: pjp.PPOConfig(num_envs=0), r"num_envs = 0 is below 1; give an int"),
    "size-bool": (lambda: pjp.PPOConfig(num_steps=True), r"num_steps = True is not a whole number; give an int"),
    "size-float": (lambda: pjp.RecurrentConfig(cell_size=2.5), r"cell_size = 2.5 is not a whole number; give an int"),
    "size-endless": (
        lambda: pjp.PPOConfig(num_envs=10**5000),
        r"total_timesteps = 500000 is below .*= an int of \d+ bits",
    ),
    "division": (
        lambda: pjp.PPOConfig(num_steps=125, num_minibatches=3),
        r"= 500 does not divide into num_minib.* 2, 4 or 5",
    ),
    "sequence": (
        lambda: pjp.RecurrentConfig(sequence_length=7),
        r"num_steps = 128 does not divide .*sequence_length = 7; try",
    ),
    "sequences": (
        lambda: pjp.RecurrentConfig(num_envs=6),
        r"num_envs = 6 does not divide into num_minibatches = 4; try",
    ),
    "total-short": (
        lambda: pjp.FullBatchConfig(total_timesteps=10),
        r"total_timesteps = 10 is below one rollout.*4000; give",
    ),
    "total-long": (
        lambda: pjp.PPOConfig(total_timesteps=2**53),
        r"total_timesteps = 9007199254740992 is too many; give at most",
    ),
    "number-nan": (lambda: pjp.PPOConfig(gamma=np.nan), r"gamma = nan is out of range; give a number at least 0"),
    "number-inf": (lambda: pjp.PPOConfig(learning_rate=np.inf), r"learning_rate = inf is not finite; give a number"),
    "number-text": (lambda: pjp.FullBatchConfig(clip_eps="a"), r"clip_eps = 'a' is not a number; give one above 0"),
    "number-bool": (lambda: pjp.PPOConfig(ent_coef=True), r"ent_coef = True is not a number; give one at least 0"),
    "number-none": (lambda: pjp.FullBatchConfig(target_kl=None), r"target_kl = None is not a number; give one above 0"),
    "number-too-large": (
        lambda: pjp.PPOConfig(learning_rate=1e39),
        r"learning_rate = 1e\+39 is infinite in float32; give a number at least 0 that",
    ),
    "number-too-small": (
        lambda: pjp.PPOConfig(adam_eps=1e-60),
        r"adam_eps = 1e-60 is 0 in float32; give a number above 0 that it can hold",
    ),
    "number-too-small-of-several": (
        lambda: pjp.FullBatchConfig(clip_eps=np.array([0.2, 1e-50])),
        r"clip_eps = array.* is 0 in float32; give a number above 0",
    ),
    "number-none-of-several": (
        lambda: pjp.PPOConfig(learning_rate=np.array([])),
        r"learning_rate = array\(\[\], .*is empty; give a number at least 0",
    ),
    "number-negative": (
        lambda: pjp.PPOConfig(learning_rate=-1),
        r"learning_rate = -1 is out of range; give a number at l",
    ),
    "choice": (lambda: pjp.PPOConfig(activation="rellu"), r"activation = 'rellu' is unknown; take one of tanh, relu"),
    "choice-list": (lambda: pjp.RecurrentConfig(cell=["gru"]), r"cell = \['gru'\] is unknown; take one of gru, lstm"),
    "switch": (lambda: pjp.PPOConfig(anneal_lr=1), r"anneal_lr = 1 is neither True nor False; give one"),
    "sizes-list": (lambda: pjp.PPOConfig(hidden_sizes=[64]), r"hidden_sizes = \[64\] is not a tuple; give one such as"),
    "sizes-zero": (lambda: pjp.PPOConfig(hidden_sizes=(64, 0)), r"hidden_sizes = 0 is below 1; give an int"),
    "idle": (lambda: pjp.PPOConfig(desired_kl=0.3), r"desired_kl = 0.3 would do nothing beside lr_schedule"),
    "idle-recurrent": (
        lambda: pjp.RecurrentConfig(desired_kl=0.3),
        r"desired_kl = 0.3 would do nothing beside lr_schedule",
    ),
    "several-numbers": (
        lambda: pjp.make_ppo(CARTPOLE, CONFIG.replace(gamma=np.array([0.5, 0.9]))),
        r"gamma has shape \(2,\); give one number",
    ),
    "several-of-full-batch": (
        lambda: pjp.make_full_batch_ppo(CARTPOLE, FULL_BATCH.replace(gamma=np.ones(1))),
        r"gamma has shape \(1,\); give one",
    ),
}  # fmt: skip
PARTS = {
    "make-env-name": (
        lambda: pjp.make_ppo("CartPole-v1", CONFIG),
        r"env = 'CartPole-v1' is not an Env.*make_env\('CartPole-v1'\)",
    ),
    "make-train-env": (lambda: pjp.make_train(None, CONFIG), r"env = None is not an Environment; give make_env"),
    "make-recurrent-env": (
        lambda: pjp.make_ppo(Own(), RECURRENT),
        r"env = .*Own.* is not an Environment; give make_env",
    ),
    "make-full-batch-env": (
        lambda: pjp.make_full_batch_ppo("a", FULL_BATCH),
        r"env = 'a' is not an Environment; give make_env",
    ),
    "make-config": (
        lambda: pjp.make_ppo(CARTPOLE, FULL_BATCH),
        r"config must be a PPOConfig, got FullBatchConfig",
    ),
    "make-config-dict": (lambda: pjp.make_ppo(CARTPOLE, {}), r"config must be a PPOConfig, got \{\}"),
    "make-full-batch-config": (
        lambda: pjp.make_full_batch_ppo(CARTPOLE, CONFIG),
        r"config must be a FullBatchConfig, got PPOConfig",
    ),
    "full-batch-image": (
        lambda: pjp.make_full_batch_ppo(ASTERIX, FULL_BATCH),
        r"MinAtar has the observation space Box\(shape=\(10, 10, 4\), low=0\.0, high=1\.0\); .*take make_ppo",
    ),
    "full-batch-box": (
        lambda: pjp.make_full_batch_ppo(PENDULUM, FULL_BATCH),
        r"Pendulum-v1 has the action space Box",
    ),
    "network-number": (lambda: pjp.make_ppo(CARTPOLE, CONFIG, network=3), r"network = 3 lacks init and apply; give"),
    "network-raises": (
        lambda: network(lambda params, obs: 1 / 0),
        r"network.apply cannot be traced: ZeroDivisionError",
    ),
    "network-alone": (lambda: network(lambda params, obs: obs), r"network.apply has to return \(logits, value\)"),
    "network-width": (
        lambda: network(forward(logits=3)),
        r"returns \(logits, value\) as \('float\[3\]', 'float\[\]'\); they have to be \('float\[2\]',",
    ),
    "network-value": (
        lambda: network(lambda params, obs: (forward()(params, obs)[0], 0.0)),
        r"'float\[\]'\); they have to be \('float\[2, 2\]', 'float\[2\]'\)",
    ),
    "network-deep": (
        lambda: network(lambda params, obs: ({"a": obs}, obs[..., 0])),
        r"{'a': 'float\[4\]'}.*have to be \('float\[2\]',",
    ),
    "network-ints": (
        lambda: network(forward(jnp.int32)),
        r"apply returns .*'int32\[2\]'.*; they have to be",
    ),
    "network-params": (
        lambda: network(forward(), {"w": np.zeros(2, np.int32)}),
        r"params\['w'\] as int32\[2\], which has no gradient; give floats",
    ),
    "recurrent-network": (
        lambda: pjp.make_ppo(CARTPOLE, RECURRENT, network=pjp.Network(lambda *_: (), forward())),
        r"network is a Network, which has no memory; give pjp.RecurrentNetwork",
    ),
    "optimizer-number": (
        lambda: pjp.make_ppo(CARTPOLE, CONFIG, optimizer=1e-3),
        r"optimizer = 0.001 is not an optax .*adam",
    ),
    "optimizer-init": (lambda: optimizer(lambda params: 1 / 0, None), r"optimizer.init cannot be traced: ZeroDivision"),
    "optimizer-update": (
        lambda: optimizer(lambda params: (), lambda updates, state, params: (jax.tree.map(jnp.sum, updates), state)),
        r"optimizer.update returns updates.* as float32\[\], and was given .*give an optax",
    ),
    "optimizer-state": (
        lambda: optimizer(lambda params: (), lambda updates, state, params: (updates, (1.0,))),
        r"optimizer.update returns the state\[0\] as float32\[\], and was given missing; give an optax",
    ),
    "optimizer-and-rate": (
        lambda: pjp.make_ppo(CARTPOLE, CONFIG.replace(learning_rate=1e-2), optimizer=optax.sgd(1.0)),
        r"learning_rate = 0.01 would do nothing beside optimizer=...; set it in the optimizer",
    ),
    "advantage-text": (
        lambda: pjp.make_ppo(CARTPOLE, CONFIG, advantage="gae"),
        r"advantage = 'gae' is not callable; give .*such as pjp.gae_advantage",
    ),
    "advantage-one-number": (
        lambda: pjp.make_ppo(CARTPOLE, CONFIG, advantage=lambda *_: jnp.float32(0)),
        r"advantage returns float32\[\]; it has to be floats \[\d+, \d+\], one for each step",
    ),
    "advantage-full-batch": (
        lambda: pjp.train_population(
            CARTPOLE, pjp.FullBatchConfig(), num_seeds=1, advantage=lambda steps, context: steps.reward
        ),
        r"advantage=... does not go with FullBatchConfig, whose agent has its own; leave it out",
    ),
    "loss-text": (lambda: loss("ppo"), r"loss = 'ppo' is not callable; give .*such as pjp.ppo_loss"),
    "loss-recurrent": (
        lambda: pjp.make_ppo(CARTPOLE, RECURRENT, loss=3), r"loss = 3 is not callable; give \(params, "
    ),
    "loss-alone": (lambda: loss(lambda *_: jnp.float32(0)), r"loss has to return \(loss, {name: number}\)"),
    "schedules-list": (lambda: schedules([1.0]), r"schedules = \[1.0\] is not a dict; give one such as"),
    "schedules-name": (lambda: schedules({"clip": abs}), r"number in schedules 'clip'; did you mean clip_eps"),
    "schedules-number-name": (lambda: schedules({3: abs}), r"number in schedules 3; take one of learning_rate"),
    "schedules-number": (
        lambda: schedules({"clip_eps": 0.5}),
        r"schedules\['clip_eps'\] = 0.5 is not callable; give .*optax schedule",
    ),
    "schedules-shape": (
        lambda: schedules({"clip_eps": lambda i: jnp.zeros(2)}),
        r"returns shape \(2,\); return one factor",
    ),
}  # fmt: skip
CALLS = {
    "key-raw": (lambda: AGENT.init(RAW_KEY), r"key is uint32\[2\] and not a typed key; make one with jax.random.key"),
    "key-number": (lambda: AGENT.init(0), r"key is 0 and not a typed key; make one"),
    "key-numpy": (lambda: MEMORY.init(np.zeros(2, np.uint32)), r"key is uint32\[2\] and not a typed key; make one"),
    "keys": (lambda: AGENT.init(KEYS), r"key has shape \(2,\); give one key, and vmap"),
    "train-key": (lambda: pjp.make_train(CARTPOLE, CONFIG)(0), r"key is 0 and not a typed key; make one"),
    "evaluate-key": (lambda: evaluate(key=RAW_KEY), r"key is uint32\[2\] and not a typed key; make one"),
    "act-key": (lambda: act(OBS, key=RAW_KEY), r"key is uint32\[2\] and not a typed key; make one"),
    "seed-negative": (lambda: pjp.seed_keys(-1, 2), r"seed = -1 is out of range; give an int from 0 to 4294967295"),
    "seed-float": (lambda: pjp.seed_keys(1.5, 2), r"seed = 1.5 is not a whole number; give an int from 0"),
    "seed-huge": (lambda: pjp.seed_keys(2**32, 2), r"seed = 4294967296 is out of range; give an int from 0"),
    "seeds-none": (lambda: pjp.seed_keys(0, 0), r"num_seeds = 0 is below 1; give an int"),
    "seeds-huge": (lambda: pjp.seed_keys(0, 10**12), r"num_seeds = 1000000000000 is too many; give an int of at most"),
    "gae-shape": (lambda: gae(value=np.zeros((3, 1))), r"value \(3, 1\).*: give arrays of one shape, time first"),
    "gae-scalars": (
        lambda: gae(**dict.fromkeys(("reward", "value"), 0.0)),
        r"reward float.*: give arrays of one shape",
    ),
    "gae-empty": (
        lambda: pjp.reward_to_go(STEPS[:0], STEPS[:0], FLAGS[:0], FLAGS[:0], gamma=0.9),
        r"\(0, 2\).*with at least one step",
    ),
    "gae-flags": (lambda: gae(terminated=STEPS), r"terminated is float32\[3, 2\]; give bools"),
    "gae-ints": (lambda: gae(reward=np.zeros((3, 2), np.int32)), r"reward is int32\[3, 2\]; give floats"),
    "gae-nan": (lambda: gae(gamma=np.nan), r"gamma = nan is out of range; give a number at least 0 and at most 1"),
    "gae-text": (lambda: gae(gamma="a"), r"gamma = 'a' is not a number; give one at least 0 and at most 1"),
    "gae-lambda": (lambda: gae(gae_lambda=2.0), r"gae_lambda = 2.0 is out of range; give a number at least 0"),
    "returns-gamma": (
        lambda: pjp.reward_to_go(STEPS, STEPS, FLAGS, FLAGS, gamma=2.0),
        r"gamma = 2.0 is out of range; give a number",
    ),
    "evaluate-none": (lambda: evaluate(num_episodes=0), r"num_episodes = 0 is below 1; give an int"),
    "evaluate-float": (lambda: evaluate(num_episodes=1.5), r"num_episodes = 1.5 is not a whole number; give an int"),
    "evaluate-huge": (lambda: evaluate(num_episodes=10**10), r"num_episodes = 10000000000 is too many; give an int of"),
    "evaluate-long": (lambda: evaluate(max_steps=2**40), r"max_steps = 1099511627776 is too many; give an int of"),
    "evaluate-sampled": (lambda: evaluate(sampled="no"), r"sampled = 'no' is neither True nor False; give one"),
    "evaluate-steps": (lambda: evaluate(max_steps=0), r"max_steps = 0 is below 1; give an int"),
    "evaluate-runner": (lambda: evaluate(RUNNER), r"TrainState.*RunnerState; give runner.train_state"),
    "evaluate-other": (
        lambda: evaluate(OTHER.train_state),
        r"train_state.params.* is float32\[8\], and this agent's is float32\[64\]; give the train state of one",
    ),
    "evaluate-several": (lambda: evaluate(RUNNERS.train_state), r"has to be one of its own \(vmap over several\)"),
    "record-key": (lambda: record(key=RAW_KEY), r"key is uint32"),
    "record-none": (lambda: record(num_episodes=0), r"num_episodes = 0"),
    "record-runner": (lambda: record(RUNNER), r"RunnerState.*give runner.train_state"),
    "record-other": (lambda: record(OTHER.train_state), r"train_state.params.*, and this agent's is .*; give"),
    "update-other-network": (
        lambda: jax.eval_shape(pjp.make_ppo(CARTPOLE, CONFIG.replace(hidden_sizes=(8,))).update, RUNNER),
        r"train_state.params.*, and this agent's is .*; give the train state",
    ),
    "record-mixed": (
        lambda: record(RUNNER.train_state.replace(update=np.zeros(2, np.int32))),
        r"train_state.update has shape \[2\]",
    ),
    "act-shape": (lambda: act(OBS[:3]), r"obs has shape \(3,\), and the observations of CartPole-v1 have \(4,\)"),
    "act-list": (lambda: act([0.0] * 4), r"obs must be an array of numbers, got a list"),
    "act-texts": (lambda: act(np.array(["a"] * 4)), r"obs must be an array of numbers, got a ndarray"),
    "act-runner": (lambda: AGENT.act(RUNNER, OBS), r"TrainState.*RunnerState; give runner.train_state"),
    "act-memory": (
        lambda: MEMORY.act(REMEMBERING.train_state, OBS, memory=3), r"memory is int\[\], and missing goes"
    ),
    "update-none": (lambda: AGENT.update(None), r"RunnerState.*NoneType; give what agent.init\(key\) returns"),
    "update-other": (lambda: AGENT.update(OTHER), r"environments are \[8\], and config.num_envs is 4; give what init"),
    "update-several": (lambda: AGENT.update(RUNNERS), r"environments are \[2, 4\], and .*vmap over more"),
    "update-many": (
        lambda: pjp.update_many(AGENT, RUNNER, 1.5),
        r"num_updates = 1.5 is not a whole number; give an int",
    ),
    "update-endless": (
        lambda: pjp.update_many(AGENT, RUNNER, 2**40),
        r"num_updates = 1099511627776 is too many; give an int of at most",
    ),
    "scores-text": (
        lambda: pjp.aggregate(["a"]),
        r"scores = \['a'\] is not an array of numbers; give one number for each",
    ),
    "scores-ragged": (lambda: pjp.aggregate([[1.0], [2.0, 3.0]]), r"scores = \[\[1.0\].*is not an array of numbers"),
    "scores-nan": (lambda: pjp.aggregate([1.0, np.nan]), r"1 of 2 scores are NaN or infinite.*; drop them"),
    "scores-resamples": (
        lambda: pjp.aggregate([1.0, 2.0], num_resamples=0),
        r"num_resamples = 0 is below 1; give an int",
    ),
    "cores": (lambda: pjp.use_all_cores(0), r"cores = 0 is below 1; give an int"),
    "address": (lambda: check_address(3, 2, 0), r"coordinator = 3 is not an address; give host:port"),
    "processes": (lambda: check_address("a:1", 1.5, 0), r"num_processes = 1.5 is not a whole number; give"),
    "process": (lambda: check_address("a:1", 2, "a"), r"process_id = a is not among 2; give 0 to 1"),
}  # fmt: skip
POPULATIONS = {
    "seeds-zero": (lambda: population(num_seeds=0), r"num_seeds = 0 is not a whole number of at least 1"),
    "seeds-float": (lambda: population(num_seeds=1.5), r"num_seeds = 1.5 is not a whole number of at least 1"),
    "seeds-bool": (lambda: population(num_seeds=True), r"num_seeds = True is not a whole number of at least 1"),
    "seeds-memory": (
        lambda: population(num_seeds=2**31 - 1),
        r"2147483647 members do not fit the memory.*out=\.\.\.",
    ),
    "seed": (lambda: population(seed=-1), r"seed = -1 is out of range; give an int from 0"),
    "seed-last": (
        lambda: population(seed=2**32 - 1),
        r"seed = 4294967295 is out of range; give an int from 0 to 4293967292",
    ),
    "seed-text": (lambda: population(seed="a"), r"seed = 'a' is not a whole number; give an int from 0"),
    "env": (lambda: population(env="CartPole-v1"), r"env = 'CartPole-v1' is not an Environment; give make_env"),
    "config": (lambda: population(config=None), r"config must be a PPOConfig.*got NoneType"),
    "sweep-name": (
        lambda: population(sweep={"learning_rat": [1]}),
        r"sweep 'learning_rat'; did you mean learning_rate",
    ),
    "sweep-number-name": (lambda: population(sweep={3: [1]}), r"unknown name in a sweep 3; take one of num_envs"),
    "sweep-env": (lambda: population(sweep={"env.lenght": [1.0]}), r"'env.lenght'; did you mean env.length"),
    "sweep-empty": (lambda: population(sweep={}), r"sweep has no names; give at least one"),
    "sweep-no-points": (lambda: population(sweep=[]), r"sweep has no points; give at least one"),
    "sweep-no-values": (lambda: population(sweep={"gamma": []}), r"sweep of gamma is empty; give at least one value"),
    "sweep-number": (lambda: population(sweep=3), r"sweep = 3 is neither a dict of lists nor a list of dicts; give"),
    "sweep-text": (
        lambda: population(sweep="gamma"),
        r"sweep = 'gamma' is neither a dict of lists nor a list of dicts",
    ),
    "sweep-value": (lambda: population(sweep={"gamma": 0.5}), r"gamma: 0.5 is not a list of values; draw_points"),
    "sweep-scalar": (lambda: population(sweep={"gamma": np.array(0.5)}), r"gamma: array\(0.5\) is not a list"),
    "sweep-range": (
        lambda: population(sweep=GAMMAS),
        r"gamma: Uniform.* is not a list of values; draw_points",
    ),
    "sweep-mixed": (lambda: population(sweep={"gamma": [0.5, "a"]}), r"gamma = 'a' is not a number; give one"),
    "sweep-bad": (lambda: population(sweep={"gamma": [0.5, 1.5]}), r"gamma = 1.5 is out of range; give a number"),
    "sweep-rows": (
        lambda: population(sweep={"gamma": np.full((2, 2), 0.5)}),
        r"gamma = \(0.5, 0.5\) is not a number",
    ),
    "sweep-twice": (
        lambda: population(sweep=[{"length": 1.0, "env.length": 2.0}]),
        r"length, env.length are not all of .*; leave one out",
    ),
    "sweep-point": (lambda: population(sweep=[3]), r"sweep holds 3, which is not a dict of names and values"),
    "placement": (lambda: population(placement="seed"), "placement = .seed. is unknown; take one of auto, seeds, data"),
    "memory-text": (
        lambda: population(memory_limit="4 bananas"),
        r"'4 bananas' is not a size; give bytes, or text such as",
    ),
    "memory-zero": (lambda: population(memory_limit=0), r"memory limit 0 is not a size; give bytes"),
    "memory-huge": (lambda: population(memory_limit="9" * 400 + "GB"), r"memory limit '9+GB' is not a size"),
    "memory-tiny": (lambda: population(memory_limit=1), r"memory limit 1 B is below .* 1 members at a time take"),
    "checkpoint-best": (
        lambda: population(keep_best="no", checkpoint_every=1, out="a"),
        r"keep_best = 'no' is neither True nor False; give one",
    ),
    "checkpoint-zero": (lambda: population(checkpoint_every=0, out="a"), r"checkpoint_every = 0 is not a whole number"),
    "checkpoint-nowhere": (lambda: population(checkpoint_every=1), r"checkpoint_every = 1 needs a folder.*give out"),
    "episodes": (lambda: population(evaluation_episodes=-1), r"evaluation_episodes = -1 is not a whole number of at l"),
    "episodes-text": (
        lambda: population(evaluation_episodes="a"),
        r"evaluation_episodes = 'a' is not a whole number of",
    ),
    "out-proc": (
        lambda: population(out="/proc/nowhere"),
        "/proc/nowhere could not be written: .*choose another folder",
    ),
    "out-number": (lambda: population(out=3), r"out = 3 is not a path; give that of a folder"),
    "out-null": (lambda: population(out="a\0b"), r"out = 'a\\x00b' is not a path; give"),
    "out-empty": (lambda: population(out=""), r"out = '' is not a path; give that of a folder"),
    "out-long": (
        lambda: population(out="/tmp/" + "x" * 300),
        "x could not be written: File name too long; .*choose another folder",
    ),
    "on-chunk": (lambda: population(on_chunk=3), r"on_chunk = 3 is not callable; give one, or leave it out"),
    "should-stop": (lambda: population(should_stop=True), r"should_stop = True is not callable; give one"),
    "on-begin": (lambda: population(on_begin="x"), r"on_begin = 'x' is not callable; give one"),
    "open-nothing": (
        lambda: pjp.open_population(CARTPOLE, CONFIG, num_seeds=1, out="/nowhere"),
        r"'/nowhere' holds no population; train it",
    ),
    "uniform": (lambda: pjp.uniform(1, 0), r"uniform\(1, 0\): give numbers with low < high"),
    "uniform-bool": (lambda: pjp.uniform(True, 2), r"uniform\(True, 2\): give numbers with low < high"),
    "log-uniform": (lambda: pjp.log_uniform(0, 1), r"log_uniform\(0, 1\): give numbers with 0 < low < high"),
    "draw-none": (lambda: pjp.draw_points(0, GAMMAS), r"num_points = 0 is not a whole number of at least 1"),
    "draw-list": (lambda: pjp.draw_points(3, [1]), r"space = \[1\] has no names; give a dict"),
    "draw-value": (lambda: pjp.draw_points(3, {"gamma": 0.5}), r"gamma = 0.5 is not a domain; give uniform"),
    "draw-seed": (lambda: pjp.draw_points(3, GAMMAS, -1), r"seed = -1 is out of range; give an int from 0"),
    "draw-name": (lambda: pjp.draw_points(3, {3: [1]}), r"the name 3, which is not a string; give one such as"),
    "pbt-members": (lambda: pbt(num_members=0), r"num_members = 0 is not a whole number of at least 1"),
    "pbt-interval": (
        lambda: pbt(interval=3),
        r"num_updates = 2 does not divide .*interval = 3; give total_timesteps = 192",
    ),
    "pbt-quantile": (lambda: pbt(quantile=0.9), r"quantile = 0.9 is not a number above 0 and at most 0.5"),
    "pbt-resample": (lambda: pbt(resample="a"), r"resample = 'a' is not a probability; give a number from 0 to 1"),
    "pbt-space": (lambda: pbt(space={"gama": GAMMAS["gamma"]}), r"'gama'; did you mean gamma"),
    "pbt-static": (
        lambda: pbt(space={"num_envs": pjp.uniform(1, 2)}),
        r"num_envs is a part of the program.*take it out",
    ),
    "pbt-domain": (lambda: pbt(space={"gamma": [0.9]}), r"gamma = \[0.9\] is not a domain; give uniform"),
    "pbt-range": (lambda: pbt(space={"gamma": pjp.uniform(0.5, 1.5)}), r"gamma = 1.5 is out of range; give"),
    "pbt-key": (lambda: SEARCH(RAW_KEY), r"key is uint32\[2\] and not a typed key; make one"),
    "halving-eta": (lambda: halving(eta=1), r"eta = 1 is not a whole number of at least 2"),
    "halving-rungs": (lambda: halving(num_rungs=10**6), r"num_rungs = 1000000 .*give fewer rungs"),
    "halving-members": (lambda: halving(num_members=5, eta=2, num_rungs=2), r"num_members = 5 .*; give 4, or"),
    "halving-updates": (lambda: halving(num_rungs=3), r"num_rungs = 3 .*num_updates >= 9, and it is 2; give fewer"),
    "load-none": (lambda: pjp.load_run(None), r"path = None is not a path; give that of a folder"),
    "load-nothing": (
        lambda: pjp.load_run("/nowhere"),
        r"/nowhere/config.json cannot be read: .*; is '/nowhere' a finished",
    ),
    "load-checkpoint": (lambda: pjp.load_checkpoint(None), r"path = None is not a path; give that of a folder"),
    "load-sweep": (lambda: pjp.load_sweep(3), r"path = 3 is not a path; give that of a folder"),
}  # fmt: skip
PYTHON = {
    f"{table}: {name}": case
    for table, cases in {
        "env": ENVIRONMENTS,
        "config": CONFIGS,
        "part": PARTS,
        "call": CALLS,
        "pop": POPULATIONS,
    }.items()
    for name, case in cases.items()
}


@pytest.fixture(autouse=True, scope="module")
def compiled_once_in_a_process():
    """A key, and gymnax's constants: other modules let go of what was compiled when this one was imported."""
    jax.random.key(0)
    pjp.make_env("CartPole-v0")


def refusal(call):
    """The line of the PPOError that `call` raises, soon and before anything is compiled."""
    gc.disable()
    before, started = len(compilations), time.thread_time()
    try:
        with pytest.raises(pjp.PPOError) as caught:
            call()
        seconds = time.thread_time() - started
    finally:
        gc.enable()
    assert seconds < SECONDS
    assert len(compilations) == before
    line = str(caught.value)
    assert "\n" not in line
    return line


@pytest.mark.parametrize("name", PYTHON)
def test_python_refuses_what_cannot_work(name):
    call, pattern = PYTHON[name]
    line = refusal(call)
    assert re.search(pattern, line), line


def test_a_compilation_would_be_seen():
    before = len(compilations)
    jax.jit(lambda x: x * 2.0 + 17.0)(jnp.zeros(11)).block_until_ready()
    assert len(compilations) > before


def test_an_error_is_one_line_whatever_it_shows():
    values = np.arange(6.0).reshape(3, 2)
    assert "\n" in repr(values)
    assert str(pjp.PPOError(f"gamma = {values!r}")) == "gamma = array([[0., 1.], [2., 3.], [4., 5.]])"


def test_parameters_that_are_switches_are_set():
    assert pjp.make_env("Asterix-MinAtar", ramping=False).params.ramping is False


def test_seeds_beyond_32_bits_would_be_those_of_others():
    # What seed_keys guards against: JAX takes the lower bits alone.
    np.testing.assert_array_equal(*(jax.random.key_data(jax.random.key(seed)) for seed in (0, 2**32)))
    assert pjp.seed_keys(2**32 - 1, 1).shape == (1,)


COMMANDS = [
    ("", "no command is given; take one of train, sweep"),
    ("trian", "unknown command 'trian'; did you mean train"),
    ("--seeds 3", "unknown option '--seeds'; did you mean --version"),
    ("seeds=3", "unknown command 'seeds=3'; did you mean sweep"),
    ("--vresion train", "unknown option '--vresion'; did you mean --version"),
    ("train extra", "'extra' is one word too many; leave it out"),
    ("train --sedes 3", "unknown option '--sedes'; did you mean --seeds"),
    ("train --seeds 0", "^purejaxppo train: error: argument --seeds: 0 is below 1"),
    ("sweep --sedes 3", "^purejaxppo sweep: error: unknown option '--sedes'"),
    ("envs brax extra", "'extra' is one word too many; leave it out, or see purejaxppo envs --help"),
    ("train --seed -1", "--seed: -1 is below 0; give a whole number"),
    ("train --seed 4294967295", "--seed: 4294967295 is above 4293967292; give a whole number"),
    ("train --seeds 1.5", "--seeds: '1.5' is not a whole number; give one from 1"),
    ("train --seeds 99999999999", "--seeds: 99999999999 is above 2147483647; give a whole number"),
    ("train --seeds", "--seeds: expected one argument"),
    ("train --config.gama 1", r"unknown option '--config\.gama'; did you mean --config\.gamma"),
    ("train --learning-rat 1", "unknown option '--learning-rat'; did you mean --learning-rate"),
    ("sweep --lr 1", r"unknown option '--lr'; did you mean --learning-rate\?"),
    ("train --gamma x", r"gamma: 'x' is not a number; give one such as"),
    ("train --preset keras --cell lstm", r"the preset has no --cell; take --preset fast, which has it"),
    ("train --config.gamma x", r"--config\.gamma: 'x' is not a number; give one such as"),
    ("train --config.gamma nan", r"gamma = nan is out of range; give a number"),
    ("train --config.learning-rate 1e999", "learning_rate = inf is not finite; give a number"),
    ("train --config.hidden-sizes 64,x", r"hidden-sizes: 'x' is not a whole number; give one"),
    ("train --config.hidden-sizes ,,", r"hidden-sizes: '' is not a whole number; give one"),
    ("train --config.hidden-sizes 64,,8", r"hidden-sizes: '' is not a whole number; give one"),
    ("train --config.anneal-lr yes", r"anneal-lr: 'yes' is neither true nor false; give one"),
    ("train --config.activation thanh", "activation = 'thanh' is unknown; take one of tanh"),
    ("train --config.num-minibatches 7", "num_envs .* does not divide into num_minibatches = 7; try"),
    ("train --config.cell-size 8", r"cell_size = 8 would do nothing beside cell = None"),
    ("train --preset keras --config.ent-coef 0", r"the preset has no --config\.ent-coef; take --preset fast"),
    ("train --preset recurrent --config.cell lstn", "cell = 'lstn' is unknown; take one of gru, lstm"),
    ("train --config.batch-size 64", r"unknown option '--config\.batch-size'; did you mean --config\."),
    ("train --preset fats", "unknown preset 'fats'; did you mean fast"),
    ("train --preset=", "unknown preset ''; take one of fast"),
    ("train --env Cartpole", "unknown environment 'Cartpole'; did you mean CartPole-v1"),
    ("train --env=", "unknown environment ''; take one of Acrobot-v1"),
    ("train --env-param length", "'length' is not NAME=NUMBER, such as length=0.5"),
    ("train --env-param =1", "'=1' is not NAME=NUMBER, such as"),
    ("train --env-param lenght=1", "CartPole-v1 'lenght'; did you mean length"),
    ("train --env-param length=x", "'x' is not a number; give one such as"),
    ("train --env-param length=nan", "length is NaN; give a number"),
    ("train --env-param length=1e400", "'1e400' is more than a float can hold; give a number below"),
    ("train --env-param max-steps-in-episode=inf", "max_steps_in_episode = inf is not a whole number from 1"),
    ("train --env-param length=1 --env-param length=2", "--env-param names length twice; give it once"),
    ("train --out full", "run folder 'full' holds files already; choose another"),
    ("train --keep 5", "--keep 5 would do nothing without --checkpoint-every; leave it out"),
    ("train --out file", "run folder 'file' cannot be written: .*; choose another"),
    ("train --out file/below", "run folder 'file/below' cannot be written: .*; choose another"),
    ("train --out /proc/nowhere", "run folder '/proc/nowhere' cannot be written: .*; choose another"),
    ("train --out=", "--out: '' is not a path; give that of a folder"),
    ("train --resume nothing", "nothing/config.json cannot be read: .*is 'nothing' a finished run"),
    ("train --resume full", "full/config.json cannot be read: .*is 'full' a finished run"),
    ("train --resume file", "file/config.json cannot be read: .*is 'file' a finished run"),
    ("train --resume run --seeds 3", "--resume goes on with the run as it is; leave out --seeds"),
    ("train --resume run --config.gamma 0.5", r"leave out --config\.gamma"),
    ("train --resume run --env-param length=1", "leave out --env-param"),
    ("train --checkpoint-every 0", "--checkpoint-every: 0 is below 1; give a whole number"),
    ("train --memory-limit bananas", "memory limit 'bananas' is not a size; give bytes"),
    ("train --placement sead", "--placement: 'sead' is unknown; take one of auto, seeds, data"),
    ("train --preset keras --placement data", 'placement = "data" .*FullBatchPPO leave it out'),
    ("train --cluster", "several processes need one run folder.*; give --out"),
    ("train --out c --coordinator nohost --num-processes 2 --process-id 0", "'nohost' is not an address"),
    ("train --out c --coordinator a:1 --num-processes 2", "process_id missing; give all of"),
    ("train --heartbeat 5", "--heartbeat 5 would do nothing in one process alone; leave it out"),
    ("train --wandb=", "--wandb: '' is not a name; give one"),
    ("train --keep-best", "keep_best = True chooses among checkpoints, and there are none; give checkpoint_every"),
    ("train --quite", "unknown option '--quite'; did you mean --quiet"),
    ("sweep", "a sweep needs --over NAME=VALUES, such as"),
    ("sweep --over gamma", "'gamma' is not NAME=VALUES, such as"),
    ("sweep --over =1", "'=1' is not NAME=VALUES, such as"),
    ("sweep --over gama=0.9", "unknown name in a sweep 'gama'; did you mean gamma"),
    ("sweep --over gamma=0.9,,0.99", "gamma = '' is not a number; give one"),
    ("sweep --over gamma=0.9 --over gamma=0.8", "--over names gamma twice; give it once"),
    ("sweep --over gamma=0.9 --over config.gamma=0.8", "--over names gamma twice; give it once"),
    ("sweep --over length=1 --over env.length=2", "length, env.length are not all of different.*; leave one out"),
    ("sweep --over gamma=log:1", "'log:1' is not a range; give log:LOW:HIGH"),
    ("sweep --over gamma=log:a:b", "'a' is not a number; give one such as"),
    ("sweep --over gamma=uniform:0.9:0.1", r"uniform\(0.9, 0.1\): give numbers with low < high"),
    ("sweep --over gamma=uniform:0.1:0.9", "--over gamma is a range.*say how many .* --random N"),
    ("sweep --over gamma=log:0:1", r"log_uniform\(0.0, 1.0\): give numbers with 0 < low < high"),
    ("sweep --over gamma=0.9,2", "gamma = 2 is out of range"),
    ("sweep --over activation=tanh,rleu", "activation = 'rleu' is unknown"),
    ("sweep --over gamma=0.9 --random 0", "--random: 0 is below 1; give a whole number"),
    ("sweep --over gamma=0.9 --random 99999999", "--random: 99999999 is above 1000000; give a whole number"),
    ("sweep --over gamma=0.9 --random-seed 3", "--random-seed 3 would do nothing without --random N; leave it out"),
    ("sweep --over num-envs=1e3", "num_envs = 1000.0 is not a whole number; give an int"),
    ("sweep --over hidden-sizes=64xx", "hidden_sizes = '64xx' is not a tuple; give one such as"),
    ("eval", "arguments are required: RUN"),
    ("eval nothing", "nothing/config.json cannot be read: .*is 'nothing' a finished run"),
    ("eval run --episodes 0", "--episodes: 0 is below 1; give a whole number"),
    ("eval run --seed 99999999999", "--seed: 99999999999 is above 4294967295; give a whole number"),
    ("eval run --backend gym", "'gym' is unknown; take one of gymnax, gymnasium"),
    ("eval run --json x.txt", "'x.txt' does not end in .json"),
    ("eval run --json no/x.json", "'no' is not a folder that you can write to; take another"),
    ("eval run --json folder.json", "'folder.json' is a folder; give the name of a file"),
    ("eval run --episode 3", "unknown option '--episode'; did you mean --episodes"),
    ("eval run extra", "'extra' is one word too many; leave it out"),
    ("render run --max-steps 0", "--max-steps: 0 is below 1; give a whole number"),
    ("render run --max-steps 2000000000", "--max-steps: 2000000000 is above 1000000; give a whole number"),
    ("render run --strat 1", "unknown option '--strat'; did you mean --start"),
    ("render run --seed 2", "seed 2 is not among the 2 of this population; take 0 to 1"),
    ("plot", "arguments are required: RUN"),
    ("export run --format pt", "'pt'.* onnx"),
    ("export run --format npz --sampled", "sampled .*format jax"),
    ("reproduce nowhere", "nowhere"),
    ("plot run --out a.jpg", "'a.jpg' does not end in .png or .pdf or .svg"),
    ("render run --out film.mpg", "'film.mpg' does not end in .gif or .mp4"),
    ("report nowhere", "config.json cannot be read: .*is 'nowhere' a finished run"),
    ("report run --out page.pdf", "'page.pdf' does not end in .html"),
    ("plot run file", "file/config.json cannot be read: .*is 'file' a finished run"),
    ("plot run run", "plot names run twice; give it once"),
    ("plot run --output a.png", "unknown option '--output'; did you mean --out"),
    ("doctor --fix", "unknown option '--fix'; take one of"),
    ("presets all", "'all' is one word too many; leave it out"),
    ("completion fish", "'fish' is unknown; take one of bash, zsh, tcsh"),
    ("completion", "the following arguments are required: SHELL"),
    ("envs extra", "unknown suite 'extra'; take one of brax, jumanji, craftax, "),
    ("bench --quik", "unknown option '--quik'; did you mean --quick"),
    ("bench --seeds 0", "--seeds: 0 is below 1; give a whole number"),
    ("bench --timesteps 1", "--timesteps 1 is below one rollout of 512; give at least that"),
    ("bench --repeats 0", "--repeats: 0 is below 1"),
    ("bench --out no/bench.json", "'no' is not a folder that you can write to; take another"),
    ("bench --total-timesteps 1000", "unknown option '--total-timesteps'; did you mean --timesteps"),
    ("bench --config.gamma 3", "gamma = 3.0 is out of range; give a number"),
]  # fmt: skip


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory):
    """A run of two seeds as it lies on the disk, untrained: all its numbers are 0."""
    folder = tmp_path_factory.mktemp("bad-input") / "run"
    spec = RunSpec(env="CartPole-v1", env_params={}, config=CONFIG, num_seeds=2, seed=0, preset="cleanrl")
    folder.mkdir()
    write_json(folder / "config.json", spec_to_json(spec))
    with pytest.MonkeyPatch.context() as patch:
        nothing = population_train.Costs(0.0, 0.0, 0, None)
        patch.setattr(population_train, "train_job", lambda job, spent: (spent, nothing))
        found = population(num_seeds=2, evaluation_episodes=EVALUATION_EPISODES, out=folder / RESULTS)
    of_one = jax.eval_shape(key_data, found.store.like)
    found.store.write(0, jax.tree.map(lambda x: np.zeros((2, *x.shape), x.dtype), of_one))
    write_json(folder / "summary.json", summarise(spec, found))
    read_all(folder)  # compiles what reading compiles
    return folder


@pytest.fixture
def places(run_folder, tmp_path):
    """The folder of a command: a run, a file, a folder with a file, and a folder that is called like a file."""
    shutil.copytree(run_folder, tmp_path / "run")
    (tmp_path / "file").write_text("")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "a").write_text("")
    (tmp_path / "folder.json").mkdir()


@pytest.mark.parametrize(("words", "pattern"), COMMANDS, ids=[words for words, _ in COMMANDS])
def test_the_command_line_refuses_what_cannot_work(words, pattern, refused, places):
    before = len(compilations)
    line = refused(words.split())
    assert re.search(pattern, line), line
    assert line.startswith("purejaxppo")
    assert len(compilations) == before


@pytest.mark.parametrize("words", [["train", "--out", "a\0b"], ["eval", "a\nb"], ["train", "--no\npe"], ["tr\nain"]])
def test_words_that_no_shell_would_pass_are_refused_in_one_line(words, refused):
    assert "error: " in refused(words)


def test_too_little_memory_is_one_line_with_a_remedy(refused, monkeypatch, places):
    monkeypatch.setattr(finished_commands, "evaluate_run", lambda *_, **__: jnp.zeros((2**31 - 1, 2**20)))
    line = refused(["eval", "run"])
    assert re.search("error: the memory is too small: RESOURCE_EXHAUSTED.*; take fewer seeds", line), line


def test_another_error_of_jax_is_not_hidden(monkeypatch, places, tmp_path):
    monkeypatch.setattr(finished_commands, "evaluate_run", lambda *_, **__: jax.devices("nonsense"))
    with pytest.raises(RuntimeError, match="nonsense"):
        cli.main(["eval", str(tmp_path / "run")])


def test_a_removed_working_folder_is_refused(monkeypatch, tmp_path, capsys):
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    assert cli.main(["doctor"]) == 2
    assert capsys.readouterr().err == "purejaxppo: error: the working folder has been removed; go to another\n"


def command(words, **options):
    return subprocess.run(
        [sys.executable, "-m", "purejaxppo.cli.main", *words], stderr=subprocess.PIPE, text=True, **options
    )


@pytest.mark.parametrize("platform", ["nonsense", "cuda"])
def test_a_platform_that_is_not_there_is_refused(platform, tmp_path):
    if platform == "cuda" and jax.default_backend() == "gpu":
        pytest.skip("there is one here")
    environment = {**os.environ, "JAX_PLATFORMS": platform}
    ended = command(["train", "--seeds", "1"], env=environment, cwd=tmp_path)
    assert ended.returncode == 2
    last = ended.stderr.splitlines()[-1]
    assert last.startswith("purejaxppo: error: JAX cannot start: ")
    assert last.endswith("; unset JAX_PLATFORMS, or set it to cpu")
    assert "Traceback" not in ended.stderr


@pytest.mark.parametrize("words", [["presets"], ["presets", "--help"]])
def test_a_reader_that_has_left_ends_a_command_quietly(words):
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w") as closed:
        ended = command(words, stdout=closed, env={**os.environ, "PYTHONUNBUFFERED": ""})
    assert (ended.returncode, ended.stderr) == (cli.PIPE_CLOSED, "")


def change_config(**changes):
    """Sets entries of config.json; those of "config" by "config.NAME", and leaves out what is to be None."""

    def change(folder):
        content = json.loads((folder / "config.json").read_text())
        for name, value in changes.items():
            place = content["config"] if name.startswith("config.") else content
            place[name.removeprefix("config.")] = value
        (folder / "config.json").write_text(json.dumps(content))

    return change


def leave_out(name):
    def change(folder):
        content = json.loads((folder / "config.json").read_text())
        del content[name]
        (folder / "config.json").write_text(json.dumps(content))

    return change


def cut(pattern, size):
    """The files of that name lose all but their first bytes."""

    def change(folder):
        for path in list(folder.rglob(pattern)):
            path.write_bytes(path.read_bytes()[:size])

    return change


def write(name, text):
    return lambda folder: (folder / name).write_text(text)


PROGRAM = f"{RESULTS}/program-0"
BROKEN = {
    "no-config": (lambda folder: (folder / "config.json").unlink(), r"config.json cannot be read: .*a finished run"),
    "config-cut": (cut("config.json", 200), r"config.json is not JSON: .*; write the file anew"),
    "config-empty": (write("config.json", ""), r"config.json is not JSON: .*; write the file anew"),
    "config-bytes": (
        lambda folder: (folder / "config.json").write_bytes(b"\xff\xfe"),
        r"config.json is not JSON: .*; write the file anew",
    ),
    "config-deep": (write("config.json", "[" * 100_000), r"config.json is not JSON: .*; write the file anew"),
    "config-list": (write("config.json", "[1]"), r"config.json holds a list instead of names and values; take another"),
    "config-null": (write("config.json", "null"), r"config.json holds a NoneType instead of names and values"),
    "no-env": (leave_out("env"), r"config.json lacks 'env'; it is not the config of a run"),
    "no-seeds": (leave_out("num_seeds"), r"config.json lacks 'num_seeds'; it is not the config of a run"),
    "env": (change_config(env="Cartpole-v1"), r"config.json: unknown environment 'Cartpole-v1'; did you mean CartPole"),
    "env-number": (change_config(env=3), r"config.json: env = 3 cannot be; it is not the config of a run"),
    "env-params": (change_config(env_params=[1]), r"config.json: env_params = \[1\] cannot be"),
    "env-param": (change_config(env_params={"lenght": 1}), r"config.json: .*'lenght'; did you mean length"),
    "algorithm": (change_config(algorithm="pppo"), r"config.json: algorithm = 'pppo' is unknown; take one of ppo"),
    "algorithm-list": (change_config(algorithm=[]), r"config.json: algorithm = \[\] cannot be"),
    "seeds-text": (change_config(num_seeds="3"), r"config.json: num_seeds = '3' cannot be; it is not the config"),
    "seeds": (change_config(num_seeds=5), r"its num_seeds is 2, and 5 is wanted; give what it holds, or"),
    "sweep-number": (change_config(sweep=3), r"config.json: sweep = 3 cannot be; it is not the config"),
    "sweep-entry": (change_config(sweep=[3]), r"config.json: sweep = \[3\] is not a list of names and values"),
    "placement": (change_config(placement="moon"), r"config.json: placement = 'moon' is unknown; take one of seeds"),
    "fields": (change_config(config=[1]), r"config.json: config = \[1\] cannot be; it is not the config of a run"),
    "field-unknown": (
        change_config(**{"config.gama": 1}),
        r"config.json: unknown PPOConfig field 'gama'; did you mean",
    ),
    "field-bad": (change_config(**{"config.gamma": 5}), r"config.json: gamma = 5 is out of range; give a number"),
    "field-type": (change_config(**{"config.gamma": {}}), r"config.json: gamma = \{\} is not a number; give one"),
    "field-list": (change_config(**{"config.hidden_sizes": [[8]]}), r"hidden_sizes = \[8\] is not a whole number"),
    "another-network": (
        change_config(**{"config.hidden_sizes": [8]}),
        r"config.hidden_sizes is \(64, 64\), and \(8,\) is wanted; give what it holds, or",
    ),
    "another-state": (
        change_config(**{"config.normalize_obs": True}), r"config.normalize_obs is False, and True is wanted; give"
    ),
    "no-population": (
        lambda folder: (folder / RESULTS / "population.json").unlink(), r"holds no population; train it with"
    ),
    "population-cut": (cut("population.json", 20), r"population.json is not JSON: .*; write the file anew"),
    "population-list": (write(f"{RESULTS}/population.json", "[]"), r"population.json holds a list instead of names"),
    "no-results": (lambda folder: shutil.rmtree(folder / RESULTS), r"holds no population; train it with"),
    "no-runners": (lambda folder: shutil.rmtree(folder / PROGRAM / "runners"), r"program-0 lacks member 1; start the"),
    "no-metrics": (lambda folder: shutil.rmtree(folder / PROGRAM / "metrics"), r"cannot be read: .*No such file"),
    "part-foreign": (
        write(f"{PROGRAM}/runners/junk", ""),
        r"holds 'junk', which is not a part of a population; remove it",
    ),
    "part-of-more": (
        lambda folder: (folder / PROGRAM / "runners" / "00000000-00000009").mkdir(), r"holds member 8, and there are 2"
    ),
    "manifest-cut": (cut("manifest.json", 50), r"checkpoint '.*' cannot be read: .*manifest.json is not JSON"),
    "manifest-list": (
        lambda folder: [path.write_text("[]") for path in folder.rglob("manifest.json")], r"manifest.json holds a list"
    ),
    "leaves-cut": (cut("leaves.npz", 500), r"checkpoint '.*' cannot be read: "),
    "summary-cut": (cut("summary.json", 1), r"summary.json is not JSON: .*; write the file anew"),
    "summary-list": (write("summary.json", "[]"), r"summary.json holds a list instead of names and values"),
    "no-summary": (lambda folder: (folder / "summary.json").unlink(), r"holds no finished run; .*train --resume"),
}  # fmt: skip


def read_all(folder):
    """All that a command would read of a run."""
    run = pjp.load_run(folder)
    return run.seed(1), run.metrics, run.population.final_returns()


def test_the_run_that_is_broken_below_is_whole(run_folder):
    runner, metrics, returns = read_all(run_folder)
    assert (runner.train_state.update.shape, metrics.timesteps.shape, returns.shape) == ((), (2, 2), (2,))


@pytest.mark.parametrize(
    ("call", "pattern"),
    [
        (lambda folder: pjp.load_run(folder).seed("x"), r"seed 'x' is not among the 2 .*; take 0 to 1"),
        (lambda folder: pjp.load_run(folder).seed(0.5), r"seed 0.5 is not among the 2 .*; take 0 to 1"),
        (lambda folder: pjp.load_run(folder).seed(True), r"seed True is not among the 2 .*; take 0 to 1"),
        (lambda folder: pjp.load_checkpoint(folder, setting="x"), r"setting = 'x' is not among the 1 .*; take 0 to 0"),
        (lambda folder: pjp.load_checkpoint(folder, setting=0.0), r"setting = 0.0 is not among the 1 .*; take 0 to 0"),
    ],
)
def test_what_a_run_has_not_is_refused(call, pattern, run_folder):
    line = refusal(lambda: call(run_folder))
    assert re.search(pattern, line), line


def test_a_seed_may_be_a_number_of_numpy(run_folder):
    assert pjp.load_run(run_folder).seed(np.argsort([1, 0])[0]).train_state.update.shape == ()


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_run_folder_is_refused(name, run_folder, tmp_path):
    breaks, pattern = BROKEN[name]
    folder = tmp_path / "run"
    shutil.copytree(run_folder, folder)
    breaks(folder)
    before = len(compilations)
    with pytest.raises(pjp.PPOError) as caught:
        read_all(folder)
    line = str(caught.value)
    assert re.search(pattern, line), line
    assert "\n" not in line
    assert len(compilations) == before


@pytest.mark.parametrize("name", ["config-cut", "algorithm-list", "field-bad", "env"])
@pytest.mark.parametrize("command", ["eval run", "render run", "plot run", "train --resume run"])
def test_every_command_refuses_a_broken_run_folder(command, name, refused, places, tmp_path):
    breaks, pattern = BROKEN[name]
    breaks(tmp_path / "run")
    line = refused(command.split())
    assert re.search(pattern, line), line


def test_there_are_more_cases_than_were_asked_for():
    assert len(PYTHON) >= 100
    assert len(COMMANDS) >= 60
    assert cli.RUN.keys() == {
        words.split()[0] for words, _ in COMMANDS if words.split()[:1] and words.split()[0] in cli.RUN
    }
