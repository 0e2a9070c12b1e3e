"""A fake arm served on loopback, in the way of a lab: for tests of everything around the server."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from typing import Any

from robot_servers.drivers.fake import FakeDriver
from robot_servers.guarded import GuardedRobot
from robot_servers.server import Server

LOOPBACK = "tcp://127.0.0.1:*"


@contextlib.contextmanager
def served(robot: Any, address: str = LOOPBACK, **options: Any) -> Iterator[Server]:
    """The server of a connected robot, in a thread."""
    with Server(robot, address, **options) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server
        finally:
            server.stop()
            thread.join()


@contextlib.contextmanager
def served_at(robot: Any, address: str = LOOPBACK, **options: Any) -> Iterator[str]:
    """As `served`, for whom the address is enough."""
    with served(robot, address, **options) as server:
        yield server.address


@contextlib.contextmanager
def serving(driver: FakeDriver, address: str = LOOPBACK, **options: Any) -> Iterator[Server]:
    """The server of a fake arm behind its guard, in a thread; closed in the end, even if the driver hangs."""
    robot = GuardedRobot(driver)
    robot.connect()
    with contextlib.ExitStack() as stack:
        stack.callback(robot.close)
        server = stack.enter_context(served(robot, address, **options))
        stack.callback(driver.running.set)
        yield server


class Hang:
    """Stands in for a method that never returns until `release`."""

    def __init__(self) -> None:
        self.release = threading.Event()
        self.entered = threading.Event()

    def __call__(self, *_: Any) -> Any:
        self.entered.set()
        self.release.wait(30)
        return {}
