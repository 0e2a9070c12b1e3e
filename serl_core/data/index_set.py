"""Sets of slots to sample from."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from typing import final

import numpy as np
import numpy.typing as npt

Slots = npt.NDArray[np.int64]
NONE = -1  # no slot


@final
class IndexSet:
    """A set of slots, densely numbered by places, with constant-time add and remove; notes which places changed."""

    def __init__(self, capacity: int) -> None:
        self._items = np.zeros(capacity, np.int64)
        self._place = np.full(capacity, NONE, np.int64)
        self._size = 0
        self.changed: dict[int, None] = {}  # places that hold another slot than when they were last asked for

    def __len__(self) -> int:
        return self._size

    def __contains__(self, slot: int) -> bool:
        return bool(self._place[slot] != NONE)

    def add(self, slot: int) -> None:
        """Add a slot that is not in the set."""
        self._put(self._size, slot)
        self._size += 1

    def discard(self, slot: int) -> None:
        """Remove a slot if it is there: the last one takes its place."""
        place = self._place[slot]
        if place == NONE:
            return
        self._size -= 1
        self._put(int(place), int(self._items[self._size]))
        self._place[slot] = NONE

    def _put(self, place: int, slot: int) -> None:
        self._items[place], self._place[slot] = slot, place
        self.changed[place] = None

    def items(self) -> Slots:
        """All slots (size,), in no order."""
        return self._items[: self._size].copy()

    def changes(self, most: int) -> list[int]:
        """Up to ``most`` places that have changed; they count as seen."""
        places = list(islice(self.changed, most))
        for place in places:
            del self.changed[place]
        return places

    def at(self, places: Sequence[int]) -> Slots:
        """The slots at some places."""
        return self._items[list(places)]
