"""SERL's impedance law through franky's tracker: what the two do differently is put right in targets and gains.

============================ ============================================ ==========================================
SERL (`robot_servers.impedance`) franky's tracker                         here
============================ ============================================ ==========================================
error: vector part of the    error: rotation vector, about twice that     stiffness halved; a clip c acts at the
error quaternion                                                          angle 2·asin(c)
clips per axis and direction, clips symmetric, fixed when the controller  the target is kept within the clips of the
live                         starts                                       measured pose; franky's are an outer bound
target filter 0.005 per ms   none                                         `TargetFilter`, at the rate of the cycle
gain filter 0.005 per ms     a time constant                              the same one, `GAIN_TIME`
integral                     none                                         refused
============================ ============================================ ==========================================

Clipping relative to a pose that is up to one cycle old adds damping of stiffness times half a cycle, at 2000 N/m and
200 Hz 5 Ns/m beside the law's own 89.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from robot_servers.geometry import quat_conj, quat_mul, quat_normalise, quat_to_rotvec, rotvec_to_quat
from robot_servers.impedance import FILTER_PER_MS
from robot_servers.interface import Array, Compliance, RobotError

GAIN_TIME = -0.001 / math.log(1.0 - FILTER_PER_MS)  # s, 0.2
OUTER_CLIP = 0.1  # m; the widest clip that SERL's server allows too
OUTER_ANGLE = 2.0 * math.asin(0.1)  # rad
LONGEST_STEP = 0.05  # s that one step of the filter covers at most: a cycle that was held up must not let it jump


@dataclass(frozen=True)
class Gains:
    """What the tracker is given: K and D (6,) N/m, Nm/rad and Ns/m, Nms/rad; posture K and D (7,) Nm/rad, Nms/rad."""

    stiffness: Array
    damping: Array
    posture_stiffness: Array
    posture_damping: Array


LIMP = Gains(  # guiding by hand: only enough damping to keep the arm from flying
    np.zeros(6), np.array([5.0, 5.0, 5.0, 0.5, 0.5, 0.5]), np.zeros(7), np.zeros(7)
)


def check(compliance: Compliance) -> None:
    """Raises `RobotError` for what the tracker cannot do."""
    for name in ("translational_ki", "rotational_ki"):
        value = getattr(compliance, name)
        if value != 0.0:
            raise RobotError(
                f"{name} {value:g}: franky's impedance tracker has no integral term; set it to 0 and raise the "
                "stiffness instead (the clips bound the force)"
            )


def tracker_gains(compliance: Compliance) -> Gains:
    """SERL's parameters for a tracker with rotation-vector error; damping acts on velocities in both and stays."""
    stiffness = (compliance.translational_stiffness, 0.5 * compliance.rotational_stiffness)
    damping = (compliance.translational_damping, compliance.rotational_damping)
    posture = np.full(7, compliance.nullspace_stiffness)
    posture_damping = 2.0 * np.sqrt(posture)
    posture[0] *= compliance.joint1_nullspace_stiffness
    posture_damping[0] *= 2.0 * math.sqrt(compliance.joint1_nullspace_stiffness)  # as SERL multiplies them
    return Gains(np.repeat(stiffness, 3), np.repeat(damping, 3), posture, posture_damping)


class TargetFilter:
    """From the guard's target to the tracker's: filtered, then kept within the clips of the measured pose.

    ``per_ms`` is the part of the remaining way that a millisecond covers; 1 switches the filter off.
    """

    def __init__(self, per_ms: float = FILTER_PER_MS) -> None:
        self._rest = 1.0 - per_ms  # of the way that is left after a millisecond
        self._goal = self._target = np.array([0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0])
        self.set_clips(Compliance())

    def start(self, pose: Array) -> None:
        """Begin at rest at ``pose`` (7,)."""
        self._goal, self._target = pose.copy(), pose.copy()

    def set_goal(self, pose: Array) -> None:
        """Move towards ``pose`` (7,), base frame."""
        self._goal = pose

    def set_clips(self, compliance: Compliance) -> None:
        """The clips act from the next step on."""
        self._low = -np.array(compliance.translational_clip_neg + compliance.rotational_clip_neg)
        self._high = np.array(compliance.translational_clip + compliance.rotational_clip)

    def step(self, seconds: float, measured: Array) -> Array:
        """The tracker's next target (7,), ``seconds`` after the last one, for the ``measured`` pose (7,)."""
        part = 1.0 - self._rest ** (1000.0 * min(seconds, LONGEST_STEP))
        target = self._target
        turn = quat_to_rotvec(quat_mul(self._goal[3:], quat_conj(target[3:])))
        rotation = quat_normalise(quat_mul(rotvec_to_quat(part * turn), target[3:]))
        self._target = np.concatenate([target[:3] + part * (self._goal[:3] - target[:3]), rotation])
        return self._clipped(measured)

    def _clipped(self, measured: Array) -> Array:
        """Unclipped axes keep the target itself: noise of the measurement must not come back as a command."""
        target = self._target
        error = quat_normalise(quat_mul(measured[3:], quat_conj(target[3:])))
        e = np.concatenate([measured[:3] - target[:3], error[:3]])
        bound = np.minimum(np.maximum(e, self._low), self._high)
        position = target[:3] + (e - bound)[:3]
        if np.array_equal(e[3:], bound[3:]):
            return np.concatenate([position, target[3:]])
        rest = np.append(bound[3:], math.sqrt(max(0.0, 1.0 - float(bound[3:] @ bound[3:]))))
        return np.concatenate([position, quat_normalise(quat_mul(quat_conj(rest), measured[3:]))])
