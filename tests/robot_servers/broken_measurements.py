"""Measurements that are wrong: units, frames, orders, times."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
from broken_parts import HZ, Calls, cycles

from robot_servers.drivers.fake import FakeDriver
from robot_servers.geometry import quat_rotate
from robot_servers.guarded import GuardedRobot
from robot_servers.interface import Applied, Array, Command, Limits, MoveTo


def of_state(change: Callable[[Any], Any]) -> Callable[[GuardedRobot, FakeDriver], Calls]:
    return lambda robot, driver: {"state": lambda: change(robot.state())}


def millimetres(state: Any) -> Any:
    return replace(state, pose=np.concatenate([state.pose[:3] * 1000, state.pose[3:]]))


def scalar_first(state: Any) -> Any:
    return replace(state, pose=rolled(state.pose, 1))


def velocity(linear: float, angular: float) -> Callable[[Any], Any]:
    return lambda state: replace(state, vel=state.vel * np.repeat([linear, angular], 3))


def tool_velocity(state: Any) -> Any:
    inverse = state.pose[3:] * np.array([-1, -1, -1, 1])
    turned = [quat_rotate(inverse, half) for half in (state.vel[:3], state.vel[3:])]
    return replace(state, vel=np.concatenate(turned))


def stale(robot: GuardedRobot, driver: FakeDriver) -> Calls:
    old = deque([robot.state()], maxlen=10)

    def advance(seconds: float) -> None:
        for _ in range(cycles(robot, seconds)):
            robot.advance(1 / HZ)
            old.append(robot.state())

    return {"advance": advance, "state": lambda: old[0]}


def slow(robot: GuardedRobot, driver: FakeDriver) -> Calls:
    """Half as many cycles as it says."""

    def advance(seconds: float) -> None:
        robot.advance(2 * seconds)

    return {"metadata": replace(robot.metadata, cycle_hz=2 * HZ), "advance": advance}


def scalar_first_everywhere(robot: GuardedRobot, driver: FakeDriver) -> Calls:
    """(w, x, y, z) in and out, in states, targets and limits: only the angular velocity gives it away."""
    about = robot.metadata

    def command(asked: Command) -> Applied:
        applied = robot.command(replace(asked, pose=rolled(asked.pose, -1)))
        return replace(applied, pose=rolled(applied.pose, 1))

    def reset(plan: tuple[Any, ...]) -> None:
        robot.reset(
            tuple(replace(one, pose=tuple(rolled(np.array(one.pose), -1))) if moves(one) else one for one in plan)
        )

    def tighten(limits: Limits) -> None:
        robot.tighten(replace(limits, orientation=tuple(np.roll(limits.orientation, -1).tolist())))

    first = tuple(np.roll(about.limits.orientation, 1).tolist())
    home = tuple(rolled(np.array(about.home_pose), 1).tolist())
    return {
        "metadata": replace(about, limits=replace(about.limits, orientation=first), home_pose=home),
        "state": lambda: scalar_first(robot.state()),
        "command": command,
        "reset": reset,
        "tighten": tighten,
    }


def moves(step: Any) -> bool:
    return isinstance(step, MoveTo)


def rolled(pose: Array, places: int) -> Array:
    return np.concatenate([pose[:3], np.roll(pose[3:], places)])


def tool_jacobian(state: Any) -> Any:
    """Each half of each column in the tool's frame."""
    inverse = state.pose[3:] * np.array([-1, -1, -1, 1])
    turned = [[quat_rotate(inverse, half) for half in (column[:3], column[3:])] for column in state.jacobian.T]
    return replace(state, jacobian=np.array(turned).reshape(-1, 6).T)


def degrees(state: Any) -> Any:
    return replace(state, q=np.degrees(state.q))


def homeless(robot: GuardedRobot, driver: FakeDriver) -> Calls:
    about = robot.metadata
    return {"metadata": replace(about, home_pose=(500.0, 0.0, 300.0, *about.home_pose[3:]))}
