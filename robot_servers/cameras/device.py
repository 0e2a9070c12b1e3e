"""What a camera's driver writes: one device that opens, closes, and hands out pictures one by one."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from robot_servers.interface import Image, RobotError

WINDOW = 300  # frames over which the shortest delay is taken: at 30 Hz and 50 ppm the clocks drift apart by 0.5 ms
RESET = 1.0  # s by which a device's clock may jump back before it counts as started anew


class NoPicture(RobotError):
    """No picture came in the time allowed; the device may still be alive."""


class CameraLost(RobotError):
    """The device is gone, or does not do what was asked; it has to be opened again."""


@dataclass(frozen=True)
class Shot:
    """One picture as the device delivers it.

    ``image`` (H, W, 3) uint8 RGB; ``number`` the device's own count; ``stamp`` s of the device's own clock at the
    capture, None if it has none; ``depth`` (H, W) uint16 mm, aligned to the image.
    """

    image: Image
    number: int
    stamp: float | None = None
    depth: npt.NDArray[np.uint16] | None = None


class Camera(Protocol):
    """One device. All calls come from one thread; constructors open nothing.

    ``label`` names it in messages, e.g. "realsense 123456"; ``latency`` s is what passes between the middle of
    the exposure and the earliest moment that `read` can return; ``fps`` is the rate asked of it, 0 if unknown;
    ``noisy`` says that two pictures are never the same in every byte, as with every sensor that is read raw.
    """

    label: str
    latency: float
    fps: float
    noisy: bool

    def open(self) -> None:
        """Raises `RobotError` saying what is connected instead, or what to do. May be called again after `close`."""
        ...

    def close(self) -> None:
        """Also after a failed `open` and after the device is gone; must not raise."""
        ...

    def read(self, wait: float) -> Shot:
        """The next picture. Raises `NoPicture` after about ``wait`` s and `CameraLost` if the device is gone."""
        ...


class ClockMap:
    """From a device's clock to the server's: the shortest delay seen lately is the latency, the rest is jitter.

    Between capture and arrival a picture takes at least ``latency`` s, often more when the computer is busy. So
    the smallest difference of arrival and stamp in the last `WINDOW` frames is the offset of the clocks plus
    the latency. Without a stamp the capture is the arrival minus the latency.
    """

    def __init__(self, latency: float) -> None:
        self._latency = latency
        self._delays: deque[float] = deque(maxlen=WINDOW)

    def capture(self, stamp: float | None, arrival: float) -> float:
        """Time of the capture in s of the server's clock, never after ``arrival`` minus the latency."""
        if stamp is None:
            return arrival - self._latency
        delay = arrival - stamp
        if self._delays and delay - min(self._delays) > RESET:
            self._delays.clear()
        self._delays.append(delay)
        return stamp + min(self._delays) - self._latency
