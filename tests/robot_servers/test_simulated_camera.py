import os
import signal
import threading
import time

import mujoco
import numpy as np
import pytest

from robot_servers.cameras import simulated
from robot_servers.cameras.simulated import RenderingUnavailable, SimulatedCameras, choose_backend
from robot_servers.drivers.mujoco import MujocoDriver
from robot_servers.interface import RobotError
from robot_servers.scenes import load_scene


def can_render():
    try:
        choose_backend()
    except RenderingUnavailable:
        return False
    return True


needs_pixels = pytest.mark.skipif(not can_render(), reason="no rendering library: apt-get install libegl1")


def connected(scene="pick_cube", **options):
    driver = MujocoDriver(scene, cameras=("front", "wrist"), **options)
    driver.connect()
    return driver


def red_rows(image):
    """The row of each pixel that shows the red cube."""
    pixels = image.astype(int)
    return np.nonzero((pixels[..., 0] > 120) & (pixels[..., 1] < 90) & (pixels[..., 2] < 90))[0]


def test_a_missing_library_is_named_with_its_package():
    """Guards against an AttributeError deep inside OpenGL on a machine without rendering libraries."""
    with pytest.raises(RenderingUnavailable, match=r"apt-get install libegl1 \(or libosmesa6\)"):
        choose_backend(loads=lambda library: False)
    with pytest.raises(RenderingUnavailable, match="apt-get install libosmesa6"):
        choose_backend("osmesa", loads=lambda library: False)
    assert choose_backend(loads=lambda library: "OSMesa" in library) == "osmesa"
    assert choose_backend(loads=lambda library: True) == "egl"


def test_a_driver_without_rendering_says_so_when_it_connects(monkeypatch):
    """Guards against a run that fails at its first picture instead of going on without pixels."""
    monkeypatch.setattr(simulated, "_loads", lambda library: False)
    with pytest.raises(RenderingUnavailable):
        connected()


@needs_pixels
def test_both_cameras_see_the_cube():
    """Guards against black pictures, cameras inside a link, and pictures that are upside down or not RGB."""
    driver = connected()
    driver.place_objects(0)
    frames = driver.frames()
    driver.close()
    for frame in frames.values():
        assert frame.image.shape == (128, 128, 3) and frame.image.dtype == np.uint8
        assert frame.image.std() > 10
    rows = red_rows(frames["front"].image)
    assert len(rows) > 50
    assert rows.mean() > 50  # below the hand
    assert len(red_rows(frames["wrist"].image)) > 50


@needs_pixels
def test_pictures_are_made_once_per_instant_and_the_same_from_any_thread():
    """Guards against a context that belongs to the thread which connected, and against double work."""
    driver = connected()
    first = driver.frames()
    assert driver.frames()["wrist"] is first["wrist"]
    driver.cycle()
    later = {}
    thread = threading.Thread(target=lambda: later.update(driver.frames()))
    thread.start()
    thread.join()
    driver.cycle()
    assert driver.frames()["front"].number == later["front"].number + 1 == first["front"].number + 2
    assert later["front"].time > first["front"].time
    np.testing.assert_allclose(later["front"].image.mean(), first["front"].image.mean(), atol=1.0)
    driver.close()


@needs_pixels
def test_the_rendering_process_shows_what_inline_rendering_shows():
    """Guards against a snapshot that misses something: the block is moved by the model, not by a joint."""
    inline, process = connected("peg_insertion"), connected("peg_insertion", clock="realtime")
    try:
        for driver in (inline, process):
            driver.place_objects(5)
        wanted = inline.frames()
        deadline = time.monotonic() + 20.0
        while (frames := process.frames())["front"].number < 3 and time.monotonic() < deadline:
            process.cycle()
            process.track(np.array(process.state().pose), None)
        assert frames["front"].number >= 3
        assert frames["front"].time <= time.monotonic()
        for name, frame in wanted.items():
            assert np.abs(frame.image.astype(int) - frames[name].image).mean() < 3.0
    finally:
        inline.close()
        process.close()


@needs_pixels
def test_a_dead_rendering_process_is_an_error_and_not_a_hang():
    """Guards against a control loop that a camera can stop: the arm goes on, only the pictures fail."""
    driver = connected("reach", clock="realtime")
    driver.frames()
    driver._rig._process.kill()
    driver._rig._process.join()
    for _ in range(10):
        driver.cycle()
        time.sleep(0.01)
    with pytest.raises(RobotError, match="rendering process"):
        driver.frames()
    driver.close()


@needs_pixels
def test_a_rendering_process_that_stands_still_stops_nobody():
    """Guards the control cycle and the server against waiting for a process that neither answers nor ends."""
    driver = connected("reach", clock="realtime")
    os.kill(driver._rig._process.pid, signal.SIGSTOP)
    for _ in range(10):
        driver.cycle()
        time.sleep(0.01)
    newest = driver.frames()["front"].number
    driver.cycle()
    assert driver.frames()["front"].number == newest > 0
    os.kill(driver._rig._process.pid, signal.SIGCONT)
    receiver = driver._rig._receiver
    driver.close()
    assert not receiver.is_alive()


@needs_pixels
def test_closing_twice_is_harmless():
    """Guards against an EGL error at the end of the process."""
    scene = load_scene("reach").build()
    cameras = SimulatedCameras(scene, ("front",), (32, 48))
    data = mujoco.MjData(scene)
    mujoco.mj_forward(scene, data)
    assert cameras.render(data)["front"].shape == (32, 48, 3)
    cameras.close()
    cameras.close()
