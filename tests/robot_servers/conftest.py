"""Lets the tests here import the helper modules beside them, and holds the fixtures that several of them share."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from robot_servers.drivers.fake import FakeDriver
from robot_servers.guarded import GuardedRobot

sys.path.insert(0, str(Path(__file__).parent))

from http_site import Site, site
from serl_peer import Peer


@pytest.fixture
def driver() -> FakeDriver:
    """An arm without physics, on the lockstep clock."""
    return FakeDriver(cameras=("front",))


@pytest.fixture
def robot(driver: FakeDriver) -> Iterator[GuardedRobot]:
    """``driver`` behind its guard, connected."""
    robot = GuardedRobot(driver)
    robot.connect()
    yield robot
    robot.close()


@pytest.fixture
def peer() -> Iterator[Peer]:
    """A lab's SERL server with a simulated arm."""
    with contextlib.closing(Peer()) as found:
        yield found


@pytest.fixture
def fake() -> Iterator[Site]:
    """A server with SERL's routes, on an arm without physics in real time."""
    with site(FakeDriver(clock="realtime")) as found:
        yield found


@pytest.fixture(scope="module")
def calm() -> Iterator[Site]:
    """As ``fake``, shared by tests that move nothing."""
    with site(FakeDriver(clock="realtime")) as found:
        yield found
