"""What the learner's loop and its two threads exchange, and the thread that serialises weights."""

from __future__ import annotations

import logging
import threading
from collections import deque
from dataclasses import dataclass, field
from typing import Any

from robot_servers import wire
from serl_core.link import protocol
from serl_core.link.protocol import Waker
from serl_core.link.segment import Entry

log = logging.getLogger(__name__)


@dataclass
class Session:
    """``stored`` and ``expected`` number of one actor session; ``peer`` is who sent it last."""

    stored: int
    expected: int
    peer: bytes = b""
    asked: float = -1e9  # when a resend was asked for
    begun: bool = True  # something of it was received or stored; the others are forgotten with their peer
    unreadable: set[int] = field(default_factory=set)


@dataclass
class Peer:
    """One connected actor, and what is known of the weights it holds."""

    actor: str
    sessions: set[str]
    heard: float
    version: int  # of the weights it holds
    under_way: int | None = None  # version sent and not yet confirmed
    sent_at: float = 0.0


@dataclass
class Shared:
    """What the learner's loop and the threads exchange, under ``changed``."""

    changed: threading.Condition = field(default_factory=threading.Condition)
    inbox: deque[tuple[str, Entry]] = field(default_factory=deque)
    inbox_bytes: int = 0
    sessions: dict[str, Session] = field(default_factory=dict)
    dirty: set[str] = field(default_factory=set)  # sessions with news about `stored`
    report: dict[str, Any] = field(default_factory=dict)
    report_changed: bool = False
    to_press: tuple[int, Any, Any] | None = None
    pressed: tuple[int, list[wire.Buffer]] | None = None
    published: int = -1
    peers: tuple[str, ...] = ()
    received: int = 0
    duplicates: int = 0
    rejected: int = 0
    lost: int = 0
    stopping: bool = False


def is_full(shared: Shared, limits: tuple[int, int]) -> bool:
    """Whether the inbox has reached its limit of records or of bytes."""
    return len(shared.inbox) >= limits[0] or shared.inbox_bytes >= limits[1]


def press(shared: Shared, waker: Waker) -> None:
    """Serialise the newest weights, once for all actors."""
    while True:
        with shared.changed:
            shared.changed.wait_for(lambda: shared.stopping or shared.to_press is not None)
            if shared.stopping or shared.to_press is None:
                return
            (version, params, meta), shared.to_press = shared.to_press, None
        try:
            frames = wire.encode({"params": params, "meta": meta})
        except wire.WireError as error:
            log.error("weights %d cannot be sent and are left out: %s", version, error)
            continue
        head = protocol.message(protocol.WEIGHTS, version=version, crc=protocol.checksum(frames))
        with shared.changed:
            shared.pressed = (version, [*head, *frames])
        waker.wake()
