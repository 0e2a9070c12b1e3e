"""A page in a browser, also a phone's, for verdicts, hold and STOP: it sets no arm in motion.

``GET /`` is the page, for anybody: one file without secrets or resources from elsewhere. Everything else needs the
token in the header ``X-Token``. The page takes it from the fragment of its address: no log has it, and no page of
somebody else can send it. ``GET /status`` answers the newest figures as JSON, ``POST /say`` with ``{"event": NAME}``
says one of `EVENTS`; with an ``"episode"``, what concerns an episode is said only while that is the newest. STOP runs
in the thread of its request, whatever the loop does. The token travels unencrypted.
"""

from __future__ import annotations

import hmac
import json
import logging
import math
import os
import secrets
import socket
import socketserver
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any, final

from robot_servers.interface import RobotError, nearest
from serl_core.teleop.console import Event
from serl_core.teleop.inbox import Inbox, Unheard

log = logging.getLogger(__name__)

PORT = 5580
EVENTS = tuple(event for event in Event if event is not Event.BEGIN)  # which lets the arm move: said beside it
ALWAYS = (Event.STOP, Event.HOLD, Event.QUIT)  # concern no episode
MAX_BODY = 256  # bytes; a request has about 30
MAX_CONNECTIONS = 32  # at once; of more the oldest is closed, so that a STOP always gets in
IDLE = 5.0  # s after which a silent connection is closed
PAGE = Path(__file__).with_name("page.html")
HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


class Refused(Exception):
    """The answer to a request that is not granted: status and one sentence."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


def make_token(path: Path | None) -> str:
    """A token of 128 bits; with ``path`` the one kept there, which only this user may read. Raises OSError."""
    if path is None:
        return secrets.token_urlsafe(16)
    path.parent.mkdir(parents=True, exist_ok=True)
    fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    with os.fdopen(fd, "r+") as file:
        os.fchmod(fd, 0o600)
        kept = file.read().strip()
        if len(kept) >= 16:
            return kept
        file.seek(0)
        file.write(token := secrets.token_urlsafe(16))
        return token


@final
class Page:
    """Serves the page from `open` to `close` (or ``with``); ``url`` is valid after `open`, token included.

    ``port`` 0 picks a free one. Raises RobotError if it is taken.
    """

    def __init__(
        self, inbox: Inbox, host: str, port: int, token: str, now: Callable[[], float] = time.monotonic
    ) -> None:
        self.url = ""
        self._inbox = inbox
        self._place = (host, port)
        self._token = token.encode()
        self._now = now
        self._status: tuple[float, dict[str, Any]] = (now(), {})
        self._listener: _Listener | None = None
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Page:
        self.open()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def open(self) -> None:
        host, port = self._place
        try:
            self._listener = _Listener(self._place, self)
        except OSError as error:
            raise RobotError(
                f"cannot serve the page on {host}:{port}: {error}; choose another port: --console page:PORT"
            ) from error
        shown = socket.gethostname() if host == "0.0.0.0" else host
        self.url = f"http://{shown}:{self._listener.server_address[1]}/#{self._token.decode()}"
        self._thread = threading.Thread(target=self._listener.serve_forever, args=(0.1,), name="page", daemon=True)
        self._thread.start()

    def close(self) -> None:
        if self._listener is not None and self._thread is not None:
            self._listener.shutdown()
            self._listener.server_close()
            self._thread.join()
            self._listener = None

    def show(self, status: Mapping[str, Any]) -> None:
        """The figures to show from now on; values that JSON lacks become text."""
        self._status = (self._now(), dict(status))

    # ── answers, from any thread ─────────────────────────────────────────────────────────────────

    def check_token(self, token: str | None) -> None:
        """Raises `Refused` unless ``token`` is ours."""
        if not hmac.compare_digest((token or "").encode(), self._token):
            raise Refused(403, "NOTHING WAS DONE: open the address that was printed at the start, with all after its #")

    def figures(self) -> dict[str, Any]:
        """What /status answers: ``age`` (s) of ``status``, how many events wait, and which may be said."""
        since, status = self._status
        plain = {str(name): _plain(value) for name, value in status.items()}
        waiting = self._inbox.waiting()
        return {"status": plain, "age": self._now() - since, "waiting": waiting, "events": list(EVENTS)}

    def said(self, raw: bytes) -> dict[str, Any]:
        """Do what /say asks for. Raises `Refused`."""
        event, meant = _meant(raw)
        shown = self._status[1].get("episode")
        if event not in ALWAYS and meant is not None and shown is not None and meant != shown:
            raise Refused(409, f"NOTHING WAS DONE: by now it is episode {shown}, and episode {meant} was meant")
        try:
            self._inbox.put(event, "page")
        except RobotError as error:
            raise Refused(502, str(error)) from error
        except Unheard as error:
            raise Refused(503, str(error)) from error
        return {"said": event}


def _meant(raw: bytes) -> tuple[Event, int | None]:
    """The event, and the episode that its sender saw."""
    try:
        tree = json.loads(raw)
        name, episode = tree["event"], tree.get("episode")
    except (ValueError, RecursionError, KeyError, TypeError, AttributeError) as error:
        raise Refused(400, 'the body must be {"event": NAME}') from error
    if name == Event.BEGIN:
        raise Refused(403, "what sets the arm in motion is said beside it, at the keys or the device")
    if name not in EVENTS:
        raise Refused(400, f"unknown event {json.dumps(name)[:40]}{nearest(str(name)[:40], EVENTS)}")
    if episode is not None and type(episode) is not int:
        raise Refused(400, f"episode {json.dumps(episode)[:40]} must be a number")
    return Event(name), episode


def _plain(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if isinstance(value, str | int | None) else str(value)


class _Listener(socketserver.ThreadingTCPServer):
    """One thread per connection, of which the oldest makes room for a new one."""

    allow_reuse_address = True
    daemon_threads = True
    block_on_close = False
    request_queue_size = MAX_CONNECTIONS

    def __init__(self, address: tuple[str, int], page: Page) -> None:
        self.page = page
        self._lock = threading.Lock()
        self._running: deque[socket.socket] = deque()
        super().__init__(address, _Handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        with self._lock:
            self._running.append(request)
            oldest = self._running.popleft() if len(self._running) > MAX_CONNECTIONS else None
        if oldest is not None:
            log.warning("more than %d connections to the page: the oldest is closed", MAX_CONNECTIONS)
            _hang_up(oldest)
        super().process_request(request, client_address)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            with self._lock:
                if request in self._running:
                    self._running.remove(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        log.info("a connection from %s broke off", client_address, exc_info=True)


def _hang_up(connection: socket.socket) -> None:
    try:
        connection.shutdown(socket.SHUT_RDWR)
    except OSError:
        log.debug("it was closed already")


class _Handler(BaseHTTPRequestHandler):
    """Answers one request, then closes: nobody keeps a connection that another needs."""

    server: _Listener
    server_version = "serl"
    sys_version = ""
    timeout = IDLE

    def do_GET(self) -> None:
        route = self.path.partition("?")[0]
        if route == "/":
            self._send(200, "text/html; charset=utf-8", PAGE.read_bytes())
        else:
            self._answer(lambda: self._figures(route))

    def do_POST(self) -> None:
        self._answer(self._said)

    def log_message(self, format: str, *args: Any) -> None:
        log.debug(format, *args)

    def _answer(self, act: Callable[[], dict[str, Any]]) -> None:
        try:
            self._send_json(200, act())
        except Refused as refused:
            self._send_json(refused.status, {"error": str(refused)})

    def _figures(self, route: str) -> dict[str, Any]:
        if route != "/status":
            raise Refused(404, f'there is no "{route:.40}", only / and /status')
        self.server.page.check_token(self.headers.get("X-Token"))
        return self.server.page.figures()

    def _said(self) -> dict[str, Any]:
        if self.path != "/say":
            raise Refused(404, f'there is no "{self.path:.40}" to post to, only /say')
        self._check_origin()
        self.server.page.check_token(self.headers.get("X-Token"))
        return self.server.page.said(self.rfile.read(self._length()))

    def _check_origin(self) -> None:
        origin = self.headers.get("Origin")
        if origin is not None and origin != f"http://{self.headers.get('Host')}":
            raise Refused(403, "NOTHING WAS DONE: the request comes from a page of somebody else")

    def _length(self) -> int:
        text = self.headers.get("Content-Length", "")
        if "Transfer-Encoding" in self.headers or not (text.isascii() and text.isdigit()):
            raise Refused(411, "send the body in one piece, with its Content-Length")
        if len(text) > 9 or int(text) > MAX_BODY:
            raise Refused(413, f"the body is larger than {MAX_BODY} bytes")
        return int(text)

    def _send_json(self, status: int, tree: Mapping[str, Any]) -> None:
        self._send(status, "application/json", json.dumps(tree).encode())

    def _send(self, status: int, kind: str, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        for name, value in HEADERS.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)
