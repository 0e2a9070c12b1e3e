"""What a server counts about itself, so that a slow or noisy client can be found from outside."""

from __future__ import annotations

import time
from collections import OrderedDict, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

NEWEST = 1000  # latencies kept per call
CLIENTS = 100  # clients remembered, the last heard
NAME = 80  # characters of a client's name


@dataclass(frozen=True)
class CallStatistics:
    """``count`` calls of one name, ``errors`` among them; ``p50`` and ``p99`` s to carry out the newest ones."""

    count: int
    errors: int
    p50: float
    p99: float


@dataclass(frozen=True)
class Statistics:
    """Since the server started, ``uptime`` s ago.

    ``clients``: who calls it what → s since its last call. ``rejected`` messages could not be read;
    ``throttled`` ones came too fast and were not read.
    """

    uptime: float
    calls: Mapping[str, CallStatistics]
    clients: Mapping[str, float]
    rejected: int
    throttled: int


@dataclass
class _Tally:
    count: int = 0
    errors: int = 0
    newest: deque[float] = field(default_factory=lambda: deque(maxlen=NEWEST))


class CallLog:
    """Counts in one thread; bounded, whatever clients send."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._begun = now()
        self._tallies: dict[str, _Tally] = {}
        self._clients: OrderedDict[str, float] = OrderedDict()
        self.rejected = 0
        self.throttled = 0

    def heard(self, name: str) -> None:
        """A client of this name has called."""
        self._clients[name[:NAME]] = self._now()
        self._clients.move_to_end(name[:NAME])
        if len(self._clients) > CLIENTS:
            self._clients.popitem(last=False)

    def record(self, call: str, seconds: float, failed: bool) -> None:
        """One call, of a name that the server knows."""
        tally = self._tallies.setdefault(call, _Tally())
        tally.count += 1
        tally.errors += failed
        tally.newest.append(seconds)

    def statistics(self) -> Statistics:
        now = self._now()
        calls = {
            name: CallStatistics(one.count, one.errors, quantile(one.newest, 0.5), quantile(one.newest, 0.99))
            for name, one in self._tallies.items()
        }
        clients = {name: now - at for name, at in self._clients.items()}
        return Statistics(now - self._begun, calls, clients, self.rejected, self.throttled)


def quantile(values: Sequence[float], share: float) -> float:
    """The smallest value that at least ``share`` of all do not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]
