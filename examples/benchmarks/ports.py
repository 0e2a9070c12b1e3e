"""Ports to serve at twice: for whoever starts a server again where the last one was."""

from __future__ import annotations

import contextlib
import random
import socket

# Below the ports that systems give to outgoing connections (Linux from 32768, RFC 6335 from 49152): such a
# connection, of anybody, would otherwise take a port between its choice and its use, or between two servers.
RANGE = range(20_000, 32_000)


def free_ports(count: int, beside: tuple[int, ...] = ()) -> list[int]:
    """Different loopback TCP ports where nobody listens now, nor at ports ``beside`` so much higher.

    Raises `OSError` if there are not as many.
    """
    found: list[int] = []
    with contextlib.ExitStack() as held:
        for port in random.SystemRandom().sample(RANGE, len(RANGE)):
            with contextlib.ExitStack() as probes, contextlib.suppress(OSError):
                for distance in (0, *beside):
                    probes.enter_context(socket.socket()).bind(("127.0.0.1", port + distance))
                held.enter_context(probes.pop_all())
                found.append(port)
            if len(found) == count:
                return found
    raise OSError(f"fewer than {count} free ports from {RANGE.start} to {RANGE.stop}")


def free_address(beside: tuple[int, ...] = ()) -> str:
    """A loopback address at such a port."""
    return f"tcp://127.0.0.1:{free_ports(1, beside)[0]}"
