"""A remote robot that looks like a local one. Every call ends within its timeout, whatever the server does."""

from __future__ import annotations

import contextlib
import math
import os
import platform
import threading
import time
import uuid
from typing import Any

import zmq

from robot_servers import wire
from robot_servers.interface import (
    PROTOCOL_VERSION,
    Applied,
    Command,
    CommandRefused,
    Frame,
    Limits,
    Metadata,
    NotOwner,
    ResetStep,
    RobotError,
    RobotState,
    Status,
)
from robot_servers.lease import Client
from robot_servers.wire import Buffer, Tree, WireError

CONNECT_TIMEOUT = 5.0  # s
RELEASE_TIMEOUT = 0.5  # s; a server that does not answer ends the lease by itself
QUEUE = 16  # requests waiting for a server that does not read


class NoAnswer(RobotError):
    """The server did not answer in time; whether it carried the call out is unknown."""


class Channel:
    """Calls by name over one socket. Opens it with the first call; safe to use from several threads.

    ``client`` says who calls; who only looks need not say it.
    After a timeout the socket is thrown away, so that a late answer is never taken for that of a later call.
    """

    def __init__(self, address: str, timeout: float, client: Client | None = None) -> None:
        self.address = address
        self._client = {} if client is None else {"client": wire.to_tree(client)}
        self._timeout = timeout
        self._lock = threading.Lock()
        self._context: zmq.Context[zmq.Socket[bytes]] | None = None
        self._socket: zmq.Socket[bytes] | None = None
        self._count = 0

    def call(self, name: str, *args: Any, timeout: float | None = None) -> Tree:
        """The answer of the server. Raises `CommandRefused`, `RobotError` (its own, or malformed), `NoAnswer`."""
        limit = self._timeout if timeout is None else timeout
        with self._lock:
            self._count += 1
            request = {"id": self._count, "call": name, "args": [wire.to_tree(arg) for arg in args]}
            frames = _encode(request | self._client)
            socket = self._socket or self._open()
            try:
                socket.send_multipart(frames, zmq.NOBLOCK)
                answer = self._receive(socket, self._count, time.monotonic() + limit)
            except (zmq.Again, WireError) as error:
                self._drop()
                raise self._explain(name, limit, error) from error
            except BaseException:  # an interrupted call must not leave its answer to the next one
                self._drop()
                raise
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
            if left <= 0 or not socket.poll(math.ceil(left * 1000)):
                raise zmq.Again
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
        try:
            socket.connect(self.address)
        except zmq.ZMQError as error:
            socket.close()
            raise RobotError(f'"{self.address}" is not an address: {error}; expected tcp://HOST:PORT') from error
        self._socket = socket
        return socket

    def _drop(self) -> None:
        if self._socket is not None:
            self._socket.close(linger=0)
            self._socket = None

    def _explain(self, name: str, limit: float, error: Exception) -> RobotError:
        if isinstance(error, WireError):
            return RobotError(f"{self.address} answers, but not like a robot server: {error}")
        return NoAnswer(f'no answer to "{name}" from {self.address} within {limit:g} s: the server is gone or hangs')


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


class RobotClient:
    """Satisfies `Robot` for the server at ``address`` (``tcp://HOST:PORT``); ``timeout`` s bounds every call.

    The first call that changes something takes the lease if it is free, every call renews it, `close`
    releases it. Lost by silence, it is taken again by the next such call: always together with the
    limits of the last `tighten`, so that nothing is ever sent without them, even to a server that was
    started again.
    """

    def __init__(self, address: str, timeout: float = 5.0) -> None:
        self._channel = Channel(address, timeout, Client(uuid.uuid4().hex, f"{platform.node()}:{os.getpid()}"))
        self._metadata: Metadata | None = None
        self._limits: Limits | None = None
        self._acquired = False

    def __enter__(self) -> RobotClient:
        self.connect()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def metadata(self) -> Metadata:
        if self._metadata is None:
            raise RobotError("the client is not connected: call connect() first")
        return self._metadata

    def connect(self) -> None:
        """Fetch the metadata. Raises `RobotError` within 5 s if no server of this protocol version answers."""
        address = self._channel.address
        try:
            hello = self._channel.call("hello", timeout=CONNECT_TIMEOUT - 0.2)
        except NoAnswer as error:
            raise RobotError(
                f"no robot server answers at {address} within {CONNECT_TIMEOUT:g} s; "
                f"start one with: python -m robot_servers mujoco --port {address.rsplit(':', 1)[-1]}"
            ) from error
        self._metadata = read_hello(hello, address)

    def close(self) -> None:
        if self._acquired:
            with contextlib.suppress(RobotError):
                self._channel.call("release", timeout=RELEASE_TIMEOUT)
        self._acquired = False
        self._channel.close()

    def state(self) -> RobotState:
        return self._call(RobotState, "state")

    def frames(self) -> dict[str, Frame]:
        """As of the server; the images are read-only."""
        return self._call(dict[str, Frame], "frames")

    def command(self, command: Command) -> Applied:
        return self._change(Applied, "command", command)

    def reset(self, plan: tuple[ResetStep, ...]) -> None:
        self._change(None, "reset", plan)

    def confirm(self) -> None:
        self._change(None, "confirm")

    def hold(self, reason: str) -> None:
        self._call(None, "hold", reason)

    def tighten(self, limits: Limits) -> None:
        """Take the lease, or keep it, and bind commands to these limits."""
        self._acquire(limits)
        self._limits = limits

    def status(self) -> Status:
        return self._call(Status, "status")

    def advance(self, seconds: float) -> None:
        self._change(None, "advance", seconds)

    def _acquire(self, limits: Limits | None) -> None:
        self._acquired = True  # even without an answer: then it may have been given
        self._channel.call("acquire", limits)

    def _change(self, kind: Any, name: str, *args: Any) -> Any:
        try:
            return self._call(kind, name, *args)
        except NotOwner:  # nothing was done: take the lease, if it is free, and ask again
            self._acquire(self._limits)
            return self._call(kind, name, *args)

    def _call(self, kind: Any, name: str, *args: Any) -> Any:
        answer = self._channel.call(name, *args)
        try:
            return None if kind is None else wire.from_tree(kind, answer)
        except WireError as error:
            raise RobotError(f'malformed answer to "{name}" from {self._channel.address}: {error}') from error


def read_hello(hello: Tree, address: str) -> Metadata:
    """The metadata in a server's answer to ``hello``. Raises `RobotError` naming both protocol versions."""
    version = hello.get("protocol") if isinstance(hello, dict) else None
    if version != PROTOCOL_VERSION:
        raise RobotError(
            f"the server at {address} speaks protocol {version!r:.40}, this client speaks {PROTOCOL_VERSION}: "
            "install the same version of this package on both machines"
        )
    try:
        return wire.from_tree(Metadata, hello.get("metadata"))
    except WireError as error:
        raise RobotError(f"the server at {address} sent metadata that cannot be read: {error}") from error


class TruthClient:
    """The privileged channel of a simulated robot: for scripted operators, oracles and evaluators only."""

    def __init__(self, address: str, timeout: float = 5.0) -> None:
        self._channel = Channel(address, timeout)

    def ground_truth(self) -> dict[str, Any]:
        """Object poses (7,) and "success" (bool). Raises `RobotError`; opens the socket with the first call."""
        truth = self._channel.call("ground_truth")
        if not isinstance(truth, dict):
            raise RobotError(f"malformed ground truth from {self._channel.address}: {type(truth).__name__}")
        return truth

    def close(self) -> None:
        self._channel.close()
