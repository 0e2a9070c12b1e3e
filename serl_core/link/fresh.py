"""What was just written to the spool, kept in memory until it is sent: reading it back costs as much as sending it."""

from __future__ import annotations

from collections import deque
from typing import final


@final
class Fresh:
    """Entries by their position in the spool, in order, with gaps: what exceeds `LIMIT` has to come from the disk.

    Not safe for several threads at once: its owner locks.
    """

    LIMIT = 64 << 20  # bytes: a second of two cameras at full speed, minutes of a robot

    def __init__(self) -> None:
        self._entries: deque[tuple[int, bytearray]] = deque()
        self._bytes = 0

    def add(self, position: int, entry: bytearray) -> None:
        """Keep ``entry``, the newest, if there is room: the older ones will be wanted sooner."""
        if self._bytes + len(entry) <= self.LIMIT:
            self._entries.append((position, entry))
            self._bytes += len(entry)

    def take(self, start: int, stop: int, max_bytes: int) -> list[bytes | bytearray]:
        """The entries from ``start`` on without a gap, at least one if it is here; they are forgotten.

        So is what lies before them: who goes back asks the disk.
        """
        while self._entries and self._entries[0][0] < start:
            self._drop()
        taken: list[bytes | bytearray] = []
        while self.first(stop) == start + len(taken) < stop:
            max_bytes -= len(self._entries[0][1])
            if taken and max_bytes < 0:
                break
            taken.append(self._drop())
        return taken

    def first(self, otherwise: int) -> int:
        """Position of the oldest entry, at most ``otherwise``."""
        return min(otherwise, self._entries[0][0]) if self._entries else otherwise

    def _drop(self) -> bytearray:
        _, entry = self._entries.popleft()
        self._bytes -= len(entry)
        return entry
