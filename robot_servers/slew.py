"""The way from one target to the next: a set point that never jumps, at bounded speed and acceleration.

Targets come ten times a second, an arm is driven hundreds of times a second. `Slew` moves a set point
towards the newest target: straight, as fast as it can still stop in time, so that it arrives at rest.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from robot_servers.geometry import quat_angle, quat_conj, quat_mul, quat_normalise, quat_to_rotvec, rotvec_to_quat
from robot_servers.interface import Array, Limits
from robot_servers.limits import norm, turn_towards

ZERO = np.zeros(3)


@dataclass(frozen=True)
class Pace:
    """Bounds of a motion: m/s, m/s², rad/s, rad/s²."""

    speed: float
    acceleration: float
    turn_speed: float
    turn_acceleration: float

    @classmethod
    def of(cls, limits: Limits, speed: float = 1.0, acceleration: float = 1.0) -> Pace:
        """What ``limits`` allow, or shares (0 … 1] of their speeds and accelerations."""
        return cls(
            limits.speed * speed,
            limits.acceleration * acceleration,
            limits.turn_speed * speed,
            limits.turn_acceleration * acceleration,
        )


class Slew:
    """A set point ``pose`` (7,) on its way. Call `stay` to begin, then `advance` once per cycle of ``dt`` s.

    It keeps within the box and the tilt of the limits as long as the targets do: at a face of the box it
    stops at once, because the box comes before the acceleration. Begun outside, it goes no farther out.
    """

    def __init__(self, dt: float) -> None:
        self._dt = dt
        self.pose: Array | None = None
        self._velocity, self._spin = ZERO, ZERO  # m/s and rad/s of the set point, base frame

    def stay(self, pose: Array) -> None:
        """Be at ``pose`` (7,), at rest."""
        self.pose = np.array(pose)
        self._velocity, self._spin = ZERO, ZERO

    def advance(self, goal: Array, measured: Array, limits: Limits, pace: Pace) -> Array:
        """The set point (7,) of this cycle, one period nearer to ``goal`` (7,).

        It waits for an arm at ``measured`` (7,) that would be left behind by more than ``limits.step`` or ``turn``.
        """
        assert self.pose is not None, "stay() comes first"
        if not self._velocity.any() and not self._spin.any() and np.array_equal(self.pose, goal):
            return self.pose
        ahead = np.concatenate([self._move(goal[:3], limits, pace), self._turn(goal[3:], limits, pace)])
        if self._leaves_behind(ahead, measured, limits):
            self._velocity, self._spin = ZERO, ZERO
            return self.pose
        self.pose = ahead
        return self.pose

    def _leaves_behind(self, ahead: Array, measured: Array, limits: Limits) -> bool:
        """Whether going on would only stretch the distance to an arm that does not follow."""
        assert self.pose is not None
        gap, lag = norm(ahead[:3] - measured[:3]), quat_angle(ahead[3:], measured[3:])
        farther = gap > norm(self.pose[:3] - measured[:3])
        more_turned = lag > quat_angle(self.pose[3:], measured[3:])
        return (farther and gap > limits.step) or (more_turned and lag > limits.turn)

    def _move(self, goal: Array, limits: Limits, pace: Pace) -> Array:
        assert self.pose is not None
        here = self.pose[:3]
        velocity = self._steer(goal - here, self._velocity, pace.speed, pace.acceleration)
        low, high = np.minimum(limits.box_low, here), np.maximum(limits.box_high, here)
        there = np.clip(here + velocity * self._dt, low, high)
        if norm(goal - there) < 1e-9:  # rounding, which would go on for ever
            self._velocity = ZERO
            return goal
        self._velocity = (there - here) / self._dt
        return there

    def _turn(self, goal: Array, limits: Limits, pace: Pace) -> Array:
        assert self.pose is not None
        here, centre = self.pose[3:], np.array(limits.orientation)
        way = quat_to_rotvec(quat_mul(goal, quat_conj(here)))
        self._spin = self._steer(way, self._spin, pace.turn_speed, pace.turn_acceleration)
        there = quat_normalise(quat_mul(rotvec_to_quat(self._spin * self._dt), here))
        if norm(self._spin) * self._dt >= norm(way) - 1e-9 and quat_angle(there, goal) < 1e-9:
            self._spin = ZERO
            return goal
        reach = max(limits.tilt, quat_angle(here, centre))
        if quat_angle(there, centre) > reach:
            self._spin = ZERO
            return turn_towards(centre, there, reach)
        return there

    def _steer(self, way: Array, velocity: Array, speed: float, acceleration: float) -> Array:
        """The next velocity: along ``way``, no faster than one can still stop at its end, changed by a·dt at most."""
        distance, change = norm(way), acceleration * self._dt
        wanted = ZERO if distance == 0.0 else way * (min(speed, self._stoppable(distance, change)) / distance)
        difference = wanted - velocity
        size = norm(difference)
        if size > change:
            wanted = velocity + difference * (change / size)
        return wanted * min(1.0, speed / max(norm(wanted), 1e-12))  # the bound may have sunk since the last cycle

    def _stoppable(self, distance: float, change: float) -> float:
        """The highest speed from which periods that each take ``change`` m/s off it end exactly after ``distance`` m.

        In n periods one goes ``dt·(n·v − change·n·(n − 1)/2)``; n is the least for which v ≤ n·``change``.
        """
        way = distance / self._dt
        periods = max(1, math.ceil((math.sqrt(1.0 + 8.0 * way / change) - 1.0) / 2.0))
        return way / periods + change * (periods - 1) / 2.0
