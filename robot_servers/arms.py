"""What makers publish of their arms, whoever drives them: a simulator or the arm's own controller."""

from __future__ import annotations

import math
from dataclasses import replace

from robot_servers.interface import JointLimits, Limits, RobotError
from robot_servers.limits import tightened

# Franka Control Interface documentation, "Robot and interface specifications", Franka Emika Robot (Panda).
PANDA = JointLimits(
    low=(-2.8973, -1.7628, -2.8973, -3.0718, -2.8973, -0.0175, -2.8973),
    high=(2.8973, 1.7628, 2.8973, -0.0698, 2.8973, 3.7525, 2.8973),
    speed=(2.175, 2.175, 2.175, 2.175, 2.61, 2.61, 2.61),
    acceleration=(15.0, 7.5, 10.0, 12.5, 15.0, 20.0, 20.0),
)

# Universal Robots, user manuals of UR3/UR3e, UR5/UR5e, UR10/UR10e, UR16e, "Technical specifications": joint ranges
# ±360° (the endless last wrist of the UR3 is bounded like the others), maximum speeds. UR publishes no joint
# accelerations: 15 rad/s² is a choice of this project, below what these arms reach.
_TURN = (6.2831,) * 6
_FAST, _MEDIUM, _SLOW = 6.283, 3.141, 2.094  # rad/s: 360, 180 and 120 °/s
UR3 = JointLimits((-6.2831,) * 6, _TURN, speed=(_MEDIUM,) * 3 + (_FAST,) * 3, acceleration=(15.0,) * 6)
UR5 = JointLimits((-6.2831,) * 6, _TURN, speed=(_MEDIUM,) * 6, acceleration=(15.0,) * 6)
UR10 = JointLimits((-6.2831,) * 6, _TURN, speed=(_SLOW,) * 2 + (_MEDIUM,) * 4, acceleration=(15.0,) * 6)
UR16 = UR10


def _own(reach: float, speed: float, acceleration: float, turn_speed: float, turn_acceleration: float) -> Limits:
    """The widest limits of an arm: its ``reach`` m around the base, its TCP's speeds; the rest is our choice."""
    return Limits(
        (-reach, -reach, -reach),
        (reach, reach, reach + 0.4),  # the shoulder stands above the base
        tilt=2.0 * math.pi,
        step=0.3,
        turn=1.0,
        speed=speed,
        turn_speed=turn_speed,
        acceleration=acceleration,
        turn_acceleration=turn_acceleration,
        force=150.0,
        torque=40.0,
        margin=0.1,
        tilt_margin=0.5,
        max_age=1.0,
        watchdog=1.0,
    )


# Franka: "Robot and interface specifications", limits in the Cartesian space. UR: reach of the data sheets; 1 m/s is
# their typical tool speed, and the accelerations are this project's choice.
OWN: dict[str, Limits] = {
    "franka": _own(0.9, 3.0, 9.0, 2.5, 17.0),
    "panda": _own(0.9, 1.7, 13.0, 2.5, 25.0),
    "serl_http": _own(0.9, 1.7, 13.0, 2.5, 25.0),
    **dict.fromkeys(("ur3", "ur3e"), _own(0.55, 1.0, 10.0, 3.14, 25.0)),
    **dict.fromkeys(("ur5", "ur5e"), _own(0.9, 1.0, 10.0, 3.14, 25.0)),
    **dict.fromkeys(("ur10", "ur10e"), _own(1.35, 1.0, 10.0, 2.09, 25.0)),
    "ur16e": _own(0.95, 1.0, 10.0, 2.09, 25.0),
}


def within(arm: str, limits: Limits) -> Limits:
    """``limits``, checked to lie within what the arm itself can. Raises `RobotError` naming what is larger."""
    try:
        return tightened(replace(OWN[arm], orientation=limits.orientation), limits)
    except RobotError as error:
        raise RobotError(f"these limits are larger than those of the arm {arm} itself: {error}") from error
