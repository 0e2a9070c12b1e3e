"""Franka arms (FR3, and the Panda with its own wheel of franky) through the FCI: SERL's impedance control without ROS.

libfranka's loop at 1 kHz runs in a thread of its own; each cycle of ours measures, moves the filtered and clipped
target on, and hands it over. If our cycle hangs, the last target stands, within the clips of where the arm was.

The controller is in one phase at a time, changed by the cycle, and by `stop` from any thread::

    off → tracking ⇄ … braking → joints → (brakes) resuming → tracking;  anything → off (stop) or lost (a fault)
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from robot_servers.drivers.franka_arm import FrankaArm, fault
from robot_servers.drivers.franka_check import checks, load_to_add
from robot_servers.drivers.franka_gains import LIMP, TargetFilter, check, tracker_gains
from robot_servers.drivers.franka_model import FR3, HOME_Q, Collision, tcp_pose
from robot_servers.geometry import quat_angle
from robot_servers.impedance import FILTER_PER_MS
from robot_servers.interface import (
    Array,
    Check,
    ClockMode,
    Compliance,
    Enforcer,
    Frame,
    Gripper,
    Health,
    JointLimits,
    Limits,
    RobotError,
    RobotState,
    Tool,
)

if TYPE_CHECKING:
    import franky

Phase = Literal["off", "tracking", "braking", "joints", "resuming", "lost"]
log = logging.getLogger(__name__)

JOINT_FACTOR = 0.15  # of the arm's own speed and acceleration: a joint reset is watched by a person
AT_HOME = 0.01  # rad, largest joint error that counts as home
SILENCE = 0.1  # s without a new state of a controlled arm that count as a fault; libfranka itself allows 0.02
SAME_PLACE, SAME_TURN = 0.01, 0.05  # m and rad between the arm's own kinematics and ours
TCP_WAIT = 1.0  # s for a new end effector to show in the arm's states
STOP_WAIT = 0.2  # s that a stop waits for a motion that is just being started


class FrankaDriver:
    """Satisfies `Driver`. ``host`` is the arm's address; ``gripper`` is connected and closed with the arm.

    ``limits`` and ``tool`` have no default: nobody else knows the table and what is on the flange. ``joints`` are
    the arm's own limits, ``home_q`` (7,) rad where a joint reset ends. ``realtime`` demands a real-time kernel.
    ``filter_per_ms`` is that of targets, SERL's by default: a policy's step arrives softly, and a line 0.2 s late.
    Raises `RobotError` for a home outside of the joint limits and without limits or a tool.
    """

    name = "franka"
    scene = ""
    clock: ClockMode = "realtime"
    limits_enforced: Enforcer = "server"

    def __init__(
        self,
        host: str,
        gripper: Gripper,
        limits: Limits | None,
        tool: Tool | None,
        *,
        joints: JointLimits = FR3,
        home_q: tuple[float, ...] = HOME_Q,
        collision: Collision | None = None,
        realtime: bool = True,
        cycle_hz: float = 200.0,
        filter_per_ms: float = FILTER_PER_MS,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        if not host:
            raise RobotError("a Franka arm needs its address: give --address, as in the browser for Desk")
        if limits is None:
            raise RobotError("a real arm has no default workspace: give --limits FILE, or --task for a task's limits")
        if tool is None:
            raise RobotError("what is mounted on the flange? give --tool FILE, or --tool franka-hand")
        if not all(low < q < high for low, q, high in zip(joints.low, home_q, joints.high, strict=True)):
            raise RobotError(f"home_q {home_q} lies outside of the arm's joint limits")
        self.cycle_hz = cycle_hz
        self.home_q = home_q
        self.home_pose = tuple(tcp_pose(home_q, tool).tolist())
        self.cameras: Mapping[str, tuple[int, int]] = {}
        self.limits = limits
        self.joint_limits = joints
        self.tool = tool
        self._host = host
        self._gripper = gripper
        self._collision = collision or Collision()
        self._realtime = realtime
        self._now = now
        self._arm = FrankaArm(host, joints, realtime)
        self._law = TargetFilter(filter_per_ms)
        self._compliance = Compliance()
        self._guided = False
        self._lock = threading.Lock()  # while a motion is started, or stopped
        self._phase: Phase = "off"
        self._stops = 0  # calls of `stop`: whoever was about to start a motion must not
        self._lost = ""  # why the controller ended by itself
        self._dead = False  # whether the connection itself is gone: there is nothing to read until `recover`
        self._spoke = 0.0  # when the arm's own clock last advanced
        self._raw: franky.RobotState | None = None
        self._state: RobotState | None = None
        self._stepped = 0.0  # time of the filter's last step
        self._wanted: float | None = None  # last width told to the gripper

    # ── life ─────────────────────────────────────────────────────────────────────────────────────

    def connect(self) -> None:
        """Start the controller where the arm is. With the user stop pressed, or in a reflex, `health` says so instead.

        Raises `RobotError` within 5 s if arm or gripper do not answer, or if the arm reports another tool.
        """
        self._arm.connect()
        try:
            self._gripper.connect()
            self._measure()
            if not self.health().fault:
                self._prepare()
                self._track(self._stops)
        except BaseException:  # half a connection must not stay open: the arm serves one program at a time
            self.close()
            raise

    def close(self) -> None:
        self.stop()
        self._arm.close()
        self._gripper.close()
        self._raw = self._state = None

    def stop(self) -> None:
        held = self._lock.acquire(timeout=STOP_WAIT)  # without it too: to stop is more than to be tidy
        try:
            self._stops += 1
            self._phase = "off"
            self._arm.brake()
        finally:
            if held:
                self._lock.release()
        self._gripper.stop()

    def recover(self) -> None:
        stops = self._stops
        if self._dead:
            log.warning("connecting to the arm again: %s", self._lost)
            self._arm.close()
            self._arm.connect()
            self._dead = False
        self._measure()
        mode = self._require_raw().robot_mode.name
        if mode in ("UserStopped", "Guiding", "Other"):
            raise RobotError(fault(mode, "", "").text)
        self._arm.settle()
        self._arm.recover()
        self._measure()
        self._prepare()
        self._lost, self._guided = "", False
        self._track(stops)

    def _prepare(self) -> None:
        """What the arm must know before it moves, and takes only while nothing controls it."""
        raw = self._require_raw()
        self._arm.set_tcp(raw, np.array(self.tool.tcp))
        self._arm.set_load(load_to_add(raw, self.tool))
        self._arm.set_collision(np.array(self._collision.torque), np.array(self._collision.force))
        self._await_tcp()

    def _await_tcp(self) -> None:
        """Until the arm reports the TCP where its joints and our tool put it: a target must not mean another one."""
        begun = self._now()
        while True:
            self._measure()
            state = self.state()
            expected = tcp_pose(state.q, self.tool)
            apart = float(np.linalg.norm(state.pose[:3] - expected[:3]))
            if apart <= SAME_PLACE and quat_angle(state.pose[3:], expected[3:]) <= SAME_TURN:
                return
            if self._now() - begun > TCP_WAIT:
                raise RobotError(
                    f"the arm reports its TCP {apart * 1000:.0f} mm from where its joints put our tool's, or turned: "
                    "is it the arm that the driver is for, and did it take the end effector?"
                )

    def set_load(self, load: Tool) -> None:
        """What the arm carries beyond its tool, e.g. a heavy work piece. Raises `RobotError` unless it is stopped."""
        if self._arm.running:
            raise RobotError("the load can be set only while the controller is stopped: stop, set it, recover")
        self._arm.set_load(load)

    # ── one cycle ────────────────────────────────────────────────────────────────────────────────

    def track(self, pose: Array, gripper: float | None) -> None:
        if self._phase in ("braking", "joints"):
            self._change("resuming", self._arm.brake)
        self._law.set_goal(pose)
        if gripper is not None and gripper != self._wanted:
            self._gripper.move(gripper)
            self._wanted = gripper

    def cycle(self) -> None:
        """Measure, then move on. What the arm refuses or loses is a fault, which `health` tells; nothing is raised."""
        try:
            if not self._dead:
                self._measure()
                self._go_on()
        except RobotError as error:
            self._lose(str(error))
        self._state = replace(self.state(), time=self._now())  # the guard's time goes on, whatever the arm does

    def _go_on(self) -> None:
        """The target, or from one phase to the next."""
        running = self._arm.running
        if self._phase == "tracking" and running:
            self._aim()
        elif self._phase in ("tracking", "joints") and not running:
            self._ended()
        elif self._phase == "braking" and not running:
            self._change("joints", lambda: self._arm.move_joints(np.array(self.home_q), JOINT_FACTOR))
        elif self._phase == "resuming" and not running:
            self._track(self._stops)

    def _aim(self) -> None:
        pose, now = self.state().pose, self._now()
        if self._guided:
            self._law.start(pose)
        self._arm.aim(self._law.step(now - self._stepped, pose))
        self._stepped = now

    def _ended(self) -> None:
        """A motion ended: the one to home as it should, the tracker never."""
        error = self._arm.last_error()
        if self._phase == "tracking" or error:
            self._lose(error or "the controller ended by itself")
        else:
            self._track(self._stops)

    def _lose(self, reason: str) -> None:
        with self._lock:
            self._lost = reason
            if self._phase != "off":
                self._phase = "lost"

    def _change(self, phase: Phase, act: Callable[[], None]) -> None:
        """Go to ``phase`` by ``act``, unless the arm was stopped meanwhile."""
        with self._lock:
            if self._phase != "off":
                act()
                self._phase = phase

    def _track(self, stops: int) -> None:
        """Start the controller at the measured pose and posture, unless `stop` came since it was called ``stops``."""
        state = self.state()
        self._law.start(state.pose)
        self._stepped = self._now()
        with self._lock:
            if self._stops == stops:
                self._arm.track(state.pose, state.q, LIMP if self._guided else tracker_gains(self._compliance))
                self._phase = "tracking"

    # ── measurements ─────────────────────────────────────────────────────────────────────────────

    def _measure(self) -> None:
        """Raises `RobotError` when the arm is silent: what it said last is not where it is."""
        try:
            raw = self._arm.read()
        except RobotError:
            self._dead = True
            raise
        old, self._raw, now = self._raw, raw, self._now()
        if old is None or raw.time.to_msec() != old.time.to_msec():
            self._spoke = now
        elif now - self._spoke > SILENCE and self._phase == "tracking":
            raise RobotError(f"UDP receive: no state from the arm for {now - self._spoke:.2f} s")
        self._state = self._arm.reading(raw, now, self._state, self._gripper)
        if self._phase == "lost" and raw.robot_mode.name == "UserStopped":
            self._lost = "user stop"  # remembered when it is released: a person pressed it, a person recovers

    def state(self) -> RobotState:
        if self._state is None:
            raise RobotError(f"the Franka arm at {self._host} is not connected: call connect()")
        return self._state

    def health(self) -> Health:
        raw = self._require_raw()
        lost = self._lost if self._phase == "lost" or self._dead else ""
        return replace(fault(raw.robot_mode.name, str(raw.current_errors), lost), gripper=self._gripper.trouble())

    def _require_raw(self) -> franky.RobotState:
        self.state()
        assert self._raw is not None  # comes with the state
        return self._raw

    def frames(self) -> dict[str, Frame]:
        return {}

    def ground_truth(self) -> Mapping[str, Any]:
        return {}

    # ── parameters and resets ────────────────────────────────────────────────────────────────────

    def set_compliance(self, compliance: Compliance) -> None:
        """Raises `RobotError` for an integral gain: franky's tracker has none."""
        check(compliance)
        self._compliance = compliance
        self._law.set_clips(compliance)
        if self._phase == "tracking" and not self._guided:
            self._arm.set_gains(tracker_gains(compliance))

    def guide(self, on: bool) -> None:
        self._guided = on
        if self._phase == "tracking":
            self._track(self._stops)

    def joint_reset(self) -> bool:
        state = self.state()
        if self._phase == "tracking":
            if np.abs(state.q - self.home_q).max() <= AT_HOME:
                return True
            self._change("braking", self._arm.brake)
        return False

    def place_objects(self, seed: int) -> None: ...

    def preflight(self) -> tuple[Check, ...]:
        if self._state is not None:
            return checks(self._require_raw(), self.tool, self._host)
        arm = FrankaArm(self._host, self.joint_limits, self._realtime)
        try:
            arm.connect()
            return checks(arm.read(), self.tool, self._host)
        except RobotError as error:
            return (Check("connection", False, str(error)),)
        finally:
            arm.close()
