"""An environment whose observations and actions are trees, for several modules of tests."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

import purejaxppo as pjp


class Arm(NamedTuple):
    reach: object
    grip: object


class Workshop:
    """Four steps, of 1 for the grip that is asked for and 1 for both switches, minus the squared way to the target.

    The third grip is never legal; that, or an action out of its space, costs 1000.
    """

    default_params = None
    observation_space = {"asked": pjp.Discrete(2), "target": pjp.Box((2,), (-1.0,) * 2, (1.0,) * 2)}
    action_space = {
        "arm": Arm(reach=pjp.Box((2,), (-1.0, -1.0), (1.0, 0.5)), grip=pjp.Discrete(3)),
        "switches": pjp.MultiDiscrete((2, 3)),
    }

    def reset(self, key, params):
        state = *self.draw(key), 0
        return self.observe(state), state

    def draw(self, key):
        ask_key, target_key = jax.random.split(key)
        return jax.random.randint(ask_key, (), 0, 2), jax.random.uniform(target_key, (2,), minval=-1.0, maxval=0.5)

    def observe(self, state):
        return {"asked": state[0], "target": state[1]}

    def action_mask(self, state, params):
        return {"arm": Arm(reach=None, grip=jnp.array([True, True, False])), "switches": None}

    def step(self, key, state, action, params):
        reach, grip, switches = *action["arm"], action["switches"]
        low, high = jnp.array([-1.0, -1.0]), jnp.array([1.0, 0.5])
        outside = jnp.any((reach < low) | (reach > high)) | (grip < 0) | (grip > 1)
        outside |= jnp.any((switches < 0) | (switches > jnp.array([1, 2])))
        reward = (grip == state[0]).astype(float) + jnp.all(switches == jnp.array([1, 2])).astype(float)
        reward -= jnp.sum(jnp.square(reach - state[1])) + 1000.0 * outside
        state = *self.draw(key), state[2] + 1
        return self.observe(state), state, reward, state[2] == 4, False
