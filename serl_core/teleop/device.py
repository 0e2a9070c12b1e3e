"""What every input device is to the rest: a twist and some buttons, read without waiting."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from robot_servers.interface import Array, RobotError

CLOSE, OPEN = 0, 1  # what the buttons do
CLUTCH = 2  # number of the button for a clutch, on devices that have one
TWIST, BUTTONS = 6, 2  # how many entries of a reading one hand has, at least


class DeviceError(RobotError):
    """An input device cannot be used, or is gone; the text says in one line why, and what to do next."""


@dataclass(frozen=True)
class Reading:
    """The state of a device.

    ``twist`` (6,) float64 in [−1, 1], translation then rotation along the device's axes, which are those of the TCP
    frame; ``buttons`` pressed or not, button 0 closes the gripper, button 1 opens it, button 2 is the clutch on devices
    that have one; ``age`` s since the rest of it was last known to be true, which a silent device that is at rest is
    and a silent one that should speak is not; ``pressed``: names of all buttons and keys that are down, also of those
    that have no part in the motion; ``gain``: what the hand's push was multiplied by. Readings of one device are of
    one length, also while it is silent or gone: what has not been heard of is not pressed. Two hands on two devices
    make one reading: ``twist`` (12,) and twice the buttons, those of the left arm first.
    """

    twist: Array
    buttons: tuple[bool, ...] = (False, False)
    connected: bool = True
    age: float = 0.0
    pressed: tuple[str, ...] = ()
    gain: float = 1.0


class Device(Protocol):
    """An input device. Constructors open nothing; what holds something open is a context manager."""

    def reset(self) -> None:
        """An episode begins."""
        ...

    def read(self) -> Reading:
        """The newest reading, at once; never raises because the device is gone."""
        ...
