"""The guard: what stands between any client and the arm. Always on; nothing a client sends switches it off.

Pure functions say what is admissible; `Guard` is the small state machine around them. Commands that
cannot be meant (non-finite, malformed, stale, in the wrong mode) are refused and nothing moves;
commands that ask for too much are bent to the nearest admissible target, and every bend is listed.

The rule for targets. Let ``m`` be the measured pose.

1. The target is pulled back along the line from ``m`` until it is within ``step`` and ``turn``.
2. It is then moved to the nearest point of the box, and to the nearest orientation within ``tilt``.
   If ``m`` itself is inside, this never leads away from ``m``, so that step and turn still hold.
3. If ``m`` is outside and the inside is farther than ``step`` (``turn``), the target is the point on
   the way from ``m`` to the inside at that distance: strictly less outside than ``m``.
"""

from __future__ import annotations

import math
from dataclasses import fields, replace
from typing import NoReturn

import numpy as np

from robot_servers.geometry import quat_angle, quat_conj, quat_mul, quat_normalise, quat_to_rotvec, rotvec_to_quat
from robot_servers.interface import (
    Applied,
    Array,
    Bend,
    Command,
    CommandRefused,
    Limits,
    Mode,
    RobotError,
    RobotState,
)

UNIT_TOLERANCE = 1e-2  # of a quaternion's norm; more is a bug of the sender, not rounding
CLOCK_TOLERANCE = 1e-6  # s; a state cannot be newer than the newest state
AXES = ("x", "y", "z")
STATE_SHAPES: dict[str, tuple[int, ...]] = {
    "time": (),
    "pose": (7,),
    "vel": (6,),
    "force": (3,),
    "torque": (3,),
    "gripper": (),
}


# ── pure functions ───────────────────────────────────────────────────────────────────────────────


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


def turn_towards(start: Array, goal: Array, angle: float) -> Array:
    """``start`` turned by at most ``angle`` rad towards ``goal``, the shorter way round."""
    difference = quat_to_rotvec(quat_mul(goal, quat_conj(start)))
    full = norm(difference)
    if full <= angle:
        return goal
    return quat_normalise(quat_mul(rotvec_to_quat(difference * (angle / full)), start))


def rest_target(measured: Array, limits: Limits) -> Array:
    """Where to hold (pose (7,)): the measured pose, or the edge of the limits if it is just past them.

    Past by more than one step or turn it was pushed there: then holding must not pull it back.
    """
    position = np.clip(measured[:3], limits.box_low, limits.box_high)
    if norm(position - measured[:3]) > limits.step:
        position = measured[:3]
    orientation = turn_towards(np.array(limits.orientation), measured[3:], limits.tilt)
    if quat_angle(orientation, measured[3:]) > limits.turn:
        orientation = measured[3:]
    return np.concatenate([position, orientation])


def outside(pose: Array, limits: Limits) -> tuple[Bend, ...]:
    """Every workspace limit that ``pose`` (7,) breaks."""
    inside = np.clip(pose[:3], limits.box_low, limits.box_high)
    broken = [_box_bend(axis, pose, inside) for axis in range(3) if inside[axis] != pose[axis]]
    tilt = quat_angle(pose[3:], np.array(limits.orientation))
    return (*broken, *([Bend("tilt", tilt, limits.tilt)] if tilt > limits.tilt else []))


def check_limits(limits: Limits) -> Limits:
    """The limits with a unit orientation. Raises `RobotError` on limits that make no sense."""
    values = np.concatenate([np.atleast_1d(np.array(getattr(limits, item.name), float)) for item in fields(limits)])
    if values.shape != (23,) or not np.isfinite(values).all():
        raise RobotError(f"limits must be finite numbers, with 3 values per box corner: {limits}")
    if not all(low < high for low, high in zip(limits.box_low, limits.box_high, strict=True)):
        raise RobotError(f"limits: box_low {limits.box_low} must lie below box_high {limits.box_high}")
    for name in ("tilt", "step", "turn", "max_age", "watchdog"):
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
        for name in ("step", "turn", "max_age", "watchdog")
        if getattr(narrow, name) > getattr(wide, name)
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


# ── the state machine ────────────────────────────────────────────────────────────────────────────


class Guard:
    """Modes, watchdog and counters around the pure functions above. Not thread-safe: its owner locks.

    ========== ======================================================= =========================
    mode       meaning                                                 ended by
    ========== ======================================================= =========================
    idle       since connect, or since a reset: the last target stays  a command, reset or hold
    moving     commands arrive                                         the watchdog, reset, hold
    holding    the pose measured when the hold began is the target     a reset; a valid command
                                                                       unless somebody asked for it
    resetting  the server moves the arm; commands are refused          the end of the plan, hold
    fault      something broke: held, commands are refused             nothing: start again
    stopped    closed                                                  nothing: start again
    ========== ======================================================= =========================

    ``commands`` counts all commands that came, ``refused`` and ``bent`` those among them. ``own`` are the
    robot's own limits, which bind resets; ``limits`` lie within them and bind everything else.
    """

    def __init__(self, limits: Limits) -> None:
        self.own = self.limits = check_limits(limits)
        self.mode: Mode = "idle"
        self.reason = ""
        self.commands = 0
        self.refused = 0
        self.bent = 0
        self._pose: Array | None = None  # the target; None until the first cycle measured one
        self._gripper: float | None = None
        self._last_command = 0.0
        self._held = ""  # why somebody asked to hold; until a reset no command goes on
        self._answered = -math.inf  # newest state that an accepted command answers

    def tighten(self, limits: Limits, state: RobotState) -> None:
        """Bind commands to these limits. Raises `CommandRefused` where they are looser than the robot's own.

        A motion towards a target that they exclude ends in a hold.
        """
        try:
            self.limits = tightened(self.own, limits)
        except RobotError as error:
            raise CommandRefused(str(error)) from error
        if self.mode == "moving" and self._pose is not None and outside(self._pose, self.limits):
            self.hold("the limits were tightened; the next valid command goes on", state)

    def abandon(self, state: RobotState) -> None:
        """The owner is gone: what moves is held, and only the robot's own limits bind again."""
        if self.mode in ("moving", "resetting"):
            self.hold("its owner is gone; the next valid command goes on", state)
        self.limits = self.own

    def command(self, command: Command, state: RobotState, now: float) -> Applied:
        """Make the command the target, bent where it asks for too much. Raises `CommandRefused`.

        ``state`` is the newest measurement, ``now`` the robot's time (s).
        """
        self.commands += 1
        asked = self._parse(command)
        self._check_time(command.state_time, now)
        if self.mode in ("resetting", "fault", "stopped"):
            self._refuse(f"the robot is in mode {self.mode}{f': {self.reason}' if self.reason else ''}")
        if self._held:
            self._refuse(f"held: {self._held}; reset to go on")
        position, moved = bend_position(asked[:3], state.pose[:3], self.limits)
        orientation, turned = bend_orientation(asked[3:], quat_normalise(state.pose[3:]), self.limits)
        self._pose = np.concatenate([position, orientation])
        self._gripper = self._gripper if command.gripper is None else float(command.gripper)
        self._last_command, self._answered = now, command.state_time
        self._enter("moving")
        self.bent += bool(moved or turned)
        return Applied(self._pose.copy(), command.gripper, moved + turned)

    def target(self, state: RobotState, now: float) -> tuple[Array, float | None]:
        """What to track in this cycle: pose (7,) and gripper. Turns into a hold when commands stop coming.

        Targets are not interpolated: the impedance law filters them already.
        """
        silence = now - self._last_command
        if self.mode == "moving" and silence > self.limits.watchdog + CLOCK_TOLERANCE:
            self.hold(f"no command for {self.limits.watchdog:g} s; the next valid command goes on", state)
        if self._pose is None:
            self._pose = rest_target(state.pose, self.limits)
        return self._pose, self._gripper

    def hold(self, reason: str, state: RobotState) -> None:
        """Stay where the arm is now. A fault or a stop is not ended by it."""
        if self.mode in ("fault", "stopped"):
            return
        # a reset may be under way outside of the limits that bind commands; holding must not pull the arm back
        self._pose = rest_target(state.pose, self.own if self.mode == "resetting" else self.limits)
        self._enter("holding", reason)

    def hold_until_reset(self, reason: str, state: RobotState) -> None:
        """Hold because somebody asks for it: the owner's next command must not undo that, only a reset does."""
        self.hold(reason, state)
        self._held = reason or "no reason given"

    def fault(self, reason: str, state: RobotState) -> None:
        """Hold for good: nothing in this process clears a fault."""
        self.hold(reason, state)
        self._enter("fault", reason)

    def stop(self, reason: str) -> None:
        self._enter("stopped", reason)

    def begin_reset(self) -> None:
        """Let the server move the arm. Raises `CommandRefused` in a fault, when stopped or resetting."""
        if self.mode in ("resetting", "fault", "stopped"):
            raise CommandRefused(f"no reset in mode {self.mode}: {self.reason or 'wait until it is done'}")
        self._held = ""
        self._gripper = None  # a hold that ends the reset must not undo what the reset did
        self._enter("resetting")

    def end_reset(self, pose: Array, gripper: float | None) -> None:
        """The plan is done: its last target stays until a command comes."""
        self._pose, self._gripper = pose, gripper
        self._enter("idle")

    def _enter(self, mode: Mode, reason: str = "") -> None:
        self.mode, self.reason = mode, reason

    def _refuse(self, reason: str) -> NoReturn:
        self.refused += 1
        raise CommandRefused(reason)

    def _parse(self, command: Command) -> Array:
        """The asked pose as float64 with a unit quaternion; refuses what cannot be meant."""
        try:
            pose = np.array(command.pose, np.float64)
        except (TypeError, ValueError):
            self._refuse(f"the pose is not an array of numbers but {command.pose!r:.60}")
        if pose.shape != (7,):
            self._refuse(f"the pose has shape {pose.shape}, but must be (7,): x, y, z, qx, qy, qz, qw")
        if not np.isfinite(pose).all():
            self._refuse(f"the pose is not finite: {pose.tolist()}")
        size = norm(pose[3:])
        if abs(size - 1.0) > UNIT_TOLERANCE:
            self._refuse(f"the quaternion (x, y, z, w) has norm {size:.3f}, but must be 1")
        gripper = command.gripper
        if gripper is not None and not (isinstance(gripper, (int, float)) and 0.0 <= gripper <= 1.0):
            self._refuse(f"the gripper is {gripper!r:.40}, but must lie between 0 (closed) and 1 (open), or be None")
        pose[3:] = quat_normalise(pose[3:])
        return pose

    def _check_time(self, state_time: float, now: float) -> None:
        if not isinstance(state_time, (int, float)) or not math.isfinite(state_time):
            self._refuse(f"state_time is {state_time!r:.40}, but must be the time of the state this command answers")
        age = now - state_time
        if age > self.limits.max_age:
            self._refuse(f"stale: answers a state {age:.3f} s old (limit {self.limits.max_age:g} s); read a new one")
        if age < -CLOCK_TOLERANCE:
            self._refuse(f"answers a state {-age:.3f} s in the future; use the time of the state, not a clock")
        if state_time < self._answered:
            late = self._answered - state_time
            self._refuse(f"out of order: a command that answers a state {late:.3f} s newer has been accepted")
