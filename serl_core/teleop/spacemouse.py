"""3Dconnexion's SpaceMice: pyspacemouse knows the models and decodes their reports, `hidraw` brings them here.

The library's own way to the device takes one report for each call and loses their length and the reasons of errors;
so its decoder gets the reports from us, all that have come. Models send translation and rotation in one report or in
two, some in the other way than the library's table says (rotations then stay zero): both are accepted.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import select
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from robot_servers.interface import nearest
from serl_core.teleop.device import DeviceError
from serl_core.teleop.hidraw import HidNode, Opener, find_nodes, open_node, open_nodes, read_report
from serl_core.teleop.reader import Motion

PACKAGE = "SpaceMice need the package pyspacemouse: pip install pyspacemouse (or the extra: hardware)"
MAKER = 0x256F  # USB vendor number of 3Dconnexion; older models have Logitech's
TRANSLATION, ROTATION = 1, 2  # numbers of the reports; 3 are the buttons
HALF = 6  # bytes of three axes
BUTTON_REPORT = 16  # bytes: the library looks at some that short reports do not have
GRIPPER_BUTTONS = (("LEFT", "RIGHT"), ("BTN_1", "BTN_2"))  # which two close and open, the first pair that a model has
AXES = ("x", "y", "z", "roll", "pitch", "yaw")


class SpaceMouse:
    """Satisfies `Source`. ``port`` is that of `HidNode`; empty if there is only one.

    ``buttons``: names of those that close and open the gripper, empty for the model's first two, and of the clutch, if
    there is to be one. ``root`` and
    ``opener`` lead to the devices.
    """

    repeats = True  # some 60–125 reports a second while the cap is away from its rest, then one of zeros

    def __init__(
        self,
        port: str = "",
        buttons: tuple[str, ...] = ("", ""),
        root: Path = Path("/"),
        opener: Opener = open_node,
    ) -> None:
        self.label = f"SpaceMouse at port {port}" if port else "SpaceMouse"
        self.buttons = len(buttons)
        self.names: tuple[str, ...] = ()
        self._port, self._roles = port, buttons
        self._root, self._opener = root, opener
        self._descriptors: list[int] = []
        self._decoder: Decoder | None = None

    def open(self) -> None:
        library = load()
        nodes = choose(library, find_nodes(self._root), self._port)
        info = info_of(library, nodes[0])
        assert info is not None  # chosen for being known
        self._decoder = Decoder(library, info, self._roles)
        self.names = info.button_names
        self._descriptors = open_nodes(nodes, self._opener)
        self.label = f"{info.name} at port {nodes[0].port}"

    def close(self) -> None:
        for descriptor in self._descriptors:
            with contextlib.suppress(OSError):
                os.close(descriptor)
        self._descriptors = []

    def poll(self, wait: float) -> Motion | None:
        if self._decoder is None or not self._descriptors:
            raise DeviceError(f"{self.label} is not open")
        motion = None
        try:
            ready, _, _ = select.select(self._descriptors, [], [], wait)
            for descriptor in ready:
                while report := read_report(descriptor):
                    motion = self._decoder.feed(report)
        except OSError as error:
            raise DeviceError(f"{self.label} is gone ({error}): plug it in again, or charge it") from error
        return motion


class Decoder:
    """From reports to motions: pyspacemouse, with what it needs around it. ``info`` is an entry of its table."""

    def __init__(self, library: Any, info: Any, buttons: tuple[str, ...]) -> None:
        info = library.apply_axis_convention(info, library.AxisConvention.ROS)  # x forward, y left, z up
        self._pending = _Pending()
        self._mouse = library.SpaceMouseDevice(info, device=self._pending)
        self._names: tuple[str, ...] = info.button_names
        self._roles = roles(info.name, self._names, buttons)
        self._together = all(axis.channel == TRANSLATION for axis in info.mappings.values())
        self._halves = {TRANSLATION: bytes(HALF), ROTATION: bytes(HALF)}

    def feed(self, report: bytes) -> Motion:
        """What the hand does after this report."""
        state = None
        for part in self._as_expected(report):
            self._pending.report = part
            state = self._mouse.read()
        state = state or self._mouse.read()
        twist = np.clip(np.array([getattr(state, axis) for axis in AXES]), -1.0, 1.0)
        pressed = tuple(name for name, down in zip(self._names, state.buttons, strict=True) if down)
        return Motion(twist, tuple(name in pressed for name in self._roles), pressed)

    def _as_expected(self, report: bytes) -> Sequence[bytes]:
        """The same report as one or two of the shape that the library expects of this model."""
        kind, rest = report[0], report[1:]
        if kind not in self._halves:
            return [report.ljust(BUTTON_REPORT, b"\0")]
        if len(rest) < HALF:
            return []
        if kind == TRANSLATION and len(rest) >= 2 * HALF:
            self._halves = {TRANSLATION: rest[:HALF], ROTATION: rest[HALF : 2 * HALF]}
        else:
            self._halves[kind] = rest[:HALF]
        if self._together:
            return [bytes((TRANSLATION,)) + self._halves[TRANSLATION] + self._halves[ROTATION]]
        return [bytes((half,)) + data for half, data in self._halves.items()]


class _Pending:
    """Stands where the library has a HID device: hands on one report, once."""

    def __init__(self) -> None:
        self.report = b""

    def read(self, size: int) -> bytes:
        """All of it: ``size`` is that of the axes' reports, buttons may need more."""
        report, self.report = self.report, b""
        return report


def roles(model: str, names: Sequence[str], wanted: tuple[str, ...]) -> tuple[str, ...]:
    """Which buttons close, open and, if one is wanted, clutch; the clutch does neither unless that is asked for, too.

    Raises `DeviceError` for one that the model lacks.
    """
    for name in filter(None, wanted):
        if name not in names:
            raise DeviceError(f'{model} has no button "{name}"{nearest(name, names)}')
    usual = next((pair for pair in GRIPPER_BUTTONS if set(pair) <= set(names)), (*names[:2], "", "")[:2])
    free = ["" if name in wanted[2:] else name for name in usual]
    return wanted[0] or free[0], wanted[1] or free[1], *wanted[2:]


def load() -> Any:
    """The module pyspacemouse. Raises `DeviceError` naming what is to be installed."""
    try:
        return importlib.import_module("pyspacemouse")
    except ImportError as error:
        raise DeviceError(PACKAGE) from error


def info_of(library: Any, node: HidNode) -> Any | None:
    """The entry of the library's table for a device, None if it does not know the model."""
    known = library.get_device_specs().values()
    return next((info for info in known if info.hid_id == (node.vendor, node.product)), None)


def mice_of(library: Any, nodes: Iterable[HidNode]) -> dict[str, list[HidNode]]:
    """The interfaces of each connected model that the library knows, by port.

    Receivers and some models have several interfaces, of which those that say so carry the six axes.
    """
    mice: dict[str, list[HidNode]] = {}
    for node in nodes:
        if info_of(library, node) is not None:
            mice.setdefault(node.port, []).append(node)
    return {port: [node for node in found if node.six_axes] or found for port, found in mice.items()}


def choose(library: Any, nodes: Sequence[HidNode], port: str) -> list[HidNode]:
    """The interfaces of the one that is meant. Raises `DeviceError` if there is none, or if it is not said which."""
    mice = mice_of(library, nodes)
    if port in mice:
        return mice[port]
    if len(mice) == 1 and not port:
        return next(iter(mice.values()))
    raise DeviceError(_missing(library, mice, nodes, port))


def _missing(library: Any, mice: Mapping[str, list[HidNode]], nodes: Sequence[HidNode], port: str) -> str:
    listed = ", ".join(str(found[0]) for found in mice.values())
    if mice and not port:
        return (
            f"several SpaceMice are connected: {listed}; say which: spacemouse:port={next(iter(mice))}, "
            "or for two arms spacemouse:left=PORT,right=PORT, or spacemouse:ask to move the left one when asked"
        )
    for node in nodes:
        if node.port == port if port else node.six_axes or node.vendor == MAKER:
            known = ", ".join(library.get_device_specs())
            return f"{node} is no SpaceMouse that pyspacemouse knows; it knows: {known}"
    if port:
        return f"no SpaceMouse at port {port}; connected: {listed or 'none'}"
    return "no SpaceMouse is connected: plug it in, or its receiver (lsusb should show 3Dconnexion)"
