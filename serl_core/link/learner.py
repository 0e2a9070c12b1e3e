"""The learner's end of the link: take each record once and in order, acknowledge what is stored.

One thread owns the socket, one serialises weights; the learner's own loop only touches queues::

    actors ══ socket ══▶ porter thread ──▶ bounded inbox ──▶ receive() ▸ store ▸ ack() ──▶ porter
    publish() ──▶ press thread (serialise once, newest wins) ──▶ porter ══▶ each actor
    report() ──▶ porter ══▶ each actor, at once and with every heartbeat

A full inbox stops the reading, so that the pressure reaches the actors' spools; nothing is dropped.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from robot_servers import wire
from robot_servers.keys import ServerKeys
from serl_core.link import protocol
from serl_core.link.budget import BYTES_PER_S, RECORDS_PER_S, Budget
from serl_core.link.porter import Porter
from serl_core.link.protocol import LinkError
from serl_core.link.segment import Entry
from serl_core.link.shared import Session, Shared, is_full, press
from serl_core.pages import keep_freed_memory
from serl_core.types import Message, record_from_tree

log = logging.getLogger(__name__)


class Delivery(NamedTuple):
    """One record of ``actor`` (its session), number ``seq``. The store writes ``packed``, of this ``crc``, as it is.

    The fields have the order that `EpisodeStore.extend` takes.
    """

    actor: str
    seq: int
    record: Message
    packed: memoryview
    crc: int


@dataclass(frozen=True)
class LearnerStatus:
    """Counts since `bind`. ``lost`` records were acknowledged once and are no longer in the store."""

    actors: tuple[str, ...]  # heard of within the last seconds
    waiting: int  # in the inbox
    received: int
    duplicates: int
    rejected: int
    lost: int


class LearnerLink:
    """Serves any number of actors on ``address``. Nothing is opened before `bind` (or ``with``).

    ``stored`` is what the episode store holds already (`EpisodeStore.last_of_each`), so that what
    arrives again after a crash is recognised. ``inbox_records``/``inbox_bytes`` bound the memory,
    ``records_per_s``/``bytes_per_s`` what is taken of one actor; the rest it sends later.
    With ``keys`` only actors whose key they list are let in, and all is encrypted.
    """

    def __init__(
        self,
        address: str,
        stored: Mapping[str, int] | None = None,
        insecure: bool = False,
        inbox_records: int = 1024,
        inbox_bytes: int = 256 << 20,
        keys: ServerKeys | None = None,
        records_per_s: float = RECORDS_PER_S,
        bytes_per_s: float = BYTES_PER_S,
    ) -> None:
        protocol.check_address(address, secured=keys is not None, insecure=insecure)
        self.address = address
        self._keys = keys
        self._shared = Shared(sessions={name: Session(seq, seq + 1) for name, seq in (stored or {}).items()})
        self._limits = (inbox_records, inbox_bytes)
        self._budget = Budget(records_per_s, bytes_per_s)
        self._porter: Porter | None = None
        self._press: threading.Thread | None = None

    def __enter__(self) -> LearnerLink:
        return self.bind()

    def __exit__(self, *_: object) -> None:
        self.close()

    def bind(self) -> LearnerLink:
        """Start serving. Raises `LinkError` if the address is taken. A port of ``*`` picks a free one."""
        if self._porter:
            return self
        keep_freed_memory()
        self._porter = Porter(self.address, self._shared, self._limits, self._keys, self._budget)
        self.address = self._porter.address
        self._porter.thread.start()
        self._press = threading.Thread(target=press, args=(self._shared, self._porter.waker), daemon=True)
        self._press.start()
        return self

    def receive(self, max_records: int, timeout: float) -> list[Delivery]:
        """Up to ``max_records`` new records; waits up to ``timeout`` s for the first.

        In order for each actor session, each exactly once. Undecodable ones are logged and left out.
        """
        shared = self._shared
        with shared.changed:
            shared.changed.wait_for(lambda: bool(shared.inbox), timeout)
            taken = [shared.inbox.popleft() for _ in range(min(max_records, len(shared.inbox)))]
            was_full = is_full(shared, self._limits)
            shared.inbox_bytes -= sum(len(entry.payload) for _, entry in taken)
        if was_full:
            self._wake()
        return [delivery for item in taken if (delivery := self._decode(*item))]

    def ack(self, actor: str, seq: int) -> None:
        """Everything of ``actor`` up to ``seq`` is stored: its spool may forget it."""
        with self._shared.changed:
            session = self._shared.sessions.get(actor)
            if session is None or seq >= session.expected:
                raise LinkError(f"{actor}: record {seq} was never received; acknowledge only what receive() gave")
            session.stored = max(session.stored, seq)
            while session.stored + 1 in session.unreadable:
                session.stored += 1
                session.unreadable.remove(session.stored)
            self._shared.dirty.add(actor)
        self._wake()

    def publish(self, version: int, params: Mapping[str, Any], meta: Mapping[str, Any] | None = None) -> None:
        """Give all actors new weights, later ones too. Returns at once; a newer call supersedes.

        ``params``, a tree of numpy arrays, must not change afterwards. Raises `LinkError` unless
        ``version`` rises.
        """
        with self._shared.changed:
            if version <= self._shared.published:
                raise LinkError(f"weights {version} after weights {self._shared.published}: versions must rise")
            self._shared.published = version
            self._shared.to_press = (version, params, dict(meta or {}))
            self._shared.changed.notify_all()

    def report(self, report: Mapping[str, Any]) -> None:
        """Tell all actors at once how far the learner is: a small dict of plain values."""
        with self._shared.changed:
            self._shared.report = dict(report)
            self._shared.report_changed = True
        self._wake()

    def status(self) -> LearnerStatus:
        shared = self._shared
        with shared.changed:
            counts = (shared.received, shared.duplicates, shared.rejected, shared.lost)
            return LearnerStatus(shared.peers, len(shared.inbox), *counts)

    def close(self) -> None:
        """Send the last acknowledgements and stop."""
        with self._shared.changed:
            self._shared.stopping = True
            self._shared.changed.notify_all()
        if self._press:
            self._press.join()
        if self._porter:
            self._porter.stop()
            self._porter = None

    def _wake(self) -> None:
        if self._porter:
            self._porter.waker.wake()

    def _decode(self, actor: str, entry: Entry) -> Delivery | None:
        seq = entry.seq
        try:
            tree = wire.unpack(entry.payload)
            if not isinstance(tree, dict):
                raise wire.WireError("not a record")
            return Delivery(actor, seq, record_from_tree(tree), entry.payload, entry.crc)
        except ValueError as error:
            log.error("%s: record %d cannot be read and is left out: %s", actor, seq, error)
        with self._shared.changed:
            self._shared.rejected += 1
            session = self._shared.sessions[actor]
            session.unreadable.add(seq)
            stored = session.stored
        self.ack(actor, stored)  # moves on over it once all before it are stored
        return None
