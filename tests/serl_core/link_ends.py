"""Learners, actors and raw sockets for tests of the link."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import zmq

from robot_servers import wire
from serl_core.data.episodes import EpisodeStore
from serl_core.link import protocol
from serl_core.transport import PROTOCOL, ActorLink, LearnerLink


def eventually(condition: Callable[[], bool], timeout: float = 10.0) -> bool:
    end = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.005)
    return True


class Learner:
    """Stores what arrives, in a thread."""

    def __init__(self, address: str, root: Path) -> None:
        self.store = EpisodeStore(root).open()
        self.link = LearnerLink(address, self.store.last_of_each()).bind()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        while not self._stop.is_set():
            arrived = self.link.receive(8, 0.02)
            self.store.extend(arrived)
            for item in arrived:
                self.link.ack(item.actor, item.seq)

    def close(self) -> None:
        self._stop.set()
        self._thread.join()
        self.link.close()
        self.store.close()


@contextmanager
def learner(address: str, root: Path) -> Iterator[LearnerLink]:
    running = Learner(address, root)
    try:
        yield running.link
    finally:
        running.close()


def counts(root: Path) -> dict[str, list[int]]:
    """The numbers stored of each actor session, in the order of storing."""
    found: dict[str, list[int]] = {}
    for stored in EpisodeStore(root).stored():
        found.setdefault(stored.actor, []).append(stored.seq)
    return found


def actor(address: str, root: Path, name: str = "actor") -> ActorLink:
    return ActorLink(address, name, root / "spool", away_after=0.5).connect()


@contextmanager
def raw(kind: int, address: str | None = None) -> Iterator[tuple[zmq.Socket[bytes], str]]:
    context = zmq.Context()
    plain = context.socket(kind)
    plain.setsockopt(zmq.RCVTIMEO, 5000)
    if address is None:
        plain.bind("tcp://127.0.0.1:*")
    else:
        plain.connect(address)
    try:
        yield plain, plain.getsockopt_string(zmq.LAST_ENDPOINT)
    finally:
        plain.close(linger=0)
        context.term()


def fake_learner():
    return raw(zmq.ROUTER)


def welcome(router: zmq.Socket[bytes]) -> bytes:
    ident, kind, _ = router.recv_multipart()
    assert kind == protocol.HELLO
    router.send_multipart([ident, *protocol.message(protocol.WELCOME, protocol=PROTOCOL, stored={})])
    return ident


def next_ping(router: zmq.Socket[bytes]) -> dict[str, object]:
    _, kind, body = router.recv_multipart()
    return wire.decode([body]) if kind == protocol.PING else {}
