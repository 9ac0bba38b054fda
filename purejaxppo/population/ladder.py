"""The decisions of asynchronous successive halving: which member trains next, and in which rung."""

import math
from typing import NamedTuple


class Job(NamedTuple):
    """One rung of one member."""

    member: int
    rung: int


class Ladder:
    """The scores of all rungs, and the next job by algorithm 2 of Li et al. (2018)."""

    def __init__(self, eta: int, updates: tuple[int, ...], budget: int) -> None:
        self.scores: list[dict[int, float]] = [{} for _ in updates]  # of each rung, by member
        self.num_members = 0  # that have begun
        self._promoted: list[set[int]] = [set() for _ in updates]  # to each rung
        self._eta, self.updates, self._left = eta, updates, budget

    def tell(self, job: Job, score: float) -> None:
        """Takes the score of a job that is finished."""
        self.scores[job.rung][job.member] = score

    def ask(self) -> Job | None:
        """The next job: a promotion into the highest rung, or a new member. Those beyond the budget are passed over."""
        for rung in reversed(range(len(self.updates))):
            member = self._next_of(rung) if self.updates[rung] <= self._left else None
            if member is not None:
                self._left -= self.updates[rung]
                self._promoted[rung].add(member)
                self.num_members += rung == 0
                return Job(member, rung)
        return None

    def _next_of(self, rung: int) -> int | None:
        """The best member of the rung below that is among its best 1 / eta and not yet promoted."""
        if rung == 0:
            return self.num_members
        best = self.ranked(rung - 1)[: len(self.scores[rung - 1]) // self._eta]
        return next((member for member in best if member not in self._promoted[rung]), None)

    def ranked(self, rung: int) -> list[int]:
        """The members that have finished a rung, best first. NaN ranks last, and of equals the first one is better."""
        scores = self.scores[rung]
        return sorted(scores, key=lambda member: (math.isnan(scores[member]), -scores[member], member))
