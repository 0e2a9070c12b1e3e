"""A robot behind a socket: named calls in, answers out. One bad message never ends the service.

A request is ``{"id": int, "call": name, "args": [tree, …], "client": Client}``; its answer carries the
same id and either ``{"ok": tree}`` or ``{"error": {"kind": class name, "text": …}}``. The first call of a
client is ``hello``, answered with the protocol version and the metadata. Calls that change something
need the lease, taken by ``acquire`` and renewed by every call of its owner; who only looks may leave
out ``client``. The simulated scene's ground truth is served on a second socket, or not at all.
"""

from __future__ import annotations

import contextlib
import ipaddress
import logging
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, Protocol
from urllib.parse import urlsplit

import zmq

from robot_servers import wire
from robot_servers.interface import PROTOCOL_VERSION, Command, Limits, ResetStep, Robot, RobotError, nearest
from robot_servers.lease import SILENCE, Client, Lease
from robot_servers.wire import Buffer, Tree, WireError

log = logging.getLogger(__name__)

MAX_REQUEST = 1 << 20  # bytes; requests carry poses and plans, never images
POLL = 50  # ms between looks at the stop event
REQUESTS = 16  # waiting requests per client; more wait on its own machine
MAX_REASON = 200  # characters of the reason for a hold, which every status carries
QUEUE = 64  # messages kept for a client that does not read; more are dropped


class ServedRobot(Robot, Protocol):
    """A guarded robot that also knows the ground truth of its scene, and can do without an owner."""

    def ground_truth(self) -> Mapping[str, Any]: ...
    def abandon(self) -> None: ...


@dataclass(frozen=True)
class Call:
    """One named call: the types of its arguments, what carries it out, and for whom.

    ``access``: "open" to everyone, for the "owner" of the lease, or "named": the client is handed to
    ``run`` before the arguments.
    """

    args: tuple[Any, ...]
    run: Callable[..., Any]
    access: Literal["open", "owner", "named"] = "open"


def robot_calls(robot: Robot, lease: Lease) -> dict[str, Call]:
    """What clients may ask for."""
    return {
        "hello": Call((), lambda: {"protocol": PROTOCOL_VERSION, "metadata": robot.metadata}),
        "acquire": Call((Limits | None,), partial(_acquire, robot, lease), "named"),
        "release": Call((), lease.release, "named"),
        "state": Call((), robot.state),
        "frames": Call((), robot.frames),
        "command": Call((Command,), robot.command, "owner"),
        "reset": Call((tuple[ResetStep, ...],), robot.reset, "owner"),
        "confirm": Call((), robot.confirm, "owner"),
        "hold": Call((str,), lambda reason: robot.hold(reason[:MAX_REASON])),
        "status": Call((), robot.status),
        "advance": Call((float,), robot.advance, "owner"),
    }


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


def check_address(address: str, insecure: bool) -> None:
    """Raises `RobotError` unless ``address`` is ``tcp://`` on loopback, or ``insecure`` is said."""
    parts = urlsplit(address)
    if parts.scheme != "tcp" or not parts.hostname:
        raise RobotError(f'cannot serve on "{address}": expected tcp://HOST:PORT, with port * for a free one')
    if not insecure and not _is_loopback(parts.hostname):
        raise RobotError(
            f"refusing to serve on {parts.hostname}: anyone who reaches it could move the arm. "
            "Serve on 127.0.0.1 and tunnel (ssh -L), or say insecure on a network of your own"
        )


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


class Server:
    """Serves ``robot``, which its owner has connected. `bind` opens the sockets, `serve_forever` answers.

    ``address`` and ``truth_address`` read ``tcp://127.0.0.1:5555``, or end in ``:*`` for a free port;
    after `bind` they say the real one. Raises `RobotError` for an address that is taken or not loopback.
    ``silence`` s without a call end a client's lease, by default `lease.SILENCE` of the robot's clock.
    """

    def __init__(
        self,
        robot: ServedRobot,
        address: str,
        truth_address: str | None = None,
        insecure: bool = False,
        silence: float | None = None,
    ) -> None:
        for wanted in (address, truth_address):
            if wanted is not None:
                check_address(wanted, insecure)
        self.address = address
        self.truth_address = truth_address
        self._robot = robot
        self._lease = Lease(silence or 0.0, robot.abandon)  # by default the clock decides, known when connected
        self._public = robot_calls(robot, self._lease)
        self._truth = {"ground_truth": Call((), robot.ground_truth)}
        self._context: zmq.Context[zmq.Socket[bytes]] | None = None
        self._sockets: dict[zmq.Socket[bytes], dict[str, Call]] = {}
        self._stop = threading.Event()

    def __enter__(self) -> Server:
        self.bind()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def bind(self) -> None:
        if not self._lease.duration:
            self._lease.duration = SILENCE[self._robot.metadata.clock]
        self._context = zmq.Context()
        try:
            self.address = self._open(self._context, self.address, self._public)
            if self.truth_address is not None:
                self.truth_address = self._open(self._context, self.truth_address, self._truth)
        except RobotError:
            self.close()
            raise

    def close(self) -> None:
        """Close the sockets. Call it in the thread that served, or after it has ended."""
        for socket in self._sockets:
            socket.close(linger=100)
        self._sockets = {}
        if self._context is not None:
            self._context.term()
            self._context = None

    def stop(self) -> None:
        """Let `serve_forever` return soon; callable from any thread and from a signal handler."""
        self._stop.set()

    def serve_forever(self) -> None:
        """Answer requests until `stop`."""
        poller = zmq.Poller()
        for socket in self._sockets:
            poller.register(socket, zmq.POLLIN)
        while not self._stop.is_set():
            ready = poller.poll(POLL)
            self._lease.expire()
            for socket, _ in ready:
                self._serve_one(socket, self._sockets[socket])

    def _open(self, context: zmq.Context[zmq.Socket[bytes]], address: str, calls: dict[str, Call]) -> str:
        socket = context.socket(zmq.ROUTER)
        self._sockets[socket] = calls
        socket.setsockopt(zmq.MAXMSGSIZE, MAX_REQUEST)  # whoever sends more is disconnected
        socket.setsockopt(zmq.RCVHWM, REQUESTS)
        socket.setsockopt(zmq.SNDHWM, QUEUE)
        try:
            socket.bind(address)
        except zmq.ZMQError as error:
            raise RobotError(f"cannot serve on {address}: {error}; is another server running there?") from error
        return socket.get_string(zmq.LAST_ENDPOINT).rstrip("\0")

    def _serve_one(self, socket: zmq.Socket[bytes], calls: dict[str, Call]) -> None:
        client, *frames = socket.recv_multipart()
        answer = answer_request(frames, calls, self._lease)
        # A ROUTER drops what a vanished or stuck client does not take: it never blocks the others.
        with contextlib.suppress(zmq.Again):
            socket.send_multipart([client, *answer], zmq.NOBLOCK)


def answer_request(frames: list[bytes], calls: dict[str, Call], lease: Lease) -> list[Buffer]:
    """The frames of the answer to one request, whatever it is: no message and no handler raises out of here."""
    ident: int | None = None
    try:
        request = _parse(wire.decode(frames, MAX_REQUEST))
        ident = request["id"]
        return wire.encode({"id": ident, "ok": _carry_out(request, calls, lease)})
    except WireError as error:
        log.warning("rejected a message of %d bytes: %s", sum(map(len, frames)), error)
        return _error(ident, error)
    except RobotError as error:
        return _error(ident, error)
    except Exception as error:
        log.exception("a call failed; the service goes on")
        return _error(ident, error)


def _parse(request: Tree) -> dict[str, Any]:
    if not isinstance(request, dict) or request.keys() - {"client"} != {"id", "call", "args"}:
        raise WireError("a request is a dict with id, call, args and, from who does more than look, client")
    types = (type(request["id"]), type(request["call"]), type(request["args"]))
    if types != (int, str, list):
        raise WireError(f"id, call and args must be int, str and list, not {', '.join(t.__name__ for t in types)}")
    return {**request, "client": wire.from_tree(Client | None, request.get("client"))}


def _carry_out(request: dict[str, Any], calls: dict[str, Call], lease: Lease) -> Tree:
    name, args = request["call"], request["args"]
    call = calls.get(name)
    if call is None:
        raise RobotError(f'unknown call "{name:.40}"{nearest(name, calls)}')
    if len(args) != len(call.args):
        raise WireError(f"{name} takes {len(call.args)} arguments, got {len(args)}")
    values = [wire.from_tree(kind, arg) for kind, arg in zip(call.args, args, strict=True)]
    return wire.to_tree(_run(call, values, request["client"], name, lease))


def _run(call: Call, values: list[Any], client: Client | None, name: str, lease: Lease) -> Any:
    """Carry the call out if this client may ask for it. A call of the owner renews its lease, however long it takes."""
    lease.expire()
    if call.access == "named":
        if client is None:
            raise WireError(f"{name} must say which client asks")
        values = [client, *values]
    if call.access == "owner":
        lease.check(client)
    try:
        return call.run(*values)
    finally:
        lease.renew(client)


def _error(ident: int | None, error: Exception) -> list[Buffer]:
    text = str(error).encode(errors="replace").decode() or type(error).__name__
    return wire.encode({"id": ident, "error": {"kind": type(error).__name__, "text": text}})
