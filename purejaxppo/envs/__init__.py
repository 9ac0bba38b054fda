"""Environments: the interface, spaces, `make_env`, and vectorised stepping."""

from purejaxppo.envs.base import Environment, MaskedObs, Step
from purejaxppo.envs.registry import env_names, make_env, names_own_code, register_env
from purejaxppo.envs.spaces import Box, Discrete, MultiDiscrete, SpaceTree

__all__ = [
    "Box",
    "Discrete",
    "Environment",
    "MaskedObs",
    "MultiDiscrete",
    "SpaceTree",
    "Step",
    "env_names",
    "make_env",
    "names_own_code",
    "register_env",
]
