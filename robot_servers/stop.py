"""STOP: a socket and a thread of their own, so that it works while everything else on the server hangs.

Open to every client, without a lease and without hello. It is called STOP because it is not safety-rated: keep the
hardware stop in reach. Calls, answered as in `robot_servers.answering`: ``stop(reason)`` and ``ready()``.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Callable

import zmq

from robot_servers.answering import Call, Context, address_of, answer_request, open_socket, receive, send
from robot_servers.channel import Channel
from robot_servers.hello import STOP_PORT, beside, say_hello
from robot_servers.interface import RobotError
from robot_servers.keys import ClientKeys, ServerKeys

log = logging.getLogger(__name__)

POLL = 50  # ms between looks at the closing event
MAX_REASON = 200  # characters of a reason, which every status carries
ASK = 1.0  # s to ask the robot's own socket where its STOP is, before the usual place is taken
ANSWER = 3.0  # s for the answer to a STOP: it comes when the arm has been told to stop


class StopService:
    """Calls ``stop`` for whoever asks, in its own thread, from `open` to `close`."""

    def __init__(self, context: Context, address: str, stop: Callable[[str], None], keys: ServerKeys | None) -> None:
        self.address = address
        self._context = context
        self._calls = {"ready": Call((), lambda: None), "stop": Call((str,), self._stop)}
        self._run_stop = stop
        self._keys = keys
        self._closing = threading.Event()
        self._thread: threading.Thread | None = None

    def open(self) -> None:
        """Raises `RobotError` for an address that is taken."""
        socket = open_socket(self._context, self.address, self._keys)
        self.address = address_of(socket)
        self._thread = threading.Thread(target=self._serve, args=(socket,), name="stop", daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._closing.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def _serve(self, socket: zmq.Socket[bytes]) -> None:
        with socket:
            socket.linger = 100
            while not self._closing.is_set():
                if socket.poll(POLL):
                    peer, frames = receive(socket)
                    send(socket, peer, answer_request(frames, self._calls))

    def _stop(self, reason: str) -> None:
        log.warning("STOP: %s", reason[:MAX_REASON])
        self._run_stop(reason[:MAX_REASON])


def send_stop(address: str, reason: str, keys: ClientKeys | None = None) -> None:
    """STOP the robot served at ``address``, where it says that its STOP is, or if it hangs, at the usual place.

    Raises `RobotError` if it is not certain that it heard.
    """
    where, problems = beside(address, STOP_PORT), []
    try:
        where = stop_address(address, keys)
    except RobotError as error:
        problems.append(str(error))
    try:
        with contextlib.closing(Channel(where, ANSWER, keys=keys)) as channel:
            channel.call("stop", reason)
    except RobotError as error:
        problems.append(str(error))
        raise RobotError(f"NOT STOPPED, use the hardware stop: {'; '.join(problems)}") from error


def stop_address(address: str, keys: ClientKeys | None = None) -> str:
    """Where the STOP of the robot server at ``address`` is, as it says itself. Raises `RobotError`."""
    with contextlib.closing(Channel(address, ASK, keys=keys)) as channel:
        return say_hello(channel, ASK).sockets.get("stop", beside(address, STOP_PORT))
