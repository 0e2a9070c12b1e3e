"""Rotations and poses. Quaternions are scalar-last ``(x, y, z, w)``; a pose is ``[x, y, z, qx, qy, qz, qw]``.

All functions are pure, take and return float64 arrays without a batch dimension, and cost a few
microseconds: they run in the robot's control cycle, where general libraries are ten times slower.
"""

from __future__ import annotations

import math

import numpy as np

from robot_servers.interface import Array


def quat_mul(a: Array, b: Array) -> Array:
    """Hamilton product: the rotation ``b`` followed by the rotation ``a``."""
    ax, ay, az, aw = a.tolist()
    bx, by, bz, bw = b.tolist()
    return np.array(
        [
            aw * bx + ax * bw + ay * bz - az * by,
            aw * by - ax * bz + ay * bw + az * bx,
            aw * bz + ax * by - ay * bx + az * bw,
            aw * bw - ax * bx - ay * by - az * bz,
        ]
    )


def quat_conj(q: Array) -> Array:
    """The inverse of a unit quaternion."""
    return np.array([-q[0], -q[1], -q[2], q[3]])


def quat_normalise(q: Array) -> Array:
    """The unit quaternion with a non-negative scalar part, so that equal rotations compare equal."""
    q = q / math.sqrt(float(q @ q))
    return -q if q[3] < 0 else q


def quat_rotate(q: Array, v: Array) -> Array:
    """Rotate the vector ``v`` (3,) by ``q``."""
    return quat_to_matrix(q) @ v


def quat_to_matrix(q: Array) -> Array:
    """Rotation matrix (3, 3)."""
    x, y, z, w = q.tolist()
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
            [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
            [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
        ]
    )


def matrix_to_quat(m: Array) -> Array:
    """Unit quaternion of a rotation matrix, by the largest of the four components (Shepperd 1978)."""
    squares = np.array(
        [
            1 + m[0, 0] - m[1, 1] - m[2, 2],
            1 - m[0, 0] + m[1, 1] - m[2, 2],
            1 - m[0, 0] - m[1, 1] + m[2, 2],
            1 + m[0, 0] + m[1, 1] + m[2, 2],
        ]
    )
    largest = int(np.argmax(squares))
    s = 0.5 / math.sqrt(squares[largest])
    cross = (m[2, 1] - m[1, 2], m[0, 2] - m[2, 0], m[1, 0] - m[0, 1])
    plus = (m[1, 0] + m[0, 1], m[0, 2] + m[2, 0], m[2, 1] + m[1, 2])  # xy, xz, yz
    full = squares[largest] * s
    rows = (
        (full, plus[0] * s, plus[1] * s, cross[0] * s),
        (plus[0] * s, full, plus[2] * s, cross[1] * s),
        (plus[1] * s, plus[2] * s, full, cross[2] * s),
        (cross[0] * s, cross[1] * s, cross[2] * s, full),
    )
    return quat_normalise(np.array(rows[largest]))


def rotvec_to_quat(r: Array) -> Array:
    """Quaternion of a rotation vector (axis times angle, rad)."""
    angle = math.sqrt(float(r @ r))
    if angle < 1e-12:
        return np.array([0.5 * r[0], 0.5 * r[1], 0.5 * r[2], 1.0])
    s = math.sin(0.5 * angle) / angle
    return np.array([r[0] * s, r[1] * s, r[2] * s, math.cos(0.5 * angle)])


def quat_to_rotvec(q: Array) -> Array:
    """Rotation vector (rad) of the shorter way round; its norm is the rotation angle in [0, π]."""
    q = quat_normalise(q)
    sine = math.sqrt(float(q[:3] @ q[:3]))
    if sine < 1e-12:
        return 2.0 * q[:3]
    return q[:3] * (2.0 * math.atan2(sine, float(q[3])) / sine)


def quat_angle(a: Array, b: Array) -> float:
    """Angle (rad) of the rotation between two orientations."""
    return float(np.linalg.norm(quat_to_rotvec(quat_mul(a, quat_conj(b)))))


def euler_to_quat(xyz: Array) -> Array:
    """Quaternion of extrinsic x, y, z Euler angles (rad), as in SERL's HTTP routes."""
    qx, qy, qz = (rotvec_to_quat(axis * angle) for axis, angle in zip(np.eye(3), xyz, strict=True))
    return quat_normalise(quat_mul(qz, quat_mul(qy, qx)))


def quat_to_euler(q: Array) -> Array:
    """Extrinsic x, y, z Euler angles (rad); the middle angle lies in [−π/2, π/2]."""
    m = quat_to_matrix(q)
    pitch = math.asin(min(1.0, max(-1.0, -m[2, 0])))
    if abs(m[2, 0]) > 1.0 - 1e-12:  # gimbal lock: only roll ∓ yaw is defined, so yaw := 0
        return np.array([math.atan2(-m[1, 2], m[1, 1]), pitch, 0.0])
    return np.array([math.atan2(m[2, 1], m[2, 2]), pitch, math.atan2(m[1, 0], m[0, 0])])


def pose_mul(a: Array, b: Array) -> Array:
    """The pose ``b``, given in the frame of the pose ``a``, in the frame that ``a`` is given in."""
    return np.concatenate([a[:3] + quat_rotate(a[3:], b[:3]), quat_normalise(quat_mul(a[3:], b[3:]))])


def pose_inv(a: Array) -> Array:
    """The pose of the outer frame seen from ``a``."""
    inverse = quat_conj(a[3:])
    return np.concatenate([-quat_rotate(inverse, a[:3]), inverse])


def apply_delta(pose: Array, delta: Array) -> Array:
    """Move ``pose`` by ``delta`` = translation (3,) m and rotation vector (3,) rad, both in the frame of ``pose``."""
    return pose_mul(pose, np.concatenate([delta[:3], rotvec_to_quat(delta[3:])]))


def delta_between(pose: Array, target: Array) -> Array:
    """The inverse of `apply_delta`: the translation and rotation vector that lead from ``pose`` to ``target``."""
    relative = pose_mul(pose_inv(pose), target)
    return np.concatenate([relative[:3], quat_to_rotvec(relative[3:])])
