"""Devices that a test plays: a scripted source, SpaceMice on a bench of sockets, a gamepad at the end of a pipe."""

from __future__ import annotations

import os
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

    def __init__(self, repeats: bool = False) -> None:
        self.repeats = repeats
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


class PipedPad:
    """What evdev's InputDevice is, with its real reading of the kernel's records, but from a pipe."""

    name = "Piped Pad"

    def __init__(self, sticks: tuple[int, ...] = (0, 1, 3, 4), keys: tuple[int, ...] = (0x130, 0x131, 0x136)) -> None:
        self._evdev = pytest.importorskip("evdev", reason="needs the package evdev-binary", exc_type=ImportError)
        self._device = self._evdev.InputDevice.__new__(self._evdev.InputDevice)
        self._device.fd, self._writing = os.pipe()
        os.set_blocking(self.fd, False)
        self._sticks, self._keys = sticks, keys
        self.values: dict[int, int] = {}  # what the kernel would say of an axis
        self.held: list[int] = []

    @property
    def fd(self) -> int:
        return self._device.fd

    def capabilities(self, absinfo: bool) -> dict[int, list[Any]]:
        span = {code: (-1, 1) if code in (0x10, 0x11) else (-32768, 32767) for code in (*self._sticks, 0x10, 0x11)}
        infos = [(code, self._evdev.AbsInfo(0, *limits, 16, 128, 0)) for code, limits in span.items()]
        return {1: list(self._keys), 3: infos}

    def absinfo(self, code: int) -> Any:
        return self._evdev.AbsInfo(self.values.get(code, 0), -32768, 32767, 16, 128, 0)

    def active_keys(self) -> list[int]:
        return self.held

    def read(self) -> Any:
        return self._device.read()

    def send(self, *events: tuple[int, int, int]) -> None:
        """Type, code and value of each, then the mark that ends a packet."""
        for event in (*events, (0, 0, 0)):
            os.write(self._writing, struct.pack("llHHi", 0, 0, *event))

    def unplug(self) -> None:
        os.close(self._device.fd)

    def close(self) -> None:
        os.close(self._device.fd)
        self._device.fd = None
