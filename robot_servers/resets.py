"""Runs reset plans inside the control cycle: every step is a generator, advanced once per cycle.

Reset motions are slow straight lines to a goal inside the robot's own workspace limits: those to which a
task tightens its commands do not bind them. A joint reset is the driver's own motion.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator

import numpy as np

from robot_servers.geometry import quat_angle, quat_normalise
from robot_servers.interface import (
    Array,
    AskPerson,
    CommandRefused,
    Compliance,
    Driver,
    JointReset,
    Limits,
    MoveTo,
    PlaceObjects,
    ResetStep,
    RobotState,
    SetCompliance,
    SetGripper,
)
from robot_servers.limits import LET_GO, UNIT_TOLERANCE, norm, outside, presses, rest_target

Progress = Generator[None, None, None]

MAX_STEPS = 100  # of one plan
MIN_SPEED = 0.005  # m/s; a slower motion would in practice never end
SLOWEST_TURN = 0.1  # rad/s, to tell when a motion has taken too long
ARRIVED_ANGLE = 0.05  # rad
ARRIVED_SPEED = 0.02  # m/s
MOVE_GRACE = 10.0  # s beyond the ideal duration of a motion before it counts as blocked
JOINT_RESET_TIMEOUT = 30.0  # s
GRIPPER_TIMEOUT = 5.0  # s
GRIPPER_SETTLED = 0.145  # s without movement; between two cycles, so that rounding of times decides nothing
GRIPPER_STILL = 0.002  # of the opening; less is noise

# The widest that a client may ask for; the clips end where those of SERL's server do.
WIDEST = Compliance(
    translational_stiffness=4000.0,
    translational_damping=250.0,
    rotational_stiffness=400.0,
    rotational_damping=40.0,
    translational_ki=100.0,
    rotational_ki=30.0,
    translational_clip=(0.1, 0.1, 0.1),
    translational_clip_neg=(0.1, 0.1, 0.1),
    rotational_clip=(0.1, 0.1, 0.1),
    rotational_clip_neg=(0.1, 0.1, 0.1),
    nullspace_stiffness=5.0,
    joint1_nullspace_stiffness=100.0,
)
MIN_DAMPING = 0.2  # of 2·√stiffness; with less a stiff arm rings


class ResetFailed(Exception):
    """A step of the plan did not come to its end; the text says which and why."""


def check_plan(plan: tuple[ResetStep, ...], limits: Limits) -> None:
    """Raises `CommandRefused` naming the step and the limit if a step of ``plan`` must not run."""
    if len(plan) > MAX_STEPS:
        raise CommandRefused(f"a reset plan of {len(plan)} steps; at most {MAX_STEPS} are allowed")
    for number, step in enumerate(plan, 1):
        fault = _fault(step, limits)
        if fault:
            raise CommandRefused(f"reset step {number} ({type(step).__name__}): {fault}")


def _fault(step: ResetStep, limits: Limits) -> str:
    if isinstance(step, MoveTo):
        return _move_fault(step, limits)
    if isinstance(step, SetGripper) and not 0.0 <= step.width <= 1.0:
        return f"width {step.width} must lie between 0 (closed) and 1 (open)"
    if isinstance(step, PlaceObjects) and step.seed < 0:
        return f"seed {step.seed} must not be negative"
    if isinstance(step, JointReset) and step.every < 1:
        return f"every {step.every} must be at least 1"
    if isinstance(step, SetCompliance):
        return _compliance_fault(step.compliance)
    return ""


def _compliance_fault(compliance: Compliance) -> str:
    for name, widest in vars(WIDEST).items():
        value = getattr(compliance, name)
        if np.shape(value) != np.shape(widest):
            return f"{name} {value} must have as many values as {widest}"
        if not (np.greater_equal(value, 0.0) & np.less_equal(value, widest)).all():  # nan is neither
            return f"{name} {value} must lie between 0 and {widest}"
    for kind in ("translational", "rotational"):
        damping = getattr(compliance, f"{kind}_damping")
        least = MIN_DAMPING * 2.0 * math.sqrt(getattr(compliance, f"{kind}_stiffness"))
        if damping < least:
            return f"{kind}_damping {damping} must be at least {least:.1f} at this stiffness, or the arm rings"
    return ""


def _move_fault(step: MoveTo, limits: Limits) -> str:
    pose = np.array(step.pose, float)
    if pose.shape != (7,) or not np.isfinite(pose).all():
        return f"the pose must be 7 finite numbers, got {step.pose}"
    size = norm(pose[3:])
    if abs(size - 1.0) > UNIT_TOLERANCE:
        return f"the quaternion (x, y, z, w) has norm {size:.3f}, but must be 1"
    if not MIN_SPEED <= step.speed <= limits.speed:
        return f"speed {step.speed} m/s must lie between {MIN_SPEED} and the robot's {limits.speed:g}"
    if not 0.0 < step.tolerance < math.inf:
        return f"tolerance {step.tolerance} m must be positive"
    pose[3:] = quat_normalise(pose[3:])
    broken = [f"{bend.limit} = {bend.value:.3f} is past its limit {bend.bound:.3f}" for bend in outside(pose, limits)]
    return "; ".join(broken)


class ResetRun:
    """One plan on its way. `cycle` is called once per cycle, in the thread that owns the driver.

    After each cycle ``goal`` (7,), ``gripper`` and ``speed`` m/s say where to go; ``joints`` tells that the
    driver moves its joints by itself in this cycle, so that nothing must be tracked; ``fresh`` that a simulation
    is about to start over, which hardware never does, and ``placed`` that objects were placed, with the arm
    as in ``state``. ``comply`` is handed compliances.
    """

    def __init__(
        self,
        plan: tuple[ResetStep, ...],
        driver: Driver,
        limits: Limits,
        state: RobotState,
        resets: int,
        comply: Callable[[Compliance], None],
    ) -> None:
        self.goal: Array = rest_target(state.pose, limits)
        self.gripper: float | None = None
        self.speed = limits.speed
        self.joints = False
        self.fresh = False
        self.placed = False
        self.state = state
        self.waiting_for = ""
        self._confirmed = False
        self._driver = driver
        self._limits = limits
        self._resets = resets
        self._comply = comply
        self._progress = self._run(plan)

    def cycle(self, state: RobotState) -> bool:
        """Go on by one cycle; True when the plan is done. Raises `ResetFailed`."""
        self.state, self.fresh, self.placed = state, False, False
        return next(self._progress, self._progress) is self._progress

    def confirm(self) -> None:
        """Answer the question. Raises `CommandRefused` when none is asked."""
        if not self.waiting_for:
            raise CommandRefused("nothing to confirm: the reset does not wait for a person")
        self._confirmed = True

    def _run(self, plan: tuple[ResetStep, ...]) -> Progress:
        begun, pressing = self.state.time, presses(self.state, self._limits)
        while pressing and self.state.time - begun < LET_GO:
            yield
        for step in plan:
            match step:
                case PlaceObjects(seed):
                    self.fresh = bool(self._driver.scene)
                    yield  # first of all the full stiffness: the scene begins with what is set by then
                    self._driver.place_objects(seed)
                    self._stay()
                    self.placed = True
                case JointReset(every):
                    yield from self._joint_reset(every)
                case MoveTo():
                    yield from self._move_to(step)
                case SetGripper(width):
                    yield from self._set_gripper(width)
                case SetCompliance(compliance):
                    self._comply(compliance)
                case AskPerson(text):
                    yield from self._ask(text)
            yield

    def _joint_reset(self, every: int) -> Progress:
        if self._resets % every:
            return
        start, self.joints = self.state.time, True
        while not self._driver.joint_reset():
            self._check_time("the joint reset", start, JOINT_RESET_TIMEOUT)
            yield
        self.joints = False
        self._stay()

    def _stay(self) -> None:
        """Target := the pose of this very moment; a simulation may just have put the arm elsewhere."""
        self.state = self._driver.state()
        self.goal = rest_target(self.state.pose, self._limits)

    def _move_to(self, step: MoveTo) -> Progress:
        goal = np.array(step.pose, float)
        goal[3:] = quat_normalise(goal[3:])
        self.goal, self.speed = goal, step.speed
        begun, pose = self.state.time, self.state.pose
        longest = norm(goal[:3] - pose[:3]) / step.speed + quat_angle(goal[3:], pose[3:]) / SLOWEST_TURN + MOVE_GRACE
        while not self._arrived(goal, step.tolerance):
            self._check_time(f"the motion to {np.round(goal[:3], 3).tolist()}", begun, longest)
            yield

    def _arrived(self, goal: Array, tolerance: float) -> bool:
        pose, vel = self.state.pose, self.state.vel
        near = norm(goal[:3] - pose[:3]) <= tolerance
        slow = norm(vel[:3]) <= ARRIVED_SPEED
        return near and slow and quat_angle(goal[3:], pose[3:]) <= ARRIVED_ANGLE

    def _set_gripper(self, width: float) -> Progress:
        self.gripper = width
        begun = moved = self.state.time
        opening = self.state.gripper
        while self.state.time - moved < GRIPPER_SETTLED:
            self._check_time("the gripper", begun, GRIPPER_TIMEOUT)
            yield
            if abs(self.state.gripper - opening) > GRIPPER_STILL:
                opening, moved = self.state.gripper, self.state.time

    def _ask(self, text: str) -> Progress:
        self.waiting_for, self._confirmed = text, False
        while not self._confirmed:
            yield
        self.waiting_for = ""

    def _check_time(self, what: str, begun: float, timeout: float) -> None:
        if self.state.time - begun > timeout:
            raise ResetFailed(
                f"{what} did not come to its end within {timeout:.1f} s; the TCP is at "
                f"{np.round(self.state.pose[:3], 3).tolist()}: look what blocks it, then recover"
            )
