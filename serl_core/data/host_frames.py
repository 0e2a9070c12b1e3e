"""Frames in this process's memory, where they do not fit on the device."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, final

import jax
import numpy as np
import numpy.typing as npt

from serl_core.data.sampling import Frames


@final
class HostFrames:
    """One ring (capacity, views, …) for each camera in ``example``, which shows one slot's frames."""

    def __init__(self, capacity: int, example: Mapping[str, npt.NDArray[Any]]) -> None:
        self._rings = {name: np.zeros((capacity, *x.shape), x.dtype) for name, x in example.items()}

    def write(self, slot: int, frame: Mapping[str, npt.NDArray[Any]]) -> None:
        """The views of a slot's frames."""
        for name, ring in self._rings.items():
            ring[slot] = frame[name]

    def fetch(self, frames: Frames) -> dict[str, npt.NDArray[Any]]:
        """The frames of some slots, each in the view that was drawn for it, as new arrays."""
        wanted = jax.device_get(frames)
        return {name: ring[wanted.rows(name)] for name, ring in self._rings.items()}
