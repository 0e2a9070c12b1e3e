"""The guard: what stands between any client and the arm. Always on; nothing a client sends switches it off.

`robot_servers.limits` says what is admissible and `robot_servers.slew` how fast to go there; `Guard` is
the small state machine around them. Commands that cannot be meant (non-finite, malformed, stale, in the
wrong mode) are refused and nothing moves; commands that ask for too much are bent to the nearest
admissible target, and every bend is listed.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import NoReturn

import numpy as np

from robot_servers.alarms import PRESSING, joint_alarms, place_alarms, press_alarms
from robot_servers.geometry import quat_angle, quat_normalise
from robot_servers.interface import (
    Applied,
    Array,
    Bend,
    Command,
    CommandRefused,
    JointLimits,
    Limits,
    Mode,
    RobotError,
    RobotState,
)
from robot_servers.limits import (
    LET_GO,
    RELEASE,
    base_delta,
    bend_joints,
    bend_orientation,
    bend_position,
    check_limits,
    joint_pace,
    outside,
    parse,
    rest_target,
    tightened,
    turn_towards,
)
from robot_servers.slew import Pace, Slew

CLOCK_TOLERANCE = 1e-6  # s; a state cannot be newer than the newest state
SOFT_START = 1.0  # s of slower motion and rising stiffness after connect, a stop, a fault and guiding
SOFT_PACE = 0.2  # of the limits' speeds and accelerations meanwhile
SOFT_STIFFNESS = 0.1  # of the compliance's stiffness when it begins
NO_COMMANDS: tuple[Mode, ...] = ("resetting", "guiding", "user-stopped", "fault", "stopped")
DOWN: tuple[Mode, ...] = ("user-stopped", "fault", "stopped")  # ended only by a person's `recover`


class Guard:
    """Modes, watchdog, alarms and counters. Not thread-safe: its owner locks.

    ============ ======================================================= =========================
    mode         meaning                                                 ended by
    ============ ======================================================= =========================
    idle         since connect, or since a reset: the last target stays  a command, reset or hold
    moving       commands arrive                                         the watchdog, reset, hold
    holding      the pose measured when the hold began is the target     a reset; a valid command
                                                                         unless somebody asked for it
    resetting    the server moves the arm; commands are refused          the end of the plan, hold
    guiding      a person leads the arm; nothing is tracked              guide off, hold
    user-stopped the robot's own stop button was pressed                 a person's recover
    fault        something broke: held, commands are refused             a person's recover
    stopped      STOP: the controller is off, nothing is tracked         a person's recover
    ============ ======================================================= =========================

    Two sets of limits: ``own``, the robot's, bind the motions that the server runs (resets); ``limits``, a
    task's, lie within them and bind every command. Force, joint and margin alarms act in both.

    ``commands`` counts all commands that came, ``refused`` and ``bent`` those among them. While
    ``waiting_for`` is not empty the arm is outside of its limits and waits for a person's confirmation.
    """

    def __init__(self, limits: Limits, joints: JointLimits, cycle_hz: float) -> None:
        self.own = self.limits = check_limits(limits)
        self.mode: Mode = "idle"
        self.reason = ""
        self.waiting_for = ""
        self.commands = self.refused = self.bent = 0
        self.stops = 0  # how often STOP was called, so that none is lost while the arm recovers
        self._joints = joints
        self._slew = Slew(1.0 / cycle_hz)
        self._goal: Array | None = None  # where the set point is going; None until `start`
        self._gripper: float | None = None
        self._shares = (1.0, 1.0)  # of speed and acceleration: no joint exceeds its own on the way to the goal
        self._last_command = 0.0
        self._held = ""  # why somebody asked to hold; until a reset no command goes on
        self._answered = -math.inf  # newest state that an accepted command answers
        self._alarms: frozenset[str] = frozenset()
        self._soft_until = -math.inf
        self._coming_back = False  # from outside of the limits, slowly, until it is inside
        self._reset_since = -math.inf

    @property
    def held(self) -> str:
        """Why somebody asked to hold, or empty."""
        return self._held

    # ── limits ──

    def tighten(self, limits: Limits, state: RobotState) -> None:
        """Bind commands to these limits. Raises `CommandRefused` where they are looser than the robot's own.

        A motion towards a target that they exclude ends in a hold.
        """
        try:
            self.limits = tightened(self.own, limits)
        except RobotError as error:
            raise CommandRefused(str(error)) from error
        if self.mode == "moving" and self._goal is not None and outside(self._goal, self.limits):
            self.hold("the limits were tightened; the next valid command goes on", state)

    def abandon(self, state: RobotState) -> None:
        """The owner is gone: what moves is held, and only the robot's own limits bind again."""
        if self.mode in ("moving", "resetting", "guiding"):
            self.hold("its owner is gone; the next valid command goes on", state)
        self.limits = self.own

    # ── commands and targets ──

    def command(self, command: Command, state: RobotState, now: float) -> Applied:
        """Make the command the target, bent where it asks for too much. Raises `CommandRefused`.

        ``state`` is the newest measurement, ``now`` the robot's time (s).
        """
        self.commands += 1
        try:
            asked = parse(command)
        except CommandRefused as error:
            self._refuse(str(error))
        self._check_time(command.state_time, now)
        self._check_mode()
        target, bends = self._bend(asked, state)
        self._goal = target
        self._shares = joint_pace(base_delta(state.pose, target), state, self._joints, self.limits)
        self._gripper = self._gripper if command.gripper is None else float(command.gripper)
        self._last_command, self._answered = now, command.state_time
        self._enter("moving")
        self.bent += bool(bends)
        return Applied(target.copy(), command.gripper, bends)

    def target(self, state: RobotState, now: float) -> tuple[Array, float | None] | None:
        """What to track in this cycle: pose (7,) and gripper, or None where nothing must be tracked.

        The set point goes on towards the last command's target. Turns into a hold when commands stop coming.
        """
        if self.mode in ("guiding", "stopped", "user-stopped"):
            return None
        silence = now - self._last_command
        if self.mode == "moving" and silence > self.limits.watchdog + CLOCK_TOLERANCE:
            self.hold(f"no command for {self.limits.watchdog:g} s; the next valid command goes on", state)
        assert self._goal is not None, "start() comes first"
        pace = self._pace(self.limits, self._shares, state)
        return self._slew.advance(self._goal, state.pose, self.limits, pace), self._gripper

    def follow(self, goal: Array, gripper: float | None, speed: float, state: RobotState) -> tuple[Array, float | None]:
        """What to track while the server moves the arm to ``goal`` (7,) at ``speed`` m/s, under the own limits."""
        self._goal, self._gripper = goal, gripper
        shares = joint_pace(base_delta(state.pose, goal), state, self._joints, self.own)
        pace = self._pace(self.own, shares, state)
        pace = replace(pace, speed=min(speed, pace.speed))
        return self._slew.advance(goal, state.pose, self.own, pace), gripper

    def _pace(self, limits: Limits, shares: tuple[float, float], state: RobotState) -> Pace:
        slow = SOFT_PACE if self.soft(state.time) or self._coming_back else 1.0
        return Pace.of(limits, slow * shares[0], slow * shares[1])

    def rest(self, state: RobotState) -> Array:
        """Target := where the arm is. Returns it (7,)."""
        if self.waiting_for:  # not even to the edge of the box before a person agrees
            self._goal = state.pose
        else:  # a reset may be outside of the limits that bind commands; resting must not pull the arm back
            self._goal = rest_target(state.pose, self.own if self.mode == "resetting" else self.limits)
        self._slew.stay(self._goal)
        return self._goal

    def watch(self, state: RobotState) -> None:
        """Hold when the arm presses too hard, leaves box and margin, or a joint its range or speed.

        Each alarm holds once, when it begins, so that the next valid command can lead the arm back.
        """
        alarms = self._find_alarms(state)
        new = [text for name, text in alarms.items() if name not in self._alarms]
        self._alarms = frozenset(alarms)
        # To lean over the edge by less than the margin is no reason: a set point in motion could then brake no more.
        self._coming_back = bool(outside(state.pose, self.own, margin=not self._coming_back))
        if new and self.mode in ("idle", "moving", "holding", "resetting"):
            self.hold(f"{'; '.join(new)}; the next valid command goes on", state)

    # ── soft start ──

    def soft(self, now: float) -> bool:
        """Whether the soft start is still under way at ``now`` s."""
        return now < self._soft_until

    def stiffness(self, now: float) -> float:
        """The share (0 … 1] of its stiffness that the arm may have at ``now`` s, in steps of a tenth."""
        passed = min(1.0, max(0.0, 1.0 - (self._soft_until - now) / SOFT_START))
        return round(SOFT_STIFFNESS + (1.0 - SOFT_STIFFNESS) * passed, 1)

    def end_soft(self) -> None:
        """A simulation has started over: nothing can be pressed on."""
        self._soft_until = -math.inf

    # ── modes ──

    def start(self, state: RobotState) -> None:
        """Begin at the measured pose, softly; outside of the limits only after a person's confirmation."""
        self._goal, self._alarms = rest_target(state.pose, self.own), frozenset(self._find_alarms(state))
        self._soft_until = state.time + SOFT_START
        broken = [
            f"{bend.limit} is {bend.value:.3f}, its bound {bend.bound:.3f}" for bend in outside(state.pose, self.own)
        ]
        self._coming_back = bool(broken)
        if broken:
            self._goal = state.pose
            self.waiting_for = f"the arm is outside of its limits ({'; '.join(broken)}): may it move back in, slowly?"
        self._slew.stay(self._goal)

    def confirm(self) -> None:
        """A person says that an arm outside of its limits may move back in."""
        self.waiting_for = ""

    def recover(self, state: RobotState) -> None:
        """A person says that it is safe to go on: hold here, softly. That confirms a pose outside, too."""
        self._held = ""
        self.resume(state)
        self.confirm()

    def resume(self, state: RobotState) -> None:
        """The arm is back: hold here, softly. What somebody asked for, or must confirm, still stands."""
        if self.mode in DOWN:
            self._enter("holding", self._held or "recovered; the next valid command goes on")
        self.start(state)

    def hold(self, reason: str, state: RobotState) -> None:
        """Stay where the arm is now. What only a person may end is not ended by it."""
        if self.mode in DOWN:
            return
        self.rest(state)
        if self.mode == "guiding":
            self.start(state)
        self._enter("holding", reason)

    def hold_until_reset(self, reason: str, state: RobotState) -> None:
        """Hold because somebody asks for it: the owner's next command must not undo that, only a reset does."""
        self.hold(reason, state)
        self._held = reason or "no reason given"

    def release(self) -> None:
        """A person ends the hold that somebody asked for: the arm stays, but commands go on."""
        self._held = ""
        if self.mode == "holding":
            self._enter("holding", "released; the next valid command goes on")

    def go_down(self, mode: Mode, reason: str, state: RobotState) -> None:
        """Hold, in one of the modes which only a person's `recover` ends. STOP outranks the others."""
        self.stops += mode == "stopped"
        if self.mode == "stopped":
            return
        self.rest(state)
        self._enter(mode, reason)

    def close(self) -> None:
        """For good: nothing moves any more."""
        self._enter("stopped", "closed")

    def begin_reset(self, now: float) -> None:
        """Let the server move the arm. Raises `CommandRefused` where only a person may go on, or one is running."""
        if self.mode in NO_COMMANDS or self.waiting_for:
            raise CommandRefused(f"no reset {self._why_not()}")
        self._held = ""
        self._gripper = None  # a hold that ends the reset must not undo what the reset did
        self._alarms -= PRESSING  # whoever still presses too hard when it should have let go is held anew
        self._reset_since = now
        self._enter("resetting")

    def end_reset(self, pose: Array, gripper: float | None) -> None:
        """The plan is done: its last target stays until a command comes."""
        self._goal, self._gripper = pose, gripper
        self._shares = (1.0, 1.0)
        self._enter("idle")

    def begin_guiding(self) -> None:
        """Let a person lead the arm. Raises `CommandRefused` where that must not begin."""
        if self.mode in NO_COMMANDS:
            raise CommandRefused(f"no guiding {self._why_not()}")
        self._enter("guiding")

    def _enter(self, mode: Mode, reason: str = "") -> None:
        self.mode, self.reason = mode, reason

    def _why_not(self) -> str:
        if self.waiting_for:
            return f"before a person confirms: {self.waiting_for}"
        help_ = "; a person ends it with recover" if self.mode in DOWN else ""
        return f"in mode {self.mode}{f': {self.reason}' if self.reason else ''}{help_}"

    # ── checks ──

    def _check_mode(self) -> None:
        if self.mode in NO_COMMANDS or self.waiting_for:
            self._refuse(f"no commands {self._why_not()}")
        if self._held:
            self._refuse(f"held: {self._held}; reset, or a person confirms, to go on")
        pressing = sorted(self._alarms & PRESSING)
        if pressing:
            self._refuse(f"too much {' and '.join(pressing)}: goes on when below {RELEASE:.0%} of the limit")

    def _bend(self, asked: Array, state: RobotState) -> tuple[Array, tuple[Bend, ...]]:
        measured = quat_normalise(state.pose[3:])
        position, moved = bend_position(asked[:3], state.pose[:3], self.limits)
        orientation, turned = bend_orientation(asked[3:], measured, self.limits)
        target = np.concatenate([position, orientation])
        part, jointed = bend_joints(base_delta(state.pose, target), state, self._joints)
        if jointed:
            target[:3] = state.pose[:3] + part * (position - state.pose[:3])
            target[3:] = turn_towards(measured, orientation, part * quat_angle(orientation, measured))
        return target, moved + turned + jointed

    def _find_alarms(self, state: RobotState) -> dict[str, str]:
        """What is wrong now: name → text. A reset that has just begun may let go of what the arm pressed on."""
        resetting = self.mode == "resetting"
        letting_go = resetting and state.time - self._reset_since < LET_GO
        pressing = {} if letting_go else press_alarms(state, self.own if resetting else self.limits, self._alarms)
        return pressing | place_alarms(state, self.own) | joint_alarms(state, self._joints)

    def _refuse(self, reason: str) -> NoReturn:
        self.refused += 1
        raise CommandRefused(reason)

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
