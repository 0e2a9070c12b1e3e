"""How much one actor may send: a loop gone wild at one must not take the learner from all the others."""

from __future__ import annotations

import logging
from typing import final

log = logging.getLogger(__name__)

TALK_PER_S = 200.0  # messages that are no records: an actor sends four a second, and one for each version of weights
TALK_BYTES_PER_S = float(8 << 20)
RECORDS_PER_S = 20_000.0  # ten times what two cameras reach on a desk computer, when a day's spool is caught up
BYTES_PER_S = float(1 << 30)  # the same
ACTORS = 1024  # whose budget is remembered
PUT_OFF = "actor %s sends more than %.0f records or %.0f MB a second: the rest is put off, none of it is lost"
LEFT_OUT = "%s sends more than %.0f messages or %.0f MB a second that are no records: the rest is left out"


@final
class Budget:
    """Per actor at most ``records`` and ``size`` bytes per s, after a burst of one second's worth of both.

    Like a bucket that fills at this rate, but a single message larger than it passes once it is full.
    ``text`` is logged once of each actor that exceeds it, with the actor, records and MB.
    """

    def __init__(self, records: float = RECORDS_PER_S, size: float = BYTES_PER_S, text: str = PUT_OFF) -> None:
        self._rates = (records, size)
        self._text = text
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
        log.warning(self._text, actor, records, size / 1e6)
