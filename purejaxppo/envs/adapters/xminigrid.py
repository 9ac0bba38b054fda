"""XLand-MiniGrid without its wrappers. Its discount tells terminations from truncations."""

import importlib
import math
from typing import Any

import jax
from flax import struct

from purejaxppo.envs.base import Step
from purejaxppo.envs.spaces import Box, Discrete
from purejaxppo.envs.suites import Adapted, as_picture, as_planes, check_layers, once
from purejaxppo.utils.tree import PyTree, key_shape
from purejaxppo.utils.validation import standard_promotion

_xminigrid: Any = importlib.import_module("xminigrid")
_constants: Any = importlib.import_module("xminigrid.core.constants")
_wrappers: Any = importlib.import_module("xminigrid.wrappers")

_XLAND = "XLand-"  # environments that have no goal without a set of rules
_UP_TO_ONE = ("img", "direction")  # parts of a dict of observations in [0, 1]


class XMiniGridParams(struct.PyTreeNode):
    """Parameters. `make_env` sets `max_steps` by keyword; a ruleset goes to `adapt`."""

    max_steps: int  # until an episode is truncated
    ruleset: Any = None  # the goal, rules and objects of an XLand environment, arrays that can be vmapped over


class XMiniGridEnvironment(Adapted):
    """One environment of XLand-MiniGrid, as an object that `make_env` takes.

    Each cell in view is shown as planes of zeros and ones, for its tile and its colour.
    """

    def __init__(self, env: Any, params: Any, benchmark: Any) -> None:
        self.name = f"xminigrid/{type(env).__name__}"
        self.default_params = XMiniGridParams(params.max_steps, getattr(params, "ruleset", None))
        self.action_space = Discrete(env.num_actions(params))
        self._env, self._params, self._benchmark = env, params, benchmark
        start = jax.eval_shape(self.reset, key_shape(), self.default_params)[0]
        self.observation_space = (
            {name: Box(x.shape, 0.0, 1.0 if name in _UP_TO_ONE else math.inf) for name, x in start.items()}
            if isinstance(start, dict)
            else Box(start.shape, 0.0, 1.0)
        )

    @standard_promotion
    def reset(self, key: jax.Array, params: XMiniGridParams) -> tuple[PyTree, PyTree]:
        """-> (obs, XLand-MiniGrid's timestep). With a benchmark, each episode has one of its rulesets."""
        if self._benchmark is not None:
            key, ruleset_key = jax.random.split(key)
            params = params.replace(ruleset=self._benchmark.sample_ruleset(ruleset_key))
        start = self._env.reset(self._with(params), key)
        return observe(start.observation), start

    @standard_promotion
    def step(self, key: jax.Array, state: PyTree, action: jax.Array, params: XMiniGridParams) -> Step:
        """One step of XLand-MiniGrid, which draws from the key in its state. Success is an end with a reward."""
        after = self._env.step(self._with(params), state, action)
        terminated = after.last() & (after.discount == 0)
        truncated = after.last() & (after.discount != 0)
        info = {"success": terminated & (after.reward > 0)}
        return Step(observe(after.observation), after, after.reward, terminated, truncated, info)

    def draw(self, obs: Any, state: Any, params: Any) -> Any:
        """The whole grid, with the cells in view lit, as XLand-MiniGrid draws it."""
        return as_picture(self._env.render(self._params.replace(render_mode="rgb_array"), state))

    def _with(self, params: XMiniGridParams) -> Any:
        """XLand-MiniGrid's parameters, with those that can be traced."""
        given = {"max_steps": params.max_steps} | ({} if params.ruleset is None else {"ruleset": params.ruleset})
        return self._params.replace(**given)


def observe(observation: Any) -> PyTree:
    """An observation as the policy sees it: codes as planes, pixels in [0, 1], and anything beside them unchanged."""
    if isinstance(observation, dict):
        return observation | {"img": observe(observation["img"])}
    if observation.shape[-1] == _constants.NUM_LAYERS:
        return as_planes(observation, (_constants.NUM_TILES, _constants.NUM_COLORS))
    return observation / 255.0


def names() -> list[str]:
    """The names of the registry, and for XLand with each benchmark: XLand-MiniGrid-R1-9x9/trivial-1m."""
    own = list(_xminigrid.registered_environments())
    benchmarks = _xminigrid.registered_benchmarks()
    return own + [f"{name}/{benchmark}" for name in own if name.startswith(_XLAND) for benchmark in benchmarks]


def make(name: str) -> XMiniGridEnvironment:
    """The environment of a name. A benchmark is downloaded when first used."""
    own, _, benchmark = name.partition("/")
    return adapt(_xminigrid.make(own), _xminigrid.load_benchmark(benchmark) if benchmark else None)


@once
def adapt(made: Any, benchmark: Any = None) -> XMiniGridEnvironment:
    """An object for `make_env`.

    Args:
        made: an environment, or the pair of it and its parameters that `xminigrid.make` returns
        benchmark: of `xminigrid.load_benchmark`; each episode of an XLand environment draws one of its rulesets

    Raises:
        PPOError: if the environment resets by itself
    """
    env, params = made if isinstance(made, tuple) else (made, made.default_params())
    resetting = (_wrappers.GymAutoResetWrapper, _wrappers.DmEnvAutoResetWrapper)
    check_layers(env, lambda layer: isinstance(layer, resetting), "_env", "give what it wraps")
    return XMiniGridEnvironment(env, params, benchmark)
