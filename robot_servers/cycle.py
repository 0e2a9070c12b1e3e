"""The control cycle: one period of the robot after the other, and the only caller of a driver.

Each period: the guard (or the running reset) says what to track, the driver tracks it, one period
passes, the arm is measured. Under the lockstep clock `Cycle.advance` runs periods in the caller's thread;
in real time a thread of its own runs them on an absolute schedule. ``lock`` protects guard, newest state
and running reset, and is never held while the driver is called: what hangs in the driver hangs alone.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import replace

from robot_servers.interface import Array, Compliance, Driver, Health, ResetStep, RobotError, RobotState
from robot_servers.limits import check_state, pose_between
from robot_servers.recovery import SelfRecovery
from robot_servers.resets import ResetFailed, ResetRun
from robot_servers.safety import Guard

log = logging.getLogger(__name__)

DRIVER_WAIT = 2.0  # s to wait for the driver's present period
MISSED_CYCLES = 5  # periods without a cycle after which a command is refused
MEMORY = 1.0  # s of poses that are kept, to pair camera frames with them


def softened(compliance: Compliance, share: float) -> Compliance:
    """The compliance with a share (0 … 1] of its stiffness, as well damped."""
    return replace(
        compliance,
        translational_stiffness=compliance.translational_stiffness * share,
        rotational_stiffness=compliance.rotational_stiffness * share,
        translational_damping=compliance.translational_damping * share**0.5,
        rotational_damping=compliance.rotational_damping * share**0.5,
        translational_ki=compliance.translational_ki * share,
        rotational_ki=compliance.rotational_ki * share,
    )


class Cycle:
    """Runs ``driver`` under ``guard``. ``prepare`` is called once in the thread of the real-time cycle."""

    def __init__(
        self,
        driver: Driver,
        guard: Guard,
        compliance: Compliance,
        now: Callable[[], float],
        sleep: Callable[[float], None],
        prepare: Callable[[], object],
    ) -> None:
        self.lock = threading.Lock()  # guard, newest state, running reset
        self.run: ResetRun | None = None
        self.health = Health()
        self.count = 0  # periods since connect
        self.late = 0  # real time: periods that began more than one period late
        self.restore = False  # whether the next period sets the compliance of connect again
        self._driver = driver
        self._guard = guard
        self._first = self._wanted = compliance
        self._applied: tuple[Compliance, float] | None = None  # what the driver has, and its softening
        self._guided = False
        self._recovery = SelfRecovery()
        self._now = now
        self._sleep = sleep
        self._prepare = prepare
        self._state: RobotState | None = None
        self._poses: deque[tuple[float, Array]] = deque(maxlen=max(2, round(MEMORY * driver.cycle_hz)))
        self._driver_lock = threading.Lock()  # held through one period
        self._broken = ""  # why the driver is not called any more
        self._frozen = 0  # periods in a row without a newer state
        self._cycled = 0.0  # wall clock of the last period
        self._closing = threading.Event()
        self._thread: threading.Thread | None = None

    # ── connection ──

    def connect(self) -> None:
        """Connect the driver and, in real time, start the periods. Raises what the driver raises."""
        if self._closing.is_set():
            raise RobotError("closed for good: make a new GuardedRobot to connect again")
        if self._state is not None:
            raise RobotError("already connected")
        try:
            self._driver.connect()
            state = self._measure()
            self._guard.start(state)
            self._comply(state.time)
        except BaseException:  # half a connection must not stay open, e.g. a rendering process
            self._driver.close()
            raise
        self._state, self._cycled = state, self._now()
        if self._driver.clock == "realtime":
            self._thread = threading.Thread(target=self._run_periods, name="robot-cycle", daemon=True)
            self._thread.start()

    def close(self) -> None:
        """Stop the periods, then the arm, and close the driver for good. Waits at most 2 s for a hung one."""
        self._closing.set()
        if self._thread is not None:
            self._thread.join(DRIVER_WAIT)
        if self._state is None:
            return
        self.stop_driver()  # first, and also if the driver hangs
        with contextlib.suppress(RobotError), self.idle():
            self._driver.close()

    # ── what the robot's users cause ──

    def newest(self) -> RobotState:
        """The newest measurement; it also answers, unchanged, after the driver failed."""
        if self._state is None:
            raise RobotError("the robot is not connected: call connect() first")
        return self._state

    def pose_at(self, time: float) -> Array | None:
        """The TCP pose (7,) interpolated to ``time`` s, or None where no state is that old."""
        with self.lock:
            poses = list(self._poses)
        return pose_between(poses, time)

    def start_reset(self, plan: tuple[ResetStep, ...], number: int) -> None:
        """Begin a plan, under the lock. Raises `CommandRefused` where that must not be."""
        self._guard.begin_reset(self.newest().time)
        self.run = ResetRun(plan, self._driver, self._guard.own, self.newest(), number, self._want)

    def advance(self, periods: int) -> None:
        """Run periods in this thread. Raises `RobotError` after a driver failed."""
        for _ in range(periods):
            self.check()
            self._period()
        self.check()

    def recover(self) -> None:
        """A person brings the arm back, between two periods. Raises `RobotError` saying what has to be done first."""
        self.check()
        with self.idle():
            self._bring_back(self._guard.recover)

    def _bring_back(self, resume: Callable[[RobotState], None]) -> None:
        """Between two periods. A STOP that comes meanwhile is stronger."""
        stops = self._guard.stops
        self._driver.recover()
        state = self._measure()
        with self.lock:
            stopped = self._guard.stops != stops
            if not stopped:
                self._state, self.health = state, Health()
                resume(state)
        if stopped:
            self.stop_driver()
            raise RobotError("STOP was called while the arm recovered: it stays stopped")
        self._applied = None  # the driver has started its controller anew
        self._comply(state.time)

    def stop_driver(self) -> None:
        """The last word to an arm that nobody leads any more; what called it must go on whatever happens."""
        try:
            self._driver.stop()
        except Exception:  # a vendor's driver may raise anything; the mode is already set, and this is logged whole
            log.exception("the driver %s could not be told to stop", self._driver.name)

    @contextlib.contextmanager
    def idle(self) -> Iterator[None]:
        """Between two periods. Raises `RobotError` after a bounded wait for the present one."""
        if not self._driver_lock.acquire(timeout=DRIVER_WAIT):
            raise RobotError(f"the driver {self._driver.name} has not finished its cycle for {DRIVER_WAIT:g} s")
        try:
            yield
        finally:
            self._driver_lock.release()

    def check(self) -> None:
        """Raises `RobotError` once the driver has failed, or the robot is closed."""
        if self._broken:
            raise RobotError(f"{self._broken}; remove the cause, then start the server again")
        if self._closing.is_set():
            raise RobotError("the robot is closed: start the server again")

    def silence(self) -> str:
        """Why nothing would carry out a command: the real-time cycle does not come round. Else empty."""
        if self._driver.clock == "lockstep" or self._broken:
            return ""
        gap = self._now() - self._cycled
        if gap <= max(self._guard.limits.watchdog, MISSED_CYCLES / self._driver.cycle_hz):
            return ""
        return f"the control cycle has not come round for {gap:.2f} s: the driver {self._driver.name} hangs"

    # ── one period ──

    def _run_periods(self) -> None:
        self._prepare()
        length = 1.0 / self._driver.cycle_hz
        due = self._now()
        while not self._closing.is_set() and not self._broken:
            self._period()
            due += length
            late = self._now() - due
            if late > length:  # no burst of periods to catch up with a schedule that is lost
                self.late += 1
                due = self._now()
            elif late < 0:
                self._sleep(-late)

    def _period(self) -> None:
        with self._driver_lock:
            try:
                self._step()
            except Exception as error:
                log.exception("the driver %s failed; it is told to stop, and nothing more", self._driver.name)
                self._fail(f"the driver {self._driver.name} failed: {type(error).__name__}: {error}")

    def _step(self) -> None:
        with self.lock:
            state, run = self.newest(), self.run
        if run is not None:
            self._go_on(run, state)
        with self.lock:
            target = self._target(state)
        try:
            self._comply(state.time)
        except RobotError as error:  # what it cannot do, e.g. an integral gain; it goes on with what it had
            self._refused(str(error), state)
        if target is not None:
            self._driver.track(*target)
        self._driver.cycle()
        measured = self._measure()
        self._check_progress(measured.time > state.time)
        self._heed(self._driver.health(), measured)
        with self.lock:
            self._state, self._cycled = measured, self._now()
            self._poses.append((measured.time, measured.pose))
            self.count += 1

    def _target(self, state: RobotState) -> tuple[Array, float | None] | None:
        """What to track in this period; None while the driver moves its joints by itself, or nothing must move."""
        self._guard.watch(state)
        if self.run is None or self._guard.mode != "resetting":
            self.run = None
            return self._guard.target(state, state.time)
        if self.run.joints:
            self._guard.rest(state)
            return None
        return self._guard.follow(self.run.goal, self.run.gripper, self.run.speed, state)

    def _go_on(self, run: ResetRun, state: RobotState) -> None:
        """One period of the reset, outside the lock: its steps call the driver. A hold may end it meanwhile."""
        try:
            done, failure = run.cycle(state), ""
        except ResetFailed as error:
            done, failure = True, str(error)
        with self.lock:
            if self.run is not run:
                return
            if run.fresh:
                self._guard.end_soft()
            if run.placed:
                self._guard.rest(run.state)
            if not done:
                return
            self.run = None
            if failure:
                self._guard.go_down("fault", failure, state)
            else:
                self._guard.end_reset(run.goal, run.gripper)

    def _want(self, compliance: Compliance) -> None:
        self._wanted = compliance

    def _comply(self, now: float) -> None:
        """Give the driver the wanted compliance, softened while the soft start lasts, and its guiding mode."""
        with self.lock:
            if self.restore:
                self._wanted, self.restore = self._first, False
            share, guiding = self._guard.stiffness(now), self._guard.mode == "guiding"
        if guiding != self._guided:
            self._driver.guide(guiding)
            self._guided, self._applied = guiding, None
        if not guiding and self._applied != (self._wanted, share):
            self._applied = (self._wanted, share)
            self._driver.set_compliance(softened(self._wanted, share))

    def _refused(self, reason: str, state: RobotState) -> None:
        with self.lock:
            self.run = None
            self._guard.go_down("fault", reason, state)

    def _measure(self) -> RobotState:
        state = self._driver.state()
        check_state(state, len(self._driver.home_q))
        return state

    def _check_progress(self, advanced: bool) -> None:
        # the watchdog counts in the time of the states: were it to stand still, no hold would ever come
        self._frozen = 0 if advanced else self._frozen + 1
        if self._frozen >= MISSED_CYCLES:
            raise RobotError(f"the time of its states has stood still for {MISSED_CYCLES} cycles")

    # ── faults ──

    def _heed(self, health: Health, state: RobotState) -> None:
        """What the arm says of itself ends every motion; only a late message is recovered from by itself."""
        if health.fault and health.fault != self.health.fault:
            mode = "user-stopped" if health.fault == "user-stop" else "fault"
            with self.lock:
                self.run = None
                self._guard.go_down(mode, self._recovery.explain(health, self._now()), state)
            log.warning("the arm reports a fault (%s): %s", health.fault, health.text)
        self.health = health
        if health.fault == "communication" and self._guard.mode == "fault" and self._recovery.due(self._now()):
            self._recover_alone()

    def _recover_alone(self) -> None:
        """Called within a period, so that the driver is ours."""
        try:
            self._bring_back(self._guard.resume)
        except RobotError as error:
            log.warning("the arm does not recover by itself: %s", error)
            return
        log.warning("recovered by itself from a communication fault: %s", self._recovery.left(self._now()))

    def _fail(self, reason: str) -> None:
        with self.lock:
            self.run = None
            self._guard.go_down("fault", reason, self.newest())
            self._broken = reason
        self.stop_driver()
