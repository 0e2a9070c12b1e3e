"""From what a hand does to what the tool is to do: dead band, gain, and in which frame the hand's axes are meant."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from robot_servers.geometry import quat_conj, quat_rotate
from robot_servers.interface import Array, RobotError, RobotState
from serl_core.config import ConfigError
from serl_core.teleop.device import Device, Reading

Frame = Literal["tcp", "base"]
DOWN = np.array([1.0, -1.0, -1.0])  # the hand's axes along those of a tool that points straight down


@dataclass(frozen=True)
class Shape:
    """How a device's axes are used. Raises `ConfigError` on values that cannot work.

    ``frame`` "tcp": the axes are the tool's, as if it pointed straight down: pushing forward moves along its x axis,
    up against the direction in which it points. "base": they are those of the robot's base, wherever the tool points.
    """

    frame: Frame = "tcp"
    turn: float = 0.0  # degrees about the vertical from the frame's x axis to where the person looks; 180 faces it
    gain: float = 1.0  # of the full range
    deadband: float = 0.0  # on each axis, of the full range: a smaller push is none

    def __post_init__(self) -> None:
        if self.frame not in ("tcp", "base"):
            raise ConfigError(f'frame "{self.frame}" must be tcp or base')
        if not math.isfinite(self.turn):
            raise ConfigError(f"turn {self.turn} must be an angle in degrees")
        if not 0.0 < self.gain <= 2.0 or not 0.0 <= self.deadband <= 0.5:
            raise ConfigError(f"gain {self.gain:g} must lie in (0, 2] and deadband {self.deadband:g} in [0, 0.5]")


def apply_deadband(twist: Array, deadband: float) -> Array:
    """(6,) → (6,): 0 within the dead band, rising from 0 at its edge to 1 at the end stop, so that nothing jumps."""
    return np.sign(twist) * np.maximum(0.0, np.abs(twist) - deadband) / (1.0 - deadband)


def turned(twist: Array, degrees: float) -> Array:
    """Both halves of a twist (6,) turned about the vertical."""
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    rotation = np.array([[cos, -sin, 0.0], [sin, cos, 0.0], [0.0, 0.0, 1.0]])
    return (twist.reshape(2, 3) @ rotation.T).ravel()


class ShapedDevice:
    """Satisfies `Device`: a device whose axes are the hand's, in the tool's frame.

    ``state`` tells where the tool points; needed for the frame "base" only.
    """

    def __init__(self, device: Device, shape: Shape, state: Callable[[], RobotState] | None = None) -> None:
        assert shape.frame == "tcp" or state is not None
        self._device, self._shape, self._state = device, shape, state

    def reset(self) -> None:
        """An episode begins."""
        self._device.reset()

    def read(self) -> Reading:
        """The newest reading; twist (6,) in the TCP frame."""
        reading = self._device.read()
        if not np.isfinite(reading.twist).all():
            return reading
        twist = self._shape.gain * apply_deadband(reading.twist, self._shape.deadband)
        twist = np.clip(self._in_tool_frame(turned(twist, self._shape.turn)), -1.0, 1.0)
        return replace(reading, twist=twist, gain=self._shape.gain)

    def _in_tool_frame(self, twist: Array) -> Array:
        if self._shape.frame == "tcp" or self._state is None:
            return twist * np.tile(DOWN, 2)
        if not twist.any():
            return twist
        try:
            inverse = quat_conj(self._state().pose[3:])
        except RobotError:  # whoever uses the reading asks the same robot next, and knows what to do
            return np.zeros_like(twist)
        return np.concatenate([quat_rotate(inverse, twist[:3]), quat_rotate(inverse, twist[3:])])
