"""Calls by name to a robot server, each bounded in time, and what they tell about the server's clock."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from typing import Any

import zmq

from robot_servers import wire
from robot_servers.interface import CommandRefused, NotOwner, RobotError
from robot_servers.keys import ClientKeys, Handshakes, secure_client
from robot_servers.lease import Client
from robot_servers.wire import Buffer, Tree, WireError

LOOK = 0.1  # s between looks at whether the server refuses this client
QUEUE = 16  # requests waiting for a server that does not read
DRIFT = 100e-6  # s per s that two crystals may drift apart: 50 ppm each


class ClockOffset:
    """How far the server's clock is ahead of this one's, bounded by the best round trip so far.

    A server's stamp was made between sending and receiving, whatever the delays on either way: half the round
    trip bounds the error of the middle, as in NTP (RFC 5905), and it grows with the drift since. Readable from
    any thread; observations come from one at a time.
    """

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._best = (0.0, math.inf, 0.0)  # offset, its uncertainty then, local time then

    def observe(self, sent: float, server: float, received: float) -> None:
        """One round trip: the server's clock read ``server`` between our ``sent`` and ``received``."""
        half = (received - sent) / 2
        if half < self.uncertainty():
            self._best = (server - (sent + received) / 2, half, received)

    @property
    def seconds(self) -> float:
        """What to add to this process's monotonic clock to read the server's; 0 before the first round trip."""
        return self._best[0]

    def uncertainty(self) -> float:
        """s by which `seconds` may be wrong now; infinite before the first round trip."""
        _, half, at = self._best
        return half + DRIFT * (self._now() - at)


class NoAnswer(RobotError):
    """The server did not answer in time; whether it carried the call out is unknown.

    ``refused`` says why, if the server did not let this client in: then nothing was carried out.
    """

    def __init__(self, text: str, refused: str = "") -> None:
        super().__init__(text)
        self.refused = refused


class Channel:
    """Calls by name over one socket. Opens it with the first call; safe to use from several threads.

    ``client`` says who calls; who only looks need not say it. ``keys`` are for a server that demands them.
    Every answer tells ``offset`` about the server's clock. After a timeout the socket is thrown away, so that
    a late answer is never taken for that of a later call.
    """

    def __init__(
        self, address: str, timeout: float, client: Client | None = None, keys: ClientKeys | None = None
    ) -> None:
        self.address = address
        self.offset = ClockOffset()
        self._keys = keys
        self._client = {} if client is None else {"client": wire.to_tree(client)}
        self._timeout = timeout
        self._lock = threading.Lock()
        self._context: zmq.Context[zmq.Socket[bytes]] | None = None
        self._socket: zmq.Socket[bytes] | None = None
        self._handshakes: Handshakes | None = None
        self._count = 0

    def call(self, name: str, *args: Any, timeout: float | None = None) -> Tree:
        """The answer of the server. Raises `CommandRefused`, `RobotError` (its own, or malformed), `NoAnswer`."""
        limit = self._timeout if timeout is None else timeout
        with self._lock:
            self._count += 1
            request = {"id": self._count, "call": name, "args": [wire.to_tree(arg) for arg in args]}
            frames = _encode(request | self._client)
            socket = self._socket or self._open()
            sent = time.monotonic()
            try:
                socket.send_multipart(frames, zmq.NOBLOCK)
                answer = self._receive(socket, self._count, sent + limit)
            except (zmq.Again, WireError) as error:
                explained = self._explain(name, limit, error)
                self._drop()
                raise explained from error
            except BaseException:  # an interrupted call must not leave its answer to the next one
                self._drop()
                raise
            self._note_time(sent, answer.get("time"))
        if "error" in answer:
            raise_error(answer["error"])
        return answer["ok"]

    def close(self) -> None:
        with self._lock:
            self._drop()
            if self._context is not None:
                self._context.term()
                self._context = None

    def _receive(self, socket: zmq.Socket[bytes], ident: int, deadline: float) -> dict[str, Tree]:
        while True:
            left = deadline - time.monotonic()
            if left <= 0:
                raise zmq.Again
            if not socket.poll(math.ceil(min(left, LOOK) * 1000)):
                if self._shut_out():
                    raise zmq.Again
                continue
            answer = wire.decode(socket.recv_multipart())
            if not isinstance(answer, dict) or not answer.keys() & {"ok", "error"}:
                raise WireError("the answer carries neither ok nor error")
            if answer.get("id") in (ident, None):
                return answer

    def _open(self) -> zmq.Socket[bytes]:
        if self._context is None:
            self._context = zmq.Context()
        socket = self._context.socket(zmq.DEALER)
        socket.setsockopt(zmq.LINGER, 0)
        socket.setsockopt(zmq.SNDHWM, QUEUE)
        socket.setsockopt(zmq.MAXMSGSIZE, wire.MAX_BYTES)
        secure_client(socket, self._keys)
        handshakes = Handshakes(socket)
        try:
            socket.connect(self.address)
        except zmq.ZMQError as error:
            handshakes.close()
            socket.close()
            raise RobotError(f'"{self.address}" is not an address: {error}; expected tcp://HOST:PORT') from error
        self._socket, self._handshakes = socket, handshakes
        return socket

    def _shut_out(self) -> bool:
        """Whether the server has refused this client for good: then no answer will come."""
        return self._handshakes is not None and bool(self._handshakes.failure()) and self._handshakes.final

    def _note_time(self, sent: float, stamp: Tree) -> None:
        if isinstance(stamp, float):
            self.offset.observe(sent, stamp, time.monotonic())

    def _drop(self) -> None:
        if self._handshakes is not None:
            self._handshakes.close()
            self._handshakes = None
        if self._socket is not None:
            self._socket.close(linger=0)
            self._socket = None

    def _explain(self, name: str, limit: float, error: Exception) -> RobotError:
        if isinstance(error, WireError):
            return RobotError(f"{self.address} answers, but not like a robot server: {error}")
        refused = self._handshakes.failure() if self._handshakes else ""
        why = f"it is there, but {refused}" if refused else "the server is gone or hangs"
        return NoAnswer(f'no answer to "{name}" from {self.address} within {limit:g} s: {why}', refused)


def raise_error(error: Tree) -> None:
    """Raise what the server answered, as the class it had there where that is one of the interface's.

    What the server could not read it did not carry out: to the caller that is a refusal as well.
    """
    if not isinstance(error, dict):
        raise RobotError(f"the server answered with a malformed error: {error!r:.80}")
    kind, text = str(error.get("kind")), str(error.get("text"))
    if kind == "NotOwner":
        raise NotOwner(text)
    if kind in ("CommandRefused", "WireError"):
        raise CommandRefused(text)
    raise RobotError(text if kind == "RobotError" else f"{kind}: {text}")


def _encode(request: Tree) -> list[Buffer]:
    try:
        return wire.encode(request)
    except WireError as error:
        raise CommandRefused(f"nothing was sent: {error}") from error
