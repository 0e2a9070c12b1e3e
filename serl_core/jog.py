"""Moving an arm by typed steps, ``x+5`` or ``rz-2``: slow straight lines of ordinary, guarded commands."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

import numpy as np

from robot_servers.geometry import quat_angle, quat_conj, quat_mul, quat_normalise, quat_to_rotvec, rotvec_to_quat
from robot_servers.interface import Array, Bend, Command, Robot, RobotState
from serl_core.clock import Clock
from serl_core.config import AXES, ConfigError

PERIOD = 0.1  # s between two commands; a hold by the watchdog comes later
SPEED = 0.08  # m/s
TURN_SPEED = 0.4  # rad/s
SETTLE = 10  # periods in which the arm may come to rest at the end of its way
STILL = 0.002  # m/s, and rad/s: slower is at rest
AHEAD = 0.02  # m by which the target of the last step may be ahead of the arm for the next one to go on from it
AHEAD_TURN = 0.1  # rad, the same for its orientation
SHORT = 0.002  # m that the arm may stay short without a word about it
STEP = re.compile(r"(r?[xyz])([+-]\d+(?:\.\d*)?|[+-]\.\d+)")
GRIPPER = {"open": 1.0, "close": 0.0}
HELP = (
    "typed steps: x+5 moves by 5 mm along the base's x axis, rz-2 turns by -2 degrees about its z axis, "
    "several in one line are one motion; open, close and g0.5 move the gripper"
)


@dataclass(frozen=True)
class Jog:
    """One typed motion: ``delta`` (6,) m and rotation vector in rad, base frame; ``gripper`` 0–1, or None."""

    delta: Array
    gripper: float | None = None


def parse_jog(text: str) -> Jog:
    """What was typed. Raises `ConfigError` naming the word that cannot be meant."""
    delta, gripper = np.zeros(6), None
    for word in text.split():
        step, width = STEP.fullmatch(word), GRIPPER.get(word, _width(word))
        if step:
            axis = AXES.index(step[1])
            delta[axis] += float(step[2]) * (0.001 if axis < 3 else math.pi / 180.0)
        elif width is not None:
            gripper = width
        else:
            raise ConfigError(f'"{word[:20]}" is not understood; {HELP}')
    return Jog(delta, gripper)


def _width(word: str) -> float | None:
    match = re.fullmatch(r"g(0(?:\.\d*)?|1(?:\.0*)?|\.\d+)", word)
    return float(match[1]) if match else None


class Jogger:
    """Drives a guarded robot by `Jog`s. ``clock`` lets one `PERIOD` pass between two commands.

    A motion goes on from the target of the last one while the arm is near it, so that an arm that sags a
    millimetre at every stop does not sag further with every step.
    """

    def __init__(self, robot: Robot, clock: Clock) -> None:
        self._robot = robot
        self._clock = clock
        self._target: Array | None = None

    def move(self, jog: Jog) -> str:
        """Carry it out and wait until the arm rests; says what kept it from getting there, or nothing.

        Raises `RobotError` when the robot refuses.
        """
        state = self._robot.state()
        origin = self._origin(state)
        goal = np.concatenate([origin[:3] + jog.delta[:3], quat_mul(rotvec_to_quat(jog.delta[3:]), origin[3:])])
        distance, angle = (float(np.linalg.norm(part)) for part in (jog.delta[:3], jog.delta[3:]))
        periods = max(1, math.ceil(max(distance / SPEED, angle / TURN_SPEED) / PERIOD))
        bends: tuple[Bend, ...] = ()
        self._clock.start()
        for index in range(1, periods + SETTLE + 1):
            pose = between(origin, goal, min(1.0, index / periods))
            applied = self._robot.command(Command(pose, jog.gripper, state.time))
            self._target, bends = applied.pose, applied.bends
            self._clock.tick()
            state = self._robot.state()
            if index > periods + 1 and _at_rest(state):
                break
        return _shortfall(state, goal, bends)

    def _origin(self, state: RobotState) -> Array:
        target = self._target
        if target is None or float(np.linalg.norm(target[:3] - state.pose[:3])) > AHEAD:
            return state.pose
        return target if quat_angle(target[3:], state.pose[3:]) <= AHEAD_TURN else state.pose


def between(start: Array, goal: Array, share: float) -> Array:
    """The pose (7,) at ``share`` of the way from ``start`` to ``goal``."""
    turn = quat_to_rotvec(quat_mul(goal[3:], quat_conj(start[3:])))
    orientation = quat_normalise(quat_mul(rotvec_to_quat(share * turn), start[3:]))
    return np.concatenate([start[:3] + share * (goal[:3] - start[:3]), orientation])


def _at_rest(state: RobotState) -> bool:
    return float(np.abs(state.vel).max()) < STILL and state.grip != "moving"


def _shortfall(state: RobotState, goal: Array, bends: tuple[Bend, ...]) -> str:
    left = float(np.linalg.norm(goal[:3] - state.pose[:3]))
    if bends:
        return "stopped by " + ", ".join(f"{bend.limit} (limit {bend.bound:.3f})" for bend in bends)
    return f"the arm stays {left * 1000:.0f} mm short: it touches something, or is soft" if left > SHORT else ""
