"""One robot's computer in a test: a driver, its guard, its server, and the HTTP face beside it."""

from __future__ import annotations

import contextlib
import http.client
import json
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from urllib.parse import urlsplit

import numpy as np

from robot_servers.client import RobotClient
from robot_servers.guarded import GuardedRobot
from robot_servers.http import HttpServer
from robot_servers.http_face import Face
from robot_servers.http_options import HttpOptions
from robot_servers.interface import Driver
from robot_servers.serl_dialect import GripperNumbers
from robot_servers.server import Server

PATIENCE = 20.0  # s; a loaded machine is slow, a hang is a failure


def post(url: str, route: str, raw: bytes = b"", headers: dict[str, str] | None = None) -> tuple[int, str, str]:
    """Status, type and text of the answer."""
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(str(parts.hostname), parts.port, timeout=PATIENCE)
    with contextlib.closing(connection):
        connection.request("POST", f"/{route}", raw, headers or {})
        answer = connection.getresponse()
        return answer.status, str(answer.getheader("Content-Type")), answer.read().decode()


@dataclass
class Site:
    """The driver, its guard, the address of its server and the URL of its HTTP face."""

    driver: Driver
    robot: GuardedRobot
    address: str
    url: str

    def get(self, route: str) -> dict:
        """The JSON of a getter."""
        status, kind, text = post(self.url, route)
        assert (status, kind) == (200, "application/json"), text
        return json.loads(text)

    def do(self, route: str, body: object = None) -> str:
        """The text of an action."""
        status, kind, text = post(self.url, route, b"" if body is None else json.dumps(body).encode())
        assert status == 200 and kind.startswith("text/plain"), text
        return text

    def refused(self, route: str, body: object = None, raw: bytes | None = None, **headers: str) -> tuple[int, str]:
        """Status and sentence of an action that was refused."""
        data = raw if raw is not None else b"" if body is None else json.dumps(body).encode()
        status, kind, text = post(self.url, route, data, headers)
        assert status >= 400 and kind == "application/json", text
        return status, json.loads(text)["error"]

    def near(self, pose: object, tolerance: float = 0.004) -> bool:
        """Whether the TCP is within ``tolerance`` m of a pose."""
        return float(np.linalg.norm(self.robot.state().pose[:3] - np.asarray(pose, float)[:3])) < tolerance


@contextlib.contextmanager
def site(driver: Driver, lease: float = 1.0, gripper: GripperNumbers | None = None) -> Iterator[Site]:
    """Everything connected and serving, until the end of the block."""
    robot = GuardedRobot(driver)
    robot.connect()
    with contextlib.ExitStack() as stack:
        stack.callback(robot.close)
        server = stack.enter_context(Server(robot, "tcp://127.0.0.1:*"))
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        stack.callback(thread.join)
        stack.callback(server.stop)
        face = Face(lambda: RobotClient(server.address), lease)
        options = HttpOptions(port=0, gripper=gripper or GripperNumbers())
        http_server = stack.enter_context(HttpServer(face, options))
        yield Site(driver, robot, server.address, http_server.url)


def wait_for(condition: Callable[[], object], what: str = "it") -> None:
    """Return when ``condition()`` is true; a hang is a failure."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, f"{what} did not happen within {PATIENCE:g} s"
        time.sleep(0.01)
