"""Where a UR's flange is and how it moves with the joints, from the parameters that the maker publishes.

Denavit–Hartenberg parameters: Universal Robots, "DH parameters for calculations of kinematics and
dynamics" (support article). They are nominal: each arm is calibrated in the factory and differs by
about a millimetre, so measured poses come from the arm itself and only the Jacobian from here.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from robot_servers.arms import UR3, UR5, UR10, UR16
from robot_servers.geometry import matrix_to_quat, pose_mul, quat_rotate
from robot_servers.interface import Array, JointLimits

COS_ALPHA = (0.0, 1.0, 1.0, 0.0, 0.0, 1.0)  # the twists (π/2, 0, 0, π/2, −π/2, 0) of every UR
SIN_ALPHA = (1.0, 0.0, 0.0, 1.0, -1.0, 0.0)
CB_HZ = 125.0  # rate of the control boxes of the CB series, and of their RTDE interface
E_HZ = 500.0  # the same of the e-Series


@dataclass(frozen=True)
class UrArm:
    """One model: link lengths ``a`` and offsets ``d``, (6,) m each, joint limits and the rate of its controller."""

    a: tuple[float, float, float, float, float, float]
    d: tuple[float, float, float, float, float, float]
    joint_limits: JointLimits
    rate: float  # Hz

    def flange(self, q: Array) -> Array:
        """Pose (7,) of the flange in the base frame at the joint positions ``q`` (6,) rad."""
        last = self._frames(q)[-1]
        return np.concatenate([last[:3, 3], matrix_to_quat(last[:3, :3])])

    def tcp(self, q: Array, tool: Array) -> Array:
        """Pose (7,) of a TCP that sits at the pose ``tool`` (7,) in the flange's frame."""
        return pose_mul(self.flange(q), tool)

    def jacobian(self, q: Array, tool: Array) -> Array:
        """Geometric Jacobian (6, 6) of that TCP in the base frame: linear velocity above, angular below."""
        frames = self._frames(q)
        flange = np.concatenate([frames[-1][:3, 3], matrix_to_quat(frames[-1][:3, :3])])
        point = flange[:3] + quat_rotate(flange[3:], tool[:3])
        axes = np.array([frame[:3, 2] for frame in frames[:-1]])
        x, y, z = axes.T
        rx, ry, rz = (point - np.array([frame[:3, 3] for frame in frames[:-1]])).T
        return np.array([y * rz - z * ry, z * rx - x * rz, x * ry - y * rx, x, y, z])

    def _frames(self, q: Array) -> list[Array]:
        """The base and the frame after each joint, (4, 4) each."""
        frames = [np.eye(4)]
        for i, angle in enumerate(q.tolist()):
            c, s, ca, sa = math.cos(angle), math.sin(angle), COS_ALPHA[i], SIN_ALPHA[i]
            step = (
                (c, -s * ca, s * sa, self.a[i] * c),
                (s, c * ca, -c * sa, self.a[i] * s),
                (0.0, sa, ca, self.d[i]),
                (0.0, 0.0, 0.0, 1.0),
            )
            frames.append(frames[-1] @ np.array(step))
        return frames


def _arm(a2: float, a3: float, d: tuple[float, float, float, float], limits: JointLimits, rate: float) -> UrArm:
    d1, d4, d5, d6 = d
    return UrArm((0.0, a2, a3, 0.0, 0.0, 0.0), (d1, 0.0, 0.0, d4, d5, d6), limits, rate)


ARMS = {
    "ur3e": _arm(-0.24355, -0.2132, (0.15185, 0.13105, 0.08535, 0.0921), UR3, E_HZ),
    "ur5e": _arm(-0.425, -0.3922, (0.1625, 0.1333, 0.0997, 0.0996), UR5, E_HZ),
    "ur10e": _arm(-0.6127, -0.57155, (0.1807, 0.17415, 0.11985, 0.11655), UR10, E_HZ),
    "ur16e": _arm(-0.4784, -0.36, (0.1807, 0.17415, 0.11985, 0.11655), UR16, E_HZ),
    "ur3": _arm(-0.24365, -0.21325, (0.1519, 0.11235, 0.08535, 0.0819), UR3, CB_HZ),
    "ur5": _arm(-0.425, -0.39225, (0.089159, 0.10915, 0.09465, 0.0823), UR5, CB_HZ),
    "ur10": _arm(-0.612, -0.5723, (0.1273, 0.163941, 0.1157, 0.0922), UR10, CB_HZ),
}
