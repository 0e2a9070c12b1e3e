"""The clipped Cartesian spring of `robot_servers.impedance`, for an arm that takes a wrench instead of torques.

With the error ``e = measured − target``, clipped per axis to ``[−neg, +clip]``, the wrench that the arm
is to exert at its TCP is ::

    w = −K·e − D·v − Ki·∫e

in the base frame. Its rotational error is the vector part of the error quaternion, about half of the
angle. Targets and gains pass the same filter of 0.005 per millisecond as there; the clips act at once.
"""

from __future__ import annotations

import numpy as np

from robot_servers.geometry import quat_conj, quat_mul, quat_normalise, quat_to_rotvec, rotvec_to_quat
from robot_servers.impedance import FILTER_PER_MS, INTEGRAL_BOUND
from robot_servers.interface import Array, Compliance

REST = np.array([0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0])


class WrenchLaw:
    """The law and its state: `start`, then `wrench` once per tick of ``dt`` s.

    ``force`` N and ``torque`` Nm bound the length of either half of the wrench, whatever the gains are.
    """

    def __init__(self, dt: float, force: float, torque: float) -> None:
        self._ticks = dt * 1000.0  # of the 1 kHz original, for which the rates are defined
        self._filter = 1.0 - (1.0 - FILTER_PER_MS) ** self._ticks
        self._most = (force, torque)
        self.set_compliance(Compliance())
        self.start(REST)

    def set_compliance(self, compliance: Compliance) -> None:
        """New parameters: clips act from the next tick, gains through the filter. There is no null space."""
        c = compliance
        pairs = (
            (c.translational_stiffness, c.rotational_stiffness),
            (c.translational_damping, c.rotational_damping),
            (c.translational_ki, c.rotational_ki),
        )
        self._goal_gains = np.repeat(np.array(pairs), 3, axis=1)
        self._low = -np.array(c.translational_clip_neg + c.rotational_clip_neg)
        self._high = np.array(c.translational_clip + c.rotational_clip)

    def start(self, pose: Array) -> None:
        """Begin at rest: hold ``pose`` (7,), forget filters and integral."""
        self._goal = np.array(pose)
        self._target = self._goal.copy()
        self._gains = self._goal_gains.copy()
        self._integral = np.zeros(6)

    def set_target(self, pose: Array) -> None:
        """Move towards ``pose`` (7,) m and quaternion xyzw, base frame. A new pose resets the integral."""
        if not np.array_equal(pose, self._goal):
            self._goal = np.array(pose)
            self._integral[:] = 0.0

    def error(self, pose: Array) -> Array:
        """Clipped error (6,) of the measured ``pose`` (7,): metres, and half angles about the base axes."""
        turn = quat_normalise(quat_mul(pose[3:], quat_conj(self._target[3:])))
        e = np.concatenate([pose[:3] - self._target[:3], turn[:3]])
        return np.minimum(np.maximum(e, self._low), self._high)

    def wrench(self, pose: Array, vel: Array) -> Array:
        """Force (3,) N and torque (3,) Nm of this tick, for the TCP's measured ``pose`` (7,) and ``vel`` (6,)."""
        self.advance()
        e = self.error(pose)
        total = self._integral + e * self._ticks
        self._integral = np.minimum(np.maximum(total, -INTEGRAL_BOUND), INTEGRAL_BOUND)
        stiffness, damping, ki = self._gains
        return self._bounded(-stiffness * e - damping * vel - ki * self._integral)

    def advance(self) -> Array:
        """Filter target and gains by one tick; the filtered target (7,)."""
        turn = quat_to_rotvec(quat_mul(self._goal[3:], quat_conj(self._target[3:])))
        self._target[:3] += self._filter * (self._goal[:3] - self._target[:3])
        self._target[3:] = quat_normalise(quat_mul(rotvec_to_quat(self._filter * turn), self._target[3:]))
        self._gains += self._filter * (self._goal_gains - self._gains)
        return self._target

    def _bounded(self, wrench: Array) -> Array:
        for half, most in zip((wrench[:3], wrench[3:]), self._most, strict=True):
            size = float(np.linalg.norm(half))
            if size > most:
                half *= most / size
        return wrench
