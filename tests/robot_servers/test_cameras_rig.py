"""Many cameras behind one rig: whatever a device does, the caller gets an answer at once and the truth about it."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise

import numpy as np
import pytest
from scripted_camera import PATIENCE, ScriptedCamera, until

from robot_servers.cameras.device import ClockMap, Shot
from robot_servers.cameras.feed import RATE_WINDOW, STALE, Device, Feed
from robot_servers.cameras.rig import Rig
from robot_servers.cameras.views import Crop, View
from robot_servers.interface import RobotError

QUICK = 0.02  # of the real back-off


def hurry(event: threading.Event, seconds: float) -> bool:
    return event.wait(seconds * QUICK)


def device(camera: ScriptedCamera, *names: str) -> Device:
    return Device(camera, tuple(View(name, (48, 64)) for name in names or (camera.label,)))


@contextmanager
def rig_of(*cameras: ScriptedCamera) -> Iterator[Rig]:
    rig = Rig(tuple(map(device, cameras)), wait=hurry)
    try:
        rig.open()
        yield rig
    finally:
        for camera in cameras:
            camera.runs.set()
        rig.close()


def fault(rig: Rig, name: str = "scripted") -> str:
    return rig.health()[name].fault


def test_frames_carry_newer_pictures_with_growing_numbers_and_times():
    """Guards against a rig that hands out its first frame for ever, or frames out of order."""
    camera = ScriptedCamera()
    with rig_of(camera) as rig:
        seen = []
        for _ in range(5):
            seen.append(rig.frames()["scripted"])
            until(lambda: rig.frames()["scripted"].number > seen[-1].number, "a newer frame")
        assert all(a.time < b.time for a, b in pairwise(seen))
        assert seen[-1].time <= time.monotonic()
        assert fault(rig) == "" and rig.health()["scripted"].age < PATIENCE
    assert len(camera.threads) == 1


@pytest.mark.parametrize("how", ["frozen", "repeating", "silent", "unplugged"])
def test_a_failing_camera_is_flagged_and_comes_back_by_itself(how):
    """Guards against the frozen picture on which a policy goes on acting, and against restarts for a loose plug."""
    camera = ScriptedCamera()
    with rig_of(camera) as rig:
        setattr(camera, how, True)
        until(lambda: fault(rig) != "", "the fault")
        until(lambda: camera.opened > 1 or how == "unplugged", "opening the device again")
        last = rig.frames()["scripted"]
        assert "scripted" in fault(rig)
        setattr(camera, how, False)
        until(lambda: fault(rig) == "", "the end of the fault")
        assert rig.frames()["scripted"].number > last.number


def test_a_picture_that_stays_the_same_is_never_handed_out_as_new():
    """Guards against frozen bytes that look alive because the device still counts, also after it is opened again."""
    camera = ScriptedCamera()
    with rig_of(camera) as rig:
        camera.frozen = True
        until(lambda: camera.opened > 2, "opening it twice")
        frame, bytes_then = rig.frames()["scripted"], rig.frames()["scripted"].image.copy()
        until(lambda: camera.opened > 4, "opening it twice more")
        assert rig.frames()["scripted"].number == frame.number and fault(rig)
        np.testing.assert_array_equal(frame.image, bytes_then)


def test_a_still_scene_of_a_compressed_stream_is_no_fault():
    """Guards against flagging a network camera because nothing moves in front of it."""
    camera = ScriptedCamera(noisy=False)
    with rig_of(camera) as rig:
        camera.frozen = True
        before = rig.frames()["scripted"].number
        until(lambda: rig.frames()["scripted"].number > before + 5, "frames of a still scene")
        assert camera.opened == 1


def test_a_hanging_driver_never_blocks_the_caller_or_another_camera():
    """Guards against one stuck USB call that stops the control loop: every call here returns while the driver hangs."""
    stuck, other = ScriptedCamera("stuck"), ScriptedCamera("other")
    with rig_of(stuck, other) as rig:
        stuck.runs.clear()
        until(lambda: fault(rig, "stuck") != "", "the fault of the stuck camera")
        number = rig.frames()["other"].number
        until(lambda: rig.frames()["other"].number > number + 5, "frames of the other camera")
        assert fault(rig, "other") == "" and not stuck.runs.is_set()
        stuck.runs.set()
        until(lambda: fault(rig, "stuck") == "", "the stuck camera's return")


def test_a_slow_camera_never_delays_another():
    """Guards against one loop over all devices: the fast one must deliver many frames for each of the slow one's."""
    slow, fast = ScriptedCamera("slow", period=0.3), ScriptedCamera("fast", period=0.005)
    with rig_of(slow, fast) as rig:
        first = {name: frame.number for name, frame in rig.frames().items()}
        until(lambda: rig.frames()["slow"].number >= first["slow"] + 3, "three slow frames")
        assert rig.frames()["fast"].number - first["fast"] > 3 * 3


def test_closing_leaves_a_hanging_driver_behind(caplog):
    """Guards against a server that cannot be stopped because a camera's driver does not come back."""
    camera = ScriptedCamera()
    rig = Rig((device(camera),), wait=hurry)
    rig.open()
    camera.runs.clear()
    rig.close()
    assert "hangs in its driver" in caplog.text
    camera.runs.set()
    with pytest.raises(RobotError, match="make a new Rig"):
        rig.open()


def test_a_camera_that_is_absent_at_the_start_is_an_error_that_closes_the_others():
    """Guards against a server that starts without one of its cameras, and against a device left open by that."""
    there, absent = ScriptedCamera("there"), ScriptedCamera("absent")
    absent.unplugged = True
    rig = Rig((device(there), device(absent)), wait=hurry)
    with pytest.raises(RobotError, match="absent is not connected"):
        rig.open()
    until(lambda: there.closed == 1, "closing the other camera")


def test_a_camera_without_a_first_picture_is_an_error_in_bounded_time():
    """Guards against a start that waits for ever for a camera that opens but never delivers."""
    camera = ScriptedCamera("dark")
    camera.silent = True
    with pytest.raises(RobotError, match=r"dark: .* no first picture came in time"):
        Rig((device(camera),), first=0.2).open()


def test_a_driver_that_raises_anything_is_opened_again(caplog):
    """Guards against a thread that dies of a vendor's exception, so that the camera never comes back."""
    camera = ScriptedCamera()
    with rig_of(camera) as rig:
        good = camera.read
        camera.read = lambda wait: 1 / 0  # type: ignore[assignment, return-value]
        until(lambda: "ZeroDivisionError" in fault(rig), "the fault")
        camera.read = good  # type: ignore[method-assign]
        until(lambda: fault(rig) == "", "the end of the fault")
    assert "its driver failed" in caplog.text


def test_two_views_of_one_device_share_its_pictures_and_its_health():
    """Guards against opening one device twice for two crops, and against crops of different moments."""
    camera = ScriptedCamera()
    left, right = View("left", (8, 8), Crop(0, 0, 32, 48)), View("right", (24, 16), Crop(32, 0, 32, 48))
    rig = Rig((Device(camera, (left, right)),))
    rig.open()
    try:
        frames = rig.frames()
        assert {name: frame.image.shape[:2] for name, frame in frames.items()} == rig.sizes
        assert frames["left"].number == frames["right"].number and frames["left"].time == frames["right"].time
        assert frames["right"].depth is not None and frames["right"].depth.shape == (24, 16)
        assert not frames["left"].image.flags.writeable
        camera.unplugged = True
        until(lambda: bool(fault(rig, "left") and fault(rig, "right")), "the fault of both")
    finally:
        rig.close()
    assert camera.opened == 1


def test_a_crop_outside_of_the_picture_is_said_at_the_start():
    """Guards against a smaller image than asked for, cut off at the edge without a word."""
    with pytest.raises(RobotError, match=r"crop 60:0:10:10 .* is not inside the device's picture of 64x48"):
        Rig((Device(ScriptedCamera(), (View("a", (8, 8), Crop(60, 0, 10, 10)),)),)).open()


def test_two_cameras_cannot_have_one_name():
    """Guards against one camera silently replacing another."""
    with pytest.raises(RobotError, match="same name"):
        Rig((device(ScriptedCamera(), "front"), device(ScriptedCamera(), "front")))


class Hand:
    """A clock that a test moves."""

    def __init__(self) -> None:
        self.time = 100.0

    def __call__(self) -> float:
        return self.time


def test_silence_is_a_fault_within_half_a_second_and_not_much_before():
    """Guards against a slower watchdog, and against one that barks between two frames of a 10 Hz camera."""
    clock, camera = Hand(), ScriptedCamera()
    feed = Feed(device(camera), clock)
    feed.start()
    assert feed.settled(PATIENCE) == ""
    camera.runs.clear()
    until(lambda: camera.hanging, "the read that hangs: the picture before it has arrived")
    clock.time += 0.3
    assert feed.health().fault == ""
    clock.time += 0.19
    assert "no new picture for 0.5 s" in feed.health().fault and feed.health().age == pytest.approx(0.49)
    feed.stop()
    camera.runs.set()
    feed.join(PATIENCE)
    assert STALE < 0.5


def test_a_camera_at_less_than_half_its_rate_is_a_fault():
    """Guards against a camera that falls to a few frames per second in the dark without anybody noticing."""
    camera = ScriptedCamera("dim", period=0.1, fps=60.0)
    with rig_of(camera) as rig:
        assert fault(rig, "dim") == ""
        until(lambda: "of 60 frames/s" in fault(rig, "dim"), "the fault")
        assert 0.0 < rig.health()["dim"].rate < 30.0
        camera.period = 0.001
        until(lambda: rig.health()["dim"].rate > 30.0 and fault(rig, "dim") == "", f"recovery after {RATE_WINDOW} s")


def test_the_device_clock_removes_the_jitter_of_arrivals():
    """Guards against capture times that jump with the load of the computer, and against a wrong sign of the offset."""
    random = np.random.default_rng(0)
    clock = ClockMap(latency=0.02)
    for i in range(200):
        captured = 50.0 + i / 30
        arrival = captured + 0.02 + (0.0 if i == 0 else random.exponential(0.03))
        assert clock.capture(captured - 1234.5, arrival) == pytest.approx(captured, abs=1e-6)


def test_a_device_clock_that_starts_anew_is_followed():
    """Guards against captures hours in the past after a device was reset, and against captures in the future."""
    clock = ClockMap(latency=0.01)
    assert clock.capture(5000.0, 10.0) == pytest.approx(9.99)
    assert clock.capture(0.5, 10.5) == pytest.approx(10.49)
    assert clock.capture(9000.0, 11.0) == pytest.approx(10.99)
    assert clock.capture(None, 12.0) == pytest.approx(11.99)


def test_a_slowly_drifting_clock_is_followed():
    """Guards against an offset taken once: 100 ppm are 0.36 s after an hour."""
    clock, wrong = ClockMap(latency=0.0), []
    for i in range(30 * 600):
        time_ = i / 30
        wrong.append(abs(clock.capture(time_ * (1 - 1e-4), time_) - time_))
    assert max(wrong) < 0.002


def test_a_shot_needs_no_stamp_and_no_depth():
    """Guards against drivers that have to invent what their device does not measure."""
    shot = Shot(np.zeros((4, 4, 3), np.uint8), 1)
    assert View("a", (2, 2)).depth(shot) is None and View("a", (2, 2)).image(shot).shape == (2, 2, 3)
