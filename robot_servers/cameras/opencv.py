"""Any camera, file or stream that OpenCV can read. OpenCV is imported only when a camera is opened."""

from __future__ import annotations

import importlib
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from robot_servers.cameras.device import CameraLost, NoPicture, Shot
from robot_servers.interface import RobotError

LATENCY = 0.03  # s from the middle of an exposure to its arrival at 30 Hz, roughly; measure yours with a clock in view
STREAM_TIMEOUT = 3000  # ms to open a network stream, and for each of its pictures
MANUAL, AUTOMATIC = 1.0, 3.0  # V4L2_EXPOSURE_MANUAL and V4L2_EXPOSURE_APERTURE_PRIORITY of linux/v4l2-controls.h


@dataclass(frozen=True)
class Settings:
    """What a camera is asked for. ``size`` (height, width) and ``fps``: None leaves the device's own.

    ``exposure`` in the device's unit (V4L2: 100 µs) and ``white_balance`` K lock them; None leaves them automatic.
    """

    size: tuple[int, int] | None = None
    fps: float | None = None
    exposure: float | None = None
    white_balance: float | None = None


class OpenCVCamera:
    """Satisfies `Camera`. ``source``: an index, a device such as /dev/video0, a file, or a URL.

    A file is played at its own rate and ends in `CameraLost`. Other than a device's raw pictures, those of files
    and streams may be the same twice when nothing moves, so that only missing ones show that they are frozen.
    A device that hangs keeps `read` up to V4L2's own 10 s, whatever ``wait`` says.
    ``capture`` opens a `cv2.VideoCapture`; ``now`` and ``sleep`` pace a file.
    """

    def __init__(
        self,
        source: str,
        settings: Settings | None = None,
        latency: float = LATENCY,
        capture: Callable[[Any, str], Any] | None = None,
        now: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.label = f"opencv {source}"
        self.latency = latency
        self._source = source
        self._settings = settings or Settings()
        self.fps = float(self._settings.fps or 0.0)
        self.noisy = is_device(source)
        self._make = capture or _capture
        self._now, self._sleep = now, sleep
        self._capture: Any = None
        self._cv2: Any = None
        self._count = 0
        self._period = 0.0  # s between the pictures of a file, else 0
        self._due = 0.0

    def open(self) -> None:
        """Raises `RobotError` with the cameras there are, or naming the setting that the device does not have."""
        self._cv2 = load()
        check_source(self._source)
        capture = self._make(self._cv2, self._source)
        if not capture.isOpened():
            raise CameraLost(f"{self.label} cannot be opened: is another program using it, is it a video?")
        self._capture, self._count = capture, 0
        if is_device(self._source):
            self._configure(capture)
        elif not _is_url(self._source):
            self._period = 1.0 / (capture.get(self._cv2.CAP_PROP_FPS) or 30.0)
            self._due = self._now()

    def close(self) -> None:
        if self._capture is not None:
            self._capture.release()
        self._capture = None

    def read(self, wait: float) -> Shot:
        if self._capture is None:
            raise CameraLost(f"{self.label} is not open")
        self._pace(wait)
        came, image = self._capture.read()
        if not came:
            end = "it has ended" if self._period else "it gives no picture: is it unplugged?"
            raise CameraLost(f"{self.label}: {end}")
        self._count += 1
        return Shot(np.ascontiguousarray(image[..., ::-1]), self._count, self._stamp())

    def _stamp(self) -> float | None:
        """A device's own time of capture in s; OpenCV says 0 where there is none. A file has only its schedule."""
        if self._period:
            return None
        return self._capture.get(self._cv2.CAP_PROP_POS_MSEC) / 1000.0 or None

    def _pace(self, wait: float) -> None:
        """Wait until the next picture of a file is due. Raises `NoPicture` if that is later than ``wait`` s."""
        if not self._period:
            return
        left = self._due - self._now()
        self._sleep(max(0.0, min(left, wait)))
        if left > wait:
            raise NoPicture(f"{self.label}: the next picture is not due yet")
        self._due += self._period

    def _configure(self, capture: Any) -> None:
        cv2, settings = self._cv2, self._settings
        if settings.size is not None:
            capture.set(cv2.CAP_PROP_FRAME_HEIGHT, settings.size[0])  # V4L2 takes it together with the width
            self._set(cv2.CAP_PROP_FRAME_WIDTH, settings.size[1], "width")
            self._set(cv2.CAP_PROP_FRAME_HEIGHT, settings.size[0], "height", taken=True)
        if settings.fps is not None:
            self._set(cv2.CAP_PROP_FPS, settings.fps, "fps")
        if settings.exposure is None:  # a device without an automatic keeps what it has
            capture.set(cv2.CAP_PROP_AUTO_EXPOSURE, AUTOMATIC)
        else:
            self._set(cv2.CAP_PROP_AUTO_EXPOSURE, MANUAL, "manual exposure")
            self._set(cv2.CAP_PROP_EXPOSURE, settings.exposure, "exposure")
        if settings.white_balance is None:
            capture.set(cv2.CAP_PROP_AUTO_WB, 1.0)
        else:
            self._set(cv2.CAP_PROP_AUTO_WB, 0.0, "manual white balance")
            self._set(cv2.CAP_PROP_WB_TEMPERATURE, settings.white_balance, "white balance")

    def _set(self, prop: int, value: float, what: str, taken: bool = False) -> None:
        """Set unless ``taken``, and look: a driver may refuse a value, or take another one without a word."""
        taken = taken or self._capture.set(prop, value)
        got = self._capture.get(prop)
        if not taken or abs(got - value) > 0.5:
            raise RobotError(
                f"{self.label} does not take {what} {value:g} (it says {got:g}); v4l2-ctl --list-ctrls and "
                "--list-formats-ext show what it takes"
            )


def load() -> Any:
    """The module cv2. Raises `RobotError` naming the package to install."""
    try:
        return importlib.import_module("cv2")
    except ImportError as error:
        raise RobotError(
            f"these cameras need the package opencv-python-headless (or the extra hardware): {error}"
        ) from error


def is_device(source: str) -> bool:
    """Whether this is a camera at this computer, by index or path; else it is a file or a URL."""
    return source.isdecimal() or source.startswith("/dev/")


def _is_url(source: str) -> bool:
    return "://" in source


def check_source(source: str) -> None:
    """Raises `CameraLost` if there is no such device or file, with the cameras there are."""
    path = Path(f"/dev/video{source}" if source.isdecimal() else source)
    if _is_url(source) or path.exists() or (source.isdecimal() and not sys.platform.startswith("linux")):
        return
    if not is_device(source):
        raise CameraLost(f'there is no video file "{source}"')
    there = sorted(map(str, [*Path("/dev/v4l/by-id").glob("*"), *Path("/dev").glob("video*")]))
    raise CameraLost(f"there is no camera {path}; connected: {', '.join(there) or 'none'}")


def _capture(cv2: Any, source: str) -> Any:
    if is_device(source):
        backend = cv2.CAP_V4L2 if sys.platform.startswith("linux") else cv2.CAP_ANY
        return cv2.VideoCapture(int(source) if source.isdecimal() else source, backend)
    if _is_url(source):
        timeouts = [cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, STREAM_TIMEOUT, cv2.CAP_PROP_READ_TIMEOUT_MSEC, STREAM_TIMEOUT]
        return cv2.VideoCapture(source, cv2.CAP_FFMPEG, timeouts)
    return cv2.VideoCapture(source, cv2.CAP_ANY)
