"""An agent whose training is arithmetic, for tests of sweeps and searches: it compiles in no time."""

import jax
import jax.numpy as jnp

import purejaxppo as pjp
from purejaxppo.ppo.rollout import empty_episodes

CONFIG = pjp.PPOConfig(num_envs=1, num_steps=4, total_timesteps=16, num_minibatches=1)  # 4 updates


class Arithmetic:
    """Its return is -(log10(learning_rate) + 2.5)^2, noise of its key and update, and half the return before."""

    actions, start_memory = None, ()

    def __init__(self, env, config):
        self.env, self.config = env, config

    def init(self, key):
        zero = jnp.zeros(1)
        state = pjp.TrainState({}, (), None, None, update=jnp.int32(0), diverged_at=jnp.int32(-1))
        return pjp.RunnerState(state, env_state=zero, obs=jnp.zeros((1, 4)), episode=empty_episodes(1), key=key)

    def update(self, runner):
        state = runner.train_state
        noise = jax.random.normal(jax.random.fold_in(runner.key, state.update))
        rate = jnp.asarray(self.config.learning_rate)
        score = 0.3 * noise - jnp.square(jnp.log10(rate) + 2.5) + runner.env_state[0] / 2
        metrics = pjp.Metrics(
            episode_return_mean=score,
            episode_return_min=score,
            episode_return_max=score,
            episode_length_mean=jnp.float32(4),
            episodes=jnp.int32(1),
            updates=state.update + 1,
            batch_size=self.config.batch_size,
        )
        return runner.replace(train_state=state.replace(update=state.update + 1), env_state=score[None]), metrics

    def policy(self, state, memory, obs):
        return pjp.Categorical(jnp.zeros(2)), memory


def make_agent(env, config):
    return Arithmetic(env, config)
