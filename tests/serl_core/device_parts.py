"""Devices that a test plays: a scripted source, SpaceMice on a bench of sockets, a gamepad at the end of a pipe."""

from __future__ import annotations

import queue
import shutil
import socket
import struct
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from examples.benchmarks.piped_pad import PipedPad
from serl_core.teleop.device import DeviceError
from serl_core.teleop.hidraw import SIX_AXES
from serl_core.teleop.reader import Motion

COMPACT = (0x256F, 0xC635)


def until(condition: Callable[[], bool], seconds: float = 20.0) -> None:
    """Wait for it; a machine may be slow, but not for ever."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it never happened"
        time.sleep(0.002)


def never(condition: Callable[[], bool], seconds: float = 0.3) -> None:
    """It does not happen for so long."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        assert not condition()
        time.sleep(0.002)


def pushed(axis: int = 0, value: float = 1.0) -> Motion:
    twist = np.zeros(6)
    twist[axis] = value
    return Motion(twist)


class ScriptedSource:
    """Satisfies `Source`: says what `say` was given; ``plugged`` is whether it is there."""

    label = "scripted device"
    names: tuple[str, ...] = ("MENU", "FIT")

    def __init__(self, repeats: bool = False, buttons: int = 2) -> None:
        self.repeats = repeats
        self.buttons = buttons
        self.plugged = True
        self.openings = self.closings = 0
        self._said: queue.SimpleQueue[Motion] = queue.SimpleQueue()

    def say(self, motion: Motion) -> None:
        self._said.put(motion)

    def open(self) -> None:
        if not self.plugged:
            raise DeviceError("scripted device is absent: plug it in")
        self.openings += 1

    def close(self) -> None:
        self.closings += 1

    def poll(self, wait: float) -> Motion | None:
        if not self.plugged:
            raise DeviceError("scripted device is gone: plug it in again")
        try:
            return self._said.get(timeout=wait)
        except queue.Empty:
            return None


class Bench:
    """Raw HID devices below ``root``: sysfs as Linux shows it, and a socket in the place of each device."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._peers: dict[Path, socket.socket] = {}
        self.refusal: OSError | None = None  # raised when a device is opened
        (root / "sys/class/hidraw").mkdir(parents=True)

    def plug(
        self,
        port: str,
        ids: tuple[int, int] = COMPACT,
        name: str = "SpaceMouse Compact",
        interface: int = 0,
        six: bool = True,
    ) -> Path:
        """Returns where its device is."""
        number = len(list((self.root / "sys/class/hidraw").iterdir()))
        usb = self.root / f"sys/devices/pci0000:00/0000:00:14.0/usb1/{port}/{port}:1.{interface}"
        device = usb / f"0003:{ids[0]:04X}:{ids[1]:04X}.{number:04X}"
        device.mkdir(parents=True)
        facts = f"DRIVER=hid-generic\nHID_ID=0003:{ids[0]:08X}:{ids[1]:08X}\nHID_NAME=3Dconnexion {name}\nHID_UNIQ=\n"
        (device / "uevent").write_text(facts)
        (device / "report_descriptor").write_bytes((SIX_AXES if six else b"\x05\x01\x09\x06") + b"\xa1\x01")
        entry = self.root / f"sys/class/hidraw/hidraw{number}"
        entry.mkdir()
        (entry / "device").symlink_to(device)
        return self.root / f"dev/hidraw{number}"

    def unplug(self, path: Path) -> None:
        shutil.rmtree((self.root / "sys/class/hidraw" / path.name / "device").resolve())
        self._peers.pop(path).close()

    def replug(self, path: Path, port: str) -> None:
        shutil.rmtree(self.root / "sys/class/hidraw" / path.name)
        self.plug(port)

    def open(self, path: Path) -> int:
        """An `Opener`: like a raw device, a socket of packets keeps reports apart."""
        if self.refusal is not None:
            raise self.refusal
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.setblocking(False)
        self._peers[path] = theirs
        return ours.detach()

    def send(self, path: Path, *reports: bytes) -> None:
        for report in reports:
            self._peers[path].send(report)

    def close(self) -> None:
        for peer in self._peers.values():
            peer.close()


def axes(kind: int, *values: int) -> bytes:
    """A report of axes: its number, then int16, least significant byte first."""
    return struct.pack(f"<B{len(values)}h", kind, *values)


def piped_pad(**how: Any) -> PipedPad:
    """A gamepad at the end of a pipe."""
    pytest.importorskip("evdev", reason="needs the package evdev-binary", exc_type=ImportError)
    return PipedPad(**how)
