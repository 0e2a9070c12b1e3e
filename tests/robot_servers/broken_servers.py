"""Servers that each break one promise of the protocol, made of a working one by as little as possible."""

from __future__ import annotations

import contextlib
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any
from unittest import mock

import numpy as np

from robot_servers import server as server_module
from robot_servers import wire
from robot_servers.answering import Call
from robot_servers.drivers.fake import HOME, FakeDriver
from robot_servers.drivers.mujoco import MujocoDriver
from robot_servers.geometry import quat_mul, quat_normalise, quat_rotate, rotvec_to_quat
from robot_servers.guarded import GuardedRobot
from robot_servers.interface import Applied, Array, AskPerson, Command, CommandRefused, Frame, Limits, MoveTo
from robot_servers.lease import Lease
from robot_servers.limits import bend_orientation, bend_position
from robot_servers.server import Server

LOOPBACK = "tcp://127.0.0.1:*"
HZ = 50.0  # cycles per s: half as many calls as by default
SILENCE = 1.0  # s, as in real time
START = np.array(HOME)

Calls = dict[str, Any]


class Replaced:
    """A guarded robot of which some calls are replaced."""

    def __init__(self, robot: GuardedRobot, calls: Calls) -> None:
        self._robot = robot
        self._calls = calls

    def __getattr__(self, name: str) -> Any:
        return self._calls.get(name) or getattr(self._robot, name)


@dataclass(frozen=True)
class Broken:
    """``calls`` of the robot are replaced, or names in `robot_servers.server` are; the driver may be changed as well.

    ``caught`` are the checks that must fail, all of them and no others.
    """

    caught: frozenset[str]
    calls: Callable[[GuardedRobot, FakeDriver], Calls] = lambda robot, driver: {}
    names: Callable[[], Mapping[str, Any]] = dict
    driver: Callable[[], Any] = lambda: FakeDriver(cycle_hz=HZ, cameras=("front",))


@contextlib.contextmanager
def serving(robot: Any, silence: float = SILENCE) -> Iterator[str]:
    """Serve a connected robot in a thread; yields its address."""
    with Server(robot, LOOPBACK, silence=silence) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server.address
        finally:
            server.stop()
            thread.join()


@contextlib.contextmanager
def broken(what: Broken) -> Iterator[str]:
    """Serve an arm that is broken like this; yields its address."""
    driver = what.driver()
    robot = GuardedRobot(driver)
    robot.connect()
    calls = what.calls(robot, driver)
    try:
        with contextlib.ExitStack() as stack:
            for name, value in what.names().items():
                stack.enter_context(mock.patch.object(server_module, name, value))
            yield stack.enter_context(serving(Replaced(robot, calls)))
    finally:
        robot.close()


# ── measurements ──


def _of_state(change: Callable[[Any], Any]) -> Callable[[GuardedRobot, FakeDriver], Calls]:
    return lambda robot, driver: {"state": lambda: change(robot.state())}


def _millimetres(state: Any) -> Any:
    return replace(state, pose=np.concatenate([state.pose[:3] * 1000, state.pose[3:]]))


def _scalar_first(state: Any) -> Any:
    return replace(state, pose=_rolled(state.pose, 1))


def _velocity(linear: float, angular: float) -> Callable[[Any], Any]:
    return lambda state: replace(state, vel=state.vel * np.repeat([linear, angular], 3))


def _tool_velocity(state: Any) -> Any:
    inverse = state.pose[3:] * np.array([-1, -1, -1, 1])
    turned = [quat_rotate(inverse, half) for half in (state.vel[:3], state.vel[3:])]
    return replace(state, vel=np.concatenate(turned))


def _stale(robot: GuardedRobot, driver: FakeDriver) -> Calls:
    old = deque([robot.state()], maxlen=10)

    def advance(seconds: float) -> None:
        for _ in range(_cycles(robot, seconds)):
            robot.advance(1 / HZ)
            old.append(robot.state())

    return {"advance": advance, "state": lambda: old[0]}


def _cycles(robot: GuardedRobot, seconds: float) -> int:
    """How many cycles that is. Raises what the robot raises for times that cannot be."""
    if not 0.0 <= seconds <= 60.0:
        robot.advance(seconds)
    return round(seconds * HZ)


def _slow(robot: GuardedRobot, driver: FakeDriver) -> Calls:
    """Half as many cycles as it says."""

    def advance(seconds: float) -> None:
        robot.advance(2 * seconds)

    return {"metadata": replace(robot.metadata, cycle_hz=2 * HZ), "advance": advance}


def _scalar_first_everywhere(robot: GuardedRobot, driver: FakeDriver) -> Calls:
    """(w, x, y, z) in and out, in states, targets and limits: only the angular velocity gives it away."""
    about = robot.metadata

    def command(asked: Command) -> Applied:
        applied = robot.command(replace(asked, pose=_rolled(asked.pose, -1)))
        return replace(applied, pose=_rolled(applied.pose, 1))

    def reset(plan: tuple[Any, ...]) -> None:
        robot.reset(
            tuple(replace(one, pose=tuple(_rolled(np.array(one.pose), -1))) if _moves(one) else one for one in plan)
        )

    def tighten(limits: Limits) -> None:
        robot.tighten(replace(limits, orientation=tuple(np.roll(limits.orientation, -1).tolist())))

    first = tuple(np.roll(about.limits.orientation, 1).tolist())
    home = tuple(_rolled(np.array(about.home_pose), 1).tolist())
    return {
        "metadata": replace(about, limits=replace(about.limits, orientation=first), home_pose=home),
        "state": lambda: _scalar_first(robot.state()),
        "command": command,
        "reset": reset,
        "tighten": tighten,
    }


def _moves(step: Any) -> bool:
    return isinstance(step, MoveTo)


def _rolled(pose: Array, places: int) -> Array:
    return np.concatenate([pose[:3], np.roll(pose[3:], places)])


def _tool_jacobian(state: Any) -> Any:
    """Each half of each column in the tool's frame."""
    inverse = state.pose[3:] * np.array([-1, -1, -1, 1])
    turned = [[quat_rotate(inverse, half) for half in (column[:3], column[3:])] for column in state.jacobian.T]
    return replace(state, jacobian=np.array(turned).reshape(-1, 6).T)


def _degrees(state: Any) -> Any:
    return replace(state, q=np.degrees(state.q))


def _homeless(robot: GuardedRobot, driver: FakeDriver) -> Calls:
    about = robot.metadata
    return {"metadata": replace(about, home_pose=(500.0, 0.0, 300.0, *about.home_pose[3:]))}


# ── limits ──


def _loosened(robot: GuardedRobot, driver: FakeDriver) -> Calls:
    def tighten(limits: Limits) -> None:
        try:
            robot.tighten(limits)
        except CommandRefused:
            robot.tighten(robot.metadata.limits)

    return {"tighten": tighten}


def _ignored(robot: GuardedRobot, driver: FakeDriver) -> Calls:
    """Takes narrower limits, and goes on with its own."""

    def tighten(limits: Limits) -> None:
        robot.tighten(limits)
        robot.tighten(robot.metadata.limits)

    return {"tighten": tighten}


def _silent(robot: GuardedRobot, driver: FakeDriver) -> Calls:
    return {"command": lambda asked: replace(robot.command(asked), bends=())}


def _deaf_to_bends(robot: GuardedRobot, driver: FakeDriver) -> Calls:
    """Answers with what it ought to do, and goes where it was told."""
    bound = [robot.metadata.limits]

    def command(asked: Command) -> Applied:
        pose = robot.state().pose
        robot.command(asked)
        position, moved = bend_position(asked.pose[:3], pose[:3], bound[0])
        orientation, turned = bend_orientation(asked.pose[3:], pose[3:], bound[0])
        return Applied(np.concatenate([position, orientation]), asked.gripper, (*moved, *turned))

    def tighten(limits: Limits) -> None:
        _ignored(robot, driver)["tighten"](limits)
        bound[0] = limits

    return {"tighten": tighten, "command": command}


def _half_way(robot: GuardedRobot, driver: FakeDriver) -> Calls:
    """Answers with the bent target, and goes less than half of the way."""

    def command(asked: Command) -> Applied:
        applied = robot.command(asked)
        if applied.bends:
            near = applied.pose.copy()
            near[:3] = START[:3] + 0.4 * (near[:3] - START[:3])
            robot.command(replace(asked, pose=near))
        return applied

    return {"command": command}


def _turning(robot: GuardedRobot, driver: FakeDriver) -> Calls:
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


def _nan_taken(robot: GuardedRobot, driver: FakeDriver) -> Calls:
    def command(asked: Command) -> Applied:
        if np.isfinite(asked.pose).all():
            return robot.command(asked)
        return Applied(robot.state().pose, asked.gripper)

    return {"command": command}


def _restamped(robot: GuardedRobot, late: tuple[float, float]) -> Calls:
    """Commands whose age (s) lies between these are taken for new ones."""

    def command(asked: Command) -> Applied:
        now = robot.state().time
        return robot.command(replace(asked, state_time=now) if late[0] < now - asked.state_time < late[1] else asked)

    return {"command": command}


def _crude(robot: GuardedRobot, driver: FakeDriver) -> Calls:
    """Squeezes any gripper number into its range."""

    def command(asked: Command) -> Applied:
        number = asked.gripper is not None and np.isfinite(asked.gripper)
        return robot.command(replace(asked, gripper=min(1.0, max(0.0, asked.gripper or 0.0))) if number else asked)

    return {"command": command}


# ── what ends a motion ──


def _no_watchdog(robot: GuardedRobot, driver: FakeDriver) -> Calls:
    """Repeats the last command for ever."""
    last: list[Command] = []

    def command(asked: Command) -> Applied:
        applied = robot.command(asked)
        last[:] = [replace(asked, pose=applied.pose)]
        return applied

    def advance(seconds: float) -> None:
        for _ in range(_cycles(robot, seconds)):
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


def _creeping(robot: GuardedRobot, driver: FakeDriver) -> Calls:
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


def _hold_forgotten(robot: GuardedRobot, driver: FakeDriver) -> Calls:
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


def _stop_forgotten(robot: GuardedRobot, driver: FakeDriver) -> Calls:
    """A command ends a STOP."""

    def command(asked: Command) -> Applied:
        if robot.status().mode == "stopped":
            robot.recover()
        return robot.command(asked)

    return {"command": command}


def _nobody_asked(robot: GuardedRobot, driver: FakeDriver) -> Calls:
    return {"reset": lambda plan: robot.reset(tuple(step for step in plan if not isinstance(step, AskPerson)))}


def _endless_time(robot: GuardedRobot, driver: FakeDriver) -> Calls:
    return {"advance": lambda seconds: robot.advance(seconds) if 0 <= seconds <= 60 else None}


# ── owners and messages ──


def _lease_for_all(*arguments: Any) -> Lease:
    lease = Lease(*arguments)
    lease.check = lambda client: None  # type: ignore[method-assign]
    return lease


def _lease_for_ever(*arguments: Any) -> Lease:
    lease = Lease(*arguments)
    lease.expire = lambda: None  # type: ignore[method-assign]
    return lease


def _fragile() -> Callable[..., list[Any]]:
    """Answers nothing any more once it got what it cannot read."""
    dead = threading.Event()

    def answer(frames: list[bytes], *arguments: Any) -> list[Any]:
        try:
            wire.decode(frames)
        except wire.WireError:
            dead.set()
        return [b""] if dead.is_set() else answering(frames, *arguments)

    return answer


def _mute(frames: list[bytes], *arguments: Any) -> list[Any]:
    """Says no more than that something was wrong."""
    answer = wire.decode(answering(frames, *arguments))
    if "error" in answer and answer["error"]["kind"] == "RobotError":
        answer["error"]["text"] = "error"
    return list(wire.encode(answer))


def _open_truth(robot: Any, *arguments: Any) -> dict[str, Call]:
    return {**calls(robot, *arguments), "ground_truth": Call((), robot.ground_truth)}


answering, calls = server_module.answer_request, server_module.robot_calls


# ── devices ──


def _frozen(robot: GuardedRobot, driver: FakeDriver) -> Calls:
    first = robot.frames()
    return {"frames": lambda: first}


def _painted(robot: GuardedRobot, driver: FakeDriver) -> Calls:
    """One picture for ever, counted up and stamped anew."""
    picture = robot.frames()["front"].image

    def frames() -> dict[str, Frame]:
        return {name: replace(frame, image=picture) for name, frame in robot.frames().items()}

    return {"frames": frames}


def _inverted(robot: GuardedRobot, driver: FakeDriver) -> Calls:
    track = driver.track
    driver.track = lambda pose, width: track(pose, None if width is None else 1 - width)  # type: ignore[method-assign]
    return {}


def _waiting(robot: GuardedRobot, driver: FakeDriver) -> Calls:
    """The control cycle waits for the gripper."""
    track, last = driver.track, [1.0]

    def waits(pose: Array, width: float | None) -> None:
        if width is not None and width != last[0]:
            last[0] = width
            time.sleep(1.0)
        track(pose, width)

    driver.track = waits  # type: ignore[method-assign]
    return {}


def _arm() -> MujocoDriver:
    return MujocoDriver("reach", cycle_hz=HZ)


def _live() -> FakeDriver:
    return FakeDriver(clock="realtime", cycle_hz=HZ, cameras=("front",))


def _caught(*names: str) -> frozenset[str]:
    return frozenset(names)


LIMIT_CHECKS = _caught("box", "step", "tilt")
BROKEN: dict[str, Broken] = {
    "states in millimetres": Broken(_caught("position"), _of_state(_millimetres)),
    "states scalar-first": Broken(_caught("orientation"), _of_state(_scalar_first)),
    "everything scalar-first": Broken(_caught("rotation", "velocity"), _scalar_first_everywhere),
    "velocity in millimetres": Broken(_caught("velocity"), _of_state(_velocity(1000.0, 1.0))),
    "velocity in degrees": Broken(_caught("velocity"), _of_state(_velocity(1.0, 57.3))),
    "velocity in the tool's frame": Broken(_caught("velocity"), _of_state(_tool_velocity)),
    "force not finite": Broken(_caught("state"), _of_state(lambda state: replace(state, force=np.full(3, np.nan)))),
    "stale states": Broken(_caught("clock"), _stale),
    "clock twice as fast": Broken(_caught("clock"), _slow),
    "half as many cycles": Broken(
        _caught("rate"), lambda robot, driver: {"metadata": replace(robot.metadata, cycle_hz=2 * HZ)}
    ),
    "joints in degrees": Broken(_caught("joints"), _of_state(_degrees), driver=_arm),
    "jacobian in the tool's frame": Broken(_caught("jacobian"), _of_state(_tool_jacobian), driver=_arm),
    "home in millimetres": Broken(_caught("metadata"), _homeless),
    "limits loosened": Broken(_caught("loosening"), _loosened),
    "limits ignored": Broken(LIMIT_CHECKS, _ignored),
    "bends not flagged": Broken(LIMIT_CHECKS, _silent),
    "bends not executed": Broken(LIMIT_CHECKS, _deaf_to_bends),
    "tracks another target": Broken(_caught("applied"), _half_way),
    "turns while it translates": Broken(_caught("tool frame"), _turning),
    "takes NaN": Broken(_caught("not finite"), _nan_taken),
    "takes any gripper number": Broken(_caught("malformed"), _crude),
    "takes overtaken commands": Broken(_caught("order"), lambda robot, driver: _restamped(robot, (0.0, 0.4))),
    "takes stale commands": Broken(_caught("stale"), lambda robot, driver: _restamped(robot, (0.5, 10.0))),
    "takes commands early": Broken(_caught("stale"), lambda robot, driver: _restamped(robot, (-10.0, 0.0))),
    "no watchdog": Broken(_caught("watchdog"), _no_watchdog),
    "hold creeps": Broken(_caught("still"), _creeping),
    "hold ends by a command": Broken(_caught("hold"), _hold_forgotten),
    "nobody is asked": Broken(_caught("person"), _nobody_asked),
    "STOP ignored": Broken(_caught("stop"), lambda robot, driver: {"stop": lambda reason: None}),
    "STOP ends by a command": Broken(_caught("stop"), _stop_forgotten),
    "advances for ever": Broken(_caught("advance"), _endless_time),
    "no lease": Broken(_caught("lease", "fight", "dead owner"), names=lambda: {"Lease": _lease_for_all}),
    "lease for ever": Broken(_caught("dead owner"), names=lambda: {"Lease": _lease_for_ever}),
    "dies of garbage": Broken(_caught("garbage"), names=lambda: {"answer_request": _fragile()}),
    "says only error": Broken(_caught("hello", "unknown call"), names=lambda: {"answer_request": _mute}),
    "truth for all": Broken(_caught("ground truth"), names=lambda: {"robot_calls": _open_truth}),
    "camera frozen": Broken(_caught("cameras"), _frozen),
    "camera paints": Broken(_caught("cameras"), _painted),
    "cycle waits for the gripper": Broken(_caught("gripper"), _waiting, driver=_live),
    "gripper inverted": Broken(_caught("gripper"), _inverted),
}
