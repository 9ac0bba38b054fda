"""`purejaxppo doctor`: this machine, an environment of one's own, and the agent that learns in it."""

from purejaxppo.doctor.agent import check_agent
from purejaxppo.doctor.environment import check_env
from purejaxppo.doctor.findings import Finding
from purejaxppo.doctor.machine import examine
from purejaxppo.doctor.own import examine_own

__all__ = ["Finding", "check_agent", "check_env", "examine", "examine_own"]
