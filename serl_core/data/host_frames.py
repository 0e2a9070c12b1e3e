"""Frames in this process's memory, where they do not fit on the device."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any, final

import numpy as np
import numpy.typing as npt

from serl_core.data.sampling import Frames


@final
class HostFrames:
    """One ring (capacity, views, …) for each camera in ``example``, which shows one slot's frames."""

    def __init__(self, capacity: int, example: Mapping[str, npt.NDArray[Any]]) -> None:
        self._rings = {name: np.zeros((capacity, *x.shape), x.dtype) for name, x in example.items()}
        self._lock = threading.Lock()  # a batch that is being fetched must not get half of a new frame

    def write(self, slot: int, frame: Mapping[str, npt.NDArray[Any]]) -> None:
        """The views of a slot's frames."""
        with self._lock:
            for name, ring in self._rings.items():
                ring[slot] = frame[name]

    def fetch(self, frames: Frames) -> dict[str, npt.NDArray[Any]]:
        """The frames of some slots, each in the view that was drawn for it, as new arrays."""
        slots = np.asarray(frames.slots)
        with self._lock:
            return {name: ring[slots, np.asarray(frames.views[name])] for name, ring in self._rings.items()}
