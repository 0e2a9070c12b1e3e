"""Checks of everything that ends a motion, and of what may begin again after it."""

from __future__ import annotations

import math

import numpy as np

from robot_servers.channel import Channel
from robot_servers.conformance.bench import REACH, TIMEOUT, Bench
from robot_servers.conformance.motion import MOVE
from robot_servers.conformance.verdict import NotApplicable, expect, fail
from robot_servers.geometry import quat_angle
from robot_servers.interface import AskPerson, Command, CommandRefused, MoveTo, ResetStep

WATCH = 0.5  # s of the wall that a client may see a hold late in real time
SETTLE = 0.6  # s that a moving arm may take to rest
STAY = 0.8  # s for which it is watched then
CREEP = (5e-4, math.radians(0.3))  # m and rad in that time; more is a motion
RESET_TIME = 15.0  # s
QUESTION = "conformance: is somebody there?"
RESET_SPEED = 0.02  # m/s


def watchdog(bench: Bench) -> str:
    """Nobody commands: the arm holds when it said it would, and the next valid command goes on."""
    bench.ready()
    bound = bench.limits.watchdog
    bench.send(bench.start)
    begun = bench.robot.state().time
    if bench.lockstep:
        bench.wait(0.5 * bound)
        mode = bench.status().mode
        expect(mode == "moving", f"mode {mode} after half of the watchdog's time", "hold after it, not before")
    slack = 3 * bench.cycle + (0.0 if bench.lockstep else WATCH)
    held = bench.until(
        lambda: bench.status().mode == "holding", bound - (bench.robot.state().time - begun) + slack, step=0.0
    )
    after = bench.robot.state().time - begun
    expect(
        held,
        f"mode {bench.status().mode} {after:.2f} s after the last command; the watchdog says {bound:g} s",
        "hold in the control cycle itself when no command comes, whatever other threads do",
    )
    bench.send(bench.start)
    mode = bench.status().mode
    expect(mode == "moving", f"mode {mode} after the next valid command", "a watchdog's hold ends with a valid command")
    return f"held {after:.2f} s after the last command (stated {bound:g} s), the next one goes on"


def hold(bench: Bench) -> str:
    """Anybody may; commands are refused from then on, until a reset."""
    bench.ready()
    bench.send(bench.target((0.0, 0.0, MOVE)))
    bench.looker.call("hold", "conformance: a stranger says hold")
    status = bench.status()
    expect(status.mode == "holding", f"mode {status.mode} after hold", "hold is open to every client")
    for _ in range(2):
        reason = _refused(bench, "while held")
        bench.wait(max(bench.limits.watchdog, bench.cycle))
    bench.robot.reset(())
    ended = bench.until(lambda: bench.status().mode == "idle", 5.0)
    expect(ended, f"mode {bench.status().mode} after an empty reset", "a reset is what ends a hold")
    bench.send(bench.start)
    return f"held by a stranger, then: {reason}; a reset ended it"


def still(bench: Bench) -> str:
    """Whoever holds does not move."""
    bench.ready()
    bench.send(bench.target((0.0, 0.0, MOVE)))
    bench.wait(bench.cycle)
    bench.robot.hold("conformance: does it creep?")
    seen = _stays(bench, "held")
    return seen


def stop(bench: Bench) -> str:
    """STOP from a stranger on its own socket, in the middle of a motion; only recover ends it."""
    address = bench.socket("stop")
    if not address:
        raise NotApplicable("the server names no socket for STOP")
    bench.ready()
    bench.send(bench.target((0.0, 0.0, MOVE)))
    channel = Channel(address, TIMEOUT, keys=bench.keys)
    try:
        channel.call("stop", "conformance: STOP")
    finally:
        channel.close()
    try:
        mode = bench.status().mode
        expect(mode == "stopped", f"mode {mode} after STOP", "STOP is a damped stop, then the controller is off")
        _refused(bench, "after STOP")
        _refused_reset(bench)
        seen = _stays(bench, "stopped")
    finally:
        bench.robot.recover()
    mode = bench.status().mode
    expect(mode == "holding", f"mode {mode} after recover", "recover ends in a hold")
    bench.ready()
    bench.send(bench.start)
    return f"{seen}, commands and resets refused until recover"


def reset(bench: Bench) -> str:
    """A short plan runs to its end, commands wait for it, and none leads out of the limits."""
    bench.ready()
    goal = bench.target((0.0, 0.0, MOVE))
    before = bench.go(bench.target((0.0, 0.0, -MOVE)))
    bench.robot.reset(_move(goal))
    _refused(bench, "during a reset")
    _finish(bench)
    moved = float(bench.robot.state().pose[2] - before[2])
    expect(
        0.5 * MOVE < moved < 3 * MOVE,
        f"it moved {moved * 1e3:.1f} mm of {2e3 * MOVE:g} mm",
        "a plan's MoveTo drives the TCP to its pose under the robot's own limits",
    )
    bench.robot.reset(_move(bench.start))
    _finish(bench)
    outside = bench.start.copy()
    outside[0] = bench.limits.box_high[0] + 0.1
    try:
        bench.robot.reset(_move(outside))
    except CommandRefused as refusal:
        return f"moved {moved * 1e3:.1f} mm; a goal outside is refused: {refusal}"
    bench.robot.hold("conformance: this plan must not run")
    fail("a plan that leads out of the box was started", "check every step against the robot's limits first")


def person(bench: Bench) -> str:
    """A plan that asks waits until somebody confirms."""
    bench.ready()
    _no_question(bench)
    bench.robot.reset((AskPerson(QUESTION),))
    asked = bench.until(lambda: bench.status().waiting_for == QUESTION, 2.0)
    expect(asked, f"status.waiting_for is {bench.status().waiting_for!r}", "it holds the question while a plan waits")
    bench.wait(0.5)
    expect(bench.status().mode == "resetting", "the plan went on by itself", "wait for confirm, however long")
    bench.robot.confirm()
    _finish(bench)
    return "asked, waited, and went on when it was confirmed"


def _no_question(bench: Bench) -> None:
    try:
        bench.robot.confirm()
    except CommandRefused:
        return
    fail("confirm was accepted though nothing was asked", "refuse it: it would answer the next question unread")


def _move(pose: np.ndarray) -> tuple[ResetStep, ...]:
    return (MoveTo(tuple(pose.tolist()), speed=RESET_SPEED, tolerance=REACH / 2),)


def _finish(bench: Bench) -> None:
    done = bench.until(lambda: bench.status().mode != "resetting", RESET_TIME)
    status = bench.status()
    expect(
        done and status.mode == "idle",
        f"mode {status.mode} ({status.reason}) {RESET_TIME:g} s after a reset began",
        "when a plan is done the mode is idle",
    )


def _refused(bench: Bench, when: str) -> str:
    try:
        bench.robot.command(Command(bench.start, None, bench.robot.state().time))
    except CommandRefused as refusal:
        return str(refusal)
    fail(f"a command {when} was accepted", f"refuse commands {when}, and say what ends it")


def _refused_reset(bench: Bench) -> None:
    try:
        bench.robot.reset(())
    except CommandRefused:
        return
    fail("a reset after STOP was accepted", "only recover ends a STOP")


def _stays(bench: Bench, what: str) -> str:
    bench.wait(SETTLE)
    before = bench.robot.state().pose
    bench.wait(STAY)
    after = bench.robot.state().pose
    moved, turned = float(np.linalg.norm(after[:3] - before[:3])), quat_angle(after[3:], before[3:])
    expect(
        moved < CREEP[0] and turned < CREEP[1],
        f"{what}, it moved {moved * 1e3:.2f} mm and {math.degrees(turned):.2f}° in {STAY:g} s",
        "hold one pose, the one measured when the hold began, integral zero",
    )
    return f"{what}, it moved {moved * 1e3:.2f} mm in {STAY:g} s"
