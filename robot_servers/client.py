"""A remote robot that looks like a local one. Every call ends within its timeout, whatever the server does."""

from __future__ import annotations

import contextlib
import os
import platform
import uuid
from collections.abc import Mapping
from typing import Any

from robot_servers import wire
from robot_servers.cameras.shared import FrameReader, attach
from robot_servers.channel import Channel, ClockOffset, NoAnswer
from robot_servers.hello import say_hello
from robot_servers.interface import (
    Applied,
    Command,
    Frame,
    Limits,
    Metadata,
    NotOwner,
    ResetStep,
    RobotError,
    RobotState,
    Status,
)
from robot_servers.jpeg import Encoding, JpegFrame, decompress
from robot_servers.keys import ClientKeys
from robot_servers.lease import Client
from robot_servers.statistics import Statistics
from robot_servers.wire import WireError

CONNECT_TIMEOUT = 5.0  # s
RELEASE_TIMEOUT = 0.5  # s; a server that does not answer ends the lease by itself
STOP_TIMEOUT = 2.0  # s for each of the two ways to STOP
RECOVER_TIMEOUT = 20.0  # s; an arm may take its time to clear a fault and to start its controller


class RobotClient:
    """Satisfies `Robot` for the server at ``address`` (``tcp://HOST:PORT``); ``timeout`` s bounds every call.

    The first call that changes something takes the lease if it is free, every call renews it, `close`
    releases it. Lost by silence, it is taken again by the next such call: always together with the
    limits of the last `tighten`, so that nothing is ever sent without them, even to a server that was
    started again. ``keys`` are for a server that demands them; ``encoding``
    is that of frames which come over the network.
    """

    def __init__(
        self, address: str, timeout: float = 5.0, keys: ClientKeys | None = None, encoding: Encoding = "raw"
    ) -> None:
        self._encoding: Encoding = encoding
        self._me = Client(uuid.uuid4().hex, f"{platform.node()}:{os.getpid()}")
        self._channel = Channel(address, timeout, self._me, keys)
        self._stop_channel: Channel | None = None
        self._shared: FrameReader | None = None
        self._keys = keys
        self._metadata: Metadata | None = None
        self._sockets: Mapping[str, str] = {}
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

    @property
    def sockets(self) -> Mapping[str, str]:
        """The server's further sockets by name, as this client reaches them; known after `connect`."""
        return self._sockets

    @property
    def offset(self) -> ClockOffset:
        """Of the server's clock from this process's, refined by every call; real time only."""
        return self._channel.offset

    def connect(self) -> None:
        """Fetch the metadata and find the STOP. Raises `RobotError` within 5 s if either does not answer."""
        address = self._channel.address
        try:
            hello = say_hello(self._channel, CONNECT_TIMEOUT - 1.2)
        except NoAnswer as error:
            if error.refused:
                raise
            raise RobotError(
                f"no robot server answers at {address} within {CONNECT_TIMEOUT:g} s; "
                f"start one with: python -m robot_servers mujoco --port {address.rsplit(':', 1)[-1]}"
            ) from error
        if "stop" in hello.sockets:  # connected now, so that the first STOP finds its way open
            self._stop_channel = Channel(hello.sockets["stop"], STOP_TIMEOUT, keys=self._keys)
            self._stop_channel.call("ready", timeout=1.0)
        self._shared = attach(hello.sockets.get("frames", ""), hello.metadata.cameras)
        self._metadata, self._sockets = hello.metadata, hello.sockets

    def close(self) -> None:
        if self._acquired:
            with contextlib.suppress(RobotError):
                self._channel.call("release", timeout=RELEASE_TIMEOUT)
        self._acquired = False
        self._channel.close()
        if self._stop_channel is not None:
            self._stop_channel.close()
            self._stop_channel = None
        self._shared = None

    def state(self) -> RobotState:
        return self._call(RobotState, "state")

    def frames(self) -> dict[str, Frame]:
        """As of the server; the images are read-only. On its machine they are read from memory, else sent."""
        frames = None if self._shared is None else self._shared.frames()
        if frames is not None:
            return frames
        if self._encoding == "jpeg":
            return decompress(self._call(dict[str, JpegFrame], "frames", "jpeg"))
        return self._call(dict[str, Frame], "frames")

    def command(self, command: Command) -> Applied:
        return self._change(Applied, "command", command)

    def reset(self, plan: tuple[ResetStep, ...]) -> None:
        self._change(None, "reset", plan)

    def confirm(self) -> None:
        self._change(None, "confirm")

    def hold(self, reason: str) -> None:
        self._call(None, "hold", reason)

    def stop(self, reason: str) -> None:
        """By the server's own STOP socket, which answers even if the rest of it hangs; else by the common one.

        Raises `RobotError` if neither answers: then it is not certain that the arm stops.
        """
        try:
            if self._stop_channel is None:
                raise NoAnswer(f"no STOP socket is known of {self._channel.address}")
            self._stop_channel.call("stop", reason)
        except NoAnswer as first:
            try:
                self._channel.call("stop", reason, timeout=STOP_TIMEOUT)
            except NoAnswer as second:
                raise RobotError(f"NOT STOPPED, use the hardware stop: {first}; {second}") from second

    def recover(self) -> None:
        self._channel.call("recover", timeout=RECOVER_TIMEOUT)

    def guide(self, on: bool) -> None:
        self._change(None, "guide", on)

    def tighten(self, limits: Limits) -> None:
        """Take the lease, or keep it, and bind commands to these limits."""
        self._acquire(limits)
        self._limits = limits

    def status(self) -> Status:
        return self._call(Status, "status")

    def statistics(self) -> Statistics:
        """What the server counts about itself."""
        return self._call(Statistics, "statistics")

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


class TruthClient:
    """The privileged channel of a simulated robot: for scripted operators, oracles and evaluators only."""

    def __init__(self, address: str, timeout: float = 5.0, keys: ClientKeys | None = None) -> None:
        self._channel = Channel(address, timeout, keys=keys)

    def ground_truth(self) -> dict[str, Any]:
        """Object poses (7,) and facts (bool), "success" among them. Opens the socket with the first call.

        Raises `RobotError`.
        """
        truth = self._channel.call("ground_truth")
        if not isinstance(truth, dict):
            raise RobotError(f"malformed ground truth from {self._channel.address}: {type(truth).__name__}")
        return truth

    def close(self) -> None:
        self._channel.close()
