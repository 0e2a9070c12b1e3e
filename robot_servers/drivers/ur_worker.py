"""The process in which ur_rtde lives: ``python -m robot_servers.drivers.ur_worker FD HOST RATE``, started by `ur_link`.

It reads messages ``[command, arguments]`` from the socket FD and answers each with ``[done, value or reason]``. When
its parent is gone the socket ends: then it ends the robot's program and itself, without ur_rtde's own clean-up.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import sys
import time
from collections.abc import Callable
from typing import Any, Literal

from robot_servers.drivers.ur_sockets import library
from robot_servers.interface import RobotError
from robot_servers.realtime import prefer_realtime

PAUSE, TRIES = 0.01, 200  # s between two looks whether the program runs, and how many
WATCHDOG_HZ = 4.0  # commands per s below which the robot ends the program; stopping a motion alone takes 0.1 s
DECELERATION = 2.0  # rad/s² of the leading joint where a joint motion is cut short
JOINT_SPEED, JOINT_ACCELERATION = 0.5, 0.5  # rad/s, rad/s² of the leading joint on the way home
LOOKAHEAD, GAIN = 0.1, 300.0  # of servol: s and 1/s², the softer end of what its manual allows
BASE_AXES = [0.0, 0.0, 0.0]
ALL_AXES = [1] * 6
FIXED_FRAME = 2  # force_mode's type: the frame is taken as it is given
PROGRAM_RUNNING = 2  # bit of robot_status_bits
VARIABLES = [
    *("timestamp", "actual_q", "actual_qd", "actual_TCP_pose", "actual_TCP_speed", "actual_TCP_force"),
    *("robot_mode", "safety_mode", "robot_status_bits", "payload", "payload_cog"),
]
COMMANDS = (
    *("open", "sample", "start", "force", "servo", "move_joints", "guide", "keep_alive", "rest", "zero_wrench"),
    "halt",
)

Motion = Literal["none", "force", "servo", "joints", "guide"]


class Rtde:
    """ur_rtde's two connections; the calls are those of `UrLink`, with plain lists. Raises `RobotError`."""

    def __init__(self, host: str, rate: float) -> None:
        self._host = host
        self._rate = rate
        self._receive: Any = None  # ur_rtde's classes carry no types
        self._control: Any = None
        self._old: list[Any] = []  # lost connections: deleting one can crash
        self._motion: Motion = "none"
        self._watched = False  # whether the robot's watchdog is on

    def open(self) -> None:
        module = library("rtde_receive")
        self._receive = self._call("to measure", module.RTDEReceiveInterface, self._host, self._rate, list(VARIABLES))

    def sample(self) -> list[Any]:
        """The fields of `ur_link.Sample`, in their order."""
        r = self._receive
        measured = [r.getTimestamp(), r.getActualQ(), r.getActualQd(), r.getActualTCPPose(), r.getActualTCPSpeed()]
        modes = [r.getRobotMode(), r.getSafetyMode(), bool(r.getRobotStatus() & PROGRAM_RUNNING)]
        return [*measured, r.getActualTCPForce(), *modes, r.getPayload(), r.getPayloadCog()]

    def start(self) -> None:
        self._motion, self._watched = "none", False
        if self._control is not None and not self._control.isConnected():
            self._old.append(self._control)
            self._control = None
        if self._control is None:
            module = library("rtde_control")
            self._control = self._call("its control program", module.RTDEControlInterface, self._host, self._rate)
        elif not self._control.isProgramRunning():
            self._call("its control program", self._control.reuploadScript)
        for _ in range(TRIES):
            if self._control.isProgramRunning():
                return
            time.sleep(PAUSE)
        raise RobotError("its control program does not run: look at the pendant")

    def force(self, centre: list[float], wrench: list[float], speeds: list[float]) -> None:
        self._move("force", "forceMode", [*centre, *BASE_AXES], ALL_AXES, wrench, FIXED_FRAME, speeds)

    def servo(self, pose: list[float], period: float) -> None:
        self._move("servo", "servoL", pose, 0.0, 0.0, period, LOOKAHEAD, GAIN)

    def move_joints(self, q: list[float]) -> None:
        self._move("joints", "moveJ", q, JOINT_SPEED, JOINT_ACCELERATION, True)

    def guide(self) -> None:
        self._move("guide", "teachMode")

    def keep_alive(self) -> None:
        self._watch()
        self._call("the watchdog", self._control.kickWatchdog)

    def rest(self) -> None:
        motion, self._motion = self._motion, "none"
        control = self._control
        if motion == "force":
            self._call("the end of force mode", control.forceModeStop)
        elif motion == "servo":
            self._call("the end of servol", control.servoStop)
        elif motion == "joints":
            self._call("the end of a joint motion", control.stopJ, DECELERATION, True)
        elif motion == "guide":
            self._call("the end of freedrive", control.endTeachMode)

    def zero_wrench(self) -> None:
        self.rest()
        self._call("to zero its force sensor", self._control.zeroFtSensor)

    def halt(self) -> None:
        if self._control is not None and self._control.isProgramRunning():
            self.rest()
            self._call("to end its program", self._control.stopScript)

    def _move(self, motion: Motion, command: str, *args: object) -> None:
        self._watch()
        if self._motion != motion:
            self.rest()
        self._call(command, getattr(self._control, command), *args)
        self._motion = motion

    def _watch(self) -> None:
        """The watchdog begins with the first command: how long after `start` that comes is the caller's affair."""
        if not self._watched:
            self._call("the watchdog", self._control.setWatchdog, WATCHDOG_HZ)
            self._watched = True

    def _call(self, what: str, function: Callable[..., Any], *args: object) -> Any:
        """Raises `RobotError` where ur_rtde raises its RuntimeError, or answers that it failed."""
        try:
            done = function(*args)
        except RuntimeError as error:
            raise RobotError(f"{what} ({error})") from error
        if done is False:
            raise RobotError(f"{what}; its control program does not run")
        return done


def answer(rtde: Rtde, message: bytes) -> list[Any]:
    """``[True, value]``, or ``[False, reason]``."""
    name, args = json.loads(message)
    if name not in COMMANDS:
        return [False, f"the unknown command {name}"]
    try:
        return [True, getattr(rtde, name)(*args)]
    except RobotError as error:
        return [False, str(error)]


def main() -> None:
    """Serve until the parent's end of the socket closes."""
    number, host, rate = sys.argv[1:]
    prefer_realtime()  # the guard's cycle, which has it too, waits for our answers
    rtde = Rtde(host, float(rate))
    with socket.socket(fileno=int(number)) as wire:
        while message := wire.recv(1 << 16):
            wire.send(json.dumps(answer(rtde, message)).encode())
        with contextlib.suppress(RobotError):
            rtde.halt()
    os._exit(0)  # ur_rtde's destructors can crash


if __name__ == "__main__":
    main()
