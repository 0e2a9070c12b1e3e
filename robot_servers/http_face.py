"""A guarded robot as SERL's scripts see it: no leases, a pose that stays the goal, resets that block.

`Face` stands between HTTP requests and a client of the robot's own server, so that every check, limit and
lease is the server's, and a script and any other client never both command. What SERL's clients expect
and the server does not offer is added here:

- every request renews an implicit lease; when requests stop, it is released and the arm holds;
- a pose stays the goal as long as the lease lasts: a thread sends it again and again, each time as the
  answer to the newest state, so that far goals are reached at the limits' speed and no watchdog ends the way;
- parameters stay until they are changed: they are set again with each new lease.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Mapping

import numpy as np

from robot_servers.interface import (
    Array,
    Command,
    CommandRefused,
    Compliance,
    JointReset,
    Metadata,
    ResetStep,
    Robot,
    RobotError,
    RobotState,
    SetCompliance,
)
from robot_servers.serl_dialect import with_params

log = logging.getLogger(__name__)

LEASE = 1.0  # s without a request after which the arm holds
RATE = 40.0  # Hz at which the goal is sent
REFUSALS = 5  # in a row after which a goal is given up: a single one may be a late measurement
PLAN_TIMEOUT = 60.0  # s for a reset plan; the server's own timeouts come first
POLL = 0.02  # s between looks at a running plan
REPEAT = 10.0  # s before the same fault is logged again: scripts post /clearerr before every pose
SAME_LOAD = 1e-6  # kg, m, kg·m²


class Face:
    """What the routes do. ``make`` gives a client of the robot's server, which `connect` has not been called on.

    `open` starts the thread that keeps the goal; nothing connects before the first request. Safe to call from
    many threads. Methods raise `RobotError` with the reason, `CommandRefused` if nothing moved because of it.
    """

    def __init__(
        self, make: Callable[[], Robot], lease: float = LEASE, now: Callable[[], float] = time.monotonic
    ) -> None:
        self._make = make
        self._lease = lease
        self._now = now
        self._lock = threading.RLock()  # the owner, the goal, the deadline
        self._looking = threading.Lock()
        self._observer: Robot | None = None  # reads, and may do what is open to everyone
        self._owner: Robot | None = None  # commands; holds the lease from the first motion to the last request
        self._until = 0.0
        self._goal: Array | None = None
        self._gripper: float | None = None
        self._compliance: Compliance | None = None  # what scripts have set
        self._planning = False
        self._refusals = 0
        self._told = ("", 0.0)
        self._closing = threading.Event()
        self._thread: threading.Thread | None = None

    def open(self) -> None:
        self._thread = threading.Thread(target=self._pump, name="http-goal", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End the lease, so that the arm holds, and the connections."""
        self._closing.set()
        if self._thread is not None:
            self._thread.join(10.0)
        with self._lock:
            self._release()
        if self._observer is not None:
            self._observer.close()

    # ── looking ──

    def state(self) -> RobotState:
        return self._look().state()

    @property
    def metadata(self) -> Metadata:
        return self._look().metadata

    def renew(self) -> None:
        """A request came: whoever owns the robot through this face goes on to. Without the lock: it never waits."""
        self._until = self._now() + self._lease

    # ── moving ──

    def move(self, pose: Array) -> None:
        """Make ``pose`` (7,) the goal until another one, a hold, or the end of the lease."""
        with self._lock:
            self._aim(self._own(), pose, self._gripper)

    def move_gripper(self, opening: float) -> None:
        """Open (1) or close (0) the gripper where the arm is, or on its way to the goal."""
        with self._lock:
            owner = self._own()
            self._aim(owner, owner.state().pose if self._goal is None else self._goal, opening)

    def joint_reset(self) -> None:
        """Drive the joints home; returns when they are there."""
        self._run((JointReset(),), keep_goal=False)

    def resume(self) -> None:
        """End a hold that somebody asked for: the goal is the measured pose."""
        self._run((), keep_goal=False)

    def hold(self, reason: str) -> None:
        """Stay there until `resume` or a joint reset."""
        with self._lock:
            self._goal = None
        self._look().hold(reason)

    def update_params(self, params: Mapping[str, object]) -> None:
        """Change the impedance parameters, in SERL's names; the goal stays."""
        with self._lock:
            before = self._compliance or self.metadata.compliance
            after = with_params(before, params)
            if after == before:
                return
            self._run((SetCompliance(after),), keep_goal=True)
            self._compliance = after

    def check_load(self, mass: float, centre: Array, inertia: Array) -> None:
        """Raises `CommandRefused` unless this is the tool's load already: it is a fact of the robot's own server."""
        tool = self.metadata.tool
        asked = np.array([mass, *centre, *inertia])
        configured = np.array([tool.mass, *tool.centre, *tool.inertia])
        if np.abs(asked - configured).max() > SAME_LOAD:
            raise CommandRefused(
                f"the load is set where the robot's server is started, which says mass {tool.mass:g} kg, centre "
                f"{list(tool.centre)} m: change the tool there, and start the server again"
            )

    def clear_error(self) -> None:
        """Nothing without a fault, else a refusal that says what happens next. It never recovers an arm.

        From a late message the guard recovers by itself, seldom enough; from everything else only a person does.
        """
        status = self._look().status()
        fault = status.health.fault or (status.mode if status.mode in ("fault", "stopped", "user-stopped") else "")
        if not fault:
            return
        text = status.reason or status.health.text or "no reason given"
        if fault == "communication":
            self._refuse_to_clear(f"{fault}: {text}")
        self._refuse_to_clear(
            f"{fault}: {text}; no script clears that: a person at the arm removes the cause, then recovers"
        )

    # ── the owner; with the lock held ──

    def _own(self) -> Robot:
        """A client that owns the robot, with the script's parameters. Raises what the server answers."""
        if self._owner is not None:
            return self._owner
        owner = self._make()
        owner.connect()
        try:
            if self._compliance is not None:
                owner.reset((SetCompliance(self._compliance),))
                self._wait(owner)
        except BaseException:
            owner.close()
            raise
        self._owner, self._refusals = owner, 0
        return owner

    def _release(self) -> None:
        """Give the lease back: the server lets the arm hold."""
        self._goal = self._gripper = None
        if self._owner is not None:
            self._owner.close()
            self._owner = None

    def _aim(self, owner: Robot, goal: Array, gripper: float | None) -> None:
        """Send a new goal once; only if it was accepted, go on sending it."""
        owner.command(Command(goal, gripper, owner.state().time))
        self._goal, self._gripper, self._refusals = goal, gripper, 0

    # ── plans ──

    def _run(self, plan: tuple[ResetStep, ...], keep_goal: bool) -> None:
        """Let the server run a plan, and wait until it is done; other requests are answered meanwhile."""
        with self._lock:
            owner, goal = self._own(), self._goal if keep_goal else None
            owner.reset(plan)
            self._goal, self._planning = None, True
        try:
            self._wait(owner)
        finally:
            with self._lock:
                self._planning = False
        with self._lock:
            self._goal = goal if self._goal is None else self._goal

    def _wait(self, owner: Robot) -> None:
        """Until the plan of ``owner`` is done. Raises `RobotError` if it did not come to its end."""
        deadline = self._now() + PLAN_TIMEOUT
        while (status := owner.status()).mode == "resetting":
            self.renew()
            if status.waiting_for or self._now() > deadline or self._closing.wait(POLL):
                owner.hold("nobody waits for the reset any more")
                raise RobotError(f"the reset did not end: {status.waiting_for or 'see what blocks the arm'}")
        if status.mode not in ("idle", "moving"):
            raise RobotError(f"the reset ended in mode {status.mode}: {status.reason or 'no reason given'}")

    # ── the thread that keeps the goal ──

    def _pump(self) -> None:
        due = self._now()
        while not self._closing.wait(max(0.0, due - self._now())):
            due = max(due + 1.0 / RATE, self._now())  # no burst after a long call
            with self._lock:
                self._beat()

    def _beat(self) -> None:
        """One period: release a lease that has ended, else send the goal again."""
        if self._owner is None or self._planning:
            return
        if self._now() > self._until:
            log.info("no request for %g s: the arm holds", self._lease)
            self._release()
        elif self._goal is not None:
            self._send(self._owner, self._goal)

    def _send(self, owner: Robot, goal: Array) -> None:
        try:
            owner.command(Command(goal, self._gripper, owner.state().time))
            self._refusals = 0
        except RobotError as error:
            self._refusals += 1
            if self._refusals >= REFUSALS or not self._may_go_on(owner):
                log.warning("the goal is given up; the next /pose sets a new one: %s", error)
                self._release()

    def _may_go_on(self, owner: Robot) -> bool:
        """Whether a refused command may be sent again: after a fault or a stop no old goal may move the arm."""
        with contextlib.suppress(RobotError):
            return owner.status().mode in ("idle", "moving", "holding")
        return False

    # ── faults ──

    def _look(self) -> Robot:
        """The client that only looks. Raises `RobotError` while nobody answers."""
        with self._looking:
            if self._observer is None:
                observer = self._make()
                observer.connect()
                self._observer = observer
            return self._observer

    def _refuse_to_clear(self, text: str) -> None:
        before, when = self._told
        if text != before or self._now() - when > REPEAT:
            log.error("/clearerr does not clear: %s", text)
            self._told = (text, self._now())
        raise CommandRefused(text)
