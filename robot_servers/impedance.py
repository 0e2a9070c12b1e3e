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

from robot_servers.interface import Array, Compliance, RobotError

FILTER_PER_MS = 0.005
TORQUE_STEP_PER_MS = 1.0  # Nm
TORQUE_LIMITS = np.array([87.0, 87.0, 87.0, 87.0, 12.0, 12.0, 12.0])  # Nm, Franka Control Interface documentation
INTEGRAL_BOUND = np.array([0.1, 0.1, 0.1, 0.3, 0.3, 0.3])  # m·ticks, half angles·ticks
PROJECTOR_DAMPING = 1e-4  # keeps the null-space projector finite at singularities; leaks < 1 % elsewhere
SETTLED = 1e-9  # difference, relative to 1 + gain, at which the filter of the gains has arrived

Quat = tuple[float, float, float, float]


def _gains(c: Compliance) -> Array:
    """The filtered parameters in one array (20,): K (6), D (6), Ki (6), posture and joint-1 stiffness."""
    pairs = (
        c.translational_stiffness,
        c.rotational_stiffness,
        c.translational_damping,
        c.rotational_damping,
        c.translational_ki,
        c.rotational_ki,
    )
    return np.append(np.repeat(pairs, 3), (c.nullspace_stiffness, c.joint1_nullspace_stiffness))


def _turn(a: Quat, b: Quat) -> Quat:
    """The rotation ``a·b⁻¹`` the short way round. Plain floats: ten times faster than arrays of four."""
    ax, ay, az, aw = a
    bx, by, bz, bw = b
    w = aw * bw + ax * bx + ay * by + az * bz
    sign = 1.0 if w >= 0.0 else -1.0
    return (
        sign * (ax * bw - aw * bx - ay * bz + az * by),
        sign * (ay * bw - aw * by - az * bx + ax * bz),
        sign * (az * bw - aw * bz - ax * by + ay * bx),
        sign * w,
    )


def _slerp(a: Quat, b: Quat, part: float) -> Quat:
    """The rotation at ``part`` (0 … 1) of the short way from ``a`` to ``b`` (Shoemake 1985)."""
    cosine = a[0] * b[0] + a[1] * b[1] + a[2] * b[2] + a[3] * b[3]
    sign = 1.0 if cosine >= 0.0 else -1.0
    angle = math.acos(min(1.0, abs(cosine)))
    if angle < 1e-9:
        return b
    near, far = math.sin((1.0 - part) * angle) / math.sin(angle), sign * math.sin(part * angle) / math.sin(angle)
    x, y, z, w = (near * p + far * q for p, q in zip(a, b, strict=True))
    size = math.sqrt(x * x + y * y + z * z + w * w)
    return x / size, y / size, z / size, w / size


def _quat(pose: Array) -> Quat:
    x, y, z, w = pose[3:].tolist()
    return x, y, z, w


class Impedance:
    """The law and its state. Call `start`, then `torque` once per tick of ``dt`` s."""

    def __init__(self, dt: float, compliance: Compliance | None = None) -> None:
        self._ticks = dt * 1000.0  # of the 1 kHz original
        self._filter = 1.0 - (1.0 - FILTER_PER_MS) ** self._ticks
        self._torque_step = TORQUE_STEP_PER_MS * self._ticks
        self._damping = np.diag(np.full(6, PROJECTOR_DAMPING))
        self.set_compliance(compliance or Compliance())
        self.start(np.array([0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0]), np.zeros(7))

    def set_compliance(self, compliance: Compliance) -> None:
        """New parameters: clips act from the next tick, gains through the filter."""
        self._goal_gains = _gains(compliance)
        self._low = -np.array(compliance.translational_clip_neg + compliance.rotational_clip_neg)
        self._high = np.array(compliance.translational_clip + compliance.rotational_clip)
        self._gains_settled = False

    def start(self, pose: Array, q: Array) -> None:
        """Begin at rest: hold ``pose`` (7,), keep the posture ``q`` (7,) rad, forget filters and integral."""
        self._goal = np.array(pose)
        self._position, self._rotation = self._goal[:3].copy(), _quat(self._goal)
        self._goal_rotation = self._rotation
        self._posture = np.array(q)
        self._use_gains(self._goal_gains.copy())
        self._gains_settled = True
        self._integral = np.zeros(6)
        self._last = np.zeros(7)

    def set_target(self, pose: Array) -> None:
        """Move towards ``pose`` (7,) m and quaternion xyzw, base frame. A new pose resets the integral."""
        if not np.array_equal(pose, self._goal):
            self._goal = np.array(pose)
            self._goal_rotation = _quat(self._goal)
            self._integral[:] = 0.0

    def error(self, pose: Array) -> Array:
        """Clipped error (6,) of the measured ``pose`` (7,): metres, and half angles about the base axes."""
        e = np.empty(6)
        e[:3] = pose[:3] - self._position
        e[3:] = _turn(_quat(pose), self._rotation)[:3]
        return np.minimum(np.maximum(e, self._low), self._high)

    def torque(self, pose: Array, q: Array, dq: Array, jacobian: Array, coriolis: Array) -> Array:
        """Joint torques (7,) Nm of this tick, without gravity compensation.

        ``pose`` (7,) and ``jacobian`` (6, 7) belong to the TCP in the base frame; ``q``, ``dq`` (7,)
        rad and rad/s; ``coriolis`` (7,) Nm.
        """
        self._advance_filters()
        e = self.error(pose)
        self._integrate(e)
        wrench = -self._k * e - self._d * (jacobian @ dq) - self._ki * self._integral
        posture = self._posture_k * (self._posture - q) - self._posture_d * dq
        # Jᵀ·wrench and the projection −Jᵀ(JJᵀ)⁻¹J·posture share one product with Jᵀ.
        reach = np.linalg.solve(jacobian @ jacobian.T + self._damping, jacobian @ posture)
        return self._limit(jacobian.T @ (wrench - reach) + posture + coriolis)

    def _integrate(self, e: Array) -> None:
        total = self._integral + e * self._ticks
        self._integral = np.minimum(np.maximum(total, -INTEGRAL_BOUND), INTEGRAL_BOUND)

    def _use_gains(self, gains: Array) -> None:
        """Split the filtered gains. Joint 1 multiplies the posture's stiffness and critical damping by its own."""
        self._gain = gains
        self._k, self._d, self._ki = gains[:6], gains[6:12], gains[12:18]
        stiffness, joint1 = gains[18:].tolist()
        self._posture_k = np.full(7, stiffness)
        self._posture_d = np.full(7, 2.0 * math.sqrt(stiffness))
        self._posture_k[0] *= joint1
        self._posture_d[0] *= 2.0 * math.sqrt(joint1)

    def _advance_filters(self) -> None:
        self._position += self._filter * (self._goal[:3] - self._position)
        if self._rotation != self._goal_rotation:
            self._rotation = _slerp(self._rotation, self._goal_rotation, self._filter)
        if not self._gains_settled:
            rest = self._goal_gains - self._gain
            self._use_gains(self._gain + self._filter * rest)
            self._gains_settled = bool(np.all(np.abs(rest) <= SETTLED * (1.0 + self._goal_gains)))

    def _limit(self, tau: Array) -> Array:
        """At most 1 Nm per millisecond away from the last torques, and within the motors' limits.

        Raises `RobotError` for torques that are not finite.
        """
        if not math.isfinite(float(tau.sum())):  # comparisons with nan would let it through
            raise RobotError(f"the impedance law asks for torques that are not finite: {tau.tolist()}")
        low = np.maximum(self._last - self._torque_step, -TORQUE_LIMITS)
        high = np.minimum(self._last + self._torque_step, TORQUE_LIMITS)
        self._last = np.minimum(np.maximum(tau, low), high)
        return self._last
