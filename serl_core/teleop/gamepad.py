"""Gamepads, through the kernel's evdev: no display and no other library between, and the same layout for all models.

The left shoulder button is the dead man's grip: while it is not held nothing moves, and the gripper neither.
It is also the clutch: as long as it is held, the arm is the person's, also with the sticks at rest.
Codes and their places on the pad: https://docs.kernel.org/input/gamepad.html. A stick that is held still sends nothing,
and a pad that is lost takes its device along; but a wireless one that is out of range may just fall silent and keep its
last push and grip. So a push without any change for `serl_core.teleop.reader.FROZEN` s counts as lost: hands tremble,
end stops and the directional pad do not, and can be held for no longer.
"""

from __future__ import annotations

import contextlib
import importlib
import re
import select
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from serl_core.teleop.device import TWIST, DeviceError
from serl_core.teleop.reader import Motion
from serl_core.teleop.udev import advice, input_rule

PACKAGE = "gamepads need the package evdev: pip install evdev-binary (or the extra: hardware)"
EV_SYN, EV_KEY, EV_ABS, SYN_DROPPED = 0, 1, 3, 3
CLOSE, OPEN, GRIP = 0x130, 0x131, 0x136  # BTN_SOUTH, BTN_EAST, BTN_TL
BUTTONS: Mapping[int, str] = {
    **{CLOSE: "A", OPEN: "B", 0x133: "X", 0x134: "Y", GRIP: "LB", 0x137: "RB", 0x138: "LT", 0x139: "RT"},
    **{0x13A: "SELECT", 0x13B: "START", 0x13C: "MODE", 0x13D: "L3", 0x13E: "R3"},
}
AXES: Mapping[int, tuple[int, float]] = {  # code → axis of the twist in the frame of the hand, and its sign
    **{0x01: (0, -1.0), 0x00: (1, -1.0)},  # ABS_Y, ABS_X: left stick
    **{0x04: (2, -1.0), 0x03: (5, -1.0)},  # ABS_RY, ABS_RX: right stick
    **{0x10: (3, 1.0), 0x11: (4, -1.0)},  # ABS_HAT0X, ABS_HAT0Y: directional pad
}
NEEDED = {0x00, 0x01, 0x03, 0x04}
LEGEND = (
    "hold the left shoulder button, then: left stick forward, back, left, right · right stick up, down, turn left, "
    "right · directional pad tilt · A (below) close, B (right) open the gripper"
)
Opener: TypeAlias = Callable[[str], Any]  # path → evdev.InputDevice


@dataclass(frozen=True)
class Pad:
    """An input device as sysfs shows it, also to those who must not open it."""

    path: str
    name: str
    vendor: int
    product: int

    def __str__(self) -> str:
        return f"{self.name} ({self.vendor:04x}:{self.product:04x}) at {self.path}"


def find_pads(root: Path = Path("/")) -> list[Pad]:
    """The gamepads that are connected: what has the buttons of one."""
    events = (root / "sys/class/input").glob("event*")
    found = (_pad(event / "device") for event in sorted(events, key=lambda event: int(event.name[5:])))
    return [pad for pad in found if pad is not None]


def _pad(device: Path) -> Pad | None:
    try:
        words = (device / "capabilities/key").read_text().split()
        vendor, product = (int((device / "id" / part).read_text(), 16) for part in ("vendor", "product"))
        name = (device / "name").read_text().strip()
    except (OSError, ValueError):
        return None
    keys = 0
    for word in words:  # the longest first, 64 bits each
        keys = keys << 64 | int(word, 16)
    return Pad(f"/dev/input/{device.parent.name}", name, vendor, product) if keys >> CLOSE & 1 else None


class Gamepad:
    """Satisfies `Source`. ``path`` of its device, e.g. below /dev/input/by-id; empty if there is only one gamepad."""

    buttons = 3
    repeats = False

    def __init__(self, path: str = "", root: Path = Path("/"), opener: Opener | None = None) -> None:
        self.label = f"gamepad at {path}" if path else "gamepad"
        self._path, self._root, self._opener = path, root, opener
        self.names: tuple[str, ...] = ()
        self._pad: Any = None
        self._begun = False
        self._decoder: Decoder | None = None

    def open(self) -> None:
        opener = self._opener or load().InputDevice
        path = self._path or only(find_pads(self._root)).path
        try:
            self._pad = opener(path)
            self._decoder = Decoder(self._pad.capabilities(absinfo=True), f"{self._pad.name} at {path}")
            self._decoder.synchronise(self._pad)
        except OSError as error:
            self.close()
            raise DeviceError(_remedy(error, path, find_pads(self._root))) from error
        except DeviceError:
            self.close()
            raise
        self.names = self._decoder.names
        self._begun = True  # what is held already is told by the first poll, no event will
        self.label = f"{self._pad.name} at {path}"

    def close(self) -> None:
        if self._pad is not None:
            with contextlib.suppress(OSError):
                self._pad.close()
        self._pad = None

    def poll(self, wait: float) -> Motion | None:
        if self._pad is None or self._decoder is None:
            raise DeviceError(f"{self.label} is not open")
        try:
            ready, _, _ = select.select([self._pad.fd], [], [], 0.0 if self._begun else wait)
            if not ready and not self._begun:
                return None
            self._begun = False
            for event in self._pad.read() if ready else ():
                if self._decoder.feed(event.type, event.code, event.value):
                    self._decoder.synchronise(self._pad)
        except BlockingIOError:
            return None
        except OSError as error:
            raise DeviceError(f"{self.label} is gone ({error.strerror}): plug it in again, or charge it") from error
        return self._decoder.motion()


class Decoder:
    """From events to motions. ``capabilities`` as evdev gives them; raises `DeviceError` for what is no gamepad."""

    def __init__(self, capabilities: Mapping[int, Any], label: str) -> None:
        self._ranges = {code: (info.min, info.max) for code, info in capabilities.get(EV_ABS, ()) if code in AXES}
        if not self._ranges.keys() >= NEEDED or not {CLOSE, OPEN, GRIP} <= set(capabilities.get(EV_KEY, ())):
            raise DeviceError(
                f"{label} has not the two sticks and the buttons of a gamepad: switch it to its mode X (XInput), "
                "or use another one"
            )
        self.names = tuple(_name(code) for code in sorted(capabilities[EV_KEY]))
        self._values = dict.fromkeys(self._ranges, 0.0)
        self._down: set[int] = set()

    def synchronise(self, pad: Any) -> None:
        """Ask the kernel for everything: at the beginning, and after events were lost."""
        for code in self._ranges:
            self.feed(EV_ABS, code, pad.absinfo(code).value)
        self._down = set(pad.active_keys())

    def feed(self, kind: int, code: int, value: int) -> bool:
        """Take one event; true if it says that others were lost."""
        if kind == EV_ABS and code in self._ranges:
            low, high = self._ranges[code]
            self._values[code] = 2.0 * (value - low) / (high - low) - 1.0 if high > low else 0.0
        elif kind == EV_KEY:
            (self._down.add if value else self._down.discard)(code)
        return kind == EV_SYN and code == SYN_DROPPED

    def motion(self) -> Motion:
        """What the hand does now: nothing without the grip."""
        pressed = tuple(_name(code) for code in sorted(self._down))
        if GRIP not in self._down:
            return Motion(buttons=(False, False, False), pressed=pressed)
        twist = np.zeros(TWIST)
        for code, value in self._values.items():
            axis, sign = AXES[code]
            twist[axis] = sign * value
        return Motion(np.clip(twist, -1.0, 1.0), (CLOSE in self._down, OPEN in self._down, True), pressed)


def _name(code: int) -> str:
    return BUTTONS.get(code, f"{code:#x}")


def load() -> Any:
    """The module evdev. Raises `DeviceError` naming what is to be installed."""
    try:
        return importlib.import_module("evdev")
    except ImportError as error:
        raise DeviceError(PACKAGE) from error


def only(pads: list[Pad]) -> Pad:
    """The gamepad if there is one. Raises `DeviceError` that says what to do if there are none or several."""
    if not pads:
        raise DeviceError(
            "no gamepad is connected: plug it in or pair it, and choose its mode X (XInput) if it has a switch"
        )
    if len(pads) > 1:
        listed = ", ".join(map(str, pads))
        raise DeviceError(f"several gamepads are connected: {listed}; say which: gamepad:{pads[0].path}")
    return pads[0]


def _remedy(error: OSError, path: str, pads: list[Pad]) -> str:
    if isinstance(error, PermissionError):
        known = next((pad for pad in pads if pad.path == str(Path(path).resolve())), None)
        rule = input_rule(known.vendor, known.product) if known else 'SUBSYSTEM=="input", TAG+="uaccess"'
        return f"no permission for {known or path}: {advice(rule)}"
    if isinstance(error, FileNotFoundError):
        return f"{path} does not exist; connected gamepads: {', '.join(map(str, pads)) or 'none'}"
    if re.fullmatch(r"/dev/input/js\d+", path):
        return f"{path} is the old joystick interface: use its event device ({', '.join(map(str, pads))})"
    return f"{path} cannot be used as a gamepad ({error.strerror}): `serl teleop list` shows what is connected"
