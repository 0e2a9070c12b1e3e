"""Every new state to any number of observers, from a socket and a thread of its own.

A message is one frame, a packed ``{"state": RobotState, "time": s}``: the server's clock when it was sent. Whoever
is slow misses states and delays nobody; what arrives is always the newest. Nobody listening costs nothing.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable

import zmq

from robot_servers import wire
from robot_servers.answering import Context, address_of, bound
from robot_servers.channel import Channel, ClockOffset, NoAnswer
from robot_servers.hello import say_hello
from robot_servers.interface import ClockMode, Metadata, RobotError, RobotState
from robot_servers.keys import ClientKeys, ServerKeys, secure_client, secure_server
from robot_servers.wire import WireError

log = logging.getLogger(__name__)

RATE = 500.0  # states per s at most; slower robots are followed state by state
LOOK = 0.001  # s between looks at the newest state: what a state waits at most, at the price of 2 % of one core
IDLE = 50  # ms between looks at the closing event while nobody listens
WAITING = 1024  # states under the lockstep clock that may wait to be sent
QUEUE = 4  # messages kept for an observer that does not read; more are dropped
SEND_BUFFER = 1 << 16  # bytes in the kernel for each observer: about 50 states, so that none is seconds old
SYNC_EVERY = 2.0  # s between two looks at the server's clock
SYNC_FIRST = 8  # round trips at the start, of which the best counts


class StatePublisher:
    """The server's end. In real time it samples ``newest``; under the lockstep clock it sends what `put` gives it."""

    def __init__(
        self,
        context: Context,
        address: str,
        newest: Callable[[], RobotState],
        clock: ClockMode,
        keys: ServerKeys | None,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self.address = address
        self._context = context
        self._newest = newest
        self._clock: ClockMode = clock
        self._keys = keys
        self._now = now
        self._listeners = False
        self._waiting: deque[RobotState] = deque(maxlen=WAITING)
        self._given = threading.Event()
        self._closing = threading.Event()
        self._thread: threading.Thread | None = None

    def open(self) -> None:
        """Raises `RobotError` for an address that is taken."""
        socket = self._context.socket(zmq.XPUB)  # a PUB that tells whether anybody listens
        socket.setsockopt(zmq.SNDHWM, QUEUE)
        socket.setsockopt(zmq.SNDBUF, SEND_BUFFER)
        secure_server(socket, self._keys)
        self.address = address_of(bound(socket, self.address))
        run = self._follow if self._clock == "lockstep" else self._sample
        self._thread = threading.Thread(target=run, args=(socket,), name="states", daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._closing.set()
        self._given.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def put(self, state: RobotState) -> None:
        """Lockstep clock: a new state. Never waits."""
        if self._listeners:
            self._waiting.append(state)
            self._given.set()

    def _follow(self, socket: zmq.Socket[bytes]) -> None:
        with socket:
            socket.linger = 0
            while not self._closing.is_set():
                self._given.wait(IDLE / 1000)
                self._given.clear()
                self._note_listeners(socket, 0)
                while self._waiting:
                    self._send(socket, self._waiting.popleft())

    def _sample(self, socket: zmq.Socket[bytes]) -> None:
        with socket:
            socket.linger = 0
            last, due = float("-inf"), self._now()
            while not self._closing.is_set():
                self._note_listeners(socket, 0 if self._listeners else IDLE)
                if self._listeners:
                    state = self._newest()
                    if state.time - last > 0.9 / RATE:
                        last = state.time
                        self._send(socket, state)
                due = max(due + LOOK, self._now() - LOOK)  # after a delay no burst of looks to catch up
                time.sleep(max(0.0, due - self._now()))

    def _note_listeners(self, socket: zmq.Socket[bytes], wait_ms: int) -> None:
        while socket.poll(wait_ms):
            self._listeners = socket.recv().startswith(b"\x01")  # told of the first and of the last one only
            wait_ms = 0

    def _send(self, socket: zmq.Socket[bytes], state: RobotState) -> None:
        sent = self._now() if self._clock == "realtime" else state.time
        socket.send(wire.pack({"state": wire.to_tree(state), "time": sent}))  # an XPUB drops, it never waits


class StateStream:
    """The observer's end for the robot server at ``address``: the newest state, and how old it is.

    ``offset`` is that of the server's clock from ours, with its uncertainty; a thread keeps it fresh. Needs no
    lease and disturbs nobody. For one thread.
    """

    def __init__(self, address: str, timeout: float = 5.0, keys: ClientKeys | None = None) -> None:
        self._channel = Channel(address, timeout, keys=keys)
        self._timeout = timeout
        self._keys = keys
        self._context = Context()
        self._socket: zmq.Socket[bytes] | None = None
        self._metadata: Metadata | None = None
        self._state: RobotState | None = None
        self._closing = threading.Event()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> StateStream:
        self.connect()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def metadata(self) -> Metadata:
        if self._metadata is None:
            raise RobotError("the stream is not connected: call connect() first")
        return self._metadata

    @property
    def offset(self) -> ClockOffset:
        """Of the server's clock; under the lockstep clock states carry simulated time, which it says nothing about."""
        return self._channel.offset

    def connect(self) -> None:
        """Subscribe, and look at the server's clock. Raises `RobotError` if nobody answers or streams there."""
        hello = say_hello(self._channel, self._timeout)
        if "state" not in hello.sockets:
            raise RobotError(f"the server at {self._channel.address} streams no states")
        self._metadata = hello.metadata
        self._socket = self._subscribe(hello.sockets["state"])
        for _ in range(SYNC_FIRST):
            self._channel.call("time")
        self._thread = threading.Thread(target=self._synchronise, name="clock-offset", daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._closing.set()
        if self._thread is not None:
            self._thread.join()
        if self._socket is not None:
            self._socket.close(linger=0)
            self._socket = None
        self._channel.close()
        self._context.term()

    def newest(self) -> RobotState:
        """Never waits. Raises `RobotError` before the first state; its `age` tells whether the server still sends."""
        self._take(0.0)
        if self._state is None:
            raise RobotError(f"no state has come from {self._channel.address} yet: wait() for the first")
        return self._state

    def wait(self, timeout: float) -> RobotState:
        """The next state that this stream has not returned yet. Raises `NoAnswer` after ``timeout`` s without one."""
        if not self._take(timeout) or self._state is None:
            raise NoAnswer(f"no new state from {self._channel.address} within {timeout:g} s: it is gone or hangs")
        return self._state

    def age(self) -> float:
        """s since the newest state was measured, right to within ``offset.uncertainty()``; real time only."""
        if self.metadata.clock == "lockstep":
            raise RobotError("under the lockstep clock states have no age: time passes only when somebody advances it")
        return time.monotonic() + self.offset.seconds - self.newest().time

    def _take(self, timeout: float) -> bool:
        """Whether a newer state came within ``timeout`` s; the socket keeps only the newest."""
        if self._socket is None:
            raise RobotError("the stream is not connected: call connect() first")
        if not self._socket.poll(int(1000 * timeout)):
            return False
        try:
            tree = wire.unpack(self._socket.recv())
            self._state = wire.from_tree(RobotState, tree.get("state") if isinstance(tree, dict) else None)
        except WireError as error:
            raise RobotError(f"{self._channel.address} streams what is no state: {error}") from error
        return True

    def _subscribe(self, address: str) -> zmq.Socket[bytes]:
        socket = self._context.socket(zmq.SUB)
        socket.setsockopt(zmq.CONFLATE, 1)
        socket.setsockopt(zmq.MAXMSGSIZE, 1 << 20)
        socket.setsockopt(zmq.SUBSCRIBE, b"")
        secure_client(socket, self._keys)
        socket.connect(address)
        return socket

    def _synchronise(self) -> None:
        while not self._closing.wait(SYNC_EVERY):
            try:
                self._channel.call("time", timeout=1.0)
            except RobotError as error:
                log.info("the clock of %s was not seen: %s", self._channel.address, error)
