"""The keras.io example "Proximal Policy Optimization" (2021), written anew on Keras 3 and Gymnasium, and timed.

    python benchmarks/peers/keras_example.py --epochs 30 --seed 0 --json OUT

Needs keras, gymnasium and, as KERAS_BACKEND says, tensorflow (the default, as in the example) or torch.

What costs time is as in the example: one environment, stepped in Python; for each step one call of a compiled function
for the action, and outside it the critic and the log-probability of that one step; then up to 80 policy iterations and
80 value iterations on the whole buffer, one compiled call each. With torch nothing is compiled.

The example states lambda 0.97 and never hands it to its buffer, whose default of 0.95 is what runs: the default here.
"""
# pyright: reportMissingImports=false

import argparse
import json
import os
import platform
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

os.environ.setdefault("KERAS_BACKEND", "tensorflow")

import gymnasium
import keras
import numpy as np
from keras import ops

STEPS_PER_EPOCH = 4000
ITERATIONS = 80  # of the policy, at most; and of the value
TIME_LIMIT = 200  # steps, CartPole-v0
GAMMA, CLIP_RATIO, TARGET_KL = 0.99, 0.2, 0.01
POLICY_LR, VALUE_LR = 3e-4, 1e-3
Descend = Callable[..., Callable[..., Any]]


@dataclass
class Epoch:
    """What is reported of one epoch."""

    epoch: int
    mean_return: float
    mean_length: float
    episodes: int  # the one that the end of the epoch cuts included
    policy_iterations: int  # applied
    kl: float  # after the last of them
    sample_seconds: float
    learn_seconds: float


class Buffer:
    """The steps of one epoch, in float32."""

    def __init__(self, size: int, gae_lambda: float):
        self.obs = np.zeros((size, 4), np.float32)
        self.action = np.zeros(size, np.int32)
        self.reward, self.value, self.log_prob, self.advantage, self.returns = np.zeros((5, size), np.float32)
        self.gae_lambda = gae_lambda
        self.start = self.end = 0  # of the trajectory in progress

    def store(self, obs: np.ndarray, action: int, reward: float, value: float, log_prob: float) -> None:
        """Append one step."""
        self.obs[self.end], self.action[self.end] = obs, action
        self.reward[self.end], self.value[self.end], self.log_prob[self.end] = reward, value, log_prob
        self.end += 1

    def finish(self, last_value: float) -> None:
        """Advantages and rewards-to-go of the trajectory in progress, which closes with `last_value`."""
        steps = slice(self.start, self.end)
        reward, value = np.append(self.reward[steps], last_value), np.append(self.value[steps], last_value)
        delta = reward[:-1] + GAMMA * value[1:] - value[:-1]
        self.advantage[steps] = discounted_sums(delta, GAMMA * self.gae_lambda)
        self.returns[steps] = discounted_sums(reward, GAMMA)[:-1]
        self.start = self.end

    def normalized_advantage(self) -> np.ndarray:
        """To mean 0 and standard deviation 1; no epsilon, as in the example."""
        return (self.advantage - self.advantage.mean()) / self.advantage.std()


class Agent:
    """Actor, critic, their optimizers and what the example compiles."""

    def __init__(self) -> None:
        self.actor, self.critic = tower(2), tower(1, squeeze=True)
        self.policy_adam, self.value_adam = keras.optimizers.Adam(POLICY_LR), keras.optimizers.Adam(VALUE_LR)
        self.policy_adam.build(self.actor.trainable_variables)
        self.value_adam.build(self.critic.trainable_variables)
        self.seeds = keras.random.SeedGenerator(np.random.randint(2**31 - 1))  # noqa: NPY002
        descend, compiled = backend()
        self.sample = compiled(self._sample)
        self.policy_iteration = compiled(descend(self.actor, self.policy_adam, policy_loss, self._kl))
        self.value_iteration = compiled(descend(self.critic, self.value_adam, value_loss))

    def _sample(self, obs: np.ndarray) -> tuple[Any, Any]:
        """[1, 4] -> logits [1, 2], action [1]"""
        logits = self.actor(obs)
        return logits, ops.squeeze(keras.random.categorical(logits, 1, seed=self.seeds), axis=1)

    def _kl(self, obs: Any, action: Any, old_log_prob: Any, advantage: Any) -> Any:
        """mean(old log-prob - new log-prob)"""
        return ops.mean(old_log_prob - log_prob(self.actor(obs), action))


def discounted_sums(x: np.ndarray, discount: float) -> np.ndarray:
    """y_t = x_t + discount y_{t+1}. [n] -> [n], float64"""
    y = x.astype(np.float64)
    for t in reversed(range(len(y) - 1)):
        y[t] += discount * y[t + 1]
    return y


def tower(num_outputs: int, *, squeeze: bool = False) -> Any:
    """4 -> 64 -> 64 -> num_outputs with tanh, and Keras's initial weights."""
    inputs = keras.Input((4,), dtype="float32")
    x = inputs
    for _ in range(2):
        x = keras.layers.Dense(64, activation="tanh")(x)
    x = keras.layers.Dense(num_outputs)(x)
    return keras.Model(inputs, ops.squeeze(x, axis=1) if squeeze else x)


def log_prob(logits: Any, action: Any) -> Any:
    """Of the actions. [N, 2], [N] -> [N]"""
    return ops.sum(ops.one_hot(action, 2) * ops.log_softmax(logits), axis=1)


def policy_loss(actor: Any, obs: Any, action: Any, old_log_prob: Any, advantage: Any) -> Any:
    """-mean min(ratio A, (1 + clip) A if A > 0 else (1 - clip) A)"""
    ratio = ops.exp(log_prob(actor(obs), action) - old_log_prob)
    bound = ops.where(advantage > 0, (1 + CLIP_RATIO) * advantage, (1 - CLIP_RATIO) * advantage)
    return -ops.mean(ops.minimum(ratio * advantage, bound))


def value_loss(critic: Any, obs: Any, returns: Any) -> Any:
    """mean (return - V)^2"""
    return ops.mean((returns - critic(obs)) ** 2)


def backend() -> tuple[Descend, Callable[[Any], Any]]:
    """How one gradient step is made, and how a function is compiled, with the backend of Keras."""
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        return tensorflow_descend, tf.function
    if keras.backend.backend() == "torch":
        return torch_descend, torch_no_compilation
    raise SystemExit(f"KERAS_BACKEND is {keras.backend.backend()}: this needs tensorflow or torch")


def tensorflow_descend(model: Any, adam: Any, loss_of: Callable, after: Callable | None = None) -> Callable:
    """A step of `adam` on `loss_of(model, *data)`. -> `after(*data)` with the new parameters, or the loss"""
    import tensorflow as tf

    def descend(*data: Any) -> Any:
        with tf.GradientTape() as tape:
            loss = loss_of(model, *data)
        adam.apply(tape.gradient(loss, model.trainable_variables), model.trainable_variables)
        return after(*data) if after else loss

    return descend


def torch_descend(model: Any, adam: Any, loss_of: Callable, after: Callable | None = None) -> Callable:
    """As `tensorflow_descend`."""
    import torch

    def descend(*data: Any) -> Any:
        with torch.enable_grad():
            loss = loss_of(model, *data)
            gradients = torch.autograd.grad(loss, [v.value for v in model.trainable_variables])
        adam.apply(list(gradients), model.trainable_variables)
        return after(*data) if after else loss

    return descend


def torch_no_compilation(function: Callable) -> Callable:
    """Without the recording of gradients, but where the function asks for it."""
    import torch

    return torch.no_grad()(function)


def scalar(tensor: Any) -> float:
    """The number in a tensor of one element."""
    return float(ops.convert_to_numpy(tensor).item())


def sample_epoch(agent: Agent, env: gymnasium.Env, obs: np.ndarray, buffer: Buffer) -> tuple[np.ndarray, int, float]:
    """Fill the buffer. -> the first observation of the next epoch, the episodes and the sum of their returns"""
    episodes, return_sum = 0, 0.0
    for t in range(STEPS_PER_EPOCH):
        logits, action = agent.sample(obs[None])
        chosen = int(scalar(action))
        next_obs, reward, terminated, truncated, _ = env.step(chosen)
        value, chosen_log_prob = scalar(agent.critic(obs[None])), scalar(log_prob(logits, action))
        buffer.store(obs, chosen, float(reward), value, chosen_log_prob)
        return_sum += float(reward)
        obs, done = next_obs, terminated or truncated
        if done or t == STEPS_PER_EPOCH - 1:
            buffer.finish(0.0 if done else scalar(agent.critic(obs[None])))
            episodes += 1
            obs, _ = env.reset()
    return obs, episodes, return_sum


def learn(agent: Agent, buffer: Buffer) -> tuple[int, float]:
    """The iterations of the policy, then of the value. -> those of the policy, and the KL after the last"""
    data = [ops.convert_to_tensor(x) for x in (buffer.obs, buffer.action, buffer.log_prob)]
    advantage, returns = (ops.convert_to_tensor(x) for x in (buffer.normalized_advantage(), buffer.returns))
    iterations, kl = 0, 0.0
    while iterations < ITERATIONS and kl <= 1.5 * TARGET_KL:
        kl = scalar(agent.policy_iteration(*data, advantage))
        iterations += 1
    for _ in range(ITERATIONS):
        agent.value_iteration(data[0], returns)
    return iterations, kl


def run(epochs: int, seed: int, gae_lambda: float) -> list[Epoch]:
    """The whole example, with a line for each epoch."""
    keras.utils.set_random_seed(seed)
    agent = Agent()
    env = gymnasium.make("CartPole-v1", max_episode_steps=TIME_LIMIT)
    obs, _ = env.reset(seed=seed)
    history = []
    for number in range(1, epochs + 1):
        start = time.perf_counter()
        buffer = Buffer(STEPS_PER_EPOCH, gae_lambda)
        obs, episodes, return_sum = sample_epoch(agent, env, obs, buffer)
        sampled = time.perf_counter()
        iterations, kl = learn(agent, buffer)
        seconds = sampled - start, time.perf_counter() - sampled
        mean_return, mean_length = return_sum / episodes, STEPS_PER_EPOCH / episodes
        history.append(Epoch(number, mean_return, mean_length, episodes, iterations, kl, *seconds))
        print(f"Epoch: {number}. Mean Return: {mean_return}. Mean Length: {mean_length}", flush=True)
    return history


def summary(history: list[Epoch], seed: int, gae_lambda: float) -> dict[str, Any]:
    """What the JSON holds. `steady` leaves out the first epoch, which compiles."""

    def steps_per_second(part: list[Epoch]) -> float | None:
        seconds = sum(epoch.sample_seconds + epoch.learn_seconds for epoch in part)
        return len(part) * STEPS_PER_EPOCH / seconds if part else None

    name = keras.backend.backend()
    return {
        "peer": "keras.io ppo_cartpole",
        "backend": name,
        "versions": {"python": platform.python_version()}
        | {package: version(package) for package in ("keras", name, "numpy", "gymnasium")},
        "cpus": os.cpu_count(),
        "seed": seed,
        "gae_lambda": gae_lambda,
        "steps_per_epoch": STEPS_PER_EPOCH,
        "env_steps_per_second": steps_per_second(history),
        "env_steps_per_second_steady": steps_per_second(history[1:]),
        "mean_returns": [epoch.mean_return for epoch in history],
        "epochs": [asdict(epoch) for epoch in history],
    }


def main() -> None:
    """Read the command line, run, write the JSON."""
    parser = argparse.ArgumentParser(description="Run and time the PPO example of keras.io.")
    parser.add_argument("--epochs", type=int, default=30, help="of 4,000 steps (default: 30)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--gae-lambda", type=float, default=0.95, help="0.95 is what the example runs, 0.97 what it says"
    )
    parser.add_argument("--json", type=Path, help="where to write times and returns")
    options = parser.parse_args()
    if options.epochs < 1:
        parser.error(f"--epochs {options.epochs}: must be at least 1")
    result = summary(run(options.epochs, options.seed, options.gae_lambda), options.seed, options.gae_lambda)
    if options.json:
        options.json.write_text(json.dumps(result, indent=2) + "\n")
    print(f"{result['env_steps_per_second']:.0f} env-steps per second ({result['backend']})")


if __name__ == "__main__":
    main()
