"""`purejaxppo doctor`: checks of this machine, of an environment, and of the agent that learns in it."""

from purejaxppo.cli.doctor.agent import check_agent
from purejaxppo.cli.doctor.environment import check_env
from purejaxppo.cli.doctor.findings import Finding
from purejaxppo.cli.doctor.machine import examine

__all__ = ["Finding", "check_agent", "check_env", "examine"]
