"""Recovering without a person: after a message that came too late, seldom, and never after a collision."""

from __future__ import annotations

import math

from robot_servers.interface import Health

HOLD = 2.0  # s that the arm stands still first
PER_HOUR = 3
HOUR = 3600.0  # s


class SelfRecovery:
    """Counts the recoveries of the last hour. ``now`` s is any clock that never jumps."""

    def __init__(self) -> None:
        self._since = math.inf  # when the present fault began
        self._done: list[float] = []

    def explain(self, health: Health, now: float) -> str:
        """A fault begins: what the arm says, and what happens next."""
        self._since = now if health.fault == "communication" else math.inf
        if health.fault != "communication":
            return f"{health.text or health.fault}: look at the arm, then recover"
        if self._count(now) >= PER_HOUR:
            return f"{health.text}: {PER_HOUR} times in an hour is too often, see to the network, then recover"
        return f"{health.text}: goes on by itself after {HOLD:g} s of hold"

    def due(self, now: float) -> bool:
        """Whether to try now; counts the try."""
        if now - self._since < HOLD or self._count(now) >= PER_HOUR:
            return False
        self._done.append(now)
        self._since = now
        return True

    def left(self, now: float) -> str:
        """How many more there may be, for the log."""
        return f"{PER_HOUR - self._count(now)} of {PER_HOUR} left in this hour"

    def _count(self, now: float) -> int:
        self._done = [time for time in self._done if now - time < HOUR]
        return len(self._done)
