"""A robot taken for a task: checked, owned and bound by the task's limits."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
from env_parts import REACH

from robot_servers.client import RobotClient
from robot_servers.drivers.fake import FakeDriver
from robot_servers.guarded import GuardedRobot
from robot_servers.interface import Command, NotOwner, RobotError
from robot_servers.server import Server
from serl_core.session import connected

LOW = replace(REACH, limits=replace(REACH.limits, box_high=(0.51, 0.4, 0.6)))


@contextlib.contextmanager
def serving(silence: float = 30.0, scene: str = "") -> Iterator[str]:
    robot = GuardedRobot(FakeDriver(scene, cameras=("front",)))
    robot.connect()
    with Server(robot, "tcp://127.0.0.1:*", silence=silence) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server.address
        finally:
            server.stop()
            thread.join()
            robot.close()


def ahead(robot) -> float:
    """Where a command 5 cm ahead really leads, x in m."""
    state = robot.state()
    return robot.command(Command(state.pose + np.array([0.05, 0, 0, 0, 0, 0, 0]), None, state.time)).pose[0]


def test_the_limits_of_the_task_bind_at_the_robot():
    """Guards the workspace against whatever the actor's side gets wrong, and the next task against this one's."""
    with serving() as address:
        with connected(LOW, "state", address) as session:
            assert ahead(session.robot) == 0.51
        with connected(REACH, "state", address) as session:
            assert ahead(session.robot) == pytest.approx(0.55)


@pytest.mark.parametrize(
    ("change", "field"), [({"step": 0.2}, "step 0.2 > 0.1"), ({"box_low": (0.0, -0.4, 0.02)}, "box_low")]
)
def test_a_task_beyond_the_robots_limits_names_the_field(change, field):
    """Guards against a task that is started on a robot that cannot do it."""
    task = replace(REACH, limits=replace(REACH.limits, **change))
    with serving() as address, pytest.raises(RobotError, match=rf"task reach reach beyond .*{field}"):
        connected(task, "state", address).__enter__()


def test_a_robot_in_other_hands_is_waited_for():
    """Guards a restart after a kill: the dead program's lease ends by itself, a living one's does not."""
    with serving(silence=0.2) as address:
        dead = RobotClient(address)
        dead.tighten(REACH.limits)
        with connected(REACH, "state", address) as session:
            assert session.robot.metadata.robot == "fake"
            with pytest.raises(NotOwner, match="in the hands of"):
                connected(REACH, "state", address, patience=0.0).__enter__()
        dead.close()


@pytest.mark.parametrize(
    ("control_hz", "why"),
    [(30.0, "100 cycles a second, .* 30 "), (200.0, "whole fraction"), (2.0, r"0\.5 s .* 0\.3 s")],
)
def test_a_control_rate_that_the_robot_cannot_keep_is_refused(control_hz, why):
    """Guards against periods of other lengths than the task's, and an arm that stops between two commands."""
    task = replace(REACH, control_hz=control_hz)
    with serving() as address, pytest.raises(RobotError, match=why):
        connected(task, "state", address).__enter__()


def test_another_scene_or_a_missing_camera_says_what_to_start():
    """Guards against a policy in a scene that it was not made for."""
    with serving(scene="peg") as address, pytest.raises(RobotError, match="simulates the scene"):
        connected(REACH, "state", address).__enter__()
    blind = replace(REACH, cameras=("wrist",))
    with serving() as address, pytest.raises(RobotError, match=r"no camera wrist .* --cameras wrist"):
        connected(blind, "pixels", address).__enter__()
