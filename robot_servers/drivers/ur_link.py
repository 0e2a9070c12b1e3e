"""The boundary between the UR driver and a UR: what is measured, and the few commands that the driver needs.

`UrLink` is all that the driver sees. `RtdeLink` is the real one. The library ur_rtde (PyPI ``ur-rtde``) runs in a
process of its own, `ur_worker`: its constructors keep Python's interpreter lock while they talk to the robot, and
version 1.6.5 can crash with a segmentation fault when a connection breaks or is closed. There it takes neither the
guard nor the clients' connections with it; its end is a fault that `recover` mends with a new process.
"""

from __future__ import annotations

import contextlib
import json
import logging
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from robot_servers.drivers.ur_sockets import TIMEOUT, ask_dashboard, shake_hands
from robot_servers.interface import Array, RobotError

log = logging.getLogger(__name__)

HALT_TIME = 1.5  # s in which the control program must have ended before the dashboard is told to end it
LOCK_TIME = 0.5  # s to wait for a command that is under way
OPEN_TIME, START_TIME = 10.0, 8.0  # s for a new process with ur_rtde, and for the control program: ur_rtde waits 5 s
WORKER = "robot_servers.drivers.ur_worker"
LONGEST = 1 << 16  # bytes of a message


class LinkLost(RobotError):
    """The process that talks to the robot is gone, or was given up: only a new `UrLink.open` goes on."""


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
        """Run the control program; ends a `halt`. From the first motion on the robot's own watchdog is on."""
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
    """Satisfies `UrLink`. ``rate`` Hz: 125 for the CB series, 500 for the e-Series. Messages to the worker are JSON."""

    def __init__(self, host: str, rate: float) -> None:
        self._host = host
        self._rate = rate
        self._wire: socket.socket | None = None
        self._worker: subprocess.Popen[bytes] | None = None
        self._lock = threading.Lock()  # one command at a time
        self._halted = threading.Event()
        self._halted.set()
        self._started = False  # whether there ever was a program to end

    def open(self) -> None:
        shake_hands(self._host)
        self._wire, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            command = [sys.executable, "-m", WORKER, str(theirs.fileno()), self._host, str(self._rate)]
            # ur_rtde prints to stdout, where the server's "ready" must stand alone
            self._worker = subprocess.Popen(command, pass_fds=(theirs.fileno(),), stdin=subprocess.DEVNULL, stdout=2)
        self._exchange("open", wait=OPEN_TIME)

    def close(self) -> None:
        """The worker ends the program when its wire ends; one that hangs is killed, and the robot's watchdog acts."""
        self._halted.set()
        worker, self._worker = self._worker, None
        if self._wire is not None:
            self._wire.close()
            self._wire = None
        if worker is not None:
            try:
                worker.wait(HALT_TIME)
            except subprocess.TimeoutExpired:
                worker.kill()
                worker.wait()

    def sample(self) -> Sample:
        fields: list[Any] = self._exchange("sample")
        arrays: list[Any] = [np.array(field) if isinstance(field, list) else field for field in fields]
        return Sample(*arrays)

    def ask(self, line: str) -> str:
        return ask_dashboard(self._host, line)

    def start(self) -> None:
        self._halted.clear()
        self._started = True
        self._exchange("start", wait=START_TIME)
        if self._halted.is_set():  # by a stop that found no program to end yet
            self.halt()
            raise RobotError(f"the UR at {self._host} was stopped while its control program started")

    # ── motions ──

    def force(self, centre: Array, wrench: Array, speeds: Array) -> None:
        self._command("force", centre.tolist(), wrench.tolist(), speeds.tolist())

    def servo(self, pose: Array, period: float) -> None:
        self._command("servo", pose.tolist(), period)

    def move_joints(self, q: Array) -> None:
        self._command("move_joints", q.tolist())

    def guide(self) -> None:
        self._command("guide")

    def keep_alive(self) -> None:
        self._command("keep_alive")

    def rest(self) -> None:
        self._command("rest")

    def zero_wrench(self) -> None:
        self._command("zero_wrench")

    def halt(self) -> None:
        self._halted.set()
        if not self._started:
            return
        try:
            self._exchange("halt", wait=HALT_TIME)
        except RobotError as error:
            log.warning("the control program of the UR did not end (%s); its dashboard is told to end it", error)
            self._halt_by_dashboard()

    def _halt_by_dashboard(self) -> None:
        try:
            self.ask("stop")
        except RobotError as error:
            log.error("the UR cannot be told to stop, use its stop button: %s", error)

    # ── messages ──

    def _command(self, name: str, *args: Any) -> None:
        """After a `halt` whoever was about to give a command must give none."""
        self._exchange(name, *args, unless_halted=True)

    def _exchange(self, name: str, *args: Any, wait: float = TIMEOUT, unless_halted: bool = False) -> Any:
        """Raises `RobotError` with the worker's reason, or because it does not answer: then it is killed."""
        with self._one_at_a_time():
            if unless_halted and self._halted.is_set():
                return None
            if self._wire is None:
                raise LinkLost(f"not connected to the UR at {self._host}: call connect(), or recover")
            try:
                self._wire.settimeout(wait)
                self._wire.send(json.dumps([name, args]).encode())
                answer = self._wire.recv(LONGEST)
            except OSError as error:
                self._give_up()
                raise LinkLost(f"the UR at {self._host} does not answer to {name}: {error}") from error
            if not answer:
                self._give_up()
                raise LinkLost(f"the process that talks to the UR at {self._host} has crashed")
        done, value = json.loads(answer)
        if not done:
            raise RobotError(f"the UR at {self._host} refuses: {value}")
        return value

    def _give_up(self) -> None:
        """A late answer would be taken for that of the next message."""
        if self._worker is not None:
            self._worker.kill()
        if self._wire is not None:
            self._wire.close()
            self._wire = None

    @contextlib.contextmanager
    def _one_at_a_time(self) -> Iterator[None]:
        if not self._lock.acquire(timeout=LOCK_TIME):
            raise RobotError(f"the UR at {self._host} has not carried out the previous command for {LOCK_TIME} s")
        try:
            yield
        finally:
            self._lock.release()
