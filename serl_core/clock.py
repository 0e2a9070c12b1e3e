"""Who makes time pass between two control steps: the wall clock, or the simulation.

Schedules are absolute: the n-th tick is due at ``start + n · period``, so that a late step never
shifts the ones after it and drift is zero.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Protocol


class Clock(Protocol):
    """Lets one control period pass."""

    period: float  # s

    def start(self) -> None:
        """Begin a schedule; the first `tick` is due one period from now."""
        ...

    def tick(self) -> None:
        """Return when the next period begins."""
        ...


class LockstepClock:
    """Simulated time: ``advance(period)`` lets the server run one period, as fast as it can."""

    def __init__(self, period: float, advance: Callable[[float], None]) -> None:
        self.period = period
        self._advance = advance

    def start(self) -> None:
        pass

    def tick(self) -> None:
        self._advance(self.period)


class RealtimeClock:
    """Wall-clock time on an absolute schedule. ``late`` counts the ticks that came over 5 ms late.

    A tick that is missed by more than a period restarts the schedule, so that a long pause is not
    followed by a burst of steps.
    """

    LATE = 0.005  # s

    def __init__(
        self,
        period: float,
        now: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.period = period
        self.late = 0
        self._now = now
        self._sleep = sleep
        self._due = 0.0

    def start(self) -> None:
        self._due = self._now()

    def tick(self) -> None:
        self._due += self.period
        remaining = self._due - self._now()
        if remaining > 0:
            self._sleep(remaining)
        if self._now() - self._due > self.LATE:
            self.late += 1
        if remaining < -self.period:
            self._due = self._now()
