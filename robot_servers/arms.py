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
