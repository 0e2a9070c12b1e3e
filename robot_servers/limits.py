"""What the limits admit, as pure functions: the nearest admissible target, and what bent it.

The rule for targets. Let ``m`` be the measured pose.

1. The target is pulled back along the line from ``m`` until it is within ``step`` and ``turn``.
2. It is then moved to the nearest point of the box, and to the nearest orientation within ``tilt``.
   If ``m`` itself is inside, this never leads away from ``m``, so that step and turn still hold.
3. If ``m`` is outside and the inside is farther than ``step`` (``turn``), the target is the point on
   the way from ``m`` to the inside at that distance: strictly less outside than ``m``.
4. If the joints would leave their range on the way there, it is pulled back towards ``m`` until they do not.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Sequence
from dataclasses import fields, replace

import numpy as np

from robot_servers.geometry import quat_angle, quat_conj, quat_mul, quat_normalise, quat_to_rotvec, rotvec_to_quat
from robot_servers.interface import Array, Bend, Command, CommandRefused, JointLimits, Limits, RobotError, RobotState

UNIT_TOLERANCE = 1e-2  # of a quaternion's norm; more is a bug of the sender, not rounding
AXES = ("x", "y", "z")
RELEASE = 0.7  # of the force or torque limit: commands are taken again when the arm presses less than this
LET_GO = 0.3  # s that a reset which begins pressing waits, held, before it moves or is ended for it
INVERSE_DAMPING = 1e-3  # of the Jacobian's inverse: bounds predicted joint motions at singularities
SCALARS = tuple(item.name for item in fields(Limits) if isinstance(item.default, float))  # more means looser
STATE_SHAPES: dict[str, tuple[int, ...]] = {
    "time": (),
    "pose": (7,),
    "vel": (6,),
    "force": (3,),
    "torque": (3,),
    "gripper": (),
}


def bend_position(asked: Array, measured: Array, limits: Limits) -> tuple[Array, tuple[Bend, ...]]:
    """The nearest admissible target position (3,) m for the ``asked`` one, and what bent it."""
    bends: list[Bend] = []
    target = asked
    distance = norm(asked - measured)
    if distance > limits.step:
        target = measured + (asked - measured) * (limits.step / distance)
        bends.append(Bend("step", distance, limits.step))
    inside = np.clip(target, limits.box_low, limits.box_high)
    bends += [_box_bend(axis, asked, inside) for axis in range(3) if inside[axis] != target[axis]]
    back = norm(inside - measured)
    if back > limits.step:  # rounding, or measured outside the box (rule 3)
        inside = measured + (inside - measured) * (limits.step / back)
    return inside, tuple(bends)


def bend_orientation(asked: Array, measured: Array, limits: Limits) -> tuple[Array, tuple[Bend, ...]]:
    """The nearest admissible target orientation (unit quaternion) for the ``asked`` one, and what bent it."""
    bends: list[Bend] = []
    target = asked
    centre = np.array(limits.orientation)
    turn = quat_angle(asked, measured)
    if turn > limits.turn:
        target = turn_towards(measured, asked, limits.turn)
        bends.append(Bend("turn", turn, limits.turn))
    tilt = quat_angle(target, centre)
    if tilt > limits.tilt:
        target = turn_towards(centre, target, limits.tilt)
        bends.append(Bend("tilt", tilt, limits.tilt))
        if quat_angle(target, measured) > limits.turn:  # measured outside the tilt (rule 3)
            target = turn_towards(measured, centre, limits.turn)
    return target, tuple(bends)


def base_delta(pose: Array, target: Array) -> Array:
    """The motion from ``pose`` to ``target``: translation (3,) m and rotation vector (3,) rad, base frame."""
    return np.concatenate([target[:3] - pose[:3], quat_to_rotvec(quat_mul(target[3:], quat_conj(pose[3:])))])


def pose_between(poses: Sequence[tuple[float, Array]], time: float) -> Array | None:
    """The pose (7,) at ``time`` s, from (time, pose) in order: interpolated, or None before the first of them."""
    after = bisect.bisect_left(poses, time, key=lambda item: item[0])
    if after == len(poses):
        return poses[-1][1] if poses else None
    late, later = poses[after]
    if late == time or after == 0:
        return later if late == time else None
    early, earlier = poses[after - 1]
    part = (time - early) / (late - early)
    angle = part * quat_angle(later[3:], earlier[3:])
    position = earlier[:3] + part * (later[:3] - earlier[:3])
    return np.concatenate([position, turn_towards(quat_normalise(earlier[3:]), quat_normalise(later[3:]), angle)])


def turn_towards(start: Array, goal: Array, angle: float) -> Array:
    """``start`` turned by at most ``angle`` rad towards ``goal``, the shorter way round."""
    difference = quat_to_rotvec(quat_mul(goal, quat_conj(start)))
    full = norm(difference)
    if full <= angle:
        return goal
    return quat_normalise(quat_mul(rotvec_to_quat(difference * (angle / full)), start))


def rest_target(measured: Array, limits: Limits) -> Array:
    """Where to hold (pose (7,)): the measured pose, or the edge of the limits if it is just past them.

    Past by more than the margin it was pushed there: then holding must not pull it back.
    """
    position = np.clip(measured[:3], limits.box_low, limits.box_high)
    if norm(position - measured[:3]) > limits.margin:
        position = measured[:3]
    orientation = turn_towards(np.array(limits.orientation), measured[3:], limits.tilt)
    if quat_angle(orientation, measured[3:]) > limits.tilt_margin:
        orientation = measured[3:]
    return np.concatenate([position, orientation])


def bend_joints(delta: Array, state: RobotState, joints: JointLimits) -> tuple[float, tuple[Bend, ...]]:
    """How much (0 … 1) of the motion ``delta`` (6,) m and rad, base frame, the joints can go along with.

    Predicts the joints with the damped inverse of the Jacobian. Motion back into the range is never bent.
    """
    dq = _joints_for(delta, state)
    wanted = state.q + dq
    low, high = np.minimum(joints.low, state.q), np.maximum(joints.high, state.q)  # outside already: no farther
    if not ((wanted < low) | (wanted > high)).any():
        return 1.0, ()
    part, worst = 1.0, 0
    for index in range(len(dq)):
        room = (high[index] if dq[index] > 0 else low[index]) - state.q[index]
        if dq[index] and room / dq[index] < part:
            part, worst = room / dq[index], index
    bound = high[worst] if dq[worst] > 0 else low[worst]
    return max(0.0, part), (Bend(f"joint {worst + 1}", float(wanted[worst]), float(bound)),)


def joint_pace(delta: Array, state: RobotState, joints: JointLimits, limits: Limits) -> tuple[float, float]:
    """The shares (0 … 1] of the limits' speeds and accelerations at which no joint exceeds its own.

    On the way along ``delta`` (6,) m and rad, base frame.
    """
    translation, angle = norm(delta[:3]), norm(delta[3:])
    if translation == angle == 0.0:
        return 1.0, 1.0
    motion = np.maximum(np.abs(_joints_for(delta, state)), 1e-9)
    fastest = max(translation / limits.speed, angle / limits.turn_speed)  # s
    hardest = max(translation / limits.acceleration, angle / limits.turn_acceleration)  # s²
    speed = (np.array(joints.speed) * fastest / motion).min()
    acceleration = (np.array(joints.acceleration) * hardest / motion).min()
    return min(1.0, float(speed)), min(1.0, float(acceleration))


def _joints_for(delta: Array, state: RobotState) -> Array:
    """The joint motion (n,) rad of a TCP motion ``delta`` (6,), by the damped inverse of the Jacobian."""
    gram = state.jacobian @ state.jacobian.T
    gram.flat[::7] += INVERSE_DAMPING
    return state.jacobian.T @ np.linalg.solve(gram, delta)


def presses(state: RobotState, limits: Limits) -> bool:
    """Whether the arm presses so hard that it has to let go first."""
    return norm(state.force) > RELEASE * limits.force or norm(state.torque) > RELEASE * limits.torque


def outside(pose: Array, limits: Limits, margin: bool = False) -> tuple[Bend, ...]:
    """Every workspace limit that ``pose`` (7,) breaks; with ``margin``, by more than the stated margin."""
    spare, lean = (limits.margin, limits.tilt_margin) if margin else (0.0, 0.0)
    inside = np.clip(pose[:3], limits.box_low, limits.box_high)
    broken = [_box_bend(axis, pose, inside) for axis in range(3) if abs(inside[axis] - pose[axis]) > spare]
    tilt = quat_angle(pose[3:], np.array(limits.orientation))
    return (*broken, *([Bend("tilt", tilt, limits.tilt)] if tilt > limits.tilt + lean else []))


def parse(command: Command) -> Array:
    """The asked pose (7,) with a unit quaternion. Raises `CommandRefused` for what cannot be meant."""
    try:
        pose = np.array(command.pose, np.float64)
    except (TypeError, ValueError) as error:
        raise CommandRefused(f"the pose is not an array of numbers but {command.pose!r:.60}") from error
    if pose.shape != (7,):
        raise CommandRefused(f"the pose has shape {pose.shape}, but must be (7,): x, y, z, qx, qy, qz, qw")
    if not np.isfinite(pose).all():
        raise CommandRefused(f"the pose is not finite: {pose.tolist()}")
    size = norm(pose[3:])
    if abs(size - 1.0) > UNIT_TOLERANCE:
        raise CommandRefused(f"the quaternion (x, y, z, w) has norm {size:.3f}, but must be 1")
    gripper = command.gripper
    if gripper is not None and not (isinstance(gripper, (int, float)) and 0.0 <= gripper <= 1.0):
        raise CommandRefused(
            f"the gripper is {gripper!r:.40}, but must lie between 0 (closed) and 1 (open), or be None"
        )
    pose[3:] = quat_normalise(pose[3:])
    return pose


def check_limits(limits: Limits) -> Limits:
    """The limits with a unit orientation. Raises `RobotError` on limits that make no sense."""
    values = np.concatenate([np.atleast_1d(np.array(getattr(limits, item.name), float)) for item in fields(limits)])
    if values.shape != (len(SCALARS) + 10,) or not np.isfinite(values).all():
        raise RobotError(f"limits must be finite numbers, with 3 values per box corner: {limits}")
    if not all(low < high for low, high in zip(limits.box_low, limits.box_high, strict=True)):
        raise RobotError(f"limits: box_low {limits.box_low} must lie below box_high {limits.box_high}")
    for name in SCALARS:
        if getattr(limits, name) <= 0:
            raise RobotError(f"limits: {name} is {getattr(limits, name)}, but must be positive")
    size = norm(np.array(limits.orientation))
    if abs(size - 1.0) > UNIT_TOLERANCE:
        raise RobotError(f"limits: orientation has norm {size:.3f}, but must be a unit quaternion (x, y, z, w)")
    x, y, z, w = (value / size for value in limits.orientation)
    return replace(limits, orientation=(x, y, z, w))


def check_state(state: RobotState, joints: int) -> None:
    """Raises `RobotError` for a measurement that no target must be derived from; ``joints`` is their number.

    An orientation that is none would switch off the limits of turn and tilt.
    """
    shapes = {**STATE_SHAPES, "q": (joints,), "dq": (joints,), "jacobian": (6, joints)}
    for name, shape in shapes.items():
        value = np.asarray(getattr(state, name))
        if value.shape != shape:
            raise RobotError(f"it reports a state whose {name} has shape {value.shape}, but must be {shape}")
        if not np.isfinite(value).all():
            raise RobotError(f"it reports a state that is not finite: {name} {value.tolist()}")
    size = norm(state.pose[3:])
    if abs(size - 1.0) > UNIT_TOLERANCE:
        raise RobotError(f"it reports a pose whose quaternion (x, y, z, w) has norm {size:.3f}, but must be 1")


def tightened(wide: Limits, narrow: Limits) -> Limits:
    """``narrow``, checked to lie within ``wide``. Raises `RobotError` naming what would be loosened."""
    narrow = check_limits(narrow)
    looser = [
        f"{name} {getattr(narrow, name)} > {getattr(wide, name)}"
        for name in SCALARS
        if name != "tilt" and getattr(narrow, name) > getattr(wide, name)
    ]
    if any(new < old for new, old in zip(narrow.box_low, wide.box_low, strict=True)):
        looser.append(f"box_low {narrow.box_low} < {wide.box_low}")
    if any(new > old for new, old in zip(narrow.box_high, wide.box_high, strict=True)):
        looser.append(f"box_high {narrow.box_high} > {wide.box_high}")
    reach = narrow.tilt + quat_angle(np.array(narrow.orientation), np.array(wide.orientation))
    if reach > wide.tilt + 1e-9:
        looser.append(f"tilt reaches {reach:.3f} rad from the robot's orientation > {wide.tilt}")
    if looser:
        raise RobotError(f"limits can be tightened, never loosened: {'; '.join(looser)}")
    return narrow


def _box_bend(axis: int, asked: Array, inside: Array) -> Bend:
    return Bend(f"box {AXES[axis]}", float(asked[axis]), float(inside[axis]))


def norm(vector: Array) -> float:
    """Euclidean length; unlike a root of a sum of squares it does not overflow."""
    return math.hypot(*vector.tolist())
