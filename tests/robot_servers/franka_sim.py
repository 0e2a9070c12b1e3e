"""An emulated Franka arm for tests, and a thread's worth of its driver's cycles."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from robot_servers.drivers.franka import FrankaDriver
from robot_servers.drivers.franka_model import FRANKA_HAND
from robot_servers.grippers.franka_hand import FrankaHand
from robot_servers.interface import Gripper, Limits
from serl_core.franka_sim.launch import FCI_PORT, emulated_franka, environment, free_host
from serl_core.processes import Child, ChildFailed

LIMITS = Limits((0.2, -0.4, 0.02), (0.8, 0.4, 0.8))
PATIENCE = 20.0  # s; everything here takes less than 3 on an idle machine


@contextlib.contextmanager
def emulated(folder: Path) -> Iterator[tuple[str, Child]]:
    """`emulated_franka`, or a skip that says what is not installed. An emulator that does not start is a failure."""
    pytest.importorskip("franky", reason="the package franky-control is not installed")
    try:
        environment()
    except ChildFailed as error:
        pytest.skip(f"the emulated arm needs the package franka-sim from PyPI: {error}")
    with emulated_franka(folder / "franka-sim.log") as arm:
        yield arm


def driver(host: str, gripper: Gripper | None = None) -> FrankaDriver:
    """A driver of the emulated arm, not connected."""
    return FrankaDriver(host, gripper or FrankaHand(host), LIMITS, FRANKA_HAND, realtime=False)


def cycle_until(arm: FrankaDriver, done: Callable[[], bool], each: Callable[[], object] = lambda: None) -> bool:
    """Run cycles at the driver's rate, ``each`` before every one, until ``done()``; False if that takes too long."""
    begun = due = time.monotonic()
    while time.monotonic() - begun < PATIENCE:
        each()
        arm.cycle()
        if done():
            return True
        due = max(due + 1.0 / arm.cycle_hz, time.monotonic())
        time.sleep(max(0.0, due - time.monotonic()))
    return False


def cycle_for(arm: FrankaDriver, seconds: float, each: Callable[[], object] = lambda: None) -> None:
    """Run cycles for so long."""
    end = time.monotonic() + seconds
    assert cycle_until(arm, lambda: time.monotonic() >= end, each)


@contextlib.contextmanager
def fci(answer: Callable[[socket.socket], None]) -> Iterator[str]:
    """The address of somebody who listens on the FCI's port and gives one ``answer``."""
    host = free_host()
    with socket.create_server((host, FCI_PORT)) as server:
        thread = threading.Thread(target=lambda: answer(server.accept()[0]), daemon=True)
        thread.start()
        yield host


def old_firmware(client: socket.socket) -> None:
    """What a Panda answers to a libfranka that is too new: header, status "incompatible", version 5 of the FCI."""
    command, number, _ = struct.unpack("<III", client.recv(12))
    client.sendall(struct.pack("<IIIBH", command, number, 15, 1, 5))


def silence(client: socket.socket) -> None:
    """Never answers."""
    client.recv(1024)
    time.sleep(PATIENCE)
