"""Conduct that is wrong: limits, refusals, and what ends a motion."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from broken_parts import HZ, START, Calls, cycles

from robot_servers.drivers.fake import FakeDriver
from robot_servers.geometry import quat_mul, quat_normalise, rotvec_to_quat
from robot_servers.guarded import GuardedRobot
from robot_servers.interface import Applied, Array, AskPerson, Command, CommandRefused, Limits
from robot_servers.limits import bend_orientation, bend_position

# ── limits ──


def loosened(robot: GuardedRobot, driver: FakeDriver) -> Calls:
    def tighten(limits: Limits) -> None:
        try:
            robot.tighten(limits)
        except CommandRefused:
            robot.tighten(robot.metadata.limits)

    return {"tighten": tighten}


def ignored(robot: GuardedRobot, driver: FakeDriver) -> Calls:
    """Takes narrower limits, and goes on with its own."""

    def tighten(limits: Limits) -> None:
        robot.tighten(limits)
        robot.tighten(robot.metadata.limits)

    return {"tighten": tighten}


def silent(robot: GuardedRobot, driver: FakeDriver) -> Calls:
    return {"command": lambda asked: replace(robot.command(asked), bends=())}


def deaf_to_bends(robot: GuardedRobot, driver: FakeDriver) -> Calls:
    """Answers with what it ought to do, and goes where it was told."""
    bound = [robot.metadata.limits]

    def command(asked: Command) -> Applied:
        pose = robot.state().pose
        robot.command(asked)
        position, moved = bend_position(asked.pose[:3], pose[:3], bound[0])
        orientation, turned = bend_orientation(asked.pose[3:], pose[3:], bound[0])
        return Applied(np.concatenate([position, orientation]), asked.gripper, (*moved, *turned))

    def tighten(limits: Limits) -> None:
        ignored(robot, driver)["tighten"](limits)
        bound[0] = limits

    return {"tighten": tighten, "command": command}


def half_way(robot: GuardedRobot, driver: FakeDriver) -> Calls:
    """Answers with the bent target, and goes less than half of the way."""

    def command(asked: Command) -> Applied:
        applied = robot.command(asked)
        if applied.bends:
            near = applied.pose.copy()
            near[:3] = START[:3] + 0.4 * (near[:3] - START[:3])
            robot.command(replace(asked, pose=near))
        return applied

    return {"command": command}


def turning(robot: GuardedRobot, driver: FakeDriver) -> Calls:
    """Turns the tool while it translates."""

    def command(asked: Command) -> Applied:
        if asked.pose.shape != START.shape or not np.isclose(np.linalg.norm(asked.pose[3:]), 1.0):
            return robot.command(asked)
        angle = float(np.clip(6.0 * (asked.pose[:3] - START[:3]).sum(), -0.02, 0.02))
        pose = asked.pose.copy()
        pose[3:] = quat_normalise(quat_mul(rotvec_to_quat(np.array([0.0, 0.0, angle])), pose[3:]))
        applied = robot.command(replace(asked, pose=pose))
        return replace(applied, pose=np.concatenate([applied.pose[:3], asked.pose[3:]])) if angle else applied

    return {"command": command}


# ── refusals ──


def nan_taken(robot: GuardedRobot, driver: FakeDriver) -> Calls:
    def command(asked: Command) -> Applied:
        if np.isfinite(asked.pose).all():
            return robot.command(asked)
        return Applied(robot.state().pose, asked.gripper)

    return {"command": command}


def restamped(robot: GuardedRobot, late: tuple[float, float]) -> Calls:
    """Commands whose age (s) lies between these are taken for new ones."""

    def command(asked: Command) -> Applied:
        now = robot.state().time
        return robot.command(replace(asked, state_time=now) if late[0] < now - asked.state_time < late[1] else asked)

    return {"command": command}


def crude(robot: GuardedRobot, driver: FakeDriver) -> Calls:
    """Squeezes any gripper number into its range."""

    def command(asked: Command) -> Applied:
        number = asked.gripper is not None and np.isfinite(asked.gripper)
        return robot.command(replace(asked, gripper=min(1.0, max(0.0, asked.gripper or 0.0))) if number else asked)

    return {"command": command}


# ── what ends a motion ──


def no_watchdog(robot: GuardedRobot, driver: FakeDriver) -> Calls:
    """Repeats the last command for ever."""
    last: list[Command] = []

    def command(asked: Command) -> Applied:
        applied = robot.command(asked)
        last[:] = [replace(asked, pose=applied.pose)]
        return applied

    def advance(seconds: float) -> None:
        for _ in range(cycles(robot, seconds)):
            if last:
                try:
                    robot.command(replace(last[0], state_time=robot.state().time))
                except CommandRefused:
                    last.clear()
            robot.advance(1 / HZ)

    def abandon() -> None:
        last.clear()
        robot.abandon()

    return {"command": command, "advance": advance, "abandon": abandon}


def creeping(robot: GuardedRobot, driver: FakeDriver) -> Calls:
    """Sinks by 3 mm/s while it is held."""
    held, sunk, track = [False], [0.0], driver.track

    def sinking(pose: Array, gripper: float | None) -> None:
        sunk[0] = sunk[0] + 0.003 / HZ if held[0] else 0.0
        track(pose - np.array([0, 0, sunk[0], 0, 0, 0, 0]), gripper)

    driver.track = sinking  # type: ignore[method-assign]

    def hold(reason: str) -> None:
        held[0] = True
        robot.hold(reason)

    def reset(plan: tuple[Any, ...]) -> None:
        held[0] = False
        robot.reset(plan)

    return {"hold": hold, "reset": reset}


def hold_forgotten(robot: GuardedRobot, driver: FakeDriver) -> Calls:
    """The owner's next command ends a hold that somebody asked for."""

    def command(asked: Command) -> Applied:
        try:
            return robot.command(asked)
        except CommandRefused as refusal:
            if not str(refusal).startswith("held"):
                raise
            robot.reset(())
            robot.advance(1 / HZ)
            return robot.command(asked)

    return {"command": command}


def stop_forgotten(robot: GuardedRobot, driver: FakeDriver) -> Calls:
    """A command ends a STOP."""

    def command(asked: Command) -> Applied:
        if robot.status().mode == "stopped":
            robot.recover()
        return robot.command(asked)

    return {"command": command}


def nobody_asked(robot: GuardedRobot, driver: FakeDriver) -> Calls:
    return {"reset": lambda plan: robot.reset(tuple(step for step in plan if not isinstance(step, AskPerson)))}


def endless_time(robot: GuardedRobot, driver: FakeDriver) -> Calls:
    return {"advance": lambda seconds: robot.advance(seconds) if 0 <= seconds <= 60 else None}
