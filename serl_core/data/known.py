"""What replay knows of each transition beside what the learner samples: as recorded, and what became known later."""

from __future__ import annotations

from collections import deque
from typing import final, get_args

import numpy as np

from serl_core.data.index_set import NONE
from serl_core.data.labels import Outcome
from serl_core.data.routing import FAR, Seen
from serl_core.types import Source, Step, Who

_WHO: tuple[Who, ...] = get_args(Who)


@final
class Known:
    """By slot. ``owner`` numbers the episode over all actors (−1: nothing begins here), ``step`` counts within it."""

    def __init__(self, capacity: int) -> None:
        self.owner = np.full(capacity, NONE, np.int32)
        self.step = np.zeros(capacity, np.int32)
        self.online = np.zeros(capacity, np.bool_)
        self._who = np.zeros(capacity, np.int8)
        self._reward = np.zeros(capacity, np.float32)
        self._terminated = np.zeros(capacity, np.bool_)
        self._success = np.zeros(capacity, np.bool_)
        self.before = np.full(capacity, FAR, np.int16)  # see `Seen` for these three
        self.released = np.zeros(capacity, np.bool_)
        self.old = np.zeros(capacity, np.bool_)

    def remember(self, slot: int, step: Step, source: Source, owner: int) -> None:
        """A transition begins at this slot; nothing has followed it yet."""
        self.owner[slot], self.step[slot] = owner, step.step
        self.online[slot], self._who[slot] = source == "online", _WHO.index(step.who)
        self._reward[slot], self._terminated[slot], self._success[slot] = step.reward, step.terminated, step.success
        self.before[slot], self.released[slot], self.old[slot] = FAR, False, False

    def recorded(self, slot: int) -> Outcome:
        """Its outcome before any verdict."""
        return Outcome(float(self._reward[slot]), bool(self._terminated[slot]), False, bool(self._success[slot]))

    def who(self, slot: int) -> Who:
        """Whose action it was."""
        return _WHO[self._who[slot]]

    def seen(self, slot: int, outcome: Outcome) -> Seen:
        """Everything that a routing may go by."""
        source: Source = "online" if self.online[slot] else "demo"
        late = int(self.before[slot]), bool(self.released[slot]), bool(self.old[slot])
        return Seen(source, self.who(slot), outcome, *late)


@final
class Ages:
    """Tells which transitions have become old: in the order in which they came, by a count that only rises."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._waiting: deque[tuple[int, int, int, int]] = deque()  # count at its birth, slot, owner, step

    def add(self, count: int, slot: int, known: Known) -> None:
        """A transition that will be old one day."""
        if self._limit:
            self._waiting.append((count, slot, int(known.owner[slot]), int(known.step[slot])))

    def expired(self, count: int, known: Known) -> list[int]:
        """Slots of those that are old now and still there, each told once."""
        found = []
        while self._waiting and count - self._waiting[0][0] > self._limit:
            _, slot, owner, step = self._waiting.popleft()
            if (known.owner[slot], known.step[slot]) == (owner, step):
                found.append(slot)
        return found
