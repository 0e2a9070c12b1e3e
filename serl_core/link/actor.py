"""The actor's end of the link: spool first, then send, resend until the learner has stored it.

The control loop only ever touches the disk spool and a few shared values; one thread owns the socket::

    send(record) ──▶ spool on disk ──▶ courier thread ══ socket ══▶ learner
    weights(), status(), wait_until() ◀── view ◀── courier thread ◀══ socket ══
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

from robot_servers import wire
from robot_servers.keys import ClientKeys
from serl_core.link import protocol
from serl_core.link.courier import Courier, View
from serl_core.link.protocol import LinkError, Weights
from serl_core.link.spool import Spool
from serl_core.pages import keep_freed_memory
from serl_core.types import Message, record_to_tree


@dataclass(frozen=True)
class LinkStatus:
    """``unacked`` records are spooled and not yet stored by the learner; ``report`` is its newest one."""

    connected: bool
    text: str  # "connected" or "learner away for 3.2 s"
    unacked: int
    weights_version: int  # −1 before the first
    report: Mapping[str, Any]


class ActorLink:
    """One actor's link to the learner. Nothing is opened before `connect` (or ``with``).

    ``spool_dir`` belongs to this actor alone and to one run: what an earlier process left there is
    sent first. `send` never waits for the network. All calls raise `LinkError` once the learner has
    refused this actor, with the reason. ``keys`` are for a learner that demands them.
    ``spool_sync``: write the spool back to the disk every so many seconds, so that a power loss costs no more.
    """

    def __init__(
        self,
        address: str,
        actor_id: str,
        spool_dir: Path,
        insecure: bool = False,
        away_after: float = 2.0,
        spool_bytes: int = 20 << 30,
        new_id: Callable[[], str] = lambda: uuid4().hex[:8],
        keys: ClientKeys | None = None,
        spool_sync: float | None = None,
    ) -> None:
        protocol.check_address(address, secured=keys is not None, insecure=insecure)
        if not re.fullmatch(r"[A-Za-z0-9_.-]{1,64}", actor_id):
            raise LinkError(f"actor id {actor_id!r}: use 1 to 64 letters, digits, '_', '.' or '-'")
        self.address = address
        self._keys = keys
        self.session = f"{actor_id}-{new_id()}"
        self._actor_id = actor_id
        self._away_after = away_after
        self._spool = Spool(Path(spool_dir), spool_bytes, sync_every=spool_sync)
        self._view = View()
        self._courier: Courier | None = None

    def __enter__(self) -> ActorLink:
        return self.connect()

    def __exit__(self, *_: object) -> None:
        self.close()

    def connect(self) -> ActorLink:
        """Open the spool and start the network thread; the learner may come later. Raises `LinkError`."""
        if self._courier:
            return self
        self._spool.open(self.session)
        keep_freed_memory()
        self._view.heard = time.monotonic()
        self._courier = Courier(self.address, self._actor_id, self._spool, self._view, self._away_after, self._keys)
        self._courier.start()
        return self

    def send(self, record: Message) -> int:
        """Spool ``record`` and return its number; from then on it survives a kill of this process."""
        self._check()
        seq = self._spool.append(*wire.pack_parts(record_to_tree(record)))
        if self._courier:
            self._courier.spooled()
        return seq

    def weights(self) -> Weights | None:
        """The newest weights received, None before the first; the version never goes back."""
        self._check()
        return self._view.weights

    def learner_lag(self) -> int:
        """How many records are spooled and not yet stored by the learner."""
        return self._spool.end - self._spool.released

    def status(self) -> LinkStatus:
        """The state of the link, for people and logs."""
        view = self._view
        silent = time.monotonic() - view.heard
        text = "connected" if view.connected else f"learner away for {silent:.1f} s"
        if view.refused:
            text = f"the learner does not let this actor in: {view.refused}"
        version = view.weights.version if view.weights else -1
        return LinkStatus(view.connected, view.fault or text, self.learner_lag(), version, view.report)

    def wait_until(self, predicate: Callable[[Mapping[str, Any]], bool], timeout: float) -> bool:
        """Wait until ``predicate(report)`` holds for the learner's newest report; False after ``timeout`` s."""
        return self._wait(lambda: predicate(self._view.report), timeout)

    def wait_weights(self, version: int, timeout: float) -> bool:
        """Wait until weights of at least ``version`` are here; False after ``timeout`` s."""
        return self._wait(lambda: self._view.weights is not None and self._view.weights.version >= version, timeout)

    def wait_connected(self, timeout: float) -> bool:
        """Wait until the learner is there; False after ``timeout`` s."""
        return self._wait(lambda: self._view.connected, timeout)

    def wait_drained(self, timeout: float) -> bool:
        """Wait until the learner has stored everything; False after ``timeout`` s."""
        return self._wait(lambda: self.learner_lag() == 0, timeout)

    def close(self) -> None:
        """Stop. What is not yet stored stays in the spool and is sent by the next process."""
        if self._courier:
            self._courier.stop()
            self._courier = None
        self._spool.close()

    def _wait(self, done: Callable[[], bool], timeout: float) -> bool:
        if self._courier:
            self._courier.hurry()
        with self._view.changed:
            reached = self._view.changed.wait_for(lambda: bool(self._view.fault) or done(), timeout)
        self._check()
        return reached

    def _check(self) -> None:
        if self._view.fault:
            raise LinkError(self._view.fault)
