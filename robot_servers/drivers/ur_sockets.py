"""What is said to a UR's controller without ur_rtde: a first handshake, and lines to its dashboard server."""

from __future__ import annotations

import importlib
import socket
import struct
from types import ModuleType

from robot_servers.interface import RobotError

RTDE_PORT, DASHBOARD_PORT = 30004, 29999
TIMEOUT = 2.0  # s for one answer of the robot's controller


def library(name: str) -> ModuleType:
    """A module of ur_rtde. Raises `RobotError` naming the extra where it is not installed."""
    try:
        return importlib.import_module(name)
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
