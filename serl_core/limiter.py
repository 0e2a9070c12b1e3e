"""How many updates the learner may do: updates per online transition (UTD), granted in whole calls."""

from __future__ import annotations

from collections import deque
from typing import final

RECENT = 200  # transitions of which the present pace is taken
_FIELDS = ("stored", "counted", "updates", "forgiven")


@final
class UpdateLimiter:
    """Counts online transitions stored after training starts, and the critic updates they pay for.

    ``utd`` critic updates are owed per counted transition; a call does ``per_call`` of them. Training
    starts after ``start_after`` online transitions. Demonstrations never count: do not report them.

    Lockstep is two-sided: the actor waits while more than ``max_behind`` transitions are unpaid. In
    real time the actor never waits, and debt beyond ``max_debt`` updates is forgiven, so that a
    learner that cannot keep up stays current. Raises ValueError when both sides would wait for ever.
    """

    def __init__(
        self,
        utd: float,
        per_call: int,
        lockstep: bool,
        max_behind: int = 20,
        max_debt: int = 200,
        start_after: int = 100,
    ) -> None:
        if utd <= 0 or per_call < 1 or max_behind < 0 or start_after < 0:
            raise ValueError(f"limiter: utd {utd} and per_call {per_call} must be positive, the others not negative")
        allowance = utd * (max_behind + 1) if lockstep else max_debt
        if per_call > allowance:
            raise ValueError(f"limiter: a call of {per_call} updates is never granted when {allowance} may be owed")
        self.utd, self.per_call, self.lockstep = utd, per_call, lockstep
        self.max_behind, self.max_debt, self.start_after = max_behind, max_debt, start_after
        self.stored = 0  # online transitions in all
        self.counted = 0  # of these, the ones after training started
        self.updates = 0  # critic updates done for them
        self.forgiven = 0.0  # critic updates that were owed and never will be done
        self._marks = deque([(0, 0)])  # transitions counted and updates done, from before the newest `RECENT` on

    @property
    def debt(self) -> float:
        """Critic updates owed for what is stored."""
        return self.utd * self.counted - self.updates - self.forgiven

    @property
    def behind(self) -> float:
        """Transitions that the learner has not yet paid for."""
        return max(self.debt, 0.0) / self.utd

    @property
    def achieved_utd(self) -> float:
        """Critic updates done per counted transition; 0 before training starts."""
        return self.updates / self.counted if self.counted else 0.0

    @property
    def recent_utd(self) -> float:
        """The same over about the newest `RECENT` counted transitions: how it goes now, whatever came before."""
        counted, updates = self._marks[0]
        return (self.updates - updates) / (self.counted - counted) if self.counted > counted else 0.0

    def insert(self, transitions: int = 1) -> None:
        """Report online transitions that replay accepted."""
        self._mark()
        before = max(self.stored, self.start_after)
        self.stored += transitions
        self.counted += max(self.stored - before, 0)
        if not self.lockstep:
            self.forgiven += max(self.debt - self.max_debt, 0.0)

    def _mark(self) -> None:
        if self.counted > self._marks[-1][0]:
            self._marks.append((self.counted, self.updates))
        while self.counted - self._marks[0][0] > RECENT:
            self._marks.popleft()

    def grants(self) -> bool:
        """Whether a call of ``per_call`` updates is due."""
        return self.debt >= self.per_call

    def done(self) -> None:
        """Report one call of ``per_call`` updates."""
        self.updates += self.per_call

    def waiting(self) -> str:
        """Why no call is due, for the log; empty when one is."""
        if self.stored <= self.start_after and not self.counted:
            return f"learner waits for data: {self.stored} transitions, training starts after {self.start_after}"
        if not self.grants():
            missing = (self.per_call - self.debt) / self.utd
            return f"learner waits for data: the next call is due in {missing:.1f} transitions"
        return ""

    def state_dict(self) -> dict[str, float]:
        """The counters, for a checkpoint."""
        return {name: getattr(self, name) for name in _FIELDS}

    def load(self, saved: dict[str, float]) -> None:
        """Go on from `state_dict`. Raises ValueError when counters are missing or unknown."""
        if set(saved) != set(_FIELDS):
            raise ValueError(f"limiter state has {sorted(saved)} instead of {sorted(_FIELDS)}")
        self.stored, self.counted, self.updates = int(saved["stored"]), int(saved["counted"]), int(saved["updates"])
        self.forgiven = float(saved["forgiven"])
        self._marks = deque([(self.counted, self.updates)])
