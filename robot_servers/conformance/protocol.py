"""Checks of what the server says of itself, and of how it treats calls that nobody should make."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Iterator
from dataclasses import fields

import numpy as np

from robot_servers import wire
from robot_servers.conformance.bench import TIMEOUT, Bench
from robot_servers.conformance.verdict import expect, fail
from robot_servers.geometry import quat_angle
from robot_servers.hello import say_hello
from robot_servers.interface import PROTOCOL_VERSION, JointLimits, Limits, Metadata, RobotError, Tool

UNIT = 1e-3  # of a quaternion's norm
WIDEST_BOX = 5.0  # m; a larger one is in millimetres
NO_VERSION = 987
MISSPELT = "comand"
OBSERVERS = 20
PATIENCE = 10.0  # s for the answers to a flood of requests
FLOOD = 2000
OVERSIZE = 96 << 20  # bytes, more than any message may have
ADVANCES = (-1.0, math.nan, math.inf, 1e9)
GARBAGE: tuple[list[bytes], ...] = (
    [b""],
    [b"\x80\x04\x95pickle"],
    [b"\xc1" * 100],
    [b"GET / HTTP/1.1\r\n\r\n"],
    [bytes(1000)] * 3,
    [b""] * 5000,
    [b"\xdd\xff\xff\xff\xff"],  # a list that promises 4 billion items
    [wire.pack({"id": 1})],
)


def hello(bench: Bench) -> str:
    """The metadata, also for who does not say who asks; a version that nobody speaks is refused by both numbers."""
    answer = say_hello(bench.looker, TIMEOUT)
    about = answer.metadata
    expect(about == bench.metadata, "two hellos give different metadata", "metadata never change while it serves")
    try:
        bench.looker.call("hello", (NO_VERSION,))
    except RobotError as error:
        named = str(NO_VERSION) in str(error) and str(PROTOCOL_VERSION) in str(error)
        expect(named, f"a client of protocol {NO_VERSION} is told: {error}", "name both sides' versions")
    else:
        fail(f"a client that speaks protocol {NO_VERSION} alone is welcome", "agree on the highest version in common")
    return f"protocol {answer.protocol}, {about.robot}, {about.clock} clock, {about.cycle_hz:g} Hz"


def metadata(bench: Bench) -> str:
    """Complete and sane; everything that is wrong in one go."""
    about = bench.metadata
    wrong = [*_limit_faults(about.limits), *_home_faults(about), *_joint_faults(about), *_tool_faults(about.tool)]
    if not (math.isfinite(about.cycle_hz) and about.cycle_hz * about.limits.watchdog >= 2):
        wrong.append(f"cycle_hz {about.cycle_hz} gives no two cycles within the watchdog of {about.limits.watchdog} s")
    wrong += [f"camera {name} has size {size}" for name, size in about.cameras.items() if min(size) < 1]
    expect(not wrong, "; ".join(wrong), "correct the driver's limits, home, joint limits or tool: SI units, xyzw")
    size = np.subtract(about.limits.box_high, about.limits.box_low)
    return f"{len(about.home_q)} joints, a box of {' × '.join(f'{side:.2f}' for side in size)} m, all finite"


def _limit_faults(limits: Limits) -> Iterator[str]:
    for item in fields(limits):
        values = np.atleast_1d(getattr(limits, item.name))
        if not np.isfinite(values).all():
            yield f"limits.{item.name} {values.tolist()} is not finite"
        elif values.size == 1 and values[0] <= 0:
            yield f"limits.{item.name} {values[0]} is not positive"
    size = np.subtract(limits.box_high, limits.box_low)
    if not (size > 0).all() or (size > WIDEST_BOX).any():
        yield f"the box has the size {size.tolist()} m"
    if abs(np.linalg.norm(limits.orientation) - 1.0) > UNIT:
        yield f"limits.orientation {limits.orientation} is no unit quaternion"


def _home_faults(about: Metadata) -> Iterator[str]:
    home, limits = np.array(about.home_pose, float), about.limits
    if home.shape != (7,) or not np.isfinite(home).all() or abs(np.linalg.norm(home[3:]) - 1.0) > UNIT:
        yield f"home_pose {about.home_pose} is not 3 finite numbers and a unit quaternion"
        return
    if (home[:3] < limits.box_low).any() or (home[:3] > limits.box_high).any():
        yield f"home_pose {home[:3].tolist()} lies outside of the box {limits.box_low} … {limits.box_high}"
    tilt = quat_angle(home[3:], np.array(limits.orientation))
    if tilt > limits.tilt:
        yield f"home_pose is tilted by {tilt:.2f} rad, more than the limit {limits.tilt}"


def _joint_faults(about: Metadata) -> Iterator[str]:
    count, joints = len(about.home_q), about.joint_limits
    for item in fields(JointLimits):
        values = np.array(getattr(joints, item.name), float)
        if values.shape != (count,) or not np.isfinite(values).all():
            yield f"joint_limits.{item.name} {values.tolist()} is not {count} finite numbers, as home_q"
            return
    if not count or not (np.array(joints.low) < joints.high).all() or min(joints.speed) <= 0:
        yield "joint_limits.low must lie below high, and speeds above 0"
    elif (np.array(about.home_q) < joints.low).any() or (np.array(about.home_q) > joints.high).any():
        yield f"home_q {about.home_q} lies outside of the joint limits"


def _tool_faults(tool: Tool) -> Iterator[str]:
    sizes = {"tcp": 7, "centre": 3, "inertia": 9}
    for name, size in sizes.items():
        values = np.array(getattr(tool, name), float)
        if values.shape != (size,) or not np.isfinite(values).all():
            yield f"tool.{name} {values.tolist()} is not {size} finite numbers"
        elif name == "tcp" and abs(np.linalg.norm(values[3:]) - 1.0) > UNIT:
            yield f"tool.tcp {values.tolist()} has no unit quaternion"
    if not (math.isfinite(tool.mass) and tool.mass >= 0):
        yield f"tool.mass is {tool.mass}"


def unknown_call(bench: Bench) -> str:
    """The error names the nearest call that there is."""
    text = _refusal(bench, MISSPELT)
    expect(
        "command" in text, f'the call "{MISSPELT}" is answered with: {text}', 'name the nearest call: "command" here'
    )
    return text


def ground_truth(bench: Bench) -> str:
    """No client of the public socket may see it."""
    return _refusal(bench, "ground_truth")


def advance(bench: Bench) -> str:
    """Time belongs to the arm in real time, and passes in bounded pieces in lockstep."""
    seconds = ADVANCES if bench.lockstep else (bench.cycle,)
    for value in seconds:
        try:
            bench.robot.advance(value)
        except RobotError as error:
            text = str(error)
        else:
            why = (
                "refuse times that are negative, not finite or endless" if bench.lockstep else "refuse it in real time"
            )
            fail(f"advance({value}) was carried out", why)
    return text


def observers(bench: Bench) -> str:
    """As many as want to look, each without the lease."""
    with contextlib.ExitStack() as stack:
        lookers = [stack.enter_context(bench.channel(named=False)) for _ in range(OBSERVERS)]
        for looker in lookers:
            say_hello(looker, TIMEOUT)
        for call in ("state", "status", "frames"):
            for looker in lookers:
                looker.call(call)
    return f"{OBSERVERS} observers were answered"


def garbage(bench: Bench) -> str:
    """Bytes that are no message: none of them ends the service."""
    for frames in GARBAGE:
        with bench.raw() as socket:
            socket.send_multipart(frames)
            socket.poll(200)  # an answer, or none: both are fine
            _still_there(bench, f"after {sum(map(len, frames))} bytes of garbage in {len(frames)} frames")
    with bench.raw() as socket:
        socket.send(bytes(OVERSIZE))
        socket.poll(200)
        _still_there(bench, f"after a message of {OVERSIZE >> 20} MB")
    return f"answers after {len(GARBAGE) + 1} messages that are none"


def flood(bench: Bench) -> str:
    """Requests of a client that never reads delay nobody for long."""
    request = wire.encode({"id": 1, "call": "state", "args": []})
    with bench.raw() as socket:
        for _ in range(FLOOD):
            socket.send_multipart(request)
        begun = time.monotonic()
        _still_there(bench, f"while a client that does not read has {FLOOD} requests waiting")
        waited = time.monotonic() - begun
    expect(waited < PATIENCE, f"another client waited {waited:.1f} s", "serve clients in turn, with bounded queues")
    return f"another client waited {waited:.2f} s behind {FLOOD} requests"


def _still_there(bench: Bench, when: str) -> None:
    try:
        bench.looker.call("status")
    except RobotError as error:
        fail(f"{when}: {error}", "reject what cannot be read, log it, and go on serving: nothing may end the thread")


def _refusal(bench: Bench, call: str) -> str:
    try:
        answer = bench.looker.call(call)
    except RobotError as error:
        return str(error)
    fail(f'the call "{call}" was answered with {str(answer)[:80]}', "refuse it on the public socket")
