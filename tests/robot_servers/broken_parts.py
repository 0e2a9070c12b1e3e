"""How a working server is broken on purpose, and served."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any
from unittest import mock

import numpy as np
from served import served

from robot_servers import server as server_module
from robot_servers.drivers.fake import HOME, FakeDriver
from robot_servers.guarded import GuardedRobot

HZ = 50.0  # cycles per s: half as many calls as by default
SILENCE = 1.0  # s, as in real time
START = np.array(HOME)

Calls = dict[str, Any]


class Replaced:
    """A guarded robot of which some calls are replaced."""

    def __init__(self, robot: GuardedRobot, calls: Calls) -> None:
        self._robot = robot
        self._calls = calls

    def __getattr__(self, name: str) -> Any:
        return self._calls.get(name) or getattr(self._robot, name)


@dataclass(frozen=True)
class Broken:
    """``calls`` of the robot are replaced, or names in `robot_servers.server` are; the driver may be changed as well.

    ``caught`` are the checks that must fail, all of them and no others.
    """

    caught: frozenset[str]
    calls: Callable[[GuardedRobot, FakeDriver], Calls] = lambda robot, driver: {}
    names: Callable[[], Mapping[str, Any]] = dict
    driver: Callable[[], Any] = lambda: FakeDriver(cycle_hz=HZ, cameras=("front",))


@contextlib.contextmanager
def broken(what: Broken) -> Iterator[str]:
    """Serve an arm that is broken like this; yields its address."""
    driver = what.driver()
    robot = GuardedRobot(driver)
    robot.connect()
    calls = what.calls(robot, driver)
    try:
        with contextlib.ExitStack() as stack:
            for name, value in what.names().items():
                stack.enter_context(mock.patch.object(server_module, name, value))
            yield stack.enter_context(served(Replaced(robot, calls), silence=SILENCE)).address
    finally:
        robot.close()


def cycles(robot: GuardedRobot, seconds: float) -> int:
    """How many cycles that is. Raises what the robot raises for times that cannot be."""
    if not 0.0 <= seconds <= 60.0:
        robot.advance(seconds)
    return round(seconds * HZ)
