"""Linux's raw HID devices: which there are, at which USB port, and their reports, each with its true length.

https://docs.kernel.org/hid/hidraw.html. Found through sysfs, which everybody may read; so a device that must not be
opened can still be named, with the rule that opens it. Identical devices share their serial number, but not the port.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from serl_core.teleop.device import DeviceError
from serl_core.teleop.udev import advice, hidraw_rule

Opener: TypeAlias = Callable[[Path], int]  # opens a device for reading without waiting: its file descriptor

SIX_AXES = bytes((0x05, 0x01, 0x09, 0x08))  # how a report descriptor begins: desktop controls, multi-axis controller
PORT = re.compile(r"\d+-\d+(\.\d+)*")  # bus, then the hubs' ports on the way, as sysfs and lsusb -t name them
REPORT = 64  # bytes of the longest report


@dataclass(frozen=True)
class HidNode:
    """One interface of a HID device. ``port`` is that of USB, or the address of a Bluetooth device."""

    path: Path
    vendor: int
    product: int
    name: str
    port: str
    six_axes: bool

    def __str__(self) -> str:
        return f"{self.name} ({self.vendor:04x}:{self.product:04x}) at port {self.port}"


def find_nodes(root: Path = Path("/")) -> list[HidNode]:
    """All raw HID devices below ``root``, in the order of their ports. Raises `DeviceError` where there is no sysfs."""
    folder = root / "sys/class/hidraw"
    if not (root / "sys/class").is_dir():
        raise DeviceError("SpaceMice are read through Linux's /dev/hidraw, which this computer does not have")
    found = (_node(entry, root) for entry in sorted(folder.iterdir())) if folder.is_dir() else ()
    return sorted((node for node in found if node is not None), key=lambda node: (node.port, node.path))


def _node(entry: Path, root: Path) -> HidNode | None:
    """None for a device that is gone by now, or that is none of USB and Bluetooth."""
    try:
        device = (entry / "device").resolve(strict=True)
        facts = dict(line.split("=", 1) for line in (device / "uevent").read_text().splitlines() if "=" in line)
        _, vendor, product = (int(part, 16) for part in facts["HID_ID"].split(":"))
    except (OSError, KeyError, ValueError):
        return None
    ports = [part for part in device.parts if PORT.fullmatch(part)]
    port = ports[-1] if ports else facts.get("HID_UNIQ", "") or facts.get("HID_PHYS", "")
    return HidNode(root / "dev" / entry.name, vendor, product, facts.get("HID_NAME", "?"), port, _is_multi_axis(device))


def _is_multi_axis(device: Path) -> bool:
    try:
        return (device / "report_descriptor").read_bytes().startswith(SIX_AXES)
    except OSError:
        return False


def open_node(path: Path) -> int:
    """The opener of real devices."""
    return os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)


def open_nodes(nodes: list[HidNode], opener: Opener = open_node) -> list[int]:
    """All of them or none. Raises `DeviceError` that says why, and what would help."""
    opened: list[int] = []
    try:
        opened.extend(opener(node.path) for node in nodes)
    except OSError as error:
        for descriptor in opened:
            os.close(descriptor)
        raise DeviceError(f"{nodes[len(opened)]}: {_remedy(error, nodes[len(opened)])}") from error
    return opened


def _remedy(error: OSError, node: HidNode) -> str:
    if isinstance(error, PermissionError):
        return f"no permission for {node.path}: {advice(hidraw_rule(node.vendor, node.product))}"
    if isinstance(error, FileNotFoundError):
        return f"{node.path} is missing: give it to the container (--device {node.path}), or plug the device in again"
    return f"{node.path} cannot be opened ({error.strerror}): plug the device in again"


def read_report(descriptor: int) -> bytes:
    """The next report, empty if there is none yet. Raises OSError when the device is gone."""
    try:
        report = os.read(descriptor, REPORT)
    except BlockingIOError:
        return b""
    if not report:
        raise OSError("end of file")
    return report
