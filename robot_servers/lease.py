"""One owner at a time: which client may change what the robot does. To look, and to hold the arm, is open to all."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from robot_servers.interface import ClockMode, NotOwner

# s of silence after which an owner is taken for gone. Under the lockstep clock nothing moves while its
# owner is silent, so that a slow learner need not lose the robot; it still must not block it for ever.
SILENCE: dict[ClockMode, float] = {"realtime": 1.0, "lockstep": 30.0}

NAME = 80  # characters of a client's name that others get to see


@dataclass(frozen=True)
class Client:
    """Who calls: ``ident`` is drawn at random by the client, ``name`` is for people to read (host:pid)."""

    ident: str
    name: str


class Lease:
    """Free, or owned by one client until that releases it or is silent for ``duration`` s.

    ``ended`` is called whenever an owner has lost it, so that nothing outlives the owner. Not
    thread-safe: a call is checked, carried out and counted in one thread, so that no other owner comes
    in between.
    """

    def __init__(self, duration: float, ended: Callable[[], None], now: Callable[[], float] = time.monotonic) -> None:
        self.duration = duration
        self._ended = ended
        self._now = now
        self._owner: Client | None = None
        self._until = 0.0

    def take(self, client: Client) -> None:
        """Own it from now on. Raises `NotOwner`, naming the owner, while another client does."""
        if not self.free:
            self.check(client)
        self._owner = client
        self.renew(client)

    def check(self, client: Client | None) -> None:
        """Raises `NotOwner` unless ``client`` owns it."""
        if self._owner is None:
            raise NotOwner("nobody owns the robot: acquire its lease first")
        if not self.owned_by(client):
            raise NotOwner(
                f"the robot is in the hands of {self.owner}, whose lease runs for another "
                f"{self._until - self._now():.1f} s and longer with each of its calls: end that program, or wait"
            )

    def renew(self, client: Client | None) -> None:
        """A call of the client has been carried out; if it owns the lease, its silence begins anew."""
        if self.owned_by(client):
            self._until = self._now() + self.duration

    def release(self, client: Client) -> None:
        """Free it if the client owns it."""
        if self.owned_by(client):
            self._end()

    def expire(self) -> None:
        """Free it if its owner has been silent for too long. Nothing else does: call it before every check."""
        if self._owner is not None and self._now() > self._until:
            self._end()

    @property
    def free(self) -> bool:
        return self._owner is None

    @property
    def owner(self) -> str:
        """The name of who owns it, or empty."""
        return "" if self._owner is None else self._owner.name[:NAME]

    def owned_by(self, client: Client | None) -> bool:
        """Whether this client owns it now."""
        return self._owner is not None and client is not None and client.ident == self._owner.ident

    def _end(self) -> None:
        self._owner = None
        self._ended()
