"""Any arm behind a SERL HTTP server as it runs in many labs: our guard in front, its controller behind.

That server enforces nothing, knows no owner and no watchdog: whatever else posts to it moves the arm past this
guard, and when this process ends the arm stays where it was sent. What it cannot do stays undone, and is said:

- faults of the arm are not reported by it; an arm that does not follow shows by a state that stands still;
- a server that does not answer is a "communication" fault, as the arm stays where it was sent last;
- a joint reset cannot be broken off: if it must be, the arm is in a fault until it rests and a person recovers;
- STOP is ``/stopimp``, the end of its controller.
"""

from __future__ import annotations

import logging
import statistics
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import replace
from typing import Any

import numpy as np

from robot_servers.arms import PANDA
from robot_servers.drivers.serl_http_link import Errand, Errands, HttpLink, Unreachable
from robot_servers.drivers.serl_http_state import GripWatch, read_state
from robot_servers.interface import (
    Array,
    Check,
    ClockMode,
    Compliance,
    Enforcer,
    Frame,
    Health,
    JointLimits,
    Limits,
    RobotError,
    RobotState,
    Tool,
)
from robot_servers.serl_dialect import GripperNumbers, to_params

log = logging.getLogger(__name__)

HOME_Q = (0.0, 0.0, 0.0, -1.9, 0.0, 2.0, 0.0)  # rad, where SERL's server drives the joints unless it was changed
QUICK = 3.0  # s for a state or a pose: longer than a busy computer pauses, and meanwhile commands are refused
SLOW = 10.0  # s for the gripper and for parameters
START = 30.0  # s for its controller to start; SERL's takes 6
JOINT_RESET = 60.0  # s; SERL's server gives up after 30, and starts two controllers
FROZEN = 2.0  # s that a state may stand still to the last digit while the arm should be elsewhere
ELSEWHERE = 0.01  # m between target and measured pose
AT_HOME = 0.05  # rad
PROBES = 50  # states that the preflight asks for
JOINTS, GRIPPER, PARAMS = "joints", "gripper", "parameters"
LIMP = {"translational_stiffness": 0.0, "rotational_stiffness": 0.0, "nullspace_stiffness": 0.0,
        "translational_Ki": 0.0, "rotational_Ki": 0.0,
        "translational_damping": 5.0, "rotational_damping": 0.5}  # fmt: skip


class SerlHttpDriver:
    """Satisfies `Driver` for the server at ``url``, e.g. ``http://172.16.0.1:5000/``, in real time only.

    ``limits`` has no default: nobody else knows the table. ``gripper`` are its numbers, ``tool`` what is on the
    flange, ``home_q`` (7,) rad where its joint reset ends and ``home_pose`` (7,) the TCP there, by default the pose
    at `connect`. `connect` starts the lab's controller anew, so that it begins at the measured pose.
    """

    name = "serl_http"
    scene = ""
    clock: ClockMode = "realtime"
    limits_enforced: Enforcer = "client"

    def __init__(
        self,
        url: str,
        limits: Limits | None,
        *,
        gripper: GripperNumbers | None = None,
        joint_limits: JointLimits = PANDA,
        home_q: tuple[float, ...] = HOME_Q,
        home_pose: tuple[float, ...] | None = None,
        tool: Tool | None = None,
        cycle_hz: float = 50.0,
        quick: float = QUICK,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        if limits is None:
            raise RobotError("a real arm has no default workspace: give --limits FILE, or --task for a task's limits")
        self.cycle_hz = cycle_hz
        self.limits = limits
        self.joint_limits = joint_limits
        self.home_q = home_q
        self.home_pose = home_pose or ()
        self.tool = tool or Tool()
        self.cameras: Mapping[str, tuple[int, int]] = {}
        self._url = url
        self._numbers = gripper or GripperNumbers()
        self._quick = quick
        self._now = now
        self._link = HttpLink(url)
        self._errands = Errands(url)
        self._compliance = Compliance()
        self._off = threading.Event()  # since `stop`: nothing is sent until `recover`
        self._guided = False
        self._resetting = False
        self._trouble = Health()
        self._target: Array | None = None
        self._posted: Array | None = None
        self._opening: float | None = None  # asked for
        self._grip = GripWatch()
        self._state: RobotState | None = None
        self._raw = b""
        self._changed = 0.0  # when the server's answer last differed from the one before

    # ── life ─────────────────────────────────────────────────────────────────────────────────────

    def connect(self) -> None:
        self._link.post("getstate", None, self._quick)  # says at once if nobody is there
        self._errands.open()
        self._start_controller()
        self.home_pose = self.home_pose or tuple(self.state().pose.tolist())

    def close(self) -> None:
        self._errands.close()
        self._link.close()
        self._state = None

    def _start_controller(self) -> None:
        """Stop first: SERL's server starts a second controller beside one that runs."""
        for route in ("stopimp", "clearerr", "startimp"):
            self._link.post(route, None, START)
        self._target = self._posted = self._opening = None
        self._resetting, self._trouble = False, Health()
        self._off.clear()
        self._raw = b""
        self._poll()

    # ── one cycle ────────────────────────────────────────────────────────────────────────────────

    def track(self, pose: Array, gripper: float | None) -> None:
        if self._off.is_set() or self._guided or self._trouble.fault:
            return
        if self._errands.busy(JOINTS):
            self._trouble = Health("other", "a joint reset was broken off, which the server at the arm does not know")
            return
        self._target = pose
        if gripper is not None and gripper != self._opening:
            self._opening = gripper
            self._errands.put(GRIPPER, self._gripper_errand(gripper))

    def _gripper_errand(self, opening: float) -> Errand:
        if opening in (0.0, 1.0):
            return Errand("open_gripper" if opening else "close_gripper", None, SLOW)
        return Errand("move_gripper", {"gripper_pos": self._numbers.target(opening)}, SLOW)

    def cycle(self) -> None:
        """Send the target if it is a new one, and measure. Raises `RobotError` for answers that make no sense.

        Without an answer the state stays as it was, in `health` and in all but its time, until `recover`.
        """
        try:
            if not self._trouble.fault:
                self._exchange()
        except Unreachable as error:
            # its joint reset goes on without it: only a person can see when that has ended
            self._trouble = Health("other" if self._resetting else "communication", str(error))
        if self._trouble.fault:
            self._state = replace(self.state(), time=self._now())  # the guard's time goes on

    def _exchange(self) -> None:
        self._errands.check()
        target = None if self._off.is_set() else self._target
        if target is not None and (self._posted is None or not np.array_equal(target, self._posted)):
            self._link.post("pose", {"arr": target.tolist()}, self._quick)
            self._posted = target.copy()
        self._poll()
        self._check_progress()

    def _poll(self) -> None:
        asked = self._now()  # the measurement is not older than that
        raw = self._link.post("getstate", None, self._quick)
        state = read_state(raw, asked, self._numbers)
        if raw != self._raw:
            self._raw, self._changed = raw, asked
        moving = self._errands.busy(GRIPPER)
        grip = self._grip.see(state.gripper, self._opening, asked)
        self._state = replace(state, grip="moving" if moving else grip)

    def _check_progress(self) -> None:
        """A server that lives while its link to the arm is dead answers with the same state for ever."""
        state = self.state()
        still = state.time - self._changed
        if self._posted is None or self._off.is_set() or self._guided or self._resetting or still < FROZEN:
            return
        away = float(np.linalg.norm(self._posted[:3] - state.pose[:3]))
        if away > ELSEWHERE:
            raise RobotError(
                f"the state of {self._url} has stood still for {still:.1f} s while the arm should move "
                f"by {away:.3f} m: its controller is off, or it has lost the arm; start that server again"
            )

    # ── measurements ─────────────────────────────────────────────────────────────────────────────

    def state(self) -> RobotState:
        if self._state is None:
            raise RobotError(f"not connected to {self._url}: call connect()")
        return self._state

    def health(self) -> Health:
        return self._trouble

    def frames(self) -> dict[str, Frame]:
        return {}

    def ground_truth(self) -> Mapping[str, Any]:
        return {}

    def preflight(self) -> tuple[Check, ...]:
        """Asks for states, and moves nothing."""
        try:
            with closing(HttpLink(self._url)) as link:
                times, state = self._probe(link)
        except RobotError as error:
            return (Check("SERL server", False, str(error)),)
        middle, worst = statistics.median(times), max(times)
        low, high = np.array(self.limits.box_low), np.array(self.limits.box_high)
        inside = bool((state.pose[:3] >= low).all() and (state.pose[:3] <= high).all())
        return (
            Check("SERL server", True, f"{self._url} answers; it enforces no limits: let nothing else post to it"),
            Check(
                "round trip",
                middle < 0.5 / self.cycle_hz,
                f"median {middle * 1e3:.1f} ms, worst {worst * 1e3:.1f} ms of {PROBES}; half a cycle must be enough "
                f"for one: {500 / self.cycle_hz:.0f} ms",
            ),
            Check("inside the box", inside, f"the TCP is at {np.round(state.pose[:3], 3).tolist()}"),
        )

    def _probe(self, link: HttpLink) -> tuple[list[float], RobotState]:
        times = []
        while True:
            begun = self._now()
            text = link.post("getstate", None, self._quick)
            times.append(self._now() - begun)
            if len(times) == PROBES:
                return times, read_state(text, begun, self._numbers)

    # ── stopping and recovering ──────────────────────────────────────────────────────────────────

    def stop(self) -> None:
        """On a connection of its own: the cycle's may be stuck."""
        self._off.set()
        self._errands.stop()
        try:
            with closing(HttpLink(self._url)) as link:
                link.post("stopimp", None, 2.0 * self._quick)
        except RobotError as error:
            log.error("the arm could not be told to stop, use its hardware stop: %s", error)

    def recover(self) -> None:
        if self._errands.busy(JOINTS):
            raise RobotError("the server at the arm still drives its joints: wait until it rests, then recover")
        self._link.post("getstate", None, self._quick)  # the patience of what follows is for a server that answers
        self._errands.clear()
        self._start_controller()

    # ── parameters and resets ────────────────────────────────────────────────────────────────────

    def set_compliance(self, compliance: Compliance) -> None:
        self._compliance = compliance
        if not self._guided:
            self._errands.put(PARAMS, Errand("update_param", to_params(compliance), SLOW))

    def guide(self, on: bool) -> None:
        self._guided = on
        self._target = self._posted = None
        if not on:  # before the stiffness comes back
            self._link.post("pose", {"arr": self.state().pose.tolist()}, self._quick)
        params = to_params(self._compliance) | (LIMP if on else {})
        self._errands.put(PARAMS, Errand("update_param", params, SLOW))

    def joint_reset(self) -> bool:
        """The server's own, which starts its controller anew when the joints are there."""
        if self._off.is_set() or self._errands.failed():  # of which `cycle` makes a fault
            return False
        if not self._resetting:
            self._resetting = True
            self._target = self._posted = None
            self._errands.put(JOINTS, Errand("jointreset", None, JOINT_RESET))
            return False
        if self._errands.busy(JOINTS):
            return False
        self._resetting = False
        self.set_compliance(self._compliance)  # its controller has come back with its own
        self._check_home()
        return True

    def _check_home(self) -> None:
        off = np.abs(self.state().q - self.home_q)
        if off.max() > AT_HOME:
            log.warning(
                "after the joint reset joint %d is %.2f rad from home_q %s: the server has another home",
                int(off.argmax()) + 1,
                float(off.max()),
                list(self.home_q),
            )

    def place_objects(self, seed: int) -> None:
        """There is no simulation behind it; a person places them."""
