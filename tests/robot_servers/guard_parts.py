"""Small parts that the tests of the guard share."""

from __future__ import annotations

import numpy as np

from robot_servers.drivers.fake import JOINTS, LIMITS
from robot_servers.guarded import GuardedRobot
from robot_servers.interface import Applied, Array, Command, Driver, Limits, ResetStep, RobotState
from robot_servers.safety import Guard

CENTRE = np.array([0.5, 0.0, 0.3, 1.0, 0.0, 0.0, 0.0])
CYCLE_HZ = 100.0


def state_at(pose: Array, time: float = 0.0, force: float = 0.0) -> RobotState:
    zero3, zero7 = np.zeros(3), np.zeros(7)
    return RobotState(time, pose, np.zeros(6), np.array([force, 0, 0]), zero3, zero7, zero7, np.zeros((6, 7)), 1.0)


def make_guard(limits: Limits = LIMITS, pose: Array = CENTRE, soft: bool = False) -> Guard:
    """A guard that has started at ``pose``, without its soft start unless asked for."""
    guard = Guard(limits, JOINTS, CYCLE_HZ)
    guard.start(state_at(pose))
    if not soft:
        guard.end_soft()
    return guard


def settle(guard: Guard, pose: Array, cycles: int = 100) -> Array:
    """The set point (7,) after so many cycles with the arm at ``pose`` and no time passing."""
    target = None
    for _ in range(cycles):
        target = guard.target(state_at(pose), 0.0)
    assert target is not None
    return target[0]


class TargetsSeen(list[tuple[Array, RobotState]]):
    """Every target that reached a driver, with the state it was tracked from."""


def recorded(driver: Driver) -> TargetsSeen:
    """Keep every target that the driver is told to track from now on."""
    seen = TargetsSeen()
    track = driver.track

    def record(pose: Array, gripper: float | None) -> None:
        seen.append((pose.copy(), driver.state()))
        track(pose, gripper)

    driver.track = record  # type: ignore[method-assign]
    return seen


def go(robot: GuardedRobot, dx: float = 0.05, gripper: float | None = None) -> Applied:
    """Command a target ``dx`` m farther along x."""
    state = robot.state()
    pose = state.pose.copy()
    pose[0] += dx
    return robot.command(Command(pose, gripper, state.time))


def finish(robot: GuardedRobot, plan: tuple[ResetStep, ...], seconds: float = 30.0) -> float:
    """Run a plan to its end; the simulated time it took."""
    robot.reset(plan)
    begun = robot.state().time
    while robot.status().mode == "resetting":
        robot.advance(0.05)
        assert robot.state().time - begun < seconds
    return robot.state().time - begun
