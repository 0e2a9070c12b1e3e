"""Real cameras behind the guarded robot and its server: as the actor meets them."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest
from scripted_camera import ScriptedCamera, until

from robot_servers.__main__ import build
from robot_servers.cameras.feed import Device
from robot_servers.cameras.rig import Rig
from robot_servers.cameras.shared import shareable
from robot_servers.cameras.views import Crop, View
from robot_servers.client import RobotClient
from robot_servers.drivers.fake import FakeDriver
from robot_servers.guarded import GuardedRobot
from robot_servers.interface import RobotError
from robot_servers.server import Server

VIEWS = (View("front", (48, 64)), View("wrist", (16, 16), Crop(8, 8, 32, 32)))


@contextmanager
def served(camera: ScriptedCamera) -> Iterator[RobotClient]:
    rig = Rig((Device(camera, VIEWS),), wait=lambda event, seconds: event.wait(seconds / 50))
    robot = GuardedRobot(FakeDriver(clock="realtime"), cameras=rig)
    robot.connect()
    with Server(robot, "tcp://127.0.0.1:*") as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            with RobotClient(server.address) as client:
                yield client
        finally:
            camera.runs.set()
            server.stop()
            thread.join()
            robot.close()


@pytest.mark.skipif(not shareable(), reason="memory without a file (memfd) is Linux's own")
def test_frames_from_memory_are_those_of_the_wire():
    """Guards against two ways to the frames that differ, and against a memory that is offered but never used."""
    camera = ScriptedCamera()
    with served(camera) as client:
        assert client.metadata.cameras == {"front": (48, 64), "wrist": (16, 16)}
        reader = client._shared
        assert reader is not None
        until(lambda: bool(reader.frames()), "frames in memory")
        camera.frozen = True  # from now on nothing is new
        until(lambda: bool(client.status().cameras["front"].fault), "the fault")
        memory = client.frames()
        client._shared = None
        wire = client.frames()
    assert memory.keys() == wire.keys() == {"front", "wrist"}
    for name, frame in wire.items():
        np.testing.assert_array_equal(memory[name].image, frame.image)
        assert (memory[name].number, memory[name].time) == (frame.number, frame.time)
        assert memory[name].depth is not None and frame.depth is not None
        np.testing.assert_array_equal(memory[name].depth, frame.depth)


def test_memory_that_goes_silent_is_replaced_by_the_wire():
    """Guards against a client that fails, or sees old pictures, because the shared memory's writer stopped."""
    with served(ScriptedCamera()) as client:
        silent = type("Silent", (), {"frames": lambda self: None})()
        client._shared = silent
        assert set(client.frames()) == {"front", "wrist"}


def test_a_camera_that_hangs_and_comes_back_delays_no_call():
    """Guards against a camera's driver that stops the arm's control loop, and against one whose end nobody sees."""
    camera = ScriptedCamera()
    with served(camera) as client:
        camera.runs.clear()
        until(lambda: "no new picture" in client.status().cameras["wrist"].fault, "the fault")
        before = client.state().time
        until(lambda: client.state().time > before, "a newer state while the camera hangs")
        number = client.frames()["wrist"].number
        assert client.status().cameras["wrist"].age > 0.0
        camera.runs.set()
        until(lambda: client.status().cameras["wrist"].fault == "", "its return")
        until(lambda: client.frames()["wrist"].number > number, "a new frame")


def test_real_cameras_of_the_command_line_are_opened_with_the_robot():
    """Guards against an option that is parsed and dropped."""
    robot = build("fake", camera=("front=opencv:nowhere.mp4",))
    with pytest.raises(RobotError, match="no video file"):
        robot.connect()
    robot.close()


@pytest.mark.parametrize(
    "options, said",
    [
        ({"clock": "lockstep", "camera": ("a=opencv:0",)}, "leave out --clock lockstep"),
        ({"cameras": ("a",), "camera": ("a=opencv:0",)}, "a: named by both --cameras and --camera"),
        ({"camera": ("a=opencvv:0",)}, 'did you mean "opencv"'),
    ],
)
def test_cameras_that_cannot_be_are_refused_before_anything_is_opened(options, said):
    """Guards against two clocks in one robot, and against one camera silently replacing another."""
    with pytest.raises(RobotError, match=said):
        build("fake", **options)
