"""How much one actor may send: a loop gone wild at one must not take the learner from all the others."""

from __future__ import annotations

import logging
from typing import final

log = logging.getLogger(__name__)

RECORDS_PER_S = 20_000.0  # ten times what two cameras reach on a desk computer, when a day's spool is caught up
BYTES_PER_S = float(1 << 30)  # the same
ACTORS = 1024  # whose budget is remembered


@final
class Budget:
    """Per actor at most ``records`` and ``size`` bytes per s, after a burst of one second's worth of both.

    Like a bucket that fills at this rate, but a single message larger than it passes once it is full.
    """

    def __init__(self, records: float = RECORDS_PER_S, size: float = BYTES_PER_S) -> None:
        self._rates = (records, size)
        self._left: dict[str, tuple[float, float]] = {}  # actor → shares left of a second's worth, as of when
        self._told: set[str] = set()

    def wait(self, actor: str, records: int, size: int, now: float) -> float:
        """Take from the budget, and 0; or take nothing, and how many seconds later to try again. Tells it once."""
        left, since = self._left.get(actor, (1.0, now))
        left = min(1.0, left + now - since)
        cost = min(1.0, max(records / self._rates[0], size / self._rates[1]))
        if cost > left:
            self._tell(actor)
            return cost - left
        if len(self._left) >= ACTORS and actor not in self._left:
            self._left.clear()  # cheaper than to find the oldest, and nobody gains more than one burst
        self._left[actor] = (left - cost, now)
        return 0.0

    def _tell(self, actor: str) -> None:
        if actor in self._told:
            return
        if len(self._told) >= ACTORS:
            self._told.clear()
        self._told.add(actor)
        records, size = self._rates
        log.warning(
            "actor %s sends more than %.0f records or %.0f MB a second: the rest is put off, none of it is lost",
            actor,
            records,
            size / 1e6,
        )
