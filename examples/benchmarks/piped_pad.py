"""A gamepad at the end of a pipe: evdev's own reading of the kernel's records, without a kernel that has the device."""

from __future__ import annotations

import os
import struct
from typing import Any

from serl_core.teleop import gamepad

STICKS, HAT = (0x00, 0x01, 0x03, 0x04), (0x10, 0x11)  # codes of a pad in mode X: two sticks, the directional pad
RANGE = (-32768, 32767)  # of a stick


class PipedPad:
    """What evdev's InputDevice is to `serl_core.teleop.gamepad.Gamepad`; raises `DeviceError` without that package.

    ``values`` (by code) and ``held`` are what the kernel would say of axes and buttons where it is asked for all.
    """

    name = "Piped Pad"

    def __init__(
        self,
        sticks: tuple[int, ...] = STICKS,
        keys: tuple[int, ...] = (gamepad.CLOSE, gamepad.OPEN, gamepad.GRIP),
    ) -> None:
        self._evdev = gamepad.load()
        self._device = self._evdev.InputDevice.__new__(self._evdev.InputDevice)
        self._device.fd, self._writing = os.pipe()
        os.set_blocking(self.fd, False)
        self._sticks, self._keys = sticks, keys
        self.values: dict[int, int] = {}
        self.held: list[int] = []

    @property
    def fd(self) -> int:
        """Where the records are read."""
        return self._device.fd

    def capabilities(self, absinfo: bool) -> dict[int, list[Any]]:
        """Buttons, and axes with their ranges."""
        span = {**dict.fromkeys(self._sticks, RANGE), **dict.fromkeys(HAT, (-1, 1))}
        infos = [(code, self._evdev.AbsInfo(0, *limits, 16, 128, 0)) for code, limits in span.items()]
        return {gamepad.EV_KEY: list(self._keys), gamepad.EV_ABS: infos}

    def absinfo(self, code: int) -> Any:
        """Where an axis is."""
        return self._evdev.AbsInfo(self.values.get(code, 0), *RANGE, 16, 128, 0)

    def active_keys(self) -> list[int]:
        """The buttons that are held."""
        return self.held

    def read(self) -> Any:
        """The events that wait."""
        return self._device.read()

    def send(self, *events: tuple[int, int, int]) -> None:
        """Type, code and value of each, then the mark that ends a packet."""
        for event in (*events, (gamepad.EV_SYN, 0, 0)):
            os.write(self._writing, struct.pack("llHHi", 0, 0, *event))

    def unplug(self) -> None:
        """It is gone, as the kernel tells it: its descriptor is no longer good."""
        os.close(self._device.fd)

    def close(self) -> None:
        """Nobody reads any more."""
        os.close(self._device.fd)
        self._device.fd = None
