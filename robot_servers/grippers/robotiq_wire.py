"""Three ways to a Robotiq 2F's registers: Modbus TCP, Modbus RTU, and the URCap's text socket.

Registers and bits: Robotiq, "2F-85 & 2F-140 instruction manual", sections on the register mapping (requests
from 0x03E8, status from 0x07D0), Modbus RTU (slave 9, 115 200 baud) and object detection.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from robot_servers.interface import RobotError

REQUEST, STATUS = 0x03E8, 0x07D0  # first of three registers each
UNIT = 9  # Modbus address that the gripper has from the factory
TIMEOUT = 0.5  # s for one answer
VARIABLES = ("STA", "OBJ", "FLT", "PRE", "POS")  # of the text socket, in the order of `Status`


@dataclass(frozen=True)
class Request:
    """What the gripper is asked for, in its own numbers: 0 open … 255 closed; ``speed`` and ``force`` 0 … 255."""

    position: int
    speed: int
    force: int
    go: bool = True  # off: stay
    active: bool = True  # off, then on: activate


@dataclass(frozen=True)
class Status:
    """What the gripper says, in its own numbers.

    ``state`` gSTA: 0 reset, 1 activating, 3 active. ``object`` gOBJ: 0 in motion, 1 (2) stopped by a contact while
    opening (closing), 3 at the requested position. ``fault`` gFLT; ``echo`` gPR, the position last asked for;
    ``position`` gPO.
    """

    state: int
    object: int
    fault: int
    echo: int
    position: int


class Wire(Protocol):
    """The registers of one gripper; every call is bounded and raises `RobotError` when it fails."""

    def open(self) -> None: ...
    def close(self) -> None: ...
    def write(self, request: Request) -> None: ...
    def read(self) -> Status: ...


class ModbusWire:
    """Satisfies `Wire`. ``make`` gives an unconnected synchronous client of pymodbus; ``where`` is for texts."""

    def __init__(self, make: Callable[[], Any], where: str, unit: int = UNIT) -> None:
        self._make = make
        self._where = where
        self._unit = unit
        self._client: Any = None

    def open(self) -> None:
        self._client = self._make()
        if not self._client.connect():
            self.close()
            raise RobotError(f"no Robotiq gripper at {self._where}: are power and cable in, is the address right?")

    def close(self) -> None:
        if self._client is not None:
            self._client.close()
            self._client = None

    def write(self, request: Request) -> None:
        action = request.active | request.go << 3
        values = [action << 8, request.position, request.speed << 8 | request.force]
        self._exchange("write_registers", REQUEST, values)

    def read(self) -> Status:
        first, second, third = self._exchange("read_input_registers", STATUS, count=3).registers
        bits = first >> 8
        return Status(bits >> 4 & 3, bits >> 6 & 3, second >> 8 & 15, second & 255, third >> 8)

    def _exchange(self, call: str, *args: object, **options: object) -> Any:
        from pymodbus.exceptions import ModbusException

        if self._client is None:
            raise RobotError(f"the gripper at {self._where} is not connected")
        try:
            answer = getattr(self._client, call)(*args, device_id=self._unit, **options)
        except (ModbusException, OSError) as error:
            raise RobotError(f"the gripper at {self._where} does not answer: {error}") from error
        if answer.isError():
            raise RobotError(f"the gripper at {self._where} refuses: {answer}")
        return answer


def modbus_tcp(host: str, port: int = 502, unit: int = UNIT) -> ModbusWire:
    """A gripper behind a Modbus TCP gateway, or Robotiq's universal controller."""

    def make() -> Any:
        return _pymodbus().ModbusTcpClient(host, port=port, timeout=TIMEOUT, retries=0)

    return ModbusWire(make, f"{host}:{port} (Modbus TCP)", unit)


def modbus_rtu(port: str, unit: int = UNIT, baudrate: int = 115200) -> ModbusWire:
    """A gripper on a serial port of this machine, e.g. ``/dev/ttyUSB0``."""

    def make() -> Any:
        return _pymodbus().ModbusSerialClient(port, baudrate=baudrate, timeout=TIMEOUT, retries=0)

    return ModbusWire(make, f"{port} (Modbus RTU)", unit)


def _pymodbus() -> Any:
    try:
        import pymodbus.client
        import serial  # noqa: F401  only the serial client needs it, but says so in a confusing way
    except ImportError as error:
        raise RobotError(f"the gripper needs a package ({error}): install the extra robotiq") from error
    return pymodbus.client


class UrcapWire:
    """Satisfies `Wire`: the text socket that Robotiq's URCap opens on a UR's controller."""

    def __init__(self, host: str, port: int = 63352) -> None:
        self._address = (host, port)
        self._socket: socket.socket | None = None
        self._rest = b""

    def open(self) -> None:
        try:
            self._socket = socket.create_connection(self._address, TIMEOUT)
        except OSError as error:
            host, port = self._address
            raise RobotError(
                f"no Robotiq gripper at {host}:{port} (URCap socket; {error}): is the URCap installed and running?"
            ) from error
        self._rest = b""

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def write(self, request: Request) -> None:
        where = f"SPE {request.speed} FOR {request.force} POS {request.position}"
        answer = self._ask(f"SET ACT {request.active:d} {where} GTO {request.go:d}")
        if answer != "ack":
            raise RobotError(f'the gripper\'s URCap answers "{answer}" to a request; restart the URCap')

    def read(self) -> Status:
        return Status(*(self._get(name) for name in VARIABLES))

    def _get(self, name: str) -> int:
        answer = self._ask(f"GET {name}")
        found, _, value = answer.partition(" ")
        if found != name or not value.strip().isdecimal():
            raise RobotError(f'the gripper\'s URCap answers "{answer}" when asked for {name}; restart the URCap')
        return int(value)

    def _ask(self, line: str) -> str:
        if self._socket is None:
            raise RobotError("the gripper's URCap is not connected")
        try:
            self._socket.sendall(f"{line}\n".encode())
            return self._line()
        except OSError as error:
            raise RobotError(f"the gripper's URCap does not answer: {error}") from error

    def _line(self) -> str:
        """One answer; an ``ack`` may come without the end of its line."""
        assert self._socket is not None
        while b"\n" not in self._rest and self._rest != b"ack":
            more = self._socket.recv(1024)
            if not more:
                raise ConnectionError("closed by the URCap")
            self._rest += more
        line, _, self._rest = self._rest.partition(b"\n")
        return line.decode("ascii", "replace").strip()
