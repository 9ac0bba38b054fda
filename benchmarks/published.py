"""Scores that others have published for environments of the table, of PPO unless said, as each source prints them.

Read at the sources on 2026-11-24. rejax and PureJaxRL publish curves of speed and no table of scores.
"""

from typing import NamedTuple


class Source(NamedTuple):
    """Where scores stand, and what they are of."""

    url: str
    protocol: str


class Published(NamedTuple):
    """One score."""

    source: str  # a name in SOURCES
    score: str
    steps: str  # environment steps of the training


SOURCES = {
    "gymnax": Source(
        "https://github.com/RobertTLange/gymnax/blob/086ad95697d5898b95ce3b14fa25f2b0bae4a1fc/README.md",
        "the agents of gymnax-blines, one number for PPO and evolution strategies together; the evaluation of its PPO "
        "samples actions, in 164 episodes; steps from its agents/*/ppo.yaml; the number of seeds is not said",
    ),
    "SB3 zoo": Source(
        "https://github.com/DLR-RM/rl-baselines3-zoo/blob/22e3ff2450fd92033f7f032915e1f64894a09584/benchmark.md",
        "one training, greedy policy, mean and standard deviation over the episodes of 150,000 steps, in Gym's "
        "environments",
    ),
    "CleanRL": Source(
        "https://github.com/vwxyzjn/cleanrl/blob/fe8d8a03c41a7ef5b523e2e354bd01c363e786bb/docs/benchmark/ppo.md",
        "ppo.py with its defaults, 3 seeds, returns of the training episodes, so of the sampled policy, in Gym's "
        "environments",
    ),
}

# Of the environments with their default parameters.
PUBLISHED = {
    "CartPole-v1": (
        Published("gymnax", "500", "150k"),
        Published("SB3 zoo", "500.0 ± 0.0", "100k"),
        Published("CleanRL", "490.04 ± 6.12", "500k"),
    ),
    "Acrobot-v1": (
        Published("gymnax", "-80", "500k"),
        Published("SB3 zoo", "-73.5 ± 18.2", "1M"),
        Published("CleanRL", "-86.36 ± 1.32", "500k"),
    ),
    "MountainCar-v0": (
        Published("gymnax", "-118", "250k"),
        Published("SB3 zoo", "-110.4 ± 19.5", "1M"),
        Published("CleanRL", "-200.00 ± 0.00", "500k"),
    ),
    "MountainCarContinuous-v0": (
        Published("gymnax", "92", "1M"),
        Published("SB3 zoo", "88.3 ± 2.6", "20k"),
    ),
    "Pendulum-v1": (
        Published("gymnax", "-130", "1M"),
        Published("SB3 zoo", "-172.2 ± 104.2", "100k"),
    ),
    "Asterix-MinAtar": (Published("gymnax", "15", "10M"),),
    "Breakout-MinAtar": (Published("gymnax", "28", "10M"),),
    "Freeway-MinAtar": (Published("gymnax", "58", "10M"),),
    "SpaceInvaders-MinAtar": (Published("gymnax", "131", "10M"),),
    "Catch-bsuite": (Published("gymnax", "1", "100k"),),
    "DeepSea-bsuite": (Published("gymnax", "0", "150k"),),
    "MemoryChain-bsuite": (Published("gymnax", "0.1", "150k"),),
    "UmbrellaChain-bsuite": (Published("gymnax", "1", "150k"),),
    "DiscountingChain-bsuite": (Published("gymnax", "1.1", "150k"),),
    "FourRooms-misc": (Published("gymnax", "1, from random starts and with the map to see", "200k"),),
    "MetaMaze-misc": (Published("gymnax", "32, a genetic algorithm, another maze", "not said"),),
    "PointRobot-misc": (Published("gymnax", "10, evolution strategies", "not said"),),
}
