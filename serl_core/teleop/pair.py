"""Two devices, one for each hand of a person, as one: for two arms that are taken over together."""

from __future__ import annotations

import numpy as np

from serl_core.teleop.device import Device, Reading

HANDS: tuple[str, str] = ("left", "right")


class PairDevice:
    """Satisfies `Device`. Both are of one kind, with as many buttons and one gain, both must be connected and fresh.

    With one hand nobody leads two arms.
    """

    def __init__(self, left: Device, right: Device) -> None:
        self._devices = left, right

    def reset(self) -> None:
        """An episode begins."""
        for device in self._devices:
            device.reset()

    def read(self) -> Reading:
        """Twists (12,) and the buttons of both, left first; as old as the older reading."""
        readings = [device.read() for device in self._devices]
        return Reading(
            np.concatenate([reading.twist for reading in readings]),
            tuple(pressed for reading in readings for pressed in reading.buttons),
            all(reading.connected for reading in readings),
            max(reading.age for reading in readings),
            tuple(f"{hand} {name}" for hand, reading in zip(HANDS, readings, strict=True) for name in reading.pressed),
            readings[0].gain,
        )
