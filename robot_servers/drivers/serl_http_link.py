"""POSTs to a SERL HTTP server, each bounded in time: quick ones by the cycle, slow ones by a thread beside it."""

from __future__ import annotations

import contextlib
import http.client
import json
import logging
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

from robot_servers.interface import RobotError

log = logging.getLogger(__name__)

MAX_ANSWER = 1 << 16  # bytes; a state has about 2000


class Unreachable(RobotError):
    """No answer came: the server is gone, or it hangs, or the network does. It may be back in a moment."""


class HttpLink:
    """One connection to ``url`` (``http://HOST:PORT/``), kept open between calls where the server allows it.

    Not thread-safe. Raises `RobotError` for a URL that is none.
    """

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        try:
            host, port = parts.hostname, parts.port or 80
        except ValueError as error:
            raise RobotError(f'"{url}" is not a URL: {error}') from error
        if parts.scheme != "http" or not host:
            raise RobotError(f'"{url}" is not the URL of a SERL server: expected http://HOST:PORT/')
        self.url = url
        self._path = parts.path.rstrip("/")
        self._connection = http.client.HTTPConnection(host, port)

    def post(self, route: str, body: Mapping[str, object] | None, timeout: float) -> bytes:
        """The body of the answer; each wait for the network ends after ``timeout`` s.

        Raises `Unreachable` without an answer, and `RobotError` for one that is none.
        """
        data = b"" if body is None else json.dumps(body).encode()
        try:
            return self._exchange(route, data, timeout)
        except TimeoutError as error:
            self.close()
            raise Unreachable(
                f"the server at {self.url} does not answer /{route} within {timeout:g} s: it hangs, or the network does"
            ) from error
        except (OSError, http.client.HTTPException) as error:
            self.close()
            raise Unreachable(
                f"no answer to /{route} from {self.url} ({type(error).__name__}: {error}): "
                "is SERL's server running there?"
            ) from error

    def close(self) -> None:
        self._connection.close()

    def _exchange(self, route: str, data: bytes, timeout: float) -> bytes:
        reused = self._connection.sock is not None
        try:
            return self._once(route, data, timeout)
        except (ConnectionError, http.client.BadStatusLine):  # also RemoteDisconnected
            self.close()
            if not reused:
                raise
        return self._once(route, data, timeout)  # the server had closed the connection meanwhile, as it may

    def _once(self, route: str, data: bytes, timeout: float) -> bytes:
        connection = self._connection
        connection.timeout = timeout
        if connection.sock is not None:
            connection.sock.settimeout(timeout)
        connection.request("POST", f"{self._path}/{route}", data, {"Content-Type": "application/json"})
        answer = connection.getresponse()
        text = answer.read(MAX_ANSWER + 1)
        if len(text) > MAX_ANSWER:
            self.close()
            raise RobotError(f"the server at {self.url} answers /{route} with more than {MAX_ANSWER} bytes")
        if answer.status != 200:
            said = text[:200].decode(errors="replace").strip()
            raise RobotError(f"the server at {self.url} answers /{route} with status {answer.status}: {said}")
        return text


@dataclass(frozen=True)
class Errand:
    """A POST that may take long: its route, its body and its patience (s)."""

    route: str
    body: Mapping[str, object] | None
    timeout: float


class Errands:
    """Runs errands one after the other in a thread of its own. Of one kind only the newest waits: nothing piles up.

    After a failure or a `stop` nothing more is run until `clear`.
    """

    def __init__(self, url: str) -> None:
        self._link = HttpLink(url)
        self._changed = threading.Condition()
        self._waiting: dict[str, Errand] = {}
        self._running = ""
        self._failure: RobotError | None = None
        self._stopped = False
        self._closing = False
        self._thread: threading.Thread | None = None

    def open(self) -> None:
        self._thread = threading.Thread(target=self._work, name="serl-errands", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Run no more; one that is under way ends by itself, within its timeout."""
        with self._changed:
            self._closing = True
            self._changed.notify()

    def put(self, kind: str, errand: Errand) -> None:
        """Run it next; it replaces one of the same kind that waits. After a `stop` nothing comes of it."""
        with self._changed:
            if not self._stopped:
                self._waiting[kind] = errand
                self._changed.notify()

    def busy(self, kind: str) -> bool:
        """Whether one of this kind waits or is under way."""
        with self._changed:
            return kind in self._waiting or kind == self._running

    def check(self) -> None:
        """Raises `RobotError` with what went wrong, if anything did."""
        with self._changed:
            if self._failure is not None:
                raise self._failure

    def failed(self) -> bool:
        """Whether anything went wrong, so that nothing more is run."""
        with self._changed:
            return self._failure is not None

    def stop(self) -> None:
        """Run nothing that waits, and nothing that is still to come. What is under way cannot be called back."""
        with self._changed:
            self._stopped = True
            self._waiting.clear()

    def clear(self) -> None:
        """Forget what went wrong, a stop, and what waits."""
        with self._changed:
            self._failure, self._stopped = None, False
            self._waiting.clear()

    def _work(self) -> None:
        with contextlib.closing(self._link):
            while (errand := self._next()) is not None:
                failure = self._run(errand)
                with self._changed:
                    self._running, self._failure = "", self._failure or failure

    def _next(self) -> Errand | None:
        with self._changed:
            self._changed.wait_for(lambda: self._closing or (self._waiting and not self._failure))
            if self._closing:
                return None
            self._running = next(iter(self._waiting))
            return self._waiting.pop(self._running)

    def _run(self, errand: Errand) -> RobotError | None:
        """What went wrong, or None. Every errand has a connection of its own, so that none is sent twice."""
        try:
            self._link.close()
            self._link.post(errand.route, errand.body, errand.timeout)
        except RobotError as error:
            log.error("%s", error)
            return error
        return None
