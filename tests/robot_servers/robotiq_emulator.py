"""A Robotiq 2F on loopback: one model of its registers and fingers behind three wires (URCap, Modbus TCP, Modbus RTU).

Written from the manual's register mapping, independently of the client under test; Modbus frames are built here by
hand, so that they are checked against pymodbus' own.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
import struct
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

ACTIVATION = 0.15  # s
SPEED = 1500.0  # of its numbers per s: many times faster than a real one


class Fingers:
    """Registers and fingers. ``ends``: where they really stop; ``thing``: where a held object stops them.

    ``jam``: where they get stuck without the gripper noticing. ``requests`` lists all positions asked for.
    """

    def __init__(self, active: bool = False) -> None:
        self.ends = (3, 228)
        self.thing: int | None = None
        self.jam: int | None = None
        self.fault = 0
        self.requests: list[int] = []
        self.activations = 0
        self.position = 60.0
        self._active_since = 0.0 if active else None
        self._act, self._go, self._goal = active, active, 60
        self._object = 3
        self._then = time.monotonic()

    def cut_power(self) -> None:
        """Forgets its activation, keeps its fingers where they are."""
        self._act, self._go, self._active_since = False, False, None

    def state(self) -> int:
        if not self._act or self._active_since is None:
            return 0
        return 3 if time.monotonic() - self._active_since > ACTIVATION else 1

    def ask(self, act: bool, go: bool, position: int) -> None:
        self.live()
        if act and not self._act:
            self._active_since, self.activations = time.monotonic(), self.activations + 1
        self._act, self._go = act, go and act
        if go and act:
            self._goal = position
            self.requests.append(position)

    def live(self) -> None:
        """Move the fingers by the time that has passed."""
        now = time.monotonic()
        reach, self._then = (now - self._then) * SPEED, now
        if self.state() != 3 or not self._go:
            return
        goal = min(self.ends[1], max(self.ends[0], self._goal))
        stop = goal if self.thing is None or self._goal <= self.thing else min(goal, self.thing)
        if self.jam is not None:
            stop = min(stop, self.jam)
        self.position += min(reach, max(-reach, stop - self.position))
        arrived = abs(self.position - stop) < 0.5
        self._object = 0 if not arrived or stop == self.jam else 3 if stop == goal else 2

    def status(self) -> dict[str, int]:
        self.live()
        values = {"ACT": self._act, "GTO": self._go, "STA": self.state(), "OBJ": self._object, "FLT": self.fault}
        return {**{name: int(value) for name, value in values.items()}, "PRE": self._goal, "POS": round(self.position)}

    def registers(self) -> list[int]:
        """The three from 0x07D0."""
        s = self.status()
        bits = s["ACT"] | s["GTO"] << 3 | s["STA"] << 4 | s["OBJ"] << 6
        return [bits << 8, s["FLT"] << 8 | s["PRE"], s["POS"] << 8]

    def modbus(self, pdu: bytes) -> bytes:
        """The answer to one request: read (3, 4) the status, write (16) the request."""
        function, address, count = struct.unpack(">BHH", pdu[:5])
        if function in (3, 4) and (address, count) == (0x07D0, 3):
            return struct.pack(">BB3H", function, 6, *self.registers())
        if function == 16 and (address, count) == (0x03E8, 3):
            action, position = pdu[6], pdu[9]
            self.ask(bool(action & 1), bool(action & 8), position)
            return pdu[:5]
        return bytes([function | 0x80, 2])  # illegal address


class TcpServer:
    """Serves connections on one port; `unplug` and `plug` as a cable."""

    def __init__(self, handle: Callable[[socket.socket], None]) -> None:
        self._handle = handle
        self._wires: list[socket.socket] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._listen()

    def plug(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", self.port))
        self._listen()

    def unplug(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for wire in self._wires:
            with contextlib.suppress(OSError):
                wire.shutdown(socket.SHUT_RDWR)
        self._wires.clear()

    def _listen(self) -> None:
        threading.Thread(target=self._accept, args=(self._listener,), daemon=True).start()

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                wire = listener.accept()[0]
            except OSError:
                return
            self._wires.append(wire)
            threading.Thread(target=self._serve, args=(wire,), daemon=True).start()

    def _serve(self, wire: socket.socket) -> None:
        with wire, contextlib.suppress(OSError, EOFError):
            self._handle(wire)


def urcap_server(fingers: Fingers) -> TcpServer:
    """``SET NAME VALUE …`` is answered by ``ack``, ``GET NAME`` by ``NAME VALUE``."""

    def handle(wire: socket.socket) -> None:
        with wire.makefile("r") as lines:
            for line in lines:
                verb, *words = line.split()
                if verb == "GET":
                    wire.sendall(f"{words[0]} {fingers.status()[words[0]]}\n".encode())
                    continue
                values = dict(zip(words[::2], map(int, words[1::2]), strict=True))
                fingers.ask(bool(values["ACT"]), bool(values["GTO"]), values["POS"])
                wire.sendall(b"ack")

    return TcpServer(handle)


def modbus_server(fingers: Fingers) -> TcpServer:
    """Modbus TCP: a transaction number, 0, a length, the unit, then the request."""

    def handle(wire: socket.socket) -> None:
        while True:
            number, _, size, unit = struct.unpack(">HHHB", exactly(wire, 7))
            answer = fingers.modbus(exactly(wire, size - 1))
            if unit == 9:
                wire.sendall(struct.pack(">HHHB", number, 0, len(answer) + 1, unit) + answer)

    return TcpServer(handle)


class RtuServer:
    """Modbus RTU on a pair of pseudo terminals; ``port`` is a link to whatever pair is plugged in."""

    def __init__(self, fingers: Fingers, folder: Path) -> None:
        self._fingers = fingers
        self.port = folder / "ttyGripper"
        self.plug()

    def plug(self) -> None:
        try:
            self._master, slave = os.openpty()
        except OSError as error:
            pytest.skip(f"this machine has no pseudo terminals to play a serial line with ({error}): mount devpts")
        self.port.unlink(missing_ok=True)
        self.port.symlink_to(os.ttyname(slave))
        self._plugged = threading.Event()
        self._plugged.set()
        self._thread = threading.Thread(target=self._serve, args=(self._master, slave, self._plugged), daemon=True)
        self._thread.start()

    def unplug(self) -> None:
        self._plugged.clear()
        self._thread.join()
        self.port.unlink()

    def _serve(self, master: int, slave: int, plugged: threading.Event) -> None:
        data = b""
        while plugged.is_set():
            if not select.select([master], [], [], 0.05)[0]:
                data = b""  # silence ends a frame
                continue
            data += os.read(master, 256)
            size = 8 if data[1:2] in (b"\x03", b"\x04") else 9 + data[6] if len(data) > 6 else 256
            if len(data) < size:
                continue
            frame, data = data[:size], data[size:]
            if frame[0] == 9 and frame[-2:] == crc(frame[:-2]):
                answer = frame[:1] + self._fingers.modbus(frame[1:-2])
                os.write(master, answer + crc(answer))
        os.close(slave)
        os.close(master)


def crc(data: bytes) -> bytes:
    """CRC-16 of Modbus, low byte first."""
    value = 0xFFFF
    for byte in data:
        value ^= byte
        for _ in range(8):
            value = value >> 1 ^ (0xA001 if value & 1 else 0)
    return struct.pack("<H", value)


def exactly(wire: socket.socket, size: int) -> bytes:
    """Raises EOFError when the peer closes."""
    data = b""
    while len(data) < size:
        more = wire.recv(size - len(data))
        if not more:
            raise EOFError
        data += more
    return data
