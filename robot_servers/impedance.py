"""Cartesian impedance with reference limiting, one tick at a time (SERL, arXiv 2401.16013, section IV-C).

With the error ``e = measured − target``, clipped per axis to ``[−neg, +clip]``, one tick gives ::

    tau = Jᵀ(−K·e − D·J·dq − Ki·∫e) + (I − Jᵀ(JJᵀ)⁻¹J)·(posture PD) + Coriolis

The rotational part of ``e`` is the vector part of the error quaternion in the base frame, about half
of the rotation angle: a stiffness of 150 acts like 75 Nm/rad, and its clips are half angles too.
Because ``e`` is clipped, the stationary force of an axis never exceeds stiffness times clip; because
of its sign ``translational_clip[2]`` bounds the push upwards of an arm above its target, that is
DOWNWARD onto a table it cannot pass, and ``translational_clip_neg[2]`` the push upward.

Targets and gains are not applied at once: they pass a first-order filter of 0.005 per millisecond,
a time constant of 0.2 s. That is longer than one policy step of 0.1 s, so a target given for one step
only is reached by about 40 %. The clips act at once. All rates are defined per millisecond of the
1 kHz original, and scaled here to the length of a tick.
"""

from __future__ import annotations

import math

import numpy as np

from robot_servers.geometry import quat_conj, quat_mul, quat_normalise, quat_to_rotvec, rotvec_to_quat
from robot_servers.interface import Array, Compliance

FILTER_PER_MS = 0.005
TORQUE_STEP_PER_MS = 1.0  # Nm
TORQUE_LIMITS = np.array([87.0, 87.0, 87.0, 87.0, 12.0, 12.0, 12.0])  # Nm, Franka Control Interface documentation
INTEGRAL_BOUND = np.array([0.1, 0.1, 0.1, 0.3, 0.3, 0.3])  # m·ticks, half angles·ticks
PROJECTOR_DAMPING = 1e-4  # keeps the null-space projector finite at singularities; leaks < 1 % elsewhere


def _gains(c: Compliance) -> Array:
    """The filtered parameters in one array (20,): K (6), D (6), Ki (6), posture and joint-1 stiffness."""
    triples = (
        c.translational_stiffness,
        c.rotational_stiffness,
        c.translational_damping,
        c.rotational_damping,
        c.translational_ki,
        c.rotational_ki,
    )
    return np.append(np.repeat(triples, 3), (c.nullspace_stiffness, c.joint1_nullspace_stiffness))


class Impedance:
    """The law and its state. Call `start`, then `torque` once per tick of ``dt`` s."""

    def __init__(self, dt: float, compliance: Compliance | None = None) -> None:
        self._ticks = dt * 1000.0  # of the 1 kHz original
        self._filter = 1.0 - (1.0 - FILTER_PER_MS) ** self._ticks
        self._torque_step = TORQUE_STEP_PER_MS * self._ticks
        self.set_compliance(compliance or Compliance())
        self.start(np.array([0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0]), np.zeros(7))

    def set_compliance(self, compliance: Compliance) -> None:
        """New parameters: clips act from the next tick, gains through the filter."""
        self._goal_gains = _gains(compliance)
        self._low = -np.array(compliance.translational_clip_neg + compliance.rotational_clip_neg)
        self._high = np.array(compliance.translational_clip + compliance.rotational_clip)

    def start(self, pose: Array, q: Array) -> None:
        """Begin at rest: hold ``pose`` (7,), keep the posture ``q`` (7,) rad, forget filters and integral."""
        self._goal = np.array(pose)
        self._position, self._rotation = self._goal[:3].copy(), self._goal[3:].copy()
        self._posture = np.array(q)
        self._gain = self._goal_gains.copy()
        self._integral = np.zeros(6)
        self._last = np.zeros(7)

    def set_target(self, pose: Array) -> None:
        """Move towards ``pose`` (7,) m and quaternion xyzw, base frame. A new pose resets the integral."""
        if not np.array_equal(pose, self._goal):
            self._goal = np.array(pose)
            self._integral[:] = 0.0

    def error(self, pose: Array) -> Array:
        """Clipped error (6,) of the measured ``pose`` (7,): metres, and half angles about the base axes."""
        e = np.empty(6)
        e[:3] = pose[:3] - self._position
        turn = quat_mul(pose[3:], quat_conj(self._rotation))
        e[3:] = turn[:3] if turn[3] >= 0.0 else -turn[:3]
        return np.minimum(np.maximum(e, self._low), self._high)

    def torque(self, pose: Array, q: Array, dq: Array, jacobian: Array, coriolis: Array) -> Array:
        """Joint torques (7,) Nm of this tick, without gravity compensation.

        ``pose`` (7,) and ``jacobian`` (6, 7) belong to the TCP in the base frame; ``q``, ``dq`` (7,)
        rad and rad/s; ``coriolis`` (7,) Nm.
        """
        self._advance_filters()
        e = self.error(pose)
        self._integral = np.clip(self._integral + e * self._ticks, -INTEGRAL_BOUND, INTEGRAL_BOUND)
        k = self._gain
        wrench = -k[:6] * e - k[6:12] * (jacobian @ dq) - k[12:18] * self._integral
        posture = self._posture_torque(q, dq)
        matrix = jacobian @ jacobian.T
        matrix.flat[::7] += PROJECTOR_DAMPING
        # Jᵀ·wrench and the projection −Jᵀ(JJᵀ)⁻¹J·posture share one product with Jᵀ.
        task = jacobian.T @ (wrench - np.linalg.solve(matrix, jacobian @ posture))
        return self._limit(task + posture + coriolis)

    def _posture_torque(self, q: Array, dq: Array) -> Array:
        """PD towards the posture; joint 1 has its own stiffness on top, critically damped like the others."""
        stiffness, joint1 = float(self._gain[18]), float(self._gain[19])
        stretch, speed = self._posture - q, dq.copy()
        stretch[0] *= joint1
        speed[0] *= 2.0 * math.sqrt(joint1)
        return stiffness * stretch - 2.0 * math.sqrt(stiffness) * speed

    def _advance_filters(self) -> None:
        self._gain += self._filter * (self._goal_gains - self._gain)
        self._position += self._filter * (self._goal[:3] - self._position)
        if not np.array_equal(self._rotation, self._goal[3:]):
            rest = quat_to_rotvec(quat_mul(self._goal[3:], quat_conj(self._rotation)))
            part = rotvec_to_quat(self._filter * rest)
            self._rotation = quat_normalise(quat_mul(part, self._rotation))

    def _limit(self, tau: Array) -> Array:
        step = np.minimum(np.maximum(tau - self._last, -self._torque_step), self._torque_step)
        self._last = np.minimum(np.maximum(self._last + step, -TORQUE_LIMITS), TORQUE_LIMITS)
        return self._last
