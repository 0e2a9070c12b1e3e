"""The wire to a UR: what is measured and the few commands the driver needs, over RTDE and the dashboard.

`UrLink` is the boundary: everything above it runs without a robot. `RtdeLink` is the real one, made of the library
ur_rtde (PyPI ``ur-rtde``). Its constructors keep Python's interpreter lock while they talk to the robot: a peer that
accepts a connection and then says nothing would freeze this whole process. So every connection begins with a
handshake of our own, which times out.
"""

from __future__ import annotations

import contextlib
import logging
import socket
import struct
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import Any, Literal, Protocol

import numpy as np

from robot_servers.interface import Array, RobotError

log = logging.getLogger(__name__)

RTDE_PORT, DASHBOARD_PORT = 30004, 29999
TIMEOUT = 2.0  # s for one answer of the robot's controller
HALT_TIME = 1.5  # s in which the control program must have ended before the dashboard is told to end it
PAUSE = 0.01  # s between two looks whether the program runs
LOCK_TIME = 0.5  # s to wait for a command that is under way
WATCHDOG_HZ = 4.0  # commands per s below which the robot ends the program; stopping a motion alone takes 0.1 s
DECELERATION = 2.0  # rad/s² of the leading joint where a joint motion is cut short
JOINT_SPEED, JOINT_ACCELERATION = 0.5, 0.5  # rad/s, rad/s² of the leading joint on the way home
LOOKAHEAD, GAIN = 0.1, 300.0  # of servol: s and 1/s², the softer end of what its manual allows
BASE_AXES = [0.0, 0.0, 0.0]
ALL_AXES = [1] * 6
FIXED_FRAME = 2  # force_mode's type: the frame is taken as it is given
PROGRAM_RUNNING = 2  # bit of robot_status_bits
VARIABLES = [
    "timestamp",
    "actual_q",
    "actual_qd",
    "actual_TCP_pose",
    "actual_TCP_speed",
    "actual_TCP_force",
    "robot_mode",
    "safety_mode",
    "robot_status_bits",
    "payload",
    "payload_cog",
]

Motion = Literal["none", "force", "servo", "joints", "guide"]


@dataclass(frozen=True)
class Sample:
    """One package of measurements, as the robot's controller reports it (SI units, base frame).

    ``timestamp`` s of the robot's own clock; ``q``, ``dq`` (6,); ``pose`` (6,) of the TCP: m and rotation vector;
    ``vel`` (6,); ``wrench`` (6,) external force and torque at the TCP, along the axes of the base; ``robot_mode`` and
    ``safety_mode`` as numbered in the RTDE guide; ``running``: whether a program runs; ``payload`` kg and its
    ``centre`` (3,) m.
    """

    timestamp: float
    q: Array
    dq: Array
    pose: Array
    vel: Array
    wrench: Array
    robot_mode: int
    safety_mode: int
    running: bool
    payload: float
    centre: Array


class UrLink(Protocol):
    """One UR. `open` reads only; `start` loads the control program, after which the motions may be called.

    All calls but `halt` raise `RobotError` when the robot does not answer or refuses, within a few seconds.
    """

    def open(self) -> None: ...
    def close(self) -> None: ...
    def sample(self) -> Sample:
        """The newest measurement; never waits."""
        ...

    def ask(self, line: str) -> str:
        """One line to the dashboard server, and its answer."""
        ...

    def start(self) -> None:
        """Run the control program, with the robot's own watchdog on; ends a `halt`."""
        ...

    def force(self, centre: Array, wrench: Array, speeds: Array) -> None:
        """Exert ``wrench`` (6,) about ``centre`` (3,) along the base's axes, at most this fast (6,) along each."""
        ...

    def servo(self, pose: Array, period: float) -> None:
        """Follow ``pose`` (6,), m and rotation vector, for one ``period`` s, by stiff position control."""
        ...

    def move_joints(self, q: Array) -> None:
        """Begin a motion to ``q`` (6,) rad and return."""
        ...

    def guide(self) -> None:
        """Let a person lead the arm."""
        ...

    def keep_alive(self) -> None:
        """Tell the robot's watchdog that we live, in a period without another command."""
        ...

    def rest(self) -> None:
        """End the present motion, damped; the program goes on."""
        ...

    def zero_wrench(self) -> None: ...
    def halt(self) -> None:
        """End motion and program. From any thread, bounded, never raises; later motions do nothing until `start`."""
        ...


class RtdeLink:
    """Satisfies `UrLink`. ``rate`` Hz: 125 for the CB series, 500 for the e-Series."""

    def __init__(self, host: str, rate: float) -> None:
        self._host = host
        self._rate = rate
        self._receive: Any = None  # ur_rtde's classes carry no types
        self._control: Any = None
        self._lock = threading.Lock()  # one command at a time
        self._motion: Motion = "none"
        self._halted = threading.Event()
        self._halted.set()

    # ── connection ──

    def open(self) -> None:
        shake_hands(self._host)
        module = library("rtde_receive")
        self._receive = self._call(
            "its measurements", module.RTDEReceiveInterface, self._host, self._rate, list(VARIABLES)
        )

    def close(self) -> None:
        self._halted.set()
        for part in (self._control, self._receive):
            if part is not None:
                with contextlib.suppress(RuntimeError):  # a connection that is gone already
                    part.disconnect()
        self._control = self._receive = None

    def sample(self) -> Sample:
        r = self._receive
        if r is None:
            raise RobotError(f"not connected to the UR at {self._host}: call connect() first")
        return Sample(
            timestamp=r.getTimestamp(),
            q=np.array(r.getActualQ()),
            dq=np.array(r.getActualQd()),
            pose=np.array(r.getActualTCPPose()),
            vel=np.array(r.getActualTCPSpeed()),
            wrench=np.array(r.getActualTCPForce()),
            robot_mode=r.getRobotMode(),
            safety_mode=r.getSafetyMode(),
            running=bool(r.getRobotStatus() & PROGRAM_RUNNING),
            payload=r.getPayload(),
            centre=np.array(r.getPayloadCog()),
        )

    def ask(self, line: str) -> str:
        return ask_dashboard(self._host, line)

    def start(self) -> None:
        module = library("rtde_control")
        if self._control is not None and not self._control.isConnected():
            self._control = None
        if self._control is None:
            shake_hands(self._host)
            self._control = self._call("the control program", module.RTDEControlInterface, self._host, self._rate)
        elif not self._control.isProgramRunning():
            self._call("the control program", self._control.reuploadScript)
            self._await_program()
        self._motion = "none"
        self._call("the watchdog", self._control.setWatchdog, WATCHDOG_HZ)
        self._halted.clear()

    # ── motions ──

    def force(self, centre: Array, wrench: Array, speeds: Array) -> None:
        frame = [*centre.tolist(), *BASE_AXES]
        self._move("force", "forceMode", frame, ALL_AXES, wrench.tolist(), FIXED_FRAME, speeds.tolist())

    def servo(self, pose: Array, period: float) -> None:
        self._move("servo", "servoL", pose.tolist(), 0.0, 0.0, period, LOOKAHEAD, GAIN)

    def move_joints(self, q: Array) -> None:
        self._move("joints", "moveJ", q.tolist(), JOINT_SPEED, JOINT_ACCELERATION, True)

    def guide(self) -> None:
        self._move("guide", "teachMode")

    def keep_alive(self) -> None:
        with self._commanding() as free:
            if free:
                self._call("the watchdog", self._control.kickWatchdog)

    def rest(self) -> None:
        with self._commanding() as free:
            if free:
                self._rest()

    def zero_wrench(self) -> None:
        with self._commanding() as free:
            if free:
                self._rest()
                self._call("zeroing its force sensor", self._control.zeroFtSensor)

    def halt(self) -> None:
        self._halted.set()
        failed: list[Exception] = []
        worker = threading.Thread(target=self._end_program, args=(failed,), name="ur-halt", daemon=True)
        worker.start()
        worker.join(HALT_TIME)
        if not worker.is_alive() and not failed:
            return
        log.warning("the control program of the UR did not end (%s); its dashboard is told to end it", failed)
        try:
            self.ask("stop")
        except RobotError as error:
            log.error("the UR cannot be told to stop, use its stop button: %s", error)

    def _end_program(self, failed: list[Exception]) -> None:
        control = self._control
        if control is None:
            return
        try:
            with self._one_at_a_time():
                if control.isProgramRunning():
                    self._rest()
                    control.stopScript()
        except (RobotError, RuntimeError) as error:
            failed.append(error)

    # ── helpers ──

    def _await_program(self) -> None:
        tries = round(TIMEOUT / PAUSE)
        while not self._control.isProgramRunning():
            tries -= 1
            if tries < 0:
                raise RobotError(f"the UR at {self._host} does not run the control program: look at its pendant")
            time.sleep(PAUSE)

    @contextlib.contextmanager
    def _one_at_a_time(self):
        if not self._lock.acquire(timeout=LOCK_TIME):
            raise RobotError(f"the UR at {self._host} has not carried out the previous command for {LOCK_TIME} s")
        try:
            yield
        finally:
            self._lock.release()

    @contextlib.contextmanager
    def _commanding(self):
        """True while commands may be given: after a `halt` whoever is about to give one must do nothing."""
        with self._one_at_a_time():
            yield self._control is not None and not self._halted.is_set()

    def _move(self, motion: Motion, command: str, *args: object) -> None:
        with self._commanding() as free:
            if not free:
                return
            if self._motion != motion:
                self._rest()
            self._call(command, getattr(self._control, command), *args)
            self._motion = motion

    def _rest(self) -> None:
        motion, self._motion = self._motion, "none"
        control = self._control
        if motion == "force":
            self._call("the end of force mode", control.forceModeStop)
        elif motion == "servo":
            self._call("the end of servo mode", control.servoStop)
        elif motion == "joints":
            self._call("the end of a joint motion", control.stopJ, DECELERATION, True)
        elif motion == "guide":
            self._call("the end of freedrive", control.endTeachMode)

    def _call(self, what: str, function: Callable[..., Any], *args: object) -> Any:
        """Raises `RobotError` where ur_rtde raises its RuntimeError, or answers that it failed."""
        try:
            done = function(*args)
        except RuntimeError as error:
            raise RobotError(f"the UR at {self._host} refuses {what}: {error}") from error
        if done is False:
            raise RobotError(f"the UR at {self._host} refuses {what}: does its control program still run?")
        return done


# ── small clients of our own ─────────────────────────────────────────────────────────────────────


def library(name: str) -> ModuleType:
    """A module of ur_rtde. Raises `RobotError` naming the extra where it is not installed."""
    try:
        return __import__(name)
    except ImportError as error:
        raise RobotError(f"a UR needs the package ur-rtde ({error}): install the extra ur") from error


def shake_hands(host: str, port: int = RTDE_PORT) -> None:
    """Raises `RobotError` within about `TIMEOUT` s unless an RTDE server, protocol 2, answers there (RTDE guide)."""
    try:
        with socket.create_connection((host, port), TIMEOUT) as wire:
            wire.sendall(struct.pack(">HBH", 5, ord("V"), 2))
            answer = read_exactly(wire, 4)
    except OSError as error:
        raise RobotError(
            f"no UR answers at {host}:{port} ({error}): is it switched on, is the address right, is the cable in?"
        ) from error
    if answer != struct.pack(">HBB", 4, ord("V"), 1):
        raise RobotError(f"what answers at {host}:{port} does not speak RTDE protocol 2: is this a UR?")


def ask_dashboard(host: str, line: str, port: int = DASHBOARD_PORT) -> str:
    """Send one line to the dashboard server and return its answer. Raises `RobotError` within a few seconds."""
    try:
        with socket.create_connection((host, port), TIMEOUT) as wire, wire.makefile("rw", newline="\n") as lines:
            lines.readline()  # its greeting
            lines.write(f"{line}\n")
            lines.flush()
            return lines.readline().strip()
    except OSError as error:
        raise RobotError(
            f"the dashboard server at {host}:{port} does not answer ({error}): PolyScope X has none, and it is a "
            "service that can be switched off under Settings → Security"
        ) from error


def read_exactly(wire: socket.socket, size: int) -> bytes:
    """Raises `OSError` when the peer closes or is silent first."""
    data = b""
    while len(data) < size:
        more = wire.recv(size - len(data))
        if not more:
            raise ConnectionError("closed by the peer")
        data += more
    return data
