"""The learner's thread that owns the socket."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable
from itertools import islice

import zmq
from zlib_ng.zlib_ng import crc32

from robot_servers import wire
from robot_servers.keys import Gatekeeper, ServerKeys, secure_server
from serl_core.link import protocol
from serl_core.link.budget import ACTORS, LEFT_OUT, TALK_BYTES_PER_S, TALK_PER_S, Budget
from serl_core.link.protocol import LinkError, Waker
from serl_core.link.segment import Entry, entries
from serl_core.link.shared import Peer, Session, Shared, is_full

log = logging.getLogger(__name__)

ASKED = 0.5  # s that what was asked for again may be under way


class Porter:
    """The thread that owns the socket.

    ::

        every round:  receive, unless the inbox is full ▸ acks ▸ report ▸ weights ▸ heartbeat

    An actor has at most one weights message under way, so that a slow one always gets the newest next.
    """

    PATIENCE = 5.0  # s until a silent actor is forgotten (its hello brings it back) or weights are sent again

    def __init__(
        self, address: str, shared: Shared, limits: tuple[int, int], keys: ServerKeys | None, budget: Budget
    ) -> None:
        self._shared = shared
        self._limits = limits
        self._budget = budget
        self._talk = Budget(TALK_PER_S, TALK_BYTES_PER_S, LEFT_OUT)
        self._put_off: dict[str, float] = {}  # session → when to ask for what exceeded its actor's budget
        self._peers: dict[bytes, Peer] = {}
        self._next_beat = 0.0
        self._next_acks = 0.0
        self._context = zmq.Context()
        self._gate = Gatekeeper(self._context, keys)
        self._gate.open()
        self._socket = self._context.socket(zmq.ROUTER)
        self._socket.setsockopt(zmq.RCVHWM, 16)
        self._socket.setsockopt(zmq.MAXMSGSIZE, protocol.MAX_DATA)
        self._socket.setsockopt(zmq.ROUTER_HANDOVER, 1)
        secure_server(self._socket, keys)
        try:
            self._socket.bind(address)
        except zmq.ZMQError as error:
            self._gate.close()
            self._context.destroy(linger=0)
            raise LinkError(f"cannot listen on {address}: {error}; is another learner running?") from error
        self.address = self._socket.getsockopt_string(zmq.LAST_ENDPOINT)
        self.waker = Waker()
        self.thread = threading.Thread(target=self._run, name="link-porter", daemon=True)

    def stop(self) -> None:
        self.waker.wake()
        self.thread.join()
        self._socket.close(linger=200)
        self._gate.close()
        self._context.term()
        self.waker.close()

    def _run(self) -> None:
        while not self._shared.stopping:
            try:
                self._round(time.monotonic())
            except (OSError, zmq.ZMQError) as error:
                log.exception("link at %s: %s; going on", self.address, error)
                time.sleep(0.1)
        self._send_acks()

    def _round(self, now: float) -> None:
        full = is_full(self._shared, self._limits)
        self._wait(now, full)
        if not full:
            self._receive_some()
        now = time.monotonic()
        self._ask_for_put_off(now)
        if now >= self._next_acks and self._send_acks():
            self._next_acks = now + protocol.GATHER
        self._send_report(now)
        self._send_weights()

    def _wait(self, now: float, full: bool) -> None:
        """Wait for an actor, or for news to tell; these gather for a moment if some were told just now."""
        gathering = now < self._next_acks
        poller = zmq.Poller()
        poller.register(self._socket, 0 if full else zmq.POLLIN)
        if not gathering:
            poller.register(self.waker.fileno(), zmq.POLLIN)
        due = self._next_acks if gathering else self._next_beat
        poller.poll(math.ceil(max(0.0, due - now) * 1000))
        self.waker.drain()

    def _receive_some(self) -> None:
        for _ in range(16):  # then answer
            if is_full(self._shared, self._limits) or not self._socket.poll(0):
                return
            ident, *frames = self._socket.recv_multipart(copy=False)
            self._handle(ident.bytes, [frame.buffer for frame in frames])

    # ── what actors say ──────────────────────────────────────────────────────────────────────────

    def _handle(self, ident: bytes, frames: list[memoryview]) -> None:
        handlers: dict[bytes, Callable[[bytes, list[memoryview]], None]] = {
            protocol.HELLO: self._on_hello,
            protocol.DATA: self._on_stray,
            protocol.PING: self._on_ping,
        }
        kind = bytes(frames[0][:16]) if len(frames) > 1 else b""
        try:
            if kind == protocol.DATA and ident in self._peers:
                self._on_data(ident, frames[1:])  # has a budget of its own
            elif self._may_talk(ident, frames):
                if kind not in handlers:
                    raise wire.WireError("neither hello nor data nor ping")
                handlers[kind](ident, frames[1:])
        except wire.WireError as error:
            if kind != protocol.DATA or self._may_talk(ident, frames):
                self._reject(ident, str(error))

    def _may_talk(self, ident: bytes, frames: list[memoryview]) -> bool:
        """Whether a message that is no record is within its sender's budget; beyond, nobody looks at it."""
        size = sum(map(len, frames))
        return self._talk.wait(self._name(ident), 1, size, time.monotonic()) == 0.0

    def _name(self, ident: bytes) -> str:
        peer = self._peers.get(ident)
        return f"{peer.actor if peer else 'an unknown peer'} ({ident.hex()})"

    def _reject(self, ident: bytes, why: str) -> None:
        with self._shared.changed:
            self._shared.rejected += 1
        log.error("message of %s rejected: %s", self._name(ident), why)

    def _on_hello(self, ident: bytes, frames: list[memoryview]) -> None:
        hello = protocol.fields_of(frames[0], protocol=int)
        if hello["protocol"] != protocol.PROTOCOL:
            text = f"this actor speaks link protocol {hello['protocol']}, the learner {protocol.PROTOCOL}"
            self._say(ident, protocol.message(protocol.REFUSED, text=f"{text}; install the same release on both"))
            return self._reject(ident, text)
        hello = protocol.fields_of(frames[0], actor=str, sessions=dict, version=int)
        sessions = protocol.checked_sessions(hello["sessions"])
        known = self._peers.get(ident)
        if known is None and len(self._peers) >= ACTORS:
            raise wire.WireError(f"there are {ACTORS} actors already")
        peer = self._peers[ident] = Peer(hello["actor"], set(sessions), time.monotonic(), hello["version"])
        if known:  # a hello repeated on a slow network: the weights are under way already
            peer.under_way, peer.sent_at = known.under_way, known.sent_at
        else:
            log.info("actor %s is here", hello["actor"])
        self._share_peers()
        stored = {name: self._begin(ident, name, first) for name, (first, _) in sessions.items()}
        self._say(ident, protocol.message(protocol.WELCOME, protocol=protocol.PROTOCOL, stored=stored))
        self._say(ident, protocol.message(protocol.REPORT, report=self._shared.report, stored=stored))
        self._warn_of_old_weights(peer)

    def _begin(self, ident: bytes, name: str, first: int) -> int:
        """Be ready for session ``name``, whose oldest record is ``first``; what is stored of it."""
        with self._shared.changed:
            session = self._shared.sessions.setdefault(name, Session(0, 1, begun=False))
            session.peer = ident
            session.asked = -1e9
            if first > session.expected:
                self._shared.lost += first - session.expected
                log.warning("%s: records %d to %d are nowhere any more", name, session.expected, first - 1)
                session.expected = first
                session.stored = max(session.stored, first - 1)
            return session.stored

    def _on_data(self, ident: bytes, frames: list[memoryview]) -> None:
        name = protocol.fields_of(frames[0], session=str)["session"]
        peer = self._peers[ident]
        if name not in peer.sessions:
            return self._on_stray(ident, frames) if self._may_talk(ident, frames) else None
        peer.heard = time.monotonic()
        if len(frames) != 2:
            raise wire.WireError("data without a run of entries")
        run = list(islice(entries(frames[1]), protocol.RUN_RECORDS + 1))
        if not 0 < len(run) <= protocol.RUN_RECORDS:
            raise wire.WireError(f"data with no or more than {protocol.RUN_RECORDS} entries")
        wait = self._budget.wait(peer.actor, len(run), len(frames[1]), peer.heard)
        if wait:
            self._put_off[name] = peer.heard + wait
        else:
            self._accept(ident, name, self._expected(ident, name, run))

    def _on_stray(self, ident: bytes, frames: list[memoryview]) -> None:
        """Data of somebody who has not said hello, or not with this session."""
        self._say(ident, protocol.message(protocol.WHO))

    def _expected(self, ident: bytes, name: str, run: list[Entry]) -> list[Entry]:
        """The entries of a run that come next; what is missing or damaged is asked for again."""
        session, taken = self._shared.sessions[name], []
        for entry in run:
            expected = session.expected + len(taken)
            if entry.seq < expected:
                self._repeated(name)
            elif entry.seq > expected or crc32(entry.payload) != entry.crc:
                self._ask_again(ident, name, expected)
                if entry.seq == expected:
                    self._reject(ident, f"record {entry.seq} arrived damaged")
                break
            else:
                taken.append(entry)
        return taken

    def _repeated(self, name: str) -> None:
        with self._shared.changed:
            self._shared.duplicates += 1
            self._shared.dirty.add(name)

    def _accept(self, ident: bytes, name: str, taken: list[Entry]) -> None:
        shared = self._shared
        session = shared.sessions[name]
        with shared.changed:
            session.expected += len(taken)
            session.peer = ident
            session.begun |= bool(taken)
            shared.inbox.extend((name, entry) for entry in taken)
            shared.inbox_bytes += sum(len(entry.payload) for entry in taken)
            shared.received += len(taken)
            shared.changed.notify_all()

    def _ask_for_put_off(self, now: float) -> None:
        """Nobody else would: an actor takes for under way what it has sent."""
        for name in [name for name, due in self._put_off.items() if now >= due]:
            session = self._shared.sessions[name]
            if now - session.asked > ASKED:
                del self._put_off[name]
                self._ask_again(session.peer, name, session.expected)

    def _ask_again(self, ident: bytes, name: str, seq: int) -> None:
        session = self._shared.sessions[name]
        now = time.monotonic()
        if now - session.asked > ASKED:
            session.asked = now
            self._say(ident, protocol.message(protocol.RESEND, session=name, seq=seq))

    def _on_ping(self, ident: bytes, frames: list[memoryview]) -> None:
        peer = self._peers.get(ident)
        if peer is None:
            return self._say(ident, protocol.message(protocol.WHO))
        ping = protocol.fields_of(frames[0], version=int)
        peer.heard = time.monotonic()
        peer.version = ping["version"]
        if ping.get("got") == peer.under_way:
            peer.under_way = None

    # ── what the learner says ────────────────────────────────────────────────────────────────────

    def _say(self, ident: bytes, frames: list[wire.Buffer]) -> None:
        """Never waits: what a stuck or vanished actor does not take is dropped, and repeated by heartbeats."""
        self._socket.send_multipart([ident, *frames], copy=False)

    def _send_acks(self) -> bool:
        """Whether there was news."""
        with self._shared.changed:
            dirty, self._shared.dirty = self._shared.dirty, set()
            news: dict[bytes, dict[str, int]] = {}
            for name in dirty:
                session = self._shared.sessions[name]
                news.setdefault(session.peer, {})[name] = session.stored
        for ident, stored in news.items():
            if ident in self._peers:
                self._say(ident, protocol.message(protocol.ACK, stored=stored))
        return bool(dirty)

    def _send_report(self, now: float) -> None:
        beat = now >= self._next_beat
        with self._shared.changed:
            due = beat or self._shared.report_changed
            self._shared.report_changed = False
            report = self._shared.report
            stored = {name: session.stored for name, session in self._shared.sessions.items()} if due else {}
        if beat:
            self._next_beat = now + protocol.BEAT
            self._forget_silent(now)
        for ident, peer in list(self._peers.items()) if due else []:
            mine = {name: stored[name] for name in peer.sessions} if beat else {}
            self._say(ident, protocol.message(protocol.REPORT, report=report, stored=mine))

    def _send_weights(self) -> None:
        if self._shared.pressed is None:
            return
        version, frames = self._shared.pressed
        now = time.monotonic()
        for ident, peer in self._peers.items():
            stuck = peer.under_way is not None and now - peer.sent_at < self.PATIENCE
            if peer.version < version and not stuck:
                peer.under_way, peer.sent_at = version, now
                self._say(ident, frames)

    def _warn_of_old_weights(self, peer: Peer) -> None:
        if peer.version > self._shared.published >= 0:
            log.warning(
                "actor %s holds weights %d, this learner has only published %d: it keeps its own. "
                "Resume the learner from its checkpoint, or restart the actor",
                peer.actor, peer.version, self._shared.published,
            )  # fmt: skip

    def _forget_silent(self, now: float) -> None:
        full = is_full(self._shared, self._limits)
        silent = [ident for ident, peer in self._peers.items() if now - peer.heard > self.PATIENCE]
        for ident in [] if full else silent:  # while nothing is read, silence means nothing
            log.warning("actor %s is silent; waiting for it to come back", self._peers.pop(ident).actor)
        self._forget_empty()
        self._share_peers()

    def _forget_empty(self) -> None:
        """Sessions that were announced and nothing more, unless their actor is here: nobody can fill the memory."""
        announced = set[str]().union(*(peer.sessions for peer in self._peers.values()))
        with self._shared.changed:
            sessions = self._shared.sessions
            for name in [name for name, session in sessions.items() if not session.begun and name not in announced]:
                del sessions[name]
                self._put_off.pop(name, None)
                self._shared.dirty.discard(name)

    def _share_peers(self) -> None:
        with self._shared.changed:
            self._shared.peers = tuple(peer.actor for peer in self._peers.values())
