"""A TCP proxy that misbehaves as networks do: it cuts, delays, stalls, and goes silent without a word."""

from __future__ import annotations

import contextlib
import random
import socket
import threading
import time
from queue import SimpleQueue
from typing import TypeAlias

Pieces: TypeAlias = SimpleQueue[tuple[float, bytes]]  # and when each is due


class Proxy:
    """Between a client and ``target`` (``tcp://HOST:PORT``).

    Every byte takes ``delay`` s; a share ``stalls`` of the pieces holds those behind it up for 0.3 s, as a lost
    packet does; ``rate`` bytes pass per second.
    """

    def __init__(self, target: str, delay: float = 0.0, stalls: float = 0.0, rate: float = 1e12, seed: int = 0) -> None:
        host, port = target.removeprefix("tcp://").rsplit(":", 1)
        self._target = (host, int(port))
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._rng = random.Random(seed)
        self._pairs: list[tuple[socket.socket, socket.socket]] = []
        self._frozen: set[socket.socket] = set()
        self._closing = False
        self._delay, self._stalls, self._rate = delay, stalls, rate
        self.connections = 0
        self.address = f"tcp://127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def __enter__(self) -> Proxy:
        return self

    def __exit__(self, *_: object) -> None:
        self._closing = True
        self._listener.close()
        self.cut()

    def cut(self) -> None:
        """Close all connections."""
        for pair in self._pairs:
            for end in pair:
                with contextlib.suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)
                end.close()
        self._pairs = []

    def freeze(self) -> None:
        """Carry nothing any more on the connections there are, and close none: half-open for both ends."""
        self._frozen |= {end for pair in self._pairs for end in pair}

    def _accept(self) -> None:
        while not self._closing:
            try:
                client, _ = self._listener.accept()
                server = socket.create_connection(self._target)
            except OSError:
                continue
            self.connections += 1
            self._pairs.append((client, server))
            for source, sink in ((client, server), (server, client)):
                threading.Thread(target=self._pump, args=(source, sink), daemon=True).start()

    def _pump(self, source: socket.socket, sink: socket.socket) -> None:
        under_way: Pieces = SimpleQueue()
        threading.Thread(target=self._deliver, args=(under_way, source, sink), daemon=True).start()
        piece = b"begin"
        while piece:
            try:
                piece = source.recv(1 << 16)
            except OSError:
                piece = b""
            under_way.put((time.monotonic() + self._delay, piece))

    def _deliver(self, under_way: Pieces, source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                due, piece = under_way.get()
                stall = 0.3 if self._rng.random() < self._stalls else 0.0
                time.sleep(max(0.0, due - time.monotonic()) + stall + len(piece) / self._rate)
                if source in self._frozen:
                    return
                if not piece:
                    return sink.shutdown(socket.SHUT_WR)
                sink.sendall(piece)
