"""What a person says, on its way from the threads that hear it to the loop; only STOP does not wait for the loop."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from typing import TypeAlias, final

from serl_core.teleop.console import Event, Said

Stop: TypeAlias = Callable[[str], None]  # stops the arm at once, given a reason; raises RobotError if that is uncertain
SIZE = 64  # events that may wait; a person says a few per minute
EACH_TIME = (Event.STOP, Event.HOLD)  # never taken for a repetition: the arm must not go on against the last word
REPEAT = 0.7  # s; a key that is held repeats faster than this, and begins to after at most this long


class Unheard(Exception):
    """It could not be passed on; the text says why and what works all the same."""


@final
class Inbox:
    """A bounded queue of `Said`, filled from any thread. ``wall`` (s since 1970) dates them, ``now`` is monotonic."""

    def __init__(
        self,
        stop: Stop,
        wall: Callable[[], float] = time.time,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._stop = stop
        self._wall = wall
        self._now = now
        self._lock = threading.Lock()
        self._waiting: deque[Said] = deque()
        self._latest: tuple[Event, str] | None = None  # what was said last, by anybody …
        self._when = 0.0  # … and when, repetitions included

    def put(self, event: Event, source: str) -> bool:
        """Say ``event``, once however long its key is held; returns False where it only repeats what was said last.

        STOP stops the arm here and now, in the calling thread, and tells the loop besides. STOP and HOLD count each
        time. Raises RobotError if it is not certain that the arm stopped, and `Unheard` if the loop takes nothing any
        more.
        """
        repeated = self._repeats(event, source)
        kept = (repeated and event not in EACH_TIME) or self._keep(event, source)
        if event is Event.STOP:
            self._stop(f"STOP by {source}")
        elif not kept:
            raise Unheard(f'{SIZE} things wait to be heard, "{event}" is not: the loop hangs. STOP works all the same')
        return not repeated

    def take(self) -> list[Said]:
        """What was said since the last call, in order."""
        with self._lock:
            taken = list(self._waiting)
            self._waiting.clear()
        return taken

    def waiting(self) -> int:
        """How many events the loop has not taken yet."""
        return len(self._waiting)

    def _repeats(self, event: Event, source: str) -> bool:
        """Whether it is a held key's repetition: the same again, soon, and nothing else in between."""
        with self._lock:
            before, when = self._latest, self._when
            self._latest, self._when = (event, source), self._now()
            return before == self._latest and self._when - when < REPEAT

    def _keep(self, event: Event, source: str) -> bool:
        """False if there is no room."""
        with self._lock:
            if len(self._waiting) >= SIZE:
                return False
            self._waiting.append(Said(event, source, self._wall()))
            return True
