"""From a device's name on a command line to a device that can be read: the one place that knows all of them."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Sequence

from robot_servers.interface import RobotState
from serl_core.teleop.device import Device
from serl_core.teleop.keyboard_terminal import TerminalKeyboard
from serl_core.teleop.reader import Reader, Source
from serl_core.teleop.shaped import ShapedDevice
from serl_core.teleop.spec import DeviceSpec, parse_spec

States = Sequence[Callable[[], RobotState]]


@contextlib.contextmanager
def open_device(spec: str, arms: int = 1, states: States = ()) -> Iterator[Device]:
    """The device that ``spec`` names (`serl_core.teleop.spec`), open until the end of the block.

    ``arms``: how many it leads; its readings are as long as `Reading` says. ``states``: where each arm is, needed by
    ``frame=base``. Raises `ConfigError` for a spec that cannot be meant and `DeviceError` for a device that cannot
    be used now, each in one line.
    """
    asked = parse_spec(spec, arms)
    with Reader(source_of(asked)) as reader:
        yield ShapedDevice(reader, asked.shape, states[0] if states else None)


def source_of(spec: DeviceSpec) -> Source:
    """The device behind a spec for one hand."""
    return TerminalKeyboard()


def has_display() -> bool:
    """Whether there is an X display whose keys other programs may watch; Wayland's they may not."""
    return bool(os.environ.get("DISPLAY")) and os.environ.get("XDG_SESSION_TYPE") != "wayland"
