"""A robot behind sockets: named calls in, answers out, states to whoever listens. One bad message never ends it.

The first call of a client is ``hello`` (`robot_servers.hello`), answered with the protocol version, the metadata and
the addresses of the other sockets. Calls that change something need the lease, taken by ``acquire`` and renewed by
every call of its owner. Besides the calls, each from a thread of its own: STOP (`robot_servers.stop`) and the stream of
states (`robot_servers.stream`). The simulated scene's ground truth is served on one more socket, or not at all.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Protocol

import zmq

from robot_servers.answering import (
    RATE,
    Call,
    Context,
    Throttle,
    address_of,
    answer_request,
    error_answer,
    open_socket,
    receive,
    send,
)
from robot_servers.cameras.shared import FramePublisher, shareable
from robot_servers.hello import BEFORE_VERSIONS, STATE_PORT, STOP_PORT, beside, choose_version
from robot_servers.interface import Command, Limits, ResetStep, Robot, RobotError, RobotState, Status
from robot_servers.jpeg import Compressor, Encoding
from robot_servers.keys import Gatekeeper, ServerKeys, check_address
from robot_servers.lease import SILENCE, Client, Lease
from robot_servers.statistics import CallLog
from robot_servers.stop import MAX_REASON, StopService
from robot_servers.stream import StatePublisher
from robot_servers.wire import Tree

POLL = 50  # ms between looks at the stop event


class ServedRobot(Robot, Protocol):
    """A guarded robot that also knows the ground truth of its scene, and can do without an owner."""

    def ground_truth(self) -> Mapping[str, Any]: ...
    def abandon(self) -> None: ...


def robot_calls(
    robot: Robot,
    lease: Lease,
    counts: CallLog | None = None,
    publish: Callable[[RobotState], None] = lambda state: None,
    sockets: Mapping[str, str] | None = None,
) -> dict[str, Call]:
    """What clients may ask for. ``publish`` is given each state that lockstep leads to; ``sockets`` are hello's."""
    counts = counts or CallLog()
    return {
        "hello": Call((tuple[int, ...],), partial(_hello, robot, sockets or {}), absent=([BEFORE_VERSIONS],)),
        "acquire": Call((Limits | None,), partial(_acquire, robot, lease), "named"),
        "release": Call((), lease.release, "named"),
        "state": Call((), robot.state),
        "frames": Call((Encoding,), partial(_frames, robot, Compressor()), absent=("raw",)),
        "command": Call((Command,), robot.command, "owner"),
        "reset": Call((tuple[ResetStep, ...],), robot.reset, "owner"),
        "confirm": Call((), robot.confirm, "owner"),
        "guide": Call((bool,), robot.guide, "owner"),
        "hold": Call((str,), lambda reason: robot.hold(reason[:MAX_REASON])),
        "stop": Call((str,), lambda reason: robot.stop(reason[:MAX_REASON])),
        "recover": Call((), robot.recover),
        "status": Call((), partial(_status, robot, lease)),
        "statistics": Call((), counts.statistics),
        "time": Call((), time.monotonic),
        "advance": Call((float,), partial(_advance, robot, publish), "owner"),
    }


def _hello(robot: Robot, sockets: Mapping[str, str], offered: Sequence[int]) -> Tree:
    return {"protocol": choose_version(offered), "metadata": robot.metadata, "sockets": dict(sockets)}


def _frames(robot: Robot, compressed: Compressor, encoding: Encoding) -> Tree:
    return robot.frames() if encoding == "raw" else compressed(robot.frames())


def _status(robot: Robot, lease: Lease) -> Status:
    return replace(robot.status(), owner=lease.owner)


def _advance(robot: Robot, publish: Callable[[RobotState], None], seconds: float) -> None:
    robot.advance(seconds)
    publish(robot.state())


def _acquire(robot: Robot, lease: Lease, client: Client, limits: Limits | None) -> None:
    """Take the lease, or keep it, with these limits. Without them it is not given: nothing may move beyond them."""
    fresh = not lease.owned_by(client)
    lease.take(client)
    try:
        if limits is not None:
            robot.tighten(limits)
    except RobotError:
        if fresh:
            lease.release(client)
        raise


class Server:
    """Serves ``robot``, which its owner has connected. `bind` opens the sockets, `serve_forever` answers.

    ``address`` and ``truth_address`` read ``tcp://127.0.0.1:5555``, or end in ``:*`` for a free port; after `bind`
    they say the real one. STOP and the states are 100 and 101 ports higher, also named in ``sockets``. Raises
    `RobotError` for an address that is taken, and for one that other machines reach without ``keys``, unless
    ``insecure``. ``silence`` s without a call end a client's lease, by default `lease.SILENCE` of the robot's clock;
    ``rate`` calls per s are the most that one client is answered.
    """

    def __init__(
        self,
        robot: ServedRobot,
        address: str,
        truth_address: str | None = None,
        insecure: bool = False,
        silence: float | None = None,
        keys: ServerKeys | None = None,
        rate: float = RATE,
    ) -> None:
        for wanted in (address, truth_address):
            if wanted is not None:
                check_address(wanted, secured=keys is not None, insecure=insecure)
        self.address = address
        self.truth_address = truth_address
        self.sockets: dict[str, str] = {}
        self._robot = robot
        self._keys = keys
        self._counts = CallLog()
        self._throttle = Throttle(rate)
        self._lease = Lease(silence or 0.0, robot.abandon)  # by default the clock decides, known when connected
        self._served: dict[zmq.Socket[bytes], dict[str, Call]] = {}
        self._open = contextlib.ExitStack()
        self._stop = threading.Event()

    def __enter__(self) -> Server:
        self.bind()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def bind(self) -> None:
        metadata = self._robot.metadata
        clock = metadata.clock
        if not self._lease.duration:
            self._lease.duration = SILENCE[clock]
        with contextlib.ExitStack() as stack:
            context = Context()
            stack.callback(context.term)
            gate = Gatekeeper(context, self._keys)
            stack.callback(gate.close)
            gate.open()
            stop = StopService(context, beside(self.address, STOP_PORT), self._robot.stop, self._keys)
            states = StatePublisher(context, beside(self.address, STATE_PORT), self._robot.state, clock, self._keys)
            for service in (stop, states):
                stack.callback(service.close)
                service.open()
            self.sockets = {"stop": stop.address, "state": states.address}
            if metadata.cameras and clock == "realtime" and shareable():
                frames = FramePublisher(self._robot.frames, metadata.cameras)
                stack.callback(frames.close)
                frames.open()
                self.sockets["frames"] = frames.name
            calls = robot_calls(self._robot, self._lease, self._counts, states.put, self.sockets)
            self.address = self._serve_on(stack, context, self.address, calls)
            if self.truth_address is not None:
                truth = {"ground_truth": Call((), self._robot.ground_truth)}
                self.truth_address = self._serve_on(stack, context, self.truth_address, truth)
            self._open = stack.pop_all()

    def close(self) -> None:
        """Close the sockets. Call it in the thread that served, or after it has ended."""
        self._served = {}
        self._open.close()

    def stop(self) -> None:
        """Let `serve_forever` return soon; callable from any thread and from a signal handler."""
        self._stop.set()

    def serve_forever(self) -> None:
        """Answer requests until `stop`."""
        poller = zmq.Poller()
        for socket in self._served:
            poller.register(socket, zmq.POLLIN)
        while not self._stop.is_set():
            ready = poller.poll(POLL)
            self._lease.expire()
            for socket, _ in ready:
                self._serve_one(socket, self._served[socket])

    def _serve_on(self, stack: contextlib.ExitStack, context: Context, address: str, calls: dict[str, Call]) -> str:
        socket = open_socket(context, address, self._keys)
        stack.callback(socket.close, linger=100)
        self._served[socket] = calls
        return address_of(socket)

    def _serve_one(self, socket: zmq.Socket[bytes], calls: dict[str, Call]) -> None:
        peer, frames = receive(socket)
        if self._throttle.allows(peer):
            return send(socket, peer, answer_request(frames, calls, self._lease, self._counts))
        self._counts.throttled += 1
        send(socket, peer, error_answer(None, RobotError("too many calls a second: wait for each answer")))
