"""What makers publish of their arms, whoever drives them: a simulator or the arm's own controller."""

from __future__ import annotations

from robot_servers.interface import JointLimits

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
