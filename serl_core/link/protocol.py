"""What actor and learner say to each other. Frame 0 of a message is its kind, frame 1 a msgpack map.

::

    actor → learner                                   learner → actor
    hello  protocol, actor, sessions, version         welcome  protocol, stored        or  refused  text
    data   session + a run of entries                 ack      stored: {session: seq}
                                                      resend   session, seq
    ping   version, got                               report   time of silence is bounded by these
                                                      weights  version, crc + encoded {params, meta}
                                                      who      you are unknown here: say hello

``sessions`` maps each session in the spool to ``[first, last]`` number; ``stored`` is cumulative:
everything up to that number is in the store. A run of entries is a piece of a spool file as it is
(`serl_core.link.segment`): each with its length, CRC-32 and number before the packed record.
Hello and refused keep their form in every version.
"""

from __future__ import annotations

import logging
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from zlib_ng.zlib_ng import crc32

from robot_servers import keys, wire

log = logging.getLogger(__name__)

PROTOCOL = 2
HELLO, DATA, PING = b"hello", b"data", b"ping"
WELCOME, REFUSED, ACK, RESEND, REPORT, WEIGHTS, WHO = (
    b"welcome",
    b"refused",
    b"ack",
    b"resend",
    b"report",
    b"weights",
    b"who",
)
BEAT = 0.25  # s between heartbeats
MAX_SESSIONS = 1024  # of one actor: its spool keeps a file of each open
MAX_WEIGHTS = 1 << 30  # bytes
MAX_DATA = wire.MAX_BYTES + 1024  # bytes: one record of the largest size, with its head
RUN_RECORDS, RUN_BYTES = 64, 4 << 20  # of one data message, unless a single record is larger
GATHER = 0.005  # s; more often than this neither records nor acknowledgements are sent: it costs both processes


class LinkError(Exception):
    """The link cannot do what was asked; the text says why and what to do next."""


@dataclass(frozen=True)
class Weights:
    """What the policy needs: ``params`` is a tree of read-only arrays, ``version`` only ever rises."""

    version: int
    params: Mapping[str, Any]
    meta: Mapping[str, Any]


def message(kind: bytes, **fields: Any) -> list[wire.Buffer]:
    """The frames of a message of this kind."""
    return [kind, *wire.encode(fields)]


def fields_of(frame: wire.Buffer, **kinds: type) -> dict[str, Any]:
    """The map in frame 1. Raises `wire.WireError` unless it has ``kinds`` as fields, each of its type."""
    tree = wire.decode([frame], max_bytes=1 << 20)
    if not isinstance(tree, dict):
        raise wire.WireError(f"a {type(tree).__name__} instead of a map")
    for name, kind in kinds.items():
        if type(tree.get(name)) is not kind:
            raise wire.WireError(f"field {name!r} is missing or no {kind.__name__}")
    return tree


def checked_sessions(sessions: Mapping[Any, Any]) -> dict[str, tuple[int, int]]:
    """``sessions`` of a hello. Raises `wire.WireError` unless each is ``name: [first, last]``."""
    if len(sessions) > MAX_SESSIONS:
        raise wire.WireError(f"{len(sessions)} sessions in one spool; at most {MAX_SESSIONS} are allowed")
    checked: dict[str, tuple[int, int]] = {}
    for name, span in sessions.items():
        whole = isinstance(span, list) and len(span) == 2 and all(type(seq) is int for seq in span)
        if not whole or not 0 < len(name) <= 128 or not 1 <= span[0] <= span[1] + 1 < 1 << 32:
            raise wire.WireError(f"session {name!r:.80} without its first and last number")
        checked[name] = (span[0], span[1])
    return checked


def checksum(frames: Sequence[wire.Buffer]) -> int:
    """CRC-32 over all frames, one after the other."""
    crc = 0
    for frame in frames:
        crc = crc32(frame, crc)
    return crc


def check_address(address: str, secured: bool, insecure: bool) -> None:
    """Raises `LinkError` for an address that other machines reach, unless ``secured`` by keys or ``insecure``."""
    try:
        keys.check_address(address, secured, insecure)
    except keys.KeyProblem as problem:
        raise LinkError(str(problem)) from problem


class Waker:
    """Wakes a thread that polls on ``fileno``; cheap to call from any thread, any number of times."""

    def __init__(self) -> None:
        self._woken = False
        self._reader, self._writer = socket.socketpair()
        self._reader.setblocking(False)
        self._writer.setblocking(False)

    def fileno(self) -> int:
        return self._reader.fileno()

    def wake(self) -> None:
        if not self._woken:
            self._woken = True
            self._writer.send(b"x")

    def drain(self) -> None:
        """To be called before looking at what there is to do: whoever wakes after this is heard."""
        self._woken = False
        try:
            while len(self._reader.recv(4096)) == 4096:
                continue
        except BlockingIOError:
            return

    def close(self) -> None:
        self._reader.close()
        self._writer.close()
