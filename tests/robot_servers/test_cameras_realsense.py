"""The RealSense driver against the real librealsense: a recording played back through its pipeline."""

from __future__ import annotations

import sys
import threading
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from recorded_realsense import FPS, HEIGHT, SERIAL, STEP, WIDTH, colour, record
from scripted_camera import until

from robot_servers.cameras import realsense
from robot_servers.cameras.device import CameraLost, NoPicture, Shot
from robot_servers.cameras.feed import Device
from robot_servers.cameras.realsense import RealSense, Settings, check_serial, configure, load
from robot_servers.cameras.rig import Rig
from robot_servers.cameras.views import Crop, View
from robot_servers.interface import RobotError

try:
    rs = load()
except RobotError as missing:
    pytest.skip(f"no librealsense here: {missing}", allow_module_level=True)

COUNT = 20
SETTINGS = Settings(size=(HEIGHT, WIDTH), fps=FPS)


@pytest.fixture(scope="module")
def recording(tmp_path_factory):
    path = tmp_path_factory.mktemp("realsense") / "recording.db3"
    record(rs, path, COUNT)
    return path


@pytest.fixture
def context(recording):
    """A context in which the recording is a device that is plugged in."""
    context = rs.context()
    device = context.load_device(str(recording))
    yield context
    del device


def take(camera: RealSense, count: int) -> list[Shot]:
    shots: list[Shot] = []
    while len(shots) < count:
        shots.append(camera.read(2.0))
    return shots


def test_pictures_numbers_and_stamps_are_those_of_the_device(context):
    """Guards against BGR, upside-down pictures, the computer's time for the device's, and memory that is used again."""
    camera = RealSense(SERIAL, SETTINGS, context=context)
    camera.open()
    try:
        shots = take(camera, 8)
    finally:
        camera.close()
    for shot in shots:
        np.testing.assert_array_equal(shot.image, colour(shot.number))
        assert shot.stamp == pytest.approx(shot.number * STEP, abs=1e-5) and shot.depth is None
    assert len({shot.number for shot in shots}) == 8


def test_depth_is_in_millimetres_and_lies_on_the_picture(context):
    """Guards against the D405's unit of 0.1 mm taken for 1 mm: the hand would stop at a tenth of the way."""
    camera = RealSense(SERIAL, replace(SETTINGS, depth=True), context=context)
    camera.open()
    try:
        shot = take(camera, 3)[-1]
    finally:
        camera.close()
    assert shot.depth is not None and shot.depth.shape == (HEIGHT, WIDTH) and shot.depth.dtype == np.uint16
    middle = shot.depth[HEIGHT // 2, WIDTH // 2]
    assert abs(int(middle) - (200 + 10 * shot.number)) <= 20  # depth and colour of one set differ by a frame at most


def test_the_end_of_the_recording_is_a_fault_and_the_device_is_opened_again(context):
    """Guards against a wait without end when frames stop coming, which is how an unplugged camera looks."""
    device = Device(RealSense(SERIAL, SETTINGS, context=context), (View("wrist", (24, 24), Crop(8, 0, 48, 48)),))
    with Rig((device,), wait=lambda event, seconds: event.wait(seconds / 10)) as rig:
        assert rig.frames()["wrist"].image.shape == (24, 24, 3)
        until(lambda: bool(rig.health()["wrist"].fault), "the fault at the end of the recording")
        last = rig.frames()["wrist"].number
        until(lambda: rig.health()["wrist"].fault == "", "its return")
        assert rig.frames()["wrist"].number > last
    assert not any(thread.name.startswith("camera") for thread in threading.enumerate())


def test_a_wait_without_a_frame_is_bounded(context):
    """Guards against a read that never ends: the end of a recording is the real "frame didn't arrive"."""
    camera = RealSense(SERIAL, SETTINGS, context=context)
    camera.open()
    with pytest.raises(NoPicture, match=r"frame didn't arrive within 0\.5 s"):
        for _ in range(COUNT + 1):
            camera.read(0.5)
    camera.close()
    with pytest.raises(CameraLost, match="is not open"):
        camera.read(0.1)


def test_a_wrong_serial_number_lists_those_that_are_connected(context):
    """Guards against "No device connected" for a digit that was mistyped."""
    with pytest.raises(RobotError, match=rf'"990000007"; connected: {SERIAL} \(Recorded D400\)'):
        RealSense("990000007", SETTINGS, context=context).open()


def test_nothing_connected_says_what_to_do():
    """Guards against an empty list where a person needs to hear of the USB 3 port and the udev rules."""
    nothing: Any = SimpleNamespace(query_devices=lambda: [])
    with pytest.raises(RobotError, match=r"no RealSense is connected.* USB 3 port.*udev rules"):
        check_serial(rs, nothing, "1")


def test_a_stream_that_the_device_does_not_have_is_named(context):
    """Guards against librealsense's "Couldn't resolve requests" without a word about what was asked."""
    camera = RealSense(SERIAL, Settings(size=(720, 1280), fps=90), context=context)
    with pytest.raises(RobotError, match="cannot stream 1280x720 at 90 Hz"):
        camera.open()
    camera.close()


def sensor_with(device: Any, name: str, stream: Any, **options: tuple[float, float]) -> Any:
    """A software sensor whose options are writable: name → (lowest, highest)."""
    sensor = device.add_sensor(name)
    video = rs.video_stream()
    video.type, video.width, video.height, video.fps, video.bpp = stream, WIDTH, HEIGHT, FPS, 3
    video.fmt = rs.format.rgb8 if stream == rs.stream.color else rs.format.z16
    sensor.add_video_stream(video, True)
    for option, (low, high) in options.items():
        span = rs.option_range()
        span.min, span.max, span.step, span.default = low, high, 1.0, low
        sensor.add_option(getattr(rs.option, option), span, True)
    return sensor


LOCKABLE = {"enable_auto_exposure": (0, 1), "exposure": (1, 10000)}
WHITE = {"enable_auto_white_balance": (0, 1), "white_balance": (2800, 6500)}


def test_exposure_is_set_on_the_sensor_with_the_colour_stream():
    """Guards against the index of a sensor: the colour of a D405 is on the stereo module, of others on a second one."""
    device = rs.software_device()
    stereo = sensor_with(device, "Stereo Module", rs.stream.depth, **LOCKABLE)
    colour_sensor = sensor_with(device, "RGB Camera", rs.stream.color, **LOCKABLE, **WHITE)
    configure(rs, device, Settings(exposure=156, white_balance=4600), "realsense 1")
    assert colour_sensor.get_option(rs.option.exposure) == 156
    assert colour_sensor.get_option(rs.option.enable_auto_exposure) == 0
    assert colour_sensor.get_option(rs.option.white_balance) == 4600
    assert stereo.get_option(rs.option.exposure) == 1
    only = rs.software_device()
    module = sensor_with(only, "Stereo Module", rs.stream.color, **LOCKABLE)
    configure(rs, only, Settings(exposure=8000), "realsense 2")
    assert module.get_option(rs.option.exposure) == 8000
    configure(rs, only, Settings(), "realsense 2")
    assert module.get_option(rs.option.enable_auto_exposure) == 1


def test_settings_that_the_sensor_does_not_have_are_refused():
    """Guards against a task that believes its white balance to be locked, and against a bare "out of range"."""
    device = rs.software_device()
    sensor_with(device, "Stereo Module", rs.stream.color, **LOCKABLE)
    with pytest.raises(RobotError, match=r"realsense 1: exposure 20000 is outside of 1 … 10000"):
        configure(rs, device, Settings(exposure=20000), "realsense 1")
    with pytest.raises(RobotError, match="realsense 1: white balance cannot be set on this sensor"):
        configure(rs, device, Settings(white_balance=4600), "realsense 1")
    with pytest.raises(RobotError, match="realsense 1 has no colour stream"):
        configure(rs, rs.software_device(), Settings(), "realsense 1")


def test_a_missing_package_is_named(monkeypatch):
    """Guards against an ImportError deep inside a thread on a robot's computer."""
    monkeypatch.setitem(sys.modules, "pyrealsense2", None)
    with pytest.raises(RobotError, match="pip install pyrealsense2"):
        load()
    monkeypatch.setitem(sys.modules, "libusb_package", None)
    with pytest.raises(RobotError, match=r"apt-get install libusb-1\.0-0"):
        realsense.load_usb()
