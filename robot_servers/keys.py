"""CURVE keys: who may talk to a robot server or a learner over a network, and that nobody else reads along.

One folder per machine, mode 0700; `make_keys` fills one with everything, to be copied in parts::

    server.key        secret of the servers              robot PC, GPU PC
    clients/NAME.pub  who may connect, one file each     robot PC, GPU PC
    server.pub        how clients know the servers       actor PC, and whoever looks or stops
    client.key        secret of the client               the same, each machine its own

A file holds one line: 32 bytes as 40 characters of Z85 (ZeroMQ RFC 32). Encryption and authentication are
CurveZMQ's (RFC 26); who is authorised is decided by `Gatekeeper`, a handler of ZAP (RFC 27).
"""

from __future__ import annotations

import functools
import ipaddress
import logging
import operator
import os
import re
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import zmq
from zmq.utils import z85
from zmq.utils.monitor import recv_monitor_message

from robot_servers.interface import RobotError

log = logging.getLogger(__name__)

ZAP = "inproc://zeromq.zap.01"
KEY = re.compile(r"[0-9a-zA-Z.\-:+=^!/*?&<>()\[\]{}@%$#]{40}")
POLL = 100  # ms between looks at the closing event
TOLD = 1000  # rejected keys that are logged; more are rejected in silence
OTHERS = 0o077  # permission bits of group and world


class KeyProblem(RobotError):
    """Keys are missing, malformed or readable by others; the text says which file and what to run."""


@dataclass(frozen=True)
class ClientKeys:
    """Identity of a client, and the public key by which it knows its servers."""

    public: bytes
    secret: bytes = field(repr=False)
    server: bytes


@dataclass(frozen=True)
class ServerKeys:
    """Identity of a server, and the folder of the public keys that may connect: read anew at each connection.

    ``own``: a pair drawn for clients in the server's own process, which is let in too.
    """

    public: bytes
    secret: bytes = field(repr=False)
    clients: Path
    own: ClientKeys


# ── files ────────────────────────────────────────────────────────────────────────────────────────


def make_keys(folder: Path, client: str = "client") -> list[Path]:
    """Make what is missing in ``folder``: the servers' pair, and the pair of ``client``. Returns the new files.

    Existing keys are never replaced. Raises `KeyProblem`, e.g. for a client that exists already.
    """
    if not re.fullmatch(r"[A-Za-z0-9_-]{1,64}", client) or client == "server":
        raise KeyProblem(f'client name "{client:.80}": use 1 to 64 letters, digits, "_" or "-", and not "server"')
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    (folder / "clients").mkdir(mode=0o700, exist_ok=True)
    _check_private(folder)
    made: list[Path] = []
    for secret, public in (
        (folder / "server.key", folder / "server.pub"),
        (folder / f"{client}.key", folder / "clients" / f"{client}.pub"),
    ):
        if public.exists() and not secret.exists():
            raise KeyProblem(f"{public} is there without {secret.name}: make keys where both are, then copy them")
        if not secret.exists():
            made += _make_pair(secret, public)
    if not made:
        raise KeyProblem(f"{folder} holds keys of {client} already: name another client")
    return made


def load_server_keys(folder: Path) -> ServerKeys:
    """What a server needs. Raises `KeyProblem` if it is missing, malformed or open to others."""
    secret = _read_secret(folder, "server.key")
    clients = folder / "clients"
    if not authorised(clients):
        raise KeyProblem(f"{clients} holds no client's public key (NAME.pub): nobody could connect; see serl keys")
    public = zmq.curve_public(secret)
    return ServerKeys(public, secret, clients, ClientKeys(*zmq.curve_keypair(), public))


def load_client_keys(folder: Path) -> ClientKeys:
    """What a client needs. Raises `KeyProblem` if it is missing, malformed or open to others."""
    secret = _read_secret(folder, "client.key")
    return ClientKeys(zmq.curve_public(secret), secret, _read(folder / "server.pub"))


def authorised(clients: Path) -> dict[bytes, str]:
    """Public key → name of every client that may connect. Unreadable files are logged and left out."""
    known: dict[bytes, str] = {}
    for path in sorted(clients.glob("*.pub")):
        try:
            known[_read(path)] = path.stem
        except KeyProblem as problem:
            log.error("%s", problem)
    return known


def _make_pair(secret: Path, public: Path) -> list[Path]:
    public_key, secret_key = zmq.curve_keypair()
    for path, key in ((secret, secret_key), (public, public_key)):
        # exclusive and private from the first byte on: no moment in which somebody else could open it
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(key + b"\n")
    return [secret, public]


def _read_secret(folder: Path, name: str) -> bytes:
    if not folder.is_dir():
        raise KeyProblem(f"no folder of keys at {folder}: make one with serl keys {folder}")
    _check_private(folder)
    if (folder / name).exists():
        _check_private(folder / name)
    return _read(folder / name)


def _check_private(path: Path) -> None:
    mode = path.stat().st_mode & 0o777
    if mode & OTHERS:
        wanted = "700" if path.is_dir() else "600"
        raise KeyProblem(f"{path} is open to other users (mode {mode:o}): chmod {wanted} {path}")


def _read(path: Path) -> bytes:
    try:
        text = path.read_text("ascii").strip()
    except FileNotFoundError:
        raise KeyProblem(f"{path} is missing: serl keys makes it, and says which file goes where") from None
    except (OSError, UnicodeDecodeError) as error:
        raise KeyProblem(f"{path} cannot be read: {type(error).__name__}") from None
    if not KEY.fullmatch(text):
        raise KeyProblem(f"{path} is not a key: expected one line of 40 characters, as serl keys makes it")
    return text.encode()


# ── sockets ──────────────────────────────────────────────────────────────────────────────────────


def secure_server(socket: zmq.Socket[bytes], keys: ServerKeys | None) -> None:
    """Make ``socket`` demand keys, before it is bound; its context needs a `Gatekeeper`. None: in the clear."""
    if keys is not None:
        socket.curve_server = True
        socket.curve_publickey, socket.curve_secretkey = keys.public, keys.secret
        socket.zap_domain = b"serl"


def secure_client(socket: zmq.Socket[bytes], keys: ClientKeys | None) -> None:
    """Make ``socket`` show who it is and accept no other server, before it connects. None: in the clear."""
    if keys is not None:
        socket.curve_publickey, socket.curve_secretkey = keys.public, keys.secret
        socket.curve_serverkey = keys.server


class Handshakes:
    """Why ``socket`` does not come through: made before it connects, asked when an answer is missing."""

    REASONS: Mapping[int, str] = {
        zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL: "one side uses keys and the other does not: give --keys DIR to both",
        zmq.EVENT_HANDSHAKE_FAILED_AUTH: "it does not know this client's key: put its .pub into clients/ of the server",
        zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL: "it breaks off: does it use keys, and is server.pub its own?",
    }

    def __init__(self, socket: zmq.Socket[bytes]) -> None:
        self.final = False  # whether libzmq has given up, so that there is nothing to wait for
        self._socket = socket
        self._reason = ""
        self._monitor = socket.get_monitor_socket(functools.reduce(operator.or_, self.REASONS))

    def failure(self) -> str:
        """The reason of the newest failure, or empty."""
        while self._monitor.poll(0):
            event = recv_monitor_message(self._monitor)["event"]
            self._reason, self.final = self.REASONS[event], event != zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL
        return self._reason

    def close(self) -> None:
        """Before the socket is closed."""
        self._socket.disable_monitor()
        self._monitor.close(linger=0)


class Gatekeeper:
    """The thread that decides who may connect to the secured sockets of ``context``: one per context, opened first.

    Unknown keys are rejected and logged with their public half and address. Without keys it does nothing.
    """

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], keys: ServerKeys | None) -> None:
        self._context = context
        self._keys = keys
        self._told: set[bytes] = set()  # rejected keys that were logged: their clients try again and again
        self._closing = threading.Event()
        self._thread: threading.Thread | None = None

    def open(self) -> None:
        if self._keys is None:
            return
        socket = self._context.socket(zmq.REP)
        socket.linger = 0
        socket.bind(ZAP)
        self._thread = threading.Thread(target=self._run, args=(socket, self._keys), name="keys", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Before the context is terminated."""
        self._closing.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def _run(self, socket: zmq.Socket[bytes], keys: ServerKeys) -> None:
        with socket:
            while not self._closing.is_set():
                if socket.poll(POLL):
                    socket.send_multipart(self._judge(socket.recv_multipart(), keys))

    def _judge(self, request: list[bytes], keys: ServerKeys) -> list[bytes]:
        """The answer to one ZAP request: version, id, domain, address, identity, mechanism, key (32 bytes)."""
        ident = request[1] if len(request) > 1 else b""
        if len(request) != 7 or request[5] != b"CURVE":
            return [b"1.0", ident, b"400", b"only CURVE is accepted", b"", b""]
        key = z85.encode(request[6])
        name = (authorised(keys.clients) | {keys.own.public: "this process"}).get(key)
        if name is None:
            self._log_rejected(key, request[3].decode(errors="replace"), keys.clients)
            return [b"1.0", ident, b"400", b"unknown key", b"", b""]
        log.info("%s connected from %s", name, request[3].decode(errors="replace"))
        return [b"1.0", ident, b"200", b"OK", name.encode(), b""]

    def _log_rejected(self, key: bytes, address: str, clients: Path) -> None:
        if key in self._told or len(self._told) >= TOLD:
            return
        self._told.add(key)
        where = clients / "NAME.pub"
        log.warning("rejected an unknown key from %s: %s (to let it in, put it into %s)", address, key.decode(), where)


# ── who needs them ───────────────────────────────────────────────────────────────────────────────


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches ``host``, a name or an address; other names than localhost count as not."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def check_address(address: str, secured: bool, insecure: bool) -> None:
    """Raises `KeyProblem` for an address that other machines reach, unless keys secure it or ``insecure`` is said."""
    parts = urlsplit(address)
    if parts.scheme == "ipc":
        return
    if parts.scheme != "tcp" or not parts.hostname:
        raise KeyProblem(f'cannot use "{address}": expected tcp://HOST:PORT, with port * for a free one')
    if not (secured or insecure or is_loopback(parts.hostname)):
        raise KeyProblem(
            f"refusing to use {parts.hostname} without keys: anyone who reaches it could take part, e.g. move an arm. "
            "Make keys with serl keys and give --keys DIR; or use 127.0.0.1 through ssh -L; or say --insecure"
        )
