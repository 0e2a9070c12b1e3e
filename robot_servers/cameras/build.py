"""The cameras of a command line as one `Rig`; devices are opened only by `Rig.open`."""

from __future__ import annotations

import time
from collections.abc import Callable

from robot_servers.cameras import opencv, realsense
from robot_servers.cameras.device import Camera
from robot_servers.cameras.feed import Device
from robot_servers.cameras.rig import Rig
from robot_servers.cameras.spec import CameraSpec, merge
from robot_servers.interface import RobotError


def build_rig(specs: tuple[CameraSpec, ...], now: Callable[[], float] = time.monotonic) -> Rig:
    """One thread per device, however many cameras are cut from it. Raises `RobotError` for what cannot be."""
    shared: dict[tuple[str, str], list[CameraSpec]] = {}
    for spec in specs:
        shared.setdefault(spec.device, []).append(spec)
    return Rig(tuple(_device(tuple(group)) for group in shared.values()), now)


def _device(group: tuple[CameraSpec, ...]) -> Device:
    asked = merge(group)
    camera = _realsense(asked) if asked.kind == "realsense" else _opencv(asked)
    views = tuple(spec.view for spec in group)
    if asked.resolution is not None:
        for view in views:
            view.check(*asked.resolution)
    return Device(camera, views)


def _realsense(asked: CameraSpec) -> Camera:
    usual = realsense.Settings()
    fps = usual.fps if asked.fps is None else asked.fps
    if fps != int(fps):
        raise RobotError(f"camera {asked.name}: a RealSense runs at whole numbers of frames per second, not {fps:g}")
    settings = realsense.Settings(
        asked.resolution or usual.size, int(fps), bool(asked.depth), asked.exposure, asked.white_balance
    )
    latency = realsense.LATENCY if asked.latency is None else asked.latency
    return realsense.RealSense(asked.source, settings, latency)


def _opencv(asked: CameraSpec) -> Camera:
    if asked.depth:
        raise RobotError(f"camera {asked.name}: depth needs a realsense, an opencv camera has none")
    settings = opencv.Settings(asked.resolution, asked.fps, asked.exposure, asked.white_balance)
    if settings != opencv.Settings() and not opencv.is_device(asked.source):
        raise RobotError(f"camera {asked.name}: a file or a stream takes no resolution, fps, exposure or white_balance")
    latency = opencv.LATENCY if asked.latency is None else asked.latency
    return opencv.OpenCVCamera(asked.source, settings, latency)
