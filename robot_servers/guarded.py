"""A driver behind its guard: what a robot's users hold, in this process or behind a server.

All calls exchange data with the control cycle (`robot_servers.cycle`) under a short lock: if their thread
hangs, the watchdog in the cycle still leads to a hold; if the driver hangs, they still answer and commands
are refused. Only `frames`, `ground_truth`, `recover` and `close` wait for the driver's present cycle, within
bounds; `stop` reaches the driver at once, whatever else hangs.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from robot_servers.cycle import Cycle
from robot_servers.interface import (
    Applied,
    Cameras,
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
from robot_servers.limits import tightened
from robot_servers.resets import check_plan
from robot_servers.safety import DOWN, Guard

MAX_ADVANCE = 60.0  # s of simulated time in one call, so that no call keeps the server for ever


class GuardedRobot:
    """Satisfies `Robot`. ``limits`` may only tighten the driver's own; ``compliance`` is set on connect.

    ``cameras`` are those beside the driver's own. ``prepare`` is called first in the thread of the real-time
    cycle, e.g. to ask for real-time scheduling. Commands are refused in real time when no cycle ran for
    ``max(watchdog, 5 periods)``: nothing would carry them out.
    """

    def __init__(
        self,
        driver: Driver,
        limits: Limits | None = None,
        compliance: Compliance | None = None,
        cameras: Cameras | None = None,
        now: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
        prepare: Callable[[], object] = lambda: None,
    ) -> None:
        self._driver = driver
        own = driver.limits if limits is None else tightened(driver.limits, limits)
        self._guard = Guard(own, driver.joint_limits, driver.cycle_hz)
        self._compliance = compliance or Compliance()
        self._cycle = Cycle(driver, self._guard, self._compliance, now, sleep, prepare)
        self._cameras = cameras
        self._resets = 0

    # ── connection ──

    @property
    def metadata(self) -> Metadata:
        self._cycle.newest()
        driver = self._driver
        sizes = {**driver.cameras, **(self._cameras.sizes if self._cameras else {})}
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
            cameras={name: (size[0], size[1]) for name, size in sizes.items()},
        )

    def connect(self) -> None:
        """Connect the driver, open the cameras and, in real time, start the cycle. Raises what the driver raises."""
        self._cycle.connect()
        if self._cameras is not None:
            self._cameras.open()

    def close(self) -> None:
        """Stop the cycle, then the arm, and close driver and cameras for good. Waits at most 2 s for a hung cycle."""
        with self._cycle.lock:
            self._guard.close()
        self._cycle.close()
        if self._cameras is not None:
            self._cameras.close()

    # ── what users call ──

    def state(self) -> RobotState:
        """The newest measurement; it also answers, unchanged, after the driver failed."""
        return self._cycle.newest()

    def frames(self) -> dict[str, Frame]:
        """The newest image of every camera, with the TCP pose at its capture.

        In lockstep the driver renders in this thread. In real time a driver's ``frames`` is safe to call
        beside its cycle, so it is called without the driver's lock: a slow camera never delays a cycle.
        """
        self._cycle.newest()
        self._cycle.check()
        with contextlib.nullcontext() if self._driver.clock == "realtime" else self._cycle.idle():
            frames = self._driver.frames()
        if self._cameras is not None:
            frames |= self._cameras.frames()
        return {name: replace(frame, pose=self._cycle.pose_at(frame.time)) for name, frame in frames.items()}

    def command(self, command: Command) -> Applied:
        with self._cycle.lock:
            state = self._cycle.newest()
            silence = self._cycle.silence()
            if silence:
                raise CommandRefused(silence)
            return self._guard.command(command, state, state.time)

    def reset(self, plan: tuple[ResetStep, ...]) -> None:
        """Start a plan. Raises `CommandRefused` for a plan outside the limits, in a fault, or while one runs."""
        self._cycle.newest()
        check_plan(plan, self._guard.own)  # without the lock, for which the cycle would have to wait
        with self._cycle.lock:
            self._cycle.start_reset(plan, self._resets)
            self._resets += 1

    def confirm(self) -> None:
        """Answer ``status().waiting_for``, or end what ``held`` says. Raises `CommandRefused` when there is neither."""
        with self._cycle.lock:
            if self._guard.waiting_for:
                self._guard.confirm()
            elif self._cycle.run is not None:
                self._cycle.run.confirm()
            elif self._guard.held:
                self._guard.release()
            else:
                raise CommandRefused("nothing to confirm: no reset is running, and nobody holds the arm")

    def hold(self, reason: str) -> None:
        """Stay where the arm is, until a reset; ends a running one, and guiding."""
        with self._cycle.lock:
            self._guard.hold_until_reset(reason, self._cycle.newest())
            self._cycle.run = None

    def stop(self, reason: str) -> None:
        """Damped stop, then controller off, until a person's `recover`. Reaches the driver at once."""
        with self._cycle.lock:
            self._guard.go_down("stopped", reason or "STOP", self._cycle.newest())
            self._cycle.run = None
        self._cycle.stop_driver()

    def recover(self) -> None:
        """A person says that it is safe to go on. Without anything to recover from it changes nothing."""
        self._cycle.newest()
        self._cycle.check()
        with self._cycle.lock:
            if self._guard.mode not in DOWN:
                self._guard.confirm()
                return self._guard.release() if self._guard.held else None
        return self._cycle.recover()

    def guide(self, on: bool) -> None:
        """Let a person lead the arm, or end that in a hold. Raises `CommandRefused` where it must not begin."""
        with self._cycle.lock:
            if on:
                self._guard.begin_guiding()
            elif self._guard.mode == "guiding":
                self._guard.hold("guided; the next valid command goes on", self._cycle.newest())

    def tighten(self, limits: Limits) -> None:
        """Bind commands to these limits, within the robot's own, until the next `tighten` or `abandon`."""
        with self._cycle.lock:
            self._guard.tighten(limits, self._cycle.newest())

    def abandon(self) -> None:
        """The owner is gone: a reset or a motion ends in a hold; the robot's own limits and compliance bind again."""
        with self._cycle.lock:
            self._guard.abandon(self._cycle.newest())
            self._cycle.run = None
            self._cycle.restore = True

    def status(self) -> Status:
        with self._cycle.lock:
            guard, cycle = self._guard, self._cycle
            now = cycle.newest().time
            return Status(
                mode=guard.mode,
                time=now,
                reason=guard.reason or cycle.silence(),
                waiting_for=guard.waiting_for or (cycle.run.waiting_for if cycle.run else ""),
                held=guard.held,
                resets=self._resets,
                commands=guard.commands,
                refused=guard.refused,
                bent=guard.bent,
                health=cycle.health,
                soft=guard.soft(now),
                cycles=cycle.count,
                late=cycle.late,
                cameras=self._cameras.health() if self._cameras else {},
            )

    def advance(self, seconds: float) -> None:
        """Run ``round(seconds · cycle_hz)`` cycles. Raises `RobotError` in real time or after a driver failed."""
        if self._driver.clock != "lockstep":
            raise RobotError("advance() is for the lockstep clock; this robot runs in real time")
        if not (math.isfinite(seconds) and 0.0 <= seconds <= MAX_ADVANCE):
            raise RobotError(f"cannot advance by {seconds} s; at most {MAX_ADVANCE:g} s in one call")
        self._cycle.newest()
        self._cycle.advance(round(seconds * self._driver.cycle_hz))

    def ground_truth(self) -> Mapping[str, Any]:
        """The simulated scene's truth: for the privileged channel only. Raises `RobotError` if the driver hangs."""
        self._cycle.newest()
        self._cycle.check()
        with self._cycle.idle():
            return self._driver.ground_truth()
