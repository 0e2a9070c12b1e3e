"""The actor's network thread: it sends what the spool holds and hears what the learner says."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import zmq

from robot_servers import wire
from robot_servers.keys import ClientKeys, Handshakes, secure_client
from serl_core.link import protocol
from serl_core.link.protocol import LinkError, Waker, Weights
from serl_core.link.spool import Spool

log = logging.getLogger(__name__)

FLOWING = 1.0  # s since the last record within which the next one is expected


@dataclass
class View:
    """What the courier has heard, shared with the caller under ``changed``."""

    changed: threading.Condition = field(default_factory=threading.Condition)
    connected: bool = False
    heard: float = 0.0  # monotonic time of the learner's last message
    weights: Weights | None = None
    report: Mapping[str, Any] = field(default_factory=dict)
    fault: str = ""
    refused: str = ""  # why the learner does not let us in, as far as keys are concerned; it is tried again


class Courier:
    """The thread that owns the socket.

    ::

        every round:  receive ▸ hello while unknown to the learner ▸ send what the window allows ▸ ping

    ``cursor`` is the position of the next entry to send; between ``spool.released`` and the cursor
    lies what is under way. The window bounds it, and with it the memory at both ends.
    """

    WINDOW = 512  # records
    WINDOW_BYTES = 64 << 20
    MAX_PATIENCE = 16.0  # s until a silent connection is given up, at most

    def __init__(
        self, address: str, actor: str, spool: Spool, view: View, away_after: float, keys: ClientKeys | None
    ) -> None:
        self._address = address
        self._actor = actor
        self._spool = spool
        self._view = view
        self._away_after = away_after
        self._keys = keys
        self._waker = Waker()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="link-courier", daemon=True)
        self._context = zmq.Context()
        self._socket = self._new_socket()
        self._known = False  # the learner has answered our hello
        self._cursor = spool.released
        self._mean_bytes = 1.0
        self._next_beat = 0.0
        self._next_run = 0.0
        self._sent_at = -FLOWING
        self._dozing = True
        self._renew_at = 0.0
        self._patience = away_after

    def start(self) -> None:
        self._thread.start()

    def spooled(self) -> None:
        """A record is there. While they flow, it is seen within `protocol.GATHER` without more ado: a control loop that
        woke this thread would share the interpreter with it just then, and wait for it where the machine is busy."""
        if self._dozing and self._known:
            self._waker.wake()

    def hurry(self) -> None:
        """Somebody waits for what the learner says to what was spooled."""
        self._next_run = 0.0
        self._waker.wake()

    def stop(self) -> None:
        self._stopping.set()
        self._waker.wake()
        self._thread.join()
        self._handshakes.close()
        self._socket.close(linger=0)
        self._context.term()
        self._waker.close()

    def _run(self) -> None:
        while not self._stopping.is_set() and not self._view.fault:
            try:
                self._round()
            except zmq.Again:  # libzmq gives up a connection whose keys were refused: nothing takes what we send
                self._stopping.wait(self._away_after)
                self._renew()
            except (LinkError, OSError, zmq.ZMQError) as error:
                log.exception("link to %s: %s; trying again", self._address, error)
                self._stopping.wait(1.0)
                self._renew()

    def _round(self) -> None:
        self._listen()
        now = time.monotonic()
        self._watch(now)
        if now >= self._next_beat:
            self._next_beat = now + protocol.BEAT
            self._ping(None) if self._known else self._hello()
        if self._known and now >= self._next_run:
            self._send_some(now)

    def _listen(self) -> None:
        """Wait for the learner, or for records; these gather for a moment if some were sent just now."""
        pause = self._pause(time.monotonic())
        poller = zmq.Poller()
        poller.register(self._socket, zmq.POLLIN)
        poller.register(self._waker.fileno(), zmq.POLLIN)
        poller.poll(math.ceil(pause * 1000))
        self._dozing = False
        self._waker.drain()
        while self._socket.poll(0):
            frames = [frame.buffer for frame in self._socket.recv_multipart(copy=False)]
            try:
                self._handle(bytes(frames[0]), frames[1:])
            except wire.WireError as error:
                log.error("link to %s: malformed message left out: %s", self._address, error)

    def _pause(self, now: float) -> float:
        """How long there is nothing to do but to listen, s."""
        if self._known and now - self._sent_at < FLOWING:
            return max(0.0, self._next_run - now) if self._room() else protocol.GATHER
        self._dozing = True  # from now on whoever spools wakes us; what came just before is seen here
        return 0.0 if self._known and self._room() else protocol.BEAT / 2

    # ── what the learner says ────────────────────────────────────────────────────────────────────

    def _handle(self, kind: bytes, frames: list[memoryview]) -> None:
        handlers: dict[bytes, Callable[[memoryview], None]] = {
            protocol.WELCOME: self._on_welcome,
            protocol.ACK: self._on_ack,
            protocol.RESEND: self._on_resend,
            protocol.REPORT: self._on_report,
            protocol.REFUSED: self._on_refused,
            protocol.WHO: self._on_who,
        }
        if not frames:
            raise wire.WireError("a message without a body")
        self._view.heard = time.monotonic()
        if kind == protocol.WEIGHTS:
            self._on_weights(frames)
        elif kind in handlers:
            handlers[kind](frames[0])
        else:
            raise wire.WireError(f"unknown kind {kind!r:.40}")

    def _on_welcome(self, frame: memoryview) -> None:
        stored = protocol.fields_of(frame, stored=dict)["stored"]
        self._release(stored)
        if not self._known:  # a second answer, to a hello repeated on a slow network, asks for nothing again
            self._cursor = self._spool.released
        self._known = True
        self._patience = self._away_after
        self._share(connected=True, refused="")

    def _on_ack(self, frame: memoryview) -> None:
        self._release(protocol.fields_of(frame, stored=dict)["stored"])

    def _release(self, stored: Mapping[str, Any]) -> None:
        for session, seq in stored.items():
            if type(seq) is not int:
                raise wire.WireError(f"stored number {seq!r:.40} of {session!r:.80} is no int")
        self._spool.release(stored)
        self._cursor = max(self._cursor, self._spool.released)
        self._share()

    def _on_resend(self, frame: memoryview) -> None:
        wanted = protocol.fields_of(frame, session=str, seq=int)
        self._cursor = self._spool.after(wanted["session"], wanted["seq"] - 1)

    def _on_report(self, frame: memoryview) -> None:
        fields = protocol.fields_of(frame, report=dict, stored=dict)
        self._release(fields["stored"])
        self._share(report=fields["report"])

    def _on_refused(self, frame: memoryview) -> None:
        self._share(fault=f"the learner at {self._address} refused: {protocol.fields_of(frame, text=str)['text']}")

    def _on_who(self, frame: memoryview) -> None:
        self._known = False
        self._next_beat = 0.0

    def _on_weights(self, frames: list[memoryview]) -> None:
        fields = protocol.fields_of(frames[0], version=int, crc=int)
        version = fields["version"]
        held = self._view.weights.version if self._view.weights else -1
        if protocol.checksum(frames[1:]) != fields["crc"]:
            log.error("weights %d arrived with a wrong checksum; asking again", version)
        elif version > held:
            tree = wire.decode(frames[1:], max_bytes=protocol.MAX_WEIGHTS)
            if not isinstance(tree, dict) or tree.keys() != {"params", "meta"}:
                raise wire.WireError("weights without params and meta")
            self._share(weights=Weights(version, tree["params"], tree["meta"]))
        self._ping(version)

    def _share(self, **changes: Any) -> None:
        with self._view.changed:
            for name, value in changes.items():
                setattr(self._view, name, value)
            self._view.changed.notify_all()

    # ── what the actor says ──────────────────────────────────────────────────────────────────────

    def _room(self) -> bool:
        under_way = self._cursor - self._spool.released
        fits = under_way < self.WINDOW and under_way * self._mean_bytes < self.WINDOW_BYTES
        return fits and self._cursor < self._spool.end

    def _send_some(self, now: float) -> None:
        for _ in range(4):  # then listen again
            if not self._room():
                return
            run = self._spool.run(self._cursor, protocol.RUN_RECORDS, protocol.RUN_BYTES)
            head = protocol.message(protocol.DATA, session=run.session)
            self._socket.send_multipart([*head, run.data], copy=False)
            self._cursor += run.count
            self._mean_bytes += 0.5 * (len(run.data) / run.count - self._mean_bytes)
            self._next_run = now + protocol.GATHER
            self._sent_at = now

    def _hello(self) -> None:
        self._socket.send_multipart(
            protocol.message(
                protocol.HELLO,
                protocol=protocol.PROTOCOL,
                actor=self._actor,
                sessions=self._spool.sessions(),
                version=self._version(),
            )
        )

    def _ping(self, got: int | None) -> None:
        self._socket.send_multipart(protocol.message(protocol.PING, version=self._version(), got=got))

    def _version(self) -> int:
        return self._view.weights.version if self._view.weights else -1

    # ── a silent learner ─────────────────────────────────────────────────────────────────────────

    def _watch(self, now: float) -> None:
        """After a silence start over on a new socket: the old connection may be half open.

        Ever more patiently: on a slow network a connection takes longer than the first silence.
        """
        if now - self._view.heard < self._away_after or now < self._renew_at:
            return
        if self._view.connected:
            log.warning(
                "learner at %s is away; %d records wait in the spool",
                self._address,
                self._spool.end - self._spool.released,
            )
        self._renew()
        self._renew_at = now + self._patience
        self._patience = min(2 * self._patience, self.MAX_PATIENCE)

    def _renew(self) -> None:
        self._known = False
        refused = self._handshakes.failure()
        if refused and refused != self._view.refused:
            log.error("the learner at %s does not let this actor in: %s; trying again", self._address, refused)
        self._share(connected=False, refused=refused)
        self._handshakes.close()
        self._socket.close(linger=0)
        self._socket = self._new_socket()
        self._next_beat = 0.0

    def _new_socket(self) -> zmq.Socket[bytes]:
        socket = self._context.socket(zmq.DEALER)
        socket.setsockopt(zmq.SNDHWM, 0)  # the window bounds it
        socket.setsockopt(zmq.SNDTIMEO, 0)
        socket.setsockopt(zmq.RECONNECT_IVL, 50)
        socket.setsockopt(zmq.RECONNECT_IVL_MAX, 1000)
        socket.setsockopt(zmq.MAXMSGSIZE, protocol.MAX_WEIGHTS)
        secure_client(socket, self._keys)
        self._handshakes = Handshakes(socket)
        socket.connect(self._address)
        return socket
