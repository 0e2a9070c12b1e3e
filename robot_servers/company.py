"""Several guarded robots that share one simulated table: time passes for all of them in step, and STOP stops all.

Everything else stays each robot's own: its guard and limits, its owner, its resets, its holds.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Mapping, Sequence
from typing import Any

from robot_servers.guarded import MAX_ADVANCE, GuardedRobot
from robot_servers.interface import (
    Applied,
    Command,
    Frame,
    Limits,
    Metadata,
    ResetStep,
    RobotError,
    RobotState,
    Status,
)


class Company:
    """What the ``robots`` do together."""

    def __init__(self, robots: Sequence[GuardedRobot]) -> None:
        self._robots = tuple(robots)
        self._lock = threading.Lock()

    def members(self) -> tuple[Companion, ...]:
        """One robot for each server, in the order given."""
        return tuple(Companion(robot, self) for robot in self._robots)

    def advance(self, seconds: float) -> None:
        """Run the periods of all robots in turn, whoever asks. Raises `RobotError` as `GuardedRobot.advance`."""
        if not (math.isfinite(seconds) and 0.0 <= seconds <= MAX_ADVANCE):
            raise RobotError(f"cannot advance by {seconds} s; at most {MAX_ADVANCE:g} s in one call")
        cycle_hz = self._robots[0].metadata.cycle_hz
        with self._lock:
            for _ in range(round(seconds * cycle_hz)):
                for robot in self._robots:
                    robot.advance(1.0 / cycle_hz)

    def stop(self, reason: str) -> None:
        """Stop all of them."""
        for robot in self._robots:
            robot.stop(reason)


class Companion:
    """Satisfies `robot_servers.server.ServedRobot`: one robot of a company."""

    def __init__(self, robot: GuardedRobot, company: Company) -> None:
        self._robot = robot
        self._company = company

    # ── together ──

    def advance(self, seconds: float) -> None:
        """Lockstep clock: time passes for every robot of the company."""
        self._company.advance(seconds)

    def stop(self, reason: str) -> None:
        """Damped stop of every robot of the company; each is recovered by itself."""
        self._company.stop(reason)

    # ── alone ──

    @property
    def metadata(self) -> Metadata:
        return self._robot.metadata

    def connect(self) -> None:
        self._robot.connect()

    def close(self) -> None:
        self._robot.close()

    def state(self) -> RobotState:
        return self._robot.state()

    def frames(self) -> dict[str, Frame]:
        return self._robot.frames()

    def command(self, command: Command) -> Applied:
        return self._robot.command(command)

    def reset(self, plan: tuple[ResetStep, ...]) -> None:
        self._robot.reset(plan)

    def confirm(self) -> None:
        self._robot.confirm()

    def hold(self, reason: str) -> None:
        self._robot.hold(reason)

    def recover(self) -> None:
        self._robot.recover()

    def guide(self, on: bool) -> None:
        self._robot.guide(on)

    def tighten(self, limits: Limits) -> None:
        self._robot.tighten(limits)

    def abandon(self) -> None:
        self._robot.abandon()

    def status(self) -> Status:
        return self._robot.status()

    def ground_truth(self) -> Mapping[str, Any]:
        return self._robot.ground_truth()
