"""What a SERL HTTP server says of its arm, checked field by field, and what its gripper must be doing."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from robot_servers.interface import Array, Grip, RobotError, RobotState
from robot_servers.serl_dialect import GripperNumbers

SETTLED = 0.3  # s without movement after which a gripper is not moving
STILL = 0.005  # of the opening; less is noise
BLOCKED = 0.03  # of the opening that a gripper stays away from its target with something between its fingers
SHAPES: dict[str, tuple[int, ...]] = {
    "pose": (7,),
    "vel": (6,),
    "force": (3,),
    "torque": (3,),
    "q": (7,),
    "dq": (7,),
    "jacobian": (6, 7),
    "gripper_pos": (),
}


def read_state(text: bytes, time: float, numbers: GripperNumbers) -> RobotState:
    """The answer to /getstate, measured not before ``time`` s. Raises `RobotError` naming what is wrong with it."""
    try:
        answer = json.loads(text)
    except ValueError as error:
        raise RobotError(f"/getstate is not answered with JSON: {error}") from error
    if not isinstance(answer, dict):
        raise RobotError(f"/getstate is not answered with an object but with {type(answer).__name__}")
    value = {name: _array(answer, name, shape) for name, shape in SHAPES.items()}
    return RobotState(
        time=time,
        pose=value["pose"],
        vel=value["vel"],
        force=-value["force"],  # SERL counts what the robot does to its surroundings as positive
        torque=-value["torque"],
        q=value["q"],
        dq=value["dq"],
        jacobian=value["jacobian"],
        gripper=numbers.opening(float(value["gripper_pos"])),
    )


def _array(answer: Mapping[str, Any], name: str, shape: tuple[int, ...]) -> Array:
    if name not in answer:
        raise RobotError(f"/getstate lacks {name}: is this a SERL server?")
    try:
        value = np.array(answer[name], np.float64)
    except (TypeError, ValueError, OverflowError) as error:
        raise RobotError(f"/getstate: {name} is not made of numbers") from error
    if value.shape != shape:
        raise RobotError(f"/getstate: {name} has shape {value.shape}, but must be {shape}")
    if not np.isfinite(value).all():
        raise RobotError(f"/getstate: {name} is not finite: {value.tolist()}")
    return value


class GripWatch:
    """Tells from the reported opening alone what the gripper does."""

    def __init__(self) -> None:
        self._opening = math.nan
        self._moved = -math.inf

    def see(self, opening: float, target: float | None, now: float) -> Grip:
        """``target`` is the opening last asked for, ``now`` s the time of the measurement."""
        if not abs(opening - self._opening) <= STILL:
            self._opening, self._moved = opening, now
        if now - self._moved < SETTLED:
            return "moving"
        if target is None or target > opening + STILL:
            return "idle"
        if opening - target > BLOCKED:
            return "holding"
        return "lost" if target <= STILL else "idle"
