"""Named calls over a socket, the server's half: whatever arrives is answered or dropped, and never raises.

A request is ``{"id": int, "call": name, "args": [tree, …], "client": Client}``; its answer carries the same id,
``time`` (s, this process's monotonic clock, so that clients can estimate its offset) and either ``{"ok": tree}`` or
``{"error": {"kind": class name, "text": …}}``. Who only looks may leave out ``client``.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import zmq

from robot_servers import wire
from robot_servers.interface import RobotError, nearest
from robot_servers.keys import ServerKeys, secure_server
from robot_servers.lease import Client, Lease
from robot_servers.statistics import CallLog
from robot_servers.wire import Buffer, Tree, WireError

log = logging.getLogger(__name__)

Context = zmq.Context[zmq.Socket[bytes]]

MAX_REQUEST = 1 << 20  # bytes, all frames together; requests carry poses and plans, never images
MAX_FRAMES = 64  # of a request: its header and one for each array
REQUESTS = 16  # waiting requests per client; more wait on its own machine
QUEUE = 64  # messages kept for a client that does not read; more are dropped
RATE = 5000.0  # calls per s of one client, more than any that waits for its answers can make
PEERS = 1024  # clients whose rate is remembered


@dataclass(frozen=True)
class Call:
    """One named call: the types of its arguments, what carries it out, and for whom.

    ``access``: "open" to everyone, for the "owner" of the lease, or "named": the client is handed to
    ``run`` before the arguments. ``absent``: the arguments that a client of an older protocol means by none.
    """

    args: tuple[Any, ...]
    run: Callable[..., Any]
    access: Literal["open", "owner", "named"] = "open"
    absent: tuple[Tree, ...] = ()


class Throttle:
    """At most ``rate`` calls per s of each peer, after a burst of one second's worth."""

    def __init__(self, rate: float = RATE, now: Callable[[], float] = time.monotonic) -> None:
        self._rate = rate
        self._now = now
        self._left: dict[bytes, tuple[float, float]] = {}  # peer → calls left, as of when

    def allows(self, peer: bytes) -> bool:
        now = self._now()
        left, since = self._left.get(peer, (self._rate, now))
        left = min(self._rate, left + self._rate * (now - since))
        if len(self._left) >= PEERS and peer not in self._left:
            self._left.clear()  # cheaper than to find the oldest, and nobody gains more than one burst
        self._left[peer] = (max(0.0, left - 1.0), now)
        return left >= 1.0


def open_socket(context: Context, address: str, keys: ServerKeys | None) -> zmq.Socket[bytes]:
    """A bounded socket that answers many clients. Raises `RobotError` for an address that is taken."""
    socket = context.socket(zmq.ROUTER)
    socket.setsockopt(zmq.MAXMSGSIZE, MAX_REQUEST)  # of one frame: whoever sends more is disconnected
    socket.setsockopt(zmq.RCVHWM, REQUESTS)
    socket.setsockopt(zmq.SNDHWM, QUEUE)
    secure_server(socket, keys)
    return bound(socket, address)


def bound(socket: zmq.Socket[bytes], address: str) -> zmq.Socket[bytes]:
    """The socket, bound. Raises `RobotError`, the socket closed, for an address that is taken or impossible."""
    try:
        socket.bind(address)
    except zmq.ZMQError as error:
        socket.close(linger=0)
        raise RobotError(f"cannot serve on {address}: {error}; is another server running there?") from error
    return socket


def address_of(socket: zmq.Socket[bytes]) -> str:
    """Where it is bound, with the real port."""
    return socket.get_string(zmq.LAST_ENDPOINT).rstrip("\0")


def receive(socket: zmq.Socket[bytes]) -> tuple[bytes, list[bytes]]:
    """One waiting request: its peer and frames. What exceeds the caps is not kept, and one frame too many tells so.

    libzmq hands out a message once it is whole: until then its frames, each below the cap, wait in its memory.
    """
    peer, frames, size = socket.recv(), [], 0
    while socket.rcvmore:
        frame = socket.recv()
        if len(frames) <= MAX_FRAMES and size <= MAX_REQUEST:
            frames.append(frame)
            size += len(frame)
    return peer, frames


def send(socket: zmq.Socket[bytes], peer: bytes, answer: list[Buffer]) -> None:
    """A ROUTER drops what a vanished or stuck client does not take: it never blocks the others."""
    with contextlib.suppress(zmq.Again):
        socket.send_multipart([peer, *answer], zmq.NOBLOCK)


def answer_request(
    frames: list[bytes], calls: Mapping[str, Call], lease: Lease | None = None, counts: CallLog | None = None
) -> list[Buffer]:
    """The frames of the answer to one request, whatever it is: no message and no handler raises out of here."""
    ident: int | None = None
    name, begun, failed = "", time.monotonic(), True
    try:
        request = _parse(wire.decode(frames, MAX_REQUEST, MAX_FRAMES))
        ident, name = request["id"], request["call"]
        if counts is not None and request["client"] is not None:
            counts.heard(request["client"].name)
        answer = wire.encode({"id": ident, "ok": _carry_out(request, calls, lease), "time": time.monotonic()})
        failed = False
        return answer
    except WireError as error:
        log.warning("rejected a message of %d bytes: %s", sum(map(len, frames)), error)
        if counts is not None:
            counts.rejected += 1
        return error_answer(ident, error)
    except RobotError as error:
        return error_answer(ident, error)
    except Exception as error:
        log.exception("a call failed; the service goes on")
        return error_answer(ident, error)
    finally:
        if counts is not None and name in calls:
            counts.record(name, time.monotonic() - begun, failed)


def error_answer(ident: int | None, error: Exception) -> list[Buffer]:
    """The answer to a request that failed."""
    text = str(error).encode(errors="replace").decode() or type(error).__name__
    return wire.encode({"id": ident, "error": {"kind": type(error).__name__, "text": text}, "time": time.monotonic()})


def _parse(request: Tree) -> dict[str, Any]:
    if not isinstance(request, dict) or request.keys() - {"client"} != {"id", "call", "args"}:
        raise WireError("a request is a dict with id, call, args and, from who does more than look, client")
    types = (type(request["id"]), type(request["call"]), type(request["args"]))
    if types != (int, str, list):
        raise WireError(f"id, call and args must be int, str and list, not {', '.join(t.__name__ for t in types)}")
    return {**request, "client": wire.from_tree(Client | None, request.get("client"))}


def _carry_out(request: dict[str, Any], calls: Mapping[str, Call], lease: Lease | None) -> Tree:
    name = request["call"]
    call = calls.get(name)
    if call is None:
        raise RobotError(f'unknown call "{name:.40}"{nearest(name, calls)}')
    args = request["args"] or call.absent
    if len(args) != len(call.args):
        raise WireError(f"{name} takes {len(call.args)} arguments, got {len(args)}")
    values = [wire.from_tree(kind, arg) for kind, arg in zip(call.args, args, strict=True)]
    if lease is None:
        return wire.to_tree(call.run(*values))
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
