"""Cameras from the command line: ``NAME=KIND:SOURCE[,key=value…]`` becomes a `CameraSpec`.

wrist=realsense:130322270001,crop=160:80:320:320,size=128x128,exposure=8000
front=opencv:/dev/v4l/by-id/usb-…-index0,resolution=640x480,white_balance=4600
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

from robot_servers.cameras.views import Crop, View
from robot_servers.interface import RobotError, nearest

Kind = Literal["realsense", "opencv"]
KINDS: Mapping[str, Kind] = {kind: kind for kind in get_args(Kind)}
DEFAULT_SIZE = (128, 128)  # what the encoders are trained on
MAX_SIDE = 8192  # px
FORM = "NAME=KIND:SOURCE[,key=value…], e.g. wrist=realsense:130322270001,crop=160:80:320:320"


@dataclass(frozen=True)
class CameraSpec:
    """One named camera. What is None is left to the device's driver; see its ``Settings`` for the units.

    Several cameras may name the same device: they share its settings, and differ in ``crop`` and ``size``.
    """

    name: str
    kind: Kind
    source: str  # realsense: the serial number; opencv: an index, a device's path, a file or a URL
    crop: Crop | None = None
    size: tuple[int, int] = DEFAULT_SIZE  # (height, width) of the image that clients see
    resolution: tuple[int, int] | None = None  # (height, width) of the device's picture
    fps: float | None = None
    exposure: float | None = None
    white_balance: float | None = None  # K
    depth: bool | None = None
    latency: float | None = None  # s

    @property
    def device(self) -> tuple[Kind, str]:
        """What must be the same for two cameras to be one device."""
        return self.kind, self.source

    @property
    def view(self) -> View:
        return View(self.name, self.size, self.crop)


def parse_camera(text: str) -> CameraSpec:
    """Raises `RobotError` in one line that says what is wrong, with the nearest known name. A comma in a URL is %2C."""
    name, equals, rest = text.partition("=")
    device, *options = rest.split(",")
    kind, colon, source = device.partition(":")
    if not (equals and colon and source):
        raise RobotError(f'camera "{text}": expected {FORM}')
    if not re.fullmatch(r"[A-Za-z]\w*", name):
        raise RobotError(f'camera "{name}": a name is a letter, then letters, digits and _')
    if kind not in KINDS:
        raise RobotError(f'camera {name}: unknown kind "{kind}"{nearest(kind, KINDS)}')
    return CameraSpec(name, KINDS[kind], source, **_options(name, options))


def parse_cameras(texts: tuple[str, ...]) -> tuple[CameraSpec, ...]:
    """All of a command line. Raises `RobotError` for a name that is used twice."""
    specs = tuple(map(parse_camera, texts))
    names = [spec.name for spec in specs]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise RobotError(f"two cameras are called {', '.join(twice)}: give each its own name")
    return specs


def merge(specs: tuple[CameraSpec, ...]) -> CameraSpec:
    """The settings of one device from all cameras that share it. Raises `RobotError` where they contradict."""
    first = specs[0]
    for key in SHARED:
        given = {spec.name: getattr(spec, key) for spec in specs if getattr(spec, key) is not None}
        if len(set(given.values())) > 1:
            said = ", ".join(f"{name} says {value}" for name, value in given.items())
            raise RobotError(f"{first.kind}:{first.source} is one device and has one {key}: {said}")
        first = replace(first, **{key: next(iter(given.values()), None)})
    return first


def _options(name: str, options: list[str]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for option in options:
        key, _, value = option.partition("=")
        if key not in READERS:
            raise RobotError(f'camera {name}: unknown option "{key}"{nearest(key, READERS)}')
        if key in values:
            raise RobotError(f"camera {name}: {key} is given twice")
        read, form = READERS[key]
        try:
            values[key] = read(value)
        except ValueError:
            raise RobotError(f'camera {name}: {key}="{value}" is not {form}') from None
    return values


def _integers(text: str, separator: str, count: int) -> list[int]:
    if not re.fullmatch(separator.join([r"\d{1,5}"] * count), text):
        raise ValueError(text)
    return [int(part) for part in text.split(separator)]


def _crop(text: str) -> Crop:
    crop = Crop(*_integers(text, ":", 4))
    if not (crop.width and crop.height):
        raise ValueError(text)
    return crop


def _size(text: str) -> tuple[int, int]:
    width, height = _integers(text, "x", 2)
    if not (0 < width <= MAX_SIDE and 0 < height <= MAX_SIDE):
        raise ValueError(text)
    return height, width


def _number(text: str) -> float:
    value = float(text)
    if not (math.isfinite(value) and value >= 0.0):
        raise ValueError(text)
    return value


def _positive(text: str) -> float:
    value = _number(text)
    if not value:
        raise ValueError(text)
    return value


def _automatic(text: str) -> float | None:
    return None if text == "auto" else _number(text)


def _switch(text: str) -> bool:
    if text not in ("on", "off"):
        raise ValueError(text)
    return text == "on"


READERS: Mapping[str, tuple[Callable[[str], Any], str]] = {
    "crop": (_crop, "x:y:width:height in pixels of the device's picture"),
    "size": (_size, f"WIDTHxHEIGHT in pixels, each at most {MAX_SIDE}"),
    "resolution": (_size, f"WIDTHxHEIGHT in pixels, each at most {MAX_SIDE}"),
    "fps": (_positive, "a number of frames per second"),
    "exposure": (_automatic, 'a number in the device\'s own unit, or "auto"'),
    "white_balance": (_automatic, 'a number of kelvins, or "auto"'),
    "depth": (_switch, '"on" or "off"'),
    "latency": (_number, "a number of seconds"),
}
SHARED = ("resolution", "fps", "exposure", "white_balance", "depth", "latency")  # of the device, not of the view
