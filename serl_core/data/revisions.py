"""Whether what was drawn from replay a while ago is still what replay says."""

from __future__ import annotations

from collections.abc import Mapping
from typing import final

import jax
import numpy as np

from serl_core.data.sampling import Frames


@final
class Revisions:
    """Counts what changed of transitions that a plan may hold. New transitions and new views of frames do not count.

    What a verdict or a takeover changed counts for every plan, for its windows do not say which steps they passed. An
    overwritten slot counts only for a plan with that slot: in a full ring each new frame overwrites one, so no plan
    would ever stand.
    """

    def __init__(self, capacity: int) -> None:
        self.now = 0
        self._changed = 0  # when a transition last came to something else
        self._forgotten = np.zeros(capacity, np.int64)  # by slot: when its transition was forgotten

    def changed(self) -> None:
        """A transition comes to something else than before."""
        self.now += 1
        self._changed = self.now

    def forgotten(self, slot: int) -> None:
        """The transition at this slot is no more."""
        self.now += 1
        self._forgotten[slot] = self.now

    def stand(self, frames: Mapping[str, Frames], since: int) -> bool:
        """Whether a plan with these frames that was drawn when `now` was ``since`` still holds what is true."""
        if self._changed > since:
            return False
        slots = jax.device_get([wanted.stacks for wanted in frames.values()])
        return not any((self._forgotten[held] > since).any() for held in slots)
