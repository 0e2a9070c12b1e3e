"""Servers that each break one promise of the protocol, made of a working one by as little as possible."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
from broken_conduct import (
    creeping,
    crude,
    deaf_to_bends,
    endless_time,
    half_way,
    hold_forgotten,
    ignored,
    loosened,
    nan_taken,
    no_watchdog,
    nobody_asked,
    restamped,
    silent,
    stop_forgotten,
    turning,
)
from broken_measurements import (
    degrees,
    homeless,
    millimetres,
    of_state,
    scalar_first,
    scalar_first_everywhere,
    slow,
    stale,
    tool_jacobian,
    tool_velocity,
    velocity,
)
from broken_parts import HZ, Broken, Calls

from robot_servers import server as server_module
from robot_servers import wire
from robot_servers.answering import Call
from robot_servers.drivers.fake import FakeDriver
from robot_servers.drivers.mujoco import MujocoDriver
from robot_servers.guarded import GuardedRobot
from robot_servers.interface import Array, Frame
from robot_servers.lease import Lease

# ── owners and messages ──


def lease_for_all(*arguments: Any) -> Lease:
    lease = Lease(*arguments)
    lease.check = lambda client: None  # type: ignore[method-assign]
    return lease


def lease_for_ever(*arguments: Any) -> Lease:
    lease = Lease(*arguments)
    lease.expire = lambda: None  # type: ignore[method-assign]
    return lease


def fragile() -> Callable[..., list[Any]]:
    """Answers nothing any more once it got what it cannot read."""
    dead = threading.Event()

    def answer(frames: list[bytes], *arguments: Any) -> list[Any]:
        try:
            wire.decode(frames)
        except wire.WireError:
            dead.set()
        return [b""] if dead.is_set() else answering(frames, *arguments)

    return answer


def mute(frames: list[bytes], *arguments: Any) -> list[Any]:
    """Says no more than that something was wrong."""
    answer = wire.decode(answering(frames, *arguments))
    if "error" in answer and answer["error"]["kind"] == "RobotError":
        answer["error"]["text"] = "error"
    return list(wire.encode(answer))


def open_truth(robot: Any, *arguments: Any) -> dict[str, Call]:
    return {**calls(robot, *arguments), "ground_truth": Call((), robot.ground_truth)}


answering, calls = server_module.answer_request, server_module.robot_calls


# ── devices ──


def frozen(robot: GuardedRobot, driver: FakeDriver) -> Calls:
    first = robot.frames()
    return {"frames": lambda: first}


def painted(robot: GuardedRobot, driver: FakeDriver) -> Calls:
    """One picture for ever, counted up and stamped anew."""
    picture = robot.frames()["front"].image

    def frames() -> dict[str, Frame]:
        return {name: replace(frame, image=picture) for name, frame in robot.frames().items()}

    return {"frames": frames}


def inverted(robot: GuardedRobot, driver: FakeDriver) -> Calls:
    track = driver.track
    driver.track = lambda pose, width: track(pose, None if width is None else 1 - width)  # type: ignore[method-assign]
    return {}


def waiting(robot: GuardedRobot, driver: FakeDriver) -> Calls:
    """The control cycle waits for the gripper."""
    track, last = driver.track, [1.0]

    def waits(pose: Array, width: float | None) -> None:
        if width is not None and width != last[0]:
            last[0] = width
            time.sleep(1.0)
        track(pose, width)

    driver.track = waits  # type: ignore[method-assign]
    return {}


def arm() -> MujocoDriver:
    return MujocoDriver("reach", cycle_hz=HZ)


def live() -> FakeDriver:
    return FakeDriver(clock="realtime", cycle_hz=HZ, cameras=("front",))


def caught(*names: str) -> frozenset[str]:
    return frozenset(names)


LIMIT_CHECKS = caught("box", "step", "tilt")
BROKEN: dict[str, Broken] = {
    "states in millimetres": Broken(caught("position"), of_state(millimetres)),
    "states scalar-first": Broken(caught("orientation"), of_state(scalar_first)),
    "everything scalar-first": Broken(caught("rotation", "velocity"), scalar_first_everywhere),
    "velocity in millimetres": Broken(caught("velocity"), of_state(velocity(1000.0, 1.0))),
    "velocity in degrees": Broken(caught("velocity"), of_state(velocity(1.0, 57.3))),
    "velocity in the tool's frame": Broken(caught("velocity"), of_state(tool_velocity)),
    "force not finite": Broken(caught("state"), of_state(lambda state: replace(state, force=np.full(3, np.nan)))),
    "stale states": Broken(caught("clock"), stale),
    "clock twice as fast": Broken(caught("clock"), slow),
    "half as many cycles": Broken(
        caught("rate"), lambda robot, driver: {"metadata": replace(robot.metadata, cycle_hz=2 * HZ)}
    ),
    "joints in degrees": Broken(caught("joints"), of_state(degrees), driver=arm),
    "jacobian in the tool's frame": Broken(caught("jacobian"), of_state(tool_jacobian), driver=arm),
    "home in millimetres": Broken(caught("metadata"), homeless),
    "limits loosened": Broken(caught("loosening"), loosened),
    "limits ignored": Broken(LIMIT_CHECKS, ignored),
    "bends not flagged": Broken(LIMIT_CHECKS, silent),
    "bends not executed": Broken(LIMIT_CHECKS, deaf_to_bends),
    "tracks another target": Broken(caught("applied"), half_way),
    "turns while it translates": Broken(caught("tool frame"), turning),
    "takes NaN": Broken(caught("not finite"), nan_taken),
    "takes any gripper number": Broken(caught("malformed"), crude),
    "takes overtaken commands": Broken(caught("order"), lambda robot, driver: restamped(robot, (0.0, 0.4))),
    "takes stale commands": Broken(caught("stale"), lambda robot, driver: restamped(robot, (0.5, 10.0))),
    "takes commands early": Broken(caught("stale"), lambda robot, driver: restamped(robot, (-10.0, 0.0))),
    "no watchdog": Broken(caught("watchdog"), no_watchdog),
    "hold creeps": Broken(caught("still"), creeping),
    "hold ends by a command": Broken(caught("hold"), hold_forgotten),
    "nobody is asked": Broken(caught("person"), nobody_asked),
    "STOP ignored": Broken(caught("stop"), lambda robot, driver: {"stop": lambda reason: None}),
    "STOP ends by a command": Broken(caught("stop"), stop_forgotten),
    "advances for ever": Broken(caught("advance"), endless_time),
    "no lease": Broken(caught("lease", "fight", "dead owner"), names=lambda: {"Lease": lease_for_all}),
    "lease for ever": Broken(caught("dead owner"), names=lambda: {"Lease": lease_for_ever}),
    "dies of garbage": Broken(caught("garbage"), names=lambda: {"answer_request": fragile()}),
    "says only error": Broken(caught("hello", "unknown call"), names=lambda: {"answer_request": mute}),
    "truth for all": Broken(caught("ground truth"), names=lambda: {"robot_calls": open_truth}),
    "camera frozen": Broken(caught("cameras"), frozen),
    "camera paints": Broken(caught("cameras"), painted),
    "cycle waits for the gripper": Broken(caught("gripper"), waiting, driver=live),
    "gripper inverted": Broken(caught("gripper"), inverted),
}
