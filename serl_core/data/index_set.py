"""Sets of slots to sample from."""

from __future__ import annotations

from typing import final

import numpy as np
import numpy.typing as npt

Slots = npt.NDArray[np.int64]
NONE = -1  # no slot


@final
class IndexSet:
    """A set of slots with constant-time add, remove and uniform sampling."""

    def __init__(self, capacity: int) -> None:
        self._items = np.zeros(capacity, np.int64)
        self._place = np.full(capacity, NONE, np.int64)
        self._size = 0

    def __len__(self) -> int:
        return self._size

    def __contains__(self, slot: int) -> bool:
        return bool(self._place[slot] != NONE)

    def add(self, slot: int) -> None:
        """Add a slot that is not in the set."""
        self._items[self._size], self._place[slot] = slot, self._size
        self._size += 1

    def discard(self, slot: int) -> None:
        """Remove a slot if it is there: the last one takes its place."""
        place = self._place[slot]
        if place == NONE:
            return
        self._size -= 1
        last = self._items[self._size]
        self._items[place], self._place[last] = last, place
        self._place[slot] = NONE

    def items(self) -> Slots:
        """All slots (size,), in no order."""
        return self._items[: self._size].copy()

    def sample(self, rng: np.random.Generator, shape: tuple[int, ...]) -> Slots:
        """Uniform slots with replacement."""
        return self._items[rng.integers(self._size, size=shape)]
