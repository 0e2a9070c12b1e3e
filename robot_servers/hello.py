"""The first call of every client: which protocol both speak, who the robot is, and where its other sockets are.

``hello([versions])`` names every version the client speaks; the server picks the highest one in common and answers
``{"protocol": int, "metadata": Metadata, "sockets": {name: address}}``, or refuses naming both sides' versions.
Hello keeps this form in every version. Sockets: "stop" (`robot_servers.stop`), "state" (`robot_servers.stream`) and,
where frames are shared with clients of the same machine, "frames": the name of that memory.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

from robot_servers import wire
from robot_servers.channel import Channel
from robot_servers.interface import PROTOCOL_VERSION, CommandRefused, Metadata, RobotError
from robot_servers.wire import Tree, WireError

SPOKEN: tuple[int, ...] = (PROTOCOL_VERSION,)  # by this package, as server and as client
BEFORE_VERSIONS = 2  # the newest protocol whose hello named no versions
STOP_PORT, STATE_PORT = 100, 101  # above the robot's port: STOP must be found without asking a server that hangs
SAME = "install the same release of this package on both machines"


@dataclass(frozen=True)
class Hello:
    """What a server said. ``sockets``: name → address as this client reaches it."""

    protocol: int
    metadata: Metadata
    sockets: Mapping[str, str]


def beside(address: str, above: int) -> str:
    """The address ``above`` ports higher; of a free port (``:*``) another free one."""
    host, _, port = address.rpartition(":")
    return f"{host}:{int(port) + above if port.isdecimal() else '*'}"


def choose_version(offered: Sequence[int]) -> int:
    """The highest version in common. Raises `RobotError` naming what either side speaks."""
    common = set(offered[:64]) & set(SPOKEN)
    if not common:
        theirs = ", ".join(map(str, sorted(offered[:8])))
        ours = ", ".join(map(str, SPOKEN))
        raise RobotError(f"this server speaks protocol {ours}, the client speaks protocol {theirs or 'none'}: {SAME}")
    return max(common)


def say_hello(channel: Channel, timeout: float) -> Hello:
    """Ask the server behind ``channel``. Raises `RobotError`: no answer, no common version, or malformed."""
    address = channel.address
    try:
        answer = channel.call("hello", SPOKEN, timeout=timeout)
    except CommandRefused as error:  # an older server cannot read a hello with versions
        raise RobotError(
            f"the server at {address} does not understand this client, which speaks protocol "
            f"{PROTOCOL_VERSION} (it says: {error}): {SAME}"
        ) from error
    return read_hello(answer, address)


def read_hello(hello: Tree, address: str) -> Hello:
    """The server's answer. Raises `RobotError` naming both protocol versions, or what cannot be read."""
    version = hello.get("protocol") if isinstance(hello, dict) else None
    if version not in SPOKEN:
        raise RobotError(
            f"the server at {address} speaks protocol {version!r:.40}, this client speaks {PROTOCOL_VERSION}: {SAME}"
        )
    try:
        metadata = wire.from_tree(Metadata, hello.get("metadata"))
        sockets = wire.from_tree(Mapping[str, str], hello.get("sockets", {}))
    except WireError as error:
        raise RobotError(f"the server at {address} sent metadata that cannot be read: {error}") from error
    return Hello(version, metadata, {name: _reached(where, address) for name, where in sockets.items()})


def _reached(where: str, address: str) -> str:
    """``where`` on the host by which this client reached the server: it may be bound to 0.0.0.0, or be tunnelled."""
    if not where.startswith("tcp://"):
        return where
    host = urlsplit(address).netloc.rpartition(":")[0]
    return f"tcp://{host}:{where.rpartition(':')[2]}"
