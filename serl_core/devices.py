"""``serl teleop``: try an input device before an arm follows it, and see what is connected."""

from __future__ import annotations

import os
import sys
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import tyro
from rich.live import Live
from rich.text import Text

from robot_servers.interface import Array
from serl_core.config import ConfigError
from serl_core.summary import check_writable, write_json
from serl_core.teleop.build import LEGENDS, has_display, open_readers
from serl_core.teleop.device import TWIST, DeviceError, Reading
from serl_core.teleop.gamepad import find_pads
from serl_core.teleop.hidraw import find_nodes
from serl_core.teleop.reader import Reader, Vitals
from serl_core.teleop.shaped import apply_deadband
from serl_core.teleop.spacemouse import MAKER, info_of, load
from serl_core.teleop.spec import HELP, DeviceSpec, parse_spec
from serl_core.teleop.udev import advice, hidraw_rule, input_rule

HZ = 20.0  # of the display
ROLES = ("CLOSE", "OPEN", "CLUTCH")  # of the buttons, as many as a device has
BAR = 24  # characters from one end stop to the other
AXES = (
    "x: back, forward",
    "y: right, left",
    "z: down, up",
    "roll: left, right",
    "pitch: back, forward",
    "yaw: right, left",
)


@dataclass(frozen=True)
class Config:
    """Show what a device says, live; or list the devices that are connected. No arm moves by it."""

    action: Annotated[Literal["test", "list"], tyro.conf.Positional]  # what to do
    device: Annotated[str, tyro.conf.Positional, tyro.conf.arg(help=HELP)] = ""
    arms: int = 1  # how many it is to lead
    seconds: float | None = None  # ends after so long; without, by Ctrl-C
    json: Path | None = None  # also write what was seen here


@dataclass
class Seen:
    """What one device did: ``low`` and ``high`` (6,) of its twist in the frame of the hand, and the rest."""

    device: str
    low: list[float] = field(default_factory=lambda: [0.0] * TWIST)
    high: list[float] = field(default_factory=lambda: [0.0] * TWIST)
    pressed: list[str] = field(default_factory=list)
    reports_hz: float = 0.0  # the highest rate of a second
    polls_hz: float = 0.0
    oldest: float = 0.0  # s, the greatest age of a reading
    losses: int = 0
    lost: bool = False  # as of now

    def add(self, reading: Reading, twist: Array, vitals: Vitals) -> None:
        """One look at it."""
        self.low = np.minimum(self.low, twist).tolist()
        self.high = np.maximum(self.high, twist).tolist()
        self.pressed += [name for name in reading.pressed if name not in self.pressed]
        self.reports_hz, self.polls_hz = max(self.reports_hz, vitals.reports), max(self.polls_hz, vitals.polls)
        self.oldest = max(self.oldest, reading.age)
        self.losses += not reading.connected and not self.lost
        self.lost = not reading.connected

    def summary(self) -> str:
        """In one line."""
        still = [name.split(":")[0] for name, low, high in zip(AXES, self.low, self.high, strict=True) if high == low]
        moved = f"never moved: {', '.join(still)}" if still else "all six axes moved"
        buttons = f"buttons seen: {', '.join(self.pressed) or 'none'}"
        losses = f"; lost {self.losses} times" if self.losses else ""
        return f"{self.device}: {moved}; {buttons}; {self.reports_hz:.0f} reports/s{losses}"


def main(config: Config) -> int:
    """Do what was asked."""
    if config.action == "list":
        print("\n".join(connected()))
        return 0
    if not config.device:
        raise ConfigError("teleop test needs a device: spacemouse, keyboard or gamepad; see `serl teleop list`")
    spec = parse_spec(config.device, config.arms)
    if config.json:
        check_writable(config.json)
    print(LEGENDS.get(spec.kind, "push, pull, tilt and turn the cap"))
    found = test(spec, config.seconds)
    for seen in found:
        print(seen.summary())
    if config.json:
        write_json(config.json, [asdict(seen) for seen in found])
    return 0


# ── test ──


def test(spec: DeviceSpec, seconds: float | None) -> list[Seen]:
    """Show the devices of ``spec`` for so long, or until Ctrl-C. Raises `DeviceError` if they cannot be used."""
    with open_readers(spec) as readers, Live(auto_refresh=False) as live:
        found = [Seen(reader.label) for reader in readers]
        end = np.inf if seconds is None else time.monotonic() + seconds
        try:
            while time.monotonic() < end:
                shown = [look(spec, *pair) for pair in zip(readers, found, strict=True)]
                live.update(Text("\n".join(shown)), refresh=True)
                time.sleep(1.0 / HZ)
        except KeyboardInterrupt:
            pass  # that is how it ends
        return found


def look(spec: DeviceSpec, reader: Reader, seen: Seen) -> str:
    """What a device says now, as text; ``seen`` remembers it."""
    reading, vitals = reader.read(), reader.vitals()
    twist = np.clip(spec.shape.gain * apply_deadband(reading.twist, spec.shape.deadband), -1.0, 1.0)
    seen.add(reading, twist, vitals)
    state = vitals.trouble or f"{vitals.reports:.0f} reports/s, age {1000 * reading.age:.0f} ms"
    roles = " ".join(name for name, down in zip(ROLES, reading.buttons, strict=False) if down)
    lines = [f"  {name:<21} {bar(value)} {value:+.2f}" for name, value in zip(AXES, twist, strict=True)]
    return "\n".join([f"{reader.label}: {state}", *lines, f"  buttons: {' '.join(reading.pressed)}  {roles}"])


def bar(value: float) -> str:
    """A value in [−1, 1] as a bar from the middle."""
    half = BAR // 2
    length = round(abs(value) * half)
    left, right = ("", "█" * length) if value >= 0 else ("█" * length, "")
    return f"│{left:>{half}}┼{right:<{half}}│"


# ── list ──


def connected() -> list[str]:
    """A line for each device: what it is, how to ask for it, or what keeps it from being used."""
    return [*_mice(), *_pads(), *_keyboards()]


def _mice() -> list[str]:
    try:
        library, nodes = load(), find_nodes()
    except DeviceError as error:
        return [str(error)]
    lines = []
    for node in nodes:
        if info_of(library, node) is not None:
            rule = hidraw_rule(node.vendor, node.product)
            lines.append(_line(str(node), str(node.path), f"spacemouse:port={node.port}", rule))
        elif node.vendor == MAKER or node.six_axes:
            lines.append(f"{node}: a model that pyspacemouse does not know")
    return list(dict.fromkeys(lines)) or ["no SpaceMouse is connected"]


def _pads() -> list[str]:
    lines = [
        _line(str(pad), pad.path, f"gamepad:{pad.path}", input_rule(pad.vendor, pad.product)) for pad in find_pads()
    ]
    return lines or ["no gamepad is connected"]


def _keyboards() -> list[str]:
    display = f"keyboard:display (of {os.environ['DISPLAY']})" if has_display() else "no X display"
    terminal = "keyboard:terminal" if sys.stdin.isatty() else "no terminal at the standard input"
    return [f"keys: {display}; {terminal}"]


def _line(what: str, path: str, spec: str, rule: str) -> str:
    return f"{what}: {spec}" if os.access(path, os.R_OK) else f"{what}: no permission for {path}: {advice(rule)}"
