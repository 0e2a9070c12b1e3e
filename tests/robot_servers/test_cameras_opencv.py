"""The OpenCV driver: real video files through the real library; settings on a capture that answers like V4L2."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import pytest
from scripted_camera import until

from robot_servers.cameras.device import CameraLost, NoPicture
from robot_servers.cameras.feed import Device
from robot_servers.cameras.opencv import AUTOMATIC, MANUAL, OpenCVCamera, Settings, check_source, is_device, load
from robot_servers.cameras.rig import Rig
from robot_servers.cameras.views import View
from robot_servers.interface import RobotError

try:
    cv2 = load()
except RobotError as missing:
    pytest.skip(f"no OpenCV here: {missing}", allow_module_level=True)

COUNT, FPS = 20, 20.0
RED = (220, 40, 10)


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    """A red field whose upper half gets brighter from frame to frame."""
    path = tmp_path_factory.mktemp("video") / "test.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), FPS, (64, 48))
    assert writer.isOpened()
    for number in range(COUNT):
        image = np.full((48, 64, 3), RED, np.uint8)
        image[:24] = 10 * number
        writer.write(image[..., ::-1])
    writer.release()
    return str(path)


class Hand:
    """A clock that only sleeping moves."""

    def __init__(self) -> None:
        self.time = 0.0

    def now(self) -> float:
        return self.time

    def sleep(self, seconds: float) -> None:
        self.time += seconds


def player(path: str) -> tuple[OpenCVCamera, Hand]:
    clock = Hand()
    camera = OpenCVCamera(path, now=clock.now, sleep=clock.sleep)
    camera.open()
    return camera, clock


def test_a_file_gives_its_pictures_in_rgb_at_its_own_rate(video):
    """Guards against BGR in the replay buffer, and against a file that is over in a moment."""
    camera, clock = player(video)
    shots = [camera.read(1.0) for _ in range(COUNT)]
    camera.close()
    assert clock.time == pytest.approx((COUNT - 1) / FPS)
    assert [shot.number for shot in shots] == list(range(1, COUNT + 1))
    np.testing.assert_allclose(shots[3].image[40, 32], RED, atol=12)  # the file is compressed
    np.testing.assert_allclose(shots[10].image[8, 32], 100, atol=12)
    assert shots[0].image.flags.c_contiguous and shots[0].stamp is None


def test_waiting_for_the_next_picture_of_a_file_is_bounded(video):
    """Guards against a read longer than asked for, which would keep a rig from closing."""
    camera, clock = player(video)
    camera.read(0.0)
    with pytest.raises(NoPicture):
        camera.read(0.02)
    assert clock.time == pytest.approx(0.02)
    assert camera.read(0.04).number == 2
    camera.close()


def test_the_end_of_a_file_is_an_error_and_it_can_be_opened_again(video):
    """Guards against the last picture for ever."""
    camera, _ = player(video)
    with pytest.raises(CameraLost, match="it has ended"):
        for _ in range(COUNT + 1):
            camera.read(1.0)
    camera.close()
    with pytest.raises(CameraLost, match="is not open"):
        camera.read(0.1)
    camera.open()
    assert camera.read(1.0).number == 1
    camera.close()


def test_a_rig_plays_a_file_flags_its_end_and_starts_it_again(video):
    """Guards against a camera that is lost after its first fault: the whole path with the real library."""
    device = Device(OpenCVCamera(video), (View("front", (32, 32)),))
    with Rig((device,), wait=lambda event, seconds: event.wait(seconds / 10)) as rig:
        until(lambda: "it has ended" in rig.health()["front"].fault, "the end of the file")
        last = rig.frames()["front"].number
        until(lambda: rig.health()["front"].fault == "", "its start")
        assert rig.frames()["front"].number > last


def test_what_is_not_there_is_named(tmp_path):
    """Guards against OpenCV's silent capture that is simply not opened."""
    with pytest.raises(RobotError, match=r'no video file "nowhere\.mp4"'):
        OpenCVCamera("nowhere.mp4").open()
    with pytest.raises(RobotError, match=r"there is no camera /dev/video987; connected: "):
        check_source("/dev/video987")
    empty = tmp_path / "empty.avi"
    empty.write_bytes(b"no video")
    with pytest.raises(RobotError, match="cannot be opened"):
        OpenCVCamera(str(empty)).open()


@pytest.mark.parametrize(
    "source, device", [("0", True), ("/dev/video2", True), ("a.mp4", False), ("rtsp://10.0.0.2/live", False)]
)
def test_only_a_device_of_this_computer_gives_raw_pictures(source, device):
    """Guards against a still scene of a compressed stream taken for a frozen camera, and the other way round."""
    assert is_device(source) == device and OpenCVCamera(source).noisy == device


class Capture:
    """Answers like a V4L2 device of 640x480: ``refused`` properties are not taken, ``stuck`` ones stay as they were."""

    def __init__(self, refused: tuple[int, ...] = (), stuck: tuple[int, ...] = ()) -> None:
        self.refused, self.stuck = refused, stuck
        self.values: dict[int, float] = {cv2.CAP_PROP_FRAME_WIDTH: 640.0, cv2.CAP_PROP_FRAME_HEIGHT: 480.0}
        self.pending = 0.0  # a height that waits for its width
        self.gone = self.released = False
        self.count = 0

    def isOpened(self) -> bool:
        return True

    def set(self, prop: int, value: float) -> bool:
        if prop in self.refused:
            return False
        if prop in self.stuck:
            return True
        if prop == cv2.CAP_PROP_FRAME_HEIGHT:
            self.pending = value
            return True
        if prop == cv2.CAP_PROP_FRAME_WIDTH and self.pending:
            self.values[cv2.CAP_PROP_FRAME_HEIGHT] = self.pending
        self.values[prop] = value
        return True

    def get(self, prop: int) -> float:
        return self.values.get(prop, -1.0)

    def read(self) -> tuple[bool, Any]:
        self.count += 1
        self.values[cv2.CAP_PROP_POS_MSEC] = 1000.0 * self.count
        return not self.gone, np.full((4, 4, 3), (1, 2, 3), np.uint8)

    def release(self) -> None:
        self.released = True


def webcam(capture: Capture, monkeypatch: pytest.MonkeyPatch, settings: Settings) -> OpenCVCamera:
    monkeypatch.setattr("robot_servers.cameras.opencv.check_source", lambda source: None)
    return OpenCVCamera("/dev/video0", settings, capture=lambda cv2, source: capture)


def test_a_device_is_locked_as_asked_and_else_left_automatic(monkeypatch):
    """Guards against an exposure that changes with the scene although the task locked it."""
    capture = Capture()
    webcam(capture, monkeypatch, Settings((720, 1280), 30.0, 156.0, 4600.0)).open()
    assert capture.values[cv2.CAP_PROP_FRAME_WIDTH] == 1280 and capture.values[cv2.CAP_PROP_FRAME_HEIGHT] == 720
    assert capture.values[cv2.CAP_PROP_AUTO_EXPOSURE] == MANUAL and capture.values[cv2.CAP_PROP_EXPOSURE] == 156
    assert capture.values[cv2.CAP_PROP_AUTO_WB] == 0 and capture.values[cv2.CAP_PROP_WB_TEMPERATURE] == 4600
    capture = Capture(refused=(cv2.CAP_PROP_AUTO_WB,))
    webcam(capture, monkeypatch, Settings()).open()
    assert capture.values[cv2.CAP_PROP_AUTO_EXPOSURE] == AUTOMATIC and cv2.CAP_PROP_EXPOSURE not in capture.values


@pytest.mark.parametrize("how", ["refused", "stuck"])
@pytest.mark.parametrize(
    "prop, what",
    [("EXPOSURE", "exposure 156"), ("FRAME_WIDTH", "width 1280"), ("WB_TEMPERATURE", "white balance 4600")],
)
def test_a_setting_that_the_device_does_not_take_is_an_error(how, prop, what, monkeypatch):
    """Guards against a driver's silence: V4L2 devices take another value, or none, without an error."""
    capture = Capture(**{how: (getattr(cv2, f"CAP_PROP_{prop}"),)})
    camera = webcam(capture, monkeypatch, Settings((720, 1280), 30.0, 156.0, 4600.0))
    with pytest.raises(RobotError, match=f"does not take {what}"):
        camera.open()
    camera.close()
    assert capture.released


def test_a_device_has_its_own_clock_and_an_unplugged_one_is_lost(monkeypatch):
    """Guards against arrival times where the driver knows better, and against a picture of a device that is gone."""
    capture = Capture()
    camera = webcam(capture, monkeypatch, Settings())
    camera.open()
    shot = camera.read(0.1)
    assert (shot.stamp, shot.number) == (1.0, 1) and shot.image[0, 0].tolist() == [3, 2, 1]
    capture.gone = True
    with pytest.raises(CameraLost, match="unplugged"):
        camera.read(0.1)


def test_the_missing_package_is_named(monkeypatch):
    """Guards against an ImportError deep inside a thread on a robot's computer."""
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(RobotError, match="opencv-python-headless"):
        load()
