"""RealSense cameras through librealsense. Its Python package is imported only when a camera is opened."""

from __future__ import annotations

import contextlib
import ctypes
import importlib
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from robot_servers.cameras.device import CameraLost, NoPicture, Shot
from robot_servers.interface import RobotError

LATENCY = 0.025  # s from the middle of an exposure to its arrival at 30 Hz, roughly; measure yours with a clock in view
PACKAGE = "the package pyrealsense2 (pip install pyrealsense2, or the extra hardware)"
USB = "librealsense needs libusb: apt-get install libusb-1.0-0, or pip install libusb-package"
RULES = "plug it into a USB 3 port, and install librealsense's udev rules if lsusb lists it"


@dataclass(frozen=True)
class Settings:
    """What a RealSense is asked for. ``size`` (height, width); None leaves exposure or white balance automatic.

    ``exposure`` in the sensor's own unit (µs on a stereo module, 100 µs on an RGB sensor), ``white_balance`` in K.
    """

    size: tuple[int, int] = (480, 640)
    fps: int = 30
    depth: bool = False
    exposure: float | None = None
    white_balance: float | None = None


class RealSense:
    """Satisfies `Camera` for the device with this serial number; ``context`` is librealsense's, for recordings."""

    noisy = True

    def __init__(
        self, serial: str, settings: Settings | None = None, latency: float = LATENCY, context: Any = None
    ) -> None:
        self.label = f"realsense {serial}"
        self.latency = latency
        self._serial = serial
        self._settings = settings or Settings()
        self.fps = float(self._settings.fps)
        self._given = context
        self._pipeline: Any = None
        self._align: Any = None

    def open(self) -> None:
        """Raises `RobotError` with the serial numbers found, or naming the stream or setting it does not have."""
        rs = load()
        context = self._given or rs.context()
        check_serial(rs, context, self._serial)
        pipeline = rs.pipeline(context)
        try:
            device = pipeline.start(self._config(rs)).get_device()
        except RuntimeError as error:
            raise CameraLost(f"{self.label} cannot stream {self._asked()}: {error}") from error
        self._pipeline = pipeline
        self._align = rs.align(rs.stream.color) if self._settings.depth else None
        configure(rs, device, self._settings, self.label)

    def close(self) -> None:
        if self._pipeline is not None:
            with contextlib.suppress(RuntimeError):  # an unplugged device cannot be stopped any more
                self._pipeline.stop()
        self._pipeline = None

    def read(self, wait: float) -> Shot:
        if self._pipeline is None:
            raise CameraLost(f"{self.label} is not open")
        try:
            came, frames = self._pipeline.try_wait_for_frames(int(wait * 1000))
            if not came:
                raise NoPicture(f"{self.label}: frame didn't arrive within {wait:g} s")
            return self._shot(frames)
        except RuntimeError as error:
            raise CameraLost(f"{self.label}: {error}") from error

    def _shot(self, frames: Any) -> Shot:
        depth = None
        if self._align is not None:
            frames = self._align.process(frames)
            depth = _millimetres(frames.get_depth_frame(), self.label)
        colour = frames.get_color_frame()
        if not colour:
            raise NoPicture(f"{self.label}: a set of frames without a colour picture")
        image = np.array(colour.get_data(), np.uint8)  # a copy: librealsense uses the memory again
        return Shot(image, colour.frame_number, colour.timestamp / 1000.0, depth)

    def _config(self, rs: Any) -> Any:
        config, (height, width), fps = rs.config(), self._settings.size, self._settings.fps
        config.enable_device(self._serial)
        config.enable_stream(rs.stream.color, width, height, rs.format.rgb8, fps)
        if self._settings.depth:
            config.enable_stream(rs.stream.depth, width, height, rs.format.z16, fps)
        return config

    def _asked(self) -> str:
        height, width = self._settings.size
        return f"{width}x{height} at {self._settings.fps} Hz{' with depth' if self._settings.depth else ''}"


def load() -> Any:
    """The module pyrealsense2. Raises `RobotError` naming what is to be installed."""
    try:
        return importlib.import_module("pyrealsense2")
    except ModuleNotFoundError as error:
        raise RobotError(f"RealSense cameras need {PACKAGE}") from error
    except ImportError as error:
        if "libusb" not in str(error):
            raise RobotError(f"pyrealsense2 cannot be loaded: {error}") from error
    load_usb()
    return importlib.import_module("pyrealsense2")


def load_usb() -> None:
    """The libusb that comes as a Python package, for computers whose system has none. Raises `RobotError`."""
    try:
        path = importlib.import_module("libusb_package").get_library_path()
    except ImportError as error:
        raise RobotError(USB) from error
    ctypes.CDLL(str(path), mode=ctypes.RTLD_GLOBAL)  # librealsense finds by name what is already loaded


def check_serial(rs: Any, context: Any, serial: str) -> None:
    """Raises `CameraLost` with the devices that are connected if this one is not."""
    info = rs.camera_info
    found = {device.get_info(info.serial_number): device.get_info(info.name) for device in context.query_devices()}
    if serial in found:
        return
    if not found:
        raise CameraLost(f'no RealSense is connected, "{serial}" is asked for: {RULES}')
    known = ", ".join(f"{number} ({name})" for number, name in sorted(found.items()))
    raise CameraLost(f'no RealSense with the serial number "{serial}"; connected: {known}')


def colour_sensor(rs: Any, device: Any) -> Any:
    """The sensor that has the colour stream: on a D405 that is the stereo module, there is no other. None without."""
    for sensor in device.query_sensors():
        if any(profile.stream_type() == rs.stream.color for profile in sensor.get_stream_profiles()):
            return sensor
    return None


def configure(rs: Any, device: Any, settings: Settings, label: str) -> None:
    """Lock or free exposure and white balance. Raises `RobotError` for what the sensor does not have."""
    option = rs.option
    sensor = colour_sensor(rs, device)
    if sensor is None:
        raise RobotError(f"{label} has no colour stream")
    _set(sensor, option.enable_auto_exposure, option.exposure, settings.exposure, f"{label}: exposure")
    white = (option.enable_auto_white_balance, option.white_balance, settings.white_balance)
    _set(sensor, *white, f"{label}: white balance")


def _set(sensor: Any, automatic: Any, option: Any, value: float | None, what: str) -> None:
    """Automatic without a value, which a sensor may lack; locked with one, which it must be able to."""
    if value is None:
        if sensor.supports(automatic) and not sensor.is_option_read_only(automatic):
            sensor.set_option(automatic, 1.0)
        return
    if not sensor.supports(option) or sensor.is_option_read_only(option):
        raise RobotError(f"{what} cannot be set on this sensor: leave it out")
    span = sensor.get_option_range(option)
    if not span.min <= value <= span.max:
        raise RobotError(f"{what} {value:g} is outside of {span.min:g} … {span.max:g} of this sensor")
    if sensor.supports(automatic):
        sensor.set_option(automatic, 0.0)
    sensor.set_option(option, value)


def _millimetres(frame: Any, label: str) -> npt.NDArray[np.uint16]:
    """(H, W) uint16 mm from a depth frame, whose unit differs by model: 1 mm on most, 0.1 mm on a D405."""
    if not frame:
        raise NoPicture(f"{label}: a set of frames without depth")
    raw, unit = np.array(frame.get_data(), np.uint16), frame.get_units() * 1000.0
    return raw if abs(unit - 1.0) < 1e-6 else np.rint(raw * unit).clip(0, 65535).astype(np.uint16)
