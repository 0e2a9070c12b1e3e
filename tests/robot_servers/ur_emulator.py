"""A UR's controller on loopback, as far as ur_rtde looks: RTDE (30004), dashboard (29999), script port (30003).

It speaks the RTDE protocol 2 (Universal Robots, "Real-Time Data Exchange guide"): version, recipes, start, data in
both directions. It does not interpret URScript: it plays the other end of the handshake that ur_rtde's script has
with ur_rtde's client (a command number in input register 0, "ready" or "done" in output register 0), and moves an
arm without dynamics, whose speed is proportional to the wrench, as force mode's is.

It runs in a process of its own, because ur_rtde's constructors keep the interpreter lock of theirs: `EmulatedUr` here
starts it and reads and sets its attributes over a pipe.
"""

from __future__ import annotations

import itertools
import json
import os
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from robot_servers.drivers.ur_kinematics import ARMS
from robot_servers.geometry import quat_conj, quat_mul, quat_to_rotvec, rotvec_to_quat

READY, DONE = 1, 2  # what the script answers
MOVE_J, FORCE, FORCE_STOP, ZERO, SERVO_STOP, TEACH, END_TEACH, SERVO_L, STOP_J, WATCHDOG, STOP_SCRIPT = (
    *(1, 6, 7, 8, 16, 18, 19, 24, 34, 35),
    255,
)
REALTIME = (FORCE, SERVO_L)  # these are never waited for
NAMES = {
    **{MOVE_J: "moveJ", FORCE: "forceMode", FORCE_STOP: "forceModeStop", ZERO: "zeroFtSensor"},
    **{SERVO_STOP: "servoStop", TEACH: "teachMode", END_TEACH: "endTeachMode", SERVO_L: "servoL"},
    **{STOP_J: "stopJ", WATCHDOG: "setWatchdog", STOP_SCRIPT: "stopScript"},
}
VECTORS = {
    **dict.fromkeys(("actual_q", "actual_qd", "actual_TCP_pose", "actual_TCP_speed", "actual_TCP_force"), "VECTOR6D"),
    **{"external_force_torque": "VECTOR6D", "payload_cog": "VECTOR3D"},
}
FORMATS = {"DOUBLE": "d", "VECTOR6D": "6d", "VECTOR3D": "3d", "INT32": "i", "UINT32": "I", "UINT8": "B"}
ADMITTANCE = np.array([0.005] * 3 + [0.05] * 3)  # m/s per N, rad/s per Nm
JOINT_SPEED = 1.0  # rad/s
addresses = (f"127.0.88.{number}" for number in itertools.count(1))  # one each: ur_rtde knows fixed ports only


def type_of(name: str) -> str:
    """The RTDE guide's type of a variable."""
    if name in VECTORS:
        return VECTORS[name]
    if "int_register" in name or name in ("robot_mode", "safety_mode"):
        return "INT32"
    if name.endswith("_bits") or name == "runtime_state":
        return "UINT32"
    return "UINT8" if name.endswith("_mask") or "digital" in name else "DOUBLE"


class Controller:
    """One arm. Its attributes are set to make trouble; ``calls`` lists what it was told, in order."""

    def __init__(self, address: str, q: list[float], tool: list[float], model: str, rate: float) -> None:
        self.address = address
        self.arm, self.rate = ARMS[model], rate
        self._q, self._tool = q, tool
        self.reset()
        self._begun = time.monotonic()
        self._closing = threading.Event()
        self._listeners: list[socket.socket] = []
        self._wires: list[socket.socket] = []

    def reset(self) -> None:
        """As it was switched on."""
        self.tool: Sequence[float] = self._tool
        self.q, self.dq = np.array(self._q), np.zeros(6)
        self.push: Sequence[float] = (0.0,) * 6  # external wrench, base axes
        self.wall = -1.0  # m, height below which the TCP meets a spring of 5 kN/m
        self.robot_mode, self.safety_mode = 7, 1
        self.remote, self.version = "true", "URSoftware 5.13.0.113898 (Oct 21 2022)"
        self.payload, self.centre = 0.0, (0.0, 0.0, 0.0)
        self.patience = 1.0  # times the period that its watchdog is asked to keep
        self.frozen = False  # sends no more packages
        self.stuck = False  # does not answer commands any more
        self.running = False
        self.calls: list[str] = []
        self.asked: list[str] = []  # lines of the dashboard
        self.wrench, self.speeds = np.zeros(6), np.zeros(6)
        self._goal: np.ndarray | None = None
        self._motion = ""
        self._watchdog, self._fed = 0.0, 0.0
        self._answer = 0

    def __enter__(self) -> Controller:
        for port, handle in ((30004, self._rtde), (29999, self._dashboard), (30003, self._script)):
            listener = socket.create_server((self.address, port))
            self._listeners.append(listener)
            threading.Thread(target=self._accept, args=(listener, handle), daemon=True).start()
        threading.Thread(target=self._live, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._closing.set()

    def cut(self) -> None:
        """Every open connection breaks, as if a cable were pulled and put back."""
        for wire in self._wires:
            try:
                wire.shutdown(socket.SHUT_RDWR)
            except OSError:
                continue
        self._wires.clear()

    def unlock(self) -> None:
        """A person clears a protective stop at the pendant."""
        self.safety_mode = 1

    # ── the arm ──

    def _live(self) -> None:
        due = time.monotonic()
        while not self._closing.is_set():
            if self._watchdog and time.monotonic() - self._fed > self.patience / self._watchdog:
                self.end_program()
            self._move(1.0 / self.rate)
            due += 1.0 / self.rate
            time.sleep(max(0.0, due - time.monotonic()))

    def end_program(self) -> None:
        """What its watchdog, a person at the pendant or the dashboard does."""
        self.running, self._watchdog, self._motion = False, 0.0, ""

    def pose(self) -> np.ndarray:
        """(7,) of the TCP."""
        return self.arm.tcp(self.q, np.array(self.tool))

    def external(self) -> np.ndarray:
        """What acts on the TCP from outside, (6,) along the base's axes."""
        wall = max(0.0, self.wall - self.pose()[2]) * 5000.0
        return np.array(self.push) + np.array([0.0, 0.0, wall, 0.0, 0.0, 0.0])

    def _move(self, dt: float) -> None:
        self.dq = self._speed() if self.running and self.safety_mode == 1 else np.zeros(6)
        self.q = self.q + self.dq * dt

    def _speed(self) -> np.ndarray:
        if self._motion == "moveJ" and self._goal is not None:
            return np.clip((self._goal - self.q) * self.rate, -JOINT_SPEED, JOINT_SPEED)
        if self._motion == "servoL" and self._goal is not None:
            pose = self.pose()
            turn = quat_to_rotvec(quat_mul(rotvec_to_quat(self._goal[3:]), quat_conj(pose[3:])))
            return self._joints(np.concatenate([self._goal[:3] - pose[:3], turn]) * 10.0)
        if self._motion == "forceMode":
            return self._joints(np.clip(ADMITTANCE * (self.wrench + self.external()), -self.speeds, self.speeds))
        return self._joints(ADMITTANCE * self.external()) if self._motion == "teachMode" else np.zeros(6)

    def _joints(self, velocity: np.ndarray) -> np.ndarray:
        return np.linalg.solve(self.arm.jacobian(self.q, np.array(self.tool)), velocity)

    def _measured(self, name: str) -> Any:
        pose = self.pose()
        values = {
            "timestamp": time.monotonic() - self._begun,
            "actual_q": self.q,
            "actual_qd": self.dq,
            "actual_TCP_pose": np.concatenate([pose[:3], quat_to_rotvec(pose[3:])]),
            "actual_TCP_speed": self.arm.jacobian(self.q, np.array(self.tool)) @ self.dq,
            "actual_TCP_force": self.external(),
            "robot_mode": self.robot_mode,
            "safety_mode": self.safety_mode,
            "robot_status_bits": 3 if self.running else 1,
            "safety_status_bits": 1 if self.safety_mode == 1 else 4,
            "runtime_state": 2 if self.running else 1,
            "payload": self.payload,
            "payload_cog": self.centre,
            "output_int_register_0": self._answer,
        }
        return values.get(name, 0)

    # ── the program ──

    def _order(self, names: list[str], values: tuple[float, ...]) -> None:
        self._fed = time.monotonic()
        if self.stuck or not self.running:
            return
        command = int(values[0])
        if names[0] != "input_int_register_0" or command == 0:
            self._answer = READY
            return
        if self._answer == READY or command in REALTIME:
            self._obey(command, values[1:])
        self._answer = READY if command in REALTIME else DONE

    def _obey(self, command: int, values: tuple[float, ...]) -> None:
        name = NAMES.get(command, str(command))
        if name not in self.calls[-1:]:
            self.calls.append(name)
        if command == STOP_SCRIPT:
            self.end_program()
        elif command == WATCHDOG:
            self._watchdog = values[0]
        elif command == FORCE:
            self._motion, self.wrench, self.speeds = name, np.array(values[13:19]), np.array(values[19:25])
        elif command in (MOVE_J, SERVO_L):
            self._motion, self._goal = name, np.array(values[:6])
        elif command != ZERO:
            self._motion = name if command == TEACH else ""

    # ── the wires ──

    def _accept(self, listener: socket.socket, handle: Callable[[socket.socket], None]) -> None:
        while True:
            try:
                wire = listener.accept()[0]
            except OSError:
                return
            self._wires.append(wire)
            threading.Thread(target=self._serve, args=(wire, handle), daemon=True).start()

    def _serve(self, wire: socket.socket, handle: Callable[[socket.socket], None]) -> None:
        try:
            with wire:
                handle(wire)
        except (OSError, EOFError):
            return

    def _script(self, wire: socket.socket) -> None:
        script = b""
        while part := wire.recv(65536):
            script += part
            if b"NODE_CONTROL_LOOP_ENDS" in script:  # the last line but one of ur_rtde's script
                script = b""
                self.running, self._answer, self._watchdog = True, READY, 0.0

    def _dashboard(self, wire: socket.socket) -> None:
        answers = {
            "PolyscopeVersion": lambda: self.version,
            "get serial number": lambda: "20215500001",
            "is in remote control": lambda: self.remote,
            "unlock protective stop": self._unlock,
            "stop": self._stop_program,
        }
        wire.sendall(b"Connected: Universal Robots Dashboard Server\n")
        with wire.makefile("r") as lines:
            for line in lines:
                self.asked.append(line.strip())
                answer = answers.get(line.strip(), lambda: "ok")()
                wire.sendall(f"{answer}\n".encode())

    def _unlock(self) -> str:
        self.unlock()
        return "Protective stop releasing"

    def _stop_program(self) -> str:
        self.end_program()
        return "Stopped"

    def _rtde(self, wire: socket.socket) -> None:
        recipes: list[list[str]] = []
        sending, started = threading.Lock(), threading.Event()

        def send(kind: str, payload: bytes) -> None:
            with sending:
                wire.sendall(struct.pack(">HB", 3 + len(payload), ord(kind)) + payload)

        def stream(names: list[str], rate: float) -> None:
            due = time.monotonic()
            while not self._closing.is_set():
                due += 1.0 / rate
                time.sleep(max(0.0, due - time.monotonic()))
                if started.is_set() and not self.frozen:
                    send("U", b"\x01" + b"".join(self._packed(name) for name in names))

        while True:
            size, kind = struct.unpack(">HB", exactly(wire, 3))
            payload = exactly(wire, size - 3)
            match chr(kind):
                case "V":
                    send("V", bytes([payload == b"\x00\x02"]))
                case "v":
                    send("v", struct.pack(">4I", 5, 13, 0, 0))
                case "O":
                    names = split(payload[8:])
                    send("O", b"\x01" + ",".join(map(type_of, names)).encode())
                    rate = struct.unpack(">d", payload[:8])[0]
                    threading.Thread(target=self._serve, args=(wire, lambda _, n=names, r=rate: stream(n, r))).start()
                case "I":
                    recipes.append(split(payload))
                    send("I", bytes([len(recipes)]) + ",".join(map(type_of, recipes[-1])).encode())
                case "S":
                    started.set()
                    send("S", b"\x01")
                case "U":
                    names = recipes[payload[0] - 1]
                    layout = ">" + "".join(FORMATS[type_of(name)] for name in names)
                    self._order(names, struct.unpack(layout, payload[1:]))

    def _packed(self, name: str) -> bytes:
        return struct.pack(f">{FORMATS[type_of(name)]}", *np.atleast_1d(self._measured(name)).tolist())


def split(names: bytes) -> list[str]:
    """The names of a recipe; ur_rtde ends it with a comma."""
    return [name for name in names.decode().split(",") if name]


def exactly(wire: socket.socket, size: int) -> bytes:
    """Raises EOFError when the peer closes."""
    data = b""
    while len(data) < size:
        more = wire.recv(size - len(data))
        if not more:
            raise EOFError
        data += more
    return data


class EmulatedUr:
    """A `Controller` in a process of its own, from `with` on. Attributes and methods without arguments are its own."""

    def __init__(self, q: Sequence[float], tool: Sequence[float], model: str = "ur5e", rate: float = 125.0) -> None:
        self.address = next(addresses)
        self._options = [self.address, list(q), list(tool), model, rate]
        self._process: subprocess.Popen[str] | None = None

    def __enter__(self) -> EmulatedUr:
        root = str(Path(__file__).parents[2])
        self._process = subprocess.Popen(
            [sys.executable, __file__, json.dumps(self._options)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": root},
        )
        self._exchange("", None)
        return self

    def __exit__(self, *_: object) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.communicate()

    def get(self, name: str) -> Any:
        """An attribute, or what a method without arguments returns."""
        return self._exchange(name, None)

    def set(self, **values: Any) -> None:
        for name, value in values.items():
            self._exchange(name, [value])

    def _exchange(self, name: str, value: list[Any] | None) -> Any:
        assert self._process is not None and self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(json.dumps([name, value]) + "\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())


def serve(options: list[Any]) -> None:
    """Be the process: answer ``[attribute, null or [new value]]`` line by line, until the pipe ends."""
    with Controller(*options) as ur:
        for line in sys.stdin:
            name, value = json.loads(line)
            if value is not None:
                setattr(ur, name, value[0])
            found = getattr(ur, name) if name else None
            found = found() if callable(found) else found
            print(json.dumps(found.tolist() if isinstance(found, np.ndarray) else found), flush=True)


if __name__ == "__main__":
    serve(json.loads(sys.argv[1]))
