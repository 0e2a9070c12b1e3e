"""What Franka publishes of its arms and we need before one is connected: joint limits and kinematics of the FR3."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from robot_servers.geometry import matrix_to_quat, pose_mul
from robot_servers.interface import Array, JointLimits, Tool

# Franka Control Interface documentation, "Robot and interface specifications", Franka Research 3.
FR3 = JointLimits(
    low=(-2.7437, -1.7837, -2.9007, -3.0421, -2.8065, 0.5445, -3.0159),
    high=(2.7437, 1.7837, 2.9007, -0.1518, 2.8065, 4.5169, 3.0159),
    speed=(2.62, 2.62, 2.62, 2.62, 5.26, 4.18, 5.26),
    acceleration=(10.0, 10.0, 10.0, 10.0, 10.0, 10.0, 10.0),
)
# Denavit-Hartenberg parameters after Craig (a m, d m, alpha rad) of joints 1–7 and the flange; FR3 and Panda alike.
CHAIN = (
    (0.0, 0.333, 0.0),
    (0.0, 0.0, -np.pi / 2),
    (0.0, 0.316, np.pi / 2),
    (0.0825, 0.0, np.pi / 2),
    (-0.0825, 0.384, -np.pi / 2),
    (0.0, 0.0, np.pi / 2),
    (0.088, 0.0, np.pi / 2),
    (0.0, 0.107, 0.0),
)
# The Franka hand as Desk configures it: TCP between the finger tips, mass with fingers, inertia about its centre.
FRANKA_HAND = Tool(
    tcp=(0.0, 0.0, 0.1034, 0.0, 0.0, -float(np.sin(np.pi / 8)), float(np.cos(np.pi / 8))),
    mass=0.73,
    centre=(-0.01, 0.0, 0.03),
    inertia=(0.001, 0.0, 0.0, 0.0, 0.0025, 0.0, 0.0, 0.0, 0.0017),
)
# The hand points down, TCP 0.5 m in front of the base and 0.3 m above it: the middle of what a table task needs.
HOME_Q = (0.0, -0.11008962203805858, 0.0, -2.2726977893144333, 0.0, 2.1626081672763746, float(np.pi / 4))


@dataclass(frozen=True)
class Collision:
    """From what on the arm stops by its own reflex; above what the guard holds at, which comes first."""

    torque: tuple[float, ...] = (40.0, 40.0, 36.0, 36.0, 32.0, 28.0, 24.0)  # Nm, twice those of libfranka's examples
    force: tuple[float, ...] = (90.0, 90.0, 90.0, 40.0, 40.0, 40.0)  # N and Nm


def flange_pose(q: Sequence[float] | Array) -> Array:
    """Pose (7,) of the flange in the base frame at joint positions ``q`` (7,) rad."""
    pose = np.eye(4)
    for angle, (a, d, alpha) in zip([*q, 0.0], CHAIN, strict=True):
        ca, sa, ct, st = np.cos(alpha), np.sin(alpha), np.cos(angle), np.sin(angle)
        pose = pose @ np.array(
            [[ct, -st, 0.0, a], [st * ca, ct * ca, -sa, -d * sa], [st * sa, ct * sa, ca, d * ca], [0.0, 0.0, 0.0, 1.0]]
        )
    return np.concatenate([pose[:3, 3], matrix_to_quat(pose[:3, :3])])


def tcp_pose(q: Sequence[float] | Array, tool: Tool) -> Array:
    """Pose (7,) of the tool's TCP in the base frame at joint positions ``q`` (7,) rad."""
    return pose_mul(flange_pose(q), np.array(tool.tcp))
