"""A recording of librealsense's software device: what its real pipeline then plays back is known to the last byte."""

from __future__ import annotations

import gc
import time
from pathlib import Path
from typing import Any

import numpy as np

SERIAL = "990000001"
HEIGHT, WIDTH, FPS = 48, 64, 30
DEPTH_UNIT = 0.0001  # m, as on a D405
STEP = 1.0 / FPS


def colour(number: int) -> np.ndarray:
    """(48, 64, 3) RGB: the number in red, a gradient in green, which shows what is upside down."""
    image = np.full((HEIGHT, WIDTH, 3), (number, 0, 30), np.uint8)
    image[..., 1] = np.arange(HEIGHT)[:, None]
    return image


def depth(number: int) -> np.ndarray:
    """(48, 64) in units of the sensor: 200 mm plus 10 mm per number."""
    return np.full((HEIGHT, WIDTH), (200 + 10 * number) * 10, np.uint16)


def record(rs: Any, path: Path, count: int) -> None:
    """Write ``count`` pictures with depth to ``path``, at the rate at which they are played back."""
    device = rs.software_device()
    device.register_info(rs.camera_info.serial_number, SERIAL)
    device.register_info(rs.camera_info.name, "Recorded D400")
    streams = [
        _stream(rs, device, "Stereo Module", rs.stream.depth, rs.format.z16, 2),
        _stream(rs, device, "RGB Camera", rs.stream.color, rs.format.rgb8, 3),
    ]
    streams[0][0].add_read_only_option(rs.option.depth_units, DEPTH_UNIT)
    same = rs.extrinsics()
    same.rotation, same.translation = [1, 0, 0, 0, 1, 0, 0, 0, 1], [0, 0, 0]
    streams[0][1].register_extrinsics_to(streams[1][1], same)
    device.create_matcher(rs.matchers.dlr_c)
    recorder = rs.recorder(str(path), device)
    sensors, queue = recorder.query_sensors(), rs.frame_queue(count * 2)
    for sensor in sensors:
        sensor.open(sensor.get_stream_profiles()[0])
        sensor.start(queue)
    for number in range(count):
        for stream, pixels in zip(streams, (depth(number), colour(number)), strict=True):
            _send(rs, *stream, pixels, number)
        time.sleep(STEP)
    for sensor in sensors:
        sensor.stop()
        sensor.close()
    recorder.pause()
    del recorder, sensors, sensor
    gc.collect()  # the file is complete only when the recorder is gone


def _stream(rs: Any, device: Any, name: str, kind: Any, form: Any, bytes_per_pixel: int) -> tuple[Any, Any, int]:
    lens = rs.intrinsics()
    lens.width, lens.height, lens.ppx, lens.ppy, lens.fx, lens.fy = WIDTH, HEIGHT, WIDTH / 2, HEIGHT / 2, 60.0, 60.0
    lens.model, lens.coeffs = rs.distortion.brown_conrady, [0] * 5
    video = rs.video_stream()
    video.type, video.fmt, video.bpp, video.uid = kind, form, bytes_per_pixel, 10 + bytes_per_pixel
    video.width, video.height, video.fps, video.index, video.intrinsics = WIDTH, HEIGHT, FPS, 0, lens
    sensor = device.add_sensor(name)
    return sensor, sensor.add_video_stream(video, True), bytes_per_pixel


def _send(rs: Any, sensor: Any, profile: Any, bytes_per_pixel: int, pixels: np.ndarray, number: int) -> None:
    frame = rs.software_video_frame()
    frame.pixels, frame.stride, frame.bpp = pixels, WIDTH * bytes_per_pixel, bytes_per_pixel
    frame.timestamp, frame.domain = 1000.0 * number * STEP, rs.timestamp_domain.hardware_clock
    frame.frame_number, frame.profile = number, profile.as_video_stream_profile()
    sensor.on_video_frame(frame)
