"""A driver behind its guard: the one object that moves an arm, and the only caller of a driver.

Each cycle: the guard (or the running reset) says what to track, the driver tracks it, one period
passes, the arm is measured. Under the lockstep clock `advance` runs cycles in the caller's thread;
in real time a thread of its own runs them on an absolute schedule. All other calls exchange data
with the cycle under a short lock: if their thread hangs, the watchdog in the cycle still leads to a
hold; if the driver hangs, they still answer and commands are refused. Only `frames`, `ground_truth`
and `close` call the driver themselves; they wait for its present cycle, within bounds, and may fail.
"""

from __future__ import annotations

import contextlib
import logging
import math
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from robot_servers.interface import (
    Applied,
    Array,
    Command,
    CommandRefused,
    Compliance,
    Driver,
    Frame,
    Limits,
    Metadata,
    ResetStep,
    RobotError,
    RobotState,
    Status,
)
from robot_servers.resets import ResetFailed, ResetRun, check_plan
from robot_servers.safety import Guard, check_state, tightened

log = logging.getLogger(__name__)

MAX_ADVANCE = 60.0  # s of simulated time in one call, so that no call keeps the server for ever
DRIVER_WAIT = 2.0  # s to wait for the driver's present cycle
MISSED_CYCLES = 5  # periods without a cycle after which a command is refused


class GuardedRobot:
    """Satisfies `Robot`. ``limits`` may only tighten the driver's own; ``compliance`` is set on connect.

    Commands are refused in real time when no cycle ran for ``max(watchdog, 5 periods)``: nothing
    would carry them out. A fault is never cleared here: the server has to be started again.
    """

    def __init__(
        self,
        driver: Driver,
        limits: Limits | None = None,
        compliance: Compliance | None = None,
        now: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._driver = driver
        self._guard = Guard(driver.limits if limits is None else tightened(driver.limits, limits))
        self._compliance = compliance or Compliance()
        self._now = now
        self._sleep = sleep
        self._lock = threading.Lock()  # guard, newest state, running reset
        self._driver_lock = threading.Lock()  # held through one cycle
        self._state: RobotState | None = None
        self._run: ResetRun | None = None
        self._restore = False  # whether the next cycle sets the compliance of connect again
        self._resets = 0
        self._broken = ""  # why the driver is not called any more
        self._frozen = 0  # cycles in a row without a newer state
        self._cycled = 0.0  # wall clock of the last cycle
        self._closing = threading.Event()
        self._thread: threading.Thread | None = None
        self.late_cycles = 0  # real time: cycles that began more than one period late

    # ── connection ──

    @property
    def metadata(self) -> Metadata:
        self._newest()
        driver = self._driver
        return Metadata(
            robot=driver.name,
            scene=driver.scene,
            clock=driver.clock,
            cycle_hz=driver.cycle_hz,
            limits=self._guard.own,
            home_q=tuple(driver.home_q),
            home_pose=tuple(driver.home_pose),
            compliance=self._compliance,
            joint_limits=driver.joint_limits,
            tool=driver.tool,
            limits_enforced=driver.limits_enforced,
            cameras={name: (size[0], size[1]) for name, size in driver.cameras.items()},
        )

    def connect(self) -> None:
        """Connect the driver and, in real time, start the cycle. Raises what the driver raises."""
        if self._closing.is_set():
            raise RobotError("closed for good: make a new GuardedRobot to connect again")
        if self._state is not None:
            raise RobotError("already connected")
        try:
            self._driver.connect()
            self._driver.set_compliance(self._compliance)
            self._state = self._measure()
        except BaseException:  # half a connection must not stay open, e.g. a rendering process
            self._driver.close()
            raise
        self._cycled = self._now()
        if self._driver.clock == "realtime":
            self._thread = threading.Thread(target=self._run_cycles, name="robot-cycle", daemon=True)
            self._thread.start()

    def close(self) -> None:
        """Stop the cycle, then the arm, and close the driver for good. Waits at most 2 s for a hung cycle."""
        self._closing.set()
        if self._thread is not None:
            self._thread.join(DRIVER_WAIT)
        with self._lock:
            self._guard.stop("closed")
        if self._state is None:
            return
        with contextlib.suppress(RobotError), self._driver_idle():
            self._stop_driver()
            self._driver.close()

    # ── what users call ──

    def state(self) -> RobotState:
        """The newest measurement; it also answers, unchanged, after the driver failed."""
        return self._newest()

    def frames(self) -> dict[str, Frame]:
        """The newest image of every camera.

        In lockstep the driver renders in this thread. In real time a driver's ``frames`` is safe to call
        beside its cycle, so it is called without the driver's lock: a slow camera never delays a cycle.
        """
        self._newest()
        self._check_driver()
        with contextlib.nullcontext() if self._driver.clock == "realtime" else self._driver_idle():
            return self._driver.frames()

    def command(self, command: Command) -> Applied:
        with self._lock:
            state = self._newest()
            self._check_cycle()
            return self._guard.command(command, state, state.time)

    def reset(self, plan: tuple[ResetStep, ...]) -> None:
        """Start a plan. Raises `CommandRefused` for a plan outside the limits, in a fault, or while one runs."""
        self._newest()
        check_plan(plan, self._guard.own)  # without the lock, for which the cycle would have to wait
        with self._lock:
            state = self._newest()
            self._guard.begin_reset()
            self._run = ResetRun(plan, self._driver, self._guard.own, state, self._resets)
            self._resets += 1

    def confirm(self) -> None:
        with self._lock:
            if self._run is None:
                raise CommandRefused("nothing to confirm: no reset is running")
            self._run.confirm()

    def hold(self, reason: str) -> None:
        """Stay where the arm is, until a reset; ends a running one."""
        with self._lock:
            self._guard.hold_until_reset(reason, self._newest())
            self._run = None

    def tighten(self, limits: Limits) -> None:
        """Bind commands to these limits, within the robot's own, until the next `tighten` or `abandon`."""
        with self._lock:
            self._guard.tighten(limits, self._newest())

    def abandon(self) -> None:
        """The owner is gone: a reset or a motion ends in a hold; the robot's own limits and compliance bind again."""
        with self._lock:
            self._run = None
            self._guard.abandon(self._newest())
            self._restore = True

    def status(self) -> Status:
        with self._lock:
            guard, run = self._guard, self._run
            return Status(
                mode=guard.mode,
                time=self._newest().time,
                reason=guard.reason or self._silence(),
                waiting_for=run.waiting_for if run else "",
                resets=self._resets,
                commands=guard.commands,
                refused=guard.refused,
                bent=guard.bent,
            )

    def advance(self, seconds: float) -> None:
        """Run ``round(seconds · cycle_hz)`` cycles. Raises `RobotError` in real time or after a driver failed."""
        if self._driver.clock != "lockstep":
            raise RobotError("advance() is for the lockstep clock; this robot runs in real time")
        if not (math.isfinite(seconds) and 0.0 <= seconds <= MAX_ADVANCE):
            raise RobotError(f"cannot advance by {seconds} s; at most {MAX_ADVANCE:g} s in one call")
        self._newest()
        for _ in range(round(seconds * self._driver.cycle_hz)):
            self._check_driver()
            self._cycle()
        self._check_driver()

    def ground_truth(self) -> Mapping[str, Any]:
        """The simulated scene's truth: for the privileged channel only. Raises `RobotError` if the driver hangs."""
        self._newest()
        self._check_driver()
        with self._driver_idle():
            return self._driver.ground_truth()

    # ── the cycle ──

    def _run_cycles(self) -> None:
        period = 1.0 / self._driver.cycle_hz
        due = self._now()
        while not self._closing.is_set() and not self._broken:
            self._cycle()
            due += period
            late = self._now() - due
            if late > period:  # no burst of cycles to catch up with a schedule that is lost
                self.late_cycles += 1
                due = self._now()
            elif late < 0:
                self._sleep(-late)

    def _cycle(self) -> None:
        with self._driver_lock:
            try:
                self._step()
            except Exception as error:
                log.exception("the driver %s failed; it is told to stop, and nothing more", self._driver.name)
                self._fail(f"the driver {self._driver.name} failed: {type(error).__name__}: {error}")

    def _step(self) -> None:
        with self._lock:
            state, run, restore = self._newest(), self._run, self._restore
            self._restore = False
        if restore:
            self._driver.set_compliance(self._compliance)
        if run is not None:
            self._go_on(run, state)
        with self._lock:
            target = self._target(state)
        if target is not None:
            self._driver.track(*target)
        self._driver.cycle()
        measured = self._measure()
        self._check_progress(measured.time > state.time)
        with self._lock:
            self._state, self._cycled = measured, self._now()

    def _target(self, state: RobotState) -> tuple[Array, float | None] | None:
        """What to track in this cycle; None while the driver moves its joints by itself."""
        if self._run is None:
            return self._guard.target(state, state.time)
        return None if self._run.joints else (self._run.pose, self._run.gripper)

    def _go_on(self, run: ResetRun, state: RobotState) -> None:
        """One cycle of the reset, outside the lock: its steps call the driver. A hold may end it meanwhile."""
        try:
            done, failure = run.cycle(state), ""
        except ResetFailed as error:
            done, failure = True, str(error)
        with self._lock:
            if self._run is not run or not done:
                return
            self._run = None
            if failure:
                self._guard.fault(failure, state)
            else:
                self._guard.end_reset(run.pose, run.gripper)

    def _measure(self) -> RobotState:
        state = self._driver.state()
        check_state(state, len(self._driver.home_q))
        return state

    def _check_progress(self, advanced: bool) -> None:
        # the watchdog counts in the time of the states: were it to stand still, no hold would ever come
        self._frozen = 0 if advanced else self._frozen + 1
        if self._frozen >= MISSED_CYCLES:
            raise RobotError(f"the time of its states has stood still for {MISSED_CYCLES} cycles")

    def _fail(self, reason: str) -> None:
        with self._lock:
            self._run = None
            self._guard.fault(reason, self._newest())
            self._broken = reason
        self._stop_driver()

    def _stop_driver(self) -> None:
        """The last word to an arm that nobody leads any more; what called it must go on whatever happens."""
        try:
            self._driver.stop()
        except Exception:  # a vendor's driver may raise anything; the fault is already set, and this is logged whole
            log.exception("the driver %s could not be told to stop", self._driver.name)

    # ── checks ──

    @contextlib.contextmanager
    def _driver_idle(self) -> Iterator[None]:
        """Between two cycles. Raises `RobotError` after a bounded wait for the present one."""
        if not self._driver_lock.acquire(timeout=DRIVER_WAIT):
            raise RobotError(f"the driver {self._driver.name} has not finished its cycle for {DRIVER_WAIT:g} s")
        try:
            yield
        finally:
            self._driver_lock.release()

    def _newest(self) -> RobotState:
        if self._state is None:
            raise RobotError("the robot is not connected: call connect() first")
        return self._state

    def _check_driver(self) -> None:
        if self._broken:
            raise RobotError(f"{self._broken}; remove the cause, then start the server again")

    def _check_cycle(self) -> None:
        silence = self._silence()
        if silence:
            raise CommandRefused(silence)

    def _silence(self) -> str:
        """Why nothing would carry out a command: the real-time cycle does not come round. Else empty."""
        if self._driver.clock == "lockstep" or self._broken:
            return ""
        gap = self._now() - self._cycled
        if gap <= max(self._guard.limits.watchdog, MISSED_CYCLES / self._driver.cycle_hz):
            return ""
        return f"the control cycle has not come round for {gap:.2f} s: the driver {self._driver.name} hangs"
