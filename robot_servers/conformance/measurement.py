"""Checks of what the server measures, most of them while nothing moves."""

from __future__ import annotations

import math
import time

import numpy as np

from robot_servers.conformance.bench import REACH, TURN, Bench
from robot_servers.conformance.verdict import NotApplicable, expect
from robot_servers.geometry import quat_angle
from robot_servers.interface import RobotError
from robot_servers.stream import StateStream

SHAPES = {"pose": (7,), "vel": (6,), "force": (3,), "torque": (3,)}
UNIT = 1e-3  # of a quaternion's norm
CLOCK = 1e-6  # s, rounding
RATE = 0.8  # of the stated rate; a loaded machine may miss a cycle
WINDOWS = 5  # of half a second, of which one must reach the rate
SUBSCRIBE = 0.2  # s that a subscription may take to reach the server
STREAMED = 10  # states
PATIENCE = 3.0  # s for each of them
PLACEHOLDER = 1e3  # rad; joint limits beyond it belong to an arm without joints


def state(bench: Bench) -> str:
    """Shapes, finite numbers, a unit quaternion."""
    measured, joints = bench.robot.state(), len(bench.metadata.home_q)
    shapes = SHAPES | {"q": (joints,), "dq": (joints,), "jacobian": (6, joints)}
    wrong = []
    for name, shape in shapes.items():
        value = np.asarray(getattr(measured, name))
        if value.shape != shape:
            wrong.append(f"{name} has shape {value.shape} instead of {shape}")
        elif not np.isfinite(value).all():
            wrong.append(f"{name} is not finite: {value.tolist()}")
    size = float(np.linalg.norm(measured.pose[3:]))
    if abs(size - 1.0) > UNIT:
        wrong.append(f"the quaternion has norm {size:.4f}")
    if not 0.0 <= measured.gripper <= 1.0:
        wrong.append(f"the gripper is {measured.gripper}")
    expect(not wrong, "; ".join(wrong), "see RobotState in robot_servers/interface.py for shapes and units")
    return f"{joints} joints, |quaternion| = {size:.6f}, gripper {measured.gripper:.2f} ({measured.grip})"


def clock(bench: Bench) -> str:
    """Time advances as the robot's clock says, and a state is as new as the status."""
    before, wall = bench.robot.state().time, time.monotonic()
    bench.wait(0.5)
    stated = bench.status().time
    after, passed = bench.robot.state().time, time.monotonic() - wall
    expect(
        after >= stated - CLOCK,
        f"the state is {stated - after:.3f} s older than the status before it",
        "answer with the newest measurement, and never from a queue",
    )
    if bench.lockstep:
        time.sleep(0.05)
        drift = bench.robot.state().time - after
        right = math.isclose(after - before, 0.5, abs_tol=1.01 * bench.cycle) and drift == 0.0
        advice = "in lockstep time passes by advance alone, in whole cycles"
    else:
        right = 0.4 * passed <= after - before <= 2.0 * passed + 0.05
        advice = "stamp measurements with the server's monotonic clock, in seconds"
    expect(right, f"{after - before:.3f} s of robot time in {0.5 if bench.lockstep else passed:.3f} s", advice)
    return f"{after - before:.3f} s passed, the state is {max(0.0, after - stated) * 1e3:.0f} ms newer than the status"


def rate(bench: Bench) -> str:
    """As many measurements a second as the metadata say."""
    stated = bench.metadata.cycle_hz
    best = 0.0
    for _ in range(WINDOWS):
        best = max(best, _step_rate(bench) if bench.lockstep else _poll_rate(bench))
        if best >= RATE * stated:
            return f"{best:.0f} Hz of {stated:g}"
    expect(False, f"{best:.1f} Hz, stated are {stated:g}", "find what slows the cycle, or state the true cycle_hz")
    return ""


def _step_rate(bench: Bench) -> float:
    before = bench.tick().time
    return 1.0 / (bench.tick().time - before)


def _poll_rate(bench: Bench) -> float:
    """By the server's own count of cycles where it is faster than this program can ask."""
    first, cycles = bench.robot.state().time, bench.status().cycles
    times = {first}
    while max(times) - first < 0.5 and len(times) < 10_000:
        times.add(bench.robot.state().time)
    passed = bench.robot.state().time - first
    return max(len(times) - 1, bench.status().cycles - cycles) / max(passed, 1e-9)


def stream(bench: Bench) -> str:
    """The socket that hello names sends the same states, without being asked."""
    if not bench.socket("state"):
        raise NotApplicable("the server names no socket for a stream of states")
    with StateStream(bench.address, keys=bench.keys) as states:
        time.sleep(SUBSCRIBE)
        ahead = 0.0
        for _ in range(STREAMED):
            asked = bench.robot.state().time
            bench.wait(2 * bench.cycle)
            ahead = states.wait(PATIENCE).time - asked
    expect(ahead > -CLOCK, f"the stream is {-ahead:.3f} s behind", "publish each state once it is measured")
    return f"{STREAMED} states, the last {ahead * 1e3:.0f} ms newer than the one asked for before it"


def position(bench: Bench) -> str:
    """Metres in the base frame: inside the stated box, with room to move a little."""
    low, high = np.array(bench.limits.box_low), np.array(bench.limits.box_high)
    measured = bench.robot.state().pose[:3]
    room = float(min((measured - low).min(), (high - measured).min()))
    hint = "drive the arm into the middle of its box, then run this again"
    if _inside(measured / 1000, low, high):
        hint = "these look like millimetres: send metres"
    expect(room > REACH, f"the TCP is at {np.round(measured, 4).tolist()}, box {low.tolist()} … {high.tolist()}", hint)
    return f"TCP at {np.round(measured, 3).tolist()} m, {room * 1e3:.0f} mm from the nearest face of the box"


def _inside(point: np.ndarray, low: np.ndarray, high: np.ndarray) -> bool:
    return bool((point >= low).all() and (point <= high).all())


def orientation(bench: Bench) -> str:
    """Scalar-last: inside the stated tilt, with room to turn a little."""
    limits = bench.limits
    measured, centre = bench.robot.state().pose[3:], np.array(limits.orientation)
    tilt = quat_angle(measured, centre)
    hint = "turn the arm towards the orientation of its limits, then run this again"
    if quat_angle(np.roll(measured, -1), centre) + TURN <= limits.tilt:
        hint = "read as (w, x, y, z) it fits: send quaternions scalar-last, (x, y, z, w)"
    seen = f"tilted by {tilt:.2f} rad"
    expect(tilt + TURN <= limits.tilt, f"{np.round(measured, 3).tolist()}: {seen} of {limits.tilt}", hint)
    return f"{seen} of at most {limits.tilt:g}"


def joints(bench: Bench) -> str:
    """Radians, inside the joints' limits."""
    limits = bench.metadata.joint_limits
    low, high = np.array(limits.low), np.array(limits.high)
    if max(np.abs(low).max(), np.abs(high).max()) > PLACEHOLDER:
        raise NotApplicable("joint limits that bind nothing: this arm has no real joints")
    measured = bench.robot.state().q
    slack = np.radians(0.5)
    hint = "these look like degrees: send radians" if _inside(np.radians(measured), low, high) else "see joint_limits"
    expect(_inside(measured, low - slack, high + slack), f"q = {np.round(measured, 2).tolist()}", hint)
    return f"all {len(measured)} inside, nearest limit {np.minimum(measured - low, high - measured).min():.2f} rad away"


def wrench(bench: Bench) -> str:
    """Newtons in the TCP frame: next to nothing in free air."""
    measured = [bench.robot.state() for _ in range(10)]
    force = max(float(np.linalg.norm(one.force)) for one in measured)
    torque = max(float(np.linalg.norm(one.torque)) for one in measured)
    limits = bench.limits
    expect(
        force < limits.force and torque < limits.torque,  # false for what is not finite
        f"{force:.1f} N and {torque:.1f} Nm in free air; the arm stops at {limits.force:g} N and {limits.torque:g} Nm",
        "free the arm, set the tool's mass and tare the sensor; send N and Nm in the TCP frame",
    )
    return f"{force:.1f} N, {torque:.2f} Nm at rest"


def still_answers(bench: Bench) -> bool:
    """Whether the server still serves."""
    try:
        bench.status()
    except RobotError:
        return False
    return True
