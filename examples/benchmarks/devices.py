"""How soon a hand's push is a command: ``python -m examples.benchmarks.devices [--json FILE]``.

A SpaceMouse (raw reports on a socket, decoded by pyspacemouse), a gamepad (records of the kernel in a pipe, read by
evdev) and a keyboard (a pseudo terminal) speak at moments that have nothing to do with the loop. Timed from the report:

- read: until `Device.read` returns it, its reader thread included;
- command: until the robot server has accepted the command that it became, through takeover, environment, client and the
  fake robot's server, in a loop that rests for 2 ms. A loop at 10 Hz adds up to 100 ms until it looks.
"""

from __future__ import annotations

import contextlib
import csv
import json
import os
import pty
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import numpy as np
import tyro

from examples.benchmarks.piped_pad import RANGE, PipedPad
from examples.tasks.reach import TASK
from robot_servers.client import RobotClient
from robot_servers.statistics import quantile
from serl_core.envs.robot_env import RobotEnv
from serl_core.envs.takeover import Takeover
from serl_core.processes import Child, children, serl
from serl_core.teleop.device import Device
from serl_core.teleop.gamepad import EV_ABS, EV_KEY, GRIP, Gamepad
from serl_core.teleop.hidraw import SIX_AXES
from serl_core.teleop.keyboard import HOLD
from serl_core.teleop.keyboard_terminal import TerminalKeyboard
from serl_core.teleop.reader import Reader
from serl_core.teleop.shaped import Shape, ShapedDevice
from serl_core.teleop.spacemouse import SpaceMouse

RESULTS = Path(__file__).parent / "results"
FULL = 350  # counts of a SpaceMouse at its end stop
SIDEWAYS = 0x00  # ABS_X, the left stick
PATIENCE = 10.0  # s for one report; more is a failure, not a latency
Look = Callable[[], tuple[np.ndarray, float]]  # the first three axes as they are now, and since when (s, monotonic)


@dataclass(frozen=True)
class Config:
    """How soon a hand's push is a command."""

    reports: int = 1000  # of each device and stage; a third as many keys
    alone: bool = False  # ahead of all other processes (SCHED_FIFO, for root): as on a machine that nobody else uses
    results: Path = RESULTS  # folder of the CSV
    json: Path | None = None  # also write the figures here


class Hand(Protocol):
    """Speaks for a person. ``pause`` s between two pushes at least, which are repeated every ``repeat`` s until seen.

    ``share``: how many of the reports it sends.
    """

    name: str
    pause: float
    repeat: float
    share: float

    def push(self, number: int) -> tuple[int, float]:
        """One push: on which axis of the tool, and how far."""
        ...


class Mouse:
    """A SpaceMouse Compact at USB port 1-1 of a computer below ``root``."""

    name, pause, repeat, share = "spacemouse", 0.003, 0.008, 1.0

    def __init__(self, root: Path) -> None:
        device = root / "sys/devices/usb1/1-1/1-1:1.0/0003:256F:C635.0001"
        device.mkdir(parents=True)
        (device / "uevent").write_text("HID_ID=0003:0000256F:0000C635\nHID_NAME=SpaceMouse Compact\n")
        (device / "report_descriptor").write_bytes(SIX_AXES)
        entry = root / "sys/class/hidraw/hidraw0"
        entry.mkdir(parents=True)
        (entry / "device").symlink_to(device)
        ours, self._end = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.setblocking(False)
        self.source = SpaceMouse(root=root, opener=lambda path: ours.detach())

    def push(self, number: int) -> tuple[int, float]:
        """To and fro, never twice as far."""
        counts = (100 + number % 250) * (-1) ** number
        self._end.send(b"\x01" + counts.to_bytes(2, "little", signed=True) + bytes(4))
        return 1, counts / FULL


class Pad:
    """A gamepad whose grip is held and whose left stick is pushed sideways: it tells of changes only."""

    name, pause, repeat, share = "gamepad", 0.003, 0.008, 1.0

    def __init__(self) -> None:
        self._pad = PipedPad()
        self._pad.send((EV_KEY, GRIP, 1))
        self.source = Gamepad("a pipe", opener=lambda path: self._pad)

    def push(self, number: int) -> tuple[int, float]:
        """To and fro, never twice as far."""
        low, high = RANGE
        value = (10_000 + 80 * (number % 250)) * (-1) ** number
        self._pad.send((EV_ABS, SIDEWAYS, value))
        return 1, 2.0 * (value - low) / (high - low) - 1.0


class Keys:
    """A keyboard at a terminal of its own."""

    name, pause, repeat, share = "keyboard", HOLD * 0.5, 0.03, 0.3  # a key of the same axis comes after three pauses

    def __init__(self) -> None:
        self._end, program = pty.openpty()
        self.source = TerminalKeyboard(descriptor=program)

    def push(self, number: int) -> tuple[int, float]:
        """One axis after the other."""
        os.write(self._end, b"waq"[number % 3 :][:1])
        return number % 3, (1.0, -1.0, -1.0)[number % 3]


class Stamp:
    """A clock that lets no time pass once it is ``free``; ``at``: when the newest command was accepted (monotonic)."""

    period = 1.0 / TASK.control_hz

    def __init__(self) -> None:
        self.at = 0.0
        self.free = False

    def start(self) -> None:
        """Nothing to begin."""

    def tick(self) -> None:
        """Called as soon as a command is accepted."""
        self.at = time.monotonic()
        if not self.free:
            time.sleep(self.period)


def latencies(hand: Hand, count: int, look: Look, rng: np.random.Generator) -> list[float]:
    """Seconds from each push until ``look`` shows it; pushes come from a thread of their own."""
    wanted: list[tuple[int, float, float]] = []  # the push that waits to be seen: axis, value, when it was sent
    pauses = hand.pause * rng.uniform(1.0, 3.0, count)

    def speak() -> None:
        for number in range(count):
            time.sleep(pauses[number])
            sent = time.monotonic()
            wanted.append((*hand.push(number), sent))
            while wanted:
                time.sleep(0.0005)
                if time.monotonic() - sent > hand.repeat:
                    sent = time.monotonic()
                    hand.push(number)

    thread = threading.Thread(target=speak, daemon=True)
    thread.start()
    found: list[float] = []
    while len(found) < count:
        seen, since = look()
        if wanted and abs(seen[wanted[0][0]] - wanted[0][1]) < 1e-3:
            found.append(since - wanted.pop()[2])
        elif wanted and time.monotonic() - wanted[0][2] > PATIENCE:
            raise SystemExit(f"{hand.name}: push {len(found)} was not seen within {PATIENCE:g} s")
    thread.join()
    return found


def by_reading(device: Device, robot: RobotClient) -> Look:
    """Looks as often as other threads let it; the robot rests."""

    def look() -> tuple[np.ndarray, float]:
        time.sleep(0.0002)
        return device.read().twist[:3], time.monotonic()

    return look


def by_stepping(device: Device, robot: RobotClient) -> Look:
    """One step of the environment for each look."""
    clock = Stamp()
    env = Takeover(RobotEnv(robot, replace(TASK, max_steps=10**9), clock, "pixels"), device, TASK)
    rest = np.zeros(TASK.action_dim, np.float32)

    def look() -> tuple[np.ndarray, float]:
        time.sleep(0.002)  # a loop that never rests is served last on a busy computer, unlike one at 10 Hz
        info = env.step(rest)[-1]
        if "abort" in info:
            raise SystemExit(f"the robot refused: {info['abort']}")
        return info["executed"], clock.at

    env.reset(seed=0)
    clock.free = True
    return look


@contextlib.contextmanager
def served() -> Iterator[RobotClient]:
    """The fake robot behind its own server process."""
    with children() as running, tempfile.TemporaryDirectory() as logs:
        running.append(Child("server", serl("server", "fake", "--port", "0"), Path(logs) / "server.log"))
        with RobotClient(running[0].ready(60.0)[0]) as robot:
            robot.tighten(TASK.limits)
            yield robot


def measure(config: Config) -> list[dict[str, float | str]]:
    """One row for each device and stage."""
    rows: list[dict[str, float | str]] = []
    if config.alone:
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(10))  # the server, and threads to come, inherit it
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder, served() as robot:
        for hand in (Mouse(Path(folder)), Pad(), Keys()):
            count = max(3, int(config.reports * hand.share))
            with Reader(hand.source) as reader:
                device = ShapedDevice(reader, Shape())
                for stage, look in (("read", by_reading), ("command", by_stepping)):
                    took = latencies(hand, count, look(device, robot), rng)
                    rows.append({"device": hand.name, "stage": stage, **row(took), "alone": config.alone})
    return rows


def row(seconds: list[float]) -> dict[str, float | str]:
    """The figures of one stage."""
    ms = [1000 * value for value in seconds]
    figures = {"p50_ms": quantile(ms, 0.5), "p99_ms": quantile(ms, 0.99), "max_ms": max(ms)}
    rounded = {name: round(value, 2) for name, value in figures.items()}
    return {"reports": len(ms), **rounded, "cores": os.cpu_count() or 0, "load": round(os.getloadavg()[0], 1)}


def main(config: Config) -> int:
    """Measure, print, and write the CSV."""
    rows = measure(config)
    config.results.mkdir(parents=True, exist_ok=True)
    path = config.results / "devices.csv"
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    print(path.read_text(), end="")
    if config.json:
        config.json.write_text(json.dumps(rows, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Config, prog="python -m examples.benchmarks.devices", description=__doc__)))
